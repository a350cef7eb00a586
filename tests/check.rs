//! `larder check`: each class of damage is found and named, and nothing is where nothing is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod model;
mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder::catalog::{Batch, Engine, LocalCatalog, OpenOptions};
use larder::check::{Options, Report, Severity, check};
use larder::clock::{Clock, Time};
use larder::error::{Error, Result};
use larder::format::{
    Bucket, CounterRecord, Dentry, Extent, Ino, InodeRecord, Kind, Links, PageNo, PageRecord, Patch, ROOT,
    SegmentId, SegmentRecord, decode, encode, keys, name_hash,
};
use larder::io::faulty::FaultyDisk;
use larder::io::{File, Io};
use larder::volume::Volume;
use model::ops::Fill;
use model::store::{Disk, LEAST_CACHE, NOBODY_SPECIAL, START, read};
use support::mounted::{larder, stderr};

/// The page size of a volume, bytes.
const PAGE: u64 = 128 << 10;

const STORE: &str = "/store";

/// A store with something of everything, closed or as kill -9 left it, and its inodes by name.
struct Sample {
    disk: FaultyDisk,
    inos: BTreeMap<&'static str, Ino>,
}

impl Sample {
    fn new(killed: bool) -> Sample {
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
    fn again(&self) -> Sample {
        Sample { disk: self.disk.snapshot(), inos: self.inos.clone() }
    }

    fn report(&self) -> Report {
        self.checked().unwrap()
    }

    fn checked(&self) -> Result<Report> {
        check(self.io(), Path::new(STORE), &Options { content: true, threads: 2 }, &|_| {})
    }

    fn io(&self) -> Arc<dyn Io> {
        Arc::new(self.disk.clone())
    }

    fn engine(&self) -> LocalCatalog {
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
    fn edit(&self, change: impl FnOnce(&Edit<'_>, &mut Batch)) {
        let engine = self.engine();
        let mut batch = Batch::default();
        change(&Edit { engine: &engine, inos: &self.inos }, &mut batch);
        engine.apply(batch).unwrap();
        engine.close(&|| Ok(())).unwrap();
    }

    fn file(&self, path: &str) -> Arc<dyn File> {
        self.disk.open(&Path::new(STORE).join(path), false).unwrap()
    }

    fn flip(&self, path: &str, bit: u64) {
        let file = self.file(path);
        let mut byte = [0];
        assert_eq!(file.read_at(&mut byte, bit / 8).unwrap(), 1);
        byte[0] ^= 1 << (bit % 8);
        file.write_all_at(&byte, bit / 8).unwrap();
    }

    fn page(&self, name: &str, page: u32) -> PageRecord {
        let engine = self.engine();
        let found = Edit { engine: &engine, inos: &self.inos }.page(name, page);
        engine.close(&|| Ok(())).unwrap();
        found
    }
}

/// The catalog while it is being changed.
struct Edit<'a> {
    engine: &'a LocalCatalog,
    inos: &'a BTreeMap<&'static str, Ino>,
}

impl Edit<'_> {
    fn ino(&self, name: &str) -> Ino {
        self.inos[name]
    }

    fn get<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> T {
        decode(&self.engine.get(key).unwrap().expect("the key is there"), "test").unwrap()
    }

    fn inode(&self, batch: &mut Batch, name: &str, change: impl FnOnce(&mut InodeRecord)) {
        let key = keys::inode(self.ino(name));
        let mut rec: InodeRecord = self.get(&key);
        change(&mut rec);
        batch.put(key, encode(&rec));
    }

    fn bucket(&self, batch: &mut Batch, dir: &str, name: &str, change: impl FnOnce(&mut Bucket)) {
        let key = keys::bucket(self.ino(dir), name_hash(name.as_bytes()));
        let mut bucket: Bucket =
            self.engine.get(&key).unwrap().map_or_else(Vec::new, |v| decode(&v, "test").unwrap());
        change(&mut bucket);
        batch.put(key, encode(&bucket));
    }

    fn page(&self, name: &str, page: u32) -> PageRecord {
        self.get(&keys::page(self.ino(name), PageNo(page)))
    }

    /// The first record under a tag.
    fn first(&self, tag: u8) -> (Vec<u8>, Vec<u8>) {
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
fn says(report: &Report, severity: Severity, class: &str, text: &str) -> bool {
    report.findings.iter().any(|f| f.severity == severity && f.class == class && f.to_string().contains(text))
}

fn listed(report: &Report) -> String {
    report.findings.iter().map(|finding| format!("  [{}] {finding}\n", finding.class)).collect()
}

/// Damage to the catalog that is to be found, with the severity and class of the finding, and what it says.
type Case = (&'static str, Severity, &'static str, &'static str, fn(&Edit<'_>, &mut Batch));

fn check_cases(cases: &[Case]) {
    let sample = Sample::new(false);
    let mut failed = String::new();
    for (name, severity, class, text, damage) in cases {
        let damaged = sample.again();
        damaged.edit(*damage);
        let report = damaged.report();
        if !says(&report, *severity, class, text) {
            failed += &format!("{name}: nothing says {text:?} ({severity:?}, {class}):\n{}", listed(&report));
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

use Severity::{Error as Bad, Note, Warning};

#[test]
fn a_sound_store_is_found_sound_and_left_as_it_is() {
    for killed in [false, true] {
        let sample = Sample::new(killed);
        let before = contents(&sample.disk);
        let report = sample.report();
        assert!(report.is_clean() && report.findings.is_empty(), "killed: {killed}\n{}", listed(&report));
        assert_eq!((report.figures.inodes, report.figures.pages), (12, 11), "killed: {killed}");
        assert!(
            report.figures.verified > 0 && report.figures.verified < report.figures.pages,
            "shared ones once"
        );
        assert!(contents(&sample.disk) == before, "the check changed something; killed: {killed}");
    }
}

/// Every file with its content.
fn contents(disk: &FaultyDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::from(STORE)];
    while let Some(path) = todo.pop() {
        match disk.list(&path) {
            Ok(inside) => todo.extend(inside),
            Err(_) => {
                let file = disk.open(&path, false).unwrap();
                let mut bytes = vec![0; file.len().unwrap() as usize];
                file.read_at(&mut bytes, 0).unwrap();
                found.insert(path, bytes);
            }
        }
    }
    found
}

#[test]
fn names_that_dangle_or_lie_wrong_are_found() {
    check_cases(&[
        ("an entry without an inode", Bad, "names", "which is not there", |edit, batch| {
            edit.bucket(batch, "dir", "ghost", |bucket| {
                bucket.push(Dentry { name: (*b"ghost").into(), ino: Ino(999), kind: Kind::File, slot: 0 });
            });
        }),
        ("an inode without an entry", Bad, "links", "no directory entry names it", |edit, batch| {
            batch.delete(keys::bucket(edit.ino("dir"), name_hash(b"text")));
        }),
        ("a directory without an entry", Bad, "links", "no directory entry names it", |edit, batch| {
            batch.delete(keys::bucket(edit.ino("dir"), name_hash(b"sub")));
        }),
        ("a directory in itself", Bad, "tree", "lies within itself", |edit, batch| {
            let dir = edit.ino("dir");
            batch.delete(keys::bucket(ROOT, name_hash(b"dir")));
            edit.bucket(batch, "sub", "dir", |bucket| {
                bucket.push(Dentry { name: (*b"dir").into(), ino: dir, kind: Kind::Directory, slot: 0 });
            });
        }),
        (
            "a directory with two names",
            Bad,
            "links",
            "2 directory entries name this directory",
            |edit, batch| {
                let sub = edit.ino("sub");
                edit.bucket(batch, "", "sub2", |bucket| {
                    bucket.push(Dentry { name: (*b"sub2").into(), ino: sub, kind: Kind::Directory, slot: 0 });
                });
            },
        ),
        ("a name for the root", Bad, "links", "name the root", |edit, batch| {
            edit.bucket(batch, "dir", "top", |bucket| {
                bucket.push(Dentry { name: (*b"top").into(), ino: ROOT, kind: Kind::Directory, slot: 0 });
            });
        }),
        ("a name in the wrong bucket", Bad, "names", "its hash is another", |edit, batch| {
            edit.bucket(batch, "dir", "text", |bucket| bucket[0].name = (*b"texd").into());
        }),
        ("a slot taken twice", Bad, "names", "slot 0, which is taken", |edit, batch| {
            edit.bucket(batch, "dir", "text", |bucket| {
                bucket.push(Dentry { name: (*b"x").into(), ..bucket[0].clone() })
            });
        }),
        ("an impossible slot", Bad, "names", "slot 200, which is taken or impossible", |edit, batch| {
            edit.bucket(batch, "dir", "text", |bucket| bucket[0].slot = 200);
        }),
        ("a name twice", Bad, "names", "is there twice", |edit, batch| {
            edit.bucket(batch, "dir", "text", |bucket| bucket.push(Dentry { slot: 1, ..bucket[0].clone() }));
        }),
        ("a wrong kind", Bad, "names", "says Fifo, and names a File", |edit, batch| {
            edit.bucket(batch, "dir", "text", |bucket| bucket[0].kind = Kind::Fifo);
        }),
        ("an impossible name", Bad, "names", "is impossible", |edit, batch| {
            edit.bucket(batch, "dir", "a/b", |bucket| {
                bucket.push(Dentry { name: (*b"a/b").into(), ino: Ino(3), kind: Kind::File, slot: 0 });
            });
        }),
        ("an empty bucket", Bad, "names", "is empty", |edit, batch| {
            edit.bucket(batch, "dir", "text", |bucket| bucket.clear());
        }),
        ("entries of a file", Bad, "names", "it has directory entries and is a File", |edit, batch| {
            edit.bucket(batch, "text", "x", |bucket| {
                bucket.push(Dentry { name: (*b"x").into(), ino: Ino(3), kind: Kind::File, slot: 0 });
            });
        }),
        ("an unreadable bucket", Bad, "names", "cannot be read", |edit, batch| {
            batch.put(keys::bucket(edit.ino("dir"), name_hash(b"text")), vec![9, 9]);
        }),
        ("a record with another name", Bad, "links", "another name than its directory", |edit, batch| {
            edit.inode(batch, "text", |rec| rec.links = Links::One { parent: ROOT, name: (*b"text").into() });
        }),
        ("a lost link record", Bad, "links", "1 link records for 2 names", |_, batch| {
            batch.delete(keys::link(Ino(10), ROOT, b"hard"));
        }),
        ("a link record that lies", Bad, "links", "another name than its directory", |edit, batch| {
            let ino = edit.ino("hard");
            batch.delete(keys::link(ino, ROOT, b"hard"));
            batch.put(keys::link(ino, ROOT, b"soft"), Vec::new());
        }),
        ("link records of one name", Warning, "links", "says that it has one name", |edit, batch| {
            batch.put(keys::link(edit.ino("text"), ROOT, b"text"), Vec::new());
        }),
    ]);
}

#[test]
fn inodes_that_are_impossible_or_missing_are_found() {
    check_cases(&[
        ("an unreadable inode", Bad, "inode", "cannot be read", |edit, batch| {
            batch.put(keys::inode(edit.ino("text")), vec![1, 2, 3]);
        }),
        ("a missing inode", Bad, "inode", "not there, and has page records", |edit, batch| {
            batch.delete(keys::inode(edit.ino("text")));
        }),
        ("a missing directory", Bad, "inode", "not there, and has directory entries", |edit, batch| {
            batch.delete(keys::inode(edit.ino("dir")));
        }),
        ("no root", Bad, "inode", "there is no root directory", |_, batch| batch.delete(keys::inode(ROOT))),
        ("an impossible mode", Bad, "inode", "mode 150644 is impossible", |edit, batch| {
            edit.inode(batch, "text", |rec| rec.mode = 0o150644);
        }),
        ("an impossible page size", Bad, "inode", "2^33 bytes", |edit, batch| {
            edit.inode(batch, "text", |rec| rec.page_shift = 33);
        }),
        ("a link without a target", Bad, "inode", "without a target", |edit, batch| {
            edit.inode(batch, "link", |rec| rec.target = None);
        }),
        ("a target of another length", Bad, "inode", "its target has 8 bytes", |edit, batch| {
            edit.inode(batch, "link", |rec| rec.size = 9);
        }),
        ("a key of no tag", Bad, "catalog", "none of this format", |_, batch| {
            batch.put(b"Zebra".to_vec(), vec![1])
        }),
        ("a key that is too long", Bad, "catalog", "none of this format", |_, batch| {
            batch.put(b"I123456789".to_vec(), vec![1]);
        }),
        ("attributes of no inode", Bad, "inode", "not there, and has extended attributes", |_, batch| {
            batch.put(keys::xattr(Ino(999), b"user.a"), vec![1]);
        }),
        ("links of no inode", Bad, "inode", "not there, and has link records", |_, batch| {
            batch.put(keys::link(Ino(999), ROOT, b"a"), Vec::new());
        }),
        ("patches of no inode", Bad, "inode", "not there, and has patches", |_, batch| {
            batch.put(keys::patch(Ino(999), PageNo(0), 0), encode(&Patch::ZeroFrom(0)));
        }),
        ("an unreadable patch", Bad, "patches", "cannot be read", |edit, batch| {
            batch.put(keys::patch(edit.ino("text"), PageNo(0), 0), vec![77]);
        }),
        ("a patch beyond the page", Bad, "patches", "reaches to byte", |edit, batch| {
            batch.put(keys::patch(edit.ino("text"), PageNo(0), 0), encode(&Patch::ZeroFrom(1 << 20)));
        }),
    ]);
}

#[test]
fn wrong_counts_and_marks_are_found() {
    check_cases(&[
        ("nlink", Bad, "links", "it has 1 links, its record says 3", |edit, batch| {
            edit.inode(batch, "text", |rec| {
                rec.nlink = 3;
                rec.links = Links::Many;
            });
        }),
        ("nlink of a directory", Bad, "links", "it has 3 links, its record says 2", |edit, batch| {
            edit.inode(batch, "dir", |rec| rec.nlink = 2);
        }),
        ("nlink 0 with a name", Bad, "links", "says that it is unlinked", |edit, batch| {
            edit.inode(batch, "text", |rec| rec.nlink = 0);
        }),
        ("entries", Warning, "counts", "2 directory entries, its record says 7", |edit, batch| {
            edit.inode(batch, "dir", |rec| rec.size = 7);
        }),
        ("pages", Warning, "counts", "pages with a frame, its record says 9", |edit, batch| {
            edit.inode(batch, "big", |rec| rec.pages = 9);
        }),
        ("stored", Warning, "counts", "bytes stored, its record says 9", |edit, batch| {
            edit.inode(batch, "big", |rec| rec.stored = 9);
        }),
        ("attributes", Warning, "counts", "2 extended attributes, its record says 1", |edit, batch| {
            edit.inode(batch, "text", |rec| rec.xattrs = 1);
        }),
        ("a lost attribute", Warning, "counts", "1 extended attributes, its record says 2", |edit, batch| {
            batch.delete(keys::xattr(edit.ino("text"), b"user.a"));
        }),
        ("a lost expiry mark", Bad, "marks", "has no mark", |edit, batch| {
            batch.delete(edit.first(keys::EXPIRY).0);
        }),
        ("a stale expiry mark", Warning, "marks", "expires at 5, and it does not", |edit, batch| {
            batch.put(keys::expiry(5, edit.ino("text")), Vec::new());
        }),
        ("a lost orphan mark", Warning, "marks", "not marked to be reclaimed", |edit, batch| {
            edit.inode(batch, "text", |rec| rec.nlink = 0);
            batch.delete(keys::bucket(edit.ino("dir"), name_hash(b"text")));
        }),
        ("an orphan mark too many", Warning, "marks", "though it is not unlinked", |edit, batch| {
            batch.put(keys::orphan(edit.ino("text")), Vec::new());
        }),
        (
            "an orphan mark of nothing",
            Warning,
            "marks",
            "marked to be reclaimed, and not there",
            |_, batch| {
                batch.put(keys::orphan(Ino(999)), Vec::new());
            },
        ),
        ("inodes", Warning, "counters", "inodes, the record says 99", |edit, batch| {
            let record: CounterRecord = edit.get(&keys::counters());
            batch.put(keys::counters(), encode(&CounterRecord { inodes: 99, ..record }));
        }),
        ("content", Warning, "counters", "bytes of content, the record says 99", |edit, batch| {
            let record: CounterRecord = edit.get(&keys::counters());
            batch.put(keys::counters(), encode(&CounterRecord { content: 99, ..record }));
        }),
        ("stored in all", Warning, "counters", "bytes of live frames, the record says 99", |edit, batch| {
            let record: CounterRecord = edit.get(&keys::counters());
            batch.put(keys::counters(), encode(&CounterRecord { stored: 99, ..record }));
        }),
        ("the last number", Bad, "counters", "numbers above 3 count as free", |edit, batch| {
            let record: CounterRecord = edit.get(&keys::counters());
            batch.put(keys::counters(), encode(&CounterRecord { last_ino: 3, ..record }));
        }),
        ("no counters", Bad, "counters", "missing", |_, batch| batch.delete(keys::counters())),
        ("unreadable counters", Bad, "counters", "cannot be read", |_, batch| {
            batch.put(keys::counters(), vec![])
        }),
        ("leaked space", Warning, "segments", "of it are live, its record says", |edit, batch| {
            let (key, value) = edit.first(keys::SEGMENT);
            let live = decode::<SegmentRecord>(&value, "test").unwrap().live;
            batch.put(key, encode(&SegmentRecord { live: live + 1000 }));
        }),
        ("a lost segment record", Warning, "segments", "its record says 0", |edit, batch| {
            batch.delete(edit.first(keys::SEGMENT).0);
        }),
        (
            "a segment record of nothing",
            Warning,
            "segments",
            "0 bytes of it are live, its record says 50",
            |_, batch| {
                batch.put(keys::segment(SegmentId(500)), encode(&SegmentRecord { live: 50 }));
            },
        ),
        ("owners", Bad, "owners", "2 owners, 7 are counted", |edit, batch| {
            batch.put(edit.first(keys::OWNERS).0, encode(&7u32));
        }),
        ("lost owners", Bad, "owners", "and no count of them", |edit, batch| {
            batch.delete(edit.first(keys::OWNERS).0)
        }),
        ("owners of nothing", Warning, "owners", "a frame that nothing refers to", |_, batch| {
            batch.put(keys::owners(SegmentId(1), 17), encode(&2u32));
        }),
    ]);
}

#[test]
fn page_records_that_name_the_wrong_place_are_found() {
    check_cases(&[
        ("swapped records", Bad, "frames", "the frame is that of page 0", |edit, batch| {
            let (a, b) = (edit.page("twin", 0), edit.page("other", 0));
            batch.put(keys::page(edit.ino("twin"), PageNo(0)), encode(&b));
            batch.put(keys::page(edit.ino("other"), PageNo(0)), encode(&a));
        }),
        ("a duplicated record", Bad, "owners", "the frame has 2 owners", |edit, batch| {
            batch.put(keys::page(edit.ino("twin"), PageNo(0)), encode(&edit.page("other", 0)));
        }),
        ("another checksum", Bad, "frames", "the catalog says", |edit, batch| {
            let record = edit.page("text", 0);
            batch.put(keys::page(edit.ino("text"), PageNo(0)), encode(&PageRecord { checksum: 5, ..record }));
        }),
        ("a frame in another", Bad, "pages", "has a frame in another's", |edit, batch| {
            let mut record = edit.page("twin", 0);
            let first = edit.page("other", 0).extent;
            record.extent = Extent { offset: first.offset + 10, ..first };
            batch.put(keys::page(edit.ino("twin"), PageNo(0)), encode(&record));
        }),
        ("a place behind the end", Bad, "segments", "it has been cut off", |edit, batch| {
            let mut record = edit.page("twin", 0);
            record.extent.offset = 60 << 20;
            batch.put(keys::page(edit.ino("twin"), PageNo(0)), encode(&record));
        }),
        ("a segment that is not there", Bad, "segments", "missing, with 1 pages", |edit, batch| {
            let mut record = edit.page("twin", 0);
            record.extent.segment = SegmentId(77);
            batch.put(keys::page(edit.ino("twin"), PageNo(0)), encode(&record));
        }),
        ("a page behind the end", Warning, "pages", "page 7 lies behind its end", |edit, batch| {
            let record = edit.page("twin", 0);
            batch.delete(keys::page(edit.ino("twin"), PageNo(0)));
            batch.put(keys::page(edit.ino("twin"), PageNo(7)), encode(&record));
        }),
        ("content behind the end", Warning, "frames", "the file ends at 100", |edit, batch| {
            edit.inode(batch, "twin", |rec| rec.size = 100);
        }),
        ("pages of a directory", Bad, "pages", "it has pages and is a Directory", |edit, batch| {
            batch.put(keys::page(edit.ino("dir"), PageNo(0)), encode(&edit.page("twin", 0)));
        }),
        ("an unreadable page record", Bad, "pages", "cannot be read", |edit, batch| {
            batch.put(keys::page(edit.ino("twin"), PageNo(0)), vec![]);
        }),
        ("an unreadable release", Warning, "releases", "cannot be read", |_, batch| {
            batch.put(keys::release(SegmentId(1), 20, Ino(5), PageNo(0)), vec![]);
        }),
    ]);
}

fn segment_path(id: SegmentId) -> String {
    format!("segments/{:02x}/{:08x}", id.0 & 0xff, id.0)
}

#[test]
fn a_flipped_bit_in_a_frame_or_a_segments_header_is_found() {
    let sample = Sample::new(false);
    let Extent { segment, offset, len } = sample.page("text", 0).extent;
    // Magic, version, codec, flags, page, inode, lengths, checksum, the first and the last of the payload.
    for at in [0, 4, 5, 6, 12, 16, 32, 36, 40, 48, len - 1] {
        let damaged = sample.again();
        damaged.flip(&segment_path(segment), u64::from(offset + at) * 8 + 2);
        let report = damaged.report();
        assert!(says(&report, Bad, "frames", "(/dir/text): page 0"), "byte {at}:\n{}", listed(&report));
        assert_eq!(report.errors, 1, "byte {at}:\n{}", listed(&report));
    }
    for at in 0..12 {
        let damaged = sample.again();
        damaged.flip(&segment_path(segment), at * 8);
        let report = damaged.report();
        assert!(
            says(&report, Bad, "segments", "does not begin as this segment"),
            "byte {at}:\n{}",
            listed(&report)
        );
    }
}

#[test]
fn a_swapped_a_stale_and_a_duplicated_frame_are_found() {
    let sample = Sample::new(false);
    let (a, b) = (sample.page("twin", 0).extent, sample.page("other", 0).extent);
    assert_eq!((a.segment, a.len), (b.segment, b.len));
    let bytes = |sample: &Sample, extent: Extent| {
        let mut bytes = vec![0; extent.len as usize];
        sample.file(&segment_path(extent.segment)).read_at(&mut bytes, extent.offset.into()).unwrap();
        bytes
    };
    let (frame_a, frame_b) = (bytes(&sample, a), bytes(&sample, b));
    let swapped = sample.again();
    swapped.file(&segment_path(a.segment)).write_all_at(&frame_b, a.offset.into()).unwrap();
    swapped.file(&segment_path(b.segment)).write_all_at(&frame_a, b.offset.into()).unwrap();
    let report = swapped.report();
    for name in ["(/twin): page 0", "(/other): page 0"] {
        assert!(says(&report, Bad, "frames", name), "{name}:\n{}", listed(&report));
    }
    let duplicated = sample.again();
    duplicated.file(&segment_path(a.segment)).write_all_at(&frame_b, a.offset.into()).unwrap();
    let report = duplicated.report();
    assert!(says(&report, Bad, "frames", "(/twin): page 0") && report.errors == 1, "{}", listed(&report));

    // The page is written anew, and then an old frame of it, whole and of the same length, takes its place.
    let volume = Disk::Faulty(sample.disk.clone()).open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap();
    volume.run(|v| v.write(sample.inos["twin"], 0, &Fill::Noise(99).bytes(10_000), false)).unwrap();
    volume.close().unwrap();
    let new = sample.page("twin", 0).extent;
    assert!((new.segment, new.offset) != (a.segment, a.offset) && new.len == a.len);
    sample.file(&segment_path(new.segment)).write_all_at(&frame_a, new.offset.into()).unwrap();
    let report = sample.report();
    assert!(says(&report, Bad, "frames", "the catalog says") && report.errors == 1, "{}", listed(&report));
}

#[test]
fn truncated_and_missing_files_of_each_kind_are_found() {
    let sample = Sample::new(true);
    let segment = segment_path(sample.again().page("text", 0).extent.segment);
    let journal = {
        let mut files = sample.disk.list(&Path::new(STORE).join("journal")).unwrap();
        files.sort();
        files.iter().map(|path| path.strip_prefix(STORE).unwrap().display().to_string()).collect::<Vec<_>>()
    };
    type Damage<'a> = (&'a str, Option<u64>, &'a str, &'a str);
    let cases: [Damage<'_>; 8] = [
        ("FORMAT", None, "format", "missing"),
        ("FORMAT", Some(5), "format", "it does not read"),
        ("index.redb", None, "catalog", "missing"),
        ("index.redb", Some(0), "catalog", "the index is empty"),
        ("index.redb", Some(20_000), "catalog", "index.redb"),
        (&journal[0], None, "catalog", "missing"),
        (&segment, None, "segments", "missing, with"),
        (&segment, Some(1000), "segments", "it has been cut off"),
    ];
    for (path, len, class, text) in cases {
        let damaged = sample.again();
        match len {
            Some(len) => damaged.file(path).set_len(len).unwrap(),
            None => damaged.disk.remove(&Path::new(STORE).join(path)).unwrap(),
        }
        let report = damaged.report();
        assert!(
            says(&report, Bad, class, text),
            "{path} {len:?}: nothing says {text:?}:\n{}",
            listed(&report)
        );
    }
    // The journal cut in the middle of what is durable: the rest is gone, and nobody can tell from a torn tail.
    // What it then says of content is that of an earlier moment, and consistent.
    let damaged = sample.again();
    damaged.file(&journal[0]).set_len(4096).unwrap();
    damaged.report();
}

#[test]
fn damage_in_the_journal_is_found() {
    let sample = Sample::new(true);
    let mut files = sample.disk.list(&Path::new(STORE).join("journal")).unwrap();
    files.sort();
    let journal = files[0].strip_prefix(STORE).unwrap().display().to_string();
    // The first record is durable, as many behind it tell.
    for byte in [0, 8, 12, 17, 40] {
        let damaged = sample.again();
        damaged.flip(&journal, byte * 8 + 1);
        let report = damaged.report();
        assert!(
            says(&report, Bad, "catalog", "cannot be read, though it was durable"),
            "byte {byte}:\n{}",
            listed(&report)
        );
    }
    // The last but one is not known to have been: this is what a power loss leaves.
    let bytes = contents(&sample.disk).remove(&files[0]).unwrap();
    let last = (0..bytes.len() - 8)
        .rev()
        .step_by(1)
        .filter(|at| at % 8 == 0 && &bytes[at + 8..at + 11] == b"LJ\x01");
    let batch = last.into_iter().find(|at| bytes[at + 11] == 1).unwrap();
    let damaged = sample.again();
    damaged.flip(&journal, (batch as u64 + 40) * 8);
    let report = damaged.report();
    assert!(says(&report, Note, "journal", "records behind it"), "{}", listed(&report));
}

#[test]
fn what_is_no_store_or_is_open_is_not_checked() {
    let sample = Sample::new(false);
    sample.file("FORMAT").write_all_at(b"larder 9 ", 0).unwrap();
    let error = sample.checked().unwrap_err().to_string();
    assert!(error.contains("format 9") && error.contains("newer larder"), "{error}");
    let empty = FaultyDisk::new(1);
    empty.create_dir_all(Path::new(STORE)).unwrap();
    let error = check(Arc::new(empty), Path::new(STORE), &Options::default(), &|_| {}).unwrap_err();
    assert!(matches!(error, Error::Store { .. }), "{error}");

    let disk = Disk::real();
    let volume = disk.open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap();
    let error = check(disk.io(), &disk.path(), &Options::default(), &|_| {}).unwrap_err().to_string();
    assert!(error.contains("mounted"), "{error}");
    volume.close().unwrap();
    assert!(disk.report().is_clean());
}

#[test]
fn files_that_are_not_larders_and_broken_settings_are_found() {
    let sample = Sample::new(false);
    let put = |path: &str, text: &[u8]| {
        sample.disk.open(&Path::new(STORE).join(path), true).unwrap().write_all_at(text, 0).unwrap();
    };
    put("notes.txt", b"mine");
    put("journal/x", b"");
    put("segments/01/000000ff", b"");
    put("larder.toml", b"cache-size-limit = \"much\"\n");
    let report = sample.report();
    for text in ["/store/notes.txt", "/store/journal/x", "/store/segments/01/000000ff"] {
        assert!(says(&report, Warning, "files", text), "{text}:\n{}", listed(&report));
    }
    assert!(says(&report, Warning, "settings", "cache-size-limit"), "{}", listed(&report));
    assert_eq!((report.errors, report.warnings), (0, 4), "{}", listed(&report));
}

#[test]
fn the_command_prints_findings_and_tells_by_its_exit_status() {
    let disk = Disk::real();
    let volume = disk.open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap();
    let made = volume.run(|v| v.mknod(&NOBODY_SPECIAL, ROOT, b"key", libc::S_IFREG | 0o644, 0)).unwrap();
    volume.run(|v| v.write(made.attr.ino, 0, &Fill::Noise(1).bytes(50_000), false)).unwrap();
    volume.close().unwrap();
    let store = disk.path();
    let run = |arguments: &[&str]| {
        let output = larder(["check", store.to_str().unwrap()].iter().chain(arguments));
        (output.status.code(), String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
    };
    let (code, out, _) = run(&[]);
    assert!(
        code == Some(0) && out.contains("nothing is wrong") && out.contains("1 frames verified"),
        "{out}"
    );

    let segment = std::fs::read_dir(store.join("segments")).unwrap().flatten().find_map(|folder| {
        std::fs::read_dir(folder.path()).unwrap().flatten().next().map(|file| file.path())
    });
    let file = std::fs::OpenOptions::new().write(true).open(segment.unwrap()).unwrap();
    file.write_all_at(b"damage", 5_000).unwrap();
    let (code, out, _) = run(&[]);
    assert!(code == Some(1) && out.starts_with("error: inode 2 (/key): page 0"), "{out}");
    assert!(out.contains("1 errors, 0 warnings"), "{out}");
    let (code, out, _) = run(&["--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["findings"][0]["path"]), (Some(1), &"/key".into()));
    let (code, out, _) = run(&["--quick"]);
    assert!(code == Some(0) && out.contains("0 frames verified"), "{out}");

    let volume = disk.open(LEAST_CACHE, &Clock::manual(Time(START))).unwrap();
    let (code, _, err) = run(&[]);
    assert!(code == Some(2) && err.contains("unmount it first"), "{err}");
    volume.close().unwrap();
}

/// Reads everything in a volume; an error for what cannot be read.
fn everything(
    volume: &Volume,
    inos: &BTreeMap<&'static str, Ino>,
) -> BTreeMap<&'static str, Result<Vec<u8>, String>> {
    let mut found = BTreeMap::new();
    for (name, ino) in inos {
        let content =
            volume.run(|v| v.getattr(*ino)).and_then(|entry| match entry.attr.mode & libc::S_IFMT {
                libc::S_IFREG => read(volume, *ino, 0, entry.attr.size as u32),
                libc::S_IFLNK => volume.run(|v| v.readlink(*ino)),
                _ => Ok(Vec::new()),
            });
        found.insert(*name, content.map_err(|error| error.to_string()));
    }
    found
}

/// A bit is flipped in random places: the check finds it, or all content reads right; nothing panics, and whatever is
/// read without an error is right. `LARDER_TEST_CASES` makes it run longer, `LARDER_TEST_SEED` another way.
#[test]
fn a_flipped_bit_anywhere_is_found_or_harmless() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let count = number("LARDER_TEST_CASES").unwrap_or(300);
    let mut seed = number("LARDER_TEST_SEED").unwrap_or(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    println!("LARDER_TEST_SEED={}", number("LARDER_TEST_SEED").unwrap_or(1));
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) % below
    };
    let samples = [Sample::new(false), Sample::new(true)];
    let clock = Clock::manual(Time(START));
    let open = |sample: &Sample| Disk::Faulty(sample.disk.clone()).open(LEAST_CACHE, &clock);
    let expected = samples.each_ref().map(|sample| {
        let volume = open(&sample.again()).unwrap();
        everything(&volume, &sample.inos)
    });
    let files = samples.each_ref().map(|sample| {
        let files: Vec<(String, u64)> = contents(&sample.disk)
            .iter()
            .map(|(path, bytes)| {
                // What was never written is not worth a try.
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
                (path.strip_prefix(STORE).unwrap().display().to_string(), used)
            })
            .filter(|(_, used)| *used > 0)
            .collect();
        files
    });
    let mut wrong = String::new();
    let (mut found, mut harmless) = (0, 0);
    for n in 0..count {
        let which = (n % 2) as usize;
        let (sample, files) = (&samples[which], &files[which]);
        // Each file as often as any other: small ones are as important as large ones.
        let (path, used) = &files[random(files.len() as u64) as usize];
        let bit = random(used * 8);
        let damaged = sample.again();
        damaged.flip(path, bit);
        let checked = std::panic::catch_unwind(AssertUnwindSafe(|| damaged.checked()));
        let place = format!("store {which}, {path}, bit {bit}");
        match &checked {
            Err(_) => wrong += &format!("{place}: the check panics\n"),
            Ok(Err(_)) => found += 1,
            Ok(Ok(report)) if !report.findings.is_empty() => found += 1,
            Ok(Ok(_)) => harmless += 1,
        }
        let sound = matches!(&checked, Ok(Ok(report)) if report.findings.is_empty());
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let volume = open(&damaged)?;
            let read = everything(&volume, &sample.inos);
            let _ = volume.close();
            Ok::<_, Error>(read)
        }));
        match opened {
            Err(_) => wrong += &format!("{place}: the volume panics\n"),
            Ok(Err(error)) if sound => {
                wrong += &format!("{place}: nothing was found, and opening fails: {error}\n")
            }
            Ok(Err(_)) => {}
            Ok(Ok(read)) => {
                for (name, content) in &read {
                    // The end of a journal that cannot be read is as if it had not been flushed: what is found is that
                    // of an earlier moment, and the check says so.
                    let earlier = !sound && path.starts_with("journal/");
                    let right = *content == expected[which][name] || earlier;
                    if !right && (sound || content.is_ok()) {
                        wrong += &format!("{place}: {name} is not what it was (found: {})\n", !sound);
                    }
                }
            }
        }
    }
    println!("{count} bits: {found} found, {harmless} harmless");
    assert!(wrong.is_empty(), "{wrong}");
}
