//! Directory entries: each in its place and naming an inode that is there, each inode named, each directory once, and
//! none within itself.
//!
//! An entry that cannot stay is taken out. An inode that lost its names gets back those that its own records tell; else
//! one that was taken out elsewhere; else one in `lost+found`.

use std::collections::{BTreeMap, BTreeSet};

use super::lost_found::LostFound;
use super::mend::Mend;
use crate::check::nodes::{Nodes, place_hash};
use crate::check::{OnProgress, Report, scan, tree};
use crate::error::Result;
use crate::format::{
    Bucket, Dentry, Ino, Kind, Links, Name, ROOT, SLOT_BITS, decode, is_name, keys, name_hash,
};

/// A directory and a name in it.
pub type Place = (Ino, Name);

/// Mends all names.
pub fn mend(mend: &mut Mend<'_>, progress: OnProgress<'_>) -> Result<()> {
    let mut names = Names { nodes: tree::load(mend.engine, &mut Report::default(), progress)?, mend };
    let taken_out = names.sort_out()?;
    names.one_name_each()?;
    let mut lost_found = LostFound::default();
    names.name_the_nameless(&taken_out, &mut lost_found)?;
    names.break_cycles(&mut lost_found)?;
    names.mend.write()
}

/// The tree while its names are mended; `found_names` and `found_parent` of each inode are kept true.
pub struct Names<'m, 'a> {
    pub mend: &'m mut Mend<'a>,
    pub nodes: Nodes,
}

impl Names<'_, '_> {
    /// Takes out all entries that cannot stay where they are; returns those of them that name an inode.
    fn sort_out(&mut self) -> Result<BTreeMap<Ino, Vec<Place>>> {
        let mut changed: Vec<(Ino, u64, Bucket)> = Vec::new();
        let mut taken_out: Vec<(Ino, Dentry)> = Vec::new();
        let nodes = &mut self.nodes;
        scan(self.mend.engine, keys::BUCKET, &mut |key, value| {
            let (Some(dir), Some(hash), Ok(bucket)) =
                (keys::ino_of(key), keys::bucket_hash(key), decode::<Bucket>(value, "directory entry"))
            else {
                return;
            };
            let (stay, go) = split(nodes, dir, hash, bucket.clone());
            for entry in &stay {
                if let Some(node) = nodes.get_mut(entry.ino) {
                    node.found_names += 1;
                    node.found_parent = dir;
                }
            }
            taken_out.extend(go.into_iter().map(|entry| (dir, entry)));
            if stay != bucket || stay.is_empty() {
                changed.push((dir, hash, stay));
            }
        })?;
        for (dir, hash, bucket) in changed {
            self.mend.keep(&keys::bucket(dir, hash))?;
            self.mend.put_bucket(dir, hash, &bucket);
            self.mend.done.inode(dir, "an entry of it that could not be is put right or taken out");
        }
        let mut places: BTreeMap<Ino, Vec<Place>> = BTreeMap::new();
        for (dir, entry) in taken_out {
            let name = entry.name.escape_ascii().to_string();
            if self.nodes.get(entry.ino).is_some() {
                places.entry(entry.ino).or_default().push((dir, entry.name));
            } else {
                self.mend
                    .done
                    .inode(dir, format!("the entry {name:?}, of which nothing is left, is taken out"));
            }
        }
        Ok(places)
    }

    /// Leaves directories one name: the one that their record says, or the first.
    fn one_name_each(&mut self) -> Result<()> {
        let many: BTreeSet<Ino> =
            self.nodes.iter().filter(|node| node.is_dir() && node.found_names > 1).map(|n| n.ino).collect();
        for (ino, mut places) in places_of(self.mend, &many)? {
            let right = self.nodes.get(ino).map_or(0, |node| node.places);
            let keep = places.iter().position(|(dir, name)| place_hash(*dir, name) == right).unwrap_or(0);
            let (parent, kept) = places.swap_remove(keep);
            for (dir, name) in places {
                self.unlink(ino, dir, &name)?;
                let name = name.escape_ascii();
                self.mend.done.inode(ino, format!("its other name \"{name}\", in {dir}, is taken out"));
            }
            if let Some(node) = self.nodes.get_mut(ino) {
                node.found_parent = parent;
            }
            self.link_in_record(ino, parent, &kept)?;
        }
        Ok(())
    }

