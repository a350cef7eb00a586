//! The door to a store that is mounted, in this process or (mostly) another.
//!
//! Reading goes through the mount; changes of keys through the daemon's socket (`remote` says why). The mount
//! point is held open, so that what follows is never looked for in the directory below it: a store that is
//! connected to keeps its mount busy. No symbolic link is followed, and no way leads out of the mount.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::unistd::{UnlinkatFlags, unlinkat};
use parking_lot::Mutex;

use super::door::{Node, Status, no_file, whole};
use super::key::{STAGED, split};
use super::opened::umask;
use super::remote::{self, Call, error_of};
use super::{Key, KeyLock, lock, xattr};
use crate::clock::Time;
use crate::control::Request;
use crate::error::{Error, Result};
use crate::format::Kind;
use crate::mount::{session, table};
use crate::volume::{Aligned, Change, Chores, Cleaned, NewFile, Place, Scrubbed, Stats, To};

/// Bytes of content that go with a request; what is beyond is written through the mount.
const WITH_REQUEST: usize = 1 << 20;

/// Bytes of a single value beyond which it is written through the mount: there it takes no second copy.
const LARGE: usize = 256 << 10;

/// How often a file is made for a new value, where its directory goes each time before it has its key.
const STAGE_TRIES: u32 = 4;

/// After so long a file is removed whose writer has died.
const STAGED_TTL: &str = "1d";

/// A mounted store.
#[derive(Debug)]
pub(super) struct Mounted {
    root: OwnedFd,
    point: PathBuf,
    store: PathBuf,
    umask: u32,
    /// Files of the keys whose lock is held: each has an flock(2).
    locked: Mutex<HashMap<Key, Vec<File>>>,
}

/// A file in the mount that is read, or is to become a key's.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    staged: Option<Staged>,
}

/// A file that is no key's yet; removed at the end, unless it has become one.
#[derive(Debug)]
struct Staged {
    mounted: Arc<Mounted>,
    path: Vec<u8>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone when it was moved; what stays for whatever reason expires.
        let _ = unlinkat(&self.mounted.root, self.path.as_slice(), UnlinkatFlags::NoRemoveDir);
    }
}

fn failed(what: &str, errno: Errno) -> Error {
    error_of(errno as i32, what)
}

fn io_failed(what: &str) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.raw_os_error() {
        Some(errno) => error_of(errno, what),
        None => Error::io(what)(error),
    }
}

/// Whether what was opened lies in this mount, not in the directory below it or what is mounted there by now.
fn is_of(opened: &OwnedFd, mount: &table::Mount) -> Result<bool> {
    match fstat(opened) {
        Ok(stat) => Ok(mount.device == format!("{}:{}", major(stat.st_dev), minor(stat.st_dev))),
        // Another user's mount says nothing to us, and no plain directory does so; its daemon may still answer.
        Err(Errno::EACCES) => Ok(true),
        Err(Errno::ENOTCONN | Errno::ECONNABORTED) => Ok(false),
        Err(errno) => Err(failed("looking at the mount point", errno)),
    }
}

impl Mounted {
    /// Finds the mount that is meant by a path: the store's directory, the mount point, or a path below it.
    pub fn find(path: &Path) -> Result<Mounted> {
        let (store, mount) = table::find(path)?;
        let Some(mount) = mount else {
            return Err(Error::store(path, "no Larder store is mounted here; see: larder status"));
        };
        let point = mount.point.clone();
        let how = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(&point, how, Mode::empty())
            .map_err(|errno| Error::io(format!("opening {}", point.display()))(errno.into()))?;
        // Open, it can be unmounted no longer; before that it may have been.
        if session::is_dead(&point) || !is_of(&root, &mount)? {
            return Err(session::unanswered(&store));
        }
        Ok(Mounted { root, point, store, umask: umask(), locked: Mutex::new(HashMap::new()) })
    }

    fn open_at(&self, path: &[u8], flags: OFlag) -> std::result::Result<OwnedFd, Errno> {
        let resolve =
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        let mut how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        if flags.contains(OFlag::O_CREAT) {
            how = how.mode(Mode::from_bits_truncate(0o666));
        }
        let path = if path.is_empty() { b"." } else { path };
        openat2(&self.root, path, how)
    }

