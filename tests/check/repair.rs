//! `larder check --repair`: what can be mended is, nothing that was stored is lost, and what it leaves is told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use larder::catalog::{Batch, Engine};
use larder::check::Repaired;
use larder::clock::{Clock, Time};
use larder::error::Result;
use larder::format::{
    Dentry, Ino, InodeRecord, Kind, Links, ROOT, SegmentRecord, UseRecord, decode, encode, keys, name_hash,
};
use larder::io::Io;
use larder::io::faulty::{Fault, Kind as Call};
use larder::volume::Volume;

use crate::model::ops::Fill;
use crate::model::store::{Disk, LEAST_CACHE, NOBODY_SPECIAL, START, list, read};
use crate::sample::{Edit, STORE, Sample, listed};
use crate::{contents, segment_path};

/// A path and the content, or why it cannot be read, by inode.
pub type Tree = BTreeMap<Ino, (String, Result<Vec<u8>, String>)>;

/// The content of all files and symbolic links that the tree leads to, by inode, with a path of each.
fn tree(volume: &Volume) -> Result<Tree> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(ROOT, String::new())];
    while let Some((dir, path)) = todo.pop() {
        for (name, ino, kind) in list(volume, dir)? {
            let path = format!("{path}/{}", name.escape_ascii());
            match kind {
                Kind::Directory => todo.push((ino, path)),
                _ => {
                    let size = volume.run(|v| v.getattr(ino))?.attr.size;
                    let content = match kind {
                        Kind::File => read(volume, ino, 0, size as u32),
                        Kind::Symlink => volume.run(|v| v.readlink(ino)),
                        _ => Ok(Vec::new()),
                    };
                    found.insert(ino, (path, content.map_err(|error| error.to_string())));
                }
            }
        }
    }
    Ok(found)
}

pub fn tree_of(sample: &Sample) -> Result<Tree> {
    let volume = Disk::Faulty(sample.disk.clone()).open(LEAST_CACHE, &Clock::manual(Time(START)))?;
    let found = tree(&volume);
    volume.close()?;
    found
}

/// What may be missing, unreadable or different after the damage of a case: what was damaged.
fn harmed(case: &str) -> &'static [&'static str] {
    match case {
        "a link without a target" => &["link"],
        "a duplicated record"
        | "a frame in another"
        | "a place behind the end"
        | "a segment that is not there"
        | "an unreadable page record" => &["twin"],
        // An inode that no name leads to and that says itself that it is unlinked.
        "another checksum" | "an unreadable patch" | "a lost orphan mark" => &["text"],
        _ => &[],
    }
}

/// Cases after which a page stays unreadable, and is told.
const LEFT: [&str; 7] = [
    "an unreadable patch",
    "a duplicated record",
    "a frame in another",
    "a place behind the end",
    "a segment that is not there",
    "an unreadable page record",
    "another checksum",
];

/// Repairs a damaged sample, and tells what is not as it should be then.
pub fn after(case: &str, sample: &Sample, damaged: &Sample) -> String {
    let expected = tree_of(&sample.again()).unwrap();
    let repaired = match damaged.repaired() {
        Ok(repaired) => repaired,
        Err(error) => return format!("{case}: the repair fails: {error}\n"),
    };
    let mut wrong = String::new();
    let told: String = repaired.done.iter().map(|action| format!("  {action}\n")).collect();
    if repaired.done.is_empty() && !LEFT.contains(&case) {
        wrong += &format!("{case}: nothing was done\n");
    }
    let left = damaged.report();
    if left.findings != repaired.left.findings {
        wrong += &format!("{case}: another check finds something else:\n{}", listed(&left));
    }
    let lost = left.findings.iter().all(|f| ["pages", "frames", "segments"].contains(&f.class));
    if left.is_clean() == LEFT.contains(&case) || !lost || !left.complete {
        wrong += &format!("{case}: left after\n{told}is\n{}", listed(&left));
    }
    match tree_of(damaged) {
        Err(error) => wrong += &format!("{case}: reading the tree after\n{told}: {error}\n"),
        Ok(found) => {
            for (ino, (path, content)) in &expected {
                let is_harmed = harmed(case).iter().any(|name| sample.inos[name] == *ino);
                match found.get(ino) {
                    Some((_, Ok(_))) if is_harmed && LEFT.contains(&case) => {
                        wrong += &format!("{case}: {path} can be read after\n{told}");
                    }
                    _ if is_harmed => {}
                    None => wrong += &format!("{case}: {path} is gone after\n{told}"),
                    Some((_, now)) if now == content => {}
                    Some((_, now)) => {
                        let now = now.as_ref().map(|bytes| bytes.len());
                        wrong += &format!("{case}: {path} is {now:?} after\n{told}");
                    }
                }
            }
        }
    }
    wrong
}

