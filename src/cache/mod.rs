//! Pages in memory: one hard budget, an order of clean pages that resists scans, and the dirty pages with
//! what write-back needs to know of them.
//!
//! The cache knows neither disk nor codec. It never waits, but for [`Cache::wait_for_room`] and
//! [`Cache::wait_flushed`]; where it cannot go on at once it says what it needs.
//!
//! A page's content is as long as what was written to it; bytes beyond, up to the page size, are zeros.
//!
//! Invariants: reserved bytes never exceed the limit (but see [`Cache::cut`]); a dirty page leaves only by being flushed or
//! discarded; a page with journalled patches is dirty, or stranded; patch `n` of a page is in the catalog exactly
//! when [`Cache::journalled`], [`Cache::write_new`], [`Cache::insert_patched`] or [`Cache::strand`] was told of it and it has not
//! been superseded since, by [`Cache::finish_flush`] or [`Cache::discard`].
//!
//! The last one needs the caller's help: what the catalog batch is to say is asked first ([`Cache::patches`],
//! [`Cache::patches_of`], [`Cache::outcome`]), and the change is made here once the batch is journalled; in between there
//! must be no other change of the same file but the beginning and failing of flushes. The tree's lock does that. A batch
//! that cannot be journalled thus leaves everything here as it was. [`Cache::write_new`] alone is told ahead: until its batch is
//! journalled nobody may ask for patches of the file, and where that fails it is discarded.
//!
//! One mutex guards it all. Measured on two busy cores, release build: `get` 40 ns alone and 104 ns with two threads
//! that do nothing else; a write of 4 KiB 0.5 µs, nearly all of it the copy to memory that is in no processor
//! cache. Shards would have little to win.

mod changes;
mod dirty;
mod pagemap;
mod second_chance;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

use state::State;

use crate::format::{Ino, PageNo, Patch};

/// Bytes that a lower limit takes away under one hold of the lock: at most some 600 pages.
const LIMIT_STEP: usize = 1 << 20;

/// A page of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId {
    /// The file.
    pub ino: Ino,
    /// The page in it.
    pub no: PageNo,
}

/// What a page holds. Shared, so that it can be read, compressed and journalled outside of any lock.
pub type Content = Arc<Vec<u8>>;

/// The pages of new files, in order.
pub type NewPages = SmallVec<[(PageId, Content); 1]>;

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
pub struct Cache {
    state: Mutex<State>,
    /// Room has been made.
    room: Condvar,
    /// Pages are due.
    due: Condvar,
    /// A flush has ended.
    flushed: Condvar,
}

impl Cache {
    /// A cache of at most `limit` bytes, of which at most `dirty_limit` may be dirty (but one dirty page is always
    /// let in). `limit` must hold some of the largest pages: a page that is written while it is flushed is there twice.
    pub fn new(limit: usize, dirty_limit: usize) -> Cache {
        Cache {
            state: Mutex::new(State::new(limit, dirty_limit)),
            room: Condvar::new(),
            due: Condvar::new(),
            flushed: Condvar::new(),
        }
    }

    /// Sets the limits that [`Cache::new`] was given. A lower one evicts clean pages at once, and holds for dirty ones
    /// when these have been flushed. In steps: nobody waits for the lock until all are gone.
    pub fn set_limits(&self, limit: usize, dirty_limit: usize) {
        let mut next = {
            let state = self.state.lock();
            state.limit.min(state.used)
        };
        loop {
            next = limit.max(next.saturating_sub(LIMIT_STEP));
            self.state.lock().set_limits(next, dirty_limit);
            if next == limit {
                break;
            }
        }
        self.room.notify_all();
        self.wake();
    }

    /// The page, when it is in memory; counts as a use, a hit or a miss.
    pub fn get(&self, id: PageId) -> Option<Content> {
        self.state.lock().get(id)
    }

    /// Whether the page is in memory; counts as nothing.
    pub fn contains(&self, id: PageId) -> bool {
        self.state.lock().peek(id).is_some()
    }

    /// Takes in a page that was read from disk and returns its content. When the page is there
    /// already (another reader was faster, or it has been written since) that one stays and is
    /// returned. When there is no room even after evicting clean pages, the content is returned and not kept.
    pub fn insert(&self, id: PageId, content: Vec<u8>, access: Access) -> Content {
        self.state.lock().insert(id, Arc::new(content), access)
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
        debug_assert!(offset + bytes.len() <= page_size);
        if bytes.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        let urgent = state.write(id, offset, bytes, page_size, base)?;
        // A wake-up is a system call, so it is made only when someone sleeps who has to get up.
        let wake = urgent && state.due_waiters > 0;
        drop(state);
        if wake {
            self.due.notify_one();
        }
        Ok(())
    }

    /// Takes in the content of new files, each with log2 of its page size, and returns it as the pages hold it: dirty, with
    /// nothing unjournalled, as the batch that makes the files brings it as patch 0 of each page. Where that batch fails it has
    /// to be discarded. On `Err` there must be room for so many bytes first ([`Cache::wait_for_room`]), and nothing has changed.
    pub fn write_new(&self, files: &[(Ino, u8, &[u8])]) -> Result<NewPages, usize> {
        let mut state = self.state.lock();
        let (pages, urgent) = state.write_new(files)?;
        let wake = urgent && state.due_waiters > 0;
        drop(state);
        if wake {
            self.due.notify_one();
        }
        Ok(pages)
    }

