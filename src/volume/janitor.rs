//! What happens behind the scenes: keys that expire, unlinked inodes, room that comes back.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::Volume;
use super::draft::{Draft, bytes_of};
use super::load::last_batch;
use super::names::drop_name;
use super::tree::Tree;
use super::types::*;
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::format::{Dentry, Extent, Ino, InodeRecord, Kind, PageNo, ROOT, SegmentId, keys};
use crate::pages::SegmentInfo;
use crate::shelf;

/// How often the janitor looks for unlinked inodes. It is not woken for each: that would cost the
/// thread that unlinks a system call.
const TICK: Duration = Duration::from_millis(100);

/// How long after a failure the sweep is tried again.
const SWEEP_AGAIN: Duration = Duration::from_secs(1);

/// How long after a failure the commit is tried again.
const COMMIT_AGAIN: Duration = Duration::from_secs(1);

/// How long whoever sets an end that has passed waits for others to hear of it.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Keys that are looked up at a time.
const SWEEP_BATCH: usize = 1024;

/// Entries of an expired directory that are worked off at a time.
const DETACH_BATCH: usize = 256;

/// How much of an inode was reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reclaimed {
    /// All that can be for now.
    All,
    /// Some of a directory's entries.
    Part,
}

/// The second under which an expiry is marked, where there is one.
fn marked(expires: Option<Time>) -> Option<i64> {
    expires.map(|at| at.secs().max(0))
}

impl Volume {
    /// The life of the sweeper: removes the names of what has expired. It waits for no other work: their second is theirs.
    pub(super) fn sweep_regularly(&self) {
        while !self.stopping() {
            let now = self.tree.lock().now(&self.clock);
            // Nothing is removed of a store that is read-only, though its time has come.
            let due =
                if self.read_only().is_some() { TICK } else { shelf::left(Time(self.next_expiry()), now) };
            self.pause(due.min(TICK));
            self.keep_house(&[Volume::sweep]);
        }
    }

    /// The life of the janitor: reclaims what is unlinked.
    pub(super) fn reclaim_regularly(&self) {
        while !self.stopping() {
            self.pause(TICK);
            self.keep_house(&[Volume::reclaim, Volume::work_off_releases]);
        }
    }

    fn keep_house(&self, work: &[fn(&Volume) -> Result<()>]) {
        for job in work {
            if self.read_only().is_some() {
                break;
            }
            if let Err(error) = job(self) {
                log::warn!("behind the scenes: {error}");
            }
        }
    }

    /// The life of the committer: makes durable what no fsync has, and gives room back.
    pub(super) fn commit_regularly(&self) {
        while !self.stopping() {
            // What is dead waits for the copy that is being made.
            if self.tree.lock().dead <= self.dead_limit() || self.is_copied() || self.read_only().is_some() {
                self.pause(self.settings.commit_interval);
            }
            if self.read_only().is_some() {
                continue;
            }
            match self.commit_now().map(|()| self.compact()) {
                Ok(Ok(())) => continue,
                // Nothing can be moved before keys are evicted or removed, and nothing waits for that.
                Ok(Err(Error::NoSpace)) => log::debug!("no room for compaction"),
                Ok(Err(error)) => log::error!("compaction failed: {error}"),
                Err(error) => log::error!("the commit failed: {error}"),
            }
            self.pause(COMMIT_AGAIN);
        }
    }

