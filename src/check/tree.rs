//! Inodes, names, links, attributes and marks.

use std::collections::BTreeSet;

use super::nodes::{Node, Nodes, place_hash};
use super::report::remedy::{FREEZE, MEND, RID};
use super::report::{Report, Severity};
use super::{OnProgress, Progress, scan};
use crate::catalog::Engine;
use crate::clock::Time;
use crate::error::Result;
use crate::format::{
    Bucket, CounterRecord, Ino, InodeRecord, Key, Kind, Links, NAME_MAX, PAGE_SHIFTS, ROOT, SLOT_BITS,
    UseRecord, decode, is_name, keys, name_hash,
};

/// The tags of keys and what their lengths must be (least, most).
const TAGS: [(u8, usize, usize); 15] = [
    (b'C', 1, 1),
    (b'D', 17, 17),
    (b'F', 21, 21),
    (b'G', 1, 1),
    (b'I', 9, 9),
    (b'L', 18, 17 + NAME_MAX),
    (b'O', 9, 9),
    (b'P', 13, 13),
    (b'Q', 9, 9),
    (b'R', 9, 9),
    (b'S', 5, 5),
    (b'T', 17, 17),
    (b'U', 9, 9),
    (b'W', 17, 17),
    (b'X', 10, 9 + NAME_MAX),
];

/// The kinds of file in a mode.
pub const KINDS: [u32; 7] = [
    libc::S_IFREG,
    libc::S_IFDIR,
    libc::S_IFLNK,
    libc::S_IFIFO,
    libc::S_IFCHR,
    libc::S_IFBLK,
    libc::S_IFSOCK,
];

/// The largest size of a file, bytes.
pub fn largest(page_shift: u8) -> u64 {
    (u64::from(u32::MAX) << page_shift.min(20)).min(i64::MAX as u64)
}

/// How many records pass between two tellings of progress.
const TELL: u64 = 4096;

/// Whether a key is one of the format's.
pub fn is_known(key: &[u8]) -> bool {
    let known = key.first().and_then(|tag| TAGS.iter().find(|(known, ..)| known == tag));
    known.is_some_and(|(_, least, most)| (*least..=*most).contains(&key.len()))
}

fn hex(key: &[u8]) -> String {
    key.iter().take(64).map(|byte| format!("{byte:02x}")).collect()
}

/// A message for a value that cannot be read.
fn unreadable(error: crate::error::Error) -> String {
    format!("its record cannot be read ({error})")
}

/// Loads all inodes.
pub fn load(engine: &dyn Engine, report: &mut Report, progress: OnProgress<'_>) -> Result<Nodes> {
    let mut nodes = Nodes::default();
    let mut done = 0;
    scan(engine, keys::INODE, &mut |key, value| {
        done += 1;
        if done % TELL == 0 {
            progress(Progress { stage: "reading inodes", done, total: 0 });
        }
        let Some(ino) = keys::ino_of(key) else { return };
        match decode::<InodeRecord>(value, "inode record") {
            Ok(rec) => {
                check_record(ino, &rec, report);
                nodes.push(Node::new(ino, &rec));
            }
            Err(error) => report.inode(Severity::Error, "inode", ino, unreadable(error), MEND),
        }
    })?;
    report.figures.inodes = nodes.iter().count() as u64;
    if nodes.get(ROOT).is_none_or(|root| !root.is_dir()) {
        report.inode(Severity::Error, "inode", ROOT, "there is no root directory", MEND);
    }
    Ok(nodes)
}

/// What a record says must be possible in itself.
fn check_record(ino: Ino, rec: &InodeRecord, report: &mut Report) {
    let mut wrong = |what: String| report.inode(Severity::Error, "inode", ino, what, MEND);
    let kind = rec.kind();
    if !KINDS.contains(&(rec.mode & libc::S_IFMT)) || rec.mode & !(libc::S_IFMT | 0o7777) != 0 {
        wrong(format!("its mode {:o} is impossible", rec.mode));
    }
    if !PAGE_SHIFTS.contains(&rec.page_shift) {
        wrong(format!("its pages have 2^{} bytes, possible are 2^12 to 2^20", rec.page_shift));
    }
    match &rec.target {
        Some(target) if kind == Kind::Symlink && target.len() as u64 != rec.size => {
            wrong(format!("its target has {} bytes, its size is {}", target.len(), rec.size));
        }
        Some(_) if kind != Kind::Symlink => wrong("it has a target and is no symbolic link".into()),
        None if kind == Kind::Symlink => wrong("a symbolic link without a target".into()),
        _ => {}
    }
    if kind == Kind::File && rec.size > largest(rec.page_shift) {
        wrong(format!("its size of {} bytes is more than a file can have", rec.size));
    }
    match &rec.links {
        Links::One { name, .. } if ino == ROOT && !name.is_empty() => wrong("the root has a name".into()),
        Links::One { name, .. } if ino != ROOT && rec.nlink > 0 && !is_name(name) => {
            wrong("its record has an impossible name".into())
        }
        Links::One { .. } if kind != Kind::Directory && rec.nlink > 1 => {
            wrong(format!("its record has one name for {} links", rec.nlink));
        }
        Links::Many if kind == Kind::Directory => wrong("a directory with several links".into()),
        _ => {}
    }
}

