//! The catalog anew, where its index is damaged or missing.
//!
//! ```text
//!   newest whole backup ──► frames sealed since, but before the journal ──► journal ──► frames sealed after it
//! ```
//!
//! Each of these says more of the store than what is before it, and what comes later wins. A record of a page is changed
//! also where its frame has moved: frames say themselves which page they are. What remains contradictory, files without a
//! name above all, is for the repair that follows.
//!
//! Invariants: the index that was there, and the journal, are in `damaged/` before the new index takes their place, by
//! one rename: interrupted anywhere, all is there to begin anew. Of frames nothing is taken that the backup or the journal
//! know: which of those are alive they say themselves.
//!
//! Memory: some 150 bytes a frame, and what the journal has.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::aside;
use super::mend::Done;
use crate::catalog::backups::backups;
use crate::catalog::{Batch, DumpHead, DumpReader, Layer, Recalled, build_anew, frames_are_whole, recall};
use crate::check::{OnProgress, Progress};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::format::{
    CounterRecord, Extent, FormatLine, Ino, Key, PageNo, PageRecord, SegmentId, Seq, decode, encode, keys,
};
use crate::io::Io;
use crate::pages::{FIRST_FRAME, LocalSegments, Segments, frame};

/// A whole frame that a segment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    ino: Ino,
    page: PageNo,
    sequence: u64,
    segment: u32,
    offset: u32,
    len: u32,
    checksum: u64,
}

impl Found {
    fn record(&self) -> PageRecord {
        let extent = Extent { segment: SegmentId(self.segment), offset: self.offset, len: self.len };
        PageRecord { extent, checksum: self.checksum }
    }
}

/// What the backup says that is needed before it is gone through to the end.
#[derive(Default)]
struct Base {
    /// Frames that it names, by where they lie.
    named: HashSet<(u32, u32)>,
    /// Pages whose frames have moved.
    moved: Layer,
    /// What was written to pages since their frames.
    patches: Vec<Key>,
    counters: CounterRecord,
}

/// Makes the catalog of the store in `dir` anew. Its segments' directory and its journal's are there.
pub fn rebuild(io: &Arc<dyn Io>, dir: &Path, done: &mut Done, progress: OnProgress<'_>) -> Result<()> {
    let segments = LocalSegments::open(io.clone(), dir.join("segments"))?;
    let (frames, broken) = frames(&segments, done, progress)?;
    progress(Progress { stage: "reading the newest backup of the catalog", done: 0, total: 0 });
    let backup = newest_backup(io, dir, done)?;
    let mut base = match &backup {
        Some((head, path)) => read_base(open(io, path)?, *head, &frames)?,
        None => Base::default(),
    };
    let mut later = Layer::new();
    let journal = recall(io, dir, &mut |batch| frames_are_whole(&segments, batch), &mut |batch: Batch| {
        for (key, value) in batch.changes() {
            name(&mut base.named, key, value);
            later.insert(key.into(), value.map(|value| value.to_vec().into()));
        }
    })?;

    let since = backup.as_ref().map_or(Seq(0), |(head, _)| head.seq);
    let (before, after) = newer(&frames, &base.named, since, journal);
    let (lost_before, lost_after) = newer(&broken, &base.named, since, journal);
    let [lost_before, lost_after] = [lost_before, lost_after].map(|broken| lost(&frames, broken, done));
    let mut changes = std::mem::take(&mut base.moved);
    take(&mut changes, &before, &base.patches);
    take(&mut changes, &lost_before, &base.patches);
    base.patches.extend(later.keys().filter(|key| key.first() == Some(&keys::PATCH)).map(|key| key.to_vec()));
    changes.extend(later);
    take(&mut changes, &after, &base.patches);
    take(&mut changes, &lost_after, &base.patches);
    count_inodes(&mut changes, base.counters, &frames);

    match &backup {
        Some((head, path)) => done.at(
            path.display().to_string(),
            format!("the catalog is made anew from this backup of {}", when(head.time)),
        ),
        None => done.at(dir.display().to_string(), "the catalog is made anew without a backup of it"),
    }
    let said = match journal {
        Some(Recalled { first, last }) if first.0 > since.0 + 1 => {
            format!(
                "its records {} to {} are applied; what changed before, since the backup, is lost",
                first.0, last.0
            )
        }
        Some(Recalled { first, last }) => format!("its records {} to {} are applied", first.0, last.0),
        None => "it has no records; what changed since the backup is lost".to_owned(),
    };
    done.at(dir.join("journal").display().to_string(), said);
    if before.len() + after.len() > 0 {
        let place = dir.join("segments").display().to_string();
        done.at(
            place,
            format!("{} frames that neither of them names are their pages' now", before.len() + after.len()),
        );
    }

    keep_old(io, dir)?;
    let newest = frames.iter().map(|frame| Seq::at_frame(frame.sequence).0 + 1).max();
    let last = [Some(since.0), journal.map(|row| row.last.0), newest].into_iter().flatten().max();
    progress(Progress { stage: "making the index", done: 0, total: 0 });
    let dump = backup.map(|(_, path)| open(io, &path)).transpose()?;
    build_anew(io, dir, dump, changes, Seq(last.unwrap_or(0)))
}

