//! Extended attributes: those that programs keep, access lists, and Larder's own under `user.larder.`.

use super::Volume;
use super::acl::{self, Acl};
use super::draft::Draft;
use super::load::EXTENTS;
use super::marks::Mark;
use super::tree::{Attributes, Inode, Tree};
use super::types::*;
use crate::clock::Time;
use crate::config::parse_size;
use crate::error::{Error, Result};
use crate::format::{
    Extent, Ino, InodeRecord, Kind, Links, NAME_MAX, PAGE_SHIFT, PAGE_SHIFTS, PageNo, ROOT, keys,
};
use crate::shelf;

/// Larder's own attributes begin so.
const OWN: &[u8] = b"user.larder.";

/// The longest value, bytes (the kernel's XATTR_SIZE_MAX).
const VALUE_MAX: usize = 65_536;

/// The longest list of names, bytes (the kernel's XATTR_LIST_MAX): a longer one could not be read.
const LIST_MAX: usize = 65_536;

/// What Larder's own listed attributes take of that list.
const OWN_LIST: usize =
    b"user.larder.expires\0user.larder.codec\0user.larder.page-size\0user.larder.size-limit\0".len();

/// The most bytes of names and values that an inode may have: they are in memory whole while one is asked for.
const TOTAL_MAX: usize = 1 << 20;

/// Larder's own attributes that are not kept as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Expires,
    Ttl,
    Codec,
    PageSize,
    Touch,
    Stored,
    Ratio,
    Pages,
    Extents,
    Cached,
    Hits,
    SizeLimit,
}

impl Own {
    /// The own attribute of this name; `None` for all others, [`Mark`]s included. An own name that does not exist is an error.
    fn of(name: &[u8]) -> Result<Option<Own>> {
        let Some(rest) = name.strip_prefix(OWN) else { return Ok(None) };
        if Mark::of(name).is_some() {
            return Ok(None);
        }
        let all = [
            Own::Expires,
            Own::Ttl,
            Own::Codec,
            Own::PageSize,
            Own::Touch,
            Own::Stored,
            Own::Ratio,
            Own::Pages,
            Own::Extents,
            Own::Cached,
            Own::Hits,
            Own::SizeLimit,
        ];
        all.into_iter().find(|own| own.name().as_bytes() == rest).map(Some).ok_or(Error::NoAttribute)
    }

    /// What it is called behind `user.larder.`.
    fn name(self) -> &'static str {
        match self {
            Own::Expires => "expires",
            Own::Ttl => "ttl",
            Own::Codec => "codec",
            Own::PageSize => "page-size",
            Own::Touch => "touch",
            Own::Stored => "stored",
            Own::Ratio => "ratio",
            Own::Pages => "pages",
            Own::Extents => "extents",
            Own::Cached => "cached",
            Own::Hits => "hits",
            Own::SizeLimit => "size-limit",
        }
    }

    /// Whether it is set.
    fn is_set(self, inode: &Inode) -> bool {
        self.value(inode, inode.rec.expires, inode.rec.ctime, || 0).is_some()
    }

    /// Its value; `None` when it is not set. `end`: when the key expires. `cached` tells how many pages are in memory.
    fn value(
        self,
        inode: &Inode,
        end: Option<Time>,
        now: Time,
        cached: impl FnOnce() -> usize,
    ) -> Option<String> {
        let rec = &inode.rec;
        match self {
            Own::Expires => end.map(shelf::format_expires),
            Own::Ttl => end.map(|at| shelf::left(at, now).as_nanos().div_ceil(1_000_000_000).to_string()),
            Own::Codec => rec.codec.map(|codec| codec.to_string()),
            Own::PageSize if has_pages(rec) => Some(rec.page_size().to_string()),
            Own::Stored if rec.kind() == Kind::File => Some(rec.stored.to_string()),
            // Content for each byte on disk; what takes no room compresses without end.
            Own::Ratio if rec.kind() == Kind::File => Some(match rec.stored {
                0 => "1.00".into(),
                stored => format!("{:.2}", rec.size as f64 / stored as f64),
            }),
            Own::Pages if rec.kind() == Kind::File => Some(rec.pages.to_string()),
            Own::Touch => Some(shelf::format_expires(rec.atime)),
            Own::Cached if rec.kind() == Kind::File => Some(cached().to_string()),
            // Of a file, [`Volume::hits`] and [`Volume::places`] tell; of a directory, the tree has its limit.
            Own::PageSize | Own::SizeLimit => None,
            _ => None,
        }
    }
}

