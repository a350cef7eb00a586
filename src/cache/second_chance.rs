//! In which order clean pages are evicted: second chance, in two queues, so that a scan passes through without pushing
//! out what is used again and again.
//!
//! A page begins on probation. One that was used twice when its turn comes to be evicted is protected, and
//! protected pages take at most four fifths of the room there is for clean ones; those of them that were not used since their
//! last turn fall back on probation. Eviction takes from probation first. That a page is used is noted in the page:
//! here it would be a search, and changes of its neighbours.

use lru::LruCache;

use super::PageId;

/// The most pages that one eviction passes over.
const CHANCES: usize = 64;

/// The order of the pages; they themselves lie with their files.
#[derive(Debug)]
pub(super) struct SecondChance {
    probation: Segment,
    protected: Segment,
    /// The page used last: further uses in a row are one use (a scan in small steps).
    last: Option<PageId>,
}

/// Pages in the order in which they came.
#[derive(Debug)]
struct Segment {
    pages: LruCache<PageId, Entry>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Bytes that the page is charged with.
    charge: usize,
    /// Whether it was used before it came here.
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

impl SecondChance {
    pub fn new() -> SecondChance {
        SecondChance { probation: Segment::new(), protected: Segment::new(), last: None }
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

    /// Whether a use of a page is another one than the last.
    pub fn is_new(&mut self, id: PageId) -> bool {
        self.last.replace(id) != Some(id)
    }

    /// Removes a page that is evicted no longer.
    pub fn remove(&mut self, id: PageId) {
        if self.probation.remove(&id).is_none() {
            self.protected.remove(&id);
        }
    }

    /// Removes and names the page to be evicted next. `room` is what clean pages may take in all; `take_uses` tells how often
    /// a page was used since it was last asked for that.
    pub fn pop(&mut self, room: usize, mut take_uses: impl FnMut(PageId) -> u32) -> Option<PageId> {
        for _ in 0..CHANCES {
            if self.protected.bytes > protected_limit(room) || self.probation.pages.is_empty() {
                let (id, entry) = self.protected.pop()?;
                let back = if take_uses(id) > 0 { &mut self.protected } else { &mut self.probation };
                back.push(id, entry);
            } else {
                let (id, entry) = self.probation.pop()?;
                if take_uses(id) + u32::from(entry.used) < 2 {
                    return Some(id);
                }
                self.protected.push(id, Entry { used: true, ..entry });
            }
        }
        self.probation.pop().or_else(|| self.protected.pop()).map(|(id, _)| id)
    }
}

fn protected_limit(room: usize) -> usize {
    room / 5 * 4
}
