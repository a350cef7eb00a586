//! What POSIX and Linux promise programs, through real mounts: locks, mappings, sparse files, times and
//! identity, concurrency, users. Needs root and /dev/fuse, and says so where it skips.
//!
//! Short by default; longer forms by environment variables, which stand beside the tests that read them:
//! `LARDER_TEST_ENTRIES`, `LARDER_TEST_SECONDS`, `LARDER_TEST_SEED`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod attributes;
mod calls;
mod capability;
mod clock;
mod concurrency;
mod expiry;
mod ground;
mod identity;
mod linear;
mod locks;
mod mapping;
mod openings;
mod paths;
mod process;
mod ranges;
mod sparse;
mod stat;
#[path = "../support/mod.rs"]
mod support;
mod transfers;
mod users;
mod watchdog;

use std::fs::{File, OpenOptions};
use std::ops::{Deref, DerefMut};
use std::path::Path;

use parking_lot::{Mutex, MutexGuard};
use support::mounted::Mounted;
use support::random::{Random, setting};

/// Tests that fork hand their descriptors to the child for a moment, which would hold locks and mounts
/// of others in the same process: where a runner gives them one process, they run one after another.
static ALONE: Mutex<()> = Mutex::new(());

/// A mounted store for a test that is alone in its process.
struct Stage {
    mounted: Mounted,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    /// None where nothing can be mounted, which it says.
    fn new() -> Option<Stage> {
        Stage::with(&["--cache-size-limit", "64MiB"])
    }

    fn with(flags: &[&str]) -> Option<Stage> {
        let alone = ALONE.lock();
        Some(Stage { mounted: Mounted::with(flags)?, _alone: alone })
    }
}

impl Deref for Stage {
    type Target = Mounted;

    fn deref(&self) -> &Mounted {
        &self.mounted
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Mounted {
        &mut self.mounted
    }
}

/// Opens for reading and writing; makes the file where it is missing.
fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Opens for reading alone.
fn open_to_read(path: impl AsRef<Path>) -> std::io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

/// The number that an operation failed with, 0 when it did not.
fn errno<T>(outcome: std::io::Result<T>) -> i32 {
    match outcome {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

/// The time by which files are dated, seconds and nanoseconds.
fn now() -> (i64, i64) {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    (now.as_secs() as i64, now.subsec_nanos().into())
}
