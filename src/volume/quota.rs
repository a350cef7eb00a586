//! Quotas: how much all files below a directory may take on the disk (`user.larder.size-limit`).
//!
//! What counts is what `du` shows: the frames of each file that has a name, once, and content that waits for write-back as
//! it is. A file is counted at its *payer*, the nearest directory above it that has a limit, and at all further ones above.
//!
//! ```text
//! a (10 GiB) ── b ── c (1 GiB) ── f       f pays at c, and so at a
//! ```
//!
//! The catalog has the limits (`Q` records), and not what is used: that is counted when a store with limits is opened and when
//! a directory gets one, in one pass over all inodes, and kept up by each batch from then on.
//!
//! Invariants:
//! - An inode in memory knows its payer; so one comes into memory only after the directory that it is in.
//! - The payer of what is below a directory does not change with the directory's name: directories, and files with several
//!   names, do not move from one payer to another (EXDEV), so that nothing has to be counted again. A file with one name does.
//! - A directory that is unlinked with what is in it is recorded as being in its payer until it is empty.

use std::collections::{HashMap, HashSet};

use super::Volume;
use super::tree::{Inode, Tree};
use super::types::{Need, Pause, Step};
use crate::error::{Error, Result};
use crate::format::{Ino, InodeRecord, Kind, Links, ROOT, Seq, decode, keys};

/// The directory whose limit an inode counts towards first.
pub(super) type Payer = Option<Ino>;

/// The limit of a directory.
#[derive(Clone, Copy, Debug)]
struct Quota {
    /// Bytes; none while it is being counted for the first time.
    limit: Option<u64>,
    /// Bytes on disk of the files below.
    used: u64,
    /// The next directory above that has a limit.
    above: Payer,
}

/// A change of what is used, that a count which is under way may not have seen.
#[derive(Debug)]
struct Late {
    seq: Seq,
    ino: Ino,
    payer: Ino,
    bytes: i64,
}

/// All limits, by directory.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    quotas: HashMap<Ino, Quota>,
    /// While a count is under way.
    late: Option<Vec<Late>>,
}

/// What a batch changes.
#[derive(Debug, Default)]
pub(super) struct Bill {
    /// Who pays more or less for an inode.
    charges: Vec<(Ino, Ino, i64)>,
    /// New payers of inodes.
    payers: HashMap<Ino, Payer>,
}

/// How often it is tried to find out of all inodes in memory whether they lie below a directory. Each time those that have
/// to stay there are written, and the directories above them loaded.
const PART_OFF_TRIES: usize = 100;

impl Quotas {
    pub fn is_empty(&self) -> bool {
        self.quotas.is_empty()
    }

    /// Whether a directory has a limit, or gets one.
    pub fn has(&self, dir: Ino) -> bool {
        self.quotas.contains_key(&dir)
    }

    /// Whether a directory may be given a limit: it has one, or what is below has been counted for that.
    pub fn is_counted(&self, dir: Ino) -> bool {
        self.quotas.get(&dir).is_some_and(|quota| quota.limit.is_some() || self.late.is_none())
    }

    /// A directory's limit, bytes.
    pub fn limit(&self, dir: Ino) -> Option<u64> {
        self.quotas.get(&dir)?.limit
    }

    /// Sets the limit of a directory that has been counted.
    pub fn set_limit(&mut self, dir: Ino, limit: u64) {
        if let Some(quota) = self.quotas.get_mut(&dir) {
            quota.limit = Some(limit);
        }
    }

    /// A payer and all above it.
    fn chain(&self, payer: Payer) -> impl Iterator<Item = Ino> {
        std::iter::successors(payer, |dir| self.quotas.get(dir)?.above)
    }

    fn charge(&mut self, payer: Ino, bytes: i64) {
        let mut at = Some(payer);
        while let Some(quota) = at.and_then(|dir| self.quotas.get_mut(&dir)) {
            quota.used = quota.used.saturating_add_signed(bytes);
            at = quota.above;
        }
    }

    /// What is used, by directory, and the next one above.
    #[cfg(test)]
    pub fn figures(&self) -> Vec<(Ino, u64, Payer)> {
        let mut all: Vec<_> =
            self.quotas.iter().map(|(dir, quota)| (*dir, quota.used, quota.above)).collect();
        all.sort_unstable();
        all
    }

    fn note(&mut self, seq: Seq, charges: &[(Ino, Ino, i64)]) {
        for (ino, payer, bytes) in charges {
            self.charge(*payer, *bytes);
            if let Some(late) = &mut self.late {
                late.push(Late { seq, ino: *ino, payer: *payer, bytes: *bytes });
            }
        }
    }
}

