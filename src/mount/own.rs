//! `.larder/` at the mount's root: what there is to know of the mount, as files that any program can read.
//!
//! The directory is not in the store and not in the root's listing; its name is kept for it. Each lookup of a file
//! renders it anew and gives it an inode number of its own, so that what a program has opened stays as it is
//! while it reads, and the kernel never mixes two renderings. A rendering lives until the kernel forgets its
//! inode; there are at most [`MOST`].

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, INodeNo, ReplyData, ReplyEntry, ReplyLseek};
use parking_lot::Mutex;

use super::adapter::{Adapter, Listing};
use super::convert::{self, FOREVER, GENERATION};
use super::counters::Request;
use super::figures::{Mounted, metrics};
use crate::clock::Time;
use crate::error::Result;
use crate::format::{Ino, Kind, ROOT};
use crate::volume::{DirEntry, Volume};

/// The directory's name.
pub(super) const NAME: &str = ".larder";

/// The directory's inode; its files have those behind. A store's own never come so far.
const DIRECTORY: Ino = Ino(1 << 63);

/// The most renderings that are kept at once; one has some kilobytes.
const MOST: usize = 1024;

/// Whether an inode is here and not in the store.
pub(super) fn is(ino: INodeNo) -> bool {
    ino.0 >= DIRECTORY.0
}

/// Whether a name is the directory's.
pub(super) fn is_name(dir: INodeNo, name: &OsStr) -> bool {
    dir.0 == ROOT.0 && name == NAME
}

/// A file of the directory.
#[derive(Clone, Copy, Debug)]
pub(super) enum File {
    /// The figures, JSON.
    Stats,
    /// The figures as Prometheus reads them.
    Metrics,
    /// The settings that apply, TOML.
    Config,
}

impl File {
    pub const ALL: [(&str, File); 3] =
        [("config", File::Config), ("metrics", File::Metrics), ("stats", File::Stats)];

    pub fn named(name: &OsStr) -> Option<File> {
        File::ALL.into_iter().find(|(of, _)| name == *of).map(|(_, file)| file)
    }

    fn render(self, mounted: &Mounted, volume: &Volume) -> Result<Vec<u8>> {
        let text = match self {
            File::Stats => format!("{:#}\n", mounted.figures(volume)?),
            File::Metrics => metrics(&mounted.figures(volume)?),
            File::Config => volume.settings().to_toml(),
        };
        Ok(text.into_bytes())
    }
}

/// The renderings that the kernel knows.
pub(super) struct Own {
    renderings: Mutex<Renderings>,
    /// The directory's time.
    since: SystemTime,
}

#[derive(Default)]
struct Renderings {
    by_ino: HashMap<Ino, Rendering>,
    last: u64,
}

struct Rendering {
    text: Arc<[u8]>,
    made: SystemTime,
    lookups: u64,
}

impl Own {
    /// `since`: the directory's time.
    pub fn new(since: Time) -> Own {
        Own { renderings: Mutex::default(), since: convert::system_time(since) }
    }

    /// A new rendering of a file; `None` while there are too many. Waits as figures do.
    pub fn open(&self, file: File, mounted: &Mounted, volume: &Volume) -> Result<Option<FileAttr>> {
        let text: Arc<[u8]> = file.render(mounted, volume)?.into();
        let mut renderings = self.renderings.lock();
        if renderings.by_ino.len() >= MOST {
            return Ok(None);
        }
        renderings.last += 1;
        // Behind the numbers of the listing.
        let ino = Ino(DIRECTORY.0 + File::ALL.len() as u64 + renderings.last);
        let rendering = Rendering { text, made: convert::system_time(volume.now()), lookups: 1 };
        let attr = rendering.attr(ino);
        renderings.by_ino.insert(ino, rendering);
        Ok(Some(attr))
    }

    /// An inode that the kernel has asked for by its number, and counts once more.
    pub fn again(&self, ino: INodeNo) -> Result<FileAttr, Errno> {
        if ino.0 == DIRECTORY.0 {
            return Ok(self.directory());
        }
        let mut renderings = self.renderings.lock();
        let rendering = renderings.by_ino.get_mut(&Ino(ino.0)).ok_or(Errno::ESTALE)?;
        rendering.lookups += 1;
        Ok(rendering.attr(Ino(ino.0)))
    }

    fn directory(&self) -> FileAttr {
        FileAttr { perm: 0o555, nlink: 2, ..attr(DIRECTORY, Kind::Directory, self.since) }
    }

