//! What the library asks of the daemon that serves a mounted store: both ends.
//!
//! Reading and attributes go through the mount. Changes of keys do not: a rename there is atomic, but for one
//! key only, and carries the content along only where it replaces something. So they come as one request
//! (`control::Request::Keys`) with a `Call` behind it, and the answer is one JSON value: what was asked for
//! as `{"done":...}`, or `{"errno":28,"why":"no space left in the store"}`. Content too large for a request is
//! written through the mount under a name of its own, and moved.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::control::{Client, MAX_BODY, Request, ask_with};
use crate::error::{Error, Result};
use crate::format::{decode_borrowed, encode};
use crate::mount::errno::errno;
use crate::mount::session;
use crate::volume::{Caller, Change, Place, To, Volume};

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Call<'a> {
    /// Changes of keys, all or none.
    Apply {
        #[serde(borrow)]
        changes: Vec<Change<'a>>,
        durable: bool,
        umask: u32,
    },
    Clear,
    Chores,
    Cleanup,
    Align {
        dry_run: bool,
    },
    Scrub {
        from: Place,
        bytes: u64,
    },
    Stats,
    Sync,
}

/// Answers a request. What comes from the client is not trusted: it may be anything. `read_only`: nothing is changed.
pub fn answer(volume: &Volume, client: &Client, read_only: bool) -> Value {
    match perform(volume, client, read_only) {
        Ok(done) => json!({ "done": done }),
        Err(error) => json!({ "errno": sent(&error), "why": plain(&error) }),
    }
}

/// What filesystems call damage, which the kernel hears of as EIO.
const DAMAGED: i32 = libc::EUCLEAN;

fn sent(error: &Error) -> i32 {
    match error {
        Error::Damaged(_) => DAMAGED,
        other => errno(other),
    }
}

/// Reads a request as the daemon does, and checks that what is taken would be sent and read the same.
#[cfg(feature = "testing")]
pub(crate) fn accepts(body: &[u8]) {
    let Ok(call) = decode_borrowed::<Call<'_>>(body, "request") else { return };
    let sent = encode(&call);
    assert!(sent.len() <= body.len(), "{} bytes of {}", sent.len(), body.len());
    let again = decode_borrowed::<Call<'_>>(&sent, "request").map(|call| encode(&call));
    assert_eq!(again.ok().as_ref(), Some(&sent));
    if let Call::Apply { changes, .. } = &call {
        changes.iter().for_each(|change| drop(crate::volume::check_path(change.path).map(Iterator::count)));
    }
}

fn perform(volume: &Volume, client: &Client, read_only: bool) -> Result<Value> {
    let call: Call<'_> = decode_borrowed(&client.body, "request")
        .map_err(|error| Error::Invalid(format!("a malformed request: {error}")))?;
    if read_only && matches!(call, Call::Apply { .. } | Call::Clear | Call::Align { dry_run: false }) {
        return Err(Error::ReadOnly("it is mounted with -o ro".into()));
    }
    let changes = !matches!(call, Call::Chores | Call::Scrub { .. } | Call::Stats | Call::Sync);
    let caller = |umask| Caller { uid: client.uid, gid: client.gid, pid: client.pid, umask };
    let value =
        |value: serde_json::Result<Value>| value.map_err(|error| Error::io("the answer")(error.into()));
    let done = match call {
        Call::Apply { changes, durable, umask } => {
            if changes.iter().any(|change| matches!(change.to, To::Unnamed(..))) {
                return Err(Error::Invalid(
                    "a malformed request: files without a name are not shared".into(),
                ));
            }
            let there = volume.apply(&caller(umask & 0o777), &changes, durable)?;
            value(serde_json::to_value(there))
        }
        Call::Clear => volume.clear(&caller(0)).map(|()| Value::Null),
        Call::Chores => value(serde_json::to_value(volume.chores()?)),
        Call::Cleanup => value(serde_json::to_value(volume.cleanup()?)),
        Call::Align { dry_run } => value(serde_json::to_value(volume.align(dry_run)?)),
        Call::Scrub { from, bytes } => value(serde_json::to_value(volume.scrub(from, bytes)?)),
        Call::Stats => value(serde_json::to_value(volume.stats()?)),
        Call::Sync => volume.sync().map(|()| Value::Null),
    };
    if changes {
        // Whoever asked will look through the mount next.
        volume.wait_told();
    }
    done
}

/// An error's text without what its kind adds to it on the other side.
fn plain(error: &Error) -> String {
    match error {
        Error::ReadOnly(why) | Error::Damaged(why) => why.clone(),
        Error::Io { what, source } if source.raw_os_error() == Some(libc::EIO) => what.clone(),
        other => other.to_string(),
    }
}

/// Asks the daemon of a store.
pub(super) fn ask<T: DeserializeOwned>(store: &std::path::Path, call: &Call<'_>) -> Result<T> {
    let body = encode(call);
    let len = u32::try_from(body.len()).ok().filter(|len| *len <= MAX_BODY).ok_or(Error::TooLarge)?;
    let answer = session::answered(store, ask_with(store, Request::Keys { body: len }, &body))?;
    if let Some(errno) = answer.get("errno").and_then(Value::as_i64) {
        let why = answer.get("why").and_then(Value::as_str).unwrap_or_default();
        return Err(error_of(errno as i32, why));
    }
    let done = answer.get("done").cloned().unwrap_or_default();
    serde_json::from_value(done).map_err(|error| Error::io("reading the daemon's answer")(error.into()))
}

/// The error that an errno stands for; `why` is what is known beyond that.
pub(super) fn error_of(errno: i32, why: &str) -> Error {
    match errno {
        libc::ENOENT => Error::NotFound,
        libc::EEXIST => Error::Exists,
        libc::ENOTDIR => Error::NotADirectory,
        libc::EISDIR => Error::IsADirectory,
        libc::ENOTEMPTY => Error::NotEmpty,
        libc::EPERM => Error::NotPermitted,
        libc::EACCES => Error::Denied,
        libc::ENAMETOOLONG => Error::NameTooLong,
        libc::EFBIG => Error::TooLarge,
        libc::EMLINK => Error::TooManyLinks,
        libc::ENOSPC => Error::NoSpace,
        libc::EDQUOT => Error::QuotaExceeded,
        libc::EXDEV => Error::CrossesQuota,
        libc::ENODATA => Error::NoAttribute,
        libc::EOPNOTSUPP => Error::NotSupported,
        libc::ESTALE => Error::Stale,
        libc::EINVAL => Error::Invalid(why.to_owned()),
        libc::EROFS => Error::ReadOnly(why.to_owned()),
        DAMAGED => Error::Damaged(why.to_owned()),
        _ => Error::Io { what: why.to_owned(), source: std::io::Error::from_raw_os_error(errno) },
    }
}
