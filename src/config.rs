//! The settings of a store: from `larder.toml`, the environment (`LARDER_*`) and the command line,
//! the later winning over the earlier.
//!
//! A setting whose feature is not in this version is parsed and validated like any other, and refused
//! when it is set to more than its default: never ignored.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::Codec;

/// The settings that a volume is opened with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store's directory.
    pub storage_path: PathBuf,
    /// The most bytes that the store may take on the disk.
    pub storage_size_limit: Option<u64>,
    /// The codec of new files where none is set.
    pub storage_compression: Codec,
    /// Bytes of memory for pages and metadata.
    pub cache_size_limit: u64,
    /// Pages with fewer bytes than this are stored as they are.
    pub cache_compression_threshold: u32,
    /// The time to live of new files where no directory says another, seconds.
    pub cache_ttl: Option<u32>,
    /// What goes first of what is evictable, when the store is full.
    pub cache_eviction_policy: Policy,
    /// How long at most an acknowledged change may be lost at power loss.
    pub commit_interval: Duration,
    /// How often the catalog is backed up within the store; none: never.
    pub backup_interval: Option<Duration>,
    /// How many of these backups are kept.
    pub backup_count: u32,
}

/// What `cache-eviction-policy` can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nothing is evicted.
    #[default]
    None,
    /// Least recently used first.
    Lru,
    /// Least frequently used first; of those used alike, least recently used.
    Lfu,
    /// Most bytes on the disk first.
    Size,
    /// What expires soonest first; then, by last use, what never does.
    Ttl,
}

impl std::str::FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Policy> {
        match text {
            "none" => Ok(Policy::None),
            "lru" => Ok(Policy::Lru),
            "lfu" => Ok(Policy::Lfu),
            "size" => Ok(Policy::Size),
            "ttl" => Ok(Policy::Ttl),
            _ => Err(Error::Invalid("use lru, lfu, size, ttl or none".into())),
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Policy::None => "none",
            Policy::Lru => "lru",
            Policy::Lfu => "lfu",
            Policy::Size => "size",
            Policy::Ttl => "ttl",
        })
    }
}

/// The names of all settings, as they stand in `larder.toml` and behind `--`.
pub const NAMES: [&str; 11] = [
    "storage-path",
    "storage-size-limit",
    "storage-compression",
    "storage-encryption",
    "cache-size-limit",
    "cache-ttl",
    "cache-eviction-policy",
    "cache-compression-threshold",
    "commit-interval",
    "backup-interval",
    "backup-count",
];

/// The settings that a mounted store takes at once.
pub const CHANGEABLE: [&str; 2] = ["storage-size-limit", "cache-size-limit"];

/// The file in a store that holds its settings.
pub const FILE_NAME: &str = "larder.toml";

/// The least memory that a store works with: a few of the largest pages, and some for each worker.
pub const MIN_CACHE: u64 = 8 << 20;

/// The least disk that a store works with: one segment.
pub const MIN_STORAGE: u64 = 64 << 20;

/// How often the catalog can be backed up: it is read whole for that.
const BACKUP_INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(52 * 604_800);

/// The most backups of the catalog that are kept.
const BACKUP_COUNT: u32 = 1000;

/// What a new store gets as its `larder.toml`: every setting with its default, commented out.
pub const NEW_FILE: &str = "\
# Settings of this Larder store. Each may also be given as a flag (larder mount --cache-size-limit 64MiB)
# or in the environment (LARDER_CACHE_SIZE_LIMIT=64MiB); a flag wins over the environment, and that over
# this file. Sizes: 4096, 64MiB, 10G. Durations: 500ms, 5s, 2m, 7d.

# The most that the store may take on the disk. Without it: as much as there is.
# storage-size-limit = \"10GiB\"

# The codec of new files: lz4, zstd:1 to zstd:19, gzip:1 to gzip:9, deflate, none, auto.
# storage-compression = \"lz4\"

# Memory for file content and metadata, at least 8MiB.
# cache-size-limit = \"256MiB\"

# How long new files live where no directory says another (user.larder.default-ttl).
# cache-ttl = \"never\"

# What goes first when the store nears its limit, of the keys that user.larder.evictable allows: lru (least recently
# used), lfu (least frequently used), size (largest), ttl (expires soonest), none (nothing goes).
# cache-eviction-policy = \"none\"

# Content with fewer bytes than this is stored as it is.
# cache-compression-threshold = \"128\"

# How much of the latest changes a power failure may take at most. fsync does not wait for it.
# commit-interval = \"5s\"

# How often the catalog (names, attributes and where content lies) is backed up to backup/ in the store while it is
# mounted, and how many of these backups are kept. An interval of \"never\" makes none.
# backup-interval = \"1h\"
# backup-count = \"4\"
";

