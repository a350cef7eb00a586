//! What is done to a store while its disk fails, and how the model does the same.

use larder::config::Settings;

use crate::model::fs::{Call, Fail, Fs, Id, ROOT};

/// The attribute that says when a key expires.
pub const EXPIRES: &str = "user.larder.expires";

/// A key of the root, and what it is set to; none deletes it.
pub type Setting = (&'static str, Option<(Id, Vec<u8>)>);

/// A recorded workload.
pub struct Workload {
    pub name: &'static str,
    /// What the store has before the first fault may strike. Empty: there is no store yet.
    pub setup: Vec<Step>,
    /// Whether the store was closed then, or killed.
    pub closed: bool,
    pub steps: Vec<Step>,
    pub settings: fn(&mut Settings),
}

/// One step. Those that need what a refused one would have made are left out.
#[derive(Clone, Debug)]
pub enum Step {
    Call(Call),
    /// As `Call`; what loses its last name stays open.
    Hold(Call),
    Release(Id),
    Fsync(Id, bool),
    Sync,
    /// Keys of the root, set or deleted in one batch; durable, or not yet.
    Set(Vec<Setting>, bool),
    /// So many seconds pass, and these names of the root expire.
    Expire(i64, Vec<&'static str>),
    /// Sweeps, reclaims, commits and compacts.
    Cleanup,
    /// Closes the store and opens it again.
    Remount,
}

impl Step {
    /// The inodes that must be there.
    pub fn needs(&self) -> Vec<Id> {
        match self {
            Step::Call(call) | Step::Hold(call) => needs(call),
            Step::Release(id) | Step::Fsync(id, _) => vec![*id],
            _ => Vec::new(),
        }
    }

    /// Does it to the model.
    pub fn apply(&self, fs: &mut Fs, now: i64) -> Result<(), Fail> {
        match self {
            Step::Call(call) => {
                fs.apply(call, now)?;
                newest_orphan(fs, now).into_iter().for_each(|id| fs.reclaim(id));
            }
            Step::Hold(call) => drop(fs.apply(call, now)?),
            // It is still named where its removal was refused.
            Step::Release(id) if fs.node(*id).nlink > 0 => {}
            Step::Release(id) => fs.reclaim(*id),
            Step::Set(changes, _) => {
                for (name, to) in changes {
                    let name = name.as_bytes().to_vec();
                    if fs.entries(ROOT).contains_key(&name) {
                        let call = Call::Unlink { dir: ROOT, name: name.clone() };
                        Step::Call(call).apply(fs, now)?;
                    }
                    if let Some((id, content)) = to {
                        let mode = libc::S_IFREG | 0o644;
                        fs.apply(&Call::Mknod { dir: ROOT, name, mode, id: *id }, now)?;
                        fs.apply(&Call::Write { of: *id, offset: 0, data: content.clone() }, now)?;
                    }
                }
            }
            Step::Expire(_, names) => {
                for name in names {
                    let name = name.as_bytes().to_vec();
                    let id = fs.entries(ROOT).get(&name);
                    // It does not where that was refused.
                    if id.is_some_and(|id| fs.node(*id).xattrs.contains_key(EXPIRES.as_bytes())) {
                        Step::Call(Call::Unlink { dir: ROOT, name }).apply(fs, now)?;
                    }
                }
            }
            Step::Remount => fs.orphans().into_iter().for_each(|id| fs.reclaim(id)),
            Step::Fsync(..) | Step::Sync | Step::Cleanup => {}
        }
        Ok(())
    }
}

/// What has just lost its last name.
fn newest_orphan(fs: &Fs, now: i64) -> Option<Id> {
    fs.orphans().into_iter().find(|id| fs.node(*id).ctime == Some(now))
}

fn needs(call: &Call) -> Vec<Id> {
    match call {
        Call::Mknod { dir, .. }
        | Call::Mkdir { dir, .. }
        | Call::Symlink { dir, .. }
        | Call::Unlink { dir, .. }
        | Call::Rmdir { dir, .. }
        | Call::Lookup { dir, .. } => vec![*dir],
        Call::Link { of, dir, .. } => vec![*of, *dir],
        Call::Rename { dir, new_dir, .. } => vec![*dir, *new_dir],
        Call::Copy { from, to, .. } => vec![*from, *to],
        Call::Chmod { of, .. }
        | Call::Chown { of, .. }
        | Call::Mtime { of, .. }
        | Call::Truncate { of, .. }
        | Call::Write { of, .. }
        | Call::Read { of, .. }
        | Call::Fallocate { of, .. }
        | Call::SetXattr { of, .. }
        | Call::RemoveXattr { of, .. } => vec![*of],
    }
}
