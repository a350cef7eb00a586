//! How often a store that evicts still has what is asked for: the policies side by side, on the same traces.
//!
//! `cargo bench --bench hits -- [DIR] [--requests N]` makes stores of 128 MiB in DIR (default: the system's directory for temporary
//! files), asks for keys, and sets those that are missing, one second of the store's clock a request. Seeds are fixed. Beside
//! the policies stands exact LRU of as many bytes, computed in memory, and what is hit when nothing is ever evicted.
//!
//! Output: a row a policy: `policy<TAB>Zipf<TAB>Zipf with scans`, hits in percent of the Zipf requests.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder::clock::{Clock, Time};
use larder::config::{Policy, Settings};
use larder::error::{Error, Result};
use larder::format::ROOT;
use larder::io::RealDisk;
use larder::volume::{Caller, Change, Expiry, NewFile, To, Volume};

/// Keys that are asked for by Zipf's law: some ten times as many as fit.
const KEYS: u64 = 60_000;

/// The exponent: that of web and build caches.
const EXPONENT: f64 = 0.9;

/// In the trace with scans, each so many requests...
const SCAN_EVERY: u64 = 10_000;

/// ...so many keys are asked for once and never again: half of what fits.
const SCAN: u64 = 3_000;

/// What a store may take.
const LIMIT: u64 = 128 << 20;

/// Bytes that eviction leaves in it: between its marks.
const KEPT: u64 = 104 << 20;

const SECOND: i64 = 1_000_000_000;

/// A key that is asked for; scanned ones are no hits for anybody.
#[derive(Clone, Copy)]
struct Request {
    key: u64,
    scanned: bool,
}

/// xorshift64*: the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

fn trace(requests: u64, scans: bool) -> Vec<Request> {
    let mut sums = Vec::with_capacity(KEYS as usize);
    let mut sum = 0.0;
    for rank in 1..=KEYS {
        sum += (rank as f64).powf(-EXPONENT);
        sums.push(sum);
    }
    let mut dice = Dice(42);
    let mut trace = Vec::new();
    let mut fresh = KEYS;
    for n in 0..requests {
        if scans && n % SCAN_EVERY == SCAN_EVERY - 1 {
            trace.extend((fresh..fresh + SCAN).map(|key| Request { key, scanned: true }));
            fresh += SCAN;
        }
        let at = (dice.next() >> 11) as f64 / (1u64 << 53) as f64 * sum;
        let rank = sums.partition_point(|sum| *sum < at) as u64;
        // Rank and size, and rank and name, have nothing to do with one another.
        trace.push(Request { key: rank.wrapping_mul(7919) % KEYS, scanned: false });
    }
    trace
}

/// Bytes of a key's value: 4 to 28 KiB.
fn size(key: u64) -> u64 {
    4096 + Dice(key * 2 + 1).next() % (24 << 10)
}

fn percent(hits: u64, trace: &[Request]) -> f64 {
    let asked = trace.iter().filter(|request| !request.scanned).count();
    hits as f64 * 100.0 / asked.max(1) as f64
}

/// Hits of a store with this policy.
fn measured(dir: &Path, policy: Policy, trace: &[Request]) -> Result<f64> {
    let settings = Settings {
        storage_size_limit: Some(LIMIT),
        cache_size_limit: 32 << 20,
        cache_eviction_policy: policy,
        ..Settings::new(dir)
    };
    let clock = Clock::manual(Time(0));
    let volume: Arc<Volume> = Volume::open(settings, Arc::new(RealDisk), clock.clone())?;
    let caller = Caller::default();
    volume.run(|v| v.setxattr(&caller, ROOT, b"user.larder.evictable", b"1", 0))?;
    let mut dice = Dice(7);
    let noise: Vec<u8> = (0..8192).flat_map(|_| dice.next().to_le_bytes()).collect();
    let mut hits = 0;
    for (n, request) in trace.iter().enumerate() {
        clock.set(Time((n as i64 + 1) * SECOND));
        let key = request.key;
        let path = format!("{:02}/{key}", key % 50).into_bytes();
        match volume.run(|v| v.resolve(&path)) {
            Ok((entry, _)) => {
                let ino = entry.attr.ino;
                let mut out = Vec::new();
                if volume.run(|v| v.read(ino, 0, 4096, &mut out)).is_err() || out.is_empty() {
                    return Err(Error::Damaged(format!("key {key} cannot be read")));
                }
                volume.forget(ino, 1);
                hits += u64::from(!request.scanned);
            }
            Err(Error::NotFound) => {
                let start = (key * 8 % 30_000) as usize;
                let content = noise.get(start..start + size(key) as usize).unwrap_or(&noise);
                // Lives of up to twelve days, which has nothing to do with how often it is asked for.
                let new =
                    NewFile { expiry: Some(Expiry::In(500_000 + (key * 31 % 500_000) as u32)), codec: None };
                volume.apply(&caller, &[Change { path: &path, to: To::Content(content, new) }], false)?;
            }
            Err(error) => return Err(error),
        }
    }
    volume.close()?;
    Ok(percent(hits, trace))
}

/// Hits of exact LRU.
fn exact(trace: &[Request]) -> f64 {
    let (mut last, mut order, mut bytes, mut hits) = (HashMap::new(), BTreeMap::new(), 0, 0);
    for (n, request) in trace.iter().enumerate() {
        match last.insert(request.key, n) {
            Some(before) => {
                hits += u64::from(!request.scanned);
                order.remove(&before);
            }
            None => bytes += size(request.key),
        }
        order.insert(n, request.key);
        while bytes > KEPT
            && let Some((_, key)) = order.pop_first()
        {
            last.remove(&key);
            bytes -= size(key);
        }
    }
    percent(hits, trace)
}

/// Hits when all is kept.
fn boundless(trace: &[Request]) -> f64 {
    let mut seen = HashSet::new();
    let hits = trace.iter().filter(|request| !seen.insert(request.key) && !request.scanned).count();
    percent(hits as u64, trace)
}

fn main() -> Result<()> {
    let mut dir = std::env::temp_dir();
    let mut requests = 200_000;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What cargo adds by itself.
            "--bench" => {}
            "--requests" => {
                let number = arguments.next().and_then(|number| number.parse().ok());
                requests = number.ok_or_else(|| Error::Config("--requests: a number".into()))?;
            }
            path => dir = PathBuf::from(path),
        }
    }
    let traces = [trace(requests, false), trace(requests, true)];
    println!("policy\tZipf({EXPONENT})\twith scans");
    for policy in [Policy::Lru, Policy::Lfu, Policy::Size, Policy::Ttl] {
        let mut row = Vec::new();
        for trace in &traces {
            let store = dir.join(format!("larder-hits-{}", std::process::id()));
            let hits = measured(&store, policy, trace);
            std::fs::remove_dir_all(&store).map_err(Error::io("removing the store"))?;
            row.push(hits?);
        }
        println!("{policy}\t{:.1}\t{:.1}", row[0], row[1]);
    }
    println!("exact LRU\t{:.1}\t{:.1}", exact(&traces[0]), exact(&traces[1]));
    println!("no limit\t{:.1}\t{:.1}", boundless(&traces[0]), boundless(&traces[1]));
    Ok(())
}
