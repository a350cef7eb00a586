//! Which bytes of a page are not journalled yet.

use std::ops::Range;

use smallvec::SmallVec;

/// More ranges than this are replaced by the one that covers them: each becomes a record of its own
/// in the catalog, of some 40 bytes and a lookup at recovery, and a page that is written in so many places is soon
/// flushed whole.
const MOST_RANGES: usize = 8;

/// Changes of a page: first zeros from some offset on, then data ranges. The data itself is the page's.
///
/// Invariant: the ranges are in order, neither touch nor overlap, and end within the page's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// All from here on was zeroed, ahead of the ranges.
    pub zero_from: Option<usize>,
    /// What was written.
    pub ranges: SmallVec<[Range<usize>; 1]>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.zero_from.is_none() && self.ranges.is_empty()
    }

    /// Bytes of data.
    pub fn bytes(&self) -> usize {
        self.ranges.iter().map(|r| r.len()).sum()
    }

    /// Adds a written range.
    pub fn write(&mut self, mut new: Range<usize>) {
        // Appending is the common case.
        if let Some(last) = self.ranges.last_mut()
            && last.start <= new.start
            && new.start <= last.end
        {
            last.end = last.end.max(new.end);
            return;
        }
        if self.ranges.last().is_none_or(|last| last.end < new.start) && self.ranges.len() < MOST_RANGES {
            self.ranges.push(new);
            return;
        }
        let from = self.ranges.partition_point(|r| r.end < new.start);
        let to = self.ranges.partition_point(|r| r.start <= new.end);
        for touched in self.ranges.get(from..to).unwrap_or_default() {
            new = new.start.min(touched.start)..new.end.max(touched.end);
        }
        self.ranges.drain(from..to);
        self.ranges.insert(from, new);
        if self.ranges.len() > MOST_RANGES
            && let Some(end) = self.ranges.last().map(|last| last.end)
        {
            self.ranges.truncate(1);
            self.ranges.iter_mut().for_each(|first| first.end = end);
        }
    }

    /// Zeros all from `offset` on.
    pub fn cut(&mut self, offset: usize) {
        self.ranges.retain(|r| r.start < offset);
        if let Some(last) = self.ranges.last_mut() {
            last.end = last.end.min(offset);
        }
        self.zero_from = Some(self.zero_from.map_or(offset, |z| z.min(offset)));
    }

    /// These changes with `later` ones on top.
    pub fn then(mut self, later: Changes) -> Changes {
        if let Some(offset) = later.zero_from {
            self.cut(offset);
        }
        later.ranges.into_iter().for_each(|r| self.write(r));
        self
    }
}
