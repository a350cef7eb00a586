//! Uses of keys that are not in the catalog yet: a use costs an entry here, and all that came together are
//! written now and then in one batch.

use std::collections::HashMap;

use crate::clock::Time;
use crate::format::{Ino, UseRecord};

/// The most keys that wait. Some 40 bytes each; uses of further ones are lost, which makes the order of eviction a
/// little coarser and nothing else.
const MOST: usize = 32_768;

/// Uses of a key within this time count as one: a file is read by many requests.
const ONE_USE: i64 = 1_000_000_000;

/// Uses by key.
#[derive(Debug, Default)]
pub struct Uses(HashMap<Ino, UseRecord>);

impl Uses {
    /// Notes that a key is used. True when it is time to write them down.
    pub fn note(&mut self, ino: Ino, now: Time) -> bool {
        if let Some(used) = self.0.get_mut(&ino) {
            if now.0.saturating_sub(used.at.0) >= ONE_USE {
                *used = UseRecord { at: now, hits: used.hits.saturating_add(1) };
            }
        } else if self.0.len() < MOST {
            self.0.insert(ino, UseRecord { at: now, hits: 1 });
        }
        self.0.len() == MOST / 2
    }

    /// Whether it is time to write them down.
    pub fn is_many(&self) -> bool {
        self.0.len() >= MOST / 2
    }

    /// What has been noted of a key.
    pub fn get(&self, ino: Ino) -> Option<UseRecord> {
        self.0.get(&ino).copied()
    }

    /// Takes back what could not be written down, with what has been noted since.
    pub fn put_back(&mut self, uses: &[(Ino, UseRecord)]) {
        for (ino, used) in uses {
            if let Some(since) = self.0.get_mut(ino) {
                since.hits = since.hits.saturating_add(used.hits);
            } else if self.0.len() < MOST {
                self.0.insert(*ino, *used);
            }
        }
    }

    /// Takes all of them, by key.
    pub fn take(&mut self) -> Vec<(Ino, UseRecord)> {
        let mut all: Vec<_> = self.0.drain().collect();
        all.sort_unstable_by_key(|(ino, _)| *ino);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_within_a_second_count_once_and_the_last_one_stays() {
        let mut uses = Uses::default();
        for at in [0, 1, ONE_USE - 1, ONE_USE, 3 * ONE_USE] {
            uses.note(Ino(5), Time(at));
        }
        assert_eq!(uses.get(Ino(5)), Some(UseRecord { at: Time(3 * ONE_USE), hits: 3 }));
        assert_eq!(uses.take().len(), 1);
        assert_eq!(uses.get(Ino(5)), None);
    }

    #[test]
    fn no_more_than_the_most_are_kept() {
        let mut uses = Uses::default();
        let urged = (0..2 * MOST as u64).filter(|ino| uses.note(Ino(*ino), Time(0))).count();
        assert_eq!(urged, 1);
        assert_eq!(uses.take().len(), MOST);
    }
}
