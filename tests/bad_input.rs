//! Bad input: each error names the thing and the remedy, and nothing that was good is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod model;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use larder::clock::{Clock, Time};
use larder::config::Settings;
use larder::error::Error;
use larder::format::{Ino, ROOT};
use larder::io::RealDisk;
use larder::volume::Volume;
use model::ops::Fill;
use model::store::{NOBODY_SPECIAL, START, read};
use support::mounted::{Mounted, larder, stderr};

/// The page size of a volume, bytes.
const PAGE: usize = 128 << 10;

fn open(store: &Path) -> larder::Result<Arc<Volume>> {
    Volume::open(Settings::new(store), Arc::new(RealDisk), Clock::manual(Time(START)))
}

fn refused(store: &Path) -> String {
    match open(store) {
        Ok(volume) => {
            volume.close().unwrap();
            let format =
                fs::read(store.join("FORMAT")).map(|text| String::from_utf8_lossy(&text).into_owned());
            panic!("{} was opened; FORMAT is {format:?}", store.display());
        }
        Err(error) => error.to_string(),
    }
}

fn make(volume: &Volume, name: &str, content: &[u8]) -> Ino {
    let made = volume.run(|v| v.mknod(&NOBODY_SPECIAL, ROOT, name.as_bytes(), libc::S_IFREG | 0o644, 0));
    let ino = made.unwrap().attr.ino;
    // As the kernel writes.
    for (n, part) in content.chunks(1 << 20).enumerate() {
        volume.run(|v| v.write(ino, (n << 20) as u64, part, false)).unwrap();
    }
    ino
}

fn find(volume: &Volume, name: &str) -> Ino {
    let found = volume.run(|v| v.lookup(ROOT, name.as_bytes()));
    found.unwrap_or_else(|error| panic!("{name}: {error}")).attr.ino
}

fn content(volume: &Volume, name: &str) -> Vec<u8> {
    let ino = find(volume, name);
    let size = volume.run(|v| v.getattr(ino)).unwrap().attr.size;
    read(volume, ino, 0, size as u32).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A store with two files, closed.
fn sample(dir: &Path) -> (PathBuf, BTreeMap<&'static str, Vec<u8>>) {
    let store = dir.join("store");
    let files = BTreeMap::from([
        ("first", Fill::Noise(1).bytes(8 * PAGE as u32)),
        ("second", Fill::Noise(2).bytes(8 * PAGE as u32)),
        ("text", Fill::Text(3).bytes(5 * PAGE as u32)),
    ]);
    let volume = open(&store).unwrap();
    for (name, content) in &files {
        make(&volume, name, content);
        volume.sync().unwrap();
    }
    volume.close().unwrap();
    (store, files)
}

/// Every file below a directory with its content.
fn everything(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.insert(path.clone(), Vec::new());
            found.extend(everything(&path));
        } else if path.is_file() {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// Copies a store as it lies there: with one that is open and idle, what kill -9 would leave.
fn copy(store: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(store).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy(&from, &to);
        } else if from.is_file() {
            fs::copy(&from, &to).unwrap();
        }
    }
}

struct Frame {
    segment: PathBuf,
    offset: u64,
    len: u64,
    ino: u64,
    page: u32,
}

impl Frame {
    /// Whether a message says where it lies, by the segment's file or its number.
    fn is_named(&self, message: &str) -> bool {
        let name = self.segment.file_name().unwrap().to_str().unwrap();
        let number = u32::from_str_radix(name, 16).unwrap();
        message.contains(name) || message.contains(&format!("segment {number} "))
    }
}

/// The frames in a store's segments: found by their magic, as `docs/format.md` draws them.
fn frames(store: &Path) -> Vec<Frame> {
    let mut found = Vec::new();
    for (segment, bytes) in everything(&store.join("segments")) {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut at = 16;
        while at + 48 <= bytes.len() {
            if &bytes[at..at + 4] != b"LRDF" {
                at += 1;
                continue;
            }
            let len = 48 + u64::from(u32_at(at + 36));
            let ino = u64::from_le_bytes(bytes[at + 16..at + 24].try_into().unwrap());
            let segment = segment.clone();
            found.push(Frame { segment, offset: at as u64, len, ino, page: u32_at(at + 12) });
            at += len as usize;
        }
    }
    found
}

