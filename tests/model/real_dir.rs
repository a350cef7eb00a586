//! A plain directory as a system under test: it shows that the model does what Linux does.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::test_runner::TestCaseError;

use super::fs::{Call, Fs, How, Id, ROOT, Reply};
use super::system::{Check, Stat, System, fail};
use crate::support::sys;

/// A directory; each inode is held by a descriptor and reached through /proc/self/fd.
#[derive(Debug)]
pub struct RealDir {
    root: tempfile::TempDir,
    open: BTreeMap<Id, File>,
}

fn hold(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

impl RealDir {
    pub fn new(root: tempfile::TempDir) -> RealDir {
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let open = BTreeMap::from([(ROOT, hold(root.path()).unwrap())]);
        RealDir { root, open }
    }

    fn path(&self, id: Id) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.open[&id].as_raw_fd()))
    }

    fn at(&self, dir: Id, name: &[u8]) -> PathBuf {
        self.path(dir).join(std::ffi::OsStr::from_bytes(name))
    }

    fn file(&self, id: Id) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path(id))
    }

    fn made(&mut self, dir: Id, name: &[u8], mode: Option<u32>, id: Id) -> io::Result<Reply> {
        let held = hold(&self.at(dir, name))?;
        self.open.insert(id, held);
        if let Some(mode) = mode {
            fs::set_permissions(self.path(id), fs::Permissions::from_mode(mode & 0o7777))?;
        }
        Ok(Reply::Done)
    }

    fn walk(&mut self, fs: &Fs, dir: Id) -> io::Result<()> {
        for (name, id) in fs.entries(dir) {
            self.made(dir, name, None, *id)?;
            if fs.node(*id).is_dir() {
                self.walk(fs, *id)?;
            }
        }
        Ok(())
    }

    fn call(&mut self, call: &Call) -> io::Result<Reply> {
        let done = |()| Reply::Done;
        match call {
            Call::Mknod { dir, name, mode, id } => {
                sys::mknod(&self.at(*dir, name), *mode)?;
                self.made(*dir, name, Some(*mode), *id)
            }
            Call::Mkdir { dir, name, mode, id } => {
                fs::create_dir(self.at(*dir, name))?;
                self.made(*dir, name, Some(*mode), *id)
            }
            Call::Symlink { dir, name, target, id } => {
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), self.at(*dir, name))?;
                self.made(*dir, name, None, *id)
            }
            Call::Link { of, dir, name } => {
                sys::link_following(&self.path(*of), &self.at(*dir, name)).map(done)
            }
            Call::Unlink { dir, name } => fs::remove_file(self.at(*dir, name)).map(done),
            Call::Rmdir { dir, name } => fs::remove_dir(self.at(*dir, name)).map(done),
            Call::Rename { dir, name, new_dir, new_name, how } => {
                let flags = match how {
                    How::Replace => 0,
                    How::NoReplace => libc::RENAME_NOREPLACE,
                    How::Exchange => libc::RENAME_EXCHANGE,
                };
                sys::rename(&self.at(*dir, name), &self.at(*new_dir, new_name), flags).map(done)
            }
            Call::Chmod { of, mode } => {
                fs::set_permissions(self.path(*of), fs::Permissions::from_mode(*mode)).map(done)
            }
            Call::Chown { of, uid, gid } => sys::chown(&self.path(*of), *uid, *gid).map(done),
            Call::Mtime { of, nanos } => {
                let span = Duration::from_nanos(nanos.unsigned_abs());
                let epoch = SystemTime::UNIX_EPOCH;
                let time = if *nanos < 0 { epoch - span } else { epoch + span };
                // Opened read-only: a directory has times too.
                let file = OpenOptions::new().read(true).open(self.path(*of))?;
                file.set_times(fs::FileTimes::new().set_modified(time)).map(done)
            }
            Call::Truncate { of, size } => sys::truncate(&self.file(*of)?, *size).map(done),
            Call::Write { of, offset, data } => self.file(*of)?.write_all_at(data, *offset).map(done),
            Call::Read { of, offset, len } => {
                let file = self.file(*of)?;
                let mut data = vec![0; *len as usize];
                let mut got = 0;
                while got < data.len() {
                    match file.read_at(&mut data[got..], offset + got as u64)? {
                        0 => break,
                        more => got += more,
                    }
                }
                data.truncate(got);
                Ok(Reply::Data(data))
            }
            Call::Fallocate { of, offset, len, mode } => {
                sys::fallocate(&self.file(*of)?, *mode, *offset, *len).map(done)
            }
            Call::Copy { from, offset_from, to, offset_to, len } => {
                let (from, to) = (self.file(*from)?, self.file(*to)?);
                let mut copied = 0;
                loop {
                    let (at_from, at_to) = (offset_from + copied, offset_to + copied);
                    let more = sys::copy_file_range(&from, at_from, &to, at_to, len - copied)?;
                    copied += more;
                    if more == 0 || copied == *len {
                        return Ok(Reply::Count(copied));
                    }
                }
            }
            Call::SetXattr { of, name, value, flags } => {
                sys::setxattr(&self.path(*of), name, value, *flags).map(done)
            }
            Call::RemoveXattr { of, name } => sys::removexattr(&self.path(*of), name).map(done),
            Call::Lookup { dir, name } => {
                fs::symlink_metadata(self.at(*dir, name)).map(|found| Reply::Count(found.ino()))
            }
        }
    }
}

