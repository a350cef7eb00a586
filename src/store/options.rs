//! How a store is opened, and how a key is set.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Store;
use super::door::Door;
use super::mounted::Mounted;
use super::opened::Opened;
use crate::clock::{Clock, Time};
use crate::config::{FILE_NAME, NEW_FILE, Settings};
use crate::error::{Error, Result};
use crate::format::Codec;
use crate::format::files::is_store;
use crate::io::{Io, RealDisk};
use crate::volume::{self, NewFile, Volume};

/// How often a store that is in use is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// When a change is safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// It survives the end of this process at once, and a power failure after the commit interval (5 s unless set
    /// otherwise).
    #[default]
    Commit,
    /// It survives a power failure when the call returns.
    Sync,
}

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// So long after it is set, rounded up to a second. This is also the period that a touch renews.
    In(Duration),
    /// At this time, before 2262-04-11T23:47:17Z.
    At(SystemTime),
}

impl Expiry {
    pub(super) fn to_volume(self) -> Result<volume::Expiry> {
        Ok(match self {
            Expiry::Never => volume::Expiry::Never,
            Expiry::At(time) => {
                let at = Time::from(time);
                if at == Time::LAST {
                    return Err(Error::Invalid("an expiry must be before 2262-04-11T23:47:17Z".into()));
                }
                volume::Expiry::At(at)
            }
            Expiry::In(time) => {
                let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
                let too_long = |_| Error::Invalid(format!("a time to live of {seconds} s is too long"));
                volume::Expiry::In(u32::try_from(seconds).map_err(too_long)?)
            }
        })
    }
}

/// How a key is set. What is not said is as the store was opened with, and beyond that as the key's directory says.
///
/// ```
/// use std::time::Duration;
/// use larder::store::{Codec, SetOptions};
///
/// let hour = SetOptions::new().ttl(Duration::from_secs(3600)).codec(Codec::Zstd(3));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetOptions {
    expiry: Option<Expiry>,
    codec: Option<Codec>,
    durability: Option<Durability>,
}

impl SetOptions {
    /// Nothing said.
    pub const fn new() -> SetOptions {
        SetOptions { expiry: None, codec: None, durability: None }
    }

    /// The key expires when this time has passed, which is also the period that a touch renews.
    #[must_use]
    pub fn ttl(self, time: Duration) -> SetOptions {
        self.expires(Expiry::In(time))
    }

    /// When the key expires.
    #[must_use]
    pub fn expires(self, expiry: Expiry) -> SetOptions {
        SetOptions { expiry: Some(expiry), ..self }
    }

    /// How the value is compressed.
    #[must_use]
    pub fn codec(self, codec: Codec) -> SetOptions {
        SetOptions { codec: Some(codec), ..self }
    }

    /// When the change is safe.
    #[must_use]
    pub fn durability(self, durability: Durability) -> SetOptions {
        SetOptions { durability: Some(durability), ..self }
    }

    /// What is said here, and where nothing is, what is said there.
    pub(super) fn or(self, other: SetOptions) -> SetOptions {
        SetOptions {
            expiry: self.expiry.or(other.expiry),
            codec: self.codec.or(other.codec),
            durability: self.durability.or(other.durability),
        }
    }

    pub(super) fn new_file(&self) -> Result<NewFile> {
        Ok(NewFile { expiry: self.expiry.map(Expiry::to_volume).transpose()?, codec: self.codec })
    }

    pub(super) fn durable(&self) -> Durability {
        self.durability.unwrap_or_default()
    }
}

/// How a store is opened. Made by [`Store::options`].
#[derive(Clone, Debug)]
pub struct Options {
    defaults: SetOptions,
    create: bool,
    wait: Duration,
    settings: Vec<(String, String)>,
}

impl Options {
    pub(super) fn new() -> Options {
        Options { defaults: SetOptions::new(), create: true, wait: Duration::ZERO, settings: Vec::new() }
    }

    /// How keys are set where it is not said each time.
    #[must_use]
    pub fn defaults(self, defaults: SetOptions) -> Options {
        Options { defaults, ..self }
    }

    /// Keys expire when this time has passed, where nothing else is said.
    #[must_use]
    pub fn ttl(mut self, time: Duration) -> Options {
        self.defaults = self.defaults.ttl(time);
        self
    }

    /// How values are compressed, where nothing else is said.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Options {
        self.defaults = self.defaults.codec(codec);
        self
    }

    /// When changes are safe, where nothing else is said. [`Durability::Commit`] unless set.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Options {
        self.defaults = self.defaults.durability(durability);
        self
    }

    /// Whether a store is made where there is none, as it is unless set.
    #[must_use]
    pub fn create(self, create: bool) -> Options {
        Options { create, ..self }
    }

    /// How long to wait for a store that another process has open. Not at all unless set.
    #[must_use]
    pub fn wait(self, wait: Duration) -> Options {
        Options { wait, ..self }
    }

    /// A setting of the store, by its name in `larder.toml`, which it overrides: `cache-size-limit`, `commit-interval` and
    /// so on. It is checked when the store is opened. A mounted store has the settings that it was mounted with.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Options {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Opens the store in this directory. As [`Store::open`].
    ///
    /// # Errors
    ///
    /// As [`Store::open`]; [`Error::Config`] names a setting that is wrong.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        let dir = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
        let dir = dir.map_err(Error::io(format!("finding {}", path.display())))?;
        if !self.create && !is_store(&dir)? {
            return Err(Error::store(path, "there is no store here"));
        }
        let file = Settings::read_file(&dir)?;
        let settings = Settings::load(&dir, file.as_deref(), [], self.settings.iter().cloned())?;
        let begun = Instant::now();
        let volume = loop {
            match Volume::open(settings.clone(), Arc::new(RealDisk), Clock::System) {
                Err(Error::InUse(_)) if begun.elapsed() < self.wait => std::thread::sleep(TRY_AGAIN),
                opened => break opened?,
            }
        };
        let store = self.of_volume(volume, &dir);
        if file.is_none() {
            let path = dir.join(FILE_NAME);
            let opened = RealDisk.open(&path, true);
            let written = opened.and_then(|file| file.write_all_at(NEW_FILE.as_bytes(), 0));
            written.map_err(Error::io(format!("writing {}", path.display())))?;
        }
        Ok(store)
    }

    /// Connects to a mounted store. As [`Store::connect`].
    ///
    /// # Errors
    ///
    /// As [`Store::connect`].
    pub fn connect(&self, path: impl AsRef<Path>) -> Result<Store> {
        let mounted = Mounted::find(path.as_ref())?;
        Ok(Store { door: Door::Mounted(Arc::new(mounted)), defaults: self.defaults })
    }

    /// A store on a volume that is open. `dir` is where its lock file is.
    pub fn of_volume(&self, volume: Arc<Volume>, dir: &Path) -> Store {
        let opened = Opened::new(volume, dir.to_owned());
        Store { door: Door::Opened(Arc::new(opened)), defaults: self.defaults }
    }
}
