//! All metadata, as an ordered map from bytes to bytes with atomic batches.
//!
//! ```text
//!   apply ──► journal (write-ahead, one write(2) a batch) ──► backlog ──► table in memory
//!                 │ sync: group commit                                        │ checkpoint, in the background
//!                 ▼                                                           ▼
//!             journal/NNNNNN                                              index.redb
//! ```
//!
//! Reads merge table and index. Invariants: a batch is applied whole or not at all, also after a
//! crash; batches survive in the order in which they were applied, without gaps; what
//! [`Engine::sync`] confirmed survives power loss.

mod anew;
mod backlog;
pub mod backups;
mod batch;
mod blocks;
mod checkpoint;
mod commit;
mod dump;
mod frames;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
mod index;
mod journal;
mod local;
mod reserve;
mod standby;
mod table;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::error::Result;
use crate::format::{Key, Seq};

pub use anew::{Recalled, build_anew, recall};
pub use batch::{Batch, Change};
pub use dump::{DumpHead, DumpReader, DumpWriter, Dumped};
pub use frames::frames_are_whole;
pub use index::{build, verify_index};
pub use journal::GO_BACK;
pub use local::{LocalCatalog, OpenOptions};
pub use table::Layer;

/// A value of the catalog.
pub type Value = Vec<u8>;

/// Figures for `status`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CatalogStats {
    /// Batches applied since the store was opened.
    pub batches: u64,
    /// Device flushes of the journal since then.
    pub flushes: u64,
    /// Checkpoints since then.
    pub checkpoints: u64,
    /// Bytes of the table in memory.
    pub table_bytes: u64,
    /// Bytes of the index and the journal on disk.
    pub disk_bytes: u64,
}

/// An ordered key-value store with atomic, journalled batches. The local one is a journal, a table
/// and a redb index; one in a shared database is to come, so nothing here names a path.
pub trait Engine: Send + Sync {
    /// The value of a key. May wait for the disk.
    fn get(&self, key: &[u8]) -> Result<Option<Value>>;

    /// Calls `visit` with the keys and values of a range in order until it returns false.
    /// May wait for the disk. Sees every batch that was applied before the call, and no half of one; returns the number of
    /// the newest that it saw. `visit` must not call the engine.
    fn scan(&self, range: Range<Key>, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<Seq>;

    /// An empty batch, with memory to put it together in.
    fn batch(&self) -> Batch;

    /// Applies a batch: journals it with one write and makes it visible. It then survives the death
    /// of this process. Returns its number. Does not wait for a flush, nor for a checkpoint: callers
    /// ask [`Engine::has_room`] before. Calls from several threads are ordered as they return.
    /// Errors: `ReadOnly` after a failed flush; `NoSpace` or `Io` when the journal could not be
    /// written, and then nothing was applied.
    fn apply(&self, batch: Batch) -> Result<Seq>;

    /// Whether the table has room for more batches. Where not, wait with [`Engine::wait_for_room`].
    fn has_room(&self) -> bool;

    /// Whether the disk is full and the catalog lives on what it keeps for that, on the disk and in memory: what adds to
    /// the store is to be refused with `NoSpace` then, so that what makes room can be noted.
    fn is_short(&self) -> bool;

    /// Waits until a checkpoint has made room in the table, or has found the disk full, which [`Engine::is_short`] tells then.
    /// Errors: `NoSpace` when what is kept for that is used up, too.
    fn wait_for_room(&self) -> Result<()>;

    /// The number of the newest batch.
    fn last_seq(&self) -> Seq;

    /// Makes all batches up to `upto` durable. One flush serves all callers that wait (leader and
    /// followers), and a caller whose batches are durable already does not wait. The leader waits up to 5 ms for those whom
    /// the last flush had. `before` is called by the leader ahead of the flush and makes durable what batches refer to; the mark that is
    /// then written says that up to here nothing needs to be verified at replay.
    /// A failed flush poisons the engine: this and every later call fail, and `apply` says `ReadOnly`.
    fn sync(&self, upto: Seq, before: &dyn Fn() -> Result<()>) -> Result<()>;

    /// The newest batch that is durable.
    fn durable_seq(&self) -> Seq;

    /// Moves everything applied so far into the index and drops the journal behind it.
    /// Waits for it. `before` as in [`Engine::sync`].
    fn checkpoint(&self, before: &dyn Fn() -> Result<()>) -> Result<()>;

    /// Checkpoints, where the disk has room for that, stops background work and closes the files. Everything is
    /// durable then.
    fn close(&self, before: &dyn Fn() -> Result<()>) -> Result<()>;

    /// Stops background work and closes the files as they are: what is not durable may be lost. From then on nothing is
    /// written, whoever holds the engine, and every call may fail.
    fn end(&self);

    /// Figures.
    fn stats(&self) -> CatalogStats;
}
