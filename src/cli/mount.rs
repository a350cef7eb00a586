//! `larder mount`

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use larder::config::Settings;
use larder::error::{Error, Result};
use larder::mount::options::Options;

use super::daemon::{self, READY};

/// Mount a store; one that does not exist yet is made
///
/// The command returns once the mount answers; a daemon serves it in the background and logs to
/// STORE/larder.log. Settings come from the flags below, else from LARDER_* variables, else from
/// STORE/larder.toml.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Mount {
    /// The directory that holds the store
    store: PathBuf,
    /// The directory under which its files appear
    mountpoint: PathBuf,
    /// Stay in the foreground and log to stderr; Ctrl-C unmounts
    #[arg(short, long)]
    foreground: bool,
    /// Options as for mount(8): ro, nodev, nosuid, noexec, noatime, sync, allow_other, or a setting
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// What to log: error, warn, info, debug, trace, or a filter as in RUST_LOG
    #[arg(long, env = "LARDER_LOG", value_name = "FILTER")]
    log_level: Option<String>,
    /// Set for the process that goes to the background, by the one that starts it
    #[arg(long, hide = true)]
    background: bool,

    /// The store's path, where a script gives it by name; must be STORE
    #[arg(long, value_name = "PATH", help_heading = "Settings")]
    storage_path: Option<String>,
    /// The most that the store may take on the disk, as 10GiB
    #[arg(long, value_name = "SIZE", help_heading = "Settings")]
    storage_size_limit: Option<String>,
    /// Codec of new files: lz4, zstd:LEVEL, gzip:LEVEL, deflate, none, auto [default: lz4]
    #[arg(long, value_name = "CODEC", help_heading = "Settings")]
    storage_compression: Option<String>,
    /// Not yet available in this version; only "none"
    #[arg(long, value_name = "CIPHER", help_heading = "Settings")]
    storage_encryption: Option<String>,
    /// Memory for content and metadata, at least 8MiB [default: 256MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Settings")]
    cache_size_limit: Option<String>,
    /// How long new files live, where no directory says another [default: never]
    #[arg(long, value_name = "DURATION", help_heading = "Settings")]
    cache_ttl: Option<String>,
    /// What goes first when the store is full, of what is evictable: lru, lfu, size, ttl, none [default: none]
    #[arg(long, value_name = "POLICY", help_heading = "Settings")]
    cache_eviction_policy: Option<String>,
    /// Content with fewer bytes is stored as it is [default: 128]
    #[arg(long, value_name = "SIZE", help_heading = "Settings")]
    cache_compression_threshold: Option<String>,
    /// How much of the latest changes a power failure may take [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Settings")]
    commit_interval: Option<String>,
    /// How often the catalog is backed up within the store, or "never" [default: 1h]
    #[arg(long, value_name = "DURATION", help_heading = "Settings")]
    backup_interval: Option<String>,
    /// How many of these backups are kept [default: 4]
    #[arg(long, value_name = "COUNT", help_heading = "Settings")]
    backup_count: Option<String>,
}

const HELP: &str = "\
Examples:
  larder mount ~/store.larder ~/larder
  larder mount --storage-size-limit 10GiB --storage-compression zstd:3 /data/store /mnt/larder
  larder mount -o ro,nodev /data/store /mnt/larder
In /etc/fstab, with scripts/mount.fuse.larder installed as /sbin/mount.fuse.larder:
  /data/store  /mnt/larder  fuse.larder  defaults,cache-size-limit=64MiB  0  0

Exit status: 0 the mount answers (with --foreground: it has ended, and everything is durable), 1 failed, also where
a setting or an option of -o is refused, 2 the command line is wrong.";

/// Whether a store would be made there.
fn is_missing_or_empty(dir: &Path) -> bool {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

impl Mount {
    pub fn run(self) -> Result<ExitCode> {
        if !self.foreground && !self.background {
            return in_background();
        }
        let options = Options::parse(self.options.iter().map(String::as_str))?;
        // The log is not set up yet, so that it can go into the store; errors go to stderr either way.
        let store = absolute(&self.store)?;
        if options.is_read_only() && is_missing_or_empty(&store) {
            return Err(Error::store(&store, "there is no store, and with -o ro none is made"));
        }
        let point = larder::mount::session::check(&store, &self.mountpoint)?;
        let file = Settings::read_file(&store)?;
        let environment = super::environment();
        let flags = options.settings.iter().cloned().chain(self.flags());
        let settings = Settings::load(&store, file.as_deref(), environment, flags)?;
        if std::fs::read_dir(&point).is_ok_and(|mut entries| entries.next().is_some()) {
            complain!(
                "larder: {}: not empty; what is in it is hidden while the store is mounted",
                point.display()
            );
        }
        if let Some(option) = &options.access_times {
            complain!(
                "larder: -o {option}: reading changes no access times here, since the kernel keeps none for FUSE; \
                 mounted with noatime"
            );
        }
        daemon::run(settings, file.is_none(), &point, &options, self.background, self.log_level.as_deref())
    }

    fn flags(&self) -> impl Iterator<Item = (String, String)> {
        [
            ("storage-path", &self.storage_path),
            ("storage-size-limit", &self.storage_size_limit),
            ("storage-compression", &self.storage_compression),
            ("storage-encryption", &self.storage_encryption),
            ("cache-size-limit", &self.cache_size_limit),
            ("cache-ttl", &self.cache_ttl),
            ("cache-eviction-policy", &self.cache_eviction_policy),
            ("cache-compression-threshold", &self.cache_compression_threshold),
            ("commit-interval", &self.commit_interval),
            ("backup-interval", &self.backup_interval),
            ("backup-count", &self.backup_count),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .map_err(|error| Error::store(path, error.to_string()))
}

/// Starts this program once more, and waits until its mount answers or it fails. A new process rather
/// than a fork: nothing of ours has to survive one, and what it says before it is ready goes to our stderr.
fn in_background() -> Result<ExitCode> {
    let program = std::env::current_exe().map_err(Error::io("finding this program"))?;
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    arguments.insert(1.min(arguments.len()), "--background".into());
    let mut child = std::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::io("starting the daemon"))?;
    if let Some(output) = child.stdout.take() {
        let mut line = String::new();
        // The end of its output without the word means that it failed; its status tells.
        let _ = BufReader::new(output).read_line(&mut line);
        if line.trim_end() == READY {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let status = child.wait().map_err(Error::io("waiting for the daemon"))?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1).max(1))),
        None => Err(Error::Config(format!("the daemon ended before the mount was ready: {status}"))),
    }
}
