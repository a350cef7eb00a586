//! Paths to their ends: the longest ones, links in a circle, a current directory that is gone, kinds of files, further names.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use libc::{
    EEXIST, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, EPERM, O_CREAT, O_DIRECTORY, O_PATH, O_RDONLY, O_RDWR,
    RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT,
};

use crate::calls::entries;
use crate::calls::paths::{current_dir, link_open, mkdir_at, mknod, open, open_at};
use crate::ground::{Ground, on_both};
use crate::process::{Child, User};
use crate::support::sys;
use crate::{Stage, errno, open_to_read};

const BOB: User = User { uid: 4002, gid: 4002, groups: &[] };

#[test]
fn a_rename_takes_the_flags_that_it_can_honour_and_no_others() {
    on_both(|ground| {
        let (from, to) = (ground.at("from"), ground.at("to"));
        fs::write(&from, "from").unwrap();
        fs::write(&to, "to").unwrap();
        let there = || (fs::read(&from).unwrap(), fs::read(&to).unwrap());
        for flags in [
            RENAME_EXCHANGE | RENAME_NOREPLACE,
            RENAME_EXCHANGE | RENAME_WHITEOUT,
            1 << 5,
            RENAME_NOREPLACE | 1 << 31,
        ] {
            assert_eq!(errno(sys::rename(&from, &to, flags)), EINVAL, "{flags:#x}");
        }
        assert_eq!(errno(sys::rename(&from, &to, RENAME_NOREPLACE)), EEXIST);
        assert_eq!(errno(sys::rename(&from, &ground.at("no"), RENAME_EXCHANGE)), ENOENT);
        assert_eq!(there(), (b"from".to_vec(), b"to".to_vec()));
        // What an overlay hides a name by: made where the file was, in the same step.
        assert_eq!(errno(sys::rename(&from, &to, RENAME_WHITEOUT | RENAME_NOREPLACE)), EEXIST);
        fs::create_dir(ground.at("dir")).unwrap();
        fs::set_permissions(ground.at("dir"), PermissionsExt::from_mode(0o777)).unwrap();
        fs::write(ground.at("dir/there"), "replaced").unwrap();
        for (new, flags) in [("dir/new", RENAME_WHITEOUT | RENAME_NOREPLACE), ("dir/there", RENAME_WHITEOUT)]
        {
            let (hidden, moved) = (ground.at("hidden"), ground.at(new));
            BOB.does(|| fs::write(&hidden, "his"));
            BOB.does(|| sys::rename(&hidden, &moved, flags));
            let stat = fs::symlink_metadata(&hidden).unwrap();
            assert_eq!((stat.mode(), stat.rdev(), stat.nlink()), (libc::S_IFCHR, 0, 1));
            assert_eq!((stat.uid(), stat.gid()), (4002, 4002), "of who renamed");
            assert_eq!(fs::read(&moved).unwrap(), b"his");
            fs::remove_file(&hidden).unwrap();
        }
        sys::rename(&ground.at("dir"), &ground.at("moved"), RENAME_WHITEOUT).unwrap();
        assert!(fs::symlink_metadata(ground.at("dir")).unwrap().file_type().is_char_device());
        assert_eq!(fs::read_dir(ground.at("moved")).unwrap().count(), 2);
        assert_eq!(fs::read_dir(ground.at(".")).unwrap().count(), 4);
        assert_eq!(there(), (b"from".to_vec(), b"to".to_vec()));
    });
}