/// What was logged, from the first call on.
fn logged() -> &'static Mutex<Vec<String>> {
    struct Kept;
    static LOG: OnceLock<&'static Mutex<Vec<String>>> = OnceLock::new();
    impl log::Log for Kept {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            LOG.get().unwrap().lock().unwrap().push(record.args().to_string());
        }
        fn flush(&self) {}
    }
    LOG.get_or_init(|| {
        log::set_logger(&Kept).unwrap();
        log::set_max_level(log::LevelFilter::Info);
        Box::leak(Box::default())
    })
}

#[test]
fn a_foreign_directory_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let before = everything(dir.path());
    let why = refused(dir.path());
    assert!(why.contains(&*dir.path().to_string_lossy()), "it names the path: {why}");
    assert!(why.contains("store") && why.contains("empty"), "it says what to use instead: {why}");
    assert_eq!(everything(dir.path()), before);
}

#[test]
fn a_path_that_is_a_file_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "content").unwrap();
    let why = refused(&path);
    assert!(why.contains(&*path.to_string_lossy()) && why.contains("directory"), "{why}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "content");
}

#[test]
fn a_store_of_another_format_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (store, files) = sample(dir.path());
    let good = fs::read_to_string(store.join("FORMAT")).unwrap();
    assert!(good.starts_with("larder 2 ") && good.ends_with('\n'), "{good:?}");
    for (line, help) in [("larder 4711 ", "use a newer larder"), ("larder 1 ", "copy the content out")] {
        fs::write(store.join("FORMAT"), good.replace("larder 2 ", line)).unwrap();
        let before = everything(&store);
        let why = refused(&store);
        assert!(why.contains(&*store.to_string_lossy()), "{why}");
        assert!(why.contains(line.trim_start_matches("larder ").trim()), "{why}");
        assert!(why.contains(help), "it says what helps: {why}");
        assert_eq!(everything(&store), before, "nothing was touched");
    }
    fs::write(store.join("FORMAT"), good).unwrap();
    let volume = open(&store).unwrap();
    assert!(files.iter().all(|(name, bytes)| content(&volume, name) == *bytes));
    volume.close().unwrap();
}

#[test]
fn a_garbled_format_file_is_refused_by_name_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = sample(dir.path());
    for garbled in ["", "larder\n", "larder x 0123456789abcdef\n", "\0\0\0\0", "larder 2 nonsense\n"] {
        fs::write(store.join("FORMAT"), garbled).unwrap();
        let before = everything(&store);
        let why = refused(&store);
        assert!(why.contains("FORMAT") && why.contains("larder check --repair"), "{garbled:?}: {why}");
        assert_eq!(everything(&store), before, "{garbled:?}");
    }
}

#[test]
fn a_store_that_is_open_elsewhere_is_refused_and_goes_on_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let volume = open(&store).unwrap();
    make(&volume, "file", b"before");
    let why = refused(&store);
    assert!(why.contains(&*store.to_string_lossy()), "{why}");
    assert!(why.contains("open") || why.contains("in use"), "{why}");
    make(&volume, "another", b"after");
    volume.sync().unwrap();
    volume.close().unwrap();
    let volume = open(&store).expect("it is free once it is closed");
    assert_eq!((content(&volume, "file"), content(&volume, "another")), (b"before".into(), b"after".into()));
    volume.close().unwrap();
}

