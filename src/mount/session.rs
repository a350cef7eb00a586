//! A mount from its first check to its end.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fuser::{INodeNo, Notifier};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::adapter::Adapter;
use super::figures::Mounted;
use super::options::Options;
use super::table;
use crate::error::{Error, Result};
use crate::volume::{Event, Volume};

/// What the kernel reads ahead on a mount, KiB. Its default of 128 makes a sequential cold read wait
/// for each page of 128 KiB in turn; a megabyte is one full READ.
const READAHEAD_KIB: u32 = 1024;

/// Whether the mount point can be used for this store; both as the user named them. Returns where it
/// really is. A dead mount of ours (its daemon was killed) is cleared away.
/// Errors: each names the path and the remedy.
pub fn check(store: &Path, point: &Path) -> Result<PathBuf> {
    let resolved = table::resolve(point).map_err(|error| unusable(point, &error))?;
    let mount = table::at(&resolved).map_err(Error::io("reading /proc/self/mountinfo"))?;
    if let Some(mount) = mount.filter(table::Mount::is_ours) {
        if !is_dead(&resolved) {
            let (what, command) = match mount.is_whole() {
                true => ("a Larder store", "larder umount"),
                false => ("a part of a Larder store", "umount"),
            };
            let why = format!(
                "{what} ({}) is mounted here already; use another directory, or first: {command} {}",
                mount.source.display(),
                resolved.display()
            );
            return Err(Error::store(point, why));
        }
        log::warn!("{}: clearing away the mount of a daemon that died", resolved.display());
        detach(&resolved)?;
    } else if let Some(mount) = table::at(&resolved).map_err(Error::io("reading /proc/self/mountinfo"))? {
        let why =
            format!("a filesystem of type {} is mounted here already; use another directory", mount.fstype);
        return Err(Error::store(point, why));
    }
    let metadata = std::fs::metadata(&resolved).map_err(|error| unusable(point, &error))?;
    if !metadata.is_dir() {
        return Err(Error::store(point, "it is not a directory; a mount point must be one"));
    }
    let store = std::fs::canonicalize(store)
        .or_else(|_| std::path::absolute(store))
        .map_err(Error::io("store path"))?;
    if store.to_str().is_none() {
        // It shows as what is mounted, and that is how the other commands find it.
        return Err(Error::store(store, "the path of a store must be UTF-8; rename it"));
    }
    if store.starts_with(&resolved) {
        let why =
            "the store lies inside the mount point, which would hide it; use a directory beside the store";
        return Err(Error::store(point, why));
    }
    if resolved.starts_with(&store) {
        let why = "the mount point lies inside the store; use a directory outside of it";
        return Err(Error::store(point, why));
    }
    Ok(resolved)
}

fn unusable(point: &Path, error: &std::io::Error) -> Error {
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("no such directory; make it first: mkdir -p {}", point.display())
        }
        std::io::ErrorKind::PermissionDenied => "permission denied; use a directory of your own".to_owned(),
        std::io::ErrorKind::NotADirectory => "it is not a directory; a mount point must be one".to_owned(),
        _ => format!("it cannot be used as a mount point: {error}"),
    };
    Error::store(point, why)
}

/// Whether the daemon behind a mount is gone: "Transport endpoint is not connected", or the connection was
/// aborted. Asked by statfs(2), which always goes to the daemon; stat(2) is answered from what the kernel keeps.
pub fn is_dead(point: &Path) -> bool {
    matches!(nix::sys::statvfs::statvfs(point), Err(Errno::ENOTCONN | Errno::ECONNABORTED))
}

/// What there is to say of a store whose daemon has died, and left its mount behind.
pub fn death_of(store: &Path) -> Option<String> {
    let mounts = table::of_store(store).unwrap_or_default();
    let point = mounts.iter().map(|mount| &mount.point).find(|point| is_dead(point))?.display();
    let store = store.display();
    Some(format!(
        "its daemon has died; larder mount {store} {point} mounts it again, and larder umount {point} takes away what is \
         left of the mount"
    ))
}

/// The error where no daemon answers for a store that looked mounted.
pub fn unanswered(store: &Path) -> Error {
    let ending = || "its daemon does not answer: the mount is gone, or ending".to_owned();
    Error::store(store, death_of(store).unwrap_or_else(ending))
}

