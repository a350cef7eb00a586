//! What a repair takes out of use, kept in the store's directory as it was: nothing is thrown away.
//!
//! ```text
//! STORE/damaged/records           a line for each record of the catalog: key and value, in hexadecimal
//! STORE/damaged/journal/NNNNNNNN  the journal's files from before it was cut at its damage
//! STORE/damaged/index.redb        an index that could not be read, from before the catalog was made anew
//! STORE/damaged/FORMAT            what it read
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::io::Io;

/// The directory in the store's.
pub const DIR: &str = "damaged";

/// What is copied at a time, bytes.
const PART: usize = 1 << 20;

/// Where records are kept.
#[derive(Debug)]
pub struct Aside<'a> {
    io: &'a Arc<dyn Io>,
    dir: PathBuf,
    lines: String,
}

impl<'a> Aside<'a> {
    pub fn new(io: &'a Arc<dyn Io>, store: &Path) -> Aside<'a> {
        Aside { io, dir: store.join(DIR), lines: String::new() }
    }

    /// Takes a record in; the next [`Aside::write`] makes it durable.
    pub fn keep(&mut self, key: &[u8], value: &[u8]) {
        for (bytes, end) in [(key, ' '), (value, '\n')] {
            self.lines.extend(bytes.iter().map(|byte| format!("{byte:02x}")));
            self.lines.push(end);
        }
    }

    /// Makes durable what was taken in.
    pub fn write(&mut self) -> Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let path = self.dir.join("records");
        let failed = || Error::io(format!("writing {}", path.display()));
        self.io.create_dir_all(&self.dir).map_err(failed())?;
        let file = self.io.open(&path, true).map_err(failed())?;
        let end = file.len().map_err(failed())?;
        file.write_all_at(self.lines.as_bytes(), end).map_err(failed())?;
        file.sync().map_err(failed())?;
        self.io.sync_dir(&self.dir).map_err(failed())?;
        self.io.sync_dir(self.dir.parent().unwrap_or(&self.dir)).map_err(failed())?;
        self.lines.clear();
        Ok(())
    }
}

/// Copies the journal's files.
pub fn copy_journal(io: &Arc<dyn Io>, store: &Path) -> Result<()> {
    let journal = store.join("journal");
    let files = io.list(&journal).map_err(Error::io(format!("listing {}", journal.display())))?;
    let mut names = files.iter().filter_map(|path| path.file_name());
    names.try_for_each(|name| copy(io, store, &Path::new("journal").join(name)))
}

/// Moves a file of the store into the directory, where there is one.
pub fn take(io: &Arc<dyn Io>, store: &Path, name: &str) -> Result<()> {
    let (from, to) = (store.join(name), store.join(DIR));
    let failed = || Error::io(format!("moving {} into {}", from.display(), to.display()));
    io.create_dir_all(&to).map_err(failed())?;
    match io.rename(&from, &to.join(name)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        moved => moved.map_err(failed())?,
    }
    io.sync_dir(&to).and_then(|()| io.sync_dir(store)).map_err(failed())
}

/// Copies a file of the store into the directory, under the same name; durable when this returns.
pub fn copy(io: &Arc<dyn Io>, store: &Path, name: &Path) -> Result<()> {
    let (from, to) = (store.join(name), store.join(DIR).join(name));
    let failed = || Error::io(format!("copying {} to {}", from.display(), to.display()));
    let parent = to.parent().unwrap_or(store);
    io.create_dir_all(parent).map_err(failed())?;
    let (source, target) = (io.open_read(&from).map_err(failed())?, io.open(&to, true).map_err(failed())?);
    let len = source.len().map_err(failed())?;
    target.set_len(0).map_err(failed())?;
    let mut part = vec![0; PART];
    let mut at = 0;
    while at < len {
        let got = source.read_at(&mut part, at).map_err(failed())?;
        if got == 0 {
            break;
        }
        target.write_all_at(part.get(..got).unwrap_or_default(), at).map_err(failed())?;
        at += got as u64;
    }
    target.sync().map_err(failed())?;
    // Its name, and those of the directories above it.
    let mut made = parent.ancestors().take_while(|dir| dir.starts_with(store));
    made.try_for_each(|dir| io.sync_dir(dir)).map_err(failed())
}
