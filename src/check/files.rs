//! The files of a store's directory: those that must be there, and those that are not Larder's.

use std::path::Path;

use super::report::Report;
use crate::config::{self, Settings};
use crate::error::{Error, Result};
use crate::format::files::is_of_store;
use crate::format::{FORMAT_VERSION, FormatLine};
use crate::io::Io;

/// What to do with a bad FORMAT.
const LINE: &str = "larder check --repair writes it anew";

/// The most of a small file that is read, bytes.
const SMALL: usize = 1 << 20;

/// Checks the names in the store's directory, FORMAT and the settings.
/// Errors: `Store` for a format that this build does not read.
pub fn check(io: &dyn Io, dir: &Path, report: &mut Report) -> Result<()> {
    let mut names = names(io, dir)?;
    names.sort();
    for name in names.iter().filter(|name| !is_of_store(name)) {
        stray(report, &dir.join(name));
    }
    let there = |name: &str| names.iter().any(|there| there == name);

    let path = dir.join("FORMAT");
    let place = path.display().to_string();
    if there("FORMAT") {
        let text = read(io, &path)?;
        match FormatLine::parse(&String::from_utf8_lossy(&text)) {
            Some(line) if line.version != FORMAT_VERSION => {
                return line.check().map_err(|why| Error::store(dir, why));
            }
            // What a bit more or less makes of it must not pass.
            Some(line) if text != format!("{line}\n").as_bytes() => {
                report.warning("format", place, "it is not as Larder writes it", LINE);
            }
            Some(_) => {}
            None => {
                report.error(
                    "format",
                    place,
                    format!("it does not read `larder {FORMAT_VERSION} ID`, and the store is refused"),
                    LINE,
                );
            }
        }
    } else {
        report.error("format", place, "missing", LINE);
    }

    let path = dir.join(config::FILE_NAME);
    if there(config::FILE_NAME) {
        let text = read(io, &path)?;
        let loaded = match std::str::from_utf8(&text) {
            Ok(text) => Settings::load(dir, Some(text), [], []).map(drop).map_err(|error| error.to_string()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        };
        if let Err(why) = loaded {
            report.warning(
                "settings",
                path.display().to_string(),
                why,
                "correct it, or remove it for the defaults",
            );
        }
    }

    for part in ["journal", "segments"] {
        if !there(part) {
            let place = dir.join(part).display().to_string();
            report.error(part, place, "missing", "restore it from a backup");
        }
    }
    if there("journal") {
        let number = |name: &String| name.len() >= 8 && name.bytes().all(|byte| byte.is_ascii_digit());
        for name in self::names(io, &dir.join("journal"))?.iter().filter(|name| !number(name)) {
            stray(report, &dir.join("journal").join(name));
        }
    }
    if there("segments") {
        let hex = |name: &str, len: usize| {
            name.len() == len && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        for folder in self::names(io, &dir.join("segments"))? {
            let path = dir.join("segments").join(&folder);
            if !hex(&folder, 2) {
                stray(report, &path);
                continue;
            }
            for name in self::names(io, &path)? {
                if !hex(&name, 8) || !name.ends_with(&folder) {
                    stray(report, &path.join(&name));
                }
            }
        }
    }
    Ok(())
}

fn stray(report: &mut Report, path: &Path) {
    let what = "this is no file of Larder's, and takes room in the store";
    report.warning("files", path.display().to_string(), what, "move it elsewhere if it is yours");
}

/// The names in a directory, as far as they are text; others are told with replacement characters.
fn names(io: &dyn Io, dir: &Path) -> Result<Vec<String>> {
    let listed = io.list(dir).map_err(Error::io(format!("listing {}", dir.display())))?;
    let name = |path: &std::path::PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    Ok(listed.iter().filter_map(name).collect())
}

/// The start of a small file.
pub fn read(io: &dyn Io, path: &Path) -> Result<Vec<u8>> {
    let failed = || Error::io(format!("reading {}", path.display()));
    let file = io.open_read(path).map_err(failed())?;
    let mut bytes = vec![0; SMALL.min(file.len().map_err(failed())? as usize)];
    let got = file.read_at(&mut bytes, 0).map_err(failed())?;
    bytes.truncate(got);
    Ok(bytes)
}
