//! Values that are read or written piece by piece.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::door::{Door, Source};
use super::{Durability, Key};
use crate::error::{Error, Result};
use crate::volume::{Change, NewFile, To};

/// Bytes that a [`Writer`] holds before it writes them: as many as a value may have that needs no file of
/// its own on its way.
const HELD: usize = 32 << 10;

/// Bytes that a [`Reader`] reads at least at a time.
const AHEAD: u32 = 128 << 10;

/// Reads the value of a key, as it was when the reader was made: a later `set` or `delete` does not change it.
/// Made by [`Store::reader`](super::Store::reader).
#[derive(Debug)]
pub struct Reader {
    source: Source,
    at: u64,
    /// What was read ahead, from where on.
    held: Vec<u8>,
    held_from: u64,
}

impl Reader {
    pub(super) fn new(source: Source) -> Reader {
        Reader { source, at: 0, held: Vec::new(), held_from: 0 }
    }

    /// Bytes of the value.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the store cannot be read.
    pub fn size(&self) -> Result<u64> {
        self.source.size()
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let behind = |held: &[u8], from: u64, at: u64| {
            let start = usize::try_from(at.checked_sub(from)?).ok()?;
            held.get(start..).filter(|rest| !rest.is_empty()).map(|_| start)
        };
        let start = match behind(&self.held, self.held_from, self.at) {
            Some(start) => start,
            None => {
                self.held.clear();
                self.held_from = self.at;
                let len = u32::try_from(buf.len()).unwrap_or(u32::MAX).clamp(AHEAD, 1 << 20);
                self.source.read_at(self.at, len, &mut self.held).map_err(io_error)?;
                0
            }
        };
        let rest = self.held.get(start..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (self.source.size().map_err(io_error)?, by),
        };
        self.at = base.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Writes the value of a key. The key changes when [`Writer::finish`] is called, all at once; a writer that is
/// dropped before leaves it as it was. Made by [`Store::writer`](super::Store::writer).
#[derive(Debug)]
pub struct Writer {
    door: Door,
    key: Key,
    new: NewFile,
    durability: Durability,
    held: Vec<u8>,
    staged: Option<Source>,
    written: u64,
    /// A write has failed: something is missing.
    broken: bool,
}

impl Writer {
    pub(super) fn new(door: Door, key: Key, new: NewFile, durability: Durability) -> Writer {
        Writer { door, key, new, durability, held: Vec::new(), staged: None, written: 0, broken: false }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let staged = match self.staged.take() {
            Some(staged) => staged,
            None => self.door.stage(self.key.as_bytes(), &self.new)?,
        };
        // Kept whatever comes of it, so that it is removed with this.
        let staged = self.staged.insert(staged);
        staged.write_at(self.written, bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn put_held(&mut self) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        let put = self.put(&held);
        self.held = held;
        self.held.clear();
        put
    }

    /// Publishes the value under its key. Returns the bytes written.
    ///
    /// # Errors
    ///
    /// As [`Store::set`](super::Store::set), and [`Error::Invalid`] when a write has failed before; the key is as
    /// it was then.
    pub fn finish(mut self) -> Result<u64> {
        if self.broken {
            return Err(Error::Invalid("a write has failed, so the value is not whole".into()));
        }
        let durable = self.durability == Durability::Sync;
        if self.staged.is_none() {
            let change = Change { path: self.key.as_bytes(), to: To::Content(&self.held, self.new) };
            self.door.apply(&[change], durable)?;
            return Ok(self.held.len() as u64);
        }
        if !self.held.is_empty() {
            self.put_held()?;
        }
        if let Some(staged) = self.staged.take() {
            staged.publish(&self.key, self.new, durable)?;
        }
        Ok(self.written)
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.held.len() + bytes.len() <= HELD {
            self.held.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let held = if self.held.is_empty() { Ok(()) } else { self.put_held() };
        let done = held.and_then(|()| match bytes.len() {
            // Small pieces are gathered also behind the first.
            0..HELD => {
                self.held.extend_from_slice(bytes);
                Ok(())
            }
            _ => self.put(bytes),
        });
        self.broken |= done.is_err();
        done.map(|()| bytes.len()).map_err(io_error)
    }

    /// Does nothing: a value becomes visible as a whole, when it is finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An error as `std::io` has it, with this one as its cause.
fn io_error(error: Error) -> io::Error {
    let kind = match &error {
        Error::NotFound => io::ErrorKind::NotFound,
        Error::NoSpace => io::ErrorKind::StorageFull,
        Error::QuotaExceeded => io::ErrorKind::QuotaExceeded,
        Error::TooLarge => io::ErrorKind::FileTooLarge,
        Error::ReadOnly(_) => io::ErrorKind::ReadOnlyFilesystem,
        Error::Damaged(_) => io::ErrorKind::InvalidData,
        Error::Denied | Error::NotPermitted => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
