//! What is got by its key is what is read.

use super::*;
use crate::format::Kind;
use crate::volume::put::{Change, NewFile, To};

#[test]
fn a_key_is_got_as_its_file_is_read_from_memory_and_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    // The content, and the size that it is cut or stretched to.
    let files = [
        ("empty", 0, 0),
        ("small", 100, 100),
        ("stretched", 100, 5000),
        ("cut", 5000, 100),
        ("hole", 0, 5000),
        ("page", PAGE, PAGE),
        ("pages", PAGE + 1, PAGE + 1),
    ];
    for (name, len, size) in files {
        let ino = make(&volume, name);
        write(&volume, ino, 0, &noise(len, len as usize));
        resize(&volume, ino, size);
        volume.forget(ino, 1);
    }
    volume.run(|v| v.mkdir(&ROOTS, ROOT, b"directory", 0o755)).unwrap();
    volume.run(|v| v.symlink(&ROOTS, ROOT, b"link", b"small")).unwrap();
    let check = |volume: &Volume, in_memory: bool| {
        for (name, len, size) in files {
            let mut expected = noise(len, len as usize);
            expected.resize(size as usize, 0);
            let single = size <= PAGE;
            match volume.run(|v| v.get(name.as_bytes())).unwrap() {
                Got::Content(content) => assert!(content == expected && single, "{name}"),
                Got::Held(ino, Kind::File) => {
                    // Of a hole there is nothing in memory before it is read.
                    assert!(!single || !in_memory || len == 0, "{name}");
                    assert!(read(volume, ino, 0, 1 << 20) == expected, "{name}");
                    volume.forget(ino, 1);
                }
                Got::Held(_, kind) => panic!("{name}: {kind:?}"),
            }
        }
        for (name, expected) in [("directory", Kind::Directory), ("link", Kind::Symlink)] {
            let got = volume.run(|v| v.get(name.as_bytes())).unwrap();
            assert!(matches!(got, Got::Held(_, kind) if kind == expected), "{name}: {got:?}");
        }
        for name in ["nothing", "directory/nothing"] {
            let got = volume.run(|v| v.get(name.as_bytes()));
            assert!(matches!(got, Err(Error::NotFound)), "{name}: {got:?}");
        }
        for name in ["small/below", "link/below"] {
            let got = volume.run(|v| v.get(name.as_bytes()));
            assert!(matches!(got, Err(Error::NotADirectory)), "{name}: {got:?}");
        }
    };
    check(&volume, true);
    volume.close().unwrap();
    let volume = real(dir.path());
    check(&volume, false);
    // Now it has been read.
    check(&volume, true);
    volume.close().unwrap();
}

#[test]
fn pages_and_extents_tell_where_content_lies() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let ino = make(&volume, "file");
    let tells = |name: &str| {
        let value = volume.run(|v| v.getxattr(ino, format!("user.larder.{name}").as_bytes())).unwrap();
        String::from_utf8(value).unwrap()
    };
    assert_eq!((tells("pages"), tells("extents")), ("0".into(), String::new()));
    // Two pages, a hole of one, and one that is written later. Pages that are flushed together lie in any order.
    resize(&volume, ino, 4 * PAGE);
    for no in [0, 1] {
        write(&volume, ino, no * PAGE, &noise(no + 1, PAGE as usize));
        volume.sync().unwrap();
    }
    let numbers = |line: &str| -> Vec<u64> {
        line.split(' ').map(|word| u64::from_str_radix(word, 16).unwrap()).collect()
    };
    let first = tells("extents");
    assert_eq!(first.lines().count(), 1, "{first}");
    assert_eq!(&numbers(first.trim_end())[..2], [0, 2]);
    write(&volume, ino, 3 * PAGE, &noise(3, PAGE as usize));
    volume.sync().unwrap();
    assert_eq!(tells("pages"), "3");
    let rows = tells("extents");
    let lines: Vec<&str> = rows.lines().collect();
    assert_eq!(lines.len(), 2, "{rows}");
    assert_eq!(lines[0], first.trim_end());
    assert_eq!(&numbers(lines[1])[..2], [3, 1]);
    // They take what they are said to take, and lie in a segment's file.
    let taken: u64 = lines.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(tells("stored"), taken.to_string());
    let words: Vec<&str> = lines[1].split(' ').collect();
    let segment = dir.path().join("segments").join(&words[2][6..]).join(words[2]);
    let end = words[3].parse::<u64>().unwrap() + words[4].parse::<u64>().unwrap();
    assert!(std::fs::metadata(&segment).unwrap().len() >= end, "{rows}");
    let directory = volume.run(|v| v.getxattr(ROOT, b"user.larder.extents"));
    assert!(matches!(directory, Err(Error::NoAttribute)), "{directory:?}");
    volume.close().unwrap();
}

#[test]
fn a_value_that_was_just_set_is_there_once_it_is_stored_however_little_memory_there_was_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let key = |n: u64| format!("key-{n}");
    for n in 0..100 {
        let content = noise(n, 1000);
        let to = To::Content(&content, NewFile::default());
        volume.apply(&ROOTS, &[Change { path: key(n).as_bytes(), to }], false).unwrap();
    }
    let limit = volume.tree.lock().limit();
    // Evicts some at a time. What has dirty pages stays.
    (0..100).for_each(|_| volume.tree.lock().set_limit(0));
    volume.tree.lock().set_limit(limit);
    volume.sync().unwrap();
    // From the disk.
    volume.cache.set_limits(0, 0);
    volume.cache.set_limits(16 << 20, 8 << 20);
    for n in 0..100 {
        let content = match volume.run(|v| v.get(key(n).as_bytes())).unwrap() {
            Got::Content(content) => content,
            Got::Held(ino, _) => {
                let content = read(&volume, ino, 0, 5000);
                volume.forget(ino, 1);
                content
            }
        };
        assert!(content == noise(n, 1000), "{}", key(n));
    }
    volume.close().unwrap();
}
