//! What a store may hold after a crash: the tree as it was at some moment since the last sync, and in
//! each file bytes that stood at their place at some moment since its last fsync.

use std::collections::BTreeMap;
use std::ops::Range;

use larder::format::{Ino, Kind, ROOT as ROOT_INO};
use larder::volume::Volume;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::fs::{Body, Call, Fs, How, Id, Node};
use super::ops::Step;
use super::store::{list, read};
use super::system::{Check, fail, same_bytes};

/// What a name names. Sizes and times of content are not here: they come with the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The first name of the same inode.
    first: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
    nlink: u32,
    target: Option<Vec<u8>>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// All names by path.
pub type Tree = BTreeMap<Vec<u8>, Seen>;

/// The content of files by path.
pub type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

struct Moment {
    tree: Tree,
    files: BTreeMap<Vec<u8>, Id>,
}

/// The moments of a sequence. Moment 0 is before its first operation.
pub struct History {
    moments: Vec<Moment>,
    before: BTreeMap<Id, Node>,
    /// No earlier moment may be found.
    floor: usize,
    /// Each content that a file had, with the moment since which.
    versions: BTreeMap<Id, Vec<(usize, Vec<u8>)>>,
    /// The moment of the last change of an inode, and of its content.
    changed: BTreeMap<Id, usize>,
    content_changed: BTreeMap<Id, usize>,
    /// Since when a file's content must be found: its fsync.
    settled: BTreeMap<Id, usize>,
    /// Files that replaced another, and in which moments: no earlier content of theirs then.
    replaced: Vec<(Id, Range<usize>)>,
}

fn moment(fs: &Fs) -> Moment {
    let paths = fs.paths();
    let mut first = BTreeMap::new();
    for (path, id) in &paths {
        first.entry(*id).or_insert_with(|| path.clone());
    }
    let tree = paths.iter().map(|(path, id)| {
        let node = fs.node(*id);
        let target = match &node.body {
            Body::Symlink(target) => Some(target.clone()),
            _ => None,
        };
        let seen = Seen {
            first: first[id].clone(),
            mode: node.mode,
            owner: (node.uid, node.gid),
            nlink: node.nlink,
            target,
            xattrs: node.xattrs.clone(),
        };
        (path.clone(), seen)
    });
    let tree = tree.collect();
    let files = paths.into_iter().filter(|(_, id)| fs.node(*id).content().is_some()).collect();
    Moment { tree, files }
}

impl History {
    /// Of what is durable as it is.
    pub fn new(fs: &Fs) -> History {
        let contents =
            fs.nodes().iter().filter_map(|(id, node)| Some((*id, vec![(0, node.content()?.clone())])));
        History {
            moments: vec![moment(fs)],
            before: fs.nodes().clone(),
            floor: 0,
            versions: contents.collect(),
            changed: BTreeMap::new(),
            content_changed: BTreeMap::new(),
            settled: BTreeMap::new(),
            replaced: Vec::new(),
        }
    }

    fn now(&self) -> usize {
        self.moments.len() - 1
    }

    /// Takes down what a step has made of the model.
    pub fn note(&mut self, fs: &Fs, step: &Step) {
        let named = |dir: &Id, name: &Vec<u8>| match &self.before[dir].body {
            Body::Dir { entries, .. } => entries.get(name).copied(),
            _ => None,
        };
        let source = match step {
            Step::Call(Call::Rename { dir, name, new_dir, new_name, how: How::Replace }, _) => {
                named(new_dir, new_name).and_then(|_| named(dir, name))
            }
            _ => None,
        };
        self.moments.push(moment(fs));
        let now = self.now();
        for (id, node) in fs.nodes() {
            let before = self.before.get(id);
            if before != Some(node) {
                self.changed.insert(*id, now);
            }
            let Some(content) = node.content() else { continue };
            if before.and_then(Node::content) != Some(content) {
                self.content_changed.insert(*id, now);
                self.versions.entry(*id).or_default().push((now, content.clone()));
            }
        }
        if let Some(source) = source.filter(|id| self.changed.get(id) == Some(&now)) {
            self.replaced.push((source, now..usize::MAX));
        }
        match step {
            Step::Sync | Step::Remount => {
                self.floor = now;
                self.settled = fs.nodes().keys().map(|id| (*id, now)).collect();
            }
            Step::Fsync(id, data_only) => {
                let changes = if *data_only { &self.content_changed } else { &self.changed };
                self.floor = self.floor.max(changes.get(id).copied().unwrap_or(0));
                self.settled.insert(*id, now);
            }
            _ => {}
        }
        self.before = fs.nodes().clone();
    }

    /// Takes down what a call that failed would have made of the model: a crash may find it, or what is without it.
    pub fn note_unsure(&mut self, with: &Fs, without: &Fs, step: &Step) {
        let known = self.replaced.len();
        self.note(with, step);
        let now = self.now();
        self.replaced.iter_mut().skip(known).for_each(|(_, moments)| moments.end = now + 1);
        self.note(without, &Step::Skip);
    }

