//! Every record of the catalog, and the names that all rooms share. This is the only place that
//! knows how they become bytes; `docs/format.md` describes it and golden tests hold it.
//!
//! A key is a tag byte followed by big-endian numbers, so that the catalog's order is the order in
//! which things are scanned: a directory's entries by hash, a file's pages by number, expiries by
//! time.
//!
//! ```text
//! 'I' ino                       → InodeRecord
//! 'D' ino(dir) hash             → Bucket: the entries whose names have this hash
//! 'P' ino page                  → PageRecord: where the page's frame lies
//! 'W' ino page n                → Patch: written bytes of a page that is not yet in a frame
//! 'X' ino name                  → value of an extended attribute
//! 'L' ino dir name              → (), a link to an inode that has or had more than one
//! 'O' ino                       → (), unlinked or expired: to be reclaimed
//! 'T' seconds ino               → (), when the inode expires
//! 'R' segment offset            → u32, owners of a frame that has more than one
//! 'F' segment offset ino page   → u32, bytes of a possibly shared frame that one owner gave up
//! 'S' segment                   → SegmentRecord: live bytes
//! 'U' ino                       → UseRecord: when it was used last, and how often; there once eviction is on
//! 'Q' ino(dir)                  → u64, the most bytes on disk that the files below may take
//! 'C'                           → CounterRecord
//! 'G'                           → Time: what expires up to then has been reported gone, and not all of it is removed
//! ```

pub mod files;
pub mod keys;
mod name;
mod short;

use std::cmp::Ordering;
use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use smallvec::SmallVec;

use crate::clock::Time;
use crate::error::{Error, Result};
use crate::io::Io;

pub use name::{NAME_MAX, Name, is_name, name_hash};
pub use short::Short;

/// The version of the on-disk format: the only one that this build writes and reads. Version 1 was never released.
pub const FORMAT_VERSION: u32 = 2;

/// An inode number. Never reused while the store lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ino(pub u64);

/// The root directory.
pub const ROOT: Ino = Ino(1);

impl std::fmt::Display for Ino {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "inode {}", self.0)
    }
}

/// The number of a page within its file: offset ÷ page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PageNo(pub u32);

/// The number of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentId(pub u32);

/// The number of a journal record. Rises by one with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(pub u64);

impl Seq {
    /// The sequence number that frames begin with that are sealed once this batch is there: those that earlier batches
    /// name have lower ones, as a batch names fewer than 65,536.
    pub fn first_frame(self) -> u64 {
        self.0 << 16
    }

    /// The batch that was the newest when a frame with this sequence number was sealed.
    pub fn at_frame(sequence: u64) -> Seq {
        Seq(sequence >> 16)
    }
}

/// A place in a segment: `len` bytes from `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// The segment.
    pub segment: SegmentId,
    /// Bytes from its start.
    pub offset: u32,
    /// Bytes on disk, header included.
    pub len: u32,
}

/// A codec with its level, as in `lz4`, `zstd:9`, `gzip:6`, `deflate`, `none`, `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Codec {
    /// LZ4, the fastest (block format).
    #[default]
    Lz4,
    /// Raw DEFLATE, level 1 to 9.
    Deflate(u8),
    /// DEFLATE in a gzip wrapper, level 1 to 9.
    Gzip(u8),
    /// Zstandard, level 1 to 19.
    Zstd(u8),
    /// Stored as it is.
    None,
    /// Chosen page by page: LZ4 where it pays, nothing where it does not.
    Auto,
}

impl std::str::FromStr for Codec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Codec> {
        let bad = |why: &str| Error::Invalid(format!("codec {text:?}: {why}"));
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => {
                (name, Some(level.parse::<u8>().map_err(|_| bad("the level is not a number"))?))
            }
            None => (text, None),
        };
        let leveled = |default: u8, max: u8| match level.unwrap_or(default) {
            level if (1..=max).contains(&level) => Ok(level),
            _ => Err(bad(&format!("the level must be 1 to {max}"))),
        };
        let plain = |codec| if level.is_some() { Err(bad("it has no levels")) } else { Ok(codec) };
        match name {
            "lz4" => plain(Codec::Lz4),
            "deflate" => Ok(Codec::Deflate(leveled(6, 9)?)),
            "gzip" => Ok(Codec::Gzip(leveled(6, 9)?)),
            "zstd" => Ok(Codec::Zstd(leveled(3, 19)?)),
            "none" => plain(Codec::None),
            "auto" => plain(Codec::Auto),
            _ => Err(bad("use lz4, deflate, gzip, zstd (with a level, as zstd:9), none or auto")),
        }
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Codec::Lz4 => f.write_str("lz4"),
            Codec::Deflate(level) => write!(f, "deflate:{level}"),
            Codec::Gzip(level) => write!(f, "gzip:{level}"),
            Codec::Zstd(level) => write!(f, "zstd:{level}"),
            Codec::None => f.write_str("none"),
            Codec::Auto => f.write_str("auto"),
        }
    }
}

