//! Stores of each version of the format, as that version wrote them: this one opens and reads them whole.
//!
//! `tests/fixtures/format-N.tar.gz` has two stores of format N, `closed` and `killed`, with what [`fill`] puts into them. That of
//! the version at hand is made by `cargo test --test fixture -- --ignored`, once, when the version is new; then it is
//! never changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod model;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use larder::check::{Options, check};
use larder::clock::{Clock, Time};
use larder::config::Settings;
use larder::format::{FORMAT_VERSION, Ino, ROOT};
use larder::io::RealDisk;
use larder::volume::Volume;
use model::ops::Fill;
use model::store::{LEAST_CACHE, NOBODY_SPECIAL, START, list, read};

/// The codecs, and the name of a file of each.
const CODECS: [&str; 5] = ["lz4", "deflate:6", "gzip:6", "zstd:3", "none"];

const EXPIRES: &[u8] = b"2040-01-01T00:00:00Z";

fn archive(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/format-{version}.tar.gz"))
}

fn open(store: &Path) -> Arc<Volume> {
    let mut settings = Settings::new(store.to_owned());
    settings.cache_size_limit = LEAST_CACHE;
    Volume::open(settings, Arc::new(RealDisk), Clock::manual(Time(START))).unwrap()
}

fn make(volume: &Volume, dir: Ino, name: &str, kind: u32) -> Ino {
    volume.run(|v| v.mknod(&NOBODY_SPECIAL, dir, name.as_bytes(), kind | 0o640, 0)).unwrap().attr.ino
}

fn write(volume: &Volume, ino: Ino, offset: u64, bytes: &[u8]) {
    volume.run(|v| v.write(ino, offset, bytes, false)).unwrap();
}

fn set(volume: &Volume, ino: Ino, name: &str, value: &[u8]) {
    volume.run(|v| v.setxattr(&NOBODY_SPECIAL, ino, name.as_bytes(), value, 0)).unwrap();
}

fn find(volume: &Volume, dir: Ino, name: &str) -> Ino {
    volume.run(|v| v.lookup(dir, name.as_bytes())).unwrap_or_else(|error| panic!("{name}: {error}")).attr.ino
}

/// Something of everything that a store can hold. What is not synced at its end is in the journal.
fn fill(volume: &Volume) {
    let caller = &NOBODY_SPECIAL;
    let dir = volume.run(|v| v.mkdir(caller, ROOT, b"dir", 0o2751)).unwrap().attr.ino;
    for codec in CODECS {
        let file = make(volume, dir, codec, libc::S_IFREG);
        set(volume, file, "user.larder.codec", codec.as_bytes());
        write(volume, file, 0, &Fill::Text(1).bytes(150_000));
    }
    let noise = make(volume, ROOT, "noise", libc::S_IFREG);
    write(volume, noise, 0, &Fill::Noise(2).bytes(20_000));
    let sparse = make(volume, ROOT, "sparse", libc::S_IFREG);
    write(volume, sparse, 1 << 32, b"far behind");
    volume.sync().unwrap();
    let copy = make(volume, ROOT, "copy", libc::S_IFREG);
    volume.copy_range(find(volume, dir, "lz4"), 0, copy, 0, 150_000).unwrap();
    let hard = make(volume, ROOT, "hard", libc::S_IFREG);
    write(volume, hard, 0, b"two names");
    volume.run(|v| v.link(hard, dir, b"hard too")).unwrap();
    volume.run(|v| v.symlink(caller, ROOT, b"symbolic", b"dir/lz4")).unwrap();
    make(volume, ROOT, "fifo", libc::S_IFIFO);
    set(volume, hard, "user.a", b"one");
    set(volume, hard, "user.larder.expires", EXPIRES);
    for n in 0..50 {
        make(volume, dir, &format!("empty {n}"), libc::S_IFREG);
    }
    volume.sync().unwrap();
    write(volume, noise, 100, b"a patch");
    volume.fsync(noise, false).unwrap();
}

