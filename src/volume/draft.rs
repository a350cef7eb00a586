//! A change of the tree in the making. It is put together from copies, journalled as one batch, and
//! only then becomes visible in memory, in the cache of pages too: what could not be journalled has not happened.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::Volume;
use super::tree::{Attributes, Inode, Tree, hash_of, set_in_bucket};
use crate::cache::{Cache, PageId};
use crate::catalog::Batch;
use crate::error::Result;
use crate::format::{
    Bucket, Extent, Ino, InodeRecord, Key, Kind, PageNo, PageRecord, Patch, SegmentRecord, Seq, encode, keys,
};

/// Directory entries that change: directory, name, what the name is to mean.
type EntryChange = (Ino, Box<[u8]>, Option<(Ino, Kind)>);

/// How much of a file the catalog may say there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    /// As before: content beyond is still on its way.
    Unchanged,
    /// This many bytes.
    Size(u64),
}

/// What becomes of a file's pages in memory once the draft is journalled. The tree's lock is held from the moment when the
/// draft asked the cache, so what it said still holds.
enum InMemory {
    /// They are dropped, from a page up to another (exclusive).
    Discard(Ino, PageNo, PageNo),
    /// A page is cut at this offset.
    Cut(PageId, usize),
    /// What was unjournalled is no longer; by page, the number behind its last patch.
    Journalled(Ino, Vec<(PageNo, u32)>),
}

/// Where keys stand in a list. They are few in nearly every change, and then looked at one by one.
#[derive(Debug)]
struct Places<K> {
    keys: Vec<K>,
    /// Where each stands, once they are many.
    index: HashMap<K, usize>,
}

impl<K: Clone + Eq + Hash> Places<K> {
    /// More keys than this are found by their hash.
    const FEW: usize = 16;

    fn find(&self, key: &K) -> Option<usize> {
        if self.keys.len() <= Self::FEW {
            self.keys.iter().position(|other| other == key)
        } else {
            self.index.get(key).copied()
        }
    }

    /// Appends a key that is not there.
    fn push(&mut self, key: K) {
        self.keys.push(key);
        if self.keys.len() > Self::FEW {
            let known = self.index.len();
            let new = self.keys.iter().enumerate().skip(known);
            self.index.extend(new.map(|(place, key)| (key.clone(), place)));
        }
    }
}

impl<K> Default for Places<K> {
    fn default() -> Places<K> {
        Places { keys: Vec::new(), index: HashMap::new() }
    }
}

#[derive(Default)]
pub(super) struct Draft {
    pub batch: Batch,
    inodes: Vec<(Ino, InodeRecord, Recorded)>,
    /// Where an inode stands in `inodes`.
    places: Places<Ino>,
    entries: Vec<EntryChange>,
    removed: Vec<Ino>,
    /// New inodes with their attributes.
    born: BTreeMap<Ino, Attributes>,
    /// Bytes of frames that come to be live or dead, by segment.
    live: Vec<(Extent, bool)>,
    freed: Vec<Extent>,
    releases: Vec<Vec<u8>>,
    /// Inodes whose last name is removed.
    unlinked: Vec<Ino>,
    /// Unlinked inodes that get a name.
    relinked: Vec<Ino>,
    /// In the order in which it happens.
    in_memory: Vec<InMemory>,
}

impl Draft {
    /// Of a change that adds something: one behind [`Volume::ready_to_add`].
    pub fn adding() -> Draft {
        Draft { batch: Batch { adds: true, ..Batch::default() }, ..Draft::default() }
    }

    /// A new inode; its number has been given to no other.
    pub fn birth(&mut self, ino: Ino, mut rec: InodeRecord, attributes: Attributes) {
        rec.xattrs = attributes.len() as u32;
        for (name, value) in &attributes {
            self.batch.put(keys::xattr(ino, name), value.clone());
        }
        self.born.insert(ino, attributes);
        self.inode(ino, rec);
    }

    /// The attributes of an inode that is born in this draft.
    pub fn attributes_of_born(&self, ino: Ino) -> Option<&Attributes> {
        self.born.get(&ino)
    }

