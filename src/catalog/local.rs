//! The local catalog: journal, table and index together.
//!
//! Locks are taken in this order: `maintenance`, then `view`, then `writer`, then that of the backlog. None of
//! `writer` and `view` is held over a flush or over a read of the index. What holds under them:
//!
//! - `writer` decides the order: a batch gets its number, its place in the journal and its place in the
//!   backlog under one lock of it, so the three orders are the same.
//! - Batches go from the backlog into the table under `view`: who finds the backlog empty finds them in the table.
//! - `view` changes from "frozen table over old index" to "new index" in one step, so a reader that
//!   copies its parts under the lock sees every batch once.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};

use super::backlog::Backlog;
use super::checkpoint::{self, Maintenance, Work};
use super::commit::Commits;
use super::index::{self, Index, Reach, Snapshot, draft_of};
use super::journal::{self, Directory, GO_BACK, JournalFile, Writer};
use super::reserve::Reserve;
use super::table::{self, Held, Layer, Layers, Table};
use super::{Batch, CatalogStats, Engine, Value};
use crate::error::{Error, Result};
use crate::format::{Key, Seq};
use crate::io::Io;

/// What a catalog is opened with.
pub struct OpenOptions<'a> {
    /// The disk.
    pub io: Arc<dyn Io>,
    /// The directory that holds `journal/` and `index.redb`; exists.
    pub dir: PathBuf,
    /// Bytes of memory for table and index cache together.
    pub memory: usize,
    /// Tells whether what a batch refers to is whole on the disk. Asked at replay for batches behind
    /// the last mark; the first that is not ends the replay, and an error ends the opening.
    pub verify: &'a mut dyn FnMut(&Batch) -> Result<bool>,
    /// Makes durable what batches refer to; called before a background checkpoint, and when opening
    /// has applied batches behind the last mark.
    pub before_checkpoint: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

/// The local catalog. Dropped without [`LocalCatalog::close`] it leaves what a crash of the process
/// would leave: everything applied is in the journal.
#[derive(Debug)]
pub struct LocalCatalog {
    inner: Arc<Inner>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// What readers see.
pub(super) struct View {
    /// What was journalled since the last checkpoint began, but what is in the backlog.
    pub table: Table,
    /// The newest batch in it.
    pub seq: u64,
    /// Bytes of it as they are in [`Inner::active_bytes`]: scans make it smaller between two batches.
    pub counted: usize,
    /// What the running checkpoint writes; none when there is none.
    pub frozen: Option<Layers>,
    /// The index as of the last checkpoint.
    pub index: Snapshot,
}

/// What the callers' threads and the background thread share.
pub(super) struct Inner {
    pub directory: Directory,
    pub index: Index,
    pub reserve: Arc<Reserve>,
    pub writer: Mutex<Writer>,
    pub backlog: Backlog,
    pub view: RwLock<View>,
    pub commits: Commits,
    pub maintenance: Mutex<Maintenance>,
    pub work: Mutex<Work>,
    /// Wakes the background thread.
    pub work_to_do: Condvar,
    /// Wakes those that wait for room in the table.
    pub room: Condvar,
    pub before_checkpoint: Box<dyn Fn() -> Result<()> + Send + Sync>,
    /// Bytes of table at which a checkpoint begins.
    pub table_limit: usize,
    /// Bytes of journal at which a checkpoint begins: it bounds the replay where few keys change often.
    pub journal_limit: u64,
    /// Bytes of the table and the backlog.
    pub active_bytes: AtomicUsize,
    pub frozen_bytes: AtomicUsize,
    /// Whether the journal has refused something that adds, and no file was ready since.
    pub cramped: AtomicBool,
    /// Bytes of both tables that are taken while checkpoints find the disk full; 0 while they do not.
    pub emergency_limit: AtomicUsize,
    /// Bytes of the journal's files that the writer does not know.
    pub aside_bytes: AtomicU64,
    batches: AtomicU64,
    pub checkpoints: AtomicU64,
    dropped: Vec<String>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// Smallest and largest length of a journal file, bytes. Large enough that files seldom change, small
/// enough that filling one with zeros takes the background thread some tens of milliseconds.
pub(super) const FILE_LEN: std::ops::RangeInclusive<u64> = (64 << 10)..=(16 << 20);

/// The part of the disk that the table may hold at most. Each file of the journal is half as long, and the reserve as three.
const DISK_PART: u64 = 32;

/// The part of the table that may be filled from the backlog at a time.
const BACKLOG_PART: usize = 16;

/// Journal files in use at which a checkpoint begins.
const FILES: u64 = 4;

/// What is kept for a full disk, in journal files: one more than a checkpoint turns to, and as much for the index
/// as half a table takes.
const RESERVE_FILES: u64 = 3;

impl LocalCatalog {
    /// Opens the catalog, making an empty one when nothing is there, and replays the journal.
    /// Errors: `Damaged` naming the file that is missing, foreign or not readable.
    pub fn open(options: OpenOptions<'_>) -> Result<LocalCatalog> {
        LocalCatalog::load(options, false)
    }

