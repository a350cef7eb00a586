//! Bringing into memory what an operation misses. Everything here waits for the disk and holds no
//! lock while it does; what was changed in the meantime makes the result void, and the operation asks again.

use super::Volume;
use super::entries::{Window, cookie, cookie_hash};
use super::tree::{Extents, hash_of};
use super::types::{Need, Pause, Step};
use crate::cache::Access;
use crate::error::{Error, Result};
use crate::format::{Bucket, Dentry, Ino, InodeRecord, PageNo, PageRecord, decode, keys};

/// Page records that one batch may change: those of a file of 8 GiB with pages of 128 KiB.
pub(super) const EXTENTS: usize = if cfg!(test) { 4 } else { 65_536 };

/// Entries of a large directory read at a time.
const WINDOW: usize = 1024;

/// A directory with no more entries is loaded whole for one of them, whatever must go for it.
const SMALL: u64 = if cfg!(test) { 8 } else { 256 };

impl Volume {
    /// Waits for what an operation needs.
    pub fn satisfy(&self, need: Need) -> Result<()> {
        match need {
            Need::Inode(ino) => self.load_inode(ino),
            Need::Entry(dir, name) => self.load_entry(dir, &name),
            Need::Entries(dir, after) => self.load_entries(dir, after),
            Need::Attributes(ino) => self.load_attributes(ino),
            Need::Use(ino) => self.load_use(ino),
            Need::Extents(ino, from, to) => self.load_extents(ino, from, to),
            Need::Page(ino, no) => self.load_page(ino, no, Access::Random).map(drop),
            Need::Memory(bytes) => {
                self.cache.wait_for_room(bytes);
                self.check_writable()
            }
            Need::Disk(bytes) => self.reserve(bytes),
            Need::Catalog => self.cache.urged(|| self.engine.wait_for_room()),
            Need::Flushed(ino) => self.flush_file(ino),
            Need::Stored(dir) => self.store_waiting(dir),
            Need::Quota(dir) => self.begin_quota(dir),
            Need::Emptied(dir) => self.empty_below(dir),
            Need::Expired(ino) => self.expire_first(ino),
            Need::Sweep => {
                // Also when the sweeper has put it off after a failure, which is the caller's then.
                self.set_next_expiry(i64::MIN);
                self.sweep()
            }
        }
    }

    /// [`Volume::run`] for work on names all over the tree, one after the other: a name is loaded alone. With each its whole
    /// directory would be, again and again: of 100,000 keys in 100 directories that expired at once, 1,000 were removed in a second.
    pub(super) fn run_sparsely<T>(&self, mut operation: impl FnMut(&Volume) -> Step<T>) -> Result<T> {
        loop {
            match operation(self) {
                Ok(value) => return Ok(value),
                Err(Pause::Fail(error)) => return Err(error),
                Err(Pause::Wait(Need::Entry(dir, name))) => self.load_bucket(dir, &name)?,
                Err(Pause::Wait(need)) => self.satisfy(need)?,
            }
        }
    }

    /// Brings an inode into memory, where there are limits after the directories that it is in: it counts where they do.
    fn load_inode(&self, ino: Ino) -> Result<()> {
        let mut way = vec![ino];
        // A directory that is not there, though something says that it is in it.
        let mut missing = None;
        while let Some(at) = way.pop() {
            let (token, limited) = {
                let mut tree = self.tree.lock();
                (tree.begin_load(at), !tree.quotas.is_empty())
            };
            let rec = self.read_inode(at);
            let found = rec.as_ref().ok().and_then(Option::clone);
            let dir = match &found {
                Some(rec) if limited => self.directory_of(at, rec),
                _ => Ok(None),
            };
            let mut tree = self.tree.lock();
            if !limited && !tree.quotas.is_empty() {
                // The first limit was set meanwhile.
                tree.end_load(at, token, None, None);
                way.push(at);
                continue;
            }
            let payer = match (&found, &dir) {
                (Some(rec), Ok(Some(dir))) if missing != Some(*dir) && !way.contains(dir) && at != *dir => {
                    tree.payer_of(rec, *dir)
                }
                _ => Some(None),
            };
            tree.end_load(at, token, found, payer);
            drop(tree);
            match (rec?, dir?, payer) {
                (None, ..) if way.is_empty() => return Err(Error::Stale),
                (None, ..) => missing = Some(at),
                (Some(_), Some(dir), None) => way.extend([at, dir]),
                _ => {}
            }
        }
        Ok(())
    }

    /// An inode's record from the catalog.
    pub(super) fn read_inode(&self, ino: Ino) -> Result<Option<InodeRecord>> {
        self.engine.get(&keys::inode(ino))?.map(|value| decode(&value, "inode record")).transpose()
    }

