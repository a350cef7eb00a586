//! The index: the catalog as of the last checkpoint, in redb, behind the store's own file access.
//!
//! Table `catalog` maps keys to values; table `checkpoint` has one entry, under the empty key: two
//! u64, little-endian, the newest journal record that the index contains and the number of the
//! journal file in which the records behind it begin (0: there is none yet). Both tables change in one
//! transaction, so index and journal never disagree. Commits save redb's allocator state (quick
//! repair), so that opening after a crash takes no walk through the whole file.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use redb::{Database, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition};

use super::Value;
use super::reserve::Reserve;
use super::table::{Layer, Layers, merge};
use crate::error::{Error, Result};
use crate::format::Key;
use crate::io::{File, Io};

const CATALOG: TableDefinition<&[u8], &[u8]> = TableDefinition::new("catalog");
const CHECKPOINT: TableDefinition<&[u8], &[u8]> = TableDefinition::new("checkpoint");

/// How far the index reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// The newest record of the journal that it contains.
    pub seq: u64,
    /// The journal file in which the records behind that begin; 0 in a new store.
    pub file: u64,
}

/// The index as of one checkpoint.
#[derive(Clone)]
pub(super) struct Snapshot {
    table: Arc<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    path: Arc<Path>,
}

impl Snapshot {
    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        Ok(self.table.get(key).map_err(failed(&self.path, "reading"))?.map(|value| value.value().to_vec()))
    }

    /// The entries of a range, in order.
    pub fn range(&self, range: &Range<Key>) -> Result<impl Iterator<Item = Result<(Key, Value)>> + use<>> {
        let path = self.path.clone();
        let entries = self
            .table
            .range::<&[u8]>(range.start.as_slice()..range.end.as_slice())
            .map_err(failed(&path, "reading"))?;
        Ok(entries.map(move |entry| {
            let (key, value) = entry.map_err(failed(&path, "reading"))?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        }))
    }
}

/// The index.
pub(super) struct Index {
    /// None once it is closed.
    database: Mutex<Option<Database>>,
    file: Arc<dyn File>,
    io: Arc<dyn Io>,
    path: Arc<Path>,
    reserve: Arc<Reserve>,
}

impl Index {
    /// Makes an empty index at `path`. A crash leaves either none or a whole one.
    pub fn create(io: &Arc<dyn Io>, path: &Path) -> Result<()> {
        let draft = draft_of(path);
        let dir = path.parent().unwrap_or(Path::new("."));
        let file = io.open(&draft, true).map_err(Error::io(format!("making {}", draft.display())))?;
        // What an interrupted attempt may have left.
        file.set_len(0).map_err(Error::io(format!("emptying {}", draft.display())))?;
        let database = Database::builder()
            .create_with_backend(Backend { file: file.clone(), reserve: None })
            .map_err(failed(&draft, "making"))?;
        write(&database, &Layers::new(), Reach::default()).map_err(failed(&draft, "writing"))?;
        drop(database);
        file.sync().map_err(Error::io(format!("flushing {}", draft.display())))?;
        io.rename(&draft, path).map_err(Error::io(format!("renaming {}", draft.display())))?;
        io.sync_dir(dir).map_err(Error::io(format!("flushing {}", dir.display())))
    }

