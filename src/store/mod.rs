//! The store as a key-value store: for programs that do not go through a mount.
//!
//! A key is a relative path, `a/b/c`, and its value is the content of that file: what is set here is a file when
//! the store is mounted, and the other way round. Keys expire, are compressed and survive as files do
//! (`docs/semantics.md`).
//!
//! ```
//! use std::time::Duration;
//! use larder::store::{SetOptions, Store};
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("sessions.larder");
//! let store = Store::open(&path)?;
//! store.set("users/alice", "some text")?;
//! assert_eq!(store.get("users/alice")?.as_deref(), Some(&b"some text"[..]));
//!
//! let hour = SetOptions::new().ttl(Duration::from_secs(3600));
//! store.set_with("sessions/17", "alice", &hour)?;
//! let left = store.stat("sessions/17")?.expect("it was just set").expires.expect("it has a time to live");
//!
//! let keys: Vec<String> = store.keys("").map(|key| Ok(key?.to_string())).collect::<larder::Result<_>>()?;
//! assert_eq!(keys, ["sessions/17", "users/alice"]);
//! store.close()?;
//! # Ok::<(), larder::Error>(())
//! ```
//!
//! **Atomic.** A [`set`](Store::set) replaces the value as a whole: every reader finds the old one or the new one, also
//! who looks after a crash. A [`Batch`] changes several keys so.
//!
//! **Durable.** [`Durability`] says when a change survives a power failure; the end of the process harms none.
//!
//! **New files.** A key that is set is a new file: of this user, with the permissions that the umask leaves, and what
//! it inherits from its directory. Hard links of the old file keep the old value. Symbolic links are not followed:
//! nothing is found behind them, and setting a key that is one replaces it.

#[cfg(feature = "tokio")]
pub mod asynchronous;
mod batch;
mod compress;
mod door;
mod key;
mod keys;
mod lock;
mod marks;
mod mounted;
mod opened;
mod options;
pub mod remote;
mod stream;
mod xattr;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

pub use crate::format::Codec;
pub use crate::volume::{Aligned, Chores, Cleaned, Hurt, Place, Scrubbed, Stats};
#[cfg(feature = "tokio")]
pub use asynchronous::AsyncStore;
pub use batch::Batch;
pub use compress::{compress, compress_stream, decompress, decompress_stream};
pub use key::Key;
pub use keys::Keys;
pub use lock::KeyLock;
pub use marks::{Mark, Marks};
pub use options::{Durability, Expiry, Options, SetOptions};
pub use stream::{Reader, Writer};

use crate::error::{Error, Result};
use crate::format::Kind;
use crate::shelf;
use crate::volume::{self, Change, To};
use door::Door;

/// A store. Clones are the same store; it is closed with the last of them and of the readers and writers made by them.
#[derive(Clone, Debug)]
pub struct Store {
    door: Door,
    defaults: SetOptions,
}

/// What is known of a key, or of a directory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stat {
    /// Whether it is a directory, which has no value.
    pub directory: bool,
    /// Bytes of the value.
    pub size: u64,
    /// Bytes on the disk that hold it, as far as it has been written there.
    pub stored: u64,
    /// Size ÷ stored; 1 where nothing is stored.
    pub ratio: f64,
    /// The codec that is set for it; none: the store's.
    #[serde(serialize_with = "as_text")]
    pub codec: Option<Codec>,
    /// When it expires, by itself or with a directory that it is in.
    #[serde(serialize_with = "as_time")]
    pub expires: Option<SystemTime>,
    /// When the value was last changed.
    #[serde(serialize_with = "as_some_time")]
    pub modified: SystemTime,
    /// When it was last touched; by [`Store::touch`], or as `touch -a` does. Before that, when it was made.
    #[serde(serialize_with = "as_some_time")]
    pub touched: SystemTime,
}

fn as_text<S: serde::Serializer>(codec: &Option<Codec>, to: S) -> std::result::Result<S::Ok, S::Error> {
    codec.map(|codec| codec.to_string()).serialize(to)
}

fn as_time<S: serde::Serializer>(time: &Option<SystemTime>, to: S) -> std::result::Result<S::Ok, S::Error> {
    time.map(|time| shelf::format_expires(time.into())).serialize(to)
}

fn as_some_time<S: serde::Serializer>(time: &SystemTime, to: S) -> std::result::Result<S::Ok, S::Error> {
    as_time(&Some(*time), to)
}

