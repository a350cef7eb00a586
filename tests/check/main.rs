//! `larder check`: each class of damage is found and named, and nothing is where nothing is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod cases;
#[path = "../model/mod.rs"]
mod model;
mod rebuild;
mod repair;
mod sample;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder::check::Severity::{Error as Bad, Note, Warning};
use larder::check::{Options, check};
use larder::clock::{Clock, Time};
use larder::error::{Error, Result};
use larder::format::{Extent, Ino, ROOT, SegmentId};
use larder::io::Io;
use larder::io::faulty::FaultyDisk;
use larder::volume::Volume;
use model::ops::Fill;
use model::store::{Disk, LEAST_CACHE, NOBODY_SPECIAL, START, list, read};
use sample::{STORE, Sample, listed, says};
use support::mounted::{larder, stderr};

#[test]
fn a_sound_store_is_found_sound_and_left_as_it_is() {
    for killed in [false, true] {
        let sample = Sample::new(killed);
        let before = contents(&sample.disk);
        let report = sample.report();
        assert!(report.is_clean() && report.findings.is_empty(), "killed: {killed}\n{}", listed(&report));
        assert_eq!((report.figures.inodes, report.figures.pages), (12, 11), "killed: {killed}");
        assert!(
            report.figures.verified > 0 && report.figures.verified < report.figures.pages,
            "shared ones once"
        );
        assert!(contents(&sample.disk) == before, "the check changed something; killed: {killed}");
    }
}

/// Every file with its content.
fn contents(disk: &FaultyDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::from(STORE)];
    while let Some(path) = todo.pop() {
        match disk.list(&path) {
            Ok(inside) => todo.extend(inside),
            Err(_) => {
                let file = disk.open(&path, false).unwrap();
                let mut bytes = vec![0; file.len().unwrap() as usize];
                file.read_at(&mut bytes, 0).unwrap();
                found.insert(path, bytes);
            }
        }
    }
    found
}

fn segment_path(id: SegmentId) -> String {
    format!("segments/{:02x}/{:08x}", id.0 & 0xff, id.0)
}

#[test]
fn a_flipped_bit_in_a_frame_or_a_segments_header_is_found() {
    let sample = Sample::new(false);
    let Extent { segment, offset, len } = sample.page("text", 0).extent;
    // Magic, version, codec, flags, page, inode, lengths, checksum, the first and the last of the payload.
    for at in [0, 4, 5, 6, 12, 16, 32, 36, 40, 48, len - 1] {
        let damaged = sample.again();
        damaged.flip(&segment_path(segment), u64::from(offset + at) * 8 + 2);
        let report = damaged.report();
        assert!(says(&report, Bad, "frames", "(/dir/text): page 0"), "byte {at}:\n{}", listed(&report));
        assert_eq!(report.errors, 1, "byte {at}:\n{}", listed(&report));
    }
    for at in 0..12 {
        let damaged = sample.again();
        damaged.flip(&segment_path(segment), at * 8);
        let report = damaged.report();
        assert!(
            says(&report, Bad, "segments", "does not begin as this segment"),
            "byte {at}:\n{}",
            listed(&report)
        );
    }
}