    fn load_use(&self, ino: Ino) -> Result<()> {
        let written = self.tree.lock().uses_written;
        let value = self.engine.get(&keys::usage(ino))?;
        let used = value.map(|value| decode(&value, "use record")).transpose()?.unwrap_or_default();
        let mut tree = self.tree.lock();
        if tree.uses_written == written
            && let Some(inode) = tree.peek_mut(ino)
        {
            inode.used = Some(Box::new(used));
        }
        Ok(())
    }

    /// A name, and with it all of its directory, where nothing has to go for that: large directories that do not fit together
    /// would drive each other out with each key that is asked for.
    fn load_entry(&self, dir: Ino, name: &[u8]) -> Result<()> {
        let (whole, version, size) = {
            let tree = self.tree.lock();
            let whole = tree.whole_directory().min(tree.room().max(SMALL));
            match tree.peek(dir) {
                Some(inode) => (whole, inode.version, inode.rec.size),
                None => return Ok(()),
            }
        };
        if size <= whole {
            return self.load_directory(dir, version);
        }
        self.load_bucket(dir, name)
    }

    /// The entries of a directory that have a name's hash: nearly always that of the name alone.
    fn load_bucket(&self, dir: Ino, name: &[u8]) -> Result<()> {
        let Some(version) = self.tree.lock().peek(dir).map(|inode| inode.version) else { return Ok(()) };
        let hash = hash_of(name);
        let found: Bucket = match self.engine.get(&keys::bucket(dir, hash))? {
            Some(value) => decode(&value, "directory entry")?,
            None => Bucket::new(),
        };
        self.tree.lock().add_entries(dir, version, found, false, &[hash]);
        Ok(())
    }

    fn load_entries(&self, dir: Ino, after: u64) -> Result<()> {
        let (whole, version, size) = {
            let tree = self.tree.lock();
            let whole = tree.whole_directory();
            match tree.peek(dir) {
                Some(inode) => (whole, inode.version, inode.rec.size),
                None => return Ok(()),
            }
        };
        if size <= whole {
            return self.load_directory(dir, version);
        }
        let (entries, _) = self.read_entries(dir, after, WINDOW)?;
        self.load_inodes_of(dir, &entries)?;
        // Once more, now that the slow part is done: the window must be of one moment.
        let Some(version) = self.tree.lock().get(dir).ok().map(|inode| inode.version) else { return Ok(()) };
        let (entries, end) = self.read_entries(dir, after, WINDOW)?;
        self.tree.lock().set_window(dir, version, Window { after, entries, end });
        Ok(())
    }

    /// All entries of a directory and the inodes that they name: who looks one up looks up others.
    fn load_directory(&self, dir: Ino, version: u64) -> Result<()> {
        self.tree.lock().renew(dir);
        let (entries, _) = self.read_entries(dir, 0, usize::MAX)?;
        self.load_inodes_of(dir, &entries)?;
        // It must not make room for its own entries.
        self.tree.lock().renew(dir);
        let entries = entries.into_iter().map(|(_, entry)| entry).collect();
        self.tree.lock().add_entries(dir, version, entries, true, &[]);
        Ok(())
    }

    /// Up to `most` entries behind a cookie (more, to end with a whole bucket), and whether they are the last.
    pub(super) fn read_entries(
        &self,
        dir: Ino,
        after: u64,
        most: usize,
    ) -> Result<(Vec<(u64, Dentry)>, bool)> {
        let mut found = Vec::new();
        let mut damage = None;
        let mut end = true;
        let range =
            keys::range(keys::bucket(dir, cookie_hash(after)), keys::under(&keys::of_inode(b'D', dir)).end);
        self.engine.scan(range, &mut |key, value| {
            if found.len() >= most {
                end = false;
                return false;
            }
            let bucket: Result<Bucket> = decode(value, "directory entry");
            match (bucket, keys::bucket_hash(key)) {
                (Ok(mut bucket), Some(hash)) => {
                    bucket.sort_by_key(|entry| entry.slot);
                    let entries = bucket.into_iter().map(|entry| (cookie(hash, entry.slot), entry));
                    found.extend(entries.filter(|(cookie, _)| *cookie > after));
                    true
                }
                (Err(error), _) => {
                    damage = Some(error);
                    false
                }
                (_, None) => true,
            }
        })?;
        match damage {
            Some(error) => Err(error),
            None => Ok((found, end)),
        }
    }

