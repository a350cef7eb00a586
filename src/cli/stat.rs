//! `larder stat`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use larder::clock::Time;
use larder::error::{Error, Result};
use larder::shelf::format_expires;
use larder::store::{Key, Stat as Known};

use super::at::{At, EXIT, YES, failed, shown};
use super::human;
use super::ls::{object, time_left};

/// Show what is known of keys: size, size on disk, codec, expiry; of directories, which larder mark tells more of, the expiry
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Stat {
    #[command(flatten)]
    at: At,
    /// The keys
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<OsString>,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
}

impl Stat {
    pub fn run(self) -> Result<u8> {
        let store = self.at.open(false)?;
        let mut code = YES;
        for name in &self.keys {
            let known = Key::new(name.as_bytes()).and_then(|key| {
                let stat = store.stat(&key)?.ok_or(Error::NotFound)?;
                Ok((key, stat))
            });
            match known {
                Ok((key, stat)) if self.json => {
                    say!("{}", object(&key, &stat).map_err(Error::io("writing JSON"))?)?;
                }
                Ok((key, stat)) => print(&key, &stat)?,
                Err(error) => code = code.max(failed(name, &error)),
            }
        }
        store.close()?;
        Ok(code)
    }
}

fn print(key: &Key, stat: &Known) -> Result<()> {
    let time = |time| format_expires(Time::from(time));
    say!("key       {}", shown(key.as_bytes()))?;
    if stat.directory {
        say!("          a directory; what is in it: larder ls -l {}/", shown(key.as_bytes()))?;
    } else {
        say!("size      {} ({} bytes)", human(stat.size), stat.size)?;
        say!("on disk   {} ({} bytes), ratio {:.2}", human(stat.stored), stat.stored, stat.ratio)?;
    }
    say!("codec     {}", stat.codec.map_or("the store's".to_owned(), |codec| codec.to_string()))?;
    match stat.expires {
        None => say!("expires   never")?,
        Some(at) => say!("expires   {}, in {}", time(at), time_left(Some(at)))?,
    }
    say!("modified  {}", time(stat.modified))?;
    say!("touched   {}", time(stat.touched))
}
