//! Content of new keys that is put into frames ahead of the batch that gives them their names.
//!
//! It is compressed by who brings it and written once, where what rides in the journal is written twice, and waits in
//! memory until write-back has stored it. It costs a second flush where it has to be durable at once.
//!
//! The numbers of the inodes are given away before their frames are sealed, as frames name them; what comes to nothing
//! leaves a gap. `storing` is held from then on until the batch: what a number or a frame is that nobody names yet is not
//! decided meanwhile.

use std::sync::atomic::Ordering;

use parking_lot::RwLockReadGuard;

use super::Volume;
use super::draft::Draft;
use super::file::pieces;
use super::put::{Change, Plan, To};
use super::types::*;
use crate::cache::{Access, PageId};
use crate::catalog::Batch;
use crate::format::{Codec, Extent, Ino, PageNo, PageRecord, SegmentId, keys};
use crate::pages::Class;
use crate::pages::frame::{self, How};
use crate::shelf;

/// A new file whose content is in frames.
pub(super) struct FramedFile {
    pub ino: Ino,
    pub page_shift: u8,
    /// Its pages that are not all zeros, in order.
    pub pages: Vec<(PageNo, PageRecord)>,
}

/// The files of one batch whose content is in frames. Where the batch comes to nothing, their room is given back.
pub(super) struct Framed<'a, 'c> {
    volume: &'a Volume,
    /// By the place of the change in the batch.
    files: Vec<Option<FramedFile>>,
    /// Their content, for the cache.
    contents: Vec<(PageId, &'c [u8])>,
    /// All frames.
    place: Option<Extent>,
    /// Bytes that have no place on the disk yet.
    waiting: u64,
    named: bool,
    _storing: RwLockReadGuard<'a, ()>,
}

/// A file whose frames are to be made.
struct Job<'c> {
    change: usize,
    ino: Ino,
    page_shift: u8,
    codec: Option<Codec>,
    content: &'c [u8],
}

impl Volume {
    /// Puts the content of those changes into frames that `is_framed` says, by their place. `None` where there are none.
    pub(super) fn frame_contents<'c>(
        &self,
        caller: &Caller,
        changes: &[Change<'c>],
        is_framed: &[bool],
    ) -> Step<Option<Framed<'_, 'c>>> {
        if !is_framed.contains(&true) {
            return Ok(None);
        }
        self.ready_to_add()?;
        let storing = self.storing.read();
        let (jobs, class, waiting) = self.plan_frames(caller, changes, is_framed)?;
        let mut framed = Framed {
            volume: self,
            files: changes.iter().map(|_| None).collect(),
            contents: Vec::new(),
            place: None,
            waiting,
            named: false,
            _storing: storing,
        };
        let mut buffer = Vec::new();
        for Job { change, ino, page_shift, codec, content } in jobs {
            let codec = codec.unwrap_or(self.settings.storage_compression);
            let how = How { codec, threshold: self.settings.cache_compression_threshold };
            let mut file = FramedFile { ino, page_shift, pages: Vec::new() };
            let mut rest = content;
            for (no, _, count) in pieces(page_shift, 0, content.len() as u64) {
                let (piece, behind) = rest.split_at(count.min(rest.len()));
                rest = behind;
                // A page of zeros is a hole.
                if piece.iter().any(|byte| *byte != 0) {
                    let offset = buffer.len() as u32;
                    let header = frame::seal(&mut buffer, ino, no, self.frame_number(), how, piece);
                    // From where the frames will be.
                    let extent = Extent { segment: SegmentId(0), offset, len: header.len };
                    file.pages.push((no, PageRecord { extent, checksum: header.checksum }));
                    framed.contents.push((PageId { ino, no }, piece));
                }
            }
            if let Some(place) = framed.files.get_mut(change) {
                *place = Some(file);
            }
        }
        if !buffer.is_empty() {
            let place = self.segments.append(class, &buffer)?;
            framed.place = Some(place);
            framed.placed();
            for (_, record) in framed.files.iter_mut().flatten().flat_map(|file| &mut file.pages) {
                record.extent.segment = place.segment;
                record.extent.offset += place.offset;
            }
        }
        Ok(Some(framed))
    }

    /// What the batch would make of the files, and gives their numbers away. Room on the disk is kept for their content.
    fn plan_frames<'c>(
        &self,
        caller: &Caller,
        changes: &[Change<'c>],
        is_framed: &[bool],
    ) -> Step<(Vec<Job<'c>>, Class, u64)> {
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let mut plan = Plan::new(&tree, Batch::default());
        let (mut jobs, mut class, mut bytes) = (Vec::new(), Class::Lasting, 0);
        for (change, (asked, framed)) in changes.iter().zip(is_framed).enumerate() {
            self.plan(&mut tree, &mut plan, caller, asked, None, now)?;
            let (To::Content(content, _), true) = (&asked.to, framed) else { continue };
            let Some((ino, rec)) = plan.newest() else { continue };
            class = class.max(shelf::class(rec.expires, now));
            bytes += content.len() as u64;
            jobs.push(Job { change, ino, page_shift: rec.page_shift, codec: rec.codec, content });
        }
        self.check_disk(bytes)?;
        self.framing.fetch_add(bytes, Ordering::Relaxed);
        tree.counters.last_ino = plan.last_number();
        Ok((jobs, class, bytes))
    }
}

impl Framed<'_, '_> {
    /// Nothing of it needs room on the disk any longer.
    fn placed(&mut self) {
        self.volume.framing.fetch_sub(std::mem::take(&mut self.waiting), Ordering::Relaxed);
    }

    /// The file of a change.
    pub fn file(&self, change: usize) -> Option<&FramedFile> {
        self.files.get(change)?.as_ref()
    }

    /// The batch is journalled: their content can be read. The tree's lock is held since then, so nobody has changed it.
    pub fn named(&mut self) {
        self.named = true;
        for (id, content) in self.contents.drain(..) {
            self.volume.cache.insert(id, content.to_vec(), Access::Random);
        }
    }
}

impl Drop for Framed<'_, '_> {
    fn drop(&mut self) {
        self.placed();
        let (false, Some(place)) = (self.named, self.place) else { return };
        // By a batch, so that the numbers of inodes and frames that were used for it stay used.
        let mut tree = self.volume.tree.lock();
        let mut draft = Draft::default();
        draft.use_extent(place);
        draft.kill_extent(place);
        draft.batch.put_record(keys::counters(), &tree.counters);
        if self.volume.commit(&mut tree, draft).is_err() {
            tree.give_up(place);
        }
    }
}
