//! Writers that do random things to a mounted store, each to names of its own, and what is found of them afterwards.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::ledger::{Change, Crash, Found, Kind, Ledger, Meta, Name, Seen, Step, of_one_moment};
use crate::support::random::Random;
use crate::support::sys;

/// As many as make the daemon's threads meet: most rounds have two processors.
pub const WRITERS: usize = 6;

/// A directory in which all of them work.
const SHARED: &str = "shared";

/// The directory of a writer's own, and how its names in the shared one begin.
fn homes(writer: usize) -> [String; 2] {
    [format!("w{writer}/"), format!("{SHARED}/w{writer}-")]
}

/// Makes the directories, once.
pub fn prepare(mount: &Path) {
    fs::create_dir(mount.join(SHARED)).unwrap();
    (0..WRITERS).for_each(|writer| fs::create_dir(mount.join(&homes(writer)[0])).unwrap());
}

/// What a round shares.
#[derive(Default)]
pub struct Round {
    /// Ticks at the begin and the end of each step.
    clock: AtomicU64,
    /// Set before the crash: from then on steps may fail.
    pub dying: AtomicBool,
    /// Steps that have ended.
    pub ended: AtomicU64,
}

/// Runs all writers until each has met an error, which must not come before `crash` has set `dying`.
pub fn run(mount: &Path, seed: u64, ledgers: Vec<Ledger>, crash: impl FnOnce(&Round)) -> Vec<Ledger> {
    let round = Round::default();
    std::thread::scope(|scope| {
        let writers: Vec<_> = ledgers
            .into_iter()
            .enumerate()
            .map(|(writer, ledger)| {
                let random = Random::of(seed.wrapping_mul(1009) + writer as u64);
                let round = &round;
                let new = Writer { round, mount, writer, random, ledger, held: Vec::new(), made: 0 };
                scope.spawn(|| new.run())
            })
            .collect();
        crash(&round);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    })
}

struct Writer<'a> {
    round: &'a Round,
    mount: &'a Path,
    writer: usize,
    random: Random,
    ledger: Ledger,
    /// Files that were removed while they were open.
    held: Vec<File>,
    made: u64,
}