/// Damages the frame of one page of `first`; that page then is an error and all else is as it was.
fn one_page_is_lost(damage: impl Fn(&Frame), choose: impl Fn(&[Frame]) -> usize) {
    let log = logged();
    let dir = tempfile::tempdir().unwrap();
    let (store, files) = sample(dir.path());
    let frames = frames(&store);
    let frame = &frames[choose(&frames)];
    damage(frame);
    let volume = open(&store).expect("a damaged frame keeps no store from opening");
    let mut lost = Vec::new();
    for (name, bytes) in &files {
        let ino = find(&volume, name);
        for (page, expected) in bytes.chunks(PAGE).enumerate() {
            log.lock().unwrap().clear();
            match read(&volume, ino, (page * PAGE) as u64, PAGE as u32) {
                Ok(found) => assert!(found == expected, "page {page} of {name} is something else"),
                Err(Error::Damaged(why)) | Err(Error::Io { what: why, .. }) => {
                    assert_eq!((ino.0, page as u32), (frame.ino, frame.page), "{why}");
                    let log = log.lock().unwrap().join("\n");
                    // The error goes to the log where it becomes an errno; what the volume has logged counts too.
                    let said = format!("{log}\n{why}");
                    assert!(said.contains(name), "the key, {name}: {said}");
                    assert!(said.contains(&format!("page {page}")), "the page, {page}: {said}");
                    assert!(frame.is_named(&said), "the place, {}: {said}", frame.segment.display());
                    lost.push((name.to_string(), page));
                }
                Err(error) => panic!("page {page} of {name}: {error}"),
            }
        }
    }
    assert_eq!(lost.len(), 1, "pages lost");
    // Asked again it is an error again, and the key can be replaced or removed.
    let (name, page) = &lost[0];
    let ino = find(&volume, name);
    read(&volume, ino, (page * PAGE) as u64, 1).expect_err("it is still damaged");
    volume.run(|v| v.write(ino, (page * PAGE) as u64, &[7; PAGE], false)).expect("written over whole");
    assert_eq!(read(&volume, ino, (page * PAGE) as u64, PAGE as u32).unwrap(), [7; PAGE]);
    volume.run(|v| v.unlink(ROOT, name.as_bytes())).unwrap();
    volume.close().unwrap();
}

#[test]
fn a_flipped_bit_is_an_error_for_its_page_alone_and_never_returned() {
    one_page_is_lost(
        |frame| {
            let file = fs::OpenOptions::new().read(true).write(true).open(&frame.segment).unwrap();
            let at = frame.offset + frame.len / 2;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        },
        |frames| frames.iter().position(|frame| frame.page == 3).unwrap(),
    );
}

#[test]
fn a_truncated_segment_is_an_error_for_what_was_cut_off_alone() {
    one_page_is_lost(
        |frame| {
            let file = fs::OpenOptions::new().write(true).open(&frame.segment).unwrap();
            file.set_len(frame.offset + frame.len / 2).unwrap();
        },
        |frames| {
            // The last of its segment, so that nothing else is cut off.
            let end = |frame: &Frame| frame.offset + frame.len;
            let last = frames.iter().filter(|frame| frame.segment == frames[0].segment).map(end).max();
            frames.iter().position(|f| f.segment == frames[0].segment && Some(end(f)) == last).unwrap()
        },
    );
}

/// What an operation wrote to the journal: the file, and the range of its bytes that are others now.
/// Behind what was written a file may hold what it held under an earlier number.
fn journalled(store: &Path, operation: impl FnOnce()) -> (PathBuf, std::ops::Range<usize>) {
    let before = everything(&store.join("journal"));
    operation();
    let after = everything(&store.join("journal"));
    let mut changed = after.into_iter().filter_map(|(path, bytes)| {
        let old = before.get(&path)?;
        let differs = |at: &usize| old.get(*at) != bytes.get(*at);
        let first = (0..bytes.len()).find(differs)?;
        // Padding says nothing, be it new or not.
        let last = (first..bytes.len()).rfind(|at| differs(at) && bytes[*at] != 0)?;
        Some((path, first..last + 1))
    });
    let written = changed.next().expect("it was journalled");
    assert!(changed.next().is_none(), "in one file");
    written
}

