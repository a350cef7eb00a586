//! The disk fails at its n-th call, for every n of a table of workloads, in one of several ways. What is found then is
//! what was promised: all that was fsynced, the tree of one moment, a store that opens and is sound.
//!
//! By default long workloads are sampled. `LARDER_FAULT_ROUNDS=3` takes every call of each, three times with other seeds.
//! A failing point says how to run just that one: `LARDER_FAULT_WORKLOAD` (a name of the table), `LARDER_FAULT_N`,
//! `LARDER_FAULT_SEED`; with `LARDER_TEST_LOG` set the disk's log is printed whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

#[path = "../model/mod.rs"]
mod model;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod watchdog;
mod workload;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use larder::io::faulty::{Fault, FaultyDisk, Kind};
use parking_lot::Mutex;
use run::{Calls, Prepared};
use support::random::setting;

/// The most points of a workload where no rounds are asked for.
const POINTS: u64 = 12;

/// Failing points after which a test gives up.
const ENOUGH: usize = 5;

/// Points that are run beside each other: each waits for threads and timers most of the time.
const AT_ONCE: usize = 8;

/// What all points of a test share.
#[derive(Default)]
struct Tally {
    points: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    /// Runs the points of a workload.
    fn run(&self, prepared: &Prepared, points: &[(u64, u64)], test: &str, arm: fn(&FaultyDisk, u64)) {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((n, seed)) = points.get(next.fetch_add(1, Relaxed)) {
                let name = prepared.workload.name;
                let repeat = format!(
                    "LARDER_FAULT_WORKLOAD={name} LARDER_FAULT_N={n} LARDER_FAULT_SEED={seed} cargo test --test faults {test}"
                );
                watchdog::watch(&repeat);
                let outcome = prepared.point(seed * 1_000_003 + n, n % 4 == 0, &|disk| arm(disk, *n));
                watchdog::rest();
                self.points.fetch_add(1, Relaxed);
                if let Err(why) = outcome {
                    let mut failures = self.failures.lock();
                    println!("{repeat}\n{why}\n");
                    failures.push(repeat);
                    if failures.len() >= ENOUGH {
                        break;
                    }
                }
            }
        };
        std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    }
}

/// Lets a fault strike at each call that is counted, one at a time.
fn sweep(test: &str, count: fn(Calls) -> u64, arm: fn(&FaultyDisk, u64)) {
    let only = std::env::var("LARDER_FAULT_WORKLOAD").ok();
    let n = std::env::var("LARDER_FAULT_N").ok().map(|text| text.parse::<u64>().expect("a number"));
    let (first, rounds) = (setting("LARDER_FAULT_SEED", 1), setting("LARDER_FAULT_ROUNDS", 0));
    let tally = Tally::default();
    for workload in table::all() {
        let name = workload.name;
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        watchdog::watch(&format!("{test}: {name}, without a fault"));
        let prepared = Prepared::new(workload).unwrap_or_else(|why| panic!("{name}, setting up: {why}"));
        let calls = prepared.calls().unwrap_or_else(|why| panic!("{name}, without a fault: {why}"));
        watchdog::rest();
        let count = count(calls);
        let step = if rounds > 0 { 1 } else { count.div_ceil(POINTS).max(1) };
        let begun = Instant::now();
        let points: Vec<(u64, u64)> = match n {
            Some(n) => vec![(n, first)],
            None => (first..first + rounds.max(1))
                .flat_map(|seed| (seed % step..count).step_by(step as usize).map(move |n| (n, seed)))
                .collect(),
        };
        tally.run(&prepared, &points, test, arm);
        println!("{name}: {count} calls, {} points in {:?}", points.len(), begun.elapsed());
        if tally.failures.lock().len() >= ENOUGH {
            break;
        }
    }
    let (points, failures) = (tally.points.into_inner(), tally.failures.into_inner());
    println!("{points} points");
    assert!(failures.is_empty(), "{} of {points} points fail:\n{}", failures.len(), failures.join("\n"));
    assert!(points > 100 || only.is_some(), "only {points} points: the workloads do not reach the disk");
}

#[test]
fn whichever_call_the_power_fails_at_what_was_synced_is_there_and_the_tree_is_that_of_one_moment() {
    sweep(
        "whichever_call_the_power_fails_at",
        |calls| calls.changes,
        |disk, n| disk.fail(Kind::Any, n, Fault::Die),
    );
}

#[test]
fn whichever_call_fails_nothing_that_was_rejected_is_reported_durable() {
    sweep(
        "whichever_call_fails",
        |calls| calls.changes,
        |disk, n| disk.fail(Kind::Any, n, Fault::Errno(libc::EIO)),
    );
}

#[test]
fn whichever_call_is_done_and_its_answer_lost_either_state_is_found() {
    sweep(
        "whichever_call_is_done_and_its_answer_lost",
        |calls| calls.changes,
        |disk, n| disk.fail(Kind::Any, n, Fault::Late(libc::EIO)),
    );
}

#[test]
fn whichever_call_finds_no_room_the_store_goes_on_once_there_is() {
    sweep(
        "whichever_call_finds_no_room",
        |calls| calls.changes,
        |disk, n| disk.fail(Kind::Any, n, Fault::Errno(libc::ENOSPC)),
    );
}

#[test]
fn whenever_others_fill_the_disk_deleting_goes_on_and_writing_once_there_is_room() {
    sweep(
        "whenever_others_fill_the_disk",
        |calls| calls.changes,
        |disk, n| disk.fail(Kind::Any, n, Fault::Full),
    );
}

#[test]
fn whichever_write_is_cut_short_no_half_of_it_is_taken_for_whole() {
    sweep(
        "whichever_write_is_cut_short",
        |calls| calls.changes,
        |disk, n| disk.fail(Kind::Any, n, Fault::Short(libc::ENOSPC)),
    );
}

#[test]
fn whichever_flush_fails_the_store_is_read_only_and_what_was_durable_is_there() {
    sweep(
        "whichever_flush_fails",
        |calls| calls.syncs,
        |disk, n| disk.fail(Kind::Sync, n, Fault::Errno(libc::EIO)),
    );
}

#[test]
fn whichever_read_fails_nothing_is_taken_for_missing() {
    sweep(
        "whichever_read_fails",
        |calls| calls.reads,
        |disk, n| disk.fail(Kind::Read, n, Fault::Errno(libc::EIO)),
    );
}