    /// Makes all batches durable and frees what they gave up. What comes to be dead while the flush is under
    /// way waits for the next one: its batch may not be durable.
    pub(super) fn commit_now(&self) -> Result<()> {
        let _clearing = self.clearing.lock();
        let segments = self.segments.list()?;
        let (mut freed, mut dead, seq) = {
            // No store is between its append and its batch: a closed segment without live bytes is dead for good.
            let _storing = self.storing.write();
            let mut tree = self.tree.lock();
            let is_dead = |s: &&SegmentInfo| !s.open && !tree.live.contains_key(&s.id);
            let dead: Vec<SegmentId> = segments.iter().filter(is_dead).map(|s| s.id).collect();
            (std::mem::take(&mut tree.freed), dead, self.engine.last_seq())
        };
        let durable = if seq > self.engine.durable_seq() { self.make_durable(seq) } else { Ok(()) };
        let all = bytes_of(&freed);
        let mut held = self.hold_back(&mut freed, &mut dead, &segments);
        let done = durable.and_then(|()| self.give_back(&mut freed, &dead));
        freed.append(&mut held);
        self.bound_segments();
        let mut tree = self.tree.lock();
        tree.dead -= all - bytes_of(&freed);
        // What is left is tried again the next time.
        tree.freed.append(&mut freed);
        done
    }

    /// Makes room on the disk of what is unlinked or replaced, now instead of behind the scenes.
    pub(super) fn clear_out(&self) -> Result<()> {
        self.reclaim()?;
        self.work_off_releases()?;
        self.commit_now()
    }

    /// Gives the room of frames and of whole segments back to the disk; nothing durable names them. What could
    /// not be given back is left.
    fn give_back(&self, freed: &mut Vec<Extent>, dead: &[SegmentId]) -> Result<()> {
        freed.sort_by_key(|extent| (extent.segment, extent.offset));
        // Neighbours as one: a hole can only be punched of whole blocks.
        let mut holes: Vec<Extent> = Vec::with_capacity(freed.len());
        for extent in freed.drain(..) {
            match holes.last_mut() {
                Some(last) if last.segment == extent.segment && last.offset + last.len == extent.offset => {
                    last.len += extent.len;
                }
                _ => holes.push(extent),
            }
        }
        freed.extend(holes.into_iter().filter(|hole| !dead.contains(&hole.segment)));
        for id in dead {
            match self.segments.remove(*id) {
                // It is found dead again, and keeps no other from being given back.
                Err(error @ Error::Io { .. }) => log::error!("{error}"),
                done => done?,
            }
        }
        while let Some(hole) = freed.last() {
            self.segments.free(*hole)?;
            freed.pop();
        }
        Ok(())
    }

    /// Removes the keys whose time has come.
    pub(super) fn sweep(&self) -> Result<()> {
        let _sweeping = self.sweeping.lock();
        let now = self.tree.lock().now(&self.clock);
        if !self.sweep_due(now) {
            return Ok(());
        }
        let swept = self.sweep_until(now);
        if swept.is_err() {
            self.expiry_at_latest(now.0.saturating_add(SWEEP_AGAIN.as_nanos() as i64));
            return swept;
        }
        let mut tree = self.tree.lock();
        // All that was reported gone is removed: the clock alone tells the time again.
        if tree.gone.is_some_and(|gone| self.next_expiry() > gone.0) {
            self.set_gone(&mut tree, None);
        }
        Ok(())
    }

    /// Whether a key has expired. That keys are gone is journalled before anybody hears of it: a clock that is
    /// set back brings none of them back, also after a crash.
    pub(super) fn has_expired(&self, tree: &mut Tree, expires: Option<Time>, now: Time) -> bool {
        let Some(at) = expires.filter(|at| *at <= now) else { return false };
        self.note_gone(tree, at, now);
        true
    }

    /// Notes that what expires at `at`, which is past, is reported gone.
    pub(super) fn note_gone(&self, tree: &mut Tree, at: Time, now: Time) {
        if tree.gone < Some(at) {
            self.set_gone(tree, Some(now));
        }
    }

    fn set_gone(&self, tree: &mut Tree, gone: Option<Time>) {
        tree.gone = gone;
        tree.gone_is_due = true;
        if let Err(error) = self.commit(tree, Draft::default()) {
            log::warn!("what has expired is not journalled before the next change that is: {error}");
        }
    }

