//! A filesystem in memory that is written to be obviously right, not fast: what a volume does is
//! compared with it.
//!
//! Every call answers with what POSIX asks for, or with the errnos that it allows where two rules
//! fail at once. A time is `None` where no rule is plain; it is not compared then.

use std::collections::BTreeMap;

pub type Id = u64;
pub const ROOT: Id = 1;

/// The errnos that are right for a failure.
pub type Fail = &'static [i32];

pub const ENOENT: Fail = &[libc::ENOENT];
pub const EEXIST: Fail = &[libc::EEXIST];
pub const ENOTDIR: Fail = &[libc::ENOTDIR];
pub const EISDIR: Fail = &[libc::EISDIR];
pub const ENOTEMPTY: Fail = &[libc::ENOTEMPTY];
pub const EINVAL: Fail = &[libc::EINVAL];
pub const ENAMETOOLONG: Fail = &[libc::ENAMETOOLONG];
pub const ENODATA: Fail = &[libc::ENODATA];
pub const EOPNOTSUPP: Fail = &[libc::EOPNOTSUPP];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    File(Vec<u8>),
    Dir {
        entries: BTreeMap<Vec<u8>, Id>,
        parent: Id,
    },
    Symlink(Vec<u8>),
    /// Fifo, socket, device.
    Special {
        rdev: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Type and permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub body: Body,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Nanoseconds since the epoch.
    pub mtime: Option<i64>,
    pub ctime: Option<i64>,
    pub btime: i64,
    /// Whether room may have been taken on the disk for it.
    pub took_room: bool,
}

impl Node {
    pub fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir { .. })
    }

    pub fn content(&self) -> Option<&Vec<u8>> {
        match &self.body {
            Body::File(content) => Some(content),
            _ => None,
        }
    }

    fn content_changed(&mut self, now: i64) {
        self.mtime = Some(now);
        self.ctime = Some(now);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Replace,
    NoReplace,
    Exchange,
}

/// What a call answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    Data(Vec<u8>),
    Count(u64),
}

/// A call with everything resolved. `id` is the number that the new inode gets.
#[derive(Clone, Debug)]
pub enum Call {
    Mknod { dir: Id, name: Vec<u8>, mode: u32, id: Id },
    Mkdir { dir: Id, name: Vec<u8>, mode: u32, id: Id },
    Symlink { dir: Id, name: Vec<u8>, target: Vec<u8>, id: Id },
    Link { of: Id, dir: Id, name: Vec<u8> },
    Unlink { dir: Id, name: Vec<u8> },
    Rmdir { dir: Id, name: Vec<u8> },
    Rename { dir: Id, name: Vec<u8>, new_dir: Id, new_name: Vec<u8>, how: How },
    Chmod { of: Id, mode: u32 },
    Chown { of: Id, uid: u32, gid: u32 },
    Mtime { of: Id, nanos: i64 },
    Truncate { of: Id, size: u64 },
    Write { of: Id, offset: u64, data: Vec<u8> },
    Read { of: Id, offset: u64, len: u32 },
    Fallocate { of: Id, offset: u64, len: u64, mode: i32 },
    Copy { from: Id, offset_from: u64, to: Id, offset_to: u64, len: u64 },
    SetXattr { of: Id, name: Vec<u8>, value: Vec<u8>, flags: i32 },
    RemoveXattr { of: Id, name: Vec<u8> },
    Lookup { dir: Id, name: Vec<u8> },
}

#[derive(Clone, Debug)]
pub struct Fs {
    nodes: BTreeMap<Id, Node>,
    /// The next inode's number.
    pub next: Id,
}

impl Fs {
    pub fn new() -> Fs {
        let root = Node {
            mode: libc::S_IFDIR | 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            body: Body::Dir { entries: BTreeMap::new(), parent: ROOT },
            xattrs: BTreeMap::new(),
            mtime: None,
            ctime: None,
            btime: 0,
            took_room: false,
        };
        Fs { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1 }
    }

