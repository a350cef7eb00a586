//! Whatever changes ranges of a file, at random and against a model: each page size with each codec, with and without mappings, in
//! small and large caches, with remounts in between. fsx does the like (`scripts/conformance matrix`), but knows no zero
//! range, nor copies from one file to another.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::calls::{Map, forget_content};
use crate::support::disk::Disk;
use crate::support::sys;
use crate::{Random, Stage, open, setting};

/// The largest file: some pages, of the largest too.
const LIMIT: u64 = 3_000_000;

const PAGE_SIZES: [u64; 3] = [4 << 10, 128 << 10, 1 << 20];
const CODECS: [&str; 3] = ["lz4", "zstd:3", "none"];
/// How far around a change is compared at once; all of each file is now and then.
const AROUND: u64 = 5000;

/// A file, and what must be in it.
struct Cell {
    name: String,
    /// Where ranges begin and end more often than elsewhere.
    page: u64,
    mapped: bool,
    content: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Write,
    WriteByMapping,
    Truncate,
    /// A mode of fallocate(2).
    Fallocate(i32),
    /// From the file of this number and place.
    Copy(usize, u64),
    Sync,
}

const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;

/// A place: anywhere, or where a page begins, of the kernel's or of Larder's.
fn place(random: &mut Random, page: u64) -> u64 {
    let at = random.below(LIMIT);
    at - at % [1, 4096, page][random.below(3) as usize]
}

/// Bytes that tell of their operation: some compress, some do not.
fn bytes(random: &mut Random, len: u64) -> Vec<u8> {
    match random.below(3) {
        0 => random.bytes(len as usize),
        1 => vec![random.next() as u8; len as usize],
        _ => random.bytes(100).into_iter().cycle().take(len as usize).collect(),
    }
}

impl Cell {
    /// Makes zeros of what is between two places, and of what the file grows by where it `grows`.
    fn zero(&mut self, start: u64, end: u64, grows: bool) {
        if grows && end > self.content.len() as u64 {
            self.content.resize(end as usize, 0);
        }
        let end = end.min(self.content.len() as u64);
        if start < end {
            self.content[start as usize..end as usize].fill(0);
        }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let end = at as usize + bytes.len();
        self.content.resize(self.content.len().max(end), 0);
        self.content[at as usize..end].copy_from_slice(bytes);
    }

    fn size(&self) -> u64 {
        self.content.len() as u64
    }
}

/// Files in a directory that is mounted anew now and then.
struct Files {
    cells: Vec<Cell>,
    open: Vec<File>,
}

impl Files {
    fn open(root: &Path, cells: Vec<Cell>) -> Files {
        let open = cells.iter().map(|cell| open(&root.join(&cell.name))).collect();
        Files { cells, open }
    }

    fn close(self) -> Vec<Cell> {
        self.cells
    }

    /// A file is what it must be, read by call or by mapping.
    fn compare(&self, at: usize, start: u64, end: u64, map: Option<&Map>, what: &str) {
        let (cell, file) = (&self.cells[at], &self.open[at]);
        assert_eq!(file.metadata().unwrap().len(), cell.size(), "{}: size: {what}", cell.name);
        let end = end.min(cell.size());
        let start = start.min(end);
        let expected = &cell.content[start as usize..end as usize];
        let mut read = vec![0xAA; expected.len()];
        match map {
            Some(map) => read.copy_from_slice(&map.read(start as usize, expected.len())),
            None => file.read_exact_at(&mut read, start).unwrap(),
        }
        if read != expected {
            let wrong: Vec<usize> = (0..read.len()).filter(|n| read[*n] != expected[*n]).collect();
            let (name, place, count) = (&cell.name, start + wrong[0] as u64, wrong.len());
            let (is, must) = (read[wrong[0]], expected[wrong[0]]);
            panic!("{name}: at {place} is {is}, must be {must} ({count} differ in {start}..{end}): {what}");
        }
    }

    fn compare_all(&self, what: &str) {
        for at in 0..self.cells.len() {
            self.compare(at, 0, LIMIT, None, what);
        }
    }

    /// A random operation on a random file.
    fn step(&mut self, random: &mut Random, number: u64) {
        let at = random.below(self.cells.len() as u64) as usize;
        let page = self.cells[at].page;
        let op = match random.below(28) {
            0..=5 => Op::Write,
            6..=8 => Op::WriteByMapping,
            9..=10 => Op::Truncate,
            11..=13 => Op::Fallocate(PUNCH),
            14..=16 => Op::Fallocate(ZERO),
            17..=19 => Op::Fallocate(ZERO | KEEP),
            20 => Op::Fallocate(0),
            21 => Op::Fallocate(KEEP),
            22..=24 => Op::Copy(at, place(random, page)),
            25..=26 => Op::Copy(random.below(self.cells.len() as u64) as usize, place(random, page)),
            _ => Op::Sync,
        };
        let start = place(random, page);
        // Small ones, and those over several pages of whatever size.
        let longest = [2000, 20_000, 200_000, LIMIT][random.below(4) as usize];
        let mut end = (start + 1 + random.below(longest)).min(LIMIT);
        if random.below(3) == 0 {
            end = (end - end % page).max(start + 1);
        }
        let what = format!("operation {number}: {op:?} {start}..{end}");
        // What a mapping shows of a change by call.
        let looks = self.cells[at].mapped && random.below(2) == 0 && self.cells[at].size() > 0;
        let map = looks.then(|| self.map(at));
        self.apply(random, at, op, start, end, &what);
        let (from, to) = (start.saturating_sub(AROUND), end + AROUND);
        if let Some((map, len)) = map {
            self.compare(at, from, to.min(len).min(from + 50_000), Some(&map), &what);
        }
        // What the kernel keeps may be right where what Larder has is not.
        if random.below(3) == 0 {
            forget_content(&self.open[at]);
        }
        self.compare(at, from, to, None, &what);
    }

