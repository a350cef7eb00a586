//! Flags of open(2), what an opened file lets one do, its locks and leases.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use libc::{
    EACCES, EBADF, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO, EPERM, O_APPEND, O_CREAT, O_DIRECT,
    O_DIRECTORY, O_EXCL, O_NOATIME, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC,
    O_WRONLY,
};

use crate::calls::descriptors::{
    Aligned, count_signal, flags, ioctl, lease, leased, lock_as_is, seek, signals, truncate,
};
use crate::calls::paths::{mknod, open, open_at, read_open_link};
use crate::ground::on_both;
use crate::process::{Child, User};
use crate::support::mounted::wait_until;
use crate::{errno, open_to_read};

const ALICE: User = User { uid: 4001, gid: 4001, groups: &[] };
const BOB: User = User { uid: 4002, gid: 4002, groups: &[] };

#[test]
fn open_takes_and_refuses_what_its_flags_say() {
    on_both(|ground| {
        let (file, dir) = (ground.at("file"), ground.at("dir"));
        fs::write(&file, "content").unwrap();
        fs::create_dir(&dir).unwrap();
        symlink("file", ground.at("link")).unwrap();
        symlink("nowhere", ground.at("dangling")).unwrap();
        let tried = |name: &str, flags| errno(open(&ground.at(name), flags, 0o644));
        for (name, flags, expected) in [
            ("file", O_CREAT | O_EXCL | O_RDWR, EEXIST),
            ("link", O_CREAT | O_EXCL | O_RDWR, EEXIST),
            ("dangling", O_CREAT | O_EXCL | O_RDWR, EEXIST),
            ("dangling", O_RDWR, ENOENT),
            ("dir", O_CREAT | O_EXCL | O_RDONLY, EEXIST),
            ("link", O_NOFOLLOW | O_RDONLY, ELOOP),
            ("dangling", O_NOFOLLOW | O_CREAT | O_RDWR, ELOOP),
            ("file", O_NOFOLLOW | O_RDONLY, 0),
            ("file", O_DIRECTORY | O_RDONLY, ENOTDIR),
            ("link", O_DIRECTORY | O_RDONLY, ENOTDIR),
            ("dir", O_DIRECTORY | O_RDONLY, 0),
            ("new", O_DIRECTORY | O_CREAT | O_RDONLY, EINVAL),
            ("dir", O_WRONLY, EISDIR),
            ("dir", O_RDWR | O_TRUNC, EISDIR),
            ("dir", O_CREAT | O_RDONLY, EISDIR),
            ("new/", O_CREAT | O_RDWR, EISDIR),
            ("file/", O_RDONLY, ENOTDIR),
            ("file/x", O_CREAT | O_RDWR, ENOTDIR),
            ("no/x", O_CREAT | O_RDWR, ENOENT),
            ("file", O_RDWR | O_APPEND | O_DIRECT, 0),
        ] {
            assert_eq!(tried(name, flags), expected, "{name} with {flags:#o}");
        }
        assert!(!ground.at("new").exists() && !ground.at("nowhere").exists());
        assert_eq!(fs::read(&file).unwrap(), b"content", "nothing of it touched the file");
        // A dangling link is followed by O_CREAT alone.
        assert_eq!(tried("dangling", O_CREAT | O_RDWR), 0);
        assert!(ground.at("nowhere").exists());
        // POSIX leaves it open; Linux cuts it.
        assert_eq!(tried("link", O_RDONLY | O_TRUNC), 0);
        assert_eq!(fs::metadata(&file).unwrap().len(), 0);
        // Who makes a file has it open as asked, whatever its mode allows later.
        let mut made = open(&ground.at("made"), O_CREAT | O_EXCL | O_RDWR, 0).unwrap();
        made.write_all(b"x").unwrap();
        BOB.does(|| {
            let mut his = open(&ground.at("his"), O_CREAT | O_RDWR, 0)?;
            his.write_all(b"x")?;
            assert_eq!(errno(open(&ground.at("his"), O_RDONLY, 0)), EACCES);
            Ok(())
        });
        assert_eq!(flags(&made) & (libc::O_ACCMODE | O_APPEND), O_RDWR);
        // Files that are no files.
        let _socket = UnixListener::bind(ground.at("socket")).unwrap();
        mknod(&ground.at("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
        assert_eq!(tried("socket", O_RDWR), ENXIO);
        assert_eq!(tried("fifo", O_WRONLY | O_NONBLOCK), ENXIO);
        assert_eq!(tried("fifo", O_RDONLY | O_NONBLOCK), 0);
        // A file without a name; ext4 has it, and Larder says what the manual names.
        let nameless = errno(open(&dir, O_TMPFILE | O_RDWR, 0o600));
        assert_eq!(nameless, ground.differs(0, libc::EOPNOTSUPP));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    });
}

#[test]
fn o_path_gives_a_place_and_nothing_else() {
    on_both(|ground| {
        let file = ground.at("file");
        fs::write(&file, "content").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o0)).unwrap();
        symlink("file", ground.at("link")).unwrap();
        BOB.does(|| {
            // No right to the file is needed.
            let mut place = open(&file, O_PATH, 0)?;
            assert_eq!(place.metadata()?.len(), 7);
            assert_eq!(errno(place.read(&mut [0; 5])), EBADF);
            assert_eq!(errno(place.write_at(b"x", 0)), EBADF);
            assert_eq!(errno(truncate(&place, 0)), EBADF);
            assert_eq!(errno(ioctl(&place, libc::FIONREAD)), EBADF);
            assert_eq!(errno(place.set_permissions(PermissionsExt::from_mode(0o777))), EBADF);
            // It becomes no more by being opened again.
            assert_eq!(errno(open_to_read(format!("/proc/self/fd/{}", place.as_raw_fd()))), EACCES);
            let link = open(&ground.at("link"), O_PATH | O_NOFOLLOW, 0)?;
            assert!(link.metadata()?.is_symlink());
            assert_eq!(read_open_link(&link)?, b"file");
            let dir = open(&ground.at("."), O_PATH | O_DIRECTORY, 0)?;
            assert_eq!(errno(open_at(Some(&dir), "file".as_ref(), O_RDONLY, 0)), EACCES);
            open_at(Some(&dir), "new".as_ref(), O_CREAT | O_RDWR, 0o600).map(drop)
        });
        let place = open(&file, O_PATH, 0).unwrap();
        fs::rename(&file, ground.at("moved")).unwrap();
        fs::remove_file(ground.at("moved")).unwrap();
        assert_eq!(place.metadata().unwrap().nlink(), 0, "its file stays while it is held");
        let again = open_to_read(format!("/proc/self/fd/{}", place.as_raw_fd()));
        assert_eq!(std::io::read_to_string(again.unwrap()).unwrap(), "content");
    });
}

