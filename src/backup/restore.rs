//! A store from a copy.

use std::path::Path;
use std::sync::Arc;

use super::frames::{self, Contents, Frame};
use super::manifest::{Manifest, Place, names, write};
use super::{OnProgress, Outcome, Progress, damaged, full};
use crate::catalog::build;
use crate::config::FILE_NAME;
use crate::error::{Error, Result};
use crate::format::files::RESTORING;
use crate::format::{FORMAT_VERSION, FormatLine, SegmentId};
use crate::io::{File, Io};
use crate::pages::{frame, segment_file, segment_header};

/// Makes a store at `store`, which is empty or does not exist, from the copy at `from`: what was in the copied store at
/// that moment, under the same inode numbers. Pages whose frames are damaged in the copy cannot be read in the store, and
/// are told. The copy stays as it is. Waits.
/// Errors: there is no complete copy; `store` is not empty; `Damaged` where the copy has no whole catalog. A restore that
/// was interrupted leaves a directory that is no store.
pub fn restore(io: Arc<dyn Io>, from: &Path, store: &Path, progress: OnProgress<'_>) -> Result<Outcome> {
    if store.starts_with(from) || from.starts_with(store) {
        return Err(Error::store(
            store,
            "a store cannot lie in its backup, nor the backup in it: name another directory",
        ));
    }
    restored(io, from, store, progress).map_err(full(store)).map_err(damaged(from))
}

fn restored(io: Arc<dyn Io>, from: &Path, store: &Path, progress: OnProgress<'_>) -> Result<Outcome> {
    let place = Place::open(io.clone(), from)?;
    let manifest = place.manifest()?.ok_or_else(|| {
        Error::store(from, "there is no complete backup in it: the first one was interrupted. Make it again")
    })?;
    if !names(&*io, store)?.is_empty() {
        let why = "it is not empty: name an empty directory, or one that does not exist (what an interrupted restore \
                   left may be removed)";
        return Err(Error::store(store, why));
    }
    // Nothing is made of a copy that cannot be read.
    let mut outcome = Outcome { records: manifest.records, ..Outcome::default() };
    let contents = Contents::of(place.read_dump(&manifest)?, &mut outcome)?;
    if let Some(dumped) = &contents.dumped {
        place.check_dump(&manifest, dumped)?;
    }
    let failed = |what: &str, path: &Path| Error::io(format!("{what} {}", path.display()));
    io.create_dir_all(store).map_err(failed("making", store))?;
    let marker = store.join(RESTORING);
    write(
        &*io,
        &marker,
        "This store is not whole yet. If larder restore is no longer at it, remove it and restore again.\n",
    )?;
    for part in ["journal", "segments"] {
        io.create_dir_all(&store.join(part)).map_err(failed("making", &store.join(part)))?;
    }
    let mut restore = Restore {
        place: &place,
        manifest: &manifest,
        io: &*io,
        store,
        outcome,
        total: contents.bytes(),
        progress,
    };
    for group in contents.groups() {
        for (id, wanted) in frames::of_group(place.read_dump(&manifest)?, &group)? {
            restore.segment(id, &wanted)?;
        }
    }
    let outcome = restore.outcome;
    let flush = |dir: &Path| io.sync_dir(dir).map_err(failed("flushing", dir));
    for folder in names(&*io, &store.join("segments"))? {
        flush(&store.join("segments").join(folder))?;
    }
    flush(&store.join("segments"))?;
    build(&io, store, place.read_dump(&manifest)?)?;
    if let Some(settings) = &manifest.settings {
        write(&*io, &store.join(FILE_NAME), settings)?;
    }
    flush(&store.join("journal"))?;
    let line = FormatLine { version: FORMAT_VERSION, id: Some(place.store) };
    write(&*io, &store.join("FORMAT"), &format!("{line}\n"))?;
    io.remove(&marker).map_err(failed("removing", &marker))?;
    flush(store)?;
    if let Some(parent) = store.parent() {
        flush(parent)?;
    }
    Ok(outcome)
}

/// A restore under way.
struct Restore<'a> {
    place: &'a Place,
    manifest: &'a Manifest,
    io: &'a dyn Io,
    store: &'a Path,
    outcome: Outcome,
    total: u64,
    progress: OnProgress<'a>,
}

impl Restore<'_> {
    fn segment(&mut self, id: SegmentId, wanted: &[Frame]) -> Result<()> {
        let path = segment_file(&self.store.join("segments"), id);
        let failed = |what: &str| Error::io(format!("{what} {}", path.display()));
        if let Some(folder) = path.parent() {
            self.io.create_dir_all(folder).map_err(failed("making the folder of"))?;
        }
        let to = self.io.open(&path, true).map_err(failed("making"))?;
        to.write_all_at(&segment_header(id), 0).map_err(failed("writing"))?;
        let from = self.manifest.segments.get(&id.0).map(|run| self.place.segment(id, *run));
        let from = match &from {
            Some(from) => self.place.io.open_read(from).map_err(|error| error.to_string()),
            None => Err("the backup has nothing of its segment".to_owned()),
        };
        for run in frames::runs(wanted) {
            self.outcome.frames += run.len() as u64;
            self.outcome.bytes += frames::extent_of(run).map_or(0, |extent| u64::from(extent.len));
            self.run(run, from.as_deref().map_err(String::as_str), &*to).map_err(failed("writing"))?;
            (self.progress)(Progress { done: self.outcome.copied, total: self.total })?;
        }
        to.sync().map_err(failed("flushing"))
    }

    /// Writes frames that lie side by side. Those that cannot be read are told; `from` may be why none can.
    fn run(&mut self, run: &[Frame], from: Result<&dyn File, &str>, to: &dyn File) -> std::io::Result<()> {
        let Some(extent) = frames::extent_of(run) else { return Ok(()) };
        match from.map_err(str::to_owned).and_then(|from| read(from, extent.offset, extent.len)) {
            // One by one, to lose no more than must be.
            Err(_) if run.len() > 1 => {
                run.iter().try_for_each(|frame| self.run(std::slice::from_ref(frame), from, to))
            }
            Err(why) => {
                run.iter().for_each(|frame| self.outcome.damage(frame.ino, frame.page, why.clone()));
                // The place must be there, that it is told as damage and not as missing.
                let end = u64::from(extent.offset) + u64::from(extent.len);
                to.set_len(end.max(to.len()?))
            }
            Ok(bytes) => {
                for frame in run {
                    let start = (frame.extent.offset - extent.offset) as usize;
                    let bytes = bytes.get(start..start + frame.extent.len as usize).unwrap_or_default();
                    if let Err(error) = frame::verify(bytes, frame.checksum) {
                        self.outcome.damage(frame.ino, frame.page, error.to_string());
                    }
                }
                to.write_all_at(&bytes, extent.offset.into())?;
                self.outcome.copied += u64::from(extent.len);
                Ok(())
            }
        }
    }
}

/// The bytes of a place; of one that reaches beyond the file, zeros there.
fn read(file: &dyn File, offset: u32, len: u32) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; len as usize];
    match file.read_at(&mut bytes, offset.into()) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}
