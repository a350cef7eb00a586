//! Opening and closing a store: its directory, its lock, and what the last session left to be done.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Volume;
use super::evict::Evictor;
use super::limits::Limits;
use super::names::root_record;
use super::tree::Tree;
use crate::cache::{Cache, PageId};
use crate::catalog::{Batch, Engine, LocalCatalog, OpenOptions, frames_are_whole};
use crate::clock::Clock;
use crate::config::{Policy, Settings};
use crate::error::{Error, Result};
use crate::format::files::{is_of_store, refuse_unrestored};
use crate::format::{
    CounterRecord, FORMAT_VERSION, FormatLine, Ino, PageNo, Patch, ROOT, SegmentId, SegmentRecord, decode,
    keys,
};
use crate::io::{Io, Lock};
use crate::pages::{LocalSegments, Segments};

/// Threads that put pages into frames.
const WRITE_BACK_THREADS: usize = 2;

/// What the parts of the memory limit are for.
pub(super) struct Budget {
    pub pages: usize,
    pub dirty: usize,
    pub tree: usize,
    catalog: usize,
}

/// The least room for dirty pages: an operation may change two of the largest pages together, while one of
/// them is on its way to the disk as it was before.
const LEAST_DIRTY: usize = 4 << 20;

impl Budget {
    /// Half for pages of content, of which half may be dirty (in a small cache more), the rest for metadata. The journal
    /// grows with the catalog's memory: in a store that must stay small it gets less.
    pub fn of(settings: &Settings) -> Budget {
        let limit = settings.cache_size_limit as usize;
        let catalog =
            settings.storage_size_limit.map_or(limit / 4, |disk| (limit / 4).min(disk as usize / 8));
        Budget { pages: limit / 2, dirty: (limit / 4).max(LEAST_DIRTY), tree: limit / 4, catalog }
    }
}

impl Volume {
    /// Opens the store at `settings.storage_path`, making a new one when the directory is missing or empty.
    /// Takes the store's lock, replays the journal, starts the background threads.
    pub fn open(settings: Settings, io: Arc<dyn Io>, clock: Clock) -> Result<Arc<Volume>> {
        let dir = settings.storage_path.clone();
        let (lock, fresh) = open_directory(&*io, &dir)?;
        let segments = Arc::new(LocalSegments::open(io.clone(), dir.join("segments"))?);
        let budget = Budget::of(&settings);
        let synced = segments.clone();
        let engine = LocalCatalog::open(OpenOptions {
            io: io.clone(),
            dir: dir.clone(),
            memory: budget.catalog,
            verify: &mut |batch| frames_are_whole(&segments, batch),
            before_checkpoint: Box::new(move || synced.sync()),
        })?;
        let engine = Arc::new(engine);
        let live = live_segments(&*engine)?;
        if let Some((newest, _)) = live.last_key_value() {
            segments.number_above(*newest);
        }
        let seed = engine.last_seq().0;
        let volume = Arc::new(Volume {
            io,
            clock,
            tree: parking_lot::Mutex::new(Tree::new(budget.tree)),
            cache: Cache::new(budget.pages, budget.dirty),
            engine,
            segments,
            sweeping: Default::default(),
            reclaiming: Default::default(),
            compacting: Default::default(),
            clearing: Default::default(),
            saving: Default::default(),
            counting: Default::default(),
            pins: Default::default(),
            backup_bytes: Default::default(),
            evicting: parking_lot::Mutex::new(Evictor::new(seed)),
            uses: Default::default(),
            uses_kept: (settings.cache_eviction_policy != Policy::None).into(),
            forgotten: Default::default(),
            owners: Default::default(),
            storing: Default::default(),
            uncompactable: Default::default(),
            frames: Default::default(),
            framing: Default::default(),
            readahead: Default::default(),
            house: Default::default(),
            read_only: Default::default(),
            listener: Default::default(),
            threads: Default::default(),
            lock: parking_lot::Mutex::new(Some(lock)),
            limits: Limits::of(&settings),
            settings,
        });
        if fresh {
            volume.found()?;
            // Marks the directory as a store.
            FormatLine::of(volume.io.new_id()).write(&*volume.io, &dir)?;
        }
        volume.count_backups()?;
        volume.bound_segments();
        volume.recover(live)?;
        volume.start()?;
        Ok(volume)
    }

    /// Puts the root into a new store. The store counts as one only when this is durable.
    fn found(&self) -> Result<()> {
        if self.engine.get(&keys::inode(ROOT))?.is_some() {
            return Ok(());
        }
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let mut batch = Batch::default();
        batch.put(keys::inode(ROOT), root_record(self.clock.now(), uid, gid));
        let counters = CounterRecord { inodes: 1, last_ino: ROOT.0, ..CounterRecord::default() };
        batch.put_record(keys::counters(), &counters);
        self.engine.apply(batch)?;
        self.make_durable(self.engine.last_seq())
    }

