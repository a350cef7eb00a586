//! Batches that are journalled and not in the table yet.
//!
//! To put a batch in order costs more than to journal it. So whoever applies one leaves it here, and a thread of the
//! catalog takes them into the table, some at a time; so does whoever looks into the table meanwhile.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use parking_lot::{Condvar, Mutex};

use super::journal::Draft;

/// Batches for which the thread is woken: waking it costs as much as putting some of them in order.
const MANY: usize = 256;

/// Memory of a batch that is kept for others, at most, bytes.
const SMALL: usize = 4 << 10;

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

#[derive(Debug)]
struct Queue {
    batches: Vec<Draft>,
    /// Memory of batches that are through, for those to come: it is in the processor's caches, and no other thread's.
    spare: Vec<Vec<u8>>,
    /// Bytes of memory that they will take in the table, and take here.
    bytes: usize,
    /// Whether the thread waits for work.
    idle: bool,
    stop: bool,
}

/// What was taken from the backlog.
pub(super) struct Taken {
    /// The batches, in order.
    pub batches: Vec<Draft>,
    /// The bytes that they were counted with.
    pub bytes: usize,
    /// The newest batch that was ever added.
    pub last: u64,
}

impl Backlog {
    /// An empty one, behind batch `last`. From `many_bytes` on there is work.
    pub fn new(last: u64, many_bytes: usize) -> Backlog {
        let queue = Queue { batches: Vec::new(), spare: Vec::new(), bytes: 0, idle: false, stop: false };
        Backlog { queue: Mutex::new(queue), work: Condvar::new(), last: last.into(), many_bytes }
    }

    /// Adds batch `last`, that counts so many bytes. Returns whether there are too many now.
    pub fn push(&self, batch: Draft, bytes: usize, last: u64) -> bool {
        let mut queue = self.queue.lock();
        queue.batches.push(batch);
        queue.bytes += bytes;
        self.last.store(last, Release);
        let wake = queue.idle && self.has(&queue, 1);
        let too_many = self.has(&queue, TOO_MANY);
        queue.idle &= !wake;
        drop(queue);
        if wake {
            self.work.notify_one();
        }
        too_many
    }

    /// Whether there is so many times what the thread is woken for.
    fn has(&self, queue: &Queue, times: usize) -> bool {
        queue.batches.len() >= times * MANY || queue.bytes >= times * self.many_bytes
    }

    /// The newest batch that was ever added.
    pub fn last(&self) -> u64 {
        self.last.load(Acquire)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.queue.lock().batches.is_empty()
    }

    /// Takes all out.
    pub fn take(&self) -> Taken {
        let mut queue = self.queue.lock();
        let batches = std::mem::take(&mut queue.batches);
        Taken { batches, bytes: std::mem::take(&mut queue.bytes), last: self.last() }
    }

    /// Memory for a batch.
    pub fn memory(&self) -> Vec<u8> {
        self.queue.lock().spare.pop().unwrap_or_default()
    }

    /// Takes back the memory of batches that are in the table.
    pub fn recycle(&self, batches: Vec<Draft>) {
        let mut memory: Vec<Vec<u8>> = batches.into_iter().map(Draft::into_memory).collect();
        memory.retain(|memory| memory.capacity() <= SMALL);
        // Whoever applies a batch waits for this lock: what is too much is freed without it.
        let mut queue = self.queue.lock();
        let missing = (self.many_bytes / SMALL).min(MANY).saturating_sub(queue.spare.len());
        let kept = memory.len() - missing.min(memory.len());
        queue.spare.extend(memory.drain(kept..));
        drop(queue);
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
