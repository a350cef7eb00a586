//! Capabilities of a file (security.capability): kept with it, and gone with every change of its content or owner, whoever
//! makes it, root too.

use std::fs::{self, File};
use std::io::{Result, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};

use crate::calls::descriptors::{Aligned, copy_range};
use crate::calls::{Map, OMIT, set_times};
use crate::ground::on_both;
use crate::process::User;
use crate::support::sys;
use crate::{Stage, errno, open};

const NAME: &[u8] = b"security.capability";
const BOB: User = User { uid: 4002, gid: 4002, groups: &[] };

/// struct vfs_cap_data, revision 2: CAP_NET_RAW permitted and effective.
fn capability() -> Vec<u8> {
    [0x0200_0001u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn a_file_loses_its_capabilities_with_every_change_of_its_content_or_owner() {
    on_both(|ground| {
        let path = ground.at("program");
        let writer = || File::options().read(true).write(true).open(&path);
        let direct = || File::options().write(true).custom_flags(libc::O_DIRECT).open(&path);
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        type Change<'a> = (&'a str, Box<dyn Fn() -> Result<()> + 'a>);
        let changes: Vec<Change> = vec![
            ("write", Box::new(|| writer()?.write_all(b"x"))),
            ("write at the end", Box::new(|| writer()?.write_all_at(b"x", 8192))),
            ("append", Box::new(|| File::options().append(true).open(&path)?.write_all(b"x"))),
            ("direct write", Box::new(|| direct()?.write_all_at(Aligned::new(4096, 0, 7).bytes(4096), 4096))),
            ("truncate", Box::new(|| writer()?.set_len(100))),
            ("truncate to the same size", Box::new(|| writer()?.set_len(8192))),
            ("O_TRUNC", Box::new(|| File::options().write(true).truncate(true).open(&path).map(drop))),
            ("fallocate", Box::new(|| sys::fallocate(&writer()?, 0, 0, 20_000))),
            ("punch", Box::new(|| sys::fallocate(&writer()?, punch, 0, 4096))),
            ("copy_file_range", Box::new(|| copy_range(&writer()?, 0, &writer()?, 4096, 100, 0).map(drop))),
        ];
        let mark = || {
            let _ = fs::remove_file(&path);
            fs::write(&path, [1; 8192]).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
            sys::setxattr(&path, NAME, &capability(), 0).unwrap();
            assert_eq!(sys::getxattr(&path, NAME).unwrap(), capability());
        };
        for (what, change) in &changes {
            for by_root in [true, false] {
                mark();
                if by_root {
                    change().unwrap()
                } else {
                    BOB.does(change)
                }
                assert_eq!(errno(sys::getxattr(&path, NAME)), libc::ENODATA, "{what}, by root: {by_root}");
            }
        }
        mark();
        sys::chown(&path, 4001, 4001).unwrap();
        assert_eq!(errno(sys::getxattr(&path, NAME)), libc::ENODATA, "chown");
    });
}

#[test]
fn a_file_keeps_its_capabilities_with_whatever_leaves_content_and_owner_as_they_are() {
    on_both(|ground| {
        let (path, moved) = (ground.at("program"), ground.at("moved"));
        fs::write(&path, [1; 8192]).unwrap();
        sys::setxattr(&path, NAME, &capability(), 0).unwrap();
        let file = open(&path);
        // The standard has it that a mapping changes no bits at the moment of the write, and ext4 none at all.
        let mut map = Map::new(&file, 4096, libc::MAP_SHARED, true).unwrap();
        map.set(5, 5);
        map.sync().unwrap();
        assert_eq!(file.write_at(b"", 0).unwrap(), 0);
        assert_eq!(fs::read(&path).unwrap().len(), 8192);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        sys::setxattr(&path, b"user.other", b"1", 0).unwrap();
        set_times(&path, (1, 1), OMIT).unwrap();
        fs::hard_link(&path, ground.at("linked")).unwrap();
        fs::rename(&path, &moved).unwrap();
        file.sync_all().unwrap();
        assert_eq!(sys::getxattr(&moved, NAME).unwrap(), capability());
        assert_eq!(BOB.tries(|| sys::setxattr(&moved, NAME, &capability(), 0)), libc::EPERM);
        assert_eq!(BOB.tries(|| sys::removexattr(&moved, NAME)), libc::EPERM);
    });
}

#[test]
fn capabilities_outlast_a_remount() {
    let Some(mut stage) = Stage::new() else { return };
    let path = stage.at("program");
    fs::write(&path, "program").unwrap();
    sys::setxattr(&path, NAME, &capability(), 0).unwrap();
    stage.remount();
    assert_eq!(sys::getxattr(&path, NAME).unwrap(), capability());
    // Also where it is the first thing that is done to the file.
    stage.remount();
    open(&path).write_all_at(b"other", 0).unwrap();
    assert_eq!(errno(sys::getxattr(&path, NAME)), libc::ENODATA);
}
