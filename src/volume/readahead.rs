//! Readahead: who reads a file from front to back finds the next pages in memory, and who reads a
//! directory's small files in the order in which they are listed finds the next files.
//!
//! The kernel reads ahead within a file, into its own cache; this keeps it supplied, so that reading from
//! the disk and decompressing go on while the last answer is copied. It does not read ahead from file to
//! file: there each file would cost a way to a worker and back, which over processors is most of a cold
//! read. One thread, a short queue: when it is full, the reader is not slower for it than without.

use crossbeam_channel::{Receiver, Sender};

use super::Volume;
use crate::cache::{Access, PageId};
use crate::format::{Ino, PageNo};

/// Bytes that are read ahead of a sequential reader: one of the kernel's largest requests.
const AHEAD: u64 = 1 << 20;

/// Readers that are served at once.
const QUEUE: usize = 16;

/// Small files that are read ahead of who reads a directory.
const FILES: usize = 32;

/// Pages to be read.
#[derive(Debug)]
enum Job {
    /// So many of a file, from this one on.
    Pages(Ino, PageNo, u32),
    /// The first of each of these files.
    Files(Vec<Ino>),
}

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
            let (shift, size) = (inode.rec.page_shift, inode.rec.size);
            if size <= 1 << shift {
                let next = tree.listed_behind(ino, FILES);
                drop(tree);
                self.read_files_ahead(next);
                return;
            }
            (sequential, shift, size)
        };
        if !sequential || end >= size {
            return;
        }
        let first = PageNo((end >> shift) as u32);
        let last = (end + AHEAD).min(size).div_ceil(1 << shift) as u32;
        if last > first.0 && !self.cache.contains(PageId { ino, no: PageNo(last - 1) }) {
            // A full queue means that the readers in it are not yet served: this one reads for itself.
            let _ = self.readahead.jobs.try_send(Job::Pages(ino, first, last - first.0));
        }
    }

    fn read_files_ahead(&self, mut files: Vec<Ino>) {
        files.retain(|ino| !self.cache.contains(PageId { ino: *ino, no: PageNo(0) }));
        if !files.is_empty() {
            let _ = self.readahead.jobs.try_send(Job::Files(files));
        }
    }

    /// The life of the readahead thread.
    pub(super) fn read_ahead(&self) {
        while !self.stopping() {
            let Ok(job) = self.readahead.queue.recv_timeout(super::IDLE) else { continue };
            let pages: Vec<PageId> = match job {
                Job::Pages(ino, first, count) => {
                    (first.0..first.0 + count).map(|no| PageId { ino, no: PageNo(no) }).collect()
                }
                Job::Files(files) => files.into_iter().map(|ino| PageId { ino, no: PageNo(0) }).collect(),
            };
            for PageId { ino, no } in pages {
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
