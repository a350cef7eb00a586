//! What the commands write to stdout and stderr. Whoever reads it may go away at any moment, as `head` does: that is no
//! failure, and keeps no command from its work.

use std::ffi::OsString;
use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use larder::error::{Error, Result};
use nix::sys::stat::{SFlag, fstat};

/// Writes a line to stdout, as `println!`, but with a [`Result`].
macro_rules! say {
    ($($arg:tt)*) => {
        $crate::cli::output::line(format_args!($($arg)*))
    };
}

/// Writes a line to stderr, as `eprintln!`, or to nobody.
macro_rules! complain {
    ($($arg:tt)*) => {
        $crate::cli::output::complaint(format_args!($($arg)*))
    };
}

/// A line on stdout.
pub fn line(text: Arguments<'_>) -> Result<()> {
    written(writeln!(std::io::stdout(), "{text}"))
}

/// A line on stderr. Nobody could be told that it failed.
pub fn complaint(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A copy to stdout.
pub fn to_output(work: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let mut output = std::io::BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
    written(work(&mut output).and_then(|()| output.flush()))
}

/// Whether at the other end of it there is another process, which may wait for something.
pub fn is_pipe(end: impl AsFd) -> bool {
    let kind = fstat(end).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
    kind.is_ok_and(|kind| kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK)
}

/// A file without a name, with what `work` has written, to be read from its beginning. `what` that is.
pub fn spooled(what: &str, work: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<File> {
    let dir = std::env::temp_dir();
    let open = OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(&dir);
    let failed = |error| unwrapped(error, &format!("keeping {what} in {}", dir.display()));
    let mut file = open.map_err(failed)?;
    work(&mut file).and_then(|()| file.rewind()).map_err(failed)?;
    Ok(file)
}

/// Writes a file: whoever looks at it, and whatever fails of this, finds what was there before or all that is new. Whoever wants it
/// to survive a power loss flushes it in `work`. What is no regular file, as a device, is written to.
pub fn to_file(path: &Path, work: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let failed = |error| unwrapped(error, &format!("writing {}", path.display()));
    let there = std::fs::metadata(path).ok();
    if there.as_ref().is_some_and(|there| !there.is_file()) {
        return work(&mut OpenOptions::new().write(true).open(path).map_err(failed)?);
    }
    // Where a symbolic link leads.
    let target = if there.is_some() { path.canonicalize().map_err(failed)? } else { path.to_owned() };
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let new = target.with_file_name(name);
    let done = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).open(&new).map_err(failed)?;
        if let Some(there) = there {
            file.set_permissions(there.permissions()).map_err(failed)?;
        }
        work(&mut file)?;
        std::fs::rename(&new, &target).map_err(failed)
    })();
    if done.is_err() {
        // It may not have been made.
        let _ = std::fs::remove_file(&new);
    }
    done
}

fn written(result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| unwrapped(error, "writing")),
    }
}

/// The library's own error, where a stream carried it. Else one of something that is not the store: no room there is none
/// of its [`Error::NoSpace`].
pub fn unwrapped(error: std::io::Error, what: &str) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(source) => Error::Io { what: what.to_owned(), source },
    }
}