/// Bytes that an inode counts.
fn counted(rec: &InodeRecord) -> u64 {
    if rec.kind() == Kind::File && rec.nlink > 0 { rec.stored } else { 0 }
}

impl Tree {
    /// Who pays for what is in a directory; none where that is not in memory.
    pub fn payer_in(&self, dir: Ino) -> Option<Payer> {
        if self.quotas.is_empty() || self.quotas.has(dir) {
            return Some(Some(dir).filter(|dir| self.quotas.has(*dir)));
        }
        self.peek(dir).map(|inode| inode.payer)
    }

    /// A removed directory with entries that count towards the limit of `dir`; one of which that is not known counts as such.
    pub fn emptying_below(&self, dir: Ino) -> Option<Ino> {
        let counts = |inode: &Inode| self.quotas.chain(inode.payer).any(|at| at == dir);
        self.emptying.iter().copied().find(|ino| self.peek(*ino).is_none_or(counts))
    }

    /// Who pays for an inode, which is in the directory `dir` where its record does not say; none where that is not in memory.
    pub fn payer_of(&self, rec: &InodeRecord, dir: Ino) -> Option<Payer> {
        match &rec.links {
            _ if rec.nlink == 0 && rec.kind() != Kind::Directory => Some(None),
            // The root is in itself.
            Links::One { name, .. } if name.is_empty() => Some(None),
            Links::One { parent, .. } => self.payer_in(*parent),
            Links::Many => self.payer_in(dir),
        }
    }

    /// What inodes, as they are to be, change. Directories that are made come before what is in them.
    pub fn bill<'a>(&self, inodes: impl Iterator<Item = (Ino, &'a InodeRecord)>) -> Bill {
        let mut bill = Bill::default();
        if self.quotas.is_empty() {
            return bill;
        }
        for (ino, rec) in inodes {
            let old = self.peek(ino);
            let before = old.map_or((None, 0), |old| (old.payer, counted(&old.rec)));
            let moved = old.is_none_or(|old| old.rec.links != rec.links || old.rec.nlink != rec.nlink);
            let payer = match &rec.links {
                Links::One { parent, .. } if moved && !self.quotas.has(*parent) => {
                    bill.payers.get(parent).copied().or(self.payer_of(rec, ROOT)).unwrap_or(before.0)
                }
                Links::Many if rec.nlink > 0 => before.0,
                _ if moved => self.payer_of(rec, ROOT).unwrap_or(before.0),
                _ => before.0,
            };
            let after = (payer, counted(rec));
            if before != after {
                let charges = [(before, -1), (after, 1)];
                bill.charges.extend(charges.into_iter().filter_map(|((payer, bytes), sign)| {
                    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                    Some((ino, payer.filter(|_| bytes > 0)?, sign * bytes))
                }));
            }
            if old.is_none() || payer != before.0 {
                bill.payers.insert(ino, payer);
            }
        }
        bill
    }

    /// Takes in what a batch has changed.
    pub fn pay(&mut self, seq: Seq, bill: Bill) {
        self.quotas.note(seq, &bill.charges);
        for (ino, payer) in bill.payers {
            if let Some(inode) = self.peek_mut(ino) {
                inode.payer = payer;
            }
        }
    }

    /// A directory loses its limit: what is below counts towards the next one above only, as it did already.
    pub fn end_quota(&mut self, dir: Ino) {
        let Some(ended) = self.quotas.quotas.remove(&dir) else { return };
        let follow = |payer: &mut Payer| {
            if *payer == Some(dir) {
                *payer = ended.above;
            }
        };
        self.quotas.quotas.values_mut().for_each(|quota| follow(&mut quota.above));
        self.inodes_mut().for_each(|inode| follow(&mut inode.payer));
    }

    /// The inodes in memory that lie below a directory, by the directories in memory; and those of which that cannot be said.
    fn below(&self, top: Ino) -> (Vec<Ino>, Vec<Ino>) {
        let mut known: HashMap<Ino, bool> = HashMap::from([(top, true), (ROOT, top == ROOT)]);
        let (mut below, mut unknown) = (Vec::new(), Vec::new());
        for (ino, inode) in self.inodes() {
            let mut way = Vec::new();
            let mut at = inode;
            let found = loop {
                let parent = match &at.rec.links {
                    _ if at.rec.nlink == 0 && !at.is_dir() => break Some(false),
                    Links::One { parent, name } if !name.is_empty() => *parent,
                    Links::One { .. } => break Some(false),
                    Links::Many => break None,
                };
                if let Some(known) = known.get(&parent) {
                    break Some(*known);
                }
                way.push(parent);
                match self.peek(parent) {
                    // More than there are inodes in memory: a damaged tree.
                    Some(next) if way.len() <= self.len() => at = next,
                    _ => break None,
                }
            };
            match found {
                Some(found) => {
                    known.extend(way.into_iter().map(|dir| (dir, found)));
                    below.extend(Some(ino).filter(|ino| found && *ino != top));
                }
                None => unknown.push(ino),
            }
        }
        (below, unknown)
    }
}