    /// An inode as it is to be.
    pub fn inode(&mut self, ino: Ino, rec: InodeRecord) {
        self.inode_sized(ino, rec, Recorded::Unchanged);
    }

    /// An inode as it is to be, and the size that is recorded. The last one for an inode wins.
    pub fn inode_sized(&mut self, ino: Ino, rec: InodeRecord, recorded: Recorded) {
        match self.find_mut(ino) {
            Some(slot) => *slot = (ino, rec, recorded),
            None => {
                self.inodes.push((ino, rec, recorded));
                self.places.push(ino);
            }
        }
    }

    /// The size that is recorded of an inode that is in the draft already.
    pub fn record_size(&mut self, ino: Ino, size: u64) {
        if let Some((_, _, recorded)) = self.find_mut(ino) {
            *recorded = Recorded::Size(size);
        }
    }

    /// An inode as it is to be; the size that is recorded stays as the draft has it.
    pub fn update(&mut self, ino: Ino, rec: InodeRecord) {
        match self.find_mut(ino) {
            Some((_, old, _)) => *old = rec,
            None => self.inode(ino, rec),
        }
    }

    /// An inode as it is to be, when the draft has it.
    pub fn record(&self, ino: Ino) -> Option<&InodeRecord> {
        self.find(ino).map(|(_, rec, _)| rec)
    }

    /// The size that the draft records of an inode, when it does.
    pub fn recorded_size(&self, ino: Ino) -> Option<u64> {
        self.find(ino).and_then(|(_, _, recorded)| match recorded {
            Recorded::Size(size) => Some(*size),
            Recorded::Unchanged => None,
        })
    }

    fn find(&self, ino: Ino) -> Option<&(Ino, InodeRecord, Recorded)> {
        self.inodes.get(self.places.find(&ino)?)
    }

    fn find_mut(&mut self, ino: Ino) -> Option<&mut (Ino, InodeRecord, Recorded)> {
        self.inodes.get_mut(self.places.find(&ino)?)
    }

    /// What a name is to mean; `None` removes it.
    pub fn entry(&mut self, dir: Ino, name: &[u8], to: Option<(Ino, Kind)>) {
        self.entries.push((dir, name.into(), to));
    }

    /// An inode whose last link is gone: it waits for its last reference.
    pub fn unlinked(&mut self, ino: Ino) {
        self.batch.put(keys::orphan(ino), Vec::new());
        self.unlinked.push(ino);
    }

    /// An unlinked inode that gets a name in this draft, maybe after it has lost one in it.
    pub fn relinked(&mut self, ino: Ino) {
        self.batch.delete(keys::orphan(ino));
        self.unlinked.retain(|other| *other != ino);
        self.relinked.push(ino);
    }

    /// Pages of a file that are no more, from `from` up to `to` (exclusive), with what is journalled of them.
    pub fn discard(&mut self, cache: &Cache, ino: Ino, from: PageNo, to: PageNo) {
        for (no, patches) in cache.patches_of(ino, from, to) {
            patches.for_each(|n| self.batch.delete(keys::patch(ino, no, n)));
        }
        self.in_memory.push(InMemory::Discard(ino, from, to));
    }

    /// A page that is cut at an offset, as [`Cache::may_cut`] allows; [`Draft::patches`] has to follow.
    pub fn cut(&mut self, id: PageId, offset: usize) {
        self.in_memory.push(InMemory::Cut(id, offset));
    }

    /// What a file has unjournalled, as [`Cache::patches`] gave it. Once in a draft for each file.
    pub fn patches(&mut self, ino: Ino, patches: Vec<(PageNo, u32, Patch)>) {
        let mut upto: Vec<(PageNo, u32)> = Vec::new();
        for (no, n, patch) in patches {
            self.batch.put(keys::patch(ino, no, n), encode(&patch));
            match upto.last_mut() {
                Some((last, end)) if *last == no => *end = n + 1,
                _ => upto.push((no, n + 1)),
            }
        }
        self.in_memory.push(InMemory::Journalled(ino, upto));
    }

