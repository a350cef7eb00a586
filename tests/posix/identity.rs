//! Times, inode numbers, file handles, and the size of the filesystem.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use crate::calls::{Map, OMIT, handle_of, open_handle, set_times};
use crate::support::mounted::wait_until;
use crate::support::sys;
use crate::{Random, Stage, errno, open};

type Time = (i64, i64);

fn access(path: &Path) -> Time {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.atime(), stat.atime_nsec())
}

fn modification(path: &Path) -> Time {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.mtime(), stat.mtime_nsec())
}

fn change(path: &Path) -> Time {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.ctime(), stat.ctime_nsec())
}

#[test]
fn times_are_kept_to_the_nanosecond_also_before_1970_and_far_ahead() {
    let Some(mut stage) = Stage::new() else { return };
    let times = [
        (0, 1),
        (1, 999_999_999),
        (-1, 999_999_999),
        (-1_000_000_000, 123_456_789),
        (4_102_444_800, 7),
        (9_000_000_000, 1),
    ];
    let path = |n: usize| stage.at(format!("{n}"));
    let paths: Vec<_> = (0..times.len() + 2).map(path).collect();
    fs::create_dir(&paths[0]).unwrap();
    symlink("nowhere", &paths[1]).unwrap();
    for path in &paths[2..] {
        fs::write(path, "x").unwrap();
    }
    let expected = |n: usize| (times[n % times.len()], times[(n + 1) % times.len()]);
    for (n, path) in paths.iter().enumerate() {
        let (access, modification) = expected(n);
        set_times(path, access, modification).unwrap();
    }
    for remount in [false, true] {
        if remount {
            stage.remount();
        }
        for (n, path) in paths.iter().enumerate() {
            assert_eq!((access(path), modification(path)), expected(n), "{n}, remounted: {remount}");
        }
    }
    set_times(&paths[3], OMIT, (5, 5)).unwrap();
    assert_eq!((access(&paths[3]), modification(&paths[3])), (expected(3).0, (5, 5)));
}

#[test]
fn a_mount_says_that_it_is_noatime_and_reading_changes_no_access_time() {
    let Some(stage) = Stage::with(&["--cache-size-limit", "64MiB", "-o", "relatime"]) else { return };
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let point = stage.point();
    let line = mounts.lines().find(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == point));
    let options: Vec<&str> = line.unwrap().split(' ').nth(3).unwrap().split(',').collect();
    assert!(options.contains(&"noatime") && !options.contains(&"relatime"), "{options:?}");
    let (path, dir) = (stage.at("file"), stage.at("dir"));
    fs::write(&path, "content").unwrap();
    fs::create_dir(&dir).unwrap();
    for path in [&path, &dir] {
        // So old that relatime would move it.
        set_times(path, (1_000_000, 5), (2_000_000, 5)).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), b"content");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    assert_eq!((access(&path), access(&dir)), ((1_000_000, 5), (1_000_000, 5)));
}