/// What kind of file an inode is. The values are those of `d_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Fifo,
    CharDevice,
    Directory,
    BlockDevice,
    File,
    Symlink,
    Socket,
}

impl Kind {
    /// From the file type bits of a mode; bits of none are a regular file.
    pub fn of_mode(mode: u32) -> Kind {
        match mode & libc::S_IFMT {
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFCHR => Kind::CharDevice,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFBLK => Kind::BlockDevice,
            libc::S_IFLNK => Kind::Symlink,
            libc::S_IFSOCK => Kind::Socket,
            _ => Kind::File,
        }
    }
}

/// Where an inode is linked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Links {
    /// By one name.
    One {
        /// The directory.
        parent: Ino,
        /// The name in it.
        #[serde(with = "bytes")]
        name: Name,
    },
    /// There is or was more than one: the `L` records tell.
    Many,
}

/// An inode: what `stat` shows and what Larder keeps beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InodeRecord {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a special file.
    pub rdev: u32,
    /// Number of links; 0 once unlinked.
    pub nlink: u32,
    /// Bytes of content; of a directory, the number of entries.
    pub size: u64,
    /// Last read.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Birth.
    pub btime: Time,
    /// How many pages have a frame.
    pub pages: u32,
    /// Bytes on disk of these frames.
    pub stored: u64,
    /// log2 of the page size, 12 to 20.
    pub page_shift: u8,
    /// Whether frames may be shared with other inodes (copy_file_range).
    pub shared: bool,
    /// How many extended attributes there are.
    pub xattrs: u32,
    /// The codec set on this inode.
    pub codec: Option<Codec>,
    /// When it expires.
    pub expires: Option<Time>,
    /// The period that a touch renews, seconds.
    pub period: Option<u32>,
    /// Where it is linked.
    pub links: Links,
    /// Where a symbolic link points.
    pub target: Option<Box<[u8]>>,
}

/// log2 of the page size where none is set: 128 KiB compress nearly as well as larger pages, and a random read
/// decompresses no more than it must.
pub const PAGE_SHIFT: u8 = 17;

/// What log2 of a page size may be: 4 KiB to 1 MiB.
pub const PAGE_SHIFTS: std::ops::RangeInclusive<u8> = 12..=20;

impl InodeRecord {
    /// An inode that was made just now: without content or attributes, with as many links as its kind begins with.
    pub fn new(mode: u32, uid: u32, gid: u32, now: Time, links: Links) -> InodeRecord {
        InodeRecord {
            mode,
            uid,
            gid,
            rdev: 0,
            nlink: if Kind::of_mode(mode) == Kind::Directory { 2 } else { 1 },
            size: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            pages: 0,
            stored: 0,
            page_shift: PAGE_SHIFT,
            shared: false,
            xattrs: 0,
            codec: None,
            expires: None,
            period: None,
            links,
            target: None,
        }
    }

    /// Kind of file.
    pub fn kind(&self) -> Kind {
        Kind::of_mode(self.mode)
    }

    /// Page size, bytes.
    pub fn page_size(&self) -> u64 {
        1 << self.page_shift
    }
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dentry {
    /// The name, 1 to 255 bytes, any but `/` and NUL.
    #[serde(with = "bytes")]
    pub name: Name,
    /// What it names.
    pub ino: Ino,
    /// What kind of file that is.
    pub kind: Kind,
    /// Tells entries with the same hash apart; part of the cookie that readdir goes on from.
    pub slot: u8,
}

/// The entries of a directory whose names share a hash: nearly always one.
pub type Bucket = Vec<Dentry>;

/// Bits of a cookie that hold the slot of an entry among those with the same hash.
pub const SLOT_BITS: u32 = 7;

/// The line in a store's FORMAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatLine {
    /// The version of the format.
    pub version: u32,
    /// The store's id; what a newer version has in its place is not ours to judge.
    pub id: Option<u64>,
}

impl FormatLine {
    /// That of a store of this build's version.
    pub fn of(id: u64) -> FormatLine {
        FormatLine { version: FORMAT_VERSION, id: Some(id) }
    }

    /// Writes it to a store's FORMAT, durably: there is the old one or the new one.
    pub fn write(&self, io: &dyn Io, dir: &Path) -> Result<()> {
        let (new, format) = (dir.join("FORMAT.new"), dir.join("FORMAT"));
        let write = || {
            let file = io.open(&new, true)?;
            file.set_len(0)?;
            file.write_all_at(format!("{self}\n").as_bytes(), 0)?;
            file.sync()?;
            io.rename(&new, &format)?;
            io.sync_dir(dir)
        };
        write().map_err(Error::io(format!("{}: cannot write FORMAT", dir.display())))
    }

    /// Whether this build reads the store; the error says why not and what to do.
    pub fn check(&self) -> Result<(), String> {
        match self.version.cmp(&FORMAT_VERSION) {
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(format!(
                "the store has format {}, this larder knows format {FORMAT_VERSION}: use a newer larder",
                self.version
            )),
            Ordering::Less => Err(format!(
                "the store has format {}, from before the first release; this larder reads format {FORMAT_VERSION} \
                 only: copy the content out with the larder that made it, and into a new store",
                self.version
            )),
        }
    }

