//! Calls on an open file, with the flags and errors that the standard library hides.
#![expect(unsafe_code, reason = "each block passes pointers to what is alive for the call, with its length")]

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::c_int;

fn checked(result: i64) -> Result<i64> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// copy_file_range(2) with both places given; returns the bytes that were copied.
pub fn copy_range(from: &File, at: i64, to: &File, place: i64, len: usize, flags: u32) -> Result<i64> {
    let (mut at, mut place) = (at, place);
    // SAFETY: both places live through the call.
    let copied =
        unsafe { libc::copy_file_range(from.as_raw_fd(), &mut at, to.as_raw_fd(), &mut place, len, flags) };
    checked(copied as i64)
}

/// pwritev2(2); the offset -1 is the descriptor's own.
pub fn write_with(file: &File, bytes: &[u8], offset: i64, flags: c_int) -> Result<i64> {
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the bytes are only read.
    checked(unsafe { libc::pwritev2(file.as_raw_fd(), &part, 1, offset, flags) } as i64)
}

/// preadv2(2); the offset -1 is the descriptor's own.
pub fn read_with(file: &File, room: usize, offset: i64, flags: c_int) -> Result<Vec<u8>> {
    let mut bytes = vec![0u8; room];
    let part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: room };
    // SAFETY: at most the vector's length is written.
    let len = checked(unsafe { libc::preadv2(file.as_raw_fd(), &part, 1, offset, flags) } as i64)?;
    bytes.truncate(len as usize);
    Ok(bytes)
}

/// Memory that begins at an address divisible by 4096, as direct I/O wants it, with `skip` bytes in front of what is used.
pub struct Aligned(Vec<u8>, usize);

impl Aligned {
    pub fn new(len: usize, skip: usize, byte: u8) -> Aligned {
        let memory = vec![byte; len + 2 * 4096];
        let start = memory.as_ptr().align_offset(4096) + skip;
        Aligned(memory, start)
    }

    pub fn bytes(&self, len: usize) -> &[u8] {
        &self.0[self.1..self.1 + len]
    }

    pub fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        &mut self.0[self.1..self.1 + len]
    }
}

/// lseek(2).
pub fn seek(file: &File, offset: i64, whence: c_int) -> Result<i64> {
    // SAFETY: the descriptor is open.
    checked(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) })
}

/// ftruncate(2), also to what is no size.
pub fn truncate(file: &File, size: i64) -> Result<()> {
    // SAFETY: the descriptor is open.
    checked(unsafe { libc::ftruncate(file.as_raw_fd(), size) }.into()).map(drop)
}

/// fallocate(2), also of what is no range.
pub fn allocate(file: &File, mode: c_int, offset: i64, len: i64) -> Result<()> {
    // SAFETY: the descriptor is open.
    checked(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) }.into()).map(drop)
}

/// The flags of an open file (F_GETFL).
pub fn flags(file: &File) -> c_int {
    // SAFETY: the descriptor is open.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) }
}

/// fcntl(2) with a lock as it stands, of which nothing is set that the caller did not.
pub fn lock_as_is(file: &File, command: c_int, lock: &mut libc::flock) -> Result<()> {
    // SAFETY: the descriptor is open, the structure lives through the call.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), command, lock) }.into()).map(drop)
}

/// Takes a lease (F_RDLCK, F_WRLCK) or gives it back (F_UNLCK).
pub fn lease(file: &File, kind: c_int) -> Result<()> {
    // SAFETY: the descriptor is open.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }.into()).map(drop)
}

/// The lease that the process has on a file.
pub fn leased(file: &File) -> c_int {
    // SAFETY: the descriptor is open.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) }
}

/// Sets the largest size of files (RLIMIT_FSIZE) for this process.
pub fn limit_file_size(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the structure lives through the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
}

static SIGNALS: AtomicI32 = AtomicI32::new(0);

