//! A model filesystem, random operations, and what they are run against.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod fs;
pub mod history;
pub mod ops;
pub mod real_dir;
pub mod store;
pub mod system;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use system::Check;

/// Runs a test on random values and fails with the smallest one that fails. `LARDER_TEST_CASES` says how
/// many instead of `count`, `LARDER_TEST_SEED` begins elsewhere.
pub fn cases<S: Strategy>(count: u32, strategy: S, test: impl Fn(S::Value) -> Check) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let cases = number("LARDER_TEST_CASES").map_or(count, |cases| cases as u32);
    let seed = number("LARDER_TEST_SEED").unwrap_or(1);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 3000, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    if let Err(error) = TestRunner::new_with_rng(config, rng).run(&strategy, test) {
        panic!("LARDER_TEST_SEED={seed}: {error}");
    }
}
