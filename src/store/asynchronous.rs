//! The store for programs that run on tokio (feature `tokio`).
//!
//! Every operation runs on tokio's blocking threads, so no task of the executor waits for a disk. Dropping a future
//! takes nothing back: what had begun goes on, and happens as a whole. Waiting for a lock takes no thread.
//!
//! ```
//! use larder::store::AsyncStore;
//! use tokio::io::AsyncReadExt;
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("store");
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let store = AsyncStore::open(&path).await?;
//! store.set("users/alice", "some text").await?;
//! assert_eq!(store.get("users/alice").await?.as_deref(), Some(&b"some text"[..]));
//!
//! let mut text = String::new();
//! store.reader("users/alice").await?.expect("it is there").read_to_string(&mut text).await.unwrap();
//! assert_eq!(text, "some text");
//!
//! // Whatever has no method of its own here:
//! let left = store.run(|store| store.stat("users/alice")).await?;
//! assert_eq!(left.unwrap().size, 9);
//! store.close().await
//! # }).unwrap();
//! ```

use std::future::Future;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::{
    Aligned, Batch, Chores, Cleaned, Expiry, Key, Keys, Options, Place, Reader, Scrubbed, SetOptions, Stat,
    Stats, Store, Touch, Writer,
};
use crate::error::{Error, Result};

/// Bytes that are read, or gathered for a write, in one go.
const PART: usize = 256 << 10;

/// Keys that are listed in one go.
const KEYS: usize = 1024;

/// How often a lock that another has is asked for: more and more seldom, up to this.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// A store, as [`Store`], whose operations are awaited. Clones are the same store. Close it: where the last clone is
/// dropped without, the store is closed right there, and that waits for the disk.
#[derive(Clone, Debug)]
pub struct AsyncStore(Store);

impl From<Store> for AsyncStore {
    fn from(store: Store) -> AsyncStore {
        AsyncStore(store)
    }
}

/// Runs what waits where waiting is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::io("the runtime")(ended(error))))
}

/// A panic goes on in whoever awaits; else the runtime is being shut down.
fn ended(error: JoinError) -> io::Error {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(cancelled) => io::Error::other(cancelled),
    }
}

impl AsyncStore {
    /// As [`Store::open`].
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub async fn open(path: impl Into<PathBuf>) -> Result<AsyncStore> {
        AsyncStore::open_with(path, Store::options()).await
    }

    /// As [`Options::open`].
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub async fn open_with(path: impl Into<PathBuf>, options: Options) -> Result<AsyncStore> {
        let path = path.into();
        blocking(move || options.open(path).map(AsyncStore)).await
    }

    /// As [`Store::connect`].
    ///
    /// # Errors
    ///
    /// As [`Store::connect`].
    pub async fn connect(path: impl Into<PathBuf>) -> Result<AsyncStore> {
        let path = path.into();
        blocking(move || Store::connect(path).map(AsyncStore)).await
    }

