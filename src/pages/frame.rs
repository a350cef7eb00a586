//! A frame: one page's content as it lies in a segment. All numbers are little-endian.
//!
//! ```text
//!  0  magic "LRDF"            4
//!  4  header version (1)      1
//!  5  codec                   1   0 none, 1 lz4, 2 deflate, 3 gzip, 4 zstd
//!  6  flags (0)               2
//!  8  key epoch (0)           2   kept for encryption
//! 10  (0)                     2
//! 12  page number             4
//! 16  inode                   8
//! 24  sequence                8
//! 32  raw length              4   bytes of content, at most 1 MiB
//! 36  stored length           4   bytes of payload; equal to the raw length with codec none, else less
//! 40  checksum                8   XXH3-64 of the frame with these 8 bytes zero
//! 48  payload
//! ```
//!
//! Invariants: content is never returned from a frame whose checksum is not both its own and the
//! catalog's; nothing is decompressed before that; a frame never needs more than its header and the content.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::codec;
use crate::error::{Error, Result};
use crate::format::{Codec, Ino, PageNo};

/// Bytes of a header.
pub const HEADER_LEN: usize = 48;
/// The most content that a frame holds: the largest page.
pub const RAW_MAX: u32 = 1 << 20;

const MAGIC: [u8; 4] = *b"LRDF";
const VERSION: u8 = 1;
const CHECKSUM_AT: usize = 40;

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
/// `content` is at most [`RAW_MAX`] bytes: a page.
pub fn seal(out: &mut Vec<u8>, ino: Ino, page: PageNo, sequence: u64, how: How, content: &[u8]) -> Header {
    debug_assert!(content.len() <= RAW_MAX as usize, "a page of {} bytes", content.len());
    let start = out.len();
    out.reserve(HEADER_LEN + content.len());
    out.resize(start + HEADER_LEN, 0);
    let compressed = content.len() >= how.threshold as usize
        && codec::compress(how.codec, content, codec::worthwhile(content.len()), out);
    if !compressed {
        out.extend_from_slice(content);
    }
    let mut header = Header {
        ino,
        page,
        sequence,
        raw_len: content.len() as u32,
        len: (out.len() - start) as u32,
        codec: if compressed { without_level(how.codec) } else { Codec::None },
        checksum: 0,
    };
    if let Some(place) = out.get_mut(start..start + HEADER_LEN) {
        place.copy_from_slice(&header.to_bytes());
    }
    header.checksum = xxh3_64(out.get(start..).unwrap_or_default());
    if let Some(place) = out.get_mut(start + CHECKSUM_AT..start + HEADER_LEN) {
        place.copy_from_slice(&header.checksum.to_le_bytes());
    }
    header
}

/// The content of a frame. `checksum` is the one that the catalog knows; any difference is `Damaged`.
pub fn open(frame: &[u8], checksum: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    open_into(frame, checksum, &mut content)?;
    Ok(content)
}

/// [`open`], appending the content to `out`, which is as before on failure.
pub fn open_into(frame: &[u8], checksum: u64, out: &mut Vec<u8>) -> Result<()> {
    let header = verify(frame, checksum)?;
    let payload = frame.get(HEADER_LEN..).unwrap_or_default();
    codec::decompress(header.codec, payload, header.raw_len as usize, out).map_err(|why| header.damaged(&why))
}

/// Whether these are the bytes of the frame with this checksum, which the catalog knows; any difference is `Damaged`.
pub fn verify(frame: &[u8], checksum: u64) -> Result<Header> {
    let header = Header::parse(frame).map_err(|why| Error::Damaged(format!("a frame: {why}")))?;
    if header.len as usize != frame.len() {
        return Err(header.damaged(&format!("it says {} bytes, {} are there", header.len, frame.len())));
    }
    let (head, payload) =
        frame.split_at_checked(HEADER_LEN).ok_or_else(|| header.damaged("the header is cut"))?;
    let mut hash = Xxh3::new();
    hash.update(head.get(..CHECKSUM_AT).unwrap_or_default());
    hash.update(&[0; HEADER_LEN - CHECKSUM_AT]);
    hash.update(payload);
    let found = hash.digest();
    if found != header.checksum {
        let says = header.checksum;
        return Err(header.damaged(&format!("its bytes have checksum {found:016x}, it says {says:016x}")));
    }
    if found != checksum {
        let why = format!("it has checksum {found:016x}, the catalog says {checksum:016x}");
        return Err(header.damaged(&why));
    }
    Ok(header)
}

/// The header at the start of `bytes`, when a whole, plausible one is there (the payload is not looked at).
pub fn peek(bytes: &[u8]) -> Option<Header> {
    Header::parse(bytes).ok()
}

/// Bytes of a segment that are best given to [`find`] at a time: a frame is never larger than half of it.
pub const PART: u64 = 4 << 20;

/// Bytes that are looked at together where nothing but zeros is expected.
const HOLE: usize = 4 << 10;

/// Bytes of zeros that this begins with, in whole parts of [`HOLE`]: a segment that a crash left is mostly room that
/// was reserved and never written.
fn zeros(bytes: &[u8]) -> usize {
    bytes.chunks_exact(HOLE).take_while(|part| *part == [0; HOLE]).count() * HOLE
}