pub fn told(repaired: &Repaired) -> String {
    repaired.done.iter().map(|action| format!("  {action}\n")).collect()
}

/// What differs from the sample in what the tree has, but for the names of some; by path.
fn differences(sample: &Sample, mended: &Sample) -> Vec<String> {
    let expected = tree_of(&sample.again()).unwrap();
    let found = tree_of(mended).unwrap();
    let same =
        |ino: &Ino, was: &(String, Result<Vec<u8>, String>)| found.get(ino).is_some_and(|now| now.1 == was.1);
    expected.iter().filter(|(ino, was)| !same(ino, was)).map(|(_, was)| was.0.clone()).collect()
}

#[test]
fn a_sound_store_is_left_as_it_is_by_a_repair() {
    for killed in [false, true] {
        let sample = Sample::new(killed);
        let before = contents(&sample.disk);
        let repaired = sample.repaired().unwrap();
        assert!(repaired.found.is_clean() && repaired.left.is_clean() && repaired.done.is_empty());
        assert!(contents(&sample.disk) == before, "killed: {killed}");
    }
}

#[test]
fn what_nothing_tells_the_name_of_is_in_lost_and_found_by_its_number() {
    let sample = Sample::new(false);
    let damaged = sample.again();
    damaged.edit(|edit, batch| {
        // Its entry names another file now, its record a directory that is not there.
        let (text, other) = (edit.ino("text"), edit.ino("other"));
        edit.bucket(batch, "dir", "text", |bucket| bucket[0].ino = other);
        edit.inode(batch, "other", |rec| {
            rec.links = Links::One { parent: edit.ino("dir"), name: b"text"[..].into() };
        });
        batch.delete(keys::bucket(ROOT, name_hash(b"other")));
        edit.inode(batch, "text", |rec| {
            rec.links = Links::One { parent: Ino(999), name: b"text"[..].into() };
        });
        // And one of which only the pages are left.
        batch.delete(keys::inode(edit.ino("big")));
        batch.delete(keys::bucket(ROOT, name_hash(b"big")));
        assert!(text > ROOT);
    });
    let repaired = damaged.repaired().unwrap();
    assert!(repaired.left.is_clean(), "{}{}", told(&repaired), listed(&repaired.left));
    let found = tree_of(&damaged).unwrap();
    for name in ["text", "big"] {
        let ino = sample.inos[name];
        let (path, content) = &found[&ino];
        assert_eq!(*path, format!("/lost+found/#{}", ino.0), "{}", told(&repaired));
        assert_eq!(*content, tree_of(&sample.again()).unwrap()[&ino].1);
    }
    assert_eq!(found[&sample.inos["other"]].0, "/dir/text");
}

#[test]
fn what_is_taken_out_of_use_is_kept_in_the_store() {
    let sample = Sample::new(false);
    let key = keys::xattr(sample.inos["text"], b"user.\0");
    sample.edit(|edit, batch| {
        batch.put(key.clone(), b"a value");
        batch.put(keys::bucket(edit.ino("dir"), 77), vec![9, 9]);
    });
    let repaired = sample.repaired().unwrap();
    assert!(repaired.left.is_clean(), "{}", listed(&repaired.left));
    let kept = contents(&sample.disk).remove(&Path::new(STORE).join("damaged/records")).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let kept = String::from_utf8(kept).unwrap();
    for (key, value) in [(key, &b"a value"[..]), (keys::bucket(sample.inos["dir"], 77).to_vec(), &[9, 9])] {
        let line = format!("{} {}", hex(&key), hex(value));
        assert!(kept.lines().any(|kept| kept == line), "{line} is not in\n{kept}");
    }
}