    /// Reads `larder VERSION ID`; `None` when it is something else.
    pub fn parse(text: &str) -> Option<FormatLine> {
        let mut words = text.split_whitespace();
        let (name, version) = (words.next()?, words.next()?.parse().ok()?);
        let id = words.next().filter(|id| id.len() == 16).and_then(|id| u64::from_str_radix(id, 16).ok());
        (name == "larder" && (version > FORMAT_VERSION || id.is_some())).then_some(FormatLine { version, id })
    }
}

impl std::fmt::Display for FormatLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "larder {} {:016x}", self.version, self.id.unwrap_or_default())
    }
}

/// Where a page's frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRecord {
    /// The place of the frame.
    pub extent: Extent,
    /// The frame's checksum: a frame that has another is not this page's.
    pub checksum: u64,
}

impl PageRecord {
    /// That of a page whose content is lost: reading it is an error until it is written anew. Segment 0 is none.
    pub const LOST: PageRecord =
        PageRecord { extent: Extent { segment: SegmentId(0), offset: 0, len: 0 }, checksum: 0 };
}

/// Bytes written to a page since its frame, made durable ahead of the next frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Patch {
    /// These bytes at this offset within the page.
    Data {
        /// Bytes from the start of the page.
        offset: u32,
        /// What is written there.
        #[serde(with = "bytes")]
        bytes: Vec<u8>,
    },
    /// Zeros from this offset to the end of the page.
    ZeroFrom(u32),
}

/// A segment's use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// Bytes of frames that something refers to.
    pub live: u64,
}

/// How a key has been used. Coarse: written now and then, by the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseRecord {
    /// When last.
    pub at: Time,
    /// How often, as of then; older uses count less.
    pub hits: u32,
}

/// What the store holds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRecord {
    /// Inodes, the root included.
    pub inodes: u64,
    /// Bytes of content of regular files as it was last journalled.
    pub content: u64,
    /// Bytes of live frames.
    pub stored: u64,
    /// The next inode number to give away is above this.
    pub last_ino: u64,
}

/// A key of the catalog, built by one of the functions of [`keys`].
pub type Key = Vec<u8>;

const CONFIG: bincode::config::Configuration = bincode::config::standard();

/// Bytes in which nearly all records fit.
const ROOM: usize = 192;

/// A record as bytes.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(record, &mut bytes);
    bytes.shrink_to_fit();
    bytes
}

/// Appends a record's bytes.
pub fn encode_into<T: Serialize>(record: &T, to: &mut Vec<u8>) {
    let start = to.len();
    // Into room that is there already: for nearly all records that is enough, and takes half the time.
    to.resize(start + ROOM, 0);
    let room = to.get_mut(start..).unwrap_or_default();
    match bincode::serde::encode_into_slice(record, room, CONFIG) {
        Ok(len) => to.truncate(start + len),
        Err(_) => {
            to.truncate(start);
            // Fails only for types that the records do not use (sequences of unknown length).
            let _ = bincode::serde::encode_into_std_write(record, to, CONFIG);
        }
    }
}

/// What a [`Patch::Data`] from the start of the page begins with; so many bytes of content follow.
pub fn whole_patch_head(len: usize) -> SmallVec<[u8; 16]> {
    let mut head = SmallVec::from([0; 16]);
    // Its variant, its offset, and the length: 11 bytes at most.
    let used =
        bincode::serde::encode_into_slice((0u32, 0u32, len as u64), &mut head, CONFIG).unwrap_or_default();
    head.truncate(used);
    head
}

/// A record from all of `bytes`; `what` names it in the error. Takes no more memory than the bytes that are there ask for,
/// whatever lengths they say: what is long is borrowed before it is copied.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    decode_borrowed(bytes, what)
}

/// [`decode`] of a record that borrows from the bytes.
pub fn decode_borrowed<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T> {
    match bincode::serde::borrow_decode_from_slice(bytes, CONFIG) {
        Ok((record, used)) if used == bytes.len() => Ok(record),
        Ok((_, used)) => Err(Error::Damaged(format!("{what}: {} bytes too many", bytes.len() - used))),
        Err(error) => Err(Error::Damaged(format!("{what}: {error}"))),
    }
}

/// Serialises bytes as bytes, not as a sequence of numbers.
mod bytes {
    use std::marker::PhantomData;

    use serde::{Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>, T: for<'a> From<&'a [u8]>>(from: D) -> Result<T, D::Error> {
        struct Visit<T>(PhantomData<T>);
        impl<T: for<'a> From<&'a [u8]>> de::Visitor<'_> for Visit<T> {
            type Value = T;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<T, E> {
                Ok(bytes.into())
            }
        }
        // Not as a buffer of its own: that would be made as long as the record says, before a byte of it is read.
        from.deserialize_bytes(Visit(PhantomData))
    }
}

#[cfg(test)]
mod tests;