#[test]
fn a_torn_journal_tail_is_cut_and_all_before_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (store, files) = sample(dir.path());
    let volume = open(&store).unwrap();
    make(&volume, "synced", b"safe");
    volume.sync().unwrap();
    let (journal, written) = journalled(&store, || {
        volume.run(|v| v.mkdir(&NOBODY_SPECIAL, ROOT, b"last", 0o755)).unwrap();
    });
    for cut in [1, 7, 20] {
        let torn = dir.path().join(format!("torn{cut}"));
        copy(&store, &torn);
        let journal = torn.join(journal.strip_prefix(&store).unwrap());
        let file = fs::OpenOptions::new().write(true).open(&journal).unwrap();
        file.write_all_at(&vec![0; cut], (written.end - cut) as u64).unwrap();
        drop(file);
        let again = open(&torn).unwrap_or_else(|error| panic!("a tail torn by {cut} bytes: {error}"));
        assert_eq!(content(&again, "synced"), b"safe");
        let torn_off = again.run(|v| v.lookup(ROOT, b"last"));
        assert!(matches!(torn_off, Err(Error::NotFound)), "half a record is none: {torn_off:?}");
        assert!(files.iter().all(|(name, bytes)| content(&again, name) == *bytes));
        make(&again, "new", b"it goes on");
        again.close().unwrap();
        let again = open(&torn).unwrap();
        assert_eq!(content(&again, "new"), b"it goes on");
        again.close().unwrap();
    }
    volume.close().unwrap();
}

#[test]
fn a_damaged_record_in_the_middle_of_the_journal_is_reported_by_name() {
    let log = logged();
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = sample(dir.path());
    let volume = open(&store).unwrap();
    let (journal, written) = journalled(&store, || {
        for n in 0..20 {
            volume.run(|v| v.mkdir(&NOBODY_SPECIAL, ROOT, format!("dir{n}").as_bytes(), 0o755)).unwrap();
            volume.sync().unwrap();
        }
    });
    let damaged = dir.path().join("damaged");
    copy(&store, &damaged);
    volume.close().unwrap();
    let journal = damaged.join(journal.strip_prefix(&store).unwrap());
    let file = fs::OpenOptions::new().read(true).write(true).open(&journal).unwrap();
    let bytes = fs::read(&journal).unwrap();
    let half = (written.start + written.end) / 2;
    let middle = (half..written.end).find(|at| bytes[*at] != 0).expect("a byte that is not padding");
    file.write_all_at(&[bytes[middle] ^ 0xff], middle as u64).unwrap();
    // But for the index: redb notes in its header that it was opened.
    let kept = |store: &Path| {
        let mut files = everything(store);
        files.remove(&store.join("index.redb"));
        files
    };
    let before = kept(&damaged);
    log.lock().unwrap().clear();
    let name = journal.file_name().unwrap().to_string_lossy().into_owned();
    match open(&damaged) {
        Err(error) => {
            let why = error.to_string();
            assert!(why.contains("journal") && why.contains(&name), "it names the file: {why}");
            assert!(kept(&damaged) == before, "nothing was touched");
        }
        Ok(volume) => {
            let said = log.lock().unwrap().join("\n") + &volume.read_only().unwrap_or_default();
            volume.close().unwrap();
            panic!("synced records behind the damage were dropped; it said: {said:?}");
        }
    }
    // With its byte back everything is there: nothing was lost by the attempt.
    file.write_all_at(&bytes[middle..=middle], middle as u64).unwrap();
    let volume = open(&damaged).unwrap();
    for n in 0..20 {
        find(&volume, &format!("dir{n}"));
    }
    volume.close().unwrap();
}

#[test]
fn a_missing_index_is_reported_by_name_and_nothing_else_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (store, files) = sample(dir.path());
    let aside = dir.path().join("aside");
    fs::rename(store.join("index.redb"), &aside).unwrap();
    let before = everything(&store);
    let why = refused(&store);
    assert!(why.contains("index.redb"), "it names the file: {why}");
    assert!(why.contains("backup") || why.contains("rebuild"), "and the remedy: {why}");
    assert_eq!(everything(&store), before, "nothing was touched, above all no empty index made");
    fs::rename(&aside, store.join("index.redb")).unwrap();
    let volume = open(&store).expect("with its index back it is whole");
    assert!(files.iter().all(|(name, bytes)| content(&volume, name) == *bytes));
    volume.close().unwrap();
}

