//! What the model does not reach: limits that are made small here, background work, failures.

mod backup;
mod crash;
mod default_ttl;
mod evict;
mod expiry;
mod framed;
mod get;
mod large_dirs;
mod quota;
mod readahead;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::format::PageNo;
use crate::io::faulty::{Fault, FaultyDisk, Kind};
use crate::io::{Io, RealDisk};

const PAGE: u64 = 128 << 10;
const ROOTS: Caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0o022 };

fn settings(dir: &Path) -> Settings {
    Settings { cache_size_limit: 32 << 20, ..Settings::new(dir) }
}

fn real(dir: &Path) -> Arc<Volume> {
    Volume::open(settings(dir), Arc::new(RealDisk), Clock::System).unwrap()
}

fn make(volume: &Volume, name: &str) -> Ino {
    volume.run(|v| v.mknod(&ROOTS, ROOT, name.as_bytes(), 0o644, 0)).unwrap().attr.ino
}

/// Bytes that do not compress, different for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect()
}

fn write(volume: &Volume, ino: Ino, offset: u64, data: &[u8]) {
    volume.run(|v| v.write(ino, offset, data, false)).unwrap();
}

fn read(volume: &Volume, ino: Ino, offset: u64, len: u32) -> Vec<u8> {
    let mut out = Vec::new();
    volume.read_blocking(ino, offset, len, false, &mut out).unwrap();
    out
}

fn resize(volume: &Volume, ino: Ino, size: u64) {
    let change = SetAttr { size: Some(size), ..SetAttr::default() };
    volume.run(|v| v.setattr(&ROOTS, ino, &change)).unwrap();
}

fn expire(volume: &Volume, ino: Ino, at: &str) {
    volume.run(|v| v.setxattr(&ROOTS, ino, b"user.larder.expires", at.as_bytes(), 0)).unwrap();
}

#[test]
fn truncating_a_file_of_more_pages_than_fit_one_batch_keeps_all_before_the_new_end() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let ino = make(&volume, "long");
    let pages = 5 * load::EXTENTS as u64;
    for no in 0..pages {
        write(&volume, ino, no * PAGE, &noise(no + 1, PAGE as usize));
    }
    volume.fsync(ino, false).unwrap();
    let kept = PAGE + 5;
    resize(&volume, ino, kept);
    resize(&volume, ino, pages * PAGE);
    let found = read(&volume, ino, 0, (kept + 100) as u32);
    assert_eq!(found[..PAGE as usize], noise(1, PAGE as usize));
    assert_eq!(found[PAGE as usize..kept as usize], noise(2, 5));
    assert!(found[kept as usize..].iter().all(|byte| *byte == 0));
    assert_eq!(volume.run(|v| Ok(v.tree.lock().get(ino)?.rec.pages)).unwrap(), 2);
    volume.close().unwrap();
}

#[test]
fn a_hole_of_more_pages_than_fit_one_batch_leaves_all_around_it() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let ino = make(&volume, "long");
    let pages = 5 * load::EXTENTS as u64;
    for no in 0..pages {
        write(&volume, ino, no * PAGE, &noise(no + 1, PAGE as usize));
    }
    volume.fsync(ino, false).unwrap();
    let (from, to) = (PAGE + 5, (pages - 1) * PAGE + 7);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    volume.fallocate(ino, from, to - from, punch).unwrap();
    let found = read(&volume, ino, 0, (pages * PAGE) as u32);
    assert_eq!(found.len() as u64, pages * PAGE);
    let (head, rest) = found.split_at(from as usize);
    let (hole, tail) = rest.split_at((to - from) as usize);
    assert_eq!(head[..PAGE as usize], noise(1, PAGE as usize));
    assert_eq!(head[PAGE as usize..], noise(2, PAGE as usize)[..5]);
    assert!(hole.iter().all(|byte| *byte == 0));
    assert_eq!(*tail, noise(pages, PAGE as usize)[7..]);
    assert_eq!(volume.run(|v| Ok(v.tree.lock().get(ino)?.rec.pages)).unwrap(), 3);
    volume.close().unwrap();
}

