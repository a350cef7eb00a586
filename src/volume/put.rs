//! Keys written whole: new content takes its name in one batch, and several keys change together.
//!
//! A change of a file in place may be found half done after a crash. Here a new inode gets the content, and
//! one batch of the journal gives it the name that the old one had: a reader finds the old content or the
//! new, and so does who looks after a crash. Small content rides in that batch as patches, larger content is put into
//! frames ahead of it ([`super::framed`]), and what is too large to be taken at once ([`BATCH_CONTENT`]) is written to an
//! inode that has no name yet. A crash before the batch leaves that one unlinked, and the next opening reclaims it.
//!
//! Invariants: until the batch is journalled nothing of it is seen, and a failure leaves no trace; a file
//! gets a name only when all its content is in frames or in the same batch.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::Volume;
use super::draft::Draft;
use super::framed::{Framed, FramedFile};
use super::listed::Listed;
use super::names::{drafted, drop_name};
use super::tree::{Attributes, Child, Tree};
use super::types::*;
use super::writeback::PATCH_LIMIT;
use super::xattr::attributes;
use crate::catalog::Batch;
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::format::{Codec, Ino, InodeRecord, Kind, Links, NAME_MAX, PageNo, ROOT, keys};
use crate::shelf;

/// The most changes of one batch. Their records are in memory together, also with the least of it.
pub const BATCH_MAX: usize = 1024;

/// Bytes of content that one batch takes as patches and frames; what is beyond is written to unnamed files. A batch is put
/// together under the tree's lock: so much takes a fraction of a millisecond to copy and to journal.
const BATCH_CONTENT: usize = 1 << 20;

/// Content of so many bytes and more is put into frames ahead of its batch, unless it has to be durable at once and can ride:
/// that costs one flush, frames two. Of fewer bytes a frame of their own costs more than a place in the journal.
const FRAMED: usize = 4 << 10;

/// Bytes that are written to an unnamed file at a time, so that write-back begins early.
const PART: usize = 1 << 20;

/// How long to wait for the kernel to hear of changes.
const TOLD: Duration = Duration::from_secs(5);

/// How often, beside once for each name that it has, a batch may find that something is missing in memory.
/// What it needs is loaded one by one; where loading one thing evicts another it would never end.
const PATIENCE: usize = 1000;

/// A change of one key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change<'a> {
    /// The key: names with `/` between them, from the root, as [`check_path`] has it.
    pub path: &'a [u8],
    /// What it is to be.
    pub to: To<'a>,
}

/// What a key is to be. Directories on the way to a file are made where they are missing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum To<'a> {
    /// A new file with this content.
    Content(&'a [u8], NewFile),
    /// The file that [`Volume::make_unnamed`] has made, with the content that it has now.
    Unnamed(Ino, NewFile),
    /// The file at this path, with the content that it has now, which loses that name.
    Moved(&'a [u8], NewFile),
    /// Nothing: the name is removed, when it is there. `tree`: a directory's, too, with all that is in it.
    Nothing {
        /// Whether a directory may be removed.
        tree: bool,
    },
}

/// What is asked of a new file; the rest follows from its directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewFile {
    /// When it expires, where not as its directory says.
    pub expiry: Option<Expiry>,
    /// Its codec, where not its directory's.
    pub codec: Option<Codec>,
}

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// Never.
    Never,
    /// So many seconds after it was written; this is also the period that a touch renews.
    In(u32),
    /// At this moment.
    At(Time),
}

