//! Segments as files in a directory: `xx/NNNNNNNN`.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Class, SegmentInfo, Segments};
use crate::error::Result;
use crate::format::{Extent, SegmentId};
use crate::io::Io;

/// Segments in a local directory.
#[derive(Debug)]
pub struct LocalSegments {}

#[expect(unused_variables, clippy::todo, reason = "to be written")]
impl LocalSegments {
    /// Opens the segments in `dir`, which is made when missing.
    pub fn open(io: Arc<dyn Io>, dir: PathBuf) -> Result<LocalSegments> {
        todo!()
    }
}

#[expect(unused_variables, clippy::todo, reason = "to be written")]
impl Segments for LocalSegments {
    fn reserve(&self, bytes: u64) -> Result<()> {
        todo!()
    }
    fn reserved(&self) -> u64 {
        todo!()
    }
    fn append(&self, class: Class, frames: &[u8]) -> Result<Extent> {
        todo!()
    }
    fn read(&self, extent: Extent) -> Result<Vec<u8>> {
        todo!()
    }
    fn sync(&self) -> Result<()> {
        todo!()
    }
    fn free(&self, extent: Extent) -> Result<()> {
        todo!()
    }
    fn remove(&self, id: SegmentId) -> Result<()> {
        todo!()
    }
    fn close(&self, id: SegmentId) -> Result<()> {
        todo!()
    }
    fn list(&self) -> Result<Vec<SegmentInfo>> {
        todo!()
    }
}
