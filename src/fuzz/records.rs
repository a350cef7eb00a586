//! Records of the catalog: keys, and values of every kind. The first byte says which.

use serde::{Serialize, de::DeserializeOwned};

use super::take_byte;
use crate::clock::Time;
use crate::format::{
    Bucket, CounterRecord, FormatLine, InodeRecord, PageRecord, Patch, SegmentRecord, UseRecord, decode,
    decode_borrowed, encode, is_name, keys, name_hash,
};

pub(super) fn run(mut data: &[u8]) {
    match take_byte(&mut data) % 10 {
        0 => record::<InodeRecord>(data),
        1 => record::<Bucket>(data),
        2 => record::<PageRecord>(data),
        3 => record::<Patch>(data),
        4 => record::<SegmentRecord>(data),
        5 => record::<UseRecord>(data),
        6 => record::<CounterRecord>(data),
        7 => record::<Time>(data),
        8 => {
            record::<u32>(data);
            key(data);
        }
        _ => format_line(data),
    }
}

/// What is read can be written, in no more bytes than it took, and reads the same again; and so it is where the bytes
/// are borrowed.
fn record<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let read = decode::<T>(data, "record");
    let borrowed = decode_borrowed::<T>(data, "record");
    let Ok(record) = read else {
        assert!(borrowed.is_err(), "{borrowed:?} of what is refused otherwise");
        return;
    };
    let bytes = encode(&record);
    assert!(bytes.len() <= data.len(), "{} bytes of {}", bytes.len(), data.len());
    assert_eq!(decode::<T>(&bytes, "record").ok().as_ref(), Some(&record));
    assert_eq!(borrowed.ok().as_ref(), Some(&record));
}

/// What a key is taken apart into makes the key again.
fn key(key: &[u8]) {
    let is = |tag: u8, len: usize| key.first() == Some(&tag) && key.len() == len;
    if let Some((ino, no)) = keys::page_of(key).filter(|_| is(keys::PAGE, 13)) {
        assert_eq!(keys::page(ino, no), key);
    }
    if let Some(ino) = keys::ino_of(key).filter(|_| is(keys::INODE, 9)) {
        assert_eq!(keys::inode(ino), key);
    }
    if let (Some(ino), Some(hash)) = (keys::ino_of(key), keys::bucket_hash(key))
        && is(keys::BUCKET, 17)
    {
        assert_eq!(keys::bucket(ino, hash), key);
    }
    if let (Some((segment, offset)), Some((ino, no))) = (keys::release_of(key), keys::release_page(key))
        && is(keys::RELEASE, 21)
    {
        assert_eq!(keys::release(segment, offset, ino, no), key);
    }
    if let Some((secs, ino)) = keys::expiry_of(key).filter(|(secs, _)| *secs >= 0 && is(keys::EXPIRY, 17)) {
        assert_eq!(keys::expiry(secs, ino), key);
    }
    if let Some(segment) = keys::segment_of(key).filter(|_| is(keys::SEGMENT, 5)) {
        assert_eq!(keys::segment(segment), key);
    }
    if let (Some(ino), Some((dir, name))) = (keys::ino_of(key), keys::link_of(key))
        && key.first() == Some(&keys::LINK)
    {
        assert_eq!(keys::link(ino, dir, name), key);
    }
    if let Some(ino) = keys::ino_of(key).filter(|_| key.first() == Some(&keys::XATTR)) {
        assert_eq!(keys::xattr(ino, keys::xattr_name(key)), key);
    }
    let range = keys::under(key);
    assert!(range.end.is_empty() || range.contains(&key.to_vec()));
    assert!((1..1 << 56).contains(&name_hash(key)));
    if is_name(key) {
        assert!(!key.is_empty() && !key.contains(&b'/') && !key.contains(&0));
    }
}

/// The line in FORMAT.
fn format_line(data: &[u8]) {
    let Some(line) = FormatLine::parse(&String::from_utf8_lossy(data)) else { return };
    if line.check().is_ok() {
        assert_eq!(FormatLine::parse(&line.to_string()), Some(line));
    }
}
