//! Single operations: microseconds each, as one client or several see them.
//!
//! Every thread works in a directory of its own. What is measured is the wall time of all threads
//! times their number over all operations, so that two clients that don't hinder each other show the figure of one.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long new files are left alone before they are read and listed.
const SETTLING: std::time::Duration = std::time::Duration::from_secs(2);
/// Files, directories or renames a thread in one timing: long enough (60 ms at 20 µs) to even out the
/// scheduler, short enough for many interleaved runs.
const FILES: usize = 3000;
/// Operations that change nothing and take about a microsecond are repeated more.
const REPEATS: usize = 20_000;
/// Passes over a directory of [`FILES`] entries.
const PASSES: usize = 5;
/// The file read with `O_DIRECT`, in blocks of 4 KiB: 16 MiB, well inside the cache.
const DIRECT_BLOCKS: u64 = 4096;
const BLOCK: usize = 4096;

/// What to run.
pub struct Options {
    /// Clients at once.
    pub threads: usize,
    /// The operations to print, all if empty.
    pub only: Vec<String>,
}

/// Runs the operations in a new directory below `dir`, which is removed at the end.
pub fn run(dir: &Path, options: &Options) -> io::Result<()> {
    let base = dir.join(format!("ops.{}", std::process::id()));
    fs::create_dir(&base)?;
    let bench = Bench { base, options };
    for thread in 0..options.threads {
        fs::create_dir(bench.home(thread))?;
        fs::write(bench.home(thread).join("known"), [b'x'; BLOCK])?;
        // The first OPEN and FLUSH teach the kernel that they need not be sent.
        open(&bench.home(thread).join("known"))?;
    }
    bench.names()?;
    bench.directories()?;
    bench.direct_reads()?;
    fs::remove_dir_all(&bench.base)
}

struct Bench<'a> {
    base: PathBuf,
    options: &'a Options,
}

impl Bench<'_> {
    fn home(&self, thread: usize) -> PathBuf {
        self.base.join(format!("t{thread}"))
    }

    fn paths(&self, thread: usize, prefix: &str) -> Vec<PathBuf> {
        let home = self.home(thread);
        (0..FILES).map(|n| home.join(format!("{prefix}{n}"))).collect()
    }

    /// Files: their creation, opening, renaming and removal.
    fn names(&self) -> io::Result<()> {
        self.time("stat", REPEATS, |thread| {
            let known = self.home(thread).join("known");
            Ok(move || repeat(REPEATS, || fs::symlink_metadata(&known)))
        })?;
        let content = [b'x'; BLOCK];
        self.time("create", FILES, |thread| {
            let paths = self.paths(thread, "c");
            Ok(move || {
                each(&paths, |path| {
                    OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(0o644)
                        .open(path)?
                        .write_all(&content)
                })
            })
        })?;
        // What was written is stored behind the scenes, and its size on disk is known for good only then. Neither is
        // what reading and listing cost.
        std::thread::sleep(SETTLING);
        self.time("open-read", FILES, |thread| {
            let paths = self.paths(thread, "c");
            let mut buffer = [0; BLOCK];
            each(&paths, |path| open(path)?.read(&mut buffer))?; // into the kernel's cache
            Ok(move || {
                let mut buffer = [0; BLOCK];
                each(&paths, |path| open(path)?.read(&mut buffer))
            })
        })?;
        // Each listing begins with a directory that has changed since it was last listed: the first pass asks
        // for it, the others may find it cached.
        self.time("readdir", FILES * PASSES, |thread| {
            let home = self.home(thread);
            fs::write(home.join("new"), [])?;
            Ok(move || repeat(PASSES, || fs::read_dir(&home).map(|entries| black_box(entries.count()))))
        })?;
        self.time("ls-l", FILES * PASSES, |thread| {
            let home = self.home(thread);
            fs::write(home.join("newer"), [])?;
            Ok(move || {
                repeat(PASSES, || {
                    for entry in fs::read_dir(&home)? {
                        black_box(entry?.metadata()?);
                    }
                    Ok(())
                })
            })
        })?;
        self.time("rename", FILES, |thread| {
            let moves: Vec<_> = self.paths(thread, "c").into_iter().zip(self.paths(thread, "r")).collect();
            Ok(move || each(&moves, |(from, to)| fs::rename(from, to)))
        })?;
        self.time("unlink", FILES, |thread| {
            let paths = self.paths(thread, "r");
            Ok(move || each(&paths, |path| fs::remove_file(path)))
        })
    }

    fn directories(&self) -> io::Result<()> {
        self.time("mkdir", FILES, |thread| {
            let paths = self.paths(thread, "d");
            Ok(move || each(&paths, |path| fs::create_dir(path)))
        })?;
        (0..self.options.threads)
            .try_for_each(|thread| each(&self.paths(thread, "d"), |path| fs::remove_dir(path)))
    }

    fn direct_reads(&self) -> io::Result<()> {
        self.time("dio-read", REPEATS, |thread| {
            let path = self.home(thread).join("direct");
            fs::write(&path, crate::text::halving(DIRECT_BLOCKS as usize * BLOCK))?;
            let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path)?;
            // O_DIRECT wants an aligned buffer; a slice of a longer one is.
            let mut room = vec![0; 2 * BLOCK];
            let start = room.as_ptr().align_offset(BLOCK);
            for block in 0..DIRECT_BLOCKS {
                file.read_exact_at(&mut room[start..start + BLOCK], block * BLOCK as u64)?; // into the daemon's cache
            }
            let mut random = crate::text::Random::new(thread as u64 + 1);
            Ok(move || {
                let start = room.as_ptr().align_offset(BLOCK);
                repeat(REPEATS, || {
                    let block = random.below(DIRECT_BLOCKS);
                    file.read_exact_at(&mut room[start..start + BLOCK], block * BLOCK as u64)
                })
            })
        })
    }

    /// Prepares the work of each thread, then times all of it together and prints the microseconds an operation.
    /// The work is done even when its figure is not asked for, since what follows stands on it.
    fn time<W>(&self, op: &str, count: usize, prepare: impl Fn(usize) -> io::Result<W>) -> io::Result<()>
    where
        W: FnMut() -> io::Result<()> + Send,
    {
        let works: Vec<W> = (0..self.options.threads).map(prepare).collect::<io::Result<_>>()?;
        let elapsed = together(works)?;
        if self.options.only.is_empty() || self.options.only.iter().any(|name| name == op) {
            println!("{op}\t{:.3}\tus/op", elapsed.as_secs_f64() * 1e6 / count as f64);
        }
        Ok(())
    }
}

/// The wall time of all the works, each on a thread of its own; a single one stays on this thread.
fn together<W: FnMut() -> io::Result<()> + Send>(mut works: Vec<W>) -> io::Result<Duration> {
    let begin = Instant::now();
    if let [work] = works.as_mut_slice() {
        work()?;
        return Ok(begin.elapsed());
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = works.into_iter().map(|work| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| io::Error::other("a client panicked"))?)
    })?;
    Ok(begin.elapsed())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

fn repeat<T>(count: usize, mut work: impl FnMut() -> io::Result<T>) -> io::Result<()> {
    (0..count).try_for_each(|_| work().map(|done| drop(black_box(done))))
}

fn each<I, T>(items: &[I], mut work: impl FnMut(&I) -> io::Result<T>) -> io::Result<()> {
    items.iter().try_for_each(|item| work(item).map(|done| drop(black_box(done))))
}