#[test]
fn an_overlay_has_its_upper_layer_in_a_store_or_its_lower_one() {
    let Some(mut stage) = Stage::new() else { return };
    let plain = stage.beside("plain");
    fs::create_dir(stage.at("lower")).unwrap();
    for name in ["kept", "removed", "renamed", "changed"] {
        fs::write(stage.at("lower").join(name), name).unwrap();
        fs::write(plain.join(name), name).unwrap();
    }
    for name in ["upper", "work"] {
        fs::create_dir(stage.at(name)).unwrap();
    }
    let merged = stage.beside("merged");
    let layers = |lower: &Path, upper: &Path, work: &Path| {
        let none = nix::mount::MsFlags::empty();
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        match nix::mount::mount(Some("overlay"), &merged, Some("overlay"), none, Some(options.as_str())) {
            Ok(()) => true,
            // Not for want of anything that Larder should have: that would be EINVAL.
            Err(nix::errno::Errno::ENODEV) => {
                println!("skipped: this kernel has no overlay");
                false
            }
            Err(errno) => panic!("{options}: {errno}"),
        }
    };
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let unmount = || nix::mount::umount2(&merged, nix::mount::MntFlags::empty()).unwrap();
    let outer = [stage.beside("upper"), stage.beside("work")];
    for (lower, upper, work) in [
        (&plain, stage.at("upper"), stage.at("work")),
        (&stage.at("lower"), outer[0].clone(), outer[1].clone()),
    ] {
        if !layers(lower, &upper, &work) {
            return;
        }
        fs::remove_file(merged.join("removed")).unwrap();
        fs::rename(merged.join("renamed"), merged.join("new")).unwrap();
        fs::write(merged.join("changed"), "other").unwrap();
        fs::create_dir(merged.join("removed")).unwrap();
        assert_eq!(names(&merged), ["changed", "kept", "new", "removed"]);
        unmount();
        assert_eq!(names(lower), ["changed", "kept", "removed", "renamed"], "the lower layer is as it was");
    }
    stage.remount();
    assert!(layers(&plain, &stage.at("upper"), &stage.at("work")));
    assert_eq!(names(&merged), ["changed", "kept", "new", "removed"]);
    assert_eq!(fs::read(merged.join("changed")).unwrap(), b"other");
    assert_eq!(fs::read(merged.join("new")).unwrap(), b"renamed");
    unmount();
    stage.umount();
    stage.check();
    stage.mount();
}

/// A path below `dir` with so many bytes, of directories that are made, and a name at its end that is not.
fn long_path(dir: &Path, len: usize) -> PathBuf {
    let mut path = dir.to_owned();
    loop {
        let left = len - path.as_os_str().len() - 1;
        // What is left must be a name that may be, and never none.
        if left <= 255 {
            return path.join("n".repeat(left));
        }
        path.push("d".repeat(left.min(250)));
        fs::create_dir_all(&path).unwrap();
    }
}

#[test]
fn a_path_has_up_to_4095_bytes() {
    on_both(|ground| {
        let root = ground.at(".");
        let path = long_path(&root, 4095);
        fs::write(&path, "deep").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"deep");
        let longer = format!("{}x", path.display());
        assert_eq!(errno(fs::read(&longer)), ENAMETOOLONG);
        assert_eq!(errno(fs::rename(&path, &longer)), ENAMETOOLONG);
        assert_eq!(errno(symlink("x", &longer)), ENAMETOOLONG);
        // A link's own target, too.
        let target = "t".repeat(4095);
        symlink(&target, ground.at("link")).unwrap();
        assert_eq!(fs::read_link(ground.at("link")).unwrap().as_os_str().len(), 4095);
        assert_eq!(fs::symlink_metadata(ground.at("link")).unwrap().len(), 4095);
        assert_eq!(errno(symlink(format!("{target}t"), ground.at("longer"))), ENAMETOOLONG);
        assert_eq!(errno(symlink("", ground.at("empty"))), ENOENT);
        symlink(&path, ground.at("good")).unwrap();
        assert_eq!(fs::read(ground.at("good")).unwrap(), b"deep");
    });
}

#[test]
fn a_tree_is_deeper_than_any_path_and_can_be_removed() {
    on_both(|ground| {
        let (root, name) = (ground.at("root"), "d".repeat(200));
        fs::create_dir(&root).unwrap();
        let mut dir = open_to_read(&root).unwrap();
        for _ in 0..40 {
            mkdir_at(&dir, name.as_ref()).unwrap();
            dir = open_at(Some(&dir), name.as_ref(), O_RDONLY | O_DIRECTORY, 0).unwrap();
        }
        drop(open_at(Some(&dir), "file".as_ref(), O_CREAT | O_RDWR, 0o600).unwrap());
        let mut child = Child::spawn(|wire| {
            nix::unistd::fchdir(&dir).unwrap();
            wire.say(errno(current_dir()).to_string());
            wire.say(fs::metadata("file").unwrap().len().to_string());
        });
        child.says(&ENAMETOOLONG.to_string());
        child.says("0");
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(dir.metadata().unwrap().nlink(), 0);
    });
}

