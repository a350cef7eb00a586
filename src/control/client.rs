//! The command's end of the socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use super::{Answer, MAX_ANSWER, Request, SOCKET};
use crate::error::{Error, Result};

/// How long a client asks again while the daemon serves as many others as it can.
const BUSY: Duration = Duration::from_secs(30);

/// How soon it does, at first and at last: it doubles.
const ASK_AGAIN: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(50)];

/// Asks the daemon of a store, and waits for the answer as long as it takes: a sync of much dirty
/// data takes its time. After `Umount` the daemon's process has ended, and holds nothing of the store or its disk.
/// Errors: `NotFound` when no daemon listens there.
pub fn ask(store: &Path, request: Request) -> Result<serde_json::Value> {
    ask_with(store, request, &[])
}

/// [`ask`] with bytes behind the request.
pub fn ask_with(store: &Path, request: Request, body: &[u8]) -> Result<serde_json::Value> {
    ask_watching(store, request, body, &mut |_| {})
}

/// [`ask_with`], hearing how far it has come meanwhile.
pub fn ask_watching(
    store: &Path,
    request: Request,
    body: &[u8],
    progress: &mut dyn FnMut(serde_json::Value),
) -> Result<serde_json::Value> {
    let begun = Instant::now();
    let [mut pause, longest] = ASK_AGAIN;
    loop {
        if let Some(answer) = ask_once(store, request, body, progress)? {
            return Ok(answer);
        }
        if begun.elapsed() > BUSY {
            return Err(Error::Config("the daemon serves too many clients; try again".to_owned()));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
}

/// `None` when it is busy, and has done nothing.
fn ask_once(
    store: &Path,
    request: Request,
    body: &[u8],
    progress: &mut dyn FnMut(serde_json::Value),
) -> Result<Option<serde_json::Value>> {
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
    // Taken while it surely lives; a kernel before 6.5 does not give it.
    let daemon = getsockopt(&stream, sockopt::PeerPidfd).ok();
    let failed = |error| Error::io("talking to the daemon")(error);
    let mut line = serde_json::to_vec(&request).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    line.extend_from_slice(body);
    match stream.write_all(&line) {
        // It may have answered before it took in all: that it will not.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        sent => sent.map_err(failed)?,
    }
    let mut reader = BufReader::new(stream);
    loop {
        let mut answer = String::new();
        (&mut reader).take(MAX_ANSWER).read_line(&mut answer).map_err(failed)?;
        if answer.is_empty() {
            return Err(Error::store(
                store,
                "the daemon ended without an answer; its log is larder.log in the store",
            ));
        }
        match serde_json::from_str(&answer) {
            Ok(Answer::Progress(value)) => progress(value),
            Ok(Answer::Ok(value)) => {
                if request == Request::Umount {
                    daemon.as_ref().map_or(Ok(()), wait_for_end).map_err(failed)?;
                }
                return Ok(Some(value));
            }
            Ok(Answer::Busy) => return Ok(None),
            Ok(Answer::Error(why)) => return Err(Error::Config(why)),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Waits until a process has ended.
fn wait_for_end(process: &OwnedFd) -> std::io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            ended => return ended.map(drop).map_err(Into::into),
        }
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