impl Volume {
    /// Refuses `more` bytes where a limit leaves no room for them. Where that depends on how well what waits for write-back
    /// compresses, that has to be written first; what was removed there with its directory has to be gone. Whoever `paid` has
    /// paid already, with all above it.
    pub(super) fn check_quota(&self, tree: &Tree, payer: Payer, paid: Payer, more: u64) -> Step<()> {
        for dir in tree.quotas.chain(payer) {
            if tree.quotas.chain(paid).any(|paid| paid == dir) {
                break;
            }
            let Some(Quota { limit: Some(limit), used, .. }) = tree.quotas.quotas.get(&dir) else { continue };
            let Some(left) = limit.checked_sub(used.saturating_add(more)) else {
                return Err(match tree.emptying_below(dir) {
                    None => Error::QuotaExceeded.into(),
                    Some(_) => Pause::Wait(Need::Emptied(dir)),
                });
            };
            // Nearly always all that waits anywhere fits.
            if self.cache.dirty_bytes() > left && self.waiting(tree, dir) > left {
                return Err(Pause::Wait(Need::Stored(dir)));
            }
        }
        Ok(())
    }

    /// Files below a directory with a limit that have content waiting for write-back.
    fn waiting_files(&self, tree: &Tree, dir: Ino) -> Vec<Ino> {
        let mut files = self.cache.dirty_files();
        files.retain(|ino| {
            tree.peek(*ino).is_some_and(|inode| tree.quotas.chain(inode.payer).any(|at| at == dir))
        });
        files
    }

    /// Bytes of these.
    fn waiting(&self, tree: &Tree, dir: Ino) -> u64 {
        self.waiting_files(tree, dir).into_iter().filter_map(|ino| self.cache.dirty(ino)).sum::<usize>()
            as u64
    }

    /// Stores what waits below a directory with a limit.
    pub(super) fn store_waiting(&self, dir: Ino) -> Result<()> {
        let files = self.waiting_files(&self.tree.lock(), dir);
        files.into_iter().try_for_each(|ino| self.flush_file(ino))
    }

    /// The least that a limit allows and leaves at an inode, bytes; none where there is no limit.
    pub(super) fn quota_at(&self, tree: &mut Tree, ino: Ino) -> Step<Option<(u64, u64)>> {
        if tree.quotas.is_empty() {
            return Ok(None);
        }
        let payer = if tree.quotas.has(ino) { Some(ino) } else { tree.get(ino)?.payer };
        let room = |dir| {
            let Quota { limit: Some(limit), used, .. } = *tree.quotas.quotas.get(&dir)? else { return None };
            Some((limit, limit.saturating_sub(used.saturating_add(self.waiting(tree, dir)))))
        };
        Ok(tree.quotas.chain(payer).filter_map(room).min_by_key(|(_, left)| *left))
    }

    /// Refuses to give a key another directory where it would count towards another limit and cannot.
    pub(super) fn check_payer(&self, tree: &mut Tree, ino: Ino, from: Ino, to: Ino) -> Step<()> {
        let (Some(old), Some(new)) = (tree.payer_in(from), tree.payer_in(to)) else {
            let missing = if tree.payer_in(from).is_none() { from } else { to };
            return Err(Pause::Wait(Need::Inode(missing)));
        };
        if old == new {
            return Ok(());
        }
        let rec = &tree.get(ino)?.rec;
        if rec.kind() == Kind::Directory || rec.links == Links::Many {
            return Err(Error::CrossesQuota.into());
        }
        let more = counted(rec) + self.cache.dirty(ino).unwrap_or(0) as u64;
        self.check_quota(tree, new, old, more)
    }

