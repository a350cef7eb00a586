//! Larger works: a long file, many small ones, a source tree.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Instant;

use crate::text::{self, Random};

const MIB: usize = 1 << 20;
/// The text that a long file repeats: far longer than any codec's window, made before the clock starts.
const TEXT: usize = 32 * MIB;

/// Writes `mib` MiB of text in pieces of 1 MiB and makes them durable; prints MB/s.
pub fn write(path: &Path, mib: usize) -> io::Result<()> {
    let text = text::halving(TEXT);
    let begin = Instant::now();
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    for piece in text.chunks(MIB).cycle().take(mib) {
        file.write_all(piece)?;
    }
    file.sync_all()?;
    throughput("write", mib * MIB, begin);
    Ok(())
}

/// Reads the file from its start to its end in pieces of 1 MiB; prints MB/s.
pub fn read(path: &Path) -> io::Result<()> {
    let mut buffer = vec![0; MIB];
    let mut bytes = 0;
    let begin = Instant::now();
    let mut file = OpenOptions::new().read(true).open(path)?;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => bytes += n,
        }
    }
    throughput("read", bytes, begin);
    Ok(())
}

/// Creates `count` files of 1 to 8 KiB, each durable before the next begins; prints the seconds.
pub fn create_and_fsync(dir: &Path, count: usize) -> io::Result<()> {
    let mut random = Random::new(3);
    let contents: Vec<String> = (0..64)
        .map(|_| 1024 + random.below(7 * 1024) as usize)
        .map(|len| text::source(&mut Random::new(len as u64), len))
        .collect();
    fs::create_dir(dir)?;
    let begin = Instant::now();
    for (n, content) in contents.iter().cycle().take(count).enumerate() {
        let mut file = OpenOptions::new().write(true).create_new(true).open(dir.join(format!("f{n}")))?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
    }
    seconds("fsync-create", begin);
    Ok(())
}

/// Makes `count` source files of 1 to 20 KiB, most of them short, in 20 × 20 directories.
pub fn source_tree(dir: &Path, count: usize) -> io::Result<()> {
    let mut random = Random::new(1);
    for part in 0..400 {
        fs::create_dir_all(dir.join(format!("part{:02}/unit{:02}", part / 20, part % 20)))?;
    }
    for n in 0..count {
        // The lesser of two throws: a third of the files is under 4 KiB, as in real trees.
        let len = 1024 + random.below(19 * 1024).min(random.below(19 * 1024)) as usize;
        let path = format!("part{:02}/unit{:02}/file{n:05}.c", n / 20 % 20, n % 20);
        fs::write(dir.join(path), text::source(&mut random, len))?;
    }
    Ok(())
}

/// Makes `count` files of a few bytes, 1,000 a directory; prints the seconds.
pub fn many_files(dir: &Path, count: usize) -> io::Result<()> {
    fs::create_dir(dir)?;
    let begin = Instant::now();
    for n in 0..count {
        let parent = dir.join(format!("d{:04}", n / 1000));
        if n % 1000 == 0 {
            fs::create_dir(&parent)?;
        }
        fs::write(parent.join(format!("file{n:07}")), n.to_string())?;
    }
    seconds("million", begin);
    Ok(())
}

fn throughput(name: &str, bytes: usize, begin: Instant) {
    println!("{name}\t{:.1}\tMB/s", bytes as f64 / 1e6 / begin.elapsed().as_secs_f64());
}

fn seconds(name: &str, begin: Instant) {
    println!("{name}\t{:.3}\ts", begin.elapsed().as_secs_f64());
}