/// Splits a key into names. Errors: `Key`, when it is none: empty, absolute, with an empty name, `.`, `..` or
/// a NUL, or longer than 4095 bytes; `NameTooLong`, when a name has more than 255 bytes.
pub fn check_path(path: &[u8]) -> Result<impl Iterator<Item = &[u8]>> {
    let bad = |why| Error::Key { key: String::from_utf8_lossy(path).chars().take(100).collect(), why };
    if path.is_empty() {
        return Err(bad("it is empty"));
    }
    if path.len() >= libc::PATH_MAX as usize {
        return Err(bad("it is longer than 4095 bytes"));
    }
    if path.starts_with(b"/") {
        return Err(bad("it begins with `/`, and keys are relative to the store"));
    }
    if path.ends_with(b"/") {
        return Err(bad("it ends with `/`, and keys do not"));
    }
    if path.contains(&0) {
        return Err(bad("it has a NUL in it"));
    }
    let names = path.split(|byte| *byte == b'/');
    for name in names.clone() {
        match name {
            b"" => return Err(bad("a name in it is empty")),
            b"." | b".." => return Err(bad("a name in it is `.` or `..`")),
            _ if name.len() > NAME_MAX => return Err(Error::NameTooLong),
            _ => {}
        }
    }
    Ok(names)
}

/// What a name means: nothing, or a file of some kind.
type Named = Option<(Ino, Kind)>;

/// What the kernel is told of: a name in a directory, or an inode.
enum Heard<'a> {
    Name(Ino, &'a [u8]),
    Inode(Ino),
    Attributes(Ino),
}

