//! Room that is kept for a full disk: without it a store that is full could not even note that something was deleted.
//!
//! The file `reserve` takes room and holds nothing. When the journal or a checkpoint meets a full disk, it is emptied and
//! they go on, but with what adds; until it could be filled again the catalog says that it is short, and takes only what
//! makes room.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::io::{File, Io};

/// The reserve.
#[derive(Debug)]
pub(super) struct Reserve {
    io: Arc<dyn Io>,
    path: PathBuf,
    /// Bytes that it takes while it is held.
    len: u64,
    held: AtomicBool,
    file: Mutex<Option<Arc<dyn File>>>,
}

impl Reserve {
    /// A reserve of `len` bytes at `path`, held if there is room for it.
    pub fn open(io: Arc<dyn Io>, path: PathBuf, len: u64) -> Reserve {
        let reserve = Reserve { io, path, len, held: AtomicBool::new(false), file: Mutex::new(None) };
        if let Err(error) = reserve.hold() {
            log::warn!("{}: no room is kept for a full disk: {error}", reserve.path.display());
        }
        reserve
    }

    /// Whether it is there to be used.
    pub fn held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Bytes that emptying it gives.
    pub fn bytes(&self) -> u64 {
        if self.held() { self.len } else { 0 }
    }

    /// Takes the room, if it is not taken already.
    pub fn hold(&self) -> Result<()> {
        let mut file = self.file.lock();
        if self.held() {
            return Ok(());
        }
        let failed = || Error::io(format!("reserving room in {}", self.path.display()));
        let open = match &*file {
            Some(open) => open.clone(),
            None => {
                let open = self.io.open(&self.path, true).map_err(failed())?;
                *file = Some(open.clone());
                open
            }
        };
        let taken = open.allocated().map_err(failed())?;
        if taken > 2 * self.len {
            // It was made for a larger journal.
            open.set_len(0).map_err(failed())?;
        }
        if !(self.len..=2 * self.len).contains(&taken)
            && let Err(error) = open.allocate(0, self.len)
        {
            // A part may have been had, which others need more.
            let _ = open.set_len(0);
            return Err(failed()(error));
        }
        self.held.store(true, Ordering::Release);
        Ok(())
    }

    /// Gives the room to whoever needs it now. False when there was none to give.
    pub fn release(&self) -> bool {
        let file = self.file.lock();
        if !self.held.swap(false, Ordering::AcqRel) {
            return false;
        }
        log::warn!("{}: the disk is full; the catalog lives on its reserve", self.path.display());
        file.as_ref().is_some_and(|file| file.set_len(0).is_ok())
    }

    /// Does something, and again with the reserve's room when the disk is full.
    pub fn or_release<T>(&self, mut job: impl FnMut() -> Result<T>) -> Result<T> {
        match job() {
            Err(Error::NoSpace) if self.release() => job(),
            other => other,
        }
    }
}
