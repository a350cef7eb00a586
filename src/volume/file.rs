//! Content: reading, writing, resizing, holes, shared copies.

use super::Volume;
use super::attr::{check_size, without_suid};
use super::draft::{Draft, Recorded};
use super::load::{EXTENTS, last_batch};
use super::tree::Tree;
use super::types::*;
use crate::cache::{self, Access, Base, Content, PageId};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::format::{Ino, InodeRecord, PageNo, PageRecord, decode, keys};
use crate::pages::frame;

/// Zeros, to be written where a page's edge is punched.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// The pieces of a range, page by page: page, offset in it, bytes.
pub(super) fn pieces(page_shift: u8, offset: u64, len: u64) -> impl Iterator<Item = (PageNo, usize, usize)> {
    let (mut at, end, size) = (offset, offset + len, 1u64 << page_shift);
    std::iter::from_fn(move || {
        let within = at % size;
        let count = (size - within).min(end.checked_sub(at).filter(|rest| *rest > 0)?);
        let piece = (PageNo((at >> page_shift) as u32), within as usize, count as usize);
        at += count;
        Some(piece)
    })
}

/// The first page that lies wholly at or behind an offset.
fn page_from(page_shift: u8, offset: u64) -> PageNo {
    PageNo(offset.div_ceil(1 << page_shift) as u32)
}

/// Appends `count` bytes of a page from `within`; what the content does not have are zeros.
fn append(out: &mut Vec<u8>, content: &[u8], within: usize, count: usize) {
    let target = out.len() + count;
    out.extend_from_slice(content.get(within..content.len().min(within + count)).unwrap_or_default());
    out.resize(target, 0);
}

/// What is known of a page that is not in memory.
fn base(rec: &InodeRecord, recorded_size: u64, no: PageNo) -> Base {
    if rec.pages == 0 || no >= page_from(rec.page_shift, recorded_size) {
        Base::Absent
    } else {
        Base::Unknown
    }
}

fn waits(ino: Ino, no: PageNo) -> impl Fn(cache::Need) -> Pause {
    move |need| {
        Pause::Wait(match need {
            cache::Need::Page => Need::Page(ino, no),
            cache::Need::Room(bytes) => Need::Memory(bytes),
        })
    }
}

impl Volume {
    /// Appends up to `size` bytes from `offset` to `out`; fewer only at the end of the file.
    /// When a page is not in memory, [`Volume::read_blocking`] gets on faster than loading them one by one.
    pub fn read(&self, ino: Ino, offset: u64, size: u32, out: &mut Vec<u8>) -> Step<()> {
        let (shift, len, empty, version) = {
            let mut tree = self.tree.lock();
            let inode = tree.file(ino)?;
            let len = inode.rec.size.saturating_sub(offset).min(u64::from(size));
            let found = (inode.rec.page_shift, len, inode.rec.pages == 0, inode.version);
            self.note_use(ino, tree.now(&self.clock));
            found
        };
        let start = out.len();
        for (no, within, count) in pieces(shift, offset, len) {
            // Without frames, what is not in memory is a hole; unless it has just been flushed.
            let id = PageId { ino, no };
            let hole = || {
                let as_it_was = || self.tree.lock().peek(ino).is_some_and(|inode| inode.version == version);
                empty && !self.cache.is_stranded(id) && as_it_was()
            };
            match self.cache.get(id) {
                Some(content) => append(out, &content, within, count),
                None if hole() => append(out, &[], within, count),
                None => {
                    out.truncate(start);
                    return Err(Pause::Wait(Need::Page(ino, no)));
                }
            }
        }
        Ok(())
    }

    /// [`Volume::read`] that waits. `kept`: the caller keeps what it gets, as the kernel does; pages that it
    /// gets whole are not kept here as well.
    pub fn read_blocking(
        &self,
        ino: Ino,
        offset: u64,
        size: u32,
        kept: bool,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let (shift, len, reaches_end) = self.run(|volume| {
            let mut tree = volume.tree.lock();
            let inode = tree.file(ino)?;
            let rest = inode.rec.size.saturating_sub(offset);
            Ok((inode.rec.page_shift, rest.min(u64::from(size)), rest <= u64::from(size)))
        })?;
        // A request over several pages is part of a scan; the kernel reads ahead by itself.
        let access = if len > 1 << shift { Access::Sequential } else { Access::Random };
        out.reserve(len as usize);
        for (no, within, count) in pieces(shift, offset, len) {
            if kept && within == 0 && (count == 1 << shift || reaches_end) {
                self.pass_page(ino, no, count, out)?;
            } else {
                let content = self.load_page(ino, no, access)?;
                append(out, &content, within, count);
            }
        }
        self.note_read(ino, offset, offset + len);
        Ok(())
    }

