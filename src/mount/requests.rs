//! The kernel's requests one by one.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, TimeOrNow, WriteFlags,
};

use super::adapter::{Adapter, guarded};
use super::convert::{self, FOREVER, GENERATION, attr_ttl, attributes, ttl};
use super::counters::Request;
use super::errno;
use super::own;
use crate::error::Error;
use crate::format::{Ino, Kind, ROOT};
use crate::volume::{Caller, Entry, Pause, SetAttr, Volume};

/// Requests that the kernel may have under way by itself: readahead and asynchronous direct I/O.
/// Enough for four sequential readers of 1 MiB windows in 128 KiB requests, twice over.
pub(super) const MAX_BACKGROUND: u16 = 64;

/// The largest WRITE and READ, bytes.
pub(super) const MAX_IO: u32 = 1 << 20;

/// What the adapter asks of the kernel; whatever of it an older kernel does not have is left out.
///
/// Not asked for, and why: WRITEBACK_CACHE (two SETATTRs a file; size and time would have two homes);
/// POSIX_LOCKS and FLOCK_LOCKS (fuser cannot interrupt a blocked lock; the kernel's own serve one
/// host); AUTO_INVAL_DATA (content changes only through this mount, or with a notification);
/// ATOMIC_O_TRUNC (there is no OPEN);
/// SETXATTR_EXT, SECURITY_CTX and CREATE_SUPP_GROUP (fuser does not parse the messages they change).
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_DONT_MASK)
    // File handles: what the kernel does not know it looks up as `.` and `..` of an inode.
    .union(InitFlags::FUSE_EXPORT_SUPPORT)
    .union(InitFlags::FUSE_NO_OPEN_SUPPORT)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA);

thread_local! {
    /// What a thread reads file content into. Grows to the largest READ, 1 MiB, and stays.
    static CONTENT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The block size of statfs(2), bytes.
const BLOCK: u64 = 4096;

fn ino(ino: INodeNo) -> Ino {
    Ino(ino.0)
}

fn caller(request: &fuser::Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask }
}

fn send_entry(reply: ReplyEntry, entry: Entry) {
    reply.entry_with_ttls(&attr_ttl(&entry), &ttl(&entry), &attributes(&entry.attr), GENERATION);
}

fn send_attr(reply: ReplyAttr, entry: Entry) {
    reply.attr(&attr_ttl(&entry), &attributes(&entry.attr));
}

fn send_done(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

/// Answers requests that would change what is in `.larder/`, or it: nobody may.
macro_rules! refuse_own {
    ($reply:ident, $($own:expr),+) => {
        if $($own)||+ {
            return $reply.error(Errno::EPERM);
        }
    };
}

/// getxattr(2) and listxattr(2): a caller that offers no room asks for the length.
fn send_value(room: u32) -> impl FnOnce(ReplyXattr, Vec<u8>) + Send + 'static {
    move |reply, value| match u32::try_from(value.len()) {
        Ok(len) if room == 0 => reply.size(len),
        Ok(len) if len <= room => reply.data(&value),
        _ => reply.error(Errno::ERANGE),
    }
}

