//! A volume as a system under test, on the real disk or on one that fails.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::check::{Options, Report, check};
use larder::clock::{Clock, Time};
use larder::config::Settings;
use larder::error::Error;
use larder::format::{Ino, Kind, ROOT as ROOT_INO};
use larder::io::faulty::FaultyDisk;
use larder::io::{Io, RealDisk};
use larder::volume::{Attr, Caller, Pause, Rename, SetAttr, SetTime, Step, Volume};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::fs::{Call, Fs, How, Id, ROOT, Reply};
use super::system::{Check, Stat, System, fail};

/// The moment at which all sequences begin: 2026-01-01.
pub const START: i64 = 1_767_225_600_000_000_000;

/// The least memory that a store works with.
pub const LEAST_CACHE: u64 = 8 << 20;

/// What a store lies on.
#[derive(Debug)]
pub enum Disk {
    Real(tempfile::TempDir),
    Faulty(FaultyDisk),
}

impl Disk {
    pub fn real() -> Disk {
        Disk::Real(tempfile::tempdir().unwrap())
    }

    pub fn io(&self) -> Arc<dyn Io> {
        match self {
            Disk::Real(_) => Arc::new(RealDisk),
            Disk::Faulty(disk) => Arc::new(disk.clone()),
        }
    }

    pub fn path(&self) -> PathBuf {
        match self {
            Disk::Real(dir) => dir.path().join("store"),
            Disk::Faulty(_) => PathBuf::from("/store"),
        }
    }

    /// The settings of a store with so much memory, bytes.
    pub fn settings(&self, cache: u64) -> Settings {
        let mut settings = Settings::new(self.path());
        settings.cache_size_limit = cache;
        settings
    }

    pub fn open(&self, cache: u64, clock: &Clock) -> larder::Result<Arc<Volume>> {
        self.open_as(&self.settings(cache), clock)
    }

    pub fn open_as(&self, settings: &Settings, clock: &Clock) -> larder::Result<Arc<Volume>> {
        Volume::open(settings.clone(), self.io(), clock.clone())
    }
}

impl Disk {
    /// What the check says of the store that lies here, which nobody has open.
    pub fn report(&self) -> Report {
        check(self.io(), &self.path(), &Options { content: true, threads: 1 }, &|_| {}).unwrap()
    }

    /// That the check has nothing to say.
    pub fn is_sound(&self, when: &str) -> Check {
        let report = self.report();
        let list: Vec<String> = report.findings.iter().map(|finding| finding.to_string()).collect();
        prop_assert!(report.is_clean(), "the check {}:\n{}", when, list.join("\n"));
        Ok(())
    }
}

/// The errno that the kernel would get.
pub fn errno(error: &Error) -> i32 {
    match error {
        Error::NotFound => libc::ENOENT,
        Error::Exists => libc::EEXIST,
        Error::NotADirectory => libc::ENOTDIR,
        Error::IsADirectory => libc::EISDIR,
        Error::NotEmpty => libc::ENOTEMPTY,
        Error::NotPermitted => libc::EPERM,
        Error::Denied => libc::EACCES,
        Error::Invalid(_) => libc::EINVAL,
        Error::NameTooLong => libc::ENAMETOOLONG,
        Error::TooLarge => libc::EFBIG,
        Error::TooManyLinks => libc::EMLINK,
        Error::NoSpace => libc::ENOSPC,
        Error::NoAttribute => libc::ENODATA,
        Error::NoOffset => libc::ENXIO,
        Error::Range => libc::ERANGE,
        Error::ValueTooLarge => libc::E2BIG,
        Error::NotSupported => libc::EOPNOTSUPP,
        Error::Stale => libc::ESTALE,
        Error::ReadOnly(_) => libc::EROFS,
        _ => {
            if !matches!(error, Error::Io { .. }) {
                eprintln!("{error}");
            }
            libc::EIO
        }
    }
}

/// Who does everything here.
pub const NOBODY_SPECIAL: Caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0 };

/// Reads from memory where the volume can, and waits where it must.
pub fn read(volume: &Volume, ino: Ino, offset: u64, len: u32) -> larder::Result<Vec<u8>> {
    let mut out = Vec::new();
    match volume.read(ino, offset, len, &mut out) {
        Ok(()) => Ok(out),
        Err(Pause::Fail(error)) => Err(error),
        Err(Pause::Wait(_)) => {
            out.clear();
            volume.read_blocking(ino, offset, len, offset.is_multiple_of(2), &mut out).map(|()| out)
        }
    }
}

