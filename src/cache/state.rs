//! What lies under the cache's lock: the files' pages and the bytes reserved for them.

mod flush;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use foldhash::{HashMap, HashMapExt};

use super::changes::Changes;
use super::dirty::{Dirty, Queues, grown, overwrite};
use super::pagemap::PageMap;
use super::second_chance::SecondChance;
use super::{Access, Base, Content, Need, NewPages, PageId};
use crate::format::{Ino, PageNo, Patch};

/// Bytes that a page is charged with beside its buffer: its entries in the maps, lists and queues, of
/// which a page alone in its file needs most: some 130 in the table of files, 60 for the shared buffer, and 100 in the order of
/// eviction or, while it is dirty, 200.
pub(super) const PAGE_OVERHEAD: usize = 512;

/// The part of the dirty limit that patches in the catalog may take before their pages are due: a quarter of the catalog's
/// table. A checkpoint writes what is in the table into the index; patches would be taken out of it again a moment later.
const RIDING: usize = 16;

/// Bytes of changes that count for that. Fewer cost the index hardly more than the record of the frame that replaces them, so they
/// are left to age: what is overwritten meanwhile is never compressed.
const LARGE: usize = 4096;

/// A page that has more patches than this is flushed instead of journalled again.
const MOST_PATCHES: u32 = 16;

fn charge(content: &Content) -> usize {
    content.capacity() + PAGE_OVERHEAD
}

/// A page whose content is in its frame.
#[derive(Debug)]
struct Clean {
    content: Content,
    /// How often it was used since eviction last looked.
    uses: u32,
}

#[derive(Debug, Default)]
struct File {
    clean: PageMap<Clean>,
    dirty: PageMap<Box<Dirty>>,
    /// Bytes of content of the dirty pages.
    dirty_bytes: usize,
}

#[derive(Debug)]
pub(super) struct State {
    files: HashMap<Ino, File>,
    order: SecondChance,
    pub queues: Queues,
    /// Reserved bytes, dirty ones among them, and the most of either.
    pub used: usize,
    pub dirty: usize,
    pub limit: usize,
    pub dirty_limit: usize,
    /// Bytes of large patches that the catalog holds.
    riding: usize,
    /// Pages that are not in memory and have patches, `0..n`, all the same ([`super::Cache::strand`]).
    stranded: BTreeMap<PageId, u32>,
    /// For each flush under way the bytes that it holds alone: those of its content once the page has got another, or is gone.
    flights: HashMap<u64, usize>,
    /// Flushes under way by file.
    flying: HashMap<Ino, usize>,
    last_ticket: u64,
    last_turn: u64,
    pub hits: u64,
    pub misses: u64,
    /// Threads in `wait_for_room`, `wait_due` and `wait_flushed`.
    pub room_waiters: usize,
    pub due_waiters: usize,
    pub flushed_waiters: usize,
    /// Rises with each call of `wake`.
    pub wakes: u64,
    /// Flushes that have failed.
    pub failures: u64,
    /// Nothing will be flushed any longer.
    pub given_up: bool,
}

/// Whether write-back has become more urgent.
pub(super) type Urgent = bool;

impl State {
    pub fn new(limit: usize, dirty_limit: usize) -> State {
        State {
            files: HashMap::new(),
            order: SecondChance::new(),
            queues: Queues::default(),
            used: 0,
            dirty: 0,
            limit,
            dirty_limit: dirty_limit.min(limit),
            riding: 0,
            stranded: BTreeMap::new(),
            flights: HashMap::new(),
            flying: HashMap::new(),
            last_ticket: 0,
            last_turn: 0,
            hits: 0,
            misses: 0,
            room_waiters: 0,
            due_waiters: 0,
            flushed_waiters: 0,
            wakes: 0,
            failures: 0,
            given_up: false,
        }
    }

    fn dirty_page(&mut self, id: PageId) -> Option<&mut Dirty> {
        Some(self.files.get_mut(&id.ino)?.dirty.get_mut(id.no)?)
    }

    /// Room that clean pages may take: all that dirty ones and flushes do not.
    fn clean_room(&self) -> usize {
        self.limit.saturating_sub(self.used - self.order.bytes())
    }