    /// [`LocalCatalog::open`] for a journal that is damaged: the catalog is as it was before the first record that
    /// cannot be read, and [`LocalCatalog::dropped`] tells what came behind. The journal's files are used again: whoever
    /// wants to keep them copies them before.
    pub fn salvage(options: OpenOptions<'_>) -> Result<LocalCatalog> {
        LocalCatalog::load(options, true)
    }

    fn load(options: OpenOptions<'_>, salvage: bool) -> Result<LocalCatalog> {
        let OpenOptions { io, dir, memory, verify, before_checkpoint } = options;
        // A quarter each for the table and the one being checkpointed, half for the index; less on a small disk, for which
        // the journal and the reserve would be too large.
        let total = io.room(&dir).map_err(Error::io(format!("asking the room in {}", dir.display())))?.total;
        let most = (total / DISK_PART).max(2 * FILE_LEN.start());
        let table_limit = (memory / 4).min(usize::try_from(most).unwrap_or(usize::MAX));
        let file_len =
            (table_limit as u64 / 2).clamp(*FILE_LEN.start(), *FILE_LEN.end()).next_multiple_of(4096);
        let directory = Directory::open(io.clone(), dir.join("journal"), file_len)?;
        let files: Vec<Arc<JournalFile>> = directory.files()?.into_iter().map(Arc::new).collect();

        let path = dir.join("index.redb");
        let listed = io.list(&dir).map_err(Error::io(format!("listing {}", dir.display())))?;
        let there = |path: &PathBuf| listed.iter().any(|p| p.file_name() == path.file_name());
        if !there(&path) {
            if !files.is_empty() {
                let why =
                    "the index is missing, and the journal holds only what changed since its last checkpoint";
                return Err(index::lost(path.display(), why));
            }
            Index::create(&io, &path)?;
        } else if there(&draft_of(&path)) {
            io.remove(&draft_of(&path))
                .map_err(Error::io(format!("removing {}", draft_of(&path).display())))?;
        }
        // After a clean end the journal is empty.
        let reserve = Arc::new(Reserve::open(io.clone(), dir.join("reserve"), RESERVE_FILES * file_len));
        let clean = !files.iter().map(|file| file.begins()).collect::<Result<Vec<_>>>()?.contains(&true);
        let (index, mut snapshot, reach) = Index::open(&io, &path, memory / 2, clean, &reserve)?;

        let (old, current): (Vec<_>, Vec<_>) = files.into_iter().partition(|f| f.number < reach.file);
        let begins = current.first().is_some_and(|f| f.number == reach.file);
        if reach.file > 0 && !begins && !salvage {
            return Err(Error::Damaged(format!(
                "{}: this file of the journal is missing; {GO_BACK}",
                directory.path_of(reach.file).display()
            )));
        }
        let mut table = Table::default();
        let mut replayed =
            journal::replay(&current, reach.seq, salvage, verify, &mut |batch| table.apply(batch.puts()))?;
        if reach.file > 0 && !begins {
            let path = directory.path_of(reach.file);
            replayed.dropped.push(format!("{}: this file of the journal is missing", path.display()));
        }
        let newest = current.last().map_or(0, |f| f.number).max(reach.file);
        let mut maintenance = Maintenance::new(directory.number_behind(newest), old);

        let writer = match current.split_first() {
            Some((first, others)) if replayed.clean && reach.file > 0 && begins => {
                // The others may have been left half prepared.
                maintenance.retire(others.to_vec());
                Writer::new(first.clone(), reach.seq)
            }
            _ => {
                // Everything goes into the index and the journal on to a file with a new number: what
                // was cut off can then never come back, wherever this is interrupted.
                let next = reserve.or_release(|| maintenance.prepare(&directory))?;
                if replayed.unmarked {
                    before_checkpoint()?;
                }
                let reach = Reach { seq: replayed.last, file: next.number };
                snapshot = index.commit(&table.freeze(), reach)?;
                maintenance.retire(current);
                Writer::new(next, replayed.last)
            }
        };
        let (last, aside_bytes) = (writer.last(), maintenance.file_bytes());
        snapshot.show();
        let inner = Arc::new(Inner {
            directory,
            index,
            reserve,
            writer: Mutex::new(writer),
            backlog: Backlog::new(last, table_limit / BACKLOG_PART),
            view: RwLock::new(View {
                table: Table::default(),
                seq: last,
                counted: 0,
                frozen: None,
                index: snapshot,
            }),
            commits: Commits::new(last),
            maintenance: Mutex::new(maintenance),
            work: Mutex::new(Work { prepare: true, ..Work::default() }),
            work_to_do: Condvar::new(),
            room: Condvar::new(),
            before_checkpoint,
            table_limit,
            journal_limit: FILES * file_len,
            active_bytes: AtomicUsize::new(0),
            frozen_bytes: AtomicUsize::new(0),
            cramped: AtomicBool::new(false),
            emergency_limit: AtomicUsize::new(0),
            aside_bytes: AtomicU64::new(aside_bytes),
            batches: AtomicU64::new(0),
            checkpoints: AtomicU64::new(0),
            dropped: replayed.dropped,
        });
        let catalog = LocalCatalog { inner: inner.clone(), threads: Mutex::default() };
        let start = |name: &str, run: fn(&Inner)| {
            let inner = inner.clone();
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(&inner));
            catalog.threads.lock().push(thread.map_err(Error::io(format!("starting the {name} thread")))?);
            Ok(())
        };
        start("checkpoint", checkpoint::run)?;
        start("table", Inner::fill_table)?;
        Ok(catalog)
    }

