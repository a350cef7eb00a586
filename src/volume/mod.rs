//! The tree: inodes, directories, links, attributes and content, on top of catalog, pages and cache.
//! It knows no transport: the kernel's requests, the library and the socket all call the same operations.
//!
//! **Waiting.** An operation works on what is in memory. Where it would have to wait for the disk it
//! changes nothing and returns [`Pause::Wait`] with what it needs; whoever may wait calls
//! [`Volume::satisfy`] and then the operation again, which [`Volume::run`] does in a loop.
//!
//! **Locks**, in the order in which they are taken:
//!
//! 0. `evicting`: one thread at a time evicts. Held over I/O, before any of the following.
//!    `sweeping`: one thread at a time works off expiries. Held over I/O, by threads that may wait.
//!    `reclaiming`, `compacting`: likewise. Never two of the three.
//!    `clearing`: one thread at a time commits and gives room back. Likewise; behind `compacting`.
//!    `saving`: one thread at a time backs the catalog up. Held over I/O; none of the others is taken under it.
//!    `limits.changing`: one thread at a time changes limits. Likewise.
//!    `counting`: one thread at a time counts what is used of the limits of directories. Likewise.
//! 1. `owners`: one thread at a time changes how many own a frame. Held over I/O, by threads that may wait.
//! 2. `storing`: shared from a frame's append, or from when its inode got its number, to its batch; exclusive to find dead
//!    segments, and numbers that no inode has.
//! 3. `tree`: what is in memory of the tree, and the order of batches. Never held over disk I/O; the
//!    journal's write(2), into the system's page cache, and what makes room for it are the system calls under it.
//! 4. the cache's, the engine's and the segments' own locks. None of these rooms calls back.
//!
//! `house`, `read_only`, `listener`, `threads`, `lock`, `uses`, `pins` and `uncompactable` are leaves.

mod acl;
mod attr;
mod backup;
mod chores;
mod compact;
mod draft;
mod entries;
mod evict;
mod file;
mod framed;
#[cfg(feature = "testing")]
pub(crate) mod fuzz {
    //! What reads attributes.
    pub(crate) use super::{acl::Acl, marks::Mark};
}
mod get;
mod janitor;
mod limits;
mod listed;
mod load;
mod marks;
mod moment;
mod names;
mod open;
mod put;
mod quota;
mod readahead;
mod refs;
mod scrub;
mod share;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod writeback;
mod xattr;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::cache::Cache;
use crate::catalog::Engine;
use crate::clock::{Clock, Time};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::format::{Ino, Links, NAME_MAX, ROOT, SegmentId};
use crate::io::{Io, Lock};
use crate::pages::Segments;
use crate::shelf::uses::Uses;

pub use chores::{Chores, Cleaned};
pub use evict::Aligned;
use evict::Evictor;
pub use get::Got;
use limits::Limits;
pub use moment::Moment;
pub use put::{BATCH_MAX, Change, Expiry, NewFile, To, check_path};
use readahead::Readahead;
pub use scrub::{Hurt, Place, Scrubbed};
use tree::Tree;
pub use types::*;

/// Room that is reserved ahead on the disk, so that not every write has to ask for it.
const DISK_AHEAD: u64 = 32 << 20;

/// The most bytes of replaced content that wait for the next commit: a file that is overwritten again and
/// again would take the disk's bandwidth times the commit interval otherwise, gigabytes.
const DEAD_MAX: u64 = 64 << 20;

/// The part of a store's limit that the catalog may grow by before segments are bounded anew. Two files of the journal
/// (2 MiB each) for 128 MiB: a build cache of small files, at full speed, made it 3.3 MiB in 5 s.
const CATALOG_GROWTH: u64 = 32;

/// That part at least: a checkpoint of a small store's table grows the index at once. With values of 8 KiB and a limit of 106 MiB
/// the catalog grew by up to 5.8 MiB, on a busy machine.
const LEAST_GROWTH: u64 = 8 << 20;

/// How often a thread that waits for work looks whether the store is being closed.
const IDLE: Duration = Duration::from_millis(250);

/// Hears of changes that a cache above the volume has not seen.
type Listener = Arc<dyn Fn(Event) + Send + Sync>;

