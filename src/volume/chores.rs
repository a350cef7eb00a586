//! What is otherwise done behind the scenes, now and to the end: removing what has expired, giving back the room
//! of what is gone; and removing everything.

use serde::{Deserialize, Serialize};

use super::Volume;
use super::put::{BATCH_MAX, Change, To};
use super::types::*;
use crate::error::Result;
use crate::format::{ROOT, keys};

/// What there is to clean up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chores {
    /// Keys whose time has come and that are not removed yet; a directory counts as one.
    pub expired: u64,
    /// Files and directories that are unlinked and not reclaimed yet.
    pub unlinked: u64,
    /// Bytes on the disk that hold nothing. Not all of them may come back: some lie between what is alive.
    pub reclaimable: u64,
}

/// What has been cleaned up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleaned {
    /// Files and directories that are gone for good.
    pub removed: u64,
    /// Bytes that the disk has back.
    pub freed: u64,
}

impl Volume {
    /// What [`Volume::cleanup`] would find to do. Waits.
    pub fn chores(&self) -> Result<Chores> {
        let now = self.tree.lock().now(&self.clock);
        let mut chores = Chores::default();
        let expired = keys::range([keys::EXPIRY], keys::expiry(now.secs(), crate::format::Ino(u64::MAX)));
        self.engine.scan(expired, &mut |_, _| {
            chores.expired += 1;
            true
        })?;
        self.engine.scan(keys::under(&[keys::ORPHAN]), &mut |_, _| {
            chores.unlinked += 1;
            true
        })?;
        chores.reclaimable = self.dead_bytes()?;
        Ok(chores)
    }

    /// Removes what has expired, reclaims what is unlinked, and gives the disk back what room it can. Waits.
    pub fn cleanup(&self) -> Result<Cleaned> {
        self.check_writable()?;
        let files = self.tree.lock().counters.inodes;
        let bytes = self.allocated()?;
        self.set_next_expiry(i64::MIN);
        self.sweep()?;
        self.reclaim()?;
        self.work_off_releases()?;
        self.commit_now()?;
        // One segment at a time, the worst first, while that gives something back.
        let mut before = self.allocated()?;
        loop {
            self.compact()?;
            self.commit_now()?;
            let now = self.allocated()?;
            if now >= before {
                break;
            }
            before = now;
        }
        Ok(Cleaned {
            removed: files.saturating_sub(self.tree.lock().counters.inodes),
            freed: bytes.saturating_sub(before),
        })
    }

    /// Removes everything, up to [`BATCH_MAX`] keys and directories of the root at a time: after a crash in between
    /// those are gone that were first. Waits.
    pub fn clear(&self, caller: &Caller) -> Result<()> {
        let mut after = 0;
        loop {
            let mut names: Vec<Vec<u8>> = Vec::new();
            let mut seen = after;
            self.run(|volume| {
                volume.readdir(ROOT, after, false, &mut |entry| {
                    if names.len() == BATCH_MAX {
                        return false;
                    }
                    if !matches!(entry.name, b"." | b"..") {
                        names.push(entry.name.to_vec());
                    }
                    seen = entry.cookie;
                    true
                })
            })?;
            if seen == after {
                return Ok(());
            }
            after = seen;
            let changes: Vec<Change<'_>> =
                names.iter().map(|path| Change { path, to: To::Nothing { tree: true } }).collect();
            self.apply(caller, &changes, false)?;
        }
    }

    fn allocated(&self) -> Result<u64> {
        Ok(self.segments.list()?.iter().map(|segment| segment.allocated).sum())
    }

    fn dead_bytes(&self) -> Result<u64> {
        let segments = self.segments.list()?;
        let tree = self.tree.lock();
        let live = |id| tree.live.get(&id).copied().unwrap_or(0);
        let closed = segments.iter().filter(|segment| !segment.open);
        Ok(closed.map(|segment| segment.allocated.saturating_sub(live(segment.id))).sum())
    }
}