    /// Sets the limits. Clean pages beyond are evicted; what is dirty goes as it is flushed.
    pub fn set_limits(&mut self, limit: usize, dirty_limit: usize) {
        (self.limit, self.dirty_limit) = (limit, dirty_limit.min(limit));
        self.evict_for(0);
    }

    /// Evicts clean pages until `bytes` more are within the limit. False when there are too few.
    fn evict_for(&mut self, bytes: usize) -> bool {
        while self.used + bytes > self.limit {
            let room = self.clean_room();
            let files = &mut self.files;
            let take_uses = |id: PageId| {
                let page = files.get_mut(&id.ino).and_then(|file| file.clean.get_mut(id.no));
                page.map_or(0, |page| std::mem::take(&mut page.uses))
            };
            let Some(id) = self.order.pop(room, take_uses) else { return false };
            if let Some(content) = self.take_clean(id) {
                self.used -= charge(&content);
            }
        }
        true
    }

    /// Whether `bytes` more, that become dirty, could be admitted now by evicting clean pages.
    pub fn admits(&self, bytes: usize) -> bool {
        bytes <= self.clean_room() && (self.dirty == 0 || self.dirty + bytes <= self.dirty_limit)
    }

    /// Reserves bytes, evicting clean pages. On false nothing has changed.
    fn reserve(&mut self, bytes: usize) -> bool {
        if bytes > self.clean_room() {
            return false;
        }
        let had = self.evict_for(bytes);
        if had {
            self.used += bytes;
        }
        had
    }

    /// Reserves bytes, of which so many become dirty that are reserved already. The first dirty page is
    /// always let in, however small the limit.
    fn admit(&mut self, new: usize, dirty: usize) -> Result<(), Need> {
        if (self.dirty == 0 || self.dirty + dirty <= self.dirty_limit) && self.reserve(new) {
            self.dirty += dirty;
            return Ok(());
        }
        Err(Need::Room(new.max(dirty)))
    }

    /// Whether dirty pages of any age are due.
    pub fn pressed(&self) -> bool {
        self.dirty * 2 > self.dirty_limit || self.rides_much() || self.room_waiters > 0
    }

    /// Whether the catalog holds so many patches that its next checkpoint would have much to do with them.
    fn rides_much(&self) -> bool {
        self.riding > self.dirty_limit / RIDING
    }

    fn take_clean(&mut self, id: PageId) -> Option<Content> {
        let file = self.files.get_mut(&id.ino)?;
        let content = file.clean.remove(id.no)?.content;
        if file.clean.is_empty() && file.dirty.is_empty() {
            self.files.remove(&id.ino);
        }
        Some(content)
    }

    /// Puts in a clean page whose bytes are reserved.
    fn put_clean(&mut self, id: PageId, content: Content, used: bool) {
        self.order.push(id, charge(&content), used);
        self.files.entry(id.ino).or_default().clean.insert(id.no, Clean { content, uses: 0 });
    }

    /// Takes a dirty page out, its bytes staying reserved and counted as dirty.
    fn take_dirty(&mut self, id: PageId) -> Option<Box<Dirty>> {
        let page = self.remove_dirty(id)?;
        if page.flight.is_none() {
            self.queues.remove(&page);
        }
        Some(page)
    }

    /// [`State::take_dirty`] of a page that waits in no queue.
    fn remove_dirty(&mut self, id: PageId) -> Option<Box<Dirty>> {
        let file = self.files.get_mut(&id.ino)?;
        let page = file.dirty.remove(id.no)?;
        file.dirty_bytes -= page.content.len();
        self.riding -= page.riding;
        if file.clean.is_empty() && file.dirty.is_empty() {
            self.files.remove(&id.ino);
        }
        Some(page)
    }

    /// Puts in a new dirty page whose bytes are reserved and counted as dirty; `riding`: bytes of its patches, if large.
    fn put_dirty(
        &mut self,
        id: PageId,
        content: Content,
        changes: Changes,
        (patches, riding): (Range<u32>, usize),
        full: bool,
    ) {
        self.last_turn += 1;
        self.riding += riding;
        // They are superseded with what is written in their place.
        let patches = self.stranded.remove(&id).map_or(patches, |end| 0..end);
        let page = Dirty {
            content,
            changes,
            patches,
            riding,
            since: Instant::now(),
            turn: self.last_turn,
            full,
            flight: None,
        };
        self.queues.push(id, &page);
        let file = self.files.entry(id.ino).or_default();
        file.dirty_bytes += page.content.len();
        file.dirty.insert(id.no, Box::new(page));
    }