/// The whole frames in a part of a segment that begins with one or with a hole, each with where it begins; and how far
/// the part was looked through: where `more` follows it, its last frame may be cut off.
pub fn find(bytes: &[u8], more: bool) -> (Vec<(usize, Header)>, usize) {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let len = |header: Header| header.len as usize;
        match peek(rest) {
            // What looks like a frame may be a file's content: only its checksum tells.
            Some(header) if rest.get(..len(header)).is_some_and(|f| verify(f, header.checksum).is_ok()) => {
                found.push((at, header));
                at += len(header);
            }
            // Cut by the part's end: read again from there.
            Some(header) if len(header) > rest.len() && at > 0 && more => break,
            // A hole: frames begin anywhere behind it, but not in zeros.
            _ => at += zeros(rest).max(1),
        }
    }
    (found, at)
}

/// The frames in what [`find`] has looked through that are not whole, as far as their headers can be read, each with where it
/// begins: damaged, torn, or dead with a part of their room given back.
pub fn broken(bytes: &[u8], whole: &[(usize, Header)], looked: usize) -> Vec<(usize, Header)> {
    let mut broken = Vec::new();
    let mut at = 0;
    for (from, to) in
        whole.iter().map(|(at, header)| (*at, at + header.len as usize)).chain([(looked, looked)])
    {
        while let Some(rest) = bytes.get(at..from).filter(|rest| !rest.is_empty()) {
            match peek(rest) {
                Some(header) if header.len as usize <= rest.len() => {
                    broken.push((at, header));
                    at += header.len as usize;
                }
                _ => at += zeros(rest).max(1),
            }
        }
        at = to;
    }
    broken
}

fn without_level(codec: Codec) -> Codec {
    match codec {
        Codec::Lz4 | Codec::Auto => Codec::Lz4,
        Codec::Deflate(_) => Codec::Deflate(0),
        Codec::Gzip(_) => Codec::Gzip(0),
        Codec::Zstd(_) => Codec::Zstd(0),
        Codec::None => Codec::None,
    }
}

impl Header {
    fn damaged(&self, why: &str) -> Error {
        Error::Damaged(format!("the frame of page {} of {}: {why}", self.page.0, self.ino))
    }

    fn to_bytes(self) -> [u8; HEADER_LEN] {
        let codec = match self.codec {
            Codec::None => 0,
            Codec::Lz4 | Codec::Auto => 1,
            Codec::Deflate(_) => 2,
            Codec::Gzip(_) => 3,
            Codec::Zstd(_) => 4,
        };
        let stored = self.len - HEADER_LEN as u32;
        let mut bytes = [0; HEADER_LEN];
        let fields: [&[u8]; 9] = [
            &MAGIC,
            &[VERSION, codec],
            &[0; 6],
            &self.page.0.to_le_bytes(),
            &self.ino.0.to_le_bytes(),
            &self.sequence.to_le_bytes(),
            &self.raw_len.to_le_bytes(),
            &stored.to_le_bytes(),
            &self.checksum.to_le_bytes(),
        ];
        let places = bytes.iter_mut().zip(fields.into_iter().flatten());
        places.for_each(|(place, byte)| *place = *byte);
        bytes
    }

    /// A header that is whole and could be: the error says what is not.
    fn parse(bytes: &[u8]) -> std::result::Result<Header, String> {
        let mut fields = Fields { bytes };
        if fields.take()? != MAGIC {
            return Err("it does not begin as one".into());
        }
        let [version, codec] = fields.take()?;
        if version != VERSION {
            return Err(format!("header version {version} is not known"));
        }
        let codec = match codec {
            0 => Codec::None,
            1 => Codec::Lz4,
            2 => Codec::Deflate(0),
            3 => Codec::Gzip(0),
            4 => Codec::Zstd(0),
            other => return Err(format!("codec {other} is not known")),
        };
        if fields.take()? != [0; 6] {
            return Err("it has flags or a key epoch that are not known".into());
        }
        let page = PageNo(u32::from_le_bytes(fields.take()?));
        let ino = Ino(u64::from_le_bytes(fields.take()?));
        let sequence = u64::from_le_bytes(fields.take()?);
        let raw_len = u32::from_le_bytes(fields.take()?);
        let stored = u32::from_le_bytes(fields.take()?);
        let checksum = u64::from_le_bytes(fields.take()?);
        let possible = if codec == Codec::None { stored == raw_len } else { stored < raw_len };
        if raw_len > RAW_MAX || !possible {
            return Err(format!("{stored} bytes of {codec} cannot hold {raw_len} of content"));
        }
        Ok(Header { ino, page, sequence, raw_len, len: HEADER_LEN as u32 + stored, codec, checksum })
    }
}

/// Takes fixed-size fields off the front.
struct Fields<'a> {
    bytes: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> std::result::Result<[u8; N], String> {
        let (field, rest) = self.bytes.split_first_chunk().ok_or("the header is cut")?;
        self.bytes = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests;