#[test]
fn a_malformed_attribute_is_refused_by_name_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(&dir.path().join("store")).unwrap();
    let ino = make(&volume, "key", b"value");
    let get = |name: &str| volume.run(|v| v.getxattr(ino, name.as_bytes()));
    let set = |name: &str, value: &[u8]| {
        volume.run(|v| v.setxattr(&NOBODY_SPECIAL, ino, name.as_bytes(), value, 0))
    };
    set("user.larder.codec", b"zstd:9").unwrap();
    set("user.larder.ttl", b"7d").unwrap();
    let before = (get("user.larder.codec").unwrap(), get("user.larder.expires").unwrap());
    let attr = volume.run(|v| v.getattr(ino)).unwrap().attr;
    let cases: [(&str, &[&[u8]]); 3] = [
        ("ttl", &[b"soon", b"", b"-5", b"5 parsecs", b"99999999999999999999d", b"\xff\xfe"]),
        ("codec", &[b"lz5", b"", b"zstd:99", b"zstd:x", b"none:1", b"\xff"]),
        ("expires", &[b"yesterday-ish", b"", b"2026-13-45T00:00:00Z", b"99999999999999999999", b"\xff"]),
    ];
    for (name, values) in cases {
        for value in values {
            let shown = String::from_utf8_lossy(value);
            match set(&format!("user.larder.{name}"), value) {
                Err(Error::Invalid(why)) => assert!(why.contains(name), "{name} = {shown:?}: {why}"),
                other => panic!("{name} = {shown:?}: {other:?}"),
            }
        }
    }
    assert_eq!((get("user.larder.codec").unwrap(), get("user.larder.expires").unwrap()), before);
    assert_eq!(volume.run(|v| v.getattr(ino)).unwrap().attr, attr, "no time was changed either");
    assert_eq!(content(&volume, "key"), b"value");
    volume.close().unwrap();
}

#[test]
fn computed_attributes_cannot_be_set_and_unknown_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(&dir.path().join("store")).unwrap();
    let ino = make(&volume, "key", b"value");
    for name in ["user.larder.stored", "user.larder.ratio", "user.larder.no-such-attribute"] {
        let set = volume.run(|v| v.setxattr(&NOBODY_SPECIAL, ino, name.as_bytes(), b"1", 0));
        assert!(set.is_err(), "{name} was set");
    }
    assert_eq!(volume.run(|v| v.listxattr(ino)).unwrap(), b"");
    volume.close().unwrap();
}

#[test]
fn a_name_that_is_too_long_is_refused_before_anything_changes() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(&dir.path().join("store")).unwrap();
    let before = volume.stats().unwrap().inodes;
    let name = [b'x'; 256];
    let made = volume.run(|v| v.mknod(&NOBODY_SPECIAL, ROOT, &name, libc::S_IFREG | 0o644, 0));
    assert!(matches!(made, Err(Error::NameTooLong)), "{made:?}");
    let made = volume.run(|v| v.mkdir(&NOBODY_SPECIAL, ROOT, &name, 0o755));
    assert!(matches!(made, Err(Error::NameTooLong)), "{made:?}");
    volume.run(|v| v.mkdir(&NOBODY_SPECIAL, ROOT, &name[..255], 0o755)).expect("255 are allowed");
    assert_eq!(volume.stats().unwrap().inodes, before + 1);
    volume.close().unwrap();
}

/// What `larder mount` says when it refuses.
fn mount_refused(store: &Path, point: &Path) -> String {
    let output = larder([Path::new("mount"), store, point]);
    if output.status.success() {
        larder([Path::new("umount"), point]);
        panic!("{} was mounted", store.display());
    }
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.starts_with("larder: ") && text.lines().count() <= 3, "{text}");
    text
}

