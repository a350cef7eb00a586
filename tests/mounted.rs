//! Real mounts by the `larder` command, with real programs and real files. They need root and
//! /dev/fuse, and say so where they skip.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::mounted::{Mounted, have, larder, stderr, succeeds, wait_until};
use support::sys;

/// Bytes that do not compress, another for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let mut next = || {
        // xorshift64* (Vigna 2016).
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Bytes that compress well.
fn text(len: usize) -> Vec<u8> {
    b"the quick brown fox jumps over the lazy dog, and again: ".iter().copied().cycle().take(len).collect()
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn attribute(path: &Path, name: &str) -> Option<String> {
    match sys::getxattr(path, format!("user.larder.{name}").as_bytes()) {
        Ok(value) => Some(String::from_utf8(value).unwrap()),
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => None,
        Err(error) => panic!("{name} of {}: {error}", path.display()),
    }
}

fn set_attribute(path: &Path, name: &str, value: &str) -> std::io::Result<()> {
    sys::setxattr(path, format!("user.larder.{name}").as_bytes(), value.as_bytes(), 0)
}

/// Every path below a directory, with a hash of what it is and holds.
fn tree(top: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut todo = vec![top.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let mut hash = DefaultHasher::new();
            (stat.mode(), stat.uid(), stat.gid(), stat.mtime(), stat.mtime_nsec()).hash(&mut hash);
            if stat.is_dir() {
                todo.push(path.clone());
            } else if stat.is_symlink() {
                fs::read_link(&path).unwrap().hash(&mut hash);
            } else {
                fs::read(&path).unwrap().hash(&mut hash);
            }
            found.insert(path.strip_prefix(top).unwrap().to_str().unwrap().to_owned(), hash.finish());
        }
    }
    found
}

/// A real tree of some thousand files.
fn real_tree() -> &'static Path {
    let include = Path::new("/usr/include");
    if include.is_dir() { include } else { Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")) }
}

#[test]
fn a_copied_tree_is_the_same_bit_for_bit_after_a_remount() {
    let Some(mut mounted) = Mounted::new() else { return };
    let copy = mounted.at("copy");
    succeeds(Command::new("cp").arg("-a").arg(real_tree()).arg(&copy));
    let before = tree(&copy);
    assert_eq!(before, tree(real_tree()), "as it was copied");
    let inodes: Vec<u64> =
        fs::read_dir(&copy).unwrap().map(|e| e.unwrap().metadata().unwrap().ino()).collect();
    mounted.remount();
    assert_eq!(tree(&copy), before, "after a remount");
    let again: Vec<u64> =
        fs::read_dir(&copy).unwrap().map(|e| e.unwrap().metadata().unwrap().ino()).collect();
    assert_eq!(again, inodes, "inode numbers and the order of listing");
}

#[test]
fn an_unmounted_store_can_be_copied_and_the_copy_mounted() {
    let Some(mut mounted) = Mounted::new() else { return };
    fs::write(mounted.at("a"), noise(1, 300_000)).unwrap();
    fs::write(mounted.at("b"), text(5_000_000)).unwrap();
    mounted.umount();
    let (copy, point) = (mounted.beside("copies").join("copy"), mounted.beside("mnt2"));
    succeeds(Command::new("cp").arg("-a").arg(mounted.store()).arg(&copy));
    assert!(larder([Path::new("mount"), &copy, &point]).status.success());
    let same = fs::read(point.join("a")).unwrap() == noise(1, 300_000)
        && fs::read(point.join("b")).unwrap() == text(5_000_000);
    let unmounted = larder([Path::new("umount"), &point]);
    assert!(unmounted.status.success(), "{}", stderr(&unmounted));
    assert!(same, "the copy holds what the store held");
}

#[test]
fn a_git_repository_is_clean_and_whole_after_a_remount() {
    let Some(mut mounted) = Mounted::new() else { return };
    if !have("git") {
        return;
    }
    let repo = mounted.at("repo");
    succeeds(Command::new("cp").arg("-r").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).arg(&repo));
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", &repo).current_dir(&repo);
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "safe.directory=*"]);
        succeeds(command.args(arguments))
    };
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-qm", "all"]);
    git(&["gc", "-q"]);
    assert_eq!(git(&["status", "--porcelain"]), "");
    mounted.remount();
    assert_eq!(git(&["status", "--porcelain"]), "", "after a remount");
    git(&["fsck", "--strict"]);
    // Not a file looks changed by its numbers and times: git need not read any again.
    assert_eq!(git(&["diff-files"]), "");
}

