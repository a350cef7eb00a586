//! Files mapped into memory, beside reads and writes by call.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use crate::calls::{Map, forget_content};
use crate::process::Child;
use crate::support::mounted::{have, succeeds};
use crate::{Random, Stage, errno, open};

const PAGE: usize = 4096;

#[test]
fn what_a_shared_mapping_writes_calls_and_other_processes_read_at_once_and_the_reverse() {
    let Some(stage) = Stage::new() else { return };
    let file = open(&stage.at("file"));
    file.set_len(1 << 20).unwrap();
    let mut map = Map::new(&file, 1 << 20, libc::MAP_SHARED, true).unwrap();
    let mut other = Child::spawn(|wire| {
        let file = open(&stage.at("file"));
        let map = Map::new(&file, 1 << 20, libc::MAP_SHARED, false).unwrap();
        while let at @ 1.. = wire.hear().parse().unwrap_or(0) {
            wire.say(map.get(at).to_string());
        }
    });
    let mut random = Random::new();
    for n in 0..2000 {
        let (at, byte) = (1 + random.below((1 << 20) - 1) as usize, random.next() as u8);
        let mut read = [0];
        if n % 2 == 0 {
            map.set(at, byte);
            file.read_exact_at(&mut read, at as u64).unwrap();
            assert_eq!(read[0], byte, "read(2) at {at} behind the mapping's write {n}");
        } else {
            file.write_all_at(&[byte], at as u64).unwrap();
            assert_eq!(map.get(at), byte, "the mapping at {at} behind write(2) {n}");
        }
        if n % 20 == 0 {
            other.say(at.to_string());
            other.says(&byte.to_string());
        }
    }
}

