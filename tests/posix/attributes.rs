//! Extended attributes to their edges: names, sizes, flags, kinds of files, and who may.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use libc::{
    E2BIG, EACCES, EEXIST, EINVAL, ENODATA, EOPNOTSUPP, EPERM, ERANGE, S_IFCHR, S_IFIFO, XATTR_CREATE,
    XATTR_REPLACE,
};

use crate::calls::descriptors::attribute_into;
use crate::calls::paths::mknod;
use crate::ground::on_both;
use crate::process::User;
use crate::support::sys::{getxattr, listxattr, removexattr, setxattr};
use crate::{errno, open_to_read};

const ALICE: User = User { uid: 4001, gid: 4001, groups: &[] };
const BOB: User = User { uid: 4002, gid: 4002, groups: &[] };

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn attributes_keep_to_their_names_sizes_and_flags() {
    on_both(|ground| {
        let path = ground.at("file");
        fs::write(&path, "x").unwrap();
        let set =
            |name: &str, len: usize, flags| errno(setxattr(&path, name.as_bytes(), &vec![b'v'; len], flags));
        assert_eq!(set("user.a", 0, 0), 0);
        assert_eq!(getxattr(&path, b"user.a").unwrap(), b"", "nothing is a value");
        assert_eq!(set("user.a", 1, XATTR_CREATE), EEXIST);
        assert_eq!(set("user.b", 1, XATTR_REPLACE), ENODATA);
        assert_eq!(set("user.b", 1, XATTR_CREATE | XATTR_REPLACE), ENODATA);
        assert_eq!(set("user.a", 1, XATTR_CREATE | XATTR_REPLACE), EEXIST);
        assert_eq!(set("user.b", 1, 8), EINVAL);
        assert_eq!(set("user.a", 100, XATTR_REPLACE), 0);
        let longest = format!("user.{}", "n".repeat(250));
        assert_eq!(set(&longest, 5, 0), 0);
        assert_eq!(set(&format!("{longest}n"), 5, 0), ERANGE);
        assert_eq!(set("", 5, 0), ERANGE);
        assert_eq!(set("user.", 5, 0), EINVAL);
        for name in ["plain", "other.name", "system.unknown", "User.a"] {
            assert_eq!(set(name, 5, 0), EOPNOTSUPP, "{name}");
            assert_eq!(errno(getxattr(&path, name.as_bytes())), EOPNOTSUPP, "{name}");
            assert_eq!(errno(removexattr(&path, name.as_bytes())), EOPNOTSUPP, "{name}");
        }
        // ext4 has a block for all of them.
        assert_eq!(set("user.large", 65_536, 0), ground.differs(libc::ENOSPC, 0));
        assert_eq!(set("user.larger", 65_537, 0), E2BIG);
        let _ = removexattr(&path, b"user.large");
        assert_eq!(errno(removexattr(&path, b"user.b")), ENODATA);
        assert_eq!(errno(getxattr(&path, b"user.b")), ENODATA);
        // Too little room for the answer, and none at all, which asks for its length.
        let file = open_to_read(&path).unwrap();
        assert_eq!(attribute_into(&file, Some("user.a"), 0).unwrap(), 100);
        assert_eq!(errno(attribute_into(&file, Some("user.a"), 99)), ERANGE);
        assert_eq!(attribute_into(&file, Some("user.a"), 100).unwrap(), 100);
        let names = b"user.a\0".len() + longest.len() + 1;
        assert_eq!(attribute_into(&file, None, 0).unwrap(), names as i64);
        assert_eq!(errno(attribute_into(&file, None, names - 1)), ERANGE);
        assert_eq!(attribute_into(&file, None, names).unwrap(), names as i64);
    });
}

#[test]
fn attributes_are_for_whom_and_what_the_manual_says() {
    on_both(|ground| {
        let (path, link, dir) = (ground.at("file"), ground.at("link"), ground.at("dir"));
        ALICE.does(|| fs::write(&path, "x"));
        // user: as the content, and of files and directories alone.
        chmod(&path, 0o644);
        ALICE.does(|| setxattr(&path, b"user.a", b"1", 0));
        BOB.does(|| getxattr(&path, b"user.a"));
        assert_eq!(BOB.tries(|| setxattr(&path, b"user.a", b"2", 0)), EACCES);
        assert_eq!(BOB.tries(|| removexattr(&path, b"user.a")), EACCES);
        chmod(&path, 0o600);
        assert_eq!(BOB.tries(|| getxattr(&path, b"user.a")), EACCES);
        chmod(&path, 0o666);
        BOB.does(|| setxattr(&path, b"user.a", b"2", 0));
        mknod(&ground.at("fifo"), S_IFIFO | 0o666, 0).unwrap();
        mknod(&ground.at("null"), S_IFCHR | 0o666, libc::makedev(1, 3)).unwrap();
        let _socket = UnixListener::bind(ground.at("socket")).unwrap();
        for name in ["fifo", "null", "socket"] {
            assert_eq!(errno(setxattr(&ground.at(name), b"user.a", b"1", 0)), EPERM, "{name}");
            assert_eq!(errno(getxattr(&ground.at(name), b"user.a")), ENODATA, "{name}");
            setxattr(&ground.at(name), b"trusted.a", b"1", 0).unwrap();
        }
        symlink("file", &link).unwrap();
        assert_eq!(getxattr(&link, b"user.a").unwrap(), b"2", "that of its target");
        // In a directory where each looks after his own, its owner does after its attributes.
        fs::create_dir(&dir).unwrap();
        chmod(&dir, 0o1777);
        assert_eq!(BOB.tries(|| setxattr(&dir, b"user.a", b"1", 0)), EPERM);
        chmod(&dir, 0o777);
        BOB.does(|| setxattr(&dir, b"user.a", b"1", 0));
        // trusted: root's, and for others it is not there at all. security: root's to set, everyone's to see.
        setxattr(&path, b"trusted.t", b"1", 0).unwrap();
        setxattr(&path, b"security.s", b"1", 0).unwrap();
        assert_eq!(BOB.tries(|| setxattr(&path, b"trusted.t", b"2", 0)), EPERM);
        assert_eq!(BOB.tries(|| setxattr(&path, b"security.s", b"2", 0)), EPERM);
        assert_eq!(BOB.tries(|| getxattr(&path, b"trusted.t")), ENODATA);
        BOB.does(|| getxattr(&path, b"security.s"));
        let listed = || -> std::io::Result<Vec<String>> {
            let mut names: Vec<_> =
                listxattr(&path)?.into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
            names.sort();
            Ok(names)
        };
        assert_eq!(listed().unwrap(), ["security.s", "trusted.t", "user.a"]);
        BOB.does(|| {
            assert_eq!(listed()?, ["security.s", "user.a"]);
            Ok(())
        });
    });
}
