//! The check of a store that nobody has open: every structure, reference and count, as the next mount
//! would find them.
//!
//! ```text
//!   files ──► index, page by page ──► recovery, over an overlay in memory ──► inodes ──► names ──► pages ──► frames
//! ```
//!
//! Invariants:
//! - Nothing on the disk changes: the catalog is opened over an [`Overlay`], so that its own recovery runs
//!   and what it writes stays in memory. Only the lock is taken.
//! - Whatever the store holds, the check ends with a [`Report`]: damage is a finding, never a panic. An error
//!   means that nothing can be said: no store, open elsewhere, a disk that fails.
//!
//! Memory: about 120 bytes an inode, 48 bytes for each page of those that are looked at together
//! (`content::TOGETHER`), 32 MiB for the catalog, and the blocks that recovery writes.

mod content;
mod files;
mod nodes;
mod repair;
mod report;
mod tree;

use std::path::Path;
use std::sync::Arc;

use crate::catalog::{Engine, LocalCatalog, OpenOptions, frames_are_whole, verify_index};
use crate::error::{Error, Result};
use crate::format::files::refuse_unrestored;
use crate::format::keys;
use crate::io::{Io, Lock, Overlay};
use crate::pages::LocalSegments;

pub use repair::{Action, Repaired, repair};
use report::remedy;
pub use report::{Figures, Finding, Report, Severity};

/// Memory for the catalog, bytes.
const CATALOG_MEMORY: usize = 32 << 20;

/// How a store is checked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Reads and verifies every frame; without it only that they lie within their segments is checked.
    pub content: bool,
    /// Threads that verify frames.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Options {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(8);
        Options { content: true, threads }
    }
}

/// How far a check has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What it is at.
    pub stage: &'static str,
    /// Of `total`, how much is done: records of the catalog, or bytes of frames.
    pub done: u64,
    /// 0 while it is not known.
    pub total: u64,
}

/// Is told how far a check has come, by any of its threads.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Sync);

/// Checks the store in `dir`, which nobody has open, and changes nothing.
/// Errors: `Store` when it is no store or is open elsewhere, `Io` when the disk fails.
pub fn check(io: Arc<dyn Io>, dir: &Path, options: &Options, progress: OnProgress<'_>) -> Result<Report> {
    let _lock = lock(&*io, dir)?;
    check_locked(io, dir, options, progress)
}

/// [`check`] by who holds the store's lock.
fn check_locked(io: Arc<dyn Io>, dir: &Path, options: &Options, progress: OnProgress<'_>) -> Result<Report> {
    let mut report = Report::default();
    files::check(&*io, dir, &mut report)?;
    progress(Progress { stage: "verifying the index", done: 0, total: 0 });
    let Some((engine, segments)) = open(io.clone(), dir, &mut report)? else {
        report.finish(None);
        return Ok(report);
    };
    let mut nodes = tree::load(&engine, &mut report, progress)?;
    tree::check(&engine, &mut nodes, &mut report, progress)?;
    content::check(&engine, &segments, &mut nodes, options, &mut report, progress)?;
    nodes.settle(&mut report);
    tree::counters(&engine, &nodes, &mut report)?;
    report.finish(Some(&engine));
    Ok(report)
}

/// Takes the store's lock, when the store is one.
fn lock(io: &dyn Io, dir: &Path) -> Result<Option<Lock>> {
    let listed = io.list(dir).map_err(|error| Error::store(dir, format!("it cannot be read: {error}")))?;
    // Mended, a part of a store would pass for one.
    refuse_unrestored(dir, &listed)?;
    let there = |name: &str| listed.iter().any(|path| path.file_name().is_some_and(|file| file == name));
    if !["FORMAT", "index.redb", "journal", "segments"].into_iter().any(there) {
        return Err(Error::store(dir, "this is no store: name the directory of one"));
    }
    // None was ever taken where there is no file; and none is made, as nothing is to change.
    if !there("lock") {
        return Ok(None);
    }
    let lock =
        io.lock(&dir.join("lock")).map_err(Error::io(format!("{}: taking its lock", dir.display())))?;
    lock.map(Some).ok_or_else(|| Error::store(dir, "the store is mounted: unmount it first"))
}

/// The catalog and the segments as the next mount would find them; none when there is no catalog to be had.
fn open(io: Arc<dyn Io>, dir: &Path, report: &mut Report) -> Result<Option<(LocalCatalog, LocalSegments)>> {
    let place = dir.join("index.redb").display().to_string();
    let no_catalog = |report: &mut Report, error, remedy| match error {
        // What says of itself where it is, and what to do.
        Error::Damaged(text) => {
            let text = text.strip_suffix(&format!("; {}", remedy::GO_BACK)).unwrap_or(&text);
            let part = text.strip_prefix(&dir.display().to_string()).and_then(|rest| rest.split_once(": "));
            match part {
                Some((part, what)) => {
                    report.error("catalog", format!("{}{part}", dir.display()), what, remedy)
                }
                None => report.error("catalog", place.clone(), text, remedy),
            }
            Ok(None)
        }
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            report.error("catalog", place.clone(), "missing", remedy);
            Ok(None)
        }
        error => Err(error),
    };
    let overlay: Arc<dyn Io> = Arc::new(Overlay::new(io.clone()));
    if let Err(error) = verify_index(&overlay, dir) {
        return no_catalog(report, error, remedy::REBUILD);
    }
    // Another one: what the verification has put in order must not hide what a mount would find.
    let overlay: Arc<dyn Io> = Arc::new(Overlay::new(io.clone()));
    let segments = LocalSegments::open(overlay.clone(), dir.join("segments"))?;
    let opened = LocalCatalog::open(OpenOptions {
        io: overlay,
        dir: dir.to_owned(),
        memory: CATALOG_MEMORY,
        verify: &mut |batch| frames_are_whole(&segments, batch),
        before_checkpoint: Box::new(|| Ok(())),
    });
    let engine = match opened {
        Ok(engine) => engine,
        // The index is sound: it is the journal.
        Err(error) => {
            let more = repair::a_backup_has_more(&io, dir).unwrap_or_default();
            let remedy = if more { remedy::FROM_BACKUP } else { remedy::GO_BACK };
            return no_catalog(report, error, remedy);
        }
    };
    for what in engine.dropped() {
        report.note(
            "journal",
            dir.join("journal").display().to_string(),
            what.clone(),
            "the next mount goes on from there",
        );
    }
    Ok(Some((engine, segments)))
}

/// Visits all keys of the format that begin with `tag`.
fn scan(engine: &dyn Engine, tag: u8, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
    engine.scan(keys::under(&[tag]), &mut |key, value| {
        if tree::is_known(key) {
            visit(key, value);
        }
        true
    })?;
    Ok(())
}