/// What a touch renews. Whatever it is, the key is marked as used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// The expiry, by the time to live that the key was set with. A key that has none goes on without.
    Expiration,
    /// Nothing but the mark of use: the stored size is counted with each change, so there is nothing to count anew.
    Size,
    /// Both: the same as [`Touch::Expiration`].
    Both,
}

impl Store {
    /// Opens the store in this directory for this process alone; makes one when the directory is missing or empty.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`]: another process has it open, maybe since it is mounted. [`Error::Store`]: the
    /// directory is no store, or one of a newer format. [`Error::Damaged`]: the catalog is not whole.
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        Store::options().open(path)
    }

    /// Connects to a mounted store, by the path of the store, of its mount point, or any below. Only root and the user who
    /// mounted the store can change keys so. The mount stays busy as long as this, its readers and writers are
    /// there.
    ///
    /// # Errors
    ///
    /// [`Error::Store`]: no store is mounted there.
    pub fn connect(path: impl AsRef<Path>) -> Result<Store> {
        Store::options().connect(path)
    }

    /// How to open a store otherwise than [`Store::open`] does.
    pub fn options() -> Options {
        Options::new()
    }

    /// Sets a key. Directories on its way are made.
    ///
    /// # Errors
    ///
    /// [`Error::Key`] and [`Error::NameTooLong`]: it is no key. [`Error::IsADirectory`]: other keys are below it.
    /// [`Error::NotADirectory`]: a part of it is a key. [`Error::NoSpace`], [`Error::QuotaExceeded`], [`Error::ReadOnly`],
    /// [`Error::Io`]: the store does not take it. The key is as it was then; but where it was to be durable at once and the flush
    /// failed, the new value may be seen until the store is closed.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.set_with(key, value, &SetOptions::new())
    }

    /// [`Store::set`] with options.
    ///
    /// # Errors
    ///
    /// As [`Store::set`]; [`Error::Invalid`]: the time to live is longer than 136 years, or the end is beyond 2262.
    pub fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<()> {
        let path = key.as_ref();
        key::check(path)?;
        let options = options.or(self.defaults);
        let change = Change { path, to: To::Content(value.as_ref(), options.new_file()?) };
        self.door.apply(&[change], options.durable() == Durability::Sync).map(drop)
    }

    /// The value of a key; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// [`Error::Key`], [`Error::NameTooLong`]: it is no key. [`Error::IsADirectory`]; [`Error::Invalid`]: it is a
    /// symbolic link or another file without content. [`Error::Damaged`]: what is stored is not what was; of a store that
    /// was connected to that is [`Error::Io`] with `EIO`, and the log of the mount names the damage.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let key = key.as_ref();
        key::check(key)?;
        self.door.get(key)
    }

    /// Reads the value of a key piece by piece; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// As [`Store::get`]. Damaged content is met by who reads it, as a [`std::io::Error`] that wraps the [`Error`].
    ///
    /// ```
    /// # use std::io::{Read, Write};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = larder::store::Store::open(dir.path().join("store"))?;
    /// let mut writer = store.writer("big")?;
    /// for n in 0..1000 {
    ///     writeln!(writer, "line {n}").unwrap();
    /// }
    /// writer.finish()?;
    ///
    /// let mut text = String::new();
    /// store.reader("big")?.expect("it is there").read_to_string(&mut text).unwrap();
    /// assert!(text.ends_with("line 999\n"));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn reader(&self, key: impl AsRef<[u8]>) -> Result<Option<Reader>> {
        let key = Key::new(key)?;
        Ok(self.door.open(key.as_bytes())?.map(Reader::new))
    }

    /// Writes the value of a key piece by piece. The key is set when [`Writer::finish`] is called.
    ///
    /// # Errors
    ///
    /// As [`Store::set`].
    pub fn writer(&self, key: impl AsRef<[u8]>) -> Result<Writer> {
        self.writer_with(key, &SetOptions::new())
    }

    /// [`Store::writer`] with options.
    ///
    /// # Errors
    ///
    /// As [`Store::set_with`].
    pub fn writer_with(&self, key: impl AsRef<[u8]>, options: &SetOptions) -> Result<Writer> {
        let options = options.or(self.defaults);
        Ok(Writer::new(self.door.clone(), Key::new(key)?, options.new_file()?, options.durable()))
    }

    /// Removes a key. Returns whether it was there. Directories stay, also when they become empty.
    ///
    /// # Errors
    ///
    /// As [`Store::set`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.remove(&Key::new(key)?, false)
    }

    /// Removes a key, or a directory with all the keys in it, in one step. Returns whether it was there.
    ///
    /// # Errors
    ///
    /// As [`Store::set`], but for [`Error::IsADirectory`].
    pub fn delete_all(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.remove(&Key::new(key)?, true)
    }

    fn remove(&self, key: &Key, tree: bool) -> Result<bool> {
        let change = Change { path: key.as_bytes(), to: To::Nothing { tree } };
        let there = self.door.apply(&[change], self.defaults.durable() == Durability::Sync)?;
        Ok(there.first() == Some(&true))
    }

    /// Makes all changes of a batch, or none: no reader finds some of them only, nor does who looks after a crash.
    /// Returns for each whether the key was there. Who reads through a mount may find keys of it as they were for some
    /// milliseconds before the call returns, as the kernel forgets what it knows of names one after the other.
    ///
    /// # Errors
    ///
    /// As [`Store::set`] for any of the keys; [`Error::Invalid`]: there are more than [`Batch::MAX`] changes. Nothing
    /// has changed then.
    ///
    /// ```
    /// # use larder::store::{Batch, Store};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path().join("store"))?;
    /// store.set("queue/1", "a job")?;
    /// let mut batch = Batch::new();
    /// batch.set("done/1", "its outcome")?.delete("queue/1")?;
    /// assert_eq!(store.apply(&batch)?, [false, true]);
    /// assert!(!store.exists("queue/1")?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn apply(&self, batch: &Batch) -> Result<Vec<bool>> {
        let mut durability = self.defaults.durable();
        let mut changes = Vec::with_capacity(batch.len());
        for (key, value) in &batch.changes {
            let to = match value {
                None => To::Nothing { tree: false },
                Some((value, options)) => {
                    let options = options.or(self.defaults);
                    durability = durability.max(options.durable());
                    To::Content(value, options.new_file()?)
                }
            };
            changes.push(Change { path: key.as_bytes(), to });
        }
        self.door.apply(&changes, durability == Durability::Sync)
    }

    /// Whether a key is there, whatever kind of file it is.
    ///
    /// # Errors
    ///
    /// [`Error::Key`], [`Error::NameTooLong`]: it is no key. [`Error::Io`]: the store cannot be read.
    pub fn exists(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.door.status(Key::new(key)?.as_bytes())?.is_some())
    }

    /// Whether the value of a key is in the store's memory, so that reading it waits for no disk. False for a key that
    /// is not there, and for a directory.
    ///
    /// # Errors
    ///
    /// As [`Store::exists`].
    pub fn has(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = Key::new(key)?;
        let Some(status) = self.door.status(key.as_bytes())? else { return Ok(false) };
        if status.kind != Kind::File {
            return Ok(false);
        }
        let pages = self.number(&key, "user.larder.cached")?;
        Ok(pages.is_some_and(|pages| pages << status.page_shift >= status.size))
    }

    /// What is known of a key, or of a directory; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// As [`Store::exists`].
    pub fn stat(&self, key: impl AsRef<[u8]>) -> Result<Option<Stat>> {
        let key = Key::new(key)?;
        let Some(status) = self.door.status(key.as_bytes())? else { return Ok(None) };
        let directory = status.kind == Kind::Directory;
        let size = if directory { 0 } else { status.size };
        let text = |name| self.text(&key, name);
        let stored = self.number(&key, "user.larder.stored")?.unwrap_or(0);
        let expires = text("user.larder.expires")?.map(|text| shelf::parse_expires(&text)).transpose()?;
        let touched = text("user.larder.touch")?.map(|text| shelf::parse_expires(&text)).transpose()?;
        Ok(Some(Stat {
            directory,
            size,
            stored,
            ratio: if stored == 0 { 1.0 } else { size as f64 / stored as f64 },
            codec: text("user.larder.codec")?.map(|text| text.parse()).transpose()?,
            expires: expires.flatten().map(SystemTime::from),
            modified: status.mtime.into(),
            touched: touched.flatten().unwrap_or(status.mtime).into(),
        }))
    }

    fn text(&self, key: &Key, name: &str) -> Result<Option<String>> {
        match self.door.attribute(key.as_bytes(), name) {
            Ok(value) => Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned())),
            // Gone since: as if it had nothing set.
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn number(&self, key: &Key, name: &str) -> Result<Option<u64>> {
        let bad = |_| Error::Damaged(format!("{key}: {name} is no number"));
        self.text(key, name)?.map(|text| text.parse().map_err(bad)).transpose()
    }

    /// Touches a key: marks it as used now, and renews what is asked for. A directory may be touched, too.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]: it is not there. Else as [`Store::set`].
    pub fn touch(&self, key: impl AsRef<[u8]>, what: Touch) -> Result<()> {
        let key = Key::new(key)?;
        let what = match what {
            Touch::Expiration => "expiration",
            Touch::Size => "size",
            Touch::Both => "expiration,size",
        };
        self.door.set_attribute(key.as_bytes(), "user.larder.touch", what.as_bytes())?;
        self.settle()
    }

    /// Sets when a key, or a directory with all that is in it, expires.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]: it is not there. Else as [`Store::set_with`].
    pub fn expire(&self, key: impl AsRef<[u8]>, expiry: Expiry) -> Result<()> {
        let key = Key::new(key)?;
        let (name, value) = match expiry.to_volume()? {
            volume::Expiry::Never => ("user.larder.expires", "never".to_owned()),
            volume::Expiry::At(time) => ("user.larder.expires", shelf::format_expires(time)),
            volume::Expiry::In(seconds) => ("user.larder.ttl", seconds.to_string()),
        };
        self.door.set_attribute(key.as_bytes(), name, value.as_bytes())?;
        self.settle()
    }

    /// Makes what has just been changed durable, where that is the store's [`Options::durability`].
    fn settle(&self) -> Result<()> {
        match self.defaults.durable() {
            Durability::Sync => self.door.apply(&[], true).map(drop),
            Durability::Commit => Ok(()),
        }
    }

    /// The keys that begin with these bytes, in the order of their bytes: all for an empty prefix, those of a
    /// directory for `logs/`, of the files whose names begin so for `logs/2030-`.
    pub fn keys(&self, prefix: impl AsRef<[u8]>) -> Keys {
        Keys::new(self.door.clone(), prefix.as_ref())
    }

    /// Calls `work` while holding the lock on a key, which need not be there. Others that ask for it wait: users of this
    /// library, in this process and in others, the `larder lock` command, and holders of an flock(2) on the key's file
    /// in a mounted store.
    ///
    /// The lock keeps nobody from reading or changing the key without it. Within `work` the same lock must not be
    /// asked for again: it would wait for itself.
    ///
    /// # Errors
    ///
    /// [`Error::Key`], [`Error::NameTooLong`]: it is no key. [`Error::Io`]: the store's lock file cannot be used.
    ///
    /// ```
    /// # use larder::store::Store;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path().join("store"))?;
    /// store.lock("counter", || -> larder::Result<()> {
    ///     let text = store.get("counter")?.unwrap_or_default();
    ///     let count: u64 = String::from_utf8_lossy(&text).parse().unwrap_or(0);
    ///     store.set("counter", (count + 1).to_string())
    /// })??;
    /// assert_eq!(store.get("counter")?.as_deref(), Some(&b"1"[..]));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn lock<T>(&self, key: impl AsRef<[u8]>, work: impl FnOnce() -> T) -> Result<T> {
        let _lock = self.key_lock(key, true)?;
        Ok(work())
    }

    /// [`Store::lock`] that does not wait: `None` when another has the lock.
    ///
    /// # Errors
    ///
    /// As [`Store::lock`].
    pub fn try_lock<T>(&self, key: impl AsRef<[u8]>, work: impl FnOnce() -> T) -> Result<Option<T>> {
        let lock = self.key_lock(key, false)?;
        Ok(lock.map(|_lock| work()))
    }

    /// The lock of [`Store::lock`] as a value: it is given back when that is dropped. `None` when another has it and `wait` is false.
    ///
    /// # Errors
    ///
    /// As [`Store::lock`].
    pub fn key_lock(&self, key: impl AsRef<[u8]>, wait: bool) -> Result<Option<KeyLock>> {
        self.door.lock(&Key::new(key)?, wait)
    }

    /// Where a key's file is: the path at which it is found in a mounted store. `None` when the store is not mounted.
    ///
    /// # Errors
    ///
    /// As [`Key::new`].
    pub fn resolve(&self, key: impl AsRef<[u8]>) -> Result<Option<PathBuf>> {
        use std::os::unix::ffi::OsStrExt;
        let key = Key::new(key)?;
        let path = std::ffi::OsStr::from_bytes(key.as_bytes());
        Ok(self.door.mountpoint().map(|point| point.join(path)))
    }

    /// The key of a file in a mounted store: [`Store::resolve`] the other way round. `None` when the path, which is
    /// taken as it is written, does not lie in the mount.
    ///
    /// # Errors
    ///
    /// As [`Key::new`].
    pub fn key_of(&self, path: impl AsRef<Path>) -> Result<Option<Key>> {
        use std::os::unix::ffi::OsStrExt;
        let Some(point) = self.door.mountpoint() else { return Ok(None) };
        match path.as_ref().strip_prefix(point) {
            Ok(rest) => Key::new(rest.as_os_str().as_bytes()).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The store's own directory.
    pub fn path(&self) -> &Path {
        self.door.dir()
    }

    /// The figures of the store: how many inodes, how many bytes of what.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Damaged`]: the store cannot be read. Of a store that was connected to: [`Error::Store`]: its
    /// daemon does not answer; [`Error::Config`]: it serves too many, or not this user.
    pub fn stats(&self) -> Result<Stats> {
        self.door.stats()
    }

    /// Makes all changes durable.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`] and [`Error::Io`]: the disk failed; what was not durable before may be lost. Of a store that was
    /// connected to: [`Error::Store`]: its daemon does not answer; [`Error::Config`]: it serves too many, or not this user.
    pub fn sync(&self) -> Result<()> {
        self.door.sync()
    }

    /// Changes `storage-size-limit` or `cache-size-limit` at once, for as long as the store is open, or mounted; what is to
    /// last goes into its `larder.toml`, too (`larder config` does both). Others are settings for opening
    /// ([`Options::setting`]).
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: it is another setting, or the value is not good; nothing has changed. Of a store that was
    /// connected to: [`Error::Store`]: its daemon does not answer.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = larder::Store::open(dir.path().join("store"))?;
    /// store.change_setting("storage-size-limit", "10GiB")?;
    /// assert_eq!(store.stats()?.size_limit, Some(10 << 30));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn change_setting(&self, name: &str, value: &str) -> Result<()> {
        self.door.change_setting(name, value)
    }

    /// Removes all keys and directories.
    ///
    /// # Errors
    ///
    /// As [`Store::set`]; some may be gone then.
    pub fn clear(&self) -> Result<()> {
        self.door.clear()?;
        self.settle()
    }

    /// What [`Store::cleanup`] would find to do.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the store cannot be read.
    pub fn chores(&self) -> Result<Chores> {
        self.door.chores()
    }

    /// Removes what has expired, reclaims what is gone, and gives the disk its room back. All of that happens by
    /// itself in time; this does it now.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::Io`], [`Error::Damaged`]: something could not be done. Of a store that was connected to:
    /// [`Error::Store`]: its daemon does not answer; [`Error::Config`]: it serves too many, or not this user.
    pub fn cleanup(&self) -> Result<Cleaned> {
        self.door.cleanup()
    }

    /// Evicts keys to where the store takes no more than it should, by its `storage-size-limit` and
    /// `cache-eviction-policy`, as far as they may be evicted. While the store is open that happens by itself; this does
    /// it now.
    ///
    /// # Errors
    ///
    /// As [`Store::cleanup`].
    pub fn align(&self) -> Result<Aligned> {
        self.door.align(false)
    }

    /// Reads what is stored once more, from a place on, until so many bytes of the disk have been verified. Begin with
    /// [`Place::default`], go on with [`Scrubbed::next`]; wait in between, where others use the disk.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Damaged`]: the catalog cannot be read; of a store that was connected to as
    /// [`Store::cleanup`] says. What is damaged of the content is told in [`Scrubbed::hurt`].
    ///
    /// ```
    /// # use larder::store::{Place, Store};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path().join("store"))?;
    /// store.set("key", "value")?;
    /// let mut place = Some(Place::default());
    /// while let Some(from) = place {
    ///     let part = store.scrub(from, 8 << 20)?;
    ///     assert!(part.hurt.is_empty());
    ///     place = part.next;
    /// }
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn scrub(&self, from: Place, bytes: u64) -> Result<Scrubbed> {
        self.door.scrub(from, bytes)
    }

    /// What [`Store::align`] would begin with, as far as a sample tells.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the store cannot be read.
    pub fn would_align(&self) -> Result<Aligned> {
        self.door.align(true)
    }

    /// Makes everything durable and closes the store, for all clones: what is called on them afterwards fails. Of a store
    /// that was connected to nothing is closed, and nothing made durable: its daemon goes on ([`Store::sync`] asks it).
    ///
    /// # Errors
    ///
    /// As [`Store::sync`]; but a store that had turned read-only before is closed without an error.
    pub fn close(self) -> Result<()> {
        self.door.close()
    }
}