/// What came of asking the daemon of a store that looked mounted. Errors: that of [`unanswered`] where none listens.
pub fn answered<T>(store: &Path, asked: Result<T>) -> Result<T> {
    asked.map_err(|error| match error {
        Error::NotFound => unanswered(store),
        other => other,
    })
}

/// Takes a mount out of the tree; it ends when its last user is gone.
pub fn detach(point: &Path) -> Result<()> {
    unmount_with(point, MntFlags::MNT_DETACH, "-uz")
}

/// Unmounts. Errors: busy, with the remedy.
pub fn unmount(point: &Path) -> Result<()> {
    unmount_with(point, MntFlags::empty(), "-u")
}

fn unmount_with(point: &Path, flags: MntFlags, fusermount: &str) -> Result<()> {
    let busy = || {
        Error::store(point, "it is in use; close the files and leave the directories on it, then try again")
    };
    match umount2(point, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(busy()),
        // Only root may; for everyone else the setuid helper does it.
        Err(Errno::EPERM) => {
            let output = Command::new("fusermount3").arg(fusermount).arg("--").arg(point).output();
            match output.map_err(Error::io("running fusermount3 (install the package fuse3)"))? {
                done if done.status.success() => Ok(()),
                failed => {
                    let text = String::from_utf8_lossy(&failed.stderr).trim().to_owned();
                    Err(if text.contains("busy") { busy() } else { Error::store(point, text) })
                }
            }
        }
        Err(errno) => Err(Error::store(point, format!("it could not be unmounted: {errno}"))),
    }
}

/// Where one mount is in the tree: its mount point, and its device, by which it is told from another mount
/// that has been made at the same place since.
#[derive(Clone, Debug)]
pub struct Place {
    point: PathBuf,
    device: String,
}

impl Place {
    /// The mount point.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Unmounts. Errors: busy; or what is mounted there is another filesystem.
    pub fn unmount(&self) -> Result<()> {
        self.check()?;
        unmount(&self.point)
    }

    /// Takes the mount out of the tree; it ends when its last user is gone. Errors: as for `unmount`.
    pub fn detach(&self) -> Result<()> {
        self.check()?;
        detach(&self.point)
    }

    fn check(&self) -> Result<()> {
        match table::at(&self.point).map_err(Error::io("reading /proc/self/mountinfo"))? {
            Some(mount) if mount.device == self.device => Ok(()),
            Some(mount) => {
                let why =
                    format!("a {} lies over this mount or in its place; unmount that first", mount.fstype);
                Err(Error::store(&self.point, why))
            }
            None => Err(Error::store(&self.point, "it is mounted here no longer")),
        }
    }
}

/// A mounted volume.
pub struct Session {
    inner: fuser::Session<Adapter>,
    place: Place,
    mounted: Mounted,
}

impl Session {
    /// Mounts. From its return on the kernel's requests queue up; [`Session::run`] answers them.
    /// `point` comes from [`check`].
    pub fn mount(volume: &Arc<Volume>, store: &Path, point: &Path, options: &Options) -> Result<Session> {
        let (point_of, read_only) = (point.to_owned(), options.is_read_only());
        let mounted = Mounted { counters: Arc::default(), point: point_of, read_only };
        let adapter = Adapter::new(Arc::clone(volume), mounted.clone())
            .map_err(Error::io("starting the worker threads"))?;
        let kernel = adapter.kernel.clone();
        let root = nix::unistd::geteuid().is_root();
        let inner = fuser::Session::new(adapter, point, &options.config(store, root)).map_err(|error| {
            let remedy = match error.kind() {
                std::io::ErrorKind::NotFound if !Path::new("/dev/fuse").exists() => {
                    "; there is no /dev/fuse: as root, modprobe fuse (in a container: --device /dev/fuse)"
                }
                std::io::ErrorKind::NotFound => "; install fusermount3 (package fuse3), or mount as root",
                std::io::ErrorKind::PermissionDenied => {
                    "; mount as root, or check the permissions of /dev/fuse"
                }
                _ => "",
            };
            Error::store(point, format!("mounting failed: {error}{remedy}"))
        })?;
        let mount = table::at(point).map_err(Error::io("reading /proc/self/mountinfo"))?;
        let device = mount.map(|mount| mount.device).unwrap_or_default();
        let place = Place { point: point.to_owned(), device };
        set_readahead(&place);
        kernel.mounted(inner.notifier());
        forward_events(volume, inner.notifier())?;
        Ok(Session { inner, place, mounted })
    }

