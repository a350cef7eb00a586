//! `larder lock`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;

use larder::error::{Error, Result};
use larder::mount::table;
use larder::store::{Key, KeyLock, Store};

use super::at::{At, NO};

/// Run a command while holding the lock on a key
///
/// Others that ask for the lock wait: this command, the library, and in a mounted store holders of an flock(2)
/// on the key's file, until the key is set anew. The key need not be there. The lock is held until the command has ended, and
/// whatever it has left running.
#[derive(clap::Args)]
#[command(after_help = "Exit status: that of the command, 128 and the signal's number when one ended it; \
                        1 with --no-wait when another has the lock; 2 failed.")]
pub struct Lock {
    #[command(flatten)]
    at: At,
    /// The key
    key: OsString,
    /// Do not wait for the lock
    #[arg(short, long)]
    no_wait: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Lock {
    pub fn run(self) -> Result<u8> {
        let key = Key::new(self.key.as_bytes())?;
        let path = self.at.path()?;
        let (dir, mount) = table::find(&path)?;
        let lock = match mount {
            Some(_) => Store::connect(&path)?.key_lock(&key, !self.no_wait)?,
            // Not opened: the command will want to.
            None => KeyLock::take(&dir, &key, !self.no_wait)?,
        };
        let Some(lock) = lock else {
            complain!("larder: {key}: another has the lock");
            return Ok(NO);
        };
        // Whatever ends this process, the command may go on for a while.
        lock.pass_on()?;
        self.perform()
    }

    fn perform(&self) -> Result<u8> {
        let (program, arguments) = self.command.split_first().ok_or(Error::NotFound)?;
        let run = std::process::Command::new(program).args(arguments).status();
        let status = run.map_err(Error::io(format!("running {}", program.display())))?;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
    }
}