impl Writer<'_> {
    fn run(mut self) -> Ledger {
        loop {
            if let Err(error) = self.act() {
                // The flag is set before the crash, so whoever fails by it sees the flag.
                assert!(
                    self.round.dying.load(Ordering::SeqCst),
                    "writer {} before the crash: {error}",
                    self.writer
                );
                return self.ledger;
            }
        }
    }

    /// Does what is to be done next.
    fn act(&mut self) -> io::Result<()> {
        match self.random.below(100) {
            0..25 => self.create(),
            25..40 => self.save(),
            40..62 => self.overwrite(),
            62..68 => self.with_file(|writer, name| {
                let len = writer.length();
                writer.does(Change::Truncate(name, len))
            }),
            68..73 => self.with_file(|writer, name| writer.read(&name)),
            73..83 => self.remove(),
            83..90 => self.relocate(),
            90..93 => self.with_file(|writer, name| {
                let to = writer.free_name();
                writer.does(Change::Link(name, to))
            }),
            93..95 => {
                let (name, target) = (self.free_name(), format!("to/{}", self.random.next()));
                self.does(Change::Symlink(name, target))
            }
            95..97 => {
                let name = self.free_name();
                self.does(Change::MakeDir(name))
            }
            97..99 => self.with_file(|writer, name| {
                let mark = writer.random.next().to_string();
                writer.does(Change::Mark(name, mark))
            }),
            _ => self.with_file(|writer, name| {
                let mode = 0o600 | writer.random.below(0o100) as u32;
                writer.does(Change::Mode(name, mode))
            }),
        }
    }

    fn create(&mut self) -> io::Result<()> {
        // More would only make the comparisons longer.
        if self.ledger.names(|_| true).len() > 40 {
            return self.remove();
        }
        let name = self.free_name();
        self.does(Change::Make(name.clone()))?;
        self.fill(&name, 0)
    }

    /// As editors do: a new file, renamed over the old one, with an fsync before that or without.
    fn save(&mut self) -> io::Result<()> {
        self.with_file(|writer, name| {
            let new = writer.free_name();
            writer.does(Change::Make(new.clone()))?;
            writer.fill(&new, 0)?;
            writer.does(Change::Rename(new, name))
        })
    }

    fn overwrite(&mut self) -> io::Result<()> {
        self.with_file(|writer, name| {
            let len = writer.ledger.content(&name).len() as u64;
            let at = writer.random.below(len + 1) as usize;
            writer.fill(&name, at)
        })
    }

    fn fill(&mut self, name: &str, mut at: usize) -> io::Result<()> {
        for _ in 0..=self.random.below(2) {
            let len = self.length();
            // Half of it shrinks when it is packed; every write has bytes of its own.
            let data = match self.random.below(2) {
                0 => self.random.bytes(len),
                _ => self.random.bytes(24).into_iter().cycle().take(len).collect(),
            };
            self.does(Change::Write(name.to_owned(), at, data.into()))?;
            at += len;
        }
        match self.random.below(4) {
            0 => self.does(Change::Fsync(name.to_owned(), true)),
            1 => self.does(Change::Fsync(name.to_owned(), false)),
            _ => Ok(()),
        }
    }

    fn remove(&mut self) -> io::Result<()> {
        let names = self.ledger.names(|_| true);
        if names.is_empty() {
            return Ok(());
        }
        let name = names[self.random.below(names.len() as u64) as usize].clone();
        if names.iter().any(|other| other.starts_with(&format!("{name}/"))) {
            return Ok(());
        }
        if self.held.len() < 20 && self.ledger.names(|kind| *kind == Kind::File).contains(&&name) {
            self.held.push(File::open(self.mount.join(&name))?);
        }
        self.does(Change::Remove(name))
    }

    /// A new name for a file, a link or a whole directory.
    fn relocate(&mut self) -> io::Result<()> {
        let names = self.ledger.names(|_| true);
        if names.is_empty() {
            return Ok(());
        }
        let from = names[self.random.below(names.len() as u64) as usize].clone();
        let to = self.free_name();
        // Not into itself.
        if to.starts_with(&format!("{from}/")) {
            return Ok(());
        }
        self.does(Change::Rename(from, to))
    }

    fn with_file(&mut self, act: impl FnOnce(&mut Self, Name) -> io::Result<()>) -> io::Result<()> {
        let files = self.ledger.names(|kind| *kind == Kind::File);
        if files.is_empty() {
            return Ok(());
        }
        let name = files[self.random.below(files.len() as u64) as usize].clone();
        act(self, name)
    }

    fn read(&mut self, name: &str) -> io::Result<()> {
        let found = fs::read(self.mount.join(name))?;
        assert!(found == self.ledger.content(name), "{name} reads as what was not written");
        Ok(())
    }

    /// A name of this writer that is not taken, in one of its directories.
    fn free_name(&mut self) -> Name {
        let mut places = homes(self.writer).to_vec();
        places.extend(self.ledger.names(|kind| *kind == Kind::Dir).iter().map(|name| format!("{name}/")));
        let place = &places[self.random.below(places.len() as u64) as usize];
        loop {
            self.made += 1;
            let name = format!("{place}{}", self.made);
            if !self.ledger.has(&name) {
                return name;
            }
        }
    }

    /// Mostly small; now and then several pages.
    fn length(&mut self) -> usize {
        let most =
            [500, 6_000, 40_000, 400_000][[0, 0, 0, 1, 1, 1, 1, 2, 2, 3][self.random.below(10) as usize]];
        1 + self.random.below(most) as usize
    }

    /// Does a step and takes it down.
    fn does(&mut self, change: Change) -> io::Result<()> {
        let tick = || self.round.clock.fetch_add(1, Ordering::SeqCst);
        let begun = tick();
        let outcome = self.call(&change);
        let ended = outcome.is_ok().then(tick);
        self.round.ended.fetch_add(1, Ordering::Relaxed);
        let told = outcome.map_err(|error| io::Error::new(error.kind(), format!("{change:.80?}: {error}")));
        self.ledger.note(Step { begun, ended, change });
        told
    }

    fn call(&self, change: &Change) -> io::Result<()> {
        let at = |name: &Name| self.mount.join(name);
        let open = |name: &Name| OpenOptions::new().write(true).open(at(name));
        match change {
            Change::Make(name) => {
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(at(name)).map(drop)
            }
            Change::MakeDir(name) => DirBuilder::new().mode(0o700).create(at(name)),
            Change::Symlink(name, target) => symlink(target, at(name)),
            Change::Link(from, to) => fs::hard_link(at(from), at(to)),
            Change::Rename(from, to) => fs::rename(at(from), at(to)),
            Change::Remove(name) => match self.ledger.names(|kind| *kind == Kind::Dir).contains(&name) {
                true => fs::remove_dir(at(name)),
                false => fs::remove_file(at(name)),
            },
            Change::Write(name, offset, data) => open(name)?.write_all_at(data, *offset as u64),
            Change::Truncate(name, len) => open(name)?.set_len(*len as u64),
            Change::Mode(name, mode) => fs::set_permissions(at(name), Permissions::from_mode(*mode)),
            Change::Mark(name, mark) => sys::setxattr(&at(name), b"user.mark", mark.as_bytes(), 0),
            Change::Fsync(name, true) => open(name)?.sync_data(),
            Change::Fsync(name, false) => open(name)?.sync_all(),
        }
    }
}