    /// What a new file has, all of it unjournalled: its pages have no patches yet.
    pub fn first_patches(&mut self, ino: Ino, page_shift: u8, content: &[u8]) {
        let mut upto = Vec::new();
        for (no, bytes) in (0..).map(PageNo).zip(content.chunks(1 << page_shift)) {
            self.batch
                .put(keys::patch(ino, no, 0), encode(&Patch::Data { offset: 0, bytes: bytes.to_vec() }));
            upto.push((no, 1));
        }
        self.in_memory.push(InMemory::Journalled(ino, upto));
    }

    /// An inode that leaves for good.
    pub fn remove_inode(&mut self, ino: Ino) {
        self.batch.delete(keys::inode(ino));
        self.batch.delete(keys::orphan(ino));
        self.removed.push(ino);
    }

    /// All inodes that are to change, those that are made before what is in them.
    pub fn inodes(&self) -> impl Iterator<Item = (Ino, &InodeRecord)> {
        self.inodes.iter().map(|(ino, rec, _)| (*ino, rec))
    }

    /// A frame that something refers to from now on.
    pub fn use_extent(&mut self, extent: Extent) {
        self.live.push((extent, true));
    }

    /// A frame that a page refers to no longer. When it may be shared, its owners are counted later.
    pub fn free_extent(&mut self, extent: Extent, ino: Ino, page: PageNo, shared: bool) {
        if extent == PageRecord::LOST.extent {
            return;
        }
        if shared {
            let key = keys::release(extent.segment, extent.offset, ino, page);
            self.batch.put(key.clone(), encode(&extent.len));
            self.releases.push(key);
        } else {
            self.kill_extent(extent);
        }
    }

    /// A frame that nothing refers to any longer.
    pub fn kill_extent(&mut self, extent: Extent) {
        self.live.push((extent, false));
        self.freed.push(extent);
    }
}

