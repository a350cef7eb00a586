//! Copies of whole stores: made, brought up to date, interrupted, restored; by the library and by the command.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may"
)]

mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use larder::backup::{Outcome, back_up, restore};
use larder::catalog::{Batch, Engine, LocalCatalog, OpenOptions};
use larder::check::{Options, check, repair};
use larder::clock::{Clock, Time};
use larder::config::Settings;
use larder::error::Error;
use larder::format::{Ino, Kind, PageNo, PageRecord, ROOT, encode, keys};
use larder::io::Io;
use larder::io::faulty::{Fault, FaultyDisk, Kind as Of};
use larder::volume::{Caller, Volume};
use support::random::Random;

const ME: Caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0 };
const COPY: &str = "/backups/copy";

fn io(disk: &FaultyDisk) -> Arc<dyn Io> {
    Arc::new(disk.clone())
}

fn open(disk: &FaultyDisk, store: &str) -> Arc<Volume> {
    let settings = Settings {
        cache_size_limit: 16 << 20,
        commit_interval: Duration::from_secs(3600),
        ..Settings::new(store)
    };
    Volume::open(settings, io(disk), Clock::manual(Time::new(1_000_000, 7))).unwrap()
}

fn make(volume: &Volume, dir: Ino, name: &str) -> Ino {
    let ino = volume.run(|v| v.mknod(&ME, dir, name.as_bytes(), libc::S_IFREG | 0o640, 0)).unwrap().attr.ino;
    volume.forget(ino, 1);
    ino
}

fn write(volume: &Volume, ino: Ino, offset: u64, data: &[u8]) {
    volume.run(|v| v.write(ino, offset, data, false)).unwrap();
}

/// A tree with something of everything.
fn fill(volume: &Volume, seed: u64) {
    let mut random = Random::of(seed);
    let dir = volume.run(|v| v.mkdir(&ME, ROOT, b"dir", 0o751)).unwrap().attr.ino;
    for n in 0..6 {
        let file = make(volume, dir, &format!("noise {n}"));
        write(volume, file, 0, &random.bytes(200_000));
        write(volume, file, 1_000_000, b"behind a hole");
    }
    for n in 0..40 {
        let file = make(volume, ROOT, &format!("text {n}"));
        write(volume, file, 0, format!("line {n}\n").repeat(n * 50 + 1).as_bytes());
    }
    let linked = make(volume, ROOT, "linked");
    write(volume, linked, 0, b"one content, two names");
    volume.run(|v| v.link(linked, dir, b"link")).unwrap();
    volume.forget(linked, 1);
    volume.run(|v| v.setxattr(&ME, linked, b"user.colour", b"green", 0)).unwrap();
    volume.run(|v| v.symlink(&ME, ROOT, b"pointer", b"dir/link")).unwrap();
}

/// All paths with what they are: attributes, content, attributes of the user.
fn contents(volume: &Volume) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(String::new(), ROOT)];
    while let Some((path, ino)) = todo.pop() {
        let (mut entries, mut after) = (BTreeMap::new(), 0);
        loop {
            let mut seen = after;
            volume
                .run(|v| {
                    v.readdir(ino, after, false, &mut |entry| {
                        seen = entry.cookie;
                        entries.insert(
                            String::from_utf8_lossy(entry.name).into_owned(),
                            (entry.ino, entry.kind),
                        );
                        true
                    })
                })
                .unwrap();
            if seen == after {
                break;
            }
            after = seen;
        }
        for (name, (ino, kind)) in entries.into_iter().filter(|(name, _)| name != "." && name != "..") {
            let path = format!("{path}/{name}");
            let attr = volume.run(|v| v.getattr(ino)).unwrap().attr;
            let mut text = format!("{attr:?}");
            if kind == Kind::File {
                let mut bytes = Vec::new();
                volume.read_blocking(ino, 0, attr.size as u32, false, &mut bytes).unwrap();
                text += &format!(" {:016x}", xxhash_rust::xxh3::xxh3_64(&bytes));
            }
            if let Ok(colour) = volume.run(|v| v.getxattr(ino, b"user.colour")) {
                text += &format!(" {colour:?}");
            }
            found.insert(path.clone(), text);
            if kind == Kind::Directory {
                todo.push((path, ino));
            }
        }
    }
    found
}

