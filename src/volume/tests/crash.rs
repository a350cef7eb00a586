//! One crash after another, and crashes at moments that only a test inside can choose.

use super::*;
use crate::cache::PageId;
use crate::format::Extent;
use crate::volume::put::{NewFile, To};

/// A volume that commits nothing by itself.
fn quiet(disk: &FaultyDisk) -> Arc<Volume> {
    let settings = Settings { commit_interval: Duration::from_secs(3600), ..settings(Path::new("/store")) };
    Volume::open(settings, Arc::new(disk.clone()), Clock::System).unwrap()
}

fn found(volume: &Volume, name: &str) -> Option<Ino> {
    match volume.run(|v| v.lookup(ROOT, name.as_bytes())) {
        Ok(entry) => Some(entry.attr.ino),
        Err(Error::NotFound) => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Opens the store that is on a disk and looks whether a file is there with its content.
fn expect(disk: FaultyDisk, name: &str, content: &[u8], seed: u64) {
    let volume = quiet(&disk);
    let ino = found(&volume, name).unwrap_or_else(|| panic!("seed {seed}: {name} is gone"));
    assert!(read(&volume, ino, 0, content.len() as u32) == content, "seed {seed}: {name}");
    volume.close().unwrap();
}

#[test]
fn what_is_found_after_kill_9_and_synced_survives_a_power_loss_after_that() {
    let content = noise(1, 3 * PAGE as usize);
    for seed in 0..8 {
        let disk = FaultyDisk::new(seed);
        let first = quiet(&disk);
        let ino = make(&first, "file");
        write(&first, ino, 0, &content);
        // In frames and in the journal, and no flush yet.
        first.flush_file(ino).unwrap();
        let killed = disk.snapshot();
        let second = quiet(&killed);
        let ino = found(&second, "file").expect("every acknowledged change survives kill -9");
        assert!(read(&second, ino, 0, content.len() as u32) == content);
        second.fsync(ino, false).unwrap();
        expect(killed.crash(), "file", &content, seed);
        first.close().unwrap();
        second.close().unwrap();
    }
}

#[test]
fn what_a_failed_flush_dropped_is_not_taken_for_stored_by_the_next_mount() {
    let (old, new) = (noise(1, 3 * PAGE as usize), noise(2, 3 * PAGE as usize));
    for seed in 0..8 {
        let disk = FaultyDisk::new(seed);
        let first = quiet(&disk);
        let ino = make(&first, "file");
        write(&first, ino, 0, &old);
        first.sync().unwrap();
        write(&first, ino, 0, &new);
        // The first may be those of the journal's next file, which is made ready in the background.
        (0..6).for_each(|n| disk.fail(Kind::Sync, n, Fault::Errno(libc::EIO)));
        first.fsync(ino, false).expect_err("the flush failed");
        // The process ends, the machine goes on: its memory still has what the disk has not.
        let next = disk.snapshot();
        let second = quiet(&next);
        let ino = found(&second, "file").unwrap();
        let content = read(&second, ino, 0, new.len() as u32);
        second.fsync(ino, false).unwrap();
        expect(next.crash(), "file", &content, seed);
        drop(first.close());
        second.close().unwrap();
    }
}

#[test]
fn a_segment_that_died_after_the_flush_began_is_not_removed_before_the_next_one() {
    let content = noise(1, 3 * PAGE as usize);
    let mut kept = 0;
    for seed in 0..16 {
        let disk = FaultyDisk::new(seed);
        let volume = quiet(&disk);
        let ino = make(&volume, "file");
        write(&volume, ino, 0, &content);
        volume.sync().unwrap();
        let segment = volume.page_record(ino, PageNo(0)).unwrap().unwrap().extent.segment;
        volume.segments.close(segment).unwrap();
        volume.forget(ino, 1);
        make(&volume, "other");
        disk.hold_syncs();
        std::thread::scope(|scope| {
            scope.spawn(|| volume.commit_now().unwrap());
            disk.wait_for_held_syncs(1);
            volume.run(|v| v.unlink(ROOT, b"file")).unwrap();
            volume.reclaim().unwrap();
            disk.release_syncs();
        });
        let after = quiet(&disk.crash());
        if let Some(ino) = found(&after, "file") {
            kept += 1;
            assert!(read(&after, ino, 0, content.len() as u32) == content, "seed {seed}");
        }
        after.close().unwrap();
        volume.close().unwrap();
    }
    assert!(kept > 0, "no crash that lost the unlink: the test shows nothing");
}

#[test]
fn a_disk_that_others_fill_to_the_last_byte_stops_no_deletion_and_ends_nothing() {
    let disk = FaultyDisk::new(3);
    let volume = quiet(&disk);
    for n in 0..400 {
        let ino = make(&volume, &format!("file{n}"));
        write(&volume, ino, 0, &noise(n + 1, 300));
        volume.forget(ino, 1);
    }
    volume.sync().unwrap();
    let room = crate::io::Io::room(&disk, Path::new("/store")).unwrap();
    disk.set_capacity(room.total - room.available);
    // More than the journal and the table have room for: names that are long fill both.
    let mut made = 0;
    let refused = (0..100_000).find_map(|n| {
        let name = format!("{n:0200}");
        match volume.run(|v| v.mknod(&ROOTS, ROOT, name.as_bytes(), 0o644, 0)) {
            Ok(entry) => {
                volume.forget(entry.attr.ino, 1);
                made = n + 1;
                None
            }
            Err(error) => Some(error),
        }
    });
    assert!(matches!(refused, Some(Error::NoSpace)), "{refused:?} after {made}");
    assert_eq!(volume.read_only(), None);
    for n in 0..400 {
        volume.run(|v| v.unlink(ROOT, format!("file{n}").as_bytes())).expect("deletable when full");
    }
    volume.sync().unwrap();
    assert_eq!(volume.read_only(), None);
    assert_eq!(found(&volume, "file7"), None);
    disk.set_capacity(1 << 40);
    // The reserve is taken back first, in the background.
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while found(&volume, "again").is_none() {
        assert!(std::time::Instant::now() < until, "there is room, and it is not used");
        let _ = volume.run(|v| v.mknod(&ROOTS, ROOT, b"again", 0o644, 0));
    }
    volume.sync().unwrap();
    let after = quiet(&disk.crash());
    assert!(found(&after, "again").is_some() && found(&after, "file7").is_none());
    assert!(found(&after, &format!("{:0200}", made - 1)).is_some());
    after.close().unwrap();
    volume.close().unwrap();
}

/// What is tried of a file, and its content afterwards.
type Change = (&'static str, fn(&Volume, Ino) -> Result<()>, fn(Vec<u8>) -> Vec<u8>);

const CHANGES: [Change; 5] = [
    (
        "cut in a page",
        |volume, ino| cut(volume, ino, PAGE + 7),
        |content| content[..PAGE as usize + 7].to_vec(),
    ),
    ("cut between pages", |volume, ino| cut(volume, ino, PAGE), |content| content[..PAGE as usize].to_vec()),
    ("cut off all", |volume, ino| cut(volume, ino, 0), |_| Vec::new()),
    (
        "a hole",
        |volume, ino| {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            volume.fallocate(ino, PAGE, PAGE, mode)
        },
        |mut content| {
            content[PAGE as usize..2 * PAGE as usize].fill(0);
            content
        },
    ),
    ("an fsync", |volume, ino| volume.fsync(ino, false), |content| content),
];

fn cut(volume: &Volume, ino: Ino, size: u64) -> Result<()> {
    let change = SetAttr { size: Some(size), ..SetAttr::default() };
    volume.run(|v| v.setattr(&ROOTS, ino, &change)).map(drop)
}

#[test]
fn what_could_not_be_journalled_has_not_happened_in_memory_either() {
    for (errno, (what, change, outcome)) in
        [libc::EIO, libc::ENOSPC].into_iter().flat_map(|errno| CHANGES.map(|change| (errno, change)))
    {
        let disk = FaultyDisk::new(1);
        let volume = quiet(&disk);
        let mut refused = false;
        for round in 0..20 {
            let ino = make(&volume, &format!("file-{round}"));
            let mut content = noise(1, 3 * PAGE as usize);
            write(&volume, ino, 0, &content);
            volume.sync().unwrap();
            // In the cache alone: before the place of the cut, behind it, and in the page of the hole.
            for at in [5, PAGE + 3, PAGE + 100, 2 * PAGE + 9] {
                write(&volume, ino, at, b"unjournalled");
                content[at as usize..][..12].copy_from_slice(b"unjournalled");
            }
            // The write of the record, and the one after the room that is kept for a full disk has been given up; what
            // lies between takes the first back.
            [0, 2].into_iter().for_each(|n| disk.fail(Kind::Write, n, Fault::Errno(errno)));
            let done = change(&volume, ino);
            disk.disarm();
            let shown = if done.is_err() { content.clone() } else { outcome(content.clone()) };
            let size = volume.run(|v| v.getattr(ino)).unwrap().attr.size;
            assert_eq!(size, shown.len() as u64, "errno {errno}, {what}: {done:?}");
            assert!(read(&volume, ino, 0, 4 * PAGE as u32) == shown, "errno {errno}, {what}: {done:?}");
            refused |= done.is_err();
            if volume.read_only().is_some() {
                break;
            }
            // What was refused works now, with all that had been written.
            change(&volume, ino).unwrap_or_else(|error| panic!("errno {errno}, {what}, again: {error}"));
            let content = outcome(content);
            assert!(read(&volume, ino, 0, 4 * PAGE as u32) == content, "errno {errno}, {what}, again");
            volume.sync().unwrap();
            expect(disk.snapshot(), &format!("file-{round}"), &content, 1);
            // Another thread's write may have met the fault.
            if refused {
                break;
            }
        }
        assert!(refused, "errno {errno}, {what}: it was never refused");
        drop(volume.close());
    }
}

#[test]
fn who_lets_go_of_a_closed_store_later_takes_nothing_from_who_has_opened_it_since() {
    let dir = tempfile::tempdir().unwrap();
    let before = real(dir.path());
    // Room is reserved for it, in a segment that nothing is appended to.
    let ino = make(&before, "brief");
    write(&before, ino, 0, &noise(1, 3000));
    resize(&before, ino, 0);
    before.close().unwrap();
    let now = real(dir.path());
    drop(before);
    let ino = make(&now, "kept");
    write(&now, ino, 0, &noise(2, 3000));
    now.sync().unwrap();
    now.close().unwrap();
    let later = real(dir.path());
    assert_eq!(read(&later, ino, 0, 3000), noise(2, 3000));
    later.close().unwrap();
}

#[test]
fn nor_does_who_lets_go_of_a_store_that_could_not_be_closed_well() {
    for seed in 0..4 {
        let disk = FaultyDisk::new(seed);
        let before = quiet(&disk);
        let ino = make(&before, "file");
        for n in 0..200 {
            make(&before, &format!("before{n}"));
        }
        before.sync().unwrap();
        write(&before, ino, 0, &noise(1, 3000));
        (0..6).for_each(|n| disk.fail(Kind::Sync, n, Fault::Errno(libc::EIO)));
        before.fsync(ino, false).expect_err("the flush failed");
        disk.disarm();
        drop(before.close());
        let now = quiet(&disk);
        for n in 0..500 {
            make(&now, &format!("kept{n}"));
        }
        now.close().unwrap();
        let written = disk.counts();
        drop((before, now));
        assert_eq!(disk.counts(), written, "seed {seed}: something is written behind the close");
        let later = quiet(&disk);
        for n in 0..500 {
            assert!(found(&later, &format!("kept{n}")).is_some(), "seed {seed}: kept{n}");
        }
        later.close().unwrap();
    }
}

#[test]
fn a_value_that_could_not_be_journalled_leaves_nothing_in_memory() {
    let set = |volume: &Volume, content: &[u8]| {
        let to = To::Content(content, NewFile::default());
        volume.apply(&ROOTS, &[crate::volume::Change { path: b"key", to }], false).map(drop)
    };
    for errno in [libc::EIO, libc::ENOSPC] {
        let disk = FaultyDisk::new(1);
        let volume = quiet(&disk);
        set(&volume, &noise(1, 3000)).unwrap();
        volume.sync().unwrap();
        let memory = || {
            let counters = volume.tree.lock().counters;
            (volume.cache.dirty_files(), volume.cache.stats().used, volume.cache.dirty_bytes(), counters)
        };
        // Nothing is prepared behind the scenes from here on.
        volume.engine.checkpoint(&|| Ok(())).unwrap();
        let before = memory();
        // The record, and what may be tried in its place.
        [0, 2].into_iter().for_each(|n| disk.fail(Kind::Write, n, Fault::Errno(errno)));
        let refused = set(&volume, &noise(2, 3000));
        disk.disarm();
        assert!(refused.is_err(), "{errno}");
        assert_eq!(memory(), before, "{errno}");
        let found = volume.run(|v| v.get(b"key")).unwrap();
        assert!(matches!(found, Got::Content(content) if content == noise(1, 3000)), "{errno}");
        drop(volume.close());
        expect(disk.snapshot(), "key", &noise(1, 3000), 1);
    }
}

/// A store whose file `file` has a page in a frame, and on it what was written and fsynced last in the journal alone.
fn patched(content: &[u8]) -> (FaultyDisk, Extent) {
    let disk = FaultyDisk::new(1);
    let volume = quiet(&disk);
    let ino = make(&volume, "file");
    write(&volume, ino, 0, &noise(1, content.len()));
    volume.sync().unwrap();
    let extent = volume.page_record(ino, PageNo(0)).unwrap().unwrap().extent;
    write(&volume, ino, 5, &content[5..50]);
    volume.fsync(ino, false).unwrap();
    let killed = disk.snapshot();
    volume.close().unwrap();
    (killed, extent)
}

#[test]
fn whichever_read_fails_at_opening_what_was_fsynced_is_there_or_told_to_be_lost_and_goes_over_nothing_newer()
{
    let (old, new) = (noise(1, PAGE as usize), noise(2, PAGE as usize));
    let mut content = old.clone();
    content[5..50].copy_from_slice(&new[5..50]);
    let (killed, _) = patched(&content);
    let mut told = 0;
    for n in 0.. {
        let disk = killed.snapshot();
        disk.fail(Kind::Read, n, Fault::Errno(libc::EIO));
        let settings =
            Settings { commit_interval: Duration::from_secs(3600), ..settings(Path::new("/store")) };
        let opened = Volume::open(settings, Arc::new(disk.clone()), Clock::System);
        let struck = disk.struck().is_some();
        disk.disarm();
        let Ok(volume) = opened else { continue };
        let ino = found(&volume, "file").unwrap();
        let mut there = Vec::new();
        match volume.read_blocking(ino, 0, PAGE as u32, false, &mut there) {
            Ok(()) => assert!(there == content, "read {n}: what was fsynced is missing"),
            Err(error) => {
                assert!(matches!(error, Error::Damaged(_)), "read {n}: {error}");
                // Nor is a part changed, or cut, of what nobody knows.
                assert!(volume.run(|v| v.write(ino, 100, b"x", false)).is_err(), "read {n}");
                let shorter = SetAttr { size: Some(100), ..SetAttr::default() };
                assert!(volume.run(|v| v.setattr(&ROOTS, ino, &shorter)).is_err(), "read {n}");
                told += 1;
            }
        }
        if volume.run(|v| v.write(ino, 0, &new, false)).is_ok() && volume.sync().is_ok() {
            drop(volume.close());
            expect(disk, "file", &new, n);
        }
        if !struck {
            break;
        }
    }
    assert!(told > 0, "no read failed that matters here");
}

#[test]
fn what_is_written_in_place_of_a_damaged_page_and_its_patches_stays() {
    let (content, new) = (noise(2, PAGE as usize), noise(3, PAGE as usize));
    let (killed, extent) = patched(&content);
    type Rewrite = fn(&Volume, Ino, &[u8]);
    let ways: [(&str, Rewrite); 3] = [
        ("whole", |volume, ino, new| write(volume, ino, 0, new)),
        ("after it was emptied", |volume, ino, new| {
            resize(volume, ino, 0);
            write(volume, ino, 0, &new[..1000]);
        }),
        ("by a hole", |volume, ino, _| {
            let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            volume.fallocate(ino, 0, PAGE, punch).unwrap();
        }),
    ];
    for (how, rewrite) in ways {
        let disk = killed.snapshot();
        let path = format!("/store/segments/{:02x}/{:08x}", extent.segment.0 % 256, extent.segment.0);
        disk.open(Path::new(&path), false).unwrap().write_all_at(&[0; 64], u64::from(extent.offset)).unwrap();
        let volume = quiet(&disk);
        let ino = found(&volume, "file").unwrap();
        let mut there = Vec::new();
        let damaged = volume.read_blocking(ino, 0, PAGE as u32, false, &mut there);
        assert!(matches!(damaged, Err(Error::Damaged(_))), "{how}: {damaged:?}");
        rewrite(&volume, ino, &new);
        volume.fsync(ino, false).unwrap();
        let size = volume.run(|v| v.getattr(ino)).unwrap().attr.size;
        let written = read(&volume, ino, 0, size as u32);
        // Also where it is in the journal alone.
        let again = disk.crash();
        volume.close().unwrap();
        expect(again, "file", &written, 0);
        expect(disk, "file", &written, 0);
    }
}

#[test]
fn the_place_of_frames_that_could_not_be_journalled_is_given_back() {
    let disk = FaultyDisk::new(1);
    let volume = quiet(&disk);
    let ino = make(&volume, "file");
    write(&volume, ino, 0, &noise(1, 1000));
    volume.sync().unwrap();
    // Nothing is prepared behind the scenes from here on.
    volume.engine.checkpoint(&|| Ok(())).unwrap();
    volume.commit_now().unwrap();
    write(&volume, ino, 0, &noise(2, 1000));
    // The frame is written, its record is not, nor what may be tried in its place.
    [1, 3].into_iter().for_each(|n| disk.fail(Kind::Write, n, Fault::Errno(libc::ENOSPC)));
    assert!(volume.flush_file(ino).is_err());
    disk.disarm();
    assert!(volume.tree.lock().dead >= 1000, "it is nobody's");
    volume.commit_now().unwrap();
    assert_eq!(volume.tree.lock().dead, 0);
    assert_eq!(read(&volume, ino, 0, 1000), noise(2, 1000));
    volume.close().unwrap();
    expect(disk, "file", &noise(2, 1000), 1);
}

#[test]
fn what_is_in_the_journal_alone_is_no_hole_where_it_could_not_be_put_in_place() {
    let disk = FaultyDisk::new(1);
    let volume = quiet(&disk);
    let ino = make(&volume, "file");
    // In two parts, so that none is all of it.
    for (offset, content) in [(0, &b"first"[..]), (5, b"second")] {
        write(&volume, ino, offset, content);
        volume.fsync(ino, false).unwrap();
    }
    let killed = disk.snapshot();
    volume.close().unwrap();
    let volume = quiet(&killed);
    let ino = found(&volume, "file").unwrap();
    // As where its page's record could not be read at the opening.
    volume.cache.discard(ino, PageNo(0), PageNo(1));
    volume.cache.strand(PageId { ino, no: PageNo(0) }, 2);
    volume.tree.lock().file(ino).unwrap().rec.pages = 0;
    let mut there = Vec::new();
    let outcome = volume.run(|v| v.read(ino, 0, 11, &mut there));
    assert!(matches!(outcome, Err(Error::Damaged(_))), "{outcome:?}, {there:?}");
    drop(volume.close());
}

#[test]
fn a_segment_that_cannot_be_removed_keeps_no_room_from_being_given_back() {
    let disk = FaultyDisk::new(1);
    let volume = quiet(&disk);
    let [stays, goes] = ["stays", "goes"].map(|name| {
        let ino = make(&volume, name);
        write(&volume, ino, 0, &noise(1, 2 * PAGE as usize));
        volume.sync().unwrap();
        let segment = volume.page_record(ino, PageNo(0)).unwrap().unwrap().extent.segment;
        volume.segments.close(segment).unwrap();
        volume.run(|v| v.unlink(ROOT, name.as_bytes())).unwrap();
        volume.forget(ino, 1);
        segment
    });
    volume.reclaim().unwrap();
    volume.sync().unwrap();
    // Nothing is prepared behind the scenes from here on.
    volume.engine.checkpoint(&|| Ok(())).unwrap();
    disk.fail(Kind::Any, 0, Fault::Errno(libc::EIO));
    volume.commit_now().unwrap();
    let left = || volume.segments.list().unwrap().iter().map(|info| info.id).collect::<Vec<_>>();
    assert!(left().contains(&stays) && !left().contains(&goes), "{:?}", left());
    volume.commit_now().unwrap();
    assert!(!left().contains(&stays));
    volume.close().unwrap();
}

#[test]
fn what_is_asked_of_a_store_whose_catalog_has_ended_is_refused() {
    let disk = FaultyDisk::new(1);
    let volume = quiet(&disk);
    make(&volume, "file");
    volume.engine.end();
    let made = volume.run(|v| v.mknod(&ROOTS, ROOT, b"other", 0o644, 0));
    assert!(matches!(made, Err(Error::ReadOnly(_))), "{made:?}");
    drop(volume.close());
}

#[test]
fn a_copy_of_a_damaged_page_keeps_nothing_that_was_done_after_it_from_surviving_kill_9() {
    let disk = FaultyDisk::new(1);
    let volume = quiet(&disk);
    let [from, to] = ["from", "to"].map(|name| make(&volume, name));
    write(&volume, from, 0, &noise(1, PAGE as usize));
    volume.sync().unwrap();
    let extent = volume.page_record(from, PageNo(0)).unwrap().unwrap().extent;
    let path = format!("/store/segments/{:02x}/{:08x}", extent.segment.0 % 256, extent.segment.0);
    disk.open(Path::new(&path), false).unwrap().write_all_at(&[0; 64], u64::from(extent.offset)).unwrap();
    assert_eq!(volume.copy_range(from, 0, to, 0, PAGE).unwrap(), PAGE);
    make(&volume, "after");
    let killed = quiet(&disk.snapshot());
    assert!(found(&killed, "after").is_some());
    let copy = found(&killed, "to").unwrap();
    let mut there = Vec::new();
    let read = killed.read_blocking(copy, 0, PAGE as u32, false, &mut there);
    assert!(matches!(read, Err(Error::Damaged(_))), "{read:?}");
    killed.close().unwrap();
    volume.close().unwrap();
}

#[test]
fn the_size_of_a_file_whose_end_was_punched_is_recorded_without_a_sync() {
    for punched in [PAGE, 0] {
        let disk = FaultyDisk::new(1);
        let volume = quiet(&disk);
        let ino = make(&volume, "file");
        write(&volume, ino, 0, &noise(1, 2 * PAGE as usize));
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        volume.fallocate(ino, punched, 2 * PAGE - punched, mode).unwrap();
        volume.flush_file(ino).unwrap();
        // Write-back may have stored it, and records its size behind that.
        let until = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let killed = quiet(&disk.snapshot());
            let ino = found(&killed, "file").unwrap();
            let size = killed.run(|v| v.getattr(ino)).unwrap().attr.size;
            killed.close().unwrap();
            if size == 2 * PAGE {
                break;
            }
            assert!(std::time::Instant::now() < until, "from {punched}: {size}");
        }
        volume.close().unwrap();
    }
}
