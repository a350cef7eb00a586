//! In which order clean pages are evicted: a segmented LRU, so that a scan passes through without
//! pushing out what is used again and again.
//!
//! A page begins on probation. A second use protects it, and protected pages take at most four fifths of the
//! room there is for clean ones; the coldest of them fall back on probation. Eviction takes from probation first.

use lru::LruCache;

use super::PageId;

/// The page's place is kept here; the page itself lies with its file.
#[derive(Debug)]
pub(super) struct Lru {
    probation: Segment,
    protected: Segment,
    /// The page used last: further uses in a row are one use (a scan in small steps).
    last: Option<PageId>,
}

#[derive(Debug)]
struct Segment {
    pages: LruCache<PageId, Entry>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Bytes that the page is charged with.
    charge: usize,
    /// Whether it was used already.
    used: bool,
}

impl Segment {
    fn new() -> Segment {
        Segment { pages: LruCache::unbounded(), bytes: 0 }
    }

    fn push(&mut self, id: PageId, entry: Entry) {
        self.bytes += entry.charge;
        if let Some((_, old)) = self.pages.push(id, entry) {
            self.bytes -= old.charge;
        }
    }

    fn remove(&mut self, id: &PageId) -> Option<Entry> {
        let entry = self.pages.pop(id)?;
        self.bytes -= entry.charge;
        Some(entry)
    }

    fn pop(&mut self) -> Option<(PageId, Entry)> {
        let (id, entry) = self.pages.pop_lru()?;
        self.bytes -= entry.charge;
        Some((id, entry))
    }
}

impl Lru {
    pub fn new() -> Lru {
        Lru { probation: Segment::new(), protected: Segment::new(), last: None }
    }

    /// Bytes of all clean pages.
    pub fn bytes(&self) -> usize {
        self.probation.bytes + self.protected.bytes
    }

    /// Takes in a page. `used`: its coming was a use; otherwise the next one is its first.
    pub fn push(&mut self, id: PageId, charge: usize, used: bool) {
        if used {
            // Whoever loads a page on demand asks for it again at once: still the same use.
            self.last = Some(id);
        }
        self.probation.push(id, Entry { charge, used });
    }

    /// Notes a use of a page. `room` is what clean pages may take in all.
    pub fn touch(&mut self, id: PageId, room: usize) {
        if self.protected.pages.promote(&id) {
            return;
        }
        let again = self.last.replace(id) == Some(id);
        let Some(entry) = self.probation.pages.get_mut(&id) else { return };
        if !entry.used {
            entry.used = true;
        } else if !again && let Some(entry) = self.probation.remove(&id) {
            self.protected.push(id, entry);
            while self.protected.bytes > protected_limit(room)
                && let Some((id, entry)) = self.protected.pop()
            {
                self.probation.push(id, entry);
            }
        }
    }

    /// Removes a page that is evicted no longer.
    pub fn remove(&mut self, id: PageId) {
        if self.probation.remove(&id).is_none() {
            self.protected.remove(&id);
        }
    }

    /// Removes and names the page to be evicted next.
    pub fn pop(&mut self, room: usize) -> Option<PageId> {
        let (first, second) = if self.protected.bytes > protected_limit(room) {
            (&mut self.protected, &mut self.probation)
        } else {
            (&mut self.probation, &mut self.protected)
        };
        first.pop().or_else(|| second.pop()).map(|(id, _)| id)
    }
}

fn protected_limit(room: usize) -> usize {
    room / 5 * 4
}
