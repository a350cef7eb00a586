//! Which key goes first when the store is full, by policy.

use crate::clock::Time;
use crate::config::Policy;
use crate::format::{Ino, UseRecord};

/// A key that may be evicted, as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The inode.
    pub ino: Ino,
    /// When it was last used or changed, and how often it was used.
    pub used: UseRecord,
    /// When anything of it was last changed.
    pub changed: Time,
    /// When it expires.
    pub expires: Option<Time>,
    /// Bytes on the disk.
    pub stored: u64,
}

/// The place of a key in the order of eviction: the least goes first.
pub type Rank = (i64, i64);

/// A key's place at `now`.
pub fn rank(policy: Policy, candidate: &Candidate, now: Time) -> Rank {
    let used = candidate.used.at.0;
    match policy {
        Policy::None | Policy::Lru => (used, 0),
        Policy::Lfu => (i64::from(hits_at(candidate.used, now)), used),
        Policy::Size => (-i64::try_from(candidate.stored).unwrap_or(i64::MAX), used),
        Policy::Ttl => (candidate.expires.map_or(i64::MAX, |at| at.0), used),
    }
}

/// How long it takes until a use counts half: what was used every day last week and not since gives way to what was
/// used a few times today.
const HALF_LIFE: i64 = 24 * 3600 * 1_000_000_000;

/// How many uses count at `now`.
pub fn hits_at(used: UseRecord, now: Time) -> u32 {
    let lives = now.0.saturating_sub(used.at.0).max(0) / HALF_LIFE;
    u32::try_from(lives).ok().and_then(|lives| used.hits.checked_shr(lives)).unwrap_or(0)
}

/// Both uses together.
pub fn merge(old: UseRecord, new: UseRecord) -> UseRecord {
    UseRecord { at: old.at.max(new.at), hits: hits_at(old, new.at).saturating_add(new.hits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = HALF_LIFE;

    fn candidate(ino: u64, at: i64, hits: u32) -> Candidate {
        let used = UseRecord { at: Time(at), hits };
        Candidate { ino: Ino(ino), used, changed: Time(0), expires: None, stored: 1 }
    }

    /// The numbers of candidates in the order in which they go.
    fn order(policy: Policy, mut all: Vec<Candidate>) -> Vec<u64> {
        all.sort_by_key(|candidate| rank(policy, candidate, Time(100)));
        all.into_iter().map(|candidate| candidate.ino.0).collect()
    }

    #[test]
    fn each_policy_has_its_order() {
        let often = candidate(1, 10, 9);
        let late = candidate(2, 30, 1);
        let large = Candidate { stored: 100, ..candidate(3, 20, 2) };
        let brief = Candidate { expires: Some(Time(500)), ..candidate(4, 40, 3) };
        let all = vec![often, late, large, brief];
        assert_eq!(order(Policy::Lru, all.clone()), [1, 3, 2, 4]);
        assert_eq!(order(Policy::Lfu, all.clone()), [2, 3, 4, 1]);
        assert_eq!(order(Policy::Size, all.clone()), [3, 1, 2, 4]);
        assert_eq!(order(Policy::Ttl, all), [4, 1, 3, 2]);
    }

    #[test]
    fn a_use_counts_half_after_a_day_and_nothing_in_the_end() {
        let used = UseRecord { at: Time(0), hits: 8 };
        for (at, hits) in [(0, 8), (DAY - 1, 8), (DAY, 4), (3 * DAY, 1), (4 * DAY, 0), (i64::MAX, 0)] {
            assert_eq!(hits_at(used, Time(at)), hits, "{at}");
        }
        let both = merge(used, UseRecord { at: Time(DAY), hits: 3 });
        assert_eq!(both, UseRecord { at: Time(DAY), hits: 7 });
    }
}
