//! `larder clear`

use std::io::IsTerminal;

use larder::error::{Error, Result};
use serde_json::json;

use super::at::{At, EXIT, NO, YES};
use super::output::to_output;
use super::progress::watching;

/// Remove all keys and directories of a store
///
/// On a terminal it asks first.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Clear {
    #[command(flatten)]
    at: At,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Say how many keys there are, and remove none
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run, as a JSON object
    #[arg(long, requires = "dry_run")]
    json: bool,
}

impl Clear {
    pub fn run(self) -> Result<u8> {
        let store = self.at.open(false)?;
        let count = || store.keys("").try_fold(0u64, |count, key| key.map(|_| count + 1));
        if self.dry_run {
            match self.json {
                true => say!("{}", json!({ "keys": count()? }))?,
                false => say!("{} keys would be removed from {}", count()?, store.path().display())?,
            }
            store.close()?;
            return Ok(YES);
        }
        if !self.yes {
            if !std::io::stdin().is_terminal() {
                return Err(Error::Config(
                    "nobody to ask whether to remove everything: say --yes".to_owned(),
                ));
            }
            let question = format!("Remove all {} keys of {}? [y/N] ", count()?, store.path().display());
            to_output(|out| out.write_all(question.as_bytes()))?;
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer).map_err(Error::io("asking"))?;
            if !matches!(answer.trim(), "y" | "Y" | "yes") {
                store.close()?;
                return Ok(NO);
            }
        }
        watching(&store, "removing everything", || store.clear())?;
        store.close()?;
        Ok(YES)
    }
}
