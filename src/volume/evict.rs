//! Eviction: when the store nears its limit, evictable keys go, in the order of `cache-eviction-policy`.
//!
//! **When.** In the background once more than [`Marks::high`] is taken, down to [`Marks::low`]; by a writer that
//! finds no room, before it is told so.
//!
//! **Which.** A sample of the catalog, never all of it: clusters of neighbouring inodes at places drawn so that each
//! key is as likely as any other (`shelf::places`). Those that may be evicted go into a pool, where the best of
//! earlier samples still are; of the pool the first go, no more of them than one for [`SAMPLED`] that were looked
//! at. A store so small that one sample holds all is in exact order. `docs/decisions/0008-eviction.md` has the
//! reasons, and what that costs in hits.
//!
//! **Never** a key that has unwritten content, is pinned, or is open. The kernel says nothing of opens (`mount`); but
//! when it is told to drop a name, it gives its reference back at once, unless the file is open, mapped or being
//! worked on. So whatever it refers to is asked for in this way first, and what it keeps counts as used just now.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;
use serde::{Deserialize, Serialize};

use super::Volume;
use super::draft::Draft;
use super::marks::Marks as Allowed;
use super::names::drop_name;
use super::tree::Tree;
use super::types::*;
use crate::clock::Time;
use crate::config::Policy;
use crate::error::{Error, Result};
use crate::format::{Ino, InodeRecord, Kind, Links, Name, UseRecord, decode, encode, keys};
use crate::shelf::eviction::{Candidate, Rank, hits_at, merge, rank};
use crate::shelf::places::Places;

/// How often the evictor looks how much is taken. Whoever reserves room wakes it before.
const TICK: Duration = Duration::from_millis(500);

/// How often uses are written to the catalog: kill -9 may take as much of them away.
const RECORD_USES: Duration = Duration::from_secs(60);

/// How long after finding nothing to evict it is tried again in the background.
const NOTHING: Duration = Duration::from_secs(1);

/// Uses written in one batch.
const USES_BATCH: usize = 1024;

/// How long it waits for content that is being stored.
const STORING: Duration = Duration::from_millis(100);

/// A store with no more inode numbers than this is looked at as a whole: by an estimate some 10 ms.
const WHOLE: u64 = 4096;

/// Neighbours that are looked at together: finding the first costs as much as some ten of them.
const CLUSTER: usize = 16;

/// Clusters of one sample.
const CLUSTERS: usize = 128;

/// A sample goes on until it has so many that may be evicted...
const ENOUGH: usize = 1024;

/// ...or has looked at so many, by an estimate some 100 ms: where few may be evicted, each sample finds some of them.
const MOST: usize = 32_768;

/// For so many that were looked at one is evicted: those that go are of the first 16th in the order.
const SAMPLED: usize = 16;

/// Candidates that are kept from sample to sample, some 100 bytes each.
const POOL: usize = 1024;

/// Candidates that are tried together: the kernel is asked for all of them at once.
const TOGETHER: usize = 64;

/// How long keys go before a writer that waits for room looks again. Each turn costs a flush of the disk: with turns of 512 keys of 1 KiB
/// a writer did little but flush.
const TURN: Duration = Duration::from_millis(250);

/// How long the kernel may take to give back what it does not need. It does at once; its answer waits behind the
/// requests that are under way.
const FORGETS: Duration = Duration::from_millis(200);

/// Names of a file beyond which it is not evicted.
const NAMES: usize = 64;

/// Samples without success after which nothing more can be evicted for now.
const FAILURES: usize = 3;

/// A segment that is being compacted to make room has at least this part of it dead: three bytes are moved for one
/// that is gained. With an eighth, seven are: a run of `benches/hits.rs` had then written 9.1 GB, journal and all, for at most
/// 0.7 GB of values when it was ended. With a quarter the bytes have not been counted.
const DEAD_PART: u64 = 4;