#[test]
fn ctime_moves_with_every_change_and_with_nothing_else() {
    let Some(stage) = Stage::new() else { return };
    let (path, other, dir) = (stage.at("file"), stage.at("other"), stage.at("dir"));
    fs::write(&path, "content").unwrap();
    fs::create_dir(&dir).unwrap();
    let file = open(&path);
    let acl = [2u32.to_le_bytes().to_vec(), acl_entries()].concat();
    type Step<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let changes: Vec<Step> = vec![
        ("write", Box::new(|| file.write_all_at(b"more", 2).unwrap())),
        ("write at the end", Box::new(|| file.write_all_at(b"more", 100).unwrap())),
        ("truncate", Box::new(|| file.set_len(50).unwrap())),
        ("truncate to the same size", Box::new(|| file.set_len(50).unwrap())),
        ("fallocate", Box::new(|| sys::fallocate(&file, 0, 0, 100).unwrap())),
        (
            "punch",
            Box::new(|| {
                sys::fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 5, 10).unwrap()
            }),
        ),
        ("chmod", Box::new(|| fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap())),
        (
            "chmod to the same",
            Box::new(|| fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap()),
        ),
        ("chown", Box::new(|| sys::chown(&path, 5, 6).unwrap())),
        ("utimensat", Box::new(|| set_times(&path, (1, 1), (2, 2)).unwrap())),
        ("link", Box::new(|| fs::hard_link(&path, &other).unwrap())),
        ("unlink of another name", Box::new(|| fs::remove_file(&other).unwrap())),
        (
            "rename",
            Box::new(|| {
                fs::rename(&path, &other).unwrap();
                fs::rename(&other, &path).unwrap()
            }),
        ),
        ("setxattr", Box::new(|| sys::setxattr(&path, b"user.a", b"1", 0).unwrap())),
        ("removexattr", Box::new(|| sys::removexattr(&path, b"user.a").unwrap())),
        ("an access list", Box::new(|| sys::setxattr(&path, b"system.posix_acl_access", &acl, 0).unwrap())),
        (
            "copy_file_range",
            Box::new(|| {
                sys::copy_file_range(&file, 0, &file, 50, 10).unwrap();
            }),
        ),
        (
            "a mapping",
            Box::new(|| {
                let mut map = Map::new(&file, 100, libc::MAP_SHARED, true).unwrap();
                map.set(3, 3);
                map.sync().unwrap()
            }),
        ),
    ];
    for (what, make) in &changes {
        let before = change(&path);
        wait_until("the clock moves", std::time::Duration::from_secs(60), || crate::now() > before);
        make();
        assert!(change(&path) > before, "{what}");
        assert!(change(&path) <= crate::now(), "{what}: not ahead of the clock");
    }
    let nothing: Vec<Step> = vec![
        ("read", Box::new(|| drop(fs::read(&path).unwrap()))),
        ("stat", Box::new(|| assert!(fs::metadata(&path).unwrap().is_file()))),
        ("write of nothing", Box::new(|| assert_eq!((&file).write(b"").unwrap(), 0))),
        ("open with O_TRUNC refused", Box::new(|| assert_eq!(errno(File::create_new(&path)), libc::EEXIST))),
        (
            "setxattr refused",
            Box::new(|| {
                assert_eq!(errno(sys::setxattr(&path, b"user.b", b"", libc::XATTR_REPLACE)), libc::ENODATA)
            }),
        ),
        ("rename refused", Box::new(|| assert_eq!(errno(fs::rename(&path, &dir)), libc::EISDIR))),
        ("fsync", Box::new(|| file.sync_all().unwrap())),
    ];
    for (what, make) in &nothing {
        let before = (change(&path), modification(&path));
        make();
        assert_eq!((change(&path), modification(&path)), before, "{what}");
    }
}

/// user::rw-, user:4001:r--, group::r--, mask::r--, other::---
fn acl_entries() -> Vec<u8> {
    let entry = |tag: u16, permissions: u16, id: u32| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    [entry(1, 6, none), entry(2, 4, 4001), entry(4, 4, none), entry(16, 4, none), entry(32, 0, none)].concat()
}

