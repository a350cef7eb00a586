//! The journal: every change in order, one record a batch, ahead of everything else.
//!
//! Records lie in files `journal/NNNNNNNN` that are filled with zeros ahead of time, so that a flush
//! finds nothing but blocks that were written before: no filesystem commit, one device flush. A file
//! whose records have reached the index is renamed to the next free number and written over.
//!
//! Invariants:
//! - Records are numbered without gaps, across files too, and never span files.
//! - A record's checksum is seeded with its file's number, so what a file held under an earlier
//!   number is never taken for a record; nor is one of another store, whose numbers begin elsewhere.
//! - A number is given to a file once. Records of a number come only from one run of the writer:
//!   recovery never appends behind a cut, it goes on in a file with a new number.
//!
//! Of the medium it assumes that a sector that is written again over a power loss holds its old or its
//! new bytes: an append rewrites the sector that the record before it ends in.

mod file;
mod recall;
mod record;
mod replay;
mod writer;

pub(super) use file::{Directory, JournalFile};
pub(super) use recall::recall;
pub(super) use record::{Draft, HEADER, batch, mark};
pub(super) use replay::replay;
pub(super) use writer::Writer;

/// What to do where the journal cannot be read to its end.
pub const GO_BACK: &str =
    "go back to what was before it with larder check --repair, or restore the store from a backup";

#[cfg(feature = "testing")]
pub(super) use record::{ALIGN, Kind, parse};
