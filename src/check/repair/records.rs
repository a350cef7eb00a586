//! Records that are impossible in themselves: keys of no tag, values that cannot be read, inodes that are missing
//! though something belongs to them.
//!
//! What cannot be read is put aside. An inode that is missing is made anew where there is something to find in it,
//! with what its pages and entries tell; its owner, its mode and its times are lost.

use std::collections::BTreeMap;

use super::lost_page;
use super::mend::Mend;
use crate::catalog::Engine;
use crate::check::nodes::Nodes;
use crate::check::tree::{KINDS, is_known, largest};
use crate::check::{OnProgress, Report, scan, tree};
use crate::clock::Time;
use crate::error::Result;
use crate::format::{
    Bucket, CounterRecord, Extent, Ino, InodeRecord, Key, Kind, Links, Name, PAGE_SHIFT, PAGE_SHIFTS, PageNo,
    PageRecord, Patch, ROOT, SegmentRecord, UseRecord, decode, keys,
};
use crate::pages::{LocalSegments, Segments, frame};

/// What there is of an inode whose record is missing.
#[derive(Debug, Default)]
struct Remains {
    /// It had a record that could not be read.
    recorded: bool,
    pages: bool,
    patches: bool,
    entries: bool,
    attributes: bool,
    /// A name of it: the directory, the name, and what kind the entry says.
    name: Option<(Ino, Name, Kind)>,
}

/// Mends them all.
pub fn mend(mend: &mut Mend<'_>, segments: &LocalSegments, progress: OnProgress<'_>) -> Result<()> {
    let mut lost = BTreeMap::new();
    unreadable(mend, &mut lost)?;
    impossible(mend, segments, &mut lost)?;
    mend.write()?;
    missing(mend, segments, lost, progress)?;
    mend.write()
}

/// Puts aside what cannot be read.
fn unreadable(mend: &mut Mend<'_>, lost: &mut BTreeMap<Ino, Remains>) -> Result<()> {
    let mut bad: Vec<Key> = Vec::new();
    mend.engine.scan(Key::new()..vec![u8::MAX; 300], &mut |key, value| {
        if !is_readable(key, value) {
            bad.push(key.to_vec());
        }
        true
    })?;
    for key in bad {
        if !is_known(&key) {
            mend.done
                .at(format!("key {:02x?}", key.get(..16).unwrap_or(&key)), "of no known kind: put aside");
            mend.put_aside(key)?;
            mend.step()?;
            continue;
        }
        let ino = keys::ino_of(&key).unwrap_or(ROOT);
        match (key.first(), keys::page_of(&key)) {
            (Some(&keys::PAGE), Some((ino, page))) => {
                lost_page(mend, ino, page, "where it lies cannot be read")?;
            }
            // What was written to the page last is gone: what was there before must not be taken for it.
            (Some(&keys::PATCH), Some((ino, page))) => {
                lost_page(mend, ino, page, "what was written to it last cannot be read")?;
            }
            (Some(&keys::INODE), _) => {
                lost.insert(ino, Remains { recorded: true, ..Remains::default() });
                mend.put_aside(key)?;
            }
            (Some(&keys::BUCKET), _) => {
                mend.done.inode(ino, "an entry of it cannot be read: put aside");
                mend.put_aside(key)?;
            }
            (Some(&keys::XATTR), _) => {
                mend.done.inode(ino, "an attribute with an impossible name: put aside");
                mend.put_aside(key)?;
            }
            // They are counted anew, or, of uses, begun anew.
            _ => {
                let tag = char::from(key.first().copied().unwrap_or_default());
                mend.done.at(format!("a record of kind {tag}"), "it cannot be read: put aside");
                mend.put_aside(key)?;
            }
        }
        mend.step()?;
    }
    mend.write()
}

fn is_readable(key: &[u8], value: &[u8]) -> bool {
    is_known(key)
        && match key.first() {
            Some(&keys::INODE) => decode::<InodeRecord>(value, "").is_ok(),
            Some(&keys::BUCKET) => decode::<Bucket>(value, "").is_ok(),
            Some(&keys::PAGE) => decode::<PageRecord>(value, "").is_ok(),
            Some(&keys::PATCH) => decode::<Patch>(value, "").is_ok(),
            Some(&keys::XATTR) => !keys::xattr_name(key).contains(&0),
            Some(&keys::OWNERS | &keys::RELEASE) => decode::<u32>(value, "").is_ok(),
            Some(&keys::SEGMENT) => decode::<SegmentRecord>(value, "").is_ok(),
            Some(&keys::USE) => decode::<UseRecord>(value, "").is_ok(),
            Some(b'C') => decode::<CounterRecord>(value, "").is_ok(),
            Some(b'G') => decode::<Time>(value, "").is_ok(),
            _ => true,
        }
}