/// The part of a limit that is kept free by eviction, at least [`LEAST_MARGIN`], at most [`MOST_MARGIN`].
const MARGIN_PART: u64 = 16;
/// The room that a writer reserves at a time, half of it. Of a small limit no more than the part below.
const LEAST_MARGIN: u64 = 16 << 20;
/// With twice that free, three quarters of a small limit are still filled.
const LARGEST_PART: u64 = 8;
/// What the fastest disk takes in some seconds.
const MOST_MARGIN: u64 = 4 << 30;

/// Between which uses of the disk eviction works, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    /// It begins when more than this is taken...
    pub high: u64,
    /// ...and ends when no more than this is.
    pub low: u64,
}

impl Marks {
    pub fn of(limit: u64) -> Marks {
        let margin = margin(limit);
        Marks { high: limit - margin, low: limit - 2 * margin }
    }
}

/// Bytes of a limit that are kept free.
fn margin(limit: u64) -> u64 {
    (limit / MARGIN_PART).clamp(LEAST_MARGIN.min(limit / LARGEST_PART), MOST_MARGIN)
}

/// What [`Volume::align`] has done, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aligned {
    /// Keys that were evicted, or would be first.
    pub evicted: u64,
    /// Bytes that these took on the disk.
    pub evicted_bytes: u64,
    /// Bytes that the store takes on the disk now.
    pub used: u64,
    /// What it was to take at most; nothing where it has no limit.
    pub goal: Option<u64>,
}

impl Aligned {
    /// Bytes that it takes beyond the goal.
    pub fn excess(&self) -> u64 {
        self.goal.map_or(0, |goal| self.used.saturating_sub(goal))
    }
}

/// What is kept from one eviction to the next.
#[derive(Debug)]
pub(super) struct Evictor {
    places: Places,
    pool: BTreeMap<(Rank, Ino), Candidate>,
    /// Where to go on looking one by one, when samples find nothing.
    hand: u64,
}

