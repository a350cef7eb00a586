//! `larder cleanup`

use larder::error::{Error, Result};

use super::at::{At, EXIT, YES};
use super::human;
use super::progress::watching;

/// Remove what has expired, and give the disk its room back, now
///
/// All of that happens by itself in time, while the store is mounted.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Cleanup {
    #[command(flatten)]
    at: At,
    /// Say what there is to do, and do nothing; a store that is not mounted is opened for that, and what has expired goes with it
    #[arg(long)]
    dry_run: bool,
    /// As JSON, sizes in bytes
    #[arg(long)]
    json: bool,
}

impl Cleanup {
    pub fn run(self) -> Result<u8> {
        let store = self.at.open(false)?;
        let text = |text: serde_json::Result<String>| text.map_err(|e| Error::io("writing JSON")(e.into()));
        if self.dry_run {
            let chores = store.chores()?;
            match self.json {
                true => say!("{}", text(serde_json::to_string(&chores))?)?,
                false => say!(
                    "{} keys have expired, {} files are to be reclaimed, up to {} may come back",
                    chores.expired,
                    chores.unlinked,
                    human(chores.reclaimable)
                )?,
            }
        } else {
            let cleaned = watching(&store, "cleaning up", || store.cleanup())?;
            match self.json {
                true => say!("{}", text(serde_json::to_string(&cleaned))?)?,
                false => say!("{} files removed, {} given back", cleaned.removed, human(cleaned.freed))?,
            }
        }
        store.close()?;
        Ok(YES)
    }
}
