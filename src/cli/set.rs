//! `larder set`

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use larder::error::{Error, Result};
use larder::shelf;
use larder::store::{Codec, Durability, Expiry, SetOptions};

use super::at::{At, EXIT, YES, failed};
use super::output::{spooled, unwrapped};

/// Set a key to what comes on stdin
///
/// Whoever reads the key meanwhile finds the old value or the new one, whole. Directories on its way are made.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Set {
    #[command(flatten)]
    at: At,
    /// The key, as a/b/c
    key: OsString,
    /// A file with the value, instead of stdin
    file: Option<PathBuf>,
    /// The value itself, instead of stdin
    #[arg(long, conflicts_with = "file")]
    value: Option<OsString>,
    /// When it expires: in 3600, 90m, 7d, or never
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    ttl: Option<String>,
    /// The moment when it expires: 2030-01-31T12:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME", conflicts_with = "ttl", allow_hyphen_values = true)]
    expires: Option<String>,
    /// How it is compressed: lz4, zstd:LEVEL, gzip:LEVEL, deflate, none, auto
    #[arg(long)]
    codec: Option<Codec>,
    /// Return once it survives a power failure
    #[arg(long)]
    sync: bool,
    /// Make the store when it is not there
    #[arg(long)]
    create: bool,
}

/// What `--ttl` and `--expires` ask for.
pub fn expiry(ttl: Option<&str>, expires: Option<&str>) -> Result<Option<Expiry>> {
    if let Some(ttl) = ttl {
        let seconds = shelf::parse_ttl(ttl)?.map(u64::from).map(std::time::Duration::from_secs);
        return Ok(Some(seconds.map_or(Expiry::Never, Expiry::In)));
    }
    let at = expires.map(shelf::parse_expires).transpose()?;
    Ok(at.map(|at| at.map_or(Expiry::Never, |at| Expiry::At(at.into()))))
}

impl Set {
    pub fn run(self) -> Result<u8> {
        let mut options = SetOptions::new();
        if let Some(expiry) = expiry(self.ttl.as_deref(), self.expires.as_deref())? {
            options = options.expires(expiry);
        }
        if let Some(codec) = self.codec {
            options = options.codec(codec);
        }
        if self.sync {
            options = options.durability(Durability::Sync);
        }
        let mut from: Box<dyn Read> = match (&self.value, &self.file) {
            (Some(value), _) => Box::new(value.as_bytes()),
            (None, Some(path)) => {
                let failed = || Error::io(format!("opening {}", path.display()));
                let mut file = OpenOptions::new().read(true).open(path).map_err(failed())?;
                let kind = file.metadata().map_err(failed())?.file_type();
                let stays = kind.is_file() || kind.is_dir() || self.at.mounted();
                Box::new(if stays {
                    file
                } else {
                    spooled("the value", |spool| std::io::copy(&mut file, spool).map(drop))?
                })
            }
            (None, None) if self.at.mounted() => Box::new(std::io::stdin().lock()),
            // A store that is not mounted is open in one process at a time: not in this one while that which writes to us
            // waits for it.
            (None, None) => Box::new(spooled("the value", |file| {
                std::io::copy(&mut std::io::stdin().lock(), file).map(drop)
            })?),
        };
        let store = self.at.open(self.create)?;
        let set = (|| {
            let mut writer = store.writer_with(self.key.as_bytes(), &options)?;
            std::io::copy(&mut from, &mut writer).map_err(|error| unwrapped(error, "reading the value"))?;
            writer.finish()
        })();
        let code = set.map_or_else(|error| failed(&self.key, &error), |_| YES);
        store.close()?;
        Ok(code)
    }
}
