//! The entries of a directory in memory: all, those of some hashes, or a part of a listing.

use std::collections::{BTreeMap, HashSet};

use smallvec::SmallVec;

use crate::error::Error;
use crate::format::{Dentry, Ino, Kind, SLOT_BITS};

/// What an entry in memory costs beside its name.
pub(super) const ENTRY_WEIGHT: usize = 96;

/// The entries of a directory that are in memory, by cookie.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub by_cookie: BTreeMap<u64, Dentry>,
    /// All entries are here.
    pub complete: bool,
    /// Where not all are: the hashes whose entries are all here.
    pub hashes: HashSet<u64>,
    /// Where not all are: the part that a listing asked for, in order, from behind a cookie.
    pub window: Option<Window>,
    weight: usize,
}

/// Consecutive entries of a directory that is too large to be in memory whole.
#[derive(Debug)]
pub(super) struct Window {
    pub after: u64,
    pub entries: Vec<(u64, Dentry)>,
    /// Nothing follows.
    pub end: bool,
}

/// The entries whose names have one hash: nearly always one.
pub(super) type Bucket = SmallVec<[Dentry; 1]>;

/// Sets, replaces or removes the entry of a name in its bucket, and tells its slot.
/// Errors: `NoSpace` when all slots are taken, by names that were made to have the same hash.
pub(super) fn set_in_bucket(bucket: &mut Bucket, name: &[u8], to: Option<(Ino, Kind)>) -> Result<u8, Error> {
    let old = bucket.iter().position(|entry| *entry.name == *name).map(|at| bucket.remove(at).slot);
    let mut free = (0..1 << SLOT_BITS).filter(|slot| bucket.iter().all(|entry| entry.slot != *slot));
    let slot = old.or_else(|| free.next()).ok_or(Error::NoSpace)?;
    if let Some((ino, kind)) = to {
        bucket.push(Dentry { name: name.into(), ino, kind, slot });
    }
    Ok(slot)
}

impl Window {
    /// Sets or removes an entry, where it belongs in this part.
    pub fn set(&mut self, at: u64, entry: Option<Dentry>) {
        let last = self.entries.last().map_or(self.after, |(cookie, _)| *cookie);
        if at <= self.after || (at > last && !self.end) {
            return;
        }
        match (self.entries.binary_search_by_key(&at, |(cookie, _)| *cookie), entry) {
            (Ok(there), Some(entry)) => {
                if let Some(slot) = self.entries.get_mut(there) {
                    slot.1 = entry;
                }
            }
            (Ok(there), None) => drop(self.entries.remove(there)),
            (Err(place), Some(entry)) => self.entries.insert(place, (at, entry)),
            (Err(_), None) => {}
        }
    }
}

pub(super) fn cookie(hash: u64, slot: u8) -> u64 {
    hash << SLOT_BITS | u64::from(slot)
}

pub(super) fn cookie_hash(cookie: u64) -> u64 {
    cookie >> SLOT_BITS
}

impl Entries {
    /// Of a directory that was just made.
    pub fn empty() -> Entries {
        Entries { complete: true, ..Entries::default() }
    }

    pub fn weigh(&self) -> usize {
        let window = self.window.as_ref().map_or(0, |window| window.entries.len() * (ENTRY_WEIGHT + 32));
        self.weight + window + self.hashes.len() * 2 * size_of::<u64>()
    }

    pub fn find(&self, hash: u64, name: &[u8]) -> Option<&Dentry> {
        let named = |entry: &&Dentry| *entry.name == *name;
        // Nearly always the first of its hash.
        self.by_cookie.get(&cookie(hash, 0)).filter(named).or_else(|| self.bucket(hash).find(named))
    }

    pub fn bucket(&self, hash: u64) -> impl Iterator<Item = &Dentry> {
        self.by_cookie.range(cookie(hash, 0)..cookie(hash + 1, 0)).map(|(_, entry)| entry)
    }

    pub fn put(&mut self, hash: u64, entry: Dentry) {
        self.weight += ENTRY_WEIGHT + entry.name.len();
        if let Some(old) = self.by_cookie.insert(cookie(hash, entry.slot), entry) {
            self.weight -= ENTRY_WEIGHT + old.name.len();
        }
    }
    pub fn remove(&mut self, hash: u64, slot: u8) {
        if let Some(old) = self.by_cookie.remove(&cookie(hash, slot)) {
            self.weight -= ENTRY_WEIGHT + old.name.len();
        }
    }
}
