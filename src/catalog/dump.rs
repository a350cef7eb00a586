//! A dump: all keys and values of a catalog, as of one moment, in a file of its own. Backups are made of it.
//!
//! ```text
//! head   0  magic "LRDC"         4
//!        4  version (1)          4   little-endian, as all numbers
//!        8  id of the store      8   as in FORMAT
//!       16  batch                8   the newest of the journal that surely is in it
//!       24  time                 8   nanoseconds since the epoch
//!       32  sum                  8   XXH3-64 of the bytes before
//! parts  0  raw length           4   bytes of the entries in it; 0: this is the last part
//!        4  stored length        4   bytes of the payload; less than the raw length: compressed (Zstandard)
//!        8  sum                  8   XXH3-64, seeded with the sum before this one, of the 8 bytes before and the payload
//!       16  payload                  entries, in the order of keys: u16 length of key, u32 of value, key, value;
//!                                    of the last part: u64, how many entries there are in all
//! ```
//!
//! Invariants: a dump that has no last part is none, whatever cut it short; since each sum seeds the next, no part can
//! be missing, in another's place or another dump's. Memory: a few times [`PART`], whatever the catalog has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::clock::Time;
use crate::error::{Error, Result};
use crate::format::{Codec, Seq};
use crate::io::File;
use crate::pages::codec;

const MAGIC: [u8; 4] = *b"LRDC";
const VERSION: u32 = 1;
const HEAD_LEN: usize = 40;
const PART_HEAD: usize = 16;
const ENTRY_HEAD: usize = 6;

/// Bytes of entries in a part: zstd gains little from more.
const PART: usize = 256 << 10;

/// The most bytes of entries that a reader takes for possible: one of the largest value, which no record comes near.
const PART_MAX: usize = 16 << 20;

/// Metadata shrinks to a quarter at this level, at 200 MB/s.
const CODEC: Codec = Codec::Zstd(1);

/// What a dump says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DumpHead {
    /// The id of the store.
    pub store: u64,
    /// The newest batch that surely is in it.
    pub seq: Seq,
    /// When it was begun.
    pub time: Time,
}

/// What has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dumped {
    /// Bytes of the file.
    pub bytes: u64,
    /// Keys.
    pub entries: u64,
    /// The sum of the last part, which stands for all.
    pub sum: u64,
}

/// Writes a dump. It is durable, under the name it was opened with, once [`DumpWriter::finish`] has returned.
#[derive(Debug)]
pub struct DumpWriter {
    file: Arc<dyn File>,
    path: PathBuf,
    at: u64,
    sum: u64,
    raw: Vec<u8>,
    part: Vec<u8>,
    entries: u64,
}

impl DumpWriter {
    /// Begins a dump in a file, whatever that had in it.
    pub fn new(file: Arc<dyn File>, path: &Path, head: DumpHead) -> Result<DumpWriter> {
        let mut bytes = Vec::with_capacity(HEAD_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&head.store.to_le_bytes());
        bytes.extend_from_slice(&head.seq.0.to_le_bytes());
        bytes.extend_from_slice(&head.time.0.to_le_bytes());
        let sum = xxh3_64(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        let mut writer = DumpWriter {
            file,
            path: path.to_owned(),
            at: 0,
            sum,
            raw: Vec::new(),
            part: Vec::new(),
            entries: 0,
        };
        writer.file.set_len(0).map_err(writer.failed())?;
        writer.write(&bytes)?;
        Ok(writer)
    }

    fn failed(&self) -> impl FnOnce(std::io::Error) -> Error + use<> {
        Error::io(format!("writing {}", self.path.display()))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.at).map_err(self.failed())?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Adds an entry. Keys come in their order.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let (Ok(key_len), Ok(value_len)) = (u16::try_from(key.len()), u32::try_from(value.len())) else {
            return Err(Error::Damaged(format!(
                "a record of {} bytes under a key of {}: no such is made",
                value.len(),
                key.len()
            )));
        };
        if self.raw.len() + ENTRY_HEAD + key.len() + value.len() > PART && !self.raw.is_empty() {
            self.end_part()?;
        }
        self.raw.extend_from_slice(&key_len.to_le_bytes());
        self.raw.extend_from_slice(&value_len.to_le_bytes());
        self.raw.extend_from_slice(key);
        self.raw.extend_from_slice(value);
        self.entries += 1;
        Ok(())
    }

    fn end_part(&mut self) -> Result<()> {
        let mut part = std::mem::take(&mut self.part);
        part.clear();
        part.resize(PART_HEAD, 0);
        if !codec::compress(CODEC, &self.raw, codec::worthwhile(self.raw.len()), &mut part) {
            part.extend_from_slice(&self.raw);
        }
        self.seal(self.raw.len(), &mut part);
        self.raw.clear();
        let written = self.write(&part);
        self.part = part;
        written
    }