/// Damage to a file of the store: its name, what is done to it, classes of what is left after a repair, and
/// files whose content is harmed.
type Case<'a> = (&'a str, Harm, &'a [&'a str], &'a [&'a str]);

#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip(u64),
    Cut(u64),
    Remove,
}

pub fn journal_of(sample: &Sample) -> String {
    let mut files = sample.disk.list(&Path::new(STORE).join("journal")).unwrap();
    files.sort();
    files[0].strip_prefix(STORE).unwrap().display().to_string()
}

#[test]
fn damage_to_a_file_of_each_kind_is_mended_or_told_and_harms_nothing_else() {
    use Harm::{Cut, Flip, Remove};
    let closed = Sample::new(false);
    let put = |path: &str, text: &[u8]| {
        closed.disk.open(&Path::new(STORE).join(path), true).unwrap().write_all_at(text, 0).unwrap();
    };
    put("larder.toml", b"cache-size-limit = \"32MiB\"\n");
    let frame = closed.again().page("text", 0).extent;
    let segment = segment_path(frame.segment);
    let at = u64::from(frame.offset);
    let all = ["text", "deep", "big", "twin", "other", "copy", "hard"];
    let cases: [Case<'_>; 16] = [
        ("FORMAT", Flip(3), &[], &[]),
        ("FORMAT", Flip(8 * 8), &[], &[]),
        ("FORMAT", Cut(5), &[], &[]),
        ("FORMAT", Remove, &[], &[]),
        ("larder.toml", Flip(3), &["settings"], &[]),
        ("larder.toml", Remove, &[], &[]),
        ("reserve", Flip(3), &[], &[]),
        ("reserve", Remove, &[], &[]),
        (&segment, Flip((at + 4) * 8), &["frames"], &["text"]),
        (&segment, Flip((at + 60) * 8), &["frames"], &["text"]),
        (&segment, Cut(at + 40), &["frames", "segments"], &all),
        (&segment, Flip(0), &["segments"], &all),
        (&segment, Remove, &["segments"], &all),
        // The index: a new one is made from the frames and a backup, or it is restored.
        ("index.redb", Remove, &["catalog"], &all),
        ("index.redb", Cut(9000), &["catalog"], &all),
        // One of two heads.
        ("index.redb", Flip(3), &[], &[]),
    ];
    for (path, harm, classes, harmed) in cases {
        let case = format!("{path} {harm:?}");
        let damaged = closed.again();
        match harm {
            Flip(bit) => damaged.flip(path, bit),
            Cut(len) => damaged.file(path).set_len(len).unwrap(),
            Remove => damaged.disk.remove(&Path::new(STORE).join(path)).unwrap(),
        }
        let before = contents(&damaged.disk);
        let repaired = damaged.repaired().unwrap();
        let text = format!("{case}:\n{}left:\n{}", told(&repaired), listed(&repaired.left));
        assert_eq!(repaired.left.is_clean(), classes.is_empty(), "{text}");
        assert!(repaired.left.findings.iter().all(|finding| classes.contains(&finding.class)), "{text}");
        assert_eq!(damaged.report().findings, repaired.left.findings, "{text}");
        if repaired.left.complete {
            let differ = differences(&closed, &damaged);
            let spared = |path: &&String| !harmed.iter().any(|name| path.contains(name));
            assert!(!differ.iter().any(|path| spared(&path)), "{differ:?}\n{text}");
        } else {
            assert!(contents(&damaged.disk) == before, "something was changed: {text}");
        }
    }
}

