//! `larder exists`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use larder::error::Result;

use super::at::{At, EXIT, NO, YES, failed};

/// Tell whether a key is there
///
/// It prints nothing.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Exists {
    #[command(flatten)]
    at: At,
    /// The key
    key: OsString,
}

impl Exists {
    pub fn run(self) -> Result<u8> {
        let store = self.at.open(false)?;
        let code = match store.exists(self.key.as_bytes()) {
            Ok(true) => YES,
            Ok(false) => NO,
            Err(error) => failed(&self.key, &error),
        };
        store.close()?;
        Ok(code)
    }
}