    /// A mapping of all of a file that is not empty, and its length.
    fn map(&self, at: usize) -> (Map, u64) {
        let len = self.cells[at].size();
        (Map::new(&self.open[at], len as usize, libc::MAP_SHARED, true).unwrap(), len)
    }

    fn apply(&mut self, random: &mut Random, at: usize, op: Op, start: u64, end: u64, what: &str) {
        let size = self.cells[at].size();
        match op {
            Op::Write => {
                let bytes = bytes(random, (end - start).min(200_000));
                self.open[at].write_all_at(&bytes, start).expect(what);
                self.cells[at].put(start, &bytes);
            }
            Op::WriteByMapping if self.cells[at].mapped && start < size => {
                let bytes = bytes(random, (end.min(size) - start).min(50_000));
                let mut map = self.map(at).0;
                map.write(start as usize, &bytes);
                if random.below(2) == 0 {
                    map.sync().expect(what);
                }
                self.cells[at].put(start, &bytes);
            }
            Op::WriteByMapping => {}
            Op::Truncate => {
                self.open[at].set_len(start).expect(what);
                self.cells[at].content.resize(start as usize, 0);
            }
            Op::Fallocate(mode) => {
                sys::fallocate(&self.open[at], mode, start, end - start).expect(what);
                match mode {
                    0 if size < end => self.cells[at].zero(size, end, true),
                    0 | KEEP => {}
                    _ => self.cells[at].zero(start, end, mode == ZERO),
                }
            }
            Op::Copy(from, place) => {
                let len = (end - start).min(self.cells[from].size().saturating_sub(place));
                // What overlaps is refused, which is another test's.
                if len == 0 || from == at && place < start + len && start < place + len {
                    return;
                }
                let mut done = 0;
                while done < len {
                    let (source, target) = (&self.open[from], &self.open[at]);
                    let more = sys::copy_file_range(source, place + done, target, start + done, len - done);
                    done += more.expect(what);
                    assert!(done <= len, "{what}: {done} of {len} bytes");
                }
                let bytes = self.cells[from].content[place as usize..][..len as usize].to_vec();
                self.cells[at].put(start, &bytes);
            }
            Op::Sync => self.open[at].sync_all().expect(what),
        }
    }
}

/// Does so many operations on files of a directory, in some pieces; `remount` comes behind each.
fn run(root: &Path, mut cells: Vec<Cell>, operations: u64, random: &mut Random, mut remount: impl FnMut()) {
    const PIECES: u64 = 4;
    for piece in 0..PIECES {
        let mut files = Files::open(root, cells);
        files.compare_all(&format!("before piece {piece}"));
        for number in 0..operations / PIECES {
            files.step(random, piece * operations / PIECES + number);
        }
        files.compare_all(&format!("behind piece {piece}"));
        files.open.iter().for_each(forget_content);
        files.compare_all(&format!("behind piece {piece}, not from the kernel's memory"));
        cells = files.close();
        remount();
    }
    Files::open(root, cells).compare_all("in the end");
}

/// A file for each page size, codec, and way of access.
fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for page in PAGE_SIZES {
        for codec in CODECS {
            for mapped in [false, true] {
                let name = format!("{page}-{codec}-{}", if mapped { "mapped" } else { "called" });
                cells.push(Cell { name, page, mapped, content: Vec::new() });
            }
        }
    }
    cells
}

#[test]
fn ranges_are_written_zeroed_punched_and_copied_as_on_ext4_whatever_the_pages_the_codec_and_the_cache() {
    // By command: LARDER_TEST_OPERATIONS=1000000, in all.
    let operations = setting("LARDER_TEST_OPERATIONS", 2000);
    let mut random = Random::new();
    for cache in ["8MiB", "256MiB"] {
        let Some(mut stage) = Stage::with(&["--cache-size-limit", cache]) else { return };
        println!("a cache of {cache}");
        let root = stage.point();
        for (cell, codec) in cells().iter().zip(CODECS.iter().flat_map(|codec| [codec; 2]).cycle()) {
            let path = root.join(&cell.name);
            fs::write(&path, "").unwrap();
            sys::setxattr(&path, b"user.larder.codec", codec.as_bytes(), 0).unwrap();
            sys::setxattr(&path, b"user.larder.page-size", cell.page.to_string().as_bytes(), 0).unwrap();
        }
        run(&root, cells(), operations / 2, &mut random, || stage.remount());
        stage.umount();
        stage.check();
    }
    // And that the model is right.
    if let Some(disk) = Disk::new("ext4") {
        println!("on ext4");
        run(&disk.path(), cells(), operations / 8, &mut random, || {});
    }
}