/// Inodes that say what cannot be.
fn impossible(
    mend: &mut Mend<'_>,
    segments: &LocalSegments,
    lost: &mut BTreeMap<Ino, Remains>,
) -> Result<()> {
    let mut bad = Vec::new();
    scan(mend.engine, keys::INODE, &mut |key, value| {
        if let (Some(ino), Ok(rec)) = (keys::ino_of(key), decode::<InodeRecord>(value, "inode"))
            && (!is_possible(ino, &rec))
        {
            bad.push((ino, rec));
        }
    })?;
    for (ino, mut rec) in bad {
        mend.keep(&keys::inode(ino))?;
        if rec.kind() == Kind::Symlink && rec.target.is_none() {
            mend.done.inode(ino, "a symbolic link without a target: put aside");
            mend.delete(keys::inode(ino));
            lost.insert(ino, Remains::default());
            continue;
        }
        if !KINDS.contains(&(rec.mode & libc::S_IFMT)) || ino == ROOT {
            let entries = ino == ROOT || !mend.under(&keys::of_inode(keys::BUCKET, ino))?.is_empty();
            rec.mode = rec.mode & 0o7777 | if entries { libc::S_IFDIR } else { libc::S_IFREG };
        }
        rec.mode &= libc::S_IFMT | 0o7777;
        if !PAGE_SHIFTS.contains(&rec.page_shift) {
            rec.page_shift = PAGE_SHIFT;
        }
        if rec.kind() != Kind::Symlink {
            rec.target = None;
        }
        if let Some(target) = &rec.target {
            rec.size = target.len() as u64;
        }
        if rec.kind() == Kind::File && rec.size > largest(rec.page_shift) {
            rec.size = end_of(mend, segments, ino, rec.page_shift)?;
        }
        mend.done.inode(ino, "its record said what cannot be: put right as far as that is known");
        mend.put_record(ino, &rec);
        mend.step()?;
    }
    Ok(())
}

fn is_possible(ino: Ino, rec: &InodeRecord) -> bool {
    let kind = rec.kind();
    KINDS.contains(&(rec.mode & libc::S_IFMT))
        && rec.mode & !(libc::S_IFMT | 0o7777) == 0
        && PAGE_SHIFTS.contains(&rec.page_shift)
        && match &rec.target {
            Some(target) => kind == Kind::Symlink && target.len() as u64 == rec.size,
            None => kind != Kind::Symlink,
        }
        && (kind != Kind::File || rec.size <= largest(rec.page_shift))
        && (ino != ROOT || kind == Kind::Directory)
}

/// Inodes that are missing though something belongs to them.
fn missing(
    mend: &mut Mend<'_>,
    segments: &LocalSegments,
    mut lost: BTreeMap<Ino, Remains>,
    progress: OnProgress<'_>,
) -> Result<()> {
    let nodes = tree::load(mend.engine, &mut Report::default(), progress)?;
    find_remains(mend, &nodes, &mut lost)?;
    if nodes.get(ROOT).is_none() {
        lost.entry(ROOT).or_default().entries = true;
    }
    for (ino, remains) in lost {
        let said = remains.name.as_ref().map(|(.., kind)| *kind);
        let kind = match said {
            _ if remains.entries => Some(Kind::Directory),
            _ if remains.pages || remains.patches => Some(Kind::File),
            Some(Kind::Symlink | Kind::CharDevice | Kind::BlockDevice) | None => None,
            said if remains.recorded || remains.attributes => said,
            _ => None,
        };
        match kind {
            Some(kind) => {
                let rec = made_anew(mend, segments, ino, kind, &remains)?;
                mend.put_record(ino, &rec);
                mend.done.inode(ino, "its record is lost: made anew, owner, mode and times are not known");
            }
            None => {
                for tag in [keys::XATTR, keys::LINK, keys::ORPHAN] {
                    for (key, _) in mend.under(&keys::of_inode(tag, ino))? {
                        mend.put_aside(key)?;
                    }
                }
                mend.done.inode(ino, "its record is lost, and nothing that could be found in it is left");
            }
        }
        mend.step()?;
    }
    Ok(())
}

