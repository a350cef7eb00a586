//! A batch of changes, put together as the journal keeps it.
//!
//! Its changes lie one behind the other: a LEB128 number, twice the key's length plus one for a put; the key; for a put, the
//! value's length as LEB128 and the value. Ahead of them is room for the header of the journal's record, so that a change is
//! written once into one block of memory, and that block is what goes to the disk.

use std::sync::Arc;

use serde::Serialize;
use smallvec::SmallVec;

use super::journal::HEADER;
use super::table::{HEAD, Put};
use crate::format::encode_into;

/// Bytes that the records of one changed file take, about, with room to encode the last of them.
const ROOM: usize = 1024;

/// Content of so many bytes and more the table shares with whoever else holds it; of less a copy costs no more.
const LARGE: usize = 256;

/// Content that is held elsewhere, too, and where it belongs: behind so many bytes.
pub(super) type Placed = (usize, Arc<Vec<u8>>);

/// Changes that happen together or not at all. A later change of a key in it wins.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Nothing, or the room for the header and the changes.
    bytes: Vec<u8>,
    /// How many changes.
    count: usize,
    /// What lies among `bytes` and the table need not copy, in order.
    contents: SmallVec<[Placed; 1]>,
    /// Whether it adds to the store something that may be refused: it leaves room in the journal for what removes, and for
    /// what was accepted before.
    pub adds: bool,
}

/// A change: a key, and its new value; `None` deletes.
pub type Change<'a> = (&'a [u8], Option<&'a [u8]>);

impl Batch {
    /// A batch of the changes in a payload of the journal; none when its structure is impossible.
    pub(super) fn read(payload: &[u8]) -> Option<Batch> {
        let mut rest = Changes(payload);
        let count = rest.by_ref().count();
        if !rest.0.is_empty() {
            return None;
        }
        let mut batch = Batch { count, ..Batch::default() };
        if !payload.is_empty() {
            batch.bytes = [&[0; HEADER], payload].concat();
        }
        Some(batch)
    }

    /// An empty one in this memory.
    pub(super) fn within(bytes: Vec<u8>) -> Batch {
        Batch { bytes, ..Batch::default() }
    }

    /// Sets a key.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.put_parts(key, &[value.as_ref()]);
    }

    /// Sets a key to a value of several parts, one behind the other.
    pub fn put_parts(&mut self, key: impl AsRef<[u8]>, value: &[&[u8]]) {
        self.begin(key.as_ref(), true);
        put_number(&mut self.bytes, value.iter().map(|part| part.len() as u64).sum());
        value.iter().for_each(|part| self.bytes.extend_from_slice(part));
    }

    /// Sets a key to a value that ends with this content. In memory the table takes part in holding it.
    pub fn put_content(&mut self, key: impl AsRef<[u8]>, head: &[u8], content: &Arc<Vec<u8>>) {
        self.put_parts(key, &[head, content]);
        if content.len() >= LARGE && head.len() <= HEAD {
            self.contents.push((self.bytes.len() - content.len(), content.clone()));
        }
    }

    /// Sets a key to a record.
    pub fn put_record(&mut self, key: impl AsRef<[u8]>, record: &impl Serialize) {
        self.begin(key.as_ref(), true);
        // Most are shorter than 128 bytes, of which one byte tells the length.
        self.bytes.push(0);
        let start = self.bytes.len();
        encode_into(record, &mut self.bytes);
        let len = self.bytes.len() - start;
        if len < 0x80 {
            self.bytes[start - 1] = len as u8;
            return;
        }
        // A longer number moves the record.
        let mut number = len;
        let width = len.ilog2() as usize / 7 + 1;
        self.bytes.resize(start + len + width - 1, 0);
        self.bytes.copy_within(start..start + len, start + width - 1);
        for byte in &mut self.bytes[start - 1..start + width - 1] {
            *byte = number as u8 | 0x80;
            number >>= 7;
        }
        self.bytes[start + width - 2] &= 0x7f;
    }

    /// Deletes a key; one that does not exist is fine.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.begin(key.as_ref(), false);
    }

    fn begin(&mut self, key: &[u8], put: bool) {
        if self.bytes.is_empty() {
            self.bytes.reserve(ROOM / 2);
            self.bytes.resize(HEADER, 0);
        }
        self.count += 1;
        put_number(&mut self.bytes, (key.len() as u64) << 1 | u64::from(put));
        self.bytes.extend_from_slice(key);
    }

    /// Makes room for the records of so many files, and for so many bytes of content.
    pub fn reserve(&mut self, files: usize, bytes: usize) {
        self.bytes.reserve(files * ROOM + bytes);
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many changes.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Its changes, in order.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        changes(self.bytes.get(HEADER..).unwrap_or_default())
    }

    /// Its changes for the table, in order.
    pub(super) fn puts(&self) -> impl Iterator<Item = (&[u8], Option<Put<'_>>)> {
        self.changes().map(|(key, value)| (key, value.map(Put::Bytes)))
    }

    /// Room for the record's header and the changes, and what of that the table need not copy.
    pub(super) fn into_parts(mut self) -> (Vec<u8>, SmallVec<[Placed; 1]>) {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER, 0);
        }
        (self.bytes, self.contents)
    }
}

