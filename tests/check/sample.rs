//! The store that is damaged, and the tools to do it with.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use larder::catalog::{Batch, Engine, LocalCatalog, OpenOptions};
use larder::check::{Options, Repaired, Report, Severity, check, repair};
use larder::clock::{Clock, Time};
use larder::error::Result;
use larder::format::{
    Bucket, Extent, Ino, InodeRecord, PageNo, PageRecord, ROOT, decode, encode, keys, name_hash,
};
use larder::io::faulty::FaultyDisk;
use larder::io::{File, Io};
use larder::volume::Volume;

use crate::model::ops::Fill;
use crate::model::store::{Disk, LEAST_CACHE, NOBODY_SPECIAL, START};

/// The page size of a volume, bytes.
const PAGE: u64 = 128 << 10;

pub const STORE: &str = "/store";

/// A store with something of everything, closed or as kill -9 left it, and its inodes by name.
pub struct Sample {
    pub disk: FaultyDisk,
    pub inos: BTreeMap<&'static str, Ino>,
}

impl Sample {
    pub fn new(killed: bool) -> Sample {
        let disk = FaultyDisk::new(1);
        let volume = Disk::Faulty(disk.clone()).open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap();
        let caller = &NOBODY_SPECIAL;
        let mut inos = BTreeMap::from([("", ROOT)]);
        let mut made = |name: &'static str, entry: Result<larder::volume::Entry>| {
            inos.insert(name, entry.unwrap().attr.ino);
            inos[name]
        };
        let dir = made("dir", volume.run(|v| v.mkdir(caller, ROOT, b"dir", 0o755)));
        let sub = made("sub", volume.run(|v| v.mkdir(caller, dir, b"sub", 0o755)));
        let mut file = |dir: Ino, name: &'static str, content: &[u8]| {
            let ino =
                made(name, volume.run(|v| v.mknod(caller, dir, name.as_bytes(), libc::S_IFREG | 0o644, 0)));
            volume.run(|v| v.write(ino, 0, content, false)).unwrap();
            volume.sync().unwrap();
            ino
        };
        let text = file(dir, "text", &Fill::Text(1).bytes(5000));
        let deep = file(sub, "deep", &Fill::Text(2).bytes(300));
        let big = file(ROOT, "big", &Fill::Noise(3).bytes(400_000));
        let twin = file(ROOT, "twin", &Fill::Noise(4).bytes(10_000));
        file(ROOT, "other", &Fill::Noise(5).bytes(10_000));
        let copy = file(ROOT, "copy", b"");
        let hard = file(ROOT, "hard", b"two names");
        made("link", volume.run(|v| v.symlink(caller, ROOT, b"link", b"dir/text")));
        made("fifo", volume.run(|v| v.mknod(caller, ROOT, b"fifo", libc::S_IFIFO | 0o600, 0)));
        volume.run(|v| v.link(hard, sub, b"hard too")).unwrap();
        assert_eq!(volume.copy_range(big, 0, copy, 0, 2 * PAGE).unwrap(), 2 * PAGE);
        volume.run(|v| v.setxattr(caller, text, b"user.a", b"one", 0)).unwrap();
        volume.run(|v| v.setxattr(caller, text, b"user.b", b"two", 0)).unwrap();
        volume.run(|v| v.setxattr(caller, deep, b"user.larder.expires", b"2040-01-01T00:00:00Z", 0)).unwrap();
        if killed {
            volume.sync().unwrap();
            volume.run(|v| v.write(twin, 100, b"a patch", false)).unwrap();
            volume.fsync(twin, false).unwrap();
            let left = disk.snapshot();
            volume.close().unwrap();
            return Sample { disk: left, inos };
        }
        volume.close().unwrap();
        Sample { disk, inos }
    }

    /// Another one like it, to be damaged.
    pub fn again(&self) -> Sample {
        Sample { disk: self.disk.snapshot(), inos: self.inos.clone() }
    }

    pub fn report(&self) -> Report {
        self.checked().unwrap()
    }

    pub fn checked(&self) -> Result<Report> {
        check(self.io(), Path::new(STORE), &Options { content: true, threads: 2 }, &|_| {})
    }

    pub fn repaired(&self) -> Result<Repaired> {
        self.mended(false)
    }

    /// Repaired, and the catalog made anew where that needs it.
    pub fn rebuilt(&self) -> Result<Repaired> {
        self.mended(true)
    }

    fn mended(&self, anew: bool) -> Result<Repaired> {
        let options = Options { content: true, threads: 2 };
        repair(self.io(), Path::new(STORE), anew, &options, &Clock::manual(Time(START)), &|_| {})
    }

    /// Opens the store.
    pub fn volume(&self) -> Arc<Volume> {
        Disk::Faulty(self.disk.clone()).open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap()
    }

    pub fn io(&self) -> Arc<dyn Io> {
        Arc::new(self.disk.clone())
    }

    pub fn engine(&self) -> LocalCatalog {
        LocalCatalog::open(OpenOptions {
            io: self.io(),
            dir: STORE.into(),
            memory: 1 << 20,
            verify: &mut |_| Ok(true),
            before_checkpoint: Box::new(|| Ok(())),
        })
        .unwrap()
    }

    /// Changes the catalog behind Larder's back.
    pub fn edit(&self, change: impl FnOnce(&Edit<'_>, &mut Batch)) {
        let engine = self.engine();
        let mut batch = Batch::default();
        change(&Edit { engine: &engine, inos: &self.inos }, &mut batch);
        engine.apply(batch).unwrap();
        engine.close(&|| Ok(())).unwrap();
    }

    pub fn file(&self, path: &str) -> Arc<dyn File> {
        self.disk.open(&Path::new(STORE).join(path), false).unwrap()
    }

    pub fn flip(&self, path: &str, bit: u64) {
        let file = self.file(path);
        let mut byte = [0];
        assert_eq!(file.read_at(&mut byte, bit / 8).unwrap(), 1);
        byte[0] ^= 1 << (bit % 8);
        file.write_all_at(&byte, bit / 8).unwrap();
    }

    /// Where the first page of a file in the root lies.
    pub fn place(&self, name: &[u8]) -> Extent {
        let engine = self.engine();
        let edit = Edit { engine: &engine, inos: &self.inos };
        let bucket: Bucket = edit.get(&keys::bucket(ROOT, name_hash(name)));
        let record: PageRecord = edit.get(&keys::page(bucket[0].ino, PageNo(0)));
        engine.close(&|| Ok(())).unwrap();
        record.extent
    }

    pub fn page(&self, name: &str, page: u32) -> PageRecord {
        let engine = self.engine();
        let found = Edit { engine: &engine, inos: &self.inos }.page(name, page);
        engine.close(&|| Ok(())).unwrap();
        found
    }
}