#[test]
fn a_sqlite_database_in_wal_mode_is_whole_after_a_remount() {
    let Some(mut mounted) = Mounted::new() else { return };
    let database = mounted.at("db");
    let sql = |statements: &str| {
        if have("sqlite3") {
            succeeds(Command::new("sqlite3").arg(&database).arg(statements))
        } else {
            let program = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                for s in sys.argv[2].split(';'):\n for r in c.execute(s): print(*r)";
            succeeds(Command::new("python3").arg("-c").arg(program).arg(&database).arg(statements))
        }
    };
    if !have("sqlite3") && !have("python3") {
        return;
    }
    sql("PRAGMA journal_mode=WAL; CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)");
    for n in 0..20 {
        sql(&format!(
            "BEGIN; WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 500) \
             INSERT INTO t (v) SELECT 'row {n} ' || x || hex(randomblob(40)) FROM c; COMMIT"
        ));
    }
    sql("DELETE FROM t WHERE k % 3 = 0; VACUUM");
    let rows = sql("SELECT count(*), sum(k) FROM t");
    mounted.remount();
    assert_eq!(sql("PRAGMA integrity_check").trim(), "ok");
    assert_eq!(sql("SELECT count(*), sum(k) FROM t"), rows);
}

#[test]
fn an_expired_key_is_gone_at_its_second_and_no_other_is() {
    let Some(mounted) = Mounted::new() else { return };
    fs::write(mounted.at("brief"), "x").unwrap();
    fs::write(mounted.at("lasting"), "x").unwrap();
    fs::create_dir_all(mounted.at("dir/below")).unwrap();
    fs::write(mounted.at("dir/below/file"), "x").unwrap();
    let mut held = File::options().read(true).open(mounted.at("brief")).unwrap();
    let start = Instant::now();
    set_attribute(&mounted.at("brief"), "ttl", "4s").unwrap();
    set_attribute(&mounted.at("dir"), "ttl", "4").unwrap();
    let set = Instant::now();
    assert!(attribute(&mounted.at("brief"), "expires").unwrap().contains('T'), "a time of RFC 3339");
    let left: u64 = attribute(&mounted.at("brief"), "ttl").unwrap().parse().unwrap();
    assert!(left <= 4);
    // The kernel has it all cached then.
    for path in ["brief", "dir/below/file", "dir"] {
        assert!(
            mounted.at(path).exists() || start.elapsed() > Duration::from_secs(3),
            "{path} is gone early"
        );
    }
    for path in ["brief", "dir/below/file", "dir"] {
        let (mut seen, mut last, mut pause) = (Duration::ZERO, set.elapsed(), Duration::ZERO);
        wait_until(path, Duration::from_secs(60), || {
            let now = set.elapsed();
            pause = pause.max(now - last);
            last = now;
            let there = mounted.at(path).exists();
            if there {
                seen = now;
            }
            !there
        });
        let gone = start.elapsed();
        assert!(gone > Duration::from_secs(3), "{path} is gone after {gone:?}");
        // A machine that leaves this process alone for a while leaves the daemon alone, too.
        assert!(seen < Duration::from_secs(5) + pause, "{path} is still there after {seen:?}");
    }
    let names: Vec<_> = fs::read_dir(mounted.point()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["lasting"], "what is listed");
    let mut content = String::new();
    held.read_to_string(&mut content).unwrap();
    assert_eq!(content, "x", "a program that holds it open keeps it");
    // Its name is free.
    fs::write(mounted.at("brief"), "new").unwrap();
    assert_eq!(fs::read_to_string(mounted.at("brief")).unwrap(), "new");
    assert_eq!(attribute(&mounted.at("brief"), "expires"), None);
}

