//! The edges of the calls that move content: copy_file_range, preadv2 and pwritev2, fallocate, lseek, limits of size.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use crate::calls::descriptors::{
    Aligned, allocate, copy_range, count_signal, limit_file_size, read_with, remove_mapped, seek, signals,
    splice, transfer_at_once, truncate, write_with,
};
use crate::calls::paths::{self, mknod};
use crate::calls::set_times;
use crate::ground::on_both;
use crate::process::Child;
use crate::{Stage, errno, open, open_to_read};

#[test]
fn copy_file_range_keeps_to_its_edges() {
    on_both(|ground| {
        let (path, other) = (ground.at("file"), ground.at("other"));
        let content: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        fs::write(&path, &content).unwrap();
        let (from, to) = (open(&path), open(&other));
        // Up to the end, and nothing behind it.
        assert_eq!(copy_range(&from, 99_000, &to, 7, 5000, 0).unwrap(), 1000);
        assert_eq!(to.metadata().unwrap().len(), 1007);
        for (at, len) in [(100_000, 10), (200_000, 10), (i64::MAX, 10), (0, 0), (50, 0)] {
            assert_eq!(copy_range(&from, at, &to, 0, len, 0).unwrap(), 0, "{len} at {at}");
        }
        assert_eq!(to.metadata().unwrap().len(), 1007);
        // Within the file, where the ranges do not meet; not where they do, nor anywhere where they would.
        assert_eq!(copy_range(&from, 0, &from, 50_000, 50_000, 0).unwrap(), 50_000);
        let twice = [&content[..50_000], &content[..50_000]].concat();
        assert!(fs::read(&path).unwrap() == twice);
        for (at, place, len) in [(0, 0, 1), (0, 1, 2), (1, 0, 2), (10, 500, 99_990), (500, 10, 4096)] {
            assert_eq!(
                errno(copy_range(&from, at, &from, place, len, 0)),
                libc::EINVAL,
                "{at} {place} {len}"
            );
        }
        assert!(fs::read(&path).unwrap() == twice);
        // Places that no file has.
        assert_eq!(errno(copy_range(&from, -1, &to, 0, 10, 0)), libc::EOVERFLOW);
        assert_eq!(errno(copy_range(&from, 0, &to, -1, 10, 0)), libc::EOVERFLOW);
        assert_eq!(errno(copy_range(&from, 0, &to, i64::MAX, 10, 0)), libc::EFBIG);
        assert_eq!(errno(copy_range(&from, 0, &to, i64::MAX - 10, 10, 0)), libc::EFBIG);
        assert_eq!(copy_range(&from, 0, &to, 1 << 40, 10, 0).unwrap(), 10);
        assert_eq!(errno(copy_range(&from, 0, &to, 0, 10, 4)), libc::EINVAL, "no flag is known");
        // Whatever is no open file of the right kind.
        let appending = File::options().append(true).open(&other).unwrap();
        let reading = open_to_read(&other).unwrap();
        let writing = File::options().write(true).open(&path).unwrap();
        let dir = open_to_read(ground.at(".")).unwrap();
        mknod(&ground.at("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
        let fifo = open(&ground.at("fifo"));
        assert_eq!(errno(copy_range(&from, 0, &appending, 0, 10, 0)), libc::EBADF);
        assert_eq!(errno(copy_range(&from, 0, &reading, 0, 10, 0)), libc::EBADF);
        assert_eq!(errno(copy_range(&writing, 0, &to, 0, 10, 0)), libc::EBADF);
        assert_eq!(errno(copy_range(&dir, 0, &to, 0, 10, 0)), libc::EISDIR);
        assert_eq!(errno(copy_range(&fifo, 0, &to, 0, 10, 0)), libc::EINVAL);
        assert_eq!(errno(copy_range(&from, 0, &fifo, 0, 10, 0)), libc::EINVAL);
        // To another kind of filesystem: whoever asks copies by hand then.
        let elsewhere = tempfile::tempfile_in("/dev/shm").unwrap();
        assert_eq!(errno(copy_range(&from, 0, &elsewhere, 0, 10, 0)), libc::EXDEV);
        assert_eq!(errno(copy_range(&elsewhere, 0, &to, 0, 10, 0)), libc::EXDEV);
        assert!(fs::read(&path).unwrap() == twice);
    });
}

#[test]
fn content_is_copied_from_one_store_to_another() {
    let Some(stage) = Stage::new() else { return };
    let Some(second) = crate::support::mounted::Mounted::new() else { return };
    let content = crate::Random::of(11).bytes(700_000);
    fs::write(stage.at("file"), &content).unwrap();
    let (from, to) = (open(&stage.at("file")), open(&second.at("file")));
    let mut place = 0;
    while place < 700_000 {
        let copied = copy_range(&from, place, &to, place, 700_000 - place as usize, 0).unwrap();
        assert!(copied > 0);
        place += copied;
    }
    assert!(fs::read(second.at("file")).unwrap() == content);
}

const DSYNC: i32 = 2;
const NOWAIT: i32 = 8;
const APPEND: i32 = 16;
const NOAPPEND: i32 = 32;
const DONTCACHE: i32 = 128;

#[test]
fn preadv2_and_pwritev2_do_what_their_flags_say_or_refuse_them() {
    on_both(|ground| {
        let path = ground.at("file");
        fs::write(&path, "0123456789").unwrap();
        let file = open(&path);
        // Appended, wherever the offset is; the descriptor's place stays unless it was asked for.
        assert_eq!(write_with(&file, b"ab", 3, APPEND).unwrap(), 2);
        assert_eq!(seek(&file, 0, libc::SEEK_CUR).unwrap(), 0);
        assert_eq!(write_with(&file, b"cd", -1, APPEND).unwrap(), 2);
        assert_eq!(seek(&file, 0, libc::SEEK_CUR).unwrap(), 14);
        assert_eq!(fs::read(&path).unwrap(), b"0123456789abcd");
        // And the reverse, on what is open for appending.
        let appending = File::options().append(true).open(&path).unwrap();
        assert_eq!(write_with(&appending, b"X", 1, NOAPPEND).unwrap(), 1);
        assert_eq!(write_with(&appending, b"Y", 1, 0).unwrap(), 1);
        assert_eq!(errno(write_with(&appending, b"Z", 1, APPEND | NOAPPEND)), libc::EINVAL);
        assert_eq!(fs::read(&path).unwrap(), b"0X23456789abcdY");
        assert_eq!(write_with(&file, b"D", 2, DSYNC).unwrap(), 1);
        assert_eq!(read_with(&file, 100, 0, 0).unwrap(), b"0XD3456789abcdY");
        assert_eq!(read_with(&file, 3, -1, 0).unwrap(), b"Y");
        assert_eq!(read_with(&file, 3, 100, 0).unwrap(), b"");
        // The offset that does not wait is not to be had everywhere; an unknown flag nowhere.
        let refused = libc::EOPNOTSUPP;
        assert_eq!(errno(read_with(&file, 3, 0, NOWAIT)), ground.differs(0, refused));
        assert_eq!(errno(read_with(&file, 3, 0, DONTCACHE)), ground.differs(0, refused));
        assert_eq!(errno(read_with(&file, 3, 0, 1 << 30)), refused);
        assert_eq!(errno(write_with(&file, b"Q", 0, 1 << 30)), refused);
        assert_eq!(errno(read_with(&file, 3, -2, 0)), libc::EINVAL);
        assert_eq!(errno(write_with(&file, b"Q", -2, 0)), libc::EINVAL);
        assert_eq!(fs::read(&path).unwrap(), b"0XD3456789abcdY");
    });
}

#[test]
fn a_write_with_rwf_dsync_is_there_after_kill_9() {
    let Some(mut stage) = Stage::new() else { return };
    let path = stage.at("file");
    let file = open(&path);
    let flushes = || {
        let text = fs::read_to_string(stage.at(".larder/stats")).unwrap();
        let stats: serde_json::Value = serde_json::from_str(&text).unwrap();
        // What has not occurred is not listed.
        stats["requests"]["FSync"].as_u64().unwrap_or(0)
    };
    let before = flushes();
    write_with(&file, b"durable", 0, DSYNC).unwrap();
    assert_eq!(flushes(), before + 1, "the kernel asks for it");
    stage.kill();
    drop(file);
    stage.mount();
    assert_eq!(fs::read(&path).unwrap(), b"durable");
}

#[test]
fn beyond_the_limit_of_a_process_no_file_grows() {
    on_both(|ground| {
        let (path, other) = (ground.at("file"), ground.at("other"));
        fs::write(&path, [1; 20_000]).unwrap();
        let mut child = Child::spawn(|wire| {
            count_signal(libc::SIGXFSZ);
            limit_file_size(10_000);
            let (file, large) = (open(&other), open(&path));
            let refused = |what: &str, outcome: i32| {
                assert_eq!((outcome, signals()), (libc::EFBIG, 1), "{what}");
            };
            file.write_all_at(&[2; 9000], 0).unwrap();
            assert_eq!(file.write_at(&[3; 5000], 9000).unwrap(), 1000, "as much as fits");
            assert_eq!(signals(), 0);
            refused("write", errno(file.write_at(b"x", 10_000)));
            refused("write far behind", errno(file.write_at(b"x", 1 << 30)));
            refused("truncate", errno(truncate(&file, 10_001)));
            refused("fallocate", errno(allocate(&file, 0, 9000, 2000)));
            refused("copy_file_range", errno(copy_range(&large, 0, &file, 10_000, 10, 0)));
            assert_eq!(copy_range(&large, 0, &file, 9990, 100, 0).unwrap(), 10, "as much as fits");
            truncate(&file, 10_000).unwrap();
            allocate(&file, libc::FALLOC_FL_KEEP_SIZE, 0, 50_000).unwrap();
            // One that is larger already may become smaller, and be changed below the limit.
            truncate(&large, 15_000).unwrap();
            large.write_all_at(b"x", 50).unwrap();
            refused("write in a larger one", errno(large.write_at(b"x", 12_000)));
            assert_eq!(signals(), 0);
            wire.say("through");
        });
        child.says("through");
        assert_eq!(fs::metadata(&other).unwrap().len(), 10_000);
        assert_eq!(fs::metadata(&path).unwrap().len(), 15_000);
    });
}

#[test]
fn fallocate_and_ftruncate_keep_to_their_edges() {
    on_both(|ground| {
        let path = ground.at("file");
        fs::write(&path, [1; 10_000]).unwrap();
        let file = open(&path);
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        let (punch, zero) = (libc::FALLOC_FL_PUNCH_HOLE | keep, libc::FALLOC_FL_ZERO_RANGE);
        for mode in [0, keep, punch, zero, zero | keep] {
            for (offset, len) in [(0, 0), (-1, 10), (0, -1), (-10, 20)] {
                assert_eq!(errno(allocate(&file, mode, offset, len)), libc::EINVAL, "{mode} {offset} {len}");
            }
            assert_eq!(errno(allocate(&file, mode, i64::MAX, 1)), libc::EFBIG, "{mode}");
            assert_eq!(errno(allocate(&file, mode, 1, i64::MAX)), libc::EFBIG, "{mode}");
        }
        // Behind the end: only what does not keep the size changes it.
        let size = || file.metadata().unwrap().len();
        allocate(&file, keep, 20_000, 5000).unwrap();
        allocate(&file, punch, 20_000, 5000).unwrap();
        allocate(&file, zero | keep, 20_000, 5000).unwrap();
        assert_eq!(size(), 10_000);
        allocate(&file, zero, 9_000, 2_000).unwrap();
        assert_eq!(size(), 11_000);
        allocate(&file, 0, 0, 12_345).unwrap();
        assert_eq!(size(), 12_345);
        let content = fs::read(&path).unwrap();
        assert!(
            content[..9000].iter().all(|byte| *byte == 1) && content[9000..].iter().all(|byte| *byte == 0)
        );
        // Each is a change of the content, whether a byte differs or not.
        for mode in [0, keep, punch, zero, zero | keep] {
            set_times(&path, (1, 1), (2, 2)).unwrap();
            allocate(&file, mode, 9_500, 100).unwrap();
            assert!(file.metadata().unwrap().mtime() > 2, "mode {mode}");
        }
        // What is no regular file.
        mknod(&ground.at("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
        assert_eq!(errno(allocate(&open(&ground.at("fifo")), 0, 0, 10)), libc::ESPIPE);
        assert_eq!(errno(truncate(&file, -1)), libc::EINVAL);
        assert_eq!(errno(truncate(&open_to_read(&path).unwrap(), 5)), libc::EINVAL, "open for reading");
        assert_eq!(errno(truncate(&open(&ground.at("fifo")), 0)), libc::EINVAL);
        // Through a mapping, as databases and allocators do it.
        let mapped = open(&ground.at("mapped"));
        mapped.write_all_at(&[7; 3 * 4096], 0).unwrap();
        remove_mapped(&mapped, 4096, 4096).unwrap();
        let content = fs::read(ground.at("mapped")).unwrap();
        assert!(content.iter().enumerate().all(|(at, byte)| *byte == if at / 4096 == 1 { 0 } else { 7 }));
        // More than there is room for.
        assert_eq!(errno(allocate(&file, 0, 0, 8 << 40)), libc::ENOSPC);
        assert!(fs::read(&path).unwrap().starts_with(&[1; 9000]));
    });
}

#[test]
fn lseek_keeps_to_its_edges() {
    on_both(|ground| {
        let path = ground.at("file");
        let file = open(&path);
        let (hole, data) = (libc::SEEK_HOLE, libc::SEEK_DATA);
        for whence in [hole, data] {
            assert_eq!(errno(seek(&file, 0, whence)), libc::ENXIO, "an empty file has neither");
        }
        file.write_all_at(&[1; 1 << 20], 0).unwrap();
        file.set_len(3 << 20).unwrap();
        file.sync_all().unwrap();
        let size = 3 << 20;
        for whence in [hole, data] {
            assert_eq!(errno(seek(&file, size, whence)), libc::ENXIO);
            assert_eq!(errno(seek(&file, i64::MAX, whence)), libc::ENXIO);
            assert_eq!(errno(seek(&file, -1, whence)), libc::ENXIO);
        }
        assert_eq!(seek(&file, 5, data).unwrap(), 5);
        assert_eq!(seek(&file, 0, libc::SEEK_CUR).unwrap(), 5, "it is a seek as others");
        assert_eq!(seek(&file, 5, hole).unwrap(), 1 << 20);
        assert_eq!(seek(&file, size - 1, hole).unwrap(), size - 1);
        assert_eq!(errno(seek(&file, size - 1, data)), libc::ENXIO);
        assert_eq!(seek(&file, 10, libc::SEEK_END).unwrap(), size + 10);
        assert_eq!(read_with(&file, 10, -1, 0).unwrap(), b"");
        assert_eq!(errno(seek(&file, -1, libc::SEEK_SET)), libc::EINVAL);
        assert_eq!(errno(seek(&file, -size - 1, libc::SEEK_END)), libc::EINVAL);
        assert_eq!(errno(seek(&file, i64::MAX, libc::SEEK_END)), libc::EINVAL);
        assert_eq!(errno(seek(&file, 0, 7)), libc::EINVAL);
        assert_eq!(seek(&file, 0, libc::SEEK_CUR).unwrap(), size + 10, "where it was");
        mknod(&ground.at("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
        assert_eq!(errno(seek(&open(&ground.at("fifo")), 0, libc::SEEK_SET)), libc::ESPIPE);
        let path_only = paths::open(&path, libc::O_PATH, 0).unwrap();
        assert_eq!(errno(seek(&path_only, 0, libc::SEEK_SET)), libc::EBADF);
    });
}

#[test]
fn asynchronous_direct_io_keeps_every_part_in_its_place_while_the_file_grows() {
    on_both(|ground| {
        const PART: usize = 64 << 10;
        const PARTS: usize = 48;
        let path = ground.at("file");
        drop(open(&path));
        let direct = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
        let byte = |n: usize, round: usize| (n + round * 60 + 1) as u8;
        // Into an empty file, each part behind its end, in no order; then over them.
        for round in 0..3 {
            let order = (0..PARTS).map(|n| n * 29 % PARTS);
            let mut memory: Vec<_> = order.map(|n| (n, Aligned::new(PART, 0, byte(n, round)))).collect();
            let mut parts: Vec<_> =
                memory.iter_mut().map(|(n, memory)| ((*n * PART) as i64, memory.bytes_mut(PART))).collect();
            let results = transfer_at_once(&direct, true, &mut parts);
            assert_eq!(results, [PART as i64; PARTS], "round {round}");
            assert_eq!(direct.metadata().unwrap().len(), (PARTS * PART) as u64);
            let content = fs::read(&path).unwrap();
            for (n, part) in content.chunks(PART).enumerate() {
                assert!(part.iter().all(|found| *found == byte(n, round)), "part {n} of round {round}");
            }
        }
        let mut memory: Vec<_> = (0..PARTS + 2).map(|n| (n, Aligned::new(PART, 0, 0))).collect();
        let mut parts: Vec<_> =
            memory.iter_mut().map(|(n, memory)| ((*n * PART) as i64, memory.bytes_mut(PART))).collect();
        let results = transfer_at_once(&direct, false, &mut parts);
        assert_eq!(results[..PARTS], [PART as i64; PARTS]);
        assert_eq!(results[PARTS..], [0, 0], "behind the end");
        for (n, memory) in &memory[..PARTS] {
            assert!(memory.bytes(PART).iter().all(|found| *found == byte(*n, 2)), "part {n}");
        }
    });
}

#[test]
fn content_goes_through_pipes_without_being_copied() {
    on_both(|ground| {
        let (path, other) = (ground.at("file"), ground.at("other"));
        let content = crate::Random::of(12).bytes(300_000);
        fs::write(&path, &content).unwrap();
        let (from, to) = (open_to_read(&path).unwrap(), open(&other));
        let (reader, writer) = std::io::pipe().unwrap();
        loop {
            let filled = splice(&from, &writer, 64 << 10).unwrap();
            if filled == 0 {
                break;
            }
            // What is in the pipe are the pages of the file: a change of it now may show, and may not be lost.
            let mut left = filled;
            while left > 0 {
                left -= splice(&reader, &to, left as usize).unwrap();
            }
        }
        assert!(fs::read(&other).unwrap() == content);
        assert_eq!(errno(splice(&from, &to, 10)), libc::EINVAL, "one side is a pipe");
        let appending = File::options().append(true).open(&other).unwrap();
        std::io::Write::write_all(&mut &writer, b"x").unwrap();
        assert_eq!(errno(splice(&reader, &appending, 1)), libc::EINVAL);
        assert!(fs::read(&other).unwrap() == content);
    });
}
