//! A volume against the model, by random operations. `LARDER_TEST_CASES` and `LARDER_TEST_SEED` make it
//! run longer, or another way; a failing case is printed as its shortest sequence of operations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod model;
mod support;

use larder::io::faulty::FaultyDisk;
use model::cases;
use model::fs::Fs;
use model::ops::{Op, op};
use model::real_dir::RealDir;
use model::store::{Disk, LEAST_CACHE, START, Store};
use model::system::{self, Check, System};
use proptest::collection::vec;
use proptest::prelude::*;

const SECOND: i64 = 1_000_000_000;

/// Runs a sequence on both, and compares all of both at its end.
fn sequence(ops: &[Op], system: &mut dyn System) -> Result<Fs, proptest::test_runner::TestCaseError> {
    let mut fs = Fs::new();
    let mut now = START;
    for op in ops {
        now += SECOND;
        system::step(&mut fs, system, op, now)?;
    }
    system::compare(&fs, system)?;
    Ok(fs)
}

/// The sizes that pages may have: the smallest, the default, the largest.
fn page_size() -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(4 << 10), 2 => Just(128 << 10), 1 => Just(1 << 20)]
}

/// A sequence on a store with such pages, then again as it is found after it was closed.
fn on_store(ops: &[Op], page_size: u64, disk: Disk, cache: u64) -> Check {
    let mut store = Store::new(disk, cache);
    store.set_page_size(page_size);
    let mut fs = sequence(ops, &mut store)?;
    system::release_all(&mut fs, &mut store);
    store.reclaimed(&fs)?;
    store.remount(&fs)?;
    system::compare(&fs, &mut store)?;
    store.reclaimed(&fs)
}

#[test]
fn the_model_does_what_linux_does_in_a_plain_directory() {
    cases(64, vec(op(true), 1..80), |ops| {
        let mut dir = RealDir::new(tempfile::tempdir().unwrap());
        sequence(&ops, &mut dir).map(drop)
    });
}

#[test]
fn a_volume_does_what_the_model_does() {
    cases(48, (page_size(), vec(op(true), 1..80)), |(page_size, ops)| {
        on_store(&ops, page_size, Disk::real(), 256 << 20)
    });
}

#[test]
fn a_volume_with_the_least_memory_does_what_the_model_does() {
    cases(32, (page_size(), vec(op(true), 1..120)), |(page_size, ops)| {
        on_store(&ops, page_size, Disk::real(), LEAST_CACHE)
    });
}

#[test]
fn a_volume_on_a_disk_in_memory_does_what_the_model_does() {
    cases(64, (any::<u64>(), page_size(), vec(op(true), 1..80)), |(seed, page_size, ops)| {
        on_store(&ops, page_size, Disk::Faulty(FaultyDisk::new(seed)), LEAST_CACHE)
    });
}