    /// Whether the store may hold this: after power loss, or (`killed`) after kill -9.
    pub fn allows(&self, killed: bool, tree: &Tree, contents: &Contents) -> Check {
        let floor = if killed { self.now() } else { self.floor };
        let mut why = None;
        for at in (floor..self.moments.len()).rev().filter(|at| self.moments[*at].tree == *tree) {
            let wrong = contents.iter().find_map(|(path, found)| {
                let id = self.moments[at].files[path];
                self.content(id, at, found).err().map(|why| {
                    format!("the tree is that of moment {at}, but {:?}: {why}", String::from_utf8_lossy(path))
                })
            });
            match wrong {
                None => return Ok(()),
                Some(wrong) => why = why.or(Some(wrong)),
            }
        }
        let last = &self.moments[self.now()].tree;
        fail(why.unwrap_or_else(|| {
            format!(
                "the tree is that of no moment in {floor}..={}; beside the last one:\n{}",
                self.now(),
                difference(last, tree)
            )
        }))
    }

    fn content(&self, id: Id, at: usize, found: &[u8]) -> Result<(), String> {
        let replaced = self.replaced.iter().filter(|(of, moments)| *of == id && moments.contains(&at));
        let since = replaced
            .map(|(_, moments)| moments.start)
            .chain(self.settled.get(&id).copied())
            .max()
            .unwrap_or(0);
        let versions = &self.versions[&id];
        let first = versions.iter().rposition(|(from, _)| *from <= since).unwrap_or(0);
        let allowed: Vec<&[u8]> = versions[first..].iter().map(|(_, content)| &content[..]).collect();
        if allowed.contains(&found) {
            return Ok(());
        }
        // A write of several pages may be there in part.
        let sizes: Vec<usize> = allowed.iter().map(|content| content.len()).collect();
        if !(sizes.iter().min() <= Some(&found.len()) && Some(&found.len()) <= sizes.iter().max()) {
            return Err(format!("{} bytes; since moment {since} it had {sizes:?}", found.len()));
        }
        let stood =
            |at: usize, byte: u8| allowed.iter().any(|content| content.get(at).copied().unwrap_or(0) == byte);
        match (0..found.len()).find(|at| !stood(*at, found[*at])) {
            Some(at) => {
                Err(format!("byte {at} is {:#04x}, which it never was since moment {since}", found[at]))
            }
            None => Ok(()),
        }
    }
}

/// Whether this is what the model holds now.
pub fn is_now(fs: &Fs, tree: &Tree, contents: &Contents) -> Check {
    let now = moment(fs);
    prop_assert!(now.tree == *tree, "the tree is another:\n{}", difference(&now.tree, tree));
    for (path, id) in &now.files {
        let expected = fs.node(*id).content().expect("it is a file");
        same_bytes(expected, &contents[path], &format!("{:?}", String::from_utf8_lossy(path)))?;
    }
    Ok(())
}

fn difference(expected: &Tree, found: &Tree) -> String {
    let mut lines = String::new();
    for (path, seen) in expected {
        match found.get(path) {
            None => lines += &format!("missing: {:?}\n", String::from_utf8_lossy(path)),
            Some(there) if there != seen => {
                lines += &format!("{:?} is {there:?}\n  and was {seen:?}\n", String::from_utf8_lossy(path));
            }
            _ => {}
        }
    }
    for path in found.keys().filter(|path| !expected.contains_key(*path)) {
        lines += &format!("found: {:?}\n", String::from_utf8_lossy(path));
    }
    lines
}

/// The tree of an open volume, and what its files hold.
pub fn found(volume: &Volume) -> Result<(Tree, Contents), TestCaseError> {
    let what = |error: larder::Error| TestCaseError::fail(format!("reading the tree: {error}"));
    let (mut tree, mut contents) = (Tree::new(), Contents::new());
    let mut paths = BTreeMap::from([(Vec::new(), ROOT_INO)]);
    let mut todo = vec![(Vec::new(), ROOT_INO)];
    while let Some((path, dir)) = todo.pop() {
        for (name, ino, kind) in list(volume, dir).map_err(what)? {
            let path = [&path[..], b"/", &name].concat();
            let entry = volume.run(|volume| volume.lookup(dir, &name)).map_err(what)?;
            volume.forget(entry.attr.ino, 1);
            prop_assert_eq!(entry.attr.ino, ino, "{:?} is listed as one inode and found as another", name);
            if kind == Kind::Directory {
                todo.push((path.clone(), ino));
            }
            paths.insert(path, ino);
        }
    }
    let mut first: BTreeMap<Ino, Vec<u8>> = BTreeMap::new();
    for (path, ino) in &paths {
        first.entry(*ino).or_insert_with(|| path.clone());
    }
    for (path, ino) in &paths {
        let attr = volume.run(|volume| volume.getattr(*ino)).map_err(what)?.attr;
        let kind = Kind::of_mode(attr.mode);
        let target = match kind {
            Kind::Symlink => Some(volume.run(|volume| volume.readlink(*ino)).map_err(what)?),
            _ => None,
        };
        let names = volume.run(|volume| volume.listxattr(*ino)).map_err(what)?;
        let mut xattrs = BTreeMap::new();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let value = volume.run(|volume| volume.getxattr(*ino, name)).map_err(what)?;
            xattrs.insert(name.to_vec(), value);
        }
        if kind == Kind::File {
            let content = read(volume, *ino, 0, attr.size as u32).map_err(what)?;
            prop_assert_eq!(content.len() as u64, attr.size, "bytes of {:?}", path);
            contents.insert(path.clone(), content);
        }
        let seen = Seen {
            first: first[ino].clone(),
            mode: attr.mode,
            owner: (attr.uid, attr.gid),
            nlink: attr.nlink,
            target,
            xattrs,
        };
        tree.insert(path.clone(), seen);
    }
    Ok((tree, contents))
}