    /// Refuses a batch that makes more of files than the limits leave; `riding`: bytes of content of new files, that are not
    /// in frames yet.
    pub(super) fn check_bill(&self, tree: &Tree, bill: &Bill, riding: &[(Ino, u64)]) -> Step<()> {
        let waits =
            riding.iter().filter_map(|(ino, bytes)| Some((bill.payers.get(ino).copied()??, *bytes as i64)));
        let mut by_payer: HashMap<Ino, i64> = HashMap::new();
        for (payer, bytes) in bill.charges.iter().map(|(_, payer, bytes)| (*payer, *bytes)).chain(waits) {
            for dir in tree.quotas.chain(Some(payer)) {
                *by_payer.entry(dir).or_default() += bytes;
            }
        }
        let above = |dir: Ino| tree.quotas.quotas.get(&dir).and_then(|quota| quota.above);
        by_payer
            .into_iter()
            .filter(|(_, bytes)| *bytes > 0)
            .try_for_each(|(dir, bytes)| self.check_quota(tree, Some(dir), above(dir), bytes as u64))
    }

    /// The limits that the catalog has, and what is used of them. Nothing else is in memory yet.
    pub(super) fn find_quotas(&self) -> Result<()> {
        let mut found = HashMap::new();
        self.engine.scan(keys::under(&[keys::QUOTA]), &mut |key, value| {
            match (keys::ino_of(key), decode(value, "limit of a directory")) {
                (Some(ino), Ok(limit)) => {
                    _ = found.insert(ino, Quota { limit: Some(limit), used: 0, above: None })
                }
                (_, Err(error)) => log::error!("the limit of a directory is not in force: {error}"),
                (None, _) => {}
            }
            true
        })?;
        if found.is_empty() {
            return Ok(());
        }
        self.tree.lock().quotas.quotas = found;
        self.count_quotas(None)
    }

    /// Makes a directory one that has a limit, and counts what is below. It has none yet: that is set next. Waits.
    ///
    /// Errors: `CrossesQuota`: a file below has a further name elsewhere.
    pub(super) fn begin_quota(&self, dir: Ino) -> Result<()> {
        let _counting = self.counting.lock();
        if self.tree.lock().quotas.has(dir) {
            // Somebody was faster.
            return Ok(());
        }
        self.part_off(dir)?;
        let counted = self.count_quotas(Some(dir));
        if counted.is_err() {
            let mut tree = self.tree.lock();
            tree.quotas.late = None;
            tree.end_quota(dir);
        }
        counted
    }

    /// From here on what is below a directory counts there.
    fn part_off(&self, dir: Ino) -> Result<()> {
        for _ in 0..PART_OFF_TRIES {
            let mut limited: Vec<Ino> = self.tree.lock().quotas.quotas.keys().copied().collect();
            limited.push(dir);
            for ino in &limited {
                match self.run(|volume| volume.tree.lock().get(*ino).map(drop)) {
                    // A limit of what is not there: `larder check` tells.
                    Err(Error::Stale) if *ino != dir => {}
                    loaded => loaded?,
                }
            }
            let mut dirty = Vec::new();
            {
                let mut tree = self.tree.lock();
                let Some(above) = tree.peek(dir).map(|inode| inode.payer) else { continue };
                let (below, unknown) = tree.below(dir);
                // They come back with the directories that they are in.
                for ino in unknown {
                    match tree.peek(ino).is_some_and(|inode| inode.dirty || tree.quotas.has(ino)) {
                        true => dirty.push(ino),
                        false => tree.remove(ino),
                    }
                }
                if dirty.is_empty() {
                    for ino in below {
                        if let Some(inode) = tree.peek_mut(ino).filter(|inode| inode.payer == above) {
                            inode.payer = Some(dir);
                        }
                        if let Some(quota) =
                            tree.quotas.quotas.get_mut(&ino).filter(|quota| quota.above == above)
                        {
                            quota.above = Some(dir);
                        }
                    }
                    tree.quotas.quotas.insert(dir, Quota { limit: None, used: 0, above });
                    tree.quotas.late = Some(Vec::new());
                    return Ok(());
                }
            }
            for ino in dirty {
                self.flush_file(ino)?;
                self.record_inode(ino)?;
                self.load_way(ino)?;
            }
        }
        Err(Error::Invalid(
            "size-limit: what is below is being written all the time: try again when it is not".into(),
        ))
    }

