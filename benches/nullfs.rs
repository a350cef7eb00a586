//! A filesystem that stores nothing: names, modes and sizes in memory, written data thrown away,
//! zeros read back.
//!
//! What it costs is the price of FUSE itself through `fuser`, with the kernel settings that Larder
//! mounts with. `scripts/bench` holds Larder's operations against it: no filesystem on this
//! transport can be faster, so the ratio is what Larder adds.
//!
//! ```text
//! nullfs MOUNTPOINT      stays in the foreground; SIGTERM and SIGINT unmount and end it
//! ```
//!
//! What holds: a message costs at most two hash lookups under one lock, nothing blocks, and the kernel
//! sends the messages that it would send to Larder: same answers to OPEN and FLUSH, same time-outs.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use nix::sys::signal::{SigSet, Signal};
use parking_lot::Mutex;

/// How long the kernel may keep an entry or an attribute: for ever.
const TTL: Duration = Duration::from_secs(u32::MAX as u64);
/// The largest READ and WRITE.
const MAX_IO: u32 = 1 << 20;
/// The readahead offered to the kernel, which takes the lesser of this and its own.
const READAHEAD: u32 = 16 << 20;
/// What every READ is answered from.
static ZEROS: [u8; MAX_IO as usize] = [0; MAX_IO as usize];

type Answer<T> = Result<T, Errno>;

/// A file or directory.
struct Node {
    attr: FileAttr,
    /// Entries, for a directory.
    dir: Option<Dir>,
}

/// The entries of a directory, by name and in the order of their creation. The place in that order is
/// the offset that READDIR goes on from, so it stays valid whatever comes and goes in between.
#[derive(Default)]
struct Dir {
    by_name: HashMap<OsString, (u64, INodeNo)>,
    by_place: BTreeMap<u64, OsString>,
    last_place: u64,
}

impl Dir {
    fn insert(&mut self, name: &OsStr, ino: INodeNo) {
        self.last_place += 1;
        self.by_place.insert(self.last_place, name.to_owned());
        self.by_name.insert(name.to_owned(), (self.last_place, ino));
    }

    fn remove(&mut self, name: &OsStr) -> Option<INodeNo> {
        let (place, ino) = self.by_name.remove(name)?;
        self.by_place.remove(&place);
        Some(ino)
    }
}

/// All nodes; the inode number is the index. Slots of removed nodes are not used again.
struct Tree {
    nodes: Vec<Option<Node>>,
}

impl Tree {
    fn new() -> Tree {
        let mut tree = Tree { nodes: vec![None] };
        tree.add(FileType::Directory, 0o755, 0, 0);
        tree
    }