/// A batch in the making: the draft, and what names mean in it so far.
pub(super) struct Plan<'a> {
    draft: Draft,
    /// Names that the batch changes.
    names: Listed<(Ino, &'a [u8]), Named>,
    next: u64,
    /// New files with content that rides in the batch.
    contents: SmallVec<[(Ino, u8, &'a [u8]); 1]>,
    /// Whom the kernel must be told of.
    heard: SmallVec<[Heard<'a>; 2]>,
    /// The earliest expiry that is set.
    expires: Option<Time>,
}

impl Volume {
    /// Changes keys, all of them or none, in the order given; a key may be named once. With `durable` it returns once they
    /// survive a power failure. Returns for each whether the key was there. Waits.
    ///
    /// Errors: `Key` and `NameTooLong` for what is no key; `NotADirectory` when a key has another one on its way;
    /// `IsADirectory` when one is a directory; `Invalid` when there are more than [`BATCH_MAX`]; `NoSpace`.
    pub fn apply(&self, caller: &Caller, changes: &[Change<'_>], durable: bool) -> Result<Vec<bool>> {
        if changes.len() > BATCH_MAX {
            return Err(Error::Invalid(format!(
                "{} changes are more than the {BATCH_MAX} that a batch may have",
                changes.len()
            )));
        }
        let mut names = 0;
        for change in changes {
            names += check_path(change.path)?.count();
            if let To::Moved(from, _) = change.to {
                names += check_path(from)?.count();
            }
        }
        // Released when the batch is through, or has failed: those that got no name are reclaimed.
        let mut unnamed = Unnamed { volume: self, files: Vec::new() };
        let mut taken = 0;
        let mut staged = Cow::Borrowed(changes);
        let mut is_framed: SmallVec<[bool; 8]> = SmallVec::new();
        for (n, change) in changes.iter().enumerate() {
            let mut framed = false;
            if let To::Content(content, new) = change.to {
                if taken + content.len() > BATCH_CONTENT {
                    let ino = self.make_unnamed(caller, change.path, &new)?;
                    unnamed.files.push(ino);
                    for (n, part) in content.chunks(PART).enumerate() {
                        self.write_blocking(ino, (n * PART) as u64, part, false)?;
                    }
                    self.flush_file(ino)?;
                    staged.to_mut()[n].to = To::Unnamed(ino, new);
                } else {
                    taken += content.len();
                    framed = content.len() >= if durable { PATCH_LIMIT + 1 } else { FRAMED };
                }
            }
            is_framed.push(framed);
        }
        let mut patience = names + PATIENCE;
        let (there, heard) = loop {
            let framed = self.frame_contents(caller, &staged, &is_framed);
            match framed.and_then(|framed| self.try_apply(caller, &staged, framed)) {
                Ok(done) => break done,
                Err(Pause::Fail(error)) => return Err(error),
                Err(Pause::Wait(_)) if patience == 0 => {
                    return Err(Error::Invalid(
                        "the directories that the batch changes do not fit in memory together: make it smaller, \
                         or cache-size-limit larger"
                            .into(),
                    ));
                }
                Err(Pause::Wait(need)) => self.satisfy(need)?,
            }
            patience -= 1;
        };
        self.tell_all(&heard);
        if durable {
            self.make_durable(self.engine.last_seq())?;
        }
        Ok(there)
    }

    fn try_apply<'a>(
        &self,
        caller: &Caller,
        changes: &[Change<'a>],
        mut framed: Option<Framed<'_, '_>>,
    ) -> Step<(Vec<bool>, SmallVec<[Heard<'a>; 2]>)> {
        let adds = changes.iter().any(|change| !matches!(change.to, To::Nothing { .. }));
        if adds { self.ready_to_add() } else { self.ready() }?;
        let mut tree = self.tree.lock();
        let now = tree.now(&self.clock);
        let mut plan = Plan::new(&tree, self.engine.batch());
        plan.draft.batch.adds = adds;
        let is_framed = |n| framed.as_ref().is_some_and(|framed| framed.file(n).is_some());
        let riding =
            changes.iter().enumerate().filter(|(n, _)| !is_framed(*n)).map(|(_, change)| match change.to {
                To::Content(content, _) => content.len(),
                _ => 0,
            });
        plan.draft.batch.reserve(changes.len(), riding.sum());
        let mut there = Vec::with_capacity(changes.len());
        for (n, change) in changes.iter().enumerate() {
            let file = framed.as_ref().and_then(|framed| framed.file(n));
            there.push(self.plan(&mut tree, &mut plan, caller, change, file, now)?);
        }
        if !tree.quotas.is_empty() {
            let riding: Vec<(Ino, u64)> =
                plan.contents.iter().map(|(ino, _, content)| (*ino, content.len() as u64)).collect();
            self.check_bill(&tree, &tree.bill(plan.draft.inodes()), &riding)?;
        }
        self.ride(&mut plan)?;
        if let Err(error) = self.commit(&mut tree, plan.draft) {
            self.forget_contents(&plan.contents);
            return Err(error.into());
        }
        if let Some(framed) = &mut framed {
            framed.named();
        }
        drop(tree);
        if let Some(at) = plan.expires {
            self.expiry_set(at);
        }
        Ok((there, plan.heard))
    }

    /// Puts one change into the plan; `framed`: the file that has its content in frames. Returns whether the key was there.
    pub(super) fn plan<'a>(
        &self,
        tree: &mut Tree,
        plan: &mut Plan<'a>,
        caller: &Caller,
        change: &Change<'a>,
        framed: Option<&FramedFile>,
        now: Time,
    ) -> Step<bool> {
        let make = !matches!(change.to, To::Nothing { .. });
        let Some((dir, name)) = self.walk(tree, plan, caller, change.path, make, now)? else {
            return Ok(false);
        };
        let old = plan.find(tree, dir, name)?;
        let mut there = old.is_some();
        if let Some((ino, kind)) = old {
            let expires = drafted(tree, &plan.draft, ino)?.expires;
            there = !self.has_expired(tree, expires, now);
            if kind == Kind::Directory && !matches!(change.to, To::Nothing { tree: true }) {
                let gone = Pause::Wait(Need::Expired(ino));
                return Err(if there { Error::IsADirectory.into() } else { gone });
            }
            if let To::Moved(from, _) = change.to
                && from == change.path
            {
                return Err(Error::Invalid("a key cannot be moved to itself".into()).into());
            }
            plan.drop(tree, dir, name, ino, now)?;
        }
        let (ino, new) = match &change.to {
            To::Nothing { .. } => return Ok(there),
            To::Content(content, new) => (self.bear(tree, plan, caller, dir, content, framed, now)?, new),
            To::Unnamed(ino, new) => (*ino, new),
            To::Moved(from, new) => {
                let Some((from_dir, from_name)) = self.walk(tree, plan, caller, from, false, now)? else {
                    return Err(Error::NotFound.into());
                };
                let (ino, _) = plan.find(tree, from_dir, from_name)?.ok_or(Error::NotFound)?;
                plan.drop(tree, from_dir, from_name, ino, now)?;
                plan.heard.push(Heard::Inode(ino));
                // The expiry that it had was that of its old name.
                let mode = drafted(tree, &plan.draft, ino)?.mode;
                let (inherits, _) = self.newborn_in(tree, plan, caller, dir, mode, now)?;
                let rec = plan.draft.edit(tree, ino)?;
                (rec.expires, rec.period) = (inherits.expires, inherits.period);
                (ino, new)
            }
        };
        self.give_name(tree, plan, ino, dir, name, new, now)?;
        Ok(there)
    }

    /// Finds the directory that a key is in, making those that are missing when `make`; without, `None` where
    /// one is, or is none.
    fn walk<'a>(
        &self,
        tree: &mut Tree,
        plan: &mut Plan<'a>,
        caller: &Caller,
        path: &'a [u8],
        make: bool,
        now: Time,
    ) -> Step<Option<(Ino, &'a [u8])>> {
        let mut dir = ROOT;
        // It was checked ahead of everything.
        let mut names = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                return Ok(Some((dir, name)));
            }
            dir = match plan.find(tree, dir, name)? {
                Some((ino, Kind::Directory)) => {
                    let expires = drafted(tree, &plan.draft, ino)?.expires;
                    if self.has_expired(tree, expires, now) {
                        // It goes with all that is in it before anything new can be there.
                        return if make { Err(Pause::Wait(Need::Expired(ino))) } else { Ok(None) };
                    }
                    ino
                }
                _ if !make => return Ok(None),
                Some(_) => return Err(Error::NotADirectory.into()),
                None => self.bear_directory(tree, plan, caller, (dir, name), now)?,
            };
        }
        Ok(None)
    }

    fn bear_directory<'a>(
        &self,
        tree: &mut Tree,
        plan: &mut Plan<'a>,
        caller: &Caller,
        (parent, name): (Ino, &'a [u8]),
        now: Time,
    ) -> Step<Ino> {
        let (mut rec, inherited) = self.newborn_in(tree, plan, caller, parent, libc::S_IFDIR | 0o777, now)?;
        rec.links = Links::One { parent, name: name.into() };
        let ino = plan.number();
        if let Some(at) = rec.expires {
            plan.expire(at, ino);
        }
        plan.draft.birth(ino, rec, inherited);
        plan.enter(tree, parent, name, (ino, Kind::Directory), now)?;
        Ok(ino)
    }

    /// A new file whose content rides in the batch, or is in frames. It has no name yet.
    #[expect(clippy::too_many_arguments, reason = "a file, and where its content is")]
    fn bear<'a>(
        &self,
        tree: &mut Tree,
        plan: &mut Plan<'a>,
        caller: &Caller,
        dir: Ino,
        content: &'a [u8],
        framed: Option<&FramedFile>,
        now: Time,
    ) -> Step<Ino> {
        let (mut rec, inherited) = self.newborn_in(tree, plan, caller, dir, libc::S_IFREG | 0o666, now)?;
        rec.size = content.len() as u64;
        rec.nlink = 0;
        let ino = match framed {
            Some(file) => {
                rec.page_shift = file.page_shift;
                for (no, record) in &file.pages {
                    plan.draft.use_extent(record.extent);
                    plan.draft.batch.put_record(keys::page(file.ino, *no), record);
                    rec.pages += 1;
                    rec.stored += u64::from(record.extent.len);
                }
                file.ino
            }
            None => {
                let ino = plan.number();
                plan.contents.push((ino, rec.page_shift, content));
                ino
            }
        };
        plan.draft.birth(ino, rec, inherited);
        Ok(ino)
    }

    fn newborn_in(
        &self,
        tree: &mut Tree,
        plan: &Plan<'_>,
        caller: &Caller,
        dir: Ino,
        mode: u32,
        now: Time,
    ) -> Step<(InodeRecord, Attributes)> {
        let ttl = self.ttl_in(tree, &plan.draft, dir)?;
        let (parent, there) = match (plan.draft.record(dir), plan.draft.attributes_of_born(dir)) {
            (Some(parent), Some(born)) => (parent, born),
            (drafted, _) => {
                let inode = tree.get(dir)?;
                (drafted.unwrap_or(&inode.rec), attributes(dir, inode)?)
            }
        };
        Ok(self.newborn(caller, parent, there, mode, ttl, now)?)
    }

    /// Gives a file without a name its one name, with what is asked of it.
    #[expect(clippy::too_many_arguments, reason = "one name, and what goes with it")]
    fn give_name<'a>(
        &self,
        tree: &mut Tree,
        plan: &mut Plan<'a>,
        ino: Ino,
        dir: Ino,
        name: &'a [u8],
        new: &NewFile,
        now: Time,
    ) -> Step<()> {
        let born = plan.draft.attributes_of_born(ino).is_some();
        let rec = plan.draft.edit(tree, ino)?;
        if rec.kind() != Kind::File || rec.nlink != 0 {
            return Err(
                Error::Invalid("only a regular file with no further name can take a key".into()).into()
            );
        }
        if !born && self.cache.dirty(ino).is_some() {
            return Err(Pause::Wait(Need::Flushed(ino)));
        }
        rec.nlink = 1;
        rec.links = Links::One { parent: dir, name: name.into() };
        rec.ctime = now;
        rec.codec = new.codec.or(rec.codec);
        (rec.expires, rec.period) = match new.expiry {
            // What its directory says counts from now on.
            None => (rec.period.map(|seconds| shelf::after(now, seconds)), rec.period),
            Some(Expiry::Never) => (None, None),
            Some(Expiry::At(at)) => (Some(at), None),
            Some(Expiry::In(seconds)) => (Some(shelf::after(now, seconds)), Some(seconds)),
        };
        let (expires, size) = (rec.expires, rec.size);
        plan.draft.record_size(ino, size);
        if let Some(at) = expires {
            plan.expire(at, ino);
        }
        if !born {
            plan.draft.relinked(ino);
        }
        plan.enter(tree, dir, name, (ino, Kind::File), now)
    }

    /// Puts the content of new files into the cache, and into the batch. On `Err` there is nothing of it.
    fn ride(&self, plan: &mut Plan<'_>) -> Step<()> {
        let total: usize = plan.contents.iter().map(|(.., content)| content.len()).sum();
        if total == 0 {
            return Ok(());
        }
        self.check_disk(total as u64)?;
        let pages = self.cache.write_new(&plan.contents);
        for (id, page) in pages.map_err(|room| Pause::Wait(Need::Memory(room)))? {
            plan.draft.first_patch(id, &page);
        }
        Ok(())
    }

    fn forget_contents(&self, contents: &[(Ino, u8, &[u8])]) {
        for (ino, ..) in contents {
            self.cache.discard(*ino, PageNo(0), PageNo(u32::MAX));
        }
    }

    /// Makes a file that has no name, for content that a key is to get later ([`To::Unnamed`]). What it inherits
    /// it inherits where the key will be. The caller holds one reference; with it goes the file, unless it has
    /// got a name. Waits.
    pub fn make_unnamed(&self, caller: &Caller, path: &[u8], new: &NewFile) -> Result<Ino> {
        self.run(|volume| {
            volume.ready_to_add()?;
            let mut tree = volume.tree.lock();
            let now = tree.now(&volume.clock);
            let mut dir = ROOT;
            for name in check_path(path)? {
                match tree.find(dir, name)? {
                    Some(Child { ino, kind: Kind::Directory }) => dir = ino,
                    _ => break,
                }
            }
            let mut draft = Draft::adding();
            let ttl = volume.ttl_in(&mut tree, &draft, dir)?;
            let parent = tree.directory(dir)?;
            let there = attributes(dir, parent)?;
            let (mut rec, inherited) =
                volume.newborn(caller, &parent.rec, there, libc::S_IFREG | 0o666, ttl, now)?;
            rec.nlink = 0;
            rec.codec = new.codec.or(rec.codec);
            let ino = Ino(tree.counters.last_ino + 1);
            draft.birth(ino, rec, inherited);
            draft.unlinked(ino);
            tree.refs.take(ino);
            if let Err(error) = volume.commit(&mut tree, draft) {
                tree.refs.give(ino, 1);
                return Err(error.into());
            }
            Ok(ino)
        })
    }

    /// Waits until whoever listens has heard of all changes so far; not forever, as that may be a kernel that is waiting for
    /// us. False when nobody has heard, at once where nobody listens.
    pub fn wait_told(&self) -> bool {
        self.wait_told_for(TOLD)
    }

    /// [`Volume::wait_told`] for so long.
    pub(super) fn wait_told_for(&self, time: Duration) -> bool {
        let (reached, wait) = std::sync::mpsc::channel();
        self.tell(Event::Barrier(reached));
        wait.recv_timeout(time).is_ok()
    }

    fn tell_all(&self, heard: &[Heard<'_>]) {
        let Some(listener) = self.listener.lock().clone() else { return };
        for event in heard {
            listener(match event {
                Heard::Name(dir, name) => Event::Entry { dir: *dir, name: (*name).into() },
                Heard::Inode(ino) => Event::Inode(*ino),
                Heard::Attributes(ino) => Event::Attributes(*ino),
            });
        }
    }
}

