//! Larder's own attributes that are kept as extended attributes are, once their values have been checked: those
//! that few inodes have and that hold for all below. What holds for a key is what it has itself or, where it has
//! none, the nearest directory above it that has one. That is looked up when it matters, so a change of a directory
//! holds for all in it at once, and a key that is moved gets what holds where it comes to lie.

use super::Volume;
use super::draft::Draft;
use super::names::drafted;
use super::tree::{Attributes, Tree};
use super::types::Step;
use super::xattr::attributes;
use crate::error::{Error, Result};
use crate::format::{Ino, Kind, Links, ROOT};
use crate::shelf;

/// An attribute that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// `1`: may be evicted when the store is full.
    Evictable,
    /// `1`: is never evicted.
    Pinned,
    /// Of a directory: seconds, or `never`: the time to live of the files that are made below.
    DefaultTtl,
}

impl Mark {
    /// The mark with this attribute's name.
    pub fn of(name: &[u8]) -> Option<Mark> {
        [Mark::Evictable, Mark::Pinned, Mark::DefaultTtl].into_iter().find(|mark| mark.name() == name)
    }

    fn name(self) -> &'static [u8] {
        match self {
            Mark::Evictable => b"user.larder.evictable",
            Mark::Pinned => b"user.larder.pinned",
            Mark::DefaultTtl => b"user.larder.default-ttl",
        }
    }

    /// What is kept for a value that is set on a file of this kind.
    pub fn check(self, value: &[u8], kind: Kind) -> Result<Vec<u8>> {
        let value = value.trim_ascii();
        let bad = |why: String| {
            let (name, value) = (self.name().escape_ascii(), value.escape_ascii());
            Err(Error::Invalid(format!("{name} \"{value}\": {why}")))
        };
        match (self, value) {
            (Mark::DefaultTtl, _) if kind != Kind::Directory => Err(Error::NotPermitted),
            (Mark::DefaultTtl, _) => match shelf::parse_ttl(&String::from_utf8_lossy(value)) {
                Ok(Some(0)) => bad("nothing would live; use never, where files are to stay".into()),
                Ok(Some(seconds)) => Ok(seconds.to_string().into_bytes()),
                Ok(None) => Ok(b"never".to_vec()),
                Err(why) => bad(why.to_string()),
            },
            (_, b"0" | b"1") => Ok(value.to_vec()),
            _ => bad("use 1 or 0".into()),
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

    /// The time to live, in seconds, of a file that is made in a directory, which may be one that the draft makes.
    pub(super) fn ttl_in(&self, tree: &mut Tree, draft: &Draft, dir: Ino) -> Step<Option<u32>> {
        let mut at = dir;
        loop {
            let there = match draft.attributes_of_born(at) {
                Some(born) => born,
                None => attributes(at, tree.get(at)?)?,
            };
            if let Some(value) = there.get(Mark::DefaultTtl.name()) {
                // It was checked when it was set: `never` is no number.
                return Ok(std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()));
            }
            match &drafted(tree, draft, at)?.links {
                Links::One { parent, .. } if at != ROOT => at = *parent,
                _ => return Ok(self.settings.cache_ttl),
            }
        }
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
