//! Compressed bytes that say how they are compressed: the frames of the store's own segments.
//!
//! ```text
//!   frame 0 │ frame 1 │ ... │ frame n: empty
//! ```
//!
//! Each holds up to 1 MiB of content, its number in place of the page's and 0 in place of inode and sequence
//! (`docs/format.md`). The empty one ends the stream: what is cut off is noticed wherever it is cut.

use std::io::{Read, Write};

use crate::error::{Error, Result};
use crate::format::{Codec, Ino, PageNo};
use crate::pages::frame::{self, HEADER_LEN, How, RAW_MAX};

/// Content below so many bytes is not worth compressing.
const THRESHOLD: u32 = 128;

/// Compresses bytes. What does not get smaller is kept as it is, 48 bytes longer a mebibyte.
///
/// ```
/// use larder::store::{Codec, compress, decompress};
///
/// let text = "the same again and again, ".repeat(1000);
/// let small = compress(Codec::Zstd(3), text.as_bytes());
/// assert!(small.len() < text.len() / 20);
/// assert_eq!(decompress(&small)?, text.as_bytes());
/// # Ok::<(), larder::Error>(())
/// ```
pub fn compress(codec: Codec, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut no = 0;
    for part in bytes.chunks(RAW_MAX as usize) {
        seal(&mut out, codec, no, part);
        no += 1;
    }
    seal(&mut out, codec, no, &[]);
    out
}

/// What [`compress`] was given.
///
/// # Errors
///
/// [`Error::Damaged`]: the bytes are not what `compress` makes, or they have been changed or cut.
pub fn decompress(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    decompress_stream(&mut bytes, &mut out)?;
    Ok(out)
}

/// [`compress`] from a reader to a writer, a mebibyte at a time. Returns the bytes written.
///
/// # Errors
///
/// Those of the reader and the writer.
pub fn compress_stream(codec: Codec, from: &mut impl Read, to: &mut impl Write) -> Result<u64> {
    let (mut content, mut out) = (Vec::new(), Vec::new());
    let (mut no, mut written) = (0u32, 0);
    loop {
        content.clear();
        out.clear();
        let part = from.by_ref().take(u64::from(RAW_MAX)).read_to_end(&mut content);
        part.map_err(failed("reading what is to be compressed"))?;
        seal(&mut out, codec, no, &content);
        to.write_all(&out).map_err(failed("writing what is compressed"))?;
        written += out.len() as u64;
        if content.is_empty() {
            return Ok(written);
        }
        no = no.checked_add(1).ok_or(Error::TooLarge)?;
    }
}

/// [`decompress`] from a reader to a writer, a mebibyte at a time. Returns the bytes written. What was
/// written before a failure is good, but not all.
///
/// # Errors
///
/// As [`decompress`], and those of the reader and the writer.
pub fn decompress_stream(from: &mut impl Read, to: &mut impl Write) -> Result<u64> {
    let damaged = |no: u32, why: &str| Error::Damaged(format!("compressed data, part {no}: {why}"));
    let (mut bytes, mut content) = (Vec::new(), Vec::new());
    let mut written = 0;
    for no in 0.. {
        bytes.clear();
        content.clear();
        read(from, HEADER_LEN, &mut bytes)?;
        if bytes.is_empty() {
            return Err(damaged(no, "it ends too early"));
        }
        let header = frame::peek(&bytes).ok_or_else(|| damaged(no, "it does not begin as Larder's does"))?;
        read(from, header.len as usize - HEADER_LEN, &mut bytes)?;
        if bytes.len() < header.len as usize {
            return Err(damaged(no, "it ends too early"));
        }
        if (header.ino, header.page) != (Ino(0), PageNo(no)) {
            return Err(damaged(no, "it does not belong here"));
        }
        // What is said of a frame in a store names an inode.
        frame::open_into(&bytes, header.checksum, &mut content)
            .map_err(|_| damaged(no, "its bytes are not those that were written"))?;
        if content.is_empty() {
            bytes.clear();
            read(from, 1, &mut bytes)?;
            return if bytes.is_empty() { Ok(written) } else { Err(damaged(no, "more follows its end")) };
        }
        to.write_all(&content).map_err(failed("writing what is decompressed"))?;
        written += content.len() as u64;
    }
    Err(Error::TooLarge)
}

/// A failure of the reader or the writer: no store is full when they are.
fn failed(what: &str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { what: what.to_owned(), source }
}

fn seal(out: &mut Vec<u8>, codec: Codec, no: u32, content: &[u8]) {
    frame::seal(out, Ino(0), PageNo(no), 0, How { codec, threshold: THRESHOLD }, content);
}

/// Appends up to `len` bytes; fewer only at the end.
fn read(from: &mut impl Read, len: usize, out: &mut Vec<u8>) -> Result<()> {
    let done = from.by_ref().take(len as u64).read_to_end(out);
    done.map(drop).map_err(failed("reading what is to be decompressed"))
}