    /// All inodes, those that are unlinked and held included.
    pub fn nodes(&self) -> &BTreeMap<Id, Node> {
        &self.nodes
    }

    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[&id]
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub fn entries(&self, dir: Id) -> &BTreeMap<Vec<u8>, Id> {
        match &self.node(dir).body {
            Body::Dir { entries, .. } => entries,
            other => panic!("{dir} is no directory but {other:?}"),
        }
    }

    fn entries_mut(&mut self, dir: Id) -> &mut BTreeMap<Vec<u8>, Id> {
        match &mut self.node_mut(dir).body {
            Body::Dir { entries, .. } => entries,
            other => panic!("{dir} is no directory but {other:?}"),
        }
    }

    pub fn parent(&self, dir: Id) -> Id {
        match &self.node(dir).body {
            Body::Dir { parent, .. } => *parent,
            other => panic!("{dir} is no directory but {other:?}"),
        }
    }

    /// Unlinked inodes.
    pub fn orphans(&self) -> Vec<Id> {
        self.nodes.iter().filter(|(_, node)| node.nlink == 0).map(|(id, _)| *id).collect()
    }

    /// Forgets an unlinked inode.
    pub fn reclaim(&mut self, id: Id) {
        assert_eq!(self.nodes.remove(&id).unwrap().nlink, 0);
    }

    /// What a name names.
    fn find(&self, dir: Id, name: &[u8]) -> Result<Id, Fail> {
        self.searchable(dir, name)?;
        self.entries(dir).get(name).copied().ok_or(ENOENT)
    }

    fn searchable(&self, dir: Id, name: &[u8]) -> Result<(), Fail> {
        if !self.node(dir).is_dir() {
            return Err(if name.len() > 255 { &[libc::ENOTDIR, libc::ENAMETOOLONG] } else { ENOTDIR });
        }
        if name.len() > 255 {
            let removed = self.node(dir).nlink == 0;
            return Err(if removed { &[libc::ENAMETOOLONG, libc::ENOENT] } else { ENAMETOOLONG });
        }
        Ok(())
    }

    fn free_name(&self, dir: Id, name: &[u8]) -> Result<(), Fail> {
        self.searchable(dir, name)?;
        if self.node(dir).nlink == 0 {
            return Err(ENOENT);
        }
        if self.entries(dir).contains_key(name) { Err(EEXIST) } else { Ok(()) }
    }

    /// Whether `dir` is `top` or lies below it.
    fn is_below(&self, mut dir: Id, top: Id) -> bool {
        loop {
            if dir == top {
                return true;
            }
            if dir == ROOT || self.node(dir).nlink == 0 {
                return false;
            }
            dir = self.parent(dir);
        }
    }

    fn add(&mut self, dir: Id, name: &[u8], id: Id, mode: u32, body: Body, now: i64) -> Result<Reply, Fail> {
        self.free_name(dir, name)?;
        // Numbers are left out where a call was refused.
        assert!(id >= self.next);
        self.next = id + 1;
        let nlink = if matches!(body, Body::Dir { .. }) { 2 } else { 1 };
        let node = Node {
            mode,
            uid: 0,
            gid: 0,
            nlink,
            body,
            xattrs: BTreeMap::new(),
            mtime: Some(now),
            ctime: Some(now),
            btime: now,
            took_room: false,
        };
        if node.is_dir() {
            self.node_mut(dir).nlink += 1;
        }
        self.nodes.insert(id, node);
        self.entries_mut(dir).insert(name.to_vec(), id);
        self.node_mut(dir).content_changed(now);
        Ok(Reply::Done)
    }

    /// Takes one name from an inode that has just lost it.
    fn lost_a_name(&mut self, id: Id, now: i64) {
        let node = self.node_mut(id);
        node.nlink = if node.is_dir() { 0 } else { node.nlink - 1 };
        node.ctime = Some(now);
    }