#[test]
fn links_are_followed_forty_times_and_in_a_circle_refused() {
    on_both(|ground| {
        symlink("circle-b", ground.at("circle-a")).unwrap();
        symlink("circle-a", ground.at("circle-b")).unwrap();
        symlink("self", ground.at("self")).unwrap();
        for name in ["circle-a", "self", "self/x", "circle-b/x"] {
            assert_eq!(errno(fs::read(ground.at(name))), ELOOP, "{name}");
            assert_eq!(errno(fs::metadata(ground.at(name))), ELOOP);
            assert_eq!(errno(open(&ground.at(name), O_CREAT | O_RDWR, 0o600)), ELOOP);
            assert_eq!(errno(fs::set_permissions(ground.at(name), PermissionsExt::from_mode(0o0))), ELOOP);
        }
        assert!(fs::symlink_metadata(ground.at("self")).unwrap().is_symlink());
        fs::rename(ground.at("self"), ground.at("renamed")).unwrap();
        fs::write(ground.at("0"), "end").unwrap();
        for n in 1..=41 {
            symlink((n - 1).to_string(), ground.at(n.to_string())).unwrap();
        }
        assert_eq!(fs::read(ground.at("40")).unwrap(), b"end");
        assert_eq!(errno(fs::read(ground.at("41"))), ELOOP);
    });
}

#[test]
fn in_a_current_directory_that_is_removed_nothing_is_found_or_made() {
    on_both(|ground| {
        let (dir, file) = (ground.at("dir"), ground.at("file"));
        fs::create_dir(&dir).unwrap();
        fs::write(&file, "x").unwrap();
        let mut child = Child::spawn(|wire| {
            std::env::set_current_dir(&dir).unwrap();
            let here = open_to_read(".").unwrap();
            fs::remove_dir(&dir).unwrap();
            assert_eq!(errno(current_dir()), ENOENT);
            for (what, outcome) in [
                ("create", errno(open("new".as_ref(), O_CREAT | O_RDWR, 0o600))),
                ("mkdir", errno(fs::create_dir("new"))),
                ("symlink", errno(symlink("x", "new"))),
                ("mknod", errno(mknod("new".as_ref(), libc::S_IFIFO | 0o600, 0))),
                ("link", errno(fs::hard_link(&file, "new"))),
                ("rename into it", errno(fs::rename(&file, "new"))),
                ("stat of a name", errno(fs::metadata("new"))),
                ("list", errno(entries(&here, 4096))),
            ] {
                assert_eq!(outcome, ENOENT, "{what}");
            }
            // It is there itself, and the way out.
            let stat = fs::metadata(".").unwrap();
            assert_eq!((stat.is_dir(), stat.nlink()), (true, 0));
            assert_eq!(here.metadata().unwrap().ino(), stat.ino());
            fs::set_permissions(".", PermissionsExt::from_mode(0o700)).unwrap();
            assert!(fs::metadata("../file").unwrap().is_file());
            // Another one of its name is another one.
            fs::create_dir(&dir).unwrap();
            assert_eq!(errno(fs::create_dir("new")), ENOENT);
            assert_ne!(fs::metadata(&dir).unwrap().ino(), stat.ino());
            std::env::set_current_dir("..").unwrap();
            assert!(fs::metadata("file").unwrap().is_file());
            wire.say("through");
        });
        child.says("through");
        assert_eq!(fs::read(&file).unwrap(), b"x");
    });
}

