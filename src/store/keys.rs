//! Keys one after the other.

use super::Key;
use super::door::{Door, Node};
use super::key::split;
use crate::error::Result;
use crate::format::Kind;
use crate::volume::check_path;

/// The keys that begin with some bytes, in the order of their bytes. Made by
/// [`Store::keys`](super::Store::keys). After an error the directory that it is about is left out.
///
/// Each directory is read when the first of its keys is asked for: of what changes after that, nothing is seen.
/// The names of one directory on each level are in memory.
#[derive(Debug)]
pub struct Keys {
    door: Door,
    prefix: Box<[u8]>,
    /// What is still to come: paths, those of the deepest directory last, each list in reverse.
    levels: Vec<Vec<(Vec<u8>, Kind)>>,
    started: bool,
}

impl Keys {
    pub(super) fn new(door: Door, prefix: &[u8]) -> Keys {
        Keys { door, prefix: prefix.into(), levels: Vec::new(), started: false }
    }

    /// Reads a directory; of its paths those are taken that begin as asked, or lead there.
    fn enter(&mut self, dir: &[u8]) -> Result<()> {
        // A mount makes longer paths than a key can be: nothing below is one.
        if !dir.is_empty() {
            check_path(dir).map(drop)?;
        }
        let mut paths: Vec<(Vec<u8>, Kind)> = Vec::new();
        for Node { name, kind } in self.door.list(dir)? {
            let mut path = Vec::with_capacity(dir.len() + name.len() + 2);
            path.extend_from_slice(dir);
            if !dir.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            // With what follows it in the keys below: `a-b` comes before `a/c`.
            if kind == Kind::Directory {
                path.push(b'/');
            }
            let wanted =
                path.starts_with(&self.prefix) || kind == Kind::Directory && self.prefix.starts_with(&path);
            if wanted {
                paths.push((path, kind));
            }
        }
        paths.sort_unstable_by(|a, b| b.0.cmp(&a.0));
        self.levels.push(paths);
        Ok(())
    }
}

impl Iterator for Keys {
    type Item = Result<Key>;

    fn next(&mut self) -> Option<Result<Key>> {
        if !self.started {
            self.started = true;
            let prefix = std::mem::take(&mut self.prefix);
            // The deepest directory that all of them are in. What is no path names nothing.
            let dir = split(&prefix).0.to_vec();
            let nothing = !dir.is_empty() && Key::new(&dir).is_err();
            self.prefix = prefix;
            if nothing {
                return None;
            }
            if let Err(error) = self.enter(&dir) {
                return Some(Err(error));
            }
        }
        loop {
            match self.levels.last_mut()?.pop() {
                None => drop(self.levels.pop()),
                Some((mut path, Kind::Directory)) => {
                    path.pop();
                    if let Err(error) = self.enter(&path) {
                        return Some(Err(error));
                    }
                }
                Some((path, _)) => {
                    // What could not be given as a key is not the library's: a file being written, Larder's own.
                    if let Ok(key) = Key::new(path) {
                        return Some(Ok(key));
                    }
                }
            }
        }
    }
}