fn quiet(_: larder::backup::Progress) -> larder::Result<()> {
    Ok(())
}

fn copy(volume: &Volume, to: &FaultyDisk) -> Outcome {
    let outcome = back_up(volume, io(to), Path::new(COPY), &quiet).unwrap();
    assert_eq!((outcome.damaged, &outcome.examples), (0, &Vec::new()));
    outcome
}

/// What a store made from the copy has in it; the check finds nothing wrong.
fn restored(from: &FaultyDisk) -> BTreeMap<String, String> {
    let disk = from.snapshot();
    let outcome = restore(io(&disk), Path::new(COPY), Path::new("/again"), &quiet).unwrap();
    assert_eq!(outcome.damaged, 0, "{:?}", outcome.examples);
    let report = check(io(&disk), Path::new("/again"), &Options::default(), &|_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    let volume = open(&disk, "/again");
    let found = contents(&volume);
    volume.close().unwrap();
    found
}

#[test]
fn a_restored_store_is_the_one_at_the_moment_of_its_backup_and_later_backups_copy_what_is_new() {
    let (disk, to) = (FaultyDisk::new(1), FaultyDisk::new(2));
    let volume = open(&disk, "/store");
    fill(&volume, 1);
    let (first, before) = (copy(&volume, &to), contents(&volume));
    assert!(first.copied == first.bytes && first.bytes > 1_000_000, "{first:?}");
    assert!(restored(&to) == before);

    assert_eq!(copy(&volume, &to).copied, 0, "nothing is new");
    write(&volume, make(&volume, ROOT, "new"), 0, &Random::of(9).bytes(50_000));
    volume.run(|v| v.unlink(ROOT, b"text 7")).unwrap();
    let second = copy(&volume, &to);
    assert!((50_000..60_000).contains(&second.copied), "{second:?}");
    assert!(second.bytes > first.bytes);
    assert!(restored(&to) == contents(&volume));
    assert!(restored(&to) != before);

    // Over a remount, and from the store that was made of it.
    volume.close().unwrap();
    let volume = open(&disk, "/store");
    assert_eq!(copy(&volume, &to).copied, 0);
    volume.close().unwrap();
}

#[test]
fn a_backup_is_of_one_moment_though_all_of_it_is_replaced_removed_and_compacted_meanwhile() {
    let (disk, to) = (FaultyDisk::new(3), FaultyDisk::new(4));
    let volume = open(&disk, "/store");
    fill(&volume, 3);
    volume.sync().unwrap();
    let before = contents(&volume);
    let rounds = Cell::new(0);
    let disturb = |_| {
        if rounds.replace(rounds.get() + 1) == 0 {
            volume.clear(&ME)?;
            volume.cleanup()?;
            fill(&volume, 77);
            volume.sync()?;
            volume.cleanup()?;
        }
        Ok(())
    };
    back_up(&volume, io(&to), Path::new(COPY), &disturb).unwrap();
    assert!(rounds.get() > 1, "{} steps", rounds.get());
    assert!(restored(&to) == before);
    // What was held back comes back.
    volume.clear(&ME).unwrap();
    volume.cleanup().unwrap();
    assert_eq!(volume.stats().unwrap().stored_bytes, 0);
    assert!(volume.chores().unwrap().reclaimable < 1 << 20);
    volume.close().unwrap();
}

#[test]
fn a_backup_that_is_interrupted_at_any_step_leaves_the_one_before_or_is_complete() {
    let (disk, to) = (FaultyDisk::new(5), FaultyDisk::new(6));
    let volume = open(&disk, "/store");
    fill(&volume, 5);
    // Without one before, it is complete or is none.
    let mut steps = 0;
    for n in 0.. {
        let to = FaultyDisk::new(n);
        to.fail(Of::Any, n, Fault::Short(libc::EIO));
        let done = back_up(&volume, io(&to), Path::new(COPY), &quiet).is_ok();
        let crashed = to.crash();
        if done {
            assert!(restored(&crashed) == contents(&volume));
            break;
        }
        steps = n + 1;
        let outcome = restore(io(&crashed), Path::new(COPY), Path::new("/again"), &quiet);
        assert!(outcome.is_err() || restored(&to.crash()) == contents(&volume), "step {n}");
    }
    assert!(steps > 15, "{steps} steps");

    copy(&volume, &to);
    let old = contents(&volume);
    volume.run(|v| v.unlink(ROOT, b"text 9")).unwrap();
    write(&volume, make(&volume, ROOT, "new"), 0, &Random::of(9).bytes(50_000));
    volume.sync().unwrap();
    let new = contents(&volume);
    let (mut olds, mut news) = (0, 0);
    for n in 0.. {
        let to = to.snapshot();
        to.fail(Of::Any, n, Fault::Short(libc::EIO));
        let done = back_up(&volume, io(&to), Path::new(COPY), &quiet).is_ok();
        let crashed = to.crash();
        let found = restored(&crashed);
        assert!(found == new || (found == old && !done), "step {n}, done: {done}");
        *if found == new { &mut news } else { &mut olds } += 1;
        // The next one is as good as any.
        copy(&volume, &crashed);
        assert!(restored(&crashed) == new, "step {n}");
        if to.counts().operations <= n {
            break;
        }
    }
    assert!(olds > 8 && news > 0, "{olds} old, {news} new");
}

#[test]
fn stores_that_went_different_ways_from_one_backup_are_each_copied_as_they_are() {
    let (disk, to) = (FaultyDisk::new(7), FaultyDisk::new(8));
    let volume = open(&disk, "/store");
    fill(&volume, 7);
    copy(&volume, &to);
    let twin_disk = to.snapshot();
    restore(io(&twin_disk), Path::new(COPY), Path::new("/store"), &quiet).unwrap();
    let twin = open(&twin_disk, "/store");
    for (volume, seed) in [(&volume, 100), (&twin, 200), (&volume, 300), (&twin, 400)] {
        for n in 0..4 {
            let name = format!("{seed} {n}");
            write(volume, make(volume, ROOT, &name), 0, &Random::of(seed + n).bytes(100_000));
        }
        copy(volume, &to);
        assert!(restored(&to) == contents(volume), "{seed}");
    }
}

#[test]
fn a_restore_that_is_interrupted_at_any_step_leaves_no_store() {
    let (disk, to) = (FaultyDisk::new(9), FaultyDisk::new(10));
    let volume = open(&disk, "/store");
    fill(&volume, 9);
    copy(&volume, &to);
    let mut steps = 0;
    for n in 0.. {
        let disk = to.snapshot();
        disk.fail(Of::Any, n, Fault::Short(libc::EIO));
        if restore(io(&disk), Path::new(COPY), Path::new("/again"), &quiet).is_ok() {
            let crashed = disk.crash();
            assert!(contents(&open(&crashed, "/again")) == contents(&volume));
            break;
        }
        steps = n + 1;
        let crashed = disk.crash();
        let settings = Settings { cache_size_limit: 16 << 20, ..Settings::new("/again") };
        match Volume::open(settings, io(&crashed), Clock::manual(Time::new(1_000_000, 7))) {
            // Nothing of it had reached the disk, or all of it.
            Ok(opened) => {
                let found = contents(&opened);
                assert!(found.is_empty() || found == contents(&volume), "step {n}: a part of it");
            }
            Err(error) => {
                assert!(error.to_string().contains("restore"), "step {n}: {error}");
                // Nor does a repair make one of it, which would then be mounted.
                let options = Options { content: true, threads: 2 };
                let clock = Clock::manual(Time::new(1_000_000, 7));
                let mended = repair(io(&crashed), Path::new("/again"), true, &options, &clock, &|_| {});
                let refused = mended.expect_err("a repair of a part of a store").to_string();
                assert!(refused.contains("restore"), "step {n}: {refused}");
            }
        }
    }
    assert!(steps > 20, "{steps} steps");
}

#[test]
fn a_full_disk_or_a_damaged_dump_of_a_backup_is_told_with_its_path_and_what_to_do() {
    let (disk, to) = (FaultyDisk::new(15), FaultyDisk::new(16));
    let volume = open(&disk, "/store");
    fill(&volume, 15);
    let told = |outcome: larder::error::Result<Outcome>, path: &str, what: &str| {
        let why = outcome.expect_err("it cannot be done").to_string();
        assert!(why.contains(path) && why.contains(what), "{why}");
    };
    to.set_capacity(100 << 10);
    told(back_up(&volume, io(&to), Path::new(COPY), &quiet), COPY, "no room");
    to.set_capacity(1 << 30);
    copy(&volume, &to);
    let small = to.snapshot();
    small.set_capacity(0);
    told(restore(io(&small), Path::new(COPY), Path::new("/again"), &quiet), "/again", "no room");
    let names = to.list(Path::new(COPY)).unwrap();
    let dump = names.iter().find(|path| path.to_string_lossy().contains("catalog-")).unwrap();
    let file = to.open(dump, false).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 100).unwrap();
    let dump = dump.to_string_lossy();
    told(restore(io(&to), Path::new(COPY), Path::new("/again"), &quiet), &dump, "make the backup anew");
    told(back_up(&volume, io(&to), Path::new(COPY), &quiet), &dump, "make the backup anew");
}

