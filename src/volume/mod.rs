//! The tree: inodes, directories, links, attributes and content, on top of catalog, pages and cache.
//! It knows no transport: the kernel's requests, the library and the socket all call the same operations.
//!
//! **Waiting.** An operation works on what is in memory. Where it would have to wait for the disk it
//! changes nothing and returns [`Pause::Wait`] with what it needs; whoever may wait calls
//! [`Volume::satisfy`] and then the operation again, which [`Volume::run`] does in a loop.

mod types;

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::format::Ino;
use crate::io::Io;

pub use types::*;

/// An open store.
pub struct Volume {}

#[expect(unused_variables, clippy::todo, missing_docs, reason = "to be written")]
impl Volume {
    /// Opens the store at `settings.storage_path`, making a new one when the directory is missing or empty.
    /// Takes the store's lock, replays the journal, starts the background threads.
    pub fn open(settings: Settings, io: Arc<dyn Io>, clock: Clock) -> Result<Arc<Volume>> {
        todo!()
    }

    /// Makes everything durable, stops the threads and gives the lock back.
    pub fn close(&self) -> Result<()> {
        todo!()
    }

    /// Where the volume tells of changes that a cache above it has not seen. Called from background
    /// threads and never under a lock.
    pub fn on_event(&self, listener: Box<dyn Fn(Event) + Send + Sync>) {
        todo!()
    }

    /// Waits for what an operation needs.
    pub fn satisfy(&self, need: Need) -> Result<()> {
        todo!()
    }

    /// Runs an operation to its end, waiting where it must.
    pub fn run<T>(&self, mut operation: impl FnMut(&Volume) -> Step<T>) -> Result<T> {
        loop {
            match operation(self) {
                Ok(value) => return Ok(value),
                Err(Pause::Fail(error)) => return Err(error),
                Err(Pause::Wait(need)) => self.satisfy(need)?,
            }
        }
    }

    /// Finds a name and takes a reference to what it names, which [`Volume::forget`] gives back.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Step<Entry> {
        todo!()
    }

    /// Gives back `count` references. An unlinked inode is reclaimed with its last one.
    pub fn forget(&self, ino: Ino, count: u64) {
        todo!()
    }

    pub fn getattr(&self, ino: Ino) -> Step<Entry> {
        todo!()
    }
    /// Permission to make the change has been checked by the caller (`default_permissions`);
    /// side effects (suid clearing, ctime) happen here.
    pub fn setattr(&self, caller: &Caller, ino: Ino, change: &SetAttr) -> Step<Entry> {
        todo!()
    }
    pub fn readlink(&self, ino: Ino) -> Step<Vec<u8>> {
        todo!()
    }
    /// Makes a file of any kind but directory and symlink (`mode` has the type bits) and takes a reference.
    /// The umask of `caller` is applied here, unless the directory has a default ACL.
    pub fn mknod(&self, caller: &Caller, dir: Ino, name: &[u8], mode: u32, rdev: u32) -> Step<Entry> {
        todo!()
    }
    pub fn mkdir(&self, caller: &Caller, dir: Ino, name: &[u8], mode: u32) -> Step<Entry> {
        todo!()
    }
    pub fn symlink(&self, caller: &Caller, dir: Ino, name: &[u8], target: &[u8]) -> Step<Entry> {
        todo!()
    }
    /// A further name for an inode; takes a reference.
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Step<Entry> {
        todo!()
    }
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Step<()> {
        todo!()
    }
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Step<()> {
        todo!()
    }
    pub fn rename(&self, dir: Ino, name: &[u8], new_dir: Ino, new_name: &[u8], how: Rename) -> Step<()> {
        todo!()
    }
    /// Calls `visit` with the entries behind the cookie `after` (0: from the start) until it returns
    /// false; an entry for which it returned false is not consumed. `.` and `..` come first.
    /// With `attributes` each entry but these two carries its attributes; call
    /// [`Volume::retain`] for each of those that was handed out.
    pub fn readdir(
        &self,
        dir: Ino,
        after: u64,
        attributes: bool,
        visit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Step<()> {
        todo!()
    }
    /// Takes a reference to an inode that was handed out by [`Volume::readdir`].
    pub fn retain(&self, ino: Ino) {
        todo!()
    }

    /// Appends up to `size` bytes from `offset` to `out`; fewer only at the end of the file.
    /// Returns [`Need::Blocking`] when a page is not in memory: then call [`Volume::read_blocking`].
    pub fn read(&self, ino: Ino, offset: u64, size: u32, out: &mut Vec<u8>) -> Step<()> {
        todo!()
    }
    /// [`Volume::read`] that waits.
    pub fn read_blocking(&self, ino: Ino, offset: u64, size: u32, out: &mut Vec<u8>) -> Result<()> {
        todo!()
    }
    /// Writes at `offset`. On `Wait`, a part may have been written already; repeating it is harmless.
    /// `clear_suid`: suid and sgid bits must be cleared (the kernel tells).
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8], clear_suid: bool) -> Step<()> {
        todo!()
    }
    /// Makes the file (or directory) durable. Waits.
    pub fn fsync(&self, ino: Ino, data_only: bool) -> Result<()> {
        todo!()
    }
    /// Makes everything durable. Waits.
    pub fn sync(&self) -> Result<()> {
        todo!()
    }
    /// As fallocate(2). `mode` has the `FALLOC_FL_*` bits; unsupported ones are `NotSupported`.
    pub fn fallocate(&self, ino: Ino, offset: u64, len: u64, mode: i32) -> Step<()> {
        todo!()
    }
    /// As lseek(2) with `SEEK_HOLE` or `SEEK_DATA`. Waits.
    pub fn seek(&self, ino: Ino, offset: u64, hole: bool) -> Result<u64> {
        todo!()
    }
    /// As copy_file_range(2); whole pages are shared, not copied. Returns the bytes copied. Waits.
    pub fn copy_range(&self, from: Ino, offset_from: u64, to: Ino, offset_to: u64, len: u64) -> Result<u64> {
        todo!()
    }

    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Step<Vec<u8>> {
        todo!()
    }
    /// `flags` as setxattr(2): `XATTR_CREATE`, `XATTR_REPLACE`.
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Step<()> {
        todo!()
    }
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Step<()> {
        todo!()
    }
    /// The names, each with a NUL behind it.
    pub fn listxattr(&self, ino: Ino) -> Step<Vec<u8>> {
        todo!()
    }

    pub fn statfs(&self) -> StatFs {
        todo!()
    }
    /// Figures for `status`.
    pub fn stats(&self) -> Stats {
        todo!()
    }
    /// Why the store is read-only, when it is.
    pub fn read_only(&self) -> Option<String> {
        todo!()
    }
}

impl From<Error> for Pause {
    fn from(error: Error) -> Pause {
        Pause::Fail(error)
    }
}
