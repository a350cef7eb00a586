//! The running daemon's socket, by which the command reaches a mounted store.
//!
//! `STORE/control`, mode 0600. A client sends one line of JSON and gets one line back:
//!
//! ```text
//! {"command":"status"}   →  {"ok":{"mountpoint":"/mnt/larder",...}}
//! {"command":"sync"}     →  {"ok":null}                       once everything is durable
//! {"command":"keys","body":N} and N bytes →  {"ok":...}      the library's; `store::remote` says what they hold
//! {"command":"backup","body":N} and N bytes, a path →  {"progress":...}, as often as it goes on, then {"ok":...}
//! {"command":"set","body":N} and N bytes, NAME=VALUE →  {"ok":null}  a limit is changed, until the store is closed
//! {"command":"umount"}   →  {"ok":null}                       once unmounted, durable and closed
//! anything else          →  {"error":"what is wrong"}         and the connection is closed
//! anything               →  "busy"                           while as many clients as can be are served
//! ```
//!
//! Only root and the user who runs the daemon are listened to. A client cannot hold the daemon up:
//! each connection has a thread, there are at most [`MAX_CLIENTS`], a request has [`MAX_REQUEST`] bytes, what
//! follows it [`MAX_BODY`],
//! and [`PATIENCE`] to arrive. The socket decides nothing: who owns a store is told by its lock.

mod client;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::{Shutdown, getsockopt, shutdown, sockopt::PeerCredentials};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use client::{ask, ask_watching, ask_with};

/// The socket's name in the store.
pub const SOCKET: &str = "control";

/// The most clients that are served at once.
pub const MAX_CLIENTS: usize = 16;

/// The longest request, bytes.
pub const MAX_REQUEST: u64 = 4096;

/// The most bytes that may follow a request.
pub const MAX_BODY: u32 = 8 << 20;

/// The longest answer that a client takes in, bytes. A mount of another user may be answered by anything.
pub const MAX_ANSWER: u64 = 1 << 20;

/// How long a client may take to send its request, or to take in the answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Figures of the store and the mount.
    Status,
    /// Makes everything durable.
    Sync,
    /// What the library asks of the keys, in so many bytes behind the line.
    Keys {
        /// How many bytes follow.
        body: u32,
    },
    /// Copies the store to the directory that so many bytes behind the line name.
    Backup {
        /// How many bytes follow.
        body: u32,
    },
    /// Changes a setting: so many bytes behind the line, `NAME=VALUE`.
    Set {
        /// How many bytes follow.
        body: u32,
    },
    /// Unmounts; the answer comes from [`Control::finish`], when the store is closed.
    Umount,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// How far it has come; more follows.
    Progress(serde_json::Value),
    /// It is done; the figures for `status`.
    Ok(serde_json::Value),
    /// It failed; why, and what to do.
    Error(String),
    /// Nothing was done, since [`MAX_CLIENTS`] are being served: ask again.
    Busy,
}

/// Who asks, and what came with the request.
#[derive(Clone, Debug)]
pub struct Client {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id.
    pub pid: u32,
    /// The bytes behind the request.
    pub body: Vec<u8>,
    stream: Arc<UnixStream>,
}

impl Client {
    /// Tells how far it has come. Errors: the client is gone, and nobody waits for the answer.
    pub fn tell(&self, progress: serde_json::Value) -> Result<()> {
        let gone = Error::io("the client is gone");
        line_to(&self.stream, &Answer::Progress(progress)).map_err(gone)
    }
}

type Handler = dyn Fn(Request, &Client) -> Result<serde_json::Value> + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    clients: AtomicUsize,
    /// Those who asked for the end and wait for it.
    waiting: Mutex<Vec<UnixStream>>,
}

/// The listening socket.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    shared: Arc<Shared>,
}

