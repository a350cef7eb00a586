//! `larder get`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use larder::error::{Error, Result};

use super::at::{At, EXIT, YES, failed};
use super::output::{to_file, to_output, unwrapped};

/// Write the value of a key to stdout
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Get {
    #[command(flatten)]
    at: At,
    /// The key
    key: OsString,
    /// Write it to a file instead, which is replaced
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Get {
    pub fn run(self) -> Result<u8> {
        let store = self.at.open(false)?;
        let got = store.reader(self.key.as_bytes()).and_then(|reader| reader.ok_or(Error::NotFound));
        let written = got.and_then(|mut reader| match &self.output {
            None => to_output(|output| std::io::copy(&mut reader, output).map(drop)),
            Some(path) => to_file(path, |file| {
                let what = format!("writing {}", path.display());
                std::io::copy(&mut reader, file).map(drop).map_err(|error| unwrapped(error, &what))
            }),
        });
        let code = written.map_or_else(|error| failed(&self.key, &error), |()| YES);
        store.close()?;
        Ok(code)
    }
}
