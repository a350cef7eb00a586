//! What is left after power loss, kill -9, failed flushes and a full disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod model;
mod support;

use larder::clock::{Clock, Time};
use larder::error::Error;
use larder::format::{Ino, ROOT};
use larder::io::faulty::{Fault, FaultyDisk, Kind};
use larder::volume::{Rename, Volume};
use model::cases;
use model::fs::Fs;
use model::history::{self, History};
use model::ops::{Fill, Op, op};
use model::store::{Disk, LEAST_CACHE, NOBODY_SPECIAL, START, Store, read};
use model::system::{self, Check};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

const SECOND: i64 = 1_000_000_000;

/// Runs a sequence, lets the machine or the process die, and looks at what is found.
fn crash(ops: &[Op], disk: &FaultyDisk, killed: bool) -> Check {
    let mut store = Store::new(Disk::Faulty(disk.clone()), LEAST_CACHE);
    let mut fs = Fs::new();
    let mut history = History::new(&fs);
    let mut now = START;
    for op in ops {
        now += SECOND;
        let step = system::step(&mut fs, &mut store, op, now)?;
        history.note(&fs, &step);
    }
    let disk = store.crashed(!killed);
    drop(store);
    let clock = Clock::manual(Time(now));
    let open = |disk: &Disk| {
        disk.open(LEAST_CACHE, &clock).map_err(|error| TestCaseError::fail(format!("opening: {error}")))
    };
    disk.is_sound("of what the crash left")?;
    let volume = open(&disk)?;
    let (tree, contents) = history::found(&volume)?;
    history.allows(killed, &tree, &contents)?;
    // What was found is what stays.
    volume.close().map_err(|error| TestCaseError::fail(format!("closing: {error}")))?;
    disk.is_sound("after the next mount")?;
    let again = open(&disk)?;
    let (same_tree, same_contents) = history::found(&again)?;
    prop_assert_eq!(same_tree, tree, "the tree changed with a further mount");
    prop_assert!(same_contents == contents, "content changed with a further mount");
    again.close().map_err(|error| TestCaseError::fail(format!("closing again: {error}")))
}

fn check_crash(count: u32, killed: bool) {
    cases(count, (any::<u64>(), vec(op(true), 1..60)), |(seed, ops)| {
        let disk = FaultyDisk::new(seed);
        let outcome = crash(&ops, &disk, killed);
        if outcome.is_err() && std::env::var_os("LARDER_TEST_LOG").is_some() {
            eprintln!("{}", disk.log());
        }
        outcome
    });
}

#[test]
fn after_power_loss_the_tree_is_that_of_one_moment_since_the_last_sync() {
    check_crash(48, false);
}

#[test]
fn after_kill_9_every_acknowledged_change_of_the_tree_is_there() {
    check_crash(32, true);
}

fn store(disk: &FaultyDisk) -> Store {
    Store::new(Disk::Faulty(disk.clone()), LEAST_CACHE)
}

fn file(volume: &Volume, name: &str, content: &[u8]) -> Ino {
    let made = volume.run(|v| v.mknod(&NOBODY_SPECIAL, ROOT, name.as_bytes(), libc::S_IFREG | 0o644, 0));
    let ino = made.unwrap().attr.ino;
    volume.run(|v| v.write(ino, 0, content, false)).unwrap();
    ino
}

/// What a name holds in the store that is found on a disk; `None` when the name is not there.
fn held(disk: Disk, name: &str) -> Option<Vec<u8>> {
    let volume = disk.open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap();
    let content = match volume.run(|v| v.lookup(ROOT, name.as_bytes())) {
        Ok(entry) => Some(read(&volume, entry.attr.ino, 0, entry.attr.size as u32).unwrap()),
        Err(Error::NotFound) => None,
        Err(error) => panic!("looking {name} up: {error}"),
    };
    volume.close().unwrap();
    content
}

#[test]
fn fsynced_content_survives_power_loss() {
    for seed in 0..8 {
        let disk = FaultyDisk::new(seed);
        let store = store(&disk);
        let small = file(store.volume(), "small", b"a durable note");
        let large = Fill::Noise(seed as u8).bytes(700_000);
        let big = file(store.volume(), "big", &large);
        store.volume().fsync(small, false).unwrap();
        store.volume().fsync(big, true).unwrap();
        file(store.volume(), "later", &Fill::Text(0).bytes(300_000));
        assert_eq!(
            held(store.crashed(true), "small").as_deref(),
            Some(&b"a durable note"[..]),
            "seed {seed}"
        );
        assert!(held(store.crashed(true), "big").as_deref() == Some(&large[..]), "seed {seed}");
    }
}

