//! `larder backup`

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder::backup::{Outcome, Progress, back_up};
use larder::clock::Clock;
use larder::control::{Request, ask_watching};
use larder::error::{Error, Result};
use larder::format::files::is_store;
use larder::io::RealDisk;
use larder::mount::session;
use larder::volume::Volume;
use nix::sys::stat::{Mode, umask};

use super::at::{NO, YES};
use super::human;
use super::progress::bytes_bar;

/// Copy a whole store to a directory, mounted or not, or bring the copy there up to date
///
/// The copy is the store as it is at one moment; who uses the store goes on meanwhile. Where DEST has a backup of the
/// same store, only what is new is copied. Interrupted, the backup that was complete before is still there, and whole.
/// What is deleted in a mounted store while it is copied gives its room back once that part is copied.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Backup {
    /// The store, its mount point or a path below that
    store: PathBuf,
    /// Where the copy is, or is made: an empty directory, or one that does not exist
    dest: PathBuf,
    /// As JSON, sizes in bytes
    #[arg(long)]
    json: bool,
}

/// What the commands on backups say behind their help.
pub const EXIT: &str = "\
Exit status: 0 done, 1 done but for pages that are damaged, 2 failed.";

impl Backup {
    pub fn run(self) -> Result<u8> {
        let (store, point) = super::store_of(&self.store)?;
        // The copy, where the files of all users lie, is its owner's alone.
        umask(Mode::from_bits_truncate(0o077));
        let dest = absolute(&self.dest)?;
        let bar = bytes_bar("copying");
        let show = |Progress { done, total }| {
            bar.set_length(total);
            bar.set_position(done);
        };
        let outcome = match point {
            Some(point) => {
                if dest.starts_with(&point) {
                    return Err(Error::store(
                        &dest,
                        "it lies in the mount of the store: name another directory",
                    ));
                }
                let path = dest.as_os_str().as_bytes();
                let request = Request::Backup { body: path.len() as u32 };
                let answer = ask_watching(&store, request, path, &mut |progress| {
                    if let Ok(progress) = serde_json::from_value(progress) {
                        show(progress);
                    }
                });
                serde_json::from_value(session::answered(&store, answer)?)
                    .map_err(|error| Error::io("the daemon's answer")(error.into()))?
            }
            None => {
                let volume = open(&store)?;
                let outcome = back_up(&volume, Arc::new(RealDisk), &dest, &|progress| {
                    show(progress);
                    Ok(())
                });
                let closed = volume.close();
                let outcome = outcome?;
                closed?;
                outcome
            }
        };
        bar.finish_and_clear();
        print(&outcome, self.json, "backed up")
    }
}

/// Says what it came to, and returns the exit status.
pub fn print(outcome: &Outcome, json: bool, done: &str) -> Result<u8> {
    for damage in &outcome.examples {
        complain!("larder: inode {} page {}: {}", damage.ino, damage.page, damage.why);
    }
    if json {
        let text = serde_json::to_string(outcome).map_err(|error| Error::io("writing JSON")(error.into()))?;
        say!("{text}")?;
    } else {
        let (bytes, copied) = (human(outcome.bytes), human(outcome.copied));
        say!("{done}: {} frames with {bytes}, of which {copied} copied", outcome.frames)?;
        if outcome.damaged > 0 {
            say!("{} pages are damaged: their files cannot be read there", outcome.damaged)?;
        }
    }
    Ok(if outcome.damaged == 0 { YES } else { NO })
}

/// Opens a store that is not mounted.
fn open(store: &Path) -> Result<Arc<Volume>> {
    if !is_store(store)? {
        return Err(Error::store(store, "there is no store here"));
    }
    Volume::open(super::settings_of(store)?, Arc::new(RealDisk), Clock::System)
}

/// A path that the daemon understands too, symbolic links resolved as far as it exists.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(path).map_err(|error| Error::store(path, error.to_string()))?;
    for there in whole.ancestors() {
        if let Ok(real) = std::fs::canonicalize(there) {
            return Ok(whole.strip_prefix(there).map_or(real.clone(), |rest| {
                match rest.as_os_str().is_empty() {
                    true => real.clone(),
                    false => real.join(rest),
                }
            }));
        }
    }
    Ok(whole)
}