#[test]
fn a_directory_s_times_move_when_its_entries_do_and_not_with_their_content() {
    let Some(stage) = Stage::new() else { return };
    let dir = stage.at("dir");
    fs::create_dir(&dir).unwrap();
    fs::create_dir(stage.at("elsewhere")).unwrap();
    let at = |name: &str| dir.join(name);
    type Step<'a> = (&'a str, bool, Box<dyn Fn() + 'a>);
    let steps: Vec<Step> = vec![
        ("create", true, Box::new(|| fs::write(at("a"), "x").unwrap())),
        ("write", false, Box::new(|| fs::write(at("a"), "longer").unwrap())),
        (
            "chmod of an entry",
            false,
            Box::new(|| fs::set_permissions(at("a"), Permissions::from_mode(0o600)).unwrap()),
        ),
        ("mkdir", true, Box::new(|| fs::create_dir(at("d")).unwrap())),
        ("create below", false, Box::new(|| fs::write(at("d/x"), "x").unwrap())),
        ("link", true, Box::new(|| fs::hard_link(at("a"), at("b")).unwrap())),
        ("symlink", true, Box::new(|| symlink("a", at("s")).unwrap())),
        ("rename within", true, Box::new(|| fs::rename(at("a"), at("c")).unwrap())),
        ("rename out", true, Box::new(|| fs::rename(at("c"), stage.at("elsewhere/c")).unwrap())),
        ("rename in", true, Box::new(|| fs::rename(stage.at("elsewhere/c"), at("c")).unwrap())),
        ("unlink", true, Box::new(|| fs::remove_file(at("c")).unwrap())),
        ("rmdir refused", false, Box::new(|| assert_eq!(errno(fs::remove_dir(at("d"))), libc::ENOTEMPTY))),
        ("list", false, Box::new(|| assert_eq!(fs::read_dir(&dir).unwrap().count(), 3))),
    ];
    for (what, moves, make) in &steps {
        let before = (modification(&dir), change(&dir));
        wait_until("the clock moves", std::time::Duration::from_secs(60), || crate::now() > before.1);
        make();
        let after = (modification(&dir), change(&dir));
        if *moves {
            assert!(after.0 > before.0 && after.1 > before.1, "{what}");
        } else {
            assert_eq!(after, before, "{what}");
        }
    }
}

#[test]
fn inode_numbers_outlast_remounts_and_none_is_used_again() {
    let Some(mut stage) = Stage::new() else { return };
    let mut seen = BTreeSet::new();
    let ino = |path: &Path| fs::symlink_metadata(path).unwrap().ino();
    for round in 0..3 {
        // Held open and unlinked: its number stays its own.
        let held = open(&stage.at("held"));
        fs::remove_file(stage.at("held")).unwrap();
        assert!(seen.insert(held.metadata().unwrap().ino()));
        for n in 0..300 {
            let path = stage.at(format!("{round}-{n}"));
            match n % 3 {
                0 => fs::write(&path, "x").unwrap(),
                1 => fs::create_dir(&path).unwrap(),
                _ => symlink("x", &path).unwrap(),
            }
            assert!(seen.insert(ino(&path)), "{n} of round {round} has the number of another");
            if n % 2 == 0 {
                if n % 3 == 1 { fs::remove_dir(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
            }
        }
        let all = |stage: &Stage| -> Vec<(std::ffi::OsString, u64, u64)> {
            let listed = fs::read_dir(stage.point()).unwrap().map(|entry| entry.unwrap());
            listed
                .map(|entry| {
                    (entry.file_name(), std::os::unix::fs::DirEntryExt::ino(&entry), ino(&entry.path()))
                })
                .collect()
        };
        let before = all(&stage);
        drop(held);
        if round == 1 {
            stage.kill();
            stage.mount();
        } else {
            stage.remount();
        }
        assert_eq!(all(&stage), before);
        assert!(before.iter().all(|(_, listed, stat)| listed == stat));
    }
}

#[test]
fn a_file_handle_opens_its_file_also_after_rename_and_remount_and_never_another() {
    let Some(mut stage) = Stage::new() else { return };
    fs::create_dir_all(stage.at("a/b")).unwrap();
    fs::write(stage.at("a/b/file"), "content").unwrap();
    fs::write(stage.at("a/gone"), "gone").unwrap();
    let handle = |name: &str| handle_of(&stage.at(name)).unwrap();
    let (file, dir, gone) = (handle("a/b/file"), handle("a/b"), handle("a/gone"));
    for round in 0..3 {
        let mount = File::open_mount(&stage.point());
        let mut content = String::new();
        open_handle(&mount, &file, libc::O_RDONLY).unwrap().read_to_string(&mut content).unwrap();
        assert_eq!(content, "content", "round {round}");
        let opened = open_handle(&mount, &dir, libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
        let place = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened)));
        assert_eq!(
            place.unwrap(),
            stage.at(if round == 0 { "a/b" } else { "moved/b" }),
            "its place in the tree"
        );
        drop(opened);
        if round == 0 {
            let held = open_handle(&mount, &gone, libc::O_RDWR).unwrap();
            fs::rename(stage.at("a"), stage.at("moved")).unwrap();
            fs::remove_file(stage.at("moved/gone")).unwrap();
            held.write_all_at(b"still", 0).unwrap();
            drop(held);
            for n in 0..100 {
                fs::write(stage.at(format!("new{n}")), "another").unwrap();
            }
        } else {
            assert_eq!(errno(open_handle(&mount, &gone, libc::O_RDONLY)), libc::ESTALE, "round {round}");
            // As one that was never given out.
            let forged = (file.0, file.1.iter().map(|byte| byte ^ 0x55).collect());
            assert_eq!(errno(open_handle(&mount, &forged, libc::O_RDONLY)), libc::ESTALE);
        }
        drop(mount);
        stage.remount();
    }
}

