//! `larder has`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use larder::error::Result;

use super::at::{At, EXIT, NO, YES, failed};

/// Tell whether the value of a key is in memory, so that reading it waits for no disk
///
/// That is Larder's own memory: what was just written, and what is read in parts of a page. Pages of a mounted store that are read
/// whole are in the kernel's memory alone, which nobody can ask. It prints nothing. A store that is not mounted has nothing in memory.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Has {
    #[command(flatten)]
    at: At,
    /// The key
    key: OsString,
}

impl Has {
    pub fn run(self) -> Result<u8> {
        let store = self.at.open(false)?;
        let code = match store.has(self.key.as_bytes()) {
            Ok(true) => YES,
            Ok(false) => NO,
            Err(error) => failed(&self.key, &error),
        };
        store.close()?;
        Ok(code)
    }
}