#[test]
fn pages_of_zeros_are_holes_before_their_write_back_as_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let ino = make(&volume, "file");
    let ends = |volume: &Volume| {
        let seek = |at, hole| volume.seek(ino, at, hole).unwrap_or(u64::MAX);
        (0..8).map(|no| (seek(no * PAGE + 9, false), seek(no * PAGE + 9, true))).collect::<Vec<_>>()
    };
    let zeros = vec![0; PAGE as usize];
    for no in [1, 2, 4, 6] {
        write(&volume, ino, no * PAGE, &noise(no, PAGE as usize));
    }
    write(&volume, ino, 7 * PAGE, &zeros[..5000]);
    volume.sync().unwrap();
    // Over what is stored, over a hole, and beside both.
    for no in [2, 3, 4] {
        write(&volume, ino, no * PAGE, &zeros);
    }
    write(&volume, ino, 5 * PAGE + 100, b"some");
    let before = ends(&volume);
    assert_eq!(before[1], (PAGE + 9, 2 * PAGE));
    assert_eq!([before[2], before[3], before[4]].map(|(data, _)| data), [5 * PAGE; 3]);
    assert_eq!([before[2], before[3], before[4]].map(|(_, hole)| hole), [2, 3, 4].map(|no| no * PAGE + 9));
    assert_eq!(before[5], (5 * PAGE + 9, 7 * PAGE));
    assert_eq!(before[7], (u64::MAX, 7 * PAGE + 9));
    volume.sync().unwrap();
    assert_eq!(ends(&volume), before);
    volume.close().unwrap();
    let volume = real(dir.path());
    assert_eq!(ends(&volume), before);
    volume.close().unwrap();
}

#[test]
fn compaction_gives_back_what_holes_cannot_and_keeps_what_lives() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    // Small frames side by side: no hole of a whole block between those that live.
    let files: Vec<Ino> = (0..4000).map(|n| make(&volume, &format!("f{n}"))).collect();
    for (n, ino) in files.iter().enumerate() {
        write(&volume, *ino, 0, &noise(n as u64 + 1, 1000));
    }
    volume.sync().unwrap();
    let first = volume.segments.list().unwrap().first().unwrap().id;
    volume.segments.close(first).unwrap();
    for (n, ino) in files.iter().enumerate().filter(|(n, _)| n % 4 != 0) {
        volume.run(|v| v.unlink(ROOT, format!("f{n}").as_bytes())).unwrap();
        volume.forget(*ino, 1);
    }
    volume.reclaim().unwrap();
    volume.commit_now().unwrap();
    let is_there = || volume.segments.list().unwrap().iter().any(|segment| segment.id == first);
    // One that could not be emptied is left alone until enough of what stayed has died.
    let live = volume.tree.lock().live[&first];
    volume.uncompactable.lock().insert(first, live + live / 4);
    volume.compact().unwrap();
    assert!(is_there());
    volume.uncompactable.lock().insert(first, live + live / 3 + 4);
    volume.compact().unwrap();
    assert!(!is_there());
    volume.close().unwrap();
    let volume = real(dir.path());
    for n in (0..4000).step_by(4) {
        let ino = volume.run(|v| v.lookup(ROOT, format!("f{n}").as_bytes())).unwrap().attr.ino;
        assert_eq!(read(&volume, ino, 0, 2000), noise(n + 1, 1000), "f{n}");
    }
    volume.close().unwrap();
}

#[test]
fn a_page_that_is_dirty_is_not_moved_by_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let ino = make(&volume, "file");
    write(&volume, ino, 0, &noise(1, PAGE as usize));
    volume.sync().unwrap();
    let before = volume.page_record(ino, PageNo(0)).unwrap().unwrap();
    let segment = before.extent.segment;
    volume.segments.close(segment).unwrap();
    write(&volume, ino, 0, b"changed");
    volume.move_frames(segment, u64::from(before.extent.offset + before.extent.len)).unwrap();
    assert!(
        volume.page_record(ino, PageNo(0)).unwrap() == Some(before)
            || !volume.cache.is_dirty(crate::cache::PageId { ino, no: PageNo(0) })
    );
    volume.sync().unwrap();
    let tree = volume.tree.lock();
    let live: u64 = tree.live.values().sum();
    assert_eq!(live, tree.counters.stored);
    drop(tree);
    let now = volume.page_record(ino, PageNo(0)).unwrap().unwrap();
    assert_eq!(live, u64::from(now.extent.len));
    volume.close().unwrap();
}

#[test]
fn a_segment_that_goes_while_it_is_compacted_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let ino = make(&volume, "file");
    write(&volume, ino, 0, &noise(1, PAGE as usize));
    volume.sync().unwrap();
    let extent = volume.page_record(ino, PageNo(0)).unwrap().unwrap().extent;
    volume.segments.close(extent.segment).unwrap();
    resize(&volume, ino, 0);
    volume.commit_now().unwrap();
    assert!(volume.segments.read(extent).is_err(), "it is there");
    volume.empty_segment(extent.segment, u64::from(extent.offset + extent.len)).unwrap();
    volume.close().unwrap();
}

