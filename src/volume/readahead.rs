//! Readahead: who reads a file from front to back finds the next pages in memory.
//!
//! The kernel reads ahead into its own cache; this keeps it supplied, so that reading from the disk
//! and decompressing go on while the last answer is copied. One thread, a short queue: when it is full,
//! the reader is not slower for it than without.

use crossbeam_channel::{Receiver, Sender};

use super::Volume;
use crate::cache::{Access, PageId};
use crate::format::{Ino, PageNo};

/// Bytes that are read ahead of a sequential reader: one of the kernel's largest requests.
const AHEAD: u64 = 1 << 20;

/// Readers that are served at once.
const QUEUE: usize = 16;

/// Pages of a file to be read: the first, and how many.
type Job = (Ino, PageNo, u32);

/// The queue of pages to be read ahead.
#[derive(Debug)]
pub(super) struct Readahead {
    jobs: Sender<Job>,
    queue: Receiver<Job>,
}

impl Default for Readahead {
    fn default() -> Readahead {
        let (jobs, queue) = crossbeam_channel::bounded(QUEUE);
        Readahead { jobs, queue }
    }
}

impl Volume {
    /// Notes that a file was read up to `end`; when it was read from where the last read ended, the
    /// pages behind are read ahead.
    pub(super) fn note_read(&self, ino: Ino, offset: u64, end: u64) {
        let (sequential, shift, size) = {
            let mut tree = self.tree.lock();
            let Ok(inode) = tree.file(ino) else { return };
            let sequential = inode.next_read == offset && offset > 0;
            inode.next_read = end;
            (sequential, inode.rec.page_shift, inode.rec.size)
        };
        if !sequential || end >= size {
            return;
        }
        let first = PageNo((end >> shift) as u32);
        let last = (end + AHEAD).min(size).div_ceil(1 << shift) as u32;
        if last > first.0 && !self.cache.contains(PageId { ino, no: PageNo(last - 1) }) {
            // A full queue means that the readers in it are not yet served: this one reads for itself.
            let _ = self.readahead.jobs.try_send((ino, first, last - first.0));
        }
    }

    /// The life of the readahead thread.
    pub(super) fn read_ahead(&self) {
        while !self.stopping() {
            let Ok((ino, first, count)) = self.readahead.queue.recv_timeout(super::IDLE) else { continue };
            for no in (first.0..first.0 + count).map(PageNo) {
                if self.cache.contains(PageId { ino, no }) {
                    continue;
                }
                if let Err(error) = self.load_page(ino, no, Access::Sequential) {
                    // The reader will meet it, too, and say so.
                    log::debug!("reading ahead: {error}");
                    break;
                }
            }
        }
    }
}
