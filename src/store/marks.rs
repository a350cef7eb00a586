//! What is said of keys, or of directories for all that is in them: Larder's attributes that are inherited.

use serde::Serialize;

use super::{Expiry, Key, Store};
use crate::error::{Error, Result};

/// Something to be said of a key, or of a directory for all keys in it; the nearest that says something counts. `None` says
/// no more than what holds above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Whether it may be evicted when the store is full, and has a `cache-eviction-policy`.
    Evictable(Option<bool>),
    /// Whether it is never evicted, evictable or not.
    Pinned(Option<bool>),
    /// When files that are made below a directory expire: [`Expiry::Never`], or [`Expiry::In`] some time.
    DefaultTtl(Option<Expiry>),
    /// The most bytes that all files below a directory may take on the disk together. A limit above counts as well.
    SizeLimit(Option<u64>),
}

/// What is said of a key or a directory itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Marks {
    /// Whether it may be evicted.
    pub evictable: Option<bool>,
    /// Whether it is never evicted.
    pub pinned: Option<bool>,
    /// How long files live that are made below: seconds, or `never`.
    pub default_ttl: Option<String>,
    /// How much the files below may take on the disk, bytes.
    pub size_limit: Option<u64>,
}

const EVICTABLE: &str = "user.larder.evictable";
const PINNED: &str = "user.larder.pinned";
const DEFAULT_TTL: &str = "user.larder.default-ttl";
const SIZE_LIMIT: &str = "user.larder.size-limit";

impl Store {
    /// Marks a key or a directory. The empty key is the whole store.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]: it is not there. [`Error::NotPermitted`]: a time to live or a limit for what is made below what is
    /// no directory. [`Error::Invalid`]: one that is none. [`Error::CrossesQuota`]: a limit for a directory in which a file
    /// lies that has a further name elsewhere. Else as [`Store::set`].
    ///
    /// ```
    /// # use larder::store::{Mark, Store};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path().join("store"))?;
    /// store.set("cache/a", "a result")?;
    /// store.mark("cache", Mark::Evictable(Some(true)))?;
    /// assert_eq!(store.marks("cache")?.evictable, Some(true));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn mark(&self, key: impl AsRef<[u8]>, mark: Mark) -> Result<()> {
        let flag = |flag: Option<bool>| flag.map(|flag| if flag { "1" } else { "0" }.to_owned());
        let (name, value) = match mark {
            Mark::Evictable(set) => (EVICTABLE, flag(set)),
            Mark::Pinned(set) => (PINNED, flag(set)),
            Mark::DefaultTtl(set) => (DEFAULT_TTL, set.map(ttl).transpose()?),
            Mark::SizeLimit(Some(0)) => {
                return Err(Error::Invalid("a size-limit of 0: use a size above it, or none".into()));
            }
            Mark::SizeLimit(set) => (SIZE_LIMIT, set.map(|bytes| bytes.to_string())),
        };
        let path = path(key.as_ref())?;
        match value {
            Some(value) => self.door.set_attribute(path, name, value.as_bytes()),
            None => match self.door.remove_attribute(path, name) {
                Err(Error::NoAttribute) => Ok(()),
                done => done,
            },
        }?;
        self.settle()
    }

    /// What a key or a directory is marked with itself.
    ///
    /// # Errors
    ///
    /// As [`Store::mark`].
    pub fn marks(&self, key: impl AsRef<[u8]>) -> Result<Marks> {
        let path = path(key.as_ref())?;
        let flag = |name| Ok::<_, Error>(self.door.attribute(path, name)?.map(|value| value == b"1"));
        let default_ttl = self.door.attribute(path, DEFAULT_TTL)?;
        let default_ttl = default_ttl.map(|value| String::from_utf8_lossy(&value).into_owned());
        let size_limit = self.door.attribute(path, SIZE_LIMIT)?;
        let size_limit = size_limit.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok());
        Ok(Marks { evictable: flag(EVICTABLE)?, pinned: flag(PINNED)?, default_ttl, size_limit })
    }
}

/// A time to live as the attribute has it.
fn ttl(expiry: Expiry) -> Result<String> {
    match expiry {
        Expiry::Never => Ok("never".to_owned()),
        Expiry::In(time) if time.is_zero() => Err(Error::Invalid(
            "a default-ttl of 0: nothing would live; use never, where files are to stay".into(),
        )),
        Expiry::In(time) => Ok(time.as_secs_f64().ceil().to_string()),
        Expiry::At(_) => Err(Error::Invalid("a time to live is a duration, not a moment".into())),
    }
}

/// A key, or the root.
fn path(key: &[u8]) -> Result<&[u8]> {
    if !key.is_empty() {
        Key::new(key)?;
    }
    Ok(key)
}