#[test]
fn an_expiry_survives_a_remount() {
    let Some(mut mounted) = Mounted::new() else { return };
    for name in ["soon", "later", "passed"] {
        fs::write(mounted.at(name), name).unwrap();
    }
    set_attribute(&mounted.at("later"), "ttl", "7d").unwrap();
    let expires = attribute(&mounted.at("later"), "expires").unwrap();
    set_attribute(&mounted.at("passed"), "ttl", "1s").unwrap();
    let start = Instant::now();
    set_attribute(&mounted.at("soon"), "ttl", "4s").unwrap();
    mounted.umount();
    std::thread::sleep(Duration::from_millis(2100).saturating_sub(start.elapsed()));
    mounted.mount();
    assert!(!mounted.at("passed").exists(), "it expired while it was not mounted");
    assert_eq!(attribute(&mounted.at("later"), "expires"), Some(expires));
    let left: u64 = attribute(&mounted.at("later"), "ttl").unwrap().parse().unwrap();
    assert!((604_700..=604_800).contains(&left), "{left} seconds left of 7 days");
    wait_until("expiry", Duration::from_secs(60), || !mounted.at("soon").exists());
    assert!(start.elapsed() > Duration::from_secs(3), "gone after {:?}", start.elapsed());
    assert!(mounted.at("later").exists());
}

#[test]
fn an_expiry_can_be_taken_back() {
    let Some(mounted) = Mounted::new() else { return };
    fs::write(mounted.at("key"), "x").unwrap();
    set_attribute(&mounted.at("key"), "ttl", "4s").unwrap();
    set_attribute(&mounted.at("key"), "expires", "never").unwrap();
    assert_eq!(attribute(&mounted.at("key"), "expires").filter(|value| value != "never"), None);
    set_attribute(&mounted.at("key"), "expires", "2100-01-01T00:00:00Z").unwrap();
    assert!(attribute(&mounted.at("key"), "expires").unwrap().starts_with("2100-01-01T00:00:00"));
    std::thread::sleep(Duration::from_millis(4500));
    assert!(mounted.at("key").exists(), "the first expiry counts no longer");
}

#[test]
fn the_codec_is_set_by_attribute_and_what_is_stored_can_be_read_off() {
    let Some(mut mounted) = Mounted::new() else { return };
    let content = text(2_000_000);
    let mut stored = BTreeMap::new();
    for codec in ["lz4", "zstd:9", "gzip:6", "deflate", "none", "auto"] {
        let path = mounted.at(codec.replace(':', "-"));
        fs::write(&path, "").unwrap();
        set_attribute(&path, "codec", codec).unwrap();
        let read = attribute(&path, "codec").unwrap();
        assert!(read.starts_with(codec), "{codec} reads as {read}");
        fs::write(&path, &content).unwrap();
        mounted.sync();
        let bytes: u64 = attribute(&path, "stored").unwrap().parse().unwrap();
        let ratio: f64 = attribute(&path, "ratio").unwrap().parse().unwrap();
        assert!(
            (ratio - content.len() as f64 / bytes as f64).abs() < ratio / 20.0,
            "{codec}: {ratio}, {bytes}"
        );
        stored.insert(codec, bytes);
        let blocks = fs::metadata(&path).unwrap().blocks();
        assert!(blocks * 512 >= bytes && blocks * 512 < bytes + 4096 * 20, "{codec}: {blocks} blocks");
    }
    assert!(stored["none"] >= content.len() as u64, "{stored:?}");
    for codec in ["lz4", "zstd:9", "gzip:6", "deflate", "auto"] {
        assert!(stored[codec] * 4 < content.len() as u64, "{codec} of {stored:?}");
    }
    // Listed is what is set, and not what is computed.
    let path = mounted.at("zstd-9");
    let names = sys::listxattr(&path).unwrap();
    assert_eq!(names, [b"user.larder.codec".to_vec()]);
    mounted.remount();
    assert!(attribute(&path, "codec").unwrap().starts_with("zstd:9"));
    for codec in stored.keys() {
        assert!(fs::read(mounted.at(codec.replace(':', "-"))).unwrap() == content, "{codec} after a remount");
    }
}

#[test]
fn a_directory_hands_its_codec_down() {
    let Some(mounted) = Mounted::new() else { return };
    fs::create_dir(mounted.at("raw")).unwrap();
    set_attribute(&mounted.at("raw"), "codec", "none").unwrap();
    fs::create_dir(mounted.at("raw/deeper")).unwrap();
    fs::write(mounted.at("raw/deeper/file"), text(1_000_000)).unwrap();
    fs::write(mounted.at("packed"), text(1_000_000)).unwrap();
    mounted.sync();
    let stored = |path: &str| attribute(&mounted.at(path), "stored").unwrap().parse::<u64>().unwrap();
    assert!(stored("raw/deeper/file") >= 1_000_000, "{}", stored("raw/deeper/file"));
    assert!(stored("packed") < 250_000, "{}", stored("packed"));
}