    fn name_the_nameless(
        &mut self,
        taken_out: &BTreeMap<Ino, Vec<Place>>,
        lost_found: &mut LostFound,
    ) -> Result<()> {
        let short: Vec<Ino> = self
            .nodes
            .iter()
            .filter(|node| node.ino != ROOT && node.nlink > 0)
            .filter(|node| node.found_names < if node.is_dir() { 1 } else { node.nlink })
            .map(|node| node.ino)
            .collect();
        for ino in short {
            let mut told = Vec::new();
            if let Some(rec) = self.mend.record(ino)? {
                match rec.links {
                    Links::One { parent, name } => told.push((parent, name)),
                    Links::Many => {
                        let links = self.mend.under(&keys::of_inode(keys::LINK, ino))?;
                        told.extend(links.iter().filter_map(|(key, _)| {
                            let (dir, name) = keys::link_of(key)?;
                            Some((dir, Name::from(name)))
                        }));
                    }
                }
            }
            for (dir, name) in told {
                if self.is_short(ino) && self.can_link(ino, dir, &name)? {
                    self.link(ino, dir, &name)?;
                    let name = name.escape_ascii();
                    self.mend.done.inode(ino, format!("its name \"{name}\" is back in {dir}"));
                }
            }
            for (dir, name) in taken_out.get(&ino).into_iter().flatten() {
                if self.is_nameless(ino) && self.can_link(ino, *dir, name)? {
                    self.link(ino, *dir, name)?;
                    self.mend.done.inode(ino, format!("it keeps the name \"{}\"", name.escape_ascii()));
                }
            }
            if self.is_nameless(ino) {
                lost_found.take(self, ino)?;
            }
            self.mend.step()?;
        }
        Ok(())
    }

    fn is_nameless(&self, ino: Ino) -> bool {
        self.nodes.get(ino).is_some_and(|node| node.found_names == 0)
    }

    fn is_short(&self, ino: Ino) -> bool {
        self.nodes.get(ino).is_some_and(|node| node.found_names < if node.is_dir() { 1 } else { node.nlink })
    }

    /// Whether an inode can have this name: nothing else has it, and the directory leads to the root or to one that is being
    /// named too, and not to the inode itself.
    pub fn can_link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<bool> {
        let is_dir = self.nodes.get(dir).is_some_and(|node| node.is_dir() && (node.nlink > 0 || dir == ROOT));
        if !is_dir || !is_name(name) || self.mend.bucket(dir, name)?.iter().any(|entry| *entry.name == *name)
        {
            return Ok(false);
        }
        Ok(self.way_up(dir).is_none_or(|way| !way.contains(&ino)))
    }

    /// The directories from one upwards; none when they go round in a circle.
    fn way_up(&self, dir: Ino) -> Option<BTreeSet<Ino>> {
        let mut way = BTreeSet::new();
        let mut at = dir;
        while way.insert(at) {
            match self.nodes.get(at) {
                Some(node) if at != ROOT && node.found_names > 0 => at = node.found_parent,
                _ => return Some(way),
            }
        }
        None
    }

    /// Gives an inode a name, which must be free.
    pub fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Result<()> {
        let Some(node) = self.nodes.get_mut(ino) else { return Ok(()) };
        let kind = node.kind;
        node.found_names += 1;
        node.found_parent = dir;
        let first = node.found_names == 1;
        let mut bucket = self.mend.bucket(dir, name)?;
        let free = |slot: &u8| bucket.iter().all(|entry| entry.slot != *slot);
        let slot = (0..1 << SLOT_BITS).find(free).unwrap_or_default();
        bucket.push(Dentry { name: name.into(), ino, kind, slot });
        self.mend.put_bucket(dir, name_hash(name), &bucket);
        self.grow(dir, kind, 1)?;
        if first { self.link_in_record(ino, dir, name) } else { Ok(()) }
    }

