//! What survives the worst that happens to a mounted store: its daemon killed, its disk gone in mid-flight, too many of
//! everything. Through real mounts; needs root and /dev/fuse, and says so where it skips.
//!
//! Short by default, so that it can run with every change; the long forms are commands:
//!
//! ```text
//! LARDER_TEST_ROUNDS=200 cargo test --test torture kill
//! LARDER_TEST_ROUNDS=50 cargo test --test torture power
//! LARDER_TEST_LONG=1 cargo test --test torture limits
//! ```
//!
//! Each prints its seed; `LARDER_TEST_SEED` repeats what the writers do. When a crash meets them is the machine's doing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may"
)]

mod expiry;
mod kill;
mod ledger;
mod limits;
mod power;
#[path = "../support/mod.rs"]
mod support;
mod writers;
