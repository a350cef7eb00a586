//! Names: finding, listing, making and removing them.

use super::acl;
use super::draft::Draft;
use super::tree::{Attributes, Tree};
use super::types::*;
use super::xattr::attributes;
use super::{Volume, check_name};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::format::{Dentry, Ino, InodeRecord, Kind, Links, Name, ROOT, encode, keys};
use crate::shelf;

/// The cookies of `.` and `..`; those of entries are larger, as a hash is never 0.
const COOKIE_DOT: u64 = 1;
const COOKIE_DOTDOT: u64 = 2;

/// The most links an inode may have.
const LINK_MAX: u32 = 1 << 31;

impl Volume {
    /// Finds a name and takes a reference to what it names, which [`Volume::forget`] gives back.
    /// A key that has expired is `NotFound`.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Step<Entry> {
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let ino = match name {
            b"." => dir,
            b".." => tree.parent_of(dir)?,
            _ if tree.get(dir)?.is_removed_dir() => {
                drop(tree);
                // Who remembers that it is not there would remember the directory for it, and all above.
                self.tell(Event::Entry { dir, name: name.into() });
                return Err(Error::NotFound.into());
            }
            _ => tree.find(dir, name)?.ok_or(Error::NotFound)?.ino,
        };
        let rec = &tree.get(ino)?.rec;
        // By a file handle: one that has lost its names may be on its way out.
        if rec.nlink == 0 {
            return Err(Error::NotFound.into());
        }
        let expires = rec.expires;
        if self.has_expired(&mut tree, expires, now) {
            return Err(Error::NotFound.into());
        }
        let entry = self.entry_of(ino, tree.get(ino)?, now);
        tree.refs.take(ino);
        if entry.attr.is_file() {
            self.note_use(ino, now);
        }
        Ok(entry)
    }

    /// Gives back `count` references. An unlinked inode is reclaimed with its last one.
    pub fn forget(&self, ino: Ino, count: u64) {
        let mut tree = self.tree.lock();
        if !tree.refs.give(ino, count) {
            return;
        }
        // One that is not in memory may be unlinked all the same: the reclaimer looks.
        if tree.unlinked.remove(&ino) {
            tree.orphans.push(ino);
        }
        if tree.awaited.remove(&ino) && tree.awaited.is_empty() {
            self.forgotten.notify_all();
        }
    }

    /// Calls `visit` with the entries behind the cookie `after` (0: from the start) until it returns
    /// false; an entry for which it returned false is not consumed. `.` and `..` come first.
    /// With `attributes` each entry but these two carries its attributes, and each of those that were
    /// consumed a reference, which [`Volume::forget`] gives back.
    /// `visit` runs under the tree's lock: it must not ask the volume for anything.
    pub fn readdir(
        &self,
        dir: Ino,
        mut after: u64,
        attributes: bool,
        visit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Step<()> {
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let mut visited = false;
        if after < COOKIE_DOTDOT {
            let parent = match tree.directory(dir) {
                Ok(_) => tree.parent_of(dir)?,
                Err(Pause::Fail(Error::NotFound)) => return Ok(()),
                Err(pause) => return Err(pause),
            };
            for (cookie, name, ino) in [(COOKIE_DOT, &b"."[..], dir), (COOKIE_DOTDOT, b"..", parent)] {
                let entry = DirEntry { ino, name, kind: Kind::Directory, cookie, entry: None };
                if cookie > after && !visit(entry) {
                    return Ok(());
                }
            }
            after = COOKIE_DOTDOT;
            visited = true;
        }
        tree.get(dir)?;
        let mut consumed = Vec::new();
        let mut expired = None;
        let stop = self.visit_entries(&tree, dir, after, now, attributes, &mut expired, &mut |entry| {
            let ino = entry.ino;
            let more = visit(entry);
            if more {
                consumed.push(ino);
            }
            more
        });
        self.has_expired(&mut tree, expired, now);
        visited |= !consumed.is_empty();
        if attributes {
            consumed.into_iter().for_each(|ino| tree.refs.take(ino));
        }
        match stop {
            // What was visited cannot be taken back: the caller comes again for the rest.
            Err(Pause::Wait(_)) if visited => Ok(()),
            // More that have expired than are kept in memory: looking again would not get beyond them.
            Err(Pause::Wait(_)) if expired.is_some() => Err(Pause::Wait(Need::Sweep)),
            stop => stop,
        }
    }

    /// Calls `visit` with the entries behind a cookie that have not expired, until it returns false, and notes
    /// when the last of the others expired. `Wait` where something is missing in memory.
    #[expect(clippy::too_many_arguments, reason = "those of readdir")]
    fn visit_entries(
        &self,
        tree: &Tree,
        dir: Ino,
        mut after: u64,
        now: Time,
        attributes: bool,
        expired: &mut Option<Time>,
        visit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Step<()> {
        loop {
            let (found, end) = tree.list(dir, after)?;
            for (cookie, dentry) in found {
                let inode = tree.peek(dentry.ino);
                after = cookie;
                if let Some(at) = inode.and_then(|inode| inode.rec.expires).filter(|at| *at <= now) {
                    *expired = (*expired).max(Some(at));
                    continue;
                }
                let entry = match inode {
                    _ if !attributes => None,
                    Some(inode) => Some(self.entry_of(dentry.ino, inode, now)),
                    None => return Err(Pause::Wait(Need::Inode(dentry.ino))),
                };
                let Dentry { ino, name, kind, .. } = dentry;
                if !visit(DirEntry { ino: *ino, name, kind: *kind, cookie, entry }) {
                    return Ok(());
                }
            }
            if end {
                return Ok(());
            }
        }
    }

    /// Makes a file of any kind but directory and symlink (`mode` has the type bits) and takes a
    /// reference. The umask of `caller` is applied here, unless the directory has a default ACL.
    pub fn mknod(&self, caller: &Caller, dir: Ino, name: &[u8], mode: u32, rdev: u32) -> Step<Entry> {
        let mode = if mode & libc::S_IFMT == 0 { mode | libc::S_IFREG } else { mode };
        self.make(caller, dir, name, mode, rdev, None)
    }

    /// Makes a directory and takes a reference.
    pub fn mkdir(&self, caller: &Caller, dir: Ino, name: &[u8], mode: u32) -> Step<Entry> {
        self.make(caller, dir, name, mode & 0o7777 | libc::S_IFDIR, 0, None)
    }

    /// Makes a symbolic link, of at most 4095 bytes, and takes a reference.
    pub fn symlink(&self, caller: &Caller, dir: Ino, name: &[u8], target: &[u8]) -> Step<Entry> {
        if target.len() >= libc::PATH_MAX as usize {
            return Err(Error::NameTooLong.into());
        }
        let caller = Caller { umask: 0, ..*caller };
        self.make(&caller, dir, name, libc::S_IFLNK | 0o777, 0, Some(target.into()))
    }

    fn make(
        &self,
        caller: &Caller,
        dir: Ino,
        name: &[u8],
        mode: u32,
        rdev: u32,
        target: Option<Box<[u8]>>,
    ) -> Step<Entry> {
        self.ready_to_add()?;
        check_name(name)?;
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        if let Some(there) = tree.find(dir, name)? {
            return Err(self.taken(&mut tree, there.ino, now));
        }
        let kind = Kind::of_mode(mode);
        let mut draft = Draft::adding();
        let ttl = self.ttl_in(&mut tree, &draft, dir)?;
        let parent = tree.directory(dir)?;
        let attributes = attributes(dir, parent)?;
        let (mut rec, inherited) = self.newborn(caller, &parent.rec, attributes, mode, ttl, now)?;
        let expires = rec.expires;
        rec.rdev = rdev;
        rec.size = target.as_ref().map_or(0, |target| target.len() as u64);
        rec.target = target;
        rec.links = Links::One { parent: dir, name: name.into() };
        let mut parent = parent.rec.clone();
        parent.nlink += u32::from(kind == Kind::Directory);
        parent.size += 1;
        (parent.mtime, parent.ctime) = (now, now);
        let ino = Ino(tree.counters.last_ino + 1);
        if let Some(at) = expires {
            draft.batch.put(keys::expiry(at.secs(), ino), []);
        }
        draft.birth(ino, rec, inherited);
        draft.inode(dir, parent);
        draft.entry(dir, name, Some((ino, kind)));
        self.commit(&mut tree, draft)?;
        tree.refs.take(ino);
        if let Some(at) = expires {
            self.expiry_set(at);
        }
        Ok(self.entry_of(ino, tree.get(ino)?, now))
    }

    /// A new inode in a directory, and the attributes that it gets: what follows from who makes it, and
    /// what it inherits. `ttl`: the time to live of files there. It is not linked yet, and not marked to expire.
    pub(super) fn newborn(
        &self,
        caller: &Caller,
        parent: &InodeRecord,
        attributes: &Attributes,
        mode: u32,
        ttl: Option<u32>,
        now: Time,
    ) -> Result<(InodeRecord, Attributes)> {
        let kind = Kind::of_mode(mode);
        let ttl = ttl.filter(|_| kind != Kind::Directory);
        let inherited = if kind == Kind::Symlink { None } else { acl::inherit(attributes, mode)? };
        let mode = inherited.as_ref().map_or(mode & !caller.umask, |inherited| inherited.mode);
        let mut rec = InodeRecord {
            page_shift: parent.page_shift,
            codec: parent.codec,
            expires: ttl.map(|seconds| shelf::after(now, seconds)),
            period: ttl,
            ..InodeRecord::new(mode, caller.uid, caller.gid, now, Links::Many)
        };
        if parent.mode & libc::S_ISGID != 0 {
            rec.gid = parent.gid;
            if kind == Kind::Directory {
                rec.mode |= libc::S_ISGID;
            }
        }
        Ok((rec, inherited.map(|inherited| inherited.attributes.into_iter().collect()).unwrap_or_default()))
    }

    /// What it means that a name is there already: it is taken, or about to be swept away.
    fn taken(&self, tree: &mut Tree, ino: Ino, now: Time) -> Pause {
        match tree.get(ino) {
            Ok(inode) if inode.rec.expires.is_some_and(|at| at <= now) => Pause::Wait(Need::Expired(ino)),
            Ok(_) => Error::Exists.into(),
            Err(pause) => pause,
        }
    }

    /// A further name for an inode; takes a reference.
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Step<Entry> {
        self.ready_to_add()?;
        check_name(name)?;
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        if let Some(there) = tree.find(dir, name)? {
            return Err(self.taken(&mut tree, there.ino, now));
        }
        let inode = tree.get(ino)?;
        if inode.is_dir() {
            return Err(Error::NotPermitted.into());
        }
        let mut rec = inode.rec.clone();
        if rec.nlink == 0 || self.has_expired(&mut tree, rec.expires, now) {
            return Err(Error::NotFound.into());
        }
        if rec.nlink >= LINK_MAX {
            return Err(Error::TooManyLinks.into());
        }
        // Nothing is saved from a tree that was removed.
        if let Links::One { parent, .. } = rec.links {
            tree.directory(parent)?;
        }
        tree.directory(dir)?;
        if tree.payer_in(dir) != Some(tree.get(ino)?.payer) {
            return Err(Error::CrossesQuota.into());
        }
        let mut parent = tree.directory(dir)?.rec.clone();
        let mut draft = Draft::adding();
        if let Links::One { parent, name } = std::mem::replace(&mut rec.links, Links::Many) {
            draft.batch.put(keys::link(ino, parent, &name), []);
        }
        draft.batch.put(keys::link(ino, dir, name), []);
        rec.nlink += 1;
        rec.ctime = now;
        parent.size += 1;
        (parent.mtime, parent.ctime) = (now, now);
        let kind = rec.kind();
        draft.inode(ino, rec);
        draft.inode(dir, parent);
        draft.entry(dir, name, Some((ino, kind)));
        self.commit(&mut tree, draft)?;
        tree.refs.take(ino);
        let inode = tree.get(ino)?;
        Ok(self.entry_of(ino, inode, now))
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Step<()> {
        self.ready()?;
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let entry = tree.find(dir, name)?.ok_or(Error::NotFound)?;
        if entry.kind == Kind::Directory {
            return Err(Error::IsADirectory.into());
        }
        let mut draft = Draft::default();
        drop_name(&mut tree, &mut draft, dir, name, entry.ino, now)?;
        self.commit(&mut tree, draft)?;
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Step<()> {
        self.ready()?;
        match name {
            b"." => return Err(Error::Invalid("`.` cannot be removed".into()).into()),
            b".." => return Err(Error::NotEmpty.into()),
            _ => {}
        }
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let entry = tree.find(dir, name)?.ok_or(Error::NotFound)?;
        if entry.kind != Kind::Directory {
            return Err(Error::NotADirectory.into());
        }
        self.check_empty(&mut tree, entry.ino, now)?;
        let mut draft = Draft::default();
        drop_name(&mut tree, &mut draft, dir, name, entry.ino, now)?;
        self.commit(&mut tree, draft)?;
        Ok(())
    }

    /// Refuses a directory that has entries. Where those may have expired, they are swept first.
    fn check_empty(&self, tree: &mut Tree, dir: Ino, now: Time) -> Step<()> {
        if tree.directory(dir)?.rec.size == 0 {
            return Ok(());
        }
        let mut expired = None;
        let mut empty = true;
        let found = self.visit_entries(tree, dir, COOKIE_DOTDOT, now, true, &mut expired, &mut |_| {
            empty = false;
            false
        });
        match found {
            Ok(()) if !empty => Err(Error::NotEmpty.into()),
            Err(pause) if expired.is_none() => Err(pause),
            _ => Err(Pause::Wait(Need::Sweep)),
        }
    }

    /// Gives a key another name; on `Replace` what was there is replaced in the same step, and the
    /// content of the renamed file is on its way to the disk before its name is. Returns whose time of change moved, those of
    /// the directories aside.
    pub fn rename(
        &self,
        dir: Ino,
        name: &[u8],
        new_dir: Ino,
        new_name: &[u8],
        how: Rename,
    ) -> Step<[Option<Ino>; 2]> {
        match how {
            Rename::Whiteout { .. } => self.ready_to_add()?,
            _ => self.ready()?,
        }
        check_name(name)?;
        check_name(new_name)?;
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        tree.directory(dir)?;
        tree.directory(new_dir)?;
        let source = tree.find(dir, name)?.ok_or(Error::NotFound)?;
        let target = tree.find(new_dir, new_name)?;
        match (how, &target) {
            (Rename::NoReplace | Rename::Whiteout { replace: false, .. }, Some(there)) => {
                return Err(self.taken(&mut tree, there.ino, now));
            }
            (Rename::Exchange, None) => return Err(Error::NotFound.into()),
            _ => {}
        }
        let expires = tree.get(source.ino)?.rec.expires;
        if self.has_expired(&mut tree, expires, now) {
            return Err(Error::NotFound.into());
        }
        if source.kind == Kind::Directory {
            check_outside(&mut tree, source.ino, new_dir)?;
        }
        if let Some(target) = &target
            && target.ino == source.ino
        {
            return Ok([None, None]);
        }
        self.check_payer(&mut tree, source.ino, dir, new_dir)?;
        if let Some(target) = &target
            && how == Rename::Exchange
        {
            self.check_payer(&mut tree, target.ino, new_dir, dir)?;
        }
        let mut draft = match how {
            Rename::Whiteout { .. } => Draft::adding(),
            _ => Draft::default(),
        };
        if how == Rename::Exchange
            && let Some(target) = target
        {
            if target.kind == Kind::Directory {
                check_outside(&mut tree, target.ino, dir)?;
            }
            if dir != new_dir {
                let (mut from, mut to) =
                    (tree.directory(dir)?.rec.clone(), tree.directory(new_dir)?.rec.clone());
                for (kind, sign) in [(source.kind, 1), (target.kind, -1)] {
                    if kind == Kind::Directory {
                        from.nlink = from.nlink.wrapping_add_signed(-sign);
                        to.nlink = to.nlink.wrapping_add_signed(sign);
                    }
                }
                (from.mtime, from.ctime, to.mtime, to.ctime) = (now, now, now, now);
                draft.inode(dir, from);
                draft.inode(new_dir, to);
            } else {
                let mut both = tree.directory(dir)?.rec.clone();
                (both.mtime, both.ctime) = (now, now);
                draft.inode(dir, both);
            }
            move_link(&mut tree, &mut draft, source.ino, (dir, name), (new_dir, new_name), now)?;
            move_link(&mut tree, &mut draft, target.ino, (new_dir, new_name), (dir, name), now)?;
            // A file that takes a name takes its content.
            for (ino, kind) in [(source.ino, source.kind), (target.ino, target.kind)] {
                if kind == Kind::File
                    && let Some(size) = self.patch_file(&mut tree, &mut draft, ino)?
                {
                    draft.record_size(ino, size);
                }
            }
            draft.entry(dir, name, Some((target.ino, target.kind)));
            draft.entry(new_dir, new_name, Some((source.ino, source.kind)));
            self.commit(&mut tree, draft)?;
            return Ok([Some(source.ino), Some(target.ino)]);
        }
        if let Some(target) = &target {
            match (source.kind == Kind::Directory, target.kind == Kind::Directory) {
                (true, false) => return Err(Error::NotADirectory.into()),
                (false, true) => return Err(Error::IsADirectory.into()),
                (true, true) => self.check_empty(&mut tree, target.ino, now)?,
                (false, false) => {}
            }
            drop_name(&mut tree, &mut draft, new_dir, new_name, target.ino, now)?;
        }
        let moves = source.kind == Kind::Directory && dir != new_dir;
        let from = draft.edit(&mut tree, dir)?;
        from.size -= 1;
        from.nlink -= u32::from(moves);
        (from.mtime, from.ctime) = (now, now);
        let to = draft.edit(&mut tree, new_dir)?;
        to.size += 1;
        to.nlink += u32::from(moves);
        (to.mtime, to.ctime) = (now, now);
        move_link(&mut tree, &mut draft, source.ino, (dir, name), (new_dir, new_name), now)?;
        // The file that takes the name takes its content.
        if target.is_some()
            && source.kind == Kind::File
            && let Some(size) = self.patch_file(&mut tree, &mut draft, source.ino)?
        {
            draft.record_size(source.ino, size);
        }
        let left = match how {
            Rename::Whiteout { caller, .. } => {
                Some(self.draft_whiteout(&mut tree, &mut draft, &caller, dir, name, now)?)
            }
            _ => None,
        };
        draft.entry(dir, name, left);
        draft.entry(new_dir, new_name, Some((source.ino, source.kind)));
        self.commit(&mut tree, draft)?;
        Ok([Some(source.ino), None])
    }

    /// Puts a whiteout into a draft: its inode and the directory that it is in. It gets no time to live, since what it hides
    /// would come back.
    fn draft_whiteout(
        &self,
        tree: &mut Tree,
        draft: &mut Draft,
        caller: &Caller,
        dir: Ino,
        name: &[u8],
        now: Time,
    ) -> Step<(Ino, Kind)> {
        let inode = tree.directory(dir)?;
        let (mut rec, inherited) =
            self.newborn(caller, &inode.rec, attributes(dir, inode)?, libc::S_IFCHR, None, now)?;
        rec.links = Links::One { parent: dir, name: name.into() };
        let (ino, kind) = (Ino(tree.counters.last_ino + 1), rec.kind());
        draft.birth(ino, rec, inherited);
        draft.edit(tree, dir)?.size += 1;
        Ok((ino, kind))
    }
}

/// Puts the removal of a name into a draft: the directory, the inode and its links.
pub(super) fn drop_name(
    tree: &mut Tree,
    draft: &mut Draft,
    dir: Ino,
    name: &[u8],
    ino: Ino,
    now: Time,
) -> Step<()> {
    let kind = drafted(tree, draft, ino)?.kind();
    let parent = draft.edit(tree, dir)?;
    parent.size -= 1;
    (parent.mtime, parent.ctime) = (now, now);
    if kind == Kind::Directory {
        parent.nlink = parent.nlink.saturating_sub(1);
    }
    // What is in it counts until it is empty, and the directory that it is in may be gone before.
    let kept = (kind == Kind::Directory && !tree.quotas.is_empty()).then(|| {
        // One that this draft makes has none yet.
        let payer = tree.peek(ino).and_then(|inode| inode.payer);
        Links::One { parent: payer.unwrap_or(ROOT), name: name.into() }
    });
    let rec = draft.edit(tree, ino)?;
    if let Some(links) = kept {
        rec.links = links;
    }
    rec.ctime = now;
    rec.nlink = if kind == Kind::Directory { 0 } else { rec.nlink - 1 };
    let (many, last, expires) = (rec.links == Links::Many, rec.nlink == 0, rec.expires);
    if many {
        draft.batch.delete(keys::link(ino, dir, name));
    }
    if last {
        if let Some(at) = expires {
            draft.batch.delete(keys::expiry(at.secs(), ino));
        }
        draft.unlinked(ino);
    }
    draft.entry(dir, name, None);
    Ok(())
}

/// An inode as the draft has it so far.
pub(super) fn drafted<'a>(tree: &'a mut Tree, draft: &'a Draft, ino: Ino) -> Step<&'a InodeRecord> {
    match draft.record(ino) {
        Some(rec) => Ok(rec),
        None => Ok(&tree.get(ino)?.rec),
    }
}

/// Notes in a draft that an inode has moved from one name to another.
fn move_link(
    tree: &mut Tree,
    draft: &mut Draft,
    ino: Ino,
    from: (Ino, &[u8]),
    to: (Ino, &[u8]),
    now: Time,
) -> Step<()> {
    let rec = draft.edit(tree, ino)?;
    rec.ctime = now;
    match &mut rec.links {
        Links::One { parent, name } => (*parent, *name) = (to.0, to.1.into()),
        Links::Many => {
            draft.batch.delete(keys::link(ino, from.0, from.1));
            draft.batch.put(keys::link(ino, to.0, to.1), []);
        }
    }
    Ok(())
}

/// Refuses to move a directory into itself or below itself.
fn check_outside(tree: &mut Tree, moved: Ino, into: Ino) -> Step<()> {
    let mut at = into;
    while at != ROOT {
        if at == moved {
            return Err(Error::Invalid("a directory cannot be moved below itself".into()).into());
        }
        at = tree.parent_of(at)?;
    }
    Ok(())
}

/// The first inode of a new store.
pub(super) fn root_record(now: Time, uid: u32, gid: u32) -> Vec<u8> {
    let links = Links::One { parent: ROOT, name: Name::default() };
    encode(&InodeRecord::new(libc::S_IFDIR | 0o755, uid, gid, now, links))
}
