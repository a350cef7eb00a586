//! The codec: one page's content to compressed bytes and back.
//!
//! Compressors keep tables of up to megabytes, and making them costs more than compressing a small page
//! does; so they are kept in a pool and used again. The pool holds as many idle sets as a machine of
//! ordinary size has cores; more are made when more threads compress at once, and dropped afterwards.
//!
//! LZ4 is built with its safe encoder and decoder. On 128 KiB of text, one core of a busy machine: safe 384
//! MB/s in and 2960 out, unchecked 424 and 3720: 9 microseconds a page, too little to trust bytes from a disk.
//!
//! Invariants: what is decompressed never takes more memory than the caller said that it may; bytes from
//! the disk lead to an error, never to a panic.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use lz4_flex::block::CompressTable;
use parking_lot::Mutex;
use zstd::bulk::{Compressor, Decompressor};

use crate::format::Codec;

/// Sets of compressors that are kept while nobody compresses.
const IDLE_MAX: usize = 8;

/// A probe compresses so many bytes at each of [`PROBE_PLACES`] places. A page below the sum of these,
/// twice, is compressed at once, which costs as little.
const PROBE_BYTES: usize = 4096;
const PROBE_PLACES: usize = 3;

/// The most bytes that content of `len` bytes may take compressed: it must shrink by 1/16, since what
/// shrinks less costs every reader a decompression that saves next to nothing.
pub fn worthwhile(len: usize) -> usize {
    len - len.div_ceil(16)
}

/// Appends `content`, compressed, to `out`, when that takes at most `limit` bytes, and returns whether it
/// did; otherwise `out` is as before. `Auto` is LZ4 where [`pays`] says so; `None` never compresses.
/// Levels beyond a codec's range are taken as the nearest one in it.
pub fn compress(codec: Codec, content: &[u8], limit: usize, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let fits = with_tools(|tools| match codec {
        Codec::None => false,
        Codec::Lz4 => tools.lz4(content, limit, out),
        Codec::Auto => tools.pays(content) && tools.lz4(content, limit, out),
        Codec::Deflate(_) | Codec::Gzip(_) => tools.deflate(codec, content, limit, out),
        Codec::Zstd(level) => tools.zstd(level, content, limit, out),
    });
    if !fits {
        out.truncate(start);
    }
    fits
}

/// Whether LZ4 shrinks samples of the content by 1/16. Repetition at a distance of more than a sample
/// goes unseen.
pub fn pays(content: &[u8]) -> bool {
    with_tools(|tools| tools.pays(content))
}

/// Appends to `out` what decompresses to exactly `len` bytes; anything else is an error whose text says what
/// differs, and `out` is as before. The caller bounds `len`: so many bytes are allocated.
pub fn decompress(codec: Codec, bytes: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    let done = match codec {
        Codec::None => {
            out.extend_from_slice(bytes);
            Ok(())
        }
        Codec::Lz4 | Codec::Auto => unlz4(bytes, len, out),
        Codec::Deflate(_) | Codec::Gzip(_) => inflate(codec, bytes, len, out),
        Codec::Zstd(_) => with_tools(|tools| tools.unzstd(bytes, len, out)),
    };
    let got = out.len() - start;
    let done = match done {
        Ok(()) if got != len => Err(format!("{codec}: {got} bytes where {len} should be")),
        done => done,
    };
    if done.is_err() {
        out.truncate(start);
    }
    done
}