#[test]
fn an_fsync_whose_pages_another_thread_could_not_store_fails() {
    let disk = FaultyDisk::new(7);
    let volume = Volume::open(settings(Path::new("/store")), Arc::new(disk.clone()), Clock::System).unwrap();
    let ino = make(&volume, "file");
    volume.sync().unwrap();
    // More than rides in the journal, so that it must be stored; every write fails from now on.
    let data = noise(3, 3 * PAGE as usize);
    write(&volume, ino, 0, &data);
    disk.fail(Kind::Write, 1, Fault::Errno(libc::EIO));
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        outcomes.push(volume.fsync(ino, false).is_ok());
        if outcomes.last() == Some(&true) {
            break;
        }
    }
    disk.heal();
    let crashed = disk.crash();
    drop(volume.close());
    let again = Volume::open(settings(Path::new("/store")), Arc::new(crashed), Clock::System).unwrap();
    let ino = again.run(|v| v.lookup(ROOT, b"file")).unwrap().attr.ino;
    if outcomes.contains(&true) {
        assert_eq!(read(&again, ino, 0, data.len() as u32), data, "fsync said that it is stored");
    }
    again.close().unwrap();
}

#[test]
fn a_listing_goes_on_behind_many_keys_that_have_expired() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Time::new(1_000, 0));
    let volume = Volume::open(settings(dir.path()), Arc::new(RealDisk), clock.clone()).unwrap();
    for n in 0..600 {
        let ino = make(&volume, &format!("old{n}"));
        expire(&volume, ino, "2000");
    }
    make(&volume, "new");
    // Nothing is swept while this is held: the listing sees all of them.
    let sweeping = volume.sweeping.lock();
    clock.set(Time::new(3_000, 0));
    let mut names = Vec::new();
    volume
        .run(|v| {
            names.clear();
            v.readdir(ROOT, 0, true, &mut |entry| {
                names.push(entry.name.to_vec());
                true
            })
        })
        .unwrap();
    assert_eq!(names, [b".".to_vec(), b"..".to_vec(), b"new".to_vec()]);
    drop(sweeping);
    volume.close().unwrap();
}

#[test]
fn a_name_that_has_expired_can_be_made_anew_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Time::new(1_000, 0));
    let volume = Volume::open(settings(dir.path()), Arc::new(RealDisk), clock.clone()).unwrap();
    let old = make(&volume, "key");
    expire(&volume, old, "1500");
    let linked = volume.run(|v| v.link(old, ROOT, b"link")).unwrap().attr.ino;
    assert_eq!(linked, old);
    clock.set(Time::new(1_501, 0));
    // A sweep of many keys may be under way: nobody waits for its end.
    let sweeping = volume.sweeping.lock();
    let new = make(&volume, "key");
    drop(sweeping);
    assert_ne!(new, old);
    assert!(matches!(volume.run(|v| v.lookup(ROOT, b"link")), Err(Error::NotFound)));
    assert!(matches!(
        volume.run(|v| v.rename(ROOT, b"link", ROOT, b"b", Rename::Replace)),
        Err(Error::NotFound)
    ));
    volume.close().unwrap();
}

#[test]
fn copying_beyond_the_largest_size_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let (from, to) = (make(&volume, "from"), make(&volume, "to"));
    write(&volume, from, 0, &noise(1, PAGE as usize));
    write(&volume, to, 0, b"stays");
    let refused = volume.copy_range(from, 0, to, 1 << 49, PAGE);
    assert!(matches!(refused, Err(Error::TooLarge)), "{refused:?}");
    assert_eq!(read(&volume, to, 0, 100), b"stays");
    volume.close().unwrap();
}

#[test]
fn frames_shared_by_a_copy_are_given_back_with_their_last_owner() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let (from, to) = (make(&volume, "from"), make(&volume, "to"));
    let data = noise(1, 4 * PAGE as usize);
    write(&volume, from, 0, &data);
    for _ in 0..3 {
        assert_eq!(volume.copy_range(from, 0, to, 0, 4 * PAGE).unwrap(), 4 * PAGE);
    }
    assert_eq!(read(&volume, to, 0, data.len() as u32), data);
    let stored = |volume: &Volume| volume.tree.lock().counters.stored;
    let one = stored(&volume);
    for (name, ino) in [("from", from), ("to", to)] {
        assert_eq!(stored(&volume), one, "one owner is enough");
        volume.run(|v| v.unlink(ROOT, name.as_bytes())).unwrap();
        volume.forget(ino, 1);
        volume.reclaim().unwrap();
        volume.work_off_releases().unwrap();
        volume.work_off_releases().unwrap();
    }
    assert_eq!(stored(&volume), 0);
    volume.close().unwrap();
}