#[test]
fn a_damaged_journal_is_cut_at_its_damage_and_kept_aside() {
    let sample = Sample::new(true);
    let journal = journal_of(&sample);
    type Damage<'a> = (&'a str, &'a dyn Fn(&Sample));
    let damages: [Damage<'_>; 3] = [
        ("a flipped bit", &|sample| sample.flip(&journal, 17 * 8)),
        ("a missing file", &|sample| sample.disk.remove(&Path::new(STORE).join(&journal)).unwrap()),
        ("no directory", &|sample| {
            let files = sample.disk.list(&Path::new(STORE).join("journal")).unwrap();
            files.iter().for_each(|path| sample.disk.remove(path).unwrap());
        }),
    ];
    for (case, damage) in damages {
        let damaged = sample.again();
        damage(&damaged);
        let before = contents(&damaged.disk);
        let repaired = damaged.repaired().unwrap();
        assert!(!repaired.found.complete, "{case}");
        assert!(repaired.left.is_clean(), "{case}: {}{}", told(&repaired), listed(&repaired.left));
        assert!(told(&repaired).contains("journal: cut: "), "{case}: {}", told(&repaired));
        let after = contents(&damaged.disk);
        for (path, bytes) in before.iter().filter(|(path, _)| path.starts_with("/store/journal")) {
            let kept: PathBuf = Path::new(STORE).join("damaged").join(path.strip_prefix(STORE).unwrap());
            assert!(after[&kept] == *bytes, "{case}: {}", kept.display());
        }
        // The tree is that of an earlier moment, and is written to.
        assert!(tree_of(&damaged).is_ok(), "{case}");
    }
}

/// Some damage of every kind.
fn wreck(edit: &Edit<'_>, batch: &mut Batch) {
    let (dir, sub) = (edit.ino("dir"), edit.ino("sub"));
    edit.bucket(batch, "dir", "ghost", |bucket| {
        bucket.push(Dentry { name: b"ghost"[..].into(), ino: Ino(999), kind: Kind::File, slot: 0 });
    });
    batch.delete(keys::bucket(dir, name_hash(b"text")));
    batch.delete(keys::bucket(ROOT, name_hash(b"dir")));
    edit.bucket(batch, "sub", "dir", |bucket| {
        bucket.push(Dentry { name: b"dir"[..].into(), ino: dir, kind: Kind::Directory, slot: 0 });
    });
    edit.bucket(batch, "sub", "deep", |bucket| bucket[0].slot = 200);
    edit.inode(batch, "other", |rec| {
        rec.links = Links::One { parent: Ino(999), name: b"other"[..].into() };
        rec.stored = 9;
    });
    batch.delete(keys::bucket(ROOT, name_hash(b"other")));
    batch.put(keys::inode(edit.ino("copy")), vec![1, 2, 3]);
    edit.inode(batch, "hard", |rec: &mut InodeRecord| rec.nlink = 7);
    batch.put(keys::expiry(5, sub), Vec::new());
    batch.put(keys::orphan(edit.ino("twin")), Vec::new());
    batch.put(edit.first(keys::OWNERS).0, encode(&7u32));
    let (key, value) = edit.first(keys::SEGMENT);
    let live = decode::<SegmentRecord>(&value, "test").unwrap().live;
    batch.put(key, encode(&SegmentRecord { live: live + 1000 }));
    batch.put(b"Zebra", vec![1]);
}

/// The disk dies at the n-th operation of a repair, for each n, and what it had not synced is kept, dropped or torn.
/// Then the next repair mends everything, as if the first had not been.
#[test]
fn whichever_operation_of_a_repair_the_disk_dies_at_the_store_is_no_worse() {
    let sample = Sample::new(false);
    let wrecked = sample.again();
    wrecked.edit(wreck);
    let repaired = wrecked.again().repaired().unwrap();
    assert!(repaired.left.is_clean(), "{}{}", told(&repaired), listed(&repaired.left));
    let mut n = 0;
    loop {
        let damaged = wrecked.again();
        (n..n + 2000).for_each(|n| damaged.disk.fail(Call::Any, n, Fault::Errno(libc::EIO)));
        let died = damaged.repaired().is_err();
        let left = Sample { disk: damaged.disk.crash(), inos: sample.inos.clone() };
        // Also the check alone comes to its end.
        assert!(left.report().complete, "n {n}: {}", listed(&left.report()));
        let again = left.repaired().unwrap_or_else(|error| panic!("n {n}: {error}"));
        assert!(again.left.is_clean(), "n {n}: {}{}", told(&again), listed(&again.left));
        let differ = differences(&sample, &left);
        assert!(differ.is_empty(), "n {n}: {differ:?}\n{}", told(&again));
        if !died {
            break;
        }
        n += 1;
    }
    assert!(n > 20, "only {n} operations");
}