impl System for RealDir {
    fn apply(&mut self, call: &Call, _: i64) -> Result<Reply, i32> {
        self.call(call).map_err(errno)
    }

    fn release(&mut self, id: Id) {
        self.open.remove(&id);
    }

    fn fsync(&mut self, id: Id, _: bool) -> Result<(), i32> {
        // What is durable here is not looked at; only that the call is there.
        self.stat(id).map(drop)
    }

    fn sync(&mut self) -> Result<(), i32> {
        Ok(())
    }

    fn remount(&mut self, fs: &Fs) -> Check {
        self.open = BTreeMap::from([(ROOT, hold(self.root.path()).unwrap())]);
        self.walk(fs, ROOT).or_else(|error| fail(error.to_string()))
    }

    fn stat(&mut self, id: Id) -> Result<Stat, i32> {
        let stat = self.open[&id].metadata().map_err(errno)?;
        Ok(Stat {
            ino: stat.ino(),
            mode: stat.mode(),
            nlink: stat.nlink() as u32,
            uid: stat.uid(),
            gid: stat.gid(),
            size: stat.size(),
            blocks: stat.blocks(),
            mtime: stat.mtime() * 1_000_000_000 + stat.mtime_nsec(),
            ctime: stat.ctime() * 1_000_000_000 + stat.ctime_nsec(),
            btime: 0,
        })
    }

    fn list(&mut self, dir: Id) -> Result<BTreeMap<Vec<u8>, u64>, TestCaseError> {
        let entries = fs::read_dir(self.path(dir)).and_then(|entries| {
            entries
                .map(|entry| {
                    let entry = entry?;
                    Ok((entry.file_name().into_vec(), entry.metadata()?.ino()))
                })
                .collect()
        });
        entries.or_else(|error: io::Error| match error.kind() {
            // A removed directory cannot be listed.
            io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            _ => fail(error.to_string()),
        })
    }

    fn readlink(&mut self, id: Id) -> Result<Vec<u8>, i32> {
        // The descriptor is of the link itself: an empty path names it.
        let target = nix::fcntl::readlinkat(&self.open[&id], "");
        target.map(OsStringExt::into_vec).map_err(|errno| errno as i32)
    }

    fn xattrs(&mut self, id: Id) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, i32> {
        let path = self.path(id);
        let names = sys::listxattr(&path).map_err(errno)?.into_iter();
        let ours = names.filter(|name| name.starts_with(b"user."));
        ours.map(|name| Ok((name.clone(), sys::getxattr(&path, &name).map_err(errno)?))).collect()
    }

    fn seek(&mut self, id: Id, offset: u64, hole: bool) -> Result<u64, i32> {
        sys::seek(&self.file(id).map_err(errno)?, offset, hole).map_err(errno)
    }

    fn is_exact(&self) -> bool {
        false
    }
}