    /// Brings the directories above an inode into memory.
    fn load_way(&self, ino: Ino) -> Result<()> {
        let mut at = ino;
        while at != ROOT {
            let Some(rec) = self.read_inode(at)? else { return Ok(()) };
            let Some(dir) = self.directory_of(at, &rec)? else { return Ok(()) };
            match self.run(|volume| volume.tree.lock().get(dir).map(drop)) {
                Ok(()) => at = dir,
                Err(Error::Stale) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The directory that an inode is in, one of them where it is in several; none where it has no name.
    pub(super) fn directory_of(&self, ino: Ino, rec: &InodeRecord) -> Result<Option<Ino>> {
        match &rec.links {
            _ if rec.nlink == 0 && rec.kind() != Kind::Directory => Ok(None),
            Links::One { name, .. } if name.is_empty() => Ok(None),
            Links::One { parent, .. } => Ok(Some(*parent)),
            Links::Many => Ok(self.directories_of(ino)?.first().copied()),
        }
    }

    /// The directories in which an inode has its several names.
    fn directories_of(&self, ino: Ino) -> Result<Vec<Ino>> {
        let mut found = Vec::new();
        self.engine.scan(keys::under(&keys::of_inode(keys::LINK, ino)), &mut |key, _| {
            found.extend(keys::link_of(key).map(|(dir, _)| dir));
            true
        })?;
        Ok(found)
    }

    /// Counts what is used of all limits, in one pass over a moment of the catalog. In memory meanwhile: 40 bytes for each
    /// directory of the store and for each file with several names. `fresh`: the directory that is to get its limit.
    pub(super) fn count_quotas(&self, fresh: Option<Ino>) -> Result<()> {
        // Again where a directory has lost its limit meanwhile.
        while !self.try_count(fresh)? {}
        Ok(())
    }

    fn try_count(&self, fresh: Option<Ino>) -> Result<bool> {
        let limited: HashSet<Ino> = self.tree.lock().quotas.quotas.keys().copied().collect();
        let mut parents: HashMap<Ino, Ino> = HashMap::new();
        let mut files: HashMap<Ino, u64> = HashMap::new();
        let mut linked: Vec<(Ino, u64)> = Vec::new();
        let seen = self.engine.scan(keys::under(&[keys::INODE]), &mut |key, value| {
            match (keys::ino_of(key), decode::<InodeRecord>(value, "inode record")) {
                (Some(ino), Ok(rec)) => match &rec.links {
                    Links::One { parent, .. } if rec.kind() == Kind::Directory => {
                        _ = parents.insert(ino, *parent)
                    }
                    Links::One { parent, .. } if counted(&rec) > 0 => {
                        *files.entry(*parent).or_default() += counted(&rec)
                    }
                    Links::Many if rec.nlink > 0 => linked.push((ino, counted(&rec))),
                    _ => {}
                },
                (_, Err(error)) => log::error!("an inode counts towards no limit: {error}"),
                (None, _) => {}
            }
            true
        })?;
        let nearest = |from: Ino| -> Payer {
            let mut at = from;
            // No way is longer than there are directories, but in a damaged tree.
            for _ in 0..=parents.len() {
                if limited.contains(&at) {
                    return Some(at);
                }
                at = *parents.get(&at).filter(|parent| **parent != at)?;
            }
            None
        };
        let mut counts: HashMap<Ino, u64> = HashMap::new();
        let mut add = |payer: Payer, bytes: u64| {
            if let Some(payer) = payer {
                *counts.entry(payer).or_default() += bytes;
            }
        };
        files.into_iter().for_each(|(dir, bytes)| add(nearest(dir), bytes));
        for (ino, bytes) in linked {
            let mut payers: Vec<Payer> = self.directories_of(ino)?.into_iter().map(nearest).collect();
            payers.dedup();
            match payers.as_slice() {
                [] => {
                    // Its names went since: whoever was paid back had paid.
                    let tree = self.tree.lock();
                    let late = tree.quotas.late.iter().flatten().find(|late| late.ino == ino);
                    add(late.map(|late| late.payer), bytes);
                }
                [_, _, ..] if fresh.is_some() => {
                    log::info!("{}: a file below has a further name elsewhere", self.name_of(ino));
                    return Err(Error::CrossesQuota);
                }
                [payer, ..] => add(*payer, bytes),
            }
        }
        let mut tree = self.tree.lock();
        let quotas = &mut tree.quotas;
        if quotas.quotas.len() != limited.len() {
            return Ok(false);
        }
        let late = quotas.late.take().unwrap_or_default();
        for (dir, quota) in &mut quotas.quotas {
            quota.used = 0;
            if fresh.is_none() {
                quota.above =
                    parents.get(dir).filter(|parent| *parent != dir).and_then(|parent| nearest(*parent));
            }
        }
        counts
            .into_iter()
            .for_each(|(payer, bytes)| quotas.charge(payer, i64::try_from(bytes).unwrap_or(i64::MAX)));
        late.iter().filter(|late| late.seq > seen).for_each(|late| quotas.charge(late.payer, late.bytes));
        Ok(true)
    }
}
