//! Very many keys in a store that takes no more than two thirds of them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::Store;
use larder::clock::{Clock, Time};
use larder::config::{Policy, Settings};
use larder::io::RealDisk;
use larder::store::Mark;
use larder::volume::Volume;

use crate::support::random::{Random, setting};
use crate::{BESIDE, MIB};

/// Of the first quarter so many keys apart one is got now and then.
const USED: u64 = 20;

fn open(dir: &Path, limit: u64, clock: &Clock) -> Store {
    let settings = Settings {
        cache_size_limit: 64 << 20,
        cache_eviction_policy: Policy::Lru,
        storage_size_limit: Some(limit),
        ..Settings::new(dir)
    };
    let volume = Volume::open(settings, Arc::new(RealDisk), clock.clone()).unwrap();
    Store::options().of_volume(volume, dir)
}

fn key(n: u64) -> String {
    format!("cache/{:02}/{n}", n % 100)
}

fn quantile(times: &mut [Duration], part: usize) -> Duration {
    times.sort_unstable();
    times[times.len() * part / 1000]
}

/// The long form: LARDER_TEST_KEYS=1000000 LARDER_TEST_LONG=1, in a release build.
#[test]
fn of_very_many_keys_the_old_ones_go_those_that_are_used_stay_and_no_writer_waits_long() {
    let keys = setting("LARDER_TEST_KEYS", 10_000);
    let len = (160 * MIB / keys).max(1024) as usize;
    let limit = keys * len as u64 / 3 * 2;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let content = Random::of(7).bytes(len + 1024);
    // A millisecond a key: uses within a second are one, and a fast machine would have all of this in two.
    let start = Clock::System.now();
    let clock = Clock::manual(start);
    let mut store = open(&path, limit, &clock);
    store.mark("", Mark::Evictable(Some(true))).unwrap();
    let (mut before, mut meanwhile) = (Vec::new(), Vec::new());
    let mut most = 0;
    let begun = Instant::now();
    for n in 0..keys {
        if n >= keys / 4 && n % (keys / 32) == 0 {
            (0..keys / 4).step_by(USED as usize).for_each(|n| drop(store.get(key(n)).unwrap()));
        }
        if n == keys / 2 {
            // What is known of use outlasts this.
            store.close().unwrap();
            store = open(&path, limit, &clock);
        }
        clock.set(Time(start.0 + n as i64 * 1_000_000));
        let start = (n % 1024) as usize;
        let asked = Instant::now();
        store.set(key(n), &content[start..start + len]).unwrap_or_else(|error| panic!("key {n}: {error}"));
        let took = asked.elapsed();
        if n < keys / 4 {
            before.push(took)
        } else {
            meanwhile.push(took)
        }
        if n % 500 == 0 {
            most = most.max(store.stats().unwrap().disk_bytes);
        }
    }
    let took = begun.elapsed();
    // The evictor goes on down to its low mark; what is listed is to stay.
    store.align().unwrap();
    let mut left: Vec<u64> = store
        .keys("cache/")
        .map(|key| key.unwrap().to_string().rsplit('/').next().unwrap().parse().unwrap())
        .collect();
    left.sort_unstable();
    let used = |n: u64| n < keys / 4 && n.is_multiple_of(USED);
    let used_left = left.iter().filter(|n| used(**n)).count() as u64;
    // Of those that are left in exact order, all but the used ones would be the newest.
    let newest = keys - (left.len() as u64 - used_left);
    let young = left.iter().filter(|n| **n >= newest).count() as u64;
    let (set, slowest) = (quantile(&mut meanwhile, 990), *meanwhile.last().unwrap());
    println!(
        "{keys} keys of {len} bytes, limit {} MiB, at most {} MiB, in {took:?}; a set {:?}, p99 {:?} before, {:?}, p99 {set:?}, \
         p99.9 {:?} and {slowest:?} at most meanwhile; {} keys left, {young} of them the newest, {used_left} of {} used",
        limit / MIB,
        most / MIB,
        quantile(&mut before, 500),
        quantile(&mut before, 990),
        quantile(&mut meanwhile, 500),
        quantile(&mut meanwhile, 999),
        left.len(),
        keys / 4 / USED
    );
    assert!(most <= limit + BESIDE, "{most} bytes of {limit}");
    assert!((keys / 10..keys * 2 / 3).contains(&(left.len() as u64)), "{} keys are left", left.len());
    assert!(young * 10 >= (left.len() as u64 - used_left) * 8, "{young} of {} are of the newest", left.len());
    assert!(used_left * 10 >= keys / 4 / USED * 8, "{used_left} of those that were used");
    // Figures of a quiet machine: only asked for where the long form is.
    if setting("LARDER_TEST_LONG", 0) != 0 {
        assert!(set < Duration::from_millis(50) && slowest < Duration::from_secs(5), "writers waited");
    }
    for n in left.iter().step_by(97) {
        let start = (n % 1024) as usize;
        assert!(store.get(key(*n)).unwrap().unwrap() == content[start..start + len], "key {n}");
    }
    store.close().unwrap();
    let checked =
        std::process::Command::new(env!("CARGO_BIN_EXE_larder")).arg("check").arg(&path).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}
