//! Holes, fallocate, sizes on disk, large files, odd names, large directories.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::calls::{entries, seek_entry};
use crate::support::mounted::succeeds;
use crate::support::sys;
use crate::{Random, Stage, errno, open, setting};

/// The unit in which Larder stores content.
const PAGE: u64 = 128 << 10;

/// The data ranges of a file, as lseek(2) tells.
fn data_ranges(file: &File) -> Vec<(u64, u64)> {
    let size = file.metadata().unwrap().len();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < size {
        let start = match sys::seek(file, at, false) {
            Ok(start) => start,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENXIO), "no more data behind {at}");
                break;
            }
        };
        let end = sys::seek(file, start, true).unwrap();
        assert!(at <= start && start < end && end <= size, "data at {start}..{end} behind {at}");
        // From within a hole the hole begins where one asks.
        if at < start {
            assert_eq!(sys::seek(file, at, true).unwrap(), at);
        }
        found.push((start, end));
        at = end;
    }
    assert_eq!(errno(sys::seek(file, size, false)), libc::ENXIO);
    assert_eq!(errno(sys::seek(file, size, true)), libc::ENXIO);
    found
}

#[test]
fn seek_hole_and_seek_data_agree_with_what_was_written_and_punched() {
    let Some(mut stage) = Stage::new() else { return };
    let path = stage.at("file");
    let mut file = open(&path);
    let mut random = Random::new();
    let limit = 40 * PAGE;
    let mut content: Vec<u8> = Vec::new();
    // The pages that something was written to since they were last whole holes.
    let mut touched: BTreeSet<u64> = BTreeSet::new();
    for round in 0..150 {
        let open_file = &file;
        let offset = random.below(limit);
        let len = (1 + random.below(3 * PAGE)).min(limit - offset);
        let size = content.len() as u64;
        match random.below(12) {
            0..=3 => {
                let bytes = vec![1 + random.below(255) as u8; (len as usize).min(50_000)];
                let end = offset as usize + bytes.len();
                open_file.write_all_at(&bytes, offset).unwrap();
                content.resize(content.len().max(end), 0);
                content[offset as usize..end].copy_from_slice(&bytes);
                touched.extend(offset / PAGE..=(end as u64 - 1) / PAGE);
            }
            4..=7 => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                sys::fallocate(open_file, mode, offset, len).unwrap();
                let end = (offset + len).min(size);
                if offset < end {
                    content[offset as usize..end as usize].fill(0);
                    let last = if end == size { end.div_ceil(PAGE) } else { end / PAGE };
                    (offset.div_ceil(PAGE)..last).for_each(|page| _ = touched.remove(&page));
                    // The edges are written.
                    touched.extend(
                        [offset / PAGE, (end - 1) / PAGE]
                            .iter()
                            .filter(|page| !(offset.div_ceil(PAGE)..last).contains(page)),
                    );
                }
            }
            8 => {
                open_file.set_len(offset).unwrap();
                content.resize(offset as usize, 0);
                touched.retain(|page| page * PAGE < offset);
            }
            9 => sys::fallocate(open_file, libc::FALLOC_FL_KEEP_SIZE, offset, len).unwrap(),
            10 => open_file.sync_all().unwrap(),
            _ if random.below(4) == 0 => {
                drop(file);
                stage.remount();
                file = open(&path);
            }
            _ => {}
        }
        let ranges = data_ranges(&file);
        let is_data =
            |page: u64| ranges.iter().any(|(start, end)| *start < (page + 1) * PAGE && page * PAGE < *end);
        for page in 0..(content.len() as u64).div_ceil(PAGE) {
            let bytes = &content[(page * PAGE) as usize..content.len().min(((page + 1) * PAGE) as usize)];
            if bytes.iter().any(|byte| *byte != 0) {
                assert!(is_data(page), "round {round}: page {page} has content: {ranges:?}");
            } else if !touched.contains(&page) {
                assert!(!is_data(page), "round {round}: nothing is in page {page}: {ranges:?}");
            }
        }
    }
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn a_mode_of_fallocate_that_cannot_be_is_refused_and_changes_nothing() {
    let Some(stage) = Stage::new() else { return };
    let path = stage.at("file");
    let content = Random::of(4).bytes(500_000);
    fs::write(&path, &content).unwrap();
    let file = open(&path);
    let before = fs::metadata(&path).unwrap();
    const COLLAPSE: i32 = libc::FALLOC_FL_COLLAPSE_RANGE;
    const INSERT: i32 = libc::FALLOC_FL_INSERT_RANGE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    for mode in [COLLAPSE, INSERT, libc::FALLOC_FL_UNSHARE_RANGE, PUNCH, PUNCH | ZERO | KEEP, 1 << 20] {
        assert_eq!(errno(sys::fallocate(&file, mode, 0, 131_072)), libc::EOPNOTSUPP, "mode {mode:#x}");
    }
    for mode in [0, KEEP, ZERO, ZERO | KEEP, PUNCH | KEEP] {
        assert_eq!(errno(sys::fallocate(&file, mode, 0, 0)), libc::EINVAL, "no bytes, mode {mode:#x}");
        assert_eq!(errno(sys::fallocate(&file, mode, u64::MAX, 1)), libc::EINVAL, "offset -1");
        assert_eq!(errno(sys::fallocate(&file, mode, i64::MAX as u64, 1)), libc::EFBIG, "mode {mode:#x}");
    }
    let reader = File::options().read(true).open(&path).unwrap();
    assert_eq!(errno(sys::fallocate(&reader, 0, 0, 1)), libc::EBADF);
    let dir = File::options().read(true).open(stage.point()).unwrap();
    assert_eq!(errno(sys::fallocate(&dir, 0, 0, 1)), libc::EBADF);
    assert!(fs::read(&path).unwrap() == content);
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.mtime_nsec(), after.ctime_nsec()), (before.mtime_nsec(), before.ctime_nsec()));
}

