//! The process that serves a mount, in the foreground or the background.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::backup::back_up;
use larder::clock::Clock;
use larder::config::{FILE_NAME, NEW_FILE, Settings};
use larder::control::{Client, Control, Request};
use larder::error::{Error, Result};
use larder::io::RealDisk;
use larder::mount::counters::Counters;
use larder::mount::figures::Mounted;
use larder::mount::options::Options;
use larder::mount::session::{Place, Session};
use larder::mount::table;
use larder::volume::Volume;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};

use super::log_file::LogFile;

/// What the background process says on stdout once the mount answers.
pub const READY: &str = "mounted";

/// Opens the store, mounts it, serves it until it is unmounted, and closes it.
pub fn run(
    settings: Settings,
    new: bool,
    point: &Path,
    options: &Options,
    background: bool,
    log_level: Option<&str>,
) -> Result<ExitCode> {
    // Before any thread is started, so that all inherit it: signals go to `watch` alone.
    let signals = watched();
    signals.thread_block().map_err(|errno| Error::io("blocking signals")(errno.into()))?;
    // Who may read a file is decided by the mount; the store, where all of them lie, is its owner's alone.
    umask(Mode::from_bits_truncate(0o077));
    let store = settings.storage_path.clone();
    let volume = open(&settings)?;
    let served = serve(&volume, &store, new, point, options, background, log_level, signals);
    match served {
        Ok((session, control)) => {
            let ended = session.run();
            if CLOSING.swap(true, Ordering::AcqRel) {
                // A signal came first; whoever got it closes, and ends the process.
                loop {
                    std::thread::park();
                }
            }
            let outcome = ended.and(close(&volume));
            control.finish(&outcome);
            match &outcome {
                Ok(()) => log::info!("{}: unmounted, everything is durable", point.display()),
                Err(error) => log::error!("{}: {error}", point.display()),
            }
            outcome.map(|()| ExitCode::SUCCESS)
        }
        Err(error) => {
            if let Err(closing) = volume.close() {
                complain!("larder: {closing}");
            }
            Err(error)
        }
    }
}

/// Opens the store. After a bare umount(8) its daemon still writes for a while: that one is waited for, not one
/// that serves a mount.
fn open(settings: &Settings) -> Result<Arc<Volume>> {
    let begun = Instant::now();
    loop {
        let opened = Volume::open(settings.clone(), Arc::new(RealDisk), Clock::System);
        let Err(Error::InUse(store)) = &opened else {
            return opened.map_err(|error| match error {
                Error::NoSpace => Error::store(
                    &settings.storage_path,
                    "there is no room left on the disk that it lies on: make some, and mount again",
                ),
                other => other,
            });
        };
        let mounts = table::of_store(store).map_err(Error::io("reading /proc/self/mountinfo"))?;
        if !mounts.is_empty() || begun.elapsed() > ENDING {
            return opened;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How long a daemon may take to end that serves no mount any longer.
const ENDING: Duration = Duration::from_secs(20);

/// Whether the volume is being closed: it is once, by the one who finds this false.
static CLOSING: AtomicBool = AtomicBool::new(false);

/// Closes the volume. Errors: also, when it had turned read-only, why: not everything is durable then.
fn close(volume: &Volume) -> Result<()> {
    volume.close()?;
    volume.read_only().map_or(Ok(()), |why| Err(Error::ReadOnly(why)))
}

#[expect(
    clippy::too_many_arguments,
    reason = "the steps between open and run, apart so that a failure closes"
)]
fn serve(
    volume: &Arc<Volume>,
    store: &Path,
    new: bool,
    point: &Path,
    options: &Options,
    background: bool,
    log_level: Option<&str>,
    signals: SigSet,
) -> Result<(Session, Control)> {
    if new {
        let file = store.join(FILE_NAME);
        std::fs::write(&file, NEW_FILE).map_err(Error::io(format!("writing {}", file.display())))?;
    }
    start_log(background.then_some(store), log_level)?;
    let session = Session::mount(volume, store, point, options)?;
    let control = {
        let (volume, mounted, place) = (Arc::clone(volume), session.mounted(), session.place());
        Control::serve(store, move |request, client| handle(request, client, &volume, &mounted, &place))?
    };
    let watcher = (Arc::clone(volume), session.mounted().counters, session.place());
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || watch(&signals, &watcher.0, &watcher.1, &watcher.2))
        .map_err(Error::io("starting the signal thread"))?;
    log::info!("{} is mounted at {}", store.display(), point.display());
    if background {
        go_to_background()?;
    }
    Ok((session, control))
}

