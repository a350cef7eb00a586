//! The local catalog: journal, table and index together.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Batch, CatalogStats, Engine, Value};
use crate::error::Result;
use crate::format::{Key, Seq};
use crate::io::Io;

/// What a catalog is opened with.
pub struct OpenOptions<'a> {
    /// The disk.
    pub io: Arc<dyn Io>,
    /// The directory that holds `journal/` and `index.redb`; exists.
    pub dir: PathBuf,
    /// Bytes of memory for table and index cache together.
    pub memory: usize,
    /// Tells whether what a batch refers to is whole on the disk. Asked at replay for batches behind
    /// the last mark; the first that is not ends the replay.
    pub verify: &'a mut dyn FnMut(&Batch) -> bool,
    /// Makes durable what batches refer to; called before a background checkpoint.
    pub before_checkpoint: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

/// The local catalog.
#[derive(Debug)]
pub struct LocalCatalog {}

#[expect(unused_variables, clippy::todo, reason = "to be written")]
impl LocalCatalog {
    /// Opens the catalog, making an empty one when nothing is there, and replays the journal.
    pub fn open(options: OpenOptions<'_>) -> Result<LocalCatalog> {
        todo!()
    }
}

#[expect(unused_variables, clippy::todo, reason = "to be written")]
impl Engine for LocalCatalog {
    fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        todo!()
    }
    fn scan(&self, range: Range<Key>, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        todo!()
    }
    fn apply(&self, batch: Batch) -> Result<Seq> {
        todo!()
    }
    fn has_room(&self) -> bool {
        todo!()
    }
    fn wait_for_room(&self) -> Result<()> {
        todo!()
    }
    fn last_seq(&self) -> Seq {
        todo!()
    }
    fn sync(&self, upto: Seq, before: &dyn Fn() -> Result<()>) -> Result<()> {
        todo!()
    }
    fn durable_seq(&self) -> Seq {
        todo!()
    }
    fn checkpoint(&self, before: &dyn Fn() -> Result<()>) -> Result<()> {
        todo!()
    }
    fn close(&self, before: &dyn Fn() -> Result<()>) -> Result<()> {
        todo!()
    }
    fn stats(&self) -> CatalogStats {
        todo!()
    }
}
