//! Frames with several owners: whole pages are copied by naming the same frame twice.
//!
//! The number of owners is kept for frames that have more than one. A page that gives up a frame
//! which may be shared leaves a release in the same batch; releases are worked off in the background,
//! where the count can be read without haste. One thread at a time changes counts (`owners` lock).

use parking_lot::MutexGuard;

use super::Volume;
use super::draft::{Draft, Recorded};
use super::types::{Need, Pause};
use crate::cache::PageId;
use crate::error::Result;
use crate::format::{Extent, Ino, PageNo, PageRecord, decode, keys};

/// How often sharing is tried while others write to the files.
const SHARE_TRIES: usize = 4;

/// Pages shared by one batch.
const SHARE_BATCH: u64 = 1024;

impl Volume {
    /// Makes up to `count` pages of `to` name the frames of `from`. Returns how many; none when others
    /// change the files all the while: then they must be copied.
    pub(super) fn share_pages(
        &self,
        from: Ino,
        first: PageNo,
        to: Ino,
        target: PageNo,
        count: u64,
    ) -> Result<u64> {
        let count = count.min(SHARE_BATCH) as u32;
        let mut owners = self.owners.lock();
        for _ in 0..SHARE_TRIES {
            self.run(|volume| volume.ready_to_add())?;
            // Both in frames: what is in memory of the target is about to be replaced.
            self.flush_file(from)?;
            self.flush_file(to)?;
            let (from_version, to_version) = self.run(|volume| {
                let mut tree = volume.tree.lock();
                let from_version = tree.file(from)?.version;
                Ok((from_version, tree.file(to)?.version))
            })?;
            // A page that gives up the same frame twice leaves one release: the first must be worked off before it gets the
            // frame again. Whatever it gives up from here on changes its file.
            self.work_off_all(&mut owners)?;
            let mut sources = Vec::new();
            let mut counts = Vec::new();
            let mut replaced = Vec::new();
            for step in 0..count {
                if self.cache.is_stranded(PageId { ino: from, no: PageNo(first.0 + step) }) {
                    return Err(self.page_is_stranded(from, PageNo(first.0 + step)));
                }
                let record = self.page_record(from, PageNo(first.0 + step))?;
                let old = self.page_record(to, PageNo(target.0 + step))?;
                if record == Some(PageRecord::LOST) {
                    return Err(self.page_is_lost(from, PageNo(first.0 + step)));
                }
                // It has the frame already.
                if record.is_some() && record == old {
                    continue;
                }
                if let Some(record) = record {
                    sources.push((PageNo(target.0 + step), record));
                    counts.push(self.owners_of(record.extent)?.unwrap_or(1) + 1);
                }
                if let Some(old) = old {
                    replaced.push((PageNo(target.0 + step), old));
                }
            }
            let mut tree = self.tree.lock();
            let now = tree.now(&self.clock);
            let unchanged = tree.peek(from).is_some_and(|inode| inode.version == from_version)
                && tree.peek(to).is_some_and(|inode| inode.version == to_version)
                && self.cache.dirty(from).is_none()
                && self.cache.dirty(to).is_none();
            if !unchanged {
                continue;
            }
            let (Some(mut source), Some(mut rec)) =
                (tree.peek(from).map(|i| i.rec.clone()), tree.peek(to).map(|i| i.rec.clone()))
            else {
                continue;
            };
            let payer = tree.peek(to).and_then(|inode| inode.payer);
            let more = sources.iter().map(|(_, record)| u64::from(record.extent.len)).sum();
            match self.check_quota(&tree, payer, None, more) {
                Ok(()) => {}
                Err(Pause::Fail(error)) => return Err(error),
                // Whoever copies instead waits without `owners`.
                Err(Pause::Wait(Need::Emptied(_))) => return Ok(0),
                Err(Pause::Wait(need)) => {
                    drop(tree);
                    self.satisfy(need)?;
                    continue;
                }
            }
            let mut draft = Draft::adding();
            if !source.shared && !sources.is_empty() {
                source.shared = true;
                draft.inode(from, source);
            }
            if from == to {
                rec.shared = true;
            }
            self.remove_pages(&mut draft, to, &mut rec, &replaced, target, PageNo(target.0 + count));
            rec.shared |= !sources.is_empty();
            let mut counted: Vec<(Extent, u32)> = Vec::new();
            for ((no, record), owners) in sources.into_iter().zip(counts) {
                draft.batch.put_record(keys::page(to, no), &record);
                // The same frame may come up several times in one range.
                let again = counted.iter_mut().find(|(extent, _)| *extent == record.extent);
                let owners = match again {
                    Some((_, owners)) => {
                        *owners += 1;
                        *owners
                    }
                    None => {
                        counted.push((record.extent, owners));
                        owners
                    }
                };
                draft.batch.put_record(keys::owners(record.extent.segment, record.extent.offset), &owners);
                rec.pages += 1;
                rec.stored += u64::from(record.extent.len);
            }
            let end = (u64::from(target.0) + u64::from(count)) << rec.page_shift;
            rec.size = rec.size.max(end);
            (rec.mtime, rec.ctime) = (now, now);
            let size = rec.size;
            draft.inode_sized(to, rec, Recorded::Size(size));
            self.commit(&mut tree, draft)?;
            tree.touch_version(to);
            tree.touch_version(from);
            return Ok(u64::from(count));
        }
        Ok(0)
    }