/// Reads all names and marks, and notes at each inode what was found.
pub fn check(
    engine: &dyn Engine,
    nodes: &mut Nodes,
    report: &mut Report,
    progress: OnProgress<'_>,
) -> Result<()> {
    check_keys(engine, report)?;
    check_entries(engine, nodes, report, progress)?;
    let mut missing = Missing::default();
    scan(engine, keys::LINK, &mut |key, _| {
        let (Some(ino), Some((dir, name))) = (keys::ino_of(key), keys::link_of(key)) else {
            return;
        };
        match nodes.get_mut(ino) {
            Some(node) => {
                node.found_links += 1;
                if node.many {
                    node.places = node.places.wrapping_add(place_hash(dir, name));
                }
            }
            None => missing.tell(ino, "link records", report),
        }
    })?;
    scan(engine, keys::XATTR, &mut |key, _| {
        let Some(ino) = keys::ino_of(key) else { return };
        if keys::xattr_name(key).contains(&0) {
            report.inode(Severity::Error, "attributes", ino, "an attribute's name contains NUL", RID);
        }
        match nodes.get_mut(ino) {
            Some(node) => node.found_xattrs += 1,
            None => missing.tell(ino, "extended attributes", report),
        }
    })?;
    scan(engine, keys::ORPHAN, &mut |key, _| {
        let Some(ino) = keys::ino_of(key) else { return };
        match nodes.get_mut(ino) {
            Some(node) => node.found_orphan = true,
            None => {
                report.inode(Severity::Warning, "marks", ino, "marked to be reclaimed, and not there", RID)
            }
        }
    })?;
    scan(engine, keys::USE, &mut |key, value| {
        let Some(ino) = keys::ino_of(key) else { return };
        if nodes.get_mut(ino).is_none() {
            report.inode(Severity::Warning, "marks", ino, "a record of its use, and it is not there", RID);
        } else if let Err(error) = decode::<UseRecord>(value, "use record") {
            report.inode(
                Severity::Warning,
                "marks",
                ino,
                format!("how it was used: {}", unreadable(error)),
                RID,
            );
        }
    })?;
    scan(engine, keys::QUOTA, &mut |key, value| {
        let Some(ino) = keys::ino_of(key) else { return };
        let mut wrong = |what: String| report.inode(Severity::Warning, "marks", ino, what, RID);
        match nodes.get_mut(ino) {
            Some(node) if node.is_dir() => match decode::<u64>(value, "size limit") {
                Ok(_) => node.limited = true,
                Err(error) => wrong(format!("its size limit: {}", unreadable(error))),
            },
            _ => wrong("it has a size limit, and is no directory that is there".into()),
        }
    })?;
    let mut marks = Vec::new();
    scan(engine, keys::EXPIRY, &mut |key, _| {
        marks.extend(keys::expiry_of(key));
    })?;
    for (secs, ino) in marks {
        let record =
            engine.get(&keys::inode(ino))?.and_then(|value| decode::<InodeRecord>(&value, "inode").ok());
        let when =
            record.filter(|rec| rec.nlink > 0).and_then(|rec| rec.expires).map(|at: Time| at.secs().max(0));
        match nodes.get_mut(ino) {
            Some(node) if when == Some(secs) => node.found_expiry = true,
            _ => {
                let what = format!("a mark says that it expires at {secs}, and it does not");
                report.inode(Severity::Warning, "marks", ino, what, RID);
            }
        }
    }
    Ok(())
}

/// Keys that are none of the format's: nothing else looks at them.
fn check_keys(engine: &dyn Engine, report: &mut Report) -> Result<()> {
    engine.scan(Key::new()..vec![u8::MAX; 300], &mut |key, _| {
        if !is_known(key) {
            report.error("catalog", format!("key {}", hex(key)), "it is none of this format", RID);
        }
        true
    })?;
    Ok(())
}