/// An open store.
pub struct Volume {
    /// As it was opened.
    settings: Settings,
    limits: Limits,
    io: Arc<dyn Io>,
    clock: Clock,
    tree: Mutex<Tree>,
    cache: Cache,
    engine: Arc<dyn Engine>,
    segments: Arc<dyn Segments>,
    /// Held by the thread that evicts.
    evicting: Mutex<Evictor>,
    owners: Mutex<()>,
    storing: RwLock<()>,
    /// Held by the thread that sweeps what has expired.
    sweeping: Mutex<()>,
    /// Held by the thread that reclaims what is unlinked.
    reclaiming: Mutex<()>,
    /// Held by the thread that compacts.
    compacting: Mutex<()>,
    /// Held by the thread that commits, and gives room back to the disk.
    clearing: Mutex<()>,
    /// Held by the thread that backs the catalog up.
    saving: Mutex<()>,
    /// Held by the thread that counts what directories have used of their limits.
    counting: Mutex<()>,
    /// Bytes of the backups in the store.
    backup_bytes: AtomicU64,
    /// What is held for a copy of the store.
    pins: Mutex<moment::Pins>,
    /// Segments that could not be emptied, and how many bytes were alive in them then.
    uncompactable: Mutex<HashMap<SegmentId, u64>>,
    /// The last frame's number.
    frames: AtomicU64,
    /// Bytes of content on their way into frames that are not in the cache.
    framing: AtomicU64,
    readahead: Readahead,
    /// Uses of keys that are not in the catalog yet.
    uses: Mutex<Uses>,
    /// Whether the catalog has, or gets, records of use.
    uses_kept: AtomicBool,
    /// Told, with the tree, when nothing is awaited any longer.
    forgotten: Condvar,
    house: House,
    read_only: ReadOnly,
    listener: Mutex<Option<Listener>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<Lock>>,
}

/// What the background threads wait for.
#[derive(Debug, Default)]
struct House {
    stopping: AtomicBool,
    /// When the next key expires, nanoseconds as in [`Time`].
    next_expiry: AtomicI64,
    gate: Mutex<()>,
    /// Wakes the sweeper and the committer.
    bell: Condvar,
}

impl House {
    fn wake(&self) {
        let _gate = self.gate.lock();
        self.bell.notify_all();
    }
}

/// Why nothing can be written any longer.
#[derive(Debug, Default)]
struct ReadOnly {
    is: AtomicBool,
    why: Mutex<Option<String>>,
}

impl Volume {
    /// Runs an operation to its end, waiting where it must.
    pub fn run<T>(&self, mut operation: impl FnMut(&Volume) -> Step<T>) -> Result<T> {
        loop {
            match operation(self) {
                Ok(value) => return Ok(value),
                Err(Pause::Fail(error)) => return Err(error),
                Err(Pause::Wait(need)) => self.satisfy(need)?,
            }
        }
    }

    /// Where the volume tells of changes that a cache above it has not seen. Called from background
    /// threads and never under a lock.
    pub fn on_event(&self, listener: Box<dyn Fn(Event) + Send + Sync>) {
        *self.listener.lock() = Some(listener.into());
    }

    fn tell(&self, event: Event) {
        let listener = self.listener.lock().clone();
        if let Some(listener) = listener {
            listener(event);
        }
    }

    /// Refuses a change of a store that is read-only; asks for room in the catalog where there is none. Makes room in memory for
    /// what the change makes. Ahead of the tree's lock.
    fn ready(&self) -> Step<()> {
        self.check_writable()?;
        self.tree.lock().make_room();
        if self.engine.has_room() { Ok(()) } else { Err(Pause::Wait(Need::Catalog)) }
    }

    /// As [`Volume::ready`], for a change that adds something: refused while the disk is full.
    fn ready_to_add(&self) -> Step<()> {
        self.ready()?;
        if self.engine.is_short() { Err(Error::NoSpace.into()) } else { Ok(()) }
    }

    fn check_writable(&self) -> Result<()> {
        match self.read_only() {
            None => Ok(()),
            Some(why) => Err(Error::ReadOnly(why)),
        }
    }

    /// Why the store is read-only, when it is.
    pub fn read_only(&self) -> Option<String> {
        if self.read_only.is.load(Ordering::Acquire) { self.read_only.why.lock().clone() } else { None }
    }

    /// After a failed flush nothing may be promised any longer: the store turns read-only.
    fn note_failure(&self, error: &Error) {
        match error {
            Error::ReadOnly(why) => self.turn_read_only(why),
            Error::Io { .. } => {
                self.turn_read_only(&format!("{error}; unmount, look at the disk, and mount again"));
            }
            _ => {}
        }
    }

    fn turn_read_only(&self, why: &str) {
        let mut there = self.read_only.why.lock();
        if there.is_none() {
            log::error!("{}: read-only from now on: {why}", self.settings.storage_path.display());
            *there = Some(why.to_owned());
            self.read_only.is.store(true, Ordering::Release);
            // Nothing will be flushed any longer: who waits for that must learn why.
            self.cache.give_up_waiting();
        }
    }