#[test]
fn direct_io_takes_what_is_aligned_and_agrees_with_what_is_cached() {
    on_both(|ground| {
        let path = ground.at("file");
        let cached = crate::open(&path);
        cached.write_all_at(&[1; 300_000], 0).unwrap();
        let direct = File::options().read(true).write(true).custom_flags(O_DIRECT).open(&path).unwrap();
        let mut memory = Aligned::new(8192, 0, 0);
        assert_eq!(direct.read_at(memory.bytes_mut(8192), 4096).unwrap(), 8192);
        assert!(memory.bytes(8192).iter().all(|byte| *byte == 1), "what was only written to the cache");
        direct.write_all_at(Aligned::new(8192, 0, 2).bytes(8192), 8192).unwrap();
        let mut seen = [0; 8192];
        cached.read_exact_at(&mut seen, 8192).unwrap();
        assert_eq!(seen, [2; 8192], "the cache has no old content");
        // The end of the file is where it is, and beyond it is nothing.
        assert_eq!(direct.read_at(memory.bytes_mut(8192), 299_008).unwrap(), 992);
        assert_eq!(direct.read_at(memory.bytes_mut(8192), 303_104).unwrap(), 0);
        // ext4 refuses what is not aligned; Larder, which has no device below it to please, takes it.
        let refused = ground.differs(EINVAL, 0);
        assert_eq!(errno(direct.read_at(memory.bytes_mut(4096), 100)), refused, "offset");
        assert_eq!(errno(direct.read_at(memory.bytes_mut(100), 0)), refused, "length");
        assert_eq!(errno(direct.read_at(Aligned::new(4096, 3, 0).bytes_mut(4096), 0)), refused, "memory");
        assert_eq!(errno(direct.write_at(Aligned::new(4096, 3, 3).bytes(100), 7)), refused, "write");
        cached.read_exact_at(&mut seen[..8], 0).unwrap();
        assert_eq!(seen[..8], ground.differs([1; 8], [1, 1, 1, 1, 1, 1, 1, 3]));
    });
}

#[test]
fn o_noatime_is_for_the_owner() {
    on_both(|ground| {
        let path = ground.at("file");
        ALICE.does(|| fs::write(&path, "x"));
        fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        ALICE.does(|| open(&path, O_NOATIME | O_RDONLY, 0));
        assert_eq!(BOB.tries(|| open(&path, O_NOATIME | O_RDONLY, 0)), EPERM);
        assert_eq!(errno(open(&path, O_NOATIME | O_RDWR, 0)), 0, "and for root");
    });
}