    /// Loads what is kept in memory, and finishes what the last session began.
    fn recover(&self, live: BTreeMap<SegmentId, u64>) -> Result<()> {
        let dir = &self.settings.storage_path;
        let missing =
            || Error::store(dir, "the catalog has no root directory: restore the store from a backup");
        self.engine.get(&keys::inode(ROOT))?.ok_or_else(missing)?;
        let counters = self.engine.get(&keys::counters())?.ok_or_else(missing)?;
        let gone = self.engine.get(&keys::gone())?;
        self.engine.scan(keys::under(&[keys::USE]), &mut |_, _| {
            self.uses_kept.store(true, Ordering::Relaxed);
            false
        })?;
        {
            let mut tree = self.tree.lock();
            tree.counters = decode(&counters, "counters")?;
            tree.gone = gone.map(|value| decode(&value, "time of the last expiry")).transpose()?;
            tree.live = live.into_iter().collect();
        }
        self.find_quotas()?;
        self.apply_patches()?;
        self.find_orphans()?;
        self.find_releases()?;
        self.set_next_expiry(i64::MIN);
        // A store that is full, or damaged in one place, can be read all the same; the sweeper tries again.
        if let Err(error) = self.sweep() {
            log::error!("keys that expired are hidden but not yet removed: {error}");
        }
        Ok(())
    }

    /// Content that was durable in the journal but not yet in frames comes back as dirty pages, and
    /// is stored at once.
    fn apply_patches(&self) -> Result<()> {
        let mut patches: BTreeMap<(Ino, PageNo), Vec<(u32, Patch)>> = BTreeMap::new();
        let mut damage = None;
        self.engine.scan(keys::under(&[keys::PATCH]), &mut |key, value| {
            let n = key.get(13..17).and_then(|n| n.try_into().ok()).map(u32::from_be_bytes);
            match (keys::page_of(key), n, decode::<Patch>(value, "patch")) {
                (Some(page), Some(n), Ok(patch)) => patches.entry(page).or_default().push((n, patch)),
                (_, _, Err(error)) => damage = Some(error),
                _ => {}
            }
            true
        })?;
        if let Some(error) = damage {
            return Err(error);
        }
        for ((ino, no), mut list) in patches {
            list.sort_by_key(|(n, _)| *n);
            let next = list.last().map_or(0, |(n, _)| n + 1);
            let mut put_together = || -> Result<Vec<u8>> {
                let (size, end) = self.run(|volume| {
                    let tree = &mut *volume.tree.lock();
                    let rec = &tree.file(ino)?.rec;
                    Ok((rec.page_size(), rec.size))
                })?;
                let mut content = Vec::new();
                // Nothing is needed of what was written over since.
                let len = end.saturating_sub(u64::from(no.0) * size).min(size) as usize;
                if !list.iter().any(|(_, patch)| covers(patch, len)) {
                    self.read_frame(ino, no, &mut content)?;
                }
                list.drain(..).for_each(|(_, patch)| apply_patch(&mut content, patch, size as usize));
                Ok(content)
            };
            let content = match put_together() {
                Ok(content) => content,
                // The patches stay: what they belong to may be mended, and nothing else depends on them.
                Err(error) => {
                    log::error!(
                        "{ino} page {}: what was written to it last cannot be put in place: {error}",
                        no.0
                    );
                    self.cache.strand(PageId { ino, no }, next);
                    continue;
                }
            };
            if !self.cache.insert_patched(PageId { ino, no }, content, next) {
                return Err(Error::Config("cache-size-limit is too small to recover the store".into()));
            }
            self.run(|volume| {
                volume.tree.lock().file(ino)?.dirty = true;
                Ok(())
            })?;
            // The journal held no more than fits; a page each time keeps memory small all the same.
            if let Err(error) = self.flush_file(ino) {
                log::error!("{ino}: it stays in memory for now: {error}");
            }
        }
        Ok(())
    }

    fn start(self: &Arc<Volume>) -> Result<()> {
        let mut threads = self.threads.lock();
        let mut spawn = |name: &str, life: fn(&Volume)| -> Result<()> {
            let volume = self.clone();
            let run = move || {
                yield_to_callers();
                life(&volume);
            };
            let thread = std::thread::Builder::new()
                .name(name.into())
                .spawn(run)
                .map_err(Error::io(format!("starting the thread {name}")))?;
            threads.push(thread);
            Ok(())
        };
        for _ in 0..WRITE_BACK_THREADS {
            spawn("write-back", Volume::write_back)?;
        }
        spawn("readahead", Volume::read_ahead)?;
        spawn("sweeper", Volume::sweep_regularly)?;
        spawn("janitor", Volume::reclaim_regularly)?;
        if self.evicts() {
            spawn("evictor", Volume::evict_in_background)?;
        }
        if self.settings.backup_interval.is_some() {
            spawn("backup", Volume::back_up_regularly)?;
        }
        spawn("committer", Volume::commit_regularly)
    }