    fn sweep_until(&self, now: Time) -> Result<()> {
        loop {
            // What is set from here on lowers it again.
            self.set_next_expiry(i64::MAX);
            let mut due = Vec::new();
            let mut next = i64::MAX;
            self.engine.scan(keys::under(&[keys::EXPIRY]), &mut |key, _| {
                let Some((secs, ino)) = keys::expiry_of(key) else { return true };
                if secs > now.secs() {
                    next = Time::new(secs, 0).0;
                    return false;
                }
                due.push((secs, ino));
                due.len() < SWEEP_BATCH
            })?;
            let all = due.len() < SWEEP_BATCH;
            let mut removed = 0;
            let mut failed = None;
            let mut listings = BTreeSet::new();
            for (secs, ino) in due {
                match self.expire(secs, ino, now, &mut listings) {
                    Ok(Some(later)) => next = next.min(later.0),
                    Ok(None) => removed += 1,
                    // One key that cannot be removed keeps no other.
                    Err(error) => failed = Some(error),
                }
            }
            self.expiry_at_latest(next);
            listings.into_iter().for_each(|dir| self.tell(Event::Inode(dir)));
            match failed {
                Some(error) => return Err(error),
                None if all || removed == 0 => return Ok(()),
                None => {}
            }
        }
    }