#[test]
fn a_private_mapping_never_reaches_the_file() {
    let Some(mut stage) = Stage::new() else { return };
    let path = stage.at("file");
    let content = Random::of(1).bytes(300_000);
    fs::write(&path, &content).unwrap();
    let file = File::options().read(true).open(&path).unwrap();
    let mut map = Map::new(&file, content.len(), libc::MAP_PRIVATE, true).unwrap();
    map.write(100_000, b"only here");
    map.sync().unwrap();
    assert_eq!(map.read(100_000, 9), b"only here");
    assert_eq!(map.read(200_000, 100), content[200_000..200_100]);
    assert!(fs::read(&path).unwrap() == content);
    drop((map, file));
    stage.remount();
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn a_mapping_for_writing_needs_a_descriptor_for_writing() {
    let Some(stage) = Stage::new() else { return };
    let path = stage.at("file");
    fs::write(&path, [1; PAGE]).unwrap();
    let reader = File::options().read(true).open(&path).unwrap();
    assert_eq!(errno(Map::new(&reader, PAGE, libc::MAP_SHARED, true)), libc::EACCES);
    let writer = File::options().write(true).open(&path).unwrap();
    assert_eq!(errno(Map::new(&writer, PAGE, libc::MAP_SHARED, false)), libc::EACCES);
}

#[test]
fn what_msync_has_taken_is_there_after_kill_9_of_the_daemon() {
    let Some(mut stage) = Stage::new() else { return };
    let path = stage.at("file");
    let file = open(&path);
    let mut content = Random::of(2).bytes(1 << 20);
    file.write_all_at(&content, 0).unwrap();
    let mut map = Map::new(&file, 1 << 20, libc::MAP_SHARED, true).unwrap();
    for (n, at) in [0, 131_070, 400_000, (1 << 20) - 6].into_iter().enumerate() {
        let bytes = [b'a' + n as u8; 6];
        map.write(at, &bytes);
        content[at..at + 6].copy_from_slice(&bytes);
        map.sync().unwrap();
    }
    stage.kill();
    drop((map, file));
    stage.mount();
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn a_mapping_of_an_unlinked_file_stays_whole_also_when_the_kernel_drops_its_pages() {
    let Some(stage) = Stage::new() else { return };
    let path = stage.at("file");
    let file = open(&path);
    let content = Random::of(3).bytes(2 << 20);
    file.write_all_at(&content, 0).unwrap();
    fs::remove_file(&path).unwrap();
    let mut map = Map::new(&file, content.len(), libc::MAP_SHARED, true).unwrap();
    map.write(1_000_000, b"after its name was gone");
    map.sync().unwrap();
    forget_content(&file);
    // The descriptor goes, the mapping alone holds the file.
    drop(file);
    for n in 0..100 {
        fs::write(stage.at(format!("other{n}")), [n; 10_000]).unwrap();
    }
    stage.sync();
    assert_eq!(map.read(1_000_000, 23), b"after its name was gone");
    assert!(map.read(0, 1_000_000) == content[..1_000_000]);
    assert!(map.read(1_000_023, 500_000) == content[1_000_023..1_500_023]);
}

#[test]
fn beyond_a_truncated_end_a_mapping_is_sigbus_and_within_its_last_page_zeros() {
    let Some(stage) = Stage::new() else { return };
    let path = stage.at("file");
    let file = open(&path);
    file.write_all_at(&[7; 10 * PAGE], 0).unwrap();
    let mut map = Map::new(&file, 10 * PAGE, libc::MAP_SHARED, true).unwrap();
    assert_eq!(map.get(9 * PAGE), 7);
    file.set_len(3 * PAGE as u64 + 100).unwrap();
    assert_eq!(map.get(3 * PAGE + 99), 7);
    assert!(map.read(3 * PAGE + 100, PAGE - 100).iter().all(|byte| *byte == 0), "the rest of the last page");
    for touch in [4 * PAGE, 9 * PAGE + 5] {
        for writes in [false, true] {
            let child = Child::spawn(|_| {
                // What the mapping holds there must not be had, nor changed.
                if writes {
                    map.set(touch, 1)
                } else {
                    map.get(touch);
                }
            });
            let end = child.join();
            assert!(matches!(end, WaitStatus::Signaled(_, Signal::SIGBUS, _)), "at {touch}: {end:?}");
        }
    }
    file.set_len(10 * PAGE as u64).unwrap();
    assert!(map.read(3 * PAGE + 100, 6 * PAGE).iter().all(|byte| *byte == 0), "grown again: zeros");
    map.set(9 * PAGE, 8);
    assert_eq!(fs::read(&path).unwrap()[9 * PAGE], 8);
}

#[test]
fn what_a_mapping_writes_behind_the_end_of_the_file_is_not_stored() {
    let Some(mut stage) = Stage::new() else { return };
    let path = stage.at("file");
    let file = open(&path);
    file.write_all_at(&[7; 1000], 0).unwrap();
    let mut map = Map::new(&file, PAGE, libc::MAP_SHARED, true).unwrap();
    map.write(990, &[9; 100]);
    map.sync().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1000);
    drop((map, file));
    stage.remount();
    let content = fs::read(&path).unwrap();
    assert_eq!((content.len(), &content[988..]), (1000, &[7, 7, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9][..]));
    open(&path).set_len(2000).unwrap();
    assert!(fs::read(&path).unwrap()[1000..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_mapping_much_larger_than_the_cache_keeps_all_that_is_written() {
    let Some(mut stage) = Stage::with(&["--cache-size-limit", "16MiB"]) else { return };
    let path = stage.at("file");
    let file = open(&path);
    let pages = 64 << 8;
    file.set_len((pages * PAGE) as u64).unwrap();
    let mut map = Map::new(&file, pages * PAGE, libc::MAP_SHARED, true).unwrap();
    let mut random = Random::new();
    let mut expected = vec![0u8; pages];
    for _ in 0..pages {
        let (page, byte) = (random.below(pages as u64) as usize, random.next() as u8);
        map.set(page * PAGE + page % PAGE, byte);
        expected[page] = byte;
    }
    map.sync().unwrap();
    forget_content(&file);
    let check = |map: &Map| {
        for (page, byte) in expected.iter().enumerate() {
            assert_eq!(map.get(page * PAGE + page % PAGE), *byte, "page {page}");
            assert_eq!(map.get(page * PAGE + (page + 1) % PAGE), 0, "beside it on page {page}");
        }
    };
    check(&map);
    drop((map, file));
    stage.remount();
    let file = open(&path);
    check(&Map::new(&file, pages * PAGE, libc::MAP_SHARED, false).unwrap());
}

#[test]
fn a_change_by_mapping_moves_the_times_of_the_file() {
    let Some(stage) = Stage::new() else { return };
    let path = stage.at("file");
    let file = open(&path);
    file.write_all_at(&[1; PAGE], 0).unwrap();
    let times = || {
        let stat = fs::metadata(&path).unwrap();
        ((stat.mtime(), stat.mtime_nsec()), (stat.ctime(), stat.ctime_nsec()))
    };
    let before = times();
    let mut map = Map::new(&file, PAGE, libc::MAP_SHARED, true).unwrap();
    map.set(5, 5);
    map.sync().unwrap();
    let after = times();
    assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");
}

#[test]
fn a_program_on_the_mount_runs_and_cannot_be_written_meanwhile() {
    let Some(stage) = Stage::new() else { return };
    if !have("sleep") {
        return;
    }
    let program = stage.at("program");
    fs::copy(succeeds(Command::new("sh").args(["-c", "command -v sleep"])).trim(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut running = Command::new(&program).arg("60").spawn().unwrap();
    let refused = errno(File::options().write(true).open(&program));
    // Its file goes, the program runs on.
    fs::remove_file(&program).unwrap();
    assert_eq!(running.try_wait().unwrap(), None);
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(refused, libc::ETXTBSY);
}
