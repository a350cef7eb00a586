//! System calls that neither the standard library nor `support::sys` has, made safe to call.
#![expect(unsafe_code, reason = "each block passes pointers to what is alive for the call, with its length")]

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;

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
