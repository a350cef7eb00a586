//! `larder rm`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use larder::error::{Error, Result};

use super::at::{At, EXIT, YES, failed};

/// Remove keys
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Rm {
    #[command(flatten)]
    at: At,
    /// The keys
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<OsString>,
    /// Remove directories, too, each with all that is in it in one step
    #[arg(short, long)]
    recursive: bool,
    /// Say nothing of keys that are not there
    #[arg(short, long)]
    force: bool,
}

impl Rm {
    pub fn run(self) -> Result<u8> {
        let store = self.at.open(false)?;
        let mut code = YES;
        for key in &self.keys {
            let removed = match self.recursive {
                true => store.delete_all(key.as_bytes()),
                false => store.delete(key.as_bytes()),
            };
            match removed {
                Ok(there) if there || self.force => {}
                Ok(_) => code = code.max(failed(key, &Error::NotFound)),
                Err(Error::IsADirectory) => {
                    let why = "it is a directory; -r removes it with all that is in it";
                    code = code.max(failed(key, &Error::Invalid(why.to_owned())));
                }
                Err(error) => code = code.max(failed(key, &error)),
            }
        }
        store.close()?;
        Ok(code)
    }
}