    fn add(&mut self, kind: FileType, perm: u32, uid: u32, gid: u32) -> FileAttr {
        let is_dir = kind == FileType::Directory;
        let attr = FileAttr {
            ino: INodeNo(self.nodes.len() as u64),
            size: 0,
            blocks: 0,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm: (perm & 0o7777) as u16,
            nlink: if is_dir { 2 } else { 1 },
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        self.nodes.push(Some(Node { attr, dir: is_dir.then(Dir::default) }));
        attr
    }

    fn node(&self, ino: INodeNo) -> Answer<&Node> {
        self.nodes.get(ino.0 as usize).and_then(Option::as_ref).ok_or(Errno::ENOENT)
    }

    fn node_mut(&mut self, ino: INodeNo) -> Answer<&mut Node> {
        self.nodes.get_mut(ino.0 as usize).and_then(Option::as_mut).ok_or(Errno::ENOENT)
    }

    fn dir(&self, ino: INodeNo) -> Answer<&Dir> {
        self.node(ino)?.dir.as_ref().ok_or(Errno::ENOTDIR)
    }

    fn dir_mut(&mut self, ino: INodeNo) -> Answer<&mut Dir> {
        self.node_mut(ino)?.dir.as_mut().ok_or(Errno::ENOTDIR)
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Answer<&Node> {
        let (_, ino) = self.dir(parent)?.by_name.get(name).ok_or(Errno::ENOENT)?;
        self.node(*ino)
    }

    fn make(
        &mut self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        kind: FileType,
        perm: u32,
    ) -> Answer<FileAttr> {
        if self.dir(parent)?.by_name.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let attr = self.add(kind, perm, req.uid(), req.gid());
        self.dir_mut(parent)?.insert(name, attr.ino);
        Ok(attr)
    }

    /// Removes a name; the node stays until the kernel forgets it.
    fn remove(&mut self, parent: INodeNo, name: &OsStr, want_dir: bool) -> Answer<()> {
        match (&self.find(parent, name)?.dir, want_dir) {
            (Some(_), false) => return Err(Errno::EISDIR),
            (None, true) => return Err(Errno::ENOTDIR),
            (Some(dir), true) if !dir.by_name.is_empty() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        if let Some(ino) = self.dir_mut(parent)?.remove(name) {
            self.node_mut(ino)?.attr.nlink = 0;
        }
        Ok(())
    }

    fn rename(&mut self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr), flags: RenameFlags) -> Answer<()> {
        if !(flags & !RenameFlags::RENAME_NOREPLACE).is_empty() {
            return Err(Errno::EINVAL);
        }
        let ino = self.find(from.0, from.1)?.attr.ino;
        if let Ok(old) = self.find(to.0, to.1) {
            if flags.contains(RenameFlags::RENAME_NOREPLACE) {
                return Err(Errno::EEXIST);
            }
            if old.attr.ino == ino {
                return Ok(());
            }
            let is_dir = old.dir.is_some();
            self.remove(to.0, to.1, is_dir)?;
        }
        self.dir_mut(to.0)?; // before anything is taken away
        self.dir_mut(from.0)?.remove(from.1);
        self.dir_mut(to.0)?.insert(to.1, ino);
        Ok(())
    }

    fn resize(&mut self, ino: INodeNo, new_size: impl FnOnce(u64) -> u64) -> Answer<FileAttr> {
        let attr = &mut self.node_mut(ino)?.attr;
        attr.size = new_size(attr.size);
        attr.blocks = attr.size.div_ceil(512);
        Ok(*attr)
    }
}

struct NullFs {
    tree: Mutex<Tree>,
}

/// Sends the value by one of the reply's methods, or the errno.
macro_rules! answer {
    ($result:expr, $reply:ident, $value:pat => $send:expr) => {
        match $result {
            Ok($value) => $send,
            Err(errno) => $reply.error(errno),
        }
    };
}

impl Filesystem for NullFs {
    fn init(&mut self, _req: &Request, kernel: &mut KernelConfig) -> io::Result<()> {
        // What a kernel lacks is left out, as Larder does.
        let wanted = InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_DONT_MASK;
        // The setters hand back what they took instead where a value is out of the kernel's range.
        let _ = kernel.add_capabilities(wanted & kernel.capabilities());
        let _ = kernel.set_max_write(MAX_IO);
        if let Err(most) = kernel.set_max_readahead(READAHEAD) {
            let _ = kernel.set_max_readahead(most);
        }
        let _ = kernel.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let tree = self.tree.lock();
        match tree.find(parent, name) {
            Ok(node) => reply.entry(&TTL, &node.attr, Generation(0)),
            // Inode 0 tells the kernel that it may remember the absence.
            Err(errno) if i32::from(errno) == libc::ENOENT => {
                if let Ok(root) = tree.node(INodeNo::ROOT) {
                    reply.entry(&TTL, &FileAttr { ino: INodeNo(0), ..root.attr }, Generation(0));
                }
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, _nlookup: u64) {
        let mut tree = self.tree.lock();
        if let Some(slot) = tree.nodes.get_mut(ino.0 as usize)
            && slot.as_ref().is_some_and(|node| node.attr.nlink == 0)
        {
            *slot = None;
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        answer!(self.tree.lock().node(ino), reply, node => reply.attr(&TTL, &node.attr));
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = self.tree.lock();
        if let Ok(node) = tree.node_mut(ino) {
            let attr = &mut node.attr;
            attr.perm = mode.map_or(attr.perm, |mode| (mode & 0o7777) as u16);
            attr.uid = uid.unwrap_or(attr.uid);
            attr.gid = gid.unwrap_or(attr.gid);
        }
        answer!(tree.resize(ino, |old| size.unwrap_or(old)), reply, attr => reply.attr(&TTL, &attr));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let made = self.tree.lock().make(req, parent, name, FileType::Directory, mode & !umask);
        answer!(made, reply, attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.tree.lock().make(req, parent, name, FileType::RegularFile, mode & !umask);
        answer!(made, reply, attr => {
            reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE)
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(self.tree.lock().remove(parent, name, false), reply, () => reply.ok());
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(self.tree.lock().remove(parent, name, true), reply, () => reply.ok());
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = self.tree.lock().rename((parent, name), (newparent, newname), flags);
        answer!(done, reply, () => reply.ok());
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS); // from then on the kernel opens and closes by itself
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file_size = self.tree.lock().node(ino).map(|node| node.attr.size);
        answer!(file_size, reply, file_size => {
            let len = file_size.saturating_sub(offset).min(u64::from(size)) as usize;
            reply.data(ZEROS.get(..len).unwrap_or(&ZEROS))
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let end = offset + data.len() as u64;
        let done = self.tree.lock().resize(ino, |old| old.max(end));
        answer!(done, reply, _ => reply.written(data.len() as u32));
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let end = if keep_size { 0 } else { offset + length };
        answer!(self.tree.lock().resize(ino, |old| old.max(end)), reply, _ => reply.ok());
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS); // the kernel does not ask again
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let tree = self.tree.lock();
        let entries = self.entries_after(&tree, ino, offset);
        answer!(entries, reply, mut entries => {
            while let Some((place, name, attr)) = entries.next() && !reply.add(attr.ino, place, attr.kind, name) {}
            reply.ok()
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let tree = self.tree.lock();
        let entries = self.entries_after(&tree, ino, offset);
        answer!(entries, reply, mut entries => {
            while let Some((place, name, attr)) = entries.next()
                && !reply.add(attr.ino, place, name, &TTL, attr, Generation(0))
            {}
            reply.ok()
        });
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCKS: u64 = 1 << 28;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, 4096, 255, 4096);
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }
}

impl NullFs {
    /// The entries behind a READDIR offset, without `.` and `..`, which no program needs from a filesystem.
    fn entries_after<'a>(
        &self,
        tree: &'a Tree,
        ino: INodeNo,
        offset: u64,
    ) -> Answer<impl Iterator<Item = (u64, &'a OsString, &'a FileAttr)>> {
        let dir = tree.dir(ino)?;
        Ok(dir.by_place.range(offset + 1..).filter_map(|(place, name)| {
            let (_, ino) = dir.by_name.get(name)?;
            Some((*place, name, &tree.node(*ino).ok()?.attr))
        }))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(mountpoint) = std::env::args().nth(1).filter(|arg| !arg.starts_with('-')) else {
        eprintln!("usage: nullfs MOUNTPOINT (scripts/bench mounts it beside Larder)");
        return Ok(()); // `cargo bench` starts every bench
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("nullfs".into()),
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        MountOption::CUSTOM(format!("max_read={MAX_IO}")),
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(1);

    // Blocked before any thread starts, so that the one which waits is the one that gets them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;

    let mut session = Session::new(NullFs { tree: Mutex::new(Tree::new()) }, &mountpoint, &config)?;
    let mut unmounter = session.unmount_callable();
    std::thread::spawn(move || {
        if signals.wait().is_ok()
            && let Err(error) = unmounter.unmount()
        {
            eprintln!("nullfs: cannot unmount: {error}");
        }
    });
    session.run()?;
    Ok(())
}
