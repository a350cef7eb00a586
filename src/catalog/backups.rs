//! Where the backups of a catalog lie in its store: `backup/catalog-BATCH`, the number of the newest batch that surely is
//! in it, in 16 hexadecimal digits. Whoever makes one says what has that name.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::Seq;
use crate::io::Io;

const PREFIX: &str = "catalog-";

/// A backup, as its name says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backup {
    /// The newest batch that surely is in it.
    pub seq: Seq,
    /// Where it lies.
    pub path: PathBuf,
}

impl Backup {
    /// Where the one of a batch lies in a store.
    pub fn path(store: &Path, seq: Seq) -> PathBuf {
        folder_of(store).join(format!("{PREFIX}{:016x}", seq.0))
    }
}

/// The folder in a store.
pub fn folder_of(store: &Path) -> PathBuf {
    store.join("backup")
}

/// The backups in a store, the newest last. None where there is no folder.
pub fn backups(io: &dyn Io, store: &Path) -> Result<Vec<Backup>> {
    let folder = folder_of(store);
    let listed = match io.list(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(Error::io(format!("listing {}", folder.display())))?,
    };
    let seq = |path: &Path| {
        let digits = path.file_name()?.to_str()?.strip_prefix(PREFIX).filter(|digits| digits.len() == 16)?;
        u64::from_str_radix(digits, 16).ok().map(Seq)
    };
    let mut found: Vec<Backup> =
        listed.into_iter().filter_map(|path| Some(Backup { seq: seq(&path)?, path })).collect();
    found.sort();
    Ok(found)
}
