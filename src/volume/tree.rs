//! The part of the tree that is in memory: inodes and directory entries, under one limit.
//!
//! What was used since it was last looked at stays when room is needed, what was not goes. To note a use is a flag in what is
//! used anyway: moving it in a list would touch its neighbours, which are in no processor cache.
//!
//! What is not here is in the catalog; a function that misses something says what ([`Need`]).
//! Invariant: an inode with changes that are not journalled, or with dirty pages, stays in memory.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::entries::{Bucket, ENTRY_WEIGHT, Entries, Window, cookie};
use super::quota::{Payer, Quotas};
use super::refs::Refs;
use super::types::{Need, Pause, Step};
use crate::clock::{Clock, Time};
use crate::error::Error;
pub(super) use crate::format::name_hash as hash_of;
use crate::format::{
    CounterRecord, Dentry, Extent, Ino, InodeRecord, Key, Kind, Links, NAME_MAX, Name, PageNo, PageRecord,
    ROOT, SegmentId, UseRecord,
};
use crate::queue::Queue;

/// What an inode in memory costs beside its variable parts.
const INODE_WEIGHT: usize = 450;

/// What an entry costs that is loaded with the inode that it names.
const LOADED: usize = ENTRY_WEIGHT + INODE_WEIGHT + 32;

/// Inodes that were used and are passed over, at most, each time that room is made.
const CHANCES: usize = 64;

/// Files between two that are read one after the other, at most, where a directory is read in order.
const NEAR: usize = 4;

/// How often in a row that must have been so, for a directory to be read ahead.
const IN_ORDER: u8 = 2;

/// Extended attributes by name.
pub(super) type Attributes = BTreeMap<Box<[u8]>, Vec<u8>>;

/// An inode in memory.
#[derive(Debug)]
pub(super) struct Inode {
    /// The record as callers see it.
    pub rec: InodeRecord,
    /// The size in the catalog: never beyond the content that is in frames or patches.
    pub recorded_size: u64,
    /// Whether the record has changes that the catalog has not.
    pub dirty: bool,
    /// Whether it was used since it was last passed over.
    in_use: bool,
    /// When it is its turn to be looked at, should room be needed.
    turn: u64,
    /// Extended attributes by name, when they are in memory.
    pub xattrs: Option<Attributes>,
    /// The record of its use, when it was asked for; the default where there is none.
    pub used: Option<Box<UseRecord>>,
    /// Entries in memory, of a directory.
    pub entries: Option<Box<Entries>>,
    /// Page records of a range, when they were asked for; void once `version` has changed.
    pub extents: Option<Box<Extents>>,
    /// Changes with each change of what the page records say.
    pub version: u64,
    /// Who pays for it, or for what is in it.
    pub payer: Payer,
    /// Where a sequential reader would go on; of a directory, the cookie of the file that was read last.
    pub next_read: u64,
    /// Of a directory: how often in a row a file was read that is listed shortly behind the one before.
    in_order: u8,
    weight: usize,
}

/// The records of a file's pages from `from` up to `to` (exclusive).
#[derive(Debug)]
pub(super) struct Extents {
    pub version: u64,
    pub from: PageNo,
    pub to: PageNo,
    pub records: Vec<(PageNo, PageRecord)>,
}

/// What an entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub ino: Ino,
    pub kind: Kind,
}

impl Inode {
    pub fn new(rec: InodeRecord, version: u64) -> Inode {
        Inode {
            recorded_size: rec.size,
            rec,
            dirty: false,
            // Whoever waits for it has yet to use it.
            in_use: true,
            turn: 0,
            xattrs: None,
            used: None,
            entries: None,
            extents: None,
            version,
            payer: None,
            next_read: 0,
            in_order: 0,
            weight: 0,
        }
    }

    fn weigh(&self) -> usize {
        let xattrs =
            self.xattrs.iter().flatten().map(|(name, value)| 64 + name.len() + value.len()).sum::<usize>();
        let extents =
            self.extents.as_ref().map_or(0, |e| e.records.len() * size_of::<(PageNo, PageRecord)>());
        let target = self.rec.target.as_ref().map_or(0, |t| t.len());
        INODE_WEIGHT + xattrs + extents + target + self.entries.as_ref().map_or(0, |entries| entries.weigh())
    }

    pub fn is_dir(&self) -> bool {
        self.rec.kind() == Kind::Directory
    }

