//! The index, opened once more. redb refuses everything after the first call to the disk that failed, also to read what it
//! has not in its memory; but whoever reads a store whose disk has failed once is to get what is there. So from then on the
//! index is read through a second database over the same file. It never writes to it: what it changes on opening, as after
//! a crash, stays in memory ([`Overlay`]).
//!
//! It shows the newest commit that the disk has. That may be one whose answer was lost, or that readers are not given yet: then
//! its changes are also in the layers above the index, and nothing differs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::blocks::Blocks;
use crate::io::{Io, Overlay};

/// The catalog's table, as it was at one commit.
pub(super) type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The catalog's table as redb knows it.
pub(super) const CATALOG: TableDefinition<&[u8], &[u8]> = TableDefinition::new("catalog");

/// What reads the index when redb has given up.
pub(super) struct Standby {
    io: Arc<dyn Io>,
    path: Box<Path>,
    /// Bytes of memory for it: a part of redb's own.
    cache: usize,
    /// The newest record of the journal in the snapshot that readers are given. Older ones cannot be had again.
    shown: AtomicU64,
    opened: Mutex<Option<(Arc<Table>, Database)>>,
}

impl Standby {
    pub fn new(io: &Arc<dyn Io>, path: &Path, cache: usize) -> Standby {
        let (io, path) = (io.clone(), path.into());
        Standby { io, path, cache: cache / 2, shown: AtomicU64::new(0), opened: Mutex::new(None) }
    }

    /// Readers are given a snapshot which contains the journal up to this record.
    pub fn show(&self, seq: u64) {
        self.shown.store(seq, Ordering::Relaxed);
    }

    /// Whether they are given the one that contains the journal up to this record.
    pub fn is_shown(&self, seq: u64) -> bool {
        self.shown.load(Ordering::Relaxed) == seq
    }

    /// Reads, where `job` on a snapshot that contains the journal up to `seq` found that redb has given up.
    pub fn read<T>(
        &self,
        seq: u64,
        job: impl Fn(&Table) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        if !self.is_shown(seq) {
            return Err(redb::Error::PreviousIo);
        }
        let table = self.table(None)?;
        match job(&table) {
            // This one has met with a failure, too.
            Err(redb::Error::PreviousIo) => job(&*self.table(Some(&table))?),
            done => done,
        }
    }

    /// The table; another one than that which has given up.
    fn table(&self, given_up: Option<&Arc<Table>>) -> Result<Arc<Table>, redb::Error> {
        let mut opened = self.opened.lock();
        if let Some((table, _)) = &*opened
            && given_up.is_none_or(|given_up| !Arc::ptr_eq(given_up, table))
        {
            return Ok(table.clone());
        }
        let file = Overlay::new(self.io.clone()).open(&self.path, false)?;
        let blocks = Blocks { file, reserve: None };
        let database = Database::builder().set_cache_size(self.cache).create_with_backend(blocks)?;
        let table = Arc::new(database.begin_read()?.open_table(CATALOG)?);
        *opened = Some((table.clone(), database));
        Ok(table)
    }
}