/// References to unnamed files, given back at the end.
struct Unnamed<'a> {
    volume: &'a Volume,
    files: Vec<Ino>,
}

impl Drop for Unnamed<'_> {
    fn drop(&mut self) {
        for ino in &self.files {
            self.volume.forget(*ino, 1);
        }
    }
}

impl<'a> Plan<'a> {
    pub fn new(tree: &Tree, batch: Batch) -> Plan<'a> {
        Plan {
            draft: Draft::within(batch),
            names: Listed::default(),
            next: tree.counters.last_ino + 1,
            contents: SmallVec::new(),
            heard: SmallVec::new(),
            expires: None,
        }
    }

    /// The file that was put into it last, when that is new with its content.
    pub fn newest(&self) -> Option<(Ino, &InodeRecord)> {
        let (ino, ..) = self.contents.last()?;
        Some((*ino, self.draft.record(*ino)?))
    }

    /// The last inode number that is given away.
    pub fn last_number(&self) -> u64 {
        self.next - 1
    }

    /// The next inode number.
    fn number(&mut self) -> Ino {
        self.next += 1;
        Ino(self.next - 1)
    }

    /// What a name means at this point of the batch.
    fn find(&self, tree: &mut Tree, dir: Ino, name: &'a [u8]) -> Step<Named> {
        match self.names.get(&(dir, name)) {
            Some(changed) => Ok(*changed),
            None if self.draft.attributes_of_born(dir).is_some() => Ok(None),
            None => Ok(tree.find(dir, name)?.map(|entry| (entry.ino, entry.kind))),
        }
    }

    /// Removes a name.
    fn drop(&mut self, tree: &mut Tree, dir: Ino, name: &'a [u8], ino: Ino, now: Time) -> Step<()> {
        drop_name(tree, &mut self.draft, dir, name, ino, now)?;
        self.names.put((dir, name), None);
        self.heard.push(Heard::Name(dir, name));
        // Who has it open may look whether it still has a name.
        if tree.refs.held(ino) {
            self.heard.push(Heard::Attributes(ino));
        }
        Ok(())
    }

    /// Enters a name that is free.
    fn enter(&mut self, tree: &mut Tree, dir: Ino, name: &'a [u8], to: (Ino, Kind), now: Time) -> Step<()> {
        let parent = self.draft.edit(tree, dir)?;
        parent.size += 1;
        parent.nlink += u32::from(to.1 == Kind::Directory);
        (parent.mtime, parent.ctime) = (now, now);
        self.draft.entry(dir, name, Some(to));
        self.names.put((dir, name), Some(to));
        self.heard.push(Heard::Name(dir, name));
        Ok(())
    }

    /// Notes that an inode expires.
    fn expire(&mut self, at: Time, ino: Ino) {
        self.draft.batch.put(keys::expiry(at.secs(), ino), []);
        self.expires = Some(self.expires.map_or(at, |other| other.min(at)));
    }
}