    /// Makes everything durable, stops the threads and gives the lock back. Later calls do nothing.
    pub fn close(&self) -> Result<()> {
        let Some(lock) = self.lock.lock().take() else { return Ok(()) };
        let synced = if self.read_only().is_some() { Ok(()) } else { self.sync() };
        self.house.stopping.store(true, Ordering::SeqCst);
        self.house.wake();
        self.cache.wake();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                log::error!("a background thread had panicked");
            }
        }
        let closed = if synced.is_ok() && self.read_only().is_none() {
            self.tree.lock().refs = Default::default();
            let closed = self.reclaim_all().and_then(|()| self.commit_now());
            closed.and_then(|()| self.engine.close(&|| self.segments.sync()))
        } else {
            Ok(())
        };
        // Before others may have it: nothing of this store is touched by whoever lets go of the volume later.
        self.engine.end();
        self.segments.finish();
        drop(lock);
        synced.and(closed)
    }

    /// Reclaims what was unlinked while open: nobody holds anything any longer.
    fn reclaim_all(&self) -> Result<()> {
        self.find_orphans()?;
        self.reclaim()?;
        self.work_off_releases()
    }
}

/// Bytes of each segment that something refers to.
fn live_segments(engine: &dyn Engine) -> Result<BTreeMap<SegmentId, u64>> {
    let mut live = BTreeMap::new();
    engine.scan(keys::under(&[keys::SEGMENT]), &mut |key, value| {
        if let (Some(id), Ok(record)) =
            (keys::segment_of(key), decode::<SegmentRecord>(value, "segment record"))
        {
            live.insert(id, record.live);
        }
        true
    })?;
    Ok(live)
}

/// Lets the threads that answer callers go first where processors are few. What works behind the
/// scenes gets its turn all the same, and callers that are too fast for it wait for room.
fn yield_to_callers() {
    const NICENESS: i32 = 10;
    #[expect(unsafe_code, reason = "no crate at hand wraps setpriority for one thread")]
    // SAFETY: takes numbers only; 0 is the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
    if done != 0 {
        log::debug!("background threads run at normal priority: {}", std::io::Error::last_os_error());
    }
}

/// Whether a patch is all of the first `len` bytes of a page.
fn covers(patch: &Patch, len: usize) -> bool {
    match patch {
        Patch::ZeroFrom(offset) => *offset == 0,
        Patch::Data { offset, bytes } => *offset == 0 && bytes.len() >= len,
    }
}

fn apply_patch(content: &mut Vec<u8>, patch: Patch, page_size: usize) {
    match patch {
        Patch::ZeroFrom(offset) => content.truncate(offset as usize),
        Patch::Data { offset, bytes } => {
            let start = offset as usize;
            let end = (start + bytes.len()).min(page_size);
            if content.len() < end {
                content.resize(end, 0);
            }
            if let Some(place) = content.get_mut(start..end) {
                place.copy_from_slice(bytes.get(..end - start).unwrap_or_default());
            }
        }
    }
}

/// What a failure to open a store in `dir` is told as.
fn failed(dir: &Path, what: String) -> impl FnOnce(std::io::Error) -> Error {
    move |error| match error.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem => Error::store(
            dir,
            "the disk that it lies on is read-only, and a store is opened for writing, also with -o ro",
        ),
        _ => Error::io(what)(error),
    }
}

/// Opens a store's directory: takes its lock and checks its format. True for a new store.
fn open_directory(io: &dyn Io, dir: &Path) -> Result<(Lock, bool)> {
    let at = |what: &str| failed(dir, format!("{}: {what}", dir.display()));
    io.create_dir_all(dir).map_err(at("cannot make the store's directory"))?;
    let there = io.list(dir).map_err(at("cannot list the store's directory"))?;
    refuse_unrestored(dir, &there)?;
    let mut names =
        there.iter().map(|path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default());
    let known = names.clone().any(|name| name == "FORMAT");
    // A first mount that was cut short may have left anything but backups.
    if !known && !names.all(|name| is_of_store(name) && name != "backup") {
        return Err(Error::store(
            dir,
            "this is no store: the directory has other files in it. Name an empty directory, or one that does not exist",
        ));
    }
    if known {
        read_format(io, dir)?;
    }
    let lock = io.lock(&dir.join("lock")).map_err(at("cannot take the store's lock"))?;
    let lock = lock.ok_or_else(|| Error::InUse(dir.to_owned()))?;
    for part in ["journal", "segments"] {
        io.create_dir_all(&dir.join(part)).map_err(at("cannot make the store's directories"))?;
    }
    Ok((lock, !known))
}

/// The line in a store's FORMAT. Errors: it is none, or of another version.
pub(super) fn read_format(io: &dyn Io, dir: &Path) -> Result<FormatLine> {
    let mut bytes = [0; 64];
    let path = dir.join("FORMAT");
    let read = io.open(&path, false).and_then(|file| file.read_at(&mut bytes, 0));
    let len = read.map_err(failed(dir, format!("{}: cannot read it", path.display())))?;
    let text = String::from_utf8_lossy(bytes.get(..len).unwrap_or_default());
    let line = FormatLine::parse(&text).ok_or_else(|| {
        Error::store(
            dir,
            format!(
                "its FORMAT file is not Larder's: this is no store, or the file is damaged (it should read \
                 `larder {FORMAT_VERSION} ID`), and larder check --repair writes it anew"
            ),
        )
    })?;
    line.check().map(|()| line).map_err(|why| Error::store(dir, why))
}
