//! System calls that the standard library does not have, made safe to call.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![expect(unsafe_code, reason = "each block passes pointers to what is alive for the call, with its length")]

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn name(name: &[u8]) -> CString {
    CString::new(name).unwrap()
}

fn checked(result: i64) -> Result<u64> {
    u64::try_from(result).map_err(|_| Error::last_os_error())
}

pub fn setxattr(path: &Path, attribute: &[u8], value: &[u8], flags: i32) -> Result<()> {
    let (path, attribute) = (c(path), name(attribute));
    // SAFETY: both strings end in NUL; the value is read within its length.
    let result = unsafe {
        libc::setxattr(path.as_ptr(), attribute.as_ptr(), value.as_ptr().cast(), value.len(), flags)
    };
    checked(result.into()).map(drop)
}

pub fn getxattr(path: &Path, attribute: &[u8]) -> Result<Vec<u8>> {
    let (path, attribute) = (c(path), name(attribute));
    let mut value = vec![0; 65536];
    // SAFETY: both strings end in NUL; at most the vector's length is written.
    let len =
        unsafe { libc::getxattr(path.as_ptr(), attribute.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(checked(len as i64)? as usize);
    Ok(value)
}

pub fn removexattr(path: &Path, attribute: &[u8]) -> Result<()> {
    let (path, attribute) = (c(path), name(attribute));
    // SAFETY: both strings end in NUL.
    checked(unsafe { libc::removexattr(path.as_ptr(), attribute.as_ptr()) }.into()).map(drop)
}

/// The names of the attributes.
pub fn listxattr(path: &Path) -> Result<Vec<Vec<u8>>> {
    let path = c(path);
    let mut names = vec![0u8; 65536];
    // SAFETY: the path ends in NUL; at most the vector's length is written.
    let len = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(checked(len as i64)? as usize);
    Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

pub fn rename(from: &Path, to: &Path, flags: u32) -> Result<()> {
    let (from, to) = (c(from), c(to));
    // SAFETY: both strings end in NUL.
    let result =
        unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    checked(result.into()).map(drop)
}

pub fn mknod(path: &Path, mode: u32) -> Result<()> {
    let path = c(path);
    // SAFETY: the path ends in NUL.
    checked(unsafe { libc::mknod(path.as_ptr(), mode, 0) }.into()).map(drop)
}

/// A further name; `from` is followed when it is a link of /proc.
pub fn link_following(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (c(from), c(to));
    // SAFETY: both strings end in NUL.
    let result = unsafe {
        libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW)
    };
    checked(result.into()).map(drop)
}

pub fn fallocate(file: &File, mode: i32, offset: u64, len: u64) -> Result<()> {
    // SAFETY: the descriptor is open.
    checked(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) }.into()).map(drop)
}

pub fn seek(file: &File, offset: u64, hole: bool) -> Result<u64> {
    let whence = if hole { libc::SEEK_HOLE } else { libc::SEEK_DATA };
    // SAFETY: the descriptor is open.
    checked(unsafe { libc::lseek(file.as_raw_fd(), offset as i64, whence) })
}

pub fn copy_file_range(from: &File, offset_from: u64, to: &File, offset_to: u64, len: u64) -> Result<u64> {
    let (mut at_from, mut at_to) = (offset_from as i64, offset_to as i64);
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    // SAFETY: the descriptors are open, the offsets live through the call.
    checked(unsafe { libc::copy_file_range(from, &mut at_from, to, &mut at_to, len as usize, 0) } as i64)
}

pub fn truncate(file: &File, size: u64) -> Result<()> {
    // SAFETY: the descriptor is open.
    checked(unsafe { libc::ftruncate(file.as_raw_fd(), size as i64) }.into()).map(drop)
}

pub fn chown(path: &Path, uid: u32, gid: u32) -> Result<()> {
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
}

/// Shuts the filesystem under an open file down at once, as power loss would: nothing that it has not yet written to its device,
/// its own journal included, comes there any more. ext4 and XFS have the same number for it (EXT4_IOC_SHUTDOWN,
/// XFS_IOC_GOINGDOWN) and the same flag (NOLOGFLUSH).
pub fn shut_down(file: &File) -> Result<()> {
    const SHUTDOWN: libc::Ioctl = nix::request_code_read!(b'X', 125, 4) as libc::Ioctl;
    let no_log_flush = 2_u32;
    // SAFETY: the call reads four bytes, which live through it.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), SHUTDOWN, &no_log_flush) }.into()).map(drop)
}

/// A file mapped into memory, shared and writable.
pub struct Map {
    start: *mut u8,
    len: usize,
}

impl Map {
    pub fn new(file: &File, len: usize) -> Result<Map> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else is touched.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(Map { start: start.cast(), len })
    }

    pub fn write(&mut self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.len);
        // SAFETY: the range was just checked to lie in the mapping.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.start.add(offset), data.len()) }
    }

    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        // SAFETY: the range was just checked to lie in the mapping.
        unsafe { std::slice::from_raw_parts(self.start.add(offset), len) }.to_vec()
    }

    pub fn sync(&self) -> Result<()> {
        // SAFETY: the whole mapping.
        checked(unsafe { libc::msync(self.start.cast(), self.len, libc::MS_SYNC) }.into()).map(drop)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nothing refers to.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}