fn kinds_are_made(ground: &Ground) {
    let at = |name: &str| ground.at(name);
    let device = libc::makedev(4095, 1_048_575);
    let (chr, blk) = (libc::S_IFCHR, libc::S_IFBLK);
    for (name, mode, device) in [
        ("file", libc::S_IFREG | 0o640, 0),
        ("no type", 0o600, 0),
        ("fifo", libc::S_IFIFO | 0o622, 0),
        ("socket", libc::S_IFSOCK | 0o600, 0),
        ("chr", chr | 0o600, device),
        ("blk", blk | 0o600, libc::makedev(7, 300)),
        ("suid", libc::S_IFREG | 0o4711, 0),
    ] {
        mknod(&at(name), mode, device).unwrap();
        let stat = fs::symlink_metadata(at(name)).unwrap();
        let kind = if mode & libc::S_IFMT == 0 { libc::S_IFREG } else { mode & libc::S_IFMT };
        assert_eq!(stat.mode(), kind | mode & 0o7777 & !0o022, "{name}");
        assert_eq!((stat.rdev(), stat.nlink(), stat.len()), (device, 1, 0), "{name}");
        assert_eq!(errno(mknod(&at(name), mode, device)), EEXIST, "{name}");
    }
    // A listing tells the kind of each by itself: programs go by it without asking for more.
    for entry in fs::read_dir(at(".")).unwrap().map(|entry| entry.unwrap()) {
        let kind = fs::symlink_metadata(entry.path()).unwrap().file_type();
        assert_eq!(entry.file_type().unwrap(), kind, "{:?}", entry.file_name());
    }
    // A device works as the one of /dev.
    mknod(&at("zero"), chr | 0o600, libc::makedev(1, 5)).unwrap();
    let mut byte = [7; 10];
    open_to_read(at("zero")).unwrap().read_exact(&mut byte).unwrap();
    assert_eq!(byte, [0; 10]);
    assert_eq!(errno(mknod(&at("dir"), libc::S_IFDIR | 0o700, 0)), EPERM);
    assert_eq!(errno(mknod(&at("link"), libc::S_IFLNK | 0o777, 0)), EINVAL);
    assert_eq!(errno(mknod(&at("odd"), 0o150_000 | 0o600, 0)), EINVAL);
    assert_eq!(BOB.tries(|| mknod(&at("his"), chr | 0o600, device)), EPERM);
    assert_eq!(BOB.tries(|| mknod(&at("his"), blk | 0o600, device)), EPERM);
    // What hides a name in an overlay is no device.
    BOB.does(|| mknod(&at("whiteout"), chr | 0o600, 0));
    BOB.does(|| mknod(&at("his fifo"), libc::S_IFIFO | 0o600, 0));
}

#[test]
fn mknod_makes_every_kind_and_devices_for_root_alone() {
    on_both(|ground| {
        // The mask is the process's, in which other tests may run.
        let mut child = Child::spawn(|wire| {
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_retain(0o022));
            kinds_are_made(ground);
            wire.say("through");
        });
        child.says("through");
    });
}

#[test]
fn numbers_of_devices_outlast_a_remount() {
    let Some(mut stage) = Stage::new() else { return };
    let numbers =
        [(0, 0), (1, 5), (255, 256), (4095, 1_048_575)].map(|(major, minor)| libc::makedev(major, minor));
    let path = |stage: &Stage, number: u64| stage.at(format!("{number:x}"));
    for number in numbers {
        mknod(&path(&stage, number), libc::S_IFBLK | 0o600, number).unwrap();
    }
    stage.remount();
    for number in numbers {
        assert_eq!(fs::metadata(path(&stage, number)).unwrap().rdev(), number);
    }
}

#[test]
fn a_further_name_is_made_from_an_open_file_and_never_for_one_that_lost_its_last() {
    on_both(|ground| {
        let (path, further) = (ground.at("file"), ground.at("further"));
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let file = crate::open(&path);
        link_open(&file, &further).unwrap();
        assert_eq!(fs::metadata(&further).unwrap().ino(), file.metadata().unwrap().ino());
        assert_eq!(errno(link_open(&file, &further)), EEXIST);
        link_open(&open(&path, O_PATH, 0).unwrap(), &ground.at("by place")).unwrap();
        // Whoever was given the descriptor by another may not.
        assert_eq!(BOB.tries(|| link_open(&file, &ground.at("his"))), ENOENT);
        assert_eq!(errno(link_open(&open_to_read(ground.at(".")).unwrap(), &ground.at("dir"))), EPERM);
        for name in [&path, &further, &ground.at("by place")] {
            fs::remove_file(name).unwrap();
        }
        assert_eq!(errno(link_open(&file, &further)), ENOENT);
        assert_eq!(errno(sys::link_following(&proc_path(&file), &further)), ENOENT);
        // A symbolic link has further names as any file.
        symlink("nowhere", ground.at("link")).unwrap();
        fs::hard_link(ground.at("link"), ground.at("same link")).unwrap();
        assert_eq!(fs::symlink_metadata(ground.at("same link")).unwrap().nlink(), 2);
        assert_eq!(fs::read_link(ground.at("same link")).unwrap().as_os_str(), "nowhere");
        let elsewhere = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        assert_eq!(errno(fs::hard_link(elsewhere.path(), &further)), libc::EXDEV);
        assert_eq!(errno(fs::rename(elsewhere.path(), &further)), libc::EXDEV);
    });
}

fn proc_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)).into()
}