    pub fn is_removed_dir(&self) -> bool {
        self.is_dir() && self.rec.nlink == 0
    }

    /// Refuses what is no directory, and one that was removed: it has nothing in it and takes nothing in.
    fn check_directory(&self) -> Step<()> {
        match (self.is_dir(), self.rec.nlink) {
            (false, _) => Err(Error::NotADirectory.into()),
            (true, 0) => Err(Error::NotFound.into()),
            _ => Ok(()),
        }
    }

    /// What a name in this directory, whose number is `dir`, stands for; `None` when there is no such entry.
    pub fn find(&self, dir: Ino, name: &[u8]) -> Step<Option<Child>> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong.into());
        }
        self.check_directory()?;
        self.find_anywhere(dir, name)
    }

    /// [`Inode::find`], also in a directory that was removed with its entries.
    fn find_anywhere(&self, dir: Ino, name: &[u8]) -> Step<Option<Child>> {
        let hash = hash_of(name);
        if let Some(entries) = &self.entries {
            if let Some(entry) = entries.find(hash, name) {
                return Ok(Some(Child { ino: entry.ino, kind: entry.kind }));
            }
            if entries.complete || entries.hashes.contains(&hash) {
                return Ok(None);
            }
        }
        if self.rec.size == 0 {
            return Ok(None);
        }
        Err(Pause::Wait(Need::Entry(dir, name.into())))
    }
}

/// The tree in memory, and the figures that change with it.
#[derive(Debug)]
pub(super) struct Tree {
    inodes: foldhash::HashMap<Ino, Box<Inode>>,
    /// The order in which they came or were passed over.
    order: Queue<Ino>,
    /// The last turn in it.
    turns: u64,
    weight: usize,
    limit: usize,
    versions: u64,
    /// What was loaded last: who waits for it has yet to use it.
    fresh: Option<Ino>,
    /// Inodes that are being read from the catalog, with the newest reader's token.
    loading: HashMap<Ino, u64>,
    /// What expires up to then has been reported gone, and may not all be removed yet.
    pub gone: Option<Time>,
    /// The catalog has another `gone`, or none: the next batch that is journalled brings this one.
    pub gone_is_due: bool,
    /// Changes whenever records of use are written.
    pub uses_written: u64,
    pub quotas: Quotas,
    pub refs: Refs,
    pub counters: CounterRecord,
    /// Live bytes of each segment.
    pub live: HashMap<SegmentId, u64>,
    /// Unlinked inodes that somebody refers to.
    pub unlinked: HashSet<Ino>,
    /// Unlinked inodes that nobody refers to any longer.
    pub orphans: Vec<Ino>,
    /// Removed directories whose entries are yet to be removed: what is below them is in the tree no longer.
    pub emptying: HashSet<Ino>,
    /// Inodes of which the kernel was asked to give its references back.
    pub awaited: HashSet<Ino>,
    /// Extents that nothing refers to once the batches so far are durable.
    pub freed: Vec<Extent>,
    /// Bytes of extents that are not given back to the disk yet: those of `freed`, and those under way.
    pub dead: u64,
    /// Releases of possibly shared frames that wait to be worked off.
    pub releases: Vec<Key>,
}

impl Tree {
    /// A place on the disk that was taken for frames that nothing will name.
    pub fn give_up(&mut self, place: Extent) {
        self.dead += u64::from(place.len);
        self.freed.push(place);
    }

    pub fn new(limit: usize) -> Tree {
        Tree {
            inodes: foldhash::HashMap::default(),
            order: Queue::default(),
            turns: 0,
            weight: 0,
            limit,
            versions: 0,
            fresh: None,
            loading: HashMap::new(),
            gone: None,
            gone_is_due: false,
            uses_written: 0,
            quotas: Quotas::default(),
            refs: Refs::default(),
            counters: CounterRecord::default(),
            live: HashMap::new(),
            unlinked: HashSet::new(),
            orphans: Vec::new(),
            emptying: HashSet::new(),
            awaited: HashSet::new(),
            freed: Vec::new(),
            dead: 0,
            releases: Vec::new(),
        }
    }

    /// Bytes of memory that inodes and entries take.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Entries that a directory may have to be loaded whole, with the inodes that they name.
    pub fn whole_directory(&self) -> u64 {
        (self.limit / 4 / LOADED) as u64
    }

