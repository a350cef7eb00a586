//! What fuzzing asks of all that reads bytes or text from outside: from the disk, the socket, attributes, settings.
//!
//! One function a target. It takes any bytes and panics where something does not hold: that reading ends without a
//! panic, and that what was read can be written and reads the same again. Checksums keep random bytes out; where they stand
//! in front of a reader, the target reads the bytes once as they are and once with their checksums put right.
//!
//! Two callers: `fuzz/`, where libFuzzer looks for bytes that reach new code (`scripts/fuzz`), and `tests/parsers.rs`,
//! which tries all that was found so far.
#![allow(clippy::expect_used, clippy::panic, reason = "that is how it tells what does not hold")]

mod attributes;
mod control;
mod dump;
mod frame;
mod records;
mod settings;

use std::sync::Mutex;

use crate::catalog::fuzz as journal;
use crate::io::File;

/// A target: its name, what is done with the bytes, and how much memory that may take in all, in bytes, however the
/// bytes are.
pub type Target = (&'static str, fn(&[u8]), usize);

/// All targets. Their memory: an input has a megabyte at most, and is held a few times over.
pub const TARGETS: [Target; 7] = [
    // Content of the largest page, sealed, opened and compared, and tools that compress.
    ("frame", frame::run, 32 << 20),
    // Records of what is in the input, twice over, and the reader's windows.
    ("journal", journal::run, 64 << 20),
    ("records", records::run, 32 << 20),
    // A part of a dump may be 16 MiB when it is unpacked.
    ("dump", dump::run, 96 << 20),
    ("settings", settings::run, 16 << 20),
    ("attributes", attributes::run, 16 << 20),
    // What may follow a request, and its record.
    ("control", control::run, 48 << 20),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|(known, ..)| *known == name)
}

/// A file in memory.
#[derive(Debug, Default)]
pub(crate) struct Bytes(Mutex<Vec<u8>>);

impl Bytes {
    pub(crate) fn of(bytes: &[u8]) -> Bytes {
        Bytes(Mutex::new(bytes.to_vec()))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

impl File for Bytes {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.with(|bytes| {
            let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
            buf.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
            Ok(rest.len().min(buf.len()))
        })
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> std::io::Result<()> {
        self.with(|bytes| {
            let at = offset as usize;
            bytes.resize(bytes.len().max(at + buf.len()), 0);
            bytes.iter_mut().skip(at).zip(buf).for_each(|(place, byte)| *place = *byte);
            Ok(())
        })
    }

    fn len(&self) -> std::io::Result<u64> {
        Ok(self.with(|bytes| bytes.len() as u64))
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.with(|bytes| bytes.resize(len as usize, 0));
        Ok(())
    }

    fn allocated(&self) -> std::io::Result<u64> {
        self.len()
    }

    fn allocate(&self, _offset: u64, _len: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn punch(&self, _offset: u64, _len: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn will_need(&self, _offset: u64, _len: u64) {}

    fn drop_cached(&self) {}
}

/// Takes a byte off the front; 0 where there is none.
pub(crate) fn take_byte(from: &mut &[u8]) -> u8 {
    match from.split_first() {
        Some((first, rest)) => {
            *from = rest;
            *first
        }
        None => 0,
    }
}

/// The u32 at a place, when all of it is there.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Puts bytes at a place; what does not fit is left out.
pub(crate) fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes.iter_mut().skip(at).zip(what).for_each(|(place, byte)| *place = *byte);
}