#[test]
fn a_swapped_a_stale_and_a_duplicated_frame_are_found() {
    let sample = Sample::new(false);
    let (a, b) = (sample.page("twin", 0).extent, sample.page("other", 0).extent);
    assert_eq!((a.segment, a.len), (b.segment, b.len));
    let bytes = |sample: &Sample, extent: Extent| {
        let mut bytes = vec![0; extent.len as usize];
        sample.file(&segment_path(extent.segment)).read_at(&mut bytes, extent.offset.into()).unwrap();
        bytes
    };
    let (frame_a, frame_b) = (bytes(&sample, a), bytes(&sample, b));
    let swapped = sample.again();
    swapped.file(&segment_path(a.segment)).write_all_at(&frame_b, a.offset.into()).unwrap();
    swapped.file(&segment_path(b.segment)).write_all_at(&frame_a, b.offset.into()).unwrap();
    let report = swapped.report();
    for name in ["(/twin): page 0", "(/other): page 0"] {
        assert!(says(&report, Bad, "frames", name), "{name}:\n{}", listed(&report));
    }
    let duplicated = sample.again();
    duplicated.file(&segment_path(a.segment)).write_all_at(&frame_b, a.offset.into()).unwrap();
    let report = duplicated.report();
    assert!(says(&report, Bad, "frames", "(/twin): page 0") && report.errors == 1, "{}", listed(&report));

    // The page is written anew, and then an old frame of it, whole and of the same length, takes its place.
    let volume = Disk::Faulty(sample.disk.clone()).open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap();
    volume.run(|v| v.write(sample.inos["twin"], 0, &Fill::Noise(99).bytes(10_000), false)).unwrap();
    volume.close().unwrap();
    let new = sample.page("twin", 0).extent;
    assert!((new.segment, new.offset) != (a.segment, a.offset) && new.len == a.len);
    sample.file(&segment_path(new.segment)).write_all_at(&frame_a, new.offset.into()).unwrap();
    let report = sample.report();
    assert!(says(&report, Bad, "frames", "the catalog says") && report.errors == 1, "{}", listed(&report));
}

#[test]
fn truncated_and_missing_files_of_each_kind_are_found() {
    let sample = Sample::new(true);
    let segment = segment_path(sample.again().page("text", 0).extent.segment);
    let journal = {
        let mut files = sample.disk.list(&Path::new(STORE).join("journal")).unwrap();
        files.sort();
        files.iter().map(|path| path.strip_prefix(STORE).unwrap().display().to_string()).collect::<Vec<_>>()
    };
    type Damage<'a> = (&'a str, Option<u64>, &'a str, &'a str);
    let cases: [Damage<'_>; 8] = [
        ("FORMAT", None, "format", "missing"),
        ("FORMAT", Some(5), "format", "it does not read"),
        ("index.redb", None, "catalog", "missing"),
        ("index.redb", Some(0), "catalog", "the index is empty"),
        ("index.redb", Some(20_000), "catalog", "index.redb"),
        (&journal[0], None, "catalog", "missing"),
        (&segment, None, "segments", "missing, with"),
        (&segment, Some(1000), "segments", "it has been cut off"),
    ];
    for (path, len, class, text) in cases {
        let damaged = sample.again();
        match len {
            Some(len) => damaged.file(path).set_len(len).unwrap(),
            None => damaged.disk.remove(&Path::new(STORE).join(path)).unwrap(),
        }
        let report = damaged.report();
        assert!(
            says(&report, Bad, class, text),
            "{path} {len:?}: nothing says {text:?}:\n{}",
            listed(&report)
        );
        // The file is named, once, and so is what to do.
        for finding in report.findings.iter().filter(|finding| finding.class == "catalog") {
            let whole = Path::new(STORE).join(path);
            assert_eq!(finding.place, whole.display().to_string());
            assert!(!finding.what.contains(STORE) && !finding.what.contains("larder check"), "{finding}");
        }
    }
    // The journal cut in the middle of what is durable: the rest is gone, and nobody can tell from a torn tail.
    // What it then says of content is that of an earlier moment, and consistent.
    let damaged = sample.again();
    damaged.file(&journal[0]).set_len(4096).unwrap();
    damaged.report();
}