/// A directory's names and inodes without `.` and `..`, read in parts of a few entries.
pub fn list(volume: &Volume, dir: Ino) -> larder::Result<Vec<(Vec<u8>, Ino, Kind)>> {
    let mut found = Vec::new();
    let mut after = 0;
    // The parts are of different lengths, so that each entry ends one now and then.
    for part in (1..5usize).cycle() {
        let batch = volume.run(|volume| {
            let mut batch = Vec::new();
            volume.readdir(dir, after, false, &mut |entry| {
                if batch.len() == part {
                    return false;
                }
                batch.push((entry.name.to_vec(), entry.ino, entry.kind, entry.cookie));
                true
            })?;
            Ok(batch)
        })?;
        let Some((.., cookie)) = batch.last() else { break };
        after = *cookie;
        found.extend(batch.into_iter().map(|(name, ino, kind, _)| (name, ino, kind)));
    }
    // As of one that was removed while it is held: the kernel does not even ask.
    if found.is_empty() && volume.run(|volume| volume.getattr(dir))?.attr.nlink == 0 {
        return Ok(found);
    }
    let dots: Vec<&[u8]> = found.iter().take(2).map(|(name, ..)| &name[..]).collect();
    assert_eq!(dots, [&b"."[..], b".."], "the listing of {dir} begins with");
    Ok(found.split_off(2))
}

/// A volume, and which of its inodes are which of the model's. One reference is held to each.
pub struct Store {
    pub disk: Disk,
    pub settings: Settings,
    pub clock: Clock,
    volume: Option<Arc<Volume>>,
    inos: BTreeMap<Id, Ino>,
}

impl Store {
    pub fn new(disk: Disk, cache: u64) -> Store {
        let clock = Clock::manual(Time(START));
        let settings = disk.settings(cache);
        Store::open(disk, settings, clock).unwrap()
    }

    pub fn open(disk: Disk, settings: Settings, clock: Clock) -> larder::Result<Store> {
        let volume = disk.open_as(&settings, &clock)?;
        Ok(Store { disk, settings, clock, volume: Some(volume), inos: BTreeMap::from([(ROOT, ROOT_INO)]) })
    }

    /// Sets the size of the pages of all that is created from now on, bytes.
    pub fn set_page_size(&self, bytes: u64) {
        let value = bytes.to_string();
        let name = b"user.larder.page-size";
        self.run(|volume| volume.setxattr(&NOBODY_SPECIAL, ROOT_INO, name, value.as_bytes(), 0)).unwrap();
    }

    pub fn volume(&self) -> &Volume {
        self.volume.as_deref().expect("the store is open")
    }

    /// Whether an inode of the model's is there to be called by.
    pub fn knows(&self, id: Id) -> bool {
        self.inos.contains_key(&id)
    }

    pub fn ino(&self, id: Id) -> Ino {
        self.inos[&id]
    }

    pub fn run<T>(&self, operation: impl FnMut(&Volume) -> Step<T>) -> Result<T, i32> {
        self.volume().run(operation).map_err(|error| errno(&error))
    }

    fn attr(&self, ino: Ino) -> Result<Attr, i32> {
        self.run(|volume| volume.getattr(ino)).map(|entry| entry.attr)
    }

    fn set(&self, of: Id, change: SetAttr) -> Result<Reply, i32> {
        let ino = self.ino(of);
        self.run(|volume| volume.setattr(&NOBODY_SPECIAL, ino, &change)).map(|_| Reply::Done)
    }

    fn made(&mut self, id: Id, entry: Result<larder::volume::Entry, i32>) -> Result<Reply, i32> {
        self.inos.insert(id, entry?.attr.ino);
        Ok(Reply::Done)
    }