    /// Whether [`Cache::cut`] can cut a page now: it is in memory, or known to be absent, and there is room for what
    /// is left of it beside what a flush under way holds.
    pub fn may_cut(&self, id: PageId, offset: usize, base: Base) -> Result<(), Need> {
        self.state.lock().may_cut(id, offset, base)
    }

    /// Cuts a page's content at `offset` (all beyond is zero from now on); the page becomes dirty,
    /// unless there was nothing beyond. What [`Cache::may_cut`] allowed stays possible while nobody writes to the cache or
    /// loads into it: but a flush of the page that has begun since then holds its old content beyond the limit.
    pub fn cut(&self, id: PageId, offset: usize) {
        let mut state = self.state.lock();
        let urgent = state.cut(id, offset);
        let (wake, room) = (urgent && state.due_waiters > 0, state.room_waiters > 0);
        drop(state);
        if wake {
            self.due.notify_one();
        }
        if room {
            self.room.notify_all();
        }
    }

    /// The numbers of the journalled patches of a file's pages from `from` up to `to` (exclusive), by page: those that
    /// must be deleted when the pages are discarded.
    pub fn patches_of(&self, ino: Ino, from: PageNo, to: PageNo) -> Vec<(PageNo, std::ops::Range<u32>)> {
        self.state.lock().patches_of(ino, from, to)
    }

    /// Drops the pages of a file from `from` up to `to` (exclusive), clean, dirty and in flush alike; with them their
    /// patches are superseded.
    pub fn discard(&self, ino: Ino, from: PageNo, to: PageNo) {
        let mut state = self.state.lock();
        state.discard(ino, from, to);
        let room = state.room_waiters > 0;
        drop(state);
        if room {
            self.room.notify_all();
        }
    }

    /// Waits until `bytes` could be reserved, by evicting clean pages, and become dirty within the limit; urges
    /// write-back. Nothing is evicted before the room is taken: that might hit the page it is for.
    pub fn wait_for_room(&self, bytes: usize) {
        let mut state = self.state.lock();
        while !state.given_up && !state.admits(bytes.min(state.limit)) {
            state.room_waiters += 1;
            if state.due_waiters > 0 {
                self.due.notify_all();
            }
            self.room.wait(&mut state);
            state.room_waiters -= 1;
        }
    }

    /// Has dirty pages of any age written back while `wait` waits for something that this hastens.
    pub fn urged<T>(&self, wait: impl FnOnce() -> T) -> T {
        let mut state = self.state.lock();
        state.room_waiters += 1;
        if state.due_waiters > 0 {
            self.due.notify_all();
        }
        drop(state);
        let waited = wait();
        self.state.lock().room_waiters -= 1;
        waited
    }

    /// What was written to a file's pages since it was last journalled or flushed, as patches with their numbers, as
    /// if its last page had been cut first (`cut`: that page, the offset in it; pages behind it are left out). That
    /// includes what a flush under way will store, so that it need not be awaited. Changes nothing: once they are
    /// journalled, [`Cache::journalled`] says so. `None` when that is more than `limit` bytes in all, or a page of these
    /// has more than 16 patches already: then the file must be flushed.
    pub fn patches(
        &self,
        ino: Ino,
        limit: usize,
        cut: Option<(PageNo, usize)>,
    ) -> Option<Vec<(PageNo, u32, Patch)>> {
        self.state.lock().patches(ino, limit, cut)
    }

    /// The patches of a file that [`Cache::patches`] gave are in the catalog: `upto` has, by page, the number behind the
    /// last one. Nobody may have written to these pages since, nor taken patches of them.
    pub fn journalled(&self, ino: Ino, upto: &[(PageNo, u32)]) {
        let mut state = self.state.lock();
        let wake = state.journalled(ino, upto) && state.due_waiters > 0;
        drop(state);
        if wake {
            self.due.notify_one();
        }
    }

    /// Takes in a page that was put together at recovery from its frame and the journalled patches
    /// `0..patches`: dirty, with nothing that is not journalled. Ignores the dirty limit. On false it was not taken
    /// in: there is no room (flush what is dirty, then try again), or the page is dirty already.
    #[must_use]
    pub fn insert_patched(&self, id: PageId, content: Vec<u8>, patches: u32) -> bool {
        self.state.lock().insert_patched(id, Arc::new(content), patches)
    }

    /// Notes that the catalog holds patches `0..patches` of a page that could not be put together at recovery. What the page
    /// has is not known then, and only written over as a whole, which supersedes them.
    pub fn strand(&self, id: PageId, patches: u32) {
        self.state.lock().strand(id, patches);
    }

    /// Whether [`Cache::strand`] was told of a page that has not been written over or discarded since.
    pub fn is_stranded(&self, id: PageId) -> bool {
        self.state.lock().is_stranded(id)
    }

