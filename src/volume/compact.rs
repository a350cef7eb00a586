//! Compaction: what holes cannot give back. Small frames lie side by side within the disk's blocks;
//! when most of a segment is dead, its live frames are appended elsewhere and it is removed whole.

use super::Volume;
use super::draft::Draft;
use crate::cache::PageId;
use crate::error::{Error, Result};
use crate::format::{Extent, Ino, PageNo, PageRecord, SegmentId, keys};
use crate::pages::{Class, FIRST_FRAME, frame};

/// As a rule a segment is compacted when at least this part of what it takes on disk is dead...
const DEAD_PART: u64 = 2;
/// ...and at least so many bytes: moving frames is paid for by those.
const DEAD_BYTES: u64 = 1 << 20;

/// A segment that could not be emptied is tried again when this part of what stayed has died.
const GONE_PART: u64 = 4;

impl Volume {
    /// Compacts the segment that gives back the most, when there is one.
    pub(super) fn compact(&self) -> Result<()> {
        self.compact_worst(DEAD_PART).map(drop)
    }

    /// [`Volume::compact`], where one part in `dead_part` is enough. Whether there was one.
    pub(super) fn compact_worst(&self, dead_part: u64) -> Result<bool> {
        let _compacting = self.compacting.lock();
        let segments = self.segments.list()?;
        let worst = {
            let tree = self.tree.lock();
            let live = |id: SegmentId| tree.live.get(&id).copied().unwrap_or(0);
            let mut uncompactable = self.uncompactable.lock();
            uncompactable.retain(|id, then| live(*id) > *then - *then / GONE_PART);
            let dead = |id: SegmentId, allocated: u64| allocated.saturating_sub(live(id));
            segments
                .iter()
                .filter(|s| !s.open && !uncompactable.contains_key(&s.id) && !self.is_pinned(s.id))
                .map(|s| (dead(s.id, s.allocated), s))
                .filter(|(dead, s)| *dead >= DEAD_BYTES && *dead * dead_part >= s.allocated)
                .max_by_key(|(dead, _)| *dead)
                .map(|(_, s)| *s)
        };
        let Some(segment) = worst else { return Ok(false) };
        log::debug!("compacting segment {}", segment.id.0);
        self.empty_segment(segment.id, segment.used)?;
        if let Some(live) = self.tree.lock().live.get(&segment.id) {
            // Some frames stay: shared, damaged, or of files that are being written just now.
            self.uncompactable.lock().insert(segment.id, *live);
        }
        self.commit_now().map(|()| true)
    }

    /// [`Volume::move_frames`] of a segment that another thread may be removing, since nothing in it is alive any longer.
    pub(super) fn empty_segment(&self, id: SegmentId, used: u64) -> Result<()> {
        let moved = self.move_frames(id, used);
        if self.tree.lock().live.contains_key(&id) { moved } else { Ok(()) }
    }

    /// Appends the live frames of a segment elsewhere; shared and damaged ones stay where they are.
    pub(super) fn move_frames(&self, id: SegmentId, used: u64) -> Result<()> {
        let mut at = u64::from(FIRST_FRAME);
        while at < used {
            let len = frame::PART.min(used - at) as u32;
            let bytes = self.segments.read(Extent { segment: id, offset: at as u32, len })?;
            let (frames, looked) = frame::find(&bytes, at + u64::from(len) < used);
            self.move_batch(id, at as u32, &bytes, &frames)?;
            at += looked as u64;
        }
        Ok(())
    }

    fn move_batch(
        &self,
        id: SegmentId,
        start: u32,
        bytes: &[u8],
        frames: &[(usize, frame::Header)],
    ) -> Result<()> {
        let mut moved: Vec<(Ino, PageNo, PageRecord, u64, usize)> = Vec::new();
        let mut buffer = Vec::new();
        for (within, header) in frames {
            let extent = Extent { segment: id, offset: start + *within as u32, len: header.len };
            let version = match self.run(|volume| Ok(volume.tree.lock().get(header.ino)?.version)) {
                Ok(version) => version,
                Err(Error::Stale) => 0,
                Err(error) => return Err(error),
            };
            if self.owners_of(extent)?.is_some() {
                continue;
            }
            let record = match self.page_record(header.ino, header.page)? {
                Some(record) if record.extent == extent && version > 0 => record,
                _ => continue,
            };
            let Some(frame) = bytes.get(*within..*within + header.len as usize) else { continue };
            if frame::open(frame, record.checksum).is_err() {
                log::error!(
                    "{} page {}: damaged in segment {}, left where it is",
                    header.ino,
                    header.page.0,
                    id.0
                );
                continue;
            }
            moved.push((header.ino, header.page, record, version, buffer.len()));
            buffer.extend_from_slice(frame);
        }
        if buffer.is_empty() {
            return Ok(());
        }
        let _storing = self.storing.read();
        self.run(|volume| volume.ready())?;
        let place = self.segments.append(Class::Lasting, &buffer)?;
        let named = self.run(|volume| {
            volume.ready()?;
            let mut tree = volume.tree.lock();
            let mut draft = Draft::default();
            let mut touched = Vec::new();
            for (ino, no, record, version, within) in &moved {
                let extent = Extent {
                    segment: place.segment,
                    offset: place.offset + *within as u32,
                    len: record.extent.len,
                };
                draft.use_extent(extent);
                // Changed since it was looked up: what was copied is old.
                // Dirty: whoever flushes it may have read already which frame it replaces.
                let id = PageId { ino: *ino, no: *no };
                let current = tree.peek(*ino).is_some_and(|inode| inode.version == *version);
                if current && !volume.cache.is_dirty(id) {
                    draft.batch.put_record(keys::page(*ino, *no), &PageRecord { extent, ..*record });
                    draft.kill_extent(record.extent);
                    touched.push(*ino);
                } else {
                    draft.kill_extent(extent);
                }
            }
            volume.commit(&mut tree, draft)?;
            touched.into_iter().for_each(|ino| tree.touch_version(ino));
            Ok(())
        });
        if named.is_err() {
            self.tree.lock().give_up(place);
        }
        named
    }
}
