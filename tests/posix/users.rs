//! Different users, groups and supplementary groups on one mount: owners, permissions, ACLs, sticky and
//! setgid directories, chown rules, suid bits.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::Result;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::path::Path;
use std::process::Command;

use crate::ground::on_both;
use crate::process::User;
use crate::support::sys;
use crate::{Stage, errno};

const ALICE: User = User { uid: 4001, gid: 4001, groups: &[4100, 4200] };
const BOB: User = User { uid: 4002, gid: 4002, groups: &[4100] };
const CAROL: User = User { uid: 4003, gid: 4003, groups: &[] };

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn owner(path: &Path) -> (u32, u32) {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.uid(), stat.gid())
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn create(path: &Path, mode: u32) -> Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map(drop)
}

fn mkdir(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new().mode(mode).create(path)
}

/// A stage with a directory that everyone may write.
fn shared() -> Option<(Stage, std::path::PathBuf)> {
    let stage = Stage::new()?;
    let dir = stage.at("shared");
    fs::create_dir(&dir).unwrap();
    chmod(&dir, 0o777).unwrap();
    Some((stage, dir))
}

#[test]
fn owner_group_and_others_get_what_the_mode_says_by_whatever_group_they_come() {
    let Some((_stage, dir)) = shared() else { return };
    let file = dir.join("file");
    ALICE.does(|| fs::write(&file, "alice's"));
    assert_eq!(owner(&file), (4001, 4001));
    // A supplementary group is as good as the first; a group that one is not in is not to be had.
    ALICE.does(|| sys::chown(&file, 4001, 4100));
    assert_eq!(CAROL.tries(|| sys::chown(&file, 4003, 4003)), libc::EPERM);
    assert_eq!(ALICE.tries(|| sys::chown(&file, 4001, 4300)), libc::EPERM, "not one of her groups");
    assert_eq!(ALICE.tries(|| sys::chown(&file, 4002, 4100)), libc::EPERM, "files are not given away");
    let read = |user: User| user.tries(|| fs::read(&file));
    let write = |user: User| user.tries(|| OpenOptions::new().write(true).open(&file));
    let no = libc::EACCES;
    for (mode, reads, writes) in [
        (0o640, [0, 0, no], [0, no, no]),
        (0o664, [0, 0, 0], [0, 0, no]),
        (0o606, [0, no, 0], [0, no, 0]),
        (0o066, [no, 0, 0], [no, 0, 0]),
        (0o000, [no; 3], [no; 3]),
    ] {
        ALICE.does(|| chmod(&file, mode));
        assert_eq!([ALICE, BOB, CAROL].map(read), reads, "reading with {mode:o}");
        assert_eq!([ALICE, BOB, CAROL].map(write), writes, "writing with {mode:o}");
        fs::read(&file).unwrap();
    }
    assert_eq!(BOB.tries(|| chmod(&file, 0o666)), libc::EPERM);
    assert_eq!(BOB.tries(|| sys::setxattr(&file, b"user.a", b"", 0)), no);
    assert_eq!(ALICE.tries(|| sys::setxattr(&file, b"trusted.a", b"", 0)), libc::EPERM);
    // A directory: searching, listing and changing are three things.
    let inner = dir.join("inner");
    ALICE.does(|| mkdir(&inner, 0o711));
    ALICE.does(|| create(&inner.join("known"), 0o644));
    CAROL.does(|| fs::read(inner.join("known")));
    assert_eq!(CAROL.tries(|| fs::read_dir(&inner)), no);
    assert_eq!(CAROL.tries(|| create(&inner.join("new"), 0o644)), no);
    assert_eq!(CAROL.tries(|| fs::remove_file(inner.join("known"))), no);
    ALICE.does(|| chmod(&inner, 0o744));
    CAROL.does(|| fs::read_dir(&inner));
    assert_eq!(CAROL.tries(|| fs::read(inner.join("known"))), no);
}

