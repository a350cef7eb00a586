//! The backups of the catalog within the store.

use super::*;
use crate::catalog::DumpReader;
use crate::format::Extent;
use crate::io::Io;

const DIR: &str = "/store/backup";

fn open(disk: &FaultyDisk) -> Arc<Volume> {
    let settings = Settings {
        backup_count: 2,
        commit_interval: Duration::from_secs(3600),
        ..settings(Path::new("/store"))
    };
    Volume::open(settings, Arc::new(disk.clone()), Clock::manual(Time::new(1_000_000, 0))).unwrap()
}

/// The backups that are there, each read to its end.
fn whole(disk: &FaultyDisk) -> Vec<(u64, u64)> {
    let mut paths = disk.list(Path::new(DIR)).unwrap_or_default();
    paths.retain(|path| path.file_name().is_some_and(|name| name != "catalog.new"));
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let reader = DumpReader::new(disk.open(path, false).unwrap(), path).unwrap();
        (reader.head().seq.0, reader.finish().unwrap().entries)
    };
    paths.iter().map(read).collect()
}

#[test]
fn the_catalog_is_backed_up_whole_and_as_many_backups_are_kept_as_the_setting_says() {
    let disk = FaultyDisk::new(1);
    let volume = open(&disk);
    let mut records = Vec::new();
    for n in 0..4 {
        make(&volume, &format!("file {n}"));
        let path = volume.back_up_catalog().unwrap();
        assert_eq!(volume.back_up_catalog().unwrap(), path, "nothing has changed since");
        let mut count = 0;
        let all = vec![0]..vec![255];
        volume
            .engine
            .scan(all, &mut |_, _| {
                count += 1;
                true
            })
            .unwrap();
        records.push((volume.engine.last_seq().0, count));
        assert_eq!(whole(&disk), records[records.len().saturating_sub(2)..], "backup {n}");
    }
    assert!(volume.backup_bytes.load(Ordering::Relaxed) > 0);
    volume.close().unwrap();
}

#[test]
fn a_backup_of_the_catalog_that_is_cut_short_at_any_step_leaves_the_older_ones_and_no_half_one() {
    let prepared = |seed| {
        let disk = FaultyDisk::new(seed);
        let volume = open(&disk);
        make(&volume, "first");
        volume.back_up_catalog().unwrap();
        make(&volume, "second");
        volume.sync().unwrap();
        (disk, volume)
    };
    let mut interrupted = 0;
    for n in 1.. {
        let (disk, volume) = prepared(n);
        let before = whole(&disk);
        disk.fail(Kind::Any, n, Fault::Short(libc::EIO));
        let outcome = volume.back_up_catalog();
        let crashed = disk.crash();
        disk.heal();
        let (there, after) = (whole(&disk), whole(&crashed));
        for found in [&there, &after] {
            assert!(found.starts_with(&before) && found.len() <= 2, "step {n}: {before:?} {found:?}");
        }
        drop(volume);
        if outcome.is_ok() {
            assert_eq!(after.len(), 2, "what was reported done is there after a crash");
            // It may have struck what the store does behind the scenes.
            match disk.struck() {
                Some(_) => continue,
                None => break,
            }
        }
        interrupted += 1;
        let again = open(&crashed);
        assert_eq!(again.read_only(), None);
        again.back_up_catalog().unwrap();
        assert_eq!(whole(&crashed).len(), 2, "step {n}");
        again.close().unwrap();
    }
    assert!(interrupted >= 5, "{interrupted} steps");
}

#[test]
fn a_full_disk_gets_no_backup_of_the_catalog_and_loses_none() {
    let disk = FaultyDisk::new(3);
    let volume = open(&disk);
    make(&volume, "first");
    volume.back_up_catalog().unwrap();
    make(&volume, "second");
    let before = whole(&disk);
    disk.set_capacity(1 << 20);
    assert!(matches!(volume.back_up_catalog(), Err(Error::NoSpace)));
    assert_eq!(whole(&disk), before);
    assert_eq!(volume.read_only(), None);
}

#[test]
fn a_backup_of_the_catalog_is_due_an_interval_after_the_last_one_and_when_the_clock_was_set_back() {
    let (disk, hour) = (FaultyDisk::new(4), Duration::from_secs(3600));
    let volume = open(&disk);
    let due = || volume.next_backup(hour).unwrap();
    assert_eq!(due(), Duration::ZERO, "there is none");
    volume.back_up_catalog().unwrap();
    volume.clock.set(Time::new(1_010_000, 0));
    assert_eq!(due(), hour, "nothing has changed since");
    make(&volume, "new");
    volume.clock.set(Time::new(1_000_000 + 1000, 0));
    assert_eq!(due(), Duration::from_secs(2600));
    volume.clock.set(Time::new(1_000_000 + 3600, 0));
    assert_eq!(due(), Duration::ZERO);
    volume.clock.set(Time::new(999_999, 0));
    assert_eq!(due(), Duration::ZERO, "nobody knows how old it is");
    volume.back_up_catalog().unwrap();
    assert_eq!(whole(&disk).len(), 2);
}

/// A new file's frame, and its bytes. It has its segment for itself.
fn stored(volume: &Volume, name: &str) -> (Extent, Vec<u8>) {
    let ino = make(volume, name);
    write(volume, ino, 0, &noise(1, PAGE as usize));
    volume.flush_file(ino).unwrap();
    volume.forget(ino, 1);
    let extent = volume.page_record(ino, PageNo(0)).unwrap().unwrap().extent;
    volume.segments.close(extent.segment).unwrap();
    (extent, volume.segments.read(extent).unwrap())
}

fn remove(volume: &Volume, name: &str) {
    volume.run(|v| v.unlink(ROOT, name.as_bytes())).unwrap();
    volume.clear_out().unwrap();
}

#[test]
fn a_copy_that_was_given_up_does_not_take_what_is_held_for_the_next_one_for_its_own() {
    let disk = FaultyDisk::new(5);
    disk.create_dir_all(Path::new("/copy")).unwrap();
    let dump = |moment: &Moment<'_>, name: &str| {
        let path = Path::new("/copy").join(name);
        moment.dump(disk.open(&path, true).unwrap(), &path)
    };
    let volume = open(&disk);
    let (old, old_bytes) = stored(&volume, "old");
    let a = volume.moment().unwrap();
    dump(&a, "a").unwrap();
    assert!(volume.give_up_copy());
    let b = volume.moment().unwrap();
    assert!(a.check().is_err(), "what it had is no longer held");
    assert!(a.read(old).is_err());
    assert!(dump(&a, "again").is_err());
    // Until `b` knows what it needs, it holds all.
    let (new, new_bytes) = stored(&volume, "new");
    remove(&volume, "new");
    assert_eq!(b.read(new).unwrap(), new_bytes);
    dump(&b, "b").unwrap();
    a.release(old.segment);
    remove(&volume, "old");
    assert_eq!(b.read(old).unwrap(), old_bytes);
    drop(a);
    b.check().unwrap();
    volume.clear_out().unwrap();
    assert_eq!(b.read(old).unwrap(), old_bytes);
    drop(b);
    volume.clear_out().unwrap();
    assert!(volume.segments.read(old).is_err() && volume.segments.read(new).is_err(), "the room came back");
    volume.close().unwrap();
}
