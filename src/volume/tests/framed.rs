//! Content that is put into frames ahead of its batch.

use super::*;
use crate::format::{PageRecord, decode, keys};
use crate::volume::draft::bytes_of;
use crate::volume::put::{Change, To};
use crate::volume::writeback::PATCH_LIMIT;

fn set(volume: &Volume, path: &str, content: &[u8], durable: bool) -> Result<()> {
    let change = Change { path: path.as_bytes(), to: To::Content(content, Default::default()) };
    volume.apply(&ROOTS, &[change], durable).map(drop)
}

fn found(volume: &Volume, path: &str) -> Ino {
    let (entry, _) = volume.run(|v| v.resolve(path.as_bytes())).unwrap();
    volume.forget(entry.attr.ino, 1);
    entry.attr.ino
}

fn got(volume: &Volume, path: &str, len: usize) -> Vec<u8> {
    read(volume, found(volume, path), 0, len as u32)
}

/// The pages of a file that are in frames.
fn in_frames(volume: &Volume, ino: Ino) -> Vec<u32> {
    let mut pages = Vec::new();
    let range = keys::under(&keys::of_inode(keys::PAGE, ino));
    let mut visit = |key: &[u8], value: &[u8]| {
        decode::<PageRecord>(value, "page record").unwrap();
        pages.extend(keys::page_of(key).map(|(_, no)| no.0));
        true
    };
    volume.engine.scan(range, &mut visit).unwrap();
    pages
}

#[test]
fn what_is_set_is_written_once_where_it_is_large_or_must_be_durable_with_one_flush() {
    // Whose flushes take no time: a page is written back when it has been dirty for a while.
    let disk = FaultyDisk::new(1);
    let open = || Volume::open(settings(Path::new("/store")), Arc::new(disk.clone()), Clock::System).unwrap();
    let volume = open();
    let lens = [(1 << 10, false), (16 << 10, true), (100_000, true), (300_000, true)];
    for (len, framed) in lens {
        for durable in [false, true] {
            let (path, content) = (format!("dir/{len}-{durable}"), noise(len as u64, len));
            set(&volume, &path, &content, durable).unwrap();
            let ino = found(&volume, &path);
            let framed = framed && !(durable && len <= PATCH_LIMIT);
            assert_eq!(volume.cache.dirty(ino).is_none(), framed, "{path}");
            assert_eq!(!in_frames(&volume, ino).is_empty(), framed, "{path}");
            assert!(volume.cache.pages_of(ino) > 0, "{path} is not in memory");
            assert!(got(&volume, &path, len) == content, "{path}");
        }
    }
    volume.close().unwrap();
    drop(volume);
    let volume = open();
    for (len, _) in lens {
        assert!(got(&volume, &format!("dir/{len}-false"), len) == noise(len as u64, len), "{len}");
    }
}

#[test]
fn pages_of_zeros_in_what_is_set_are_holes_and_its_directory_says_how_large_pages_are() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let small = volume.run(|v| v.mkdir(&ROOTS, ROOT, b"small", 0o755)).unwrap().attr.ino;
    volume.run(|v| v.setxattr(&ROOTS, small, b"user.larder.page-size", b"4KiB", 0)).unwrap();
    let mut content = noise(1, 20_000);
    content[4096..12_288].fill(0);
    set(&volume, "small/key", &content, false).unwrap();
    set(&volume, "small/zeros", &[0; 20_000], false).unwrap();
    assert_eq!(in_frames(&volume, found(&volume, "small/key")), [0, 3, 4]);
    assert!(in_frames(&volume, found(&volume, "small/zeros")).is_empty());
    for _ in 0..2 {
        assert!(got(&volume, "small/key", 20_000) == content);
        assert!(got(&volume, "small/zeros", 20_000) == [0; 20_000]);
        // Once more from the disk.
        volume.cache.discard(found(&volume, "small/key"), PageNo(0), PageNo(u32::MAX));
    }
}

#[test]
fn a_set_that_is_refused_gives_back_the_room_of_its_frames() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let limited = volume.run(|v| v.mkdir(&ROOTS, ROOT, b"limited", 0o755)).unwrap().attr.ino;
    volume.run(|v| v.setxattr(&ROOTS, limited, b"user.larder.size-limit", b"64KiB", 0)).unwrap();
    set(&volume, "limited/key", &noise(1, 40_000), false).unwrap();
    volume.commit_now().unwrap();
    let before = volume.tree.lock().counters.stored;
    assert!(matches!(set(&volume, "limited/key2", &noise(2, 40_000), false), Err(Error::QuotaExceeded)));
    {
        let tree = volume.tree.lock();
        assert_eq!(tree.counters.stored, before);
        assert_eq!(tree.dead, bytes_of(&tree.freed));
        assert!(tree.dead > 40_000, "what was appended is not given back: {}", tree.dead);
    }
    assert_eq!(volume.framing.load(Ordering::Relaxed), 0);
    volume.commit_now().unwrap();
    assert_eq!(volume.tree.lock().dead, 0);
    assert!(got(&volume, "limited/key", 40_000) == noise(1, 40_000));
    // The number that it had is given to nobody else.
    let last = found(&volume, "limited/key").0;
    volume.close().unwrap();
    drop(volume);
    let volume = real(dir.path());
    let next = volume.run(|v| v.mknod(&ROOTS, ROOT, b"next", 0o644, 0)).unwrap().attr.ino;
    assert!(next.0 > last + 1, "{next} behind {last}");
}

#[test]
fn what_has_its_place_on_the_disk_needs_no_room_there_any_longer() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let content = noise(1, 100_000);
    let changes = [Change { path: b"key", to: To::Content(&content, Default::default()) }];
    let framed = loop {
        match volume.frame_contents(&ROOTS, &changes, &[true]) {
            Ok(framed) => break framed,
            Err(Pause::Wait(need)) => volume.satisfy(need).unwrap(),
            Err(Pause::Fail(error)) => panic!("{error}"),
        }
    };
    assert_eq!(
        volume.framing.load(Ordering::Relaxed),
        0,
        "what rides beside it would ask for its room once more"
    );
    drop(framed);
    assert!(volume.tree.lock().dead > 100_000);
}
