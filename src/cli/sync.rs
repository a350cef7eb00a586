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
#[command(after_help = EXIT)]
pub struct Sync {
    /// A mount point, a path below one, or a mounted store
    path: Option<PathBuf>,
}

const EXIT: &str = "\
Exit status: 0 everything is durable, or no path was named and no store is mounted, 1 failed at a store, or the one
named is not mounted, 2 the command line is wrong.";

impl Sync {
    pub fn run(self) -> Result<ExitCode> {
        let stores = match &self.path {
            Some(path) => vec![super::store_of(path)?.0],
            None => table::stores()?,
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