    /// Removes a key that has expired, whose name is wanted anew: a sweep that is under way may take long.
    pub(super) fn expire_first(&self, ino: Ino) -> Result<()> {
        let now = self.tree.lock().now(&self.clock);
        match self.run(|volume| Ok(volume.tree.lock().get(ino)?.rec.expires)) {
            Ok(Some(at)) => {
                let mut listings = BTreeSet::new();
                let done = self.expire(at.secs().max(0), ino, now, &mut listings);
                listings.into_iter().for_each(|dir| self.tell(Event::Inode(dir)));
                done.map(drop)
            }
            // Somebody was faster.
            Ok(None) | Err(Error::Stale) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes a key whose end was set to a moment that has passed, and waits until it is gone for others: whoever set it may look
    /// at once. Not for long: a kernel that waits for us cannot be told.
    pub fn expire_at_once(&self, ino: Ino) -> Result<()> {
        self.expire_first(ino)?;
        self.wait_told_for(AT_ONCE);
        Ok(())
    }

    /// Removes all names of a key that has expired; one that has not yet says when it will. `listings` gets the directories
    /// that have lost a name of which nobody above needs to be told: whoever refers to no inode has no name for it. So no
    /// more is told at once than what those above keep themselves.
    fn expire(&self, secs: i64, ino: Ino, now: Time, listings: &mut BTreeSet<Ino>) -> Result<Option<Time>> {
        // What an inode's names were when they led nowhere. Another may be at it; if nothing changes, it is damage.
        let mut astray = None;
        loop {
            let found = self.run(|volume| {
                let mut tree = volume.tree.lock();
                let rec = &tree.get(ino)?.rec;
                Ok((rec.expires, rec.nlink, rec.links.clone()))
            });
            let (expires, nlink, links) = match found {
                Ok(found) => found,
                Err(Error::Stale) => return self.drop_mark(secs, ino).map(|()| None),
                Err(error) => return Err(error),
            };
            match expires {
                // The mark went with the last name.
                _ if nlink == 0 => return self.drop_mark(secs, ino).map(|()| None),
                at @ Some(_) if marked(at) != Some(secs) => return self.drop_mark(secs, ino).map(|()| None),
                Some(at) if at > now => return Ok(Some(at)),
                Some(_) => {}
                None => return self.drop_mark(secs, ino).map(|()| None),
            }
            let names = self.names_of(ino, &links)?;
            let seen = Some((nlink, names.clone()));
            let mut removed = false;
            for (dir, name) in names {
                match self.detach(dir, &name, ino, Some(now)) {
                    Ok(true) => {}
                    // Renamed or prolonged in between, or removed by another.
                    Ok(false) => continue,
                    Err(Error::Stale) if astray != seen => continue,
                    Err(error) => return Err(error),
                }
                removed = true;
                let held = self.tree.lock().refs.held(ino);
                match held {
                    true => {
                        self.tell(Event::Entry { dir, name });
                        self.tell(Event::Attributes(ino));
                    }
                    false => _ = listings.insert(dir),
                }
            }
            if !removed && astray == seen {
                return Err(Error::Damaged(format!(
                    "{ino}: it has expired, and none of its {nlink} names leads to it"
                )));
            }
            astray = seen;
        }
    }

    /// Deletes a mark that stands for nothing; not one that has been set again since.
    fn drop_mark(&self, secs: i64, ino: Ino) -> Result<()> {
        self.run(|volume| {
            volume.ready()?;
            let mut tree = volume.tree.lock();
            let stands = |rec: &InodeRecord| rec.nlink > 0 && marked(rec.expires) == Some(secs);
            if tree.peek(ino).is_some_and(|inode| stands(&inode.rec)) {
                return Ok(());
            }
            let mut draft = Draft::default();
            draft.batch.delete(keys::expiry(secs, ino));
            volume.commit(&mut tree, draft)?;
            Ok(())
        })
    }

    /// Removes a name, of a directory also when it has entries: those go with it, in the background.
    /// False when it names something else by now or, with `expired`, something that had not expired then.
    fn detach(&self, dir: Ino, name: &[u8], ino: Ino, expired: Option<Time>) -> Result<bool> {
        self.run_sparsely(|volume| {
            volume.ready()?;
            let mut tree = volume.tree.lock();
            let now = tree.now(&volume.clock);
            // The directory itself may be detached already.
            tree.get(dir)?;
            if tree.find_anywhere(dir, name)?.is_none_or(|child| child.ino != ino) {
                return Ok(false);
            }
            if let Some(then) = expired
                && tree.get(ino)?.rec.expires.is_none_or(|at| at > then)
            {
                return Ok(false);
            }
            let mut draft = Draft::default();
            drop_name(&mut tree, &mut draft, dir, name, ino, now)?;
            volume.commit(&mut tree, draft)?;
            Ok(true)
        })
    }

    /// Reclaims unlinked inodes that nobody refers to any longer. Others come in between: what is under way is in the list then,
    /// so that whoever finds it empty has waited for all.
    pub(super) fn reclaim(&self) -> Result<()> {
        let mut reclaiming = self.reclaiming.lock();
        let mut failed = Vec::new();
        let mut why = None;
        loop {
            let Some(ino) = self.tree.lock().orphans.pop() else { break };
            match self.reclaim_one(ino) {
                Ok(Reclaimed::All) => {}
                Ok(Reclaimed::Part) => self.tree.lock().orphans.push(ino),
                // One that cannot be reclaimed keeps no other.
                Err(error) => {
                    failed.push(ino);
                    why = Some(error);
                }
            }
            if failed.is_empty() {
                MutexGuard::bump(&mut reclaiming);
            }
        }
        self.tree.lock().orphans.append(&mut failed);
        why.map_or(Ok(()), Err)
    }

    /// Removes what was removed with its directory and still counts towards the limit of `dir`, ahead of all else. Errors:
    /// `QuotaExceeded`, where something of it cannot be.
    pub(super) fn empty_below(&self, dir: Ino) -> Result<()> {
        let mut reclaiming = self.reclaiming.lock();
        loop {
            let Some(ino) = self.tree.lock().emptying_below(dir) else { return Ok(()) };
            self.reclaim_one(ino).map_err(|error| match error {
                Error::Damaged(why) => {
                    log::warn!("what was removed still counts: {why}");
                    Error::QuotaExceeded
                }
                error => error,
            })?;
            MutexGuard::bump(&mut reclaiming);
        }
    }

    /// Reclaims an unlinked inode, or a part of it, unless somebody refers to it.
    fn reclaim_one(&self, ino: Ino) -> Result<Reclaimed> {
        let done = match self.reclaim_part(ino) {
            // It has left already.
            Err(Error::Stale) => Reclaimed::All,
            done => done?,
        };
        if done == Reclaimed::All {
            self.tree.lock().emptying.remove(&ino);
        }
        Ok(done)
    }

    /// [`Volume::reclaim_one`] of one that may have left already, which is `Stale`.
    fn reclaim_part(&self, ino: Ino) -> Result<Reclaimed> {
        loop {
            let state = self.run(|volume| {
                let mut tree = volume.tree.lock();
                let held = tree.refs.held(ino);
                let inode = tree.get(ino)?;
                if inode.rec.nlink > 0 || ino == ROOT {
                    return Ok(None);
                }
                let found = (inode.version, inode.rec.clone());
                let full = inode.is_dir() && inode.rec.size > 0;
                if held && !full {
                    tree.unlinked.insert(ino);
                    return Ok(None);
                }
                Ok(Some(found))
            })?;
            let Some((version, rec)) = state else { return Ok(Reclaimed::All) };
            if rec.kind() == Kind::Directory && rec.size > 0 {
                return self.empty_directory(ino).map(|()| Reclaimed::Part);
            }
            let end = PageNo(rec.size.div_ceil(rec.page_size()) as u32);
            let from = last_batch(&rec, PageNo(0), end);
            let extents = if rec.pages > 0 { self.read_extents(ino, from, end)? } else { Vec::new() };
            let mut attributes = Vec::new();
            if rec.xattrs > 0 {
                self.engine.scan(keys::under(&keys::of_inode(b'X', ino)), &mut |key, _| {
                    attributes.push(key.to_vec());
                    true
                })?;
            }
            let done = self.run(|volume| {
                volume.ready()?;
                let mut tree = volume.tree.lock();
                let Some(inode) = tree.peek(ino).filter(|inode| inode.version == version) else {
                    return Ok(false);
                };
                // While the store is being closed references hold nobody up who gives it a name.
                if inode.rec.nlink > 0 {
                    return Ok(true);
                }
                if tree.refs.held(ino) {
                    tree.unlinked.insert(ino);
                    return Ok(true);
                }
                let mut rec = inode.rec.clone();
                let mut draft = Draft::default();
                volume.remove_pages(&mut draft, ino, &mut rec, &extents, from, PageNo(u32::MAX));
                if from > PageNo(0) {
                    rec.size = u64::from(from.0) << rec.page_shift;
                    draft.inode_sized(ino, rec.clone(), super::draft::Recorded::Size(rec.size));
                } else {
                    attributes.iter().for_each(|key| draft.batch.delete(key.clone()));
                    if volume.uses_kept.load(Ordering::Relaxed) {
                        draft.batch.delete(keys::usage(ino));
                    }
                    draft.remove_inode(ino);
                }
                volume.commit(&mut tree, draft)?;
                tree.touch_version(ino);
                Ok(from == PageNo(0))
            })?;
            if done {
                return Ok(Reclaimed::All);
            }
        }
    }

    /// Removes the entries of a detached directory, a part at a time.
    fn empty_directory(&self, dir: Ino) -> Result<()> {
        let (entries, _) = self.read_entries(dir, 0, DETACH_BATCH)?;
        if entries.is_empty() {
            return Err(Error::Damaged(format!("{dir}: it counts entries that are not there")));
        }
        for (_, Dentry { name, ino, .. }) in entries {
            self.detach(dir, &name, ino, None)?;
            if self.tree.lock().refs.held(ino) {
                self.tell(Event::Entry { dir, name });
                self.tell(Event::Attributes(ino));
            }
        }
        Ok(())
    }

    /// The unlinked inodes that the last session left: nobody refers to them now.
    pub(super) fn find_orphans(&self) -> Result<()> {
        let mut found = Vec::new();
        self.engine.scan(keys::under(&[keys::ORPHAN]), &mut |key, _| {
            found.extend(keys::ino_of(key));
            true
        })?;
        self.tree.lock().orphans = found;
        Ok(())
    }
}