    /// Runs operations of the blocking store on a blocking thread.
    ///
    /// # Errors
    ///
    /// Those of `work`; [`Error::Io`] when the runtime is being shut down.
    ///
    /// # Panics
    ///
    /// When `work` does.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.0.clone();
        blocking(move || work(&store)).await
    }

    /// As [`Store::set`].
    ///
    /// # Errors
    ///
    /// As [`Store::set`].
    pub async fn set(&self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Result<()> {
        self.set_with(key, value, SetOptions::new()).await
    }

    /// As [`Store::set_with`].
    ///
    /// # Errors
    ///
    /// As [`Store::set_with`].
    pub async fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: SetOptions,
    ) -> Result<()> {
        let (key, value) = (Key::new(key)?, value.into());
        self.run(move |store| store.set_with(key, value, &options)).await
    }

    /// As [`Store::get`].
    ///
    /// # Errors
    ///
    /// As [`Store::get`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let key = Key::new(key)?;
        self.run(move |store| store.get(key)).await
    }

    /// As [`Store::delete`].
    ///
    /// # Errors
    ///
    /// As [`Store::delete`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = Key::new(key)?;
        self.run(move |store| store.delete(key)).await
    }

    /// As [`Store::delete_all`].
    ///
    /// # Errors
    ///
    /// As [`Store::delete_all`].
    pub async fn delete_all(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = Key::new(key)?;
        self.run(move |store| store.delete_all(key)).await
    }

    /// As [`Store::apply`].
    ///
    /// # Errors
    ///
    /// As [`Store::apply`].
    pub async fn apply(&self, batch: Batch) -> Result<Vec<bool>> {
        self.run(move |store| store.apply(&batch)).await
    }

    /// As [`Store::exists`].
    ///
    /// # Errors
    ///
    /// As [`Store::exists`].
    pub async fn exists(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = Key::new(key)?;
        self.run(move |store| store.exists(key)).await
    }

    /// As [`Store::stat`].
    ///
    /// # Errors
    ///
    /// As [`Store::stat`].
    pub async fn stat(&self, key: impl AsRef<[u8]>) -> Result<Option<Stat>> {
        let key = Key::new(key)?;
        self.run(move |store| store.stat(key)).await
    }

    /// As [`Store::touch`].
    ///
    /// # Errors
    ///
    /// As [`Store::touch`].
    pub async fn touch(&self, key: impl AsRef<[u8]>, what: Touch) -> Result<()> {
        let key = Key::new(key)?;
        self.run(move |store| store.touch(key, what)).await
    }

    /// As [`Store::expire`].
    ///
    /// # Errors
    ///
    /// As [`Store::expire`].
    pub async fn expire(&self, key: impl AsRef<[u8]>, expiry: Expiry) -> Result<()> {
        let key = Key::new(key)?;
        self.run(move |store| store.expire(key, expiry)).await
    }

    /// As [`Store::keys`]: [`AsyncKeys::next`] gives one after the other.
    pub fn keys(&self, prefix: impl AsRef<[u8]>) -> AsyncKeys {
        AsyncKeys { state: Listing::Idle(self.0.keys(prefix)), listed: Vec::new().into_iter() }
    }

    /// As [`Store::reader`].
    ///
    /// # Errors
    ///
    /// As [`Store::reader`].
    pub async fn reader(&self, key: impl AsRef<[u8]>) -> Result<Option<AsyncReader>> {
        let key = Key::new(key)?;
        let reader = self.run(move |store| store.reader(key)).await?;
        Ok(reader.map(|reader| AsyncReader { state: Reading::Idle(Box::new(reader), Vec::new()), at: 0 }))
    }

    /// As [`Store::writer_with`].
    ///
    /// # Errors
    ///
    /// As [`Store::writer_with`].
    pub fn writer(&self, key: impl AsRef<[u8]>, options: &SetOptions) -> Result<AsyncWriter> {
        let writer = self.0.writer_with(key, options)?;
        Ok(AsyncWriter { state: Writing::Idle(Box::new(writer), Vec::new()) })
    }

    /// As [`Store::lock`], while a future runs. Dropped before it has come to its end, as by a timeout, it gives the lock back
    /// at once, and a call that `work` was waiting for goes on all the same: another may have the lock by then.
    ///
    /// # Errors
    ///
    /// As [`Store::lock`].
    ///
    /// # Panics
    ///
    /// Where another has the lock, in a runtime without timers (`enable_time`).
    pub async fn lock<T>(&self, key: impl AsRef<[u8]>, work: impl Future<Output = T>) -> Result<T> {
        let key = Key::new(key)?;
        let mut pause = Duration::from_millis(1);
        loop {
            // Not by waiting on a blocking thread: those who have the lock need one to come to their end.
            let wanted = key.clone();
            if let Some(_lock) = self.run(move |store| store.door.lock(&wanted, false)).await? {
                return Ok(work.await);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ASK_AGAIN);
        }
    }

    /// As [`Store::try_lock`], while a future runs.
    ///
    /// # Errors
    ///
    /// As [`Store::lock`].
    pub async fn try_lock<T>(
        &self,
        key: impl AsRef<[u8]>,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>> {
        let key = Key::new(key)?;
        match self.run(move |store| store.door.lock(&key, false)).await? {
            Some(_lock) => Ok(Some(work.await)),
            None => Ok(None),
        }
    }

    /// As [`Store::has`].
    ///
    /// # Errors
    ///
    /// As [`Store::has`].
    pub async fn has(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = Key::new(key)?;
        self.run(move |store| store.has(key)).await
    }

    /// As [`Store::resolve`], which waits for nothing.
    ///
    /// # Errors
    ///
    /// As [`Store::resolve`].
    pub fn resolve(&self, key: impl AsRef<[u8]>) -> Result<Option<PathBuf>> {
        self.0.resolve(key)
    }

    /// As [`Store::align`].
    ///
    /// # Errors
    ///
    /// As [`Store::align`].
    pub async fn align(&self) -> Result<Aligned> {
        self.run(Store::align).await
    }

    /// As [`Store::cleanup`].
    ///
    /// # Errors
    ///
    /// As [`Store::cleanup`].
    pub async fn cleanup(&self) -> Result<Cleaned> {
        self.run(Store::cleanup).await
    }

    /// As [`Store::stats`].
    ///
    /// # Errors
    ///
    /// As [`Store::stats`].
    pub async fn stats(&self) -> Result<Stats> {
        self.run(Store::stats).await
    }

    /// As [`Store::chores`].
    ///
    /// # Errors
    ///
    /// As [`Store::chores`].
    pub async fn chores(&self) -> Result<Chores> {
        self.run(Store::chores).await
    }

    /// As [`Store::would_align`].
    ///
    /// # Errors
    ///
    /// As [`Store::would_align`].
    pub async fn would_align(&self) -> Result<Aligned> {
        self.run(Store::would_align).await
    }

    /// As [`Store::scrub`].
    ///
    /// # Errors
    ///
    /// As [`Store::scrub`].
    pub async fn scrub(&self, from: Place, bytes: u64) -> Result<Scrubbed> {
        self.run(move |store| store.scrub(from, bytes)).await
    }

    /// As [`Store::change_setting`].
    ///
    /// # Errors
    ///
    /// As [`Store::change_setting`].
    pub async fn change_setting(&self, name: &str, value: &str) -> Result<()> {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.run(move |store| store.change_setting(&name, &value)).await
    }

    /// As [`Store::clear`].
    ///
    /// # Errors
    ///
    /// As [`Store::clear`].
    pub async fn clear(&self) -> Result<()> {
        self.run(Store::clear).await
    }

    /// As [`Store::sync`].
    ///
    /// # Errors
    ///
    /// As [`Store::sync`].
    pub async fn sync(&self) -> Result<()> {
        self.run(Store::sync).await
    }

    /// As [`Store::close`].
    ///
    /// # Errors
    ///
    /// As [`Store::close`].
    pub async fn close(self) -> Result<()> {
        blocking(move || self.0.close()).await
    }

    /// The store's own directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Keys one after the other. Made by [`AsyncStore::keys`].
#[derive(Debug)]
pub struct AsyncKeys {
    state: Listing,
    listed: std::vec::IntoIter<Result<Key>>,
}

#[derive(Debug)]
enum Listing {
    Idle(Keys),
    Busy(JoinHandle<(Keys, Vec<Result<Key>>)>),
    /// The runtime ended under it.
    Lost,
}

impl AsyncKeys {
    /// The next key; `None` at the end. Errors come as those of [`Keys`] do. Dropped before it is ready, it has taken nothing:
    /// the next call gives the same key.
    pub async fn next(&mut self) -> Option<Result<Key>> {
        if let Some(key) = self.listed.next() {
            return Some(key);
        }
        if let Listing::Idle(_) = self.state
            && let Listing::Idle(mut keys) = std::mem::replace(&mut self.state, Listing::Lost)
        {
            self.state = Listing::Busy(spawn_blocking(move || {
                let listed = keys.by_ref().take(KEYS).collect();
                (keys, listed)
            }));
        }
        let Listing::Busy(listing) = &mut self.state else { return None };
        match listing.await {
            Ok((keys, listed)) => {
                (self.state, self.listed) = (Listing::Idle(keys), listed.into_iter());
                self.listed.next()
            }
            Err(error) => {
                self.state = Listing::Lost;
                Some(Err(Error::io("the runtime")(ended(error))))
            }
        }
    }
}

/// Reads the value of a key, as [`Reader`] does. Made by [`AsyncStore::reader`].
#[derive(Debug)]
pub struct AsyncReader {
    state: Reading,
    /// How much of what was read has been handed out.
    at: usize,
}

#[derive(Debug)]
enum Reading {
    /// With what was read last.
    Idle(Box<Reader>, Vec<u8>),
    Busy(JoinHandle<(Box<Reader>, Vec<u8>, io::Result<()>)>),
    /// The runtime ended under it.
    Lost,
}

impl AsyncRead for AsyncReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match std::mem::replace(&mut self.state, Reading::Lost) {
                Reading::Idle(reader, held) if self.at < held.len() => {
                    let rest = held.get(self.at..).unwrap_or_default();
                    let part = rest.get(..to.remaining()).unwrap_or(rest);
                    to.put_slice(part);
                    self.at += part.len();
                    self.state = Reading::Idle(reader, held);
                    return Poll::Ready(Ok(()));
                }
                Reading::Idle(mut reader, mut held) => {
                    self.at = 0;
                    self.state = Reading::Busy(spawn_blocking(move || {
                        held.clear();
                        let read = reader.by_ref().take(PART as u64).read_to_end(&mut held).map(drop);
                        (reader, held, read)
                    }));
                }
                Reading::Busy(mut reading) => match Pin::new(&mut reading).poll(cx) {
                    Poll::Pending => {
                        self.state = Reading::Busy(reading);
                        return Poll::Pending;
                    }
                    Poll::Ready(done) => {
                        let (reader, held, read) = done.map_err(ended)?;
                        let end = held.is_empty();
                        self.state = Reading::Idle(reader, held);
                        // What was read before an error is handed out first; the error comes again.
                        match read {
                            Err(error) if end => return Poll::Ready(Err(error)),
                            _ if end => return Poll::Ready(Ok(())),
                            _ => {}
                        }
                    }
                },
                Reading::Lost => return Poll::Ready(Err(io::Error::other("reading was given up"))),
            }
        }
    }
}

