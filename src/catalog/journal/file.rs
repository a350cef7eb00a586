//! The files of the journal, and how they come to be.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::record;
use crate::error::{Error, Result};
use crate::io::{File, Io};

/// A store's files of the journal are numbered from a random number on, which is at least this and less than twice as much
/// (one of an earlier build begins at 1, and goes on there when it is opened). Their checksums are seeded with the
/// numbers, so a record of another store is none here, wherever a disk may show what it held before.
const FIRST_NUMBER: u64 = 1 << 48;

/// One write of zeros while a file is filled, bytes. What is written at once the kernel keeps as one, and ext4 goes through all
/// blocks of it with each record. In pieces of 4, 16, 64, 256 KiB a record of 1.4 KB takes 0.91, 0.84, 0.80, 0.90 µs, and to fill
/// 16 MiB 11, 5.5, 3.5, 2.7 ms (medians of 21, AMD EPYC, Linux 6.18).
const FILL: usize = 64 << 10;

/// What is read of a file at a time, unless a record is longer, bytes.
const WINDOW: usize = 1 << 20;

/// Room that was never written to is passed over so many bytes at a time; a record does not begin with zeros.
const EMPTY: [u8; 4096] = [0; 4096];

/// An open journal file.
#[derive(Debug)]
pub(in crate::catalog) struct JournalFile {
    /// Its number.
    pub number: u64,
    /// The file.
    pub file: Arc<dyn File>,
    /// Where it lies.
    pub path: PathBuf,
    /// Its length: up to here its blocks have been written before. Grows when no other file was ready.
    pub len: AtomicU64,
}

impl JournalFile {
    /// Its length, bytes.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether a sound record stands at its start.
    pub fn begins(&self) -> Result<bool> {
        let failed = || Error::io(format!("reading {}", self.path.display()));
        let mut header = [0; record::HEADER];
        let got = self.file.read_at(&mut header, 0).map_err(failed())?;
        let size = header.get(..got).and_then(record::peek_size);
        let Some(size) = size.filter(|size| *size as u64 <= self.len()) else { return Ok(false) };
        let mut bytes = vec![0; size];
        let got = self.file.read_at(&mut bytes, 0).map_err(failed())?;
        Ok(bytes.get(..got).is_some_and(|bytes| record::parse(bytes, self.number).is_some()))
    }

    /// What is in it, to be read from its start on.
    pub fn reader(&self) -> Reader<'_> {
        Reader { of: self, window: Vec::new(), start: 0 }
    }
}

/// Reads a journal file a window at a time: how long the file is does not matter, nor what a record in it says.
pub(in crate::catalog) struct Reader<'a> {
    of: &'a JournalFile,
    /// Bytes of the file from `start` on.
    window: Vec<u8>,
    start: u64,
}

impl Reader<'_> {
    /// At least `least` bytes from `at` on, as far as the file has them.
    pub fn bytes(&mut self, at: u64, least: usize) -> Result<&[u8]> {
        let end = self.of.len().min(at + least as u64);
        if at < self.start || end > self.start + self.window.len() as u64 {
            let want = (self.of.len().saturating_sub(at)).min(least.max(WINDOW) as u64);
            self.window = vec![0; want as usize];
            let read = self.of.file.read_at(&mut self.window, at);
            let read = read.map_err(Error::io(format!("reading {}", self.of.path.display())))?;
            self.window.truncate(read);
            self.start = at;
        }
        Ok(self.window.get((at - self.start) as usize..).unwrap_or_default())
    }

    /// Where something may stand, from `at` on; none where there are but zeros.
    pub fn used(&mut self, mut at: u64) -> Result<Option<u64>> {
        while at < self.of.len() {
            if !self.bytes(at, EMPTY.len())?.starts_with(&EMPTY) {
                return Ok(Some(at));
            }
            at += EMPTY.len() as u64;
        }
        Ok(None)
    }

    /// The record at `at`, when a whole and sound one is there.
    pub fn record(&mut self, at: u64) -> Result<Option<record::Record<'_>>> {
        let Some(size) = record::peek_size(self.bytes(at, record::HEADER)?) else { return Ok(None) };
        let number = self.of.number;
        Ok(record::parse(self.bytes(at, size)?, number))
    }
}

