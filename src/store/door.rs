//! What both doors to a store offer: one to a volume that this process has open, one to a mounted store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::mounted::{self, Mounted};
use super::opened::{self, Opened};
use super::{Key, KeyLock};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::format::Kind;
use crate::volume::{Aligned, Change, Chores, Cleaned, NewFile, Place, Scrubbed, Stats};

/// An entry of a directory.
#[derive(Debug)]
pub(super) struct Node {
    pub name: Box<[u8]>,
    pub kind: Kind,
}

/// What a path names.
#[derive(Debug)]
pub(super) struct Status {
    pub kind: Kind,
    pub size: u64,
    pub mtime: Time,
    /// log2 of the page size.
    pub page_shift: u32,
}

/// A way to a store.
#[derive(Clone, Debug)]
pub(super) enum Door {
    Opened(Arc<Opened>),
    Mounted(Arc<Mounted>),
}

/// An open file of a store.
#[derive(Debug)]
pub(super) enum Source {
    Opened(opened::Held),
    Mounted(mounted::Opened),
}

/// The error for a key that names a symbolic link, a device or the like.
pub(super) fn no_file() -> Error {
    Error::Invalid("it is no regular file, so it has no content".into())
}

/// Bytes that are read at a time.
const PART: u32 = 1 << 20;

/// All that a file has. `read_at` appends up to so many bytes from an offset; fewer only at the end.
pub(super) fn whole(read_at: impl Fn(u64, u32, &mut Vec<u8>) -> Result<()>) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let start = content.len();
        read_at(start as u64, PART, &mut content)?;
        if content.len() - start < PART as usize {
            return Ok(content);
        }
    }
}

/// Calls the same method behind either door.
macro_rules! through {
    ($self:expr, $door:ident => $call:expr) => {
        match $self {
            Self::Opened($door) => $call,
            Self::Mounted($door) => $call,
        }
    };
}

impl Door {
    pub fn status(&self, path: &[u8]) -> Result<Option<Status>> {
        through!(self, door => door.status(path))
    }

    /// Opens a file; `None` where there is none.
    pub fn open(&self, path: &[u8]) -> Result<Option<Source>> {
        match self {
            Door::Opened(door) => Ok(door.open(path)?.map(Source::Opened)),
            Door::Mounted(door) => Ok(door.open(path)?.map(Source::Mounted)),
        }
    }

    /// The whole content of a file; `None` where there is none.
    pub fn get(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        through!(self, door => door.get(path))
    }

    /// The value of an attribute; `None` when it is not set. Errors: `NotFound` when the path is not there.
    pub fn attribute(&self, path: &[u8], name: &str) -> Result<Option<Vec<u8>>> {
        through!(self, door => door.attribute(path, name))
    }

    pub fn set_attribute(&self, path: &[u8], name: &str, value: &[u8]) -> Result<()> {
        through!(self, door => door.set_attribute(path, name, value))
    }

    /// Errors: `NoAttribute` when it is not set.
    pub fn remove_attribute(&self, path: &[u8], name: &str) -> Result<()> {
        through!(self, door => door.remove_attribute(path, name))
    }

    /// What is in a directory, in no order; nothing where there is none. The root is the empty path.
    pub fn list(&self, path: &[u8]) -> Result<Vec<Node>> {
        through!(self, door => door.list(path))
    }

    pub fn apply(&self, changes: &[Change<'_>], durable: bool) -> Result<Vec<bool>> {
        through!(self, door => door.apply(changes, durable))
    }

    /// A file for content that a key is to get later.
    pub fn stage(&self, key: &[u8], new: &NewFile) -> Result<Source> {
        match self {
            Door::Opened(door) => Ok(Source::Opened(door.stage(key, new)?)),
            Door::Mounted(door) => Ok(Source::Mounted(door.stage(key, new)?)),
        }
    }

    pub fn lock(&self, key: &Key, wait: bool) -> Result<Option<KeyLock>> {
        through!(self, door => door.lock(key, wait))
    }

    pub fn stats(&self) -> Result<Stats> {
        through!(self, door => door.stats())
    }

    pub fn sync(&self) -> Result<()> {
        through!(self, door => door.sync())
    }

    pub fn change_setting(&self, name: &str, value: &str) -> Result<()> {
        through!(self, door => door.change_setting(name, value))
    }

    pub fn clear(&self) -> Result<()> {
        through!(self, door => door.clear())
    }

    pub fn chores(&self) -> Result<Chores> {
        through!(self, door => door.chores())
    }

    pub fn cleanup(&self) -> Result<Cleaned> {
        through!(self, door => door.cleanup())
    }

    pub fn align(&self, dry_run: bool) -> Result<Aligned> {
        through!(self, door => door.align(dry_run))
    }

    pub fn scrub(&self, from: Place, bytes: u64) -> Result<Scrubbed> {
        through!(self, door => door.scrub(from, bytes))
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        through!(self, door => door.dir())
    }

    /// Where the store is mounted.
    pub fn mountpoint(&self) -> Option<PathBuf> {
        match self {
            Door::Opened(_) => None,
            Door::Mounted(door) => Some(door.point().to_owned()),
        }
    }

    pub fn close(&self) -> Result<()> {
        through!(self, door => door.close())
    }
}

impl Source {
    /// Appends up to `len` bytes from `offset` to `out`; fewer only at the end.
    pub fn read_at(&self, offset: u64, len: u32, out: &mut Vec<u8>) -> Result<()> {
        through!(self, source => source.read_at(offset, len, out))
    }

    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        through!(self, source => source.write_at(offset, bytes))
    }

    pub fn size(&self) -> Result<u64> {
        through!(self, source => source.size())
    }

    /// Gives a staged file its key.
    pub fn publish(self, key: &Key, new: NewFile, durable: bool) -> Result<()> {
        through!(self, source => source.publish(key, new, durable))
    }
}
