//! The one place where an [`Error`] becomes an errno, and where it is decided how loud it is logged.

use fuser::Errno;

use crate::error::Error;

/// The errno that the kernel gets for an error.
pub fn errno(error: &Error) -> i32 {
    match error {
        Error::NotFound => libc::ENOENT,
        Error::Exists => libc::EEXIST,
        Error::NotADirectory => libc::ENOTDIR,
        Error::IsADirectory => libc::EISDIR,
        Error::NotEmpty => libc::ENOTEMPTY,
        Error::NotPermitted => libc::EPERM,
        Error::Denied => libc::EACCES,
        Error::Invalid(_) | Error::Config(_) | Error::Store { .. } | Error::Key { .. } => libc::EINVAL,
        Error::NameTooLong => libc::ENAMETOOLONG,
        Error::TooLarge => libc::EFBIG,
        Error::TooManyLinks => libc::EMLINK,
        Error::NoSpace => libc::ENOSPC,
        Error::QuotaExceeded => libc::EDQUOT,
        Error::CrossesQuota => libc::EXDEV,
        Error::NoAttribute => libc::ENODATA,
        Error::NoOffset => libc::ENXIO,
        Error::Range => libc::ERANGE,
        Error::ValueTooLarge => libc::E2BIG,
        Error::NotSupported => libc::EOPNOTSUPP,
        Error::Stale => libc::ESTALE,
        Error::ReadOnly(_) => libc::EROFS,
        Error::InUse(_) => libc::EBUSY,
        // The disk's own errno would mislead: ENOENT for a segment is not ENOENT for the key.
        Error::Damaged(_) | Error::Io { .. } => libc::EIO,
    }
}

/// How loud an error is logged. `None`: not at all, programs meet it every day.
pub fn level(error: &Error) -> Option<log::Level> {
    match error {
        Error::Damaged(_) | Error::Io { .. } => Some(log::Level::Error),
        Error::ReadOnly(_) | Error::NoSpace | Error::QuotaExceeded => Some(log::Level::Debug),
        // The person who wrote a malformed attribute sees EINVAL only; the log has the reason.
        Error::Invalid(_) | Error::Config(_) | Error::Store { .. } => Some(log::Level::Info),
        _ => None,
    }
}

/// Logs an error that a request failed with, and gives the errno for its answer.
pub(super) fn report(request: &str, error: &Error) -> Errno {
    if let Some(level) = level(error) {
        log::log!(level, "{request}: {error}");
    }
    Errno::from_i32(errno(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_outcomes_keep_their_posix_errno_and_are_not_logged() {
        for (error, expected) in [
            (Error::NotFound, libc::ENOENT),
            (Error::Exists, libc::EEXIST),
            (Error::NotADirectory, libc::ENOTDIR),
            (Error::IsADirectory, libc::EISDIR),
            (Error::NotEmpty, libc::ENOTEMPTY),
            (Error::NotPermitted, libc::EPERM),
            (Error::Denied, libc::EACCES),
            (Error::NameTooLong, libc::ENAMETOOLONG),
            (Error::TooLarge, libc::EFBIG),
            (Error::TooManyLinks, libc::EMLINK),
            (Error::NoAttribute, libc::ENODATA),
            (Error::NoOffset, libc::ENXIO),
            (Error::Range, libc::ERANGE),
            (Error::ValueTooLarge, libc::E2BIG),
            (Error::NotSupported, libc::EOPNOTSUPP),
            (Error::Stale, libc::ESTALE),
        ] {
            assert_eq!(errno(&error), expected, "{error}");
            assert_eq!(level(&error), None, "{error}");
        }
    }

    #[test]
    fn a_missing_segment_is_eio_and_never_enoent_and_is_logged_as_an_error() {
        let source = std::io::Error::from_raw_os_error(libc::ENOENT);
        let error = Error::Io { what: "reading segments/00/00000001".into(), source };
        assert_eq!(errno(&error), libc::EIO);
        assert_eq!(level(&error), Some(log::Level::Error));
        let damaged = Error::Damaged("frame of inode 7".into());
        assert_eq!((errno(&damaged), level(&damaged)), (libc::EIO, Some(log::Level::Error)));
    }

    #[test]
    fn a_store_that_turned_read_only_answers_erofs_and_a_full_one_enospc() {
        assert_eq!(errno(&Error::ReadOnly("a flush failed".into())), libc::EROFS);
        assert_eq!(errno(&Error::NoSpace), libc::ENOSPC);
    }
}
