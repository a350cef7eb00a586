//! A journal record.
//!
//! ```text
//!  0        8    10 11 12       16       24       32
//!  +--------+----+--+--+--------+--------+--------+---------------+---------+
//!  |checksum|"LJ"| 1| k| length |  seq   |flushed | payload       | zeros   |
//!  +--------+----+--+--+--------+--------+--------+---------------+---------+
//!  u64           version, kind u32  u64      u64    length bytes    to 8 bytes
//! ```
//!
//! Little-endian. The checksum is XXH3-64 over everything from byte 8 to the end of the payload,
//! seeded with the number of the file. `flushed` is the newest record that was known to be durable
//! when this one was written: whoever finds this record knows that those up to there must be found too.
//!
//! The payload of a batch (kind 1) is its changes, as [`Batch`] has them.
//! The payload of a mark (kind 2) is a u64: everything that batches up to this number refer to was
//! durable when the mark was written.

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::catalog::batch::{Batch, Placed};
use crate::error::{Error, Result};

/// Bytes ahead of the payload.
pub(in crate::catalog) const HEADER: usize = 32;

/// Records begin at multiples of this, so that they can be looked for behind a hole.
pub(in crate::catalog) const ALIGN: usize = 8;

const MAGIC: [u8; 3] = [b'L', b'J', 1];

/// The longest payload. Far above any batch; keeps every length within u32.
const PAYLOAD_MAX: usize = 1 << 30;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::catalog) enum Kind {
    /// A batch of changes.
    Batch = 1,
    /// Tells what has been made durable.
    Mark = 2,
}

/// A record as it was found in a file.
#[derive(Debug)]
pub(in crate::catalog) struct Record<'a> {
    pub kind: Kind,
    pub seq: u64,
    pub flushed: u64,
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Bytes that it takes in the file.
    pub fn size(&self) -> usize {
        (HEADER + self.payload.len()).next_multiple_of(ALIGN)
    }
}

/// A record on its way into the journal: complete but for what is known only at its turn.
#[derive(Debug)]
pub(in crate::catalog) struct Draft {
    bytes: Vec<u8>,
    payload: usize,
    contents: SmallVec<[Placed; 1]>,
    /// As [`Batch::adds`] says.
    pub adds: bool,
}

impl Draft {
    fn new(kind: Kind, mut bytes: Vec<u8>) -> Result<Draft> {
        let payload = bytes.len() - HEADER;
        if payload > PAYLOAD_MAX {
            return Err(Error::Invalid(format!(
                "a batch of {payload} bytes is over the journal's {PAYLOAD_MAX}"
            )));
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        bytes[8..11].copy_from_slice(&MAGIC);
        bytes[11] = kind as u8;
        bytes[12..16].copy_from_slice(&(payload as u32).to_le_bytes());
        Ok(Draft { bytes, payload, contents: SmallVec::new(), adds: false })
    }

    /// Bytes that it takes in the file.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the changes of a batch's record to those of others, and its content, with the places where that belongs, to
    /// theirs. What is left is its memory, empty.
    pub fn leave(mut self, changes: &mut Vec<u8>, contents: &mut Vec<Placed>) -> Vec<u8> {
        let mut from = HEADER;
        for (place, content) in self.contents {
            changes.extend_from_slice(&self.bytes[from..place]);
            from = place + content.len();
            contents.push((changes.len(), content));
        }
        changes.extend_from_slice(&self.bytes[from..HEADER + self.payload]);
        self.bytes.clear();
        self.bytes
    }

    /// The record as it is written.
    pub fn finish(&mut self, file: u64, seq: u64, flushed: u64) -> &[u8] {
        self.bytes[16..24].copy_from_slice(&seq.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&flushed.to_le_bytes());
        let checksum = xxh3_64_with_seed(&self.bytes[8..HEADER + self.payload], file);
        self.bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        &self.bytes
    }
}

/// The record of a batch.
pub(in crate::catalog) fn batch(batch: Batch) -> Result<Draft> {
    let adds = batch.adds;
    let (bytes, contents) = batch.into_parts();
    Ok(Draft { adds, contents, ..Draft::new(Kind::Batch, bytes)? })
}

/// The record of a mark.
pub(in crate::catalog) fn mark(seq: u64) -> Result<Draft> {
    let mut bytes = vec![0; HEADER];
    bytes.extend_from_slice(&seq.to_le_bytes());
    Draft::new(Kind::Mark, bytes)
}

/// The record that begins at the first of `bytes`, when a whole and sound one of this file is there.
pub(in crate::catalog) fn parse(bytes: &[u8], file: u64) -> Option<Record<'_>> {
    let header = bytes.get(..HEADER)?;
    let number = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
    if header.get(8..11)? != MAGIC {
        return None;
    }
    let kind = match header.get(11)? {
        1 => Kind::Batch,
        2 => Kind::Mark,
        _ => return None,
    };
    let length = u32::from_le_bytes(header.get(12..16)?.try_into().ok()?) as usize;
    let payload = bytes.get(HEADER..HEADER.checked_add(length)?)?;
    let summed = bytes.get(8..HEADER + length)?;
    if number(0)? != xxh3_64_with_seed(summed, file) {
        return None;
    }
    Some(Record { kind, seq: number(16)?, flushed: number(24)?, payload })
}

