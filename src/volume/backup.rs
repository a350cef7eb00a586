//! Backups of the catalog within the store, made while it is open: `backup/catalog-BATCH`, the number of the newest
//! batch that is in it, in 16 hexadecimal digits; [`DumpWriter`] says what it holds.
//!
//! Invariants:
//! - A file under that name is whole and durable: it is written under another, flushed, then renamed. It says nothing
//!   that the store could still lose.
//! - It is one moment of the catalog: one scan of the engine.
//! - Nobody waits for it: the scan holds no lock while it visits, and the newest records that it walks over are held
//!   in memory no longer than it takes (at most one table of the catalog's).

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Volume;
use super::open::read_format;
use crate::catalog::backups::{Backup, backups, folder_of};
use crate::catalog::{DumpHead, DumpReader, DumpWriter, Dumped};
use crate::clock::Time;
use crate::config::FILE_NAME;
use crate::error::{Error, Result};
use crate::format::{ROOT, Seq};

/// A backup that is being written; what an interrupted one left.
const DRAFT: &str = "catalog.new";

/// How long a store must have been open for its first backup: commands that open it for a moment need not pay for one.
const SETTLED: Duration = Duration::from_secs(60);
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(60);

impl Volume {
    /// The life of the thread that backs the catalog up.
    pub(super) fn back_up_regularly(&self) {
        let Some(interval) = self.settings.backup_interval else { return };
        self.wait_for(SETTLED);
        while !self.stopping() {
            let wait = match self.next_backup(interval) {
                Ok(wait) if !wait.is_zero() => wait,
                Ok(_) if self.read_only().is_some() => AGAIN,
                Ok(_) => match self.back_up_catalog() {
                    Ok(_) => interval,
                    Err(error) => {
                        log::warn!("the catalog could not be backed up: {error}");
                        AGAIN
                    }
                },
                Err(error) => {
                    log::warn!("the backups of the catalog cannot be looked at: {error}");
                    AGAIN
                }
            };
            self.wait_for(wait);
        }
    }

    /// Waits so long, or until the store is being closed.
    pub(super) fn wait_for(&self, time: Duration) {
        let begun = Instant::now();
        while let Some(left) = time.checked_sub(begun.elapsed()).filter(|left| !left.is_zero())
            && !self.stopping()
        {
            self.pause(left);
        }
    }

    /// How long until the next backup. None is left where there is no backup, where the newest cannot be read, or the
    /// clock has been set back behind it.
    pub(super) fn next_backup(&self, interval: Duration) -> Result<Duration> {
        let newest = backups(&*self.io, &self.settings.storage_path)?.pop();
        let Some(newest) = newest else { return Ok(Duration::ZERO) };
        // One that nothing has changed since is as good as a new one.
        if newest.seq == self.engine.last_seq() {
            return Ok(interval);
        }
        let failed = Error::io(format!("opening {}", newest.path.display()));
        let file = self.io.open_read(&newest.path).map_err(failed)?;
        let Time(time) = match DumpReader::new(file, &newest.path) {
            Ok(reader) => reader.head().time,
            Err(Error::Damaged(_)) => return Ok(Duration::ZERO),
            Err(error) => return Err(error),
        };
        let age = u64::try_from(self.clock.now().0.saturating_sub(time)).ok().map(Duration::from_nanos);
        Ok(age.map_or(Duration::ZERO, |age| interval.saturating_sub(age)))
    }