    /// Refuses content for which there is no room on the disk; asks for it where none is reserved yet.
    fn check_disk(&self, len: u64) -> Step<()> {
        let dirty = self.cache.dirty_bytes() + self.framing.load(Ordering::Relaxed);
        // A page that does not compress takes a header more than its content.
        let need = dirty + len + (dirty + len) / 64 + (64 << 10);
        if self.segments.reserved() >= need { Ok(()) } else { Err(Pause::Wait(Need::Disk(need))) }
    }

    /// Reserves room on the disk, so that at least `bytes` are reserved in all; or has made a new attempt worth while.
    fn reserve(&self, bytes: u64) -> Result<()> {
        let missing = |all: u64| match all.saturating_sub(self.segments.reserved()) {
            0 => Ok(()),
            more => self.segments.reserve(more),
        };
        let dir = &self.settings.storage_path;
        let disk = self.io.room(dir).map_err(Error::io(format!("{}: statfs", dir.display())))?.total;
        if bytes > self.limits.storage().unwrap_or(u64::MAX).min(disk) {
            // Nothing that could go would make so much room.
            return Err(Error::NoSpace);
        }
        let has_room = || match missing(bytes) {
            Ok(()) => Ok(true),
            Err(Error::NoSpace) => Ok(false),
            Err(error) => Err(error),
        };
        // No key goes for want of room that only waits for a copy.
        let clearing: [&dyn Fn() -> Result<()>; 4] = [
            &|| self.clear_out(),
            &|| self.compact(),
            &|| if self.give_up_copy() { self.commit_now().and_then(|()| self.compact()) } else { Ok(()) },
            &|| self.evict_for(bytes, has_room),
        ];
        self.bound_segments();
        let ahead = if self.leaves_no_margin(bytes + DISK_AHEAD) { 0 } else { DISK_AHEAD };
        let mut had = missing(bytes + ahead).or_else(|_| missing(bytes));
        for clear in clearing {
            if matches!(had, Err(Error::NoSpace)) {
                match clear() {
                    // What would make room may need some itself; the next way may not.
                    Ok(()) | Err(Error::NoSpace) => {}
                    Err(error) => return Err(error),
                }
                had = missing(bytes);
            }
        }
        if matches!(had, Err(Error::NoSpace)) && self.evicts() && self.cache.dirty_bytes() > 0 {
            // What has just been written can go once it is stored. Then nothing is reserved for it any longer: less is asked for.
            return self.store_everything();
        }
        self.urge_eviction();
        had
    }

    /// Leaves the segments what the store may take on the disk and the catalog does not, nor what it grows by until
    /// this is called again: with each commit, and when room is reserved.
    fn bound_segments(&self) {
        // Whoever changes the limit does this at its end; the one that is read here might be gone by then.
        let Some(_changing) = self.limits.changing.try_lock() else { return };
        if let Some(limit) = self.limits.storage() {
            self.segments.set_limit(self.share_of_content(limit));
        }
    }

    /// Bytes of a limit that content gets.
    fn share_of_content(&self, limit: u64) -> u64 {
        limit.saturating_sub(self.catalog_share(limit))
    }

    /// Bytes of a limit that content does not get: what the catalog takes, and may grow by at any moment.
    fn catalog_share(&self, limit: u64) -> u64 {
        self.catalog_bytes() + (limit / CATALOG_GROWTH).max(LEAST_GROWTH)
    }

    /// Bytes on the disk of the catalog and its backups.
    fn catalog_bytes(&self) -> u64 {
        self.engine.stats().disk_bytes + self.backup_bytes.load(Ordering::Relaxed)
    }

    /// The most bytes that wait to be given back to the disk before the next commit is made early.
    fn dead_limit(&self) -> u64 {
        self.limits.storage().map_or(DEAD_MAX, |limit| DEAD_MAX.min(limit / 8))
    }

