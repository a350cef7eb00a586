//! The index's file: redb's bytes in blocks of 4 KiB, each with a checksum, which redb itself does not verify when it
//! reads a page. What the disk has changed is told as an error with the block's place and never passed on.
//!
//! ```text
//! file    head                                          4096 bytes
//!         then groups of up to 512 blocks:
//!           sums    u64 × 512                           4096 bytes: of the group's blocks, in their order
//!           blocks                                      4096 bytes each; the last group is cut after its last block
//!
//! head    0     bytes of redb's header, then zeros      504 bytes
//!         504   sum of them                             u64
//!         512   the same 512 bytes again, written next
//!         1024  nothing
//! ```
//!
//! Block 0 of what redb sees is the head, of which redb uses the first 320 bytes; block n is the nth of the groups.
//! A sum is the XXH3-64 of the block's bytes, seeded with the block's number, so that a block in another's place
//! shows; little-endian. A sum of 0 and a block that was never written are no exception: redb reads nothing but what
//! it has written, and what was not is damage when it is read.
//!
//! Why a crash leaves no wrong sum where it matters:
//! - The head has redb's two commit slots, each with a checksum of redb's. It and its sum are one sector, written by one
//!   call; if that is cut short, the copy still has what was there before, and nothing was confirmed since. The first
//!   of the two that is whole counts.
//! - All other blocks are written in the two-phase commits of redb: a page that the last commit refers to is never
//!   written again before a later commit is durable, and the head names a commit only after a flush of its blocks.
//!   Thus a block and its sum that do not fit belong to a page that no commit refers to, and is not read. The
//!   sums beside it in the same sector are written with the bytes that they have.

use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use redb::StorageBackend;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::reserve::Reserve;
use crate::io::File;

/// Bytes of a block: redb's page. redb reads and writes whole ones, but for its header.
const BLOCK: usize = 4096;
/// Blocks of a group: as many as one block holds sums of.
const GROUP: u64 = (BLOCK / SUM) as u64;
/// Bytes of a sum.
const SUM: usize = 8;
/// Bytes of the head that are written, in one sector, twice.
const HEAD: usize = 512;

/// The index's file as redb sees it.
#[derive(Debug)]
pub(super) struct Blocks {
    pub file: Arc<dyn File>,
    /// What a full disk is met with, if others took the room that was there when it was asked for.
    pub reserve: Option<Arc<Reserve>>,
}

/// A run of blocks that lie side by side: where they and their sums lie in the file, and how many they are.
struct Run {
    blocks: u64,
    sums: u64,
    count: usize,
}

/// The run that begins with block `first`, of at most `count`. Block 0 is in none.
fn run(first: u64, count: usize) -> Run {
    let (group, within) = ((first - 1) / GROUP, (first - 1) % GROUP);
    let start = (1 + group * (GROUP + 1)) * BLOCK as u64;
    Run {
        blocks: start + (1 + within) * BLOCK as u64,
        sums: start + within * SUM as u64,
        count: count.min((GROUP - within) as usize),
    }
}

/// The length of the file in which redb sees `blocks` of them.
fn file_len(blocks: u64) -> u64 {
    let others = blocks.saturating_sub(1);
    (blocks.min(1) + others + others.div_ceil(GROUP)) * BLOCK as u64
}

/// How many blocks redb sees in a file of this length.
fn blocks_in(len: u64) -> u64 {
    let blocks = len / BLOCK as u64;
    let others = blocks.saturating_sub(1);
    blocks.min(1) + others - others.div_ceil(GROUP + 1)
}

fn sum(block: u64, bytes: &[u8]) -> [u8; SUM] {
    xxh3_64_with_seed(bytes, block).to_le_bytes()
}

fn damaged(block: u64, place: u64) -> Error {
    let what = format!("block {block}, at byte {place}, does not match its checksum");
    Error::new(ErrorKind::InvalidData, what)
}

fn unaligned(offset: u64, len: usize) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{len} bytes at {offset} are not whole blocks"))
}

/// The number of the first block of a range, which is one of whole blocks behind the head.
fn first_block(offset: u64, len: usize) -> Result<u64> {
    match offset / BLOCK as u64 {
        first if first > 0 && offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK) => Ok(first),
        _ => Err(unaligned(offset, len)),
    }
}

impl Blocks {
    fn get(&self, place: u64, out: &mut [u8]) -> Result<()> {
        match self.file.read_at(out, place)? {
            read if read == out.len() => Ok(()),
            read => Err(Error::new(
                ErrorKind::UnexpectedEof,
                format!("{read} of {} bytes at byte {place}: the file is cut off", out.len()),
            )),
        }
    }

