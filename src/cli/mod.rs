//! The commands, one file each. They print, ask and exit: 0 when done, 1 when it failed, 2 when the
//! command line is wrong. Errors go to stderr as `larder: what: why; what to do`.

mod check;
mod daemon;
mod log_file;
mod mount;
mod status;
mod sync;
mod umount;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use larder::error::{Error, Result};
use larder::mount::table;

/// A compressing filesystem: a store, which is a directory, is mounted as a tree of files.
///
/// Whatever is written below the mount point is kept compressed in the store, and is there again the
/// next time it is mounted.
#[derive(Parser)]
#[command(name = "larder", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  larder mount ~/store.larder ~/larder     make the store if it is not there, and mount it
  cp -r logs ~/larder/                     use it like any directory
  larder status ~/larder                   how much space that takes, and saves
  larder umount ~/larder                   unmount; everything is safely on the disk then

Each command explains itself: larder mount --help";

#[derive(Subcommand)]
enum Command {
    Mount(Box<mount::Mount>),
    #[command(alias = "unmount")]
    Umount(umount::Umount),
    Sync(sync::Sync),
    Status(status::Status),
    Check(check::Check),
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Mount(command) => command.run(),
        Command::Umount(command) => command.run(),
        Command::Sync(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Check(command) => command.run(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("larder: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The store that is meant by a path: a mount point's, or of the mount that the path lies in, or the
/// path itself.
fn store_of(path: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    let resolved = table::resolve(path).map_err(|error| Error::store(path, error.to_string()))?;
    let mounts = table::all().map_err(Error::io("reading /proc/self/mountinfo"))?;
    // The innermost mount that holds the path; of several at one place the newest lies on top.
    let holder = mounts
        .iter()
        .filter(|mount| resolved.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count());
    match holder.filter(|mount| mount.is_ours()) {
        Some(mount) => Ok((mount.source.clone(), Some(mount.point.clone()))),
        None => {
            let point = mounts.iter().rfind(|mount| mount.is_ours() && mount.source == resolved);
            Ok((resolved, point.map(|mount| mount.point.clone())))
        }
    }
}

/// Does something with each store. Where they were not `named`, one at which it fails is reported and does not
/// keep the others from their turn.
fn for_each(named: bool, stores: Vec<PathBuf>, each: impl Fn(&Path) -> Result<()>) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for store in stores {
        match each(&store) {
            Ok(()) => {}
            Err(error) if named => return Err(error),
            Err(error) => {
                eprintln!("larder: {}: {error}", store.display());
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// A size with three significant digits, in units of 1024.
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1000.0 || unit == "TiB" {
            let digits = if unit == "B" || value >= 100.0 {
                0
            } else if value >= 10.0 {
                1
            } else {
                2
            };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{bytes} B")
}
