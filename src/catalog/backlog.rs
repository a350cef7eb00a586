//! Batches that are journalled and not in the table yet.
//!
//! To put a batch in order costs more than to journal it. So whoever applies one leaves its changes here, behind those of
//! others, and a thread of the catalog takes them into the table, many at a time; so does whoever looks into the table
//! meanwhile. The memory in which a batch was put together is used for the next one at once: it is in the processor's caches.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use parking_lot::{Condvar, Mutex};

use super::batch::{Placed, joined};
use super::journal::Draft;
use super::table::Put;

/// Batches for which the thread is woken: waking it costs as much as putting some of them in order.
const MANY: usize = 256;

/// Memory of a batch that is kept for others, at most, bytes, and of how many.
const SMALL: usize = 4 << 10;
const KEPT: usize = 16;

/// How many times that there may be before whoever adds another helps.
const TOO_MANY: usize = 8;

/// The batches that wait.
#[derive(Debug)]
pub(super) struct Backlog {
    queue: Mutex<Queue>,
    /// There is work for the thread.
    work: Condvar,
    /// The newest batch that was ever added. Changes under the lock of the queue.
    last: AtomicU64,
    /// Bytes of batches for which the thread is woken.
    many_bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Waiting,
    /// How many batches that is.
    batches: usize,
    /// Bytes of memory that they will take in the table.
    bytes: usize,
    /// Empty, with the memory of those that were taken last.
    empty: Waiting,
    /// Memory to put batches together in.
    memory: Vec<Vec<u8>>,
    /// Whether the thread waits for work.
    idle: bool,
    stop: bool,
}

/// Changes of batches, in order.
#[derive(Debug, Default)]
struct Waiting {
    /// As batches have them, but for content that is shared.
    changes: Vec<u8>,
    shared: Vec<Placed>,
}

/// What was taken from the backlog.
pub(super) struct Taken {
    waiting: Waiting,
    /// The bytes that the batches were counted with.
    pub bytes: usize,
    /// The newest batch that was ever added.
    pub last: u64,
}

impl Taken {
    /// The changes of the batches, in order.
    pub fn changes(&self) -> impl Iterator<Item = (&[u8], Option<Put<'_>>)> {
        joined(&self.waiting.changes, &self.waiting.shared)
    }
}

impl Backlog {
    /// An empty one, behind batch `last`. From `many_bytes` on there is work.
    pub fn new(last: u64, many_bytes: usize) -> Backlog {
        Backlog { queue: Mutex::default(), work: Condvar::new(), last: last.into(), many_bytes }
    }

    /// Adds batch `last`, that counts so many bytes. Returns whether there are too many now.
    pub fn push(&self, mut batch: Draft, bytes: usize, last: u64) -> bool {
        let mut queue = self.queue.lock();
        let Waiting { changes, shared } = &mut queue.waiting;
        batch.take_changes(changes, shared);
        let memory = batch.into_memory();
        let freed = if memory.capacity() <= SMALL && queue.memory.len() < KEPT {
            queue.memory.push(memory);
            None
        } else {
            Some(memory)
        };
        queue.batches += 1;
        queue.bytes += bytes;
        self.last.store(last, Release);
        let wake = queue.idle && self.has(&queue, 1);
        let too_many = self.has(&queue, TOO_MANY);
        queue.idle &= !wake;
        drop(queue);
        drop(freed);
        if wake {
            self.work.notify_one();
        }
        too_many
    }

    /// Whether there is so many times what the thread is woken for.
    fn has(&self, queue: &Queue, times: usize) -> bool {
        queue.batches >= times * MANY || queue.bytes >= times * self.many_bytes
    }

    /// The newest batch that was ever added.
    pub fn last(&self) -> u64 {
        self.last.load(Acquire)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.queue.lock().batches == 0
    }

    /// Takes all out.
    pub fn take(&self) -> Taken {
        let mut queue = self.queue.lock();
        let empty = std::mem::take(&mut queue.empty);
        let waiting = std::mem::replace(&mut queue.waiting, empty);
        queue.batches = 0;
        Taken { waiting, bytes: std::mem::take(&mut queue.bytes), last: self.last() }
    }

    /// Memory for a batch.
    pub fn memory(&self) -> Vec<u8> {
        self.queue.lock().memory.pop().unwrap_or_default()
    }

    /// Takes back the memory of what is in the table.
    pub fn recycle(&self, taken: Taken) {
        let Waiting { mut changes, mut shared } = taken.waiting;
        changes.clear();
        shared.clear();
        if changes.capacity() <= self.many_bytes {
            // What was there is freed without the lock.
            let waiting = Waiting { changes, shared };
            let _freed = std::mem::replace(&mut self.queue.lock().empty, waiting);
        }
    }

    /// Waits until there is work. False: there will be none any longer.
    pub fn wait(&self) -> bool {
        let mut queue = self.queue.lock();
        while !queue.stop && !self.has(&queue, 1) {
            queue.idle = true;
            self.work.wait(&mut queue);
        }
        queue.idle = false;
        !queue.stop
    }

    /// Ends the waiting.
    pub fn stop(&self) {
        self.queue.lock().stop = true;
        self.work.notify_one();
    }
}
