//! Mending what a check has found, in a store that nobody has open.
//!
//! ```text
//!   files ──► index, anew if asked for ──► journal, up to its damage ──► records ──► names ──► pages ──► counts ──► a
//!   second check
//! ```
//!
//! Names, pages and attributes are what a store is about: they stay, and where they contradict each other, what is
//! taken out of use is kept in `damaged/` ([`aside`]). All else follows from them, and is made anew.
//!
//! Invariants:
//! - Nothing that a person has stored is deleted. An inode without a name gets one in `lost+found`. A page that cannot be
//!   read stays one: reading it is an error.
//! - The catalog changes in batches that each leave it no worse, so that a repair can be interrupted anywhere and begun
//!   anew; it is durable when [`repair`] returns.
//! - What cannot be mended here is content that is damaged, and an index; that is made anew ([`rebuild`]).

mod aside;
mod content;
mod lost_found;
mod mend;
mod names;
mod rebuild;
mod records;
mod recount;

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::report::path_of;
use super::{CATALOG_MEMORY, OnProgress, Options, Report, check_locked};
use crate::catalog::{Engine, GO_BACK, LocalCatalog, OpenOptions, frames_are_whole, verify_index};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::format::{FormatLine, Ino, PageNo, PageRecord, encode, keys};
use crate::io::{Io, Overlay};
use crate::pages::{LocalSegments, Segments};

pub use mend::Action;
use mend::{Done, Mend};

/// The outcome of a repair.
#[derive(Clone, Debug, Serialize)]
pub struct Repaired {
    /// What the check before it found.
    pub found: Report,
    /// What was done.
    pub done: Vec<Action>,
    /// Actions beyond those that are kept.
    pub omitted: u64,
    /// What the check after it found.
    pub left: Report,
}

/// Checks the store in `dir`, which nobody has open, and mends what can be mended. Where the index is damaged or missing
/// that is little, unless the catalog is to be made `anew` then.
/// Errors: as of [`super::check`]; `NoSpace` when the disk is full.
pub fn repair(
    io: Arc<dyn Io>,
    dir: &Path,
    anew: bool,
    options: &Options,
    clock: &Clock,
    progress: OnProgress<'_>,
) -> Result<Repaired> {
    let _lock = match super::lock(&*io, dir)? {
        Some(lock) => lock,
        None => {
            let path = dir.join("lock");
            let lock = io.lock(&path).map_err(Error::io(format!("making {}", path.display())))?;
            lock.ok_or_else(|| Error::InUse(dir.to_owned()))?
        }
    };
    let found = check_locked(io.clone(), dir, options, progress)?;
    let mut done = Done::default();
    if found.is_clean() {
        return Ok(Repaired { left: found.clone(), found, done: done.actions, omitted: 0 });
    }
    mend_files(&io, dir, &found, &mut done)?;
    let opened = match open(&io, dir, anew, &mut done)? {
        None if anew => {
            rebuild::rebuild(&io, dir, &mut done, progress)?;
            open(&io, dir, anew, &mut done)?
        }
        opened => opened,
    };
    if let Some((engine, segments)) = opened {
        let mut mend = Mend::new(&engine, &io, dir, clock.now(), &mut done);
        records::mend(&mut mend, &segments, progress)?;
        names::mend(&mut mend, progress)?;
        content::mend(&mut mend, &segments, options, progress)?;
        recount::mend(&mut mend, &segments, progress)?;
        engine.sync(engine.last_seq(), &|| segments.sync())?;
        for action in &mut done.actions {
            action.path = action.ino.and_then(|ino| path_of(&engine, ino));
        }
        engine.close(&|| segments.sync())?;
    }
    let left = check_locked(io, dir, options, progress)?;
    Ok(Repaired { found, done: done.actions, omitted: done.omitted, left })
}