    /// Begins to flush all dirty pages of a file that are not in flush.
    pub fn flush_file(&self, ino: Ino) -> Vec<Flush> {
        self.state.lock().flush_file(ino)
    }

    /// Begins to flush up to `max_bytes` (but at least one page) of dirty pages that are due: those that were
    /// written to their end at once; others when first written longer than `age` ago, or when the dirty pages
    /// are above half of their limit, much of their content rides in the catalog, or someone waits for room. Oldest first,
    /// but those that are due for want of room alone come last. Pages of one file stay together and in order.
    ///
    /// A full page that is written somewhere in the middle is not due at once: a database writes
    /// the same page many times over.
    pub fn flush_due(&self, age: Duration, max_bytes: usize) -> Vec<Flush> {
        self.state.lock().flush_due(age, max_bytes)
    }

    /// Waits until pages are due for [`Cache::flush_due`], for `timeout` at most, or until
    /// [`Cache::wake`] is called. For the write-back threads.
    pub fn wait_due(&self, age: Duration, timeout: Duration) {
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(3600));
        let mut state = self.state.lock();
        let wakes = state.wakes;
        loop {
            let now = Instant::now();
            // What is first written from now on is due after `age` at the earliest, so writers need not wake us for it.
            let due = state.next_due(age, now);
            if due <= now || deadline <= now || state.wakes != wakes {
                return;
            }
            state.due_waiters += 1;
            self.due.wait_until(&mut state, due.min(deadline));
            state.due_waiters -= 1;
        }
    }

    /// Ends all waiting for room, now and from now on: nothing will be flushed any longer.
    pub fn give_up_waiting(&self) {
        self.state.lock().given_up = true;
        self.room.notify_all();
    }

    /// Wakes all that wait in [`Cache::wait_due`].
    pub fn wake(&self) {
        self.state.lock().wakes += 1;
        self.due.notify_all();
    }

    /// Ends a flush whose frame has been stored and journalled. The page is clean unless it was
    /// written since.
    pub fn finish_flush(&self, flush: &Flush) -> Flushed {
        let mut state = self.state.lock();
        let flushed = state.finish_flush(flush);
        self.notify_flushed(&state);
        flushed
    }

    /// Ends a flush that failed: the page is dirty as before and due again.
    pub fn fail_flush(&self, flush: &Flush) {
        let mut state = self.state.lock();
        state.fail_flush(flush);
        self.notify_flushed(&state);
        if state.due_waiters > 0 {
            self.due.notify_one();
        }
    }

    fn notify_flushed(&self, state: &State) {
        if state.room_waiters > 0 {
            self.room.notify_all();
        }
        if state.flushed_waiters > 0 {
            self.flushed.notify_all();
        }
        // A page that was written meanwhile may be due again.
        if state.due_waiters > 0 && state.due_now() {
            self.due.notify_one();
        }
    }

    /// Waits until none of a file's pages are in flush, discarded ones included.
    pub fn wait_flushed(&self, ino: Ino) {
        let mut state = self.state.lock();
        while state.in_flush(ino) {
            state.flushed_waiters += 1;
            self.flushed.wait(&mut state);
            state.flushed_waiters -= 1;
        }
    }

    /// Whether the file has dirty pages (those in flush included), and the bytes of their content.
    pub fn dirty(&self, ino: Ino) -> Option<usize> {
        self.state.lock().dirty_bytes(ino)
    }

    /// How many pages of a file are in memory; counts as nothing.
    pub fn pages_of(&self, ino: Ino) -> usize {
        self.state.lock().pages_of(ino)
    }

    /// The dirty pages of a file, those in flush included, in order.
    pub fn dirty_pages(&self, ino: Ino) -> Vec<PageNo> {
        self.state.lock().dirty_pages(ino)
    }

    /// Files that have dirty pages, in no order.
    pub fn dirty_files(&self) -> Vec<Ino> {
        self.state.lock().dirty_files()
    }

    /// What [`Cache::finish_flush`] would say now; changes nothing.
    pub fn outcome(&self, flush: &Flush) -> Flushed {
        self.state.lock().outcome(flush)
    }

    /// Whether the page is dirty, or in flush.
    pub fn is_dirty(&self, id: PageId) -> bool {
        self.state.lock().is_dirty(id)
    }

    /// Whether a dirty page's content is all zeros, so that its write-back makes it a hole; `None` when the
    /// page is not dirty.
    pub fn dirty_is_zero(&self, id: PageId) -> Option<bool> {
        self.state.lock().dirty_is_zero(id)
    }

    /// How many flushes have failed so far.
    pub fn failures(&self) -> u64 {
        self.state.lock().failures
    }

    /// Bytes reserved for dirty pages.
    pub fn dirty_bytes(&self) -> u64 {
        self.state.lock().dirty as u64
    }

    /// Figures.
    pub fn stats(&self) -> CacheStats {
        let state = self.state.lock();
        CacheStats {
            used: state.used as u64,
            dirty: state.dirty as u64,
            limit: state.limit as u64,
            hits: state.hits,
            misses: state.misses,
        }
    }
}