/// The changes that [`Batch`]es left, one behind the other, when content was taken out of them.
pub(super) fn joined<'a>(
    changes: &'a [u8],
    contents: &'a [Placed],
) -> impl Iterator<Item = (&'a [u8], Option<Put<'a>>)> {
    let (mut rest, mut contents) = (changes, contents.iter().peekable());
    std::iter::from_fn(move || {
        if rest.is_empty() {
            debug_assert!(contents.peek().is_none(), "content belongs to no change");
            return None;
        }
        let tag = take_number(&mut rest)?;
        let key = take(&mut rest, tag >> 1)?;
        if tag & 1 == 0 {
            return Some((key, None));
        }
        let length = take_number(&mut rest)?;
        let begin = changes.len() - rest.len();
        // The value's length counts the content, too.
        let put = match contents.next_if(|(place, _)| (*place as u64) < begin as u64 + length) {
            Some((place, content)) => Put::Content(take(&mut rest, (*place - begin) as u64)?, content),
            None => Put::Bytes(take(&mut rest, length)?),
        };
        Some((key, Some(put)))
    })
}

/// The changes in a payload, up to one whose structure is impossible.
pub(super) fn changes(payload: &[u8]) -> impl Iterator<Item = Change<'_>> {
    Changes(payload)
}

/// What is left of a payload.
struct Changes<'a>(&'a [u8]);

impl<'a> Changes<'a> {
    fn take(from: &mut &'a [u8]) -> Option<Change<'a>> {
        let tag = take_number(from)?;
        let key = take(from, tag >> 1)?;
        if tag & 1 == 0 {
            return Some((key, None));
        }
        let length = take_number(from)?;
        Some((key, Some(take(from, length)?)))
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        let mut rest = self.0;
        let change = Changes::take(&mut rest)?;
        self.0 = rest;
        Some(change)
    }
}

fn put_number(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn take_number(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            // Its last byte says something: a number has one way to be written.
            return (byte > 0 || shift == 0).then_some(number);
        }
    }
    None
}

fn take<'a>(from: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(usize::try_from(length).ok()?)?;
    *from = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_and_deleted_is_read_back_whatever_its_length() {
        let mut batch = Batch::default();
        assert!(batch.is_empty() && batch.changes().next().is_none());
        let text = |len: usize| vec![b'a'; len];
        for len in [0, 1, 62, 63, 64, 126, 127, 128, 129, 16_383, 16_384, 70_000] {
            batch.put(text(len), text(len));
            batch.put_record(b"record", &serde_bytes(&text(len)));
            batch.delete(text(len));
        }
        let payload = batch.clone().into_parts().0.split_off(HEADER);
        for batch in [batch, Batch::read(&payload).unwrap()] {
            assert_eq!(batch.changes().count(), 36);
            let mut there = batch.changes();
            for len in [0, 1, 62, 63, 64, 126, 127, 128, 129, 16_383, 16_384, 70_000] {
                assert_eq!(there.next().unwrap(), (&text(len)[..], Some(&text(len)[..])));
                let record = crate::format::encode(&serde_bytes(&text(len)));
                assert_eq!(there.next().unwrap(), (&b"record"[..], Some(&record[..])));
                assert_eq!(there.next().unwrap(), (&text(len)[..], None));
            }
            assert!(there.next().is_none());
        }
    }

    fn serde_bytes(bytes: &[u8]) -> crate::format::Patch {
        crate::format::Patch::Data { offset: 0, bytes: bytes.to_vec() }
    }

    #[test]
    fn an_impossible_payload_is_refused() {
        assert!(Batch::read(&[0x09, b'a']).is_none());
        assert!(Batch::read(&[0xff; 12]).is_none());
        assert!(Batch::read(&[0x03, b'a', 0x05, b'b']).is_none());
        assert!(Batch::read(&[0x82, 0x00, b'a']).is_none(), "a number in more bytes than it needs");
        assert!(Batch::read(&[]).unwrap().is_empty());
    }
}
