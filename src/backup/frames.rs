//! The frames that a dump names, by the segments that they lie in.
//!
//! A dump has its pages in the order of inodes, frames lie in the order in which they were written. So it is gone
//! through once to count them, and then again for each group of segments that has no more than [`TOGETHER`].

use std::collections::{BTreeMap, BTreeSet};

use super::Outcome;
use crate::catalog::{DumpReader, Dumped};
use crate::error::Result;
use crate::format::{Extent, Ino, PageNo, PageRecord, SegmentId, decode, keys};

/// Frames that are held in memory at a time, 48 bytes each.
const TOGETHER: usize = 1 << 20;

/// A frame that a page needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub extent: Extent,
    pub checksum: u64,
    /// One of those that it belongs to.
    pub ino: Ino,
    pub page: PageNo,
}

impl Frame {
    pub fn end(&self) -> u64 {
        u64::from(self.extent.offset) + u64::from(self.extent.len)
    }

    /// Whether both are the same bytes in the same place.
    pub fn same(&self, other: &Frame) -> bool {
        (self.extent, self.checksum) == (other.extent, other.checksum)
    }
}

/// What a dump has in each segment: frames, each as often as pages name it, and their bytes.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub segments: BTreeMap<SegmentId, (usize, u64)>,
    pub dumped: Option<Dumped>,
}

/// Visits the frames, as often as pages name them. Those that are lost have none.
fn visit(
    mut dump: DumpReader,
    mut each: impl FnMut(Frame),
    mut lost: impl FnMut(Ino, PageNo),
) -> Result<Dumped> {
    while let Some((key, value)) = dump.entry()? {
        if key.first() == Some(&keys::PAGE)
            && let Some((ino, page)) = keys::page_of(key)
        {
            match decode(value, "page record") {
                Ok(PageRecord::LOST) => lost(ino, page),
                Ok(PageRecord { extent, checksum }) => each(Frame { extent, checksum, ino, page }),
                // One that cannot be read is as unreadable in the copy; the check tells of it.
                Err(_) => {}
            }
        }
    }
    dump.finish()
}

impl Contents {
    /// Reads a dump to its end. Pages whose content is lost are damage in `outcome`.
    pub fn of(dump: DumpReader, outcome: &mut Outcome) -> Result<Contents> {
        let mut segments: BTreeMap<SegmentId, (usize, u64)> = BTreeMap::new();
        let count = |frame: Frame| {
            let (count, bytes) = segments.entry(frame.extent.segment).or_default();
            *count += 1;
            *bytes += u64::from(frame.extent.len);
        };
        let lost = |ino, page| outcome.damage(ino, page, "its content is lost".into());
        let dumped = visit(dump, count, lost)?;
        Ok(Contents { segments, dumped: Some(dumped) })
    }

    /// Bytes of all frames.
    pub fn bytes(&self) -> u64 {
        self.segments.values().map(|(_, bytes)| bytes).sum()
    }

    /// The segments in groups, each of which can be held in memory.
    pub fn groups(&self) -> Vec<BTreeSet<SegmentId>> {
        let mut groups: Vec<BTreeSet<SegmentId>> = Vec::new();
        let mut held = usize::MAX;
        for (id, (count, _)) in &self.segments {
            held = held.saturating_add(*count);
            match groups.last_mut().filter(|_| held <= TOGETHER) {
                Some(group) => _ = group.insert(*id),
                None => {
                    groups.push(BTreeSet::from([*id]));
                    held = *count;
                }
            }
        }
        groups
    }
}

/// The frames of a group of segments, in the order in which they lie there, each once.
pub(super) fn of_group(
    dump: DumpReader,
    group: &BTreeSet<SegmentId>,
) -> Result<BTreeMap<SegmentId, Vec<Frame>>> {
    let mut found: BTreeMap<SegmentId, Vec<Frame>> = BTreeMap::new();
    let take = |frame: Frame| {
        if group.contains(&frame.extent.segment) {
            found.entry(frame.extent.segment).or_default().push(frame);
        }
    };
    visit(dump, take, |_, _| {})?;
    for frames in found.values_mut() {
        frames.sort_by_key(|frame| (frame.extent.offset, frame.extent.len, frame.checksum));
        frames.dedup_by(|one, other| one.same(other));
    }
    Ok(found)
}

/// The most bytes that are copied at once, unless one frame has more.
const RUN: u64 = 4 << 20;

/// Frames that lie side by side, as many as are copied at once.
pub(super) fn runs(frames: &[Frame]) -> impl Iterator<Item = &[Frame]> {
    let mut rest = frames;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut end = first.end();
        let mut count = 1;
        for frame in rest.iter().skip(1) {
            if u64::from(frame.extent.offset) != end || frame.end() - u64::from(first.extent.offset) > RUN {
                break;
            }
            end = frame.end();
            count += 1;
        }
        let (run, behind) = rest.split_at(count);
        rest = behind;
        Some(run)
    })
}

/// The extent of a run.
pub(super) fn extent_of(run: &[Frame]) -> Option<Extent> {
    let (first, last) = (run.first()?, run.last()?);
    let len = (last.end() - u64::from(first.extent.offset)) as u32;
    Some(Extent { len, ..first.extent })
}