    fn put(&self, place: u64, data: &[u8]) -> Result<()> {
        match (self.file.write_all_at(data, place), &self.reserve) {
            (Err(error), Some(reserve)) if error.kind() == ErrorKind::StorageFull && reserve.release() => {
                self.file.write_all_at(data, place)
            }
            (written, _) => written,
        }
    }

    fn read_head(&self, out: &mut [u8]) -> Result<()> {
        let mut heads = [0; 2 * HEAD];
        self.get(0, &mut heads)?;
        let whole = |head: &&[u8]| {
            head.split_at_checked(HEAD - SUM).is_some_and(|(bytes, stored)| stored == sum(0, bytes))
        };
        let head = heads.chunks(HEAD).find(whole).ok_or_else(|| damaged(0, 0))?;
        out.copy_from_slice(head.get(..out.len()).ok_or_else(|| unaligned(0, out.len()))?);
        Ok(())
    }

    fn write_head(&self, data: &[u8]) -> Result<()> {
        let mut head = [0; HEAD];
        let (bytes, stored) = head.split_at_mut(HEAD - SUM);
        bytes.get_mut(..data.len()).ok_or_else(|| unaligned(0, data.len()))?.copy_from_slice(data);
        stored.copy_from_slice(&sum(0, bytes));
        self.put(0, &head)?;
        self.put(HEAD as u64, &head)
    }
}

