//! A catalog whose index is lost: what its journal still has, and a new index.

use std::path::Path;
use std::sync::Arc;

use super::Batch;
use super::dump::DumpReader;
use super::index::{Reach, build_with};
use super::journal::{self, Directory, JournalFile};
use super::local::FILE_LEN;
use super::table::Layer;
use crate::error::Result;
use crate::format::Seq;
use crate::io::Io;

/// What the journal had: all batches from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recalled {
    /// The first record.
    pub first: Seq,
    /// The last one.
    pub last: Seq,
}

/// Applies the batches that a store's journal still has, in an unbroken row up to its end or to damage. What the index
/// had is among them as far back as the files have not been written over. `verify` as in [`super::OpenOptions`]. None
/// where there is no record.
pub fn recall(
    io: &Arc<dyn Io>,
    dir: &Path,
    verify: &mut dyn FnMut(&Batch) -> Result<bool>,
    apply: &mut dyn FnMut(Batch),
) -> Result<Option<Recalled>> {
    let row = journal::recall(&files(io, dir)?.1, verify, apply)?;
    Ok(row.map(|(first, last)| Recalled { first: Seq(first), last: Seq(last) }))
}

/// Makes the index of a store that has none, from a dump, where there is one, and changes to it. The journal goes on
/// behind `last`, in a new file; what the others have is not needed any longer. Durable and whole, or not there.
pub fn build_anew(
    io: &Arc<dyn Io>,
    dir: &Path,
    dump: Option<DumpReader>,
    changes: Layer,
    last: Seq,
) -> Result<()> {
    let (directory, files) = files(io, dir)?;
    let newest = files.last().map_or(0, |file| file.number);
    let file = directory.create(directory.number_behind(newest))?.number;
    build_with(io, dir, dump, changes, Reach { seq: last.0, file })
}

fn files(io: &Arc<dyn Io>, dir: &Path) -> Result<(Directory, Vec<Arc<JournalFile>>)> {
    // The file that is made is the shortest that there may be; later ones have their own length.
    let directory = Directory::open(io.clone(), dir.join("journal"), *FILE_LEN.start())?;
    let files = directory.files()?.into_iter().map(Arc::new).collect();
    Ok((directory, files))
}