fn handle(
    request: Request,
    client: &Client,
    volume: &Volume,
    mounted: &Mounted,
    place: &Place,
) -> Result<serde_json::Value> {
    match request {
        Request::Status => mounted.figures(volume),
        Request::Keys { .. } => Ok(larder::store::remote::answer(volume, client, mounted.read_only)),
        Request::Sync => volume.sync().map(|()| serde_json::Value::Null),
        Request::Backup { .. } => {
            let dest = Path::new(std::ffi::OsStr::from_bytes(&client.body));
            if dest.is_relative() {
                return Err(Error::Config("backup: an absolute path is expected".to_owned()));
            }
            let outcome = back_up(volume, Arc::new(RealDisk), dest, &tell(client));
            if let Err(error) = &outcome {
                log::warn!("the backup to {}: {error}", dest.display());
            }
            json(&outcome?)
        }
        Request::Set { .. } => {
            let text = String::from_utf8_lossy(&client.body);
            let missing = || Error::Config("set: NAME=VALUE is expected".to_owned());
            let (name, value) = text.split_once('=').ok_or_else(missing)?;
            volume.change_setting(name, value).map(|()| serde_json::Value::Null)
        }
        Request::Umount => {
            // Most of what is dirty goes to the disk while the mount still serves.
            // Where that can no longer be done, staying mounted would not help; the last answer says so.
            match volume.sync() {
                Err(error) if volume.read_only().is_none() => Err(error),
                _ => place.unmount().map(|()| serde_json::Value::Null),
            }
        }
    }
}

/// Tells a client how far something has come, ten times a second at most. Once it is gone, so is the reason to go on.
fn tell<T: serde::Serialize>(client: &Client) -> impl Fn(T) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);
    let told = std::cell::Cell::new(None::<Instant>);
    move |progress| {
        if told.get().is_some_and(|at| at.elapsed() < PAUSE) {
            return Ok(());
        }
        told.set(Some(Instant::now()));
        client.tell(json(&progress)?)
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| Error::io("the answer")(error.into()))
}

fn watched() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1].into_iter().collect()
}

/// Waits for signals. The first that asks for the end unmounts once everything is durable; where the
/// mount is in use it is taken out of the tree, and ends with its last user. A second one closes the store
/// though it is in use, a third ends the process whatever is under way: a disk that hangs must not keep it.
fn watch(signals: &SigSet, volume: &Arc<Volume>, counters: &Counters, place: &Place) {
    let mut asked = 0;
    loop {
        let signal = match signals.wait() {
            Ok(Signal::SIGUSR1) => {
                let list: Vec<String> = counters.list().map(|(name, n)| format!("{name} {n}")).collect();
                log::warn!("requests so far: {}", list.join(", "));
                continue;
            }
            Ok(signal) => signal,
            Err(errno) => {
                log::error!("waiting for signals: {errno}");
                continue;
            }
        };
        asked += 1;
        let (volume, place) = (Arc::clone(volume), place.clone());
        let act: Box<dyn FnOnce() + Send> = match asked {
            1 => Box::new(move || leave(signal, &volume, &place)),
            2 => Box::new(move || close_and_end(signal, &volume)),
            _ => std::process::exit(1),
        };
        // Not here: it may wait for the disk, and the next signal must still be heard.
        if let Err(error) = std::thread::Builder::new().name("end".to_owned()).spawn(act) {
            log::error!("{signal}: {error}; send it again");
        }
    }
}

/// What the first signal does.
fn leave(signal: Signal, volume: &Volume, place: &Place) {
    log::info!("{signal}: unmounting");
    if let Err(error) = volume.sync() {
        log::error!("{error}");
    }
    if let Err(error) = place.unmount() {
        log::warn!("{error}; the daemon ends when its last user is gone");
        if let Err(error) = place.detach() {
            log::error!("{error}");
        }
    }
}

/// What the second signal does.
fn close_and_end(signal: Signal, volume: &Volume) {
    if CLOSING.swap(true, Ordering::AcqRel) {
        log::warn!("{signal} again: the store is being closed; one more ends that");
        return;
    }
    log::warn!("{signal} again: ending though the mount is in use");
    let closed = close(volume);
    if let Err(error) = &closed {
        log::error!("{error}");
    }
    std::process::exit(i32::from(closed.is_err()));
}

/// Logs to stderr, or to the log file of a store.
fn start_log(store: Option<&Path>, level: Option<&str>) -> Result<()> {
    let default = env_logger::Env::default().default_filter_or("info,fuser=warn");
    let mut builder = env_logger::Builder::from_env(default);
    if let Some(level) = level {
        builder.parse_filters(level);
    }
    if let Some(store) = store {
        let failed = Error::io(format!("opening the log in {}", store.display()));
        builder.target(env_logger::Target::Pipe(Box::new(LogFile::open(store).map_err(failed)?)));
    }
    builder.try_init().map_err(|error| Error::Config(format!("the log: {error}")))?;
    // In the background stderr leads nowhere, and a panic has to be read somewhere.
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(())
}

/// Leaves the terminal and the directory that the command was given in, and says that all is ready.
fn go_to_background() -> Result<()> {
    let failed = |errno: nix::errno::Errno| Error::io("going to the background")(errno.into());
    nix::unistd::setsid().map_err(failed)?;
    std::env::set_current_dir("/").map_err(Error::io("going to /"))?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(Error::io("opening /dev/null"))?;
    // Whoever started us may be gone already; the mount stays.
    let mut output = std::io::stdout();
    let _ = writeln!(output, "{READY}").and_then(|()| output.flush());
    nix::unistd::dup2_stdout(&null).map_err(failed)?;
    nix::unistd::dup2_stderr(&null).map_err(failed)
}
