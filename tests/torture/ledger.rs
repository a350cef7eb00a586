//! What one writer has done to its part of a tree, and so what a store may hold of it after a crash.
//!
//! A writer has its names to itself, so its part is known after each of its steps; the moment n is that after n of them.
//! The last step of a writer may be one that the crash cut off: it has happened, or not, or a write in part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A path below the mount point.
pub type Name = String;

/// One system call.
#[derive(Clone, Debug)]
pub enum Change {
    Make(Name),
    MakeDir(Name),
    Symlink(Name, String),
    Link(Name, Name),
    Rename(Name, Name),
    /// Of a name of whatever kind.
    Remove(Name),
    Write(Name, usize, Arc<[u8]>),
    Truncate(Name, usize),
    Mode(Name, u32),
    /// The attribute `user.mark`.
    Mark(Name, String),
    /// Of the data alone, or of all.
    Fsync(Name, bool),
}

/// A change, and when it was, by a clock that all writers share.
#[derive(Debug)]
pub struct Step {
    pub begun: u64,
    /// None: it was not acknowledged.
    pub ended: Option<u64>,
    pub change: Change,
}

/// What kind of crash it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// kill -9: every acknowledged change of the tree is there.
    Killed,
    /// Power loss: the tree is that of one moment, at least that of the last fsync.
    Power,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Dir,
    Symlink(String),
}

/// What an inode is, beside its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub kind: Kind,
    pub mode: u32,
    pub mark: Option<String>,
}

/// What a name was found to name.
#[derive(Clone, Debug)]
pub struct Seen {
    pub ino: u64,
    pub nlink: u64,
    pub meta: Meta,
    /// Of a file.
    pub content: Vec<u8>,
}

pub type Found = BTreeMap<Name, Seen>;

type Id = u64;

/// A content, and the moment since which a file had it.
type Version = (usize, Arc<Vec<u8>>);

#[derive(Clone, Debug, Default)]
struct Tree {
    names: BTreeMap<Name, Id>,
    nodes: BTreeMap<Id, Meta>,
    next: Id,
}

impl Tree {
    fn make(&mut self, name: &str, kind: Kind, mode: u32) -> Id {
        self.next += 1;
        self.names.insert(name.to_owned(), self.next);
        self.nodes.insert(self.next, Meta { kind, mode, mark: None });
        self.next
    }

    /// Returns the inode that was changed, if it is a file.
    fn apply(&mut self, change: &Change) -> Option<Id> {
        let id = |name: &Name| self.names[name];
        match change {
            Change::Make(name) => return Some(self.make(name, Kind::File, 0o600)),
            Change::MakeDir(name) => drop(self.make(name, Kind::Dir, 0o700)),
            Change::Symlink(name, target) => drop(self.make(name, Kind::Symlink(target.clone()), 0o777)),
            Change::Link(from, to) => drop(self.names.insert(to.clone(), id(from))),
            Change::Rename(from, to) => self.rename(from, to),
            Change::Remove(name) => drop(self.names.remove(name)),
            Change::Write(name, ..) | Change::Truncate(name, _) => return Some(id(name)),
            Change::Mode(name, mode) => {
                let id = id(name);
                self.nodes.get_mut(&id).unwrap().mode = *mode;
                return Some(id);
            }
            Change::Mark(name, mark) => {
                let id = id(name);
                self.nodes.get_mut(&id).unwrap().mark = Some(mark.clone());
                return Some(id);
            }
            Change::Fsync(..) => {}
        }
        None
    }

    fn rename(&mut self, from: &str, to: &str) {
        // Two names of one inode: rename(2) does nothing then.
        if self.names.get(to) == Some(&self.names[from]) {
            return;
        }
        let inside = format!("{from}/");
        let moved: Vec<Name> =
            self.names.keys().filter(|name| *name == from || name.starts_with(&inside)).cloned().collect();
        for name in moved {
            let id = self.names.remove(&name).unwrap();
            self.names.insert(format!("{to}{}", &name[from.len()..]), id);
        }
    }

    /// The first thing in which what was found is another tree.
    fn differs(&self, found: &Found) -> Option<String> {
        if let Some(name) = self.names.keys().find(|name| !found.contains_key(*name)) {
            return Some(format!("{name} is missing"));
        }
        let (mut inodes, mut nodes) = (BTreeMap::new(), BTreeMap::new());
        for (name, seen) in found {
            let Some(id) = self.names.get(name) else { return Some(format!("{name} is there")) };
            if *inodes.entry(seen.ino).or_insert(*id) != *id
                || *nodes.entry(*id).or_insert(seen.ino) != seen.ino
            {
                return Some(format!("{name} is another inode"));
            }
            let meta = &self.nodes[id];
            if *meta != seen.meta {
                return Some(format!("{name} is {:?} and should be {meta:?}", seen.meta));
            }
            let links = self.names.values().filter(|other| *other == id).count() as u64;
            if meta.kind != Kind::Dir && seen.nlink != links {
                return Some(format!("{name} has {} links and should have {links}", seen.nlink));
            }
        }
        None
    }
}

