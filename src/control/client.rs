//! The command's end of the socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Answer, MAX_ANSWER, Request, SOCKET};
use crate::error::{Error, Result};

/// Asks the daemon of a store, and waits for the answer as long as it takes: a sync of much dirty
/// data takes its time. Errors: `NotFound` when no daemon listens there.
pub fn ask(store: &Path, request: Request) -> Result<serde_json::Value> {
    let mut stream = match short_path(store, UnixStream::connect) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound
                    | std::io::ErrorKind::ConnectionRefused
                    | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Err(Error::NotFound);
        }
        Err(error) => {
            return Err(Error::io(format!("connecting to {}", store.join(SOCKET).display()))(error));
        }
    };
    let failed = |error| Error::io("talking to the daemon")(error);
    let mut line = serde_json::to_vec(&request).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut answer).map_err(failed)?;
    if answer.is_empty() {
        return Err(Error::store(
            store,
            "the daemon ended without an answer; its log is larder.log in the store",
        ));
    }
    match serde_json::from_str(&answer) {
        Ok(Answer::Ok(value)) => Ok(value),
        Ok(Answer::Error(why)) => Err(Error::Config(why)),
        Err(error) => Err(failed(error.into())),
    }
}

/// Calls `with` with a path of the socket that is short whatever the store's is: the name of a socket
/// has at most 107 bytes.
pub(super) fn short_path<T>(
    store: &Path,
    with: impl FnOnce(PathBuf) -> std::io::Result<T>,
) -> std::io::Result<T> {
    let dir = std::fs::OpenOptions::new().read(true).open(store)?;
    with(PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())))
}