/// What [`fill`] has put there.
fn expect(volume: &Volume) {
    let stat = |ino: Ino| volume.run(|v| v.getattr(ino)).unwrap().attr;
    let all = |ino: Ino| read(volume, ino, 0, stat(ino).size as u32).unwrap();
    let dir = find(volume, ROOT, "dir");
    assert_eq!((stat(dir).mode, stat(dir).nlink), (libc::S_IFDIR | 0o2751, 2));
    let text = Fill::Text(1).bytes(150_000);
    for codec in CODECS {
        let file = find(volume, dir, codec);
        assert!(all(file) == text, "{codec}");
        let set = volume.run(|v| v.getxattr(file, b"user.larder.codec")).unwrap();
        assert_eq!(String::from_utf8(set).unwrap(), codec);
        assert_eq!((stat(file).mode, stat(file).mtime), (libc::S_IFREG | 0o640, Time(START)));
    }
    assert!(all(find(volume, ROOT, "copy")) == text);
    let mut noise = Fill::Noise(2).bytes(20_000);
    noise[100..107].copy_from_slice(b"a patch");
    assert!(all(find(volume, ROOT, "noise")) == noise);
    let sparse = find(volume, ROOT, "sparse");
    assert_eq!(stat(sparse).size, (1 << 32) + 10);
    assert_eq!(read(volume, sparse, (1 << 32) - 2, 100).unwrap(), b"\0\0far behind");
    let hard = find(volume, ROOT, "hard");
    assert_eq!(
        (find(volume, dir, "hard too"), stat(hard).nlink, all(hard)),
        (hard, 2, b"two names".to_vec())
    );
    assert_eq!(volume.run(|v| v.getxattr(hard, b"user.a")).unwrap(), b"one");
    assert_eq!(volume.run(|v| v.getxattr(hard, b"user.larder.expires")).unwrap(), EXPIRES);
    let symbolic = find(volume, ROOT, "symbolic");
    assert_eq!(volume.run(|v| v.readlink(symbolic)).unwrap(), b"dir/lz4");
    assert_eq!(stat(find(volume, ROOT, "fifo")).mode, libc::S_IFIFO | 0o640);
    assert_eq!(list(volume, dir).unwrap().len(), CODECS.len() + 1 + 50);
    assert_eq!(list(volume, ROOT).unwrap().len(), 7);
}

fn tar(arguments: &[&str]) {
    let done = Command::new("tar").args(arguments).status().expect("tar is there");
    assert!(done.success(), "tar {arguments:?}: {done}");
}

#[test]
fn a_store_of_each_version_of_the_format_is_sound_reads_whole_and_is_written_to() {
    for version in 2..=FORMAT_VERSION {
        let dir = tempfile::tempdir().unwrap();
        tar(&["-xzf", archive(version).to_str().unwrap(), "-C", dir.path().to_str().unwrap()]);
        for name in ["closed", "killed"] {
            let store = dir.path().join(name);
            let sound = || {
                let report = check(Arc::new(RealDisk), &store, &Options::default(), &|_| {}).unwrap();
                assert!(report.is_clean(), "format {version}, {name}: {:?}", report.findings);
            };
            sound();
            let volume = open(&store);
            expect(&volume);
            let new = make(&volume, ROOT, "new", libc::S_IFREG);
            write(&volume, new, 0, &Fill::Text(3).bytes(1000));
            write(&volume, find(&volume, ROOT, "noise"), 100, b"no patch");
            volume.run(|v| v.unlink(ROOT, b"copy")).unwrap();
            volume.close().unwrap();
            sound();
            let volume = open(&store);
            assert!(read(&volume, new, 0, 1000).unwrap() == Fill::Text(3).bytes(1000));
            volume.close().unwrap();
        }
    }
}

#[test]
#[ignore = "makes the fixture of this version of the format, which is done once"]
fn make_the_fixture_of_this_version() {
    let archive = archive(FORMAT_VERSION);
    assert!(!archive.exists(), "{} is there already, and is not to change", archive.display());
    let dir = tempfile::tempdir().unwrap();
    let (closed, killed) = (dir.path().join("closed"), dir.path().join("killed"));
    let volume = open(&closed);
    fill(&volume);
    let copied = Command::new("cp").arg("-r").args([&closed, &killed]).status().unwrap();
    assert!(copied.success());
    volume.close().unwrap();
    std::fs::create_dir_all(archive.parent().unwrap()).unwrap();
    let (archive, dir) = (archive.to_str().unwrap(), dir.path().to_str().unwrap());
    tar(&["-czf", archive, "--sparse", "--owner=0", "--group=0", "-C", dir, "closed", "killed"]);
}
