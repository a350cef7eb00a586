//! A dirty page, and the queues in which dirty pages wait for write-back.

use std::sync::Arc;
use std::time::Instant;

use super::changes::Changes;
use super::{Content, PageId};
use crate::queue::Queue;

/// A page whose content is not, or not wholly, in its frame.
#[derive(Debug)]
pub(super) struct Dirty {
    pub content: Content,
    /// Not yet journalled, nor covered by the flush under way.
    pub changes: Changes,
    /// Numbers of the patches that the catalog holds: handed out and not superseded.
    pub patches: std::ops::Range<u32>,
    /// Bytes of these, as far as they were large.
    pub riding: usize,
    /// First written, counted anew from the start of a flush.
    pub since: Instant,
    /// Place in the queue: rises with `since`.
    pub turn: u64,
    /// Written to its end: due at once.
    pub full: bool,
    pub flight: Option<Box<Flight>>,
}

/// A flush of a page under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub ticket: u64,
    /// Patches below are superseded by the frame.
    pub patches: u32,
    /// Unjournalled when the flush began.
    pub covered: Changes,
    /// Whether the page was changed since: then it has a copy of its own.
    pub changed: bool,
    /// As they were when the flush began.
    pub since: Instant,
    pub turn: u64,
    pub full: bool,
}

impl Dirty {
    /// Whether the content is the one that the flush under way holds, which must stay as it is.
    pub fn frozen(&self) -> bool {
        self.flight.as_ref().is_some_and(|f| !f.changed)
    }
}

/// The capacity for a page buffer of `capacity` that must hold `len` bytes. Doubles, so that a page
/// that is written bit by bit is copied once at most, and a small file costs little.
pub(super) fn grown(capacity: usize, len: usize, page_size: usize) -> usize {
    if len <= capacity { capacity } else { len.max((2 * capacity).min(page_size)) }
}

/// Writes into a page's content: in place when nobody else holds it and `copy` is not asked for.
/// A copy, or a buffer that must grow, gets exactly `capacity`.
pub(super) fn overwrite(content: &mut Content, offset: usize, bytes: &[u8], capacity: usize, copy: bool) {
    if !copy && let Some(buffer) = Arc::get_mut(content) {
        if capacity > buffer.capacity() {
            buffer.reserve_exact(capacity - buffer.len());
        }
        if buffer.len() < offset {
            buffer.resize(offset, 0);
        }
        let (inside, beyond) = bytes.split_at(bytes.len().min(buffer.len() - offset));
        if let Some(place) = buffer.get_mut(offset..offset + inside.len()) {
            place.copy_from_slice(inside);
        }
        buffer.extend_from_slice(beyond);
        return;
    }
    let mut buffer = Vec::with_capacity(capacity);
    buffer.extend_from_slice(content.get(..offset).unwrap_or(content));
    buffer.resize(offset, 0);
    buffer.extend_from_slice(bytes);
    buffer.extend_from_slice(content.get(offset + bytes.len()..).unwrap_or_default());
    *content = Arc::new(buffer);
}

/// Dirty pages that are not in flush.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Due at once.
    pub full: Queue<PageId>,
    /// Due when old, or when memory is short.
    pub partial: Queue<PageId>,
}

impl Queues {
    pub fn push(&mut self, id: PageId, page: &Dirty) {
        if page.full { &mut self.full } else { &mut self.partial }.push(page.turn, id);
    }

    pub fn remove(&mut self, page: &Dirty) {
        if page.full { &mut self.full } else { &mut self.partial }.remove(page.turn);
    }
}
