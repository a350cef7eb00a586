//! `larder touch`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use larder::error::{Error, Result};
use larder::store::{Expiry, Store, Touch as What};

use super::at::{At, EXIT, YES, failed};
use super::set::expiry;

/// Mark keys as used now, and renew their expiry by the time to live that they were set with
///
/// A directory may be named, too: its expiry is that of all in it.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Touch {
    #[command(flatten)]
    at: At,
    /// The keys
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<OsString>,
    /// Renew the expiry; so does naming neither
    #[arg(long, conflicts_with_all = ["ttl", "expires"])]
    expiration: bool,
    /// Mark as used, and leave the expiry as it is; the stored size is counted with each change, not here
    #[arg(long)]
    size: bool,
    /// Give them this time to live from now on: 3600, 90m, 7d, or never
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    ttl: Option<String>,
    /// Let them expire at this moment: 2030-01-31T12:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME", conflicts_with = "ttl", allow_hyphen_values = true)]
    expires: Option<String>,
}

impl Touch {
    pub fn run(self) -> Result<u8> {
        let expiry = expiry(self.ttl.as_deref(), self.expires.as_deref())?;
        let what = match (self.expiration, self.size) {
            // A given expiry is to stay as it is given.
            (false, false) if expiry.is_some() => What::Size,
            (_, false) => What::Expiration,
            (true, true) => What::Both,
            (false, true) => What::Size,
        };
        let store = self.at.open(false)?;
        let mut code = YES;
        for key in &self.keys {
            if let Err(error) = touch(&store, key.as_bytes(), expiry, what) {
                code = code.max(failed(key, &error));
            }
        }
        store.close()?;
        Ok(code)
    }
}

fn touch(store: &Store, key: &[u8], expiry: Option<Expiry>, what: What) -> Result<()> {
    let Some(expiry) = expiry else { return store.touch(key, what) };
    store.expire(key, expiry)?;
    match store.touch(key, what) {
        // It was there to be given its expiry: that has come, or the key was removed since.
        Err(Error::NotFound) => Ok(()),
        touched => touched,
    }
}