/// What one writer did since a moment at which all was known and durable.
#[derive(Default)]
pub struct Ledger {
    base: Tree,
    tree: Tree,
    steps: Vec<Step>,
    /// All that a file had, the oldest first.
    contents: BTreeMap<Id, Vec<Version>>,
    /// The moments of an inode's last change, and of its content's.
    changed: BTreeMap<Id, usize>,
    content_changed: BTreeMap<Id, usize>,
    /// The moment of an inode's last fsync, and of its last truncate.
    settled: BTreeMap<Id, usize>,
    sized: BTreeMap<Id, usize>,
    /// Files that were renamed over another one, and when: from then on no earlier content of theirs.
    replaced: Vec<(Id, usize)>,
    /// What an fsync has made durable: so many steps of this writer ...
    floor: usize,
    /// ... and what any writer had ended when the shared clock stood here.
    pub floor_clock: u64,
}

impl Ledger {
    /// Begins with what was found.
    pub fn new(found: &Found) -> Ledger {
        let mut ledger = Ledger::default();
        let mut ids = BTreeMap::new();
        for (name, seen) in found {
            let Meta { kind, mode, mark } = seen.meta.clone();
            match ids.get(&seen.ino) {
                Some(id) => drop(ledger.tree.names.insert(name.clone(), *id)),
                None => {
                    let id = ledger.tree.make(name, kind, mode);
                    ids.insert(seen.ino, id);
                    ledger.tree.nodes.get_mut(&id).unwrap().mark = mark;
                    ledger.contents.insert(id, vec![(0, Arc::new(seen.content.clone()))]);
                }
            }
        }
        ledger.base = ledger.tree.clone();
        ledger
    }

    pub fn names(&self, wanted: impl Fn(&Kind) -> bool) -> Vec<&Name> {
        let names = self.tree.names.iter();
        names.filter(|(_, id)| wanted(&self.tree.nodes[id].kind)).map(|(name, _)| name).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.tree.names.contains_key(name)
    }

    pub fn content(&self, name: &str) -> &[u8] {
        &self.contents[&self.tree.names[name]].last().unwrap().1
    }

    /// Steps taken.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Takes a step down, once it has returned.
    pub fn note(&mut self, step: Step) {
        let now = self.steps.len() + 1;
        match &step.change {
            Change::Rename(from, to) if self.has(to) && self.tree.names[from] != self.tree.names[to] => {
                self.replaced.push((self.tree.names[from], now));
            }
            Change::Fsync(name, data_only) if step.ended.is_some() => {
                let id = self.tree.names[name];
                self.settled.insert(id, now);
                let changes = if *data_only { &self.content_changed } else { &self.changed };
                if let Some(moment) = changes.get(&id) {
                    self.floor = self.floor.max(*moment);
                    // That of the step which made this moment.
                    self.floor_clock = self.floor_clock.max(self.steps[moment - 1].begun);
                }
            }
            _ => {}
        }
        if let Some(id) = self.tree.apply(&step.change) {
            let mut content = self.contents.get(&id).map_or(Vec::new(), |all| all.last().unwrap().1.to_vec());
            match &step.change {
                Change::Write(_, at, data) => {
                    content.resize(content.len().max(at + data.len()), 0);
                    content[*at..at + data.len()].copy_from_slice(data);
                }
                Change::Truncate(_, len) => {
                    content.resize(*len, 0);
                    self.sized.insert(id, now);
                }
                _ => {}
            }
            self.changed.insert(id, now);
            let known = self.contents.entry(id).or_default();
            if known.last().is_none_or(|(_, last)| **last != content) {
                known.push((now, Arc::new(content)));
                self.content_changed.insert(id, now);
            }
        }
        self.steps.push(step);
    }

    /// How many steps had ended when the shared clock stood there.
    pub fn ended_before(&self, clock: u64) -> usize {
        self.steps.iter().take_while(|step| step.ended.is_some_and(|ended| ended < clock)).count()
    }

    /// The steps that a moment has behind it began when the clock stood here.
    pub fn last_begun(&self, moment: usize) -> u64 {
        moment.checked_sub(1).map_or(0, |step| self.steps[step].begun)
    }

