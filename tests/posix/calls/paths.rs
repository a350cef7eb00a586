//! Calls that take a path, or a directory and a name, with the flags and errors that the standard library hides.
#![expect(unsafe_code, reason = "each block passes pointers to what is alive for the call")]

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{AT_FDCWD, c_int};

fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn checked(result: i64) -> Result<i64> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// open(2), with these flags and no others but O_CLOEXEC.
pub fn open(path: &Path, flags: c_int, mode: u32) -> Result<File> {
    open_at(None, path, flags, mode)
}

/// openat(2); without a directory from the current one.
pub fn open_at(dir: Option<&File>, path: &Path, flags: c_int, mode: u32) -> Result<File> {
    let dir = dir.map_or(AT_FDCWD, AsRawFd::as_raw_fd);
    // SAFETY: the path ends in NUL; the descriptor that comes back is nobody else's.
    unsafe {
        let fd = checked(libc::openat(dir, text(path).as_ptr(), flags | libc::O_CLOEXEC, mode).into())?;
        Ok(File::from_raw_fd(fd as i32))
    }
}

/// mkdirat(2).
pub fn mkdir_at(dir: &File, path: &Path) -> Result<()> {
    // SAFETY: the path ends in NUL.
    checked(unsafe { libc::mkdirat(dir.as_raw_fd(), text(path).as_ptr(), 0o777) }.into()).map(drop)
}

/// mknod(2), `mode` with the bits of the type.
pub fn mknod(path: &Path, mode: u32, device: u64) -> Result<()> {
    // SAFETY: the path ends in NUL.
    checked(unsafe { libc::mknod(text(path).as_ptr(), mode, device) }.into()).map(drop)
}

/// linkat(2) from an open file itself: AT_EMPTY_PATH.
pub fn link_open(file: &File, to: &Path) -> Result<()> {
    let (fd, empty, to) = (file.as_raw_fd(), c"".as_ptr(), text(to));
    // SAFETY: both strings end in NUL.
    checked(unsafe { libc::linkat(fd, empty, AT_FDCWD, to.as_ptr(), libc::AT_EMPTY_PATH) }.into()).map(drop)
}

/// readlinkat(2) of an open symbolic link itself.
pub fn read_open_link(file: &File) -> Result<Vec<u8>> {
    let mut target = vec![0u8; 5000];
    let (fd, room) = (file.as_raw_fd(), target.len());
    // SAFETY: at most the vector's length is written.
    let len =
        checked(unsafe { libc::readlinkat(fd, c"".as_ptr(), target.as_mut_ptr().cast(), room) } as i64)?;
    target.truncate(len as usize);
    Ok(target)
}

/// utimensat(2), access and modification as (seconds, nanoseconds); None: both now.
pub fn set_times(path: &Path, times: Option<[(i64, i64); 2]>) -> Result<()> {
    let times = times.map(|times| times.map(|(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec }));
    let times = times.as_ref().map_or(std::ptr::null(), |times| times.as_ptr());
    // SAFETY: the path ends in NUL; two times, or null.
    checked(unsafe { libc::utimensat(AT_FDCWD, text(path).as_ptr(), times, 0) }.into()).map(drop)
}

/// statx(2) without following a link.
pub fn statx(path: &Path, flags: c_int, mask: u32) -> Result<libc::statx> {
    let flags = flags | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the path ends in NUL; all zeros is a valid structure, which the kernel fills.
    unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        checked(libc::statx(AT_FDCWD, text(path).as_ptr(), flags, mask, &mut found).into())?;
        Ok(found)
    }
}

/// What the kernel itself says of the current directory, whatever the C library would make of it.
pub fn current_dir() -> Result<Vec<u8>> {
    let mut path = vec![0u8; 8192];
    // SAFETY: at most the vector's length is written.
    let len = checked(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    path.truncate(len as usize - 1);
    Ok(path)
}