/// Removes files, and looks whether all room that their content took is given back.
fn all_is_given_back(volume: &Volume, files: [(&str, Ino); 2]) {
    for (name, ino) in files {
        volume.run(|v| v.unlink(ROOT, name.as_bytes())).unwrap();
        volume.forget(ino, 1);
        volume.reclaim().unwrap();
        volume.work_off_releases().unwrap();
    }
    assert_eq!(volume.tree.lock().counters.stored, 0);
}

#[test]
fn a_frame_that_a_page_gives_up_more_than_once_is_given_back() {
    let len = PAGE as usize;
    type Step = fn(&Volume, Ino, Ino);
    let steps: [(&str, Step); 3] = [
        ("copied over itself", |volume, from, to| _ = volume.copy_range(from, 0, to, 0, PAGE).unwrap()),
        ("written over and copied", |volume, from, to| {
            write(volume, to, 0, &noise(2, PAGE as usize));
            volume.flush_file(to).unwrap();
            volume.copy_range(from, 0, to, 0, PAGE).unwrap();
        }),
        ("written over, copied while that is dirty, and written over", |volume, from, to| {
            write(volume, to, 0, &noise(2, PAGE as usize));
            volume.copy_range(from, 0, to, 0, PAGE).unwrap();
            write(volume, to, 0, &noise(3, PAGE as usize));
            volume.flush_file(to).unwrap();
        }),
    ];
    for (how, step) in steps {
        let dir = tempfile::tempdir().unwrap();
        let volume = real(dir.path());
        let (from, to) = (make(&volume, "from"), make(&volume, "to"));
        write(&volume, from, 0, &noise(1, len));
        assert_eq!(volume.copy_range(from, 0, to, 0, PAGE).unwrap(), PAGE);
        step(&volume, from, to);
        // The janitor works off nothing meanwhile, as when another has the owners' numbers.
        let owners = volume.owners.lock();
        volume.run(|v| v.unlink(ROOT, b"to")).unwrap();
        volume.forget(to, 1);
        volume.reclaim().unwrap();
        drop(owners);
        let to = make(&volume, "to");
        println!("{how}");
        all_is_given_back(&volume, [("to", to), ("from", from)]);
        volume.close().unwrap();
    }
}

#[test]
fn a_frame_that_is_shared_with_a_page_again_while_its_releases_are_worked_off_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let (from, to) = (make(&volume, "from"), make(&volume, "to"));
    write(&volume, from, 0, &noise(1, 4 * PAGE as usize));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                volume.work_off_releases().unwrap();
            }
        });
        for n in 0..100 {
            assert_eq!(volume.copy_range(from, 0, to, 0, 4 * PAGE).unwrap(), 4 * PAGE);
            write(&volume, to, 0, &[n; 4 * PAGE as usize]);
        }
        done.store(true, Ordering::Relaxed);
    });
    all_is_given_back(&volume, [("from", from), ("to", to)]);
    volume.close().unwrap();
}

#[test]
fn the_attributes_of_an_inode_have_a_limit_and_keep_to_the_flags_of_setxattr() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let ino = make(&volume, "key");
    let set = |name: &[u8], value: &[u8], flags| {
        volume.run(|v| v.setxattr(&ROOTS, ino, name, value, flags)).map_err(|error| error.to_string())
    };
    let value = vec![7; 60 << 10];
    let fit = (0..100).take_while(|n| set(format!("user.{n}").as_bytes(), &value, 0).is_ok()).count();
    assert_eq!(fit, (1 << 20) / value.len(), "1 MiB of names and values");
    assert_eq!(set(b"user.one-more", &value, 0), Err(Error::NoSpace.to_string()));
    set(b"user.0", &value, libc::XATTR_REPLACE).unwrap();
    set(b"user.0", b"", 0).unwrap();
    set(b"user.one-more", &value, libc::XATTR_CREATE).unwrap();

    let (create, replace) = (libc::XATTR_CREATE, libc::XATTR_REPLACE);
    assert_eq!(set(b"user.0", b"", create), Err(Error::Exists.to_string()));
    assert_eq!(set(b"user.none", b"", replace), Err(Error::NoAttribute.to_string()));
    assert_eq!(set(b"user.larder.codec", b"zstd", replace), Err(Error::NoAttribute.to_string()));
    set(b"user.larder.codec", b"zstd", create).unwrap();
    assert_eq!(set(b"user.larder.codec", b"lz4", create), Err(Error::Exists.to_string()));
    volume.close().unwrap();
}

