//! What lies in a store's directory.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The names; each may also stand there with `.new` behind it, while it is written.
pub const FILES: [&str; 12] = [
    "FORMAT",
    "larder.toml",
    "lock",
    "control",
    LOG,
    "journal",
    "index.redb",
    "reserve",
    "segments",
    "damaged",
    "backup",
    "scrub.json",
];

/// The daemon's log; that with `.old` behind it is the one before.
pub const LOG: &str = "larder.log";

/// There while `larder restore` makes the store.
pub const RESTORING: &str = "RESTORING";

/// Whether Larder puts a file of this name into the directory of a store.
pub fn is_of_store(name: &str) -> bool {
    let name = name.strip_suffix(".new").unwrap_or(name);
    FILES.contains(&name) || name.strip_suffix(".old") == Some(LOG)
}

/// Whether there is a store in this directory. Errors: `Store`, when that cannot be seen.
pub fn is_store(dir: &Path) -> Result<bool> {
    match dir.join("FORMAT").try_exists() {
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(false),
        there => there.map_err(|error| Error::store(dir, error.to_string())),
    }
}

/// Refuses a store that is not whole yet; `there` is what its directory has.
pub fn refuse_unrestored(dir: &Path, there: &[PathBuf]) -> Result<()> {
    let begun = |path: &PathBuf| path.file_stem().is_some_and(|name| name == RESTORING);
    if there.iter().any(begun) {
        let why = "it is not whole: larder restore is at it, or was interrupted. Where it was, remove the directory and \
                   restore again";
        return Err(Error::store(dir, why));
    }
    Ok(())
}
