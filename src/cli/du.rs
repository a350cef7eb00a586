//! `larder du`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use larder::error::Result;
use serde_json::json;

use super::at::{At, EXIT, YES, failed, shown};
use super::human;

/// Add up the sizes of keys
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Du {
    #[command(flatten)]
    at: At,
    /// What the keys begin with, as logs/; several are added up one by one [default: all keys]
    #[arg(value_name = "PREFIX")]
    prefixes: Vec<OsString>,
    /// As JSON, one object a line, sizes in bytes
    #[arg(long)]
    json: bool,
}

#[derive(Default)]
struct Sum {
    keys: u64,
    size: u64,
    stored: u64,
}

impl Du {
    pub fn run(mut self) -> Result<u8> {
        if self.prefixes.is_empty() {
            self.prefixes.push(OsString::new());
        }
        let store = self.at.open(false)?;
        let mut code = YES;
        if !self.json {
            say!("{:>9} {:>10} {:>10} {:>7}  PREFIX", "KEYS", "SIZE", "ON DISK", "RATIO")?;
        }
        for prefix in &self.prefixes {
            let mut sum = Sum::default();
            for key in store.keys(prefix.as_bytes()) {
                match key.and_then(|key| store.stat(key)) {
                    Ok(Some(stat)) if !stat.directory => {
                        sum.keys += 1;
                        sum.size += stat.size;
                        sum.stored += stat.stored;
                    }
                    Ok(_) => {}
                    Err(error) => code = code.max(failed(prefix, &error)),
                }
            }
            let ratio = if sum.stored == 0 { 1.0 } else { sum.size as f64 / sum.stored as f64 };
            let name = shown(prefix.as_bytes());
            if self.json {
                let (keys, size, stored) = (sum.keys, sum.size, sum.stored);
                say!(
                    "{}",
                    json!({"prefix": name, "keys": keys, "size": size, "stored": stored, "ratio": ratio})
                )?;
            } else {
                say!(
                    "{:>9} {:>10} {:>10} {ratio:>7.2}  {name}",
                    sum.keys,
                    human(sum.size),
                    human(sum.stored)
                )?;
            }
        }
        store.close()?;
        Ok(code)
    }
}