/// Compressors that are used again and again.
struct Tools {
    lz4: CompressTable,
    lz4_out: Vec<u8>,
    deflate: Option<(Codec, Compress)>,
    zstd: Option<(u8, Compressor<'static>)>,
    unzstd: Option<Decompressor<'static>>,
}

static IDLE: Mutex<Vec<Tools>> = Mutex::new(Vec::new());

fn with_tools<T>(work: impl FnOnce(&mut Tools) -> T) -> T {
    let idle = IDLE.lock().pop();
    let mut tools = idle.unwrap_or_else(|| Tools {
        lz4: CompressTable::large(),
        lz4_out: Vec::new(),
        deflate: None,
        zstd: None,
        unzstd: None,
    });
    let result = work(&mut tools);
    let mut idle = IDLE.lock();
    if idle.len() < IDLE_MAX {
        idle.push(tools);
    }
    result
}

impl Tools {
    /// Compresses into `self.lz4_out` and returns how much there is. The encoder wants room for the worst case.
    fn lz4_len(&mut self, content: &[u8]) -> Option<usize> {
        let room = lz4_flex::block::get_maximum_output_size(content.len());
        if self.lz4_out.len() < room {
            self.lz4_out.resize(room, 0);
        }
        lz4_flex::block::compress_into_with_table(content, &mut self.lz4_out, &mut self.lz4).ok()
    }

    fn lz4(&mut self, content: &[u8], limit: usize, out: &mut Vec<u8>) -> bool {
        let len = self.lz4_len(content).filter(|len| *len <= limit);
        let Some(bytes) = len.and_then(|len| self.lz4_out.get(..len)) else { return false };
        out.extend_from_slice(bytes);
        true
    }

    fn pays(&mut self, content: &[u8]) -> bool {
        if content.len() < 2 * PROBE_PLACES * PROBE_BYTES {
            return true;
        }
        let stride = (content.len() - PROBE_BYTES) / (PROBE_PLACES - 1);
        let samples = (0..PROBE_PLACES).filter_map(|n| content.get(n * stride..n * stride + PROBE_BYTES));
        let compressed: usize = samples.map(|sample| self.lz4_len(sample).unwrap_or(PROBE_BYTES)).sum();
        compressed <= worthwhile(PROBE_PLACES * PROBE_BYTES)
    }

    fn deflate(&mut self, codec: Codec, content: &[u8], limit: usize, out: &mut Vec<u8>) -> bool {
        let stream = match &mut self.deflate {
            Some((of, stream)) if *of == codec => {
                stream.reset();
                stream
            }
            slot => {
                let stream = match codec {
                    Codec::Gzip(level) => Compress::new_gzip(level_of_zlib(level), ZLIB_WINDOW_BITS),
                    Codec::Deflate(level) => Compress::new(level_of_zlib(level), false),
                    _ => return false,
                };
                &mut slot.insert((codec, stream)).1
            }
        };
        // Never more than `limit` is written: a stream that does not end in it does not fit.
        let start = out.len();
        out.resize(start + limit, 0);
        let Some(room) = out.get_mut(start..) else { return false };
        let ended = matches!(stream.compress(content, room, FlushCompress::Finish), Ok(Status::StreamEnd));
        let len = usize::try_from(stream.total_out()).unwrap_or(limit);
        out.truncate(start + len);
        ended
    }

    fn zstd(&mut self, level: u8, content: &[u8], limit: usize, out: &mut Vec<u8>) -> bool {
        let level = level.clamp(1, 19);
        let context = match &mut self.zstd {
            Some((of, context)) if *of == level => context,
            slot => match Compressor::new(i32::from(level)) {
                Ok(context) => &mut slot.insert((level, context)).1,
                Err(_) => return false,
            },
        };
        let start = out.len();
        out.resize(start + limit, 0);
        let Some(room) = out.get_mut(start..) else { return false };
        match context.compress_to_buffer(content, room) {
            Ok(len) => {
                out.truncate(start + len);
                true
            }
            Err(_) => false,
        }
    }

