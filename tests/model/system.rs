//! What the model is compared with, and the comparison.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::fs::{Body, Call, Fs, Id, ROOT, Reply};
use super::ops::{Op, Step};

pub type Check = Result<(), TestCaseError>;

/// Fails the case.
pub fn fail<T>(why: impl Into<String>) -> Result<T, TestCaseError> {
    Err(TestCaseError::fail(why.into()))
}

/// What stat(2) shows. Times in nanoseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub ino: u64,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub blocks: u64,
    pub mtime: i64,
    pub ctime: i64,
    pub btime: i64,
}

/// A filesystem under test. Inodes are called by the model's numbers; each that the model knows is
/// held open, so that it can be reached without a name.
pub trait System {
    /// The answer, or an errno. `now`: what its clock shows.
    fn apply(&mut self, call: &Call, now: i64) -> Result<Reply, i32>;
    /// Lets go of an inode without a name.
    fn release(&mut self, id: Id);
    fn fsync(&mut self, id: Id, data_only: bool) -> Result<(), i32>;
    fn sync(&mut self) -> Result<(), i32>;
    /// Closes and opens it. `fs` is the model, without unlinked inodes.
    fn remount(&mut self, fs: &Fs) -> Check;
    fn stat(&mut self, id: Id) -> Result<Stat, i32>;
    /// Names and inode numbers, without `.` and `..`. The listing itself is checked on the way.
    fn list(&mut self, dir: Id) -> Result<BTreeMap<Vec<u8>, u64>, TestCaseError>;
    fn readlink(&mut self, id: Id) -> Result<Vec<u8>, i32>;
    fn xattrs(&mut self, id: Id) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, i32>;
    /// As lseek(2) with SEEK_HOLE or SEEK_DATA.
    fn seek(&mut self, id: Id, offset: u64, hole: bool) -> Result<u64, i32>;
    /// Whether its clock is the test's, and files that were never written take no room.
    fn is_exact(&self) -> bool;
}

/// Does one operation on both, and compares the answers. Returns what was done, for a history.
pub fn step(fs: &mut Fs, system: &mut dyn System, op: &Op, now: i64) -> Result<Step, TestCaseError> {
    let step = op.resolve(fs);
    match &step {
        Step::Skip => {}
        Step::Call(call, hold) => {
            let expected = fs.apply(call, now);
            let got = system.apply(call, now);
            match (&expected, &got) {
                (Ok(Reply::Data(expected)), Ok(Reply::Data(got))) => same_bytes(expected, got, "read")?,
                // Its number is not the model's; the walk compares what it names.
                (Ok(_), Ok(_)) if matches!(call, Call::Lookup { .. }) => {}
                (Ok(expected), Ok(got)) => prop_assert_eq!(got, expected, "the answer to {:?}", call),
                (Err(expected), Err(got)) => {
                    prop_assert!(expected.contains(got), "errno {got} of {expected:?} for {}", short(call));
                }
                (Ok(_), Err(got)) => return fail(format!("errno {got} for {}", short(call))),
                (Err(expected), Ok(_)) => {
                    return fail(format!("done instead of errno {expected:?}: {}", short(call)));
                }
            }
            if !hold {
                let named = |call: &Call| matches!(call, Call::Unlink { .. } | Call::Rmdir { .. });
                if named(call) || matches!(call, Call::Rename { .. }) {
                    // Those that were held before stay held: only the newest orphan is let go.
                    let newest = fs.orphans().into_iter().find(|id| fs.node(*id).ctime == Some(now));
                    newest.into_iter().for_each(|id| release(fs, system, id));
                }
            }
        }
        Step::Release(id) => release(fs, system, *id),
        Step::Fsync(id, data_only) => {
            if let Err(errno) = system.fsync(*id, *data_only) {
                return fail(format!("errno {errno} for fsync of {id}"));
            }
        }
        Step::Sync => {
            if let Err(errno) = system.sync() {
                return fail(format!("errno {errno} for sync"));
            }
        }
        Step::Remount => {
            release_all(fs, system);
            system.remount(fs)?;
            compare(fs, system)?;
        }
    }
    Ok(step)
}

fn release(fs: &mut Fs, system: &mut dyn System, id: Id) {
    fs.reclaim(id);
    system.release(id);
}

/// Lets all unlinked inodes go.
pub fn release_all(fs: &mut Fs, system: &mut dyn System) {
    for id in fs.orphans() {
        release(fs, system, id);
    }
}

fn short(call: &Call) -> String {
    let text = format!("{call:?}");
    text.chars().take(300).collect()
}

