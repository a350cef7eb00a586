//! A disk in memory that loses, tears and refuses things, for tests.
//!
//! **What is durable.** Each file has a durable content and a list of operations since its last
//! [`File::sync`]; each directory has durable entries and a list of changes since its last
//! [`Io::sync_dir`]. A sync of a file covers what was written before it was called. The pessimistic reading of POSIX is taken: syncing a file does not make its entry durable, a
//! rename may be lost though the files were synced, and the directory's changes are independent of one another.
//! Two things hold on all filesystems that matter and hold here: a rename is atomic (after a crash the file is found under the
//! old name or the new one, and what it replaced is there if it is not), and directories made
//! by `create_dir_all` are durable at once.
//!
//! **What a crash does.** [`FaultyDisk::crash`] decides by the seed for each operation that was not synced
//! whether it is kept, dropped or (writes only) torn: of each block of 512 or 4096 bytes some survive and some do not.
//! A later one may survive where an earlier one did not. [`FaultyDisk::snapshot`] loses nothing: kill -9.
//!
//! Invariant: a crash changes nothing that was synced and not written since.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

mod content;
#[cfg(test)]
mod tests;

use content::{BLOCK, Content};

use super::{File, Io, Lock, Room};

const CAPACITY: u64 = 1 << 40;
const LOG_LENGTH: usize = 10_000;

/// Kinds of operations, to be counted or made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `write_all_at`
    Write,
    /// `sync` and `sync_dir`
    Sync,
    /// `allocate`
    Allocate,
    /// `read_at`, `len`, `allocated`, `list`, and `open` of a file that is there.
    Read,
    /// Any that changes something: also `open` that creates, `rename`, `remove`, `set_len` and `punch`.
    Any,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With this errno, having done nothing. What a failed sync of a file should have stored is not stored by
    /// a later one either, which succeeds all the same, as on Linux: the seed decides what of it is on the
    /// disk, and it stays readable until a crash.
    Errno(i32),
    /// With this errno, having written the first half. As `Errno` for what is not a write.
    Short(i32),
    /// With this errno, having done all of it: the answer was lost. As `Errno` for a sync.
    Late(i32),
    /// The power fails: as `Late` with `EIO`, and nothing that is asked of the disk afterwards is done.
    Die,
    /// Not at all, but the disk is full from here on, until [`FaultyDisk::heal`]: others took what was left.
    Full,
}

/// How often what was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations that change something, syncs included; failed ones too.
    pub operations: u64,
    /// Writes.
    pub writes: u64,
    /// Syncs of files and directories: device flushes.
    pub syncs: u64,
    /// Allocations.
    pub allocations: u64,
    /// What only looks; not among `operations`.
    pub reads: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Arc<[u8]>),
    SetLen(u64),
    Extend(u64),
    Punch(u64, u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Content,
    /// Not durable; what a failed sync was to store is marked.
    unsynced: Vec<(Change, bool)>,
    /// Changes that were synced so far: those in `unsynced` have the numbers behind.
    synced: u64,
    current: Content,
    /// Blocks that take room.
    blocks: BTreeSet<u64>,
    /// Bytes that cannot be read.
    bad: Vec<Range<u64>>,
}

#[derive(Clone, Debug)]
enum Entry {
    Create(PathBuf, u64),
    /// The file, from, to.
    Rename(u64, PathBuf, PathBuf),
    Remove(PathBuf, u64),
}

