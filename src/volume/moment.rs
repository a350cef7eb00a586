//! One moment of an open store, held for who copies it: frames that are alive in it stay where they are until they
//! have been copied, also when they are replaced or removed meanwhile.
//!
//! Invariants: what is held back is only room that would come back to the disk; nobody waits for the copy. A store that
//! has no room left takes it from the copy, which fails then, also where another has begun by the time it notices.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::Volume;
use crate::catalog::Dumped;
use crate::error::{Error, Result};
use crate::format::{Extent, SegmentId};
use crate::io::File;
use crate::pages::SegmentInfo;

/// What must not be given back to the disk.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// The number of the last copy that was begun.
    generation: u64,
    /// Whether that is under way and has not been given up.
    held: bool,
    /// All segments: which are needed is not known yet.
    all: bool,
    segments: HashSet<SegmentId>,
    /// Bytes that would have come back.
    kept: u64,
}

impl Pins {
    fn pin(&self, id: SegmentId) -> bool {
        self.all || self.segments.contains(&id)
    }

    /// Holds nothing any longer. Whether anything was.
    fn give_up(&mut self) -> bool {
        std::mem::replace(self, Pins { generation: self.generation, ..Pins::default() }).held
    }
}

/// A moment of a store. Dropped, it is held no longer.
#[derive(Debug)]
pub struct Moment<'a> {
    volume: &'a Volume,
    /// Its copy's number. Where the pins have another, this one was given up and they are not its own.
    generation: u64,
}

impl Volume {
    /// Makes everything durable and holds the frames of this moment and later ones, until [`Moment::dump`] tells which.
    /// Errors: another is held; the store is read-only.
    pub fn moment(&self) -> Result<Moment<'_>> {
        let generation = {
            let mut pins = self.pins.lock();
            if pins.held {
                let why = "a backup of it is being made already; wait for its end";
                return Err(Error::store(&self.settings.storage_path, why));
            }
            *pins = Pins { generation: pins.generation + 1, held: true, all: true, ..Pins::default() };
            pins.generation
        };
        let moment = Moment { volume: self, generation };
        self.sync()?;
        Ok(moment)
    }

    /// Takes out of what is dead what is held for a copy, and returns that. `bytes` on the disk are held back with it.
    pub(super) fn hold_back(
        &self,
        freed: &mut Vec<Extent>,
        dead: &mut Vec<SegmentId>,
        segments: &[SegmentInfo],
    ) -> Vec<Extent> {
        let mut pins = self.pins.lock();
        if !pins.held {
            return Vec::new();
        }
        let mut kept = 0;
        for segment in segments.iter().filter(|segment| dead.contains(&segment.id) && pins.pin(segment.id)) {
            kept += segment.allocated;
        }
        let (held, free): (Vec<_>, Vec<_>) =
            std::mem::take(freed).into_iter().partition(|extent| pins.pin(extent.segment));
        let within = held.iter().filter(|extent| !dead.contains(&extent.segment));
        kept += within.map(|extent| u64::from(extent.len)).sum::<u64>();
        dead.retain(|id| !pins.pin(*id));
        *freed = free;
        pins.kept = kept;
        held
    }

    /// Bytes on the disk that wait for a copy to be done with them.
    pub(super) fn held_back(&self) -> u64 {
        self.pins.lock().kept
    }

    pub(super) fn is_copied(&self) -> bool {
        self.pins.lock().held
    }

    pub(super) fn is_pinned(&self, id: SegmentId) -> bool {
        self.pins.lock().pin(id)
    }

    /// Gives up what is held for a copy, which ends with an error then. Whether anything was.
    pub(super) fn give_up_copy(&self) -> bool {
        self.pins.lock().give_up()
    }
}

impl Moment<'_> {
    /// Writes the catalog of this moment to a file, durably. Later frames are held no longer.
    /// Errors: the store has taken the room back, or is being closed; the disk of the file refuses.
    pub fn dump(&self, file: Arc<dyn File>, path: &Path) -> Result<Dumped> {
        let (_, dumped) = self.volume.dump_catalog(file, path)?;
        let segments = self.volume.segments.list()?;
        let mut pins = self.pins()?;
        pins.segments = segments.iter().map(|segment| segment.id).collect();
        pins.all = false;
        Ok(dumped)
    }

    /// The bytes of an extent that is alive at this moment.
    /// Errors: the store has taken the room back, or is being closed.
    pub fn read(&self, extent: Extent) -> Result<Vec<u8>> {
        self.check()?;
        let read = self.volume.segments.read(extent);
        self.check()?;
        read
    }

    /// Whether it is still held: what was read until now is of this moment.
    pub fn check(&self) -> Result<()> {
        if self.volume.stopping() {
            return Err(self.volume.closing());
        }
        self.pins().map(drop)
    }

    /// What is held for this moment. Errors: it was given up.
    fn pins(&self) -> Result<MutexGuard<'_, Pins>> {
        let pins = self.volume.pins.lock();
        if pins.held && pins.generation == self.generation {
            return Ok(pins);
        }
        Err(Error::store(
            &self.volume.settings.storage_path,
            "the store ran out of room while it was copied, and took what the copy held: make room and begin again",
        ))
    }

    /// A segment has been copied: what is dead in it may go.
    pub fn release(&self, id: SegmentId) {
        if let Ok(mut pins) = self.pins() {
            pins.segments.remove(&id);
        }
    }
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        if let Ok(mut pins) = self.pins() {
            pins.give_up();
        }
    }
}
