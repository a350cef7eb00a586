//! Segments as files in a directory: `xx/NNNNNNNN`, the number in hexadecimal and its low byte.
//!
//! ```text
//!  0  magic "LRDS"      4
//!  4  version (1)       4   little-endian, as all numbers
//!  8  segment number    4
//! 12  (0)               4
//! 16  frames, side by side; behind the last one zeros while the file is open or was left by a crash
//! ```
//!
//! Invariants:
//! - No byte is written twice: an append claims its range under a lock and writes it outside. A segment
//!   found when the store is opened is never appended to, so a torn tail does not matter.
//! - What [`Segments::reserve`] promised can be appended, whatever the class, by appends of at most
//!   [`BATCH_MAX`] bytes: see `room.rs`, which keeps that account. Larger appends are served where room is
//!   found, and never at the expense of the promise.
//! - A sync covers all appends that returned before it was called. Appends never wait for a sync.
//! - What has been appended can be read until its segment is removed: one that ceases to be open is closed under the
//!   same hold of the state.
//! - After a failed sync every later one fails: the kernel may have dropped what it could not write.

mod files;
mod room;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Class, SEGMENT_SIZE, SegmentInfo, Segments};
use crate::error::{Error, Result};
use crate::format::{Extent, SegmentId};
use crate::io::{File, Io};
use files::Files;
use room::Room;

pub use files::{segment_file, segment_header};
pub use room::BATCH_MAX;

/// Bytes of a segment's own header.
pub const HEADER_LEN: u32 = 16;

/// Holes are punched in whole blocks of this size, the usual one of filesystems.
const BLOCK: u32 = 4096;

/// Files that may wait for a sync, each with a descriptor; whoever appends to one more syncs. The commit interval
/// must bring 512 MiB of new frames for that, and flushing these takes longer than a flush more.
const DIRTY_MAX: usize = 8;

/// Segments in a local directory.
#[derive(Debug)]
pub struct LocalSegments {
    files: Files,
    state: Mutex<State>,
    /// Held by the one thread that makes, enlarges, closes or removes a segment; before `state`.
    changing: Mutex<()>,
    /// Held by the one thread that syncs, with why an earlier sync failed; before `state`.
    syncing: Mutex<Option<String>>,
    /// `state.room.promised()`, to be read without the lock.
    promised: AtomicU64,
    /// Bytes on the disk, and the most that there may be. The first is the sum of `state.held`, to be read without the
    /// lock.
    allocated: AtomicU64,
    limit: AtomicU64,
}

/// What is known of the segments. Locked for moments only, never over I/O.
#[derive(Debug)]
struct State {
    /// Others may have opened the store, and make segments.
    finished: bool,
    room: Room,
    /// Closed segments: where their frames end.
    closed: BTreeMap<SegmentId, u64>,
    /// Bytes that each segment takes on the disk: an account, brought up to date behind each change, since asking a
    /// file that is being written would make the next flush slower.
    held: BTreeMap<SegmentId, u64>,
    next: u32,
    /// Files that were appended to since they were last synced.
    dirty: BTreeMap<SegmentId, Arc<dyn File>>,
    /// Directories that got entries since they were last synced.
    dirty_dirs: BTreeSet<PathBuf>,
}

impl State {
    /// Whether a segment is there, open or closed.
    fn has(&self, id: SegmentId) -> bool {
        self.closed.contains_key(&id) || self.room.get(id).is_some()
    }

    /// Counts a segment that the room has just given up as closed, and hands it on to [`LocalSegments::retire`].
    fn closing(&mut self, given_up: Option<Open>) -> Option<Open> {
        self.closed.extend(given_up.iter().map(|open| (open.id, u64::from(open.used))));
        given_up
    }
}

/// A segment that can be appended to.
#[derive(Clone, Debug)]
struct Open {
    id: SegmentId,
    file: Arc<dyn File>,
    /// Where the next frame goes.
    used: u32,
    /// Where the allocated room ends; the file's length.
    end: u32,
}

impl LocalSegments {
    /// Opens the segments in `dir`, which is made when missing.
    pub fn open(io: Arc<dyn Io>, dir: PathBuf) -> Result<LocalSegments> {
        let files = Files::new(io, dir);
        let mut closed = BTreeMap::new();
        let mut held = BTreeMap::new();
        for id in files.scan()? {
            closed.insert(id, files.settle(id)?);
            held.insert(id, files.allocated(id, None)?);
        }
        let allocated = held.values().sum();
        let next = closed.last_key_value().map_or(Some(1), |(id, _)| id.0.checked_add(1)).unwrap_or(u32::MAX);
        let state = State {
            finished: false,
            room: Room::default(),
            closed,
            held,
            next,
            dirty: BTreeMap::new(),
            dirty_dirs: BTreeSet::new(),
        };
        Ok(LocalSegments {
            files,
            state: Mutex::new(state),
            changing: Mutex::new(()),
            syncing: Mutex::new(None),
            promised: AtomicU64::new(0),
            allocated: AtomicU64::new(allocated),
            limit: AtomicU64::new(u64::MAX),
        })
    }

