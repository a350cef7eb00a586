//! The commands, one file each. They print, ask and exit: 0 when done, 1 when it failed, 2 when the
//! command line is wrong; those on keys 0 for done and yes, 1 for not there and no, 2 when it failed; each one's help tells. Errors go
//! to stderr as `larder: what: why; what to do`.

#[macro_use]
mod output;

mod align;
mod at;
mod backup;
mod check;
mod cleanup;
mod clear;
mod completions;
mod compress;
mod config;
mod daemon;
mod du;
mod exists;
mod get;
mod has;
mod lock;
mod log_file;
mod ls;
mod mark;
mod mount;
mod progress;
mod resolve;
mod restore;
mod rm;
mod scrub;
mod set;
mod stat;
mod status;
mod sync;
mod touch;
mod umount;

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use larder::config::Settings;
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
  larder set notes/today < notes.txt       keys without a mount, or beside it: set, get, rm, ls, ...

Each command explains itself: larder mount --help";

#[derive(Subcommand)]
enum Command {
    Mount(Box<mount::Mount>),
    #[command(alias = "unmount")]
    Umount(umount::Umount),
    Sync(sync::Sync),
    Status(status::Status),
    Check(check::Check),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Set(set::Set),
    Get(get::Get),
    Rm(rm::Rm),
    Ls(ls::Ls),
    Stat(stat::Stat),
    Touch(touch::Touch),
    Exists(exists::Exists),
    Has(has::Has),
    Lock(lock::Lock),
    Resolve(resolve::Resolve),
    Du(du::Du),
    Mark(mark::Mark),
    Align(align::Align),
    Scrub(scrub::Scrub),
    Cleanup(cleanup::Cleanup),
    Clear(clear::Clear),
    Compress(compress::Compress),
    Decompress(compress::Decompress),
    Config(config::Config),
    Completions(completions::Completions),
    Man(completions::Man),
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Mount(command) => command.run(),
        Command::Umount(command) => command.run(),
        Command::Sync(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Backup(command) => return at::ended(command.run()),
        Command::Restore(command) => return at::ended(command.run()),
        Command::Set(command) => return at::ended(command.run()),
        Command::Get(command) => return at::ended(command.run()),
        Command::Rm(command) => return at::ended(command.run()),
        Command::Ls(command) => return at::ended(command.run()),
        Command::Stat(command) => return at::ended(command.run()),
        Command::Touch(command) => return at::ended(command.run()),
        Command::Exists(command) => return at::ended(command.run()),
        Command::Has(command) => return at::ended(command.run()),
        Command::Lock(command) => return at::ended(command.run()),
        Command::Resolve(command) => return at::ended(command.run()),
        Command::Du(command) => return at::ended(command.run()),
        Command::Mark(command) => return at::ended(command.run()),
        Command::Align(command) => return at::ended(command.run()),
        Command::Scrub(command) => return at::ended(command.run()),
        Command::Cleanup(command) => return at::ended(command.run()),
        Command::Clear(command) => return at::ended(command.run()),
        Command::Compress(command) => return at::ended(command.run()),
        Command::Decompress(command) => return at::ended(command.run()),
        Command::Config(command) => return at::ended(command.run()),
        Command::Completions(command) => return at::ended(command.run()),
        Command::Man(command) => return at::ended(command.run()),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            complain!("larder: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The store that is meant by a path, and where it is mounted.
fn store_of(path: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    let (store, mount) = table::find(path)?;
    Ok((store, mount.map(|mount| mount.point)))
}

/// What is to be said of a store whose daemon tells these figures of it, where its mount is not to be seen from here.
fn unseen(store: &Path, figures: &serde_json::Value) -> Option<String> {
    let point = figures.get("mountpoint")?.as_str()?;
    let pid = figures.get("pid")?.as_u64()?;
    let seen = table::of_store(store).is_ok_and(|mounts| !mounts.is_empty());
    (!seen).then(|| {
        format!(
            "its mount at {point} is not to be seen from here: it was taken out of the tree while in use, and process {pid} \
             ends with its last user, or when it gets SIGTERM again; or it is in another namespace"
        )
    })
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
                complain!("larder: {}: {error}", store.display());
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// What of the environment may be settings.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The settings that a store would be mounted with now.
fn settings_of(store: &Path) -> Result<Settings> {
    // That names the store, by whichever of the paths that lead to it.
    let environment = environment().filter(|(name, _)| name != "LARDER_STORAGE_PATH");
    Settings::load(store, Settings::read_file(store)?.as_deref(), environment, [])
}

/// Replaces a file of a store; whoever reads it, and whatever happens, finds the old or the new.
fn replace(file: &Path, text: &str) -> Result<()> {
    output::to_file(file, |new| {
        let mut write = || {
            new.set_permissions(Permissions::from_mode(0o600))?;
            new.write_all(text.as_bytes())?;
            new.sync_all()
        };
        write().map_err(Error::io(format!("writing {}", file.display())))
    })
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