impl Settings {
    /// The defaults for a store at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Settings {
        Settings {
            storage_path: path.into(),
            storage_size_limit: None,
            storage_compression: Codec::Lz4,
            cache_size_limit: 256 << 20,
            cache_compression_threshold: 128,
            cache_ttl: None,
            cache_eviction_policy: Policy::None,
            commit_interval: Duration::from_secs(5),
            backup_interval: Some(Duration::from_secs(3600)),
            backup_count: 4,
        }
    }

    /// The settings of the store at `path`: its `larder.toml` (`file`, the text, where there is one),
    /// then the environment as `LARDER_*` variables, then the flags as names with values.
    /// Errors: each names the setting, where it was given, and the remedy.
    pub fn load(
        path: &Path,
        file: Option<&str>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Settings> {
        let mut settings = Settings::new(path);
        if let Some(text) = file {
            settings.apply_file(&path.join(FILE_NAME), text)?;
        }
        for (variable, value) in environment {
            // Other variables of this prefix are not ours to judge (LARDER_LOG is one of the command's).
            if let Some(name) = NAMES.into_iter().find(|name| variable_of(name) == variable) {
                settings.set(name, &value, &variable)?;
            }
        }
        for (name, value) in flags {
            settings.set(&name, &value, &format!("--{name}"))?;
        }
        Ok(settings)
    }

    /// The text of the `larder.toml` in a store's directory; `None` where there is none.
    pub fn read_file(store: &Path) -> Result<Option<String>> {
        let file = store.join(FILE_NAME);
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                Err(Error::store(store, "it is not a directory; a store is one"))
            }
            Err(error) => Err(Error::io(format!("reading {}", file.display()))(error)),
        }
    }

    /// Changes one of the [`CHANGEABLE`] settings. Errors: it is another, or the value is not good; nothing has changed.
    pub fn change(&mut self, name: &str, value: &str) -> Result<()> {
        if !CHANGEABLE.contains(&name) {
            let names = CHANGEABLE.join(" and ");
            return Err(Error::Config(format!(
                "{name}: it cannot change while the store is mounted; {names} can"
            )));
        }
        self.set(name, value, name)
    }

    /// The settings as a `larder.toml` that says the same, defaults included.
    pub fn to_toml(&self) -> String {
        let table: toml::Table =
            NAMES.into_iter().map(|name| (name.to_owned(), self.value_of(name).into())).collect();
        table.to_string()
    }

    /// The value of a setting, as it would stand in `larder.toml`.
    pub fn value_of(&self, name: &str) -> String {
        let size = |bytes: u64| {
            let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
            let unit = units.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
            unit.map_or(bytes.to_string(), |(unit, name)| format!("{}{name}", bytes / unit))
        };
        let duration = |time: Duration| match time.subsec_millis() {
            0 => format!("{}s", time.as_secs()),
            _ => format!("{}ms", time.as_millis()),
        };
        match name {
            "storage-path" => self.storage_path.display().to_string(),
            "storage-size-limit" => self.storage_size_limit.map_or("none".to_owned(), size),
            "storage-compression" => self.storage_compression.to_string(),
            "cache-size-limit" => size(self.cache_size_limit),
            "cache-compression-threshold" => size(self.cache_compression_threshold.into()),
            "commit-interval" => duration(self.commit_interval),
            "backup-interval" => self.backup_interval.map_or("never".to_owned(), duration),
            "backup-count" => self.backup_count.to_string(),
            "cache-eviction-policy" => self.cache_eviction_policy.to_string(),
            "cache-ttl" => self.cache_ttl.map_or("never".to_owned(), |seconds| format!("{seconds}s")),
            // Whose feature is not there yet.
            _ => "none".to_owned(),
        }
    }

    fn apply_file(&mut self, file: &Path, text: &str) -> Result<()> {
        let table: toml::Table =
            text.parse().map_err(|error| Error::Config(format!("{}: {error}", file.display())))?;
        for (name, value) in &table {
            let place = format!("{}: {name}", file.display());
            let value = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                other => {
                    return Err(Error::Config(format!(
                        "{place}: expected a string or a number, found a {}",
                        other.type_str()
                    )));
                }
            };
            self.set(name, &value, &place)?;
        }
        Ok(())
    }

    /// Sets one setting from text. `place` is where it was given, for the error.
    fn set(&mut self, name: &str, value: &str, place: &str) -> Result<()> {
        let bad = |why: String| Error::Config(format!("{place} = {value:?}: {why}"));
        match name {
            // The store is named by the path that was opened; the setting may confirm it, not lead away.
            "storage-path" => {
                if Path::new(value) != self.storage_path {
                    return Err(bad(format!(
                        "the store that was named is {}; name the one you mean, or remove the setting",
                        self.storage_path.display()
                    )));
                }
            }
            "storage-size-limit" => {
                self.storage_size_limit = match value {
                    "none" => None,
                    size => {
                        Some(at_least(parse_size(size).map_err(bad)?, MIN_STORAGE, "64MiB").map_err(bad)?)
                    }
                };
            }
            "storage-compression" => {
                self.storage_compression = value.parse().map_err(|error: Error| bad(error.to_string()))?;
            }
            "storage-encryption" => match value {
                "none" => {}
                "aes-256-gcm" | "chacha20-poly1305" => return Err(not_yet(place, value, "none")),
                _ => {
                    let known = "aes-256-gcm and chacha20-poly1305 come with a later version";
                    return Err(bad(format!("use none; {known}")));
                }
            },
            "cache-size-limit" => {
                self.cache_size_limit =
                    at_least(parse_size(value).map_err(bad)?, MIN_CACHE, "8MiB").map_err(bad)?;
            }
            "cache-ttl" => {
                self.cache_ttl = parse_ttl(value).map_err(bad)?;
                if self.cache_ttl == Some(0) {
                    return Err(bad("nothing would live; use never".to_owned()));
                }
            }
            "cache-eviction-policy" => {
                self.cache_eviction_policy = value.parse().map_err(|error: Error| bad(error.to_string()))?;
            }
            "cache-compression-threshold" => {
                self.cache_compression_threshold = u32::try_from(parse_size(value).map_err(bad)?)
                    .ok()
                    .filter(|threshold| *threshold <= 1 << 20)
                    .ok_or_else(|| bad("it is more than the largest page, 1MiB".to_owned()))?;
            }
            "commit-interval" => {
                let interval = parse_duration(value).map_err(bad)?;
                if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval) {
                    return Err(bad("it must be 100ms to 1h".to_owned()));
                }
                self.commit_interval = interval;
            }
            "backup-interval" => {
                self.backup_interval = match value {
                    "never" => None,
                    _ => Some(parse_duration(value).map_err(bad)?),
                };
                if self.backup_interval.is_some_and(|interval| !BACKUP_INTERVAL.contains(&interval)) {
                    return Err(bad("it must be 1m to 52w, or never".to_owned()));
                }
            }
            "backup-count" => {
                let count = value.parse().ok().filter(|count| (1..=BACKUP_COUNT).contains(count));
                let none = "it must be 1 to 1000; backup-interval = \"never\" makes no backups";
                self.backup_count = count.ok_or_else(|| bad(none.to_owned()))?;
            }
            _ => {
                return Err(Error::Config(format!(
                    "{place}: no such setting; there are {}",
                    NAMES.join(", ")
                )));
            }
        }
        Ok(())
    }
}

