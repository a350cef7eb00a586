//! `larder sync`

use std::path::PathBuf;
use std::process::ExitCode;

use larder::control::{Request, ask};
use larder::error::{Error, Result};
use larder::mount::{session, table};

/// Make everything that was written durable, and wait for it
///
/// The `sync` of the system does not reach filesystems like this one; this does. Without a path, all
/// mounted stores are synced.
#[derive(clap::Args)]
pub struct Sync {
    /// A mount point, a path below one, or a mounted store
    path: Option<PathBuf>,
}

impl Sync {
    pub fn run(self) -> Result<ExitCode> {
        let stores = match &self.path {
            Some(path) => vec![super::store_of(path)?.0],
            None => {
                let mounts = table::all().map_err(Error::io("reading /proc/self/mountinfo"))?;
                mounts.into_iter().filter(table::Mount::is_ours).map(|mount| mount.source).collect()
            }
        };
        super::for_each(self.path.is_some(), stores, |store| match ask(store, Request::Sync) {
            Ok(_) => Ok(()),
            Err(Error::NotFound) => {
                let closed = || "not mounted, so there is nothing to sync".to_owned();
                Err(Error::store(store, session::death_of(store).unwrap_or_else(closed)))
            }
            Err(error) => Err(error),
        })
    }
}