#[test]
fn a_damaged_frame_is_told_and_keeps_nothing_else_from_being_copied_and_restored() {
    let (disk, to) = (FaultyDisk::new(11), FaultyDisk::new(12));
    let volume = open(&disk, "/store");
    fill(&volume, 11);
    copy(&volume, &to);
    let folder = Path::new("/backups/copy/segments/01");
    let path = to.list(folder).unwrap().pop().unwrap();
    let file = to.open(&path, false).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 5000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
    let outcome = restore(io(&to), Path::new(COPY), Path::new("/again"), &quiet).unwrap();
    assert_eq!((outcome.damaged, outcome.examples.len()), (1, 1), "{outcome:?}");
    let again = open(&to, "/again");
    let hurt = Ino(outcome.examples[0].ino);
    let at = u64::from(outcome.examples[0].page) << 17;
    let error = again.read_blocking(hurt, at, 10, false, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Damaged(_)), "{error}");

    // And a damaged store is copied as far as it goes, each time, until it is well again.
    let frame = Path::new("/again/segments/01/00000001");
    let flip = || {
        let file = to.open(frame, false).unwrap();
        let mut byte = [0];
        file.read_at(&mut byte, 5000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
    };
    flip();
    let whole = contents(&again);
    type Harm<'a> = (&'a dyn Fn(), &'a dyn Fn());
    let harms: [Harm<'_>; 2] = [(&flip, &flip), (&|| to.bad_sector(frame, 5000..5512), &|| to.heal())];
    for (harm, heal) in harms {
        let second = FaultyDisk::new(13);
        harm();
        for n in 0..3 {
            let outcome = back_up(&again, io(&second), Path::new(COPY), &quiet).unwrap();
            assert_eq!((outcome.damaged, outcome.examples[0].ino), (1, hurt.0), "backup {n}: {outcome:?}");
        }
        heal();
        let outcome = copy(&again, &second);
        assert!(outcome.copied > 0 && outcome.copied < outcome.bytes, "{outcome:?}");
        assert_eq!(copy(&again, &second).copied, 0);
        assert!(restored(&second) == whole);
    }
}

/// A repair has given it up: there is no frame of it to be read.
#[test]
fn a_page_that_is_lost_is_told_as_damaged_by_each_backup_and_by_a_restore() {
    let (disk, to) = (FaultyDisk::new(19), FaultyDisk::new(20));
    let volume = open(&disk, "/store");
    fill(&volume, 19);
    let hurt = volume.run(|v| v.lookup(ROOT, b"text 9")).unwrap().attr.ino;
    volume.forget(hurt, 1);
    volume.close().unwrap();
    let engine = LocalCatalog::open(OpenOptions {
        io: io(&disk),
        dir: "/store".into(),
        memory: 1 << 20,
        verify: &mut |_| Ok(true),
        before_checkpoint: Box::new(|| Ok(())),
    })
    .unwrap();
    let mut batch = Batch::default();
    batch.put(keys::page(hurt, PageNo(0)), encode(&PageRecord::LOST));
    engine.apply(batch).unwrap();
    engine.close(&|| Ok(())).unwrap();

    let volume = open(&disk, "/store");
    for n in 0..2 {
        let outcome = back_up(&volume, io(&to), Path::new(COPY), &quiet).unwrap();
        assert_eq!((outcome.damaged, outcome.examples[0].ino), (1, hurt.0), "backup {n}: {outcome:?}");
    }
    assert!(to.list(&Path::new(COPY).join("segments/00")).is_err(), "a segment 0");
    let outcome = restore(io(&to), Path::new(COPY), Path::new("/again"), &quiet).unwrap();
    assert_eq!((outcome.damaged, outcome.examples[0].ino), (1, hurt.0), "{outcome:?}");
    assert!(to.list(Path::new("/again/segments/00")).is_err(), "a segment 0");
    let again = open(&to, "/again");
    let error = again.read_blocking(hurt, 0, 10, false, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Damaged(_)), "{error}");
}