#[test]
fn du_and_st_blocks_tell_what_is_stored() {
    let Some(mut stage) = Stage::new() else { return };
    let dir = stage.at("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("noise"), Random::of(5).bytes(1_000_000)).unwrap();
    fs::write(dir.join("text"), "again and again ".repeat(100_000)).unwrap();
    File::create_new(dir.join("hole")).unwrap().set_len(1 << 30).unwrap();
    fs::hard_link(dir.join("noise"), dir.join("linked")).unwrap();
    for remount in [false, true] {
        stage.sync();
        if remount {
            stage.remount();
        }
        let blocks = |name: &str| fs::metadata(dir.join(name)).unwrap().blocks() * 512;
        assert!((1_000_000..1_020_000).contains(&blocks("noise")), "{} of noise", blocks("noise"));
        assert!((1..200_000).contains(&blocks("text")), "{} of text", blocks("text"));
        assert_eq!(blocks("hole"), 0);
        let stored = String::from_utf8(sys::getxattr(&dir.join("text"), b"user.larder.stored").unwrap());
        let stored: u64 = stored.unwrap().parse().unwrap();
        assert_eq!(blocks("text"), stored.next_multiple_of(512));
        let du = succeeds(Command::new("du").args(["-s", "--block-size=1"]).arg(&dir));
        let du: u64 = du.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(du, blocks("noise") + blocks("text") + blocks("."), "a linked file counts once");
    }
}

#[test]
fn a_file_of_16_tib_is_kept_with_what_is_written_far_apart_in_it() {
    let Some(mut stage) = Stage::new() else { return };
    const TIB: u64 = 1 << 40;
    let path = stage.at("huge");
    let file = open(&path);
    file.set_len(16 * TIB).unwrap();
    let marks = [0, 4095, 8 * TIB - 3, 15 * TIB + 77, 16 * TIB - 6];
    for at in marks {
        file.write_all_at(b"marker", at).unwrap();
    }
    drop(file);
    for remount in [false, true] {
        if remount {
            stage.remount();
        }
        let file = open(&path);
        assert_eq!(file.metadata().unwrap().len(), 16 * TIB);
        for at in marks {
            let mut read = [0; 6];
            file.read_exact_at(&mut read, at).unwrap();
            assert_eq!(&read, b"marker", "at {at}");
        }
        let ranges = data_ranges(&file);
        assert!(ranges.len() <= marks.len() + 1 && !ranges.is_empty(), "{ranges:?}");
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
        sys::fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, TIB, 4 * TIB).unwrap();
    }
    let file = open(&path);
    file.set_len(8 * TIB).unwrap();
    file.set_len(16 * TIB).unwrap();
    let mut read = [1; 6];
    file.read_exact_at(&mut read, 16 * TIB - 6).unwrap();
    assert_eq!(read, [0; 6], "cut off and grown again");
    file.read_exact_at(&mut read, 8 * TIB - 3).unwrap();
    assert_eq!(&read, b"mar\0\0\0");
}

