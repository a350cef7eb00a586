//! Damage to the catalog, made behind Larder's back.

use larder::catalog::Batch;
use larder::check::Severity::{self, Error as Bad, Warning};
use larder::format::{
    CounterRecord, Dentry, Extent, Ino, Kind, Links, PageNo, PageRecord, Patch, ROOT, SegmentId,
    SegmentRecord, decode, encode, keys, name_hash,
};

use crate::repair;
use crate::sample::{Edit, Sample, listed, says};

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
        failed += &repair::after(name, &sample, &damaged);
        // There are no such commands: a remedy is what can be done.
        let unknown = ["scrub", "rebuild"];
        if let Some(bad) = report.findings.iter().find(|f| unknown.iter().any(|word| f.remedy.contains(word)))
        {
            failed += &format!("{name}: a remedy that there is not: {bad}\n");
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

#[test]
fn names_that_dangle_or_lie_wrong_are_found() {
    check_cases(&[
        ("an entry without an inode", Bad, "names", "which is not there", |edit, batch| {
            edit.bucket(batch, "dir", "ghost", |bucket| {
                bucket.push(Dentry { name: b"ghost"[..].into(), ino: Ino(999), kind: Kind::File, slot: 0 });
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
                bucket.push(Dentry { name: b"dir"[..].into(), ino: dir, kind: Kind::Directory, slot: 0 });
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
                    bucket.push(Dentry {
                        name: b"sub2"[..].into(),
                        ino: sub,
                        kind: Kind::Directory,
                        slot: 0,
                    });
                });
            },
        ),
        ("a name for the root", Bad, "links", "name the root", |edit, batch| {
            edit.bucket(batch, "dir", "top", |bucket| {
                bucket.push(Dentry { name: b"top"[..].into(), ino: ROOT, kind: Kind::Directory, slot: 0 });
            });
        }),
        ("a name in the wrong bucket", Bad, "names", "its hash is another", |edit, batch| {
            edit.bucket(batch, "dir", "text", |bucket| bucket[0].name = b"texd"[..].into());
        }),
        ("a slot taken twice", Bad, "names", "slot 0, which is taken", |edit, batch| {
            edit.bucket(batch, "dir", "text", |bucket| {
                bucket.push(Dentry { name: b"x"[..].into(), ..bucket[0].clone() })
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
                bucket.push(Dentry { name: b"a/b"[..].into(), ino: Ino(3), kind: Kind::File, slot: 0 });
            });
        }),
        ("an empty bucket", Bad, "names", "is empty", |edit, batch| {
            edit.bucket(batch, "dir", "text", |bucket| bucket.clear());
        }),
        ("entries of a file", Bad, "names", "it has directory entries and is a File", |edit, batch| {
            edit.bucket(batch, "text", "x", |bucket| {
                bucket.push(Dentry { name: b"x"[..].into(), ino: Ino(3), kind: Kind::File, slot: 0 });
            });
        }),
        ("an unreadable bucket", Bad, "names", "cannot be read", |edit, batch| {
            batch.put(keys::bucket(edit.ino("dir"), name_hash(b"text")), vec![9, 9]);
        }),
        ("a record with another name", Bad, "links", "another name than its directory", |edit, batch| {
            edit.inode(batch, "text", |rec| {
                rec.links = Links::One { parent: ROOT, name: b"text"[..].into() }
            });
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
        ("a key of no tag", Bad, "catalog", "none of this format", |_, batch| batch.put(b"Zebra", vec![1])),
        ("a key that is too long", Bad, "catalog", "none of this format", |_, batch| {
            batch.put(b"I123456789", vec![1]);
        }),
        ("keys of each kind that are too short", Bad, "catalog", "none of this format", |edit, batch| {
            for tag in *b"DFILOPRSTWX" {
                let key = match tag {
                    b'W' => keys::patch(Ino(4), PageNo(0), 0).to_vec(),
                    b'F' => keys::release(SegmentId(1), 16, Ino(4), PageNo(0)).to_vec(),
                    b'O' => keys::orphan(Ino(4)).to_vec(),
                    _ => edit.first(tag).0,
                };
                batch.put(&key[..key.len().min(9) - 1], vec![1]);
            }
        }),
        ("an attribute's name with NUL", Bad, "attributes", "contains NUL", |edit, batch| {
            batch.put(keys::xattr(edit.ino("text"), b"user.\0"), vec![1]);
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
        ("a size limit of a file", Warning, "marks", "is no directory that is there", |edit, batch| {
            batch.put(keys::quota(edit.ino("text")), encode(&5u64));
        }),
        ("a size limit of nothing", Warning, "marks", "is no directory that is there", |_, batch| {
            batch.put(keys::quota(Ino(999)), encode(&5u64));
        }),
        ("a size limit that cannot be read", Warning, "marks", "its size limit", |edit, batch| {
            batch.put(keys::quota(edit.ino("dir")), vec![0xff]);
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
        (
            "an unreadable count of owners",
            Bad,
            "owners",
            "the count of its owners cannot be read",
            |edit, batch| {
                batch.put(edit.first(keys::OWNERS).0, vec![]);
            },
        ),
        ("an unreadable segment record", Warning, "segments", "its record cannot be read", |edit, batch| {
            batch.put(edit.first(keys::SEGMENT).0, vec![]);
        }),
        ("an unreadable time of the last expiry", Bad, "counters", "cannot be read", |_, batch| {
            batch.put(keys::gone(), vec![]);
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