#[test]
fn larder_mount_refuses_stores_and_mount_points_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for made in ["mnt", "foreign", "empty"] {
        fs::create_dir(path(made)).unwrap();
    }
    fs::write(path("foreign/file"), "content").unwrap();
    fs::write(path("file"), "content").unwrap();
    let (newer, _) = sample(&path("empty"));
    fs::write(newer.join("FORMAT"), "larder 4711 0123456789abcdef\n").unwrap();
    let before = everything(dir.path());
    for (store, point, named, remedy) in [
        (path("foreign"), path("mnt"), "foreign", "empty"),
        (path("file"), path("mnt"), "file", "directory"),
        (newer.clone(), path("mnt"), "4711", "newer"),
        (path("new"), path("missing"), "missing", "mkdir"),
        (path("new"), path("file"), "file", "directory"),
    ] {
        let text = mount_refused(&store, &point);
        assert!(text.contains(named) && text.contains(remedy), "{named}, {remedy}: {text}");
    }
    assert_eq!(everything(dir.path()), before, "nothing was touched and no store made");
}

#[test]
fn larder_mount_refuses_a_store_that_is_mounted_elsewhere() {
    let Some(mounted) = Mounted::new() else { return };
    fs::write(mounted.at("file"), "content").unwrap();
    let text = mount_refused(&mounted.store(), &mounted.beside("mnt2"));
    assert!(text.contains(&*mounted.store().to_string_lossy()), "{text}");
    let text = mount_refused(&mounted.beside("other"), &mounted.point());
    assert!(text.contains(&*mounted.point().to_string_lossy()) && text.contains("umount"), "{text}");
    assert_eq!(fs::read_to_string(mounted.at("file")).unwrap(), "content", "the mount goes on");
}

#[test]
fn a_malformed_attribute_is_einval_through_the_mount_and_the_log_says_why() {
    let Some(mounted) = Mounted::new() else { return };
    fs::write(mounted.at("key"), "value").unwrap();
    for (name, value) in [("ttl", "soon"), ("codec", "lz5"), ("expires", "yesterday-ish")] {
        let name = format!("user.larder.{name}");
        let error = support::sys::setxattr(&mounted.at("key"), name.as_bytes(), value.as_bytes(), 0);
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EINVAL), "{name} = {value}");
        assert!(mounted.log().contains(value), "{}", mounted.log());
    }
    assert_eq!(fs::read_to_string(mounted.at("key")).unwrap(), "value");
    assert!(support::sys::listxattr(&mounted.at("key")).unwrap().is_empty());
}

#[test]
fn a_flipped_bit_is_eio_through_the_mount_and_the_log_names_key_page_and_place() {
    let Some(mut mounted) = Mounted::new() else { return };
    fs::write(mounted.at("good"), Fill::Noise(1).bytes(PAGE as u32)).unwrap();
    fs::write(mounted.at("bad"), Fill::Noise(2).bytes(3 * PAGE as u32)).unwrap();
    let ino = std::os::unix::fs::MetadataExt::ino(&fs::metadata(mounted.at("bad")).unwrap());
    mounted.umount();
    let frames = frames(&mounted.store());
    let frame = frames.iter().find(|frame| frame.ino == ino && frame.page == 1).expect("page 1 has a frame");
    let file = fs::OpenOptions::new().write(true).open(&frame.segment).unwrap();
    file.write_all_at(b"\0damage\0", frame.offset + 1000).unwrap();
    mounted.mount();
    let bad = fs::OpenOptions::new().read(true).open(mounted.at("bad")).unwrap();
    let mut page = vec![0; PAGE];
    let error = bad.read_exact_at(&mut page, PAGE as u64).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    bad.read_exact_at(&mut page, 2 * PAGE as u64).expect("the page behind it is whole");
    assert!(fs::read(mounted.at("good")).unwrap() == Fill::Noise(1).bytes(PAGE as u32));
    let log = mounted.log();
    for part in ["bad", "page 1"] {
        assert!(log.contains(part), "{part} is not in the log: {log}");
    }
    assert!(frame.is_named(&log), "{} is not in the log: {log}", frame.segment.display());
    drop(bad);
}