    pub fn apply(&mut self, call: &Call, now: i64) -> Result<Reply, Fail> {
        match call {
            Call::Mknod { dir, name, mode, id } => {
                let body = if mode & libc::S_IFMT == libc::S_IFREG {
                    Body::File(Vec::new())
                } else {
                    Body::Special { rdev: 0 }
                };
                self.add(*dir, name, *id, *mode, body, now)
            }
            Call::Mkdir { dir, name, mode, id } => {
                let body = Body::Dir { entries: BTreeMap::new(), parent: *dir };
                self.add(*dir, name, *id, libc::S_IFDIR | mode, body, now)
            }
            Call::Symlink { dir, name, target, id } => {
                self.add(*dir, name, *id, libc::S_IFLNK | 0o777, Body::Symlink(target.clone()), now)
            }
            Call::Link { of, dir, name } => self.link(*of, *dir, name, now),
            Call::Unlink { dir, name } => self.unlink(*dir, name, now),
            Call::Rmdir { dir, name } => self.rmdir(*dir, name, now),
            Call::Rename { dir, name, new_dir, new_name, how } => {
                self.rename(*dir, name, *new_dir, new_name, *how, now)
            }
            Call::Chmod { of, mode } => {
                let node = self.node_mut(*of);
                node.mode = node.mode & libc::S_IFMT | mode;
                node.ctime = Some(now);
                Ok(Reply::Done)
            }
            Call::Chown { of, uid, gid } => {
                let node = self.node_mut(*of);
                (node.uid, node.gid, node.ctime) = (*uid, *gid, Some(now));
                Ok(Reply::Done)
            }
            Call::Mtime { of, nanos } => {
                let node = self.node_mut(*of);
                (node.mtime, node.ctime) = (Some(*nanos), Some(now));
                Ok(Reply::Done)
            }
            Call::Truncate { of, size } => {
                let size = *size as usize;
                let node = self.node_mut(*of);
                let Body::File(content) = &mut node.body else {
                    return Err(if node.is_dir() { EISDIR } else { EINVAL });
                };
                if content.len() == size {
                    // ftruncate(2) marks the times, truncate(2) does not.
                    (node.mtime, node.ctime) = (None, None);
                } else {
                    content.resize(size, 0);
                    node.content_changed(now);
                }
                Ok(Reply::Done)
            }
            Call::Write { of, offset, data } => {
                if data.is_empty() {
                    // The kernel does not pass it on.
                    (self.node_mut(*of).mtime, self.node_mut(*of).ctime) = (None, None);
                } else {
                    self.overwrite(*of, *offset, data, now);
                }
                Ok(Reply::Done)
            }
            Call::Read { of, offset, len } => {
                let content = self.node(*of).content().unwrap();
                let from = (*offset as usize).min(content.len());
                let to = (from + *len as usize).min(content.len());
                Ok(Reply::Data(content[from..to].to_vec()))
            }
            Call::Fallocate { of, offset, len, mode } => {
                self.fallocate(*of, *offset as usize, *len as usize, *mode)
            }
            Call::Copy { from, offset_from, to, offset_to, len } => {
                let content = self.node(*from).content().unwrap();
                let start = (*offset_from as usize).min(content.len());
                let end = (start + *len as usize).min(content.len());
                let data = content[start..end].to_vec();
                if from == to && offset_from.abs_diff(*offset_to) < data.len() as u64 {
                    return Err(EINVAL);
                }
                if !data.is_empty() {
                    self.overwrite(*to, *offset_to, &data, now);
                }
                Ok(Reply::Count(data.len() as u64))
            }
            Call::SetXattr { of, name, value, flags } => {
                let node = self.node_mut(*of);
                match (node.xattrs.contains_key(name), *flags) {
                    (true, libc::XATTR_CREATE) => return Err(EEXIST),
                    (false, libc::XATTR_REPLACE) => return Err(ENODATA),
                    _ => {}
                }
                node.xattrs.insert(name.clone(), value.clone());
                node.ctime = Some(now);
                Ok(Reply::Done)
            }
            Call::RemoveXattr { of, name } => {
                let node = self.node_mut(*of);
                match node.xattrs.remove(name) {
                    Some(_) => node.ctime = Some(now),
                    // That there is no access list is what was wanted.
                    None if name.starts_with(b"system.posix_acl_") => {}
                    None => return Err(ENODATA),
                }
                Ok(Reply::Done)
            }
            Call::Lookup { dir, name } => self.find(*dir, name).map(Reply::Count),
        }
    }

