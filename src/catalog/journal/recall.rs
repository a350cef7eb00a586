//! What the journal still has where no index tells from where on it counts: also what the files held under earlier
//! numbers, since a file that is used again keeps its old records until it has been written over.
//!
//! The row of records that counts is the one with the newest that is known to have been durable. Along it the numbers of
//! files never fall: what a recovery cut off, and whose numbers were given again, is not taken for what came behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::file::{JournalFile, Reader};
use super::record::{self, ALIGN, HEADER, Kind, Record};
use crate::catalog::Batch;
use crate::error::Result;

/// Earlier numbers of a file that are tried: a file comes by again after some four others.
const LIVES: u64 = 64;

/// Where a sound record lies.
#[derive(Clone, Copy)]
struct Place {
    /// The number under which its file was written.
    number: u64,
    /// The file, among those that there are.
    file: usize,
    offset: u64,
}

/// Applies all batches of the row in order, and returns its first and last record. `verify` is asked for batches that no
/// mark vouches for; the first that it refuses ends the row. None where there is no record.
pub(in crate::catalog) fn recall(
    files: &[Arc<JournalFile>],
    verify: &mut dyn FnMut(&Batch) -> Result<bool>,
    apply: &mut dyn FnMut(Batch),
) -> Result<Option<(u64, u64)>> {
    let (places, durable) = places(files)?;
    let Some((first, mut last)) = row(&places, durable) else { return Ok(None) };
    let mut readers: Vec<Reader<'_>> = files.iter().map(|file| file.reader()).collect();
    let mut pending: Vec<(u64, Batch)> = Vec::new();
    for (seq, place) in places.range(first..=last) {
        let record = match readers.get_mut(place.file) {
            Some(file) => record_at(file, *place)?,
            None => None,
        };
        let understood = record.and_then(|record| match record.kind {
            Kind::Batch => Batch::read(record.payload).map(|batch| pending.push((*seq, batch))),
            Kind::Mark => record::read_mark(record.payload).map(|upto| {
                let vouched = pending.partition_point(|(seq, _)| *seq <= upto);
                pending.drain(..vouched).for_each(|(_, batch)| apply(batch));
            }),
        });
        if understood.is_none() {
            last = seq.saturating_sub(1);
            break;
        }
    }
    for (seq, batch) in pending {
        if !verify(&batch)? {
            last = seq.saturating_sub(1);
            break;
        }
        apply(batch);
    }
    Ok(Some((first, last)))
}

fn record_at<'a>(file: &'a mut Reader<'_>, place: Place) -> Result<Option<Record<'a>>> {
    let Some(size) = record::peek_size(file.bytes(place.offset, HEADER)?) else { return Ok(None) };
    Ok(record::parse(file.bytes(place.offset, size)?, place.number))
}

/// All sound records by their numbers, those of the newest file where several have one; and the newest record that one
/// of them knew to be durable.
fn places(files: &[Arc<JournalFile>]) -> Result<(BTreeMap<u64, Place>, u64)> {
    let mut places: BTreeMap<u64, Place> = BTreeMap::new();
    let mut durable = 0;
    for (file, of) in files.iter().enumerate() {
        let mut bytes = of.reader();
        let (mut at, mut last) = (0, of.number);
        while let Some(place) = bytes.used(at)? {
            at = place;
            let Some(size) = record::peek_size(bytes.bytes(at, HEADER)?) else {
                at += ALIGN as u64;
                continue;
            };
            let there = bytes.bytes(at, size)?;
            // Neighbours mostly have the same number.
            let lives = (of.number.saturating_sub(LIVES)..=of.number).rev();
            let found = std::iter::once(last)
                .chain(lives)
                .find_map(|number| Some((number, record::parse(there, number)?)));
            let Some((number, record)) = found else {
                at += ALIGN as u64;
                continue;
            };
            durable = durable.max(record.flushed);
            let place = Place { number, file, offset: at };
            let known = places.entry(record.seq).or_insert(place);
            if known.number < number {
                *known = place;
            }
            at += record.size() as u64;
            last = number;
        }
    }
    Ok((places, durable))
}

/// The unbroken row in which the newest durable record is; where that is not there, the last one.
fn row(places: &BTreeMap<u64, Place>, durable: u64) -> Option<(u64, u64)> {
    let mut rows: Vec<(u64, u64)> = Vec::new();
    let mut before: Option<(u64, u64)> = None;
    for (seq, place) in places {
        match (rows.last_mut(), before) {
            (Some(row), Some((last, number)))
                if last.checked_add(1) == Some(*seq) && number <= place.number =>
            {
                row.1 = *seq
            }
            _ => rows.push((*seq, *seq)),
        }
        before = Some((*seq, place.number));
    }
    rows.iter().rev().find(|(first, last)| (*first..=*last).contains(&durable)).or(rows.last()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records with the number of the file that each was written under.
    fn places(records: &[(u64, u64)]) -> BTreeMap<u64, Place> {
        records.iter().map(|(seq, number)| (*seq, Place { number: *number, file: 0, offset: 0 })).collect()
    }

    #[test]
    fn what_a_recovery_cut_off_is_not_taken_for_what_came_behind() {
        // Records 5 and 6 were cut off in file 1; 3 and 4 are newer.
        let found = places(&[(1, 1), (2, 1), (3, 2), (4, 2), (5, 1), (6, 1)]);
        assert_eq!(row(&found, 4), Some((1, 4)));
    }

    #[test]
    fn the_row_is_that_of_the_newest_durable_record_and_else_the_last() {
        let found = places(&[(1, 1), (2, 1), (4, 1), (5, 1)]);
        assert_eq!(row(&found, 2), Some((1, 2)));
        assert_eq!(row(&found, 4), Some((4, 5)));
        assert_eq!(row(&found, 9), Some((4, 5)));
        assert_eq!(row(&BTreeMap::new(), 0), None);
    }
}
