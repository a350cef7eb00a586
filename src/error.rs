//! What can go wrong, typed. The errno that the kernel gets is chosen in `mount::errno`.

use std::path::PathBuf;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure. The first group are the outcomes that POSIX names, as they come back from ordinary
/// operations; the others tell a person what happened, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such file or directory.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("it exists already")]
    Exists,
    /// A component is no directory.
    #[error("not a directory")]
    NotADirectory,
    /// The operation is not for directories.
    #[error("is a directory")]
    IsADirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The caller may not do this (EPERM).
    #[error("operation not permitted")]
    NotPermitted,
    /// The permission bits forbid it (EACCES).
    #[error("permission denied")]
    Denied,
    /// A malformed argument; the text names it.
    #[error("{0}")]
    Invalid(String),
    /// A name over 255 bytes.
    #[error("the name is longer than 255 bytes")]
    NameTooLong,
    /// A file would exceed the largest size.
    #[error("the file would become too large")]
    TooLarge,
    /// Too many hard links.
    #[error("too many links")]
    TooManyLinks,
    /// No room on the disk, or the store's size limit is reached.
    #[error("no space left in the store")]
    NoSpace,
    /// The limit of a directory above is reached (`user.larder.size-limit`, EDQUOT).
    #[error(
        "the size limit of the directory, or of one above, is reached: remove something below it, or raise its size-limit"
    )]
    QuotaExceeded,
    /// What cannot go from below one size limit to below another, as its parts would have to be counted anew (EXDEV).
    #[error(
        "a directory, or a file with several names, cannot be moved or linked from one size limit to another: copy it"
    )]
    CrossesQuota,
    /// No such attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// An offset beyond the end (SEEK_DATA, SEEK_HOLE).
    #[error("no such offset")]
    NoOffset,
    /// The buffer that was offered is too small.
    #[error("the value does not fit the buffer")]
    Range,
    /// A list of attributes or a value is larger than the kernel can pass.
    #[error("the value is too large")]
    ValueTooLarge,
    /// Not supported by this filesystem.
    #[error("not supported")]
    NotSupported,
    /// The inode is known no longer.
    #[error("stale handle")]
    Stale,

    /// What was given as a key is none.
    #[error("the key {key:?}: {why}")]
    Key {
        /// The key, or its beginning.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The store has turned read-only; the text says why.
    #[error("the store is read-only: {0}")]
    ReadOnly(String),
    /// The settings are wrong; the text names the setting and the remedy.
    #[error("{0}")]
    Config(String),
    /// The path cannot be used as a store or a mount point; the text says why and what to do.
    #[error("{path}: {why}", path = path.display())]
    Store {
        /// The path that was named.
        path: PathBuf,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// Another process has the store open.
    #[error("{path}: the store is open in another process: unmount it there first (larder status tells where)", path = .0.display())]
    InUse(PathBuf),
    /// Stored data does not match its checksum, or its structure is impossible.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The disk failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to which file.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    /// An I/O failure with what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Error::NoSpace,
            _ => Error::Io { what, source },
        }
    }

    /// Whether it tells of what is stored: bytes that are wrong, or that the disk cannot read (EIO). Another try does not help.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Damaged(_) => true,
            Error::Io { source, .. } => source.raw_os_error() == Some(libc::EIO),
            _ => false,
        }
    }

    /// A store or mount point that cannot be used.
    pub fn store(path: impl Into<PathBuf>, why: impl Into<String>) -> Error {
        Error::Store { path: path.into(), why: why.into() }
    }
}
