//! The index: the catalog as of the last checkpoint, in redb, over a file whose blocks are verified as they are read
//! ([`Blocks`]).
//!
//! Table `catalog` maps keys to values; table `checkpoint` has one entry, under the empty key: two
//! u64, little-endian, the newest journal record that the index contains and the number of the
//! journal file in which the records behind it begin (0: there is none yet). Both tables change in one
//! transaction, so index and journal never disagree. Commits save redb's allocator state (quick
//! repair), so that opening after a crash takes no walk through the whole file, and they are two-phase commits, which
//! the checksums of the blocks rely on.
//!
//! Invariants: a record that the disk has changed is told as `Damaged`, never returned; redb's panics end here.
//! redb gives up after the first call that fails: from then on nothing is written, and a [`Standby`] reads.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, TableDefinition};

use super::Value;
use super::blocks::Blocks;
use super::dump::DumpReader;
use super::reserve::Reserve;
use super::standby::{CATALOG, Standby, Table};
use super::table::{Layer, Layers, merge};
use crate::error::{Error, Result};
use crate::format::Key;
use crate::io::{File, Io};

const CHECKPOINT: TableDefinition<&[u8], &[u8]> = TableDefinition::new("checkpoint");

/// How far the index reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// The newest record of the journal that it contains.
    pub seq: u64,
    /// The journal file in which the records behind that begin; 0 in a new store.
    pub file: u64,
}

/// The file, the first damage that was found in it, and whether a call to the disk has failed.
struct Place {
    path: PathBuf,
    damage: OnceLock<String>,
    failed: AtomicBool,
}

impl Place {
    fn new(path: &Path) -> Place {
        Place { path: path.to_owned(), damage: OnceLock::new(), failed: AtomicBool::new(false) }
    }

    /// Does something with redb, which panics over a file that is damaged in just the wrong way.
    fn attempt<T>(&self, doing: &str, job: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
        let what = || format!("{doing} {}", self.path.display());
        let why = match unless_panics(job) {
            Some(Ok(done)) => return Ok(done),
            Some(Err(redb::Error::Io(error))) if foreign(&error) => error.to_string(),
            Some(Err(redb::Error::Io(error))) => {
                self.failed.store(true, Ordering::Relaxed);
                return Err(Error::io(what())(error));
            }
            Some(Err(redb::Error::Corrupted(why))) => why,
            // What redb says once it has given up; without damage, the disk has failed before.
            Some(Err(error)) => match self.damage.get() {
                None => return Err(Error::Io { what: what(), source: io::Error::other(error) }),
                Some(why) => why.clone(),
            },
            None => IMPOSSIBLE.to_owned(),
        };
        let found = lost(what(), &why);
        // The first is what others come from.
        let _ = self.damage.set(why);
        Err(found)
    }
}

/// The error of an index that cannot be used, and what to do then.
pub(super) fn lost(place: impl std::fmt::Display, why: &str) -> Error {
    let remedy = "make the catalog anew with larder check --rebuild, or restore the store from a backup";
    Error::Damaged(format!("{place}: {why}; {remedy}"))
}

/// The index as of one checkpoint.
#[derive(Clone)]
pub(super) struct Snapshot {
    table: Arc<Table>,
    /// The newest record of the journal that it contains.
    seq: u64,
    place: Arc<Place>,
    standby: Arc<Standby>,
}

impl Snapshot {
    /// Readers are given this one from now on, and no older one.
    pub fn show(&self) {
        self.standby.show(self.seq);
    }

    /// Whether it is the one that readers are given. An older one cannot be read on once a call to the disk has failed.
    pub fn is_shown(&self) -> bool {
        self.standby.is_shown(self.seq)
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        let get = |table: &Table| Ok(table.get(key)?.map(|value| value.value().to_vec()));
        self.place.attempt("reading", || match get(&self.table) {
            Err(redb::Error::PreviousIo) => self.standby.read(self.seq, get),
            got => got,
        })
    }

    /// The entries of a range, in order. Ends with the first error.
    pub fn range(&self, range: &Range<Key>) -> Result<impl Iterator<Item = Result<(Key, Value)>> + use<>> {
        let Snapshot { table, seq, place, standby } = self.clone();
        let mut rest = range.clone();
        let mut entries = place.attempt("reading", || match begin(&table, &rest) {
            Err(redb::Error::PreviousIo) => standby.read(seq, |table| begin(table, &rest)),
            begun => begun,
        })?;
        let mut failed = false;
        Ok(std::iter::from_fn(move || {
            if failed {
                return None;
            }
            let next = place.attempt("reading", || match next(&mut entries) {
                // On with what follows the last entry.
                Err(redb::Error::PreviousIo) => {
                    let (others, first) = standby.read(seq, |table| {
                        let mut others = begin(table, &rest)?;
                        let first = next(&mut others)?;
                        Ok((others, first))
                    })?;
                    entries = others;
                    Ok(first)
                }
                next => next,
            });
            match &next {
                Ok(Some((key, _))) => {
                    rest.start.clone_from(key);
                    rest.start.push(0);
                }
                Ok(None) => {}
                Err(_) => failed = true,
            }
            next.transpose()
        }))
    }
}