    /// Opens the index at `path`, which exists. Where the last session did not end `clean`ly, a flush of it may have
    /// failed, and the system's memory may have a commit that the disk has not: the disk is what counts.
    pub fn open(
        io: &Arc<dyn Io>,
        path: &Path,
        cache: usize,
        clean: bool,
        reserve: &Arc<Reserve>,
    ) -> Result<(Index, Snapshot, Reach)> {
        let file = io.open(path, false).map_err(Error::io(format!("opening {}", path.display())))?;
        if !clean {
            file.sync().map_err(Error::io(format!("flushing {}", path.display())))?;
            file.drop_cached();
        }
        let damaged = |why: String| {
            Error::Damaged(format!("{}: {why}; restore the catalog from a backup", path.display()))
        };
        if file.len().map_err(Error::io(format!("asking the length of {}", path.display())))? == 0 {
            return Err(damaged("the index is empty".into()));
        }
        let open = || {
            let backend = Backend { file: file.clone(), reserve: Some(reserve.clone()) };
            Database::builder().set_cache_size(cache).create_with_backend(backend)
        };
        let database = unless_panics(open).unwrap_or_else(|| Err(impossible().into())).map_err(|error| {
            match error.into() {
                redb::Error::Io(error) if !foreign(&error) => {
                    Error::io(format!("opening {}", path.display()))(error)
                }
                error => damaged(format!("this is no index, or it is damaged ({error})")),
            }
        })?;
        let path: Arc<Path> = path.into();
        let index = Index {
            database: Mutex::new(Some(database)),
            file,
            io: io.clone(),
            path,
            reserve: reserve.clone(),
        };
        let reach = index.reach()?.ok_or_else(|| damaged("this is no index of a catalog".into()))?;
        if reach.file == 0 {
            // Who made it may have got no further than the rename.
            let dir = index.path.parent().unwrap_or(Path::new("."));
            io.sync_dir(dir).map_err(Error::io(format!("flushing {}", dir.display())))?;
        }
        let snapshot = index.snapshot()?;
        Ok((index, snapshot, reach))
    }

    fn with<T>(&self, job: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        match &*self.database.lock() {
            Some(database) => job(database),
            None => Err(Error::ReadOnly(format!("{} is closed", self.path.display()))),
        }
    }

    fn reach(&self) -> Result<Option<Reach>> {
        self.with(|database| {
            let reading = database.begin_read().map_err(failed(&self.path, "reading"))?;
            let table = match reading.open_table(CHECKPOINT) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(failed(&self.path, "reading")(error)),
            };
            let entry = table.get(&[][..]).map_err(failed(&self.path, "reading"))?;
            Ok(entry.and_then(|entry| {
                let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
                let (seq, file) = entry.value().split_at_checked(8)?;
                Some(Reach { seq: number(seq)?, file: number(file)? })
            }))
        })
    }

    /// The index as of now.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.with(|database| {
            let reading = database.begin_read().map_err(failed(&self.path, "reading"))?;
            let table = reading.open_table(CATALOG).map_err(failed(&self.path, "reading"))?;
            Ok(Snapshot { table: Arc::new(table), path: self.path.clone() })
        })
    }

    /// Tells, before anything is changed, whether the disk has room for these layers. redb cannot go on
    /// after a write that failed, so this is asked first: a full disk must not end the store.
    pub fn check_room(&self, entries: usize, bytes: usize) -> Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let room = self.io.room(dir).map_err(Error::io(format!("asking the room in {}", dir.display())))?;
        // At worst every entry touches another page, which is written anew, but there are no more pages to
        // touch than the file has; what is new is split in pages that may be half full.
        let touched = (entries as u64 * 4096).min(self.disk_bytes());
        let need = touched + 3 * bytes as u64 + (1 << 20);
        match room.available {
            enough if enough >= need => Ok(()),
            with_reserve if with_reserve + self.reserve.bytes() >= need && self.reserve.release() => Ok(()),
            _ => Err(Error::NoSpace),
        }
    }

    /// Writes layers (the newest last) in one durable transaction and returns the index that has them.
    pub fn commit(&self, layers: &Layers, reach: Reach) -> Result<Snapshot> {
        self.with(|database| write(database, layers, reach).map_err(failed(&self.path, "writing")))?;
        self.snapshot()
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.file.allocated().unwrap_or(0)
    }

    /// Closes the file.
    pub fn close(&self) {
        *self.database.lock() = None;
    }
}