    /// What the mount knows beside its volume.
    pub fn mounted(&self) -> Mounted {
        self.mounted.clone()
    }

    /// Where it is mounted.
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// Answers requests until the mount is gone; requests that workers have are finished then.
    /// The volume is still open: the caller closes it.
    pub fn run(self) -> Result<()> {
        let failed = |error| Error::io("answering the kernel's requests")(error);
        let mut session = self.inner.spawn().map_err(failed)?;
        let nothing = std::thread::Builder::new().spawn(|| Ok(())).map_err(failed)?;
        let guard = std::mem::replace(&mut session.guard, nothing);
        // Dropped, fuser 0.18 unmounts whatever is at the mount point by then, ours or not: it takes a
        // connection that has ended for one that is mounted. What stays is a descriptor of a dead device.
        std::mem::forget(session);
        let ended = match guard.join() {
            Ok(ended) => ended.map_err(failed),
            Err(_) => Err(Error::Damaged("the thread that answers the kernel panicked".to_owned())),
        };
        if ended.is_err() {
            // Nobody answers any more: out of the tree with it, whatever the outcome.
            let _ = self.place.detach();
        }
        ended
    }
}

/// Raises the kernel's readahead for the mount, which FUSE itself can only lower. Needs root; without,
/// sequential reads of what is not cached are slower, and that is all.
fn set_readahead(place: &Place) {
    let file = format!("/sys/class/bdi/{}/read_ahead_kb", place.device);
    if let Err(error) = std::fs::write(&file, READAHEAD_KIB.to_string()) {
        log::info!("{file}: {error}; readahead stays at the kernel's default");
    }
}

/// Tells the kernel what the volume changes by itself, from a thread of its own. The queue has no
/// limit: a bound would make the volume's thread wait for the kernel, which may be waiting for the
/// volume. It holds a name (at most 255 bytes) for each key that went since the kernel last listened, and only of keys that
/// the kernel itself has in memory, where each takes a kilobyte.
fn forward_events(volume: &Arc<Volume>, notifier: Notifier) -> Result<()> {
    let (events, queue) = crossbeam_channel::unbounded();
    volume.on_event(Box::new(move |event| {
        // Fails only when the thread below has ended, with the mount.
        let _ = events.send(event);
    }));
    let forward = move || {
        for event in queue {
            let outcome = match event {
                Event::Entry { dir, name } => {
                    let dir = INodeNo(dir.0);
                    // The second drops the listing that the kernel keeps, also when it did not know the name.
                    let entry = notifier.inval_entry(dir, OsStr::from_bytes(&name));
                    entry.and(notifier.inval_inode(dir, 0, 0))
                }
                Event::Inode(ino) => notifier.inval_inode(INodeNo(ino.0), 0, 0),
                Event::Attributes(ino) => notifier.inval_inode(INodeNo(ino.0), -1, 0),
                Event::Barrier(reached) => {
                    // Whoever waited may have given up.
                    let _ = reached.send(());
                    Ok(())
                }
            };
            if let Err(error) = outcome {
                log::debug!("telling the kernel of a change: {error}");
            }
        }
    };
    std::thread::Builder::new()
        .name("notify".to_owned())
        .spawn(forward)
        .map(drop)
        .map_err(Error::io("starting the notification thread"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(store: &Path, point: &Path) -> String {
        check(store, point).unwrap_err().to_string()
    }

    #[test]
    fn a_mount_point_that_cannot_be_one_is_refused_with_path_and_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let missing = dir.path().join("missing");
        let text = refusal(&store, &missing);
        assert!(text.contains("missing") && text.contains("mkdir -p"), "{text}");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(refusal(&store, &file).contains("not a directory"));
        assert!(refusal(&store, Path::new("/proc")).contains("type proc"));
    }

    #[test]
    fn store_and_mount_point_may_not_lie_in_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let inside = store.join("mnt");
        std::fs::create_dir_all(&inside).unwrap();
        assert!(refusal(&store, dir.path()).contains("inside the mount point"));
        assert!(refusal(&store, &inside).contains("inside the store"));
        assert!(refusal(&store, &store).contains("inside"));
        let beside = dir.path().join("store.mnt");
        std::fs::create_dir(&beside).unwrap();
        assert_eq!(check(&store, &beside).unwrap(), beside.canonicalize().unwrap());
    }
}
