//! The files of the segments: names, a bounded pool of descriptors, allocation and readahead.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::HEADER_LEN;
use crate::error::{Error, Result};
use crate::format::SegmentId;
use crate::io::{File, Io};
use crate::pages::SEGMENT_SIZE;

/// Descriptors kept open for reading. Few enough that a process with the lowest usual limit, 64, can have a store open and
/// do something beside it; opening a file again costs microseconds, a tenth of what decompressing a page does.
const POOL: NonZeroUsize = NonZeroUsize::MIN.saturating_add(23);

/// Room is allocated in steps of this size, so that few appends pay for it.
const STEP: u32 = 8 << 20;

/// Files are extended in multiples of this, so that the length of one that a crash left open tells.
const GRAIN: u32 = 1 << 20;

/// Frames smaller than this lie among neighbours that are likely to be read too.
const SMALL: u32 = 64 << 10;
/// What is advised around a small frame, once while its segment is in the pool.
const WINDOW: u32 = 256 << 10;
/// What is advised behind a large frame that follows the one read before.
const AHEAD: u32 = 1 << 20;

const MAGIC: [u8; 4] = *b"LRDS";
const VERSION: u32 = 1;

/// The files in the directory of segments.
#[derive(Debug)]
pub struct Files {
    io: Arc<dyn Io>,
    dir: PathBuf,
    pool: Mutex<LruCache<SegmentId, Arc<dyn File>>>,
    advised: Mutex<LruCache<SegmentId, Advised>>,
}

/// What has been read and advised of a segment.
#[derive(Debug, Default)]
struct Advised {
    /// Where the last read ended.
    last: u32,
    /// How far has been advised behind large frames.
    ahead: u32,
    /// A bit for each window of the segment.
    windows: [u64; (SEGMENT_SIZE / WINDOW / 64) as usize],
}

/// Where a segment lies in the directory of segments.
pub fn segment_file(dir: &Path, id: SegmentId) -> PathBuf {
    dir.join(format!("{:02x}", id.0 & 0xff)).join(format!("{:08x}", id.0))
}

/// What a segment's file begins with.
pub fn segment_header(id: SegmentId) -> Vec<u8> {
    [MAGIC, VERSION.to_le_bytes(), id.0.to_le_bytes(), [0; 4]].concat()
}

impl Files {
    pub fn new(io: Arc<dyn Io>, dir: PathBuf) -> Files {
        Files { io, dir, pool: Mutex::new(LruCache::new(POOL)), advised: Mutex::new(LruCache::new(POOL)) }
    }

    fn folder(&self, id: SegmentId) -> PathBuf {
        self.dir.join(format!("{:02x}", id.0 & 0xff))
    }

    fn path(&self, id: SegmentId) -> PathBuf {
        segment_file(&self.dir, id)
    }

    /// What messages call a segment.
    pub fn name(&self, id: SegmentId) -> String {
        format!("segment {}", self.path(id).display())
    }

    /// The segments that are there. Makes the directory when it is missing.
    pub fn scan(&self) -> Result<Vec<SegmentId>> {
        let failed = |path: &Path| Error::io(format!("listing {}", path.display()));
        self.io.create_dir_all(&self.dir).map_err(failed(&self.dir))?;
        let mut found = Vec::new();
        for folder in self.io.list(&self.dir).map_err(failed(&self.dir))? {
            let Some(low) = hex(&folder, 2) else {
                log::warn!("{}: not a folder of segments; ignored", folder.display());
                continue;
            };
            for path in self.io.list(&folder).map_err(failed(&folder))? {
                match hex(&path, 8) {
                    Some(id) if id & 0xff == low => found.push(SegmentId(id)),
                    _ => log::warn!("{}: not a segment; ignored", path.display()),
                }
            }
        }
        Ok(found)
    }