#[test]
fn what_is_written_while_its_page_is_being_flushed_is_covered_by_the_next_fsync() {
    let disk = FaultyDisk::new(5);
    let store = store(&disk);
    let volume = store.volume();
    let names: Vec<String> = (0..40).map(|n| format!("file{n}")).collect();
    // Full pages are taken by write-back at once, and with this codec it has them for some milliseconds: long
    // enough to be met by a write that comes a little later, each time a little more. That write is
    // more than an fsync journals, so it has to go to a frame too.
    let (first, second) = (Fill::Text(1).bytes(3 << 17), Fill::Noise(2).bytes(60_000));
    for (n, name) in names.iter().enumerate() {
        let ino = file(volume, name, b"");
        volume.run(|v| v.setxattr(&NOBODY_SPECIAL, ino, b"user.larder.codec", b"zstd:19", 0)).unwrap();
        volume.run(|v| v.write(ino, 0, &first, false)).unwrap();
        std::thread::sleep(std::time::Duration::from_micros(100 * n as u64));
        volume.run(|v| v.write(ino, 100, &second, false)).unwrap();
        volume.fsync(ino, false).unwrap();
    }
    let expected = [&first[..100], &second, &first[60_100..]].concat();
    let after = store.crashed(true).open(LEAST_CACHE, &store.clock).unwrap();
    let wrong: Vec<&String> = names
        .iter()
        .filter(|name| {
            let entry = after.run(|v| v.lookup(ROOT, name.as_bytes())).unwrap();
            read(&after, entry.attr.ino, 0, 1 << 20).unwrap() != expected
        })
        .collect();
    assert!(wrong.is_empty(), "fsynced and not there: {wrong:?}");
    after.close().unwrap();
}

#[test]
fn sync_and_close_make_everything_durable() {
    for seed in 0..4 {
        for close in [false, true] {
            let disk = FaultyDisk::new(seed);
            let store = store(&disk);
            let content = Fill::Text(seed as u8).bytes(500_000);
            file(store.volume(), "a", &content);
            file(store.volume(), "b", b"short");
            if close {
                store.volume().close().unwrap();
            } else {
                store.volume().sync().unwrap();
            }
            assert!(held(store.crashed(true), "a").as_deref() == Some(&content[..]), "seed {seed}");
            assert_eq!(held(store.crashed(true), "b").as_deref(), Some(&b"short"[..]), "seed {seed}");
        }
    }
}

#[test]
fn rename_over_existing_is_atomic_after_power_loss() {
    for seed in 0..16 {
        let disk = FaultyDisk::new(seed);
        let store = store(&disk);
        let volume = store.volume();
        let (old, new) = (Fill::Text(1).bytes(300_000), Fill::Noise(2).bytes(200_000));
        file(volume, "key", &old);
        volume.sync().unwrap();
        file(volume, "key.new", &new);
        volume.run(|v| v.rename(ROOT, b"key.new", ROOT, b"key", Rename::Replace)).unwrap();
        // No fsync: the new content or the old one, whole.
        let after = held(store.crashed(true), "key").expect("the key is never missing");
        assert!(after == old || after == new, "seed {seed}: {} bytes, neither old nor new", after.len());
        // Without power loss it is the new one.
        let killed = held(store.crashed(false), "key").expect("the key is never missing");
        assert!(killed == new, "seed {seed}: {} bytes after kill -9", killed.len());
    }
}

#[test]
fn what_a_crash_left_unlinked_but_open_is_reclaimed() {
    for (seed, power) in [(1, true), (2, false)] {
        let disk = FaultyDisk::new(seed);
        let store = store(&disk);
        let volume = store.volume();
        let ino = file(volume, "open", &Fill::Noise(3).bytes(400_000));
        volume.run(|v| v.unlink(ROOT, b"open")).unwrap();
        volume.sync().unwrap();
        assert_eq!(read(volume, ino, 399_999, 10).unwrap().len(), 1, "it still reads while it is held");
        let found = Store::found(store.crashed(power), LEAST_CACHE, store.clock.clone()).unwrap();
        found.reclaimed(&Fs::new()).unwrap();
    }
}