#[test]
fn in_the_least_memory_writes_over_several_of_the_largest_pages_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { cache_size_limit: crate::config::MIN_CACHE, ..Settings::new(dir.path()) };
    let volume = Volume::open(settings, Arc::new(RealDisk), Clock::System).unwrap();
    volume.run(|v| v.setxattr(&ROOTS, ROOT, b"user.larder.page-size", b"1MiB", 0)).unwrap();
    let (writers, mib) = (8, 1 << 20);
    let files: Vec<Ino> = (0..writers).map(|n| make(&volume, &n.to_string())).collect();
    let (through, ended) = std::sync::mpsc::channel();
    for (n, ino) in files.iter().copied().enumerate() {
        let (volume, through) = (volume.clone(), through.clone());
        std::thread::spawn(move || {
            for round in 0..3 {
                let data = noise(round * writers + n as u64, 7 * mib / 2);
                volume.write_blocking(ino, mib as u64 / 2, &data, false).unwrap();
                // From the middle of the second page to that of the fourth: its edges are written over with zeros.
                volume
                    .fallocate(ino, 3 * mib as u64 / 2, 2 * mib as u64, libc::FALLOC_FL_ZERO_RANGE)
                    .unwrap();
                let mut there = Vec::new();
                volume.read_blocking(ino, 0, 4 * mib as u32, false, &mut there).unwrap();
                let zeros = vec![0; 2 * mib];
                assert!(
                    there[mib / 2..3 * mib / 2] == data[..mib] && there[3 * mib / 2..7 * mib / 2] == zeros
                );
                assert!(there[7 * mib / 2..] == data[3 * mib..]);
            }
            through.send(()).unwrap();
        });
    }
    for _ in 0..writers {
        ended.recv_timeout(std::time::Duration::from_secs(120)).expect("all get on");
    }
    volume.close().unwrap();
}

#[test]
fn the_page_size_is_set_on_what_is_empty_and_handed_down() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let name = b"user.larder.page-size";
    let set = |ino, value: &str| {
        let set = volume.run(|v| v.setxattr(&ROOTS, ino, name, value.as_bytes(), 0));
        set.map_err(|error| error.to_string())
    };
    let get = |ino| String::from_utf8(volume.run(|v| v.getxattr(ino, name)).unwrap()).unwrap();
    let listed = |ino| !volume.run(|v| v.listxattr(ino)).unwrap().is_empty();
    let file = make(&volume, "file");
    assert!(get(file) == "131072" && !listed(file));
    for wrong in ["", "big", "0", "2048", "5000", "2MiB", "18446744073709551616"] {
        assert!(set(file, wrong).unwrap_err().contains("4KiB to 1MiB"), "{wrong}");
    }
    set(file, "4KiB").unwrap();
    assert!(get(file) == "4096" && listed(file));
    write(&volume, file, 0, &noise(1, 10_000));
    assert_eq!(volume.run(|v| v.getattr(file)).unwrap().attr.blksize, 4096);
    assert_eq!(set(file, "1MiB"), Err(Error::NotPermitted.to_string()));
    // As copying programs do behind the content.
    set(file, "4096").unwrap();
    let removed = volume.run(|v| v.removexattr(&ROOTS, file, name)).map_err(|error| error.to_string());
    assert_eq!(removed, Err(Error::NotPermitted.to_string()));
    volume.sync().unwrap();
    assert_eq!(volume.run(|v| Ok(v.tree.lock().get(file)?.rec.pages)).unwrap(), 3);
    assert_eq!(set(file, "1MiB"), Err(Error::NotPermitted.to_string()));
    resize(&volume, file, 0);
    set(file, "1MiB").unwrap();
    write(&volume, file, 500_000, &noise(2, 1 << 20));
    assert_eq!(read(&volume, file, 500_000, 1 << 20), noise(2, 1 << 20));

    let child = volume.run(|v| v.mkdir(&ROOTS, ROOT, b"dir", 0o755)).unwrap().attr.ino;
    set(child, "512KiB").unwrap();
    let inside = volume.run(|v| v.mknod(&ROOTS, child, b"inside", 0o644, 0)).unwrap().attr.ino;
    let pipe = volume.run(|v| v.mknod(&ROOTS, child, b"pipe", libc::S_IFIFO | 0o644, 0)).unwrap().attr.ino;
    assert_eq!(get(inside), "524288");
    assert_eq!(set(pipe, "4KiB"), Err(Error::NotPermitted.to_string()));
    volume.close().unwrap();
    let volume = real(dir.path());
    assert_eq!(read(&volume, file, 500_000, 1 << 20), noise(2, 1 << 20));
    volume.run(|v| v.removexattr(&ROOTS, child, name)).unwrap();
    let after = volume.run(|v| v.mknod(&ROOTS, child, b"after", 0o644, 0)).unwrap().attr;
    assert_eq!(after.blksize, 128 << 10);
    volume.close().unwrap();
}