#[test]
fn damage_in_the_journal_is_found() {
    let sample = Sample::new(true);
    let mut files = sample.disk.list(&Path::new(STORE).join("journal")).unwrap();
    files.sort();
    let journal = files[0].strip_prefix(STORE).unwrap().display().to_string();
    // The first record is durable, as many behind it tell.
    for byte in [0, 8, 12, 17, 40] {
        let damaged = sample.again();
        damaged.flip(&journal, byte * 8 + 1);
        let report = damaged.report();
        assert!(
            says(&report, Bad, "catalog", "cannot be read, though it was durable"),
            "byte {byte}:\n{}",
            listed(&report)
        );
    }
    // So is the last that was synced, as the record behind its mark tells.
    let batches = |disk: &FaultyDisk| -> Vec<u64> {
        let bytes = contents(disk).remove(&files[0]).unwrap();
        let is_batch = |at: &usize| bytes[at + 8..at + 12] == *b"LJ\x01\x01";
        (0..bytes.len() - 12).step_by(8).filter(is_batch).map(|at| at as u64).collect()
    };
    let damaged = sample.again();
    damaged.flip(&journal, (batches(&sample.disk).last().unwrap() + 40) * 8);
    let report = damaged.report();
    assert!(says(&report, Bad, "catalog", "cannot be read, though it was durable"), "{}", listed(&report));
    // What was never synced is not known to have been durable: this is what a power loss leaves.
    let disk = FaultyDisk::new(1);
    let volume = Disk::Faulty(disk.clone()).open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap();
    volume.run(|v| v.mkdir(&NOBODY_SPECIAL, ROOT, b"a", 0o755)).unwrap();
    volume.run(|v| v.mkdir(&NOBODY_SPECIAL, ROOT, b"b", 0o755)).unwrap();
    let killed = Sample { disk: disk.snapshot(), inos: BTreeMap::new() };
    volume.close().unwrap();
    let unsynced = batches(&killed.disk);
    killed.flip(&journal, (unsynced[unsynced.len() - 2] + 40) * 8);
    let report = killed.report();
    assert!(says(&report, Note, "journal", "records behind it"), "{}", listed(&report));
}

#[test]
fn what_is_no_store_or_is_open_is_not_checked() {
    let sample = Sample::new(false);
    sample.file("FORMAT").write_all_at(b"larder 9 ", 0).unwrap();
    let error = sample.checked().unwrap_err().to_string();
    assert!(error.contains("format 9") && error.contains("newer larder"), "{error}");
    let empty = FaultyDisk::new(1);
    empty.create_dir_all(Path::new(STORE)).unwrap();
    let error = check(Arc::new(empty), Path::new(STORE), &Options::default(), &|_| {}).unwrap_err();
    assert!(matches!(error, Error::Store { .. }), "{error}");

    let disk = Disk::real();
    let volume = disk.open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap();
    let error = check(disk.io(), &disk.path(), &Options::default(), &|_| {}).unwrap_err().to_string();
    assert!(error.contains("mounted"), "{error}");
    volume.close().unwrap();
    assert!(disk.report().is_clean());
}

#[test]
fn files_that_are_not_larders_and_broken_settings_are_found() {
    let sample = Sample::new(false);
    let put = |path: &str, text: &[u8]| {
        sample.disk.open(&Path::new(STORE).join(path), true).unwrap().write_all_at(text, 0).unwrap();
    };
    put("notes.txt", b"mine");
    put("journal/x", b"");
    put("segments/01/000000ff", b"");
    put("larder.toml", b"cache-size-limit = \"much\"\n");
    let report = sample.report();
    for text in ["/store/notes.txt", "/store/journal/x", "/store/segments/01/000000ff"] {
        assert!(says(&report, Warning, "files", text), "{text}:\n{}", listed(&report));
    }
    assert!(says(&report, Warning, "settings", "cache-size-limit"), "{}", listed(&report));
    assert_eq!((report.errors, report.warnings), (0, 4), "{}", listed(&report));
}

