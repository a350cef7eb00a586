//! A directory of the real disk, with hooks on what the tests look at.

use std::io::{Error, Result};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::io::{File, Io, RealDisk, Room};

/// What the test wants of the disk. Hooks concern the journal's files only.
#[derive(Debug, Default)]
pub struct Hooks {
    /// Flushes of the journal's files.
    pub syncs: AtomicU64,
    /// Flushes fail.
    pub fail_sync: AtomicBool,
    /// So many writes to the journal from here on fail, after half of their bytes were written.
    pub fail_writes: AtomicU64,
    /// A flush reports on the first channel and waits for the second.
    pub gate: Mutex<Option<(Sender<()>, Receiver<()>)>>,
    /// Flushes reach the device: for figures. No test here needs it, and waiting for it takes minutes.
    pub flush_device: AtomicBool,
    /// The disk says that it is full.
    pub full: AtomicBool,
}

#[derive(Clone, Debug, Default)]
pub struct TestDisk(pub Arc<Hooks>);

#[derive(Debug)]
struct TestFile {
    file: std::fs::File,
    journal: bool,
    hooks: Arc<Hooks>,
}

impl Io for TestDisk {
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn File>> {
        let file =
            std::fs::OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)?;
        let journal = path.parent().is_some_and(|dir| dir.ends_with("journal"));
        Ok(Arc::new(TestFile { file, journal, hooks: self.0.clone() }))
    }
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        std::fs::create_dir_all(path)
    }
    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        std::fs::rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<()> {
        std::fs::remove_file(path)
    }
    fn sync_dir(&self, dir: &Path) -> Result<()> {
        std::fs::OpenOptions::new().read(true).open(dir).map(drop)
    }
    fn room(&self, _path: &Path) -> Result<Room> {
        let available = if self.0.full.load(SeqCst) { 0 } else { 1 << 40 };
        Ok(Room { total: 1 << 40, available, files: 1 << 20 })
    }
    fn lock(&self, _path: &Path) -> Result<Option<crate::io::Lock>> {
        Ok(Some(Box::new(())))
    }
    fn new_id(&self) -> u64 {
        RealDisk.new_id()
    }
}

impl File for TestFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let spend = |n: u64| n.checked_sub(1);
        if self.journal && self.hooks.fail_writes.fetch_update(SeqCst, SeqCst, spend).is_ok() {
            self.file.write_all_at(&buf[..buf.len() / 2], offset)?;
            return Err(Error::from_raw_os_error(libc::EIO));
        }
        self.file.write_all_at(buf, offset)
    }
    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata()?.len())
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }
    fn allocated(&self) -> Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }
    fn allocate(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
    fn punch(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
    fn sync(&self) -> Result<()> {
        if self.journal {
            if self.hooks.fail_sync.load(SeqCst) {
                return Err(Error::from_raw_os_error(libc::EIO));
            }
            if let Some((arrived, go)) = &*self.hooks.gate.lock() {
                arrived.send(()).unwrap();
                go.recv().unwrap();
            }
            self.hooks.syncs.fetch_add(1, SeqCst);
        }
        if self.hooks.flush_device.load(SeqCst) { self.file.sync_data() } else { Ok(()) }
    }
    fn will_need(&self, _offset: u64, _len: u64) {}
    fn drop_cached(&self) {}
}
