//! A frame: one page's content as it lies in a segment.

use crate::error::Result;
use crate::format::{Codec, Ino, PageNo};

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The inode that it was written for.
    pub ino: Ino,
    /// The page of it.
    pub page: PageNo,
    /// Orders frames of one page: the newest has the highest.
    pub sequence: u64,
    /// Bytes of content.
    pub raw_len: u32,
    /// Bytes of the frame, header included.
    pub len: u32,
    /// The codec that was used: `Lz4`, `Deflate`, `Gzip`, `Zstd` (levels are not kept: 0) or `None`.
    pub codec: Codec,
    /// Over header and payload.
    pub checksum: u64,
}

/// How to store a page.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// The codec. `Auto` probes whether LZ4 pays.
    pub codec: Codec,
    /// Content below so many bytes is stored raw.
    pub threshold: u32,
}

/// Appends the frame of a page to `out`. What does not shrink by 1/16 is stored raw.
#[expect(unused_variables, clippy::todo, reason = "to be written")]
pub fn seal(out: &mut Vec<u8>, ino: Ino, page: PageNo, sequence: u64, how: How, content: &[u8]) -> Header {
    todo!()
}

/// The content of a frame. `checksum` is the one that the catalog knows; any difference is `Damaged`.
#[expect(unused_variables, clippy::todo, reason = "to be written")]
pub fn open(frame: &[u8], checksum: u64) -> Result<Vec<u8>> {
    todo!()
}

/// The header at the start of `bytes`, when a whole, plausible one is there (the payload is not looked at).
#[expect(unused_variables, clippy::todo, reason = "to be written")]
pub fn peek(bytes: &[u8]) -> Option<Header> {
    todo!()
}
