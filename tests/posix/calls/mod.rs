//! System calls that neither the standard library nor `support::sys` has, made safe to call.
#![expect(unsafe_code, reason = "each block passes pointers to what is alive for the call, with its length")]

pub mod descriptors;
pub mod paths;

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Installs a handler that does nothing and does not restart system calls: a signal interrupts them.
pub fn interrupt_on(signal: libc::c_int) {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: an empty handler is safe at any moment; the zeroed structure has no flags and no mask.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

/// Whose lock a process takes with fcntl(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The process: POSIX locks.
    Process,
    /// The open file.
    OpenFile,
}

/// What a process wants of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Read,
    Write,
    Nothing,
}

fn range_lock(want: Want, start: i64, len: i64) -> libc::flock {
    let kind = match want {
        Want::Read => libc::F_RDLCK,
        Want::Write => libc::F_WRLCK,
        Want::Nothing => libc::F_UNLCK,
    };
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 }
}

fn control(file: &File, command: libc::c_int, lock: &mut libc::flock) -> Result<()> {
    // SAFETY: the descriptor is open, the structure lives through the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, lock) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Locks `len` bytes (0: to the end) from `start`, waiting for others where `wait`.
pub fn lock(file: &File, owner: Owner, want: Want, start: i64, len: i64, wait: bool) -> Result<()> {
    let command = match (owner, wait) {
        (Owner::Process, false) => libc::F_SETLK,
        (Owner::Process, true) => libc::F_SETLKW,
        (Owner::OpenFile, false) => libc::F_OFD_SETLK,
        (Owner::OpenFile, true) => libc::F_OFD_SETLKW,
    };
    control(file, command, &mut range_lock(want, start, len))
}

/// The lock that is in the way of a write lock: whether it is for writing, start, length, process.
pub fn in_the_way(file: &File, owner: Owner, start: i64, len: i64) -> Option<(bool, i64, i64, i32)> {
    let command = if owner == Owner::Process { libc::F_GETLK } else { libc::F_OFD_GETLK };
    let mut lock = range_lock(Want::Write, start, len);
    control(file, command, &mut lock).unwrap();
    let writing = i32::from(lock.l_type) == libc::F_WRLCK;
    (i32::from(lock.l_type) != libc::F_UNLCK).then_some((writing, lock.l_start, lock.l_len, lock.l_pid))
}

/// flock(2).
pub fn flock(file: &File, operation: libc::c_int) -> Result<()> {
    // SAFETY: the descriptor is open.
    match unsafe { libc::flock(file.as_raw_fd(), operation) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// A file mapped into memory.
pub struct Map {
    start: *mut u8,
    len: usize,
}

impl Map {
    /// `flags`: `MAP_SHARED` or `MAP_PRIVATE`. Writable where `writable`.
    pub fn new(file: &File, len: usize, flags: libc::c_int, writable: bool) -> Result<Map> {
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else is touched.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(Map { start: start.cast(), len })
    }

    pub fn set(&mut self, at: usize, byte: u8) {
        assert!(at < self.len);
        // SAFETY: within the mapping. Volatile: others read it.
        unsafe { self.start.add(at).write_volatile(byte) }
    }

    pub fn get(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: within the mapping. Volatile: others write it.
        unsafe { self.start.add(at).read_volatile() }
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        bytes.iter().enumerate().for_each(|(n, byte)| self.set(at + n, *byte));
    }

    pub fn read(&self, at: usize, len: usize) -> Vec<u8> {
        (at..at + len).map(|at| self.get(at)).collect()
    }

    /// msync(2), waiting.
    pub fn sync(&self) -> Result<()> {
        // SAFETY: the whole mapping.
        match unsafe { libc::msync(self.start.cast(), self.len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nothing refers to.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// Drops what the kernel keeps of a file's content, as far as it is written.
pub fn forget_content(file: &File) {
    // SAFETY: the descriptor is open.
    unsafe {
        assert_eq!(libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED), 0);
    }
}

/// Directory entries from the descriptor's place on: name, inode and the cookie behind the entry; at most those
/// that fit `room` bytes. Empty at the end.
pub fn entries(dir: &File, room: usize) -> Result<Vec<(Vec<u8>, u64, i64)>> {
    let mut buffer = vec![0u8; room];
    // SAFETY: the kernel writes at most the buffer's length.
    let len = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), room) };
    if len < 0 {
        return Err(Error::last_os_error());
    }
    // linux_dirent64: ino u64, cookie i64, length u16, type u8, name, NUL.
    let (mut found, mut rest) = (Vec::new(), &buffer[..len as usize]);
    while !rest.is_empty() {
        let length = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
        let ino = u64::from_ne_bytes(rest[..8].try_into().unwrap());
        let cookie = i64::from_ne_bytes(rest[8..16].try_into().unwrap());
        let name = rest[19..length].split(|byte| *byte == 0).next().unwrap();
        found.push((name.to_vec(), ino, cookie));
        rest = &rest[length..];
    }
    Ok(found)
}

/// Puts a directory's descriptor behind the entry of a cookie, or to the start (0).
pub fn seek_entry(dir: &File, cookie: i64) {
    // SAFETY: the descriptor is open.
    assert_eq!(unsafe { libc::lseek(dir.as_raw_fd(), cookie, libc::SEEK_SET) }, cookie);
}

/// Sets access and modification time, following no link.
pub fn set_times(path: &Path, access: (i64, i64), modification: (i64, i64)) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let time = |(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec };
    let times = [time(access), time(modification)];
    // SAFETY: the path ends in NUL; two times, as the call takes them.
    let done =
        unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// What name_to_handle_at(2) gives: type and bytes.
pub type Handle = (i32, Vec<u8>);

#[repr(C)]
struct RawHandle {
    len: u32,
    kind: i32,
    bytes: [u8; 128],
}

/// The handle of a file, of which a link is not followed.
pub fn handle_of(path: &Path) -> Result<Handle> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut raw = RawHandle { len: 128, kind: 0, bytes: [0; 128] };
    let mut mount = 0i32;
    // SAFETY: the path ends in NUL; the structure has the room that it says.
    let done = unsafe {
        libc::syscall(libc::SYS_name_to_handle_at, libc::AT_FDCWD, path.as_ptr(), &mut raw, &mut mount, 0)
    };
    match done {
        0 => Ok((raw.kind, raw.bytes[..raw.len as usize].to_vec())),
        _ => Err(Error::last_os_error()),
    }
}

/// Opens what a handle names, on the filesystem that `mount` lies on.
pub fn open_handle(mount: &File, handle: &Handle, flags: libc::c_int) -> Result<File> {
    let mut raw = RawHandle { len: handle.1.len() as u32, kind: handle.0, bytes: [0; 128] };
    raw.bytes[..handle.1.len()].copy_from_slice(&handle.1);
    // SAFETY: the structure is as long as it says; the descriptor that comes back is nobody else's.
    unsafe {
        let fd = libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &mut raw, flags);
        if fd < 0 { Err(Error::last_os_error()) } else { Ok(File::from_raw_fd(fd as i32)) }
    }
}

/// utimensat(2)'s word for "leave this one".
pub const OMIT: (i64, i64) = (0, libc::UTIME_OMIT);
