//! The account of the room in open segments: which segment an append goes to, and how much is promised.
//!
//! An append is one piece, so the last bytes of a segment's room may be too few for it and go to waste.
//! Therefore a segment promises what is allocated behind its last frame less [`BATCH_MAX`]. It follows,
//! for appends of at most that size:
//! - while anything is promised, some segment has room for the append (promise > 0 means more than
//!   `BATCH_MAX` bytes of room), so it never meets a full disk;
//! - an append takes no more from the promise than its own length;
//! - a segment that an append does not fit promises nothing, so giving it up breaks nothing.
//!
//! A segment that still promises something and must make way for a larger append stays open as a spare.

use std::collections::BTreeMap;

use super::{HEADER_LEN, Open};
use crate::format::SegmentId;
use crate::pages::{Class, SEGMENT_SIZE};

/// The largest append that a reservation covers: the largest frame (1 MiB and its header), or several
/// smaller ones. It is also what each open segment holds allocated beyond its promise.
pub const BATCH_MAX: u32 = 2 << 20;

impl Open {
    /// Bytes allocated behind the last frame.
    fn room(&self) -> u32 {
        self.end.saturating_sub(self.used)
    }

    /// Bytes that this segment promises.
    pub fn promised(&self) -> u64 {
        u64::from(self.room().saturating_sub(BATCH_MAX))
    }

    /// How much to allocate here so that `bytes` more are promised, as far as the segment reaches.
    pub fn missing(&self, bytes: u64) -> u32 {
        let slack = BATCH_MAX.saturating_sub(self.room());
        clamp(bytes + u64::from(slack)).min(SEGMENT_SIZE.saturating_sub(self.end))
    }
}

/// The length of a new segment that promises `bytes`, as far as one can.
pub fn segment_for(bytes: u64) -> u32 {
    clamp(bytes + u64::from(HEADER_LEN + BATCH_MAX))
}

fn clamp(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).min(SEGMENT_SIZE)
}

/// The open segments.
#[derive(Debug, Default)]
pub struct Room {
    current: BTreeMap<Class, Open>,
    /// Without a class until one needs them.
    spares: Vec<Open>,
}

impl Room {
    /// All open segments.
    pub fn all(&self) -> impl Iterator<Item = &Open> {
        self.current.values().chain(&self.spares)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Open> {
        self.current.values_mut().chain(&mut self.spares)
    }

    /// Bytes promised.
    pub fn promised(&self) -> u64 {
        self.all().map(Open::promised).sum()
    }

    /// The segment, when it is open.
    pub fn get(&self, id: SegmentId) -> Option<&Open> {
        self.all().find(|open| open.id == id)
    }

    /// The segment that a class appends to.
    pub fn current(&self, class: Class) -> Option<Open> {
        self.current.get(&class).cloned()
    }

    /// Claims room in the segment of a class, when it has enough. Returns where.
    pub fn claim(&mut self, class: Class, len: u32) -> Option<(Open, u32)> {
        let open = self.current.get_mut(&class).filter(|open| open.room() >= len)?;
        Some(take(open, len))
    }

    /// Claims room in whatever segment has it, for want of better: one of the class's neighbours at a full disk.
    /// An append larger than [`BATCH_MAX`] only where it takes nothing from the promise but its length.
    pub fn claim_anywhere(&mut self, class: Class, len: u32) -> Option<(Open, u32)> {
        if let Some(claimed) = self.claim(class, len) {
            return Some(claimed);
        }
        let open = self.all_mut().filter(|open| open.room() >= len).max_by_key(|open| open.room())?;
        Some(take(open, len))
    }

    /// Makes a spare that has room for `len` bytes the class's segment. Returns the one to be closed, if
    /// any; `None` when there is no such spare.
    pub fn take_spare(&mut self, class: Class, len: u32) -> Option<Option<Open>> {
        let at = self.spares.iter().position(|open| open.room() >= len)?;
        let open = self.spares.swap_remove(at);
        Some(self.put(class, open))
    }

    /// Makes a segment the class's own. Returns the one to be closed, if any.
    pub fn put(&mut self, class: Class, open: Open) -> Option<Open> {
        let old = self.current.insert(class, open)?;
        if old.promised() == 0 {
            return Some(old);
        }
        self.spares.push(old);
        None
    }

    /// Adds a segment without a class.
    pub fn add_spare(&mut self, open: Open) {
        self.spares.push(open);
    }

    /// Takes note that a segment's room reaches to `end`.
    pub fn extended(&mut self, id: SegmentId, end: u32) {
        if let Some(open) = self.all_mut().find(|open| open.id == id) {
            open.end = end;
        }
    }

    /// A segment in which more can be promised: the lasting class's first, since most goes there.
    pub fn growable(&self, except: Option<SegmentId>) -> Option<Open> {
        let lasting = self.current.get(&Class::Lasting).into_iter();
        // A segment that is nearly full has no use for more room: what it gained would be slack.
        let gains = |open: &&Open| {
            Some(open.id) != except && open.end < SEGMENT_SIZE && SEGMENT_SIZE - open.used > BATCH_MAX
        };
        lasting.chain(&self.spares).find(gains).cloned()
    }

    /// Takes a segment out.
    pub fn take(&mut self, id: SegmentId) -> Option<Open> {
        if let Some(at) = self.spares.iter().position(|open| open.id == id) {
            return Some(self.spares.swap_remove(at));
        }
        let class = *self.current.iter().find(|(_, open)| open.id == id)?.0;
        self.current.remove(&class)
    }
}

fn take(open: &mut Open, len: u32) -> (Open, u32) {
    let offset = open.used;
    open.used += len;
    (open.clone(), offset)
}
