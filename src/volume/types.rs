//! The plain values that go into and come out of a volume's operations.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::error::Error;
use crate::format::{Ino, Kind, Name, PageNo};

/// Why an operation did not finish.
#[derive(Debug)]
pub enum Pause {
    /// It failed.
    Fail(Error),
    /// It would have to wait for this, and has changed nothing.
    Wait(Need),
}

/// What an operation that must not wait came back with.
pub type Step<T> = Result<T, Pause>;

/// What an operation needs before it can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// An inode in memory.
    Inode(Ino),
    /// A directory's entries in memory, or at least the one with this name.
    Entry(Ino, Name),
    /// A directory's entries in memory behind this cookie.
    Entries(Ino, u64),
    /// An inode's extended attributes in memory.
    Attributes(Ino),
    /// An inode's record of use in memory.
    Use(Ino),
    /// A page in memory.
    Page(Ino, PageNo),
    /// The page records of an inode in memory, of the pages from the first to before the second.
    Extents(Ino, PageNo, PageNo),
    /// The keys that have expired swept away.
    Sweep,
    /// This one of them, ahead of all others.
    Expired(Ino),
    /// Room in the page cache for so many bytes.
    Memory(usize),
    /// Room on the disk for so many bytes.
    Disk(u64),
    /// Room in the catalog's table.
    Catalog,
    /// A file's dirty pages on their way to the disk.
    Flushed(Ino),
    /// Those of all files below this directory.
    Stored(Ino),
    /// What is below a directory counted, as it gets a limit.
    Quota(Ino),
    /// What was removed with its directory gone, as far as it counts towards the limit of this one.
    Emptied(Ino),
}

/// Who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Filesystem user id.
    pub uid: u32,
    /// Filesystem group id.
    pub gid: u32,
    /// Process id, to find further groups; 0 when unknown.
    pub pid: u32,
    /// Permission bits that new files do not get.
    pub umask: u32,
}

/// What stat(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "stat(2) says it")]
pub struct Attr {
    pub ino: Ino,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// 512-byte units on disk.
    pub blocks: u64,
    /// The page size: the best unit of I/O, bytes.
    pub blksize: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
}

impl Attr {
    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        Kind::of_mode(self.mode) == Kind::File
    }
}

/// Attributes, and how long they may be relied upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The attributes.
    pub attr: Attr,
    /// The time until the key expires, or until its use would be seen no more; `None`: it stays until a notification.
    pub valid: Option<Duration>,
    /// Whether the attributes will soon change by themselves: the size on disk, once dirty pages are flushed.
    pub settling: bool,
}

/// A changed attribute of [`SetAttr`] that is a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the change.
    Now,
    /// This time.
    At(Time),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "stat(2) says it")]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    pub ctime: Option<Time>,
}

/// How a rename treats what is at the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// Replaces it.
    Replace,
    /// Fails with `Exists`.
    NoReplace,
    /// Swaps the two.
    Exchange,
    /// Replaces it, or where not `replace` fails with `Exists`; the old name becomes a whiteout of the caller's, the character
    /// device 0:0 with which an overlay filesystem hides a name of its lower layers.
    Whiteout {
        /// Whose the whiteout is.
        caller: Caller,
        /// Whether what is at the new name is replaced.
        replace: bool,
    },
}

/// An entry of a directory as it is listed.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// The inode.
    pub ino: Ino,
    /// The name.
    pub name: &'a [u8],
    /// The kind of file.
    pub kind: Kind,
    /// Where the listing goes on behind this entry; never 0.
    pub cookie: u64,
    /// The attributes, when asked for; none for `.` and `..`.
    pub entry: Option<Entry>,
}

/// What statfs(2) shows.
#[derive(Clone, Copy, Debug)]
pub struct StatFs {
    /// Bytes of the store's limit or its disk.
    pub total: u64,
    /// Bytes still free.
    pub free: u64,
    /// Inodes in use.
    pub files: u64,
    /// Inodes still free.
    pub files_free: u64,
}

/// A change that a cache above the volume must be told of.
#[derive(Clone, Debug)]
pub enum Event {
    /// A name is gone, or names something else.
    Entry {
        /// The directory.
        dir: Ino,
        /// The name.
        name: Name,
    },
    /// An inode's attributes or content have changed.
    Inode(Ino),
    /// Its attributes alone.
    Attributes(Ino),
    /// Somebody waits until all events before this one have been passed on.
    Barrier(std::sync::mpsc::Sender<()>),
}

/// Figures for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Inodes, the root included.
    pub inodes: u64,
    /// Bytes of content of all files.
    pub content_bytes: u64,
    /// Bytes of frames on disk that hold it.
    pub stored_bytes: u64,
    /// Bytes that the store takes on disk: segments, index and journal.
    pub disk_bytes: u64,
    /// The limit on that, when one is set.
    pub size_limit: Option<u64>,
    /// Bytes of memory in use for pages and metadata.
    pub cache_used: u64,
    /// Bytes of pages among these that are not yet on the disk.
    pub cache_dirty: u64,
    /// The limit that is set for both.
    pub cache_limit: u64,
    /// Page reads answered from memory.
    pub cache_hits: u64,
    /// Page reads that were not.
    pub cache_misses: u64,
    /// Journal batches since mount.
    pub batches: u64,
    /// Device flushes since mount.
    pub flushes: u64,
    /// Why the store is read-only, when it is.
    pub read_only: Option<String>,
}