/// Verifies every page of the index in a store's directory, which redb does not do when it reads one. Repairs on the
/// way what a crash may leave: `io` is an overlay where nothing may change.
/// Errors: `Damaged` when it cannot be trusted.
pub fn verify_index(io: &Arc<dyn Io>, dir: &Path) -> Result<()> {
    /// For a walk through the whole file, which comes by once.
    const CACHE: usize = 16 << 20;
    let path = dir.join("index.redb");
    let file = io.open_read(&path).map_err(Error::io(format!("opening {}", path.display())))?;
    let verify = || -> Result<bool, redb::Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
        // Before 0.5 it tells that it begins (0.0), or that it would go back to an earlier commit (0.3).
        builder.set_repair_callback(|repair| {
            if (0.1..0.5).contains(&repair.progress()) {
                repair.abort();
            }
        });
        let database = builder.create_with_backend(Backend { file: file.clone(), reserve: None })?;
        let reading = database.begin_read()?;
        reading.open_table(CATALOG)?;
        Ok(reading.open_table(CHECKPOINT)?.get(&[][..])?.is_some_and(|entry| entry.value().len() == 16))
    };
    let damaged = |why: String| Error::Damaged(format!("{}: {why}", path.display()));
    if file.len().map_err(Error::io(format!("asking the length of {}", path.display())))? == 0 {
        return Err(damaged("the index is empty".into()));
    }
    match unless_panics(verify).unwrap_or_else(|| Err(impossible().into())) {
        Ok(true) => Ok(()),
        Ok(false) => Err(damaged("this is no index of a catalog".into())),
        Err(redb::Error::Io(error)) if !foreign(&error) => {
            Err(Error::io(format!("reading {}", path.display()))(error))
        }
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// What a job returns; none when it panics, as redb does over a file that is damaged in just the wrong way.
fn unless_panics<T>(job: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).ok()
}

fn impossible() -> redb::StorageError {
    redb::StorageError::Corrupted("its structure is impossible".into())
}

/// Where a new index is made.
pub(super) fn draft_of(path: &Path) -> PathBuf {
    path.with_extension("redb.new")
}

fn write(database: &Database, layers: &Layers, reach: Reach) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    {
        let mut catalog = transaction.open_table(CATALOG)?;
        // In the order of keys: neighbours share pages.
        for (key, value) in merge(layers.iter().map(|layer| Layer::iter(layer))) {
            match value {
                Some(value) => drop(catalog.insert(key.as_slice(), value.as_slice())?),
                None => drop(catalog.remove(key.as_slice())?),
            }
        }
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&reach.seq.to_le_bytes());
        entry[8..].copy_from_slice(&reach.file.to_le_bytes());
        transaction.open_table(CHECKPOINT)?.insert(&[][..], &entry[..])?;
    }
    transaction.commit()?;
    Ok(())
}

fn failed<E: Into<redb::Error>>(path: &Path, doing: &str) -> impl FnOnce(E) -> Error {
    let what = format!("{doing} {}", path.display());
    move |error| match error.into() {
        redb::Error::Io(error) if !foreign(&error) => Error::io(what)(error),
        redb::Error::Corrupted(why) => {
            Error::Damaged(format!("{what}: {why}; restore the catalog from a backup"))
        }
        error => Error::Io { what, source: io::Error::other(error) },
    }
}

/// Errors that tell of the content of a file, not of the disk.
fn foreign(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// redb's view of the file.
#[derive(Debug)]
struct Backend {
    file: Arc<dyn File>,
    /// What a full disk is met with, if others took the room that was there when it was asked for.
    reserve: Option<Arc<Reserve>>,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.file.read_at(out, offset)? {
            read if read == out.len() => Ok(()),
            read => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{read} of {} bytes at offset {offset}: the file is cut off", out.len()),
            )),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match (self.file.write_all_at(data, offset), &self.reserve) {
            (Err(error), Some(reserve))
                if error.kind() == io::ErrorKind::StorageFull && reserve.release() =>
            {
                self.file.write_all_at(data, offset)
            }
            (written, _) => written,
        }
    }
}