impl StorageBackend for Blocks {
    fn len(&self) -> Result<u64> {
        // Less than a block is something, though no index: redb must not take it for a new file.
        match self.file.len()? {
            len if len < BLOCK as u64 => Ok(len),
            len => Ok(blocks_in(len) * BLOCK as u64),
        }
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> Result<()> {
        if offset == 0 {
            return self.read_head(out);
        }
        let mut block = first_block(offset, out.len())?;
        while !out.is_empty() {
            let run = run(block, out.len() / BLOCK);
            let (now, later) = out.split_at_mut(run.count * BLOCK);
            let mut sums = [0; BLOCK];
            let (sums, _) = sums.split_at_mut(run.count * SUM);
            self.get(run.blocks, now)?;
            self.get(run.sums, sums)?;
            for ((bytes, stored), n) in now.chunks(BLOCK).zip(sums.chunks(SUM)).zip(0..) {
                if stored != sum(block + n, bytes) {
                    return Err(damaged(block + n, run.blocks + n * BLOCK as u64));
                }
            }
            block += run.count as u64;
            out = later;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        if !len.is_multiple_of(BLOCK as u64) {
            return Err(unaligned(len, 0));
        }
        self.file.set_len(file_len(len / BLOCK as u64))
    }

    fn sync_data(&self) -> Result<()> {
        self.file.sync()
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> Result<()> {
        if offset == 0 {
            return self.write_head(data);
        }
        let mut block = first_block(offset, data.len())?;
        while !data.is_empty() {
            let run = run(block, data.len() / BLOCK);
            let (now, later) = data.split_at(run.count * BLOCK);
            let sums: Vec<u8> =
                now.chunks(BLOCK).zip(block..).flat_map(|(bytes, number)| sum(number, bytes)).collect();
            self.put(run.blocks, now)?;
            self.put(run.sums, &sums)?;
            block += run.count as u64;
            data = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Io, RealDisk};

    fn blocks() -> (tempfile::TempDir, Blocks) {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), true).unwrap();
        (dir, Blocks { file, reserve: None })
    }

    #[test]
    fn lengths_and_places_follow_the_layout() {
        for (blocks, bytes) in
            [(0, 0), (1, 1), (2, 3), (3, 4), (513, 514), (514, 516), (1025, 1027), (1026, 1029)]
        {
            assert_eq!(file_len(blocks), bytes * 4096, "{blocks} blocks");
            assert_eq!(blocks_in(bytes * 4096), blocks, "{bytes} blocks of file");
        }
        // Sums without a block, and a block that is cut off, are none.
        assert_eq!((blocks_in(2 * 4096), blocks_in(515 * 4096), blocks_in(4 * 4096 - 1)), (1, 513, 2));
        for block in 1..2000 {
            let Run { blocks, sums, .. } = run(block, 1);
            assert_eq!(
                blocks + 4096,
                file_len(block + 1),
                "block {block} is the last of a file that ends with it"
            );
            assert!(
                sums / 4096 * 4096 + (block - 1) % 512 * 8 == sums
                    && sums < blocks
                    && blocks - sums <= 513 * 4096
            );
        }
        assert_eq!(run(511, 9).count, 2, "a run ends with its group");
    }

    #[test]
    fn the_bytes_on_the_disk_are_those_of_the_format() {
        let (dir, blocks) = blocks();
        blocks.set_len(3 * 4096).unwrap();
        blocks.write(0, &[7; 320]).unwrap();
        blocks.write(4096, &[[1; 4096], [2; 4096]].concat()).unwrap();
        let bytes = std::fs::read(dir.path().join("f")).unwrap();
        let expect = |at: usize, what: &[u8]| assert_eq!(&bytes[at..at + what.len()], what, "at {at}");
        assert_eq!(bytes.len(), 4 * 4096);
        expect(0, &[7; 320]);
        expect(320, &[0; 184]);
        expect(504, &xxh3_64_with_seed(&bytes[..504], 0).to_le_bytes());
        expect(512, &bytes[..512]);
        expect(1024, &[0; 3072]);
        expect(4096, &xxh3_64_with_seed(&[1; 4096], 1).to_le_bytes());
        expect(4104, &xxh3_64_with_seed(&[2; 4096], 2).to_le_bytes());
        expect(4112, &[0; 4080]);
        expect(8192, &[1; 4096]);
        expect(12288, &[2; 4096]);
    }

    #[test]
    fn what_is_written_is_read_over_the_borders_of_groups_and_after_the_length_has_changed() {
        let (_dir, blocks) = blocks();
        blocks.set_len(1200 * 4096).unwrap();
        assert_eq!(blocks.len().unwrap(), 1200 * 4096);
        let data: Vec<u8> = (0..600 * 4096u32).map(|n| (n / 1000) as u8).collect();
        blocks.write(500 * 4096, &data).unwrap();
        let mut read = vec![0; data.len()];
        blocks.read(500 * 4096, &mut read).unwrap();
        assert!(read == data);
        blocks.set_len(800 * 4096).unwrap();
        assert_eq!(blocks.len().unwrap(), 800 * 4096);
        blocks.set_len(1200 * 4096).unwrap();
        let mut block = [0; 4096];
        blocks.read(799 * 4096, &mut block).unwrap();
        let error = blocks.read(800 * 4096, &mut block).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "what was cut off is no content");
        blocks.write(800 * 4096, &[3; 4096]).unwrap();
        blocks.read(800 * 4096, &mut block).unwrap();
        assert_eq!(block, [3; 4096]);
    }

    #[test]
    fn what_the_disk_has_changed_swapped_or_never_had_is_told_with_its_place() {
        let (_dir, blocks) = blocks();
        blocks.set_len(5 * 4096).unwrap();
        blocks.write(0, &[7; 320]).unwrap();
        blocks.write(4096, &[[1; 4096], [2; 4096], [3; 4096]].concat()).unwrap();
        let error = |offset: u64, len: usize| {
            let error = blocks.read(offset, &mut vec![0; len]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
            error.to_string()
        };
        assert!(error(4 * 4096, 4096).contains("block 4, at byte 20480"), "never written");
        // Blocks 1 and 2 with their sums change places.
        let swap = |a: u64, b: u64, len: usize| {
            let (mut first, mut second) = (vec![0; len], vec![0; len]);
            blocks.file.read_at(&mut first, a).unwrap();
            blocks.file.read_at(&mut second, b).unwrap();
            blocks.file.write_all_at(&first, b).unwrap();
            blocks.file.write_all_at(&second, a).unwrap();
        };
        swap(2 * 4096, 3 * 4096, 4096);
        assert!(error(4096, 3 * 4096).contains("block 1,"));
        swap(4096, 4104, 8);
        assert!(error(4096, 3 * 4096).contains("block 1,") && error(2 * 4096, 4096).contains("block 2,"));
        blocks.read(3 * 4096, &mut [0; 4096]).unwrap();
        let flip = |byte: u64| {
            let mut old = [0];
            blocks.file.read_at(&mut old, byte).unwrap();
            blocks.file.write_all_at(&[old[0] ^ 4], byte).unwrap();
        };
        for byte in [0, 9, 319, 400, 504, 511] {
            flip(byte);
            let mut head = [0; 320];
            blocks.read(0, &mut head).unwrap();
            assert_eq!(head, [7; 320], "the copy, byte {byte}");
            flip(512 + byte);
            assert!(error(0, 320).contains("block 0, at byte 0"), "byte {byte}");
            flip(byte);
            blocks.read(0, &mut head).unwrap();
            flip(512 + byte);
        }
    }

    #[test]
    fn a_head_that_is_cut_short_leaves_the_one_before() {
        let (_dir, blocks) = blocks();
        blocks.set_len(4096).unwrap();
        blocks.write(0, &[7; 320]).unwrap();
        blocks.file.write_all_at(&[8; 256], 0).unwrap();
        let mut head = [0; 320];
        blocks.read(0, &mut head).unwrap();
        assert_eq!(head, [7; 320]);
    }
}