    /// What of the journal was dropped when this catalog was opened, a sentence each: records that a crash left
    /// unflushed or torn.
    pub fn dropped(&self) -> &[String] {
        &self.inner.dropped
    }

    fn stop(&self) {
        self.inner.work.lock().stop = true;
        self.inner.work_to_do.notify_all();
        self.inner.backlog.stop();
        for thread in self.threads.lock().drain(..) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                log::error!("the {name} thread has panicked");
            }
        }
    }
}

impl Drop for LocalCatalog {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    /// Appends a record, and poisons the catalog where the journal cannot go on.
    pub fn append(&self, writer: &mut Writer, draft: &mut journal::Draft) -> Result<u64> {
        self.commits.check()?;
        let mut result = writer.append(draft);
        if matches!(result, Err(Error::NoSpace)) && writer.broken.is_none() {
            if draft.adds {
                self.cramped.store(true, Relaxed);
            } else if self.reserve.release() {
                result = writer.append(draft);
            }
        }
        if let Some(why) = &writer.broken {
            self.commits.poison(why);
        }
        result
    }

    /// Takes the backlog into the table.
    pub fn merge(&self, view: &mut View) {
        // What is taken and not in the table would be lost to the next checkpoint.
        let _alive = checkpoint::Alive(self);
        let taken = self.backlog.take();
        view.table.apply(taken.changes());
        view.seq = taken.last;
        let before = std::mem::replace(&mut view.counted, view.table.bytes()) + taken.bytes;
        self.backlog.recycle(taken);
        // Wraps where that is less, as it should.
        self.active_bytes.fetch_add(view.counted.wrapping_sub(before), Relaxed);
    }

    /// The table with all that has been applied.
    fn whole_view(&self) -> RwLockReadGuard<'_, View> {
        if !self.backlog.is_empty() {
            self.merge(&mut self.view.write());
        }
        self.view.read()
    }

    /// What the thread does that takes batches into the table.
    fn fill_table(&self) {
        while self.backlog.wait() {
            self.merge(&mut self.view.write());
        }
    }
}