    fn link(&mut self, of: Id, dir: Id, name: &[u8], now: i64) -> Result<Reply, Fail> {
        let name_is_free = self.free_name(dir, name);
        if self.node(of).is_dir() {
            return Err(match name_is_free {
                Ok(()) => &[libc::EPERM],
                Err(_) => &[libc::EPERM, libc::EEXIST, libc::ENOENT, libc::ENOTDIR, libc::ENAMETOOLONG],
            });
        }
        if self.node(of).nlink == 0 {
            return Err(match name_is_free {
                Ok(()) => ENOENT,
                Err(_) => &[libc::ENOENT, libc::EEXIST, libc::ENOTDIR, libc::ENAMETOOLONG],
            });
        }
        name_is_free?;
        self.entries_mut(dir).insert(name.to_vec(), of);
        self.node_mut(dir).content_changed(now);
        let node = self.node_mut(of);
        node.nlink += 1;
        node.ctime = Some(now);
        Ok(Reply::Done)
    }

    fn unlink(&mut self, dir: Id, name: &[u8], now: i64) -> Result<Reply, Fail> {
        let id = self.find(dir, name)?;
        if self.node(id).is_dir() {
            return Err(EISDIR);
        }
        self.entries_mut(dir).remove(name);
        self.node_mut(dir).content_changed(now);
        self.lost_a_name(id, now);
        Ok(Reply::Done)
    }

    fn rmdir(&mut self, dir: Id, name: &[u8], now: i64) -> Result<Reply, Fail> {
        let id = self.find(dir, name)?;
        if !self.node(id).is_dir() {
            return Err(ENOTDIR);
        }
        if !self.entries(id).is_empty() {
            return Err(ENOTEMPTY);
        }
        self.entries_mut(dir).remove(name);
        let parent = self.node_mut(dir);
        parent.nlink -= 1;
        parent.content_changed(now);
        self.lost_a_name(id, now);
        Ok(Reply::Done)
    }

    fn rename(
        &mut self,
        dir: Id,
        name: &[u8],
        new_dir: Id,
        new_name: &[u8],
        how: How,
        now: i64,
    ) -> Result<Reply, Fail> {
        let source = self.find(dir, name);
        let target = self.find(new_dir, new_name);
        let source = match (source, target) {
            (Ok(source), _) => source,
            // Both names are bad: which is seen first is not said.
            (Err(_), Err(why)) if why != ENOENT => {
                return Err(&[libc::ENOENT, libc::ENOTDIR, libc::ENAMETOOLONG]);
            }
            (Err(why), _) => return Err(why),
        };
        let target = match target {
            Ok(target) => Some(target),
            Err(why) if why == ENOENT => None,
            Err(why) => return Err(why),
        };
        if self.node(new_dir).nlink == 0 {
            return Err(ENOENT);
        }
        match (how, target) {
            (How::NoReplace, Some(_)) => return Err(EEXIST),
            (How::Exchange, None) => return Err(ENOENT),
            _ => {}
        }
        if target == Some(source) {
            // Two names of one file: nothing happens.
            if how == How::Exchange && (dir, name) != (new_dir, new_name) {
                for id in [dir, new_dir, source] {
                    (self.node_mut(id).mtime, self.node_mut(id).ctime) = (None, None);
                }
            }
            return Ok(Reply::Done);
        }
        if self.node(source).is_dir() && self.is_below(new_dir, source) {
            return Err(EINVAL);
        }
        if let Some(target) = target {
            let (moving_dir, target_dir) = (self.node(source).is_dir(), self.node(target).is_dir());
            if how == How::Exchange {
                if target_dir && self.is_below(dir, target) {
                    return Err(EINVAL);
                }
            } else if target_dir && self.is_below(dir, target) {
                // An ancestor of the source is not empty; it is a directory besides.
                return Err(if moving_dir { ENOTEMPTY } else { &[libc::ENOTEMPTY, libc::EISDIR] });
            } else {
                match (moving_dir, target_dir) {
                    (false, true) => return Err(EISDIR),
                    (true, false) => return Err(ENOTDIR),
                    (true, true) if !self.entries(target).is_empty() => return Err(ENOTEMPTY),
                    _ => {}
                }
            }
        }
        self.entries_mut(dir).remove(name);
        match (how, target) {
            (How::Exchange, Some(target)) => {
                self.moved(target, new_dir, dir);
                self.entries_mut(dir).insert(name.to_vec(), target);
                self.node_mut(target).ctime = Some(now);
            }
            (_, Some(target)) => {
                if self.node(target).is_dir() {
                    self.node_mut(new_dir).nlink -= 1;
                }
                self.lost_a_name(target, now);
            }
            (_, None) => {}
        }
        self.moved(source, dir, new_dir);
        self.entries_mut(new_dir).insert(new_name.to_vec(), source);
        self.node_mut(source).ctime = Some(now);
        self.node_mut(dir).content_changed(now);
        self.node_mut(new_dir).content_changed(now);
        Ok(Reply::Done)
    }

