//! What the commands on keys have in common: which store is meant, how they end, how they print.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use larder::config::{NAMES, variable_of};
use larder::control::{Request, ask};
use larder::error::{Error, Result};
use larder::mount::{session, table};
use larder::store::Store;

/// Yes, or done.
pub const YES: u8 = 0;
/// No, or not there.
pub const NO: u8 = 1;
/// It failed.
pub const FAILED: u8 = 2;

/// How long a command waits for a store that another process has open: that is another command, as a rule.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a mount may be on its way into the tree or out of it.
const ENDING: Duration = Duration::from_secs(2);
/// How often it looks.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// What every command on keys says behind its help.
pub const EXIT: &str = "\
Exit status: 0 done (or yes), 1 not there (or no), 2 failed.";

/// Which store is meant.
#[derive(clap::Args)]
pub struct At {
    /// The store: its directory, its mount point or a path below that [default: the only mounted store]
    #[arg(short, long, env = "LARDER_STORAGE_PATH", value_name = "PATH", global = true)]
    store: Option<PathBuf>,
}

impl At {
    /// The path that was named, or that of the only mounted store.
    pub fn path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.store {
            return Ok(path.clone());
        }
        match <[PathBuf; 1]>::try_from(table::stores()?) {
            Ok([store]) => Ok(store),
            Err(none) if none.is_empty() => {
                Err(Error::Config("no store is mounted: name one with --store PATH".to_owned()))
            }
            Err(_) => Err(Error::Config("several stores are mounted: name one with --store PATH".to_owned())),
        }
    }

    /// Whether the store is mounted, as far as can be told.
    pub fn mounted(&self) -> bool {
        self.path().and_then(|path| table::find(&path)).is_ok_and(|(_, point)| point.is_some())
    }

    /// The store, through its mount where it is mounted, else opened here.
    pub fn open(&self, create: bool) -> Result<Store> {
        let mut path = self.path()?;
        let mut options = Store::options().create(create);
        for name in NAMES.into_iter().filter(|name| *name != "storage-path") {
            if let Ok(value) = std::env::var(variable_of(name)) {
                options = options.setting(name, value);
            }
        }
        let begun = Instant::now();
        // Since when there has been a daemon, and no way to it.
        let mut barred = None::<Instant>;
        loop {
            match table::find(&path) {
                Ok((store, Some(_))) => match options.connect(&path) {
                    // It may have been unmounted since.
                    Err(Error::Store { .. })
                        if barred.get_or_insert_with(Instant::now).elapsed() < ENDING
                            && session::death_of(&store).is_none() =>
                    {
                        // What was named may have been the mount point, which is an ordinary directory by then.
                        path = store;
                        std::thread::sleep(TRY_AGAIN);
                        continue;
                    }
                    connected => return connected,
                },
                Err(error) if table::resolve(&path).is_ok() => return Err(error),
                // One that does not exist is not mounted either; opening it says what there is to say.
                _ => {}
            }
            match options.open(&path) {
                // It may be mounted or unmounted just now.
                Err(Error::InUse(store)) if begun.elapsed() < PATIENCE => {
                    let waits = begun.elapsed() > ENDING;
                    let figures = waits.then(|| ask(&store, Request::Status).ok()).flatten();
                    match figures.and_then(|figures| super::unseen(&store, &figures)) {
                        Some(why) if barred.get_or_insert_with(Instant::now).elapsed() > ENDING => {
                            return Err(Error::store(&store, why));
                        }
                        Some(_) => {}
                        None => barred = None,
                    }
                    std::thread::sleep(TRY_AGAIN);
                }
                opened => return opened,
            }
        }
    }
}

/// Ends a command on keys: a failure is reported, and is 2.
pub fn ended(outcome: Result<u8>) -> ExitCode {
    ExitCode::from(outcome.unwrap_or_else(|error| {
        complain!("larder: {error}");
        if matches!(error, Error::NotFound) { NO } else { FAILED }
    }))
}

/// Reports the failure of one key among others.
pub fn failed(key: &OsStr, error: &Error) -> u8 {
    match error {
        // These name the key or the store themselves.
        Error::Key { .. } | Error::Store { .. } | Error::InUse(_) => complain!("larder: {error}"),
        // The whole store.
        _ if key.is_empty() => complain!("larder: {error}"),
        Error::NotFound => complain!("larder: {}: no such key", shown(key.as_bytes())),
        _ => complain!("larder: {}: {error}", shown(key.as_bytes())),
    }
    if matches!(error, Error::NotFound) { NO } else { FAILED }
}

/// Bytes for a person to read: those that would steer a terminal show as `?`.
pub fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The time left until a moment, in two units: `6d 23h`.
pub fn left(time: Duration) -> String {
    let seconds = time.as_secs();
    for (unit, name, next, next_name) in [(86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")] {
        if seconds >= unit {
            return format!("{}{name} {}{next_name}", seconds / unit, seconds % unit / next);
        }
    }
    format!("{seconds}s")
}
