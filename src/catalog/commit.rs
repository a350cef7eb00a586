//! Group commit: one flush for all that wait, and the end of all writing when a flush fails.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use super::journal;
use super::local::Inner;
use crate::error::{Error, Result};

/// The state of durability.
#[derive(Debug)]
pub(super) struct Commits {
    /// Whether a leader is at work.
    leading: Mutex<bool>,
    done: Condvar,
    /// The newest batch that is durable together with what it refers to.
    durable: AtomicU64,
    flushes: AtomicU64,
    poison: OnceLock<String>,
}

/// Ends the lead, also when `before` panics: the followers choose another leader.
struct Lead<'a>(&'a Commits);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        *self.0.leading.lock() = false;
        self.0.done.notify_all();
    }
}

impl Commits {
    /// Everything up to `durable` is durable.
    pub fn new(durable: u64) -> Commits {
        Commits {
            leading: Mutex::new(false),
            done: Condvar::new(),
            durable: AtomicU64::new(durable),
            flushes: AtomicU64::new(0),
            poison: OnceLock::new(),
        }
    }

    /// The newest durable batch.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Notes that batches up to `seq` are durable.
    pub fn set_durable(&self, seq: u64) {
        self.durable.fetch_max(seq, Ordering::AcqRel);
    }

    /// Flushes issued.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Ends all writing. The first reason stays.
    pub fn poison(&self, why: impl Into<String>) {
        let why = why.into();
        if self.poison.set(why.clone()).is_ok() {
            log::debug!("no more writing: {why}");
        }
    }

    /// Fails with `ReadOnly` when there is no more writing.
    pub fn check(&self) -> Result<()> {
        match self.poison.get() {
            Some(why) => Err(Error::ReadOnly(why.clone())),
            None => Ok(()),
        }
    }

    /// Poisons when a flush has failed: the kernel has then dropped what was not written, and a second
    /// flush that succeeds would prove nothing.
    pub fn must<T>(&self, what: &str, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let why = format!("{what} failed ({error}); check the disk, then unmount and mount again");
            log::error!("{why}");
            self.poison(why.clone());
            match error {
                // Room that comes back does not bring back what the flush has dropped.
                Error::NoSpace => Error::ReadOnly(why),
                error => error,
            }
        })
    }

    /// Makes batches up to `upto` durable, as [`super::Engine::sync`] says.
    pub fn sync(&self, upto: u64, inner: &Inner, before: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut leading = self.leading.lock();
        loop {
            self.check()?;
            if self.durable() >= upto {
                return Ok(());
            }
            if !*leading {
                break;
            }
            self.done.wait(&mut leading);
        }
        *leading = true;
        drop(leading);
        let _lead = Lead(self);
        self.lead(inner, before)
    }

    fn lead(&self, inner: &Inner, before: &dyn Fn() -> Result<()>) -> Result<()> {
        // What is applied from here on may refer to what `before` does not reach.
        let vouched = inner.writer.lock().last_batch;
        self.must("flushing content", before())?;
        let (flushed, files) = {
            let mut writer = inner.writer.lock();
            let seq = inner.append(&mut writer, &mut journal::mark(vouched)?)?;
            (seq, writer.unflushed())
        };
        for file in files {
            self.flushes.fetch_add(1, Ordering::Relaxed);
            let flushed = file
                .file
                .sync()
                .map_err(|source| Error::Io { what: format!("flushing {}", file.path.display()), source });
            self.must("a flush of the journal", flushed)?;
        }
        self.set_durable(vouched);
        let mut writer = inner.writer.lock();
        writer.set_flushed(flushed);
        if writer.last() == flushed {
            self.witness(&mut writer, vouched);
        }
        Ok(())
    }

    /// Notes behind the last record that it is durable, which else only the next record would tell: that a bit of it
    /// has been flipped since could not be told from a flush that never came. Needs no flush itself, and nothing
    /// is lost where it cannot be written.
    fn witness(&self, writer: &mut journal::Writer, vouched: u64) {
        let written = journal::mark(vouched).and_then(|mut mark| writer.append(&mut mark));
        if let Err(error) = written {
            log::debug!("{error}");
        }
        if let Some(why) = &writer.broken {
            self.poison(why);
        }
    }
}
