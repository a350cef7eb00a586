//! `larder restore`

use std::path::PathBuf;
use std::sync::Arc;

use larder::backup::{Progress, restore};
use larder::error::Result;
use larder::io::RealDisk;
use nix::sys::stat::{Mode, umask};

use super::backup::{EXIT, absolute, print};
use super::progress::bytes_bar;

/// Make a store from a backup
///
/// The store has everything that was in the one that was backed up, at that moment, and can be mounted at once. Until
/// all of it is safely on the disk the directory is no store: interrupted, it is to be removed and restored again.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Restore {
    /// The backup
    backup: PathBuf,
    /// The store to make: an empty directory, or one that does not exist
    store: PathBuf,
    /// As JSON, sizes in bytes
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub fn run(self) -> Result<u8> {
        // The store, where the files of all users lie, is its owner's alone.
        umask(Mode::from_bits_truncate(0o077));
        let bar = bytes_bar("restoring");
        let outcome = restore(
            Arc::new(RealDisk),
            &absolute(&self.backup)?,
            &absolute(&self.store)?,
            &|Progress { done, total }| {
                bar.set_length(total);
                bar.set_position(done);
                Ok(())
            },
        )?;
        bar.finish_and_clear();
        print(&outcome, self.json, "restored")
    }
}
