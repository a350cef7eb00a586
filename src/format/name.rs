//! Names of directory entries.

use xxhash_rust::xxh3::xxh3_64;

use super::Short;

/// The longest name, bytes.
pub const NAME_MAX: usize = 255;

/// A name.
pub type Name = Short;

/// The hash of a name, under which its entry lies: 56 bits, so that it makes a positive cookie with the slot; never 0.
pub fn name_hash(name: &[u8]) -> u64 {
    (xxh3_64(name) & ((1 << 56) - 1)).max(1)
}

/// Whether a name can be an entry's: 1 to [`NAME_MAX`] bytes, no `/`, no NUL, not `.` or `..`.
pub fn is_name(name: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
        && name != b"."
        && name != b".."
}
