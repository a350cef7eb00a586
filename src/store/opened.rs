//! The door to a store that this process has open itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::door::{Node, Status, no_file, whole};
use super::{Key, KeyLock, lock};
use crate::error::{Error, Result};
use crate::format::{Ino, Kind, ROOT};
use crate::volume::{
    Aligned, Caller, Change, Chores, Cleaned, Entry, Got, NewFile, Pause, Place, Scrubbed, Stats, To, Volume,
};

/// A volume, closed with the last user of this.
#[derive(Debug)]
pub(super) struct Opened {
    volume: Arc<Volume>,
    caller: Caller,
    dir: PathBuf,
    closed: AtomicBool,
}

/// A reference to an inode, given back at the end.
#[derive(Debug)]
pub(super) struct Held {
    opened: Arc<Opened>,
    ino: Ino,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.opened.volume.forget(self.ino, 1);
    }
}

/// What a lookup came to; where nothing is, or cannot be since something on the way is no directory: `None`.
fn found<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound | Error::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is held, if it has content.
fn file(held: Held, kind: Kind) -> Result<Held> {
    match kind {
        Kind::File => Ok(held),
        Kind::Directory => Err(Error::IsADirectory),
        _ => Err(no_file()),
    }
}

impl Opened {
    pub fn new(volume: Arc<Volume>, dir: PathBuf) -> Opened {
        let caller = Caller {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            pid: std::process::id(),
            umask: umask(),
        };
        Opened { volume, caller, dir, closed: AtomicBool::new(false) }
    }

