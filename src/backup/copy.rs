//! Making a copy, or bringing one up to date.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::frames::{self, Contents, Frame};
use super::manifest::{Manifest, Place};
use super::{OnProgress, Outcome, Progress, damaged, full};
use crate::catalog::DumpReader;
use crate::error::{Error, Result};
use crate::format::{Extent, SegmentId};
use crate::io::{File, Io};
use crate::pages::frame;
use crate::volume::{Moment, Volume};

/// Copies an open store to `dest` on the disk `io`, as it is at one moment, or brings the copy there up to date. Who uses
/// the store goes on meanwhile. Damaged frames are told, by each run until they can be copied. Waits.
/// Errors: `dest` is something else, or another store's copy, or has no room; the store is being closed; what
/// `progress` returns. What was complete at `dest` before is so still.
pub fn back_up(volume: &Volume, io: Arc<dyn Io>, dest: &Path, progress: OnProgress<'_>) -> Result<Outcome> {
    let store = &volume.settings().storage_path;
    if dest.starts_with(store) || store.starts_with(dest) {
        return Err(Error::store(
            dest,
            "a backup cannot lie in the store, nor the store in it: name another directory",
        ));
    }
    let begun = begin(io, dest, volume.id()?).map_err(full(dest)).map_err(damaged(dest))?;
    let moment = volume.moment()?;
    copied(volume, moment, begun, progress).map_err(full(dest)).map_err(damaged(dest))
}

/// The directory with nothing in it but what is complete.
struct Begun {
    place: Place,
    old: Option<Manifest>,
    run: u32,
}

fn begin(io: Arc<dyn Io>, dest: &Path, store: u64) -> Result<Begun> {
    let place = Place::make(io, dest, store)?;
    let old = place.manifest()?;
    place.sweep(old.as_ref())?;
    let run = old.as_ref().map_or(Some(1), |old| old.run.checked_add(1));
    let run = run.ok_or_else(|| {
        Error::store(dest, "it has been brought up to date too often: use another directory")
    })?;
    Ok(Begun { place, old, run })
}

fn copied(volume: &Volume, moment: Moment<'_>, begun: Begun, progress: OnProgress<'_>) -> Result<Outcome> {
    let Begun { place, old, run } = begun;
    let path = place.dump(run);
    let failed = || Error::io(format!("making {}", path.display()));
    let dump = place.io.create_new(&path).map_err(failed())?;
    let dumped = moment.dump(dump.clone(), &path)?;
    let settings = volume.settings_file()?;
    let mut copy = Copy {
        place: &place,
        moment: &moment,
        old: old.as_ref(),
        manifest: Manifest {
            run,
            sum: dumped.sum,
            records: dumped.entries,
            settings,
            segments: Default::default(),
            damaged: Default::default(),
        },
        outcome: Outcome { records: dumped.entries, ..Outcome::default() },
        total: 0,
        progress,
    };
    copy.frames(&|| DumpReader::new(dump.clone(), &path))?;
    let Copy { manifest, outcome, .. } = copy;
    moment.check()?;
    drop(moment);
    place.io.sync_dir(&place.dir).map_err(Error::io(format!("flushing {}", place.dir.display())))?;
    place.complete(&manifest)?;
    if let Err(error) = place.sweep(Some(&manifest)) {
        log::warn!("the backup is complete; what it needs no longer is still there: {error}");
    }
    Ok(outcome)
}

/// A copy under way.
struct Copy<'a> {
    place: &'a Place,
    moment: &'a Moment<'a>,
    /// The copy that is there.
    old: Option<&'a Manifest>,
    manifest: Manifest,
    outcome: Outcome,
    total: u64,
    progress: OnProgress<'a>,
}