/// Writes the value of a key, as [`Writer`] does: the key is set by [`AsyncWriter::finish`]. Made by
/// [`AsyncStore::writer`].
#[derive(Debug)]
pub struct AsyncWriter {
    state: Writing,
}

#[derive(Debug)]
enum Writing {
    /// With what is gathered for the next write.
    Idle(Box<Writer>, Vec<u8>),
    Busy(JoinHandle<(Box<Writer>, Vec<u8>, io::Result<()>)>),
    /// The runtime ended under it, or it is finished.
    Lost,
}

impl AsyncWriter {
    /// Publishes the value under its key. Returns the bytes written.
    ///
    /// # Errors
    ///
    /// As [`Writer::finish`].
    pub async fn finish(mut self) -> Result<u64> {
        std::future::poll_fn(|cx| self.poll_idle(cx)).await.map_err(Error::io("writing"))?;
        match std::mem::replace(&mut self.state, Writing::Lost) {
            Writing::Idle(mut writer, held) => {
                blocking(move || {
                    writer.write_all(&held).map_err(Error::io("writing"))?;
                    writer.finish()
                })
                .await
            }
            _ => Err(Error::Invalid("writing was given up".into())),
        }
    }

    /// Waits for a write that is under way.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Writing::Busy(writing) = &mut self.state else { return Poll::Ready(Ok(())) };
        let done = ready!(Pin::new(writing).poll(cx));
        self.state = Writing::Lost;
        let (writer, held, written) = done.map_err(ended)?;
        self.state = Writing::Idle(writer, held);
        Poll::Ready(written)
    }
}