type Entries = redb::Range<'static, &'static [u8], &'static [u8]>;

fn begin(table: &Table, range: &Range<Key>) -> Result<Entries, redb::Error> {
    Ok(table.range::<&[u8]>(range.start.as_slice()..range.end.as_slice())?)
}

fn next(entries: &mut Entries) -> Result<Option<(Key, Value)>, redb::Error> {
    let Some(entry) = entries.next() else { return Ok(None) };
    let (key, value) = entry?;
    Ok(Some((key.value().to_vec(), value.value().to_vec())))
}

/// The index.
pub(super) struct Index {
    /// None once it is closed.
    database: Mutex<Option<Database>>,
    file: Arc<dyn File>,
    io: Arc<dyn Io>,
    place: Arc<Place>,
    standby: Arc<Standby>,
    reserve: Arc<Reserve>,
}

impl Index {
    /// Makes an empty index at `path`. A crash leaves either none or a whole one.
    pub fn create(io: &Arc<dyn Io>, path: &Path) -> Result<()> {
        create_with(io, path, &mut |database| {
            write(database, &Layers::new(), Reach::default()).map_err(Into::into)
        })
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
        let place = Arc::new(Place::new(path));
        let damaged = |why: &str| lost(path.display(), why);
        if file.len().map_err(Error::io(format!("asking the length of {}", path.display())))? == 0 {
            return Err(damaged("the index is empty"));
        }
        let database = place.attempt("opening", || {
            let blocks = Blocks { file: file.clone(), reserve: Some(reserve.clone()) };
            Ok(Database::builder().set_cache_size(cache).create_with_backend(blocks)?)
        })?;
        let index = Index {
            database: Mutex::new(Some(database)),
            file,
            io: io.clone(),
            place,
            standby: Arc::new(Standby::new(io, path, cache)),
            reserve: reserve.clone(),
        };
        let reach = index.reach()?.ok_or_else(|| damaged("this is no index of a catalog"))?;
        if reach.file == 0 {
            // Who made it may have got no further than the rename.
            let dir = index.dir();
            io.sync_dir(dir).map_err(Error::io(format!("flushing {}", dir.display())))?;
        }
        let snapshot = index.snapshot(reach.seq)?;
        Ok((index, snapshot, reach))
    }

    fn dir(&self) -> &Path {
        self.place.path.parent().unwrap_or(Path::new("."))
    }