/// What is found of each writer. Fails when there is anything else, or something cannot be read.
pub fn found(mount: &Path) -> Vec<Found> {
    let mut all = Found::new();
    walk(mount, PathBuf::new(), &mut all);
    let mut parts = vec![Found::new(); WRITERS];
    for (name, seen) in all {
        let owner = (0..WRITERS).find(|writer| homes(*writer).iter().any(|home| name.starts_with(home)));
        match owner {
            Some(writer) => drop(parts[writer].insert(name, seen)),
            None => {
                assert!(name == SHARED || (0..WRITERS).any(|n| name == format!("w{n}")), "{name} is nobody's")
            }
        }
    }
    parts
}

fn walk(mount: &Path, dir: PathBuf, found: &mut Found) {
    for entry in fs::read_dir(mount.join(&dir)).unwrap() {
        let path = dir.join(entry.unwrap().file_name());
        let (name, at) = (path.to_str().unwrap().to_owned(), mount.join(&path));
        let stat = fs::symlink_metadata(&at).unwrap_or_else(|error| panic!("{name} is listed, and: {error}"));
        let kind = match stat.file_type() {
            kind if kind.is_dir() => Kind::Dir,
            kind if kind.is_symlink() => {
                Kind::Symlink(fs::read_link(&at).unwrap().to_str().unwrap().to_owned())
            }
            _ => Kind::File,
        };
        let (mut content, mut mark) = (Vec::new(), None);
        if kind == Kind::File {
            content = fs::read(&at).unwrap_or_else(|error| panic!("reading {name}: {error}"));
            assert_eq!(content.len() as u64, stat.len(), "{name}");
            mark = sys::getxattr(&at, b"user.mark").ok().map(|mark| String::from_utf8(mark).unwrap());
        }
        if kind == Kind::Dir {
            walk(mount, path, found);
        }
        let meta = Meta { kind, mode: stat.mode() & 0o7777, mark };
        found.insert(name, Seen { ino: stat.ino(), nlink: stat.nlink(), meta, content });
    }
}

/// Checks what a crash has left, and begins the next ledgers with it.
pub fn check(crash: Crash, before: &[Ledger], found: Vec<Found>) -> Result<Vec<Ledger>, String> {
    let mut parts = Vec::new();
    for (writer, (ledger, found)) in before.iter().zip(&found).enumerate() {
        let moments = ledger.moments(crash, found).map_err(|why| format!("writer {writer}: {why}"))?;
        parts.push((ledger, moments));
    }
    of_one_moment(&parts)?;
    Ok(found.iter().map(Ledger::new).collect())
}