    /// The moments of which this may be what is left. Errors: none, and why.
    pub fn moments(&self, crash: Crash, found: &Found) -> Result<BTreeSet<usize>, String> {
        let acknowledged = self.ended_before(u64::MAX);
        let floor = if crash == Crash::Killed { acknowledged } else { self.floor };
        let mut tree = self.base.clone();
        let mut fits = BTreeSet::new();
        let mut why = String::new();
        for moment in 0..=self.steps.len() {
            if let Some(step) = moment.checked_sub(1).map(|at| &self.steps[at]) {
                tree.apply(&step.change);
            }
            if moment < floor {
                continue;
            }
            let wrong = tree.differs(found).or_else(|| self.wrong_content(crash, &tree, moment, found));
            match wrong {
                None => drop(fits.insert(moment)),
                Some(wrong) => why += &format!("  moment {moment}: {wrong}\n"),
            }
        }
        if !fits.is_empty() {
            return Ok(fits);
        }
        let last = self.steps.iter().enumerate().skip(self.steps.len().saturating_sub(12));
        let last: String = last.map(|(at, step)| format!("  {}: {}\n", at + 1, step.told())).collect();
        // The latest moments tell most.
        let why: Vec<&str> = why.lines().rev().take(6).collect();
        Err(format!(
            "{crash:?}: what is left is of no moment from {floor} to {} ({acknowledged} acknowledged)\n{}\nthe last steps:\n{last}",
            self.steps.len(),
            why.join("\n")
        ))
    }

    fn wrong_content(&self, crash: Crash, tree: &Tree, moment: usize, found: &Found) -> Option<String> {
        let files = found.iter().filter(|(_, seen)| seen.meta.kind == Kind::File);
        files.into_iter().find_map(|(name, seen)| {
            let wrong = self.content_fits(crash, tree.names[name], moment, &seen.content).err();
            wrong.map(|why| format!("{name}: {why}"))
        })
    }

    /// Every byte is one that stood there since the content was last made durable, and the size one between those
    /// that the file had.
    fn content_fits(&self, crash: Crash, id: Id, moment: usize, found: &[u8]) -> Result<(), String> {
        let replaced = self.replaced.iter().filter(|(of, since)| *of == id && *since <= moment);
        let settled = self.settled.get(&id).copied();
        let since = replaced.map(|(_, since)| *since).chain(settled).max().unwrap_or(0);
        let versions = |since: usize| {
            let all = &self.contents[&id];
            let first = all.iter().rposition(|(from, _)| *from <= since).unwrap_or(0);
            all[first..].iter().map(|(_, content)| &content[..]).collect::<Vec<_>>()
        };
        // A truncate is a change of the tree, which kill -9 does not undo.
        let sized =
            self.sized.get(&id).filter(|at| crash == Crash::Killed && self.steps[**at - 1].ended.is_some());
        let sizes: BTreeSet<usize> =
            versions(since.max(sized.copied().unwrap_or(0))).iter().map(|content| content.len()).collect();
        if Some(&found.len()) < sizes.first() || Some(&found.len()) > sizes.last() {
            return Err(format!("{} bytes; since moment {since} it had {sizes:?}", found.len()));
        }
        let allowed = versions(since);
        // By far the most frequent, and quick to see.
        if allowed.contains(&found) {
            return Ok(());
        }
        let stood =
            |at: usize| allowed.iter().any(|content| content.get(at).copied().unwrap_or(0) == found[at]);
        match (0..found.len()).find(|at| !stood(*at)) {
            Some(at) => {
                Err(format!("byte {at} is {:#04x}, which it never was since moment {since}", found[at]))
            }
            None => Ok(()),
        }
    }
}

impl Step {
    /// Without the content.
    fn told(&self) -> String {
        let change = match &self.change {
            Change::Write(name, at, data) => format!("Write({name:?}, {at}, {} bytes)", data.len()),
            change => format!("{change:?}"),
        };
        format!("{change}{}", if self.ended.is_some() { "" } else { " (cut off)" })
    }
}

/// Whether the parts of several writers can be of one moment of the whole tree: no change is there while one is missing that
/// had ended before it began, nor one that had ended before what an fsync made durable.
pub fn of_one_moment(parts: &[(&Ledger, BTreeSet<usize>)]) -> Result<(), String> {
    let floor_clock = parts.iter().map(|(ledger, _)| ledger.floor_clock).max().unwrap_or(0);
    let mut least: Vec<usize> = parts.iter().map(|(ledger, _)| ledger.ended_before(floor_clock)).collect();
    // What one demands of another only grows with its own moment, so the least solution is found from below.
    loop {
        let mut moved = false;
        for at in 0..parts.len() {
            let Some(moment) = parts[at].1.range(least[at]..).next().copied() else {
                return Err(format!(
                    "of writer {at} are found the moments {:?}, and what others have proves moment {}",
                    parts[at].1, least[at]
                ));
            };
            moved |= moment != least[at];
            least[at] = moment;
            let clock = parts[at].0.last_begun(moment);
            for (other, (ledger, _)) in parts.iter().enumerate() {
                let demanded = ledger.ended_before(clock);
                moved |= demanded > least[other];
                least[other] = least[other].max(demanded);
            }
        }
        if !moved {
            return Ok(());
        }
    }
}
