//! What says that a copy is complete, and what belongs to it.
//!
//! ```text
//! larder-manifest 1 SUM\n     SUM: XXH3-64 of what follows, 16 hexadecimal digits
//! {JSON}\n                    as `Manifest` has it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::catalog::{DumpReader, Dumped};
use crate::error::{Error, Result};
use crate::format::SegmentId;
use crate::io::{Io, Lock};

const HEAD: &str = "larder-manifest 1 ";
const LINE: &str = "larder-backup 1 ";
const MANIFEST: &str = "manifest";
const BACKUP: &str = "BACKUP";

/// The most bytes of a manifest that are read: of a store of 100 TiB it has 50 MB.
const MOST: u64 = 256 << 20;

/// What belongs to a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// The run that completed it, from 1 on.
    pub run: u32,
    /// Sum and records of its dump.
    pub sum: u64,
    pub records: u64,
    /// The store's `larder.toml`.
    pub settings: Option<String>,
    /// Which run began the file of each segment.
    pub segments: BTreeMap<u32, u32>,
    /// Where, in each segment, frames lie that are damaged here: the next run copies them again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub damaged: BTreeMap<u32, BTreeSet<u32>>,
}

/// The directory of a copy.
#[derive(Debug)]
pub(super) struct Place {
    pub io: Arc<dyn Io>,
    pub dir: PathBuf,
    /// The store's id.
    pub store: u64,
    _lock: Lock,
}

fn failed(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    Error::io(format!("{what} {}", path.display()))
}

/// The names in a directory; none where there is no directory.
pub(super) fn names(io: &dyn Io, dir: &Path) -> Result<Vec<String>> {
    let listed = match io.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(failed("listing", dir))?,
    };
    Ok(listed.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
}

fn read(io: &dyn Io, path: &Path) -> Result<String> {
    let file = io.open_read(path).map_err(failed("opening", path))?;
    let len = file.len().map_err(failed("reading", path))?.min(MOST);
    let mut bytes = vec![0; len as usize];
    let got = file.read_at(&mut bytes, 0).map_err(failed("reading", path))?;
    bytes.truncate(got);
    String::from_utf8(bytes).map_err(|_| Error::Damaged(format!("{}: it is no text", path.display())))
}

/// Writes a small file, whole and durable or not at all. What lies where it is made first is removed: a link that somebody
/// has put there is not followed.
pub(super) fn write(io: &dyn Io, path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let written = || {
        match io.remove(&new) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        let file = io.create_new(&new)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync()?;
        io.rename(&new, path)?;
        path.parent().map_or(Ok(()), |dir| io.sync_dir(dir))
    };
    written().map_err(failed("writing", path))
}

impl Place {
    /// The directory of a copy of this store: an empty one, or one that does not exist, becomes one.
    /// Errors: it has other things in it, or another store's copy; somebody is at it.
    pub fn make(io: Arc<dyn Io>, dir: &Path, store: u64) -> Result<Place> {
        // Before anything is made there, and again when nobody else makes anything any longer.
        Place::is_of(&*io, dir, store)?;
        io.create_dir_all(dir).map_err(failed("making", dir))?;
        let lock = Place::lock(&*io, dir)?;
        if !Place::is_of(&*io, dir, store)? {
            write(&*io, &dir.join(BACKUP), &format!("{LINE}{store:016x}\n"))?;
        }
        Ok(Place { io, dir: dir.to_owned(), store, _lock: lock })
    }

    /// Whether a directory is that of a copy of this store, or has nothing in it yet.
    /// Errors: it is neither.
    fn is_of(io: &dyn Io, dir: &Path, store: u64) -> Result<bool> {
        let there = names(io, dir)?;
        match Place::id(io, dir, &there)? {
            Some(id) if id == store => Ok(true),
            Some(other) => Err(Error::store(
                dir,
                format!(
                    "this is a backup of another store ({other:016x}, this one is {store:016x}): name another \
                     directory"
                ),
            )),
            None if there.iter().all(|name| ["lock", "BACKUP.new"].contains(&name.as_str())) => Ok(false),
            None => Err(Error::store(
                dir,
                "this is no backup: the directory has other files in it. Name an empty directory, or one that does not \
                 exist",
            )),
        }
    }

    /// The directory of a copy that is there.
    pub fn open(io: Arc<dyn Io>, dir: &Path) -> Result<Place> {
        let there = names(&*io, dir)?;
        let store = Place::id(&*io, dir, &there)?.ok_or_else(|| {
            Error::store(dir, "this is no backup: name the directory that larder backup made")
        })?;
        let lock = Place::lock(&*io, dir)?;
        Ok(Place { io, dir: dir.to_owned(), store, _lock: lock })
    }

