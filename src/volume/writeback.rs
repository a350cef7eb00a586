//! Content on its way to the disk: flushing pages into frames, fsync, the commit interval.
//!
//! Order, always: frames are appended, then the batch that names them is journalled, then the page
//! counts as clean. Frames that were replaced are given back only once that batch is durable.

use std::time::Duration;

use super::Volume;
use super::draft::{Draft, Recorded};
use super::types::Pause;
use crate::cache::{Flush, Flushed, PageId};
use crate::error::Result;
use crate::format::{Codec, Extent, Ino, PageRecord, Seq, decode, keys};
use crate::pages::Class;
use crate::pages::frame::{self, How};
use crate::shelf;

/// Bytes of unflushed content that ride in the journal on an fsync or a rename; more goes to frames.
pub(super) const PATCH_LIMIT: usize = 32 << 10;

/// How old a page that is not full may become before it is flushed: the time that `kill -9` may take
/// away is a second, this and a flush.
const FLUSH_AGE: Duration = Duration::from_millis(500);

/// Bytes that a write-back thread takes at a time: enough full pages to make the append one large
/// write, few enough that both threads have work.
const FLUSH_BYTES: usize = 1 << 20;

/// A page that has been put into a frame.
struct Sealed {
    flush: Flush,
    /// Where the frame begins in the buffer, its length and checksum; none for a page of zeros.
    frame: Option<(usize, u32, u64)>,
    /// The frame that it replaces.
    old: Option<PageRecord>,
}