    pub fn get(&mut self, id: PageId) -> Option<Content> {
        let found = self.files.get_mut(&id.ino).and_then(|file| {
            if let Some(page) = file.clean.get_mut(id.no) {
                page.uses = page.uses.saturating_add(u32::from(self.order.is_new(id)));
                return Some(page.content.clone());
            }
            file.dirty.get(id.no).map(|page| page.content.clone())
        });
        *if found.is_some() { &mut self.hits } else { &mut self.misses } += 1;
        found
    }

    pub fn peek(&self, id: PageId) -> Option<&Content> {
        let file = self.files.get(&id.ino)?;
        let clean = file.clean.get(id.no).map(|page| &page.content);
        clean.or_else(|| file.dirty.get(id.no).map(|page| &page.content))
    }

    pub fn insert(&mut self, id: PageId, content: Content, access: Access) -> Content {
        if let Some(there) = self.peek(id) {
            return there.clone();
        }
        if self.reserve(charge(&content)) {
            self.put_clean(id, content.clone(), access == Access::Random);
        }
        content
    }

    pub fn write(
        &mut self,
        id: PageId,
        offset: usize,
        bytes: &[u8],
        page_size: usize,
        base: Base,
    ) -> Result<Urgent, Need> {
        let end = offset + bytes.len();
        let to_end = end >= page_size;
        let was_dirty = self.dirty;
        let mut filled = false;
        if let Some(page) = self.dirty_page(id) {
            let frozen = page.frozen();
            let old = page.content.capacity();
            let capacity = grown(old, end, page_size);
            let more = if frozen { capacity + PAGE_OVERHEAD } else { capacity - old };
            if more > 0 {
                self.admit(more, more)?;
            }
            self.change(id, |content, changes| {
                overwrite(content, offset, bytes, capacity, frozen);
                changes.write(offset..end);
            });
            if to_end {
                filled = self.filled(id);
            }
        } else {
            let clean = self.take_clean(id);
            if clean.is_some() {
                self.order.remove(id);
            } else if (base == Base::Unknown || self.is_stranded(id)) && (offset > 0 || end < page_size) {
                return Err(Need::Page);
            }
            let (old, held) = clean.as_ref().map_or((0, 0), |c| (c.capacity(), charge(c)));
            let capacity = grown(old, end, page_size);
            let total = capacity + PAGE_OVERHEAD;
            if let Err(need) = self.admit(total - held, total) {
                if let Some(content) = clean {
                    self.put_clean(id, content, true);
                }
                return Err(need);
            }
            let mut content = clean.unwrap_or_default();
            overwrite(&mut content, offset, bytes, capacity, false);
            let mut changes = Changes::default();
            changes.write(offset..end);
            self.put_dirty(id, content, changes, (0..0, 0), to_end);
            filled = to_end;
        }
        Ok(filled || self.crossed(was_dirty))
    }

    pub fn write_new(&mut self, files: &[(Ino, u8, &[u8])]) -> Result<(NewPages, Urgent), usize> {
        let (was_dirty, rode_much) = (self.dirty, self.rides_much());
        let charged = |(_, shift, content): &(Ino, u8, &[u8])| {
            content.len() + content.len().div_ceil(1 << shift) * PAGE_OVERHEAD
        };
        let bytes = files.iter().map(charged).sum();
        self.admit(bytes, bytes).map_err(|_| bytes)?;
        let mut filled = false;
        let mut pages = NewPages::new();
        for (ino, shift, content) in files {
            for (no, part) in (0..).map(PageNo).zip(content.chunks(1 << shift)) {
                let (id, full) = (PageId { ino: *ino, no }, part.len() == 1 << shift);
                let riding = if part.len() >= LARGE { part.len() } else { 0 };
                let page = Arc::new(part.to_vec());
                pages.push((id, page.clone()));
                self.put_dirty(id, page, Changes::default(), (0..1, riding), full);
                filled |= full;
            }
        }
        Ok((pages, filled || self.crossed(was_dirty) || !rode_much && self.rides_much()))
    }

