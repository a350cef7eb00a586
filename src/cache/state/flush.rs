//! Write-back of pages: which are due, and the flushes under way.

use std::time::{Duration, Instant};

use super::super::dirty::{Dirty, Flight};
use super::super::{Flush, Flushed, PageId};
use super::{State, charge};
use crate::format::Ino;

impl State {
    fn begin_flush(&mut self, id: PageId) -> Option<Flush> {
        let page = self.files.get_mut(&id.ino)?.dirty.get_mut(id.no).filter(|p| p.flight.is_none())?;
        self.queues.remove(page);
        self.last_ticket += 1;
        page.flight = Some(Box::new(Flight {
            ticket: self.last_ticket,
            patches: page.patches.end,
            covered: std::mem::take(&mut page.changes),
            changed: false,
            since: page.since,
            turn: page.turn,
            full: page.full,
        }));
        self.flights.insert(self.last_ticket, 0);
        *self.flying.entry(id.ino).or_default() += 1;
        Some(Flush { id, content: page.content.clone(), ticket: self.last_ticket })
    }

    pub fn flush_file(&mut self, ino: Ino) -> Vec<Flush> {
        let pages = self.dirty_pages(ino);
        pages.into_iter().filter_map(|no| self.begin_flush(PageId { ino, no })).collect()
    }

    pub fn flush_due(&mut self, age: Duration, max_bytes: usize) -> Vec<Flush> {
        let mut due = Vec::new();
        let mut bytes = 0;
        let (pressed, riding, now) = (self.pressed(), self.rides_much(), Instant::now());
        let page = |id: &PageId| self.files.get(&id.ino)?.dirty.get(id.no);
        let is_old = |id: &PageId| page(id).is_some_and(|page| now.duration_since(page.since) >= age);
        let (mut full, mut partial) =
            (self.queues.full.iter().peekable(), self.queues.partial.iter().peekable());
        while bytes < max_bytes {
            // In the order in which they were first written, so that none waits for ever for others that come faster than
            // they are flushed. Partial ones that are only due because room is short come last.
            let equal = partial.peek().filter(|(_, id)| riding || is_old(id));
            let next = match (full.peek(), equal) {
                (Some((turn, _)), Some((other, _))) if turn < other => full.next(),
                (Some(_), None) => full.next(),
                (None, None) if !pressed => break,
                _ => partial.next(),
            };
            let Some((_, id)) = next else { break };
            let Some(page) = page(&id) else { continue };
            bytes += page.content.len().max(1);
            if bytes > max_bytes && !due.is_empty() {
                break;
            }
            due.push(id);
        }
        drop((full, partial));
        due.sort_unstable();
        due.into_iter().filter_map(|id| self.begin_flush(id)).collect()
    }

    /// Whether something is due, whatever its age.
    pub fn due_now(&self) -> bool {
        !self.queues.full.is_empty() || (self.pressed() && !self.queues.partial.is_empty())
    }

    /// When something is due, or would be at the earliest if nothing else is written.
    pub fn next_due(&self, age: Duration, now: Instant) -> Instant {
        if self.due_now() {
            return now;
        }
        let page = self.queues.partial.first().and_then(|id| self.files.get(&id.ino)?.dirty.get(id.no));
        page.map_or(now, |p| p.since).checked_add(age).unwrap_or(now + Duration::from_secs(3600))
    }

    /// Ends a flush: what it held alone is given back. The page, unless it was discarded.
    fn end_flush(&mut self, flush: &Flush) -> Option<(Flight, &mut Dirty)> {
        let held = self.flights.remove(&flush.ticket)?;
        self.used -= held;
        self.dirty -= held;
        if let Some(count) = self.flying.get_mut(&flush.id.ino) {
            *count -= 1;
            if *count == 0 {
                self.flying.remove(&flush.id.ino);
            }
        }
        let page = self.dirty_page(flush.id)?;
        let flight = page.flight.take_if(|f| f.ticket == flush.ticket)?;
        Some((*flight, page))
    }

    pub fn outcome(&self, flush: &Flush) -> Flushed {
        let page = self.files.get(&flush.id.ino).and_then(|file| file.dirty.get(flush.id.no));
        match page.and_then(|page| Some((page, page.flight.as_ref()?))) {
            Some((page, flight)) if flight.ticket == flush.ticket => {
                Flushed::Stored { patches: page.patches.start..flight.patches }
            }
            _ => Flushed::Gone,
        }
    }

    pub fn finish_flush(&mut self, flush: &Flush) -> Flushed {
        let Some((flight, page)) = self.end_flush(flush) else { return Flushed::Gone };
        let patches = page.patches.start..flight.patches;
        page.patches.start = flight.patches;
        if page.patches.is_empty() {
            let rode = std::mem::take(&mut page.riding);
            self.riding -= rode;
        }
        if flight.changed {
            self.requeue(flush.id);
        } else if let Some(page) = self.remove_dirty(flush.id) {
            self.dirty -= charge(&page.content);
            self.put_clean(flush.id, page.content, true);
        }
        Flushed::Stored { patches }
    }

    pub fn fail_flush(&mut self, flush: &Flush) {
        self.failures += 1;
        let Some((flight, page)) = self.end_flush(flush) else { return };
        page.changes = flight.covered.then(std::mem::take(&mut page.changes));
        page.since = flight.since;
        page.turn = flight.turn;
        page.full |= flight.full;
        self.requeue(flush.id);
    }

    fn requeue(&mut self, id: PageId) {
        if let Some(page) = self.files.get(&id.ino).and_then(|f| f.dirty.get(id.no)) {
            self.queues.push(id, page);
        }
    }

    pub fn in_flush(&self, ino: Ino) -> bool {
        self.flying.contains_key(&ino)
    }
}