    pub fn attr(&self, ino: INodeNo) -> Result<FileAttr, Errno> {
        if ino.0 == DIRECTORY.0 {
            return Ok(self.directory());
        }
        self.renderings
            .lock()
            .by_ino
            .get(&Ino(ino.0))
            .map(|rendering| rendering.attr(Ino(ino.0)))
            .ok_or(Errno::ESTALE)
    }

    pub fn forget(&self, ino: INodeNo, count: u64) {
        let mut renderings = self.renderings.lock();
        if let Some(rendering) = renderings.by_ino.get_mut(&Ino(ino.0)) {
            rendering.lookups = rendering.lookups.saturating_sub(count);
            if rendering.lookups == 0 {
                renderings.by_ino.remove(&Ino(ino.0));
            }
        }
    }

    pub fn text(&self, ino: INodeNo) -> Result<Arc<[u8]>, Errno> {
        self.renderings
            .lock()
            .by_ino
            .get(&Ino(ino.0))
            .map(|rendering| Arc::clone(&rendering.text))
            .ok_or(Errno::ESTALE)
    }
}

impl Rendering {
    fn attr(&self, ino: Ino) -> FileAttr {
        let size = self.text.len() as u64;
        FileAttr {
            size,
            blocks: size.div_ceil(512),
            perm: 0o444,
            nlink: 1,
            ..attr(ino, Kind::File, self.made)
        }
    }
}

/// The directory's entries: number, kind and name.
pub(super) fn entries() -> impl Iterator<Item = (Ino, Kind, &'static str)> {
    let files = File::ALL.into_iter().enumerate();
    let files = files.map(|(at, (name, _))| (Ino(DIRECTORY.0 + 1 + at as u64), Kind::File, name));
    [(DIRECTORY, Kind::Directory, "."), (ROOT, Kind::Directory, "..")].into_iter().chain(files)
}

/// What is asked of the directory and its files. The reader thread renders nothing: figures wait for locks.
impl Adapter {
    /// LOOKUP of `.larder/`, or in it.
    pub(super) fn lookup_own(&self, dir: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if !is(dir) {
            self.count(Request::Lookup);
            return reply.entry(&FOREVER, &self.own.directory(), GENERATION);
        }
        if let Some(file) = File::named(name) {
            let (own, mounted) = (Arc::clone(&self.own), self.mounted.clone());
            // Renewed with each lookup; what a program holds stays.
            let done = |reply: ReplyEntry, rendered: Option<FileAttr>| match rendered {
                Some(attr) => reply.entry_with_ttls(&FOREVER, &Duration::ZERO, &attr, GENERATION),
                None => reply.error(Errno::ENFILE),
            };
            return self.wait(Request::Lookup, reply, done, move |volume| own.open(file, &mounted, volume));
        }
        self.count(Request::Lookup);
        // A file handle is looked up as `.` of an inode.
        let known = if name == "." { self.own.again(dir) } else { Err(Errno::ENOENT) };
        match known {
            Ok(attr) => reply.entry_with_ttls(&FOREVER, &Duration::ZERO, &attr, GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    /// Lists `.larder/`.
    pub(super) fn list_own<R: Listing>(&self, request: Request, after: u64, mut reply: R) {
        self.count(request);
        for (cookie, (ino, kind, name)) in (1..).zip(entries()).skip(after as usize) {
            if !reply.put(&DirEntry { ino, kind, name: name.as_bytes(), cookie, entry: None }) {
                break;
            }
        }
        reply.send();
    }

    pub(super) fn read_own(&self, of: INodeNo, offset: u64, size: u32, reply: ReplyData) {
        match self.own.text(of) {
            Ok(text) => {
                let rest = text.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
                reply.data(rest.get(..size as usize).unwrap_or(rest));
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// lseek(2) with `SEEK_HOLE` or `SEEK_DATA`: there is no hole but the end.
    pub(super) fn seek_own(&self, of: INodeNo, offset: u64, hole: bool, reply: ReplyLseek) {
        match self.own.text(of).map(|text| text.len() as u64) {
            Ok(end) if offset < end => reply.offset(if hole { end } else { offset }.cast_signed()),
            Ok(_) => reply.error(Errno::ENXIO),
            Err(errno) => reply.error(errno),
        }
    }
}

fn attr(ino: Ino, kind: Kind, time: SystemTime) -> FileAttr {
    FileAttr {
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        blksize: 4096,
        ..convert::no_attributes(ino, kind)
    }
}