    fn load_inodes_of(&self, dir: Ino, entries: &[(u64, Dentry)]) -> Result<()> {
        let mut wanted: Vec<Ino> = entries.iter().map(|(_, entry)| entry.ino).collect();
        wanted.sort_unstable();
        // Files that were made together have neighbouring numbers: one scan finds them.
        if let (Some(first), Some(last)) = (wanted.first(), wanted.last())
            && last.0 - first.0 < 2 * wanted.len() as u64
        {
            return self.load_inodes_between(dir, *first, *last, &wanted);
        }
        for (_, entry) in entries {
            if self.tree.lock().peek(entry.ino).is_none() {
                match self.load_inode(entry.ino) {
                    // Unlinked in between.
                    Ok(()) | Err(Error::Stale) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// The wanted inodes of a directory, which are sorted, by a scan from the first to the last.
    fn load_inodes_between(&self, dir: Ino, first: Ino, last: Ino, wanted: &[Ino]) -> Result<()> {
        let mut tokens = Vec::with_capacity(wanted.len());
        {
            let mut tree = self.tree.lock();
            for ino in wanted.iter().copied() {
                if tree.peek(ino).is_none() {
                    tokens.push((ino, tree.begin_load(ino)));
                }
            }
        }
        let mut found = Vec::with_capacity(tokens.len());
        let mut damage = None;
        let scanned = self.engine.scan(
            keys::range(keys::inode(first), keys::inode(Ino(last.0 + 1))),
            &mut |key, value| {
                let Some(ino) =
                    keys::ino_of(key).filter(|ino| tokens.binary_search_by_key(ino, |t| t.0).is_ok())
                else {
                    return true;
                };
                match decode::<InodeRecord>(value, "inode record") {
                    Ok(rec) => found.push((ino, rec)),
                    Err(error) => damage = Some(error),
                }
                damage.is_none()
            },
        );
        let mut tree = self.tree.lock();
        let mut found = found.into_iter().peekable();
        for (ino, token) in tokens {
            let rec = found.next_if(|(there, _)| *there == ino).map(|(_, rec)| rec);
            let payer = rec.as_ref().and_then(|rec| tree.payer_of(rec, dir));
            tree.end_load(ino, token, rec, payer);
        }
        scanned?;
        damage.map_or(Ok(()), Err)
    }

    fn load_attributes(&self, ino: Ino) -> Result<()> {
        let Some(version) = self.tree.lock().peek(ino).map(|inode| inode.version) else { return Ok(()) };
        let mut found = std::collections::BTreeMap::new();
        self.engine.scan(keys::under(&keys::of_inode(b'X', ino)), &mut |key, value| {
            found.insert(Box::from(keys::xattr_name(key)), value.to_vec());
            true
        })?;
        let mut tree = self.tree.lock();
        // Attributes change only while they are in memory, and who comes back to memory has a new version.
        if let Some(inode) = tree.peek_mut(ino)
            && inode.version == version
            && inode.xattrs.is_none()
        {
            inode.xattrs = Some(found);
            tree.reweigh(ino);
            tree.make_room_beside(ino);
        }
        Ok(())
    }

    fn load_extents(&self, ino: Ino, from: PageNo, to: PageNo) -> Result<()> {
        let Some(version) = self.tree.lock().peek(ino).map(|inode| inode.version) else { return Ok(()) };
        let records = self.read_extents(ino, from, to)?;
        let mut tree = self.tree.lock();
        if let Some(inode) = tree.peek_mut(ino) {
            inode.extents = Some(Box::new(Extents { version, from, to, records }));
            tree.reweigh(ino);
            tree.make_room_beside(ino);
        }
        Ok(())
    }

    /// The records of a file's pages from `from` up to `to` (exclusive).
    pub(super) fn read_extents(
        &self,
        ino: Ino,
        from: PageNo,
        to: PageNo,
    ) -> Result<Vec<(PageNo, PageRecord)>> {
        let mut found = Vec::new();
        let mut damage = None;
        self.engine.scan(keys::range(keys::page(ino, from), keys::page(ino, to)), &mut |key, value| {
            match (keys::page_of(key), decode(value, "page record")) {
                (Some((_, no)), Ok(record)) => found.push((no, record)),
                (_, Err(error)) => damage = Some(error),
                (None, _) => {}
            }
            damage.is_none()
        })?;
        damage.map_or(Ok(found), Err)
    }
}

/// Where a batch that changes all of a file's pages from `from` up to `to` may begin, working from the back:
/// at most [`EXTENTS`] of them lie from there on.
pub(super) fn last_batch(rec: &InodeRecord, from: PageNo, to: PageNo) -> PageNo {
    if rec.pages as usize <= EXTENTS { from } else { from.max(PageNo(to.0.saturating_sub(EXTENTS as u32))) }
}
