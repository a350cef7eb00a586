//! `fuser::Filesystem` on a volume: each request is taken apart, asked of the volume and answered.
//!
//! Requests for which everything is in memory are answered on the thread that reads them, without an
//! allocation. When the volume says that it would have to wait, the request's data, which lies in the
//! reader's buffer, is copied and a worker goes on with it ([`Adapter::answer`]).
//!
//! What is answered with ENOSYS, once, and is then no longer sent by the kernel: OPEN and RELEASE (files
//! keep their pages cached), OPENDIR and RELEASEDIR (listings are cached; the kernel drops one when the
//! directory changes), FLUSH, ACCESS (`default_permissions`), and whatever fuser answers so by itself.
//! SETATTR: fuser drops FATTR_KILL_SUIDGID, so the volume gets the caller and clears suid and sgid at a
//! truncation or chown by anyone but root. Likewise the kernel's wish to clear sgid when an ACL is set.

use std::any::Any;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fuser::{
    Errno, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use super::convert::{self, GENERATION, attr_ttl, attributes};
use super::counters::Request;
use super::errno;
use super::figures::Mounted;
use super::kernel::Kernel;
use super::own::Own;
use super::workers::Workers;
use crate::error::{Error, Result};
use crate::format::Ino;
use crate::volume::{DirEntry, Pause, Step, Volume};

/// The kernel's side of a volume.
pub(super) struct Adapter {
    pub(super) volume: Arc<Volume>,
    workers: Workers,
    /// For what brings content, and may wait for room: all of these may, and the kernel may have to be answered something
    /// else before there is some.
    writers: Workers,
    pub(super) mounted: Mounted,
    pub(super) own: Arc<Own>,
    pub(super) kernel: Kernel,
}

/// A reply that can say that the request failed.
pub(super) trait Reply: Send + 'static {
    fn fail(self, errno: Errno);
}

macro_rules! replies {
    ($($reply:ty),* $(,)?) => { $(impl Reply for $reply {
        fn fail(self, errno: Errno) {
            self.error(errno);
        }
    })* };
}

replies!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr,
);

/// Runs an operation. One that panics fails with `Damaged`, so that its caller gets EIO and the mount
/// lives on; the log has what and where. Costs nothing where nothing panics.
pub(super) fn guarded<T>(operation: impl FnOnce() -> Step<T>) -> Step<T> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|panic| Err(Pause::Fail(panicked(&*panic))))
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::Damaged(format!("the request panicked: {}", text.unwrap_or("no message")))
}

