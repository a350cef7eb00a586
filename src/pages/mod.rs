//! Pages on disk: the codec, the frames that it makes and the segments that frames are appended to.
//!
//! Invariants: new content never overwrites old; a frame is self-describing and verified by its
//! checksum each time it is read; nothing here knows what a file is.

pub mod codec;
pub mod frame;
mod local;
#[cfg(test)]
mod samples;

use crate::error::Result;
use crate::format::{Extent, SegmentId};

pub use local::{BATCH_MAX, LocalSegments, segment_file, segment_header};

/// The most bytes that a segment holds.
pub const SEGMENT_SIZE: u32 = 64 << 20;

/// Where the frames of a segment begin: what it says of itself lies before.
pub const FIRST_FRAME: u32 = 16;

/// Frames that are expected to die together go to the same segments, so that these die whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// No expiry.
    #[default]
    Lasting,
    /// Expires within an hour.
    Hour,
    /// Within a day.
    Day,
    /// Within a week.
    Week,
    /// Later.
    Later,
}

/// A segment as it lies on the disk.
#[derive(Clone, Copy, Debug)]
pub struct SegmentInfo {
    /// Its number.
    pub id: SegmentId,
    /// Where the next frame would be appended; frames lie below.
    pub used: u64,
    /// Bytes that it takes on the disk.
    pub allocated: u64,
    /// Whether it is still appended to.
    pub open: bool,
}

/// Append-only storage of frames. One implementation keeps them in a local directory; one for
/// object storage is to come, so nothing here names a path.
pub trait Segments: Send + Sync {
    /// Reserves room so that `bytes` more than before can be appended without the disk being full.
    /// May wait for the disk. Errors: `NoSpace`.
    fn reserve(&self, bytes: u64) -> Result<()>;
    /// Bytes that can be appended without another [`Segments::reserve`].
    fn reserved(&self) -> u64;
    /// Bytes that the segments take on the disk, with what is reserved. Blocks that are dead in part count.
    fn allocated(&self) -> u64;
    /// Sets how much that may be at most: what needs more is `NoSpace`.
    fn set_limit(&self, bytes: u64);
    /// Appends one or more frames in one piece and tells where they came to lie. Not durable yet.
    fn append(&self, class: Class, frames: &[u8]) -> Result<Extent>;
    /// The bytes of an extent.
    fn read(&self, extent: Extent) -> Result<Vec<u8>>;
    /// Lets the system forget what it keeps of a segment in memory and has written: the next reads tell what the
    /// disk has. A hint.
    fn drop_cached(&self, id: SegmentId);
    /// Makes all that was appended before the call durable. Costs nothing when nothing was.
    fn sync(&self) -> Result<()>;
    /// Gives an extent's room back. The caller has made durable that nothing refers to it.
    fn free(&self, extent: Extent) -> Result<()>;
    /// Removes a segment that nothing refers to. One that is open is closed first.
    fn remove(&self, id: SegmentId) -> Result<()>;
    /// Closes a segment for appending, so that it can be compacted.
    fn close(&self, id: SegmentId) -> Result<()>;
    /// Gives back what is reserved. Nothing is appended from then on: others may open the store.
    fn finish(&self);
    /// All segments, by number.
    fn list(&self) -> Result<Vec<SegmentInfo>>;
}