impl Copy<'_> {
    fn frames(&mut self, dump: &dyn Fn() -> Result<DumpReader>) -> Result<()> {
        let contents = Contents::of(dump()?, &mut self.outcome)?;
        self.total = contents.bytes();
        (self.progress)(Progress { done: 0, total: self.total })?;
        let mut folders = BTreeSet::new();
        for group in contents.groups() {
            self.moment.check()?;
            let wanted = frames::of_group(dump()?, &group)?;
            let mut there = match self.old {
                Some(old) => frames::of_group(self.place.read_dump(old)?, &group)?,
                None => Default::default(),
            };
            for (id, wanted) in wanted {
                let mut there = there.remove(&id).unwrap_or_default();
                if let Some(damaged) = self.old.and_then(|old| old.damaged.get(&id.0)) {
                    there.retain(|frame| !damaged.contains(&frame.extent.offset));
                }
                self.segment(id, &wanted, &there, &mut folders)?;
                self.moment.release(id);
            }
        }
        let flush = |dir: &Path| {
            self.place.io.sync_dir(dir).map_err(Error::io(format!("flushing {}", dir.display())))
        };
        for id in folders {
            flush(&self.place.folder(SegmentId(id)))?;
        }
        if !contents.segments.is_empty() {
            flush(&self.place.dir.join("segments"))?;
        }
        Ok(())
    }

    fn segment(
        &mut self,
        id: SegmentId,
        wanted: &[Frame],
        there: &[Frame],
        folders: &mut BTreeSet<u32>,
    ) -> Result<()> {
        let io = &*self.place.io;
        let begun = self.old.and_then(|old| old.segments.get(&id.0)).copied();
        let kept = match begun {
            Some(run) => missing(wanted, there)
                .zip(self.open_old(id, run, there)?)
                .map(|(list, file)| (list, file, run)),
            None => None,
        };
        let (list, file, run) = match kept {
            Some(kept) => kept,
            None => {
                let (path, run) = (self.place.segment(id, self.manifest.run), self.manifest.run);
                let folder = self.place.folder(id);
                io.create_dir_all(&folder).map_err(Error::io(format!("making {}", folder.display())))?;
                let file = io.create_new(&path).map_err(Error::io(format!("making {}", path.display())))?;
                folders.insert(id.0 & 0xff);
                (wanted.to_vec(), file, run)
            }
        };
        self.outcome.frames += wanted.len() as u64;
        self.outcome.bytes += wanted.iter().map(|frame| u64::from(frame.extent.len)).sum::<u64>();
        let copied: u64 = list.iter().map(|frame| u64::from(frame.extent.len)).sum();
        self.total = self.total.saturating_sub(
            wanted.iter().map(|frame| u64::from(frame.extent.len)).sum::<u64>().saturating_sub(copied),
        );
        for run in frames::runs(&list) {
            self.run(run, &*file, id)?;
            (self.progress)(Progress { done: self.outcome.copied, total: self.total })?;
        }
        if !list.is_empty() {
            file.sync().map_err(Error::io(format!("flushing {}", self.place.segment(id, run).display())))?;
        }
        self.manifest.segments.insert(id.0, run);
        Ok(())
    }

    /// The file that the complete copy has of a segment, when all frames are in its length.
    fn open_old(&self, id: SegmentId, run: u32, there: &[Frame]) -> Result<Option<Arc<dyn File>>> {
        let path = self.place.segment(id, run);
        let file = match self.place.io.open(&path, false) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(Error::io(format!("opening {}", path.display())))?,
        };
        let len = file.len().map_err(Error::io(format!("reading {}", path.display())))?;
        Ok(there.iter().all(|frame| frame.end() <= len).then_some(file))
    }

    fn run(&mut self, run: &[Frame], file: &dyn File, id: SegmentId) -> Result<()> {
        let Some(extent) = frames::extent_of(run) else { return Ok(()) };
        let bytes = match self.moment.read(extent) {
            Ok(bytes) => bytes,
            Err(error) if !error.is_damage() => return Err(error),
            // One by one, to tell which.
            Err(_) if run.len() > 1 => {
                return run.iter().try_for_each(|frame| self.run(std::slice::from_ref(frame), file, id));
            }
            Err(error) => {
                run.iter().for_each(|frame| self.damage(frame, error.to_string()));
                return Ok(());
            }
        };
        let mut good = true;
        for frame in run {
            let start = (frame.extent.offset - extent.offset) as usize;
            let bytes = bytes.get(start..start + frame.extent.len as usize).unwrap_or_default();
            if let Err(error) = frame::verify(bytes, frame.checksum) {
                // A moment that is held no longer has no frames to be damaged.
                self.moment.check()?;
                self.damage(frame, error.to_string());
                good = false;
            }
        }
        let path = self.place.segment(id, self.manifest.run);
        // What is damaged is copied as it is: no worse there than here, and a person may still find something in it.
        file.write_all_at(&bytes, extent.offset.into())
            .map_err(Error::io(format!("writing {}", path.display())))?;
        if good {
            self.outcome.copied += u64::from(extent.len);
        }
        Ok(())
    }

    /// Takes note of a frame that is damaged, for the person and for the next run.
    fn damage(&mut self, frame: &Frame, why: String) {
        self.outcome.damage(frame.ino, frame.page, why);
        let Extent { segment, offset, .. } = frame.extent;
        self.manifest.damaged.entry(segment.0).or_default().insert(offset);
    }
}

/// The frames that are not there; none where one of them would lie over another that is.
fn missing(wanted: &[Frame], there: &[Frame]) -> Option<Vec<Frame>> {
    let mut list = Vec::new();
    let mut there = there.iter().peekable();
    for frame in wanted {
        while there.next_if(|old| old.end() <= frame.extent.offset.into()).is_some() {}
        match there.peek() {
            Some(old) if old.same(frame) => {}
            Some(old) if u64::from(old.extent.offset) < frame.end() => return None,
            _ => list.push(*frame),
        }
    }
    Some(list)
}
