//! Keys read whole. What is in memory is found under one hold of the tree's lock, without a reference that would have
//! to be given back; the copy is made behind it.

use super::Volume;
use super::tree::Tree;
use super::types::*;
use crate::cache::{Content, PageId};
use crate::clock::Time;
use crate::error::Error;
use crate::format::{Ino, Kind, PageNo, ROOT};

/// What a key names.
#[derive(Debug)]
pub enum Got {
    /// A regular file: its whole content.
    Content(Vec<u8>),
    /// Something else, or a file that is not in memory or has several pages. The caller holds one reference to it.
    Held(Ino, Kind),
}

impl Volume {
    /// Finds a key, one that [`check_path`](super::check_path) takes, and reads it where that is done with one page in memory.
    /// Symbolic links are not followed: one on the way is `NotADirectory`.
    pub fn get(&self, path: &[u8]) -> Step<Got> {
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let ino = self.find_path(&mut tree, path, now)?;
        let inode = tree.get(ino)?;
        let (kind, size) = (inode.rec.kind(), inode.rec.size);
        let page = match kind {
            Kind::File if size == 0 => Some(Content::default()),
            Kind::File if size <= inode.rec.page_size() => self.cache.get(PageId { ino, no: PageNo(0) }),
            _ => None,
        };
        let Some(page) = page else {
            tree.refs.take(ino);
            return Ok(Got::Held(ino, kind));
        };
        self.note_use(ino, now);
        drop(tree);
        let size = size as usize;
        let mut content = Vec::with_capacity(size);
        content.extend_from_slice(page.get(..size).unwrap_or(&page));
        // Zeros at its end are not kept.
        content.resize(size, 0);
        Ok(Got::Content(content))
    }

    /// Finds a key, one that [`check_path`](super::check_path) takes, and takes a reference to what it names, which
    /// [`Volume::forget`] gives back. Symbolic links are not followed: one on the way is `NotADirectory`.
    pub fn resolve(&self, path: &[u8]) -> Step<(Entry, Kind)> {
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let ino = self.find_path(&mut tree, path, now)?;
        let inode = tree.get(ino)?;
        let found = (self.entry_of(ino, inode, now), inode.rec.kind());
        tree.refs.take(ino);
        Ok(found)
    }

    /// The inode that a path leads to.
    fn find_path(&self, tree: &mut Tree, path: &[u8], now: Time) -> Step<Ino> {
        let mut ino = ROOT;
        let mut inode = tree.get(ino)?;
        for name in path.split(|byte| *byte == b'/') {
            let Some(child) = inode.find(ino, name)? else { return Err(Error::NotFound.into()) };
            ino = child.ino;
            inode = tree.get(ino)?;
            if let Some(at) = inode.rec.expires.filter(|at| *at <= now) {
                self.note_gone(tree, at, now);
                return Err(Error::NotFound.into());
            }
        }
        Ok(ino)
    }
}