    pub(super) fn page_record(&self, ino: Ino, no: PageNo) -> Result<Option<PageRecord>> {
        self.engine.get(&keys::page(ino, no))?.map(|value| decode(&value, "page record")).transpose()
    }

    /// How many owners a frame has, when there are or were several.
    pub(super) fn owners_of(&self, extent: Extent) -> Result<Option<u32>> {
        let value = self.engine.get(&keys::owners(extent.segment, extent.offset))?;
        value.map(|value| decode(&value, "owner count")).transpose()
    }

    /// Works off the releases of possibly shared frames.
    pub(super) fn work_off_releases(&self) -> Result<()> {
        self.work_off_all(&mut self.owners.lock())
    }

    /// Whoever has `owners` finds what is not worked off in the list.
    fn work_off_all(&self, owners: &mut MutexGuard<'_, ()>) -> Result<()> {
        let (mut failed, mut why) = (Vec::new(), None);
        loop {
            let Some(key) = self.tree.lock().releases.pop() else { break };
            if let Err(error) = self.work_off(&key) {
                failed.push(key);
                why = Some(error);
            }
            if failed.is_empty() {
                MutexGuard::bump(owners);
            }
        }
        self.tree.lock().releases.append(&mut failed);
        why.map_or(Ok(()), Err)
    }

    fn work_off(&self, key: &[u8]) -> Result<()> {
        let (Some(value), Some((segment, offset))) = (self.engine.get(key)?, keys::release_of(key)) else {
            return Ok(());
        };
        let extent = Extent { segment, offset, len: decode(&value, "release")? };
        let owners = self.owners_of(extent)?.unwrap_or(1);
        self.run(|volume| {
            volume.ready()?;
            let mut draft = Draft::default();
            draft.batch.delete(key);
            let owners_key = keys::owners(segment, offset);
            match owners {
                0 | 1 => {
                    draft.batch.delete(owners_key);
                    draft.kill_extent(extent);
                }
                // One owner is kept as a number, too: it may be shared again.
                more => draft.batch.put_record(owners_key, &(more - 1)),
            }
            volume.commit(&mut volume.tree.lock(), draft)?;
            Ok(())
        })
    }

    /// The releases that the last session left.
    pub(super) fn find_releases(&self) -> Result<()> {
        let mut found = Vec::new();
        self.engine.scan(keys::under(&[keys::RELEASE]), &mut |key, _| {
            found.push(key.to_vec());
            true
        })?;
        self.tree.lock().releases = found;
        Ok(())
    }
}