/// The catalog while it is being changed.
pub struct Edit<'a> {
    pub engine: &'a LocalCatalog,
    inos: &'a BTreeMap<&'static str, Ino>,
}

impl Edit<'_> {
    pub fn ino(&self, name: &str) -> Ino {
        self.inos[name]
    }

    pub fn get<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> T {
        decode(&self.engine.get(key).unwrap().expect("the key is there"), "test").unwrap()
    }

    pub fn inode(&self, batch: &mut Batch, name: &str, change: impl FnOnce(&mut InodeRecord)) {
        let key = keys::inode(self.ino(name));
        let mut rec: InodeRecord = self.get(&key);
        change(&mut rec);
        batch.put(key, encode(&rec));
    }

    pub fn bucket(&self, batch: &mut Batch, dir: &str, name: &str, change: impl FnOnce(&mut Bucket)) {
        let key = keys::bucket(self.ino(dir), name_hash(name.as_bytes()));
        let mut bucket: Bucket =
            self.engine.get(&key).unwrap().map_or_else(Vec::new, |v| decode(&v, "test").unwrap());
        change(&mut bucket);
        batch.put(key, encode(&bucket));
    }

    pub fn page(&self, name: &str, page: u32) -> PageRecord {
        self.get(&keys::page(self.ino(name), PageNo(page)))
    }

    /// The first record under a tag.
    pub fn first(&self, tag: u8) -> (Vec<u8>, Vec<u8>) {
        let mut found = None;
        self.engine
            .scan(keys::under(&[tag]), &mut |key, value| {
                found = Some((key.to_vec(), value.to_vec()));
                false
            })
            .unwrap();
        found.unwrap_or_else(|| panic!("no record has tag {}", char::from(tag)))
    }
}

/// A finding of this class that says this is there.
pub fn says(report: &Report, severity: Severity, class: &str, text: &str) -> bool {
    report.findings.iter().any(|f| f.severity == severity && f.class == class && f.to_string().contains(text))
}

pub fn listed(report: &Report) -> String {
    report.findings.iter().map(|finding| format!("  [{}] {finding}\n", finding.class)).collect()
}