/// Of frames that are not whole those of pages that have no other: such a page stays one, and reading it is an error. A page that
/// has an older frame gets that back; whether the newer one was promised nothing tells. Of an inode that has no whole frame
/// nothing is taken: most such were removed, and a part of their room given back.
fn lost(frames: &[Found], mut broken: Vec<Found>, done: &mut Done) -> Vec<Found> {
    let mut unknown = BTreeSet::new();
    broken.retain(|found| {
        let others = of_page(frames, found.ino, found.page);
        if others.last().is_some_and(|newest| newest.sequence >= found.sequence) {
            return false;
        }
        let first = frames.partition_point(|other| other.ino < found.ino);
        if frames.get(first).is_none_or(|other| other.ino != found.ino) {
            unknown.insert(found.ino);
            return false;
        }
        let older = if others.is_empty() { "" } else { "; the page is what it was before" };
        done.at(
            format!("segment {:08x}, offset {}", found.segment, found.offset),
            format!("the frame of page {} of {} is damaged{older}", found.page.0, found.ino),
        );
        others.is_empty()
    });
    for ino in unknown {
        done.inode(ino, "no frame of it is whole: it was removed, or is lost");
    }
    broken
}

/// All whole frames, in order, and those that are not. What cannot be read of a segment is told and passed over.
fn frames(
    segments: &LocalSegments,
    done: &mut Done,
    progress: OnProgress<'_>,
) -> Result<(Vec<Found>, Vec<Found>)> {
    let list = segments.list()?;
    let total = list.iter().map(|segment| segment.used).sum();
    let (mut frames, mut broken) = (Vec::new(), Vec::new());
    let mut read = 0;
    for segment in list {
        let mut at = u64::from(FIRST_FRAME);
        while at < segment.used {
            progress(Progress { stage: "looking for frames", done: read + at, total });
            let len = frame::PART.min(segment.used - at) as u32;
            match segments.read(Extent { segment: segment.id, offset: at as u32, len }) {
                Ok(bytes) => {
                    let (found, looked) = frame::find(&bytes, at + u64::from(len) < segment.used);
                    let place = |(within, header): &(usize, frame::Header)| Found {
                        ino: header.ino,
                        page: header.page,
                        sequence: header.sequence,
                        segment: segment.id.0,
                        offset: at as u32 + *within as u32,
                        len: header.len,
                        checksum: header.checksum,
                    };
                    frames.extend(found.iter().map(place));
                    broken.extend(frame::broken(&bytes, &found, looked).iter().map(place));
                    at += looked as u64;
                }
                Err(error @ (Error::Damaged(_) | Error::Io { .. })) => {
                    done.at(
                        format!("segment {:08x}, offset {at}", segment.id.0),
                        format!("passed over: {error}"),
                    );
                    at += u64::from(len);
                }
                Err(error) => return Err(error),
            }
        }
        read += segment.used;
    }
    frames.sort_unstable();
    broken.sort_unstable();
    Ok((frames, broken))
}

