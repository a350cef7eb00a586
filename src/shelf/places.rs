//! Where among the inode numbers to look for keys, so that each that is there is as likely to be found as any other.
//!
//! Numbers are never used again: where a store has seen much come and go, most of them are empty for good, and a
//! number drawn among all would nearly always lead to the same few oldest keys, the first behind the void. So what was
//! found empty is remembered, and nothing drawn from it again. Each draw into a void makes it known, so few are needed.

use std::collections::BTreeMap;

/// Shorter ranges are not worth remembering: they make the key behind them a little likelier, and that is all.
const SHORTEST: u64 = 256;

/// The most ranges that are remembered, 16 bytes each; the shortest are forgotten.
const MOST: usize = 4096;

/// Ranges of numbers that are empty for good, and dice.
#[derive(Debug)]
pub struct Places {
    /// From the first number to before the second; they do not touch.
    empty: BTreeMap<u64, u64>,
    dice: u64,
}

impl Places {
    /// Nothing is known to be empty. The same seed gives the same draws.
    pub fn new(seed: u64) -> Places {
        Places { empty: BTreeMap::new(), dice: seed | 1 }
    }

    /// How many numbers below `end` may be in use.
    pub fn left(&self, end: u64) -> u64 {
        let empty = |(from, to): (&u64, &u64)| (*to).min(end).saturating_sub(*from);
        end.saturating_sub(self.empty.iter().map(empty).sum())
    }

    /// A number below `end` that may be in use; `None` when none is.
    pub fn draw(&mut self, end: u64) -> Option<u64> {
        let left = self.left(end);
        // xorshift64*
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        let drawn = self.dice.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        let mut at = drawn.checked_rem(left)?;
        for (from, to) in &self.empty {
            if at < *from {
                break;
            }
            at += to - from;
        }
        Some(at)
    }

    /// Takes note that no number from the first to before the second is in use.
    pub fn void(&mut self, mut from: u64, mut to: u64) {
        if to.saturating_sub(from) < SHORTEST {
            return;
        }
        while let Some((start, end)) = self
            .empty
            .range(..=to)
            .next_back()
            .map(|(start, end)| (*start, *end))
            .filter(|(_, end)| *end >= from)
        {
            self.empty.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        self.empty.insert(from, to);
        if self.empty.len() > MOST {
            let shortest = self.empty.iter().min_by_key(|(from, to)| *to - *from).map(|(from, _)| *from);
            shortest.map(|from| self.empty.remove(&from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws as one does who looks for the next key from there.
    fn find(places: &mut Places, keys: &[u64], end: u64) -> u64 {
        let at = places.draw(end).unwrap();
        let found = *keys.iter().find(|key| **key >= at).unwrap_or(&end);
        places.void(at, found);
        found
    }

    #[test]
    fn keys_behind_a_void_are_found_as_often_as_others() {
        // 100 old keys and 100 new ones, and a million gone in between.
        let keys: Vec<u64> = (0..100).chain(1_000_000..1_000_100).collect();
        let mut places = Places::new(7);
        for _ in 0..100 {
            find(&mut places, &keys, 1_000_100);
        }
        assert!(places.left(1_000_100) < 200 + 2 * SHORTEST, "{}", places.left(1_000_100));
        let mut counts = BTreeMap::new();
        for _ in 0..20_000 {
            *counts.entry(find(&mut places, &keys, 1_000_100)).or_insert(0) += 1;
        }
        let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
        // The first key behind the void has what is left of it beside its own number.
        assert_eq!(counts.len(), 200);
        assert!(*least > 10 && *most < 20_000, "{least} {most}");
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let mut places = Places::new(1);
        for (from, to) in [(1000, 2000), (3000, 4000), (2000, 3000), (500, 1500), (5000, 5010)] {
            places.void(from, to);
        }
        assert_eq!(places.empty, BTreeMap::from([(500, 4000)]));
        assert_eq!(places.left(6000), 2500);
        assert_eq!(places.left(1000), 500);
        places.void(0, 6000);
        assert_eq!(places.draw(6000), None);
    }
}