#[test]
fn a_lease_is_had_by_the_only_opener_and_broken_by_the_next() {
    on_both(|ground| {
        let path = ground.at("file");
        let file = crate::open(&path);
        for kind in [libc::F_WRLCK, libc::F_RDLCK] {
            let second = open_to_read(&path).unwrap();
            if kind == libc::F_WRLCK {
                assert_eq!(errno(lease(&file, kind)), libc::EAGAIN, "another has it open");
            } else {
                assert_eq!(errno(lease(&second, kind)), libc::EAGAIN, "it is open for writing");
            }
        }
        drop(file);
        assert_eq!(BOB.tries(|| lease(&open_to_read(&path)?, libc::F_RDLCK)), EACCES, "of another's file");
        let mut holder = Child::spawn(|wire| {
            count_signal(libc::SIGIO);
            let mine = crate::open(&path);
            lease(&mine, libc::F_WRLCK).unwrap();
            assert_eq!(leased(&mine), libc::F_WRLCK);
            wire.say("leased");
            wait_until("the lease is to be given back", Duration::from_secs(30), || signals() > 0);
            mine.write_all_at(b"saved before", 0).unwrap();
            lease(&mine, libc::F_UNLCK).unwrap();
            wire.say("given back");
            wire.hear();
        });
        holder.says("leased");
        assert_eq!(errno(open(&path, O_RDWR | O_NONBLOCK, 0)), libc::EWOULDBLOCK);
        // This one waits until the lease is given back.
        let content = fs::read(&path).unwrap();
        assert_eq!(content, b"saved before");
        holder.says("given back");
    });
}

#[test]
fn a_lock_is_told_by_any_of_its_ends_and_malformed_ones_are_refused() {
    on_both(|ground| {
        let path = ground.at("file");
        let file = crate::open(&path);
        file.set_len(1000).unwrap();
        let lock = |kind: i32, whence: i32, start: i64, len: i64| libc::flock {
            l_type: kind as i16,
            l_whence: whence as i16,
            l_start: start,
            l_len: len,
            l_pid: 0,
        };
        let (cur, end) = (libc::SEEK_CUR, libc::SEEK_END);
        seek(&file, 100, libc::SEEK_SET).unwrap();
        // 150..160 from the place, 900..=999 from the end, 190..200 backwards.
        for (whence, start, len) in [(cur, 50, 10), (end, -100, 100), (cur, 100, -10)] {
            lock_as_is(&file, libc::F_SETLK, &mut lock(libc::F_WRLCK, whence, start, len)).unwrap();
        }
        let mut other = Child::spawn(|wire| {
            let file = crate::open(&path);
            for (from, expected) in [(0, (150, 10)), (160, (190, 10)), (200, (900, 100))] {
                let mut found = lock(libc::F_RDLCK, libc::SEEK_SET, from, 0);
                lock_as_is(&file, libc::F_GETLK, &mut found).unwrap();
                assert_eq!((found.l_start, found.l_len), expected);
                assert_eq!(i32::from(found.l_whence), libc::SEEK_SET);
                assert_eq!(found.l_pid, nix::unistd::getppid().as_raw());
            }
            let mut free = lock(libc::F_WRLCK, libc::SEEK_SET, 0, 150);
            lock_as_is(&file, libc::F_OFD_GETLK, &mut free).unwrap();
            assert_eq!(i32::from(free.l_type), libc::F_UNLCK);
            wire.say("through");
        });
        other.says("through");
        let refused = |command, mut lock: libc::flock| errno(lock_as_is(&file, command, &mut lock));
        assert_eq!(refused(libc::F_SETLK, lock(libc::F_WRLCK, cur, -101, 1)), EINVAL);
        assert_eq!(refused(libc::F_SETLK, lock(libc::F_WRLCK, libc::SEEK_SET, 5, -6)), EINVAL);
        assert_eq!(refused(libc::F_SETLK, lock(libc::F_WRLCK, end, i64::MAX, 1)), libc::EOVERFLOW);
        assert_eq!(refused(libc::F_SETLK, lock(libc::F_WRLCK, 9, 0, 1)), EINVAL);
        assert_eq!(refused(libc::F_SETLK, lock(77, libc::SEEK_SET, 0, 1)), EINVAL);
        let of_a_process = libc::flock { l_pid: 1, ..lock(libc::F_WRLCK, libc::SEEK_SET, 0, 1) };
        assert_eq!(refused(libc::F_OFD_SETLK, of_a_process), EINVAL, "it belongs to none");
        let (reader, writer) = (open_to_read(&path).unwrap(), open(&path, O_WRONLY, 0).unwrap());
        let mut for_writing = lock(libc::F_WRLCK, libc::SEEK_SET, 0, 1);
        assert_eq!(errno(lock_as_is(&reader, libc::F_SETLK, &mut for_writing)), EBADF);
        let mut for_reading = lock(libc::F_RDLCK, libc::SEEK_SET, 0, 1);
        assert_eq!(errno(lock_as_is(&writer, libc::F_SETLK, &mut for_reading)), EBADF);
        let place = open(&path, O_PATH, 0).unwrap();
        assert_eq!(errno(lock_as_is(&place, libc::F_SETLK, &mut for_reading)), EBADF);
    });
}