    /// Counts what the backups take on the disk, and removes what an interrupted one left.
    pub(super) fn count_backups(&self) -> Result<()> {
        let dir = &self.settings.storage_path;
        let draft = folder_of(dir).join(DRAFT);
        match self.io.remove(&draft) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                log::warn!("removing {}: {error}", draft.display());
            }
            _ => {}
        }
        let mut bytes = 0;
        for backup in backups(&*self.io, dir)? {
            let file = self.io.open_read(&backup.path).and_then(|file| file.allocated());
            bytes += file.map_err(Error::io(format!("opening {}", backup.path.display())))?;
        }
        self.backup_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Backs the catalog up within the store, removes the oldest backups where there are more than `backup-count`, and
    /// returns where the new one is. Where nothing has changed since the last one, that is it. Waits for the disk.
    /// Errors: `NoSpace` where the disk, or `storage-size-limit`, leaves no room for one.
    pub fn back_up_catalog(&self) -> Result<PathBuf> {
        let _saving = self.saving.lock();
        self.check_writable()?;
        let (io, dir) = (&*self.io, &self.settings.storage_path);
        let there = backups(io, dir)?;
        if let Some(newest) = there.last().filter(|newest| newest.seq == self.engine.last_seq()) {
            return Ok(newest.path.clone());
        }
        let keep = self.settings.backup_count.max(1) as usize;
        let folder = folder_of(dir);
        let draft = folder.join(DRAFT);
        let failed = |what: &str, path: &Path| Error::io(format!("{what} {}", path.display()));
        io.create_dir_all(&folder).map_err(failed("making", &folder))?;
        let begun = Instant::now();
        let written = self.dump_within_limit(&draft).and_then(|(seq, dumped)| {
            let path = Backup::path(dir, seq);
            io.rename(&draft, &path).map_err(failed("renaming", &draft))?;
            io.sync_dir(&folder).map_err(failed("flushing", &folder))?;
            io.sync_dir(dir).map_err(failed("flushing", dir))?;
            Ok((path, dumped))
        });
        if written.is_err() {
            let _left_to_the_next_opening = io.remove(&draft);
        } else {
            for old in there.iter().rev().skip(keep - 1) {
                io.remove(&old.path).map_err(failed("removing", &old.path))?;
            }
        }
        self.count_backups()?;
        let (path, dumped) = written?;
        log::info!(
            "the catalog is backed up: {}, {} records, {} bytes, in {:?}",
            path.display(),
            dumped.entries,
            dumped.bytes,
            begun.elapsed()
        );
        Ok(path)
    }

    fn dump_within_limit(&self, draft: &Path) -> Result<(Seq, Dumped)> {
        // It compresses to less than the index, which has gaps.
        let room = self.run(|volume| volume.statfs(ROOT))?.free;
        if self.engine.is_short() || room < self.engine.stats().disk_bytes {
            return Err(Error::NoSpace);
        }
        let failed = Error::io(format!("making {}", draft.display()));
        self.dump_catalog(self.io.open(draft, true).map_err(failed)?, draft)
    }

    /// The store's id, as FORMAT has it.
    pub fn id(&self) -> Result<u64> {
        Ok(read_format(&*self.io, &self.settings.storage_path)?.id.unwrap_or_default())
    }

    /// The text of the store's `larder.toml`, where it has one.
    pub fn settings_file(&self) -> Result<Option<String>> {
        let path = self.settings.storage_path.join(FILE_NAME);
        let failed = || Error::io(format!("reading {}", path.display()));
        let file = match self.io.open_read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed())?,
        };
        let mut bytes = vec![0; file.len().map_err(failed())?.min(1 << 20) as usize];
        let got = file.read_at(&mut bytes, 0).map_err(failed())?;
        bytes.truncate(got);
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Writes the catalog as of now to a file, and makes durable what is in it. Returns the newest batch that surely is.
    pub(super) fn dump_catalog(
        &self,
        file: std::sync::Arc<dyn crate::io::File>,
        path: &Path,
    ) -> Result<(Seq, Dumped)> {
        let store = self.id()?;
        let seq = self.engine.last_seq();
        let mut writer = DumpWriter::new(file, path, DumpHead { store, seq, time: self.clock.now() })?;
        let mut outcome = Ok(());
        // All tags are letters.
        self.engine.scan(vec![0]..vec![u8::MAX], &mut |key, value| {
            outcome = writer.put(key, value);
            if self.stopping() {
                outcome = Err(self.closing());
            }
            outcome.is_ok()
        })?;
        outcome?;
        self.make_durable(self.engine.last_seq())?;
        Ok((seq, writer.finish()?))
    }

    /// What long work ends with that the closing of the store has met.
    pub(super) fn closing(&self) -> Error {
        Error::store(&self.settings.storage_path, "the store is being closed; try again when it is mounted")
    }
}
