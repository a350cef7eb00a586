//! The settings of a store: from `larder.toml`, the environment (`LARDER_*`) and the command line,
//! the later winning over the earlier.

use std::path::PathBuf;
use std::time::Duration;

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
    /// How long at most an acknowledged change may be lost at power loss.
    pub commit_interval: Duration,
}

impl Settings {
    /// The defaults for a store at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Settings {
        Settings {
            storage_path: path.into(),
            storage_size_limit: None,
            storage_compression: Codec::Lz4,
            cache_size_limit: 256 << 20,
            cache_compression_threshold: 128,
            commit_interval: Duration::from_secs(5),
        }
    }
}