#[test]
fn a_bad_sector_of_a_backup_costs_the_one_frame_that_it_is_in() {
    let (disk, to) = (FaultyDisk::new(21), FaultyDisk::new(22));
    let volume = open(&disk, "/store");
    fill(&volume, 21);
    copy(&volume, &to);
    let path = to.list(Path::new("/backups/copy/segments/01")).unwrap().pop().unwrap();
    to.bad_sector(&path, 300_000..300_512);
    let outcome = restore(io(&to), Path::new(COPY), Path::new("/again"), &quiet).unwrap();
    assert_eq!((outcome.damaged, outcome.examples.len()), (1, 1), "{outcome:?}");
    to.heal();
    let before = contents(&volume);
    let again = open(&to, "/again");
    let hurt = Ino(outcome.examples[0].ino);
    let at = u64::from(outcome.examples[0].page) << 17;
    assert!(again.read_blocking(hurt, at, 10, false, &mut Vec::new()).is_err());
    // Written over, all can be read.
    write(&again, hurt, at, &[0; 1 << 17]);
    let after = contents(&again);
    let differ: Vec<&String> = before.keys().filter(|path| after.get(*path) != before.get(*path)).collect();
    assert!(differ.len() == 1 && after.len() == before.len(), "{differ:?}");
}