    /// Entries that can be loaded, with the inodes that they name, before anything else has to go.
    pub fn room(&self) -> u64 {
        (self.limit.saturating_sub(self.weight) / LOADED) as u64
    }

    /// The time. While keys are reported gone but not yet removed, never earlier than when they were: a
    /// clock set back does not bring them back.
    pub fn now(&self, clock: &Clock) -> Time {
        self.gone.unwrap_or(Time(i64::MIN)).max(clock.now())
    }

    pub fn new_version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }

    /// Notes that an inode's record is about to be read from the catalog without the lock.
    pub fn begin_load(&mut self, ino: Ino) -> u64 {
        let token = self.new_version();
        self.loading.insert(ino, token);
        token
    }

    /// Takes in what was read, unless somebody else has begun or ended a load since: then the inode
    /// may have been in memory, changed and evicted again, and what was read is old. `payer`: none where that is not known.
    pub fn end_load(&mut self, ino: Ino, token: u64, rec: Option<InodeRecord>, payer: Option<Payer>) {
        if self.loading.get(&ino) != Some(&token) {
            return;
        }
        self.loading.remove(&ino);
        if let (Some(rec), Some(payer)) = (rec, payer)
            && self.peek(ino).is_none()
        {
            let version = self.new_version();
            self.insert(ino, Inode { payer, ..Inode::new(rec, version) });
            self.make_room_beside(ino);
        }
    }

    /// Marks that a file's page records change.
    pub fn touch_version(&mut self, ino: Ino) {
        let version = self.new_version();
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.version = version;
            inode.extents = None;
        }
    }

    pub fn peek(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get(&ino).map(|inode| &**inode)
    }

    /// An inode, when it is in memory; counts as no use of it.
    pub fn peek_mut(&mut self, ino: Ino) -> Option<&mut Inode> {
        self.inodes.get_mut(&ino).map(|inode| &mut **inode)
    }

    /// An inode in memory, whatever it is.
    pub fn get(&mut self, ino: Ino) -> Step<&mut Inode> {
        match self.inodes.get_mut(&ino) {
            Some(inode) => {
                inode.in_use = true;
                Ok(inode)
            }
            None => Err(Pause::Wait(Need::Inode(ino))),
        }
    }

    /// A directory in memory. Errors: `NotFound`, when it or one above it was removed.
    pub fn directory(&mut self, ino: Ino) -> Step<&mut Inode> {
        let mut above = ino;
        while !self.emptying.is_empty() && above != ROOT {
            if self.get(above)?.is_removed_dir() {
                return Err(Error::NotFound.into());
            }
            above = self.parent_of(above)?;
        }
        let inode = self.get(ino)?;
        inode.check_directory()?;
        Ok(inode)
    }

    /// The directory that a directory is in; of the root, the root.
    pub fn parent_of(&mut self, dir: Ino) -> Step<Ino> {
        match &self.get(dir)?.rec.links {
            Links::One { parent, .. } => Ok(*parent),
            Links::Many => Ok(ROOT),
        }
    }

    /// A regular file in memory.
    pub fn file(&mut self, ino: Ino) -> Step<&mut Inode> {
        let inode = self.get(ino)?;
        match inode.rec.kind() {
            Kind::File => Ok(inode),
            Kind::Directory => Err(Error::IsADirectory.into()),
            _ => Err(Error::Invalid("not a regular file".into()).into()),
        }
    }

    /// Takes an inode in. It makes no room, nor does anything that an operation does: what it has made must be there when it
    /// answers.
    pub fn insert(&mut self, ino: Ino, mut inode: Inode) {
        inode.weight = inode.weigh();
        self.weight += inode.weight;
        self.turns += 1;
        inode.turn = self.turns;
        self.order.push(self.turns, ino);
        if let Some(old) = self.inodes.insert(ino, Box::new(inode)) {
            self.weight -= old.weight;
            self.order.remove(old.turn);
        }
    }

    pub fn remove(&mut self, ino: Ino) {
        self.loading.remove(&ino);
        if let Some(old) = self.inodes.remove(&ino) {
            self.weight -= old.weight;
            self.order.remove(old.turn);
        }
    }

    /// Counts an inode's weight anew after its variable parts changed.
    pub fn reweigh(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            let weight = inode.weigh();
            self.weight = self.weight + weight - inode.weight;
            inode.weight = weight;
        }
    }

    /// Makes room for an inode that was loaded, or for what was loaded of it: it stays.
    pub fn make_room_beside(&mut self, ino: Ino) {
        self.fresh = Some(ino);
        if self.weight > self.limit {
            self.renew(ino);
            self.make_room();
        }
    }

    /// The most bytes that it may take.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Sets the most bytes that it may take. What is beyond is evicted, now as far as it is not needed.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.make_room();
    }

    /// Evicts inodes down to the limit, ahead of an operation: those first that were not used since they were last looked at, as
    /// the [`CHANCES`] first that were are passed over. Those that must stay are, too; some of these each time are enough, as each
    /// operation comes here. What was loaded last stays: the operation may have waited for it.
    pub fn make_room(&mut self) {
        let (mut chances, mut passed) = (CHANCES, 0);
        while self.weight > self.limit && passed < 32 {
            let Some(ino) = self.order.first() else { return };
            let kept = self.fresh == Some(ino);
            let Some(inode) = self.inodes.get_mut(&ino) else { return };
            if std::mem::take(&mut inode.in_use) && chances > 0 {
                chances -= 1;
            } else if inode.dirty || kept {
                passed += 1;
            } else {
                self.remove(ino);
                continue;
            }
            self.renew(ino);
        }
    }

    /// Makes an inode the last to be evicted: what its user waits for is about to be loaded.
    pub fn renew(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            self.order.remove(inode.turn);
            self.turns += 1;
            inode.turn = self.turns;
            self.order.push(self.turns, ino);
        }
    }

    /// How many inodes are in memory.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// The inodes in memory.
    pub fn inodes(&self) -> impl Iterator<Item = (Ino, &Inode)> {
        self.order.iter().filter_map(|(_, ino)| Some((ino, self.peek(ino)?)))
    }

    /// All of them, to be changed in what takes no memory.
    pub fn inodes_mut(&mut self) -> impl Iterator<Item = &mut Inode> {
        self.inodes.values_mut().map(|inode| &mut **inode)
    }

    /// The inodes with changes that are not journalled.
    pub fn dirty_inodes(&self) -> Vec<Ino> {
        self.inodes().filter(|(_, inode)| inode.dirty).map(|(ino, _)| ino).collect()
    }

    /// What a name in a directory stands for, `None` when there is no such entry.
    pub fn find(&mut self, dir: Ino, name: &[u8]) -> Step<Option<Child>> {
        self.get(dir)?.find(dir, name)
    }

    /// [`Tree::find`], also in a directory that was removed with its entries.
    pub fn find_anywhere(&mut self, dir: Ino, name: &[u8]) -> Step<Option<Child>> {
        self.get(dir)?.find_anywhere(dir, name)
    }

    /// The bucket of names with a hash. [`Tree::find`] of one of them has succeeded before.
    pub fn bucket_of(&self, dir: Ino, hash: u64) -> Bucket {
        match self.peek(dir).and_then(|inode| inode.entries.as_ref()) {
            Some(entries) => entries.bucket(hash).cloned().collect(),
            None => Bucket::new(),
        }
    }

    /// Sets or removes an entry in memory, which has this slot among those with the hash of its name.
    pub fn set_entry(&mut self, dir: Ino, name: Name, (hash, slot): (u64, u8), to: Option<(Ino, Kind)>) {
        let version = self.new_version();
        let Some(inode) = self.inodes.get_mut(&dir) else { return };
        inode.version = version;
        let entries = inode.entries.get_or_insert_default();
        if let Some(window) = &mut entries.window {
            window.set(
                cookie(hash, slot),
                to.map(|(ino, kind)| Dentry { name: name.clone(), ino, kind, slot }),
            );
        }
        match to {
            Some((ino, kind)) => {
                if !entries.complete {
                    entries.hashes.insert(hash);
                }
                entries.put(hash, Dentry { name, ino, kind, slot });
            }
            None => entries.remove(hash, slot),
        }
        self.reweigh_entries(dir);
    }

    /// As [`Tree::reweigh`], without walking attributes: entries change with every create.
    fn reweigh_entries(&mut self, dir: Ino) {
        if let Some(inode) = self.inodes.get_mut(&dir) {
            let weight = inode.weigh();
            self.weight = self.weight + weight - inode.weight;
            inode.weight = weight;
            // A directory that grew beyond what may be kept whole is loaded in parts from now on.
            if weight > self.limit / 2 {
                self.weight -= weight;
                inode.entries = None;
                inode.weight = inode.weigh();
                self.weight += inode.weight;
            }
        }
    }

    /// Takes in entries read from the catalog: all of the directory, or all of some hashes.
    /// Void when the directory has been changed since (`version` of the inode is compared).
    pub fn add_entries(
        &mut self,
        dir: Ino,
        version: u64,
        found: Vec<Dentry>,
        complete: bool,
        hashes: &[u64],
    ) {
        let Some(inode) = self.inodes.get_mut(&dir) else { return };
        if inode.version != version {
            return;
        }
        let entries = inode.entries.get_or_insert_default();
        found.into_iter().for_each(|entry| entries.put(hash_of(&entry.name), entry));
        if complete {
            entries.complete = true;
            entries.hashes = HashSet::new();
        } else {
            entries.hashes.extend(hashes);
        }
        self.reweigh(dir);
        self.make_room_beside(dir);
    }

    pub fn set_window(&mut self, dir: Ino, version: u64, window: Window) {
        if let Some(inode) = self.inodes.get_mut(&dir)
            && inode.version == version
        {
            inode.entries.get_or_insert_default().window = Some(window);
            self.reweigh(dir);
            self.make_room_beside(dir);
        }
    }

    /// When the files of a directory are being read in the order in which they are listed, and this one was reached: the
    /// next ones that have content and fit one page, of up to `most` entries. Who reads here and there gets none.
    pub fn listed_behind(&mut self, ino: Ino, most: usize) -> Vec<Ino> {
        let Some(Links::One { parent, name }) = self.peek(ino).map(|inode| &inode.rec.links) else {
            return Vec::new();
        };
        let (parent, hash) = (*parent, hash_of(name));
        let Some(dir) = self.inodes.get_mut(&parent) else { return Vec::new() };
        let here = cookie(hash, 0);
        let last = std::mem::replace(&mut dir.next_read, here);
        let Some(entries) = dir.entries.as_ref().filter(|entries| entries.complete) else {
            return Vec::new();
        };
        // Once files are read ahead, who reads them is not seen before he has come to their end.
        let near = if dir.in_order < IN_ORDER { NEAR } else { most + NEAR };
        let files = |from: u64, to: u64| {
            entries.by_cookie.range(from + 1..to).filter(|(_, entry)| entry.kind == Kind::File)
        };
        let is_near = |from, to| last > 0 && from < to && files(from, to).nth(near).is_none();
        if is_near(last, here) {
            dir.in_order = dir.in_order.saturating_add(1);
        } else if !is_near(here, last) {
            // Several that share the work are one before the other now and then.
            dir.in_order = 0;
        }
        if dir.in_order < IN_ORDER || here < last {
            return Vec::new();
        }
        let next: Vec<Ino> =
            entries.by_cookie.range(cookie(hash + 1, 0)..).take(most).map(|(_, entry)| entry.ino).collect();
        let small =
            |rec: &InodeRecord| rec.kind() == Kind::File && rec.pages == 1 && rec.size <= rec.page_size();
        next.into_iter().filter(|ino| self.peek(*ino).is_some_and(|inode| small(&inode.rec))).collect()
    }

    /// The entries in memory behind a cookie, in order, and whether the directory ends with them.
    #[expect(clippy::type_complexity, reason = "used once")]
    pub fn list(&self, dir: Ino, after: u64) -> Step<(Box<dyn Iterator<Item = (u64, &Dentry)> + '_>, bool)> {
        let inode = self.peek(dir).ok_or(Pause::Wait(Need::Inode(dir)))?;
        if !inode.is_dir() {
            return Err(Error::NotADirectory.into());
        }
        if inode.rec.size == 0 {
            return Ok((Box::new(std::iter::empty()), true));
        }
        if let Some(entries) = &inode.entries {
            if entries.complete {
                let rest = entries.by_cookie.range(after + 1..).map(|(cookie, entry)| (*cookie, entry));
                return Ok((Box::new(rest), true));
            }
            if let Some(window) = entries.window.as_ref().filter(|window| window.after <= after) {
                let from = window.entries.partition_point(|(cookie, _)| *cookie <= after);
                let rest = window.entries.get(from..).unwrap_or_default();
                if !rest.is_empty() || window.end {
                    return Ok((Box::new(rest.iter().map(|(cookie, entry)| (*cookie, entry))), window.end));
                }
            }
        }
        Err(Pause::Wait(Need::Entries(dir, after)))
    }
}