#[test]
fn a_failed_flush_fails_the_fsync_and_turns_the_store_read_only() {
    let disk = FaultyDisk::new(7);
    let store = store(&disk);
    let volume = store.volume();
    let safe = file(volume, "safe", b"durable before");
    volume.fsync(safe, false).unwrap();
    let ino = file(volume, "lost", &Fill::Noise(1).bytes(200_000));
    // More than one: the journal's next file may be made ready in the background just now.
    (0..8).for_each(|n| disk.fail(Kind::Sync, n, Fault::Errno(libc::EIO)));
    volume.fsync(ino, false).expect_err("the flush failed");
    disk.heal();
    // The disk is well again, but what it dropped is gone: nothing may claim otherwise.
    volume.fsync(ino, false).expect_err("what fsync rejected is never later durable");
    volume.sync().expect_err("nor by sync");
    let why = volume.read_only().expect("the store says why it is read-only");
    assert!(!why.is_empty());
    assert_eq!(volume.stats().expect("the figures").read_only, Some(why));
    let refused = volume.run(|v| v.mkdir(&NOBODY_SPECIAL, ROOT, b"more", 0o755));
    assert!(matches!(refused, Err(Error::ReadOnly(_))), "{refused:?}");
    assert_eq!(read(volume, safe, 0, 100).unwrap(), b"durable before");
    assert_eq!(held(store.crashed(true), "safe").as_deref(), Some(&b"durable before"[..]));
}

#[test]
fn a_full_disk_refuses_writers_and_keeps_what_is_stored() {
    let disk = FaultyDisk::new(9);
    let mut store = store(&disk);
    let fs = Fs::new();
    disk.set_capacity(200 << 20);
    let chunk = Fill::Noise(5).bytes(1 << 20);
    let mut kept = Vec::new();
    let mut refused = false;
    for n in 0..400 {
        let volume = store.volume();
        let name = format!("file{n}");
        let made = volume.run(|v| v.mknod(&NOBODY_SPECIAL, ROOT, name.as_bytes(), libc::S_IFREG | 0o644, 0));
        let written = made.and_then(|entry| volume.run(|v| v.write(entry.attr.ino, 0, &chunk, false)));
        match written {
            Ok(_) => kept.push(name),
            Err(Error::NoSpace) => {
                refused = true;
                break;
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
    assert!(refused, "400 MiB went into 200");
    assert!(kept.len() > 50, "{} MiB fit into 200", kept.len());
    // An accepted write has its room: the flush does not fail.
    store.volume().sync().unwrap();
    let whole = |store: &Store, name: &str| {
        let volume = store.volume();
        let entry = volume.run(|v| v.lookup(ROOT, name.as_bytes())).unwrap();
        volume.forget(entry.attr.ino, 1);
        read(volume, entry.attr.ino, 0, 2 << 20).unwrap() == chunk
    };
    assert!(kept.iter().all(|name| whole(&store, name)), "readable when full");
    for name in &kept[10..] {
        store.volume().run(|v| v.unlink(ROOT, name.as_bytes())).expect("deletable when full");
    }
    // Closed and opened as full as it is.
    system::System::remount(&mut store, &fs).unwrap();
    assert!(kept[..10].iter().all(|name| whole(&store, name)), "readable after a remount");
    // The freed room serves again, at the latest after a sync.
    store.volume().sync().unwrap();
    file(store.volume(), "again", &chunk);
    store.volume().sync().unwrap();
    assert!(whole(&store, "again"));
}

#[test]
fn at_most_the_commit_interval_is_lost_without_fsync() {
    let disk = FaultyDisk::new(11);
    let mut settings = larder::config::Settings::new("/store");
    settings.commit_interval = std::time::Duration::from_millis(100);
    let io = std::sync::Arc::new(disk.clone());
    let volume = Volume::open(settings, io, Clock::System).unwrap();
    let content = Fill::Text(4).bytes(300_000);
    file(&volume, "quiet", &content);
    // Nobody asks for it: it becomes durable by itself, which only a crash can tell.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while held(Disk::Faulty(disk.crash()), "quiet").as_deref() != Some(&content[..]) {
        assert!(std::time::Instant::now() < until, "not durable by itself");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    volume.close().unwrap();
}