fn find_remains(mend: &Mend<'_>, nodes: &Nodes, lost: &mut BTreeMap<Ino, Remains>) -> Result<()> {
    type Note = fn(&mut Remains);
    let notes: [(u8, Note); 6] = [
        (keys::PAGE, |remains| remains.pages = true),
        (keys::PATCH, |remains| remains.patches = true),
        (keys::BUCKET, |remains| remains.entries = true),
        (keys::XATTR, |remains| remains.attributes = true),
        (keys::LINK, |_| {}),
        (keys::ORPHAN, |_| {}),
    ];
    for (tag, note) in notes {
        let mut last = None;
        scan(mend.engine, tag, &mut |key, _| {
            let ino = keys::ino_of(key);
            if ino != last
                && let Some(ino) = ino.filter(|ino| nodes.get(*ino).is_none())
            {
                note(lost.entry(ino).or_default());
            }
            last = ino;
        })?;
    }
    scan(mend.engine, keys::BUCKET, &mut |key, value| {
        let (Some(dir), Ok(bucket)) = (keys::ino_of(key), decode::<Bucket>(value, "directory entry")) else {
            return;
        };
        for entry in bucket.into_iter().filter(|entry| nodes.get(entry.ino).is_none()) {
            // Entries of what is nowhere else mentioned are dropped with the names.
            if let Some(remains) = lost.get_mut(&entry.ino) {
                remains.name.get_or_insert((dir, entry.name, entry.kind));
            }
        }
    })
}

fn made_anew(
    mend: &Mend<'_>,
    segments: &LocalSegments,
    ino: Ino,
    kind: Kind,
    remains: &Remains,
) -> Result<InodeRecord> {
    let (kind_bits, mode, nlink) = match kind {
        Kind::Directory => (libc::S_IFDIR, 0o700, 2),
        Kind::Fifo => (libc::S_IFIFO, 0o600, 1),
        Kind::Socket => (libc::S_IFSOCK, 0o600, 1),
        _ => (libc::S_IFREG, 0o600, 1),
    };
    let page_shift = page_shift_of(mend, segments, ino)?;
    let size = if kind == Kind::File { end_of(mend, segments, ino, page_shift)? } else { 0 };
    let (parent, name) = match &remains.name {
        Some((dir, name, _)) if ino != ROOT => (*dir, name.clone()),
        _ => (ROOT, Name::default()),
    };
    // That frames may be shared is assumed: it costs little where they are not.
    Ok(InodeRecord {
        mode: kind_bits | mode,
        nlink,
        size,
        page_shift,
        shared: kind == Kind::File,
        ..blank(mend.now, Links::One { parent, name })
    })
}

/// The page size of a file whose record is lost, as its frames tell: the longest of several is a whole page, nearly always.
fn page_shift_of(mend: &Mend<'_>, segments: &LocalSegments, ino: Ino) -> Result<u8> {
    let pages = mend.under(&keys::of_inode(keys::PAGE, ino))?;
    let records = pages.iter().filter_map(|(_, value)| decode::<PageRecord>(value, "page record").ok());
    let longest = records.filter_map(|record| length_of(segments, record)).max().unwrap_or(0);
    let shift = longest.max(1).next_power_of_two().ilog2() as u8;
    let shift = if pages.len() > 1 { shift } else { shift.max(PAGE_SHIFT) };
    Ok(shift.clamp(*PAGE_SHIFTS.start(), *PAGE_SHIFTS.end()))
}

/// An inode of which nothing is known, owned by who repairs.
pub fn blank(now: Time, links: Links) -> InodeRecord {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    InodeRecord::new(0, uid, gid, now, links)
}

/// Where the content of a file ends, as its frames and patches tell.
pub fn end_of(mend: &Mend<'_>, segments: &LocalSegments, ino: Ino, page_shift: u8) -> Result<u64> {
    let start = |page: PageNo| u64::from(page.0) << page_shift;
    let mut end = 0;
    for (key, value) in mend.under(&keys::of_inode(keys::PAGE, ino))? {
        if let (Some((_, page)), Ok(record)) =
            (keys::page_of(&key), decode::<PageRecord>(&value, "page record"))
        {
            end = end.max(start(page) + length_of(segments, record).unwrap_or(1 << page_shift));
        }
    }
    for (key, value) in mend.under(&keys::of_inode(keys::PATCH, ino))? {
        if let (Some((_, page)), Ok(Patch::Data { offset, bytes })) =
            (keys::page_of(&key), decode::<Patch>(&value, "patch"))
        {
            end = end.max(start(page) + u64::from(offset) + bytes.len() as u64);
        }
    }
    Ok(end.min(largest(page_shift)))
}

/// The length of the content in a frame, when it is whole.
pub fn length_of(segments: &LocalSegments, record: PageRecord) -> Option<u64> {
    let Extent { len, .. } = record.extent;
    let bytes = segments.read(record.extent).ok().filter(|_| len > 0)?;
    frame::open(&bytes, record.checksum).ok().map(|content| content.len() as u64)
}
