//! Reading the journal back after a crash.
//!
//! At power loss, records that were not flushed reach the disk in any order or not at all, so a hole
//! with sound records behind it is nothing unusual there: the journal ends at the hole. But each
//! record tells how far the journal was durable when it was written. A hole at or before that place is
//! damage: it is reported and never skipped.

use std::sync::Arc;

use super::GO_BACK;
use super::file::JournalFile;
use super::record::{self, ALIGN, HEADER, Kind};
use crate::catalog::Batch;
use crate::error::{Error, Result};

/// What a journal held.
#[derive(Debug)]
pub(in crate::catalog) struct Replayed {
    /// The newest record in the unbroken row, whether its batch was applied or not.
    pub last: u64,
    /// Whether batches were applied that no mark vouches for.
    pub unmarked: bool,
    /// Whether there was no sound record at all: the files can be written from their start.
    pub clean: bool,
    /// What was found at the journal's end and dropped; nothing of it was ever synced.
    pub dropped: Vec<String>,
}

/// Applies what the files hold behind record `reached`, in order. `verify` is asked for batches that
/// no mark vouches for; the first that it refuses ends the replay. With `salvage` the journal ends at the first
/// damage, and what lies behind is told as dropped.
pub(in crate::catalog) fn replay(
    files: &[Arc<JournalFile>],
    reached: u64,
    salvage: bool,
    verify: &mut dyn FnMut(&Batch) -> Result<bool>,
    apply: &mut dyn FnMut(Batch),
) -> Result<Replayed> {
    let mut row = Row { next: reached + 1, ..Row::default() };
    for file in files {
        row.read(file, apply)?;
    }
    let mut dropped = Vec::new();
    if row.beyond > 0 {
        let (path, offset) = &row.end;
        let damaged = row.flushed >= row.next;
        if damaged && !salvage {
            return Err(Error::Damaged(format!(
                "{path}: at offset {offset}, record {} of the journal cannot be read, though it was durable once and {} \
                 sound records follow it; {GO_BACK}",
                row.next, row.beyond
            )));
        }
        let what = if damaged { "that cannot be put in place" } else { "that were never flushed" };
        dropped.push(format!(
            "{path}: the journal ends at offset {offset} in front of record {}; {} records behind it {what} are \
             dropped",
            row.next, row.beyond
        ));
    }
    let clean = row.next == reached + 1 && row.beyond == 0;
    let mut unmarked = false;
    let open = row.pending.len();
    for (done, (seq, batch)) in row.pending.into_iter().enumerate() {
        if !verify(&batch)? {
            dropped.push(format!(
                "the journal's batch {seq} refers to content that did not reach the disk; it and {} batches \
                 behind it, none of them synced, are dropped",
                open - done - 1
            ));
            break;
        }
        apply(batch);
        unmarked = true;
    }
    dropped.iter().for_each(|what| log::warn!("{what}"));
    Ok(Replayed { last: row.next - 1, unmarked, clean, dropped })
}

/// The unbroken row of records, as far as it has been read.
#[derive(Default)]
struct Row {
    /// The number of the next record.
    next: u64,
    /// Where the next record would be, when it is not in the next file.
    end: (String, u64),
    /// Batches that no mark vouches for yet.
    pending: Vec<(u64, Batch)>,
    /// Sound records behind the end of the row.
    beyond: u64,
    /// The newest record that one of those knew to be durable.
    flushed: u64,
}

impl Row {
    fn read(&mut self, file: &JournalFile, apply: &mut dyn FnMut(Batch)) -> Result<()> {
        let mut bytes = file.reader();
        let mut at = 0;
        while self.beyond == 0
            && let Some(record) = bytes.record(at)?
            && record.seq == self.next
        {
            let impossible = || {
                Error::Damaged(format!(
                    "{}: at offset {at}, record {} is sound but not understood; a newer version may have written it",
                    file.path.display(),
                    record.seq
                ))
            };
            match record.kind {
                Kind::Batch => {
                    let batch = Batch::read(record.payload).ok_or_else(impossible)?;
                    self.pending.push((record.seq, batch));
                }
                Kind::Mark => {
                    let upto = record::read_mark(record.payload).ok_or_else(impossible)?;
                    let vouched = self.pending.partition_point(|(seq, _)| *seq <= upto);
                    self.pending.drain(..vouched).for_each(|(_, batch)| apply(batch));
                }
            }
            self.next += 1;
            at += record.size() as u64;
        }
        if at > 0 || self.end.0.is_empty() {
            self.end = (file.path.display().to_string(), at);
        }
        while let Some(there) = bytes.used(at)? {
            at = there;
            let found = match record::peek_seq(bytes.bytes(at, HEADER)?) {
                // Cheap first: a file's earlier life is full of records, all of them older.
                Some(seq) if seq >= self.next => bytes.record(at)?,
                _ => None,
            };
            match found {
                Some(record) => {
                    self.beyond += 1;
                    self.flushed = self.flushed.max(record.flushed);
                    at += record.size() as u64;
                }
                None => at += ALIGN as u64,
            }
        }
        Ok(())
    }
}