impl Volume {
    /// Journals a draft and makes it visible. On failure nothing has happened.
    pub(super) fn commit(&self, tree: &mut Tree, mut draft: Draft) -> Result<Seq> {
        let mut counters = tree.counters;
        counters.inodes += draft.born.len() as u64;
        if let Some(last) = draft.born.keys().last() {
            counters.last_ino = counters.last_ino.max(last.0);
        }
        counters.inodes -= draft.removed.len() as u64;

        let bill = tree.bill(draft.inodes());
        let ended: Vec<Ino> = draft.unlinked.iter().copied().filter(|ino| tree.quotas.has(*ino)).collect();
        ended.iter().for_each(|dir| draft.batch.delete(keys::quota(*dir)));

        let mut live: Vec<(crate::format::SegmentId, u64)> = Vec::new();
        for (extent, born) in &draft.live {
            let at = match live.iter().position(|(segment, _)| *segment == extent.segment) {
                Some(at) => at,
                None => {
                    live.push((extent.segment, tree.live.get(&extent.segment).copied().unwrap_or(0)));
                    live.len() - 1
                }
            };
            if let Some((_, bytes)) = live.get_mut(at) {
                let len = u64::from(extent.len);
                *bytes = if *born { *bytes + len } else { bytes.saturating_sub(len) };
                counters.stored =
                    if *born { counters.stored + len } else { counters.stored.saturating_sub(len) };
            }
        }
        for (segment, bytes) in &live {
            match bytes {
                0 => draft.batch.delete(keys::segment(*segment)),
                _ => draft.batch.put(keys::segment(*segment), encode(&SegmentRecord { live: *bytes })),
            }
        }

        let mut sizes = Vec::with_capacity(draft.inodes.len());
        for (ino, rec, recorded) in &draft.inodes {
            let before = tree.peek(*ino).map_or(0, |inode| inode.recorded_size);
            let size = match (rec.kind(), recorded) {
                (Kind::File, Recorded::Unchanged) => before,
                (Kind::File, Recorded::Size(size)) => *size,
                _ => rec.size,
            };
            if rec.kind() == Kind::File {
                counters.content = (counters.content + size).saturating_sub(before);
            }
            let value =
                if size == rec.size { encode(rec) } else { encode(&InodeRecord { size, ..rec.clone() }) };
            draft.batch.put(keys::inode(*ino), value);
            sizes.push(size);
        }
        for ino in &draft.removed {
            if let Some(inode) = tree.peek(*ino).filter(|inode| inode.rec.kind() == Kind::File) {
                counters.content = counters.content.saturating_sub(inode.recorded_size);
            }
        }

        let mut slots = Vec::with_capacity(draft.entries.len());
        // Two names of one change may share a bucket.
        let mut buckets: Vec<Bucket> = Vec::with_capacity(draft.entries.len());
        let mut places: Places<Key> = Places::default();
        for (dir, name, to) in &draft.entries {
            let key = keys::bucket(*dir, hash_of(name));
            let at = match places.find(&key) {
                Some(at) => at,
                None => {
                    buckets.push(tree.bucket_of(*dir, name));
                    places.push(key);
                    buckets.len() - 1
                }
            };
            if let Some(bucket) = buckets.get_mut(at) {
                slots.push(set_in_bucket(bucket, name, *to)?);
            }
        }
        for (key, bucket) in places.keys.into_iter().zip(buckets) {
            let value = if bucket.is_empty() { None } else { Some(encode(&bucket)) };
            draft.batch.changes.push((key, value));
        }
        if counters != tree.counters {
            draft.batch.put(keys::counters(), encode(&counters));
        }

        if tree.gone_is_due {
            draft.batch.changes.push((keys::gone(), tree.gone.as_ref().map(encode)));
        }

        let seq = self.engine.apply(draft.batch).inspect_err(|error| self.note_failure(error))?;

        tree.gone_is_due = false;
        for change in draft.in_memory {
            match change {
                InMemory::Discard(ino, from, to) => self.cache.discard(ino, from, to),
                InMemory::Cut(id, offset) => {
                    self.cache.cut(id, offset);
                    if let Ok(inode) = tree.get(id.ino) {
                        inode.dirty = true;
                    }
                }
                InMemory::Journalled(ino, upto) => self.cache.journalled(ino, &upto),
            }
        }
        tree.counters = counters;
        for (segment, bytes) in live {
            match bytes {
                0 => drop(tree.live.remove(&segment)),
                _ => drop(tree.live.insert(segment, bytes)),
            }
        }
        for ((ino, rec, _), size) in draft.inodes.into_iter().zip(sizes) {
            if let Some(attributes) = draft.born.remove(&ino) {
                let version = tree.new_version();
                let mut inode = Inode::new(rec, version);
                inode.recorded_size = size;
                // Born with content: its pages are dirty already.
                inode.dirty = inode.rec.size > 0 && self.cache.dirty(ino).is_some();
                inode.xattrs = Some(attributes);
                if inode.is_dir() {
                    inode.entries = Some(Box::new(super::tree::Entries::empty()));
                }
                tree.insert(ino, inode);
            } else if let Ok(inode) = tree.get(ino) {
                inode.dirty &= self.cache.dirty(ino).is_some() || size != rec.size;
                inode.rec = rec;
                inode.recorded_size = size;
            }
        }
        tree.pay(seq, bill);
        ended.into_iter().for_each(|dir| tree.end_quota(dir));
        for ((dir, name, to), slot) in draft.entries.into_iter().zip(slots) {
            tree.set_entry(dir, &name, slot, to);
        }
        for ino in draft.removed {
            tree.remove(ino);
        }
        for ino in draft.relinked {
            tree.unlinked.remove(&ino);
        }
        for ino in draft.unlinked {
            // A directory is emptied at once, whoever holds it: nothing can be put into it or found there any longer.
            let full = tree.peek(ino).is_some_and(|inode| inode.is_dir() && inode.rec.size > 0);
            if tree.refs.held(ino) && !full {
                tree.unlinked.insert(ino);
            } else {
                tree.orphans.push(ino);
            }
        }
        let before = tree.dead;
        tree.dead += bytes_of(&draft.freed);
        if before <= self.dead_limit() && tree.dead > self.dead_limit() {
            self.house.wake();
        }
        tree.freed.append(&mut draft.freed);
        tree.releases.append(&mut draft.releases);
        Ok(seq)
    }
}

/// The bytes of extents.
pub(super) fn bytes_of(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| u64::from(extent.len)).sum()
}