    /// Fills in a part's head.
    fn seal(&mut self, raw: usize, part: &mut [u8]) {
        let stored = part.len() - PART_HEAD;
        let lengths = [(raw as u32).to_le_bytes(), (stored as u32).to_le_bytes()].concat();
        self.sum = sum_of(self.sum, &lengths, part.get(PART_HEAD..).unwrap_or_default());
        let fields = lengths.into_iter().chain(self.sum.to_le_bytes());
        part.iter_mut().zip(fields).for_each(|(place, byte)| *place = byte);
    }

    /// Writes what is left, and the end, and flushes the file.
    pub fn finish(mut self) -> Result<Dumped> {
        if !self.raw.is_empty() {
            self.end_part()?;
        }
        let mut part = vec![0; PART_HEAD];
        part.extend_from_slice(&self.entries.to_le_bytes());
        self.seal(0, &mut part);
        self.write(&part)?;
        self.file.sync().map_err(Error::io(format!("flushing {}", self.path.display())))?;
        Ok(Dumped { bytes: self.at, entries: self.entries, sum: self.sum })
    }
}

fn sum_of(before: u64, lengths: &[u8], payload: &[u8]) -> u64 {
    xxh3_64_with_seed(payload, xxh3_64_with_seed(lengths, before))
}

/// Reads a dump.
#[derive(Debug)]
pub struct DumpReader {
    file: Arc<dyn File>,
    path: PathBuf,
    head: DumpHead,
    at: u64,
    sum: u64,
    raw: Vec<u8>,
    /// Where in `raw` the next entry begins.
    next: usize,
    entries: u64,
    ended: bool,
}

impl DumpReader {
    /// Begins to read a dump. Errors: `Damaged` where it does not begin as one.
    pub fn new(file: Arc<dyn File>, path: &Path) -> Result<DumpReader> {
        let damaged = |why: &str| Error::Damaged(format!("{}: {why}", path.display()));
        let mut bytes = [0; HEAD_LEN];
        let got = file.read_at(&mut bytes, 0).map_err(Error::io(format!("reading {}", path.display())))?;
        let (before, sum) = bytes.split_at(HEAD_LEN - 8);
        let number =
            |at: usize| before.get(at..at + 8).and_then(|n| n.try_into().ok()).map(u64::from_le_bytes);
        let sum = sum.try_into().map(u64::from_le_bytes).ok();
        if got < HEAD_LEN || !bytes.starts_with(&MAGIC) || sum != Some(xxh3_64(before)) {
            return Err(damaged("it does not begin as a dump of a catalog"));
        }
        if before.get(4..8) != Some(&VERSION.to_le_bytes()) {
            return Err(damaged("a newer larder has written it: use that one"));
        }
        let head = match (number(8), number(16), number(24)) {
            (Some(store), Some(seq), Some(time)) => {
                DumpHead { store, seq: Seq(seq), time: Time(time as i64) }
            }
            _ => return Err(damaged("it does not begin as a dump of a catalog")),
        };
        Ok(DumpReader {
            file,
            path: path.to_owned(),
            head,
            at: HEAD_LEN as u64,
            sum: sum.unwrap_or_default(),
            raw: Vec::new(),
            next: 0,
            entries: 0,
            ended: false,
        })
    }

    /// What it says of itself.
    pub fn head(&self) -> DumpHead {
        self.head
    }

    /// The next key with its value; none behind the last, and only then is the dump known to be whole.
    pub fn entry(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        while self.next >= self.raw.len() {
            if self.ended {
                return Ok(None);
            }
            self.read_part()?;
        }
        let entry = self.raw.get(self.next..).unwrap_or_default();
        let Some((key_len, value_len)) = lengths(entry) else {
            return Err(self.damaged("an entry is cut off"));
        };
        let Some((key, value)) = entry
            .get(ENTRY_HEAD..ENTRY_HEAD + key_len + value_len)
            .and_then(|entry| entry.split_at_checked(key_len))
        else {
            return Err(self.damaged("an entry is cut off"));
        };
        self.next += ENTRY_HEAD + key_len + value_len;
        self.entries += 1;
        Ok(Some((key, value)))
    }

    /// Reads on to the end. Errors: `Damaged` where it is not whole.
    pub fn finish(mut self) -> Result<Dumped> {
        while self.entry()?.is_some() {}
        Ok(Dumped { bytes: self.at, entries: self.entries, sum: self.sum })
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Damaged(format!("{}: before byte {}: {why}", self.path.display(), self.at))
    }