#[test]
fn links_special_files_and_attributes_are_there_after_a_remount() {
    let Some(mut mounted) = Mounted::new() else { return };
    fs::write(mounted.at("file"), "content").unwrap();
    fs::create_dir(mounted.at("dir")).unwrap();
    fs::hard_link(mounted.at("file"), mounted.at("dir/other")).unwrap();
    symlink("dir/other", mounted.at("soft")).unwrap();
    symlink("nowhere", mounted.at("dangling")).unwrap();
    sys::mknod(&mounted.at("fifo"), libc::S_IFIFO | 0o640).unwrap();
    drop(std::os::unix::net::UnixListener::bind(mounted.at("socket")).unwrap());
    sys::chown(&mounted.at("file"), 1234, 4321).unwrap();
    sys::setxattr(&mounted.at("file"), b"user.note", b"a \0 value", 0).unwrap();
    sys::setxattr(&mounted.at("file"), b"trusted.note", b"t", 0).unwrap();
    sys::setxattr(&mounted.at("dir"), b"user.empty", b"", 0).unwrap();
    sys::setxattr(&mounted.at("dir"), b"user.long", &noise(3, 3000), 0).unwrap();
    for remount in [false, true] {
        if remount {
            mounted.remount();
        }
        let (file, other) =
            (fs::metadata(mounted.at("file")).unwrap(), fs::metadata(mounted.at("dir/other")).unwrap());
        assert_eq!((file.ino(), file.nlink()), (other.ino(), 2));
        assert_eq!((file.uid(), file.gid()), (1234, 4321));
        assert_eq!(fs::read_to_string(mounted.at("soft")).unwrap(), "content");
        assert_eq!(fs::read_link(mounted.at("dangling")).unwrap(), Path::new("nowhere"));
        let fifo = fs::symlink_metadata(mounted.at("fifo")).unwrap();
        assert!(fifo.file_type().is_fifo());
        assert_eq!(fifo.mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(mounted.at("socket")).unwrap().file_type().is_socket());
        assert_eq!(sys::getxattr(&mounted.at("dir/other"), b"user.note").unwrap(), b"a \0 value");
        assert_eq!(sys::getxattr(&mounted.at("file"), b"trusted.note").unwrap(), b"t");
        assert_eq!(sys::getxattr(&mounted.at("dir"), b"user.empty").unwrap(), b"");
        assert_eq!(sys::getxattr(&mounted.at("dir"), b"user.long").unwrap(), noise(3, 3000));
        assert_eq!(fs::metadata(mounted.at("dir")).unwrap().nlink(), 2);
    }
    fs::remove_file(mounted.at("file")).unwrap();
    assert_eq!(fs::metadata(mounted.at("dir/other")).unwrap().nlink(), 1);
    assert_eq!(fs::read_to_string(mounted.at("soft")).unwrap(), "content");
    sys::removexattr(&mounted.at("dir/other"), b"user.note").unwrap();
    let error = sys::getxattr(&mounted.at("dir/other"), b"user.note").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODATA));
}