    /// Gives new segments numbers above this one, which something refers to though its file may be missing: what is
    /// freed in its name must not be another's.
    pub fn number_above(&self, id: SegmentId) {
        let mut state = self.state.lock();
        state.next = state.next.max(id.0.saturating_add(1));
    }

    /// The bytes of an extent as they are on the disk: for frames that an earlier session left and that nothing
    /// vouches for. The system's memory may have bytes that were never flushed, or whose flush failed, so the
    /// segment is flushed and read anew; the next sync makes durable that it is there.
    pub fn read_from_disk(&self, extent: Extent) -> Result<Vec<u8>> {
        let id = extent.segment;
        let doubtful = {
            let state = self.state.lock();
            state.closed.contains_key(&id) && !state.dirty.contains_key(&id)
        };
        if doubtful {
            let file = self.files.get(id, None)?;
            file.sync().map_err(Error::io(format!("syncing {}", self.files.name(id))))?;
            file.drop_cached();
            // The header may be what was not stored: no frame behind it could be read again then.
            self.files.check_header(id, &file)?;
            let mut state = self.state.lock();
            state.dirty.insert(id, file);
            state.dirty_dirs.extend(self.files.directories(id));
        }
        self.read(extent)
    }

    /// Changes the state and brings the count of promised bytes up to date.
    fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        self.promised.store(state.room.promised(), Ordering::Release);
        result
    }

    /// Claims `len` bytes for an append.
    fn claim(&self, class: Class, len: u32) -> Result<(Open, u32)> {
        if let Some(claimed) = self.with_state(|state| state.room.claim(class, len)) {
            return Ok(claimed);
        }
        let _changing = self.changing.lock();
        loop {
            // Others may have made room meanwhile, or have used the room that was made here.
            if let Some(claimed) = self.with_state(|state| state.room.claim(class, len)) {
                return Ok(claimed);
            }
            match self.make_room(class, len) {
                Ok(()) => {}
                // The class is a wish, the room is a promise: any segment that has it will do.
                Err(Error::NoSpace) => {
                    return self
                        .with_state(|state| state.room.claim_anywhere(class, len))
                        .ok_or(Error::NoSpace);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes room for `len` bytes in the segment of a class, or in a new one. With `changing` held.
    fn make_room(&self, class: Class, len: u32) -> Result<()> {
        let current = self.with_state(|state| state.room.current(class));
        if let Some(open) = &current
            && open.used + len <= SEGMENT_SIZE
        {
            return self.extend(open, open.used + len - open.end).map(drop);
        }
        let by_spare = self.with_state(|state| {
            let given_up = state.room.take_spare(class, len)?;
            Some(state.closing(given_up))
        });
        let given_up = match by_spare {
            Some(given_up) => given_up,
            None => {
                let open = self.create(HEADER_LEN + len)?;
                self.with_state(|state| {
                    let given_up = state.room.put(class, open);
                    state.closing(given_up)
                })
            }
        };
        given_up.map_or(Ok(()), |open| self.retire(&open))
    }

    /// Allocates at least `more` bytes behind the end of an open segment, and returns the new end. With
    /// `changing` held.
    fn extend(&self, open: &Open, more: u32) -> Result<u32> {
        let end = self.files.allocate(open.id, &open.file, open.end, more, self.left())?;
        self.took(open.id, u64::from(end - open.end));
        self.with_state(|state| state.room.extended(open.id, end));
        Ok(end)
    }

    /// Bytes that may be allocated within the limit.
    fn left(&self) -> u64 {
        self.limit.load(Ordering::Acquire).saturating_sub(self.allocated())
    }

    /// Takes note of bytes that a segment takes from the disk.
    fn took(&self, id: SegmentId, bytes: u64) {
        let mut state = self.state.lock();
        *state.held.entry(id).or_default() += bytes;
        self.allocated.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Takes note of bytes that a segment has given back to the disk. Nothing when it has been removed meanwhile: they
    /// went with all that it held.
    fn gave_back(&self, id: SegmentId, bytes: u64) {
        let mut state = self.state.lock();
        if let Some(held) = state.held.get_mut(&id) {
            let less = bytes.min(*held);
            *held -= less;
            self.allocated.fetch_sub(less, Ordering::AcqRel);
        }
    }

    /// A new segment of at least `len` bytes, header included. With `changing` held.
    fn create(&self, len: u32) -> Result<Open> {
        let id = self.with_state(|state| {
            let id = SegmentId(state.next);
            state.next = state.next.checked_add(1)?;
            Some((id, state.finished))
        });
        let (id, finished) = id.ok_or_else(|| Error::Invalid("all numbers of segments are used".into()))?;
        if finished {
            return Err(Error::ReadOnly("the store is closed".into()));
        }
        let (file, end) = self.files.create(id, len, self.left())?;
        self.took(id, u64::from(end));
        self.with_state(|state| state.dirty_dirs.extend(self.files.directories(id)));
        Ok(Open { id, file, used: HEADER_LEN, end })
    }

    /// Reserves `bytes` more, in segments other than `except`. With `changing` held.
    fn grow(&self, bytes: u64, except: Option<SegmentId>) -> Result<()> {
        let mut missing = bytes;
        while missing > 0 {
            let growable = self.with_state(|state| state.room.growable(except));
            let before = growable.as_ref().map_or(0, Open::promised);
            let after = match growable {
                Some(open) => {
                    let more = open.missing(missing);
                    let end = self.extend(&open, more)?;
                    Open { end, ..open }.promised()
                }
                None => {
                    let open = self.create(room::segment_for(missing))?;
                    let promised = open.promised();
                    self.with_state(|state| state.room.add_spare(open));
                    promised
                }
            };
            missing = missing.saturating_sub(after.saturating_sub(before));
        }
        Ok(())
    }

    /// Gives back what a segment does not use that has been closed. With `changing` held.
    /// Ranges that were claimed and are still being written lie below `used`, so nothing needs to wait.
    fn retire(&self, open: &Open) -> Result<()> {
        self.files.keep(open.id, open.file.clone());
        self.files.cut(open.id, &open.file, open.used)?;
        self.gave_back(open.id, u64::from(open.end.saturating_sub(open.used.next_multiple_of(BLOCK))));
        Ok(())
    }
}

impl Segments for LocalSegments {
    /// Adds to what is reserved already. What the disk does not have is not tried: until it fails it would take all that
    /// others may need. Where `NoSpace` comes up later, what could be had stays reserved.
    fn reserve(&self, bytes: u64) -> Result<()> {
        let _changing = self.changing.lock();
        if bytes > self.files.room()? {
            return Err(Error::NoSpace);
        }
        self.grow(bytes, None)
    }

    fn reserved(&self) -> u64 {
        self.promised.load(Ordering::Acquire)
    }

    fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Acquire)
    }

    fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Release);
    }

    fn append(&self, class: Class, frames: &[u8]) -> Result<Extent> {
        let len = match u32::try_from(frames.len()) {
            Ok(len) if (1..=SEGMENT_SIZE - HEADER_LEN).contains(&len) => len,
            _ => return Err(Error::Invalid(format!("{} bytes cannot be appended at once", frames.len()))),
        };
        let (open, offset) = self.claim(class, len)?;
        let written = open.file.write_all_at(frames, u64::from(offset));
        written.map_err(|error| Error::io(format!("writing {}", self.files.name(open.id)))(error))?;
        // Only now: a sync that takes the mark must find the bytes written.
        let waiting = {
            let mut state = self.state.lock();
            state.dirty.insert(open.id, open.file);
            state.dirty.len()
        };
        if waiting > DIRTY_MAX {
            self.sync()?;
        }
        Ok(Extent { segment: open.id, offset, len })
    }

    fn read(&self, extent: Extent) -> Result<Vec<u8>> {
        let Extent { segment, offset, len } = extent;
        let end = u64::from(offset) + u64::from(len);
        let (used, open) = {
            let state = self.state.lock();
            match state.room.get(segment) {
                Some(open) => (Some(u64::from(open.used)), Some(open.file.clone())),
                None => (state.closed.get(&segment).copied(), None),
            }
        };
        let damaged = |why: String| Error::Damaged(format!("{}: {why}", self.files.name(segment)));
        match used {
            None => return Err(damaged(format!("it is missing, and should hold bytes {offset} to {end}"))),
            Some(used) if end > used || offset < HEADER_LEN => {
                return Err(damaged(format!("bytes {offset} to {end} are not in it, it has {used}")));
            }
            Some(_) => {}
        }
        let file = self.files.get(segment, open)?;
        self.files.read_ahead(segment, &file, offset, len);
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(&mut bytes, u64::from(offset));
        match read.map_err(|error| Error::io(format!("reading {}", self.files.name(segment)))(error))? {
            got if got == bytes.len() => Ok(bytes),
            got => Err(damaged(format!("it ends at {}, before byte {end}", u64::from(offset) + got as u64))),
        }
    }

    fn drop_cached(&self, id: SegmentId) {
        let open = self.state.lock().room.get(id).map(|open| open.file.clone());
        if let Ok(file) = self.files.get(id, open) {
            file.drop_cached();
        }
    }

    fn sync(&self) -> Result<()> {
        let mut failed = self.syncing.lock();
        if let Some(why) = &*failed {
            return Err(Error::Io {
                what: "syncing segments after a sync that failed".into(),
                source: std::io::Error::other(why.clone()),
            });
        }
        let (dirty, dirs) = {
            let mut state = self.state.lock();
            if state.dirty.is_empty() {
                return Ok(());
            }
            (std::mem::take(&mut state.dirty), std::mem::take(&mut state.dirty_dirs))
        };
        let synced = self.files.sync(&dirty, &dirs);
        if let Err(error) = &synced {
            *failed = Some(error.to_string());
        }
        synced
    }

    fn free(&self, extent: Extent) -> Result<()> {
        let start = u64::from(extent.offset).next_multiple_of(u64::from(BLOCK));
        let end = (u64::from(extent.offset) + u64::from(extent.len)) / u64::from(BLOCK) * u64::from(BLOCK);
        if start >= end {
            return Ok(());
        }
        let (known, open) = {
            let state = self.state.lock();
            let open = state.room.get(extent.segment).map(|open| open.file.clone());
            (state.has(extent.segment), open)
        };
        if !known {
            return Ok(()); // The whole segment has gone already.
        }
        let file = self.files.get(extent.segment, open)?;
        let freed = file.punch(start, end - start);
        freed.map_err(|error| {
            Error::io(format!("freeing room in {}", self.files.name(extent.segment)))(error)
        })?;
        self.gave_back(extent.segment, end - start);
        Ok(())
    }

    /// What was reserved in an open segment is reserved elsewhere: before it goes if there is room for
    /// both, else behind it, where the room that it leaves is enough unless another program takes it.
    fn remove(&self, id: SegmentId) -> Result<()> {
        let _changing = self.changing.lock();
        let open = self.with_state(|state| state.room.get(id).cloned());
        let promised = open.as_ref().map_or(0, Open::promised);
        let moved = self.grow(promised, Some(id));
        let used = self.with_state(|state| {
            state.dirty.remove(&id);
            let closed = state.closed.remove(&id);
            state.room.take(id).map(|open| u64::from(open.used)).or(closed)
        });
        if let Some(used) = used {
            if let Err(error) = self.files.remove(id, open.map(|open| open.file)) {
                // It is there still, and can be removed another time.
                self.with_state(|state| state.closed.insert(id, used));
                return Err(error);
            }
            self.gave_back(id, u64::MAX);
            self.state.lock().held.remove(&id);
        }
        match moved {
            Err(Error::NoSpace) => self.grow(promised, None),
            other => other,
        }
    }

    /// What was reserved in the segment is reserved elsewhere first; `NoSpace` when that cannot be, and
    /// the segment stays open.
    fn close(&self, id: SegmentId) -> Result<()> {
        let _changing = self.changing.lock();
        let Some(open) = self.with_state(|state| state.room.get(id).cloned()) else { return Ok(()) };
        self.grow(open.promised(), Some(id))?;
        let given_up = self.with_state(|state| {
            let given_up = state.room.take(id);
            state.closing(given_up)
        });
        given_up.map_or(Ok(()), |open| self.retire(&open))
    }

    fn finish(&self) {
        let _changing = self.changing.lock();
        let room = self.with_state(|state| {
            state.finished = true;
            std::mem::take(&mut state.room)
        });
        for open in room.all() {
            let done = if open.used == HEADER_LEN {
                self.files.remove(open.id, Some(open.file.clone()))
            } else {
                self.files.cut(open.id, &open.file, open.used)
            };
            if let Err(error) = done {
                log::warn!("closing {}: {error}", self.files.name(open.id));
            }
        }
    }

    fn list(&self) -> Result<Vec<SegmentInfo>> {
        let mut infos: Vec<(SegmentInfo, Option<Arc<dyn File>>)> = {
            let state = self.state.lock();
            let info = |id, used, open| SegmentInfo { id, used, allocated: 0, open };
            let open = state.room.all().map(|o| (info(o.id, u64::from(o.used), true), Some(o.file.clone())));
            state.closed.iter().map(|(id, used)| (info(*id, *used, false), None)).chain(open).collect()
        };
        infos.sort_by_key(|(info, _)| info.id);
        let mut measured = Vec::with_capacity(infos.len());
        for (info, open) in infos {
            match self.files.allocated(info.id, open) {
                Ok(allocated) => measured.push(SegmentInfo { allocated, ..info }),
                // Another thread has removed it meanwhile.
                Err(_) if !self.state.lock().has(info.id) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(measured)
    }
}

impl Drop for LocalSegments {
    /// Of a store that was not closed. Without it (a crash) the next opening does it.
    fn drop(&mut self) {
        self.finish();
    }
}