/// The sequence number that a record at the first of `bytes` would have. Cheap: looks for the magic only.
pub(super) fn peek_seq(bytes: &[u8]) -> Option<u64> {
    if bytes.get(8..11)? != MAGIC {
        return None;
    }
    Some(u64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?))
}

/// The bytes of a record with this header, when one can have so many. Cheap: looks for the magic only.
pub(super) fn peek_size(header: &[u8]) -> Option<usize> {
    if header.get(8..11)? != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(header.get(12..16)?.try_into().ok()?) as usize;
    (length <= PAYLOAD_MAX).then(|| (HEADER + length).next_multiple_of(ALIGN))
}

/// What a mark's payload says.
pub(super) fn read_mark(payload: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(payload.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Batch {
        let mut batch = Batch::default();
        batch.put(b"key", b"value");
        batch.delete(b"gone");
        batch.put(vec![7; 200], Vec::new());
        batch
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let mut draft = batch(sample()).unwrap();
        let bytes = draft.finish(3, 42, 40).to_vec();
        let record = parse(&bytes, 3).unwrap();
        assert_eq!(
            (record.kind, record.seq, record.flushed, record.size()),
            (Kind::Batch, 42, 40, bytes.len())
        );
        assert!(Batch::read(record.payload).unwrap().changes().eq(sample().changes()));
    }

    #[test]
    fn a_record_of_another_file_number_is_no_record() {
        let mut draft = batch(sample()).unwrap();
        assert!(parse(draft.finish(3, 42, 40), 4).is_none());
    }

    #[test]
    fn any_flipped_bit_up_to_the_end_of_the_payload_spoils_a_record() {
        let mut small = Batch::default();
        small.put(b"k", b"v");
        let mut draft = batch(small).unwrap();
        let good = draft.finish(1, 2, 1).to_vec();
        let end = HEADER + parse(&good, 1).unwrap().payload.len();
        for bit in 0..end * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad, 1).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn the_bytes_of_records_stay_as_they_are() {
        let mut two = Batch::default();
        two.put(b"ab", b"cde");
        two.delete(b"f");
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(batch(two).unwrap().finish(7, 0x0102, 0x0100)),
            "5a1dd85eaaad7da44c4a0101090000000201000000000000000100000000000005616203636465026600000000000000"
        );
        assert_eq!(
            hex(mark(0x0102).unwrap().finish(7, 0x0103, 0x0100)),
            "228b341c9f08feb94c4a010208000000030100000000000000010000000000000201000000000000"
        );
    }

    #[test]
    fn an_impossible_mark_is_refused() {
        assert!(read_mark(&[1, 2, 3]).is_none());
    }
}