#[test]
fn posix_acls_are_kept_enforced_and_inherited() {
    let Some(mut mounted) = Mounted::new() else { return };
    if !have("setfacl") || !have("getfacl") || !have("setpriv") {
        return;
    }
    fs::set_permissions(mounted.point(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(mounted.at("file"), "secret\n").unwrap();
    fs::set_permissions(mounted.at("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let reads = |uid: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", "4000", "--clear-groups", "cat"]).arg(mounted.at("file"));
        command.output().unwrap().status.success()
    };
    assert!(!reads("4001"));
    succeeds(Command::new("setfacl").args(["-m", "u:4001:r"]).arg(mounted.at("file")));
    assert!(reads("4001") && !reads("4002"), "the named user may read, others may not");
    fs::create_dir(mounted.at("dir")).unwrap();
    succeeds(Command::new("setfacl").args(["-d", "-m", "u:4001:rw"]).arg(mounted.at("dir")));
    fs::write(mounted.at("dir/child"), "x").unwrap();
    let acl = |path: &str| succeeds(Command::new("getfacl").args(["-cp"]).arg(mounted.at(path)));
    assert!(acl("dir/child").contains("user:4001:rw-"), "{}", acl("dir/child"));
    let before = (acl("file"), acl("dir"), acl("dir/child"));
    mounted.remount();
    let acl = |path: &str| succeeds(Command::new("getfacl").args(["-cp"]).arg(mounted.at(path)));
    assert_eq!((acl("file"), acl("dir"), acl("dir/child")), before);
}

#[test]
fn permissions_hold_against_other_users() {
    let Some(mounted) = Mounted::new() else { return };
    if !have("setpriv") {
        return;
    }
    let nobody = |script: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", script]);
        command.current_dir(mounted.point()).output().unwrap().status.success()
    };
    fs::set_permissions(mounted.point(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(mounted.at("private"), "x").unwrap();
    fs::set_permissions(mounted.at("private"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!nobody("cat private"));
    assert!(!nobody("touch new"), "the root is not writable for others");
    fs::create_dir(mounted.at("shared")).unwrap();
    fs::set_permissions(mounted.at("shared"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(mounted.at("shared/ours"), "x").unwrap();
    assert!(nobody("umask 027; touch shared/theirs && mkdir shared/dir"));
    let theirs = fs::metadata(mounted.at("shared/theirs")).unwrap();
    assert_eq!((theirs.uid(), theirs.gid(), theirs.mode() & 0o777), (65534, 65534, 0o640));
    assert_eq!(fs::metadata(mounted.at("shared/dir")).unwrap().mode() & 0o777, 0o750);
    assert!(!nobody("rm -f shared/ours"), "sticky: another's file stays");
    assert!(nobody("rm shared/theirs"));
    fs::create_dir(mounted.at("group")).unwrap();
    sys::chown(&mounted.at("group"), 0, 777).unwrap();
    fs::set_permissions(mounted.at("group"), fs::Permissions::from_mode(0o2777)).unwrap();
    assert!(nobody("touch group/file && mkdir group/dir"));
    assert_eq!(fs::metadata(mounted.at("group/file")).unwrap().gid(), 777, "setgid hands the group down");
    let dir = fs::metadata(mounted.at("group/dir")).unwrap();
    assert_eq!((dir.gid(), dir.mode() & 0o2000), (777, 0o2000));
}

#[test]
fn suid_is_cleared_by_a_write_of_another_and_by_chown() {
    let Some(mounted) = Mounted::new() else { return };
    if !have("setpriv") {
        return;
    }
    let file = mounted.at("file");
    let nobody = |script: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", script]);
        succeeds(command.current_dir(mounted.point()));
    };
    fs::set_permissions(mounted.point(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&file, "program").unwrap();
    for script in ["printf x >> file", ": > file"] {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o6777)).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o6777);
        nobody(script);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o777, "after {script}");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6777)).unwrap();
    sys::chown(&file, 65534, 65534).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o777, "after chown");
}

#[test]
fn sparse_files_take_no_room_and_tell_their_holes() {
    let Some(mut mounted) = Mounted::new() else { return };
    let path = mounted.at("sparse");
    let file = open(&path);
    file.set_len(1 << 30).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().blocks(), 0);
    let middle = 512 << 20;
    file.write_all_at(&noise(4, 4096), middle).unwrap();
    file.sync_all().unwrap();
    drop(file);
    for remount in [false, true] {
        if remount {
            mounted.remount();
        }
        let file = open(&path);
        assert_eq!(file.metadata().unwrap().len(), 1 << 30);
        assert!(file.metadata().unwrap().blocks() * 512 <= 1 << 20);
        let data = sys::seek(&file, 0, false).unwrap();
        assert!(data <= middle && data > middle - (1 << 20), "data begins at {data}");
        let hole = sys::seek(&file, middle, true).unwrap();
        assert!(hole >= middle + 4096 && hole <= middle + (1 << 20), "and ends at {hole}");
        assert_eq!(sys::seek(&file, hole, false).unwrap_err().raw_os_error(), Some(libc::ENXIO));
        let mut read = vec![1; 8192];
        file.read_exact_at(&mut read, middle - 2048).unwrap();
        assert!(read[..2048].iter().all(|b| *b == 0) && read[2048..6144] == noise(4, 4096));
    }
}