    pub fn may_cut(&self, id: PageId, offset: usize, base: Base) -> Result<(), Need> {
        let Some(content) = self.peek(id) else {
            let absent = base == Base::Absent && !self.is_stranded(id);
            return if absent { Ok(()) } else { Err(Need::Page) };
        };
        // What is left gets a buffer of its own; that of a page that is not in flush goes.
        let rest = offset + PAGE_OVERHEAD;
        let page = self.files.get(&id.ino).and_then(|file| file.dirty.get(id.no));
        let (new, dirty) = match page {
            _ if content.len() <= offset => (0, 0),
            Some(page) if page.frozen() => (rest, rest),
            Some(_) => (0, 0),
            None => (0, rest),
        };
        let allowed = dirty == 0 || self.dirty == 0 || self.dirty + dirty <= self.dirty_limit;
        if allowed && new <= self.clean_room() { Ok(()) } else { Err(Need::Room(new.max(dirty))) }
    }

    pub fn cut(&mut self, id: PageId, offset: usize) -> Urgent {
        let was_dirty = self.dirty;
        let Some(content) = self.peek(id).filter(|content| content.len() > offset) else { return false };
        // The rest is copied to a buffer of its own size: the old one would keep its room for nothing.
        let rest = Vec::from(content.get(..offset).unwrap_or_default());
        let rest_charge = rest.capacity() + PAGE_OVERHEAD;
        let old_charge = charge(content);
        if let Some(page) = self.dirty_page(id) {
            if page.frozen() {
                // The flush may have begun since room was asked for: the page has been cut in the journal, so it is here, too.
                if !self.reserve(rest_charge) {
                    self.used += rest_charge;
                }
                self.dirty += rest_charge;
            } else {
                self.used -= old_charge - rest_charge;
                self.dirty -= old_charge - rest_charge;
            }
            self.change(id, |content, changes| {
                *content = Arc::new(rest);
                changes.cut(offset);
            });
            if let Some(page) = self.files.get_mut(&id.ino).and_then(|f| f.dirty.get_mut(id.no))
                && page.full
            {
                if page.flight.is_none() {
                    self.queues.remove(page);
                }
                page.full = false;
                if page.flight.is_none() {
                    self.queues.push(id, page);
                }
            }
        } else {
            self.take_clean(id);
            self.order.remove(id);
            self.used -= old_charge - rest_charge;
            self.dirty += rest_charge;
            let mut changes = Changes::default();
            changes.cut(offset);
            self.put_dirty(id, Arc::new(rest), changes, (0..0, 0), false);
        }
        self.crossed(was_dirty)
    }

    fn crossed(&self, was_dirty: usize) -> bool {
        was_dirty * 2 <= self.dirty_limit && self.dirty * 2 > self.dirty_limit
    }

    /// Changes a dirty page for which the bytes are reserved. The first change under a flush leaves the
    /// old content, and its bytes, to the flush.
    fn change(&mut self, id: PageId, change: impl FnOnce(&mut Content, &mut Changes)) {
        let Some(file) = self.files.get_mut(&id.ino) else { return };
        let Some(page) = file.dirty.get_mut(id.no) else { return };
        let (len, held) = (page.content.len(), charge(&page.content));
        change(&mut page.content, &mut page.changes);
        file.dirty_bytes = file.dirty_bytes + page.content.len() - len;
        if let Some(flight) = &mut page.flight
            && !flight.changed
        {
            flight.changed = true;
            self.flights.insert(flight.ticket, held);
            self.last_turn += 1;
            page.turn = self.last_turn;
            page.since = Instant::now();
            page.full = false;
        }
    }

    /// Marks a page as written to its end; says whether that made it due.
    fn filled(&mut self, id: PageId) -> bool {
        let Some(page) = self.files.get_mut(&id.ino).and_then(|f| f.dirty.get_mut(id.no)) else {
            return false;
        };
        if page.full || page.flight.is_some() {
            page.full = true;
            return false;
        }
        self.queues.remove(page);
        page.full = true;
        self.queues.push(id, page);
        true
    }

