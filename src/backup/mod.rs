//! Copies of a whole store in a directory: made while it is open, brought up to date by later ones, restored.
//!
//! ```text
//! DEST/
//!   BACKUP                       one line: `larder-backup 1 ID`, ID being the store's; there before anything else is
//!   lock                         held (flock) by the one who makes the copy or restores it
//!   manifest                     what makes a copy complete: which of the following belong to it
//!   catalog-RRRRRRRR             dump of the catalog; RRRRRRRR is the run that made it, in hexadecimal
//!   segments/xx/NNNNNNNN-RRRRRRRR   frames of a segment, where they lie in the store too; the rest is holes
//! ```
//!
//! Invariants:
//! - There is a complete copy from the first run that came to its end on: the manifest is replaced by a rename, as the
//!   last thing, when everything that it names is durable. Whatever interrupts a run leaves the copy before it whole.
//! - Therefore a run writes only where that copy has nothing: into new files, and into the old ones where the old dump
//!   has no frame, or one that is damaged: those are tried again by each run. A frame that lies elsewhere than in the old
//!   dump, or over another, begins a new file of its segment.
//! - What the manifest does not name is what an interrupted run left, and the next one removes it.
//! - Nothing that lies in a directory that is not such a copy is touched.

mod copy;
mod frames;
mod manifest;
mod restore;

pub use copy::back_up;
pub use restore::restore;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::{Ino, PageNo};

/// A disk without room is not the store's own here.
fn full(dir: &Path) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::NoSpace => Error::store(dir, "there is no room left on its disk: make some, and begin again"),
        other => other,
    }
}

/// Damage to what says what belongs to the copy in `dir` is told with what to do.
fn damaged(dir: &Path) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Damaged(what) => match what.starts_with(&*dir.to_string_lossy()) {
            true => Error::Damaged(format!("{what}: make the backup anew, elsewhere")),
            false => Error::Damaged(what),
        },
        other => other,
    }
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes of frames that are copied.
    pub done: u64,
    /// Of so many; 0 while it is not known.
    pub total: u64,
}

/// Is told how far it has come; an error ends it.
pub type OnProgress<'a> = &'a dyn Fn(Progress) -> Result<()>;

/// What a copy came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Records of the catalog.
    pub records: u64,
    /// Frames that the copy has.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes that were copied: the others were there.
    pub copied: u64,
    /// Pages whose frames do not match their checksums, or cannot be read, or are lost, and are not in the copy.
    pub damaged: u64,
    /// The first of these.
    pub examples: Vec<Damage>,
}

/// A page that could not be copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The file's inode number.
    pub ino: u64,
    /// The page.
    pub page: u32,
    /// What is wrong.
    pub why: String,
}

/// The most examples of damage that are told.
const EXAMPLES: usize = 100;

impl Outcome {
    fn damage(&mut self, ino: Ino, page: PageNo, why: String) {
        log::error!("{ino} page {}: not copied: {why}", page.0);
        self.damaged += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(Damage { ino: ino.0, page: page.0, why });
        }
    }
}