#[test]
fn in_a_sticky_directory_only_the_owners_remove_and_rename() {
    let Some((_stage, dir)) = shared() else { return };
    chmod(&dir, 0o1777).unwrap();
    let (hers, his) = (dir.join("hers"), dir.join("his"));
    ALICE.does(|| create(&hers, 0o666));
    BOB.does(|| create(&his, 0o666));
    ALICE.does(|| mkdir(&dir.join("d"), 0o777));
    let denied = [
        BOB.tries(|| fs::remove_file(&hers)),
        BOB.tries(|| fs::rename(&hers, dir.join("moved"))),
        BOB.tries(|| fs::rename(&his, &hers)),
        BOB.tries(|| sys::rename(&his, &hers, libc::RENAME_EXCHANGE)),
        BOB.tries(|| fs::remove_dir(dir.join("d"))),
    ];
    assert_eq!(denied, [libc::EPERM; 5]);
    BOB.does(|| fs::write(&hers, "writing is another thing"));
    ALICE.does(|| fs::rename(&hers, dir.join("moved")));
    ALICE.does(|| fs::remove_file(dir.join("moved")));
    // The directory's owner may, too.
    sys::chown(&dir, 4003, 4003).unwrap();
    CAROL.does(|| fs::remove_file(&his));
}

#[test]
fn a_setgid_directory_hands_its_group_down_and_directories_hand_on_the_bit() {
    let Some((_stage, dir)) = shared() else { return };
    sys::chown(&dir, 0, 4200).unwrap();
    chmod(&dir, 0o2777).unwrap();
    BOB.does(|| create(&dir.join("file"), 0o644));
    BOB.does(|| mkdir(&dir.join("d"), 0o755));
    BOB.does(|| symlink("x", dir.join("s")));
    BOB.does(|| create(&dir.join("d/deeper"), 0o644));
    for name in ["file", "d", "s", "d/deeper"] {
        assert_eq!(owner(&dir.join(name)), (4002, 4200), "{name}");
    }
    assert_eq!(mode(&dir.join("d")), 0o2755);
    // Who is not in the group does not get a setgid program of it.
    BOB.does(|| create(&dir.join("program"), 0o2755));
    assert_eq!(mode(&dir.join("program")), 0o755);
    ALICE.does(|| create(&dir.join("hers"), 0o2755));
    assert_eq!(mode(&dir.join("hers")), 0o2755, "she is in it");
    BOB.does(|| chmod(&dir.join("file"), 0o2755));
    assert_eq!(mode(&dir.join("file")), 0o755, "nor by chmod");
}

#[test]
fn suid_and_sgid_bits_fall_when_another_writes_truncates_or_the_owner_changes() {
    let Some((_stage, dir)) = shared() else { return };
    let file = dir.join("program");
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let writer = || OpenOptions::new().read(true).write(true).open(&file);
    type Step<'a> = (&'a str, Box<dyn Fn() -> Result<()> + 'a>);
    let steps: Vec<Step> = vec![
        ("write", Box::new(|| writer()?.write_all_at(b"x", 1))),
        ("append", Box::new(|| writer()?.write_all_at(b"x", 5000))),
        ("truncate", Box::new(|| writer()?.set_len(3))),
        ("O_TRUNC", Box::new(|| OpenOptions::new().write(true).truncate(true).open(&file).map(drop))),
        ("fallocate", Box::new(|| sys::fallocate(&writer()?, 0, 0, 10_000))),
        ("punch", Box::new(|| sys::fallocate(&writer()?, punch, 0, 100))),
        (
            "copy_file_range",
            Box::new(|| {
                let file = writer()?;
                sys::copy_file_range(&file, 0, &file, 6000, 100).map(drop)
            }),
        ),
    ];
    for (what, step) in &steps {
        for (bits, left) in [(0o6777, 0o777), (0o4766, 0o766), (0o2777, 0o777)] {
            fs::write(&file, [1; 4096]).unwrap();
            sys::chown(&file, 4001, 4001).unwrap();
            chmod(&file, bits).unwrap();
            assert_eq!(mode(&file), bits);
            BOB.does(step);
            assert_eq!(mode(&file), left, "{what} with {bits:o}");
        }
    }
    // Not by root's write, as the kernel has it for whoever has CAP_FSETID.
    chmod(&file, 0o6777).unwrap();
    writer().unwrap().write_all_at(b"x", 0).unwrap();
    assert_eq!(mode(&file), 0o6777);
    // By chown, whoever does it; directories keep theirs.
    for (uid, gid) in [(4001, 4100), (4002, 4001)] {
        chmod(&file, 0o6777).unwrap();
        sys::chown(&file, uid, gid).unwrap();
        assert_eq!(mode(&file), 0o777, "chown to {uid}:{gid}");
    }
    sys::chown(&file, 4001, 4001).unwrap();
    chmod(&file, 0o6777).unwrap();
    ALICE.does(|| sys::chown(&file, 4001, 4100));
    assert_eq!(mode(&file), 0o777, "her own chgrp");
    // Without the group's right to execute, sgid is no program's.
    chmod(&file, 0o2767).unwrap();
    BOB.does(|| writer()?.write_all_at(b"x", 1));
    chmod(&dir, 0o2777).unwrap();
    sys::chown(&dir, 4001, 4100).unwrap();
    assert_eq!(mode(&dir), 0o2777);
}