    /// A page's content, from memory or disk.
    pub(super) fn load_page(&self, ino: Ino, no: PageNo, access: Access) -> Result<Content> {
        let id = PageId { ino, no };
        loop {
            if let Some(content) = self.cache.get(id) {
                return Ok(content);
            }
            let version = self.run(|volume| Ok(volume.tree.lock().get(ino)?.version))?;
            let mut content = Vec::new();
            let found = self.read_frame(ino, no, &mut content);
            let tree = self.tree.lock();
            // Rewritten in between: the place may be another's by now.
            if tree.peek(ino).is_none_or(|inode| inode.version != version) {
                continue;
            }
            found?;
            return Ok(self.cache.insert(id, content, access));
        }
    }

    /// Appends the first `count` bytes of a page to `out`, from memory or disk, and keeps nothing.
    fn pass_page(&self, ino: Ino, no: PageNo, count: usize, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        loop {
            if let Some(content) = self.cache.get(PageId { ino, no }) {
                append(out, &content, 0, count);
                return Ok(());
            }
            let version = self.run(|volume| Ok(volume.tree.lock().get(ino)?.version))?;
            let found = self.read_frame(ino, no, out);
            // As in `load_page`; and what was written meanwhile is in memory.
            if self.tree.lock().peek(ino).is_some_and(|inode| inode.version == version) {
                out.resize(start + count, 0);
                return found;
            }
            out.truncate(start);
        }
    }

    /// Appends what a page's frame holds to `out`; nothing for a hole.
    pub(super) fn read_frame(&self, ino: Ino, no: PageNo, out: &mut Vec<u8>) -> Result<()> {
        if self.cache.is_stranded(PageId { ino, no }) {
            return Err(self.page_is_stranded(ino, no));
        }
        let Some(value) = self.engine.get(&keys::page(ino, no))? else { return Ok(()) };
        let record: PageRecord = decode(&value, "page record")?;
        if record == PageRecord::LOST {
            return Err(self.page_is_lost(ino, no));
        }
        let place = record.extent;
        let opened =
            self.segments.read(place).and_then(|bytes| frame::open_into(&bytes, record.checksum, out));
        opened.map_err(|error| match error {
            Error::Damaged(what) => {
                let (segment, offset) = (place.segment.0, place.offset);
                let name = self.name_of(ino);
                Error::Damaged(format!(
                    "{name}: page {} (segment {segment:08x}, offset {offset}): {what}",
                    no.0
                ))
            }
            other => other,
        })
    }

    /// The error of reading a page whose content is lost.
    pub(super) fn page_is_lost(&self, ino: Ino, no: PageNo) -> Error {
        Error::Damaged(format!("{}: the content of page {} is lost", self.name_of(ino), no.0))
    }

    /// The error of reading a page that could not be put together when the store was opened.
    pub(super) fn page_is_stranded(&self, ino: Ino, no: PageNo) -> Error {
        Error::Damaged(format!(
            "{}: what was written to page {} last could not be put in place when the store was opened, see the log; \
             opening it anew tries again",
            self.name_of(ino),
            no.0
        ))
    }