    /// A directory knows its parent, and counts as a link to it.
    fn moved(&mut self, id: Id, from: Id, to: Id) {
        if let Body::Dir { parent, .. } = &mut self.node_mut(id).body {
            *parent = to;
            self.node_mut(from).nlink -= 1;
            self.node_mut(to).nlink += 1;
        }
    }

    fn overwrite(&mut self, of: Id, offset: u64, data: &[u8], now: i64) {
        let offset = offset as usize;
        let node = self.node_mut(of);
        node.took_room = true;
        node.content_changed(now);
        let Body::File(content) = &mut node.body else { panic!("{of} is no file") };
        if content.len() < offset + data.len() {
            content.resize(offset + data.len(), 0);
        }
        content[offset..offset + data.len()].copy_from_slice(data);
    }

    fn fallocate(&mut self, of: Id, offset: usize, len: usize, mode: i32) -> Result<Reply, Fail> {
        use libc::{
            FALLOC_FL_KEEP_SIZE as KEEP, FALLOC_FL_PUNCH_HOLE as PUNCH, FALLOC_FL_ZERO_RANGE as ZERO,
        };
        let unsupported = mode & !(KEEP | PUNCH | ZERO) != 0 || mode & PUNCH != 0 && mode != PUNCH | KEEP;
        match (len, unsupported) {
            (0, false) => return Err(EINVAL),
            (0, true) => return Err(&[libc::EINVAL, libc::EOPNOTSUPP]),
            (_, true) => return Err(EOPNOTSUPP),
            (_, false) => {}
        }
        let node = self.node_mut(of);
        (node.mtime, node.ctime, node.took_room) = (None, None, true);
        let Body::File(content) = &mut node.body else { panic!("{of} is no file") };
        let end = offset + len;
        if mode & KEEP == 0 && content.len() < end {
            content.resize(end, 0);
        }
        if mode & (PUNCH | ZERO) != 0 {
            let size = content.len();
            content[offset.min(size)..end.min(size)].fill(0);
        }
        Ok(Reply::Done)
    }

    /// Every name in the tree: its path and what it names, the root as "".
    pub fn paths(&self) -> BTreeMap<Vec<u8>, Id> {
        let mut paths = BTreeMap::from([(Vec::new(), ROOT)]);
        let mut todo = vec![(Vec::new(), ROOT)];
        while let Some((path, dir)) = todo.pop() {
            for (name, id) in self.entries(dir) {
                let path = [&path[..], b"/", name].concat();
                if self.node(*id).is_dir() {
                    todo.push((path.clone(), *id));
                }
                paths.insert(path, *id);
            }
        }
        paths
    }
}