impl Control {
    /// Listens in a store, whose lock the caller holds: a socket that lies there is a dead daemon's.
    pub fn serve(
        store: &Path,
        handler: impl Fn(Request, &Client) -> Result<serde_json::Value> + Send + Sync + 'static,
    ) -> Result<Control> {
        let path = store.join(SOCKET);
        let failed = |error| Error::io(format!("listening at {}", path.display()))(error);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = client::short_path(store, UnixListener::bind).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            clients: AtomicUsize::new(0),
            waiting: Mutex::new(Vec::new()),
        });
        let accepting = (listener.try_clone().map_err(failed)?, Arc::clone(&shared));
        std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept(&accepting.0, &accepting.1))
            .map_err(failed)?;
        Ok(Control { listener, path, shared })
    }

    /// Stops listening, removes the socket and tells those who asked for the end how it went.
    pub fn finish(self, outcome: &Result<()>) {
        // Both fail only if the socket is gone already.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        let _ = std::fs::remove_file(&self.path);
        let answer = match outcome {
            Ok(()) => Answer::Ok(serde_json::Value::Null),
            Err(error) => Answer::Error(error.to_string()),
        };
        for stream in self.shared.waiting.lock().drain(..) {
            send(stream, &answer);
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => start(stream, shared),
            // `finish` has shut the socket down.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
            // Out of descriptors, or a client that went away: neither may make this a busy loop.
            Err(error) => {
                log::warn!("control socket: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn start(stream: UnixStream, shared: &Arc<Shared>) {
    if shared.clients.fetch_add(1, Ordering::AcqRel) >= MAX_CLIENTS {
        shared.clients.fetch_sub(1, Ordering::AcqRel);
        return send(stream, &Answer::Busy);
    }
    let place = Place(Arc::clone(shared));
    let spawned =
        std::thread::Builder::new().name("control-client".to_owned()).spawn(move || serve(stream, &place.0));
    if let Err(error) = spawned {
        log::warn!("control socket: {error}");
    }
}

/// A client's place among the [`MAX_CLIENTS`], given back however its thread ends, also when it was not started.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve(mut stream: UnixStream, shared: &Shared) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let received = permitted(&stream).and_then(|client| {
        let (request, body) = receive(&mut |piece| receive_piece(&mut stream, piece, deadline))?;
        Ok((request, Client { body, ..client }))
    });
    let (request, client) = match received {
        Ok(received) => received,
        Err(why) => return send(stream, &Answer::Error(why)),
    };
    // Taken in before the handler runs: the end may come while it does.
    let mut place = None;
    if request == Request::Umount {
        match stream.try_clone() {
            Ok(waiting) => {
                place = Some(waiting.as_raw_fd());
                shared.waiting.lock().push(waiting);
            }
            Err(error) => return send(stream, &Answer::Error(error.to_string())),
        }
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| (shared.handler)(request, &client)));
    match outcome.unwrap_or_else(|_| Err(Error::Damaged("the request panicked; see the log".to_owned()))) {
        Ok(value) if request != Request::Umount => send(stream, &Answer::Ok(value)),
        Ok(_) => {}
        Err(error) => {
            shared.waiting.lock().retain(|waiting| Some(waiting.as_raw_fd()) != place);
            send(stream, &Answer::Error(error.to_string()));
        }
    }
}

fn permitted(stream: &UnixStream) -> Result<Client, String> {
    let peer = getsockopt(stream, PeerCredentials).map_err(|errno| errno.to_string())?;
    if peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw() {
        let stream = Arc::new(stream.try_clone().map_err(|error| error.to_string())?);
        Ok(Client {
            uid: peer.uid(),
            gid: peer.gid(),
            pid: peer.pid().unsigned_abs(),
            body: Vec::new(),
            stream,
        })
    } else {
        Err("only root and the user who mounted the store may do this".to_owned())
    }
}

/// What a client is told that went away before its request was whole.
const CUT_OFF: &str = "the request was cut off";

/// Reads a request and what follows it. `read` fills its argument from the start and says how far; 0 at the end.
/// Nothing that the client says makes it hold more than [`MAX_REQUEST`] and [`MAX_BODY`] bytes.
pub(crate) fn receive(
    read: &mut dyn FnMut(&mut [u8]) -> Result<usize, String>,
) -> Result<(Request, Vec<u8>), String> {
    let mut line = Vec::new();
    let mut follows = Vec::new();
    let request = loop {
        let mut piece = [0; 512];
        let got = read(&mut piece)?;
        let new = piece.get(..got).unwrap_or_default();
        let end = new.iter().position(|&byte| byte == b'\n');
        line.extend_from_slice(new.get(..end.unwrap_or(got)).unwrap_or_default());
        if line.len() as u64 > MAX_REQUEST {
            return Err(format!("the request is longer than {MAX_REQUEST} bytes"));
        }
        if got == 0 {
            return Err(CUT_OFF.to_owned());
        }
        if let Some(end) = end {
            follows.extend_from_slice(new.get(end + 1..).unwrap_or_default());
            break serde_json::from_slice(&line).map_err(|error| format!("malformed request: {error}"))?;
        }
    };
    let (Request::Keys { body } | Request::Backup { body } | Request::Set { body }) = request else {
        return Ok((request, Vec::new()));
    };
    if body > MAX_BODY {
        return Err(format!("more than {MAX_BODY} bytes behind the request"));
    }
    let mut piece = vec![0; 64 << 10];
    while follows.len() < body as usize {
        let got = read(&mut piece)?;
        if got == 0 {
            return Err(CUT_OFF.to_owned());
        }
        follows.extend_from_slice(piece.get(..got).unwrap_or_default());
    }
    follows.truncate(body as usize);
    Ok((request, follows))
}

fn receive_piece(
    stream: &mut UnixStream,
    piece: &mut [u8],
    deadline: std::time::Instant,
) -> Result<usize, String> {
    let left = deadline.saturating_duration_since(std::time::Instant::now());
    if left.is_zero() {
        return Err("the request took too long".to_owned());
    }
    stream.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
    stream.read(piece).map_err(|_| "the request took too long".to_owned())
}

/// Sends the answer and closes. A client that does not take it is none of our concern.
fn send(stream: UnixStream, answer: &Answer) {
    let _ = line_to(&stream, answer);
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

fn line_to(mut stream: &UnixStream, answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&line)
}

#[cfg(test)]
mod tests;