    fn read_part(&mut self) -> Result<()> {
        let failed = || Error::io(format!("reading {}", self.path.display()));
        let mut head = [0; PART_HEAD];
        let got = self.file.read_at(&mut head, self.at).map_err(failed())?;
        let (lengths, sum) = head.split_at(8);
        let field =
            |at: usize| lengths.get(at..at + 4).and_then(|n| n.try_into().ok()).map(u32::from_le_bytes);
        let sum = sum.try_into().map(u64::from_le_bytes).unwrap_or_default();
        let (raw, stored) = match (field(0), field(4)) {
            (Some(raw), Some(stored)) if got == PART_HEAD => (raw as usize, stored as usize),
            _ => return Err(self.damaged("it is cut off")),
        };
        if raw > PART_MAX || stored > raw.max(8) {
            return Err(self.damaged("a part has an impossible length"));
        }
        let mut payload = vec![0; stored];
        let got = self.file.read_at(&mut payload, self.at + PART_HEAD as u64).map_err(failed())?;
        if got < stored {
            return Err(self.damaged("it is cut off"));
        }
        if sum_of(self.sum, lengths, &payload) != sum {
            return Err(self.damaged("a part does not match its checksum"));
        }
        self.sum = sum;
        self.at += (PART_HEAD + stored) as u64;
        self.next = 0;
        self.raw.clear();
        match raw {
            0 if payload == self.entries.to_le_bytes() => self.ended = true,
            0 => return Err(self.damaged("it counts other entries than it has")),
            _ if stored == raw => self.raw = payload,
            _ => {
                codec::decompress(CODEC, &payload, raw, &mut self.raw).map_err(|why| self.damaged(&why))?;
            }
        }
        Ok(())
    }
}

/// The lengths of key and value at the start of an entry.
fn lengths(entry: &[u8]) -> Option<(usize, usize)> {
    let key = u16::from_le_bytes(entry.get(..2)?.try_into().ok()?);
    let value = u32::from_le_bytes(entry.get(2..ENTRY_HEAD)?.try_into().ok()?);
    Some((key.into(), value as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Io, RealDisk};

    const HEAD: DumpHead = DumpHead { store: 0x1234, seq: Seq(77), time: Time(-5) };

    fn file() -> (tempfile::TempDir, Arc<dyn File>) {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("dump"), true).unwrap();
        (dir, file)
    }

    fn entries() -> Vec<(Vec<u8>, Vec<u8>)> {
        let value = |n: u32| match n {
            500 => vec![9; 700_000],
            _ => n.to_le_bytes().repeat(n as usize % 300),
        };
        (0..3000u32).map(|n| (n.to_be_bytes().to_vec(), value(n))).collect()
    }

    fn written(file: &Arc<dyn File>) -> Dumped {
        let mut writer = DumpWriter::new(file.clone(), Path::new("dump"), HEAD).unwrap();
        entries().iter().for_each(|(key, value)| writer.put(key, value).unwrap());
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_dumped_is_read_in_its_order_over_the_borders_of_parts() {
        let (_dir, file) = file();
        file.write_all_at(&[7; 1 << 20], 0).unwrap();
        let dumped = written(&file);
        assert_eq!((dumped.bytes, dumped.entries), (file.len().unwrap(), 3000));
        let mut reader = DumpReader::new(file.clone(), Path::new("dump")).unwrap();
        assert_eq!(reader.head(), HEAD);
        for (key, value) in entries() {
            assert_eq!(reader.entry().unwrap(), Some((&key[..], &value[..])));
        }
        assert_eq!(reader.entry().unwrap(), None);
        assert_eq!(DumpReader::new(file, Path::new("dump")).unwrap().finish().unwrap(), dumped);
    }

    #[test]
    fn the_bytes_of_an_empty_dump_are_those_of_the_format() {
        let (dir, file) = file();
        DumpWriter::new(file, Path::new("dump"), HEAD).unwrap().finish().unwrap();
        let bytes = std::fs::read(dir.path().join("dump")).unwrap();
        let head =
            [b"LRDC\x01\0\0\0\x34\x12\0\0\0\0\0\0\x4d\0\0\0\0\0\0\0".as_slice(), &(-5i64).to_le_bytes()];
        let head = head.concat();
        assert_eq!(bytes[..32], head);
        assert_eq!(bytes[32..40], xxh3_64(&head).to_le_bytes());
        assert_eq!(bytes[40..48], [0, 0, 0, 0, 8, 0, 0, 0]);
        let sum = xxh3_64_with_seed(&[0; 8], xxh3_64_with_seed(&bytes[40..48], xxh3_64(&head)));
        assert_eq!(bytes[48..56], sum.to_le_bytes());
        assert_eq!(bytes[56..], [0; 8]);
    }

    #[test]
    fn a_dump_that_is_cut_short_or_changed_anywhere_is_refused() {
        let (dir, file) = file();
        let len = written(&file).bytes;
        let path = dir.path().join("dump");
        let whole = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8], what: &str| {
            std::fs::write(&path, bytes).unwrap();
            let read =
                DumpReader::new(RealDisk.open(&path, false).unwrap(), &path).and_then(DumpReader::finish);
            assert!(matches!(read, Err(Error::Damaged(_))), "{what}: {read:?}");
        };
        for cut in (0..len as usize).step_by(997).chain([len as usize - 1, 40, 39, 56]) {
            refused(&whole[..cut], &format!("cut at {cut}"));
        }
        for byte in (0..len as usize).step_by(499).chain(0..80).chain(len as usize - 24..len as usize) {
            let mut changed = whole.clone();
            changed[byte] ^= 0x10;
            refused(&changed, &format!("changed at {byte}"));
        }
    }
}
