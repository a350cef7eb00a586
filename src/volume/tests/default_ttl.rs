//! The time to live that files get where they are made.

use super::*;
use crate::clock::Time;
use crate::format::keys;

const SECOND: i64 = 1_000_000_000;

/// A volume whose clock stands at second 1000.
fn open(dir: &Path, cache_ttl: Option<u32>) -> Arc<Volume> {
    let settings = Settings { cache_ttl, ..settings(dir) };
    Volume::open(settings, Arc::new(RealDisk), Clock::manual(Time(1000 * SECOND))).unwrap()
}

fn mark(volume: &Volume, ino: Ino, value: &str) {
    volume.run(|v| v.setxattr(&ROOTS, ino, b"user.larder.default-ttl", value.as_bytes(), 0)).unwrap();
}

fn dir(volume: &Volume, dir: Ino, name: &str) -> Ino {
    volume.run(|v| v.mkdir(&ROOTS, dir, name.as_bytes(), 0o755)).unwrap().attr.ino
}

fn file(volume: &Volume, dir: Ino, name: &str) -> Ino {
    volume.run(|v| v.mknod(&ROOTS, dir, name.as_bytes(), 0o644, 0)).unwrap().attr.ino
}

/// The time left and the period, seconds.
fn life(volume: &Volume, ino: Ino) -> Option<(i64, u32)> {
    let rec = volume.run(|v| Ok(v.tree.lock().get(ino)?.rec.clone())).unwrap();
    Some(((rec.expires?.0 - volume.clock.now().0) / SECOND, rec.period?))
}

#[test]
fn the_nearest_directory_that_says_one_gives_new_files_their_ttl() {
    let store = tempfile::tempdir().unwrap();
    let volume = open(store.path(), None);
    let old = file(&volume, ROOT, "old");
    let hour = dir(&volume, ROOT, "hour");
    let below = dir(&volume, hour, "below");
    let lasting = dir(&volume, below, "lasting");
    mark(&volume, hour, "1h");
    mark(&volume, lasting, "never");
    assert_eq!(life(&volume, file(&volume, ROOT, "plain")), None);
    assert_eq!(life(&volume, file(&volume, hour, "a")), Some((3600, 3600)));
    assert_eq!(life(&volume, file(&volume, below, "b")), Some((3600, 3600)));
    let link = volume.run(|v| v.symlink(&ROOTS, below, b"link", b"b")).unwrap().attr.ino;
    assert_eq!(life(&volume, link), Some((3600, 3600)));
    assert_eq!(life(&volume, file(&volume, lasting, "c")), None);
    assert_eq!(life(&volume, dir(&volume, hour, "directory")), None);
    // What was made elsewhere keeps what it has.
    volume.run(|v| v.rename(ROOT, b"old", hour, b"moved", Rename::Replace)).unwrap();
    assert_eq!(life(&volume, old), None);
    volume.run(|v| v.removexattr(&ROOTS, hour, b"user.larder.default-ttl")).unwrap();
    assert_eq!(life(&volume, file(&volume, below, "d")), None);
    volume.close().unwrap();
}

#[test]
fn the_store_s_ttl_holds_where_no_directory_says_another() {
    let store = tempfile::tempdir().unwrap();
    let volume = open(store.path(), Some(600));
    let lasting = dir(&volume, ROOT, "lasting");
    mark(&volume, lasting, "never");
    let brief = file(&volume, ROOT, "brief");
    assert_eq!(life(&volume, brief), Some((600, 600)));
    assert_eq!(life(&volume, file(&volume, lasting, "file")), None);
    volume.clock.set(Time(1300 * SECOND));
    volume.run(|v| v.setxattr(&ROOTS, brief, b"user.larder.touch", b"expiration", 0)).unwrap();
    assert_eq!(life(&volume, brief), Some((600, 600)));
    volume.clock.set(Time(1900 * SECOND));
    assert!(matches!(volume.run(|v| v.lookup(ROOT, b"brief")), Err(Error::NotFound)));
    volume.sweep().unwrap();
    let mut left = 0;
    volume
        .engine
        .scan(keys::under(&[keys::EXPIRY]), &mut |_, _| {
            left += 1;
            true
        })
        .unwrap();
    assert_eq!(left, 0, "marks of files that are gone");
    volume.close().unwrap();
}

#[test]
fn keys_that_are_set_get_the_ttl_of_their_directory_unless_they_say_another() {
    let store = tempfile::tempdir().unwrap();
    let volume = open(store.path(), Some(600));
    mark(&volume, dir(&volume, ROOT, "cache"), "1h");
    let small = b"content".to_vec();
    let large = noise(1, 200_000);
    let set = |path: &str, content: &[u8], expiry| {
        let new = NewFile { expiry, codec: None };
        let change = Change { path: path.as_bytes(), to: To::Content(content, new) };
        volume.apply(&ROOTS, &[change], false).unwrap();
        life(&volume, volume.run(|v| v.resolve(path.as_bytes())).unwrap().0.attr.ino)
    };
    for (name, content) in [("small", &small), ("large", &large)] {
        assert_eq!(set(name, content, None), Some((600, 600)));
        assert_eq!(set(&format!("cache/new/er/{name}"), content, None), Some((3600, 3600)));
        assert_eq!(set(&format!("cache/{name}"), content, Some(Expiry::Never)), None);
        assert_eq!(set(&format!("cache/{name}"), content, Some(Expiry::In(5))), Some((5, 5)));
        assert_eq!(set(&format!("cache/{name}"), content, None), Some((3600, 3600)));
    }
    // A value that takes long to be written lives from when it has its key.
    let new = NewFile::default();
    let unnamed = volume.make_unnamed(&ROOTS, b"cache/slow", &new).unwrap();
    volume.clock.set(Time(2000 * SECOND));
    let change = Change { path: b"cache/slow", to: To::Unnamed(unnamed, new) };
    volume.apply(&ROOTS, &[change], false).unwrap();
    assert_eq!(life(&volume, unnamed), Some((3600, 3600)));
    volume.close().unwrap();
}

#[test]
fn a_default_ttl_is_a_directory_s_and_a_malformed_one_is_refused() {
    let store = tempfile::tempdir().unwrap();
    let volume = open(store.path(), None);
    let name = b"user.larder.default-ttl";
    let set = |ino, value: &[u8]| volume.run(|v| v.setxattr(&ROOTS, ino, name, value, 0));
    for bad in [&b""[..], b"0", b"soon", b"-1", b"1e99", b"5x", b"\xff"] {
        assert!(matches!(set(ROOT, bad), Err(Error::Invalid(_))), "{bad:?}");
    }
    assert_eq!(volume.run(|v| v.listxattr(ROOT)).unwrap(), b"");
    assert!(matches!(set(file(&volume, ROOT, "file"), b"1h"), Err(Error::NotPermitted)));
    for (given, kept) in [(&b"7d"[..], &b"604800"[..]), (b" 90m\n", b"5400"), (b"never", b"never")] {
        set(ROOT, given).unwrap();
        assert_eq!(volume.run(|v| v.getxattr(ROOT, name)).unwrap(), kept);
        assert_eq!(volume.run(|v| v.listxattr(ROOT)).unwrap(), [&name[..], b"\0"].concat());
    }
    volume.close().unwrap();
}
