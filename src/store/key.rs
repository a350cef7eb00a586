//! Keys: relative paths, checked before anything is done with them.

use std::fmt;

use crate::error::{Error, Result};
use crate::volume::check_path;

/// Names of files that are being written through a mount begin so. They are no keys.
pub(super) const STAGED: &str = ".larder-new-";

/// The directory of Larder's own files at a mount's root.
const OWN: &[u8] = b".larder";

/// A key: a path such as `a/b/c`, relative to the store, of names of 1 to 255 bytes that are neither `.` nor
/// `..`, and at most 4095 bytes long. Any bytes may be in it but NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// A key, when these bytes are one.
    ///
    /// ```
    /// use larder::store::Key;
    ///
    /// assert_eq!(Key::new("a/b/c")?.to_string(), "a/b/c");
    /// for wrong in ["", "/a", "a//b", "a/", "a/../b", ".", "a\0b"] {
    ///     assert!(matches!(Key::new(wrong), Err(larder::Error::Key { .. })), "{wrong:?}");
    /// }
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Key`] says what is wrong with it; [`Error::NameTooLong`]: a name has more than 255 bytes.
    pub fn new(key: impl AsRef<[u8]>) -> Result<Key> {
        let key = key.as_ref();
        check(key)?;
        Ok(Key(key.into()))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Refuses bytes that are no key, as [`Key::new`].
pub(super) fn check(key: &[u8]) -> Result<()> {
    let mut names = check_path(key)?;
    if names.next() == Some(OWN) || split(key).1.starts_with(STAGED.as_bytes()) {
        let key = String::from_utf8_lossy(key).into_owned();
        return Err(Error::Key {
            key,
            why: "`.larder`, and names that begin with `.larder-new-`, are kept for Larder's own files",
        });
    }
    Ok(())
}

/// A path's directory and last name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Key {
    /// Bytes that are not UTF-8 show as `�`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.0))
    }
}