/// Opening the mount point itself.
trait OpenMount {
    fn open_mount(path: &Path) -> File;
}

impl OpenMount for File {
    fn open_mount(path: &Path) -> File {
        fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path).unwrap()
    }
}

#[test]
fn statfs_tells_the_byte_budget_and_what_is_left_of_it() {
    const LIMIT: u64 = 256 << 20;
    let limit = LIMIT.to_string();
    let Some(stage) = Stage::with(&["--storage-size-limit", &limit, "--cache-size-limit", "64MiB"]) else {
        return;
    };
    let room = || {
        let found = nix::sys::statvfs::statvfs(&stage.point()).unwrap();
        let unit = found.fragment_size();
        assert_eq!(found.name_max(), 255);
        assert_eq!(found.blocks_free(), found.blocks_available());
        (found.blocks() * unit, found.blocks_available() * unit)
    };
    // The journal's next file and the reserve are made behind the mount's back, and count once they are there.
    wait_until("what the catalog keeps for itself", std::time::Duration::from_secs(30), || {
        let files = fs::read_dir(stage.store().join("journal")).unwrap();
        let lens: Vec<u64> =
            files.map(|file| file.unwrap().metadata().map_or(0, |file| file.len())).collect();
        let reserve = fs::metadata(stage.store().join("reserve")).map_or(0, |file| file.len());
        lens.len() > 1 && lens.iter().all(|len| *len > 0 && 3 * len == reserve)
    });
    let (total, empty) = room();
    assert_eq!(total, LIMIT);
    // Journal and index count, too, and what they grow by.
    assert!(empty <= LIMIT && empty > LIMIT - LIMIT / 10, "{empty} of {LIMIT} free while nothing is stored");
    let mut random = Random::of(9);
    let path = stage.at("file");
    fs::write(&path, random.bytes(32 << 20)).unwrap();
    stage.sync();
    let left = room().1;
    let taken = empty - left;
    assert!((32 << 20..36 << 20).contains(&taken), "{taken} bytes less for 32 MiB");
    // What is said to be free can be written, and no more.
    let file = open(&stage.at("rest"));
    let part = random.bytes(1 << 20);
    let mut written = 0;
    let full = loop {
        match file.write_all_at(&part, written) {
            Ok(()) => written += 1 << 20,
            Err(error) => break error,
        }
        assert!(written <= LIMIT, "more than the limit");
    };
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    assert!(
        written < left + left / 20 && written > left - left / 20,
        "{written} written of {left} that were free"
    );
    drop(file);
    fs::remove_file(&path).unwrap();
    fs::remove_file(stage.at("rest")).unwrap();
    wait_until("the room is back", std::time::Duration::from_secs(30), || room().1 > empty - LIMIT / 16);
}
