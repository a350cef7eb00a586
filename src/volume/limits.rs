//! The limits of disk and memory, which may change while the store is open.
//!
//! A limit that is lowered takes away nothing that is needed: eviction runs where keys may go, writers find no room where
//! none may, and dirty pages leave memory by the disk.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Volume;
use super::open::Budget;
use crate::config::Settings;
use crate::error::Result;

/// Bytes of metadata that a lower limit takes from memory under one hold of the tree's lock: some 2000 inodes.
const STEP: usize = 1 << 20;

/// The limits that apply now.
#[derive(Debug)]
pub(super) struct Limits {
    /// Bytes on the disk; all ones where none is set.
    storage: AtomicU64,
    /// Bytes of memory.
    pub cache: AtomicU64,
    /// Held by the thread that changes them.
    pub changing: Mutex<()>,
}

impl Limits {
    pub fn of(settings: &Settings) -> Limits {
        Limits {
            storage: settings.storage_size_limit.unwrap_or(u64::MAX).into(),
            cache: settings.cache_size_limit.into(),
            changing: Mutex::default(),
        }
    }

    /// The most bytes that the store may take on the disk.
    pub fn storage(&self) -> Option<u64> {
        Some(self.storage.load(Ordering::Relaxed)).filter(|limit| *limit != u64::MAX)
    }
}

impl Volume {
    /// Changes a setting of [`CHANGEABLE`](crate::config::CHANGEABLE), at once and for as long as the store is open; to
    /// last, it must be written to `larder.toml` too. The catalog's memory, a quarter at most, stays what it was at opening.
    ///
    /// Errors: another setting, or a value that is not good; nothing has changed.
    pub fn change_setting(&self, name: &str, value: &str) -> Result<()> {
        let _changing = self.limits.changing.lock();
        let mut settings = self.settings();
        settings.change(name, value)?;
        self.limits.storage.store(settings.storage_size_limit.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.limits.cache.store(settings.cache_size_limit, Ordering::Relaxed);
        let budget = Budget::of(&settings);
        self.cache.set_limits(budget.pages, budget.dirty);
        // What a limit leaves beyond that is in memory takes nothing away.
        let mut limit = {
            let tree = self.tree.lock();
            tree.limit().min(tree.weight())
        };
        loop {
            limit = budget.tree.max(limit.saturating_sub(STEP));
            self.tree.lock().set_limit(limit);
            if limit == budget.tree {
                break;
            }
        }
        let limit = settings.storage_size_limit;
        self.segments.set_limit(limit.map_or(u64::MAX, |limit| self.share_of_content(limit)));
        self.urge_eviction();
        log::info!("{name} = {value:?} from now on");
        Ok(())
    }
}