/// The directory of the journal.
#[derive(Debug)]
pub(in crate::catalog) struct Directory {
    io: Arc<dyn Io>,
    path: PathBuf,
    /// The length that files are prepared with.
    file_len: u64,
}

impl Directory {
    /// The journal's directory, made when missing.
    pub fn open(io: Arc<dyn Io>, path: PathBuf, file_len: u64) -> Result<Directory> {
        io.create_dir_all(&path).map_err(Error::io(format!("making {}", path.display())))?;
        Ok(Directory { io, path, file_len })
    }

    /// The path of a file.
    pub fn path_of(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:08}"))
    }

    /// The number of the file that comes behind the newest one, 0 where there is none.
    pub fn number_behind(&self, newest: u64) -> u64 {
        if newest < FIRST_NUMBER { FIRST_NUMBER | self.io.new_id() >> 16 } else { newest + 1 }
    }

    /// The files that are there, by number.
    pub fn files(&self) -> Result<Vec<JournalFile>> {
        let list = self.io.list(&self.path).map_err(Error::io(format!("listing {}", self.path.display())))?;
        let mut files = Vec::new();
        for path in list {
            match number_of(&path) {
                Some(number) => files.push(self.open_file(number, false)?),
                None => log::warn!("{}: no file of the journal; left alone", path.display()),
            }
        }
        files.sort_by_key(|f| f.number);
        Ok(files)
    }

    fn open_file(&self, number: u64, create: bool) -> Result<JournalFile> {
        let path = self.path_of(number);
        let file = self.io.open(&path, create).map_err(Error::io(format!("opening {}", path.display())))?;
        let len = file.len().map_err(Error::io(format!("asking the length of {}", path.display())))?;
        Ok(JournalFile { number, file, path, len: AtomicU64::new(len) })
    }

    /// Makes a file full of zeros. It is durable under its name when this returns.
    pub fn create(&self, number: u64) -> Result<JournalFile> {
        let file = self.open_file(number, true)?;
        self.fill(&file)?;
        Ok(file)
    }

    /// Gives a file whose records are needed no longer a new number. It is durable under it when this returns.
    pub fn recycle(&self, old: &JournalFile, number: u64) -> Result<JournalFile> {
        let path = self.path_of(number);
        self.io.rename(&old.path, &path).map_err(Error::io(format!(
            "renaming {} to {}",
            old.path.display(),
            path.display()
        )))?;
        let file = JournalFile { number, file: old.file.clone(), path, len: AtomicU64::new(old.len()) };
        self.fill(&file)?;
        Ok(file)
    }

    /// Makes a file ready. One that cannot be is removed: on a full disk it would take the last room.
    fn fill(&self, file: &JournalFile) -> Result<()> {
        self.try_fill(file).inspect_err(|_| {
            if let Err(error) = self.remove(file) {
                log::warn!("{error}");
            }
        })
    }

    /// Brings a file to its length and makes it durable.
    fn try_fill(&self, file: &JournalFile) -> Result<()> {
        let what = || Error::io(format!("preparing {}", file.path.display()));
        let mut at = file.len();
        if at > self.file_len {
            file.file.set_len(self.file_len).map_err(what())?;
        }
        let zeros = vec![0; FILL.min(self.file_len as usize)];
        while at < self.file_len {
            let part = (self.file_len - at).min(zeros.len() as u64);
            file.file.write_all_at(&zeros[..part as usize], at).map_err(what())?;
            at += part;
        }
        file.len.store(self.file_len, Ordering::Relaxed);
        file.file.sync().map_err(what())?;
        self.io.sync_dir(&self.path).map_err(what())
    }

    /// Removes a file.
    pub fn remove(&self, file: &JournalFile) -> Result<()> {
        self.io.remove(&file.path).map_err(Error::io(format!("removing {}", file.path.display())))
    }
}

fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    if name.len() < 8 || !name.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    name.parse().ok()
}
