//! Locks on keys, for those who read, think and write.
//!
//! A key's file is replaced each time it is set, so a lock on the file alone would be a lock on an old
//! inode. What excludes the users of the library from one another, in this process and in others, is
//! therefore a range lock of one byte on the store's file `lock`, at an offset that the key's hash gives. It needs no
//! cleaning up, and ends with its process. (Whoever has the store open holds another kind of lock on the
//! same file; the two do not meet.) Two keys with the same 62 bits of hash exclude one another.

use std::fs::{File, OpenOptions};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use xxhash_rust::xxh3::xxh3_64;

use super::Key;
use crate::error::{Error, Result};

/// A held lock on a key; dropping it gives it back. [`Store::lock`](super::Store::lock) is what most want: this is for a store that is not
/// open, so that others can open it meanwhile.
pub struct KeyLock {
    /// The lock is on these open files, and ends when they are closed.
    files: Vec<File>,
    at_end: Option<Box<dyn FnOnce() + Send>>,
}

impl KeyLock {
    /// Takes the lock on a key of the store in this directory. `None` when another has it and `wait` is false.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the store's lock file cannot be used; where there is none, there is no store.
    pub fn take(store: &Path, key: &Key, wait: bool) -> Result<Option<KeyLock>> {
        take(store, key, wait)
    }

    /// Lets the processes that are started from now on have the lock, too: it then ends with the last of them, also when this
    /// one is killed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the system refused it.
    pub fn pass_on(&self) -> Result<()> {
        for file in &self.files {
            fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))
                .map_err(|errno| Error::io("passing a lock on")(errno.into()))?;
        }
        Ok(())
    }

    /// The lock is on this open file as well.
    pub(super) fn add(&mut self, file: File) {
        self.files.push(file);
    }

    /// Does this before the lock is given back.
    pub(super) fn at_end(&mut self, end: Box<dyn FnOnce() + Send>) {
        self.at_end = Some(end);
    }
}

impl std::fmt::Debug for KeyLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyLock").finish_non_exhaustive()
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        if let Some(end) = self.at_end.take() {
            end();
        }
    }
}

/// Takes the lock on a key of the store in this directory. `None` when another has it and `wait` is false.
pub(super) fn take(store: &Path, key: &Key, wait: bool) -> Result<Option<KeyLock>> {
    let path = store.join("lock");
    let failed = |error: std::io::Error| Error::io(format!("locking {key} at {}", path.display()))(error);
    // An open file of its own: what is locked through it is unlocked when it is closed.
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
    let range = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: (xxh3_64(key.as_bytes()) >> 2).cast_signed(),
        l_len: 1,
        l_pid: 0,
    };
    loop {
        let how = if wait { FcntlArg::F_OFD_SETLKW(&range) } else { FcntlArg::F_OFD_SETLK(&range) };
        match fcntl(&file, how) {
            Ok(_) => return Ok(Some(KeyLock { files: vec![file], at_end: None })),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN | Errno::EACCES) if !wait => return Ok(None),
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}