#[test]
fn a_chown_that_changes_neither_owner_nor_group_clears_the_bits_too() {
    on_both(|ground| {
        let (file, dir) = (ground.at("program"), ground.at("dir"));
        ALICE.does(|| fs::write(&file, "program"));
        mkdir(&dir, 0o700).unwrap();
        for (uid, gid) in [(None, None), (Some(4001), None), (None, Some(4001)), (Some(4001), Some(4001))] {
            let capability = [0x0200_0001u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
            sys::setxattr(&file, b"security.capability", &capability, 0).unwrap();
            chmod(&file, 0o6777).unwrap();
            ALICE.does(|| chown(&file, uid, gid));
            assert_eq!(mode(&file), 0o777, "by its owner to {uid:?}:{gid:?}");
            assert_eq!(errno(sys::getxattr(&file, b"security.capability")), libc::ENODATA);
            chmod(&file, 0o6777).unwrap();
            chown(&file, uid, gid).unwrap();
            assert_eq!(mode(&file), 0o777, "by root to {uid:?}:{gid:?}");
            chmod(&dir, 0o6777).unwrap();
            chown(&dir, uid, gid).unwrap();
            assert_eq!(mode(&dir), 0o6777, "a directory's mean something else");
        }
        assert_eq!(owner(&file), (4001, 4001));
    });
}

#[test]
fn a_suid_program_that_another_has_changed_runs_without_the_right_at_once() {
    let Some((_stage, dir)) = shared() else { return };
    let program = dir.join("program");
    let id = Path::new("/usr/bin/id");
    let size = fs::metadata(id).unwrap().len();
    let writer = || OpenOptions::new().read(true).write(true).open(&program);
    type Change<'a> = (&'a str, Box<dyn Fn() -> Result<()> + 'a>);
    let changes: Vec<Change> = vec![
        ("write", Box::new(|| writer()?.write_all_at(b"x", size))),
        ("truncate", Box::new(|| writer()?.set_len(size + 1))),
        ("fallocate", Box::new(|| sys::fallocate(&writer()?, 0, size, 1))),
        (
            "copy_file_range",
            Box::new(|| {
                let file = writer()?;
                sys::copy_file_range(&file, 0, &file, size, 1).map(drop)
            }),
        ),
    ];
    // Says as whom it runs.
    let runs_as = |expected: &str| {
        let output = Command::new(&program).arg("-u").output()?;
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected);
        Ok(())
    };
    for (what, change) in &changes {
        let _ = fs::remove_file(&program);
        fs::copy(id, &program).unwrap();
        chmod(&program, 0o4777).unwrap();
        BOB.does(|| runs_as("0"));
        // Nobody asks for its mode in between: the kernel goes by what it keeps.
        BOB.does(|| change().and_then(|()| runs_as("4002")));
        assert_eq!(mode(&program), 0o777, "after {what}");
    }
}

const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;
const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