/// The environment variable of a setting.
pub fn variable_of(name: &str) -> String {
    format!("LARDER_{}", name.to_uppercase().replace('-', "_"))
}

fn not_yet(place: &str, value: &str, default: &str) -> Error {
    Error::Config(format!(
        "{place} = {value:?}: not yet available in this version; remove the setting or use {default:?}"
    ))
}

fn at_least(size: u64, least: u64, text: &str) -> Result<u64, String> {
    if size < least { Err(format!("it must be at least {text}")) } else { Ok(size) }
}

/// A size in bytes: digits, and a unit of 1024s (`K`, `KiB`, ...) or of 1000s (`KB`, ...).
/// Case does not matter.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err("not a size; write it as 4096, 64MiB or 10G".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "not a size; write it as 4096, 64MiB or 10G".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "it is too large".to_owned())
}

/// A time to live in seconds: `3600`, or with units `90m`, `7d`, `1h30m`; `never` is `None`.
pub fn parse_ttl(text: &str) -> Result<Option<u32>, String> {
    let text = text.trim();
    if text == "never" {
        return Ok(None);
    }
    let bad = "use seconds, or 90m, 7d, 1h30m, up to 136 years of 365d, or never";
    let seconds = match text.parse::<f64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let span: jiff::Span = text.parse().map_err(|_| bad)?;
            span.total((jiff::Unit::Second, jiff::SpanRelativeTo::days_are_24_hours())).map_err(|_| bad)?
        }
    };
    if !seconds.is_finite() || seconds < 0.0 || seconds > f64::from(u32::MAX) {
        return Err(bad.to_owned());
    }
    Ok(Some(seconds.ceil() as u32))
}

/// A duration: digits and `ms`, `s`, `m`, `h`, `d` or `w`; bare digits are seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let milliseconds: u64 = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => return Err("not a duration; write it as 500ms, 5s, 2m or 7d".to_owned()),
    };
    let number: u64 =
        number.parse().map_err(|_| "not a duration; write it as 500ms, 5s, 2m or 7d".to_owned())?;
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(|| "it is too long".to_owned())
}