/// The newest backup that is whole and of this store. Those that are not are told.
pub fn newest_backup(io: &Arc<dyn Io>, dir: &Path, done: &mut Done) -> Result<Option<(DumpHead, PathBuf)>> {
    let line = crate::check::files::read(&**io, &dir.join("FORMAT"))?;
    let store = FormatLine::parse(&String::from_utf8_lossy(&line)).and_then(|line| line.id);
    for backup in backups(&**io, dir)?.into_iter().rev() {
        let head = open(io, &backup.path).and_then(|reader| {
            let head = reader.head();
            reader.finish().map(|_| head)
        });
        match head {
            Ok(head) if Some(head.store) == store => return Ok(Some((head, backup.path))),
            Ok(_) => done.at(backup.path.display().to_string(), "not used: it is of another store"),
            Err(error @ (Error::Damaged(_) | Error::Io { .. })) => {
                done.at(backup.path.display().to_string(), format!("not used: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The id of the store that the newest backup in it tells, where one is readable.
pub fn id_of_backups(io: &Arc<dyn Io>, dir: &Path) -> Result<Option<u64>> {
    let ids = backups(&**io, dir)?
        .into_iter()
        .rev()
        .map(|backup| open(io, &backup.path).map(|dump| dump.head().store));
    Ok(ids.flatten().next())
}

fn open(io: &Arc<dyn Io>, path: &Path) -> Result<DumpReader> {
    let file = io.open_read(path).map_err(Error::io(format!("opening {}", path.display())))?;
    DumpReader::new(file, path)
}

fn read_base(mut dump: DumpReader, head: DumpHead, frames: &[Found]) -> Result<Base> {
    let there: HashSet<(u32, u32, u64)> =
        frames.iter().map(|found| (found.segment, found.offset, found.checksum)).collect();
    let mut base = Base::default();
    while let Some((key, value)) = dump.entry()? {
        name(&mut base.named, key, Some(value));
        match key.first() {
            Some(&keys::PAGE) => {
                let (Some((ino, page)), Ok(record)) =
                    (keys::page_of(key), decode::<PageRecord>(value, "page record"))
                else {
                    continue;
                };
                let Extent { segment, offset, .. } = record.extent;
                if there.contains(&(segment.0, offset, record.checksum)) {
                    continue;
                }
                // Compaction copies frames as they are.
                let copies = of_page(frames, ino, page);
                let is_it = |found: &&Found| {
                    found.checksum == record.checksum && Seq::at_frame(found.sequence) <= head.seq
                };
                if let Some(copy) = copies.iter().rfind(is_it) {
                    base.moved.insert(key.into(), Some(encode(&copy.record()).into()));
                }
            }
            Some(&keys::PATCH) => base.patches.push(key.to_vec()),
            _ if key == keys::counters() => base.counters = decode(value, "counters").unwrap_or_default(),
            _ => {}
        }
    }
    Ok(base)
}

/// The frames of a page, the newest last.
fn of_page(frames: &[Found], ino: Ino, page: PageNo) -> &[Found] {
    let from = frames.partition_point(|found| (found.ino, found.page) < (ino, page));
    let to = frames.partition_point(|found| (found.ino, found.page) <= (ino, page));
    frames.get(from..to).unwrap_or_default()
}

/// Takes note of the frame that a record names.
fn name(named: &mut HashSet<(u32, u32)>, key: &[u8], value: Option<&[u8]>) {
    if let (Some(&keys::PAGE), Some(value)) = (key.first(), value)
        && let Ok(record) = decode::<PageRecord>(value, "page record")
    {
        named.insert((record.extent.segment.0, record.extent.offset));
    }
}

/// The newest frames of pages that neither the backup nor the journal knows: those sealed between them, and those sealed
/// behind both.
fn newer(
    frames: &[Found],
    named: &HashSet<(u32, u32)>,
    since: Seq,
    journal: Option<Recalled>,
) -> (Vec<Found>, Vec<Found>) {
    let end = Seq(u64::MAX);
    let (gap, behind) = match journal {
        // Nothing is missing between them.
        Some(row) if row.first.0 <= since.0 + 1 => (end..end, row.last..end),
        Some(row) => (since..row.first, row.last..end),
        None => (since..end, end..end),
    };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for of_page in frames.chunk_by(|a, b| (a.ino, a.page) == (b.ino, b.page)) {
        let newest = |sealed: &Range<Seq>| {
            let is_of = |found: &&Found| {
                !named.contains(&(found.segment, found.offset))
                    && sealed.contains(&Seq::at_frame(found.sequence))
            };
            of_page.iter().rfind(is_of).copied()
        };
        before.extend(newest(&gap));
        after.extend(newest(&behind));
    }
    (before, after)
}

/// Makes frames those of their pages, in place of whatever the page was.
fn take(changes: &mut Layer, frames: &[Found], patches: &[Key]) {
    let pages: HashSet<(Ino, PageNo)> = frames.iter().map(|found| (found.ino, found.page)).collect();
    for key in patches.iter().filter(|key| keys::page_of(key).is_some_and(|page| pages.contains(&page))) {
        changes.insert(key[..].into(), None);
    }
    for found in frames {
        changes.insert(keys::page(found.ino, found.page)[..].into(), Some(encode(&found.record()).into()));
    }
}

/// No number of an inode is given again that a frame names.
fn count_inodes(changes: &mut Layer, base: CounterRecord, frames: &[Found]) {
    let known = changes
        .get(&keys::counters()[..])
        .and_then(|value| decode(&value.as_ref()?.bytes(), "counters").ok());
    let mut counters: CounterRecord = known.unwrap_or(base);
    counters.last_ino = frames.last().map_or(0, |found| found.ino.0).max(counters.last_ino);
    changes.insert(keys::counters()[..].into(), Some(encode(&counters).into()));
}

fn when(time: Time) -> String {
    jiff::Timestamp::new(time.secs(), 0)
        .map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string())
}

/// Keeps what is to be replaced in `damaged/`.
fn keep_old(io: &Arc<dyn Io>, dir: &Path) -> Result<()> {
    aside::copy_journal(io, dir)?;
    aside::take(io, dir, "index.redb")
}