    /// Opens a path for its place alone; `None` where nothing is, or something on the way is no directory.
    fn place(&self, path: &[u8]) -> Result<Option<File>> {
        match self.open_at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
            Ok(place) => Ok(Some(place.into())),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(errno) => Err(failed("looking a key up", errno)),
        }
    }

    pub fn status(self: &Arc<Mounted>, path: &[u8]) -> Result<Option<Status>> {
        let Some(place) = self.place(path)? else { return Ok(None) };
        let metadata = place.metadata().map_err(io_failed("looking a key up"))?;
        Ok(Some(Status {
            kind: Kind::of_mode(metadata.mode()),
            size: metadata.size(),
            mtime: Time::new(metadata.mtime(), metadata.mtime_nsec() as u32),
            page_shift: (metadata.blksize() as u32).trailing_zeros(),
        }))
    }

    pub fn get(self: &Arc<Mounted>, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let file = self.open(path)?;
        file.map(|file| whole(|offset, len, out| file.read_at(offset, len, out))).transpose()
    }

    pub fn open(self: &Arc<Mounted>, path: &[u8]) -> Result<Option<Opened>> {
        // A fifo would make its opener wait for another end.
        let file = match self.open_at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            // A symbolic link, here or on the way; a socket.
            Err(Errno::ELOOP | Errno::ENXIO) => {
                return match self.place(path)? {
                    Some(_) => Err(no_file()),
                    None => Ok(None),
                };
            }
            Err(errno) => return Err(failed("opening a key", errno)),
        };
        let metadata = file.metadata().map_err(io_failed("opening a key"))?;
        match Kind::of_mode(metadata.mode()) {
            Kind::File => Ok(Some(Opened { file, staged: None })),
            Kind::Directory => Err(Error::IsADirectory),
            _ => Err(no_file()),
        }
    }

    pub fn attribute(self: &Arc<Mounted>, path: &[u8], name: &str) -> Result<Option<Vec<u8>>> {
        let place = self.place(path)?.ok_or(Error::NotFound)?;
        xattr::get(place.as_fd(), name).map_err(io_failed("reading an attribute"))
    }

    pub fn set_attribute(self: &Arc<Mounted>, path: &[u8], name: &str, value: &[u8]) -> Result<()> {
        let place = self.place(path)?.ok_or(Error::NotFound)?;
        let why = format!("{name}: {:?} is not possible", String::from_utf8_lossy(value));
        xattr::set(place.as_fd(), name, value).map_err(io_failed(&why))
    }

    pub fn remove_attribute(self: &Arc<Mounted>, path: &[u8], name: &str) -> Result<()> {
        let place = self.place(path)?.ok_or(Error::NotFound)?;
        xattr::remove(place.as_fd(), name).map_err(io_failed("removing an attribute"))
    }

    pub fn list(self: &Arc<Mounted>, path: &[u8]) -> Result<Vec<Node>> {
        let dir = match self.open_at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW) {
            Ok(dir) => dir,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(Vec::new()),
            Err(errno) => return Err(failed("listing a directory", errno)),
        };
        let entries = std::fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let mut nodes = Vec::new();
        for entry in entries.map_err(io_failed("listing a directory"))? {
            use std::os::unix::ffi::OsStrExt;
            use std::os::unix::fs::FileTypeExt;
            let entry = entry.map_err(io_failed("listing a directory"))?;
            let kind = match entry.file_type() {
                Ok(kind) if kind.is_dir() => Kind::Directory,
                Ok(kind) if kind.is_file() => Kind::File,
                Ok(kind) if kind.is_symlink() => Kind::Symlink,
                Ok(kind) if kind.is_fifo() => Kind::Fifo,
                Ok(kind) if kind.is_socket() => Kind::Socket,
                Ok(kind) if kind.is_char_device() => Kind::CharDevice,
                Ok(_) => Kind::BlockDevice,
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io_failed("listing a directory")(error)),
            };
            nodes.push(Node { name: entry.file_name().as_bytes().into(), kind });
        }
        Ok(nodes)
    }

    pub fn apply(self: &Arc<Mounted>, changes: &[Change<'_>], durable: bool) -> Result<Vec<bool>> {
        let mut tries = STAGE_TRIES;
        loop {
            tries -= 1;
            match self.try_apply(changes, durable) {
                Err(Error::NotFound) if tries > 0 => {}
                done => return done,
            }
        }
    }

    /// Errors: `NotFound`: a directory went with a file that was made in it for a new value.
    fn try_apply(self: &Arc<Mounted>, changes: &[Change<'_>], durable: bool) -> Result<Vec<bool>> {
        let locked = |path: &[u8]| self.locked.lock().keys().any(|key| key.as_bytes() == path);
        let mut staged: Vec<Option<Opened>> = Vec::with_capacity(changes.len());
        let mut with_request = 0;
        for change in changes {
            let mut large = None;
            if let To::Content(content, new) = &change.to {
                with_request += content.len();
                if content.len() > LARGE || with_request > WITH_REQUEST || locked(change.path) {
                    with_request -= content.len();
                    let file = self.stage(change.path, new)?;
                    file.write_at(0, content)?;
                    large = Some(file);
                }
            }
            staged.push(large);
        }
        let moved = changes.iter().zip(&staged).map(|(change, staged)| match (&change.to, staged) {
            (To::Content(_, new), Some(Opened { staged: Some(staged), .. })) => {
                Change { path: change.path, to: To::Moved(&staged.path, *new) }
            }
            _ => change.clone(),
        });
        let call = Call::Apply { changes: moved.collect(), durable, umask: self.umask };
        // Whoever flocks the new file from the moment that it has its key waits for us.
        let mut new_locks = Vec::new();
        for (change, staged) in changes.iter().zip(&staged) {
            if let Some(staged) = staged.as_ref().filter(|_| locked(change.path)) {
                let file = staged.file.try_clone().map_err(io_failed("locking a key"))?;
                file.lock().map_err(io_failed("locking a key"))?;
                new_locks.push((change.path, file));
            }
        }
        let there = remote::ask(&self.store, &call)?;
        let mut locked = self.locked.lock();
        for (path, file) in new_locks {
            if let Some((_, files)) = locked.iter_mut().find(|(key, _)| key.as_bytes() == path) {
                files.push(file);
            }
        }
        Ok(there)
    }

    /// A file that will become a key's. It is made in the deepest directory on the key's way that there is, and
    /// inherits what that one hands down.
    pub fn stage(self: &Arc<Mounted>, key: &[u8], new: &NewFile) -> Result<Opened> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let mut dir = split(key).0;
        loop {
            while !dir.is_empty() && self.open_at(dir, OFlag::O_PATH | OFlag::O_DIRECTORY).is_err() {
                dir = split(dir).0;
            }
            let n = LAST.fetch_add(1, Ordering::Relaxed);
            let mut path = dir.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(format!("{STAGED}{}-{n}", std::process::id()).as_bytes());
            let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
            let file: File = match self.open_at(&path, flags) {
                Ok(file) => file.into(),
                Err(Errno::EEXIST) => continue,
                // It went since.
                Err(Errno::ENOENT) if !dir.is_empty() => continue,
                Err(errno) => return Err(failed("making a file for a new value", errno)),
            };
            let staged = Staged { mounted: Arc::clone(self), path };
            let prepare = |name, value: &str| {
                xattr::set(file.as_fd(), name, value.as_bytes()).map_err(io_failed("preparing a new value"))
            };
            prepare("user.larder.ttl", STAGED_TTL)?;
            if let Some(codec) = new.codec {
                prepare("user.larder.codec", &codec.to_string())?;
            }
            return Ok(Opened { file, staged: Some(staged) });
        }
    }

    pub fn lock(self: &Arc<Mounted>, key: &Key, wait: bool) -> Result<Option<KeyLock>> {
        let Some(mut held) = lock::take(&self.store, key, wait)? else { return Ok(None) };
        // Then those who lock the file itself. A file that was replaced while we waited is not the key's.
        let file = loop {
            let Some(opened) = (match self.open(key.as_bytes()) {
                Err(Error::IsADirectory | Error::Invalid(_)) => None,
                opened => opened?,
            }) else {
                break None;
            };
            let file = opened.file;
            if wait {
                file.lock().map_err(io_failed("locking a key"))?;
            } else {
                match file.try_lock() {
                    Ok(()) => {}
                    Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
                    Err(std::fs::TryLockError::Error(error)) => {
                        return Err(io_failed("locking a key")(error));
                    }
                }
            }
            let inode = |file: &File| {
                file.metadata().map(|metadata| metadata.ino()).map_err(io_failed("locking a key"))
            };
            match self.place(key.as_bytes())? {
                Some(named) if inode(&named)? == inode(&file)? => break Some(file),
                Some(_) => {}
                None => break None,
            }
        };
        if let Some(file) = &file {
            held.add(file.try_clone().map_err(io_failed("locking a key"))?);
        }
        self.locked.lock().insert(key.clone(), file.into_iter().collect());
        let (mounted, key) = (Arc::clone(self), key.clone());
        held.at_end(Box::new(move || drop(mounted.locked.lock().remove(&key))));
        Ok(Some(held))
    }

    pub fn stats(&self) -> Result<Stats> {
        remote::ask(&self.store, &Call::Stats)
    }

    pub fn sync(&self) -> Result<()> {
        remote::ask(&self.store, &Call::Sync)
    }

    pub fn change_setting(&self, name: &str, value: &str) -> Result<()> {
        let change = format!("{name}={value}");
        let request = Request::Set { body: change.len() as u32 };
        let asked = crate::control::ask_with(&self.store, request, change.as_bytes());
        session::answered(&self.store, asked).map(drop)
    }

    pub fn clear(&self) -> Result<()> {
        remote::ask(&self.store, &Call::Clear)
    }

    pub fn chores(&self) -> Result<Chores> {
        remote::ask(&self.store, &Call::Chores)
    }

    pub fn cleanup(&self) -> Result<Cleaned> {
        remote::ask(&self.store, &Call::Cleanup)
    }

    pub fn align(&self, dry_run: bool) -> Result<Aligned> {
        remote::ask(&self.store, &Call::Align { dry_run })
    }

    pub fn scrub(&self, from: Place, bytes: u64) -> Result<Scrubbed> {
        remote::ask(&self.store, &Call::Scrub { from, bytes })
    }

    pub fn dir(&self) -> &Path {
        &self.store
    }

    pub fn point(&self) -> &Path {
        &self.point
    }

    /// There is nothing to close: changes are the daemon's to keep.
    #[expect(clippy::unused_self, reason = "as the other door")]
    pub fn close(&self) -> Result<()> {
        Ok(())
    }
}

