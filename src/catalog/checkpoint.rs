//! Checkpoints, the files that they set free, and the thread that does both in the background.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::index::Reach;
use super::journal::{Directory, JournalFile};
use super::local::Inner;
use super::table::Layers;
use crate::error::{Error, Result};

/// The most files that are kept prepared: as many as a checkpoint usually sets free but one.
const SPARES: usize = 3;

/// How long the background thread leaves a checkpoint alone that found the disk full.
const PAUSE: Duration = Duration::from_secs(1);

/// What the background thread is asked for.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// To end.
    pub stop: bool,
    /// A checkpoint.
    pub checkpoint: bool,
    /// A prepared file.
    pub prepare: bool,
    /// Checkpoints that failed in the background, and why the last one did: for want of room, or this.
    pub failures: u64,
    pub failure: Option<String>,
}

/// A checkpoint under way: taken out of the table, not yet in the index.
#[derive(Debug)]
struct Pending {
    layers: Layers,
    bytes: usize,
    reach: Reach,
    /// The newest batch in it.
    batch: u64,
    /// The files that it sets free.
    files: Vec<Arc<JournalFile>>,
}

/// What whoever checkpoints or prepares files works on; its lock keeps them apart.
#[derive(Debug)]
pub(super) struct Maintenance {
    /// The next file's number.
    next: u64,
    /// Files that are needed no longer.
    retired: Vec<Arc<JournalFile>>,
    pending: Option<Pending>,
}

impl Maintenance {
    /// Files are given numbers from `next` on; those in `retired` are needed no longer.
    pub fn new(next: u64, retired: Vec<Arc<JournalFile>>) -> Maintenance {
        Maintenance { next, retired, pending: None }
    }

    /// Bytes of the files that are in use no longer, or will not be after the checkpoint under way.
    pub fn file_bytes(&self) -> u64 {
        let pending = self.pending.iter().flat_map(|pending| &pending.files);
        self.retired.iter().chain(pending).map(|file| file.len()).sum()
    }

    /// Takes in files that are needed no longer.
    pub fn retire(&mut self, files: Vec<Arc<JournalFile>>) {
        self.retired.extend(files);
    }

    /// A file with the next number.
    pub fn prepare(&mut self, directory: &Directory) -> Result<Arc<JournalFile>> {
        // A number that was tried is not tried again: who knows how far it came.
        let number = self.next;
        self.next += 1;
        let file = match self.retired.pop() {
            Some(old) => directory.recycle(&old, number)?,
            None => directory.create(number)?,
        };
        Ok(Arc::new(file))
    }
}

impl Inner {
    /// Asks the background thread for a prepared file, and for a checkpoint when the table is full.
    pub fn ask(&self, checkpoint: bool) {
        let mut work = self.work.lock();
        if work.prepare && (work.checkpoint || !checkpoint) {
            return;
        }
        work.prepare = true;
        work.checkpoint |= checkpoint;
        drop(work);
        self.work_to_do.notify_one();
    }

    /// Whether the table takes more batches. The table and the one that is being checkpointed have room
    /// for one limit each; a checkpoint is asked for at the first.
    pub fn has_room(&self) -> bool {
        self.table_bytes() < self.emergency_limit.load(Relaxed).max(2 * self.table_limit)
    }

    /// Bytes of the table and of the one that is being checkpointed.
    pub fn table_bytes(&self) -> usize {
        self.active_bytes.load(Relaxed) + self.frozen_bytes.load(Relaxed)
    }

    /// Whether a checkpoint has found the disk full, and none has succeeded since. Then half a table more is taken, for what is
    /// deleted: those who add are refused once they have filled the two ([`super::Engine::is_short`]).
    pub fn is_stuck(&self) -> bool {
        self.emergency_limit.load(Relaxed) > 0
    }

    /// Waits until there is room, as [`super::Engine::wait_for_room`] says.
    pub fn wait_for_room(&self) -> Result<()> {
        let mut work = self.work.lock();
        let failures = work.failures;
        while !self.has_room() {
            self.commits.check()?;
            if work.failures > failures {
                return Err(match &work.failure {
                    None => Error::NoSpace,
                    Some(why) => Error::ReadOnly(why.clone()),
                });
            }
            work.checkpoint = true;
            self.work_to_do.notify_one();
            self.room.wait(&mut work);
        }
        Ok(())
    }

    /// Moves everything applied so far into the index.
    pub fn checkpoint(&self, before: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut maintenance = self.maintenance.lock();
        self.commits.check()?;
        let done = self.try_checkpoint(&mut maintenance, before);
        self.aside_bytes.store(maintenance.file_bytes(), Relaxed);
        match done {
            Ok(()) => self.emergency_limit.store(0, Relaxed),
            Err(Error::NoSpace) if !self.is_stuck() => {
                let most = self.table_bytes().max(2 * self.table_limit);
                self.emergency_limit.store(most + self.table_limit / 2, Relaxed);
            }
            Err(_) => {}
        }
        done
    }

    fn try_checkpoint(&self, maintenance: &mut Maintenance, before: &dyn Fn() -> Result<()>) -> Result<()> {
        // One that failed for want of room comes first: it is the older.
        if maintenance.pending.is_some() {
            self.write(maintenance, before)?;
        }
        if self.freeze(maintenance)? {
            self.write(maintenance, before)?;
        }
        Ok(())
    }