#[test]
fn the_command_prints_findings_and_tells_by_its_exit_status() {
    let disk = Disk::real();
    let volume = disk.open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap();
    let made = volume.run(|v| v.mknod(&NOBODY_SPECIAL, ROOT, b"key", libc::S_IFREG | 0o644, 0)).unwrap();
    volume.run(|v| v.write(made.attr.ino, 0, &Fill::Noise(1).bytes(50_000), false)).unwrap();
    volume.close().unwrap();
    let store = disk.path();
    let run = |arguments: &[&str]| {
        let output = larder(["check", store.to_str().unwrap()].iter().chain(arguments));
        (output.status.code(), String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
    };
    let (code, out, _) = run(&[]);
    assert!(
        code == Some(0) && out.contains("nothing is wrong") && out.contains("1 frames verified"),
        "{out}"
    );

    let segment = std::fs::read_dir(store.join("segments")).unwrap().flatten().find_map(|folder| {
        std::fs::read_dir(folder.path()).unwrap().flatten().next().map(|file| file.path())
    });
    let file = std::fs::OpenOptions::new().write(true).open(segment.unwrap()).unwrap();
    file.write_all_at(b"damage", 5_000).unwrap();
    let (code, out, _) = run(&[]);
    assert!(code == Some(4) && out.starts_with("error: inode 2 (/key): page 0"), "{out}");
    assert!(out.contains("errors: 1, warnings: 0"), "{out}");
    let (code, out, _) = run(&["--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["findings"][0]["path"]), (Some(4), &"/key".into()));
    let (code, out, _) = run(&["--quick"]);
    assert!(code == Some(0) && out.contains("0 frames verified"), "{out}");

    let volume = disk.open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap();
    let (code, _, err) = run(&[]);
    assert!(code == Some(8) && err.contains("unmount it first"), "{err}");
    volume.close().unwrap();
}

#[test]
fn the_command_repairs_and_tells_by_its_exit_status() {
    let disk = Disk::real();
    let volume = disk.open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap();
    volume.run(|v| v.mkdir(&NOBODY_SPECIAL, ROOT, b"dir", 0o755)).unwrap();
    volume.close().unwrap();
    let store = disk.path();
    let run = |arguments: &[&str]| {
        let output = larder(["check", "--repair", store.to_str().unwrap()].iter().chain(arguments));
        (output.status.code(), String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
    };
    let (code, out, _) = run(&[]);
    assert!(code == Some(0) && out.contains("nothing is wrong"), "{out}");
    std::fs::write(store.join("FORMAT"), b"lardor 2\n").unwrap();
    let (code, out, _) = run(&["--dry-run"]);
    assert!(code == Some(4) && out.contains("it does not read"), "{out}");
    assert_eq!(std::fs::read(store.join("FORMAT")).unwrap(), b"lardor 2\n");
    let (code, out, _) = run(&[]);
    assert!(code == Some(1) && out.contains("mended: ") && out.contains("nothing is wrong"), "{out}");
    assert_eq!(std::fs::read(store.join("damaged/FORMAT")).unwrap(), b"lardor 2\n");
    std::fs::remove_file(store.join("index.redb")).unwrap();
    let (code, out, _) = run(&["--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["left"]["complete"]), (Some(4), &false.into()), "{out}");
    let (code, out, _) = run(&["--rebuild"]);
    assert!(code == Some(1) && out.contains("made anew") && out.contains("nothing is wrong"), "{out}");
    let (code, _, err) = run(&["--quick"]);
    assert!(code == Some(2) && err.contains("--quick"), "{err}");
}

/// Reads attributes, names and content of everything in a volume; an error for what cannot be read.
fn everything(
    volume: &Volume,
    inos: &BTreeMap<&'static str, Ino>,
) -> BTreeMap<&'static str, Result<Vec<u8>, String>> {
    let mut found = BTreeMap::new();
    for (name, ino) in inos {
        let content = (|| {
            let attr = volume.run(|v| v.getattr(*ino))?.attr;
            let content = match attr.mode & libc::S_IFMT {
                libc::S_IFREG => read(volume, *ino, 0, attr.size as u32)?,
                libc::S_IFLNK => volume.run(|v| v.readlink(*ino))?,
                libc::S_IFDIR => format!("{:?}", list(volume, *ino)?).into_bytes(),
                _ => Vec::new(),
            };
            let attributes = volume.run(|v| v.listxattr(*ino))?;
            let values = attributes
                .split_inclusive(|byte| *byte == 0)
                .map(|name| volume.run(|v| v.getxattr(*ino, name.strip_suffix(b"\0").unwrap_or(name))));
            let values = values.collect::<Result<Vec<_>>>()?;
            Ok::<_, Error>([format!("{attr:?} {attributes:?} {values:?} ").into_bytes(), content].concat())
        })();
        found.insert(*name, content.map_err(|error| error.to_string()));
    }
    found
}

/// A bit is flipped in random places: the check finds it, or everything reads right; nothing panics, and whatever is
/// read without an error is right, also after a repair, behind which nothing is found that it has not told.
/// `LARDER_TEST_CASES` makes it run longer, `LARDER_TEST_SEED` another way: `just flips`.
#[test]
fn a_flipped_bit_anywhere_is_found_or_harmless() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let count = number("LARDER_TEST_CASES").unwrap_or(80);
    let mut seed = number("LARDER_TEST_SEED").unwrap_or(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    println!("LARDER_TEST_SEED={}", number("LARDER_TEST_SEED").unwrap_or(1));
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) % below
    };
    let samples = [Sample::new(false), Sample::new(true)];
    let clock = Clock::manual(Time(START));
    let open = |sample: &Sample| Disk::Faulty(sample.disk.clone()).open(LEAST_CACHE, &clock);
    let expected = samples.each_ref().map(|sample| {
        let volume = open(&sample.again()).unwrap();
        everything(&volume, &sample.inos)
    });
    let files = samples.each_ref().map(|sample| {
        let files: Vec<(String, u64)> = contents(&sample.disk)
            .iter()
            .map(|(path, bytes)| {
                // What was never written is not worth a try.
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
                (path.strip_prefix(STORE).unwrap().display().to_string(), used)
            })
            .filter(|(_, used)| *used > 0)
            .collect();
        files
    });
    let mut wrong = String::new();
    let (mut found, mut harmless, mut cured) = (0, 0, 0);
    for n in 0..count {
        let which = (n % 2) as usize;
        let (sample, files) = (&samples[which], &files[which]);
        // Each file as often as any other: small ones are as important as large ones.
        let (path, used) = &files[random(files.len() as u64) as usize];
        let bit = random(used * 8);
        let damaged = sample.again();
        damaged.flip(path, bit);
        let checked = std::panic::catch_unwind(AssertUnwindSafe(|| damaged.checked()));
        let place = format!("store {which}, {path}, bit {bit}");
        match &checked {
            Err(_) => wrong += &format!("{place}: the check panics\n"),
            Ok(Err(_)) => found += 1,
            Ok(Ok(report)) if !report.findings.is_empty() => found += 1,
            Ok(Ok(_)) => harmless += 1,
        }
        let sound = matches!(&checked, Ok(Ok(report)) if report.findings.is_empty());
        let mended = damaged.again();
        let mut try_all = |sample: &Sample, when: &str| {
            let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
                let volume = open(sample)?;
                let read = everything(&volume, &sample.inos);
                let _ = volume.close();
                Ok::<_, Error>(read)
            }));
            match opened {
                Err(_) => wrong += &format!("{place}: the volume panics {when}\n"),
                Ok(Err(error)) if sound => {
                    wrong += &format!("{place}: nothing was found, and opening fails {when}: {error}\n")
                }
                Ok(Err(_)) => {}
                Ok(Ok(read)) => {
                    for (name, content) in &read {
                        // The end of a journal that cannot be read is as if it had not been flushed: what is found is that
                        // of an earlier moment, and the check says so.
                        let earlier = !sound && path.starts_with("journal/");
                        let right = *content == expected[which][name] || earlier;
                        if !right && (sound || content.is_ok()) {
                            wrong +=
                                &format!("{place}: {name} is not what it was {when} (found: {})\n", !sound);
                        }
                    }
                }
            }
        };
        try_all(&damaged, "as it is");
        if sound {
            continue;
        }
        match std::panic::catch_unwind(AssertUnwindSafe(|| mended.repaired())) {
            Err(_) => wrong += &format!("{place}: the repair panics\n"),
            // A store of another version, as far as it says.
            Ok(Err(Error::Store { .. })) if path == "FORMAT" => {}
            Ok(Err(error)) => wrong += &format!("{place}: the repair fails: {error}\n"),
            Ok(Ok(repaired)) => {
                try_all(&mended, "after the repair");
                let again = mended.report();
                if again.findings != repaired.left.findings {
                    wrong += &format!(
                        "{place}: the check finds something else after the repair:\n{}",
                        listed(&again)
                    );
                }
                cured += u64::from(again.is_clean());
            }
        }
    }
    println!("{count} bits: {found} found, {harmless} harmless, {cured} of those found are mended");
    assert!(wrong.is_empty(), "{wrong}");
}
