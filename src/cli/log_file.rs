//! The log of a daemon in the background: a file that does not grow without bound.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::path::{Path, PathBuf};

use larder::format::files::LOG;

/// How long it may get, bytes; then it becomes the old one. Some ten thousand lines.
pub const LIMIT: u64 = 1 << 20;

/// The log, open for appending. On the disk there are at most twice [`LIMIT`] and one line.
pub struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl LogFile {
    /// Opens the log of a store, and makes it if it is not there.
    pub fn open(store: &Path) -> Result<LogFile> {
        let path = store.join(LOG);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let len = file.metadata()?.len();
        Ok(LogFile { path, file, len })
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> Result<usize> {
        if self.len >= LIMIT {
            std::fs::rename(&self.path, self.path.with_extension("log.old"))?;
            self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.len = 0;
        }
        let written = self.file.write(line)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_and_the_one_before_it_stay_within_their_limit_and_the_last_lines_are_there() {
        let store = tempfile::tempdir().unwrap();
        let line = "x".repeat(1 << 16);
        let lines = 5 * LIMIT / line.len() as u64;
        for n in 0..lines {
            // A remount in the middle changes nothing.
            let mut log = LogFile::open(store.path()).unwrap();
            // One write a line, as the logger does.
            log.write_all(format!("{line}{n}\n").as_bytes()).unwrap();
        }
        let read = |name: &str| std::fs::read(store.path().join(name)).unwrap();
        assert!(read(LOG).ends_with(format!("x{}\n", lines - 1).as_bytes()));
        for name in [LOG, "larder.log.old"] {
            assert!((read(name).len() as u64) < LIMIT + 2 * line.len() as u64, "{name}");
        }
        assert_eq!(std::fs::read_dir(store.path()).unwrap().count(), 2);
    }
}