/// Counts a signal from now on, instead of dying of it.
pub fn count_signal(signal: c_int) {
    extern "C" fn count(_: c_int) {
        SIGNALS.fetch_add(1, Ordering::SeqCst);
    }
    // SAFETY: an atomic addition is safe at any moment; the zeroed structure has no flags and no mask.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as *const () as usize;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

/// How many came since it was last asked.
pub fn signals() -> i32 {
    SIGNALS.swap(0, Ordering::SeqCst)
}

/// ioctl(2) with room for what it answers, in which the second word asks for a mebibyte (FIEMAP wants a length there).
pub fn ioctl(file: &File, request: u64) -> Result<i64> {
    let mut answer = [0u64; 64];
    answer[1] = 1 << 20;
    // SAFETY: none of the requests that tests make writes more than that.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request as libc::Ioctl, answer.as_mut_ptr()) };
    checked(done.into()).map(|_| answer[0] as i64)
}

/// Frees a part of a file through a mapping of it: madvise(MADV_REMOVE).
pub fn remove_mapped(file: &File, offset: usize, len: usize) -> Result<()> {
    let (protection, null) = (libc::PROT_READ | libc::PROT_WRITE, std::ptr::null_mut());
    // SAFETY: a new mapping of what is asked for, which nothing refers to when it goes.
    unsafe {
        let map = libc::mmap(null, offset + len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED);
        let done = libc::madvise(map.byte_add(offset), len, libc::MADV_REMOVE);
        let outcome = checked(done.into()).map(drop);
        libc::munmap(map, offset + len);
        outcome
    }
}

/// fgetxattr(2), without a name flistxattr(2), into so many bytes; returns the length of the answer.
pub fn attribute_into(file: &File, name: Option<&str>, room: usize) -> Result<i64> {
    let name = name.map(|name| std::ffi::CString::new(name).unwrap());
    let mut answer = vec![0u8; room];
    let (fd, start) = (file.as_raw_fd(), answer.as_mut_ptr());
    // SAFETY: the name ends in NUL; at most the vector's length is written.
    let len = match &name {
        Some(name) => unsafe { libc::fgetxattr(fd, name.as_ptr(), start.cast(), room) },
        None => unsafe { libc::flistxattr(fd, start.cast(), room) },
    };
    checked(len as i64)
}

/// splice(2), each side's place its own; returns the bytes that were moved.
pub fn splice(from: &impl AsRawFd, to: &impl AsRawFd, len: usize) -> Result<i64> {
    let null = std::ptr::null_mut();
    // SAFETY: both descriptors are open; no place is passed.
    checked(unsafe { libc::splice(from.as_raw_fd(), null, to.as_raw_fd(), null, len, 0) } as i64)
}

/// What io_submit(2) takes (struct iocb).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Control {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event: u32,
}

/// What io_getevents(2) gives (struct io_event).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    control: u64,
    result: i64,
    more: i64,
}

/// Reads (or where `write`, writes) all the parts at their places by asynchronous I/O, all under way at once; returns the
/// result of each.
pub fn transfer_at_once(file: &File, write: bool, parts: &mut [(i64, &mut [u8])]) -> Vec<i64> {
    const PREAD: u16 = 0;
    const PWRITE: u16 = 1;
    let count = parts.len();
    let mut controls: Vec<Control> = parts
        .iter_mut()
        .enumerate()
        .map(|(n, (offset, bytes))| Control {
            data: n as u64,
            opcode: if write { PWRITE } else { PREAD },
            fd: file.as_raw_fd() as u32,
            buffer: bytes.as_mut_ptr() as u64,
            len: bytes.len() as u64,
            offset: *offset,
            ..Control::default()
        })
        .collect();
    let pointers: Vec<*mut Control> = controls.iter_mut().map(std::ptr::from_mut).collect();
    let mut events = vec![Event::default(); count];
    // SAFETY: controls, their buffers and the events outlive the calls: all are waited for, and the context is ended.
    unsafe {
        let mut context: libc::c_ulong = 0;
        assert_eq!(libc::syscall(libc::SYS_io_setup, count, &mut context), 0);
        assert_eq!(libc::syscall(libc::SYS_io_submit, context, count, pointers.as_ptr()), count as i64);
        let (forever, events) = (std::ptr::null_mut::<libc::timespec>(), events.as_mut_ptr());
        assert_eq!(
            libc::syscall(libc::SYS_io_getevents, context, count, count, events, forever),
            count as i64
        );
        assert_eq!(libc::syscall(libc::SYS_io_destroy, context), 0);
    }
    events.sort_by_key(|event| event.data);
    events.iter().map(|event| event.result).collect()
}

/// Lets all other threads of the machine run first: the lowest priority, for the calling thread.
pub fn give_way() {
    // SAFETY: numbers are passed.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}
