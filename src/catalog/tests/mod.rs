//! The catalog's contract.

mod disk;
mod durability;
mod faults;
mod measure;
mod merging;
mod recovery;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::{Batch, Engine, LocalCatalog, OpenOptions, Value};
use crate::error::Result;
use crate::format::Key;
use disk::TestDisk;

/// The smallest memory that leaves 64 KiB to a journal file.
const MEMORY: usize = 512 << 10;

/// A catalog in a directory of its own.
struct Bench {
    dir: tempfile::TempDir,
    disk: TestDisk,
    /// How often content was made durable ahead of a checkpoint of the catalog's own.
    before: Arc<AtomicU64>,
}

impl Bench {
    fn new() -> Bench {
        Bench::at(tempfile::tempdir().unwrap())
    }

    fn at(dir: tempfile::TempDir) -> Bench {
        Bench { dir, disk: TestDisk::default(), before: Arc::default() }
    }

    fn try_open_with(
        &self,
        memory: usize,
        verify: &mut dyn FnMut(&Batch) -> Result<bool>,
    ) -> Result<LocalCatalog> {
        LocalCatalog::open(self.options(memory, verify))
    }

    fn options<'a>(
        &self,
        memory: usize,
        verify: &'a mut dyn FnMut(&Batch) -> Result<bool>,
    ) -> OpenOptions<'a> {
        OpenOptions {
            io: Arc::new(self.disk.clone()),
            dir: self.dir.path().to_path_buf(),
            memory,
            verify,
            before_checkpoint: Box::new({
                let before = self.before.clone();
                move || {
                    before.fetch_add(1, SeqCst);
                    Ok(())
                }
            }),
        }
    }

    fn salvage(&self) -> LocalCatalog {
        LocalCatalog::salvage(self.options(MEMORY, &mut |_| Ok(true))).unwrap()
    }

    fn try_open(&self) -> Result<LocalCatalog> {
        self.try_open_with(MEMORY, &mut |_| Ok(true))
    }

    fn open(&self) -> LocalCatalog {
        self.try_open().unwrap()
    }

    fn index(&self) -> PathBuf {
        self.dir.path().join("index.redb")
    }

    /// The journal's files, by number.
    fn journal(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> =
            std::fs::read_dir(self.dir.path().join("journal")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The only file that has records, with these: offset and length of each.
    fn records(&self) -> (PathBuf, Vec<(usize, usize)>) {
        let mut found = Vec::new();
        for path in self.journal() {
            let bytes = std::fs::read(&path).unwrap();
            let number = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            let (mut at, mut places) = (0, Vec::new());
            while let Some(record) = super::journal::parse(&bytes[at..], number) {
                places.push((at, record.size()));
                at += record.size();
            }
            if !places.is_empty() {
                found.push((path, places));
            }
        }
        assert_eq!(found.len(), 1, "{found:?}");
        found.pop().unwrap()
    }
}

/// A batch that puts `n` under a key of its own and under a common one.
fn numbered(n: u64) -> Batch {
    let mut batch = Batch::default();
    batch.put(format!("n{n:06}").into_bytes(), n.to_le_bytes());
    batch.put(b"last", n.to_le_bytes());
    batch
}

/// How many numbered batches the catalog has: they must be there from 1 on, whole and without gaps.
fn count(catalog: &LocalCatalog) -> u64 {
    let number = |value: Vec<u8>| u64::from_le_bytes(value.try_into().unwrap());
    // One scan: two calls would see two moments.
    let mut found = all(catalog);
    let last = found.remove(&b"last"[..]).map_or(0, number);
    let numbers: Vec<u64> =
        found.into_iter().filter(|(key, _)| key[0] == b'n').map(|(_, v)| number(v)).collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
    last
}

fn all(catalog: &LocalCatalog) -> BTreeMap<Key, Value> {
    let mut found = BTreeMap::new();
    let mut previous = None;
    catalog
        .scan(vec![]..vec![0xff; 8], &mut |key, value| {
            assert!(previous.as_deref() < Some(key), "in order");
            previous = Some(key.to_vec());
            found.insert(key.to_vec(), value.to_vec());
            true
        })
        .unwrap();
    found
}

fn nothing() -> Result<()> {
    Ok(())
}

/// Changes one byte of a file.
fn flip(path: &Path, at: usize, mask: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= mask;
    std::fs::write(path, bytes).unwrap();
}
