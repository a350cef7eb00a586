//! What the library finds after power loss, kill -9 and failures of the disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use larder::Error;
use larder::clock::Clock;
use larder::config::Settings;
use larder::io::faulty::{Fault, FaultyDisk, Kind};
use larder::store::{Batch, Durability, Expiry, Mark, SetOptions, Store, Touch};
use larder::volume::Volume;

fn open(disk: &FaultyDisk) -> Store {
    let mut settings = Settings::new("/store");
    settings.cache_size_limit = 16 << 20;
    let volume = Volume::open(settings, Arc::new(disk.clone()), Clock::System).unwrap();
    Store::options().of_volume(volume, Path::new("/store"))
}

/// The content of the `n`th generation of a key: it says which it is, and is long enough now and then to go to
/// frames of its own.
fn content(n: u64, key: u64) -> Vec<u8> {
    let lines = match (n + key) % 4 {
        0 => 1,
        1 => 50,
        2 => 1500,
        _ => 3000,
    };
    (0..lines).flat_map(|line| format!("{n} in line {line} of {key}\n").into_bytes()).collect()
}

/// Which generation a value is of; it must be whole.
fn generation(value: Option<Vec<u8>>, key: u64) -> u64 {
    let Some(value) = value else { return 0 };
    let text = String::from_utf8(value).unwrap();
    let n = text.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("torn: {text:.50}"));
    assert!(text.as_bytes() == content(n, key), "generation {n} of key {key} is not whole");
    n
}

const SYNC: SetOptions = SetOptions::new();

/// Sets a pair of keys in a batch and a third one alone, all of one generation after the other.
fn work(store: &Store, n: u64) {
    let durable = SYNC.durability(if n.is_multiple_of(5) { Durability::Sync } else { Durability::Commit });
    let mut batch = Batch::new();
    batch.set_with("pair/a", content(n, 0), &durable).unwrap();
    batch.set_with("pair/b", content(n, 1), &durable).unwrap();
    if n.is_multiple_of(2) {
        batch.set("sometimes", content(n, 2)).unwrap();
    } else {
        batch.delete("sometimes").unwrap();
    }
    store.apply(&batch).unwrap();
    store.set_with("alone", content(n, 3), &durable).unwrap();
}

/// What is found on a disk: one generation in all keys; `alone` follows at most one behind.
fn found(disk: &FaultyDisk) -> (u64, u64) {
    let store = open(disk);
    let pair = generation(store.get("pair/a").unwrap(), 0);
    assert_eq!(generation(store.get("pair/b").unwrap(), 1), pair, "a batch was torn");
    let sometimes = generation(store.get("sometimes").unwrap(), 2);
    assert_eq!(sometimes, if pair.is_multiple_of(2) { pair } else { 0 }, "a batch was torn");
    let alone = generation(store.get("alone").unwrap(), 3);
    assert!(alone == pair || alone + 1 == pair, "{alone} came with {pair}: out of order");
    store.close().unwrap();
    // What was on its way is reclaimed, and nothing refers to what is not there.
    let options = larder::check::Options::default();
    let report =
        larder::check::check(Arc::new(disk.clone()), Path::new("/store"), &options, &|_| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let keys = [pair > 0, pair > 0, pair > 0, sometimes > 0, alone > 0].into_iter().filter(|there| *there);
    assert_eq!(report.figures.inodes, 1 + keys.count() as u64, "the root, a directory, and the keys");
    (pair, alone)
}

#[test]
fn after_power_loss_a_key_has_one_whole_value_and_a_batch_is_there_or_not() {
    for seed in 0..2 {
        println!("seed {seed}");
        let disk = FaultyDisk::new(seed);
        let store = open(&disk);
        let durable = AtomicU64::new(0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                for n in 1..40 {
                    work(&store, n);
                    if n.is_multiple_of(5) {
                        durable.store(n, Ordering::SeqCst);
                    }
                }
                done.store(true, Ordering::SeqCst);
            });
            // At any moment, in the middle of whatever is going on.
            let mut disks = Vec::new();
            while !done.load(Ordering::SeqCst) && !worker.is_finished() {
                let least = durable.load(Ordering::SeqCst);
                disks.push((least, disk.crash()));
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
            worker.join().unwrap();
            let step = disks.len() / 12 + 1;
            for (least, disk) in disks.iter().step_by(step) {
                let (pair, alone) = found(disk);
                assert!(pair >= *least && alone >= *least, "{pair} and {alone}, though {least} was durable");
            }
        });
    }
}

#[test]
fn after_kill_9_every_set_that_returned_is_there() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    for n in 1..20 {
        work(&store, n);
        assert_eq!(found(&disk.snapshot()), (n, n));
    }
}

