//! Larder's own attributes that are kept as extended attributes are, once their values have been checked: those
//! that few inodes have and that hold for all below. What holds for a key is what it has itself or, where it has
//! none, the nearest directory above it that has one. That is looked up when it matters, so a change of a directory
//! holds for all in it at once, and a key that is moved gets what holds where it comes to lie.

use super::Volume;
use super::tree::{Attributes, Tree};
use super::types::Step;
use super::xattr::attributes;
use crate::error::{Error, Result};
use crate::format::{Ino, Links, ROOT};

/// An attribute that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// `1`: may be evicted when the store is full.
    Evictable,
    /// `1`: is never evicted.
    Pinned,
}

impl Mark {
    /// The mark with this attribute's name.
    pub fn of(name: &[u8]) -> Option<Mark> {
        [Mark::Evictable, Mark::Pinned].into_iter().find(|mark| mark.name() == name)
    }

    fn name(self) -> &'static [u8] {
        match self {
            Mark::Evictable => b"user.larder.evictable",
            Mark::Pinned => b"user.larder.pinned",
        }
    }

    /// What is kept for a value that is set.
    pub fn check(self, value: &[u8]) -> Result<Vec<u8>> {
        match value.trim_ascii() {
            flag @ (b"0" | b"1") => Ok(flag.to_vec()),
            other => {
                let (name, other) = (self.name().escape_ascii(), other.escape_ascii());
                Err(Error::Invalid(format!("{name} \"{other}\": use 1 or 0")))
            }
        }
    }

    fn flag(self, there: &Attributes) -> Option<bool> {
        there.get(self.name()).map(|value| value == b"1")
    }
}

/// What holds for a key as to eviction; `None` where nothing is set from there up to the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub evictable: Option<bool>,
    pub pinned: Option<bool>,
}

impl Marks {
    /// What these say, and where they say nothing, what holds above.
    pub fn or(self, above: Marks) -> Marks {
        Marks { evictable: self.evictable.or(above.evictable), pinned: self.pinned.or(above.pinned) }
    }

    /// Whether what they hold for may be evicted.
    pub fn allow(self) -> bool {
        self.evictable == Some(true) && self.pinned != Some(true)
    }
}

impl Volume {
    /// What an inode has itself.
    pub(super) fn own_marks(&self, tree: &mut Tree, ino: Ino) -> Step<Marks> {
        let there = attributes(ino, tree.get(ino)?)?;
        Ok(Marks { evictable: Mark::Evictable.flag(there), pinned: Mark::Pinned.flag(there) })
    }

    /// What holds in a directory.
    pub(super) fn marks_in(&self, tree: &mut Tree, dir: Ino) -> Step<Marks> {
        let (mut marks, mut at) = (Marks::default(), dir);
        loop {
            marks = marks.or(self.own_marks(tree, at)?);
            match &tree.get(at)?.rec.links {
                Links::One { parent, .. } if at != ROOT => at = *parent,
                _ => return Ok(marks),
            }
        }
    }
}