/// Who may write where root's backups lie puts links in their way.
#[test]
fn a_backup_follows_no_link_that_lies_where_it_makes_a_file() {
    let disk = FaultyDisk::new(23);
    let volume = open(&disk, "/store");
    fill(&volume, 23);
    let temporary = tempfile::tempdir().unwrap();
    let (victim, dest) = (temporary.path().join("victim"), temporary.path().join("copy"));
    std::fs::write(&victim, "what was there").unwrap();
    let plant = |name: &str| {
        std::os::unix::fs::symlink(&victim, dest.join(name)).unwrap();
    };
    let intact = |when: &str| {
        assert_eq!(std::fs::read(&victim).unwrap(), b"what was there", "{when}");
    };
    let real: Arc<dyn Io> = Arc::new(larder::io::RealDisk);
    std::fs::create_dir(&dest).unwrap();
    plant("BACKUP.new");
    back_up(&volume, real.clone(), &dest, &quiet).unwrap();
    intact("BACKUP.new");
    // Between two runs, and during one.
    ["manifest.new", "catalog-00000002"].into_iter().for_each(plant);
    let planted = Cell::new(false);
    let during = |_| {
        if !planted.replace(true) {
            plant("manifest.new");
        }
        Ok(())
    };
    back_up(&volume, real.clone(), &dest, &during).unwrap();
    intact("manifest.new");
    assert!(planted.get());
    let again = temporary.path().join("again");
    let outcome = restore(real, &dest, &again, &quiet).unwrap();
    assert_eq!(outcome.damaged, 0);
    for name in ["BACKUP", "manifest", "catalog-00000002"] {
        assert!(std::fs::symlink_metadata(dest.join(name)).unwrap().is_file(), "{name}");
    }
}