fn check_entries(
    engine: &dyn Engine,
    nodes: &mut Nodes,
    report: &mut Report,
    progress: OnProgress<'_>,
) -> Result<()> {
    let mut missing = Missing::default();
    let mut entries = 0;
    scan(engine, keys::BUCKET, &mut |key, value| {
        let (Some(dir), Some(hash)) = (keys::ino_of(key), keys::bucket_hash(key)) else {
            return;
        };
        let mut wrong = |what: String, remedy| report.inode(Severity::Error, "names", dir, what, remedy);
        let bucket = match decode::<Bucket>(value, "directory entry") {
            Ok(bucket) => bucket,
            Err(error) => return wrong(format!("an entry of it cannot be read ({error})"), MEND),
        };
        if bucket.is_empty() {
            wrong(format!("its bucket {hash:014x} is empty"), RID);
        }
        let mut slots = BTreeSet::new();
        let mut names = BTreeSet::new();
        for entry in &bucket {
            entries += 1;
            let name = entry.name.escape_ascii();
            if !is_name(&entry.name) {
                wrong(format!("the name {name:?} is impossible"), MEND);
            }
            if name_hash(&entry.name) != hash {
                wrong(format!("the entry {name:?} lies where it is not found: its hash is another"), MEND);
            }
            if u32::from(entry.slot) >= 1 << SLOT_BITS || !slots.insert(entry.slot) {
                wrong(
                    format!("the entry {name:?} has slot {}, which is taken or impossible", entry.slot),
                    RID,
                );
            }
            if !names.insert(&entry.name) {
                wrong(format!("the name {name:?} is there twice"), MEND);
            }
            let Some(target) = nodes.get_mut(entry.ino) else {
                wrong(format!("the entry {name:?} names {}, which is not there", entry.ino), MEND);
                continue;
            };
            if target.kind != entry.kind {
                wrong(
                    format!("the entry {name:?} says {:?}, and names a {:?}", entry.kind, target.kind),
                    RID,
                );
            }
            target.found_names += 1;
            target.found_places = target.found_places.wrapping_add(place_hash(dir, &entry.name));
            target.found_parent = dir;
        }
        let dirs = bucket.iter().filter(|entry| nodes.get(entry.ino).is_some_and(Node::is_dir)).count();
        if entries % TELL == 0 {
            progress(Progress { stage: "reading names", done: entries, total: 0 });
        }
        match nodes.get_mut(dir) {
            Some(node) if node.is_dir() => {
                node.found_entries += bucket.len() as u64;
                node.found_dirs += dirs as u32;
            }
            Some(node) => {
                let what = format!("it has directory entries and is a {:?}", node.kind);
                report.inode(Severity::Error, "names", dir, what, MEND);
            }
            None => missing.tell(dir, "directory entries", report),
        }
    })?;
    report.figures.entries = entries;
    Ok(())
}

/// Tells of inodes that are not there and have records all the same, once each.
#[derive(Debug, Default)]
pub struct Missing {
    last: Option<(Ino, &'static str)>,
}

impl Missing {
    pub fn tell(&mut self, ino: Ino, what: &'static str, report: &mut Report) {
        if self.last != Some((ino, what)) {
            self.last = Some((ino, what));
            let what = format!("not there, and has {what}");
            report.inode(Severity::Error, "inode", ino, what, MEND);
        }
    }
}

/// What the store counts in all.
pub fn counters(engine: &dyn Engine, nodes: &Nodes, report: &mut Report) -> Result<()> {
    let place = "the store's counters";
    if let Some(value) = engine.get(&keys::gone())?
        && let Err(error) = decode::<Time>(&value, "time")
    {
        report.error("counters", "the time of the last expiry", unreadable(error), RID);
    }
    let Some(value) = engine.get(&keys::counters())? else {
        report.error("counters", place, "missing: the store cannot be mounted", MEND);
        return Ok(());
    };
    let says = match decode::<CounterRecord>(&value, "counters") {
        Ok(says) => says,
        Err(error) => {
            report.error("counters", place, unreadable(error), MEND);
            return Ok(());
        }
    };
    let files = nodes.iter().filter(|node| node.kind == Kind::File);
    let found = [
        ("inodes", says.inodes, nodes.iter().count() as u64),
        ("bytes of content", says.content, files.map(|node| node.size).sum()),
        ("bytes of live frames", says.stored, nodes.live),
    ];
    for (what, says, found) in found {
        if says != found {
            report.warning("counters", place, format!("{found} {what}, the record says {says}"), RID);
        }
    }
    let last = nodes.iter().last().map_or(0, |node| node.ino.0);
    if says.last_ino < last {
        let what = format!("inode {last} is there, and numbers above {} count as free", says.last_ino);
        report.error("counters", place, what, FREEZE);
    }
    Ok(())
}
