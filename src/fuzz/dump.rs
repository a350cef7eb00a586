//! Dumps of the catalog: the backups that a store keeps, and those that are restored.

use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Bytes, put, u32_at};
use crate::catalog::{DumpHead, DumpReader, DumpWriter};
use crate::error::{Error, Result};

/// Bytes of a dump's head and of a part's, as `catalog/dump.rs` draws them.
const HEAD: usize = 40;
const PART: usize = 16;

pub(super) fn run(data: &[u8]) {
    read(data);
    read(&mended(data));
}

/// The bytes with all their sums put right, and the count of a last part that has none.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let mut sum = xxh3_64(bytes.get(..HEAD - 8).unwrap_or_default());
    put(&mut bytes, HEAD - 8, &sum.to_le_bytes());
    let mut at = HEAD;
    while let Some(head) = bytes.get(at..at + PART) {
        let stored = u32_at(head, 4).unwrap_or_default() as usize;
        let Some(payload) = bytes.get(at + PART..at + PART + stored) else { break };
        sum = xxh3_64_with_seed(payload, xxh3_64_with_seed(head.get(..8).unwrap_or_default(), sum));
        put(&mut bytes, at + 8, &sum.to_le_bytes());
        at += PART + stored;
    }
    bytes
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// A dump's head, and its entries until something is wrong: what is, then.
fn entries(bytes: &[u8]) -> Result<(DumpHead, Entries, Option<Error>)> {
    let mut reader = DumpReader::new(Arc::new(Bytes::of(bytes)), Path::new("dump"))?;
    let mut entries = Vec::new();
    loop {
        match reader.entry() {
            // However many there may be of nothing, in a part of 16 MiB: what matters is read.
            Ok(Some((key, value))) if entries.len() < 10_000 => entries.push((key.to_vec(), value.to_vec())),
            Ok(Some(_)) => return Ok((reader.head(), entries, None)),
            Ok(None) => return Ok((reader.head(), entries, None)),
            Err(error) => return Ok((reader.head(), entries, Some(error))),
        }
    }
}

/// What is read of a dump can be dumped, and reads the same.
fn read(bytes: &[u8]) {
    let (head, there, error) = match entries(bytes) {
        Ok(read) => read,
        Err(Error::Damaged(_)) => return,
        Err(other) => panic!("{other}"),
    };
    assert!(error.as_ref().is_none_or(|error| matches!(error, Error::Damaged(_))), "{error:?}");
    let file = Arc::new(Bytes::default());
    let mut writer = DumpWriter::new(file.clone(), Path::new("again"), head).expect("a file in memory");
    for (key, value) in &there {
        writer.put(key, value).expect("an entry that was read");
    }
    let dumped = writer.finish().expect("a file in memory");
    assert_eq!(dumped.entries, there.len() as u64);
    let (again, same, error) = file.with(|bytes| entries(bytes)).expect("a dump that was written");
    assert!(error.is_none() && again == head && same == there, "it reads otherwise: {error:?}");
}
