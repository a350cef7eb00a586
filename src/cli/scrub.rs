//! `larder scrub`

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use larder::config::parse_size;
use larder::error::{Error, Result};
use larder::store::{Hurt, Place, Store};
use serde::{Deserialize, Serialize};

use super::at::{At, EXIT, NO, YES, shown};
use super::human;
use super::progress::bytes_bar;

/// Read everything that is stored once more, and tell what the disk has lost
///
/// The store may be in use. Interrupted, it goes on where it was the next time. Exit status 1: some content is
/// damaged; reading it is an I/O error, and all else is untouched.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Scrub {
    #[command(flatten)]
    at: At,
    /// How much is read in a second at most, so that others get to the disk; 0: as fast as can be
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    rate: String,
    /// Begin at the beginning, wherever the last one was
    #[arg(long)]
    restart: bool,
    /// As JSON, when it is through
    #[arg(long)]
    json: bool,
}

/// Where the file is, in the store's directory, that says how far a scrub has come.
const FILE: &str = "scrub.json";

/// Bytes that are read in one go: what a quarter of a second may take, within these.
const PART: std::ops::RangeInclusive<u64> = 64 << 10..=8 << 20;

/// How often it is written down how far it has come.
const NOTED: Duration = Duration::from_secs(1);

/// How far a scrub has come.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Progress {
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Place>,
    frames: u64,
    bytes: u64,
    hurt: Vec<Hurt>,
}

impl Scrub {
    pub fn run(self) -> Result<u8> {
        let rate =
            parse_size(&self.rate).map_err(|why| Error::Config(format!("--rate {}: {why}", self.rate)))?;
        let store = self.at.open(false)?;
        let file = store.path().join(FILE);
        let begun = if self.restart { None } else { noted(&file)? };
        if begun.is_some() && !self.json {
            say!("going on where the last scrub was interrupted; --restart begins anew")?;
        }
        let mut progress =
            begun.unwrap_or_else(|| Progress { next: Some(Place::default()), ..Progress::default() });
        progress.hurt.iter().try_for_each(|hurt| self.tell(hurt))?;
        self.scrub(&store, rate, &file, &mut progress)?;
        if let Err(error) = std::fs::remove_file(&file)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(Error::io(format!("removing {}", file.display()))(error));
        }
        store.close()?;
        let hurt = progress.hurt.len();
        if self.json {
            let text = serde_json::to_string(&progress).map_err(|e| Error::io("writing JSON")(e.into()))?;
            say!("{text}")?;
        } else {
            say!("{} frames with {} read", progress.frames, human(progress.bytes))?;
            match hurt {
                0 => say!("nothing is damaged")?,
                _ => say!(
                    "{hurt} pages are damaged: restore these keys from elsewhere, or remove them; larder check tells \
                     of the rest of the store"
                )?,
            }
        }
        Ok(if hurt > 0 { NO } else { YES })
    }

    fn scrub(&self, store: &Store, rate: u64, file: &Path, progress: &mut Progress) -> Result<()> {
        let bar = bytes_bar("verifying");
        let (begun, already) = (Instant::now(), progress.bytes);
        let mut noted = begun;
        let size = if rate == 0 { *PART.end() } else { (rate / 4).clamp(*PART.start(), *PART.end()) };
        while let Some(from) = progress.next {
            let part = store.scrub(from, size)?;
            bar.set_length(part.total.max(progress.bytes + part.bytes));
            progress.next = part.next;
            progress.frames += part.frames;
            progress.bytes += part.bytes;
            bar.set_position(progress.bytes);
            let told = bar.suspend(|| part.hurt.iter().try_for_each(|hurt| self.tell(hurt)));
            let new = !part.hurt.is_empty();
            progress.hurt.extend(part.hurt);
            if progress.next.is_some() && (new || noted.elapsed() >= NOTED) {
                note(file, progress)?;
                noted = Instant::now();
            }
            told?;
            if rate > 0 && progress.next.is_some() {
                let due = Duration::from_secs_f64((progress.bytes - already) as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn tell(&self, hurt: &Hurt) -> Result<()> {
        if self.json {
            return Ok(());
        }
        say!("{}: damaged from byte {} on: {}", shown(hurt.key.as_bytes()), hurt.offset, hurt.why)
    }
}

/// How far an interrupted scrub had come. A file that makes no sense is none.
fn noted(file: &Path) -> Result<Option<Progress>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(serde_json::from_str(&text).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("reading {}", file.display()))(error)),
    }
}

/// Writes down how far it has come.
fn note(file: &Path, progress: &Progress) -> Result<()> {
    let text = serde_json::to_string(progress).map_err(|error| Error::io("writing JSON")(error.into()))?;
    super::replace(file, &text)
}