    /// Looks at a segment when the store is opened and returns where its frames end at most. One that a
    /// crash left open ends in zeros, allocated ahead; their room is given back. The length stays, since
    /// zeros may be a raw frame's content. Where what it ends in cannot be read, nothing is given back.
    pub fn settle(&self, id: SegmentId) -> Result<u64> {
        let failed = || Error::io(format!("opening {}", self.name(id)));
        let file = self.io.open(&self.path(id), false).map_err(failed())?;
        let len = file.len().map_err(failed())?;
        let most = u64::from(SEGMENT_SIZE);
        if len == 0 || len > most || len % u64::from(GRAIN) != 0 {
            return Ok(len.min(most));
        }
        let mut chunk = vec![0; GRAIN as usize];
        let mut zeros_from = len;
        while zeros_from > 0 {
            let start = zeros_from - u64::from(GRAIN);
            if let Err(error) = file.read_at(&mut chunk, start) {
                log::warn!("{}: where its frames end cannot be read: {error}", self.name(id));
                return Ok(len);
            }
            const EMPTY: [u8; super::BLOCK as usize] = [0; super::BLOCK as usize];
            if let Some(last) = chunk.chunks(EMPTY.len()).rposition(|block| *block != EMPTY) {
                zeros_from = start + (last as u64 + 1) * u64::from(super::BLOCK);
                break;
            }
            zeros_from = start;
        }
        // Punching may itself need room, on a full disk: then it has to wait for another opening.
        if zeros_from < len
            && let Err(error) = file.punch(zeros_from, len - zeros_from)
        {
            log::warn!("giving back room in {}: {error}", self.name(id));
        }
        Ok(len)
    }

    /// The directories that must be synced for a new segment to be found again.
    pub fn directories(&self, id: SegmentId) -> impl Iterator<Item = PathBuf> {
        let parent = self.dir.parent().map(Path::to_path_buf);
        [self.folder(id), self.dir.clone()].into_iter().chain(parent)
    }

    /// Makes a segment's file with at least `len` bytes allocated. Returns it and its length.
    pub fn create(&self, id: SegmentId, len: u32, left: u64) -> Result<(Arc<dyn File>, u32)> {
        let failed = || Error::io(format!("making {}", self.name(id)));
        let folder = self.folder(id);
        self.io.create_dir_all(&folder).map_err(failed())?;
        let file = self.io.open(&self.path(id), true).map_err(failed())?;
        let header = segment_header(id);
        let made = self
            .allocate(id, &file, 0, len, left)
            .and_then(|end| file.write_all_at(&header, 0).map_err(failed()).map(|()| end));
        match made {
            Ok(end) => Ok((file, end)),
            Err(error) => {
                if let Err(error) = self.io.remove(&self.path(id)) {
                    log::warn!("removing {}, which could not be made: {error}", self.name(id));
                }
                Err(error)
            }
        }
    }

    /// Allocates at least `more` bytes from `end` on, at most `left`, and returns where the room ends now.
    pub fn allocate(
        &self,
        id: SegmentId,
        file: &Arc<dyn File>,
        end: u32,
        more: u32,
        left: u64,
    ) -> Result<u32> {
        let mut result = Err(Error::NoSpace);
        for unit in [STEP, GRAIN] {
            let new = end.saturating_add(more).next_multiple_of(unit).min(SEGMENT_SIZE);
            if u64::from(new - end) > left {
                continue;
            }
            let done = file.allocate(u64::from(end), u64::from(new - end));
            result = done.map(|()| new).map_err(Error::io(format!("allocating room in {}", self.name(id))));
            if !matches!(result, Err(Error::NoSpace)) {
                break;
            }
            // A part may have been allocated.
            self.cut(id, file, end)?;
        }
        result
    }

    /// Cuts a file.
    pub fn cut(&self, id: SegmentId, file: &Arc<dyn File>, len: u32) -> Result<()> {
        file.set_len(u64::from(len)).map_err(Error::io(format!("cutting {}", self.name(id))))
    }

    /// Bytes that the disk has left.
    pub fn room(&self) -> Result<u64> {
        let room = self.io.room(&self.dir).map_err(Error::io(format!("{}: statfs", self.dir.display())))?;
        Ok(room.available)
    }

    /// The file of a segment: `open`, or one from the pool.
    pub fn get(&self, id: SegmentId, open: Option<Arc<dyn File>>) -> Result<Arc<dyn File>> {
        if let Some(file) = open.or_else(|| self.pool.lock().get(&id).cloned()) {
            return Ok(file);
        }
        let file = self.io.open(&self.path(id), false);
        let file = file.map_err(Error::io(format!("opening {}", self.name(id))))?;
        self.check_header(id, &file)?;
        self.keep(id, file.clone());
        Ok(file)
    }