#[test]
fn a_hole_of_any_size_is_punched_at_once() {
    let Some(stage) = Stage::new() else { return };
    let file = open(&stage.at("file"));
    file.set_len(500 << 40).unwrap();
    file.write_all_at(b"one page", 300 << 40).unwrap();
    // Page by page this would take minutes, and hold up all others meanwhile.
    let start = Instant::now();
    for mode in [libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_ZERO_RANGE] {
        sys::fallocate(&file, mode, 5, (500 << 40) - 10).unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let edges = [(0, PAGE), ((500 << 40) - PAGE, 500 << 40)];
    let left = data_ranges(&file);
    assert!(left.iter().all(|range| edges.contains(range)), "nothing but the edges: {left:?}");
}

#[test]
fn beyond_the_largest_size_a_file_is_refused_and_stays_as_it_is() {
    let Some(stage) = Stage::new() else { return };
    let path = stage.at("file");
    fs::write(&path, "content").unwrap();
    let file = open(&path);
    let end = i64::MAX as u64;
    assert_eq!(errno(file.set_len(end)), libc::EFBIG);
    assert_eq!(errno(file.write_all_at(b"x", end - 1)), libc::EFBIG);
    assert_eq!(errno(sys::fallocate(&file, 0, end - 10, 5)), libc::EFBIG);
    assert_eq!(fs::read(&path).unwrap(), b"content");
}

/// Names that a filesystem may get wrong: every byte, invalid UTF-8, the longest, much alike.
fn odd_names() -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    for byte in (1..=255u8).filter(|byte| *byte != b'/') {
        if byte != b'.' {
            names.insert(vec![byte]);
        }
        names.insert(vec![byte; 255]);
        names.insert(vec![b'a', byte]);
    }
    for name in
        ["...", ".hidden", " ", "a b\nc\t", "-rf", "é", "e\u{301}", "E", "ﬁ", "fi", "CON", "a\\b", "*?["]
    {
        names.insert(name.as_bytes().to_vec());
    }
    names.insert(b"cut in the middle \xf0\x9f\x98".to_vec());
    names
}

#[test]
fn names_of_up_to_255_bytes_of_any_value_are_kept_apart_and_listed_as_they_are() {
    let Some(mut stage) = Stage::new() else { return };
    let names = odd_names();
    let dir = stage.at("dir");
    fs::create_dir(&dir).unwrap();
    let path = |name: &[u8]| dir.join(OsStr::from_bytes(name));
    for name in &names {
        fs::write(path(name), name).unwrap_or_else(|error| panic!("{name:?}: {error}"));
    }
    let long = vec![b'x'; 256];
    assert_eq!(errno(fs::write(path(&long), "")), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::rename(path(b"E"), path(&long))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::metadata(path(&long))), libc::ENAMETOOLONG);
    for remount in [false, true] {
        if remount {
            stage.remount();
        }
        let listed: BTreeSet<Vec<u8>> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_vec()).collect();
        assert!(listed == names, "{} of {} names", listed.len(), names.len());
        for name in &names {
            assert_eq!(fs::read(path(name)).unwrap(), *name);
        }
    }
}