impl Volume {
    /// The life of a write-back thread.
    pub(super) fn write_back(&self) {
        while !self.stopping() {
            self.cache.wait_due(FLUSH_AGE, super::IDLE);
            loop {
                match self.store_due() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        log::error!("pages could not be stored, they stay in memory: {error}");
                        self.pause(Duration::from_millis(200));
                        break;
                    }
                }
            }
        }
    }

    /// Stores some of what is due. False when nothing is.
    fn store_due(&self) -> Result<bool> {
        let flushes = self.cache.flush_due(FLUSH_AGE, FLUSH_BYTES);
        if flushes.is_empty() {
            return Ok(false);
        }
        self.store(flushes).map(|()| true)
    }

    /// Stores all that a file has unflushed, and waits for what others are storing of it.
    pub(super) fn flush_file(&self, ino: Ino) -> Result<()> {
        // Twice: what was in flush at first may have been written since that flush began. And again where
        // another thread failed to store a page: then it is dirty, and its failure becomes ours.
        let mut rounds = 0;
        loop {
            rounds += 1;
            let failures = self.cache.failures();
            let mut flushes = self.cache.flush_file(ino);
            while !flushes.is_empty() {
                let rest = flushes.split_off(flushes.len().min(8));
                if let Err(error) = self.store(flushes) {
                    rest.iter().for_each(|flush| self.cache.fail_flush(flush));
                    return Err(error);
                }
                flushes = rest;
            }
            self.cache.wait_flushed(ino);
            let covered = rounds >= 2 && self.cache.failures() == failures;
            if covered || self.cache.dirty(ino).is_none() {
                return Ok(());
            }
        }
    }

    /// Puts pages into frames and journals where they lie. On failure they are dirty as before.
    fn store(&self, flushes: Vec<Flush>) -> Result<()> {
        // Held from the append to the batch: a segment of frames that nothing names yet is not dead.
        let _storing = self.storing.read();
        let mut left = Vec::new();
        let stored = self.store_all(flushes, &mut left);
        if stored.is_err() {
            left.iter().for_each(|flush| self.cache.fail_flush(flush));
        }
        stored
    }

    fn store_all(&self, flushes: Vec<Flush>, left: &mut Vec<Flush>) -> Result<()> {
        let mut sealed: Vec<Sealed> = Vec::with_capacity(flushes.len());
        let mut buffer = Vec::new();
        let mut how = None;
        let mut class = Class::Lasting;
        let mut flushes = flushes.into_iter();
        while let Some(flush) = flushes.next() {
            let ino = flush.id.ino;
            let (codec, pages, expires) = match how {
                Some((last, codec, pages, expires)) if last == ino => (codec, pages, expires),
                _ => {
                    let tree = self.tree.lock();
                    let now = tree.now(&self.clock);
                    let known = match tree.peek(ino) {
                        Some(inode) => (
                            inode.rec.codec.unwrap_or(self.settings.storage_compression),
                            inode.rec.pages,
                            shelf::class(inode.rec.expires, now),
                        ),
                        None => (Codec::None, 1, Class::Lasting),
                    };
                    how = Some((ino, known.0, known.1, known.2));
                    known
                }
            };
            class = class.max(expires);
            let frame = if flush.content.iter().all(|byte| *byte == 0) {
                None
            } else {
                let start = buffer.len();
                let how = How { codec, threshold: self.settings.cache_compression_threshold };
                let header =
                    frame::seal(&mut buffer, ino, flush.id.no, self.frame_number(), how, &flush.content);
                Some((start, header.len, header.checksum))
            };
            let key = keys::page(ino, flush.id.no);
            sealed.push(Sealed { flush, frame, old: None });
            if pages == 0 {
                continue;
            }
            let old = self
                .engine
                .get(&key)
                .and_then(|value| value.map(|value| decode(&value, "page record")).transpose());
            match (old, sealed.last_mut()) {
                (Ok(old), Some(last)) => last.old = old,
                (Err(error), _) => {
                    left.extend(sealed.into_iter().map(|sealed| sealed.flush));
                    left.extend(flushes);
                    return Err(error);
                }
                (Ok(_), None) => {}
            }
        }
        let place = if buffer.is_empty() { Ok(None) } else { self.segments.append(class, &buffer).map(Some) };
        let place = match place {
            Ok(place) => place,
            Err(error) => {
                left.extend(sealed.into_iter().map(|sealed| sealed.flush));
                return Err(error);
            }
        };
        self.publish(sealed, place, left)
    }

    /// Journals where the frames of pages lie, and makes the pages clean.
    fn publish(&self, sealed: Vec<Sealed>, place: Option<Extent>, left: &mut Vec<Flush>) -> Result<()> {
        let mut tree = self.tree.lock();
        let mut draft = Draft::default();
        let mut done = Vec::with_capacity(sealed.len());
        for Sealed { flush, frame, old } in sealed {
            let PageId { ino, no } = flush.id;
            let extent = frame.and_then(|(start, len, checksum)| {
                let place = place?;
                let offset = place.offset + start as u32;
                Some(PageRecord { extent: Extent { segment: place.segment, offset, len }, checksum })
            });
            let known = match draft.record(ino) {
                Some(rec) => Some(rec.clone()),
                None => tree.peek(ino).map(|inode| inode.rec.clone()),
            };
            // Discarded in between, or gone altogether: the frame is nobody's.
            let (Some(mut rec), Flushed::Stored { patches }) = (known, self.cache.outcome(&flush)) else {
                if let Some(record) = extent {
                    draft.use_extent(record.extent);
                    draft.kill_extent(record.extent);
                }
                done.push(flush);
                continue;
            };
            patches.for_each(|n| draft.batch.delete(keys::patch(ino, no, n)));
            if let Some(old) = old {
                draft.free_extent(old.extent, ino, no, rec.shared);
                rec.pages = rec.pages.saturating_sub(1);
                rec.stored = rec.stored.saturating_sub(u64::from(old.extent.len));
            }
            match extent {
                Some(record) => {
                    draft.use_extent(record.extent);
                    draft.batch.put_record(keys::page(ino, no), &record);
                    rec.pages += 1;
                    rec.stored += u64::from(record.extent.len);
                }
                None if old.is_some() => draft.batch.delete(keys::page(ino, no)),
                None => {}
            }
            // What the catalog says there is reaches as far as what has been stored.
            let before = draft.recorded_size(ino).or(tree.peek(ino).map(|inode| inode.recorded_size));
            let end = (u64::from(no.0) + 1) << rec.page_shift;
            let size = before.unwrap_or(0).max(rec.size.min(end));
            draft.inode_sized(ino, rec, Recorded::Size(size));
            done.push(flush);
        }
        let mut inos: Vec<Ino> = done.iter().map(|flush| flush.id.ino).collect();
        if let Err(error) = self.commit(&mut tree, draft) {
            left.append(&mut done);
            place.into_iter().for_each(|place| tree.give_up(place));
            return Err(error);
        }
        for flush in &done {
            self.cache.finish_flush(flush);
        }
        inos.dedup();
        for &ino in &inos {
            tree.touch_version(ino);
            let clean = self.cache.dirty(ino).is_none();
            if let Some(inode) = tree.peek_mut(ino)
                && clean
                && inode.recorded_size == inode.rec.size
            {
                inode.dirty = false;
            }
        }
        drop(tree);
        // Those that are longer than what has been stored of them, as what lay behind it has been cleared.
        inos.into_iter().try_for_each(|ino| self.record_inode(ino))
    }

    /// Makes a file (or directory) durable. Waits.
    pub fn fsync(&self, ino: Ino, _data_only: bool) -> Result<()> {
        self.check_writable()?;
        let journalled = self.run(|volume| {
            let mut tree = volume.tree.lock();
            let Some(inode) = tree.peek(ino) else { return Ok(true) };
            if !inode.dirty {
                return Ok(true);
            }
            let rec = inode.rec.clone();
            let mut draft = Draft::default();
            match volume.patch_file(&mut tree, &mut draft, ino) {
                Ok(Some(size)) => draft.inode_sized(ino, rec, Recorded::Size(size)),
                Ok(None) => {}
                Err(Pause::Wait(_)) => return Ok(false),
                Err(Pause::Fail(error)) => return Err(error.into()),
            }
            volume.commit(&mut tree, draft)?;
            Ok(true)
        })?;
        if !journalled {
            self.flush_file(ino)?;
            self.record_inode(ino)?;
        }
        self.make_durable(self.engine.last_seq())
    }

    /// Journals what of an inode's record is not.
    pub(super) fn record_inode(&self, ino: Ino) -> Result<()> {
        let mut tree = self.tree.lock();
        let Some(inode) = tree.peek(ino).filter(|inode| inode.dirty && self.cache.dirty(ino).is_none())
        else {
            return Ok(());
        };
        let (rec, size) = (inode.rec.clone(), inode.rec.size);
        let mut draft = Draft::default();
        draft.inode_sized(ino, rec, Recorded::Size(size));
        self.commit(&mut tree, draft).map(drop)
    }

    /// Makes everything durable. Waits.
    pub fn sync(&self) -> Result<()> {
        self.check_writable()?;
        self.store_everything()?;
        self.make_durable(self.engine.last_seq())
    }

    /// Stores all that is unflushed, content and inodes; not durably.
    pub(super) fn store_everything(&self) -> Result<()> {
        for ino in self.cache.dirty_files() {
            self.flush_file(ino)?;
        }
        let dirty = self.tree.lock().dirty_inodes();
        dirty.into_iter().try_for_each(|ino| self.record_inode(ino))
    }

    /// Makes all batches up to `upto` durable, with the frames that they name.
    pub(super) fn make_durable(&self, upto: Seq) -> Result<()> {
        self.engine.sync(upto, &|| self.segments.sync()).inspect_err(|error| self.note_failure(error))
    }
}