/// FORMAT and the directories.
fn mend_files(io: &Arc<dyn Io>, dir: &Path, found: &Report, done: &mut Done) -> Result<()> {
    let listed = io.list(dir).map_err(Error::io(format!("listing {}", dir.display())))?;
    let there = |name: &str| listed.iter().any(|path| path.file_name().is_some_and(|file| file == name));
    if found.findings.iter().any(|finding| finding.class == "format") {
        let path = dir.join("FORMAT");
        let mut id = None;
        if there("FORMAT") {
            let text = super::files::read(&**io, &path)?;
            id = FormatLine::parse(&String::from_utf8_lossy(&text)).and_then(|line| line.id);
            aside::copy(io, dir, Path::new("FORMAT"))?;
        }
        let (id, what) = match (id, rebuild::id_of_backups(io, dir)?) {
            (Some(id), _) => (id, "written as it should be"),
            (None, Some(id)) => (id, "written anew, with the store id of the backups in it"),
            (None, None) => (io.new_id(), "written anew, with a new store id"),
        };
        FormatLine::of(id).write(&**io, dir)?;
        done.at(path.display().to_string(), what);
    }
    for part in ["journal", "segments"] {
        if !there(part) {
            let path = dir.join(part);
            io.create_dir_all(&path).map_err(Error::io(format!("making {}", path.display())))?;
            io.sync_dir(dir).map_err(Error::io(format!("flushing {}", dir.display())))?;
            done.at(path.display().to_string(), "made, empty");
        }
    }
    Ok(())
}

/// Whether the newest backup of the catalog has more than the journal ahead of its damage: to go back to that loses what the
/// backup, and maybe the journal behind the damage, still have.
pub(super) fn a_backup_has_more(io: &Arc<dyn Io>, dir: &Path) -> Result<bool> {
    let Some((head, _)) = rebuild::newest_backup(io, dir, &mut Done::default())? else { return Ok(false) };
    let overlay: Arc<dyn Io> = Arc::new(Overlay::new(io.clone()));
    let segments = LocalSegments::open(overlay.clone(), dir.join("segments"))?;
    let salvaged = LocalCatalog::salvage(OpenOptions {
        io: overlay,
        dir: dir.to_owned(),
        memory: CATALOG_MEMORY,
        verify: &mut |batch| frames_are_whole(&segments, batch),
        before_checkpoint: Box::new(|| Ok(())),
    });
    match salvaged {
        Ok(engine) => Ok(engine.last_seq() < head.seq),
        Err(Error::Damaged(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The catalog, up to the damage where its journal is damaged; none where the index is, and where it is to be made `anew` from
/// a backup that has more.
fn open(
    io: &Arc<dyn Io>,
    dir: &Path,
    anew: bool,
    done: &mut Done,
) -> Result<Option<(LocalCatalog, Arc<LocalSegments>)>> {
    // Over a disk that forgets: the verification puts in order what opening does, too.
    let overlay: Arc<dyn Io> = Arc::new(Overlay::new(io.clone()));
    match verify_index(&overlay, dir) {
        Ok(()) => {}
        Err(Error::Damaged(_)) => return Ok(None),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let segments = Arc::new(LocalSegments::open(io.clone(), dir.join("segments"))?);
    let open = |open: fn(OpenOptions<'_>) -> Result<LocalCatalog>| {
        let synced = segments.clone();
        open(OpenOptions {
            io: io.clone(),
            dir: dir.to_owned(),
            memory: CATALOG_MEMORY,
            verify: &mut |batch| frames_are_whole(&segments, batch),
            before_checkpoint: Box::new(move || synced.sync()),
        })
    };
    let engine = match open(LocalCatalog::open) {
        Err(Error::Damaged(damage)) => {
            if a_backup_has_more(io, dir)? {
                return match anew {
                    true => Ok(None),
                    false => {
                        let damage = damage.strip_suffix(&format!("; {GO_BACK}")).unwrap_or(&damage);
                        Err(Error::store(dir, format!("{damage}; {}", super::remedy::FROM_BACKUP)))
                    }
                };
            }
            aside::copy_journal(io, dir)?;
            match open(LocalCatalog::salvage) {
                Err(Error::Damaged(_)) => return Ok(None),
                salvaged => salvaged?,
            }
        }
        opened => opened?,
    };
    for what in engine.dropped() {
        done.at(dir.join("journal").display().to_string(), format!("cut: {what}"));
    }
    Ok(Some((engine, segments)))
}

/// Makes a page one whose content is lost: reading it is an error until it is written anew.
fn lost_page(mend: &mut Mend<'_>, ino: Ino, page: PageNo, why: &str) -> Result<()> {
    let patches = keys::patch(ino, page, 0);
    for (key, _) in mend.under(patches.get(..13).unwrap_or(&patches))? {
        mend.put_aside(key)?;
    }
    let key = keys::page(ino, page);
    mend.keep(&key)?;
    mend.put(key, encode(&PageRecord::LOST));
    mend.done.inode(ino, format!("page {} is lost, and reading it an error: {why}", page.0));
    Ok(())
}
