//! A change of the tree in the making. It is put together from copies, journalled as one batch, and
//! only then becomes visible in memory, in the cache of pages too: what could not be journalled has not happened.

use smallvec::SmallVec;

use super::Volume;
use super::entries::{Bucket, Entries, set_in_bucket};
use super::listed::Listed;
use super::tree::{Attributes, Inode, Tree, hash_of};
use super::types::Step;
use crate::cache::{Cache, Content, PageId};
use crate::catalog::Batch;
use crate::error::{Error, Result};
use crate::format::{
    Extent, Ino, InodeRecord, Kind, Name, PageNo, PageRecord, Patch, SegmentRecord, Seq, keys,
    whole_patch_head,
};

/// A directory entry that changes.
#[derive(Debug)]
struct EntryChange {
    dir: Ino,
    name: Name,
    /// That of the name.
    hash: u64,
    /// What the name is to mean.
    to: Option<(Ino, Kind)>,
    /// Its slot in its bucket, known once the bucket is.
    slot: u8,
}

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
    Journalled(Ino, SmallVec<[(PageNo, u32); 1]>),
}

/// An inode that changes.
#[derive(Debug)]
struct Drafted {
    /// As it is to be.
    rec: InodeRecord,
    recorded: Recorded,
    /// The attributes of one that is born in this draft.
    born: Option<Attributes>,
    /// Whether the draft brings all of its content: then its pages are dirty.
    rides: bool,
}

#[derive(Default)]
pub(super) struct Draft {
    pub batch: Batch,
    inodes: Listed<Ino, Drafted>,
    entries: SmallVec<[EntryChange; 1]>,
    removed: Vec<Ino>,
    /// Bytes of frames that come to be live or dead, by segment.
    live: Vec<(Extent, bool)>,
    freed: Vec<Extent>,
    releases: Vec<Vec<u8>>,
    /// Inodes whose last name is removed.
    unlinked: Vec<Ino>,
    /// Unlinked inodes that get a name.
    relinked: Vec<Ino>,
    /// In the order in which it happens.
    in_memory: SmallVec<[InMemory; 1]>,
}

impl Draft {
    /// Of a change that adds something: one behind [`Volume::ready_to_add`].
    pub fn adding() -> Draft {
        let mut draft = Draft::default();
        draft.batch.adds = true;
        draft
    }

    /// That puts its changes into this batch.
    pub fn within(batch: Batch) -> Draft {
        Draft { batch, ..Draft::default() }
    }

    /// A new inode; its number has been given to no other.
    pub fn birth(&mut self, ino: Ino, mut rec: InodeRecord, attributes: Attributes) {
        rec.xattrs = attributes.len() as u32;
        for (name, value) in &attributes {
            self.batch.put(keys::xattr(ino, name), value.clone());
        }
        self.inodes
            .put(ino, Drafted { rec, recorded: Recorded::Unchanged, born: Some(attributes), rides: false });
    }

    /// The attributes of an inode that is born in this draft.
    pub fn attributes_of_born(&self, ino: Ino) -> Option<&Attributes> {
        self.inodes.get(&ino)?.born.as_ref()
    }

    /// An inode as it is to be.
    pub fn inode(&mut self, ino: Ino, rec: InodeRecord) {
        self.inode_sized(ino, rec, Recorded::Unchanged);
    }

    /// An inode as it is to be, and the size that is recorded. The last one for an inode wins.
    pub fn inode_sized(&mut self, ino: Ino, rec: InodeRecord, recorded: Recorded) {
        match self.inodes.get_mut(&ino) {
            Some(drafted) => (drafted.rec, drafted.recorded) = (rec, recorded),
            None => self.inodes.put(ino, Drafted { rec, recorded, born: None, rides: false }),
        }
    }

    /// The size that is recorded of an inode that is in the draft already.
    pub fn record_size(&mut self, ino: Ino, size: u64) {
        if let Some(drafted) = self.inodes.get_mut(&ino) {
            drafted.recorded = Recorded::Size(size);
        }
    }

    /// An inode as it is to be, so far as it is now; the size that is recorded stays as the draft has it.
    pub fn edit(&mut self, tree: &mut Tree, ino: Ino) -> Step<&mut InodeRecord> {
        let drafted = self.inodes.get_or_try_put(ino, || {
            let rec = tree.get(ino)?.rec.clone();
            Step::Ok(Drafted { rec, recorded: Recorded::Unchanged, born: None, rides: false })
        })?;
        Ok(&mut drafted.rec)
    }

    /// An inode as it is to be, when the draft has it.
    pub fn record(&self, ino: Ino) -> Option<&InodeRecord> {
        self.inodes.get(&ino).map(|drafted| &drafted.rec)
    }

    /// The size that the draft records of an inode, when it does.
    pub fn recorded_size(&self, ino: Ino) -> Option<u64> {
        match self.inodes.get(&ino)?.recorded {
            Recorded::Size(size) => Some(size),
            Recorded::Unchanged => None,
        }
    }

    /// What a name is to mean; `None` removes it.
    pub fn entry(&mut self, dir: Ino, name: &[u8], to: Option<(Ino, Kind)>) {
        self.entries.push(EntryChange { dir, name: name.into(), hash: hash_of(name), to, slot: 0 });
    }