    /// Takes the table out and turns the journal to its next file. False when there was nothing to take.
    fn freeze(&self, maintenance: &mut Maintenance) -> Result<bool> {
        let (mut view, mut writer) = loop {
            // An append may take the file before the lock is had: then another is prepared.
            self.reserve.or_release(|| self.prepare(maintenance, 1))?;
            let mut view = self.view.write();
            // Most of it while those who apply go on, then most of what they have added meanwhile.
            self.merge(&mut view);
            self.merge(&mut view);
            let writer = self.writer.lock();
            if !writer.ready.is_empty() {
                break (view, writer);
            }
        };
        self.merge(&mut view);
        if view.table.is_empty() {
            return Ok(false);
        }
        let seq = writer.last();
        let Some((files, file)) = writer.turn() else { return Ok(false) };
        let bytes = view.table.bytes();
        let layers = view.table.freeze();
        view.counted = 0;
        view.frozen = Some(layers.clone());
        // In this order: nobody may find both full for a moment and wait.
        self.active_bytes.store(0, Relaxed);
        self.frozen_bytes.store(bytes, Relaxed);
        maintenance.pending =
            Some(Pending { layers, bytes, reach: Reach { seq, file }, batch: writer.last_batch, files });
        self.aside_bytes.store(maintenance.file_bytes(), Relaxed);
        Ok(true)
    }

    /// Writes the pending checkpoint to the index and shows it to readers.
    fn write(&self, maintenance: &mut Maintenance, before: &dyn Fn() -> Result<()>) -> Result<()> {
        let Some(pending) = &maintenance.pending else { return Ok(()) };
        let begun = Instant::now();
        let entries = pending.layers.iter().map(|layer| layer.len()).sum();
        self.index.check_room(entries, pending.bytes)?;
        self.commits.must("flushing content", before())?;
        let index = self.commits.must("a checkpoint", self.index.commit(&pending.layers, pending.reach))?;
        let (seq, batch) = (pending.reach.seq, pending.batch);
        let dropped = {
            self.writer.lock().set_flushed(seq);
            let mut view = self.view.write();
            index.show();
            view.index = index;
            self.frozen_bytes.store(0, Relaxed);
            view.frozen.take()
        };
        drop(dropped);
        self.commits.set_durable(batch);
        self.checkpoints.fetch_add(1, Relaxed);
        log::debug!("checkpoint of {entries} entries up to record {seq} in {:?}", begun.elapsed());
        if let Some(pending) = maintenance.pending.take() {
            maintenance.retire(pending.files);
        }
        // Taken, so that nobody sleeps through it between asking and waiting.
        drop(self.work.lock());
        self.room.notify_all();
        if let Err(error) = self.reserve.hold() {
            log::debug!("{error}");
        }
        if let Err(error) = self.recycle(maintenance) {
            // The checkpoint itself is done. What is left over is taken up at the next opening.
            log::warn!("recycling the journal's files: {error}");
        }
        Ok(())
    }

    /// Takes the room that is kept for a full disk, and that of the journal's next file.
    fn secure(&self) -> Result<()> {
        let mut maintenance = self.maintenance.lock();
        self.commits.check()?;
        self.reserve.hold()?;
        let prepared = self.prepare(&mut maintenance, 1);
        self.aside_bytes.store(maintenance.file_bytes(), Relaxed);
        prepared
    }

    /// Makes sure that at least `least` files are ready.
    fn prepare(&self, maintenance: &mut Maintenance, least: usize) -> Result<()> {
        while self.writer.lock().ready.len() < least {
            let file = maintenance.prepare(&self.directory)?;
            self.writer.lock().ready.push_back(file);
        }
        self.cramped.store(false, Relaxed);
        Ok(())
    }

    /// Turns files that are needed no longer into prepared ones, and removes those that are too many.
    fn recycle(&self, maintenance: &mut Maintenance) -> Result<()> {
        while !maintenance.retired.is_empty() && self.writer.lock().ready.len() < SPARES {
            let file = maintenance.prepare(&self.directory)?;
            self.writer.lock().ready.push_back(file);
        }
        maintenance.retired.drain(..).try_for_each(|file| self.directory.remove(&file))
    }
}

/// Lets nobody wait for a thread that has panicked.
pub(super) struct Alive<'a>(pub &'a Inner);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.commits.poison("a thread of the catalog has died");
            drop(self.0.work.lock());
            self.0.room.notify_all();
        }
    }
}

/// The background thread.
pub(super) fn run(inner: &Inner) {
    let _alive = Alive(inner);
    loop {
        let checkpoint = {
            let mut work = inner.work.lock();
            while !work.stop && !work.checkpoint && !work.prepare {
                inner.work_to_do.wait(&mut work);
            }
            if work.stop {
                return;
            }
            work.prepare = false;
            std::mem::take(&mut work.checkpoint)
        };
        let result = match checkpoint {
            true => inner.checkpoint(&inner.before_checkpoint),
            false => inner.secure(),
        };
        if let Err(error) = result {
            // What room there is, less than a checkpoint needs, is for those who delete.
            if checkpoint && matches!(error, Error::NoSpace) {
                let _ = inner.secure();
            }
            log::warn!("the catalog's checkpoint or the journal's next file: {error}");
            let mut work = inner.work.lock();
            if checkpoint {
                work.failures += 1;
                work.failure = match error {
                    Error::NoSpace => None,
                    error => Some(error.to_string()),
                };
                inner.room.notify_all();
            }
            // A full disk is asked again after a while, not at every batch.
            let until = Instant::now() + PAUSE;
            while !work.stop && !inner.work_to_do.wait_until(&mut work, until).timed_out() {}
        }
    }
}