impl Volume {
    /// The value of an attribute.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Step<Vec<u8>> {
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let own = Own::of(name)?;
        let end = match own {
            Some(Own::Hits) => return Ok(self.hits(&mut tree, ino, now)?.to_string().into_bytes()),
            Some(Own::Extents) => return Ok(self.places(&mut tree, ino)?.into_bytes()),
            Some(Own::Expires | Own::Ttl) => self.end_of(&mut tree, ino)?,
            _ => None,
        };
        let limit = tree.quotas.limit(ino);
        let inode = tree.get(ino)?;
        if own == Some(Own::SizeLimit) {
            return Ok(limit.ok_or(Error::NoAttribute)?.to_string().into_bytes());
        }
        if let Some(own) = own {
            let value = own.value(inode, end, now, || self.cache.pages_of(ino));
            return Ok(value.ok_or(Error::NoAttribute)?.into_bytes());
        }
        match attributes(ino, inode)?.get(name) {
            Some(value) => Ok(value.clone()),
            None => Err(absent(name).into()),
        }
    }

    /// The names, each with a NUL behind it. Of Larder's own those that are set, so that copying
    /// programs carry them along.
    pub fn listxattr(&self, ino: Ino) -> Step<Vec<u8>> {
        let mut tree = self.tree.lock();
        let limited = tree.quotas.limit(ino).is_some();
        let inode = tree.get(ino)?;
        let mut list = Vec::new();
        for name in attributes(ino, inode)?.keys() {
            list.extend_from_slice(name);
            list.push(0);
        }
        if inode.rec.expires.is_some() {
            list.extend_from_slice(b"user.larder.expires\0");
        }
        if inode.rec.codec.is_some() {
            list.extend_from_slice(b"user.larder.codec\0");
        }
        if has_pages(&inode.rec) && inode.rec.page_shift != PAGE_SHIFT {
            list.extend_from_slice(b"user.larder.page-size\0");
        }
        if limited {
            list.extend_from_slice(b"user.larder.size-limit\0");
        }
        Ok(list)
    }

    /// Sets an attribute. `flags` as setxattr(2): `XATTR_CREATE`, `XATTR_REPLACE`.
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Step<()> {
        self.ready_to_add()?;
        if name.len() > NAME_MAX {
            return Err(Error::Range.into());
        }
        if value.len() > VALUE_MAX {
            return Err(Error::ValueTooLarge.into());
        }
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        check_kind(&tree.get(ino)?.rec, name)?;
        // There is nothing to be set by another of our names; copying programs pass over this.
        if let Some(own) = Own::of(name).map_err(|_| Error::NotSupported)? {
            let limited = own == Own::SizeLimit && tree.quotas.limit(ino).is_some();
            check_flags(flags, limited || own.is_set(tree.get(ino)?))?;
            return self.set_own(&mut tree, ino, own, value, now);
        }
        match name {
            // Without a look at the flags, as Linux does.
            acl::ACCESS | acl::DEFAULT => return self.set_acl(&mut tree, caller, ino, name, value, now),
            _ => check_namespace(name)?,
        }
        let inode = tree.get(ino)?;
        let value = match Mark::of(name) {
            Some(mark) => mark.check(value, inode.rec.kind())?,
            None => value.to_vec(),
        };
        let there = attributes(ino, inode)?;
        let old = there.get(name);
        check_flags(flags, old.is_some())?;
        let list: usize = there.keys().map(|name| name.len() + 1).sum::<usize>() + OWN_LIST;
        let total = list + there.values().map(Vec::len).sum::<usize>() + value.len();
        let (more, less) = old.map_or((name.len() + 1, 0), |old| (0, old.len()));
        if list + more > LIST_MAX || total + more - less > TOTAL_MAX {
            return Err(Error::NoSpace.into());
        }
        let rec = InodeRecord { ctime: now, ..inode.rec.clone() };
        self.put_attribute(&mut tree, ino, rec, name, Some(value))
    }

    /// Whether a key has come to its end once this attribute is set.
    pub fn ends_at_once(&self, name: &[u8], value: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(value) else { return false };
        match Own::of(name) {
            Ok(Some(Own::Ttl)) => shelf::parse_ttl(text).is_ok_and(|seconds| seconds == Some(0)),
            Ok(Some(Own::Expires)) => {
                let now = self.clock.now();
                shelf::parse_expires(text).is_ok_and(|end| end.is_some_and(|end| end <= now))
            }
            _ => false,
        }
    }

    /// Removes an attribute.
    pub fn removexattr(&self, _caller: &Caller, ino: Ino, name: &[u8]) -> Step<()> {
        self.ready()?;
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let inode = tree.get(ino)?;
        check_kind(&inode.rec, name)?;
        if let Some(own) = Own::of(name)? {
            let mut rec = InodeRecord { ctime: now, ..inode.rec.clone() };
            match own {
                // They only tell something.
                Own::Touch
                | Own::Stored
                | Own::Ratio
                | Own::Pages
                | Own::Extents
                | Own::Cached
                | Own::Hits => return Err(Error::NotPermitted.into()),
                Own::SizeLimit => return self.set_size_limit(&mut tree, ino, None, now),
                _ if !own.is_set(inode) => return Err(Error::NoAttribute.into()),
                Own::Codec => rec.codec = None,
                Own::PageSize => self.set_page_size(&mut rec, ino, PAGE_SHIFT)?,
                Own::Expires | Own::Ttl => {
                    self.check_there(&mut tree, ino, now)?;
                    return self.set_expiry(&mut tree, ino, rec, None, None);
                }
            }
            return self.put_record(&mut tree, ino, rec);
        }
        if !attributes(ino, inode)?.contains_key(name) {
            return match name {
                // Wanted is that there is none, on all of Linux.
                acl::ACCESS | acl::DEFAULT => Ok(()),
                _ => Err(absent(name).into()),
            };
        }
        let rec = InodeRecord { ctime: now, ..inode.rec.clone() };
        self.put_attribute(&mut tree, ino, rec, name, None)
    }

    /// When a key expires: at its own end or, where that comes first, with a directory that it is in. Of a file with several
    /// names its own, as it outlives what has only one of them.
    fn end_of(&self, tree: &mut Tree, ino: Ino) -> Step<Option<Time>> {
        let (mut end, mut at) = (None::<Time>, ino);
        loop {
            let rec = &tree.get(at)?.rec;
            end = rec.expires.into_iter().chain(end).min();
            match rec.links {
                Links::One { parent, .. } if at != ROOT && rec.nlink > 0 => at = parent,
                _ => return Ok(end),
            }
        }
    }

    /// Where a file's pages lie, a line for each row of neighbours: first page, how many, segment, offset in it, bytes.
    fn places(&self, tree: &mut Tree, ino: Ino) -> Step<String> {
        let rec = &tree.get(ino)?.rec;
        if rec.kind() != Kind::File {
            return Err(Error::NoAttribute.into());
        }
        let pages = rec.size.div_ceil(rec.page_size()).min(EXTENTS as u64);
        let mut rows: Vec<(PageNo, u32, Extent)> = Vec::new();
        for (no, record) in self.extents(tree, ino, PageNo(0), PageNo(pages as u32))? {
            let new = record.extent;
            match rows.last_mut() {
                Some((first, count, row))
                    if first.0 + *count == no.0
                        && row.segment == new.segment
                        && row.offset + row.len == new.offset =>
                {
                    (*count, row.len) = (*count + 1, row.len + new.len);
                }
                _ => rows.push((no, 1, new)),
            }
        }
        let mut text = String::new();
        for (first, count, row) in rows {
            let Extent { segment, offset, len } = row;
            let line = format!("{} {count} {:08x} {offset} {len}\n", first.0, segment.0);
            if text.len() + line.len() > VALUE_MAX {
                break;
            }
            text += &line;
        }
        Ok(text)
    }

    fn put_record(&self, tree: &mut Tree, ino: Ino, rec: InodeRecord) -> Step<()> {
        let mut draft = Draft::default();
        draft.inode(ino, rec);
        self.commit(tree, draft)?;
        Ok(())
    }

    /// Sets or removes an attribute that is kept as it is; those of the inode are in memory.
    fn put_attribute(
        &self,
        tree: &mut Tree,
        ino: Ino,
        mut rec: InodeRecord,
        name: &[u8],
        value: Option<Vec<u8>>,
    ) -> Step<()> {
        let exists = attributes(ino, tree.get(ino)?)?.contains_key(name);
        match (exists, value.is_some()) {
            (false, true) => rec.xattrs += 1,
            (true, false) => rec.xattrs -= 1,
            _ => {}
        }
        let mut draft = if value.is_some() { Draft::adding() } else { Draft::default() };
        match &value {
            Some(value) => draft.batch.put(keys::xattr(ino, name), value),
            None => draft.batch.delete(keys::xattr(ino, name)),
        }
        draft.inode(ino, rec);
        self.commit(tree, draft)?;
        let there = tree.get(ino)?.xattrs.get_or_insert_default();
        match value {
            Some(value) => drop(there.insert(name.into(), value)),
            None => drop(there.remove(name)),
        }
        tree.reweigh(ino);
        Ok(())
    }

    fn set_own(&self, tree: &mut Tree, ino: Ino, own: Own, value: &[u8], now: Time) -> Step<()> {
        let text = std::str::from_utf8(value)
            .map_err(|_| Error::Invalid(format!("user.larder.{}: the value must be text", own.name())))?
            .trim();
        if matches!(own, Own::Touch | Own::Expires | Own::Ttl) {
            self.check_there(tree, ino, now)?;
        }
        let inode = tree.get(ino)?;
        let mut rec = InodeRecord { ctime: now, ..inode.rec.clone() };
        let (expires, period) = match own {
            Own::SizeLimit => {
                let limit = parse_size(text).ok().filter(|limit| *limit > 0).ok_or_else(|| {
                    Error::Invalid(format!("size-limit {text:?}: use a size above 0, as 10GiB"))
                })?;
                return self.set_size_limit(tree, ino, Some(limit), now);
            }
            Own::Touch => {
                let what = shelf::parse_touch(text)?;
                rec.atime = now;
                match rec.period.filter(|_| what.expiration) {
                    Some(period) => (Some(shelf::after(now, period)), Some(period)),
                    None => return self.put_record(tree, ino, rec),
                }
            }
            Own::Codec => {
                rec.codec = Some(text.parse()?);
                return self.put_record(tree, ino, rec);
            }
            Own::PageSize => {
                let shift = parse_size(text)
                    .ok()
                    .filter(|size| size.is_power_of_two())
                    .map(|size| size.ilog2() as u8);
                let shift = shift.filter(|shift| PAGE_SHIFTS.contains(shift)).ok_or_else(|| {
                    Error::Invalid(format!("page-size {text:?}: use a power of two from 4KiB to 1MiB"))
                })?;
                self.set_page_size(&mut rec, ino, shift)?;
                return self.put_record(tree, ino, rec);
            }
            Own::Expires => (shelf::parse_expires(text)?, rec.period),
            Own::Ttl => {
                let period = shelf::parse_ttl(text)?;
                (period.map(|seconds| shelf::after(now, seconds)), period)
            }
            Own::Stored | Own::Ratio | Own::Pages | Own::Extents | Own::Cached | Own::Hits => {
                return Err(Error::NotPermitted.into());
            }
        };
        if ino == ROOT && expires.is_some() {
            return Err(Error::NotPermitted.into());
        }
        self.set_expiry(tree, ino, rec, expires, period)
    }

    /// Whether a key's life can be prolonged. Not that of one that is gone: others have been told so, and who touches
    /// it through a handle must learn it.
    fn check_there(&self, tree: &mut Tree, ino: Ino, now: Time) -> Step<()> {
        let rec = &tree.get(ino)?.rec;
        let (expires, nlink) = (rec.expires, rec.nlink);
        if nlink == 0 || self.has_expired(tree, expires, now) { Err(Error::NotFound.into()) } else { Ok(()) }
    }

    /// Sets the page size of a file that has no content, or of what will be created in a directory.
    fn set_page_size(&self, rec: &mut InodeRecord, ino: Ino, shift: u8) -> Result<()> {
        let empty = rec.size == 0 && rec.pages == 0 && self.cache.dirty(ino).is_none();
        if !has_pages(rec) || rec.kind() == Kind::File && !empty && rec.page_shift != shift {
            return Err(Error::NotPermitted);
        }
        rec.page_shift = shift;
        Ok(())
    }

    /// Sets or removes the limit of what the files below a directory take on the disk.
    fn set_size_limit(&self, tree: &mut Tree, ino: Ino, limit: Option<u64>, now: Time) -> Step<()> {
        let rec = InodeRecord { ctime: now, ..tree.get(ino)?.rec.clone() };
        let mut draft = Draft::default();
        match limit {
            // One that is removed keeps nothing, and would be limited for nobody.
            Some(_) if rec.kind() != Kind::Directory || rec.nlink == 0 => {
                return Err(Error::NotPermitted.into());
            }
            Some(_) if !tree.quotas.is_counted(ino) => return Err(Pause::Wait(Need::Quota(ino))),
            Some(limit) => draft.batch.put_record(keys::quota(ino), &limit),
            None if tree.quotas.limit(ino).is_none() => return Err(Error::NoAttribute.into()),
            None => draft.batch.delete(keys::quota(ino)),
        }
        draft.inode(ino, rec);
        let done = self.commit(tree, draft);
        match limit {
            Some(limit) if done.is_ok() => tree.quotas.set_limit(ino, limit),
            // Also where it was only counted for a limit that could not be set.
            _ if done.is_ok() || tree.quotas.limit(ino).is_none() => tree.end_quota(ino),
            _ => {}
        }
        done?;
        Ok(())
    }

    /// Sets or removes an inode's expiry and the mark by which it is found when the time has come.
    fn set_expiry(
        &self,
        tree: &mut Tree,
        ino: Ino,
        mut rec: InodeRecord,
        expires: Option<Time>,
        period: Option<u32>,
    ) -> Step<()> {
        let mut draft = Draft::default();
        if let Some(old) = rec.expires {
            draft.batch.delete(keys::expiry(old.secs(), ino));
        }
        if let Some(new) = expires {
            draft.batch.put(keys::expiry(new.secs(), ino), []);
        }
        rec.expires = expires;
        rec.period = if expires.is_some() { period } else { None };
        draft.inode(ino, rec);
        self.commit(tree, draft)?;
        if let Some(at) = expires {
            self.expiry_set(at);
        }
        Ok(())
    }

    /// Sets an access list. One that the mode can express becomes the mode.
    fn set_acl(
        &self,
        tree: &mut Tree,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        now: Time,
    ) -> Step<()> {
        let acl = Acl::parse(value)?;
        let inode = tree.get(ino)?;
        let exists = attributes(ino, inode)?.contains_key(name);
        let mut rec = InodeRecord { ctime: now, ..inode.rec.clone() };
        if name == acl::DEFAULT {
            if rec.kind() != Kind::Directory {
                return Err(Error::Denied.into());
            }
            return self.put_attribute(tree, ino, rec, name, Some(acl.to_bytes()));
        }
        rec.mode = rec.mode & !0o777 | acl.mode();
        // As chmod by somebody outside of the file's group: sgid falls (posix_acl_update_mode).
        if caller.uid != 0 && caller.gid != rec.gid && !super::in_group(caller.pid, rec.gid) {
            rec.mode &= !libc::S_ISGID;
        }
        match (acl.is_mode(), exists) {
            (true, false) => self.put_record(tree, ino, rec),
            (true, true) => self.put_attribute(tree, ino, rec, name, None),
            (false, _) => self.put_attribute(tree, ino, rec, name, Some(acl.to_bytes())),
        }
    }
}

