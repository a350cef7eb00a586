//! `larder compress` and `larder decompress`

use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use larder::error::{Error, Result};
use larder::store::{Codec, compress_stream, decompress_stream};

use super::at::{EXIT, YES};
use super::output::{to_file, to_output};

/// Compress stdin to stdout, checksummed and such that `larder decompress` needs to be told nothing
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Compress {
    /// A file to compress, instead of stdin
    file: Option<PathBuf>,
    /// Where to write, instead of to stdout; what is there is replaced
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How: lz4, zstd:LEVEL, gzip:LEVEL, deflate, none, auto
    #[arg(long, default_value = "zstd:3")]
    codec: Codec,
}

/// Decompress what `larder compress` wrote, from stdin to stdout
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Decompress {
    /// A file to decompress, instead of stdin
    file: Option<PathBuf>,
    /// Where to write, instead of to stdout; what is there is replaced
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Compress {
    pub fn run(self) -> Result<u8> {
        let codec = self.codec;
        copy(self.file.as_deref(), self.output.as_deref(), |mut from, mut to| {
            compress_stream(codec, &mut from, &mut to)
        })
    }
}

impl Decompress {
    pub fn run(self) -> Result<u8> {
        copy(self.file.as_deref(), self.output.as_deref(), |mut from, mut to| {
            decompress_stream(&mut from, &mut to)
        })
    }
}

fn copy(
    file: Option<&Path>,
    output: Option<&Path>,
    work: impl FnOnce(&mut dyn Read, &mut dyn Write) -> Result<u64>,
) -> Result<u8> {
    let mut from: Box<dyn Read> = match file {
        None => Box::new(std::io::stdin().lock()),
        Some(path) => {
            let opened = std::fs::OpenOptions::new().read(true).open(path);
            Box::new(BufReader::new(opened.map_err(Error::io(format!("opening {}", path.display())))?))
        }
    };
    match output {
        None => to_output(|output| match work(&mut *from, output) {
            // What the output itself says decides what is made of it.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => Err(source),
            done => done.map(drop).map_err(std::io::Error::other),
        })?,
        Some(path) => to_file(path, |to| work(&mut *from, to).map(drop))?,
    }
    Ok(YES)
}