#[test]
fn a_clock_set_back_brings_no_key_back_that_was_reported_gone_also_after_a_crash() {
    let disk = FaultyDisk::new(1);
    let clock = Clock::manual(Time::new(1_000, 0));
    let path = std::path::Path::new("/store");
    let volume = Volume::open(settings(path), Arc::new(disk.clone()), clock.clone()).unwrap();
    let (looked_up, listed) = (make(&volume, "looked-up"), make(&volume, "listed"));
    expire(&volume, looked_up, "1500");
    expire(&volume, listed, "1600");
    let later = make(&volume, "later");
    expire(&volume, later, "1700");
    volume.sync().unwrap();

    // The time comes, but not the sweep.
    let sweeping = volume.sweeping.lock();
    clock.set(Time::new(1_501, 0));
    assert!(matches!(volume.run(|v| v.lookup(ROOT, b"looked-up")), Err(Error::NotFound)));
    clock.set(Time::new(1_601, 0));
    let mut names = Vec::new();
    let mut note = |entry: DirEntry<'_>| {
        names.push(entry.name.to_vec());
        true
    };
    volume.run(|v| v.readdir(ROOT, 0, true, &mut note)).unwrap();
    assert_eq!(names, [b".".to_vec(), b"..".to_vec(), b"later".to_vec()]);
    volume.make_durable(volume.engine.last_seq()).unwrap();
    let after_crash = disk.snapshot();
    clock.set(Time::new(900, 0));
    assert!(matches!(volume.run(|v| v.lookup(ROOT, b"looked-up")), Err(Error::NotFound)));
    drop(sweeping);
    volume.close().unwrap();

    let volume = Volume::open(settings(path), Arc::new(after_crash), clock.clone()).unwrap();
    for name in [&b"looked-up"[..], b"listed"] {
        assert!(matches!(volume.run(|v| v.lookup(ROOT, name)), Err(Error::NotFound)));
    }
    volume.run(|v| v.lookup(ROOT, b"later")).unwrap();
    // Nothing that was reported is left: times are the clock's again.
    assert_eq!(volume.tree.lock().now(&clock), Time::new(900, 0));
    volume.close().unwrap();
}

#[test]
fn a_key_reported_gone_while_the_journal_could_not_be_written_stays_gone_once_anything_is() {
    // Another thread's write may meet the fault instead.
    assert!((0..50).any(gone_mark_is_refused_and_follows), "the mark was never refused");
}

/// Whether the mark could not be journalled at first, and the store goes on.
fn gone_mark_is_refused_and_follows(seed: u64) -> bool {
    let disk = FaultyDisk::new(seed);
    let clock = Clock::manual(Time::new(1_000, 0));
    let path = std::path::Path::new("/store");
    let settings = || Settings { commit_interval: Duration::from_secs(3600), ..settings(path) };
    let volume = Volume::open(settings(), Arc::new(disk.clone()), clock.clone()).unwrap();
    let ino = make(&volume, "key");
    expire(&volume, ino, "1500");
    volume.sync().unwrap();
    let sweeping = volume.sweeping.lock();
    clock.set(Time::new(1_500, 1));
    // The write of the mark, and the one after the room that is kept for a full disk has been given up.
    [0, 2].into_iter().for_each(|n| disk.fail(Kind::Write, n, Fault::Errno(libc::ENOSPC)));
    assert!(matches!(volume.run(|v| v.lookup(ROOT, b"key")), Err(Error::NotFound)));
    disk.disarm();
    let refused = volume.tree.lock().gone_is_due && volume.read_only().is_none();
    if refused {
        let change = SetAttr { mode: Some(0o700), ..SetAttr::default() };
        volume.run(|v| v.setattr(&ROOTS, ROOT, &change)).unwrap();
        clock.set(Time::new(900, 0));
        let next = Volume::open(settings(), Arc::new(disk.snapshot()), clock.clone()).unwrap();
        assert!(matches!(next.run(|v| v.lookup(ROOT, b"key")), Err(Error::NotFound)));
        next.close().unwrap();
    }
    drop(sweeping);
    drop(volume.close());
    refused
}

