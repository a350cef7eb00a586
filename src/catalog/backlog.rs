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
    changes: Vec<u8>,
    /// Content that is not among them.
    contents: Vec<Placed>,
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
        joined(&self.waiting.changes, &self.waiting.contents)
    }
}

impl Backlog {
    /// An empty one, behind batch `last`. From `many_bytes` on there is work.
    pub fn new(last: u64, many_bytes: usize) -> Backlog {
        Backlog { queue: Mutex::default(), work: Condvar::new(), last: last.into(), many_bytes }
    }

    /// Adds batch `last`, that counts so many bytes. Returns whether there are too many now, and memory that is to be freed
    /// outside of any lock.
    pub fn push(&self, batch: Draft, bytes: usize, last: u64) -> (bool, Option<Vec<u8>>) {
        let mut queue = self.queue.lock();
        let Waiting { changes, contents } = &mut queue.waiting;
        let mut memory = Some(batch.leave(changes, contents));
        if queue.memory.len() < KEPT {
            queue.memory.extend(memory.take_if(|memory| memory.capacity() <= SMALL));
        }
        queue.batches += 1;
        queue.bytes += bytes;
        self.last.store(last, Release);
        let wake = queue.idle && self.has(&queue, 1);
        let too_many = self.has(&queue, TOO_MANY);
        queue.idle &= !wake;
        drop(queue);
        if wake {
            self.work.notify_one();
        }
        (too_many, memory)
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
        let Waiting { mut changes, mut contents } = taken.waiting;
        changes.clear();
        contents.clear();
        if changes.capacity() <= self.many_bytes {
            self.queue.lock().empty = Waiting { changes, contents };
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::Batch;
    use super::super::journal::batch;
    use super::super::table::Held;
    use super::*;

    /// A change: its key, and unless it deletes, how long a head and how long a content it puts, and whether to share it.
    type Step = (Vec<u8>, Option<(usize, usize, bool)>);

    fn step() -> impl Strategy<Value = Step> {
        let put = (0..10_usize, select(vec![0, 1, 255, 256, 1000, 20_000]), any::<bool>());
        (vec(any::<u8>(), 0..40), proptest::option::weighted(0.8, put))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn what_waits_is_what_batches_changed_in_their_order_and_memory_is_kept_within_bounds(
            rounds in vec(vec(vec(step(), 1..8), 0..30), 1..5)
        ) {
            let backlog = Backlog::new(0, 100_000);
            let mut seq = 0;
            for round in rounds {
                let mut expected = Vec::new();
                // Put together at the same time.
                let batches: Vec<_> = round.iter().map(|_| Batch::within(backlog.memory())).collect();
                for (steps, mut changes) in round.into_iter().zip(batches) {
                    for (key, put) in steps {
                        let value = put.map(|(head, len, share)| {
                            let (head, content) = (vec![1; head], Arc::new(vec![len as u8; len]));
                            let value = [&head[..], &content].concat();
                            match share {
                                true => changes.put_content(&key, &head, &content),
                                false => changes.put(&key, &value),
                            }
                            value
                        });
                        if value.is_none() {
                            changes.delete(&key);
                        }
                        expected.push((key, value));
                    }
                    seq += 1;
                    backlog.push(batch(changes).unwrap(), 10, seq);
                }
                prop_assert_eq!(backlog.is_empty(), expected.is_empty());
                let taken = backlog.take();
                prop_assert!(backlog.is_empty());
                prop_assert_eq!((taken.last, backlog.last()), (seq, seq));
                let value = |put: Put<'_>| Held::from(put).bytes().into_owned();
                let found: Vec<_> = taken.changes().map(|(key, put)| (key.to_vec(), put.map(value))).collect();
                prop_assert_eq!(found, expected);
                let used = taken.waiting.changes.capacity();
                backlog.recycle(taken);
                let queue = backlog.queue.lock();
                prop_assert_eq!(queue.empty.changes.capacity(), if used <= 100_000 { used } else { 0 });
                prop_assert!(queue.empty.contents.is_empty() && queue.memory.len() <= KEPT);
                prop_assert!(queue.memory.iter().all(|memory| memory.is_empty() && memory.capacity() <= SMALL));
                prop_assert!(seq == 0 || queue.memory.len() + queue.empty.changes.capacity() > 0);
            }
        }
    }
}