#[test]
fn what_cannot_be_a_backup_or_a_target_is_refused_and_left_as_it_is() {
    let disk = FaultyDisk::new(14);
    let volume = open(&disk, "/store");
    fill(&volume, 14);
    let refused = |dest: &str| back_up(&volume, io(&disk), Path::new(dest), &quiet).unwrap_err().to_string();
    assert!(refused("/store/backup").contains("cannot lie in the store"));
    assert!(refused("/").contains("cannot lie in the store"));
    disk.create_dir_all(Path::new("/mine")).unwrap();
    disk.open(Path::new("/mine/letter"), true).unwrap();
    assert!(refused("/mine").contains("this is no backup"));
    assert_eq!(disk.list(Path::new("/mine")).unwrap(), [Path::new("/mine/letter")]);
    copy(&volume, &disk);
    let other = open(&disk, "/other");
    let error = back_up(&other, io(&disk), Path::new(COPY), &quiet).unwrap_err().to_string();
    assert!(error.contains("a backup of another store"), "{error}");

    let refused = |from: &str, store: &str| {
        restore(io(&disk), Path::new(from), Path::new(store), &quiet).unwrap_err().to_string()
    };
    assert!(refused("/mine", "/again").contains("this is no backup"));
    assert!(refused(COPY, "/mine").contains("it is not empty"));
    assert!(refused(COPY, "/store").contains("it is not empty"));
    assert_eq!(disk.list(Path::new("/mine")).unwrap(), [Path::new("/mine/letter")]);
    assert!(disk.list(Path::new("/again")).is_err(), "nothing was made");
    // One at a time.
    let busy = |_| match back_up(&volume, io(&disk), Path::new("/second"), &quiet) {
        Err(error) if error.to_string().contains("is being made already") => Ok(()),
        other => panic!("{other:?}"),
    };
    back_up(&volume, io(&disk), Path::new("/first"), &busy).unwrap();
}

#[test]
fn a_backup_that_nobody_waits_for_any_longer_ends_and_the_next_begins() {
    let (disk, to) = (FaultyDisk::new(17), FaultyDisk::new(18));
    let volume = open(&disk, "/store");
    fill(&volume, 17);
    let gone = |_| Err(Error::NotPermitted);
    assert!(matches!(back_up(&volume, io(&to), Path::new(COPY), &gone), Err(Error::NotPermitted)));
    copy(&volume, &to);
    // So does one that the store is closed under.
    let close = |_| volume.close();
    let error = back_up(&volume, io(&to), Path::new(COPY), &close).unwrap_err().to_string();
    assert!(error.contains("is being closed"), "{error}");
    assert!(restored(&to) == contents(&open(&disk, "/store")));
}

#[test]
fn a_store_that_runs_out_of_room_takes_it_from_its_backup() {
    let (disk, to) = (FaultyDisk::new(15), FaultyDisk::new(16));
    let settings = Settings {
        cache_size_limit: 16 << 20,
        storage_size_limit: Some(64 << 20),
        commit_interval: Duration::from_secs(3600),
        ..Settings::new("/store")
    };
    let volume = Volume::open(settings, io(&disk), Clock::manual(Time::new(1_000_000, 7))).unwrap();
    let noise = Random::of(15).bytes(1 << 20);
    let page = |n: usize| [&noise[n..], &noise[..n]].concat();
    let file = make(&volume, ROOT, "large");
    for n in 0..28 {
        write(&volume, file, n << 20, &page(n as usize));
    }
    let rounds = Cell::new(0);
    let overwrite = |_| {
        if rounds.replace(1) == 0 {
            for n in 0..28 * 4 {
                write(&volume, file, (n % 28) << 20, &page(100 + n as usize));
            }
            volume.sync()?;
        }
        Ok(())
    };
    let error = back_up(&volume, io(&to), Path::new(COPY), &overwrite).unwrap_err().to_string();
    assert!(error.contains("ran out of room"), "{error}");
    assert_eq!(volume.read_only(), None);
    let error = restore(io(&to), Path::new(COPY), Path::new("/again"), &quiet).unwrap_err().to_string();
    assert!(error.contains("no complete backup"), "{error}");
    copy(&volume, &to);
    assert!(restored(&to) == contents(&volume));
}

