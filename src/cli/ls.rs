//! `larder ls`

use std::ffi::OsString;
use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use larder::clock::{Clock, Time};
use larder::error::Result;
use larder::shelf;
use larder::store::{Key, Stat, Store};
use serde_json::json;

use super::at::{At, EXIT, YES, left, shown};
use super::human;
use super::output::{is_pipe, spooled, to_output};

/// List keys, in the order of their bytes
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Ls {
    #[command(flatten)]
    at: At,
    /// What the keys begin with: logs/ for those of a directory, logs/2030- for some of them
    #[arg(default_value = "")]
    prefix: OsString,
    /// With size, size on disk, ratio, codec and the time that is left, in a table
    #[arg(short, long)]
    long: bool,
    /// As JSON, one object a line
    #[arg(long, conflicts_with = "null")]
    json: bool,
    /// End each key with a NUL, as xargs -0 reads them
    #[arg(short = '0', long, conflicts_with = "long")]
    null: bool,
}

impl Ls {
    pub fn run(self) -> Result<u8> {
        // A store that is not mounted is open in one process at a time: not in this one while whoever reads what it writes
        // waits for it, as in `larder ls | xargs larder rm`.
        let kept = !self.at.mounted() && is_pipe(std::io::stdout());
        let store = self.at.open(false)?;
        if !kept {
            to_output(|output| self.list(&store, output))?;
            store.close()?;
            return Ok(YES);
        }
        let mut outcome = Ok(());
        let mut listed = spooled("the list", |file| {
            let mut output = BufWriter::new(file);
            outcome = self.list(&store, &mut output);
            output.flush()
        })?;
        store.close()?;
        // As far as it came.
        to_output(|output| {
            std::io::copy(&mut listed, output)?;
            outcome
        })?;
        Ok(YES)
    }

    fn list(&self, store: &Store, output: &mut dyn Write) -> std::io::Result<()> {
        let terminal = std::io::stdout().is_terminal();
        if self.long && !self.json {
            writeln!(
                output,
                "{:>10} {:>10} {:>7}  {:<10} {:>9}  KEY",
                "SIZE", "ON DISK", "RATIO", "CODEC", "EXPIRES"
            )?;
        }
        for key in store.keys(self.prefix.as_bytes()) {
            let key = key.map_err(std::io::Error::other)?;
            if !self.long && !self.json {
                match (self.null, terminal) {
                    (true, _) => output.write_all(&[key.as_bytes(), b"\0"].concat())?,
                    (false, true) => writeln!(output, "{}", shown(key.as_bytes()))?,
                    (false, false) => output.write_all(&[key.as_bytes(), b"\n"].concat())?,
                }
                continue;
            }
            // Gone since, or a directory in its place.
            let stat = store.stat(&key).map_err(std::io::Error::other)?.filter(|stat| !stat.directory);
            let Some(stat) = stat else { continue };
            match self.json {
                true => writeln!(output, "{}", object(&key, &stat)?)?,
                false => writeln!(output, "{}", row(&key, &stat))?,
            }
        }
        Ok(())
    }
}

/// What is known of a key, as JSON.
pub fn object(key: &Key, stat: &Stat) -> std::io::Result<serde_json::Value> {
    let mut object = in_json(key.as_bytes());
    if let (Some(into), serde_json::Value::Object(from)) =
        (object.as_object_mut(), serde_json::to_value(stat)?)
    {
        into.extend(from);
    }
    Ok(object)
}

/// A key as JSON has it. Bytes that are not UTF-8 show as `�` there; then `key_hex` has all of them.
pub fn in_json(key: &[u8]) -> serde_json::Value {
    match std::str::from_utf8(key) {
        Ok(text) => json!({ "key": text }),
        Err(_) => {
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "key": String::from_utf8_lossy(key), "key_hex": hex })
        }
    }
}

fn row(key: &Key, stat: &Stat) -> String {
    let codec = stat.codec.map_or("-".to_owned(), |codec| codec.to_string());
    format!(
        "{:>10} {:>10} {:>7.2}  {codec:<10} {:>9}  {}",
        human(stat.size),
        human(stat.stored),
        stat.ratio,
        time_left(stat.expires),
        shown(key.as_bytes()),
    )
}

/// The time left until an expiry, for a table.
pub fn time_left(expires: Option<SystemTime>) -> String {
    match expires {
        None => "never".to_owned(),
        Some(at) => left(shelf::left(Time::from(at), Clock::System.now())),
    }
}