    pub fn patches_of(&self, ino: Ino, from: PageNo, to: PageNo) -> Vec<(PageNo, Range<u32>)> {
        let mut found: Vec<_> = self.stranded_in(ino, from, to).map(|(id, end)| (id.no, 0..*end)).collect();
        if let Some(file) = self.files.get(&ino).filter(|_| from < to) {
            let pages = file.dirty.range(from..to).filter(|(_, page)| !page.patches.is_empty());
            found.extend(pages.map(|(no, page)| (no, page.patches.clone())));
        }
        found
    }

    fn stranded_in(&self, ino: Ino, from: PageNo, to: PageNo) -> impl Iterator<Item = (&PageId, &u32)> {
        let some = !self.stranded.is_empty() && from < to;
        let [from, to] = [from, to].map(|no| PageId { ino, no });
        some.then(|| self.stranded.range(from..to)).into_iter().flatten()
    }

    pub fn strand(&mut self, id: PageId, patches: u32) {
        self.stranded.insert(id, patches);
    }

    pub fn is_stranded(&self, id: PageId) -> bool {
        !self.stranded.is_empty() && self.stranded.contains_key(&id)
    }

    pub fn discard(&mut self, ino: Ino, from: PageNo, to: PageNo) {
        let stranded: Vec<PageId> = self.stranded_in(ino, from, to).map(|(id, _)| *id).collect();
        stranded.iter().for_each(|id| _ = self.stranded.remove(id));
        let Some(file) = self.files.get(&ino).filter(|_| from < to) else { return };
        let clean: Vec<PageNo> = file.clean.range(from..to).map(|(no, _)| no).collect();
        let dirty: Vec<PageNo> = file.dirty.range(from..to).map(|(no, _)| no).collect();
        for no in clean {
            let id = PageId { ino, no };
            self.order.remove(id);
            if let Some(content) = self.take_clean(id) {
                self.used -= charge(&content);
            }
        }
        for no in dirty {
            let Some(page) = self.take_dirty(PageId { ino, no }) else { continue };
            let bytes = charge(&page.content);
            match &page.flight {
                // The flush still holds the content.
                Some(flight) if !flight.changed => {
                    self.flights.insert(flight.ticket, bytes);
                }
                _ => {
                    self.used -= bytes;
                    self.dirty -= bytes;
                }
            }
        }
    }

    pub fn is_dirty(&self, id: PageId) -> bool {
        self.files.get(&id.ino).is_some_and(|file| file.dirty.get(id.no).is_some())
    }

    pub fn dirty_is_zero(&self, id: PageId) -> Option<bool> {
        let page = self.files.get(&id.ino)?.dirty.get(id.no)?;
        Some(page.content.iter().all(|byte| *byte == 0))
    }

    pub fn patches(
        &self,
        ino: Ino,
        limit: usize,
        cut: Option<(PageNo, usize)>,
    ) -> Option<Vec<(PageNo, u32, Patch)>> {
        let Some(file) = self.files.get(&ino) else { return Some(Vec::new()) };
        let last = cut.map_or(PageNo(u32::MAX), |(no, _)| no);
        // Of a clean page a cut is the only change.
        let clean = cut.and_then(|(no, offset)| {
            let content = file.clean.get(no).map(|page| &page.content).filter(|c| c.len() > offset)?;
            Some((no, content, Changes { zero_from: Some(offset), ..Changes::default() }, 0..0))
        });
        let dirty = file.dirty.range(..=last).map(|(no, page)| {
            let mut changes = page.changes.clone();
            if let Some((_, offset)) = cut.filter(|(cut, offset)| *cut == no && page.content.len() > *offset)
            {
                changes.cut(offset);
            }
            if let Some(flight) = &page.flight {
                changes = flight.covered.clone().then(changes);
            }
            (no, &page.content, changes, page.patches.clone())
        });
        let changed = |page: &(PageNo, &Content, Changes, Range<u32>)| !page.2.is_empty();
        let mut bytes = 0;
        let mut patches = Vec::new();
        for (no, content, changes, before) in dirty.filter(changed).chain(clean) {
            bytes += changes.bytes();
            if bytes > limit || before.len() as u32 > MOST_PATCHES {
                return None;
            }
            let data = changes.ranges.into_iter().filter_map(|range| {
                let bytes = content.get(range.clone())?.to_vec();
                Some(Patch::Data { offset: range.start as u32, bytes })
            });
            let all = changes.zero_from.map(|z| Patch::ZeroFrom(z as u32)).into_iter().chain(data);
            patches.extend(all.zip(before.end..).map(|(patch, n)| (no, n, patch)));
        }
        Some(patches)
    }

