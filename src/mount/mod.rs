//! The kernel's requests, answered from a [`Volume`](crate::volume::Volume): a thin adapter over fuser.
//! All that fuser gives and does not give stays behind this door.
//!
//! Invariants: the thread that reads /dev/fuse never waits for a disk, what would wait is handed to
//! `workers`; notifications of names and of content are never sent from a thread that answers requests (the
//! kernel may hold a directory's or a page's lock while it waits for our answer); an errno is chosen only in
//! [`errno`]; the store is closed, and so durable, when [`session::Session::run`] returns.

mod adapter;
mod convert;
pub mod counters;
pub mod errno;
pub mod figures;
mod kernel;
pub mod options;
mod own;
mod requests;
pub mod session;
pub mod table;
mod workers;
