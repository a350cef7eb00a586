//! `larder mark`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use larder::config::parse_size;
use larder::error::{Error, Result};
use larder::store::{Mark as Said, Store};

use super::at::{At, EXIT, YES, failed};
use super::ls::in_json;
use super::set::expiry;

/// Say what may be evicted, how long it lives, or how much room it gets, of keys or of directories for all that is in them
///
/// The nearest that says something counts: the key, else the directory that it is in, and so on; of size limits all. Without an option what
/// is said of them is shown, as JSON, an object a line. Without a key the whole store is meant.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Mark {
    #[command(flatten)]
    at: At,
    /// The keys and directories
    #[arg(value_name = "KEY")]
    keys: Vec<OsString>,
    /// Whether they may be evicted when the store is full
    #[arg(long, value_name = "WHETHER")]
    evictable: Option<Whether>,
    /// Whether they are never evicted, evictable or not
    #[arg(long, value_name = "WHETHER")]
    pinned: Option<Whether>,
    /// How long files live that are made below, in directories: 3600, 90m, 7d, never, or inherit
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    default_ttl: Option<String>,
    /// How much the files below may take on the disk together, in directories: a size, as 10GiB, or none
    #[arg(long, value_name = "SIZE")]
    size_limit: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Whether {
    Yes,
    No,
    /// As the directory says
    Inherit,
}

impl Whether {
    fn said(self) -> Option<bool> {
        match self {
            Whether::Yes => Some(true),
            Whether::No => Some(false),
            Whether::Inherit => None,
        }
    }
}

impl Mark {
    pub fn run(mut self) -> Result<u8> {
        if self.keys.is_empty() {
            self.keys.push(OsString::new());
        }
        let evictable = self.evictable.map(|set| Said::Evictable(set.said()));
        let pinned = self.pinned.map(|set| Said::Pinned(set.said()));
        let ttl = match self.default_ttl.as_deref() {
            Some("inherit") => Some(Said::DefaultTtl(None)),
            ttl => expiry(ttl, None)?.map(|expiry| Said::DefaultTtl(Some(expiry))),
        };
        let bad = |why| Error::Config(format!("--size-limit: {why}"));
        let limit = match self.size_limit.as_deref() {
            Some("none") => Some(Said::SizeLimit(None)),
            limit => {
                limit.map(parse_size).transpose().map_err(bad)?.map(|limit| Said::SizeLimit(Some(limit)))
            }
        };
        let marks: Vec<Said> = evictable.into_iter().chain(pinned).chain(ttl).chain(limit).collect();
        let store = self.at.open(false)?;
        let mut code = YES;
        for key in &self.keys {
            let done = match marks.is_empty() {
                true => show(&store, key),
                false => marks.iter().try_for_each(|mark| store.mark(key.as_bytes(), *mark)),
            };
            match done {
                Ok(()) => {}
                Err(Error::NotPermitted) => {
                    let why = "only a directory has a default-ttl or a size-limit, only a file or a directory the others";
                    code = code.max(failed(key, &Error::Invalid(why.to_owned())));
                }
                Err(error) => code = code.max(failed(key, &error)),
            }
        }
        store.close()?;
        Ok(code)
    }
}

fn show(store: &Store, key: &OsString) -> Result<()> {
    let marks = store.marks(key.as_bytes())?;
    let failed = |error: serde_json::Error| Error::io("writing JSON")(error.into());
    let mut object = serde_json::to_value(marks).map_err(failed)?;
    if let (Some(fields), serde_json::Value::Object(key)) = (object.as_object_mut(), in_json(key.as_bytes()))
    {
        fields.extend(key);
    }
    say!("{object}")
}