/// An access list as the attribute has it.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        let id = if matches!(*tag, USER | GROUP) { *id } else { u32::MAX };
        bytes.extend([&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    bytes
}

#[test]
fn access_lists_are_checked_in_the_order_of_posix_1e_and_limited_by_their_mask() {
    let Some((mut stage, dir)) = shared() else { return };
    let file = dir.join("file");
    fs::write(&file, "x").unwrap();
    let list = |mask| {
        acl(&[
            (USER_OBJ, 6, 0),
            (USER, 6, 4001),
            (USER, 0, 4002),
            (GROUP_OBJ, 0, 0),
            (GROUP, 6, 4100),
            (MASK, mask, 0),
            (OTHER, 4, 0),
        ])
    };
    let outcome = |user: User| {
        let no = libc::EACCES;
        match (user.tries(|| fs::read(&file)), user.tries(|| OpenOptions::new().write(true).open(&file))) {
            (0, 0) => "rw",
            (0, denied) if denied == no => "r",
            (denied, other) if denied == no && other == no => "",
            other => panic!("{other:?}"),
        }
    };
    let dave = User { uid: 4004, gid: 4004, groups: &[4100] };
    sys::setxattr(&file, ACCESS, &list(6), 0).unwrap();
    for remount in [false, true] {
        if remount {
            stage.remount();
        }
        assert_eq!(mode(&file), 0o664, "the group's bits are the mask");
        assert_eq!(
            [ALICE, BOB, CAROL, dave].map(outcome),
            ["rw", "", "r", "rw"],
            "bob by name, though of the group"
        );
    }
    chmod(&file, 0o644).unwrap();
    assert_eq!(sys::getxattr(&file, ACCESS).unwrap(), list(4), "chmod sets the mask");
    assert_eq!([ALICE, BOB, CAROL, dave].map(outcome), ["r", "", "r", "r"]);
    // A list that says what a mode says becomes the mode.
    sys::setxattr(&file, ACCESS, &acl(&[(USER_OBJ, 6, 0), (GROUP_OBJ, 4, 0), (OTHER, 0, 0)]), 0).unwrap();
    assert_eq!(mode(&file), 0o640);
    assert_eq!(errno(sys::getxattr(&file, ACCESS)), libc::ENODATA);
    assert_eq!([ALICE, BOB, CAROL].map(outcome), [""; 3]);
    // Only the owner sets one; malformed ones and defaults of files are refused.
    assert_eq!(ALICE.tries(|| sys::setxattr(&file, ACCESS, &list(6), 0)), libc::EPERM);
    assert_eq!(errno(sys::setxattr(&file, ACCESS, &acl(&[(USER_OBJ, 6, 0)]), 0)), libc::EINVAL);
    assert_eq!(errno(sys::setxattr(&file, DEFAULT, &list(6), 0)), libc::EACCES);
    sys::setxattr(&file, ACCESS, &list(6), 0).unwrap();
    sys::removexattr(&file, ACCESS).unwrap();
    assert_eq!(errno(sys::getxattr(&file, ACCESS)), libc::ENODATA);
    assert_eq!(mode(&file), 0o664, "as ext4 leaves the mode");
}

#[test]
fn access_lists_are_taken_and_removed_as_linux_does_it() {
    on_both(|ground| {
        let (file, dir) = (ground.at("file"), ground.at("dir"));
        fs::write(&file, "x").unwrap();
        mkdir(&dir, 0o755).unwrap();
        let with = |named: &[(u16, u16, u32)]| {
            acl(&[&[(USER_OBJ, 6, 0)], named, &[(MASK, 6, 0), (OTHER, 0, 0)]].concat())
        };
        // Named users and groups in any order, and more than once, of which the first counts.
        for named in [
            [(USER, 6, 4001), (USER, 0, 4001), (GROUP_OBJ, 4, 0)],
            [(USER, 0, 4002), (USER, 6, 4001), (GROUP_OBJ, 4, 0)],
            [(GROUP_OBJ, 4, 0), (GROUP, 6, 4200), (GROUP, 0, 4100)],
        ] {
            for (path, name) in [(&file, ACCESS), (&dir, ACCESS), (&dir, DEFAULT)] {
                sys::setxattr(path, name, &with(&named), 0).unwrap();
                assert_eq!(sys::getxattr(path, name).unwrap(), with(&named));
            }
            ALICE.does(|| OpenOptions::new().write(true).open(&file));
            assert_eq!(BOB.tries(|| OpenOptions::new().write(true).open(&file)), libc::EACCES, "{named:?}");
        }
        // The kinds of entries have one order.
        let before = sys::getxattr(&file, ACCESS).unwrap();
        for named in [
            [(GROUP_OBJ, 4, 0), (USER, 6, 4001), (GROUP, 6, 4200)],
            [(GROUP, 6, 4200), (GROUP_OBJ, 4, 0), (GROUP, 6, 4100)],
            [(USER, 6, 4001), (GROUP_OBJ, 4, 0), (GROUP_OBJ, 4, 0)],
            [(USER, 8, 4001), (GROUP_OBJ, 4, 0), (GROUP, 6, 4200)],
        ] {
            assert_eq!(errno(sys::setxattr(&file, ACCESS, &with(&named), 0)), libc::EINVAL, "{named:?}");
        }
        assert_eq!(sys::getxattr(&file, ACCESS).unwrap(), before);
        // There need not be one where it is removed, nor could there be one; an empty one is none.
        for _ in 0..2 {
            for (path, name) in [(&file, ACCESS), (&file, DEFAULT), (&dir, ACCESS), (&dir, DEFAULT)] {
                sys::removexattr(path, name).unwrap();
                assert_eq!(errno(sys::getxattr(path, name)), libc::ENODATA);
                sys::setxattr(path, name, &acl(&[]), 0).unwrap();
                sys::setxattr(path, name, b"", 0).unwrap();
            }
        }
        assert_eq!(ALICE.tries(|| sys::removexattr(&file, ACCESS)), libc::EPERM);
    });
}

#[test]
fn a_default_list_is_inherited_limited_by_the_mode_and_sets_the_umask_aside() {
    let Some((mut stage, dir)) = shared() else { return };
    let list = acl(&[(USER_OBJ, 7, 0), (USER, 7, 4001), (GROUP_OBJ, 5, 0), (MASK, 7, 0), (OTHER, 1, 0)]);
    sys::setxattr(&dir, DEFAULT, &list, 0).unwrap();
    BOB.does(|| {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_retain(0o777));
        create(&dir.join("file"), 0o640)?;
        mkdir(&dir.join("d"), 0o777)?;
        create(&dir.join("d/file"), 0o666)?;
        symlink("x", dir.join("s"))
    });
    for remount in [false, true] {
        if remount {
            stage.remount();
        }
        let access = |name: &str| sys::getxattr(&dir.join(name), ACCESS).unwrap();
        let limited = |user, mask, other| {
            acl(&[
                (USER_OBJ, user, 0),
                (USER, 7, 4001),
                (GROUP_OBJ, 5, 0),
                (MASK, mask, 0),
                (OTHER, other, 0),
            ])
        };
        assert_eq!((mode(&dir.join("file")), access("file")), (0o640, limited(6, 4, 0)));
        assert_eq!((mode(&dir.join("d")), access("d")), (0o771, limited(7, 7, 1)));
        assert_eq!(sys::getxattr(&dir.join("d"), DEFAULT).unwrap(), list, "handed on");
        assert_eq!((mode(&dir.join("d/file")), access("d/file")), (0o660, limited(6, 6, 0)));
        assert_eq!(errno(sys::getxattr(&dir.join("file"), DEFAULT)), libc::ENODATA);
        ALICE.does(|| OpenOptions::new().write(true).open(dir.join("d/file")));
        assert_eq!(CAROL.tries(|| fs::read(dir.join("d/file"))), libc::EACCES);
    }
    sys::removexattr(&dir, DEFAULT).unwrap();
    BOB.does(|| create(&dir.join("plain"), 0o644));
    assert_eq!(mode(&dir.join("plain")), 0o644);
    assert_eq!(errno(sys::getxattr(&dir.join("plain"), ACCESS)), libc::ENODATA);
}
