//! `larder umount`

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use larder::control::{Request, ask};
use larder::error::{Error, Result};
use larder::mount::{session, table};

/// Unmount a store, and wait until everything is durable
///
/// When it returns, the store may be copied, moved or mounted again, and survives a power failure as it is.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Umount {
    /// Where the store is mounted
    mountpoint: PathBuf,
}

const EXIT: &str = "\
Exit status: 0 unmounted, 1 failed: it is not mounted there or is in use, or not everything could be made durable,
2 the command line is wrong. A mount whose daemon had died is removed with status 0; that what was not durable may
be lost is said on stderr.";

impl Umount {
    pub fn run(self) -> Result<ExitCode> {
        let (store, point) = super::store_of(&self.mountpoint)?;
        let Some(point) = point else {
            return Err(Error::store(
                &self.mountpoint,
                "no Larder store is mounted here; see: larder status",
            ));
        };
        let named = table::resolve(&self.mountpoint).map_err(Error::io("reading the mount point"))?;
        if named != point && named != store {
            let part = table::at(&named).map_err(Error::io("reading /proc/self/mountinfo"))?;
            if part.is_some_and(|mount| mount.is_ours()) {
                let why = format!(
                    "only a part of the store is mounted here; umount(8) takes it away, and the store is mounted at {}",
                    point.display()
                );
                return Err(Error::store(&self.mountpoint, why));
            }
            let why = format!("not a mount point; the store is mounted at {}", point.display());
            return Err(Error::store(&self.mountpoint, why));
        }
        match ask(&store, Request::Umount) {
            Ok(_) => Ok(ExitCode::SUCCESS),
            // The daemon is gone: what is left is a dead mount.
            Err(Error::NotFound) if session::is_dead(&point) => {
                session::detach(&point)?;
                complain!(
                    "larder: {}: its daemon had died: what was not durable then may be lost; the next mount finds the rest",
                    point.display()
                );
                Ok(ExitCode::SUCCESS)
            }
            Err(Error::NotFound) if !mounted(&point)? => Ok(ExitCode::SUCCESS),
            // It lives, and may have much to write: success now would be a lie.
            Err(Error::NotFound) => {
                let why = format!(
                    "its daemon does not listen in {} (was the store moved?); a bare umount(8) unmounts it, and the \
                     daemon ends when everything is written",
                    store.display()
                );
                Err(Error::store(&point, why))
            }
            Err(error) => {
                let users = users_of(&point);
                if users.is_empty() {
                    return Err(error);
                }
                Err(Error::Config(format!("{error}\nin use by: {}", users.join(", "))))
            }
        }
    }
}

fn mounted(point: &Path) -> Result<bool> {
    let mount = table::at(point).map_err(Error::io("reading /proc/self/mountinfo"))?;
    Ok(mount.is_some_and(|mount| mount.is_ours()))
}

/// The processes with a file or directory of the mount open, as far as we may look.
fn users_of(point: &Path) -> Vec<String> {
    let mut users = Vec::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let own = std::process::id().to_string();
        if !name.as_bytes().iter().all(u8::is_ascii_digit) || name.to_str() == Some(&own) {
            continue;
        }
        let path = process.path();
        let descriptors = std::fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
        let mut links = ["cwd", "root", "exe"]
            .map(|link| path.join(link))
            .into_iter()
            .chain(descriptors.map(|descriptor| descriptor.path()));
        // Reading a link asks the filesystem nothing.
        if links.any(|link| std::fs::read_link(link).is_ok_and(|to| to.starts_with(point))) {
            let command = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            users.push(format!("{} (process {})", command.trim(), name.to_string_lossy()));
        }
    }
    users
}