impl Entry {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            Entry::Create(path, _) | Entry::Remove(path, _) => path.parent() == Some(dir),
            Entry::Rename(_, from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    /// Whether it would displace a file that lives on under another name: that file's move was lost, so
    /// this, which came after it, is lost too.
    fn displaces(&self, names: &BTreeMap<PathBuf, u64>, living: &BTreeMap<PathBuf, u64>) -> bool {
        let (Entry::Create(path, id) | Entry::Rename(id, _, path)) = self else { return false };
        let displaced = names.get(path).filter(|there| *there != id);
        displaced.is_some_and(|there| living.iter().any(|(name, named)| named == there && name != path))
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Entry::Create(path, id) => {
                // It may be durable under a later name already.
                if !names.values().any(|named| named == id) {
                    names.insert(path.clone(), *id);
                }
            }
            Entry::Rename(id, _, to) => {
                // A file has one name, whatever became of the changes before.
                names.retain(|_, named| named != id);
                names.insert(to.clone(), *id);
            }
            Entry::Remove(path, id) => {
                if names.get(path) == Some(id) {
                    names.remove(path);
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    seed: u64,
    inodes: BTreeMap<u64, Inode>,
    last_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<Entry>,
    dirs: BTreeSet<PathBuf>,
    counts: Counts,
    /// Counts down to the failure.
    faults: Vec<(Kind, u64, Fault)>,
    /// What the last fault struck.
    struck: Option<Kind>,
    dead: bool,
    capacity: u64,
    /// Nothing more than is used may be used.
    full: bool,
    sync_delay: Duration,
    syncs_held: bool,
    syncs_waiting: usize,
    log: Vec<String>,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct FaultyFile {
    disk: Arc<Shared>,
    inode: u64,
    path: PathBuf,
}

fn next_random(seed: &mut u64) -> u64 {
    // SplitMix64 (Steele, Lea, Flood 2014).
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn apply(change: &Change, content: &mut Content) {
    match change {
        Change::Write(offset, bytes) => content.write(*offset, bytes),
        Change::SetLen(len) => content.set_len(*len),
        Change::Extend(len) => content.set_len(content.len().max(*len)),
        Change::Punch(offset, len) => content.punch(*offset, *len),
    }
}

/// Applies the part of a write that survives a crash: some of the blocks that it touches.
fn tear(offset: u64, bytes: &[u8], content: &mut Content, seed: &mut u64) {
    let block = if next_random(seed).is_multiple_of(2) { 512 } else { BLOCK };
    let mut at = 0;
    while at < bytes.len() {
        let to_boundary = (block - (offset + at as u64) % block) as usize;
        let end = bytes.len().min(at + to_boundary);
        if next_random(seed).is_multiple_of(2) {
            content.write(offset + at as u64, bytes.get(at..end).unwrap_or_default());
        }
        at = end;
    }
}

impl State {
    fn inode(&mut self, id: u64) -> Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(|| Error::from(ErrorKind::NotFound))
    }

    fn used(&self) -> u64 {
        self.inodes.values().map(|i| i.blocks.len() as u64 * BLOCK).sum()
    }

    /// Counts and logs an operation; the fault that hits it, if one does.
    fn begin(&mut self, kind: Kind, what: std::fmt::Arguments<'_>) -> Option<Fault> {
        if self.dead {
            return Some(Fault::Errno(libc::EIO));
        }
        match kind {
            Kind::Write => self.counts.writes += 1,
            Kind::Sync => self.counts.syncs += 1,
            Kind::Allocate => self.counts.allocations += 1,
            Kind::Read => self.counts.reads += 1,
            Kind::Any => {}
        }
        if kind != Kind::Read {
            self.counts.operations += 1;
        }
        let mut hit = None;
        self.faults.retain_mut(|(of, left, fault)| {
            if *of != kind && (*of != Kind::Any || kind == Kind::Read) {
                return true;
            }
            if *left == 0 {
                hit = hit.or(Some(*fault));
                return false;
            }
            *left -= 1;
            true
        });
        self.struck = hit.map(|_| kind).or(self.struck);
        self.dead |= hit == Some(Fault::Die);
        self.full |= hit == Some(Fault::Full);
        if kind != Kind::Read || hit.is_some() {
            if self.log.len() == LOG_LENGTH {
                self.log.drain(..LOG_LENGTH / 2);
            }
            let failed = hit.map(|f| format!(" -> {f:?}")).unwrap_or_default();
            self.log.push(format!("{} {what}{failed}", self.counts.operations));
        }
        hit.filter(|fault| *fault != Fault::Full)
    }

    /// [`State::begin`] for what is done whole or not at all. What is returned is the answer once it is done.
    fn begin_whole(&mut self, kind: Kind, what: std::fmt::Arguments<'_>) -> Result<Result<()>> {
        let answer = match self.begin(kind, what) {
            Some(Fault::Late(errno)) if kind != Kind::Sync => Err(Error::from_raw_os_error(errno)),
            Some(Fault::Die) if kind != Kind::Sync => Err(Error::from_raw_os_error(libc::EIO)),
            Some(Fault::Errno(errno) | Fault::Short(errno) | Fault::Late(errno)) => {
                return Err(Error::from_raw_os_error(errno));
            }
            Some(Fault::Die) => return Err(Error::from_raw_os_error(libc::EIO)),
            Some(Fault::Full) | None => Ok(()),
        };
        Ok(answer)
    }

    /// [`State::begin`] for what only looks.
    fn look(&mut self, what: std::fmt::Arguments<'_>) -> Result<()> {
        self.begin_whole(Kind::Read, what)?
    }

    /// Takes room for the blocks of a range.
    fn take_room(&mut self, id: u64, offset: u64, len: u64) -> Result<()> {
        let used = self.used();
        let capacity = if self.full { used } else { self.capacity };
        let inode = self.inode(id)?;
        let blocks = offset / BLOCK..(offset + len).div_ceil(BLOCK);
        let new: Vec<u64> = blocks.filter(|b| !inode.blocks.contains(b)).collect();
        if !new.is_empty() && used + new.len() as u64 * BLOCK > capacity {
            return Err(Error::from_raw_os_error(libc::ENOSPC));
        }
        inode.blocks.extend(new);
        Ok(())
    }

    fn change(&mut self, id: u64, change: Change) -> Result<()> {
        let inode = self.inode(id)?;
        apply(&change, &mut inode.current);
        inode.unsynced.push((change, false));
        Ok(())
    }

    fn drop_unnamed(&mut self, keep: u64) {
        // A removed file's room comes back at once, as when nobody has it open; its content stays for those who have.
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        for (id, inode) in &mut self.inodes {
            if *id != keep && !named.contains(id) {
                inode.blocks.clear();
            }
        }
    }
}

impl FaultyDisk {
    /// An empty disk of 1 TiB; `seed` decides what crashes do.
    pub fn new(seed: u64) -> FaultyDisk {
        FaultyDisk::of(State { seed, capacity: CAPACITY, ..State::default() })
    }

    fn of(state: State) -> FaultyDisk {
        FaultyDisk { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    /// The disk as it is found after power loss. This one stays as it is, but its next crash is another.
    /// Faults, delays and counts are not taken over, bad sectors are.
    pub fn crash(&self) -> FaultyDisk {
        let mut state = self.state();
        let mut seed = next_random(&mut state.seed);
        let mut names = state.durable_names.clone();
        for entry in &state.unsynced_names {
            if next_random(&mut seed).is_multiple_of(2) && !entry.displaces(&names, &state.names) {
                entry.apply(&mut names);
            }
        }
        let mut found = BTreeMap::new();
        for (id, inode) in &state.inodes {
            let mut content = inode.durable.clone();
            for (change, _) in &inode.unsynced {
                match (next_random(&mut seed) % 3, change) {
                    (0, _) => {}
                    (1, Change::Write(offset, bytes)) => tear(*offset, bytes, &mut content, &mut seed),
                    _ => apply(change, &mut content),
                }
            }
            found.insert(*id, content);
        }
        FaultyDisk::found(&state, names, found, seed)
    }

    /// The disk as it is found after the process was killed: all that was written is there, what was
    /// not synced still is not.
    pub fn snapshot(&self) -> FaultyDisk {
        let state = self.state();
        FaultyDisk::of(State {
            seed: state.seed,
            inodes: state.inodes.clone(),
            last_inode: state.last_inode,
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            unsynced_names: state.unsynced_names.clone(),
            dirs: state.dirs.clone(),
            capacity: state.capacity,
            ..State::default()
        })
    }

    fn found(
        state: &State,
        names: BTreeMap<PathBuf, u64>,
        found: BTreeMap<u64, Content>,
        seed: u64,
    ) -> FaultyDisk {
        let inodes = names.values().map(|id| {
            let content = found.get(id).cloned().unwrap_or_default();
            let old = state.inodes.get(id).map(|i| i.blocks.clone()).unwrap_or_default();
            let blocks = if old.is_empty() { (0..content.len().div_ceil(BLOCK)).collect() } else { old };
            let bad = state.inodes.get(id).map(|i| i.bad.clone()).unwrap_or_default();
            let inode = Inode { durable: content.clone(), current: content, blocks, bad, ..Inode::default() };
            (*id, inode)
        });
        FaultyDisk::of(State {
            seed,
            inodes: inodes.collect(),
            last_inode: state.last_inode,
            durable_names: names.clone(),
            names,
            dirs: state.dirs.clone(),
            capacity: state.capacity,
            ..State::default()
        })
    }

    /// Lets the `n`th operation of a kind from now on (0 is the next) fail, once.
    pub fn fail(&self, kind: Kind, n: u64, fault: Fault) {
        self.state().faults.push((kind, n, fault));
    }

    /// Lets every read of a file that touches these bytes fail with EIO, here and on the disks found after a crash, under
    /// whichever name. Nothing where there is no such file.
    pub fn bad_sector(&self, path: &Path, bytes: Range<u64>) {
        let mut state = self.state();
        if let Some(id) = state.names.get(path).copied()
            && let Ok(inode) = state.inode(id)
        {
            inode.bad.push(bytes);
        }
    }

    /// Takes back all faults that have not struck yet.
    pub fn disarm(&self) {
        self.state().faults.clear();
    }

    /// As [`FaultyDisk::disarm`]; and a disk that was filled has room again, and what could not be read can be.
    pub fn heal(&self) {
        self.disarm();
        let mut state = self.state();
        state.full = false;
        state.inodes.values_mut().for_each(|inode| inode.bad.clear());
    }

    /// What the last fault has struck, when one has.
    pub fn struck(&self) -> Option<Kind> {
        self.state().struck
    }

    /// Whether its power has failed.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Lets another seed decide from here on.
    pub fn reseed(&self, seed: u64) {
        self.state().seed = seed;
    }

    /// How often what was done so far.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// The room on the disk, bytes; counted in blocks of 4 KiB.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// Lets each sync take this long.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.state().sync_delay = delay;
    }

    /// Lets syncs block, before they do anything, until [`FaultyDisk::release_syncs`].
    pub fn hold_syncs(&self) {
        self.state().syncs_held = true;
    }

    /// Lets syncs go on.
    pub fn release_syncs(&self) {
        self.state().syncs_held = false;
        self.shared.changed.notify_all();
    }

    /// Waits until `count` syncs are blocked.
    pub fn wait_for_held_syncs(&self, count: usize) {
        let mut state = self.state();
        while state.syncs_waiting < count {
            self.shared.changed.wait(&mut state);
        }
    }

    /// What was done, one operation a line; the newest some thousands. To be printed with a failing seed.
    pub fn log(&self) -> String {
        self.state().log.join("\n")
    }
}

impl Shared {
    /// Begins a sync: waits where it is held or delayed.
    fn sync_begins(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        if state.syncs_held {
            state.syncs_waiting += 1;
            self.changed.notify_all();
            while state.syncs_held {
                self.changed.wait(&mut state);
            }
            state.syncs_waiting -= 1;
        }
        let delay = state.sync_delay;
        if !delay.is_zero() {
            MutexGuard::unlocked(&mut state, || std::thread::sleep(delay));
        }
        state
    }
}

impl Io for FaultyDisk {
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn File>> {
        let mut state = self.state();
        let mut answer = Ok(());
        let inode = match state.names.get(path).copied() {
            Some(id) => {
                state.look(format_args!("open {}", path.display()))?;
                id
            }
            None if create && path.parent().is_some_and(|dir| state.dirs.contains(dir)) => {
                answer = state.begin_whole(Kind::Any, format_args!("create {}", path.display()))?;
                state.last_inode += 1;
                let id = state.last_inode;
                state.inodes.insert(id, Inode::default());
                state.names.insert(path.to_owned(), id);
                state.unsynced_names.push(Entry::Create(path.to_owned(), id));
                id
            }
            None => return Err(ErrorKind::NotFound.into()),
        };
        answer?;
        Ok(Arc::new(FaultyFile { disk: self.shared.clone(), inode, path: path.to_owned() }))
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let mut state = self.state();
        if !state.dirs.contains(path) {
            let answer = state.begin_whole(Kind::Any, format_args!("mkdir {}", path.display()))?;
            state.dirs.extend(path.ancestors().map(Path::to_owned));
            answer?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let mut state = self.state();
        if !state.dirs.contains(dir) {
            return Err(ErrorKind::NotFound.into());
        }
        state.look(format_args!("list {}", dir.display()))?;
        let inside = |path: &&PathBuf| path.parent() == Some(dir);
        Ok(state.names.keys().filter(inside).chain(state.dirs.iter().filter(inside)).cloned().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut state = self.state();
        let Some(&id) = state.names.get(from) else { return Err(ErrorKind::NotFound.into()) };
        if !to.parent().is_some_and(|dir| state.dirs.contains(dir)) {
            return Err(ErrorKind::NotFound.into());
        }
        let answer =
            state.begin_whole(Kind::Any, format_args!("rename {} {}", from.display(), to.display()))?;
        let entry = Entry::Rename(id, from.to_owned(), to.to_owned());
        entry.apply(&mut state.names);
        state.unsynced_names.push(entry);
        state.drop_unnamed(id);
        answer
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let mut state = self.state();
        let Some(&id) = state.names.get(path) else { return Err(ErrorKind::NotFound.into()) };
        let answer = state.begin_whole(Kind::Any, format_args!("remove {}", path.display()))?;
        state.names.remove(path);
        state.unsynced_names.push(Entry::Remove(path.to_owned(), id));
        state.drop_unnamed(0);
        answer
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let mut state = self.shared.sync_begins();
        state.begin_whole(Kind::Sync, format_args!("sync_dir {}", dir.display()))??;
        let (synced, left) =
            std::mem::take(&mut state.unsynced_names).into_iter().partition::<Vec<_>, _>(|e| e.touches(dir));
        synced.iter().for_each(|entry| entry.apply(&mut state.durable_names));
        state.unsynced_names = left;
        Ok(())
    }

    fn room(&self, _path: &Path) -> Result<Room> {
        let state = self.state();
        let available = if state.full { 0 } else { state.capacity.saturating_sub(state.used()) };
        Ok(Room { total: state.capacity, available, files: u64::from(u32::MAX) })
    }

    /// Always free: after a crash, the one that had it is gone.
    fn lock(&self, _path: &Path) -> Result<Option<Lock>> {
        Ok(Some(Box::new(())))
    }

    fn new_id(&self) -> u64 {
        next_random(&mut self.state().seed)
    }
}

impl FaultyFile {
    fn named(&self) -> std::path::Display<'_> {
        self.path.display()
    }
}

impl File for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut state = self.disk.state.lock();
        state.look(format_args!("read {} {offset}+{}", self.named(), buf.len()))?;
        let inode = state.inode(self.inode)?;
        let end = offset.saturating_add(buf.len() as u64);
        if inode.bad.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(Error::from_raw_os_error(libc::EIO));
        }
        Ok(inode.current.read(buf, offset))
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut state = self.disk.state.lock();
        let what = format_args!("write {} {offset}+{}", self.named(), buf.len());
        let (bytes, failure) = match state.begin(Kind::Write, what) {
            Some(Fault::Errno(errno)) => return Err(Error::from_raw_os_error(errno)),
            Some(Fault::Short(errno)) => (buf.get(..buf.len() / 2).unwrap_or_default(), Some(errno)),
            Some(Fault::Late(errno)) => (buf, Some(errno)),
            Some(Fault::Die) => (buf, Some(libc::EIO)),
            Some(Fault::Full) | None => (buf, None),
        };
        if !bytes.is_empty() {
            state.take_room(self.inode, offset, bytes.len() as u64)?;
            state.change(self.inode, Change::Write(offset, bytes.into()))?;
        }
        failure.map_or(Ok(()), |errno| Err(Error::from_raw_os_error(errno)))
    }

    fn len(&self) -> Result<u64> {
        let mut state = self.disk.state.lock();
        state.look(format_args!("length of {}", self.named()))?;
        Ok(state.inode(self.inode)?.current.len())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut state = self.disk.state.lock();
        let answer = state.begin_whole(Kind::Any, format_args!("set_len {} {len}", self.named()))?;
        state.inode(self.inode)?.blocks.split_off(&len.div_ceil(BLOCK));
        state.change(self.inode, Change::SetLen(len))?;
        answer
    }

    fn allocated(&self) -> Result<u64> {
        let mut state = self.disk.state.lock();
        state.look(format_args!("room of {}", self.named()))?;
        Ok(state.inode(self.inode)?.blocks.len() as u64 * BLOCK)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        let mut state = self.disk.state.lock();
        let answer =
            state.begin_whole(Kind::Allocate, format_args!("allocate {} {offset}+{len}", self.named()))?;
        state.take_room(self.inode, offset, len)?;
        state.change(self.inode, Change::Extend(offset + len))?;
        answer
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let mut state = self.disk.state.lock();
        let answer = state.begin_whole(Kind::Any, format_args!("punch {} {offset}+{len}", self.named()))?;
        let whole = offset.div_ceil(BLOCK)..offset.saturating_add(len) / BLOCK;
        state.inode(self.inode)?.blocks.retain(|b| !whole.contains(b));
        state.change(self.inode, Change::Punch(offset, len))?;
        answer
    }

    fn sync(&self) -> Result<()> {
        let covered = {
            let mut state = self.disk.state.lock();
            let inode = state.inode(self.inode)?;
            inode.synced + inode.unsynced.len() as u64
        };
        let mut state = self.disk.sync_begins();
        let failed = state.begin_whole(Kind::Sync, format_args!("sync {}", self.named())).flatten();
        let mut seed = state.seed;
        let inode = state.inode(self.inode)?;
        // Another sync may have been faster.
        let count = covered.saturating_sub(inode.synced) as usize;
        if failed.is_err() {
            inode.unsynced.iter_mut().take(count).for_each(|(_, lost)| *lost = true);
            return failed;
        }
        inode.synced += count as u64;
        for (change, lost) in inode.unsynced.drain(..count).collect::<Vec<_>>() {
            if !lost || next_random(&mut seed).is_multiple_of(2) {
                apply(&change, &mut inode.durable);
            }
        }
        state.seed = seed;
        Ok(())
    }

    fn will_need(&self, _offset: u64, _len: u64) {}

    /// What a failed sync should have stored, and a later one did not, is forgotten.
    fn drop_cached(&self) {
        let mut state = self.disk.state.lock();
        if let Ok(inode) = state.inode(self.inode) {
            let mut current = inode.durable.clone();
            inode.unsynced.iter().for_each(|(change, _)| apply(change, &mut current));
            inode.current = current;
        }
    }
}