impl Evictor {
    pub fn new(seed: u64) -> Evictor {
        Evictor { places: Places::new(seed), pool: BTreeMap::new(), hand: 0 }
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Sampled {
    allowed: usize,
    whole: bool,
}

impl Volume {
    /// Whether keys are evicted, so that their use matters.
    pub(super) fn evicts(&self) -> bool {
        self.settings.cache_eviction_policy != Policy::None
    }

    /// Notes that a key is used.
    pub(super) fn note_use(&self, ino: Ino, now: Time) {
        if self.evicts() && self.uses.lock().note(ino, now) {
            self.house.wake();
        }
    }

    /// The life of the evictor.
    pub(super) fn evict_in_background(&self) {
        let mut recorded = Instant::now();
        let mut nothing: Option<Instant> = None;
        while !self.stopping() {
            self.pause(TICK);
            if self.read_only().is_some() {
                continue;
            }
            if recorded.elapsed() >= RECORD_USES || self.uses.lock().is_many() {
                recorded = Instant::now();
                self.warn_of(self.record_uses());
            }
            if !self.is_nearly_full() || nothing.is_some_and(|since| since.elapsed() < NOTHING) {
                continue;
            }
            // The last one goes only for a writer who finds no room: it may take more than the low mark by itself.
            let done = self.evict_down(1);
            nothing = done.as_ref().ok().filter(|done| done.evicted == 0).map(|_| Instant::now());
            self.warn_of(done);
        }
        self.warn_of(self.record_uses());
    }

    /// Whether eviction is to begin.
    fn is_nearly_full(&self) -> bool {
        self.evicts() && self.marks().is_some_and(|marks| self.used() > marks.high)
    }

    /// Whether so many bytes more would take what is kept free where keys are evicted: compaction moves frames there.
    pub(super) fn leaves_no_margin(&self, bytes: u64) -> bool {
        self.evicts() && self.marks().is_some_and(|marks| self.used() + bytes > marks.high)
    }

    /// Wakes the evictor, when there is something to do for it.
    pub(super) fn urge_eviction(&self) {
        if self.is_nearly_full() {
            self.house.wake();
        }
    }

    fn warn_of<T>(&self, outcome: Result<T>) {
        if let Err(error) = outcome
            && !self.stopping()
        {
            log::warn!("eviction: {error}");
            self.pause(NOTHING);
        }
    }

    fn marks(&self) -> Option<Marks> {
        self.limits.storage().map(Marks::of)
    }

    /// Bytes that the store takes on the disk, without the room that is reserved for content to come and with the
    /// content that is on its way. What is dead and waits for a copy counts as gone.
    fn used(&self) -> u64 {
        let free = self.segments.reserved() + self.held_back();
        let taken = self.segments.allocated() + self.catalog_bytes() + self.cache.dirty_bytes();
        taken.saturating_sub(free)
    }

    /// Evicts to the limit now, or says what would go. Waits. What has expired or is unlinked goes first.
    pub fn align(&self, dry_run: bool) -> Result<Aligned> {
        self.check_writable()?;
        if dry_run {
            return self.would_evict();
        }
        self.set_next_expiry(i64::MIN);
        self.sweep()?;
        self.sync()?;
        self.evict_down(0)
    }

    fn would_evict(&self) -> Result<Aligned> {
        let mut evictor = self.evicting.lock();
        let goal = self.marks().map(|marks| marks.low);
        let mut aligned = Aligned { used: self.used(), goal, ..Aligned::default() };
        let excess = aligned.excess();
        if excess > 0 && self.evicts() {
            self.sample(&mut evictor)?;
            for candidate in evictor.pool.values() {
                if aligned.evicted_bytes >= excess {
                    break;
                }
                aligned.evicted += 1;
                aligned.evicted_bytes += candidate.stored;
            }
        }
        Ok(aligned)
    }

    /// Evicts until no more than the low mark is taken, or nothing more can go, or only so many are left that may. A turn at a
    /// time: writers that find no room wait for one, not for all.
    pub(super) fn evict_down(&self, keep: usize) -> Result<Aligned> {
        let mut aligned = Aligned::default();
        loop {
            let mut evictor = self.evicting.lock();
            aligned.goal = self.marks().map(|marks| marks.low);
            // What is dead already goes first.
            self.clear_out()?;
            aligned.used = self.used();
            while aligned.excess() > 0 && self.compact_for_room()? {
                aligned.used = self.used();
            }
            let excess = aligned.excess();
            if excess == 0 || !self.evicts() || self.stopping() {
                return Ok(aligned);
            }
            let (evicted, bytes) = self.evict_turn(&mut evictor, excess, keep)?;
            aligned.evicted += evicted;
            aligned.evicted_bytes += bytes;
            if evicted == 0 {
                return Ok(aligned);
            }
            MutexGuard::unlock_fair(evictor);
        }
    }

    /// Makes room for a writer that finds none, the last thing before it is told so. `has_room` tries whether it finds some now.
    pub(super) fn evict_for(&self, bytes: u64, has_room: impl Fn() -> Result<bool>) -> Result<()> {
        if !self.evicts() {
            return Ok(());
        }
        let mut evictor = self.evicting.lock();
        loop {
            // What another has evicted meanwhile makes room once it is given back.
            self.clear_out()?;
            if has_room()? {
                return Ok(());
            }
            if self.compact_for_room()? {
                continue;
            }
            if self.evict_turn(&mut evictor, self.lacking(bytes), 0)?.0 == 0 {
                return Ok(());
            }
        }
    }

    /// Bytes that are to go where so many cannot be reserved: what is missing, and some for those who come next.
    fn lacking(&self, bytes: u64) -> u64 {
        let more = bytes.saturating_sub(self.segments.reserved());
        let Some(limit) = self.limits.storage() else { return more + LEAST_MARGIN };
        let beyond = (self.segments.allocated() + more + self.catalog_share(limit)).saturating_sub(limit);
        // Where the limit is not what is in the way, the disk is.
        if beyond > 0 { beyond + margin(limit) } else { more + margin(limit) }
    }

    /// Compacts what gives back the most; also a segment that is appended to, when it is mostly that one. False when
    /// there is none.
    fn compact_for_room(&self) -> Result<bool> {
        let reserved = self.segments.reserved();
        let open: Vec<_> = self.segments.list()?.into_iter().filter(|segment| segment.open).collect();
        for segment in open {
            let live = self.tree.lock().live.get(&segment.id).copied().unwrap_or(0);
            let taken = segment.used.min(segment.allocated.saturating_sub(reserved));
            let dead = taken.saturating_sub(live);
            if dead * 2 >= segment.allocated {
                match self.segments.close(segment.id) {
                    // It stays open where its reserve finds no other place.
                    Ok(()) | Err(Error::NoSpace) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        match self.compact_worst(DEAD_PART) {
            // There is no room to move anything to.
            Err(Error::NoSpace) => Ok(false),
            done => done,
        }
    }

    /// Evicts keys that take at least so many bytes on the disk, as far as there are more than `keep`, or as many as go in [`TURN`].
    /// Returns how many went, and their bytes: room that [`Volume::clear_out`] gives back.
    pub(super) fn evict_turn(&self, evictor: &mut Evictor, wanted: u64, keep: usize) -> Result<(u64, u64)> {
        let begun = Instant::now();
        let (mut evicted, mut bytes, mut failures) = (0, 0, 0);
        while bytes < wanted && begun.elapsed() < TURN && failures < FAILURES && !self.stopping() {
            let sampled = self.sample(evictor)?;
            if evictor.pool.is_empty() {
                self.look_on(evictor)?;
            }
            let mut left = if sampled.whole { POOL } else { (sampled.allowed / SAMPLED).max(1) };
            let before = evicted;
            // Of a store that is seen as a whole the pool has all that may go.
            let keep = if sampled.whole { keep } else { 0 };
            while bytes < wanted && left > 0 && evictor.pool.len() > keep {
                let mut chosen = Vec::new();
                let mut sum = bytes;
                while chosen.len() < TOGETHER.min(left) && sum < wanted && evictor.pool.len() > keep {
                    let Some((_, candidate)) = evictor.pool.pop_first() else { break };
                    sum += candidate.stored;
                    chosen.push(candidate);
                }
                left -= chosen.len();
                let (gone, heard) = self.evict_those(chosen)?;
                evicted += gone.len() as u64;
                bytes += gone.iter().sum::<u64>();
                if !heard {
                    // It has been waited for long enough, and has more of them in its hands.
                    return Ok((evicted, bytes));
                }
            }
            failures = if evicted == before { failures + 1 } else { 0 };
        }
        if evicted > 0 {
            log::debug!("evicted {evicted} keys with {bytes} bytes");
        }
        Ok((evicted, bytes))
    }

    /// Fills the pool from a sample of the catalog.
    fn sample(&self, evictor: &mut Evictor) -> Result<Sampled> {
        let end = self.end_of_numbers();
        let mut sampled = Sampled { whole: evictor.places.left(end) <= WHOLE, ..Sampled::default() };
        let mut known = HashMap::new();
        if sampled.whole {
            evictor.pool.clear();
            let mut from = 0;
            while from < end {
                let (next, found) = self.look(evictor, from, end, WHOLE as usize)?;
                from = next;
                sampled.allowed += self.enrol(evictor, found, &mut known)?;
            }
            return Ok(sampled);
        }
        let mut looked = 0;
        while sampled.allowed < ENOUGH && looked < MOST {
            let mut found = Vec::new();
            for _ in 0..CLUSTERS {
                let Some(from) = evictor.places.draw(end) else { break };
                found.extend(self.look(evictor, from, end, CLUSTER)?.1);
            }
            looked += CLUSTER * CLUSTERS;
            sampled.allowed += self.enrol(evictor, found, &mut known)?;
        }
        Ok(sampled)
    }

    /// Behind the last number: those below that no inode has get none any longer.
    fn end_of_numbers(&self) -> u64 {
        // Then none is given away whose batch is on its way. A slow codec is not waited for: a key that is passed over for that goes
        // when nothing else is left.
        let _storing = self.storing.try_write_for(STORING);
        self.tree.lock().counters.last_ino + 1
    }

    /// Fills the pool from where this stopped the last time: what samples do not find is found in the end.
    fn look_on(&self, evictor: &mut Evictor) -> Result<()> {
        let end = self.end_of_numbers();
        let from = if evictor.hand < end { evictor.hand } else { 0 };
        let (next, found) = self.look(evictor, from, end, MOST)?;
        evictor.hand = next;
        self.enrol(evictor, found, &mut HashMap::new()).map(drop)
    }

    /// The files with content among the next `most` inodes from a number on, and the number behind the last one.
    fn look(
        &self,
        evictor: &mut Evictor,
        from: u64,
        end: u64,
        most: usize,
    ) -> Result<(u64, Vec<(Ino, InodeRecord)>)> {
        let mut found = Vec::new();
        let (mut next, mut looked) = (from, 0);
        let mut voids = Vec::new();
        self.engine.scan(keys::range(keys::inode(Ino(from)), keys::inode(Ino(end))), &mut |key, value| {
            let Some(ino) = keys::ino_of(key) else { return true };
            voids.push((next, ino.0));
            next = ino.0 + 1;
            looked += 1;
            // What cannot be read is told by whoever needs it.
            if let Ok(rec) = decode::<InodeRecord>(value, "inode record")
                && rec.kind() == Kind::File
                && rec.nlink > 0
                && rec.stored > 0
            {
                found.push((ino, rec));
            }
            looked < most
        })?;
        if looked < most {
            voids.push((next, end));
            next = end;
        }
        voids.into_iter().for_each(|(from, to)| evictor.places.void(from, to));
        Ok((next, found))
    }

    /// Puts those into the pool that may be evicted, and returns how many they are. `known`: what holds in directories.
    fn enrol(
        &self,
        evictor: &mut Evictor,
        found: Vec<(Ino, InodeRecord)>,
        known: &mut HashMap<Ino, Allowed>,
    ) -> Result<usize> {
        let now = self.tree.lock().now(&self.clock);
        let mut allowed = 0;
        for (ino, rec) in found {
            if rec.expires.is_some_and(|at| at <= now) {
                continue;
            }
            match self.is_allowed(ino, &rec, known) {
                Ok(true) => {}
                // Gone meanwhile, or on its way.
                Ok(false) | Err(Error::Stale | Error::NotFound) => continue,
                Err(error) => return Err(error),
            }
            allowed += 1;
            let candidate = Candidate {
                ino,
                used: self.use_of(ino, rec.ctime)?,
                changed: rec.ctime,
                expires: rec.expires,
                stored: rec.stored,
            };
            evictor.pool.insert((rank(self.settings.cache_eviction_policy, &candidate, now), ino), candidate);
            if evictor.pool.len() > POOL {
                evictor.pool.pop_last();
            }
        }
        Ok(allowed)
    }

    /// When a key was last used or changed.
    fn use_of(&self, ino: Ino, changed: Time) -> Result<UseRecord> {
        let written = self.engine.get(&keys::usage(ino))?;
        let written =
            written.and_then(|value| decode::<UseRecord>(&value, "use record").ok()).unwrap_or_default();
        let noted = self.uses.lock().get(ino);
        let used = noted.map_or(written, |noted| merge(written, noted));
        Ok(UseRecord { at: used.at.max(changed), ..used })
    }

    /// Whether a file may be evicted; one with several names where each of them lets it.
    fn is_allowed(&self, ino: Ino, rec: &InodeRecord, known: &mut HashMap<Ino, Allowed>) -> Result<bool> {
        let own = match rec.xattrs {
            0 => Allowed::default(),
            _ => self.run(|volume| volume.own_marks(&mut volume.tree.lock(), ino))?,
        };
        for (dir, _) in self.names_of(ino, &rec.links)? {
            let above = match known.get(&dir) {
                Some(above) => *above,
                None => {
                    let above = self.run(|volume| volume.marks_in(&mut volume.tree.lock(), dir))?;
                    known.insert(dir, above);
                    above
                }
            };
            if !own.or(above).allow() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Evicts those of the candidates that nobody works with. Returns the bytes of each that went, and false where whoever
    /// listens was too busy to hear of it.
    fn evict_those(&self, candidates: Vec<Candidate>) -> Result<(Vec<u64>, bool)> {
        let mut named = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            match self.run(|volume| Ok(volume.tree.lock().get(candidate.ino)?.rec.links.clone())) {
                Ok(links) => named.push((candidate, self.names_of(candidate.ino, &links)?)),
                Err(Error::Stale) => {}
                Err(error) => return Err(error),
            }
        }
        let heard = self.ask_back(&named);
        let mut gone = Vec::new();
        for (candidate, names) in named {
            match self.evict_one(&candidate, &names) {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    gone.push(bytes);
                    names.into_iter().for_each(|(dir, name)| self.tell(Event::Entry { dir, name }));
                }
                Err(Error::Stale | Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((gone, heard))
    }

    /// Lets the kernel drop the names of those that it refers to, and waits until it has given back what it can. False where
    /// it was too busy to hear of it.
    fn ask_back(&self, named: &[(Candidate, Names)]) -> bool {
        {
            let mut tree = self.tree.lock();
            for (candidate, _) in named {
                if tree.refs.held(candidate.ino) {
                    tree.awaited.insert(candidate.ino);
                }
            }
            if tree.awaited.is_empty() {
                return true;
            }
        }
        for (candidate, names) in named {
            if self.tree.lock().refs.held(candidate.ino) {
                for (dir, name) in names {
                    self.tell(Event::Entry { dir: *dir, name: name.clone() });
                }
            }
        }
        // Where nobody listens, nothing will be given back. A kernel that is busy is waited for: all may be in its hands, and
        // whoever waits for room is refused when nothing goes.
        let told = self.wait_told();
        let deadline = Instant::now() + FORGETS;
        let mut tree = self.tree.lock();
        while told && !tree.awaited.is_empty() && !self.forgotten.wait_until(&mut tree, deadline).timed_out()
        {
        }
        tree.awaited.clear();
        told || self.listener.lock().is_none()
    }

    /// Removes all names of a key, unless something speaks against it by now. Returns the bytes that it took.
    fn evict_one(&self, seen: &Candidate, names: &Names) -> Result<Option<u64>> {
        let ino = seen.ino;
        self.run_sparsely(|volume| {
            volume.ready()?;
            let mut tree = volume.tree.lock();
            let now = tree.now(&volume.clock);
            if tree.refs.held(ino) {
                volume.note_use(ino, now);
                return Ok(None);
            }
            let inode = tree.get(ino)?;
            let (stored, nlink) = (inode.rec.stored, inode.rec.nlink as usize);
            let used = volume.uses.lock().get(ino).is_some_and(|used| used.at > seen.used.at);
            let changed = inode.rec.ctime != seen.changed || inode.dirty || volume.cache.dirty(ino).is_some();
            if used || changed || nlink != names.len() || nlink > NAMES {
                return Ok(None);
            }
            let own = volume.own_marks(&mut tree, ino)?;
            let mut draft = Draft::default();
            for (dir, name) in names {
                let entry = tree.find_anywhere(*dir, name)?.filter(|entry| entry.ino == ino);
                let (Some(_), true) = (entry, own.or(volume.marks_in(&mut tree, *dir)?).allow()) else {
                    return Ok(None);
                };
                drop_name(&mut tree, &mut draft, *dir, name, ino, now)?;
            }
            volume.commit(&mut tree, draft)?;
            Ok(Some(stored))
        })
    }

    /// Writes the uses that were noted to the catalog.
    pub(super) fn record_uses(&self) -> Result<()> {
        // Who evicts would find neither what was noted nor what is recorded.
        let _evicting = self.evicting.lock();
        // Nobody removes an inode meanwhile: what is written belongs to one that is there.
        let _reclaiming = self.reclaiming.lock();
        let noted = self.uses.lock().take();
        let mut left = noted.as_slice();
        let written = noted.chunks(USES_BATCH).try_for_each(|part| {
            self.record_part(part)?;
            left = left.get(part.len()..).unwrap_or_default();
            Ok(())
        });
        self.uses.lock().put_back(left);
        written
    }

    fn record_part(&self, part: &[(Ino, UseRecord)]) -> Result<()> {
        let mut records = Vec::with_capacity(part.len());
        for (ino, used) in part {
            if self.engine.get(&keys::inode(*ino))?.is_none() {
                continue;
            }
            let old = self.engine.get(&keys::usage(*ino))?;
            let old = old.and_then(|value| decode(&value, "use record").ok());
            records.push((keys::usage(*ino), encode(&old.map_or(*used, |old| merge(old, *used)))));
        }
        self.run(|volume| {
            volume.ready()?;
            let mut draft = Draft::default();
            records.iter().for_each(|(key, value)| draft.batch.put(key, value));
            let mut tree = volume.tree.lock();
            volume.commit(&mut tree, draft)?;
            tree.uses_written += 1;
            for (ino, _) in part {
                if let Some(inode) = tree.peek_mut(*ino) {
                    inode.used = None;
                }
            }
            Ok(())
        })
    }

    /// How often a file was used, of late more than long ago: what is recorded and what is noted since. `NoAttribute`
    /// where no uses are kept.
    pub(super) fn hits(&self, tree: &mut Tree, ino: Ino, now: Time) -> Step<u32> {
        let inode = tree.get(ino)?;
        if inode.rec.kind() != Kind::File || !self.uses_kept.load(Ordering::Relaxed) {
            return Err(Error::NoAttribute.into());
        }
        let recorded = inode.used.as_ref().ok_or(Pause::Wait(Need::Use(ino)))?;
        let noted = self.uses.lock().get(ino);
        Ok(hits_at(noted.map_or(**recorded, |noted| merge(**recorded, noted)), now))
    }

    /// All names of an inode.
    pub(super) fn names_of(&self, ino: Ino, links: &Links) -> Result<Names> {
        let mut names = Vec::new();
        match links {
            Links::One { parent, name } => names.push((*parent, name.clone())),
            Links::Many => {
                self.engine.scan(keys::under(&keys::of_inode(keys::LINK, ino)), &mut |key, _| {
                    names.extend(keys::link_of(key).map(|(dir, name)| (dir, Name::from(name))));
                    true
                })?;
            }
        }
        Ok(names)
    }
}

/// Names with their directories.
type Names = Vec<(Ino, Name)>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marks_leave_a_writer_what_it_reserves_and_a_large_store_most_of_its_room() {
        let of = |mib: u64| Marks::of(mib << 20);
        assert_eq!(of(64), Marks { high: 56 << 20, low: 48 << 20 });
        assert_eq!(of(256), Marks { high: 240 << 20, low: 224 << 20 });
        assert_eq!(of(1024), Marks { high: 960 << 20, low: 896 << 20 });
        assert_eq!(of(1 << 20), Marks { high: (1 << 40) - (4 << 30), low: (1 << 40) - (8 << 30) });
    }
}