/// Visits the entries of a range: those of the index, with the layers over it.
fn scan_merged(
    layers: &Layers,
    index: &Snapshot,
    range: &Range<Key>,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<()> {
    let within = |layer| table::within(layer, range);
    let mut above = table::merge(layers.iter().map(|layer: &Arc<Layer>| within(layer))).peekable();
    let mut emit = |key: &[u8], value: Option<Cow<'_, [u8]>>| value.is_none_or(|value| visit(key, &value));
    for entry in index.range(range)? {
        let (key, value) = entry?;
        while let Some((above, value)) = above.next_if(|(above, _)| above[..] < key[..]) {
            if !emit(above, value.as_ref().map(Held::bytes)) {
                return Ok(());
            }
        }
        let more = match above.next_if(|(above, _)| above[..] == key[..]) {
            Some((above, value)) => emit(above, value.as_ref().map(Held::bytes)),
            None => emit(&key, Some(value.into())),
        };
        if !more {
            return Ok(());
        }
    }
    // `all` stops at the first that the visitor refuses.
    above.all(|(key, value)| emit(key, value.as_ref().map(Held::bytes)));
    Ok(())
}

impl Engine for LocalCatalog {
    fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        loop {
            let index = {
                let view = self.inner.whole_view();
                let frozen = || table::find(view.frozen.as_deref().unwrap_or_default(), key);
                if let Some(value) = view.table.get(key).or_else(frozen) {
                    return Ok(value.as_ref().map(|value| value.bytes().into_owned()));
                }
                view.index.clone()
            };
            match index.get(key) {
                // A checkpoint came in between.
                Err(_) if !index.is_shown() => {}
                got => return got,
            }
        }
    }

    fn scan(&self, range: Range<Key>, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<Seq> {
        if table::is_empty_range(&range) {
            return Ok(self.last_seq());
        }
        loop {
            let (layers, index, seq) = {
                let mut view = self.inner.view.write();
                self.inner.merge(&mut view);
                let mut layers = view.frozen.clone().unwrap_or_default();
                layers.extend(view.table.moment(&range));
                (layers, view.index.clone(), Seq(view.seq))
            };
            let mut begun = false;
            let scanned = scan_merged(&layers, &index, &range, &mut |key, value| {
                begun = true;
                visit(key, value)
            });
            match scanned {
                // A checkpoint came in between.
                Err(_) if !begun && !index.is_shown() => {}
                scanned => return scanned.map(|()| seq),
            }
        }
    }

    fn batch(&self) -> Batch {
        Batch::within(self.inner.backlog.memory())
    }

    fn apply(&self, batch: Batch) -> Result<Seq> {
        let inner = &*self.inner;
        if batch.is_empty() {
            inner.commits.check()?;
            return Ok(self.last_seq());
        }
        let count = batch.count();
        let mut draft = journal::batch(batch)?;
        let bytes = draft.size() + count * table::OVERHEAD;
        let (seq, full, unprepared, (behind, memory)) = {
            let mut writer = inner.writer.lock();
            let seq = inner.append(&mut writer, &mut draft)?;
            writer.last_batch = seq;
            // Counted before it can be taken.
            let active = inner.active_bytes.fetch_add(bytes, Relaxed) + bytes;
            let behind = inner.backlog.push(draft, bytes, seq);
            let full = active >= inner.table_limit || writer.appended >= inner.journal_limit;
            (seq, full, writer.ready.is_empty(), behind)
        };
        drop(memory);
        inner.batches.fetch_add(1, Relaxed);
        // The thread may be at it, or a reader, who does not wait for this: then the next batch helps.
        if behind && let Some(mut view) = inner.view.try_write() {
            inner.merge(&mut view);
        }
        if full || unprepared || !inner.reserve.held() {
            inner.ask(full);
        }
        Ok(Seq(seq))
    }

    fn has_room(&self) -> bool {
        self.inner.has_room()
    }

    fn is_short(&self) -> bool {
        // Those who add have two tables, also while no checkpoint succeeds.
        let stuck = self.inner.is_stuck() && self.inner.table_bytes() >= 2 * self.inner.table_limit;
        let short = stuck || self.inner.cramped.load(Relaxed) || !self.inner.reserve.held();
        if short {
            self.inner.ask(stuck);
        }
        short
    }

    fn wait_for_room(&self) -> Result<()> {
        self.inner.wait_for_room()
    }

    fn last_seq(&self) -> Seq {
        Seq(self.inner.backlog.last())
    }

    fn sync(&self, upto: Seq, before: &dyn Fn() -> Result<()>) -> Result<()> {
        self.inner.commits.sync(upto.0.min(self.last_seq().0), &self.inner, before)
    }

    fn durable_seq(&self) -> Seq {
        Seq(self.inner.commits.durable())
    }

    fn checkpoint(&self, before: &dyn Fn() -> Result<()>) -> Result<()> {
        self.inner.checkpoint(before)
    }

    fn end(&self) {
        self.stop();
        self.inner.commits.poison("the catalog is closed");
        // Who was writing has written, and who waits for room learns that there will be none.
        drop(self.inner.writer.lock());
        drop(self.inner.work.lock());
        self.inner.room.notify_all();
        self.inner.index.close();
    }

    fn close(&self, before: &dyn Fn() -> Result<()>) -> Result<()> {
        self.stop();
        let durable = self.sync(self.last_seq(), before);
        // The journal has it all, and the next opening moves it.
        let stays = |why: &str| {
            log::warn!("{why}: what changed last stays in the journal");
            Ok(())
        };
        let result = durable.and_then(|()| match self.inner.index.has_given_up() {
            true => {
                stays("a read of the index has failed, and nothing is written to it before the next opening")
            }
            false => match self.inner.checkpoint(before) {
                Err(Error::NoSpace) => stays("the disk is full"),
                other => other,
            },
        });
        self.end();
        result
    }

    fn stats(&self) -> CatalogStats {
        let inner = &*self.inner;
        CatalogStats {
            batches: inner.batches.load(Relaxed),
            flushes: inner.commits.flushes(),
            checkpoints: inner.checkpoints.load(Relaxed),
            table_bytes: inner.table_bytes() as u64,
            disk_bytes: inner.index.disk_bytes()
                + inner.writer.lock().disk_bytes()
                + inner.aside_bytes.load(Relaxed)
                + inner.reserve.bytes(),
        }
    }
}
