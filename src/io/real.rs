//! The real disk: the operating system's files, and nothing between.

use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::{File, Io, Lock, Room};

/// Permissions of what is made: who may read a key is decided by its own, the store, where all of them lie, is its owner's alone.
const OWNERS_FILE: u32 = 0o600;
const OWNERS_DIRECTORY: u32 = 0o700;

/// The real disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Io for RealDisk {
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).truncate(false).mode(OWNERS_FILE);
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_new(&self, path: &Path) -> Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(OWNERS_FILE);
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn open_read(&self, path: &Path) -> Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        fs::DirBuilder::new().recursive(true).mode(OWNERS_DIRECTORY).create(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        OpenOptions::new().read(true).open(dir)?.sync_all()
    }

    fn room(&self, path: &Path) -> Result<Room> {
        let stat = nix::sys::statvfs::statvfs(path)?;
        let unit = stat.fragment_size();
        // Filesystems that make inodes as they need them (btrfs) tell a total of 0.
        let files = if stat.files() == 0 { u64::MAX } else { stat.files_available() };
        Ok(Room {
            total: stat.blocks().saturating_mul(unit),
            available: stat.blocks_available().saturating_mul(unit),
            files,
        })
    }

    fn lock(&self, path: &Path) -> Result<Option<Lock>> {
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).mode(OWNERS_FILE).open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Box::new(lock))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    fn new_id(&self) -> u64 {
        // The standard library seeds its hashers from the system's randomness.
        RandomState::new().hash_one(std::process::id())
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn len(&self) -> Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.0.set_len(len)
    }

    fn allocated(&self) -> Result<u64> {
        // st_blocks counts units of 512 bytes whatever the block size.
        Ok(self.0.metadata()?.blocks() * 512)
    }

    /// Where the filesystem cannot reserve, the file is only extended: glibc's `posix_fallocate` would
    /// write a byte to every block instead, which costs as much as writing the content.
    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        match self.fallocate(FallocateFlags::empty(), offset, len) {
            Err(Errno::EOPNOTSUPP) => {
                let end = offset.saturating_add(len);
                if self.len()? < end { self.set_len(end) } else { Ok(()) }
            }
            other => Ok(other?),
        }
    }

    /// Where the filesystem cannot punch, nothing happens: the room comes back with the file.
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match self.fallocate(how, offset, len) {
            Err(Errno::EOPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }

    fn sync(&self) -> Result<()> {
        self.0.sync_data()
    }

    fn will_need(&self, offset: u64, len: u64) {
        if let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) {
            let _ = posix_fadvise(&self.0, offset, len, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
        }
    }

    fn drop_cached(&self) {
        // A length of 0 reaches to the end.
        let _ = posix_fadvise(&self.0, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

impl RealFile {
    fn fallocate(&self, how: FallocateFlags, offset: u64, len: u64) -> std::result::Result<(), Errno> {
        let offset = offset.try_into().map_err(|_| Errno::EFBIG)?;
        let len = len.try_into().map_err(|_| Errno::EFBIG)?;
        loop {
            match fallocate(&self.0, how, offset, len) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stop_at_the_end_of_the_file_and_holes_read_as_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(RealDisk.open(&path, false).unwrap_err().kind(), ErrorKind::NotFound);
        let file = RealDisk.open(&path, true).unwrap();
        file.allocate(0, 1 << 20).unwrap();
        assert_eq!((file.len().unwrap(), file.allocated().unwrap()), (1 << 20, 1 << 20));
        file.write_all_at(&[7; 8192], (1 << 20) - 8192).unwrap();
        let mut buf = [1; 6000];
        assert_eq!(file.read_at(&mut buf, (1 << 20) - 5000).unwrap(), 5000);
        assert!(buf.iter().take(5000).all(|b| *b == 7));
        assert_eq!(file.read_at(&mut buf, 2 << 20).unwrap(), 0);
        file.punch((1 << 20) - 8192, 4096).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        assert_eq!(file.read_at(&mut buf, (1 << 20) - 8192).unwrap(), 6000);
        assert!(buf.iter().take(4096).all(|b| *b == 0) && buf.iter().skip(4096).all(|b| *b == 7));
        file.sync().unwrap();
        RealDisk.sync_dir(dir.path()).unwrap();
        assert_eq!(RealDisk.list(dir.path()).unwrap(), std::slice::from_ref(&path));
        RealDisk.remove(&path).unwrap();
        assert!(RealDisk.list(dir.path()).unwrap().is_empty());
        assert!(RealDisk.room(dir.path()).unwrap().available > 0);
    }
}