    fn unlink(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Result<()> {
        let mut bucket = self.mend.bucket(dir, name)?;
        bucket.retain(|entry| entry.ino != ino || *entry.name != *name);
        self.mend.put_bucket(dir, name_hash(name), &bucket);
        let Some(node) = self.nodes.get_mut(ino) else { return Ok(()) };
        node.found_names -= 1;
        let kind = node.kind;
        self.grow(dir, kind, -1)
    }

    /// Counts an entry more or less in the record of a directory: who removes an empty one relies upon it.
    fn grow(&mut self, dir: Ino, kind: Kind, by: i64) -> Result<()> {
        if let Some(mut rec) = self.mend.record(dir)? {
            rec.size = rec.size.saturating_add_signed(by);
            if kind == Kind::Directory {
                rec.nlink = rec.nlink.saturating_add_signed(by as i32).max(2);
            }
            self.mend.put_record(dir, &rec);
        }
        Ok(())
    }

    /// Notes in an inode's record its first name.
    fn link_in_record(&mut self, ino: Ino, parent: Ino, name: &[u8]) -> Result<()> {
        if let Some(mut rec) = self.mend.record(ino)? {
            match rec.links {
                Links::Many if rec.kind() != Kind::Directory => {
                    self.mend.put(keys::link(ino, parent, name), Vec::new());
                }
                _ => {
                    rec.links = Links::One { parent, name: name.into() };
                    self.mend.put_record(ino, &rec);
                }
            }
        }
        Ok(())
    }

    /// Moves one directory out of each circle: to where its record says, or to `lost+found`.
    fn break_cycles(&mut self, lost_found: &mut LostFound) -> Result<()> {
        let mut sound = BTreeSet::from([ROOT]);
        let dirs: Vec<Ino> = self.nodes.iter().filter(|node| node.is_dir()).map(|node| node.ino).collect();
        for dir in dirs {
            let mut way = BTreeSet::new();
            let mut at = dir;
            while !sound.contains(&at) && way.insert(at) {
                match self.nodes.get(at).filter(|node| node.found_names > 0) {
                    Some(node) => at = node.found_parent,
                    None => break,
                }
            }
            if !sound.contains(&at) && self.is_circle(at) {
                self.break_cycle(at, lost_found)?;
                self.mend.step()?;
            }
            sound.append(&mut way);
        }
        Ok(())
    }

    fn is_circle(&self, dir: Ino) -> bool {
        self.way_up(dir).is_none()
    }

    /// Moves a directory out of the circle that `dir` is in.
    fn break_cycle(&mut self, dir: Ino, lost_found: &mut LostFound) -> Result<()> {
        let mut circle = BTreeSet::new();
        let mut at = dir;
        while circle.insert(at) {
            at = self.nodes.get(at).map_or(ROOT, |node| node.found_parent);
        }
        let places = places_of(self.mend, &circle)?;
        let mut out = None;
        for ino in &circle {
            if let Some(Links::One { parent, name }) = self.mend.record(*ino)?.map(|rec| rec.links)
                && !circle.contains(&parent)
                && self.can_link(*ino, parent, &name)?
                && self.way_up(parent).is_some()
            {
                out = Some((*ino, Some((parent, name))));
                break;
            }
        }
        let (ino, to) = out.unwrap_or((dir, None));
        for (parent, name) in places.get(&ino).into_iter().flatten() {
            self.unlink(ino, *parent, name)?;
        }
        match to {
            Some((parent, name)) => {
                self.link(ino, parent, &name)?;
                let what = format!("it lay within itself: back in {parent} as \"{}\"", name.escape_ascii());
                self.mend.done.inode(ino, what);
                Ok(())
            }
            None => lost_found.take(self, ino),
        }
    }
}

/// All names of some inodes, as the buckets are now.
pub fn places_of(mend: &Mend<'_>, inos: &BTreeSet<Ino>) -> Result<BTreeMap<Ino, Vec<Place>>> {
    let mut found: BTreeMap<Ino, Vec<Place>> = BTreeMap::new();
    if inos.is_empty() {
        return Ok(found);
    }
    let mut dirs = BTreeSet::new();
    scan(mend.engine, keys::BUCKET, &mut |key, value| {
        if let (Some(dir), Some(hash), Ok(bucket)) =
            (keys::ino_of(key), keys::bucket_hash(key), decode::<Bucket>(value, "directory entry"))
            && bucket.iter().any(|entry| inos.contains(&entry.ino))
        {
            dirs.insert((dir, hash));
        }
    })?;
    for (dir, hash) in dirs {
        let bucket: Bucket = mend.get(&keys::bucket(dir, hash))?.unwrap_or_default();
        for entry in bucket.into_iter().filter(|entry| inos.contains(&entry.ino)) {
            found.entry(entry.ino).or_default().push((dir, entry.name));
        }
    }
    Ok(found)
}

/// The entries of a bucket that stay, put right where that is all they need, and those that do not.
fn split(nodes: &Nodes, dir: Ino, hash: u64, bucket: Bucket) -> (Bucket, Bucket) {
    let is_dir = nodes.get(dir).is_some_and(|node| node.is_dir());
    let (mut stay, mut go): (Bucket, Bucket) = bucket.into_iter().partition(|entry| {
        is_dir
            && entry.ino != ROOT
            && is_name(&entry.name)
            && name_hash(&entry.name) == hash
            && nodes.get(entry.ino).is_some()
    });
    // Of two of one name that stays whose inode says so, or the first.
    let says =
        |entry: &Dentry| nodes.get(entry.ino).is_some_and(|node| node.places == place_hash(dir, &entry.name));
    let mut kept: Bucket = Vec::new();
    for entry in stay.drain(..) {
        match kept.iter_mut().find(|other| other.name == entry.name) {
            Some(other) if !says(other) && says(&entry) => go.push(std::mem::replace(other, entry)),
            Some(_) => go.push(entry),
            None => kept.push(entry),
        }
    }
    let mut taken = BTreeSet::new();
    let most = 1u8 << SLOT_BITS;
    for at in 0..kept.len() {
        let others: BTreeSet<u8> = kept.iter().map(|entry| entry.slot).collect();
        let Some(entry) = kept.get_mut(at) else { continue };
        if let Some(node) = nodes.get(entry.ino) {
            entry.kind = node.kind;
        }
        if (entry.slot >= most || taken.contains(&entry.slot))
            && let Some(free) = (0..most).find(|slot| !others.contains(slot) && !taken.contains(slot))
        {
            entry.slot = free;
        }
        taken.insert(entry.slot);
    }
    (kept, go)
}
