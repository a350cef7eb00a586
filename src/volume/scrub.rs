//! Reading everything that is stored once more, while the store is in use, to find what the disk has lost.
//!
//! A part at a time, in the order of the catalog: who scrubs decides how fast, and goes on where the last part
//! ended, also after another mount. A frame that cannot be verified is damage only when the page still has it:
//! while a scrub reads, pages are written anew and compacted.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Volume;
use crate::error::{Error, Result};
use crate::format::{Ino, Links, PageNo, PageRecord, ROOT, decode, keys};
use crate::pages::frame;

/// Pages that are looked up together.
const TOGETHER: usize = 256;

/// A part ends when so many pages were found damaged: an answer has an end.
const HURT: usize = 256;

/// A page, in the order in which pages are scrubbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The file's inode.
    pub inode: u64,
    /// The page in it.
    pub page: u32,
}

/// A page whose content is not what was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hurt {
    /// The key, as far as it can be told: a file with several names goes by its inode.
    pub key: String,
    /// Where in the content the page begins, bytes.
    pub offset: u64,
    /// Where on the disk, and what is wrong.
    pub why: String,
}

/// What a part of a scrub has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Where to go on; nothing behind the last page.
    pub next: Option<Place>,
    /// Frames that were read.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of all frames of the store at the time.
    pub total: u64,
    /// Pages that are damaged.
    pub hurt: Vec<Hurt>,
}

impl Scrubbed {
    fn goes_on(&self, bytes: u64) -> bool {
        self.bytes < bytes && self.hurt.len() < HURT
    }
}

impl Volume {
    /// Verifies the pages from a place on, until `bytes` of the disk have been read, or much of it is damaged. Waits.
    ///
    /// # Errors
    ///
    /// `Io` and `Damaged`: the catalog cannot be read, or the disk refuses. Damaged content is no error here.
    pub fn scrub(&self, from: Place, bytes: u64) -> Result<Scrubbed> {
        let total = self.tree.lock().counters.stored;
        let mut done = Scrubbed { next: Some(from), total, ..Scrubbed::default() };
        let mut dropped = BTreeSet::new();
        while let Some(from) = done.next.filter(|_| done.goes_on(bytes) && !self.stopping()) {
            let mut places = Vec::new();
            let range =
                keys::range(keys::page(Ino(from.inode), PageNo(from.page)), keys::under(&[keys::PAGE]).end);
            self.engine.scan(range, &mut |key, _| {
                places.extend(keys::page_of(key));
                places.len() <= TOGETHER
            })?;
            // The last one is where the next round begins.
            let beyond = if places.len() > TOGETHER { places.pop() } else { None };
            done.next = beyond.map(|(ino, no)| Place { inode: ino.0, page: no.0 });
            for (ino, no) in places {
                if !done.goes_on(bytes) || self.stopping() {
                    done.next = Some(Place { inode: ino.0, page: no.0 });
                    break;
                }
                self.scrub_page(ino, no, &mut dropped, &mut done)?;
            }
        }
        Ok(done)
    }

    fn scrub_page(
        &self,
        ino: Ino,
        no: PageNo,
        dropped: &mut BTreeSet<crate::format::SegmentId>,
        done: &mut Scrubbed,
    ) -> Result<()> {
        let key = keys::page(ino, no);
        loop {
            // A page that is gone meanwhile is no longer of interest.
            let Some(value) = self.engine.get(&key)? else { return Ok(()) };
            let record: PageRecord = decode(&value, "page record")?;
            let place = record.extent;
            if dropped.insert(place.segment) {
                // What the system has in memory says nothing about the disk.
                self.segments.drop_cached(place.segment);
            }
            let mut content = Vec::new();
            let read = self
                .segments
                .read(place)
                .and_then(|bytes| frame::open_into(&bytes, record.checksum, &mut content));
            let why = match read {
                Ok(()) => None,
                Err(error @ (Error::Damaged(_) | Error::Io { .. })) => Some(error.to_string()),
                Err(error) => return Err(error),
            };
            if why.is_some() && self.engine.get(&key)?.as_ref() != Some(&value) {
                continue;
            }
            done.frames += 1;
            done.bytes += u64::from(place.len);
            if let Some(why) = why {
                let page_size = self.run(|volume| Ok(volume.tree.lock().get(ino)?.rec.page_size()));
                let offset = page_size.map_or(0, |size| size * u64::from(no.0));
                let (segment, at) = (place.segment.0, place.offset);
                let why = format!("segment {segment:08x}, offset {at}: {why}");
                let key = self.path_of(ino);
                log::error!("scrub: {key}: content from byte {offset} on is damaged: {why}");
                done.hurt.push(Hurt { key, offset, why });
            }
            return Ok(());
        }
    }

    /// How a person would name an inode.
    fn path_of(&self, ino: Ino) -> String {
        let mut at = ino;
        // What cannot be brought into memory shows as a number.
        for _ in 0..64 {
            let links = self.run(|volume| Ok(volume.tree.lock().get(at)?.rec.links.clone()));
            match links {
                Ok(Links::One { parent, .. }) if at != ROOT => at = parent,
                _ => break,
            }
        }
        self.name_of(ino)
    }
}
