//! The mounts of this machine, from `/proc/self/mountinfo`. Reading it asks no filesystem anything,
//! so a mount that hangs or is dead does not hold us up.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The type under which our mounts show.
pub const FSTYPE: &str = "fuse.larder";

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Device number as `major:minor`, which is also the name of its backing-device settings in sysfs.
    pub device: String,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The filesystem's type.
    pub fstype: String,
    /// What is mounted: for ours, the store's directory.
    pub source: PathBuf,
}

impl Mount {
    /// Whether it is a Larder mount.
    pub fn is_ours(&self) -> bool {
        self.fstype == FSTYPE
    }
}

/// All mounts, in the order in which they were made.
pub fn all() -> std::io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount at a path, the newest where several lie over each other.
pub fn at(point: &Path) -> std::io::Result<Option<Mount>> {
    Ok(all()?.into_iter().rfind(|mount| mount.point == point))
}

/// Our mounts of a store.
pub fn of_store(store: &Path) -> std::io::Result<Vec<Mount>> {
    Ok(all()?.into_iter().filter(|mount| mount.is_ours() && mount.source == store).collect())
}

/// The store that is meant by a path, and where it is mounted: a mount point's, or that of the mount that the path
/// lies in, or the path itself.
pub fn find(path: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    let resolved = resolve(path).map_err(|error| Error::store(path, error.to_string()))?;
    let mounts = all().map_err(Error::io("reading /proc/self/mountinfo"))?;
    // The innermost mount that holds the path; of several at one place the newest lies on top.
    let holder = mounts
        .iter()
        .filter(|mount| resolved.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count());
    match holder.filter(|mount| mount.is_ours()) {
        Some(mount) => Ok((mount.source.clone(), Some(mount.point.clone()))),
        None => {
            let point = mounts.iter().rfind(|mount| mount.is_ours() && mount.source == resolved);
            Ok((resolved, point.map(|mount| mount.point.clone())))
        }
    }
}

/// Parses the lines of a mountinfo file; one that makes no sense is passed over.
///
/// ```text
/// 36 35 98:0 /root /point rw,noatime master:1 - type source options
/// ```
fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let point = unescape(fields.nth(1)?);
    // Any number of optional fields, then a dash.
    fields.find(|field| *field == b"-")?;
    let fstype = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let source = unescape(fields.next()?);
    Some(Mount { device, point, fstype, source })
}

/// The kernel writes space, tab, newline, backslash and `#` as three octal digits behind a backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    OsString::from_vec(bytes).into()
}

/// Where a path leads, when what it names may be a mount that does not let us in: a dead one, or another
/// user's. Then its parent is resolved, and itself is not touched.
pub fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match std::fs::canonicalize(&path) {
        Ok(resolved) => Ok(resolved),
        Err(error) => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
            let Ok(parent) = std::fs::canonicalize(parent) else { return Err(error) };
            let resolved = parent.join(name);
            if at(&resolved)?.is_some() { Ok(resolved) } else { Err(error) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_line_is_read_with_any_number_of_optional_fields() {
        let text = b"22 1 0:21 / /proc rw,nosuid shared:5 - proc proc rw\n\
            36 35 0:44 / /mnt/larder rw,relatime - fuse.larder /home/me/.larder rw,user_id=0\n\
            37 35 0:45 / /m rw shared:1 master:2 - fuse.larder /s rw\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 3);
        assert!(!mounts[0].is_ours());
        assert_eq!(
            mounts[1],
            Mount {
                device: "0:44".into(),
                point: "/mnt/larder".into(),
                fstype: "fuse.larder".into(),
                source: "/home/me/.larder".into()
            }
        );
        assert_eq!(mounts[2].source, Path::new("/s"));
    }

    #[test]
    fn escaped_bytes_in_paths_are_given_back() {
        let text = b"1 0 0:1 / /a\\040b\\134c\\011 rw - fuse.larder /st\\012ore\\\xff rw";
        let mounts = parse(text);
        assert_eq!(mounts[0].point, Path::new("/a b\\c\t"));
        assert_eq!(mounts[0].source.as_os_str().as_bytes(), b"/st\nore\\\xff");
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        for line in ["", "1", "1 2 3 4", "36 35 0:44 / /mnt rw,relatime", "36 35 0:44 / /mnt rw - fuse"] {
            assert_eq!(parse(line.as_bytes()), [], "{line:?}");
        }
    }

    #[test]
    fn the_root_of_this_machine_is_found() {
        assert!(at(Path::new("/")).unwrap().is_some());
    }
}