/// All entries but `.` and `..` from the descriptor's place on, in order, with the cookies behind them.
fn rest_of(dir: &File) -> Vec<(Vec<u8>, i64)> {
    let mut all = Vec::new();
    loop {
        let part = entries(dir, 32 << 10).unwrap();
        if part.is_empty() {
            return all;
        }
        let named = part.into_iter().filter(|(name, ..)| name != b"." && name != b"..");
        all.extend(named.map(|(name, _, cookie)| (name, cookie)));
    }
}

#[test]
fn a_large_directory_lists_completely_resumes_anywhere_and_stays_correct_while_it_changes() {
    // By command: LARDER_TEST_ENTRIES=1000000.
    let Some(mut stage) = Stage::with(&["--cache-size-limit", "128MiB"]) else { return };
    let count = setting("LARDER_TEST_ENTRIES", 20_000);
    let mut random = Random::new();
    let dir = stage.at("dir");
    fs::create_dir(&dir).unwrap();
    let name = |n: u64| format!("entry-{n}");
    let place = |n: u64| dir.join(name(n));
    let first = stage.at("first");
    fs::write(&first, "").unwrap();
    for n in 0..count {
        // Mostly links, which cost no inode.
        if n % 50 == 0 { drop(open(&place(n))) } else { fs::hard_link(&first, place(n)).unwrap() }
    }
    let expected: BTreeSet<Vec<u8>> = (0..count).map(|n| name(n).into_bytes()).collect();
    let mut order = Vec::new();
    for remount in [false, true] {
        if remount {
            stage.remount();
        }
        let listing = File::options().read(true).open(&dir).unwrap();
        let all = rest_of(&listing);
        assert_eq!(all.len() as u64, count, "each entry once");
        assert!(all.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>() == expected);
        // Resumes behind any entry, also on another descriptor and with what is listed now in another cache.
        for _ in 0..20 {
            let at = random.below(count) as usize;
            seek_entry(&listing, all[at].1);
            let next = entries(&listing, 4096).unwrap();
            let next: Vec<_> = next.into_iter().map(|(name, _, cookie)| (name, cookie)).collect();
            let expected = &all[at + 1..(at + 1 + next.len()).min(all.len())];
            assert!(next == expected && (at + 1 == all.len() || !next.is_empty()), "resumed at {at}");
        }
        seek_entry(&listing, 0);
        assert!(rest_of(&listing) == all, "from the start again");
        order.push(all);
    }
    assert!(order[0] == order[1], "order and cookies outlast a remount");

    // While entries come, go and are renamed, what stays is listed exactly once.
    let listing = File::options().read(true).open(&dir).unwrap();
    let mut seen: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let (mut gone, mut made) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let part = entries(&listing, 4096).unwrap();
        if part.is_empty() {
            break;
        }
        part.into_iter().for_each(|(name, ..)| *seen.entry(name).or_default() += 1);
        for _ in 0..3 {
            let n = random.below(count);
            let to = count + random.below(count);
            match random.below(3) {
                _ if gone.contains(&n) || made.contains(&to) => {}
                0 => {
                    fs::remove_file(place(n)).unwrap();
                    gone.insert(n);
                }
                1 => {
                    fs::rename(place(n), place(to)).unwrap();
                    gone.insert(n);
                    made.insert(to);
                }
                _ => {
                    fs::hard_link(&first, place(to)).unwrap();
                    made.insert(to);
                }
            }
        }
    }
    assert_eq!((seen.remove(&b"."[..]), seen.remove(&b".."[..])), (Some(1), Some(1)));
    for (name, times) in &seen {
        assert_eq!(*times, 1, "{}", String::from_utf8_lossy(name));
    }
    for n in (0..count).filter(|n| !gone.contains(n)) {
        assert!(seen.contains_key(name(n).as_bytes()), "{} stays and is not listed", name(n));
    }
    let now: BTreeSet<Vec<u8>> =
        rest_of(&File::options().read(true).open(&dir).unwrap()).into_iter().map(|e| e.0).collect();
    let left = (0..count).filter(|n| !gone.contains(n)).chain(made.iter().copied());
    assert!(now == left.map(|n| name(n).into_bytes()).collect(), "what is left");
    assert_eq!(errno(fs::remove_dir(&dir)), libc::ENOTEMPTY);
    assert!(Path::new(&first).exists());
}