#[test]
fn a_directory_in_which_all_has_expired_is_empty_also_while_the_sweep_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Time::new(1_000, 0));
    let volume = Volume::open(settings(dir.path()), Arc::new(RealDisk), clock.clone()).unwrap();
    let parent = volume.run(|v| v.mkdir(&ROOTS, ROOT, b"dir", 0o755)).unwrap().attr.ino;
    let make = |name: &[u8]| volume.run(|v| v.mknod(&ROOTS, parent, name, 0o644, 0)).unwrap().attr.ino;
    expire(&volume, make(b"old"), "1500");
    let lasting = make(b"lasting");
    let sweeping = volume.sweeping.lock();
    clock.set(Time::new(1_501, 0));
    // As in the middle of a sweep: nothing is due any longer, and not all is removed yet.
    volume.set_next_expiry(i64::MAX);
    let removed = volume.rmdir(ROOT, b"dir");
    assert!(matches!(removed, Err(Pause::Fail(Error::NotEmpty))), "{removed:?}");
    volume.run(|v| v.unlink(parent, b"lasting")).unwrap();
    volume.forget(lasting, 1);
    let removed = volume.rmdir(ROOT, b"dir");
    assert!(matches!(removed, Err(Pause::Wait(Need::Sweep))), "{removed:?}");
    drop(sweeping);
    volume.run(|v| v.rmdir(ROOT, b"dir")).unwrap();
    volume.close().unwrap();
}

#[test]
fn what_is_overwritten_again_and_again_stays_within_the_size_limit() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 64 << 20;
    // No commit comes by itself while this runs.
    let settings = Settings {
        storage_size_limit: Some(limit),
        commit_interval: std::time::Duration::from_secs(3600),
        ..settings(dir.path())
    };
    let volume = Volume::open(settings, Arc::new(RealDisk), Clock::System).unwrap();
    let ino = make(&volume, "key");
    for round in 0..12 {
        for (n, piece) in noise(round, 8 << 20).chunks(1 << 20).enumerate() {
            write(&volume, ino, (n as u64) << 20, piece);
        }
        volume.flush_file(ino).unwrap();
        // Nobody gives room back meanwhile.
        let _still = (volume.compacting.lock(), volume.clearing.lock());
        let stats = volume.stats().unwrap();
        assert!(stats.disk_bytes <= limit, "round {round}: {stats:?}");
        let listed: u64 = volume.segments.list().unwrap().iter().map(|segment| segment.allocated).sum();
        assert!(listed.abs_diff(volume.segments.allocated()) <= 64 << 10, "the account is right");
    }
    volume.commit_now().unwrap();
    assert_eq!(volume.tree.lock().dead, 0);
    assert_eq!(read(&volume, ino, 0, 8 << 20), noise(11, 8 << 20));
    volume.close().unwrap();
}

#[test]
fn a_directory_that_expired_under_a_program_takes_nothing_in_any_longer() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Time::new(1_000, 0));
    let volume = Volume::open(settings(dir.path()), Arc::new(RealDisk), clock.clone()).unwrap();
    let top = volume.run(|v| v.mkdir(&ROOTS, ROOT, b"top", 0o755)).unwrap().attr.ino;
    let below = volume.run(|v| v.mkdir(&ROOTS, top, b"below", 0o755)).unwrap().attr.ino;
    let file = volume.run(|v| v.mknod(&ROOTS, below, b"file", 0o644, 0)).unwrap().attr.ino;
    write(&volume, file, 0, b"kept open");
    expire(&volume, top, "1500");
    clock.set(Time::new(1_501, 0));
    volume.sweep().unwrap();
    volume.reclaim().unwrap();
    // All three are held, as by a program whose current directory is `below`.
    for held in [top, below] {
        let made = volume.run(|v| v.mknod(&ROOTS, held, b"new", 0o644, 0));
        assert!(matches!(made, Err(Error::NotFound)), "{made:?}");
    }
    assert_eq!(read(&volume, file, 0, 100), b"kept open");
    for held in [file, below, top] {
        volume.forget(held, 1);
    }
    volume.reclaim().unwrap();
    assert_eq!(volume.tree.lock().counters.inodes, 1, "the root alone is left");
    volume.close().unwrap();
}

