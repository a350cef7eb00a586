//! The mounts of this machine, from `/proc/self/mountinfo`. Reading it asks no filesystem anything,
//! so a mount that hangs or is dead does not hold us up.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The type under which our mounts show.
pub const FSTYPE: &str = "fuse.larder";

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Device number as `major:minor`, which is also the name of its backing-device settings in sysfs.
    pub device: String,
    /// The directory of the filesystem that is mounted: `/` for the whole, another for a part (`mount --bind`).
    pub root: PathBuf,
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

    /// Whether it is a Larder mount of a whole store.
    pub fn is_whole(&self) -> bool {
        self.is_ours() && self.root == Path::new("/")
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

/// Our mounts of a store, without those of a part of it.
pub fn of_store(store: &Path) -> std::io::Result<Vec<Mount>> {
    Ok(all()?.into_iter().filter(|mount| mount.is_whole() && mount.source == store).collect())
}

/// The stores that are mounted, each once, in the order in which they were.
pub fn stores() -> Result<Vec<PathBuf>> {
    let mounts = all().map_err(Error::io("reading /proc/self/mountinfo"))?;
    let mut stores = Vec::new();
    for mount in mounts.into_iter().filter(Mount::is_ours) {
        if !stores.contains(&mount.source) {
            stores.push(mount.source);
        }
    }
    Ok(stores)
}

/// The store that is meant by a path, and where the whole of it is mounted: a mount point's, or that of the mount that
/// the path lies in, or the path itself. Errors: the path leads nowhere, or to a part of a store whose whole is not
/// mounted here.
pub fn find(path: &Path) -> Result<(PathBuf, Option<Mount>)> {
    let resolved = resolve(path).map_err(|error| Error::store(path, error.to_string()))?;
    let mounts = all().map_err(Error::io("reading /proc/self/mountinfo"))?;
    let whole = match holder(&mounts, &resolved) {
        Some(holder) => Some(whole_of(&mounts, holder).ok_or_else(|| only_a_part(path))?),
        None => mounts.iter().rfind(|mount| mount.is_whole() && mount.source == resolved),
    };
    let store = whole.map_or(resolved, |mount| mount.source.clone());
    Ok((store, whole.cloned()))
}

/// Where a path that lies in a mount of ours is found in the mount of the whole store: the mount point, and the path
/// below it. `None`: it lies in none. Errors: as of [`find`].
pub fn within(path: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    let resolved = resolve(path).map_err(|error| Error::store(path, error.to_string()))?;
    let mounts = all().map_err(Error::io("reading /proc/self/mountinfo"))?;
    let Some(holder) = holder(&mounts, &resolved) else { return Ok(None) };
    let whole = whole_of(&mounts, holder).ok_or_else(|| only_a_part(path))?;
    Ok(below(holder, &resolved).map(|path| (whole.point.clone(), whole.point.join(path))))
}

fn only_a_part(path: &Path) -> Error {
    Error::store(path, "only a part of the store is mounted here; name the store or the mount of the whole")
}

/// Our mount that a path lies in.
fn holder<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    // The innermost mount that holds the path; of several at one place the newest lies on top.
    let holding = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    holding.max_by_key(|mount| mount.point.components().count()).filter(|mount| mount.is_ours())
}

/// The mount of the whole store that one is of: itself, or the newest.
fn whole_of<'a>(mounts: &'a [Mount], part: &'a Mount) -> Option<&'a Mount> {
    match part.is_whole() {
        true => Some(part),
        false => mounts.iter().rfind(|mount| mount.is_whole() && mount.device == part.device),
    }
}

/// A path that lies in a mount as seen from its filesystem's root. `None`: what is mounted has been removed.
fn below(mount: &Mount, path: &Path) -> Option<PathBuf> {
    let root = mount.root.strip_prefix("/").ok()?;
    // So the kernel marks it; no path has two slashes.
    let removed = mount.root.as_os_str().as_bytes().ends_with(b"//deleted");
    path.strip_prefix(&mount.point).ok().filter(|_| !removed).map(|rest| root.join(rest))
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
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    // Any number of optional fields, then a dash.
    fields.find(|field| *field == b"-")?;
    let fstype = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let source = unescape(fields.next()?);
    Some(Mount { device, root, point, fstype, source })
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
                root: "/".into(),
                point: "/mnt/larder".into(),
                fstype: "fuse.larder".into(),
                source: "/home/me/.larder".into()
            }
        );
        assert_eq!(mounts[2].source, Path::new("/s"));
    }

    #[test]
    fn a_path_in_a_part_of_a_store_is_one_of_the_whole() {
        let text = b"30 1 0:44 / /old rw - fuse.larder /s rw\n\
            31 1 0:44 /a\\040b/c /part rw - fuse.larder /s rw\n\
            32 1 0:44 / /new rw - fuse.larder /s rw\n\
            33 1 0:45 /a /alone rw - fuse.larder /other rw\n\
            34 1 0:44 /gone//deleted /removed rw - fuse.larder /s rw\n\
            35 31 0:46 / /part/over rw - tmpfs tmpfs rw\n";
        let mounts = parse(text);
        assert_eq!(mounts[1].root, Path::new("/a b/c"));
        let of = |path: &str| {
            let holder = holder(&mounts, Path::new(path))?;
            let whole = whole_of(&mounts, holder).map(|mount| mount.point.to_str().unwrap());
            Some((whole, below(holder, Path::new(path))))
        };
        assert_eq!(of("/old/x"), Some((Some("/old"), Some("x".into()))));
        assert_eq!(of("/part"), Some((Some("/new"), Some("a b/c".into()))));
        assert_eq!(of("/part/d/x"), Some((Some("/new"), Some("a b/c/d/x".into()))));
        assert_eq!(of("/alone/x"), Some((None, Some("a/x".into()))));
        assert_eq!(of("/removed"), Some((Some("/new"), None)));
        for path in ["/part/over/x", "/partly", "/"] {
            assert_eq!(of(path), None, "{path}");
        }
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