    fn id(io: &dyn Io, dir: &Path, there: &[String]) -> Result<Option<u64>> {
        if !there.iter().any(|name| name == BACKUP) {
            return Ok(None);
        }
        let path = dir.join(BACKUP);
        let text = read(io, &path)?;
        let id = text.trim_end().strip_prefix(LINE).and_then(|id| u64::from_str_radix(id, 16).ok());
        let why = || {
            Error::store(
                &path,
                "it is not as this larder writes it: a newer one did, or it is damaged; use another directory",
            )
        };
        id.map(Some).ok_or_else(why)
    }

    fn lock(io: &dyn Io, dir: &Path) -> Result<Lock> {
        let path = dir.join("lock");
        let lock = io.lock(&path).map_err(failed("locking", &path))?;
        lock.ok_or_else(|| Error::store(dir, "another process is at this backup: wait for its end"))
    }

    /// What is complete; none where no run has come to its end.
    pub fn manifest(&self) -> Result<Option<Manifest>> {
        let path = self.dir.join(MANIFEST);
        let text = match read(&*self.io, &path) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            text => text?,
        };
        let damaged = || Error::Damaged(format!("{}: it is not as it was written", path.display()));
        let (head, json) = text.split_once('\n').ok_or_else(damaged)?;
        let sum = head.strip_prefix(HEAD).and_then(|sum| u64::from_str_radix(sum, 16).ok());
        if sum != Some(xxh3_64(json.as_bytes())) {
            return Err(damaged());
        }
        serde_json::from_str(json).map(Some).map_err(|_| damaged())
    }

    /// Makes the copy complete.
    pub fn complete(&self, manifest: &Manifest) -> Result<()> {
        let mut json =
            serde_json::to_string(manifest).map_err(|error| Error::io("the manifest")(error.into()))?;
        json.push('\n');
        let text = format!("{HEAD}{:016x}\n{json}", xxh3_64(json.as_bytes()));
        write(&*self.io, &self.dir.join(MANIFEST), &text)
    }

    /// The dump of a run.
    pub fn dump(&self, run: u32) -> PathBuf {
        self.dir.join(format!("catalog-{run:08x}"))
    }

    /// The dump of a complete copy, which its manifest says to be the one.
    pub fn read_dump(&self, manifest: &Manifest) -> Result<DumpReader> {
        let path = self.dump(manifest.run);
        let file = self.io.open_read(&path).map_err(failed("opening", &path))?;
        let reader = DumpReader::new(file, &path)?;
        if reader.head().store != self.store {
            return Err(Error::Damaged(format!("{}: it is another store's", path.display())));
        }
        Ok(reader)
    }

    /// Whether a dump that was read to its end is that of the manifest.
    pub fn check_dump(&self, manifest: &Manifest, dumped: &Dumped) -> Result<()> {
        match (dumped.sum, dumped.entries) == (manifest.sum, manifest.records) {
            true => Ok(()),
            false => Err(Error::Damaged(format!(
                "{}: it is not the manifest's",
                self.dump(manifest.run).display()
            ))),
        }
    }

    /// The directory of a segment's files.
    pub fn folder(&self, id: SegmentId) -> PathBuf {
        self.dir.join("segments").join(format!("{:02x}", id.0 & 0xff))
    }

    /// The file of a segment that a run began.
    pub fn segment(&self, id: SegmentId, run: u32) -> PathBuf {
        self.folder(id).join(format!("{:08x}-{run:08x}", id.0))
    }

    /// Removes what does not belong to the copy: what interrupted runs left, and older ones.
    pub fn sweep(&self, manifest: Option<&Manifest>) -> Result<()> {
        let mut keep = BTreeSet::new();
        if let Some(manifest) = manifest {
            keep.insert(self.dump(manifest.run));
            keep.extend(manifest.segments.iter().map(|(id, run)| self.segment(SegmentId(*id), *run)));
        }
        let remove = |path: PathBuf| match keep.contains(&path) {
            true => Ok(()),
            false => self.io.remove(&path).map_err(failed("removing", &path)),
        };
        let digits =
            |name: &str, len: usize| name.len() == len && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        for name in names(&*self.io, &self.dir)? {
            if name.strip_prefix("catalog-").is_some_and(|run| digits(run, 8)) || name == "manifest.new" {
                remove(self.dir.join(name))?;
            }
        }
        let segments = self.dir.join("segments");
        for folder in names(&*self.io, &segments)?.into_iter().filter(|name| digits(name, 2)) {
            let folder = segments.join(folder);
            for name in names(&*self.io, &folder)? {
                if name.split_once('-').is_some_and(|(id, run)| digits(id, 8) && digits(run, 8)) {
                    remove(folder.join(name))?;
                }
            }
        }
        Ok(())
    }
}