/// What others than root are told of a list of attributes: whoever may not read `trusted.` ones does not learn that they
/// are there (xattr(7)); a program that copies what it is told of would fail on them.
fn without_trusted(names: &[u8]) -> Vec<u8> {
    let names = names.split_inclusive(|byte| *byte == 0);
    names.filter(|name| !name.starts_with(b"trusted.")).flatten().copied().collect()
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &fuser::Request, kernel: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = WANTED & kernel.capabilities();
        if wanted != WANTED {
            log::info!("this kernel is without {:?}: slower, but correct", WANTED & !wanted);
        }
        // What is asked for is a part of what the kernel has and the numbers are in range: no failure.
        let _ = kernel.add_capabilities(wanted);
        let _ = kernel.set_max_write(MAX_IO);
        let _ = kernel.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, request: &fuser::Request, dir: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.kernel.asked(request);
        if own::is(dir) || own::is_name(dir, name) {
            return self.lookup_own(dir, name, reply);
        }
        // A name that is not there is remembered by the kernel, as inode 0: whatever is created later
        // comes through the kernel, or is told to it.
        let done = |reply: ReplyEntry, found: Option<Entry>| match found {
            Some(entry) => send_entry(reply, entry),
            None => reply.entry(&FOREVER, &convert::no_attributes(Ino(0), Kind::File), GENERATION),
        };
        self.answer(Request::Lookup, [name.as_bytes()], reply, done, move |volume, [name]| {
            match volume.lookup(ino(dir), name) {
                Ok(entry) => Ok(Some(entry)),
                Err(Pause::Fail(Error::NotFound)) => Ok(None),
                Err(pause) => Err(pause),
            }
        });
    }

    fn forget(&self, _: &fuser::Request, forgotten: INodeNo, count: u64) {
        self.count(Request::Forget);
        if own::is(forgotten) {
            return self.own.forget(forgotten, count);
        }
        let forget = || {
            self.volume.forget(ino(forgotten), count);
            Ok(())
        };
        if let Err(Pause::Fail(error)) = guarded(forget) {
            errno::report(Request::Forget.name(), &error);
        }
    }

    fn getattr(&self, request: &fuser::Request, of: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.kernel.asked(request);
        if own::is(of) {
            return match self.own.attr(of) {
                Ok(attr) => reply.attr(&FOREVER, &attr),
                Err(errno) => reply.error(errno),
            };
        }
        self.answer(Request::GetAttr, [], reply, send_attr, move |volume, []| volume.getattr(ino(of)));
    }

    fn setattr(
        &self,
        request: &fuser::Request,
        of: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.kernel.asked(request);
        refuse_own!(reply, own::is(of));
        let caller = caller(request, 0);
        let change = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(convert::time),
        };
        self.answer(Request::SetAttr, [], reply, send_attr, move |volume, []| {
            volume.setattr(&caller, ino(of), &change)
        });
    }

    fn readlink(&self, _: &fuser::Request, of: INodeNo, reply: ReplyData) {
        let done = |reply: ReplyData, target: Vec<u8>| reply.data(&target);
        self.answer(Request::ReadLink, [], reply, done, move |volume, []| volume.readlink(ino(of)));
    }

    fn mknod(
        &self,
        request: &fuser::Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.kernel.asked(request);
        refuse_own!(reply, own::is(dir), own::is_name(dir, name));
        let caller = caller(request, umask);
        let done = self.kernel.once_changed(request, [dir], send_entry);
        self.answer(Request::MkNod, [name.as_bytes()], reply, done, move |volume, [name]| {
            volume.mknod(&caller, ino(dir), name, mode, rdev)
        });
    }

    fn mkdir(
        &self,
        request: &fuser::Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.kernel.asked(request);
        refuse_own!(reply, own::is(dir), own::is_name(dir, name));
        let caller = caller(request, umask);
        let done = self.kernel.once_changed(request, [dir], send_entry);
        self.answer(Request::MkDir, [name.as_bytes()], reply, done, move |volume, [name]| {
            volume.mkdir(&caller, ino(dir), name, mode & 0o7777)
        });
    }

    fn symlink(
        &self,
        request: &fuser::Request,
        dir: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.kernel.asked(request);
        refuse_own!(reply, own::is(dir), own::is_name(dir, name));
        let caller = caller(request, 0);
        let data = [name.as_bytes(), target.as_os_str().as_bytes()];
        let done = self.kernel.once_changed(request, [dir], send_entry);
        self.answer(Request::Symlink, data, reply, done, move |volume, [name, target]| {
            volume.symlink(&caller, ino(dir), name, target)
        });
    }

    fn link(&self, request: &fuser::Request, of: INodeNo, dir: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.kernel.asked(request);
        refuse_own!(reply, own::is(of), own::is(dir), own::is_name(dir, name));
        let done = self.kernel.once_changed(request, [dir], send_entry);
        self.answer(Request::Link, [name.as_bytes()], reply, done, move |volume, [name]| {
            volume.link(ino(of), ino(dir), name)
        });
    }

    fn unlink(&self, request: &fuser::Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        refuse_own!(reply, own::is(dir));
        let done = self.kernel.once_changed(request, [dir], send_done);
        self.answer(Request::Unlink, [name.as_bytes()], reply, done, move |volume, [name]| {
            volume.unlink(ino(dir), name)
        });
    }

    fn rmdir(&self, request: &fuser::Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        refuse_own!(reply, own::is(dir), own::is_name(dir, name));
        let done = self.kernel.once_changed(request, [dir], send_done);
        self.answer(Request::RmDir, [name.as_bytes()], reply, done, move |volume, [name]| {
            volume.rmdir(ino(dir), name)
        });
    }

    fn rename(
        &self,
        request: &fuser::Request,
        dir: INodeNo,
        name: &OsStr,
        new_dir: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        refuse_own!(
            reply,
            own::is(dir),
            own::is(new_dir),
            own::is_name(dir, name),
            own::is_name(new_dir, new_name)
        );
        let caller = caller(request, 0);
        let Some(how) = convert::rename(flags, caller) else { return reply.error(Errno::EINVAL) };
        let data = [name.as_bytes(), new_name.as_bytes()];
        let (kernel, by) = (self.kernel.clone(), request.pid());
        let done = move |reply: ReplyEmpty, moved: [Option<Ino>; 2]| {
            kernel.changed(by, moved.into_iter().flatten());
            reply.ok();
        };
        let done = self.kernel.once_changed(request, [dir, new_dir], done);
        self.answer(Request::Rename, data, reply, done, move |volume, [name, new_name]| {
            volume.rename(ino(dir), name, ino(new_dir), new_name, how)
        });
    }

    fn create(
        &self,
        request: &fuser::Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.kernel.asked(request);
        refuse_own!(reply, own::is(dir), own::is_name(dir, name));
        let caller = caller(request, umask);
        let mode = libc::S_IFREG | mode & 0o7777;
        let done = |reply: ReplyCreate, entry: Entry| {
            // As for a file that was opened without OPEN: keep the (still empty) pages.
            let keep = FopenFlags::FOPEN_KEEP_CACHE;
            reply.created(&ttl(&entry), &attributes(&entry.attr), GENERATION, FileHandle(0), keep);
        };
        let done = self.kernel.once_changed(request, [dir], done);
        let exclusive = flags & libc::O_EXCL != 0;
        self.answer(Request::Create, [name.as_bytes()], reply, done, move |volume, [name]| {
            volume.mknod(&caller, ino(dir), name, mode, 0).map_err(|pause| match pause {
                // Made behind the kernel's back: it looks the name up again for this, and opens what is there.
                Pause::Fail(Error::Exists) if !exclusive => Error::Stale.into(),
                pause => pause,
            })
        });
    }

    fn open(&self, _: &fuser::Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.count(Request::Open);
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &fuser::Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.count(Request::OpenDir);
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &fuser::Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.count(Request::Flush);
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _: &fuser::Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &fuser::Request,
        of: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.count(Request::Read);
        if own::is(of) {
            return self.read_own(of, offset, size, reply);
        }
        CONTENT.with_borrow_mut(|content| {
            content.clear();
            match guarded(|| self.volume.read(ino(of), offset, size, content)) {
                Ok(()) => reply.data(content),
                Err(Pause::Fail(error)) => reply.error(errno::report(Request::Read.name(), &error)),
                Err(Pause::Wait(_)) => {
                    let kept = flags.0 & libc::O_DIRECT == 0;
                    self.read_waiting(ino(of), offset, size, kept, reply);
                }
            }
        });
    }

    fn write(
        &self,
        _: &fuser::Request,
        of: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        refuse_own!(reply, own::is(of));
        let clear_suid = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        // A WRITE has at most MAX_IO bytes.
        let written = data.len() as u32;
        // The kernel asks for this at each write of anybody but root.
        let told = clear_suid.then(|| self.kernel.clone());
        let done = move |reply: ReplyWrite, cleared: bool| {
            if let Some(kernel) = told.filter(|_| cleared) {
                kernel.forget_attributes(ino(of));
            }
            reply.written(written);
        };
        self.count(Request::Write);
        match guarded(|| self.volume.write(ino(of), offset, data, clear_suid)) {
            Ok(cleared) => done(reply, cleared),
            Err(Pause::Fail(error)) => reply.error(errno::report(Request::Write.name(), &error)),
            Err(Pause::Wait(_)) => {
                let data = Box::<[u8]>::from(data);
                self.wait(Request::Write, reply, done, move |volume| {
                    volume.write_blocking(ino(of), offset, &data, clear_suid)
                });
            }
        }
    }

    fn fsync(&self, _: &fuser::Request, of: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.count(Request::FSync);
        if own::is(of) {
            return reply.ok();
        }
        self.wait(Request::FSync, reply, send_done, move |volume| volume.fsync(ino(of), data_only));
    }

    fn fsyncdir(&self, _: &fuser::Request, of: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.count(Request::FSyncDir);
        if own::is(of) {
            return reply.ok();
        }
        self.wait(Request::FSyncDir, reply, send_done, move |volume| volume.fsync(ino(of), data_only));
    }

    fn readdir(&self, _: &fuser::Request, of: INodeNo, _: FileHandle, after: u64, reply: ReplyDirectory) {
        if own::is(of) {
            return self.list_own(Request::ReadDir, after, reply);
        }
        self.list(Request::ReadDir, ino(of), after, reply);
    }

    fn readdirplus(
        &self,
        request: &fuser::Request,
        of: INodeNo,
        _: FileHandle,
        after: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.kernel.asked(request);
        if own::is(of) {
            return self.list_own(Request::ReadDirPlus, after, reply);
        }
        self.list(Request::ReadDirPlus, ino(of), after, reply);
    }

    fn statfs(&self, _: &fuser::Request, of: INodeNo, reply: ReplyStatfs) {
        let of = if own::is(of) { ROOT } else { ino(of) };
        let done = |reply: ReplyStatfs, s: crate::volume::StatFs| {
            let (total, free) = (s.total / BLOCK, s.free / BLOCK);
            let files = s.files.saturating_add(s.files_free);
            let name_max = crate::format::NAME_MAX as u32;
            reply.statfs(total, free, free, files, s.files_free, BLOCK as u32, name_max, BLOCK as u32);
        };
        self.answer(Request::StatFs, [], reply, done, move |volume, []| volume.statfs(of));
    }

    fn setxattr(
        &self,
        request: &fuser::Request,
        of: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        refuse_own!(reply, own::is(of));
        let caller = caller(request, 0);
        let data = [name.as_bytes(), value];
        // What else these change than the time of change the kernel does not expect.
        let sudden = matches!(name.as_bytes(), b"user.larder.touch" | b"user.larder.page-size");
        let kernel = self.kernel.clone();
        let done = move |reply: ReplyEmpty, value: ()| {
            if sudden {
                kernel.forget_attributes(ino(of));
            }
            send_done(reply, value);
        };
        let done = self.kernel.once_changed(request, [of], done);
        if self.volume.ends_at_once(name.as_bytes(), value) {
            self.count(Request::SetXAttr);
            let data = data.map(<[u8]>::to_vec);
            return self.wait(Request::SetXAttr, reply, done, move |volume| {
                let [name, value] = &data;
                volume.run(|volume| volume.setxattr(&caller, ino(of), name, value, flags))?;
                volume.expire_at_once(ino(of))
            });
        }
        self.answer(Request::SetXAttr, data, reply, done, move |volume, [name, value]| {
            volume.setxattr(&caller, ino(of), name, value, flags)
        });
    }

    fn getxattr(&self, _: &fuser::Request, of: INodeNo, name: &OsStr, room: u32, reply: ReplyXattr) {
        if own::is(of) {
            self.count(Request::GetXAttr);
            return reply.error(Errno::NO_XATTR);
        }
        let done = send_value(room);
        self.answer(Request::GetXAttr, [name.as_bytes()], reply, done, move |volume, [name]| {
            volume.getxattr(ino(of), name)
        });
    }

    fn listxattr(&self, request: &fuser::Request, of: INodeNo, room: u32, reply: ReplyXattr) {
        if own::is(of) {
            self.count(Request::ListXAttr);
            return send_value(room)(reply, Vec::new());
        }
        let root = request.uid() == 0;
        let done = move |reply: ReplyXattr, names: Vec<u8>| {
            send_value(room)(reply, if root { names } else { without_trusted(&names) });
        };
        self.answer(Request::ListXAttr, [], reply, done, move |volume, []| volume.listxattr(ino(of)));
    }

    fn removexattr(&self, request: &fuser::Request, of: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        refuse_own!(reply, own::is(of));
        let caller = caller(request, 0);
        let done = self.kernel.once_changed(request, [of], send_done);
        self.answer(Request::RemoveXAttr, [name.as_bytes()], reply, done, move |volume, [name]| {
            volume.removexattr(&caller, ino(of), name)
        });
    }

    fn fallocate(
        &self,
        request: &fuser::Request,
        of: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.count(Request::FAllocate);
        refuse_own!(reply, own::is(of));
        let suid = self.suid_falls(request);
        let done = self.kernel.once_changed(request, [of], send_done);
        self.wait(Request::FAllocate, reply, done, move |volume| {
            suid(volume, ino(of))?;
            volume.fallocate(ino(of), offset, len, mode)
        });
    }

    fn lseek(
        &self,
        _: &fuser::Request,
        of: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.count(Request::LSeek);
        let hole = match whence {
            libc::SEEK_HOLE => true,
            libc::SEEK_DATA => false,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        if own::is(of) {
            return self.seek_own(of, offset, hole, reply);
        }
        let done = |reply: ReplyLseek, found: u64| reply.offset(found.cast_signed());
        self.wait(Request::LSeek, reply, done, move |volume| volume.seek(ino(of), offset, hole));
    }

    fn copy_file_range(
        &self,
        request: &fuser::Request,
        from: INodeNo,
        _: FileHandle,
        offset_from: u64,
        to: INodeNo,
        _: FileHandle,
        offset_to: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.count(Request::CopyFileRange);
        refuse_own!(reply, own::is(to));
        if own::is(from) {
            // Who copies reads and writes then.
            return reply.error(Errno::EOPNOTSUPP);
        }
        // The answer has 32 bits; a caller that asked for more asks again for the rest.
        let len = len.min(u64::from(!(MAX_IO - 1)));
        let done = |reply: ReplyWrite, copied: u64| reply.written(u32::try_from(copied).unwrap_or(u32::MAX));
        let suid = self.suid_falls(request);
        self.wait(Request::CopyFileRange, reply, done, move |volume| {
            suid(volume, ino(to))?;
            volume.copy_range(ino(from), offset_from, ino(to), offset_to, len)
        });
    }

    fn ioctl(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &fuser::Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn getlk(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::ENOSYS);
    }
}

impl Adapter {
    /// What must go before a change of content of which the kernel does not say whether suid and sgid bits are to be
    /// cleared: they are, unless root makes it.
    fn suid_falls(
        &self,
        request: &fuser::Request,
    ) -> impl FnOnce(&Volume, Ino) -> crate::error::Result<()> + Send + use<> {
        let kernel = (request.uid() != 0).then(|| self.kernel.clone());
        move |volume, ino| {
            if let Some(kernel) = kernel
                && volume.run(|volume| volume.clear_suid(ino))?
            {
                kernel.forget_attributes(ino);
            }
            Ok(())
        }
    }

    /// A read of pages that are not in memory. `kept`: the kernel keeps the content.
    fn read_waiting(&self, of: Ino, offset: u64, size: u32, kept: bool, reply: ReplyData) {
        let done = |reply: ReplyData, ()| CONTENT.with_borrow(|content| reply.data(content));
        self.wait(Request::Read, reply, done, move |volume| {
            CONTENT.with_borrow_mut(|content| {
                content.clear();
                volume.read_blocking(of, offset, size, kept, content)
            })
        });
    }
}
