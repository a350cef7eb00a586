//! What fuzzing asks of the journal: two files of any bytes, as a replay finds them, and a rebuild of the catalog.
//!
//! ```text
//! flags u8 │ reached u8 │ where the first file ends, u16 │ the bytes of both
//! ```
#![allow(clippy::expect_used, clippy::panic, reason = "that is how it tells what does not hold")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Batch;
use super::journal::{self, ALIGN, HEADER, JournalFile, Kind};
use crate::error::Error;
use crate::fuzz::{Bytes, put, take_byte, u32_at};

/// The numbers of the two files.
const NUMBERS: [u64; 2] = [3, 9];

pub(crate) fn run(mut data: &[u8]) {
    let (flags, reached) = (take_byte(&mut data), u64::from(take_byte(&mut data)));
    let cut = usize::from(u16::from_le_bytes([take_byte(&mut data), take_byte(&mut data)]));
    let (first, second) = data.split_at(cut.min(data.len()));
    let mend = flags & 1 != 0;
    let bytes: Vec<Vec<u8>> = [first, second]
        .into_iter()
        .zip(NUMBERS)
        .map(|(bytes, number)| if mend { mended(bytes, number) } else { bytes.to_vec() })
        .collect();
    let files = opened(&bytes);
    // How many batches behind the last mark have all their frames.
    let whole = usize::from(flags >> 2 & 7);
    recalled(&files, whole);
    let plain = replay(&files, reached, false, whole);
    let salvaged = replay(&files, reached, true, whole);
    match (plain, salvaged) {
        (Ok(plain), Ok(salvaged)) => {
            assert_eq!(plain, salvaged, "salvage changes what nothing is wrong with");
            in_order(&bytes, reached, &plain);
        }
        (Err(Error::Damaged(_)), Ok(salvaged)) => in_order(&bytes, reached, &salvaged),
        // A sound record that is not understood: never passed over.
        (Err(Error::Damaged(_)), Err(Error::Damaged(_))) => {}
        other => panic!("{other:?}"),
    }
}

/// Puts the checksums of all that begins as a record right; but those that end with all bits set are left wrong, and one
/// that ends with all but the last is that of the file's life before.
fn mended(bytes: &[u8], number: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + HEADER) {
        let (marked, last) = (header.get(8..10) == Some(b"LJ"), header.get(7).copied());
        let length = u32_at(header, 12).unwrap_or_default() as usize;
        let end = at.saturating_add(HEADER).saturating_add(length);
        if !marked || bytes.len() < end {
            at += ALIGN;
            continue;
        }
        let number = if last == Some(0xfe) { number - 1 } else { number };
        let sum = xxh3_64_with_seed(bytes.get(at + 8..end).unwrap_or_default(), number);
        if last != Some(0xff) {
            put(&mut bytes, at, &sum.to_le_bytes());
        }
        at = end.next_multiple_of(ALIGN);
    }
    bytes
}

type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

fn listed(batch: &Batch) -> Changes {
    batch.changes().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect()
}

/// What a replay applies, and the number of the last record in its row.
fn replay(
    files: &[Arc<JournalFile>],
    reached: u64,
    salvage: bool,
    whole: usize,
) -> Result<(Vec<Changes>, u64), Error> {
    let mut applied = Vec::new();
    let mut apply = |batch: Batch| applied.push(listed(&batch));
    let replayed = journal::replay(files, reached, salvage, &mut first(whole), &mut apply)?;
    assert!(replayed.last >= reached, "the row ends before it begins");
    assert!(!replayed.clean || replayed.last == reached, "nothing was there, and was read");
    Ok((applied, replayed.last))
}

/// What a rebuild applies are batches of the row that it tells, each of which can be written and reads the same.
fn recalled(files: &[Arc<JournalFile>], whole: usize) {
    let mut applied = 0;
    let mut apply = |batch: Batch| {
        applied += 1;
        let changes = listed(&batch);
        let mut draft = journal::batch(batch).expect("a batch that was read fits a record");
        let again = journal::parse(draft.finish(4, 5, 2), 4).expect("a record that was written");
        let there = Batch::read(again.payload).map(|batch| listed(&batch));
        assert_eq!(there, Some(changes), "it reads otherwise");
    };
    match journal::recall(files, &mut first(whole), &mut apply) {
        Ok(None) => assert_eq!(applied, 0, "changes of no row"),
        Ok(Some((first, last))) => {
            let records = (u128::from(last) + 1).checked_sub(u128::from(first));
            assert!(
                records.is_some_and(|records| applied <= records),
                "{applied} batches of {first} to {last}"
            );
        }
        Err(error) => panic!("{error}"),
    }
}

/// That so many batches have all their frames.
fn first(mut whole: usize) -> impl FnMut(&Batch) -> Result<bool, Error> {
    move |_| {
        let is = whole > 0;
        whole = whole.saturating_sub(1);
        Ok(is)
    }
}

fn opened(files: &[Vec<u8>]) -> Vec<Arc<JournalFile>> {
    files
        .iter()
        .zip(NUMBERS)
        .map(|(bytes, number)| {
            Arc::new(JournalFile {
                number,
                file: Arc::new(Bytes::of(bytes)),
                path: PathBuf::from(format!("{number:08}")),
                len: AtomicU64::new(bytes.len() as u64),
            })
        })
        .collect()
}

/// What was applied are the batches of the row, from its start and in order; each can be written, and reads the same.
fn in_order(files: &[Vec<u8>], reached: u64, (applied, last): &(Vec<Changes>, u64)) {
    let mut row = Vec::new();
    let mut next = reached + 1;
    for (bytes, number) in files.iter().zip(NUMBERS) {
        let mut at = 0;
        while let Some(record) = bytes.get(at..).and_then(|rest| journal::parse(rest, number)) {
            if record.seq != next {
                break;
            }
            next += 1;
            at += record.size();
            if record.kind == Kind::Batch {
                row.push(record.payload.to_vec());
            }
        }
    }
    assert!(*last < next, "record {last} of a row that ends before {next}");
    assert!(applied.len() <= row.len());
    for (changes, payload) in applied.iter().zip(row) {
        let there = Batch::read(&payload).map(|batch| listed(&batch));
        assert_eq!(there.as_ref(), Some(changes), "another batch than that of the row");
        let mut batch = Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let mut draft = journal::batch(batch).expect("a batch that was read fits a record");
        let bytes = draft.finish(4, 5, 2);
        let again = journal::parse(bytes, 4).expect("a record that was written");
        assert_eq!(again.payload, payload, "a batch has one way to be written");
        assert!(journal::parse(bytes, 5).is_none(), "a record of another file");
    }
}
