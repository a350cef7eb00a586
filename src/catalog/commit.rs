//! Group commit: one flush for all that wait, and the end of all writing when a flush fails.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::journal;
use super::local::Inner;
use crate::error::{Error, Result};

/// Those whom a flush had are waited for as long as a fourth of the flush took.
const GATHER: u32 = 4;
/// The longest such wait; and the shortest, as the kernel takes some 50 µs to end a shorter one.
const GATHER_AT_MOST: Duration = Duration::from_millis(5);
const GATHER_AT_LEAST: Duration = Duration::from_micros(50);
/// After so many times in vain a leader waits only every 64th time.
const MOST_IN_VAIN: u32 = 6;

/// The state of durability.
#[derive(Debug)]
pub(super) struct Commits {
    callers: Mutex<Callers>,
    /// A flush is done.
    done: Condvar,
    /// All whom the leader waits for are there.
    came: Condvar,
    /// The newest batch that is durable together with what it refers to.
    durable: AtomicU64,
    flushes: AtomicU64,
    poison: OnceLock<String>,
}

/// Who asks for a flush.
#[derive(Debug)]
struct Callers {
    /// Whether a leader is at work.
    leading: bool,
    /// How many wait for the leader.
    waiting: usize,
    /// How many the last flush had, and those who came meanwhile.
    last: usize,
    /// When the last flush ended, and how long it took.
    ended: Instant,
    took: Duration,
    /// How often in succession not even half of those came whom a leader waited for, and how many leaders do not wait,
    /// because of that.
    in_vain: u32,
    pass_over: u32,
}

impl Callers {
    /// How many of those whom the last flush had are not back, when one of them leads.
    fn missing(&self) -> usize {
        self.last.saturating_sub(self.waiting + 1)
    }
}

/// Ends the lead, also when `before` panics: the followers choose another leader.
struct Lead<'a> {
    commits: &'a Commits,
    began: Instant,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut callers = self.commits.callers.lock();
        callers.leading = false;
        // Who is not served comes again.
        callers.last = 1 + std::mem::take(&mut callers.waiting);
        callers.ended = Instant::now();
        callers.took = callers.ended - self.began;
        self.commits.done.notify_all();
    }
}

impl Commits {
    /// Everything up to `durable` is durable.
    pub fn new(durable: u64) -> Commits {
        Commits {
            callers: Mutex::new(Callers {
                leading: false,
                waiting: 0,
                last: 0,
                ended: Instant::now(),
                took: Duration::ZERO,
                in_vain: 0,
                pass_over: 0,
            }),
            done: Condvar::new(),
            came: Condvar::new(),
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
        let mut callers = self.callers.lock();
        loop {
            self.check()?;
            if self.durable() >= upto {
                return Ok(());
            }
            if !callers.leading {
                break;
            }
            callers.waiting += 1;
            if callers.missing() == 0 {
                self.came.notify_one();
            }
            self.done.wait(&mut callers);
        }
        callers.leading = true;
        self.gather(&mut callers);
        drop(callers);
        let _lead = Lead { commits: self, began: Instant::now() };
        self.lead(inner, before)
    }

    /// Waits a moment for those whom the last flush had: they would else wait for the flush behind this one, and the
    /// callers go in two halves, each of which waits for the other.
    fn gather(&self, callers: &mut MutexGuard<'_, Callers>) {
        let wait = (callers.took / GATHER).min(GATHER_AT_MOST);
        if wait < GATHER_AT_LEAST {
            return;
        }
        if callers.pass_over > 0 {
            callers.pass_over -= 1;
            return;
        }
        let (until, missed) = (callers.ended + wait, callers.missing());
        while callers.missing() > 0 && !self.came.wait_until(callers, until).timed_out() {}
        callers.in_vain =
            if callers.missing() <= missed / 2 { 0 } else { (callers.in_vain + 1).min(MOST_IN_VAIN) };
        callers.pass_over = (1 << callers.in_vain) - 1;
    }

    fn lead(&self, inner: &Inner, before: &dyn Fn() -> Result<()>) -> Result<()> {
        self.check()?;
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
        // A catalog that has been closed meanwhile writes nothing: another may have the journal.
        if self.check().is_err() {
            return;
        }
        let written = journal::mark(vouched).and_then(|mut mark| writer.append(&mut mark));
        if let Err(error) = written {
            log::debug!("{error}");
        }
        if let Some(why) = &writer.broken {
            self.poison(why);
        }
    }
}