    /// An inode whose last link is gone: it waits for its last reference.
    pub fn unlinked(&mut self, ino: Ino) {
        self.batch.put(keys::orphan(ino), []);
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
        let mut upto: SmallVec<[(PageNo, u32); 1]> = SmallVec::new();
        for (no, n, patch) in patches {
            self.batch.put_record(keys::patch(ino, no, n), &patch);
            match upto.last_mut() {
                Some((last, end)) if *last == no => *end = n + 1,
                _ => upto.push((no, n + 1)),
            }
        }
        self.in_memory.push(InMemory::Journalled(ino, upto));
    }

    /// A page of a file that is born in this draft, as [`Cache::write_new`] took it.
    pub fn first_patch(&mut self, id: PageId, page: &Content) {
        let head = whole_patch_head(page.len());
        self.batch.put_content(keys::patch(id.ino, id.no, 0), &head, page);
        if let Some(drafted) = self.inodes.get_mut(&id.ino) {
            drafted.rides = true;
        }
    }

    /// An inode that leaves for good.
    pub fn remove_inode(&mut self, ino: Ino) {
        self.batch.delete(keys::inode(ino));
        self.batch.delete(keys::orphan(ino));
        self.removed.push(ino);
    }

    /// All inodes that are to change, those that are made before what is in them.
    pub fn inodes(&self) -> impl Iterator<Item = (Ino, &InodeRecord)> {
        self.inodes.iter().map(|(ino, drafted)| (ino, &drafted.rec))
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
            self.batch.put_record(key, &extent.len);
            self.releases.push(key.into());
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
        for (ino, _) in draft.inodes.iter().filter(|(_, drafted)| drafted.born.is_some()) {
            counters.inodes += 1;
            counters.last_ino = counters.last_ino.max(ino.0);
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
                _ => draft.batch.put_record(keys::segment(*segment), &SegmentRecord { live: *bytes }),
            }
        }

        for (ino, Drafted { rec, recorded, born, .. }) in draft.inodes.iter_mut() {
            let before = match born {
                Some(_) => 0,
                None => tree.peek(ino).map_or(0, |inode| inode.recorded_size),
            };
            let size = match (rec.kind(), *recorded) {
                (Kind::File, Recorded::Unchanged) => before,
                (Kind::File, Recorded::Size(size)) => size,
                _ => rec.size,
            };
            *recorded = Recorded::Size(size);
            if rec.kind() == Kind::File {
                counters.content = (counters.content + size).saturating_sub(before);
            }
            match size == rec.size {
                true => draft.batch.put_record(keys::inode(ino), rec),
                false => draft.batch.put_record(keys::inode(ino), &InodeRecord { size, ..rec.clone() }),
            }
        }
        for ino in &draft.removed {
            if let Some(inode) = tree.peek(*ino).filter(|inode| inode.rec.kind() == Kind::File) {
                counters.content = counters.content.saturating_sub(inode.recorded_size);
            }
        }

        // Two names of one change may share a bucket.
        let mut buckets: Listed<(Ino, u64), Bucket> = Listed::default();
        for EntryChange { dir, name, hash, to, slot } in &mut draft.entries {
            let bucket =
                buckets.get_or_try_put((*dir, *hash), || Ok::<_, Error>(tree.bucket_of(*dir, *hash)))?;
            *slot = set_in_bucket(bucket, name, *to)?;
        }
        for ((dir, hash), bucket) in buckets.iter() {
            match bucket.is_empty() {
                true => draft.batch.delete(keys::bucket(dir, hash)),
                false => draft.batch.put_record(keys::bucket(dir, hash), &bucket.as_slice()),
            }
        }
        if counters != tree.counters {
            draft.batch.put_record(keys::counters(), &counters);
        }

        if tree.gone_is_due {
            match &tree.gone {
                Some(gone) => draft.batch.put_record(keys::gone(), gone),
                None => draft.batch.delete(keys::gone()),
            }
        }

        let seq = self.engine.apply(draft.batch).inspect_err(|error| self.note_failure(error))?;

        tree.gone_is_due = false;
        for change in draft.in_memory.drain(..) {
            match change {
                InMemory::Discard(ino, from, to) => self.cache.discard(ino, from, to),
                InMemory::Cut(id, offset) => {
                    self.cache.cut(id, offset);
                    if let Some(inode) = tree.peek_mut(id.ino) {
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
        for (ino, Drafted { rec, recorded, born, rides }) in draft.inodes.drain() {
            let size = match recorded {
                Recorded::Size(size) => size,
                Recorded::Unchanged => rec.size,
            };
            if let Some(attributes) = born {
                let version = tree.new_version();
                let mut inode = Inode::new(rec, version);
                inode.recorded_size = size;
                inode.dirty = rides;
                inode.xattrs = Some(attributes);
                if inode.is_dir() {
                    inode.entries = Some(Box::new(Entries::empty()));
                }
                tree.insert(ino, inode);
            } else if let Some(inode) = tree.peek_mut(ino) {
                inode.dirty = inode.dirty && (size != rec.size || self.cache.dirty(ino).is_some());
                inode.rec = rec;
                inode.recorded_size = size;
            }
        }
        tree.pay(seq, bill);
        ended.into_iter().for_each(|dir| tree.end_quota(dir));
        for EntryChange { dir, name, hash, to, slot } in draft.entries.drain(..) {
            tree.set_entry(dir, name, (hash, slot), to);
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
            if full {
                tree.emptying.insert(ino);
            }
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