    /// Writes at `offset`. On `Wait`, a part may have been written already; repeating it is harmless, but where there is
    /// little memory it may take the room that the rest waits for: see [`Volume::write_blocking`].
    /// `clear_suid`: suid and sgid bits must be cleared (the kernel tells). Returns whether there were any.
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8], clear_suid: bool) -> Step<bool> {
        self.ready_to_add()?;
        let mut tree = self.tree.lock();
        if data.is_empty() {
            // Changes nothing, not even a time (write(2)).
            return tree.file(ino).map(|_| false);
        }
        let now = tree.now(&self.clock);
        self.write_locked(&mut tree, ino, offset, data, now)?;
        if clear_suid { self.clear_suid_locked(&mut tree, ino, now) } else { Ok(false) }
    }

    /// [`Volume::write`] that waits. Page by page: the room of one that is written may be taken by the next.
    pub fn write_blocking(&self, ino: Ino, offset: u64, data: &[u8], clear_suid: bool) -> Result<bool> {
        // For the whole first: what has no room is not written in part.
        let shift = self.run(|volume| {
            volume.ready_to_add()?;
            volume.room_for(&mut volume.tree.lock(), ino, offset, data.len() as u64)
        })?;
        let (mut rest, mut cleared) = (data, false);
        for (no, within, count) in pieces(shift, offset, data.len() as u64) {
            let (piece, behind) = rest.split_at(count.min(rest.len()));
            rest = behind;
            let at = (u64::from(no.0) << shift) + within as u64;
            cleared |= self.run(|volume| volume.write(ino, at, piece, clear_suid))?;
        }
        Ok(cleared)
    }

    /// Takes the suid and sgid bits from a file whose content somebody who may not keep them is about to
    /// change. Returns whether it had any.
    pub fn clear_suid(&self, ino: Ino) -> Step<bool> {
        self.ready()?;
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        self.clear_suid_locked(&mut tree, ino, now)
    }

    fn clear_suid_locked(&self, tree: &mut Tree, ino: Ino, now: Time) -> Step<bool> {
        let rec = &tree.file(ino)?.rec;
        let mode = without_suid(rec.mode);
        if mode == rec.mode {
            return Ok(false);
        }
        let rec = InodeRecord { mode, ctime: now, ..rec.clone() };
        let mut draft = Draft::default();
        draft.inode(ino, rec);
        self.commit(tree, draft)?;
        Ok(true)
    }

    /// Whether a write may be done as to the limits of the file, the disk and the directories; returns the file's page shift.
    fn room_for(&self, tree: &mut Tree, ino: Ino, offset: u64, len: u64) -> Step<u8> {
        let inode = tree.file(ino)?;
        let (shift, payer) = (inode.rec.page_shift, inode.payer);
        let end = offset.checked_add(len).ok_or(Error::TooLarge)?;
        check_size(end, shift)?;
        self.check_disk(len)?;
        self.check_quota(tree, payer, None, len)?;
        Ok(shift)
    }

    /// Writes into the cache and changes size and times; not journalled.
    fn write_locked(&self, tree: &mut Tree, ino: Ino, offset: u64, data: &[u8], now: Time) -> Step<()> {
        let shift = self.room_for(tree, ino, offset, data.len() as u64)?;
        let inode = tree.file(ino)?;
        let mut rest = data;
        for (no, within, count) in pieces(shift, offset, data.len() as u64) {
            let base = base(&inode.rec, inode.recorded_size, no);
            let (piece, behind) = rest.split_at(count.min(rest.len()));
            rest = behind;
            self.cache.write(PageId { ino, no }, within, piece, 1 << shift, base).map_err(waits(ino, no))?;
            // Piece by piece: what is in the cache is the file's, also when the next piece has no room.
            inode.dirty = true;
            let at = (u64::from(no.0) << shift) + (within + count) as u64;
            inode.rec.size = inode.rec.size.max(at);
            (inode.rec.mtime, inode.rec.ctime) = (now, now);
        }
        Ok(())
    }

    /// The records of a file's pages from `from` up to `to` (and maybe more), when they are in memory.
    pub(super) fn extents(
        &self,
        tree: &mut Tree,
        ino: Ino,
        from: PageNo,
        to: PageNo,
    ) -> Step<Vec<(PageNo, PageRecord)>> {
        let inode = tree.file(ino)?;
        if inode.rec.pages == 0 {
            return Ok(Vec::new());
        }
        match &inode.extents {
            Some(known) if known.version == inode.version && known.from <= from && to <= known.to => {
                Ok(known.records.clone())
            }
            _ => Err(Pause::Wait(Need::Extents(ino, from, to))),
        }
    }

    /// Puts the removal of whole pages from `from` up to `to` (exclusive) into a draft.
    pub(super) fn remove_pages(
        &self,
        draft: &mut Draft,
        ino: Ino,
        rec: &mut InodeRecord,
        found: &[(PageNo, PageRecord)],
        from: PageNo,
        to: PageNo,
    ) {
        for (no, record) in found.iter().filter(|(no, _)| (from..to).contains(no)) {
            draft.batch.delete(keys::page(ino, *no));
            draft.free_extent(record.extent, ino, *no, rec.shared);
            rec.pages = rec.pages.saturating_sub(1);
            rec.stored = rec.stored.saturating_sub(u64::from(record.extent.len));
        }
        draft.discard(&self.cache, ino, from, to);
    }

    /// Puts a new size into a draft. Cutting removes the pages behind and clears the rest of the
    /// last one, as a patch in the same batch: what was cut off never shows again.
    pub(super) fn resize(
        &self,
        tree: &mut Tree,
        draft: &mut Draft,
        ino: Ino,
        size: u64,
        now: Time,
    ) -> Step<()> {
        let inode = tree.file(ino)?;
        check_size(size, inode.rec.page_shift)?;
        let mut rec = inode.rec.clone();
        let recorded_size = inode.recorded_size;
        (rec.mtime, rec.ctime) = (now, now);
        if size >= rec.size {
            // Content on its way is recorded as far as the new size promises: it would show as zeros.
            rec.size = size;
            draft.inode_sized(ino, rec, Recorded::Size(size));
            return Ok(());
        }
        let from = page_from(rec.page_shift, size);
        let end = page_from(rec.page_shift, rec.size);
        let batch = last_batch(&rec, from, end);
        let found = self.extents(tree, ino, batch, end)?;
        if batch > from {
            self.cut_off(tree, ino, batch, &found, now)?;
            return Err(Pause::Wait(Need::Extents(
                ino,
                last_batch(&tree.file(ino)?.rec, from, batch),
                batch,
            )));
        }
        let within = (size % rec.page_size()) as usize;
        if within > 0 {
            let no = PageNo((size >> rec.page_shift) as u32);
            let (id, base) = (PageId { ino, no }, base(&rec, recorded_size, no));
            self.cache.may_cut(id, within, base).map_err(waits(ino, no))?;
            draft.cut(id, within);
            self.journal_patches(draft, ino, Some((no, within)))?;
        }
        self.remove_pages(draft, ino, &mut rec, &found, from, PageNo(u32::MAX));
        tree.touch_version(ino);
        rec.size = size;
        draft.inode_sized(ino, rec, Recorded::Size(size));
        Ok(())
    }

    /// Cuts off whole pages from `from` on: too many for one batch are cut off so, from the back. After a
    /// crash in between the file is found partly cut; only files of more than [`EXTENTS`] pages are.
    fn cut_off(
        &self,
        tree: &mut Tree,
        ino: Ino,
        from: PageNo,
        found: &[(PageNo, PageRecord)],
        now: Time,
    ) -> Step<()> {
        let mut rec = tree.file(ino)?.rec.clone();
        let mut draft = Draft::default();
        self.remove_pages(&mut draft, ino, &mut rec, found, from, PageNo(u32::MAX));
        rec.size = u64::from(from.0) << rec.page_shift;
        (rec.mtime, rec.ctime) = (now, now);
        tree.touch_version(ino);
        let size = rec.size;
        draft.inode_sized(ino, rec, Recorded::Size(size));
        self.commit(tree, draft)?;
        Ok(())
    }

    /// Puts what a file's pages have unjournalled into a draft as patches, with the last one cut where the draft cuts it.
    fn journal_patches(&self, draft: &mut Draft, ino: Ino, cut: Option<(PageNo, usize)>) -> Step<()> {
        let patches = self.cache.patches(ino, super::writeback::PATCH_LIMIT, cut);
        draft.patches(ino, patches.ok_or(Pause::Wait(Need::Flushed(ino)))?);
        Ok(())
    }

    /// Puts a file's unflushed content into a draft, and returns the size that it makes good.
    /// `None` when there is none.
    pub(super) fn patch_file(&self, tree: &mut Tree, draft: &mut Draft, ino: Ino) -> Step<Option<u64>> {
        let inode = tree.file(ino)?;
        let size = inode.rec.size;
        if !inode.dirty {
            return Ok(None);
        }
        self.journal_patches(draft, ino, None)?;
        Ok(Some(size))
    }

    /// As fallocate(2): allocate (room is checked, holes stay holes), `KEEP_SIZE`, `PUNCH_HOLE`,
    /// `ZERO_RANGE`. Other modes are `NotSupported`. Waits.
    pub fn fallocate(&self, ino: Ino, offset: u64, len: u64, mode: i32) -> Result<()> {
        let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let clear = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => false,
            libc::FALLOC_FL_PUNCH_HOLE if keep => true,
            libc::FALLOC_FL_ZERO_RANGE => true,
            _ => return Err(Error::NotSupported),
        };
        if len == 0 {
            return Err(Error::Invalid("fallocate of no bytes".into()));
        }
        let end = offset.checked_add(len).ok_or(Error::TooLarge)?;
        if clear {
            // By as many pages as fit a batch.
            let mut at = offset;
            while at < end {
                at = self.run(|volume| volume.clear_range(ino, at, end))?;
            }
        }
        self.run(|volume| volume.reserve_range(ino, len, end, keep, clear))?;
        // Where nothing is left that would be stored, nothing would record how long the file has become.
        if clear { self.record_inode(ino) } else { Ok(()) }
    }

    /// What is left of fallocate(2) once a range is clear: room, size and times.
    fn reserve_range(&self, ino: Ino, len: u64, end: u64, keep: bool, clear: bool) -> Step<()> {
        if clear { self.ready() } else { self.ready_to_add() }?;
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let inode = tree.file(ino)?;
        check_size(end, inode.rec.page_shift)?;
        let size = if keep { inode.rec.size } else { inode.rec.size.max(end) };
        let payer = inode.payer;
        if !clear {
            self.check_disk(len)?;
            self.check_quota(&tree, payer, None, len)?;
        }
        let inode = tree.file(ino)?;
        let mut rec = inode.rec.clone();
        let recorded = if size > rec.size { Recorded::Size(size) } else { Recorded::Unchanged };
        rec.size = size;
        (rec.mtime, rec.ctime) = (now, now);
        let mut draft = Draft::default();
        draft.inode_sized(ino, rec, recorded);
        self.commit(&mut tree, draft)?;
        Ok(())
    }

    /// Makes a range zeros, or a part at its start: whole pages become holes, the edges are written.
    /// Returns how far it has come.
    fn clear_range(&self, ino: Ino, offset: u64, upto: u64) -> Step<u64> {
        self.ready()?;
        let mut guard = self.tree.lock();
        let tree = &mut *guard;
        let now = tree.now(&self.clock);
        let rec = tree.file(ino)?.rec.clone();
        let shift = rec.page_shift;
        check_size(upto, shift)?;
        let batch = if rec.pages as usize > EXTENTS {
            (u64::from(page_from(shift, offset).0) + EXTENTS as u64) << shift
        } else {
            upto
        };
        let end = upto.min(batch).min(rec.size);
        if offset >= end {
            return Ok(upto);
        }
        let first = page_from(shift, offset);
        // The last page counts as whole when nothing of the file lies behind.
        let behind = if end == rec.size { page_from(shift, end) } else { PageNo((end >> shift) as u32) };
        // One edge a step: what the first takes of a limit until it is stored, the second may need.
        let page_end = u64::from(first.0) << shift;
        if offset < page_end || first >= behind {
            let upto = if offset < page_end { end.min(page_end) } else { end };
            let zeros = ZEROS.get(..(upto - offset) as usize).unwrap_or(&ZEROS);
            self.write_locked(tree, ino, offset, zeros, now)?;
            return Ok(upto);
        }
        // Between the edges there may be billions of pages that are holes already: not one by one.
        let found = self.extents(tree, ino, first, behind)?;
        let mut rec = tree.file(ino)?.rec.clone();
        let mut draft = Draft::default();
        self.remove_pages(&mut draft, ino, &mut rec, &found, first, behind);
        tree.touch_version(ino);
        draft.inode(ino, rec);
        self.commit(tree, draft)?;
        Ok(end.min(u64::from(behind.0) << shift))
    }

    /// As lseek(2) with `SEEK_HOLE` or `SEEK_DATA`, by whole pages. Pages of zeros that wait for write-back
    /// are holes already, so that the answer stays the same when write-back makes them so. Waits.
    pub fn seek(&self, ino: Ino, offset: u64, hole: bool) -> Result<u64> {
        let (size, shift, dirty) = self.run(|volume| {
            let mut tree = volume.tree.lock();
            let inode = tree.file(ino)?;
            Ok((inode.rec.size, inode.rec.page_shift, volume.cache.dirty_pages(ino)))
        })?;
        if offset >= size {
            return Err(Error::NoOffset);
        }
        let first = PageNo((offset >> shift) as u32);
        // All before the scan: a page that is no longer dirty is as the scan will find it.
        let state = |no| Some((no, self.cache.dirty_is_zero(PageId { ino, no })?));
        let dirty: Vec<_> = dirty.into_iter().filter(|no| *no >= first).filter_map(state).collect();
        let mut dirty = dirty.into_iter().peekable();
        let mut found = None;
        let mut expected = first;
        let mut check = |no: PageNo| {
            // Pages come in order: the first that is there, or the first that is missing.
            if !hole {
                found = Some(no);
            } else if no == expected {
                expected = PageNo(no.0 + 1);
                return true;
            } else {
                found = Some(expected);
            }
            false
        };
        let mut going = true;
        let range = keys::range(keys::page(ino, first), keys::under(&keys::of_inode(keys::PAGE, ino)).end);
        self.engine.scan(range, &mut |key, _| {
            let Some((_, no)) = keys::page_of(key) else { return true };
            while going && let Some((next, zero)) = dirty.next_if(|(next, _)| *next < no) {
                going = zero || check(next);
            }
            let masked = dirty.next_if(|(next, _)| *next == no).is_some_and(|(_, zero)| zero);
            going = going && (masked || check(no));
            going
        })?;
        for (no, zero) in dirty {
            going = going && (zero || check(no));
        }
        let page = match (found, hole) {
            (Some(no), _) => no,
            (None, true) => expected,
            (None, false) => return Err(Error::NoOffset),
        };
        Ok((u64::from(page.0) << shift).clamp(offset, size))
    }

    /// As copy_file_range(2); whole pages are shared, not copied. Returns the bytes copied, fewer where it could not go on
    /// from there. Waits.
    pub fn copy_range(&self, from: Ino, offset_from: u64, to: Ino, offset_to: u64, len: u64) -> Result<u64> {
        let (size, shift) = self.run(|volume| {
            let mut tree = volume.tree.lock();
            let rec = &tree.file(from)?.rec;
            Ok((rec.size, rec.page_shift))
        })?;
        let to_shift = self.run(|volume| Ok(volume.tree.lock().file(to)?.rec.page_shift))?;
        let len = len.min(size.saturating_sub(offset_from));
        check_size(offset_to.checked_add(len).ok_or(Error::TooLarge)?, to_shift)?;
        if from == to && offset_from < offset_to + len && offset_to < offset_from + len {
            return Err(Error::Invalid("the ranges overlap".into()));
        }
        let page = 1u64 << shift;
        let alike = shift == to_shift && offset_from % page == offset_to % page;
        let mut done = 0;
        while done < len {
            let (at, target) = (offset_from + done, offset_to + done);
            let whole = (len - done) / page;
            let step = || -> Result<u64> {
                if alike && at % page == 0 && whole > 0 {
                    let (first, place) = (PageNo((at >> shift) as u32), PageNo((target >> shift) as u32));
                    match self.share_pages(from, first, to, place, whole)? {
                        0 => {}
                        shared => return Ok(shared << shift),
                    }
                }
                let count = (page - at % page).min(len - done);
                let mut piece = Vec::new();
                self.read_blocking(from, at, count as u32, false, &mut piece)?;
                self.write_blocking(to, target, &piece, false)?;
                Ok(count)
            };
            match step() {
                Ok(count) => done += count,
                // The next call meets it again. Told now, it would hide from those above what has been copied.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