    pub fn journalled(&mut self, ino: Ino, upto: &[(PageNo, u32)]) -> Urgent {
        let rode_much = self.rides_much();
        let Some(file) = self.files.get_mut(&ino) else { return false };
        for (no, end) in upto {
            let Some(page) = file.dirty.get_mut(*no) else { continue };
            let bytes = Some(page.changes.bytes()).filter(|bytes| *bytes >= LARGE).unwrap_or(0);
            page.riding += bytes;
            self.riding += bytes;
            page.changes = Changes::default();
            page.patches.end = *end;
            if let Some(flight) = &mut page.flight {
                flight.covered = Changes::default();
                if !flight.changed {
                    // They say nothing that the frame does not.
                    flight.patches = *end;
                }
            }
        }
        !rode_much && self.rides_much()
    }

    pub fn insert_patched(&mut self, id: PageId, content: Content, patches: u32) -> bool {
        let bytes = charge(&content);
        if self.dirty_page(id).is_some() || !self.reserve(bytes) {
            return false;
        }
        if let Some(old) = self.take_clean(id) {
            self.order.remove(id);
            self.used -= charge(&old);
        }
        self.dirty += bytes;
        self.put_dirty(id, content, Changes::default(), (0..patches, 0), false);
        true
    }

    pub fn dirty_bytes(&self, ino: Ino) -> Option<usize> {
        self.files.get(&ino).filter(|f| !f.dirty.is_empty()).map(|f| f.dirty_bytes)
    }

    /// How many pages of a file are in memory.
    pub fn pages_of(&self, ino: Ino) -> usize {
        self.files.get(&ino).map_or(0, |file| file.clean.len() + file.dirty.len())
    }

    pub fn dirty_pages(&self, ino: Ino) -> Vec<PageNo> {
        self.files.get(&ino).map(|f| f.dirty.iter().map(|(no, _)| no).collect()).unwrap_or_default()
    }

    pub fn dirty_files(&self) -> Vec<Ino> {
        self.files.iter().filter(|(_, f)| !f.dirty.is_empty()).map(|(ino, _)| *ino).collect()
    }

    /// Recounts everything that is kept as a running sum.
    #[cfg(test)]
    pub fn verify(&self) {
        let clean: usize =
            self.files.values().flat_map(|f| f.clean.iter()).map(|(_, page)| charge(&page.content)).sum();
        let dirty: usize =
            self.files.values().flat_map(|f| f.dirty.iter()).map(|(_, page)| charge(&page.content)).sum();
        let held: usize = self.flights.values().sum();
        assert_eq!(self.order.bytes(), clean);
        assert_eq!(self.dirty, dirty + held);
        assert_eq!(self.used, clean + dirty + held);
        // A cut whose page came to be flushed meanwhile leaves what the flush holds beyond the limit.
        assert!(self.used <= self.limit + held);
        let waiting: usize = self
            .files
            .values()
            .flat_map(|f| f.dirty.iter())
            .filter(|(_, page)| page.flight.is_none())
            .count();
        assert_eq!(self.queues.full.len() + self.queues.partial.len(), waiting);
        assert_eq!(self.flying.values().sum::<usize>(), self.flights.len());
        let pages = || self.files.values().flat_map(|file| file.dirty.iter().map(|(_, page)| page));
        assert_eq!(self.riding, pages().map(|page| page.riding).sum::<usize>());
        assert!(pages().all(|page| page.riding == 0 || !page.patches.is_empty()));
        for file in self.files.values() {
            assert!(!(file.clean.is_empty() && file.dirty.is_empty()));
            assert_eq!(
                file.dirty_bytes,
                file.dirty.iter().map(|(_, page)| page.content.len()).sum::<usize>()
            );
            for (_, page) in file.dirty.iter() {
                let last = page.changes.ranges.last().map_or(0, |r| r.end);
                assert!(last <= page.content.len());
                assert!(page.changes.ranges.windows(2).all(|w| matches!(w, [a, b] if a.end < b.start)));
            }
        }
    }
}
