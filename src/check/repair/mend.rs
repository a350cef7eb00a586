//! The changes of a repair: gathered, and written in batches that each leave the store no worse than before.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::aside::Aside;
use crate::catalog::{Batch, Engine, LocalCatalog, Value};
use crate::check::tree::is_known;
use crate::clock::Time;
use crate::error::Result;
use crate::format::{Bucket, Ino, InodeRecord, Key, decode, encode, keys, name_hash};
use crate::io::Io;

/// Bytes of changes with which a batch is written, between two that belong together. Small beside the catalog's memory.
const BATCH: usize = 2 << 20;

/// The most actions that are kept; the others are counted.
const KEPT: usize = 10_000;

/// Something that a repair did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    /// Where: a file, a segment and offset, or an inode.
    pub place: String,
    /// The path of the inode that is concerned, as it is now, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What was done.
    pub what: String,
    #[serde(skip)]
    pub(super) ino: Option<Ino>,
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.place)?;
        if let Some(path) = &self.path {
            write!(f, " ({path})")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Done {
    pub actions: Vec<Action>,
    pub omitted: u64,
}

impl Done {
    pub fn at(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.add(place.into(), None, what.into());
    }

    pub fn inode(&mut self, ino: Ino, what: impl Into<String>) {
        self.add(ino.to_string(), Some(ino), what.into());
    }

    fn add(&mut self, place: String, ino: Option<Ino>, what: String) {
        if self.actions.len() < KEPT {
            self.actions.push(Action { place, path: None, what, ino });
        } else {
            self.omitted += 1;
        }
    }
}

/// A catalog that is being mended. Reads see the changes that are gathered, scans those that are written.
pub struct Mend<'a> {
    pub engine: &'a LocalCatalog,
    pub done: &'a mut Done,
    pub now: Time,
    aside: Aside<'a>,
    changes: BTreeMap<Key, Option<Value>>,
    bytes: usize,
}

impl<'a> Mend<'a> {
    pub fn new(
        engine: &'a LocalCatalog,
        io: &'a Arc<dyn Io>,
        dir: &'a Path,
        now: Time,
        done: &'a mut Done,
    ) -> Mend<'a> {
        Mend { engine, done, now, aside: Aside::new(io, dir), changes: BTreeMap::new(), bytes: 0 }
    }

    pub fn get_raw(&self, key: &[u8]) -> Result<Option<Value>> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.engine.get(key),
        }
    }

    /// A record; none also where it cannot be read.
    pub fn get<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        Ok(self.get_raw(key)?.and_then(|value| decode(&value, "record").ok()))
    }

    pub fn put(&mut self, key: impl Into<Key>, value: Value) {
        self.change(key.into(), Some(value));
    }

    pub fn delete(&mut self, key: impl Into<Key>) {
        self.change(key.into(), None);
    }

    fn change(&mut self, key: Key, value: Option<Value>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len) + 64;
        self.changes.insert(key, value);
    }

    /// Deletes a record that nothing can be done with, and keeps it in the store's directory.
    pub fn put_aside(&mut self, key: impl Into<Key>) -> Result<()> {
        let key = key.into();
        self.keep(&key)?;
        self.delete(key);
        Ok(())
    }

    /// Keeps a record as it is now in the store's directory.
    pub fn keep(&mut self, key: &[u8]) -> Result<()> {
        if let Some(value) = self.get_raw(key)? {
            self.aside.keep(key, &value);
        }
        Ok(())
    }

    /// All keys of the format below a prefix with their values, as they are written.
    pub fn under(&self, prefix: &[u8]) -> Result<Vec<(Key, Value)>> {
        let mut found = Vec::new();
        self.engine.scan(keys::under(prefix), &mut |key, value| {
            if is_known(key) {
                found.push((key.to_vec(), value.to_vec()));
            }
            true
        })?;
        Ok(found)
    }

    pub fn record(&self, ino: Ino) -> Result<Option<InodeRecord>> {
        self.get(&keys::inode(ino))
    }

    pub fn put_record(&mut self, ino: Ino, record: &InodeRecord) {
        self.put(keys::inode(ino), encode(record));
    }

    pub fn bucket(&self, dir: Ino, name: &[u8]) -> Result<Bucket> {
        Ok(self.get(&keys::bucket(dir, name_hash(name)))?.unwrap_or_default())
    }

    pub fn put_bucket(&mut self, dir: Ino, hash: u64, bucket: &Bucket) {
        let key = keys::bucket(dir, hash);
        if bucket.is_empty() { self.delete(key) } else { self.put(key, encode(bucket)) }
    }

    /// What was gathered so far belongs together, and leaves the store no worse: writes it, if it is much.
    pub fn step(&mut self) -> Result<()> {
        if self.bytes < BATCH { Ok(()) } else { self.write() }
    }

    /// Writes what was gathered, in one batch.
    pub fn write(&mut self) -> Result<()> {
        // Ahead of the batch: what it deletes is kept before.
        self.aside.write()?;
        let mut batch = Batch::default();
        for (key, value) in std::mem::take(&mut self.changes) {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        self.bytes = 0;
        if batch.is_empty() {
            return Ok(());
        }
        if !self.engine.has_room() {
            self.engine.wait_for_room()?;
        }
        self.engine.apply(batch).map(drop)
    }
}
