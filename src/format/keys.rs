//! Keys of the catalog: a tag, and what stands behind it so that they are in the order of the numbers.

use super::{Ino, Key, PageNo, SegmentId};

/// The tag of inodes.
pub const INODE: u8 = b'I';
/// The tag of directory entries.
pub const BUCKET: u8 = b'D';
/// The tag of links.
pub const LINK: u8 = b'L';
/// The tag of extended attributes.
pub const XATTR: u8 = b'X';
/// The tag of owner counts.
pub const OWNERS: u8 = b'R';
/// The tag of page records.
pub const PAGE: u8 = b'P';
/// The tag of patches.
pub const PATCH: u8 = b'W';
/// The tag of reclaim marks.
pub const ORPHAN: u8 = b'O';
/// The tag of expiry marks.
pub const EXPIRY: u8 = b'T';
/// The tag of releases.
pub const RELEASE: u8 = b'F';
/// The tag of use records.
pub const USE: u8 = b'U';
/// The tag of limits of directories.
pub const QUOTA: u8 = b'Q';
/// The tag of segment records.
pub const SEGMENT: u8 = b'S';

/// `InodeRecord`.
pub fn inode(ino: Ino) -> [u8; 9] {
    fixed(b'I', &[&ino.0.to_be_bytes()])
}

/// `Bucket`. The hash is the entry's cookie shifted right by the bits of its index.
pub fn bucket(dir: Ino, hash: u64) -> [u8; 17] {
    fixed(b'D', &[&dir.0.to_be_bytes(), &hash.to_be_bytes()])
}

/// The hash in a bucket's key.
pub fn bucket_hash(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(9..17)?.try_into().ok()?))
}

/// `PageRecord`.
pub fn page(ino: Ino, page: PageNo) -> [u8; 13] {
    fixed(PAGE, &[&ino.0.to_be_bytes(), &page.0.to_be_bytes()])
}

/// The inode and page in the key of a page record or a patch.
pub fn page_of(key: &[u8]) -> Option<(Ino, PageNo)> {
    let ino = u64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
    let page = u32::from_be_bytes(key.get(9..13)?.try_into().ok()?);
    Some((Ino(ino), PageNo(page)))
}

/// `Patch`, the `n`th of its page.
pub fn patch(ino: Ino, page: PageNo, n: u32) -> [u8; 17] {
    fixed(PATCH, &[&ino.0.to_be_bytes(), &page.0.to_be_bytes(), &n.to_be_bytes()])
}

/// The value of an extended attribute.
pub fn xattr(ino: Ino, name: &[u8]) -> Key {
    key(b'X', &[&ino.0.to_be_bytes(), name])
}

/// The name in the key of an extended attribute.
pub fn xattr_name(key: &[u8]) -> &[u8] {
    key.get(9..).unwrap_or_default()
}

/// A link of an inode that has or had several.
pub fn link(ino: Ino, dir: Ino, name: &[u8]) -> Key {
    key(b'L', &[&ino.0.to_be_bytes(), &dir.0.to_be_bytes(), name])
}

/// The directory and the name in the key of a link.
pub fn link_of(key: &[u8]) -> Option<(Ino, &[u8])> {
    Some((Ino(u64::from_be_bytes(key.get(9..17)?.try_into().ok()?)), key.get(17..)?))
}

/// An inode to be reclaimed.
pub fn orphan(ino: Ino) -> [u8; 9] {
    fixed(ORPHAN, &[&ino.0.to_be_bytes()])
}

/// When an inode expires. Seconds before the epoch count as 0.
pub fn expiry(secs: i64, ino: Ino) -> [u8; 17] {
    fixed(EXPIRY, &[&(secs.max(0) as u64).to_be_bytes(), &ino.0.to_be_bytes()])
}

/// The second and the inode in an expiry's key.
pub fn expiry_of(key: &[u8]) -> Option<(i64, Ino)> {
    let secs = u64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
    Some((secs as i64, Ino(u64::from_be_bytes(key.get(9..17)?.try_into().ok()?))))
}

/// The inode in the key of a reclaim mark, of a limit or of an inode.
pub fn ino_of(key: &[u8]) -> Option<Ino> {
    Some(Ino(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?)))
}

/// How many owners a shared frame has.
pub fn owners(segment: SegmentId, offset: u32) -> [u8; 9] {
    fixed(b'R', &[&segment.0.to_be_bytes(), &offset.to_be_bytes()])
}

/// A frame that may be shared and that this page has given up.
pub fn release(segment: SegmentId, offset: u32, ino: Ino, page: PageNo) -> [u8; 21] {
    let place = [segment.0.to_be_bytes(), offset.to_be_bytes()].concat();
    fixed(RELEASE, &[&place, &ino.0.to_be_bytes(), &page.0.to_be_bytes()])
}

/// The segment and offset in the key of a release.
pub fn release_of(key: &[u8]) -> Option<(SegmentId, u32)> {
    let segment = u32::from_be_bytes(key.get(1..5)?.try_into().ok()?);
    Some((SegmentId(segment), u32::from_be_bytes(key.get(5..9)?.try_into().ok()?)))
}

/// The inode and page in the key of a release.
pub fn release_page(key: &[u8]) -> Option<(Ino, PageNo)> {
    let ino = u64::from_be_bytes(key.get(9..17)?.try_into().ok()?);
    Some((Ino(ino), PageNo(u32::from_be_bytes(key.get(17..21)?.try_into().ok()?))))
}

/// `UseRecord`.
pub fn usage(ino: Ino) -> [u8; 9] {
    fixed(USE, &[&ino.0.to_be_bytes()])
}

/// The limit of a directory.
pub fn quota(dir: Ino) -> [u8; 9] {
    fixed(QUOTA, &[&dir.0.to_be_bytes()])
}

/// `SegmentRecord`.
pub fn segment(segment: SegmentId) -> [u8; 5] {
    fixed(SEGMENT, &[&segment.0.to_be_bytes()])
}

/// The segment in the key of a segment record.
pub fn segment_of(key: &[u8]) -> Option<SegmentId> {
    Some(SegmentId(u32::from_be_bytes(key.get(1..5)?.try_into().ok()?)))
}

/// `CounterRecord`.
pub fn counters() -> [u8; 1] {
    fixed(b'C', &[])
}

/// `Time`.
pub fn gone() -> [u8; 1] {
    fixed(b'G', &[])
}

/// The keys from one up to another (exclusive).
pub fn range(from: impl Into<Key>, to: impl Into<Key>) -> std::ops::Range<Key> {
    from.into()..to.into()
}

/// The range of all keys that begin as `prefix` does.
pub fn under(prefix: &[u8]) -> std::ops::Range<Key> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    prefix.to_vec()..end
}

/// The tag and inode that all keys of one kind and one inode begin with.
pub fn of_inode(tag: u8, ino: Ino) -> [u8; 9] {
    fixed(tag, &[&ino.0.to_be_bytes()])
}

/// A key of a tag and numbers, which stand behind one another.
fn fixed<const LEN: usize>(tag: u8, parts: &[&[u8]]) -> [u8; LEN] {
    let mut key = [tag; LEN];
    let mut at = 1;
    for part in parts {
        key[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    debug_assert_eq!(at, LEN, "a key of another length");
    key
}

/// A key of a tag, numbers and a name.
fn key(tag: u8, parts: &[&[u8]]) -> Key {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|p| p.len()).sum::<usize>());
    key.push(tag);
    parts.iter().for_each(|p| key.extend_from_slice(p));
    key
}