mod commands {
    use std::collections::BTreeMap;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    use super::support::mounted::{Mounted, larder, stderr};
    use super::support::random::Random;

    fn run(code: i32, arguments: &[&Path]) -> (String, String) {
        let output = larder(arguments);
        let (out, err) = (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{err}");
        (out, err)
    }

    fn p(text: &str) -> &Path {
        Path::new(text)
    }

    /// Every file with what stat shows of it and its content.
    fn tree(point: &Path) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut todo = vec![point.to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let stat = std::fs::symlink_metadata(&path).unwrap();
                let mut text = format!(
                    "{:o} {} {} {} {} {} {}.{} {}.{}",
                    stat.mode(),
                    stat.ino(),
                    stat.nlink(),
                    stat.uid(),
                    stat.size(),
                    stat.blocks(),
                    stat.mtime(),
                    stat.mtime_nsec(),
                    stat.ctime(),
                    stat.ctime_nsec()
                );
                if stat.is_file() {
                    let bytes = std::fs::read(&path).unwrap();
                    text += &format!(" {:016x}", xxhash_rust::xxh3::xxh3_64(&bytes));
                }
                if stat.is_dir() {
                    todo.push(path.clone());
                }
                found.insert(path.strip_prefix(point).unwrap().to_owned(), text);
            }
        }
        found
    }

    #[test]
    fn larder_backup_copies_a_mounted_store_and_larder_restore_makes_one_that_mounts_and_is_the_same() {
        let Some(mut mounted) = Mounted::new() else { return };
        let mut random = Random::of(1);
        std::fs::create_dir_all(mounted.at("a/b")).unwrap();
        for n in 0..20 {
            std::fs::write(mounted.at(format!("a/b/{n}")), random.bytes(30_000 * n)).unwrap();
            std::fs::write(mounted.at(format!("{n}")), "text ".repeat(n * 100)).unwrap();
        }
        std::fs::hard_link(mounted.at("a/b/3"), mounted.at("again")).unwrap();
        let (store, point) = (mounted.store(), mounted.point());
        let beside = mounted.beside("backups");
        let copy = beside.join("copy");

        // Named by the mount point, a path in it, the store; into what is not there yet.
        let (out, _) = run(0, &[p("backup"), p("--json"), &point, &copy]);
        let first: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert!(first["copied"].as_u64().unwrap() > 5_000_000 && first["damaged"] == 0, "{first}");
        std::fs::write(mounted.at("new"), random.bytes(70_000)).unwrap();
        std::fs::remove_file(mounted.at("a/b/5")).unwrap();
        let (out, _) = run(0, &[p("backup"), p("--json"), &store, &copy]);
        let second: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert!((70_000..80_000).contains(&second["copied"].as_u64().unwrap()), "{second}");
        let expected = tree(&point);

        // Into the mount, the store, what is not empty: refused.
        let (_, err) = run(2, &[p("backup"), &store, &mounted.at("copy")]);
        assert!(err.contains("lies in the mount"), "{err}");
        let (_, err) = run(2, &[p("backup"), &store, &store.join("copy")]);
        assert!(err.contains("cannot lie in the store"), "{err}");
        let (_, err) = run(2, &[p("restore"), &copy, &beside]);
        assert!(err.contains("larder: "), "{err}");

        let again = mounted.beside("restored").join("store");
        let (out, _) = run(0, &[p("restore"), &copy, &again]);
        assert!(out.contains("restored"), "{out}");
        mounted.umount();
        let mut twin = Mounted::unmounted(Some(again.clone()), &["--cache-size-limit", "64MiB"]);
        twin.check();
        twin.mount();
        assert!(tree(&twin.point()) == expected);
        twin.umount();

        // One that is not mounted.
        let (out, _) = run(0, &[p("backup"), p("--json"), &store, &copy]);
        let third: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(third["copied"], 0, "{third}");
        let (_, err) = run(2, &[p("restore"), &copy, &again]);
        assert!(err.contains("it is not empty"), "{err}");
        let (_, err) = run(2, &[p("backup"), &beside, &copy]);
        assert!(err.contains("there is no store here"), "{err}");
    }
}