#[test]
fn below_a_directory_that_was_removed_with_its_tree_nothing_can_be_made_or_saved_any_longer() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let mkdir = |dir, name: &[u8]| volume.run(|v| v.mkdir(&ROOTS, dir, name, 0o755)).unwrap().attr.ino;
    let other = mkdir(ROOT, b"other");
    let top = mkdir(ROOT, b"top");
    let below = mkdir(mkdir(top, b"middle"), b"below");
    let file = volume.run(|v| v.mknod(&ROOTS, below, b"file", 0o644, 0)).unwrap().attr.ino;
    write(&volume, file, 0, b"kept open");
    let remove = |path: &[u8]| {
        volume.apply(&ROOTS, &[Change { path, to: To::Nothing { tree: true } }], false).unwrap();
    };
    // One whose parent has left for good.
    let gone = mkdir(ROOT, b"gone");
    let inner = mkdir(gone, b"inner");
    remove(b"gone");
    volume.forget(gone, 1);
    volume.reclaim().unwrap();
    // What is in the tree is there until it is emptied.
    let reclaiming = volume.reclaiming.lock();
    remove(b"top");
    let outside = make(&volume, "outside");
    let refused = [
        ("create", volume.run(|v| v.mknod(&ROOTS, below, b"new", 0o644, 0)).map(drop)),
        ("mkdir", volume.run(|v| v.mkdir(&ROOTS, below, b"new", 0o755)).map(drop)),
        ("elsewhere", volume.run(|v| v.rename(ROOT, b"outside", inner, b"new", Rename::Replace)).map(drop)),
        ("symlink", volume.run(|v| v.symlink(&ROOTS, below, b"new", b"file")).map(drop)),
        ("link", volume.run(|v| v.link(outside, below, b"new")).map(drop)),
        ("link out", volume.run(|v| v.link(file, other, b"saved")).map(drop)),
        ("rename into", volume.run(|v| v.rename(ROOT, b"outside", below, b"new", Rename::Replace)).map(drop)),
        ("rename out", volume.run(|v| v.rename(below, b"file", other, b"saved", Rename::Replace)).map(drop)),
    ];
    for (what, result) in refused {
        assert!(matches!(result, Err(Error::NotFound)), "{what}: {result:?}");
    }
    make(&volume, "unrelated");
    volume.run(|v| v.mkdir(&ROOTS, other, b"fine", 0o755)).unwrap();
    drop(reclaiming);
    volume.reclaim().unwrap();
    assert!(volume.tree.lock().emptying.is_empty());
    let made = volume.run(|v| v.mknod(&ROOTS, below, b"new", 0o644, 0));
    assert!(matches!(made, Err(Error::NotFound)), "{made:?}");
    assert_eq!(read(&volume, file, 0, 100), b"kept open");
    volume.close().unwrap();
}

#[test]
fn who_comes_while_others_reclaim_waits_until_all_is_reclaimed() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    for _ in 0..5 {
        let top = volume.run(|v| v.mkdir(&ROOTS, ROOT, b"top", 0o755)).unwrap().attr.ino;
        volume.forget(top, 1);
        for n in 0..1000 {
            let name = n.to_string();
            let ino = volume.run(|v| v.mknod(&ROOTS, top, name.as_bytes(), 0o644, 0)).unwrap().attr.ino;
            volume.forget(ino, 1);
        }
        volume.apply(&ROOTS, &[Change { path: b"top", to: To::Nothing { tree: true } }], false).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    volume.reclaim().unwrap();
                    assert_eq!(volume.tree.lock().counters.inodes, 1, "the root alone is left");
                });
            }
        });
    }
    volume.close().unwrap();
}

#[test]
fn what_was_deleted_is_told_to_be_free_before_its_room_is_given_back() {
    const LIMIT: u64 = 64 << 20;
    const LEN: usize = 4 << 20;
    let dir = tempfile::tempdir().unwrap();
    let hour = std::time::Duration::from_secs(3600);
    let settings =
        Settings { storage_size_limit: Some(LIMIT), commit_interval: hour, ..settings(dir.path()) };
    let volume = Volume::open(settings, Arc::new(RealDisk), Clock::System).unwrap();
    let ino = make(&volume, "file");
    write(&volume, ino, 0, &noise(1, LEN));
    volume.fsync(ino, false).unwrap();
    let free = || volume.run(|v| v.statfs(ROOT)).unwrap().free;
    // Nothing is prepared behind the scenes from here on.
    volume.engine.checkpoint(&|| Ok(())).unwrap();
    let before = free();
    volume.run(|v| v.unlink(ROOT, b"file")).unwrap();
    volume.forget(ino, 1);
    volume.reclaim().unwrap();
    assert!(volume.tree.lock().dead > 0, "nothing is given back yet");
    let gained = free() - before;
    assert!((LEN as u64 * 9 / 10..LEN as u64 * 11 / 10).contains(&gained), "{gained}");
    volume.close().unwrap();
}

#[test]
fn a_reservation_that_cannot_be_met_takes_nothing_from_who_else_uses_the_disk() {
    let disk = FaultyDisk::new(1);
    disk.set_capacity(200 << 20);
    let volume = Volume::open(settings(Path::new("/store")), Arc::new(disk.clone()), Clock::System).unwrap();
    let ino = make(&volume, "file");
    write(&volume, ino, 0, b"content");
    // Nothing is prepared behind the scenes from here on.
    volume.engine.checkpoint(&|| Ok(())).unwrap();
    let before = disk.room(Path::new("/")).unwrap().available;
    for len in [1 << 30, 1 << 40] {
        assert!(matches!(volume.fallocate(ino, 0, len, 0), Err(Error::NoSpace)));
    }
    let after = disk.room(Path::new("/")).unwrap().available;
    assert_eq!(after, before, "bytes that are free");
    volume.close().unwrap();
}
