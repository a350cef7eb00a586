//! What durable small writes cost: device flushes, and how they are shared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::clock::Clock;
use larder::config::Settings;
use larder::format::{Ino, ROOT};
use larder::io::faulty::FaultyDisk;
use larder::volume::{Caller, Rename, Volume};

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0o022 };

/// A volume that commits nothing by itself.
fn open(disk: &FaultyDisk) -> Arc<Volume> {
    let settings = Settings { commit_interval: Duration::from_secs(3600), ..Settings::new("/store") };
    Volume::open(settings, Arc::new(disk.clone()), Clock::System).unwrap()
}

fn make(volume: &Volume, name: &str) -> Ino {
    volume.run(|v| v.mknod(&CALLER, ROOT, name.as_bytes(), 0o100_644, 0)).unwrap().attr.ino
}

/// So many writes of 100 bytes, each with its fsync, by one thread a file.
fn durable_writes(volume: &Volume, files: &[Ino], count: u64) -> Duration {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for ino in files {
            scope.spawn(move || {
                for n in 0..count {
                    volume.run(|v| v.write(*ino, n * 100, &[n as u8; 100], false)).unwrap();
                    volume.fsync(*ino, true).unwrap();
                }
            });
        }
    });
    begun.elapsed()
}

#[test]
fn eight_writers_of_small_durable_writes_have_four_times_the_rate_of_one() {
    let disk = FaultyDisk::new(1);
    let volume = open(&disk);
    let files: Vec<Ino> = (0..8).map(|n| make(&volume, &format!("file{n}"))).collect();
    volume.sync().unwrap();
    // So long that it is the flush that a write waits for, also where other tests have the processors.
    disk.set_sync_delay(Duration::from_millis(4));
    let flushes = || volume.stats().unwrap().flushes;
    // A processor that is busy elsewhere can spoil a round.
    let (begun, mut rounds) = (Instant::now(), Vec::new());
    while begun.elapsed() < Duration::from_secs(30) {
        let alone = durable_writes(&volume, &files[..1], 100);
        let before = flushes();
        let together = durable_writes(&volume, &files, 100);
        rounds.push((8.0 * alone.as_secs_f64() / together.as_secs_f64(), flushes() - before));
        if rounds.iter().any(|(gain, shared)| *gain >= 4.0 && *shared <= 150) {
            break;
        }
    }
    let reached = rounds.iter().any(|(gain, shared)| *gain >= 4.0 && *shared <= 150);
    assert!(reached, "the gain of 8 threads, and the flushes of their 800 writes: {rounds:?}");
    disk.set_sync_delay(Duration::ZERO);
    volume.close().unwrap();
}

#[test]
fn whoever_asks_for_no_flush_waits_for_none() {
    let disk = FaultyDisk::new(4);
    let volume = open(&disk);
    let (small, large) = (make(&volume, "small"), make(&volume, "large"));
    volume.sync().unwrap();
    disk.hold_syncs();
    let (through, ended) = std::sync::mpsc::channel();
    let went_on = std::thread::scope(|scope| {
        let volume = &volume;
        // Patches in the journal, frames in a segment: each of them is flushed, and so is what asks for all of it.
        for (ino, len) in [(small, 100), (large, 1 << 20)] {
            scope.spawn(move || {
                volume.run(|v| v.write(ino, 0, &vec![1; len], false)).unwrap();
                volume.fsync(ino, false).unwrap();
            });
        }
        disk.wait_for_held_syncs(1);
        scope.spawn(|| volume.sync().unwrap());
        scope.spawn(move || {
            for n in 0..1000 {
                let name = format!("new{n}");
                let ino = make(volume, &name);
                volume.run(|v| v.write(ino, 0, &[2; 3000], false)).unwrap();
                volume.run(|v| v.rename(ROOT, name.as_bytes(), ROOT, b"newest", Rename::Replace)).unwrap();
                volume.run(|v| v.write(small, 50, &[3; 100], false)).unwrap();
                let mut there = Vec::new();
                volume.read_blocking(ino, 0, 3000, false, &mut there).unwrap();
                assert_eq!(there, [2; 3000]);
            }
            through.send(()).unwrap();
        });
        let went_on = ended.recv_timeout(Duration::from_secs(60));
        disk.release_syncs();
        went_on
    });
    went_on.expect("somebody waits for a flush that others asked for");
    volume.close().unwrap();
}

/// The least flushes that a job took: the journal's next file may be made ready in the background meanwhile.
fn least_flushes(disk: &FaultyDisk, mut job: impl FnMut()) -> u64 {
    let rounds = (0..4).map(|_| {
        let before = disk.counts().syncs;
        job();
        disk.counts().syncs - before
    });
    rounds.min().unwrap()
}

#[test]
fn a_small_fsync_costs_one_device_flush() {
    let disk = FaultyDisk::new(2);
    let volume = open(&disk);
    let ino = make(&volume, "file");
    let mut at = 0;
    let flushes = least_flushes(&disk, || {
        for _ in 0..10 {
            volume.run(|v| v.write(ino, at, &[7; 100], false)).unwrap();
            at += 100;
            volume.fsync(ino, false).unwrap();
        }
    });
    assert_eq!(flushes, 10);
    volume.close().unwrap();
}

#[test]
fn a_commit_of_a_database_costs_a_device_flush_for_each_fsync_that_it_asks_for() {
    let disk = FaultyDisk::new(3);
    let volume = open(&disk);
    let database = make(&volume, "base.db");
    volume.run(|v| v.write(database, 0, &[1; 65_536], false)).unwrap();
    volume.sync().unwrap();
    // A rollback journal: its content, its head, the database, then the journal is deleted.
    let flushes = least_flushes(&disk, || {
        let journal = make(&volume, "base.db-journal");
        volume.run(|v| v.write(journal, 512, &[2; 4104], false)).unwrap();
        volume.fsync(journal, true).unwrap();
        volume.run(|v| v.write(journal, 0, &[3; 512], false)).unwrap();
        volume.fsync(journal, true).unwrap();
        volume.run(|v| v.write(database, 8192, &[4; 4096], false)).unwrap();
        volume.fsync(database, true).unwrap();
        volume.run(|v| v.unlink(ROOT, b"base.db-journal")).unwrap();
        volume.forget(journal, 1);
    });
    assert_eq!(flushes, 3);
    // Write-ahead: frames are appended and one fsync makes them durable.
    let log = make(&volume, "base.db-wal");
    let mut at = 32;
    let flushes = least_flushes(&disk, || {
        volume.run(|v| v.write(log, at, &[5; 4120 * 2], false)).unwrap();
        at += 4120 * 2;
        volume.fsync(log, true).unwrap();
    });
    assert_eq!(flushes, 1);
    volume.close().unwrap();
}
