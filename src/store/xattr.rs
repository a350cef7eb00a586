//! Extended attributes of open files.

use std::ffi::CString;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The longest value of one of Larder's own attributes, bytes: a time or a number.
const LONGEST: usize = 256;

/// The path by which the system finds an open file, also one that was opened for its place alone.
fn path(file: BorrowedFd<'_>) -> Result<CString> {
    Ok(CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?)
}

/// The value of an attribute; `None` when it is not set, or cannot be on such a file.
#[expect(unsafe_code, reason = "neither the standard library nor nix has getxattr")]
pub(super) fn get(file: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    let (path, name) = (path(file)?, CString::new(name)?);
    let mut value = vec![0u8; LONGEST];
    // SAFETY: both strings end in NUL and live through the call; at most the vector's length is written.
    let len = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match usize::try_from(len) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(_) => match Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EPERM)) => Ok(None),
            error => Err(error),
        },
    }
}

/// Sets an attribute.
#[expect(unsafe_code, reason = "neither the standard library nor nix has setxattr")]
pub(super) fn set(file: BorrowedFd<'_>, name: &str, value: &[u8]) -> Result<()> {
    let (path, name) = (path(file)?, CString::new(name)?);
    // SAFETY: both strings end in NUL and live through the call; the value is read within its length.
    let done = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Removes an attribute.
#[expect(unsafe_code, reason = "neither the standard library nor nix has removexattr")]
pub(super) fn remove(file: BorrowedFd<'_>, name: &str) -> Result<()> {
    let (path, name) = (path(file)?, CString::new(name)?);
    // SAFETY: both strings end in NUL and live through the call.
    let done = unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
