//! Appending to the journal.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::file::JournalFile;
use super::record::{Draft, HEADER};
use crate::error::{Error, Result};

/// Room that is left behind what adds, and taken behind what is longer than this and goes beyond the room that was made ready:
/// for those who delete, should the disk be full then.
const MARGIN: u64 = 64 << 10;

/// The end of the journal. Whoever holds it decides the order of everything.
#[derive(Debug)]
pub(in crate::catalog) struct Writer {
    /// Files with records that are not in the index, in order; the last is written to.
    live: Vec<Arc<JournalFile>>,
    current: Arc<JournalFile>,
    offset: u64,
    /// The number of the next record.
    next: u64,
    /// The newest batch.
    pub last_batch: u64,
    /// The newest record that is known to be durable.
    flushed: u64,
    /// Files with records that are not known to be durable, with the newest record of each.
    dirty: Vec<(Arc<JournalFile>, u64)>,
    /// Prepared files with the numbers that follow.
    pub ready: VecDeque<Arc<JournalFile>>,
    /// Bytes appended since the last [`Writer::turn`].
    pub appended: u64,
    /// Why nothing more can be appended.
    pub broken: Option<String>,
}

impl Writer {
    /// A writer that goes on behind record `last` at the start of `file`.
    pub fn new(file: Arc<JournalFile>, last: u64) -> Writer {
        Writer {
            live: vec![file.clone()],
            current: file,
            offset: 0,
            next: last + 1,
            last_batch: last,
            flushed: last,
            dirty: Vec::new(),
            ready: VecDeque::new(),
            appended: 0,
            broken: None,
        }
    }

    /// Writes a record and returns its number. After an error nothing has been appended, and the next
    /// record takes the same place; where even that cannot be had, `broken` says why.
    pub fn append(&mut self, draft: &mut Draft) -> Result<u64> {
        let size = draft.size() as u64;
        if self.offset > 0 && self.offset + size > self.current.len() && !self.ready.is_empty() {
            self.advance();
        }
        let file = &self.current;
        let margin = if draft.adds && self.ready.is_empty() { MARGIN } else { 0 };
        if (draft.adds || size > MARGIN) && self.offset + size + margin > file.len() {
            self.grow(size)?;
        }
        let seq = self.next;
        if let Err(error) = file.file.write_all_at(draft.finish(file.number, seq, self.flushed), self.offset)
        {
            let what = format!("writing {}", file.path.display());
            // A torn record is no record; but one that came through whole must not stay. What lies in the room that was
            // made ready is written over, what lies behind it is cut off: a full disk allows both.
            let ready = file.len().saturating_sub(self.offset).min(HEADER as u64) as usize;
            let cut = || {
                file.file.set_len(self.offset)?;
                file.len.store(self.offset, Ordering::Relaxed);
                std::io::Result::Ok(())
            };
            let undone = match [0; HEADER].get(..ready).filter(|zeros| !zeros.is_empty()) {
                Some(zeros) => match file.file.write_all_at(zeros, self.offset) {
                    // Where the disk cannot reserve, that room was none.
                    Err(error) if error.kind() == std::io::ErrorKind::StorageFull => cut(),
                    written => written,
                },
                None => cut(),
            };
            if let Err(second) = undone {
                self.broken = Some(format!("{what} failed ({error}), and so did undoing it ({second})"));
            }
            return Err(Error::io(what)(error));
        }
        self.offset += size;
        self.appended += size;
        // No prepared file was there: this one has grown.
        file.len.fetch_max(self.offset, Ordering::Relaxed);
        self.next += 1;
        match self.dirty.last_mut() {
            Some((last, newest)) if last.number == file.number => *newest = seq,
            _ => self.dirty.push((file.clone(), seq)),
        }
        Ok(seq)
    }

    /// Takes room for a record, as no file is ready that has it, and behind it, for some more that add.
    fn grow(&self, size: u64) -> Result<()> {
        let (file, len) = (&self.current, size + 2 * MARGIN);
        file.file.allocate(self.offset, len).map_err(|error| {
            // A part may have been had, which others need more; where that fails, it is in nobody's way.
            let _ = file.file.set_len(file.len());
            Error::io(format!("enlarging {}", file.path.display()))(error)
        })?;
        file.len.fetch_max(self.offset + len, Ordering::Relaxed);
        Ok(())
    }

    /// The newest record.
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// The files that a flush of everything appended so far must reach.
    pub fn unflushed(&self) -> Vec<Arc<JournalFile>> {
        self.dirty.iter().map(|(file, _)| file.clone()).collect()
    }

    /// Notes that records up to `seq` are durable.
    pub fn set_flushed(&mut self, seq: u64) {
        self.flushed = self.flushed.max(seq);
        self.dirty.retain(|(_, newest)| *newest > seq);
    }

    fn advance(&mut self) -> bool {
        let Some(file) = self.ready.pop_front() else { return false };
        self.live.push(file.clone());
        self.current = file;
        self.offset = 0;
        true
    }

    /// Goes on in the next prepared file and returns those behind it with that file's number; none
    /// when no file is ready.
    pub fn turn(&mut self) -> Option<(Vec<Arc<JournalFile>>, u64)> {
        if !self.advance() {
            return None;
        }
        self.appended = 0;
        let behind = self.live.split_off(self.live.len() - 1);
        Some((std::mem::replace(&mut self.live, behind), self.current.number))
    }

    /// Bytes on disk of the files that this writer knows.
    pub fn disk_bytes(&self) -> u64 {
        self.live.iter().chain(&self.ready).map(|f| f.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Directory, batch};
    use super::*;
    use crate::catalog::Batch;
    use crate::io::Io;
    use crate::io::faulty::{Fault, FaultyDisk, Kind};

    fn put(len: usize) -> Draft {
        let mut changes = Batch::default();
        changes.put(b"key", vec![7; len]);
        batch(changes).unwrap()
    }

    #[test]
    fn behind_what_adds_and_what_is_large_others_find_room_though_the_disk_is_full() {
        let disk = FaultyDisk::new(1);
        disk.create_dir_all(Path::new("/journal")).unwrap();
        let directory = Directory::open(Arc::new(disk.clone()), "/journal".into(), 1 << 16).unwrap();
        let mut writer = Writer::new(Arc::new(directory.create(1).unwrap()), 0);
        writer.append(&mut put(100)).unwrap();
        writer.append(&mut put(200_000)).unwrap();
        disk.fail(Kind::Any, 0, Fault::Full);
        assert!(matches!(writer.append(&mut put(200_000)), Err(Error::NoSpace)));
        let adding = |len| {
            let mut draft = put(len);
            draft.adds = true;
            draft
        };
        let fits = |writer: &mut Writer, draft: &dyn Fn() -> Draft| {
            (0..).find(|_| writer.append(&mut draft()).is_err()).unwrap() as u64
        };
        let added = fits(&mut writer, &|| adding(100));
        assert!(added > 300, "{added} fitted");
        assert!(matches!(writer.append(&mut adding(20_000)), Err(Error::NoSpace)));
        let others = fits(&mut writer, &|| put(100));
        assert!(others * put(100).size() as u64 >= MARGIN - 4096, "{others} fitted");
        assert_eq!(writer.last(), 2 + added + others);
        assert!(writer.broken.is_none());
        disk.heal();
        writer.append(&mut adding(20_000)).unwrap();
    }
}
