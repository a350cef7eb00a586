//! Frames: bytes of a segment, and content that becomes one.

use xxhash_rust::xxh3::xxh3_64;

use super::{put, take_byte};
use crate::error::Error;
use crate::format::{Codec, Ino, PageNo};
use crate::pages::frame::{self, HEADER_LEN, How, RAW_MAX};

/// Where a header has these, as `pages/frame.rs` draws it.
const STORED_AT: usize = 36;
const CHECKSUM_AT: usize = 40;

pub(super) fn run(data: &[u8]) {
    open(data);
    open(&mended(data));
    seal(data);
}

/// The bytes with the stored length that they have and the checksum that fits.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let payload = bytes.len().saturating_sub(HEADER_LEN) as u32;
    put(&mut bytes, STORED_AT, &payload.to_le_bytes());
    put(&mut bytes, CHECKSUM_AT, &[0; 8]);
    let sum = xxh3_64(&bytes);
    put(&mut bytes, CHECKSUM_AT, &sum.to_le_bytes());
    bytes
}

fn open(bytes: &[u8]) {
    let Some(header) = frame::peek(bytes) else {
        assert!(frame::open(bytes, 0).is_err(), "opened without a header");
        return;
    };
    assert!(header.raw_len <= RAW_MAX && header.len as usize <= HEADER_LEN + header.raw_len as usize);
    let mut content = vec![7];
    match frame::open_into(bytes, header.checksum, &mut content) {
        Ok(()) => {
            assert_eq!(content.remove(0), 7);
            assert_eq!(content.len(), header.raw_len as usize);
            assert!(frame::open(bytes, !header.checksum).is_err(), "another's checksum");
            let how = How { codec: header.codec, threshold: 0 };
            stored(header.ino, header.page, header.sequence, how, &content);
        }
        Err(Error::Damaged(_)) => assert_eq!(content, [7], "what failed has left something"),
        Err(other) => panic!("{other}"),
    }
}

/// Bytes as a page's content, by whichever codec the first of them says.
fn seal(mut data: &[u8]) {
    let codecs = [
        Codec::Lz4,
        Codec::Auto,
        Codec::None,
        Codec::Deflate(1),
        Codec::Deflate(9),
        Codec::Gzip(6),
        Codec::Zstd(1),
        Codec::Zstd(3),
    ];
    let codec = codecs.get(usize::from(take_byte(&mut data)) % codecs.len()).copied().unwrap_or_default();
    let threshold = u32::from(take_byte(&mut data));
    let content = data.get(..data.len().min(RAW_MAX as usize)).unwrap_or_default();
    stored(Ino(1), PageNo(2), 3, How { codec, threshold }, content);
}

/// What is sealed opens, and is the same; no frame needs more than its header and the content.
fn stored(ino: Ino, page: PageNo, sequence: u64, how: How, content: &[u8]) {
    let mut bytes = b"before".to_vec();
    let header = frame::seal(&mut bytes, ino, page, sequence, how, content);
    let frame = bytes.strip_prefix(b"before").unwrap_or_default();
    assert_eq!(frame::peek(frame), Some(header));
    assert!(frame.len() <= HEADER_LEN + content.len());
    assert!(frame::open(frame, header.checksum).is_ok_and(|found| found == content), "{how:?}");
}