impl Opened {
    pub fn read_at(&self, offset: u64, len: u32, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.resize(start + len as usize, 0);
        let mut done = 0;
        let outcome = loop {
            let rest = out.get_mut(start + done..).unwrap_or_default();
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break Ok(()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(io_failed("reading a value; the log of the mount says more")(error)),
            }
        };
        out.truncate(start + done);
        outcome
    }

    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(io_failed("writing a value"))
    }

    pub fn size(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(io_failed("looking a value up"))?.len())
    }

    /// Gives a staged file its key.
    pub fn publish(mut self, key: &Key, new: NewFile, durable: bool) -> Result<()> {
        for _ in 1..STAGE_TRIES {
            match self.try_publish(key, new, durable) {
                Err(Error::NotFound) => self = self.staged_anew(key, &new)?,
                done => return done,
            }
        }
        self.try_publish(key, new, durable)
    }

    /// A copy of a staged file whose directory has gone with it.
    fn staged_anew(mut self, key: &Key, new: &NewFile) -> Result<Opened> {
        let Some(staged) = &self.staged else { return Ok(self) };
        let mut anew = staged.mounted.stage(key.as_bytes(), new)?;
        let copied = self.file.rewind().and_then(|()| io::copy(&mut self.file, &mut anew.file));
        copied.map_err(io_failed("writing a value"))?;
        Ok(anew)
    }

    /// Errors: `NotFound`: the directory went that the file was made in.
    fn try_publish(&self, key: &Key, new: NewFile, durable: bool) -> Result<()> {
        let Some(staged) = &self.staged else { return Ok(()) };
        let mounted = &staged.mounted;
        let locked = mounted.locked.lock().contains_key(key);
        if locked {
            self.file.lock().map_err(io_failed("locking a key"))?;
        }
        let changes = vec![Change { path: key.as_bytes(), to: To::Moved(&staged.path, new) }];
        let call = Call::Apply { changes, durable, umask: mounted.umask };
        remote::ask::<Vec<bool>>(&mounted.store, &call)?;
        if let Some(files) = mounted.locked.lock().get_mut(key) {
            files.push(self.file.try_clone().map_err(io_failed("locking a key"))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_lies_on_another_device_is_not_the_mount() {
        let dir = tempfile::tempdir().unwrap();
        let opened = nix::fcntl::open(dir.path(), OFlag::O_PATH, Mode::empty()).unwrap();
        let device = dir.path().metadata().unwrap().dev();
        let mut mount = table::at(Path::new("/")).unwrap().unwrap();
        mount.device = format!("{}:{}", major(device), minor(device));
        assert!(is_of(&opened, &mount).unwrap());
        mount.device = format!("{}:{}", major(device), minor(device) + 1);
        assert!(!is_of(&opened, &mount).unwrap());
    }
}