impl Drop for AsyncWriter {
    /// What is given up is removed from the store, which waits: not here, where there is a runtime.
    fn drop(&mut self) {
        let state = std::mem::replace(&mut self.state, Writing::Lost);
        if let (Writing::Idle(..), Ok(runtime)) = (&state, Handle::try_current()) {
            runtime.spawn_blocking(move || drop(state));
        }
    }
}

impl AsyncWrite for AsyncWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_idle(cx))?;
        match std::mem::replace(&mut self.state, Writing::Lost) {
            Writing::Idle(mut writer, mut held) => {
                let room = PART.saturating_sub(held.len());
                let part = bytes.get(..room).unwrap_or(bytes);
                held.extend_from_slice(part);
                self.state = if held.len() < PART {
                    Writing::Idle(writer, held)
                } else {
                    Writing::Busy(spawn_blocking(move || {
                        let written = writer.write_all(&held);
                        held.clear();
                        (writer, held, written)
                    }))
                };
                Poll::Ready(Ok(part.len()))
            }
            _ => Poll::Ready(Err(io::Error::other("writing was given up"))),
        }
    }

    /// As [`Writer`]'s, makes nothing visible; waits for what is under way.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_idle(cx)
    }

    /// Does not set the key: [`AsyncWriter::finish`] does.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