#[test]
fn fallocate_extends_reserves_punches_and_zeroes() {
    let Some(mounted) = Mounted::new() else { return };
    let file = open(&mounted.at("file"));
    let mut expected = noise(5, 600_000);
    file.write_all_at(&expected, 0).unwrap();
    sys::fallocate(&file, libc::FALLOC_FL_KEEP_SIZE, 600_000, 100_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 600_000);
    sys::fallocate(&file, 0, 590_000, 20_000).unwrap();
    expected.resize(610_000, 0);
    sys::fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 100_001, 300_000).unwrap();
    expected[100_001..400_001].fill(0);
    sys::fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, 609_000, 3_000).unwrap();
    expected.resize(612_000, 0);
    expected[609_000..].fill(0);
    assert!(fs::read(mounted.at("file")).unwrap() == expected);
    mounted.sync();
    let stored: u64 = attribute(&mounted.at("file"), "stored").unwrap().parse().unwrap();
    assert!(stored < 450_000, "{stored} bytes stored: two whole pages were punched");
    let error = sys::fallocate(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
}

#[test]
fn copy_file_range_shares_what_is_stored_and_the_copies_part_on_a_write() {
    let Some(mut mounted) = Mounted::new() else { return };
    let content = noise(6, 4 << 20);
    fs::write(mounted.at("a"), &content).unwrap();
    mounted.sync();
    let before = mounted.status()["stored_bytes"].as_u64().unwrap();
    let (a, b) = (open(&mounted.at("a")), open(&mounted.at("b")));
    let mut copied = 0;
    while copied < content.len() as u64 {
        let more = sys::copy_file_range(&a, copied, &b, copied, content.len() as u64 - copied).unwrap();
        assert!(more > 0);
        copied += more;
    }
    drop((a, b));
    mounted.sync();
    let after = mounted.status()["stored_bytes"].as_u64().unwrap();
    assert!(after < before + (1 << 20), "{before} bytes stored before the copy, {after} after");
    assert!(fs::read(mounted.at("b")).unwrap() == content);
    open(&mounted.at("a")).write_all_at(b"changed", 200_000).unwrap();
    assert!(fs::read(mounted.at("b")).unwrap() == content, "the copy stays when the original is written");
    mounted.remount();
    fs::remove_file(mounted.at("a")).unwrap();
    mounted.sync();
    assert!(fs::read(mounted.at("b")).unwrap() == content, "and when it is removed");
}

#[test]
fn a_shared_mapping_is_written_through() {
    let Some(mut mounted) = Mounted::new() else { return };
    let path = mounted.at("mapped");
    let file = open(&path);
    file.set_len(500_000).unwrap();
    let mut map = sys::Map::new(&file, 500_000).unwrap();
    map.write(0, b"first");
    map.write(131_070, b"across");
    map.write(499_990, b"the last 9");
    map.sync().unwrap();
    file.write_all_at(b"beside", 1000).unwrap();
    assert_eq!(map.read(1000, 6), b"beside", "a mapping sees a write");
    drop((map, file));
    mounted.remount();
    let content = fs::read(&path).unwrap();
    assert_eq!(&content[..5], b"first");
    assert_eq!(&content[1000..1006], b"beside");
    assert_eq!(&content[131_070..131_076], b"across");
    assert_eq!(&content[499_990..], b"the last 9");
}

#[test]
fn an_unlinked_file_stays_for_who_holds_it_and_is_reclaimed_then() {
    let Some(mounted) = Mounted::new() else { return };
    let inodes = || mounted.status()["inodes"].as_u64().unwrap();
    let before = inodes();
    let path = mounted.at("open");
    let mut file = open(&path);
    file.write_all(&noise(7, 300_000)).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all(b"and more").unwrap();
    file.sync_all().unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    assert!(content[..300_000] == noise(7, 300_000) && &content[300_000..] == b"and more");
    fs::write(&path, "another").unwrap();
    assert_ne!(fs::metadata(&path).unwrap().ino(), file.metadata().unwrap().ino());
    fs::remove_file(&path).unwrap();
    drop(file);
    wait_until("reclaiming", Duration::from_secs(60), || inodes() == before);
}