    /// Refuses a file that does not begin as this segment.
    pub fn check_header(&self, id: SegmentId, file: &Arc<dyn File>) -> Result<()> {
        let mut header = [0; HEADER_LEN as usize];
        let got = file.read_at(&mut header, 0);
        got.map_err(Error::io(format!("reading {}", self.name(id))))?;
        if header[..] != segment_header(id) {
            return Err(Error::Damaged(format!("{}: it does not begin as this segment", self.name(id))));
        }
        Ok(())
    }

    /// Puts a descriptor in the pool.
    pub fn keep(&self, id: SegmentId, file: Arc<dyn File>) {
        // What it pushes out is closed behind the lock.
        let _pushed_out = self.pool.lock().push(id, file);
    }

    /// Bytes on the disk. Does not go through the pool, which a listing would empty.
    pub fn allocated(&self, id: SegmentId, open: Option<Arc<dyn File>>) -> Result<u64> {
        let failed = || Error::io(format!("looking at {}", self.name(id)));
        let open = match open {
            Some(file) => file,
            None => self.io.open(&self.path(id), false).map_err(failed())?,
        };
        open.allocated().map_err(failed())
    }

    /// Removes a file and gives the disk its room at once, also where somebody is still reading or syncing it.
    pub fn remove(&self, id: SegmentId, open: Option<Arc<dyn File>>) -> Result<()> {
        let failed = || Error::io(format!("removing {}", self.name(id)));
        self.advised.lock().pop(&id);
        let pooled = self.pool.lock().pop(&id);
        let file = match open.or(pooled) {
            Some(file) => file,
            None => self.io.open(&self.path(id), false).map_err(failed())?,
        };
        if let Err(error) = self.io.remove(&self.path(id))
            && !self.is_gone(id)
        {
            return Err(failed()(error));
        }
        if let Err(error) = file.set_len(0) {
            log::warn!("{}: its room comes back when nobody uses it any longer: {error}", self.name(id));
        }
        Ok(())
    }

    fn is_gone(&self, id: SegmentId) -> bool {
        matches!(self.io.open(&self.path(id), false), Err(error) if error.kind() == ErrorKind::NotFound)
    }

    /// Makes files durable, and the entries of directories.
    pub fn sync(&self, files: &BTreeMap<SegmentId, Arc<dyn File>>, dirs: &BTreeSet<PathBuf>) -> Result<()> {
        for (id, file) in files {
            file.sync().map_err(Error::io(format!("syncing {}", self.name(*id))))?;
        }
        for dir in dirs {
            self.io.sync_dir(dir).map_err(Error::io(format!("syncing {}", dir.display())))?;
        }
        Ok(())
    }

    /// Tells the disk what will be read next, as far as this read lets guess.
    pub fn read_ahead(&self, id: SegmentId, file: &Arc<dyn File>, offset: u32, len: u32) {
        let end = offset.saturating_add(len);
        let advice = {
            let mut advised = self.advised.lock();
            let known = advised.get_or_insert_mut(id, Advised::default);
            let near = offset >= known.last && offset - known.last < WINDOW;
            known.last = end;
            if len < SMALL {
                let window = offset / WINDOW;
                let bit = 1u64 << (window % 64);
                match known.windows.get_mut((window / 64) as usize) {
                    Some(bits) if *bits & bit == 0 => {
                        *bits |= bit;
                        Some((window * WINDOW, WINDOW))
                    }
                    _ => None,
                }
            } else if near && known.ahead < end.saturating_add(AHEAD / 2) {
                known.ahead = end.saturating_add(AHEAD);
                Some((end, AHEAD))
            } else {
                // A reader that went back begins anew.
                known.ahead = known.ahead.min(end.saturating_add(AHEAD));
                None
            }
        };
        if let Some((from, len)) = advice {
            file.will_need(u64::from(from), u64::from(len));
        }
    }
}

/// The number that a file's name is in lower-case hexadecimal digits.
fn hex(path: &Path, digits: usize) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let plain = name.len() == digits && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    u32::from_str_radix(name, 16).ok().filter(|_| plain)
}
