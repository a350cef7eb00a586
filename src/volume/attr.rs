//! Attributes: what stat shows and setattr changes.

use std::time::Duration;

use super::Volume;
use super::acl::{self, Acl};
use super::draft::Draft;
use super::tree::Inode;
use super::types::*;
use crate::clock::Time;
use crate::error::Error;
use crate::format::{Ino, Kind, keys};
use crate::shelf;

/// Where keys are evicted: how long a name may be relied upon, so that the use of a file is seen at all. Each minute of
/// use costs a lookup.
const USE_SEEN: Duration = Duration::from_secs(60);

impl Volume {
    /// An inode's attributes as they are at `now`.
    pub(super) fn entry_of(&self, ino: Ino, inode: &Inode, now: Time) -> Entry {
        let rec = &inode.rec;
        let expires = rec.expires.map(|at| shelf::left(at, now));
        let valid = match self.evicts() && rec.kind() == Kind::File {
            true => Some(expires.map_or(USE_SEEN, |left| left.min(USE_SEEN))),
            false => expires,
        };
        let dirty = if inode.dirty { self.cache.dirty(ino).unwrap_or(0) as u64 } else { 0 };
        Entry {
            attr: Attr {
                ino,
                mode: rec.mode,
                nlink: rec.nlink,
                uid: rec.uid,
                gid: rec.gid,
                rdev: rec.rdev,
                size: rec.size,
                blocks: (rec.stored + dirty).div_ceil(512),
                blksize: if rec.kind() == Kind::File { 1 << rec.page_shift } else { 4096 },
                atime: rec.atime,
                mtime: rec.mtime,
                ctime: rec.ctime,
                btime: rec.btime,
            },
            valid,
            settling: inode.dirty,
        }
    }

    /// An inode's attributes. One that is open stays readable when it has expired.
    pub fn getattr(&self, ino: Ino) -> Step<Entry> {
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let inode = tree.get(ino)?;
        Ok(self.entry_of(ino, inode, now))
    }

    /// Changes attributes. That the caller may do so has been checked (`default_permissions`); what
    /// follows from the change happens here: suid and sgid bits fall with the owner or the size,
    /// the access list follows the mode, ctime follows all.
    pub fn setattr(&self, caller: &Caller, ino: Ino, change: &SetAttr) -> Step<Entry> {
        self.ready()?;
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let mut draft = Draft::default();
        let mut access = None;
        if let Some(mode) = change.mode {
            let inode = tree.get(ino)?;
            if inode.rec.xattrs > 0 {
                let Some(xattrs) = &inode.xattrs else { return Err(Pause::Wait(Need::Attributes(ino))) };
                if let Some(value) = xattrs.get(acl::ACCESS) {
                    let mut acl = Acl::parse(value)?;
                    acl.set_mode(mode);
                    access = Some(acl.to_bytes());
                }
            }
        }
        // Last of what may fail or wait: it changes the cache.
        if let Some(size) = change.size {
            self.resize(&mut tree, &mut draft, ino, size, now)?;
        }
        let rec = draft.edit(&mut tree, ino)?;
        if let Some(mode) = change.mode {
            rec.mode = rec.mode & libc::S_IFMT | mode & 0o7777;
        }
        // A request that sets nothing is what chown(2) with -1 for both comes to.
        let owner_changes = change.uid.is_some() || change.gid.is_some() || *change == SetAttr::default();
        let size_changes = change.size.is_some() && caller.uid != 0;
        if change.mode.is_none() && (owner_changes || size_changes) && rec.kind() == Kind::File {
            rec.mode = without_suid(rec.mode);
        }
        rec.uid = change.uid.unwrap_or(rec.uid);
        rec.gid = change.gid.unwrap_or(rec.gid);
        let time = |set: Option<SetTime>, old| match set {
            None => old,
            Some(SetTime::Now) => now,
            Some(SetTime::At(time)) => time,
        };
        rec.atime = time(change.atime, rec.atime);
        rec.mtime = time(change.mtime, rec.mtime);
        rec.ctime = change.ctime.unwrap_or(now);
        if let Some(value) = &access {
            draft.batch.put(keys::xattr(ino, acl::ACCESS), value.clone());
        }
        self.commit(&mut tree, draft)?;
        let inode = tree.get(ino)?;
        if let (Some(value), Some(xattrs)) = (access, &mut inode.xattrs) {
            xattrs.insert(acl::ACCESS.into(), value);
        }
        Ok(self.entry_of(ino, inode, now))
    }

    /// Where a symbolic link points.
    pub fn readlink(&self, ino: Ino) -> Step<Vec<u8>> {
        match &self.tree.lock().get(ino)?.rec.target {
            Some(target) => Ok(target.to_vec()),
            None => Err(Error::Invalid("not a symbolic link".into()).into()),
        }
    }
}

/// A mode without the bits that a write by somebody else takes away: suid, and sgid where the group
/// may execute (without, it once meant mandatory locking; chmod(2)).
pub(super) fn without_suid(mode: u32) -> u32 {
    let sgid = if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
    mode & !(libc::S_ISUID | sgid)
}

/// The error of an operation on a file that would become too large.
pub(super) fn check_size(size: u64, page_shift: u8) -> Result<(), Error> {
    let limit = (u64::from(u32::MAX) << page_shift).min(i64::MAX as u64);
    if size > limit { Err(Error::TooLarge) } else { Ok(()) }
}
