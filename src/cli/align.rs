//! `larder align`

use larder::error::{Error, Result};

use super::at::{At, EXIT, NO, YES};
use super::human;
use super::progress::watching;

/// Evict keys down to the limits, now
///
/// What may be evicted is said by larder mark, or the attribute user.larder.evictable; what goes first by
/// cache-eviction-policy. What has expired or is removed goes before. All of that happens by itself while the store is
/// mounted, from 1/16 of storage-size-limit below it on, 16 MiB at least, of a small limit 1/8. Exit status 1: it still takes more than
/// it should, since nothing more may be evicted; never with --dry-run.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Align {
    #[command(flatten)]
    at: At,
    /// Say what would go, and evict nothing
    #[arg(long)]
    dry_run: bool,
    /// As JSON, sizes in bytes
    #[arg(long)]
    json: bool,
}

impl Align {
    pub fn run(self) -> Result<u8> {
        let store = self.at.open(false)?;
        let done = match self.dry_run {
            true => watching(&store, "looking for what would go", || store.would_align())?,
            false => watching(&store, "evicting", || store.align())?,
        };
        if self.json {
            let text = serde_json::to_string(&done).map_err(|e| Error::io("writing JSON")(e.into()))?;
            say!("{text}")?;
        } else {
            let (count, bytes) = (done.evicted, human(done.evicted_bytes));
            match self.dry_run {
                true => say!("{count} keys with {bytes} on the disk would go first")?,
                false => say!("{count} keys with {bytes} on the disk evicted")?,
            }
            match done.goal {
                None => say!("the store has no limit, and takes {}", human(done.used))?,
                Some(goal) => say!("the store takes {}, and should take {}", human(done.used), human(goal))?,
            }
        }
        store.close()?;
        Ok(if done.excess() > 0 && !self.dry_run { NO } else { YES })
    }
}