    /// The next frame's number. It is above those of all frames that batches up to now name, so that a frame can be told
    /// that is newer than a backup of the catalog.
    fn frame_number(&self) -> u64 {
        self.frames.fetch_max(self.engine.last_seq().first_frame(), Ordering::Relaxed);
        self.frames.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn stopping(&self) -> bool {
        self.house.stopping.load(Ordering::Acquire)
    }

    /// Waits, until `time` has passed or the store is being closed, or (the sweeper) an expiry has
    /// been set that is nearer.
    fn pause(&self, time: Duration) {
        let mut gate = self.house.gate.lock();
        if !self.stopping() {
            self.house.bell.wait_for(&mut gate, time);
        }
    }

    fn next_expiry(&self) -> i64 {
        self.house.next_expiry.load(Ordering::Acquire)
    }

    fn set_next_expiry(&self, at: i64) {
        self.house.next_expiry.store(at, Ordering::Release);
    }

    fn expiry_at_latest(&self, at: i64) {
        self.house.next_expiry.fetch_min(at, Ordering::AcqRel);
    }

    fn sweep_due(&self, now: Time) -> bool {
        self.next_expiry() <= now.0
    }

    /// An expiry has been set: the sweeper must not sleep beyond it.
    fn expiry_set(&self, at: Time) {
        if at.0 < self.next_expiry() {
            self.expiry_at_latest(at.0);
            self.house.wake();
        }
    }

    /// How a person would name an inode, as far as memory tells.
    fn name_of(&self, ino: Ino) -> String {
        let tree = self.tree.lock();
        let mut parts = Vec::new();
        let mut at = ino;
        while at != ROOT && parts.len() < 64 {
            match tree.peek(at).map(|inode| &inode.rec.links) {
                Some(Links::One { parent, name }) => {
                    parts.push(String::from_utf8_lossy(name).into_owned());
                    at = *parent;
                }
                _ => {
                    parts.push(format!("({at})"));
                    break;
                }
            }
        }
        parts.reverse();
        parts.join("/")
    }

    /// What statfs(2) shows of the store, or at an inode below a limit: that limit, the store's, or what the disk has. What is
    /// free can be written.
    pub fn statfs(&self, ino: Ino) -> Step<StatFs> {
        let dir = &self.settings.storage_path;
        let room = self.io.room(dir).map_err(Error::io(format!("{}: statfs", dir.display())))?;
        let (counters, dead, quota) = {
            let mut tree = self.tree.lock();
            (tree.counters, tree.dead, self.quota_at(&mut tree, ino)?)
        };
        // Who writes gets what is reserved, and has what is dead given back.
        let ahead = self.segments.reserved().saturating_sub(self.cache.dirty_bytes());
        let available = room.available + dead;
        let (total, free) = match self.limits.storage() {
            Some(limit) => {
                let used = (self.segments.allocated() + self.catalog_share(limit)).saturating_sub(dead);
                (limit, limit.saturating_sub(used).min(available) + ahead)
            }
            None => (room.total, available + ahead),
        };
        let (total, free) = match quota {
            Some((limit, left)) => (limit.min(total), left.min(free)),
            None => (total, free),
        };
        Ok(StatFs { total, free, files: counters.inodes, files_free: u64::from(u32::MAX) })
    }

    /// The time by the volume's clock.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// The settings that apply now.
    pub fn settings(&self) -> Settings {
        Settings {
            storage_size_limit: self.limits.storage(),
            cache_size_limit: self.limits.cache.load(Ordering::Relaxed),
            ..self.settings.clone()
        }
    }

    /// Figures for `status`.
    pub fn stats(&self) -> Result<Stats> {
        let (counters, metadata) = {
            let tree = self.tree.lock();
            (tree.counters, tree.weight() as u64)
        };
        let (cache, catalog) = (self.cache.stats(), self.engine.stats());
        Ok(Stats {
            inodes: counters.inodes,
            content_bytes: counters.content,
            stored_bytes: counters.stored,
            disk_bytes: self.segments.allocated() + self.catalog_bytes(),
            size_limit: self.limits.storage(),
            cache_used: cache.used + metadata + catalog.table_bytes,
            cache_dirty: cache.dirty,
            cache_limit: self.limits.cache.load(Ordering::Relaxed),
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            batches: catalog.batches,
            flushes: catalog.flushes,
            read_only: self.read_only(),
        })
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl From<Error> for Pause {
    fn from(error: Error) -> Pause {
        Pause::Fail(error)
    }
}

/// Refuses what cannot be the name of a new entry.
fn check_name(name: &[u8]) -> Result<()> {
    match name {
        b"" | b"." | b".." => Err(Error::Invalid("a name must not be empty, `.` or `..`".into())),
        _ if name.len() > NAME_MAX => Err(Error::NameTooLong),
        _ if name.contains(&b'/') || name.contains(&0) => {
            Err(Error::Invalid("a name must not contain `/` or NUL".into()))
        }
        _ => Ok(()),
    }
}

/// Whether a process is in a group beside its own, as Linux tells in /proc.
fn in_group(pid: u32, gid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().any(|group| group.parse() == Ok(gid))
}