    /// Looks all names up, and takes a reference to each inode.
    fn walk(&mut self, fs: &Fs) -> Check {
        self.inos = BTreeMap::from([(ROOT, ROOT_INO)]);
        let mut todo = vec![ROOT];
        while let Some(dir) = todo.pop() {
            let dir_ino = self.ino(dir);
            for (name, id) in fs.entries(dir) {
                let found = match self.run(|volume| volume.lookup(dir_ino, name)) {
                    Ok(entry) => entry.attr.ino,
                    Err(errno) => return fail(format!("errno {errno} for a lookup of {name:?} in {dir}")),
                };
                match self.inos.insert(*id, found) {
                    Some(known) => {
                        prop_assert_eq!(known, found, "another name of {}", id);
                        self.volume().forget(found, 1);
                    }
                    None if fs.node(*id).is_dir() => todo.push(*id),
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Opens what is found on another disk, with the model that was found to fit it.
    pub fn found(disk: Disk, cache: u64, clock: Clock) -> Result<Store, TestCaseError> {
        let settings = disk.settings(cache);
        match Store::open(disk, settings, clock) {
            Ok(store) => Ok(store),
            Err(error) => fail(format!("opening after a crash: {error}")),
        }
    }

    /// Unlinked inodes are given back, and the figures are those of the tree.
    pub fn reclaimed(&self, fs: &Fs) -> Check {
        let inodes = fs.nodes().len() as u64;
        let content: u64 = fs.nodes().values().filter_map(|node| Some(node.content()?.len() as u64)).sum();
        self.run(|volume| Ok(volume.sync()?)).or_else(|errno| fail(format!("errno {errno} for sync")))?;
        // Reclaiming runs in the background and tells nobody.
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let stats = self.volume().stats().expect("the figures");
            let files = self.volume().run(|volume| volume.statfs(ROOT_INO)).expect("the figures").files;
            if (stats.inodes, files, stats.content_bytes) == (inodes, inodes, content) {
                return Ok(());
            }
            if Instant::now() > until {
                return fail(format!(
                    "the tree has {inodes} inodes with {content} bytes, stats says {} with {}, statfs {files}",
                    stats.inodes, stats.content_bytes
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(volume) = self.volume.take() {
            // A failed case may leave it unable to.
            let _ = volume.close();
        }
    }
}

impl System for Store {
    fn apply(&mut self, call: &Call, now: i64) -> Result<Reply, i32> {
        if now != 0 {
            self.clock.set(Time(now));
        }
        let done = |()| Reply::Done;
        let caller = &NOBODY_SPECIAL;
        match call {
            Call::Mknod { dir, name, mode, id } => {
                let dir = self.ino(*dir);
                let made = self.run(|volume| volume.mknod(caller, dir, name, *mode, 0));
                self.made(*id, made)
            }
            Call::Mkdir { dir, name, mode, id } => {
                let dir = self.ino(*dir);
                let made = self.run(|volume| volume.mkdir(caller, dir, name, *mode));
                self.made(*id, made)
            }
            Call::Symlink { dir, name, target, id } => {
                let dir = self.ino(*dir);
                let made = self.run(|volume| volume.symlink(caller, dir, name, target));
                self.made(*id, made)
            }
            Call::Link { of, dir, name } => {
                let (of, dir) = (self.ino(*of), self.ino(*dir));
                let entry = self.run(|volume| volume.link(of, dir, name))?;
                assert_eq!(entry.attr.ino, of);
                self.volume().forget(of, 1);
                Ok(Reply::Done)
            }
            Call::Unlink { dir, name } => {
                let dir = self.ino(*dir);
                self.run(|volume| volume.unlink(dir, name)).map(done)
            }
            Call::Rmdir { dir, name } => {
                let dir = self.ino(*dir);
                self.run(|volume| volume.rmdir(dir, name)).map(done)
            }
            Call::Rename { dir, name, new_dir, new_name, how } => {
                let (dir, new_dir) = (self.ino(*dir), self.ino(*new_dir));
                let how = match how {
                    How::Replace => Rename::Replace,
                    How::NoReplace => Rename::NoReplace,
                    How::Exchange => Rename::Exchange,
                };
                self.run(|volume| volume.rename(dir, name, new_dir, new_name, how)).map(|_| Reply::Done)
            }
            Call::Chmod { of, mode } => self.set(*of, SetAttr { mode: Some(*mode), ..SetAttr::default() }),
            Call::Chown { of, uid, gid } => {
                self.set(*of, SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() })
            }
            Call::Mtime { of, nanos } => {
                let mtime = Some(SetTime::At(Time(*nanos)));
                self.set(*of, SetAttr { mtime, ..SetAttr::default() })
            }
            Call::Truncate { of, size } => self.set(*of, SetAttr { size: Some(*size), ..SetAttr::default() }),
            Call::Write { of, offset, data } => {
                let of = self.ino(*of);
                self.run(|volume| volume.write(of, *offset, data, false)).map(|_| Reply::Done)
            }
            Call::Read { of, offset, len } => read(self.volume(), self.ino(*of), *offset, *len)
                .map(Reply::Data)
                .map_err(|error| errno(&error)),
            Call::Fallocate { of, offset, len, mode } => {
                let of = self.ino(*of);
                self.volume().fallocate(of, *offset, *len, *mode).map_err(|error| errno(&error)).map(done)
            }
            Call::Copy { from, offset_from, to, offset_to, len } => {
                let (from, to) = (self.ino(*from), self.ino(*to));
                // As the kernel asks, up to the end as it was: a copy within a file moves that. It may
                // copy less than asked for.
                let len = (*len).min(self.attr(from)?.size.saturating_sub(*offset_from));
                let mut copied = 0;
                loop {
                    let more = self
                        .volume()
                        .copy_range(from, offset_from + copied, to, offset_to + copied, len - copied)
                        .map_err(|error| errno(&error))?;
                    copied += more;
                    if more == 0 || copied == len {
                        return Ok(Reply::Count(copied));
                    }
                }
            }
            Call::SetXattr { of, name, value, flags } => {
                let of = self.ino(*of);
                self.run(|volume| volume.setxattr(caller, of, name, value, *flags)).map(done)
            }
            Call::RemoveXattr { of, name } => {
                let of = self.ino(*of);
                self.run(|volume| volume.removexattr(caller, of, name)).map(done)
            }
            Call::Lookup { dir, name } => {
                let dir = self.ino(*dir);
                let found = self.run(|volume| volume.lookup(dir, name))?.attr.ino;
                self.volume().forget(found, 1);
                Ok(Reply::Count(found.0))
            }
        }
    }

    fn release(&mut self, id: Id) {
        if let Some(ino) = self.inos.remove(&id) {
            self.volume().forget(ino, 1);
        }
    }

    fn fsync(&mut self, id: Id, data_only: bool) -> Result<(), i32> {
        let ino = self.ino(id);
        self.volume().fsync(ino, data_only).map_err(|error| errno(&error))
    }

    fn sync(&mut self) -> Result<(), i32> {
        self.volume().sync().map_err(|error| errno(&error))
    }

    fn remount(&mut self, fs: &Fs) -> Check {
        if let Err(error) = self.close() {
            return fail(format!("closing: {error}"));
        }
        self.disk.is_sound("after a clean end")?;
        if let Err(error) = self.reopen() {
            return fail(format!("opening again: {error}"));
        }
        self.walk(fs)
    }

    fn stat(&mut self, id: Id) -> Result<Stat, i32> {
        let ino = self.inos.get(&id).copied().ok_or(libc::ESTALE)?;
        let attr = self.attr(ino)?;
        assert_eq!(attr.ino, ino);
        Ok(Stat {
            ino: attr.ino.0,
            mode: attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            blocks: attr.blocks,
            mtime: attr.mtime.0,
            ctime: attr.ctime.0,
            btime: attr.btime.0,
        })
    }

    fn list(&mut self, dir: Id) -> Result<BTreeMap<Vec<u8>, u64>, TestCaseError> {
        let dir = self.ino(dir);
        let entries = match list(self.volume(), dir) {
            Ok(entries) => entries,
            Err(error) => return fail(format!("listing {dir}: {error}")),
        };
        let mut names = BTreeMap::new();
        for (name, ino, kind) in entries {
            let attr = self.attr(ino).or_else(|errno| fail(format!("errno {errno} for {ino}")))?;
            prop_assert_eq!(kind, Kind::of_mode(attr.mode), "kind of {:?} in the listing", name);
            prop_assert!(names.insert(name.clone(), ino.0).is_none(), "{name:?} is listed twice");
        }
        Ok(names)
    }

    fn readlink(&mut self, id: Id) -> Result<Vec<u8>, i32> {
        let ino = self.ino(id);
        self.run(|volume| volume.readlink(ino))
    }

    fn xattrs(&mut self, id: Id) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, i32> {
        let ino = self.ino(id);
        let names = self.run(|volume| volume.listxattr(ino))?;
        // The page size comes from the root, where the test has set it.
        let names = names.split(|byte| *byte == 0);
        let names = names.filter(|name| !name.is_empty() && *name != b"user.larder.page-size");
        names.map(|name| Ok((name.to_vec(), self.run(|volume| volume.getxattr(ino, name))?))).collect()
    }

    fn seek(&mut self, id: Id, offset: u64, hole: bool) -> Result<u64, i32> {
        let ino = self.ino(id);
        self.volume().seek(ino, offset, hole).map_err(|error| errno(&error))
    }

    fn is_exact(&self) -> bool {
        true
    }
}

impl Store {
    pub fn close(&mut self) -> larder::Result<()> {
        self.volume.take().map_or(Ok(()), |volume| volume.close())
    }

    /// Opens it again once it has been closed; its inodes are to be adopted then.
    pub fn reopen(&mut self) -> larder::Result<()> {
        self.volume = Some(self.disk.open_as(&self.settings, &self.clock)?);
        Ok(())
    }

    pub fn is_open(&self) -> bool {
        self.volume.is_some()
    }

    /// What the disk holds: after power loss, or as the process would leave it when it is killed.
    pub fn crashed(&self, power_loss: bool) -> Disk {
        match &self.disk {
            Disk::Faulty(disk) if power_loss => Disk::Faulty(disk.crash()),
            Disk::Faulty(disk) => Disk::Faulty(disk.snapshot()),
            Disk::Real(_) => panic!("the real disk is not crashed"),
        }
    }

    /// The model's numbers for the tree that is found, by path; for a store that was opened after a crash.
    pub fn adopt(&mut self, fs: &Fs) -> Check {
        self.walk(fs)
    }
}