    fn volume(&self) -> Result<&Volume> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::store(&self.dir, "the store has been closed"));
        }
        Ok(&self.volume)
    }

    fn hold(self: &Arc<Opened>, path: &[u8]) -> Result<Option<(Held, Entry, Kind)>> {
        let looked_up = self.volume()?.run(|volume| match path {
            b"" => volume.lookup(ROOT, b".").map(|entry| (entry, Kind::Directory)),
            _ => volume.resolve(path),
        });
        let Some((entry, kind)) = found(looked_up)? else { return Ok(None) };
        Ok(Some((Held { opened: Arc::clone(self), ino: entry.attr.ino }, entry, kind)))
    }

    pub fn status(self: &Arc<Opened>, path: &[u8]) -> Result<Option<Status>> {
        let held = self.hold(path)?;
        Ok(held.map(|(_held, entry, kind)| {
            let attr = entry.attr;
            Status { kind, size: attr.size, mtime: attr.mtime, page_shift: attr.blksize.trailing_zeros() }
        }))
    }

    pub fn open(self: &Arc<Opened>, path: &[u8]) -> Result<Option<Held>> {
        self.hold(path)?.map(|(held, _, kind)| file(held, kind)).transpose()
    }

    pub fn get(self: &Arc<Opened>, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let (ino, kind) = match found(self.volume()?.run(|volume| volume.get(path)))? {
            None => return Ok(None),
            Some(Got::Content(content)) => return Ok(Some(content)),
            Some(Got::Held(ino, kind)) => (ino, kind),
        };
        let held = file(Held { opened: Arc::clone(self), ino }, kind)?;
        whole(|offset, len, out| held.read_at(offset, len, out)).map(Some)
    }

    pub fn attribute(self: &Arc<Opened>, path: &[u8], name: &str) -> Result<Option<Vec<u8>>> {
        let Some((held, ..)) = self.hold(path)? else { return Err(Error::NotFound) };
        match self.volume()?.run(|volume| volume.getxattr(held.ino, name.as_bytes())) {
            Ok(value) => Ok(Some(value)),
            Err(Error::NoAttribute) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn set_attribute(self: &Arc<Opened>, path: &[u8], name: &str, value: &[u8]) -> Result<()> {
        let Some((held, ..)) = self.hold(path)? else { return Err(Error::NotFound) };
        self.volume()?.run(|volume| volume.setxattr(&self.caller, held.ino, name.as_bytes(), value, 0))
    }

    pub fn remove_attribute(self: &Arc<Opened>, path: &[u8], name: &str) -> Result<()> {
        let Some((held, ..)) = self.hold(path)? else { return Err(Error::NotFound) };
        self.volume()?.run(|volume| volume.removexattr(&self.caller, held.ino, name.as_bytes()))
    }

    /// What is in a directory, in no order; nothing where there is none.
    pub fn list(self: &Arc<Opened>, path: &[u8]) -> Result<Vec<Node>> {
        let held = match path {
            b"" => None,
            _ => match self.hold(path)? {
                Some((held, _, Kind::Directory)) => Some(held),
                _ => return Ok(Vec::new()),
            },
        };
        let dir = held.as_ref().map_or(ROOT, |held| held.ino);
        let (mut nodes, mut after) = (Vec::new(), 0);
        loop {
            let mut seen = after;
            let listed = self.volume()?.run(|volume| {
                volume.readdir(dir, after, false, &mut |entry| {
                    seen = entry.cookie;
                    if !matches!(entry.name, b"." | b"..") {
                        nodes.push(Node { name: entry.name.into(), kind: entry.kind });
                    }
                    true
                })
            });
            match listed {
                Ok(()) if seen == after => return Ok(nodes),
                Ok(()) => after = seen,
                // Removed meanwhile.
                Err(Error::NotFound | Error::Stale) => return Ok(nodes),
                Err(error) => return Err(error),
            }
        }
    }

    pub fn apply(&self, changes: &[Change<'_>], durable: bool) -> Result<Vec<bool>> {
        self.volume()?.apply(&self.caller, changes, durable)
    }

    /// A file for content that a key is to get later.
    pub fn stage(self: &Arc<Opened>, key: &[u8], new: &NewFile) -> Result<Held> {
        let ino = self.volume()?.make_unnamed(&self.caller, key, new)?;
        Ok(Held { opened: Arc::clone(self), ino })
    }

    pub fn lock(&self, key: &Key, wait: bool) -> Result<Option<KeyLock>> {
        lock::take(&self.dir, key, wait)
    }

    pub fn stats(&self) -> Result<Stats> {
        self.volume()?.stats()
    }

    pub fn sync(&self) -> Result<()> {
        self.volume()?.sync()
    }

    pub fn change_setting(&self, name: &str, value: &str) -> Result<()> {
        self.volume()?.change_setting(name, value)
    }

    pub fn clear(&self) -> Result<()> {
        self.volume()?.clear(&self.caller)
    }

    pub fn chores(&self) -> Result<Chores> {
        self.volume()?.chores()
    }

    pub fn cleanup(&self) -> Result<Cleaned> {
        self.volume()?.cleanup()
    }

    pub fn align(&self, dry_run: bool) -> Result<Aligned> {
        self.volume()?.align(dry_run)
    }

    pub fn scrub(&self, from: Place, bytes: u64) -> Result<Scrubbed> {
        self.volume()?.scrub(from, bytes)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.volume.close()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // Done already where the caller asked for the outcome.
        if let Err(error) = self.volume.close() {
            log::error!("{}: closing the store: {error}", self.dir.display());
        }
    }
}

impl Held {
    /// Appends up to `len` bytes from `offset` to `out`; fewer only at the end.
    pub fn read_at(&self, offset: u64, len: u32, out: &mut Vec<u8>) -> Result<()> {
        let (volume, start) = (self.opened.volume()?, out.len());
        match volume.read(self.ino, offset, len, out) {
            Ok(()) => Ok(()),
            Err(Pause::Fail(error)) => Err(error),
            Err(Pause::Wait(_)) => {
                out.truncate(start);
                volume.read_blocking(self.ino, offset, len, false, out)
            }
        }
    }

    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.opened.volume()?.write_blocking(self.ino, offset, bytes, false).map(drop)
    }

    pub fn size(&self) -> Result<u64> {
        Ok(self.opened.volume()?.run(|volume| volume.getattr(self.ino))?.attr.size)
    }

    /// Gives a staged file its key.
    pub fn publish(self, key: &Key, new: NewFile, durable: bool) -> Result<()> {
        let change = Change { path: key.as_bytes(), to: To::Unnamed(self.ino, new) };
        self.opened.apply(&[change], durable).map(drop)
    }
}

/// The permission bits that this process takes from new files. It can only be read from /proc: asking the
/// system for it means setting it.
pub(super) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}
