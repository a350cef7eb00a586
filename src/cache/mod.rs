//! Pages in memory: one hard budget, a scan-resistant LRU of clean pages, and the dirty pages with
//! what write-back needs to know of them.
//!
//! The cache knows neither disk nor codec. It never waits, but for [`Cache::wait_for_room`] and
//! [`Cache::wait_flushed`]; where it cannot go on at once it says what it needs.
//!
//! A page's content is as long as what was written to it; bytes beyond, up to the page size, are zeros.
//!
//! Invariants: reserved bytes never exceed the limit; a dirty page leaves only by being flushed or
//! discarded; a page with journalled patches is dirty.

use std::sync::Arc;
use std::time::Duration;

use crate::format::{Ino, PageNo, Patch};

/// A page of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId {
    /// The file.
    pub ino: Ino,
    /// The page in it.
    pub no: PageNo,
}

/// What a page holds. Shared, so that it can be read and compressed outside of any lock.
pub type Content = Arc<Vec<u8>>;

/// Why a write cannot go on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The page must be loaded first.
    Page,
    /// There must be room for so many bytes first: [`Cache::wait_for_room`].
    Room(usize),
}

/// What is known of a page's content on disk when it is written while not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// There is none (a hole, or beyond what was ever written): the page starts as zeros.
    Absent,
    /// There may be some. A write that does not cover it needs the page loaded.
    Unknown,
}

/// How a clean page came to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// As part of a sequential scan: first to be evicted unless used again.
    Sequential,
    /// Any other.
    Random,
}

/// A page on its way to the disk: its content as of the moment when the flush began.
#[derive(Debug)]
pub struct Flush {
    /// The page.
    pub id: PageId,
    /// The content to store.
    pub content: Content,
    /// Identifies this flush.
    pub(crate) ticket: u64,
    /// Patches below this number are contained in `content`.
    pub(crate) patches: u32,
}

/// What became of a page while it was flushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// It is stored; the journalled patches with these numbers are superseded and must be deleted.
    Stored {
        /// Numbers of the superseded patches.
        patches: std::ops::Range<u32>,
    },
    /// It was discarded in between (truncate, unlink): the frame must be freed.
    Gone,
}

/// Figures for `status`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheStats {
    /// Bytes reserved.
    pub used: u64,
    /// Bytes of dirty pages.
    pub dirty: u64,
    /// The limit.
    pub limit: u64,
    /// Reads answered from memory.
    pub hits: u64,
    /// Reads that were not.
    pub misses: u64,
}

/// The page cache.
#[derive(Debug)]
pub struct Cache {}

#[expect(unused_variables, clippy::todo, reason = "to be written")]
impl Cache {
    /// A cache of at most `limit` bytes, of which at most `dirty_limit` may be dirty.
    pub fn new(limit: usize, dirty_limit: usize) -> Cache {
        todo!()
    }

    /// The page, when it is in memory; counts as a use, a hit or a miss.
    pub fn get(&self, id: PageId) -> Option<Content> {
        todo!()
    }

    /// Whether the page is in memory; counts as nothing.
    pub fn contains(&self, id: PageId) -> bool {
        todo!()
    }

    /// Takes in a page that was read from disk and returns its content. When the page is there
    /// already (another reader was faster, or it has been written since) that one stays and is
    /// returned. When there is no room even after evicting clean pages, the content is returned and not kept.
    pub fn insert(&self, id: PageId, content: Vec<u8>, access: Access) -> Content {
        todo!()
    }

    /// Writes bytes into a page, which becomes dirty. `offset + bytes.len() <= page_size`.
    /// On `Err` nothing has changed. A write to a page under flush copies it first.
    pub fn write(
        &self,
        id: PageId,
        offset: usize,
        bytes: &[u8],
        page_size: usize,
        base: Base,
    ) -> Result<(), Need> {
        todo!()
    }

    /// Cuts a page's content at `offset` (all beyond is zero from now on); the page becomes dirty.
    pub fn cut(&self, id: PageId, offset: usize, base: Base) -> Result<(), Need> {
        todo!()
    }

    /// Drops the pages of a file from `from` up to `to` (exclusive), clean, dirty and in flush alike.
    /// Returns the numbers of the journalled patches that must be deleted, by page.
    pub fn discard(&self, ino: Ino, from: PageNo, to: PageNo) -> Vec<(PageNo, std::ops::Range<u32>)> {
        todo!()
    }

    /// Waits until `bytes` could be reserved and the dirty pages are below their limit, evicting
    /// clean pages and urging write-back.
    pub fn wait_for_room(&self, bytes: usize) {
        todo!()
    }

    /// What was written to a file's pages since it was last journalled or flushed, as patches to be
    /// journalled now, with their numbers; it counts as journalled from now on. `None`, and nothing
    /// changes, when that is more than `limit` bytes in all, or a page has more than 16 patches
    /// already: then the file must be flushed.
    pub fn take_patches(&self, ino: Ino, limit: usize) -> Option<Vec<(PageNo, u32, Patch)>> {
        todo!()
    }

    /// Takes in a page that was put together at recovery from its frame and the journalled patches
    /// `0..patches`: dirty, with nothing that is not journalled. Ignores the dirty limit.
    pub fn insert_patched(&self, id: PageId, content: Vec<u8>, patches: u32) {
        todo!()
    }

    /// Begins to flush all dirty pages of a file that are not in flush.
    pub fn flush_file(&self, ino: Ino) -> Vec<Flush> {
        todo!()
    }

    /// Begins to flush up to `max_bytes` of dirty pages that are due: full pages (content as long as
    /// the page size) at once; others when first written longer than `age` ago, or when the dirty pages
    /// are above half of their limit (oldest first). Pages of one file stay together and in order.
    pub fn flush_due(&self, age: Duration, max_bytes: usize) -> Vec<Flush> {
        todo!()
    }

    /// Waits until pages are due for [`Cache::flush_due`], for `timeout` at most, or until
    /// [`Cache::wake`] is called. For the write-back threads.
    pub fn wait_due(&self, age: Duration, timeout: Duration) {
        todo!()
    }

    /// Wakes all that wait in [`Cache::wait_due`].
    pub fn wake(&self) {
        todo!()
    }

    /// Ends a flush whose frame has been stored and is about to be journalled. The page is clean
    /// unless it was written since.
    pub fn finish_flush(&self, flush: &Flush) -> Flushed {
        todo!()
    }

    /// Ends a flush that failed: the page is dirty as before and due again.
    pub fn fail_flush(&self, flush: &Flush) {
        todo!()
    }

    /// Waits until none of a file's pages are in flush.
    pub fn wait_flushed(&self, ino: Ino) {
        todo!()
    }

    /// Whether the file has dirty pages (those in flush included), and their bytes.
    pub fn dirty(&self, ino: Ino) -> Option<usize> {
        todo!()
    }

    /// The dirty pages of a file, those in flush included, in order.
    pub fn dirty_pages(&self, ino: Ino) -> Vec<PageNo> {
        todo!()
    }

    /// Files that have dirty pages.
    pub fn dirty_files(&self) -> Vec<Ino> {
        todo!()
    }

    /// What [`Cache::finish_flush`] would say now; changes nothing.
    pub fn outcome(&self, flush: &Flush) -> Flushed {
        todo!()
    }

    /// Whether pages of the file are in flush.
    pub fn in_flush(&self, ino: Ino) -> bool {
        todo!()
    }

    /// Bytes of dirty pages. Cheap.
    pub fn dirty_bytes(&self) -> u64 {
        todo!()
    }

    /// Figures.
    pub fn stats(&self) -> CacheStats {
        todo!()
    }
}