#[test]
fn the_number_of_a_segment_that_is_missing_is_not_used_again() {
    let sample = Sample::new(false);
    let clock = Clock::manual(Time(START));
    let lost = segment_path(sample.again().page("other", 0).extent.segment);
    sample.disk.remove(&Path::new(STORE).join(lost)).unwrap();
    // What is written now must not lie where pages of the lost segment say that theirs lie: they are let go of.
    let volume = Disk::Faulty(sample.disk.clone()).open(LEAST_CACHE, &clock).unwrap();
    let new =
        volume.run(|v| v.mknod(&NOBODY_SPECIAL, ROOT, b"new", libc::S_IFREG | 0o644, 0)).unwrap().attr.ino;
    for chunk in 0..5u8 {
        let noise = Fill::Noise(chunk).bytes(100_000);
        volume.run(|v| v.write(new, u64::from(chunk) * 100_000, &noise, false)).unwrap();
    }
    volume.sync().unwrap();
    for name in ["big", "other", "twin", "copy"] {
        volume.run(|v| v.unlink(ROOT, name.as_bytes())).unwrap();
    }
    volume.close().unwrap();
    let volume = Disk::Faulty(sample.disk.clone()).open(LEAST_CACHE, &clock).unwrap();
    for chunk in 0..5u8 {
        let noise = Fill::Noise(chunk).bytes(100_000);
        assert!(read(&volume, new, u64::from(chunk) * 100_000, 100_000).unwrap() == noise, "part {chunk}");
    }
    volume.close().unwrap();
}

#[test]
fn a_segment_whose_first_block_cannot_be_read_is_told_and_the_rest_is_checked_and_mended() {
    let sample = Sample::new(false);
    let lost = segment_path(sample.again().page("other", 0).extent.segment);
    sample.edit(|edit, batch| edit.inode(batch, "hard", |rec: &mut InodeRecord| rec.nlink = 7));
    sample.disk.bad_sector(&Path::new(STORE).join(&lost), 0..4096);
    let report = sample.report();
    assert!(report.complete && report.findings.iter().any(|finding| finding.class == "segments"));
    let repaired = sample.repaired().unwrap();
    assert!(repaired.left.complete, "{}", listed(&repaired.left));
    let left = repaired.left.findings.iter().find(|finding| finding.class != "segments");
    assert!(left.is_none(), "{}{}", told(&repaired), listed(&repaired.left));
    sample.disk.heal();
    assert!(sample.report().is_clean(), "{}", listed(&sample.report()));
}

#[test]
fn records_of_use_that_are_not_true_are_removed() {
    let sample = Sample::new(false);
    sample.edit(|edit, batch| {
        batch.put(keys::usage(Ino(999)), encode(&UseRecord { at: Time(START), hits: 3 }));
        batch.put(keys::usage(edit.ino("text")), vec![0xff; 3]);
        batch.put(keys::usage(edit.ino("big")), encode(&UseRecord { at: Time(START), hits: 3 }));
    });
    let report = sample.report();
    assert_eq!(report.warnings, 2, "{}", listed(&report));
    let repaired = sample.repaired().unwrap();
    let left = repaired.left.findings;
    assert!(left.is_empty(), "{left:?}");
    let engine = sample.engine();
    let there = |name: &str| engine.get(&keys::usage(sample.inos[name])).unwrap().is_some();
    assert!(there("big") && !there("text"));
    engine.close(&|| Ok(())).unwrap();
}