    fn unzstd(&mut self, bytes: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("zstd: {error}");
        let context = match &mut self.unzstd {
            Some(context) => context,
            slot => slot.insert(Decompressor::new().map_err(failed)?),
        };
        fill(out, len, |room| context.decompress_to_buffer(bytes, room).map_err(failed))
    }
}

/// Appends what `write` writes into room for `len` bytes, of which it tells how many it took.
fn fill(
    out: &mut Vec<u8>,
    len: usize,
    write: impl FnOnce(&mut [u8]) -> Result<usize, String>,
) -> Result<(), String> {
    let start = out.len();
    out.resize(start + len, 0);
    let got = write(out.get_mut(start..).unwrap_or_default())?;
    out.truncate(start + got);
    Ok(())
}

fn unlz4(bytes: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let write = |room: &mut [u8]| lz4_flex::block::decompress_into(bytes, room);
    fill(out, len, |room| write(room).map_err(|error| format!("lz4: {error}")))
}

/// zlib's largest window, 32 KiB.
const ZLIB_WINDOW_BITS: u8 = 15;

fn level_of_zlib(level: u8) -> Compression {
    Compression::new(u32::from(level.clamp(1, 9)))
}

fn inflate(codec: Codec, bytes: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let mut stream = match codec {
        Codec::Gzip(_) => Decompress::new_gzip(ZLIB_WINDOW_BITS),
        _ => Decompress::new(false),
    };
    // A byte more than may come: what is longer is seen, and an end that needs room to be found is found.
    out.reserve(len + 1);
    match stream.decompress_vec(bytes, out, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) if stream.total_in() == bytes.len() as u64 => Ok(()),
        Ok(Status::StreamEnd) => {
            Err(format!("{codec}: {} bytes behind its end", bytes.len() as u64 - stream.total_in()))
        }
        Ok(_) => Err(format!("{codec}: it does not end within {len} bytes of content")),
        Err(error) => Err(format!("{codec}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::samples;

    #[test]
    fn every_codec_returns_what_it_was_given_and_shrinks_text() {
        let text = samples::text(100_000, 1);
        let codecs = [Codec::Lz4, Codec::Deflate(1), Codec::Deflate(9), Codec::Gzip(6), Codec::Zstd(3)];
        // Twice each and in turn, so that used compressors are used again.
        for codec in codecs.iter().chain(&codecs).chain([&Codec::Zstd(19), &Codec::Auto]) {
            let mut out = b"before".to_vec();
            assert!(compress(*codec, &text, worthwhile(text.len()), &mut out), "{codec}");
            assert!(out.starts_with(b"before") && out.len() < text.len() * 3 / 4, "{codec}: {}", out.len());
            let mut found = b"before".to_vec();
            decompress(*codec, &out[6..], text.len(), &mut found).unwrap();
            assert_eq!(found, [b"before", &text[..]].concat(), "{codec}");
        }
    }

    #[test]
    fn what_does_not_fit_the_limit_leaves_the_output_as_it_was() {
        let noise = samples::noise(50_000, 2);
        for codec in [Codec::Lz4, Codec::Deflate(6), Codec::Gzip(1), Codec::Zstd(3), Codec::Auto, Codec::None]
        {
            let mut out = b"before".to_vec();
            assert!(!compress(codec, &noise, worthwhile(noise.len()), &mut out), "{codec}");
            assert_eq!(out, b"before", "{codec}");
        }
    }

    #[test]
    fn the_probe_takes_text_and_refuses_noise() {
        assert!(pays(&samples::text(128 << 10, 3)));
        assert!(!pays(&samples::noise(128 << 10, 4)));
    }

    #[test]
    fn a_wrong_length_is_an_error_in_every_codec() {
        let text = samples::text(5000, 5);
        for codec in [Codec::Lz4, Codec::Deflate(6), Codec::Gzip(6), Codec::Zstd(3), Codec::None] {
            let mut out = Vec::new();
            if !compress(codec, &text, text.len(), &mut out) {
                out.extend_from_slice(&text);
            }
            let mut found = b"before".to_vec();
            for len in [0, 1, 4999, 5001, 1 << 20] {
                assert!(decompress(codec, &out, len, &mut found).is_err(), "{codec} {len}");
            }
            assert!(decompress(codec, &out[..out.len() - 1], 5000, &mut found).is_err(), "{codec}");
            out.push(0);
            assert!(decompress(codec, &out, 5000, &mut found).is_err(), "{codec}");
            assert_eq!(found, b"before", "{codec}");
        }
    }
}