#[test]
fn a_set_or_batch_that_failed_has_changed_nothing_and_the_disk_may_fail_anywhere() {
    for fault in [Fault::Errno(libc::EIO), Fault::Short(libc::ENOSPC), Fault::Errno(libc::ENOSPC)] {
        for at in (1..30).step_by(3) {
            let disk = FaultyDisk::new(at);
            let store = open(&disk);
            work(&store, 1);
            work(&store, 2);
            store.sync().unwrap();
            disk.fail(Kind::Any, at, fault);
            let mut batch = Batch::new();
            batch.set("pair/a", content(3, 0)).unwrap().set("pair/b", content(3, 1)).unwrap();
            batch.delete("sometimes").unwrap();
            let outcome = store.apply(&batch);
            let pair = generation(store.get("pair/a").unwrap(), 0);
            assert_eq!(pair, if outcome.is_ok() { 3 } else { 2 }, "{fault:?} at {at}: {outcome:?}");
            assert_eq!(generation(store.get("pair/b").unwrap(), 1), pair);
            assert_eq!(store.exists("sometimes").unwrap(), outcome.is_err());
            let synced = outcome.is_ok() && store.sync().is_ok();
            let after = open(&disk.crash());
            let found = generation(after.get("pair/a").unwrap(), 0);
            assert_eq!(generation(after.get("pair/b").unwrap(), 1), found, "{fault:?} at {at}");
            assert!(found == 3 || !synced && found == 2, "{fault:?} at {at}: {found}");
        }
    }
}

#[test]
fn a_value_for_which_there_is_no_room_is_refused_and_changes_nothing() {
    let disk = FaultyDisk::new(7);
    let mut settings = Settings::new("/store");
    settings.cache_size_limit = 16 << 20;
    settings.storage_size_limit = Some(64 << 20);
    let volume = Volume::open(settings, Arc::new(disk), Clock::System).unwrap();
    let store = Store::options().of_volume(volume, Path::new("/store"));
    // Random bytes, that no codec makes smaller.
    let mut state = 7u64;
    let large: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(70 << 20)
    .collect();
    store.set("key", "before").unwrap();
    assert!(matches!(store.set("key", &large), Err(Error::NoSpace)));
    assert!(matches!(store.set("new/dir/key", &large), Err(Error::NoSpace)));
    let mut batch = Batch::new();
    batch.delete("key").unwrap().set("other", "x").unwrap().set("large", large).unwrap();
    assert!(matches!(store.apply(&batch), Err(Error::NoSpace)));
    assert_eq!(store.get("key").unwrap().unwrap(), b"before");
    assert_eq!(store.keys("").map(|key| key.unwrap().to_string()).collect::<Vec<_>>(), ["key"]);
    assert!(!store.exists("new").unwrap(), "no directory was made on the way");
    // What was written of it is given back.
    store.cleanup().unwrap();
    store.set("key", vec![7; 1 << 20]).unwrap();
}

#[test]
fn whatever_a_store_that_makes_its_changes_durable_has_changed_survives_power_loss() {
    let open = |disk: &FaultyDisk| {
        let settings = Settings { commit_interval: Duration::from_secs(3600), ..Settings::new("/store") };
        let volume = Volume::open(settings, Arc::new(disk.clone()), Clock::System).unwrap();
        Store::options().durability(Durability::Sync).of_volume(volume, Path::new("/store"))
    };
    type Change = fn(&Store) -> larder::error::Result<()>;
    type Seen = fn(&Store) -> bool;
    let changes: [(&str, Change, Seen); 5] = [
        (
            "expire",
            |store| store.expire("key", Expiry::In(Duration::ZERO)),
            |store| !store.exists("key").unwrap(),
        ),
        (
            "mark",
            |store| store.mark("key", Mark::Pinned(Some(true))),
            |store| store.marks("key").unwrap().pinned == Some(true),
        ),
        (
            "unmark",
            |store| store.mark("marked", Mark::Pinned(None)),
            |store| store.marks("marked").unwrap().pinned.is_none(),
        ),
        (
            "touch",
            |store| store.touch("brief", Touch::Expiration),
            |store| {
                let stat = store.stat("brief").unwrap().unwrap();
                stat.expires.unwrap() > stat.modified + Duration::from_secs(100)
            },
        ),
        ("clear", |store| store.clear(), |store| !store.exists("key").unwrap()),
    ];
    for (what, change, seen) in changes {
        for seed in 0..4 {
            let disk = FaultyDisk::new(seed);
            let store = open(&disk);
            store.set("key", "value").unwrap();
            store.set("marked", "value").unwrap();
            store.mark("marked", Mark::Pinned(Some(true))).unwrap();
            store.set_with("brief", "value", &SetOptions::new().ttl(Duration::from_secs(100))).unwrap();
            std::thread::sleep(Duration::from_millis(10));
            change(&store).unwrap();
            let found = open(&disk.crash());
            assert!(seen(&found), "{what}, seed {seed}");
            drop((found.close(), store.close()));
        }
    }
}