/// The attributes of an inode that are kept as they are.
pub(super) fn attributes(ino: Ino, inode: &Inode) -> Step<&Attributes> {
    static NONE: Attributes = Attributes::new();
    match &inode.xattrs {
        Some(there) => Ok(there),
        None if inode.rec.xattrs == 0 => Ok(&NONE),
        None => Err(Pause::Wait(Need::Attributes(ino))),
    }
}

/// Whether it is of a kind that has a page size: for itself, or to hand it down.
fn has_pages(rec: &InodeRecord) -> bool {
    matches!(rec.kind(), Kind::File | Kind::Directory)
}

/// As xattr(7): `user.` is for files and directories. The kernel looks after that for what comes through a mount.
fn check_kind(rec: &InodeRecord, name: &[u8]) -> Result<()> {
    if has_pages(rec) || !name.starts_with(b"user.") { Ok(()) } else { Err(Error::NotPermitted) }
}

/// As setxattr(2): `XATTR_CREATE` wants that there is none, `XATTR_REPLACE` that there is one.
fn check_flags(flags: i32, exists: bool) -> Result<()> {
    match exists {
        true if flags & libc::XATTR_CREATE != 0 => Err(Error::Exists),
        false if flags & libc::XATTR_REPLACE != 0 => Err(Error::NoAttribute),
        _ => Ok(()),
    }
}

/// Why there is no attribute of this name.
fn absent(name: &[u8]) -> Error {
    check_namespace(name).err().unwrap_or(Error::NoAttribute)
}

/// Refuses names outside of the namespaces that Linux knows, and those that are a namespace alone.
fn check_namespace(name: &[u8]) -> Result<()> {
    if [acl::ACCESS, acl::DEFAULT].contains(&name) {
        return Ok(());
    }
    let known = [&b"user."[..], b"trusted.", b"security."];
    match known.iter().find(|prefix| name.starts_with(prefix)) {
        Some(prefix) if name.len() > prefix.len() => Ok(()),
        Some(_) => Err(Error::Invalid("an attribute needs a name behind its namespace".into())),
        None => Err(Error::NotSupported),
    }
}
