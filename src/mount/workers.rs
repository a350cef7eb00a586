//! Threads for the requests that wait: for the disk, for room in the cache, for a flush.
//!
//! The queue has no limit of its own and needs none: a request waits here only while its caller, or
//! the kernel on its behalf, waits for the answer. Callers are threads, at most one request each; the
//! kernel's own readahead and asynchronous direct I/O is held to `max_background`
//! ([`super::adapter::MAX_BACKGROUND`]). A queued write owns a copy of its data, at most 1 MiB.

use crossbeam_channel::{Receiver, Sender};

/// How many requests may wait at once. Plain blocking threads: a disk with one queue is kept busy by
/// fewer, and fsync's group commit wants several callers at once to share a flush.
const WORKERS: usize = 8;

/// What a worker does: it owns all it needs, the reply included.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// The pool. Its threads end when it is dropped and the queue is empty.
pub(super) struct Workers {
    jobs: Option<Sender<Job>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts the threads, which are numbered behind `name`.
    pub(super) fn start(name: &str) -> std::io::Result<Workers> {
        let (jobs, queue) = crossbeam_channel::unbounded::<Job>();
        let mut threads = Vec::with_capacity(WORKERS);
        for n in 0..WORKERS {
            let queue = queue.clone();
            let name = format!("{name}-{n}");
            threads.push(std::thread::Builder::new().name(name).spawn(move || work(&queue))?);
        }
        Ok(Workers { jobs: Some(jobs), threads })
    }

    /// Hands a job to whichever worker is free first.
    pub(super) fn run(&self, job: Job) {
        if let Some(jobs) = &self.jobs
            && let Err(unsent) = jobs.send(job)
        {
            // No worker is left. Better slow than unanswered.
            (unsent.0)();
        }
    }
}

impl Drop for Workers {
    /// Lets the queued jobs finish.
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // Jobs catch their own panics; there is nothing to learn from the result.
            let _ = thread.join();
        }
    }
}

fn work(queue: &Receiver<Job>) {
    for job in queue {
        job();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queued_jobs_are_finished_before_the_pool_is_gone() {
        let (done, results) = crossbeam_channel::unbounded();
        let workers = Workers::start("request").unwrap();
        for n in 0..100 {
            let done = done.clone();
            workers.run(Box::new(move || done.send(n).unwrap()));
        }
        drop(workers);
        let mut all: Vec<i32> = results.try_iter().collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }
}
