//! How many references callers hold to each inode (the kernel: its lookup count).
//!
//! There may be a million, so they are kept dense: two bytes each, in chunks by inode number.

use foldhash::HashMap;

use crate::format::Ino;

/// Inodes of a chunk: small enough that scattered ones waste little.
const CHUNK: u64 = 64;

#[derive(Debug, Default)]
pub(super) struct Refs {
    chunks: HashMap<u64, Box<[u16; CHUNK as usize]>>,
    /// What goes beyond two bytes.
    overflow: HashMap<Ino, u64>,
}

impl Refs {
    fn place(ino: Ino) -> (u64, usize) {
        (ino.0 / CHUNK, (ino.0 % CHUNK) as usize)
    }

    fn low(&mut self, ino: Ino) -> Option<&mut u16> {
        let (chunk, at) = Self::place(ino);
        self.chunks.get_mut(&chunk).and_then(|chunk| chunk.get_mut(at))
    }

    pub(super) fn take(&mut self, ino: Ino) {
        let (chunk, at) = Self::place(ino);
        let chunk = self.chunks.entry(chunk).or_insert_with(|| Box::new([0; CHUNK as usize]));
        match chunk.get_mut(at) {
            Some(low) if *low < u16::MAX => *low += 1,
            _ => *self.overflow.entry(ino).or_default() += 1,
        }
    }

    /// Gives back `count` references (more than there are count as all). True when none is left.
    pub(super) fn give(&mut self, ino: Ino, mut count: u64) -> bool {
        if let Some(high) = self.overflow.get_mut(&ino) {
            let part = count.min(*high);
            *high -= part;
            count -= part;
            if *high == 0 {
                self.overflow.remove(&ino);
            }
        }
        let (chunk, _) = Self::place(ino);
        let Some(low) = self.low(ino) else { return true };
        *low = low.saturating_sub(count.min(u64::from(u16::MAX)) as u16);
        let left = *low;
        if left == 0 && self.chunks.get(&chunk).is_some_and(|c| c.iter().all(|n| *n == 0)) {
            self.chunks.remove(&chunk);
        }
        left == 0 && !self.overflow.contains_key(&ino)
    }

    pub(super) fn held(&self, ino: Ino) -> bool {
        let (chunk, at) = Self::place(ino);
        self.chunks.get(&chunk).and_then(|c| c.get(at)).is_some_and(|n| *n > 0)
            || self.overflow.contains_key(&ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_held_until_every_reference_is_given_back() {
        let mut refs = Refs::default();
        let ino = Ino(77);
        for _ in 0..70_000 {
            refs.take(ino);
        }
        assert!(!refs.give(ino, 69_999));
        assert!(refs.held(ino));
        assert!(refs.give(ino, 1));
        assert!(!refs.held(ino));
        assert!(refs.chunks.is_empty() && refs.overflow.is_empty());
    }
}
