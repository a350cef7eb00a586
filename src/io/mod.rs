//! The one place that touches the store's files. Everything below a store directory goes through
//! [`Io`], so that tests can put a faulty disk in its place.

#[cfg(feature = "testing")]
pub mod faulty;
mod overlay;
mod real;

use std::io::Result;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use overlay::Overlay;
pub use real::RealDisk;

/// A disk: the real one, or a faulty one in tests. Errors are the system's own.
pub trait Io: Send + Sync + std::fmt::Debug + 'static {
    /// Opens a file for reading and writing; `create` makes it when it is missing.
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn File>>;
    /// Makes a file that is not there yet, for reading and writing.
    /// Errors: `AlreadyExists`, also where a symbolic link lies there: none is followed.
    fn create_new(&self, path: &Path) -> Result<Arc<dyn File>> {
        match self.open(path, false) {
            Ok(_) => Err(std::io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.open(path, true),
            Err(error) => Err(error),
        }
    }
    /// Opens a file that is only read: that it may be written to is not asked for.
    fn open_read(&self, path: &Path) -> Result<Arc<dyn File>> {
        self.open(path, false)
    }
    /// Makes a directory and its parents. Existing ones are fine.
    fn create_dir_all(&self, path: &Path) -> Result<()>;
    /// The paths in a directory, in no order.
    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>>;
    /// Renames a file, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> Result<()>;
    /// Room on the filesystem that holds `path`.
    fn room(&self, path: &Path) -> Result<Room>;
    /// Takes the exclusive lock on a file, which is made when missing; `None` when another has it.
    fn lock(&self, path: &Path) -> Result<Option<Lock>>;
    /// A number to tell stores apart.
    fn new_id(&self) -> u64;
}

/// A held lock; dropping it gives it back.
pub type Lock = Box<dyn std::any::Any + Send>;

/// An open file. All methods take the place to work at, so that threads can share it.
#[expect(clippy::len_without_is_empty, reason = "nobody asks a file whether it is empty")]
pub trait File: Send + Sync + std::fmt::Debug {
    /// Fills `buf` from `offset`; fewer bytes only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes all of `buf` at `offset`.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()>;
    /// Length in bytes.
    fn len(&self) -> Result<u64>;
    /// Cuts or extends with zeros.
    fn set_len(&self, len: u64) -> Result<()>;
    /// Bytes that the file takes on the disk.
    fn allocated(&self) -> Result<u64>;
    /// Reserves room on the disk for a range, extending the file.
    fn allocate(&self, offset: u64, len: u64) -> Result<()>;
    /// Gives the range back to the disk; it reads as zeros. The length stays.
    fn punch(&self, offset: u64, len: u64) -> Result<()>;
    /// Makes content and length durable (fdatasync).
    fn sync(&self) -> Result<()>;
    /// Tells that this range will be read soon. A hint: errors are swallowed.
    fn will_need(&self, offset: u64, len: u64);
    /// Lets the system forget what it keeps of the file in memory and has written, so that reads tell what is on the
    /// disk: after a failed flush the two may differ. A hint: errors are swallowed.
    fn drop_cached(&self);
}

/// Room on a filesystem, bytes and files.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that may still be used.
    pub available: u64,
    /// Files that may still be made.
    pub files: u64,
}