    fn with<T>(&self, doing: &str, job: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T> {
        match &*self.database.lock() {
            Some(database) => self.place.attempt(doing, || job(database)),
            None => Err(Error::ReadOnly(format!("{} is closed", self.place.path.display()))),
        }
    }

    fn reach(&self) -> Result<Option<Reach>> {
        self.with("reading", |database| {
            let table = match database.begin_read()?.open_table(CHECKPOINT) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            Ok(table.get(&[][..])?.and_then(|entry| {
                let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
                let (seq, file) = entry.value().split_at_checked(8)?;
                Some(Reach { seq: number(seq)?, file: number(file)? })
            }))
        })
    }

    /// The index as of now; it contains the journal up to record `seq`.
    fn snapshot(&self, seq: u64) -> Result<Snapshot> {
        let table = self.with("reading", |database| Ok(database.begin_read()?.open_table(CATALOG)?))?;
        let (place, standby) = (self.place.clone(), self.standby.clone());
        Ok(Snapshot { table: Arc::new(table), seq, place, standby })
    }

    /// Tells, before anything is changed, whether the disk has room for these layers. redb cannot go on
    /// after a write that failed, so this is asked first: a full disk must not end the store.
    pub fn check_room(&self, entries: usize, bytes: usize) -> Result<()> {
        let dir = self.dir();
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
        self.with("writing", |database| write(database, layers, reach))?;
        self.snapshot(reach.seq)
    }

    /// Whether a call to the disk has failed, which changed nothing: then [`Index::commit`] does nothing before the index is
    /// opened anew, and needs not be tried.
    pub fn has_given_up(&self) -> bool {
        self.place.failed.load(Ordering::Relaxed) && self.place.damage.get().is_none()
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.file.allocated().unwrap_or(0)
    }

    /// Closes the file. What redb does on the way only makes the next opening quicker.
    pub fn close(&self) {
        let database = self.database.lock().take();
        if unless_panics(|| drop(database)).is_none() {
            log::warn!("closing {}: {IMPOSSIBLE}", self.place.path.display());
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.close();
    }
}

/// Makes an index at `path`, durable and whole under this name; `fill` commits what it is to hold.
fn create_with(
    io: &Arc<dyn Io>,
    path: &Path,
    fill: &mut dyn FnMut(&Database) -> Result<(), Filling>,
) -> Result<()> {
    let draft = draft_of(path);
    let dir = path.parent().unwrap_or(Path::new("."));
    let file = io.open(&draft, true).map_err(Error::io(format!("making {}", draft.display())))?;
    // What an interrupted attempt may have left.
    file.set_len(0).map_err(Error::io(format!("emptying {}", draft.display())))?;
    let mut other = None;
    Place::new(&draft).attempt("making", || {
        let blocks = Blocks { file: file.clone(), reserve: None };
        let database = Database::builder().set_cache_size(FILL_CACHE).create_with_backend(blocks)?;
        match fill(&database) {
            Ok(()) => Ok(()),
            Err(Filling::Index(error)) => Err(error),
            Err(Filling::Other(error)) => {
                other = Some(error);
                Ok(())
            }
        }
    })?;
    if let Some(error) = other {
        return Err(error);
    }
    file.sync().map_err(Error::io(format!("flushing {}", draft.display())))?;
    io.rename(&draft, path).map_err(Error::io(format!("renaming {}", draft.display())))?;
    io.sync_dir(dir).map_err(Error::io(format!("flushing {}", dir.display())))
}

/// What can go wrong while an index is filled: in it, or where its content comes from.
enum Filling {
    Index(redb::Error),
    Other(Error),
}

impl From<redb::Error> for Filling {
    fn from(error: redb::Error) -> Filling {
        Filling::Index(error)
    }
}

/// Memory of redb while an index is filled, bytes.
const FILL_CACHE: usize = 32 << 20;

/// Bytes of entries that one transaction takes while an index is filled from a dump.
const FILL: usize = 8 << 20;

/// Makes the index of a store in `dir`, which has none, from a dump; the catalog goes on with the number behind the
/// newest batch that the dump names. Durable and whole, or not there.
pub fn build(io: &Arc<dyn Io>, dir: &Path, dump: DumpReader) -> Result<()> {
    let reach = Reach { seq: dump.head().seq.0, file: 0 };
    build_with(io, dir, Some(dump), Layer::new(), reach)
}

/// [`build`] with changes that come above the dump, where there is one.
pub(super) fn build_with(
    io: &Arc<dyn Io>,
    dir: &Path,
    mut dump: Option<DumpReader>,
    changes: Layer,
    reach: Reach,
) -> Result<()> {
    let changes = vec![Arc::new(changes)];
    create_with(io, &dir.join("index.redb"), &mut |database| {
        while let Some(reader) = &mut dump {
            let (mut layer, mut bytes) = (Layer::new(), 0);
            while bytes < FILL
                && let Some((key, value)) = reader.entry().map_err(Filling::Other)?
            {
                bytes += key.len() + value.len() + 64;
                layer.insert(key.into(), Some(value.to_vec().into()));
            }
            write(database, &vec![Arc::new(layer)], reach)?;
            if bytes < FILL {
                break;
            }
        }
        write(database, &changes, reach).map_err(Filling::Index)
    })
}

/// Verifies every page of the index in a store's directory, which redb does not do when it reads one. Repairs on the
/// way what a crash may leave: `io` is an overlay where nothing may change.
/// Errors: `Damaged` when it cannot be trusted, or a part of it cannot be read (EIO).
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
        let database = builder.create_with_backend(Blocks { file: file.clone(), reserve: None })?;
        let reading = database.begin_read()?;
        reading.open_table(CATALOG)?;
        Ok(reading.open_table(CHECKPOINT)?.get(&[][..])?.is_some_and(|entry| entry.value().len() == 16))
    };
    let damaged = |why: String| Error::Damaged(format!("{}: {why}", path.display()));
    if file.len().map_err(Error::io(format!("asking the length of {}", path.display())))? == 0 {
        return Err(damaged("the index is empty".into()));
    }
    match unless_panics(verify) {
        Some(Ok(true)) => Ok(()),
        Some(Ok(false)) => Err(damaged("this is no index of a catalog".into())),
        Some(Err(redb::Error::Io(error))) if !foreign(&error) && error.raw_os_error() != Some(libc::EIO) => {
            Err(Error::io(format!("reading {}", path.display()))(error))
        }
        Some(Err(error)) => Err(damaged(error.to_string())),
        None => Err(damaged(IMPOSSIBLE.into())),
    }
}

/// What a job returns; none when it panics, as redb does over a file that is damaged in just the wrong way.
fn unless_panics<T>(job: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).ok()
}

const IMPOSSIBLE: &str = "its structure is impossible";

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
                Some(value) => drop(catalog.insert(&key[..], &*value.bytes())?),
                None => drop(catalog.remove(&key[..])?),
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

/// Errors that tell of the content of a file, not of the disk.
fn foreign(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}