#[test]
fn appends_of_two_writers_never_overwrite_each_other() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.at("log");
    fs::write(&path, "").unwrap();
    std::thread::scope(|scope| {
        for who in ["a", "b", "c"] {
            let path = &path;
            scope.spawn(move || {
                let mut log = OpenOptions::new().append(true).open(path).unwrap();
                for n in 0..500 {
                    log.write_all(format!("{who} {n:04}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let log = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 1500);
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 1500, "each line once");
}

#[test]
fn rename_replaces_refuses_and_exchanges() {
    let Some(mut mounted) = Mounted::new() else { return };
    fs::write(mounted.at("a"), "a").unwrap();
    fs::write(mounted.at("b"), "b").unwrap();
    let error = sys::rename(&mounted.at("a"), &mounted.at("b"), libc::RENAME_NOREPLACE).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
    sys::rename(&mounted.at("a"), &mounted.at("b"), libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(fs::read_to_string(mounted.at("a")).unwrap(), "b");
    assert_eq!(fs::read_to_string(mounted.at("b")).unwrap(), "a");
    let mut old = File::options().read(true).open(mounted.at("b")).unwrap();
    fs::rename(mounted.at("a"), mounted.at("b")).unwrap();
    assert!(!mounted.at("a").exists());
    assert_eq!(fs::read_to_string(mounted.at("b")).unwrap(), "b");
    let mut content = String::new();
    old.read_to_string(&mut content).unwrap();
    assert_eq!(content, "a", "who holds the replaced file keeps it");
    drop(old);
    fs::create_dir_all(mounted.at("x/y")).unwrap();
    fs::create_dir(mounted.at("z")).unwrap();
    let error = fs::rename(mounted.at("x"), mounted.at("x/y/in-itself")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    let error = fs::rename(mounted.at("z"), mounted.at("x")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTEMPTY));
    fs::rename(mounted.at("x"), mounted.at("z")).unwrap();
    mounted.remount();
    assert!(mounted.at("z/y").is_dir() && !mounted.at("x").exists());
    assert_eq!(fs::read_to_string(mounted.at("b")).unwrap(), "b");
}

#[test]
fn a_directory_of_10_000_lists_completely_also_while_it_is_emptied() {
    let Some(mut mounted) = Mounted::new() else { return };
    let dir = mounted.at("dir");
    fs::create_dir(&dir).unwrap();
    let mut expected: Vec<String> = (0..10_000).map(|n| format!("entry-{n}")).collect();
    expected.sort_unstable();
    for name in &expected {
        open(&dir.join(name));
    }
    let listed = || {
        let entries = fs::read_dir(&dir).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    };
    assert!(listed() == expected, "{} names", listed().len());
    mounted.remount();
    assert!(listed() == expected, "{} names after a remount", listed().len());
    let mut seen = Vec::new();
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        fs::remove_file(entry.path()).unwrap_or_else(|error| panic!("{:?}: {error}", entry.file_name()));
        seen.push(entry.file_name().into_string().unwrap());
    }
    seen.sort_unstable();
    assert!(seen == expected, "{} names seen while it was emptied", seen.len());
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn two_threads_write_and_read_back_different_files() {
    let Some(mut mounted) = Mounted::new() else { return };
    std::thread::scope(|scope| {
        for seed in [11, 12] {
            let path = mounted.at(format!("file{seed}"));
            scope.spawn(move || {
                let content = noise(seed, 24 << 20);
                let file = open(&path);
                for (n, part) in content.chunks(100_000).enumerate() {
                    file.write_all_at(part, n as u64 * 100_000).unwrap();
                }
                file.sync_all().unwrap();
                assert!(fs::read(&path).unwrap() == content);
            });
        }
    });
    mounted.remount();
    for seed in [11, 12] {
        assert!(fs::read(mounted.at(format!("file{seed}"))).unwrap() == noise(seed, 24 << 20), "{seed}");
    }
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9_and_the_dead_mount_is_replaced() {
    let Some(mut mounted) = Mounted::new() else { return };
    fs::create_dir(mounted.at("dir")).unwrap();
    for n in 0..200 {
        fs::write(mounted.at(format!("dir/{n}")), format!("content {n}")).unwrap();
    }
    for n in 0..50 {
        fs::rename(mounted.at(format!("dir/{n}")), mounted.at(format!("moved{n}"))).unwrap();
        fs::remove_file(mounted.at(format!("dir/{}", n + 50))).unwrap();
    }
    fs::set_permissions(mounted.at("dir/199"), fs::Permissions::from_mode(0o604)).unwrap();
    sys::setxattr(&mounted.at("dir/199"), b"user.mark", b"set", 0).unwrap();
    let mut synced = open(&mounted.at("synced"));
    synced.write_all(&noise(8, 1_000_000)).unwrap();
    synced.sync_all().unwrap();
    drop(synced);
    mounted.kill();
    // What was under way when the daemon died gets another errno first.
    wait_until("the mount is dead", Duration::from_secs(60), || {
        fs::metadata(mounted.point()).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
    });
    mounted.mount();
    for n in 0..200 {
        let (there, moved) =
            (mounted.at(format!("dir/{n}")).exists(), mounted.at(format!("moved{n}")).exists());
        assert_eq!((there, moved), (n >= 100, n < 50), "{n}");
    }
    assert_eq!(fs::metadata(mounted.at("dir/199")).unwrap().mode() & 0o777, 0o604);
    assert_eq!(sys::getxattr(&mounted.at("dir/199"), b"user.mark").unwrap(), b"set");
    assert!(fs::read(mounted.at("synced")).unwrap() == noise(8, 1_000_000), "fsynced content");
    // Content that was not synced is what was written, or not there yet: never anything else.
    for n in 100..200 {
        let content = fs::read_to_string(mounted.at(format!("dir/{n}"))).unwrap();
        assert!(content.is_empty() || content == format!("content {n}"), "{n}: {content:?}");
    }
}

#[test]
fn content_is_there_after_larder_sync_and_kill_9() {
    let Some(mut mounted) = Mounted::new() else { return };
    fs::write(mounted.at("large"), noise(9, 3_000_000)).unwrap();
    fs::write(mounted.at("small"), "small").unwrap();
    mounted.sync();
    mounted.kill();
    mounted.mount();
    assert!(fs::read(mounted.at("large")).unwrap() == noise(9, 3_000_000));
    assert_eq!(fs::read_to_string(mounted.at("small")).unwrap(), "small");
}

#[test]
fn a_busy_mount_is_not_unmounted_and_its_user_is_named() {
    let Some(mounted) = Mounted::new() else { return };
    let held = open(&mounted.at("held"));
    let refused = larder([Path::new("umount"), &mounted.point()]);
    assert_eq!(refused.status.code(), Some(1));
    let me = format!("process {}", std::process::id());
    assert!(stderr(&refused).contains(&me), "{}", stderr(&refused));
    held.write_all_at(b"still served", 0).unwrap();
    assert_eq!(fs::read(mounted.at("held")).unwrap(), b"still served");
}

#[test]
fn status_tells_sizes_ratio_and_cache_use() {
    let Some(mounted) = Mounted::new() else { return };
    fs::write(mounted.at("file"), text(3_000_000)).unwrap();
    mounted.sync();
    let status = mounted.status();
    let number = |name: &str| status[name].as_u64().unwrap_or_else(|| panic!("no {name} in {status}"));
    assert_eq!(number("inodes"), 2);
    assert_eq!(number("content_bytes"), 3_000_000);
    assert!((1..750_000).contains(&number("stored_bytes")), "{status}");
    assert!(number("disk_bytes") >= number("stored_bytes"));
    assert!(
        (8 << 20..=64 << 20).contains(&number("cache_limit")),
        "pages get a good part of 64 MiB: {status}"
    );
    assert!(number("cache_used") <= number("cache_limit"));
    assert!(number("batches") > 0 && number("flushes") > 0);
    let plain = larder([Path::new("status"), &mounted.point()]);
    assert!(String::from_utf8_lossy(&plain.stdout).contains("ratio"), "{plain:?}");
}

#[test]
fn memory_stays_inside_the_limit_while_much_is_written_and_read() {
    let Some(mounted) = Mounted::new() else { return };
    let content = noise(13, 8 << 20);
    for n in 0..40 {
        fs::write(mounted.at(format!("file{n}")), &content).unwrap();
    }
    for n in 0..40 {
        assert!(fs::read(mounted.at(format!("file{n}"))).unwrap() == content, "file{n}");
    }
    let status = mounted.status();
    assert!(status["cache_used"].as_u64().unwrap() <= 64 << 20, "{status}");
    let process = fs::read_to_string(format!("/proc/{}/status", status["pid"])).unwrap();
    let peak = process.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // The limit of 64 MiB and the documented overhead. A debug build is no larger in this.
    assert!(peak < 160 << 10, "the daemon had {peak} KiB");
}
