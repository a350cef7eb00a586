//! Larder: a filesystem with a shelf life.
//!
//! A store is a directory. It is mounted as a tree of files, each of which is kept compressed, in
//! pages, in append-only segments; all metadata lies in a journalled catalog beside them.
//!
//! The rooms, from the ground up; each knows those above it in this list and none below:
//!
//! - [`mod@format`], [`error`], [`clock`], [`io`], [`config`]: records and names, failures, time, files, settings
//! - [`pages`]: the codec, frames and the segments that they are appended to
//! - [`catalog`]: journal, in-memory table and index of all metadata
//! - [`check`]: the check of a store that nobody has open; stands on all above
//! - [`cache`]: pages in memory under one budget
//! - [`shelf`]: the rules of expiry
//! - [`volume`]: the tree
//! - [`backup`]: copies of a whole store, and stores made of them
//! - [`store`]: the key-value library
//! - [`mount`]: the kernel's requests, answered from a volume; [`control`]: the daemon's socket
//!
//! Beside them, with the feature `testing`: `fuzz`, what fuzzing asks of all that reads bytes from outside.

pub mod backup;
pub mod cache;
pub mod catalog;
pub mod check;
pub mod clock;
pub mod config;
pub mod control;
pub mod error;
pub mod format;
#[cfg(feature = "testing")]
pub mod fuzz;
pub mod io;
pub mod mount;
pub mod pages;
mod queue;
pub mod shelf;
pub mod store;
pub mod volume;

pub use error::{Error, Result};
pub use store::Store;