/// [`guarded`] for an operation that has waited.
pub(super) fn guarded_wait<T>(operation: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// Answers with the outcome of an operation that is through.
fn finish<T, R: Reply>(request: Request, outcome: Result<T>, reply: R, done: impl FnOnce(R, T)) {
    match outcome {
        Ok(value) => done(reply, value),
        Err(error) => reply.fail(errno::report(request.name(), &error)),
    }
}

impl Adapter {
    pub(super) fn new(volume: Arc<Volume>, mounted: Mounted) -> std::io::Result<Adapter> {
        let (workers, writers) = (Workers::start("request")?, Workers::start("write")?);
        let own = Arc::new(Own::new(volume.now()));
        Ok(Adapter { volume, workers, writers, mounted, own, kernel: Kernel::default() })
    }

    /// Asks the volume and answers, here when nothing must be waited for, else from a worker.
    /// `data` is what the request brought in the reader's buffer: it is copied only for a worker, and
    /// `operation` gets it from wherever it lies; everything else `operation` owns.
    pub(super) fn answer<T, R: Reply, const N: usize>(
        &self,
        request: Request,
        data: [&[u8]; N],
        reply: R,
        done: impl FnOnce(R, T) + Send + 'static,
        operation: impl Fn(&Volume, [&[u8]; N]) -> Step<T> + Send + 'static,
    ) {
        self.count(request);
        match guarded(|| operation(&self.volume, data)) {
            Ok(value) => done(reply, value),
            Err(Pause::Fail(error)) => reply.fail(errno::report(request.name(), &error)),
            Err(Pause::Wait(_)) => {
                let data = data.map(Box::<[u8]>::from);
                self.wait(request, reply, done, move |volume| {
                    volume.run(|volume| operation(volume, data.each_ref().map(|bytes| &**bytes)))
                });
            }
        }
    }

    /// Lets a worker run an operation that waits, and answer.
    pub(super) fn wait<T, R: Reply>(
        &self,
        request: Request,
        reply: R,
        done: impl FnOnce(R, T) + Send + 'static,
        operation: impl FnOnce(&Volume) -> Result<T> + Send + 'static,
    ) {
        let volume = Arc::clone(&self.volume);
        let workers = match request {
            Request::Write | Request::FAllocate | Request::CopyFileRange => &self.writers,
            _ => &self.workers,
        };
        workers.run(Box::new(move || {
            finish(request, guarded_wait(|| operation(&volume)), reply, done);
        }));
    }

    /// Counts a request.
    pub(super) fn count(&self, request: Request) {
        self.mounted.counters.count(request);
    }

    /// Lists a directory. What was put into the reply stays there: when the volume has to wait after
    /// some entries, these are the answer.
    pub(super) fn list<R: Listing>(&self, request: Request, dir: Ino, after: u64, mut reply: R) {
        self.count(request);
        let mut place = after;
        match guarded(|| fill(&self.volume, dir, &mut place, &mut reply)) {
            Err(Pause::Fail(error)) if place == after => {
                reply.fail(errno::report(request.name(), &error));
            }
            Err(Pause::Wait(_)) if place == after => {
                let volume = Arc::clone(&self.volume);
                self.workers.run(Box::new(move || {
                    let outcome = guarded_wait(|| {
                        volume.run(|volume| match fill(volume, dir, &mut place, &mut reply) {
                            Err(Pause::Wait(_)) if place != after => Ok(()),
                            step => step,
                        })
                    });
                    match outcome {
                        Err(error) if place == after => reply.fail(errno::report(request.name(), &error)),
                        _ => reply.send(),
                    }
                }));
            }
            // An error behind entries comes back when the kernel asks for those that follow.
            _ => reply.send(),
        }
    }
}

/// The two forms of a directory's listing.
pub(super) trait Listing: Reply {
    /// Whether the entries carry attributes, and references to their inodes.
    const ATTRIBUTES: bool;
    /// Puts an entry in; false when there is no room for it.
    fn put(&mut self, entry: &DirEntry<'_>) -> bool;
    fn send(self);
}

impl Listing for ReplyDirectory {
    const ATTRIBUTES: bool = false;

    fn put(&mut self, entry: &DirEntry<'_>) -> bool {
        let kind = convert::file_type(entry.kind);
        !self.add(INodeNo(entry.ino.0), entry.cookie, kind, OsStr::from_bytes(entry.name))
    }

    fn send(self) {
        self.ok();
    }
}

impl Listing for ReplyDirectoryPlus {
    const ATTRIBUTES: bool = true;

    fn put(&mut self, entry: &DirEntry<'_>) -> bool {
        // Only `.` and `..` come without; of these the kernel takes number and type and no more.
        // fuser has one time here for the name and the attributes: the shorter one.
        let (ttl, attr) = match &entry.entry {
            Some(known) => (attr_ttl(known), attributes(&known.attr)),
            None => (std::time::Duration::ZERO, convert::no_attributes(entry.ino, entry.kind)),
        };
        !self.add(attr.ino, entry.cookie, OsStr::from_bytes(entry.name), &ttl, &attr, GENERATION)
    }

    fn send(self) {
        self.ok();
    }
}

/// Puts the entries behind `place` into a reply until it is full, moving `place` along.
fn fill<R: Listing>(volume: &Volume, dir: Ino, place: &mut u64, reply: &mut R) -> Step<()> {
    volume.readdir(dir, *place, R::ATTRIBUTES, &mut |entry| {
        if !reply.put(&entry) {
            return false;
        }
        *place = entry.cookie;
        true
    })
}
