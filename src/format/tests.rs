//! Golden bytes: a change of these is a change of the format.

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The record has these bytes, and these bytes are the record.
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(record: &T, bytes: &str) {
    let encoded = encode(record);
    assert_eq!(hex(&encoded), bytes, "{record:?}");
    assert_eq!(&decode::<T>(&encoded, "record").unwrap(), record);
    assert!(decode::<T>(&[&encoded[..], &[0]].concat(), "record").is_err(), "a byte too many");
    for cut in 0..encoded.len() {
        assert!(decode::<T>(&encoded[..cut], "record").is_err(), "cut at {cut}");
    }
}

fn inode() -> InodeRecord {
    InodeRecord {
        mode: libc::S_IFREG | 0o640,
        uid: 1000,
        gid: 100,
        rdev: 0,
        nlink: 1,
        size: 300_000,
        atime: Time(1),
        mtime: Time(-2),
        ctime: Time(1_700_000_000_000_000_000),
        btime: Time(0),
        pages: 3,
        stored: 150_000,
        page_shift: 17,
        shared: true,
        xattrs: 2,
        codec: Some(Codec::Zstd(9)),
        expires: Some(Time(5)),
        period: Some(3600),
        links: Links::One { parent: ROOT, name: Name::from(&b"a.log"[..]) },
        target: None,
    }
}

#[test]
fn records_have_the_bytes_that_the_format_says() {
    golden(&inode(), GOLDEN_INODE);
    golden(&InodeRecord { links: Links::Many, target: Some(Box::from(*b"to")), ..inode() }, GOLDEN_LINK);
    let entry = Dentry { name: Name::from(&b"x"[..]), ino: Ino(7), kind: Kind::Directory, slot: 1 };
    golden(&vec![entry], "010178070201");
    let extent = Extent { segment: SegmentId(1), offset: 300, len: 70_000 };
    golden(&PageRecord { extent, checksum: u64::MAX }, "01fb2c01fc70110100fdffffffffffffffff");
    golden(&Patch::Data { offset: 4096, bytes: b"new".to_vec() }, "00fb0010036e6577");
    golden(&Patch::ZeroFrom(5), "0105");
    for len in [0, 250, 251, 70_000] {
        let bytes = vec![7; len];
        let whole = [&whole_patch_head(len), &bytes[..]].concat();
        assert_eq!(whole, encode(&Patch::Data { offset: 0, bytes }));
    }
    golden(&SegmentRecord { live: 1 << 20 }, "fc00001000");
    let counters = CounterRecord { inodes: 2, content: 3, stored: 4, last_ino: 5 };
    golden(&counters, "02030405");
    golden(&Time(3), "06");
    golden(&(10u64 << 30), "fd0000008002000000");
    golden(&UseRecord { at: Time(3), hits: 300 }, "06fb2c01");
}

const GOLDEN_INODE: &str = "fba081fbe803640001fce09304000203fd0000546cfc392f2f0003fcf0490200110102010309010a01fb100e000105612e6c6f6700";
const GOLDEN_LINK: &str =
    "fba081fbe803640001fce09304000203fd0000546cfc392f2f0003fcf0490200110102010309010a01fb100e010102746f";

#[test]
fn keys_sort_as_they_are_scanned() {
    let page = |ino, no| keys::page(Ino(ino), PageNo(no));
    assert!(page(1, 255) < page(1, 256) && page(1, u32::MAX) < page(2, 0));
    assert_eq!(hex(&page(1, 2)), "50000000000000000100000002");
    assert_eq!(keys::page_of(&page(9, 8)), Some((Ino(9), PageNo(8))));
    assert_eq!(hex(&keys::bucket(ROOT, 258)), "4400000000000000010000000000000102");
    assert_eq!(keys::bucket_hash(&keys::bucket(ROOT, 258)), Some(258));
    assert_eq!(hex(&keys::patch(Ino(1), PageNo(2), 3)), "5700000000000000010000000200000003");
    assert_eq!(keys::expiry_of(&keys::expiry(7, Ino(8))), Some((7, Ino(8))));
    assert_eq!(keys::expiry(-5, Ino(8)), keys::expiry(0, Ino(8)));
    assert_eq!(hex(&keys::quota(Ino(9))), "510000000000000009");
    assert_eq!(keys::link_of(&keys::link(Ino(1), Ino(2), b"name")), Some((Ino(2), &b"name"[..])));
    let release = keys::release(SegmentId(1), 2, Ino(3), PageNo(4));
    assert_eq!(keys::release_of(&release), Some((SegmentId(1), 2)));
    let under = keys::under(&keys::of_inode(keys::PAGE, Ino(255)));
    assert!(
        under.contains(&page(255, 0).to_vec())
            && under.contains(&page(255, u32::MAX).to_vec())
            && !under.contains(&page(256, 0).to_vec())
    );
}

#[test]
fn codecs_are_read_as_they_are_written() {
    for text in ["lz4", "deflate:1", "gzip:6", "zstd:19", "none", "auto"] {
        assert_eq!(text.parse::<Codec>().unwrap().to_string(), text);
    }
    assert_eq!("zstd".parse::<Codec>().unwrap(), Codec::Zstd(3));
    for text in ["", "lz5", "lz4:1", "zstd:0", "zstd:20", "gzip:10", "gzip:x", "zstd:", "LZ4"] {
        let why = text.parse::<Codec>().unwrap_err().to_string();
        assert!(why.contains(&format!("{text:?}")), "{why}");
    }
}

#[test]
fn a_record_that_says_it_is_longer_than_it_is_takes_no_memory_for_that() {
    // 2^64 - 1 bytes of data: the buffer for them must not be asked for.
    let bytes = [&[0, 4, 253][..], &u64::MAX.to_le_bytes(), b"some"].concat();
    assert!(matches!(decode::<Patch>(&bytes, "patch"), Err(Error::Damaged(_))));
    assert!(decode::<Bucket>(&bytes[2..], "bucket").is_err());
    assert!(decode::<Links>(&[&[0, 1][..], &bytes[2..]].concat(), "links").is_err());
}