pub fn same_bytes(expected: &[u8], got: &[u8], what: &str) -> Check {
    prop_assert_eq!(got.len(), expected.len(), "bytes of {}", what);
    if let Some(at) = (0..got.len()).find(|at| expected[*at] != got[*at]) {
        let wrong = (at..got.len()).filter(|at| expected[*at] != got[*at]).count();
        return fail(format!(
            "{what}: byte {at} is {:#04x} and not {:#04x}; {wrong} of {} bytes differ",
            got[at],
            expected[at],
            got.len()
        ));
    }
    Ok(())
}

/// Compares everything visible.
pub fn compare(fs: &Fs, system: &mut dyn System) -> Check {
    let mut numbers = BTreeMap::new();
    for (id, node) in fs.nodes() {
        let stat = match system.stat(*id) {
            Ok(stat) => stat,
            Err(errno) => return fail(format!("errno {errno} for stat of {id}: {node:?}")),
        };
        prop_assert_eq!(stat.mode, node.mode, "mode of {}", id);
        prop_assert_eq!((stat.uid, stat.gid), (node.uid, node.gid), "owner of {}", id);
        let exact = system.is_exact();
        // Of an unlinked directory some filesystems keep a link or two in the count.
        if exact || !(node.is_dir() && node.nlink == 0) {
            prop_assert_eq!(stat.nlink, node.nlink, "links of {}", id);
        }
        if exact {
            if *id != ROOT {
                prop_assert_eq!(stat.btime, node.btime, "birth of {}", id);
            }
            if let Some(mtime) = node.mtime {
                prop_assert_eq!(stat.mtime, mtime, "mtime of {}", id);
            }
            if let Some(ctime) = node.ctime {
                prop_assert_eq!(stat.ctime, ctime, "ctime of {}", id);
            }
        }
        match &node.body {
            Body::File(content) => {
                prop_assert_eq!(stat.size, content.len() as u64, "size of {}", id);
                let all = Call::Read { of: *id, offset: 0, len: content.len() as u32 + 10 };
                match system.apply(&all, 0) {
                    Ok(Reply::Data(got)) => same_bytes(content, &got, &format!("content of {id}"))?,
                    other => return fail(format!("{other:?} for reading {id}")),
                }
                if exact && !node.took_room {
                    prop_assert_eq!(stat.blocks, 0, "blocks of {}, which was never written", id);
                }
                holes(*id, content, system)?;
            }
            Body::Symlink(target) => {
                prop_assert_eq!(system.readlink(*id), Ok(target.clone()), "target of {}", id);
                prop_assert_eq!(stat.size, target.len() as u64, "size of {}", id);
            }
            Body::Special { .. } | Body::Dir { .. } => {}
        }
        if node.content().is_some() || node.is_dir() {
            prop_assert_eq!(system.xattrs(*id), Ok(node.xattrs.clone()), "attributes of {}", id);
        }
        prop_assert!(numbers.insert(stat.ino, *id).is_none(), "two inodes have number {}", stat.ino);
    }
    for (id, node) in fs.nodes().iter().filter(|(_, node)| node.is_dir()) {
        let listed = system.list(*id)?;
        let listed: BTreeMap<_, _> =
            listed.into_iter().map(|(name, ino)| (name, numbers.get(&ino).copied())).collect();
        let expected: BTreeMap<_, _> =
            fs.entries(*id).iter().map(|(name, child)| (name.clone(), Some(*child))).collect();
        prop_assert_eq!(&listed, &expected, "names in {} ({} links)", id, node.nlink);
    }
    Ok(())
}

/// SEEK_DATA and SEEK_HOLE: what is skipped as a hole is zero, and they lead to the end.
fn holes(id: Id, content: &[u8], system: &mut dyn System) -> Check {
    let size = content.len() as u64;
    prop_assert_eq!(system.seek(id, size, true), Err(libc::ENXIO), "a hole at the end of {}", id);
    prop_assert_eq!(system.seek(id, size, false), Err(libc::ENXIO), "data at the end of {}", id);
    let zero = |from: u64, to: u64| content[from as usize..to as usize].iter().all(|byte| *byte == 0);
    let mut at = 0;
    let mut seen = BTreeSet::new();
    while at < size {
        prop_assert!(seen.insert(at), "seeking in {} comes back to {}", id, at);
        let data = match system.seek(id, at, false) {
            Ok(data) => data,
            Err(libc::ENXIO) => size,
            Err(errno) => return fail(format!("errno {errno} for SEEK_DATA {at} in {id}")),
        };
        prop_assert!(data >= at && data <= size && zero(at, data), "SEEK_DATA {} in {} is {}", at, id, data);
        if data == size {
            break;
        }
        let hole = system.seek(id, data, true);
        let Ok(hole) = hole else { return fail(format!("{hole:?} for SEEK_HOLE {data} in {id}")) };
        prop_assert!(hole > data && hole <= size, "SEEK_HOLE {} in {} is {}", data, id, hole);
        prop_assert!(hole == size || content[hole as usize] == 0, "a hole with data at {} in {}", hole, id);
        at = hole;
    }
    Ok(())
}
