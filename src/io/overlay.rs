//! A disk over another one: reads go through, what is written stays in memory. Whoever works on it
//! does what he would do on the disk below, recovery included, and changes nothing there.
//!
//! Memory: the blocks that are written, 4 KiB each; blocks of zeros take only their number.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{File, Io, Lock, Room};

/// Bytes of a block.
const BLOCK: u64 = 4096;
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// A disk whose changes are kept in memory and end with it.
#[derive(Debug)]
pub struct Overlay {
    below: Arc<dyn Io>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Files that were opened or changed here; none for those that were removed.
    files: BTreeMap<PathBuf, Option<Arc<OverlayFile>>>,
    /// Directories that were made here.
    dirs: BTreeSet<PathBuf>,
}

impl Overlay {
    /// A disk that looks as `below` does.
    pub fn new(below: Arc<dyn Io>) -> Overlay {
        Overlay { below, state: Mutex::default() }
    }

    /// The file at a path, taken from below when it is not known yet.
    fn file(&self, state: &mut State, path: &Path) -> Result<Arc<OverlayFile>> {
        match state.files.get(path) {
            Some(Some(file)) => Ok(file.clone()),
            Some(None) => Err(ErrorKind::NotFound.into()),
            None => {
                let below = self.below.open_read(path)?;
                let len = below.len()?;
                let content = Content { len, below_len: len, blocks: BTreeMap::new() };
                let file = Arc::new(OverlayFile { below: Some(below), content: Mutex::new(content) });
                state.files.insert(path.to_owned(), Some(file.clone()));
                Ok(file)
            }
        }
    }
}

impl Io for Overlay {
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        match self.file(&mut state, path) {
            Err(error) if create && error.kind() == ErrorKind::NotFound => {
                let file = Arc::new(OverlayFile { below: None, content: Mutex::default() });
                state.files.insert(path.to_owned(), Some(file.clone()));
                Ok(file)
            }
            found => Ok(found?),
        }
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        if self.below.list(path).is_err() {
            self.state.lock().dirs.extend(path.ancestors().map(Path::to_owned));
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let state = self.state.lock();
        let mut found: BTreeSet<PathBuf> = match self.below.list(dir) {
            Ok(found) => found.into_iter().collect(),
            Err(error) if error.kind() == ErrorKind::NotFound && state.dirs.contains(dir) => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        let inside = |path: &&PathBuf| path.parent() == Some(dir);
        found.extend(state.dirs.iter().filter(inside).cloned());
        for (path, file) in state.files.iter().filter(|(path, _)| inside(path)) {
            match file {
                Some(_) => found.insert(path.clone()),
                None => found.remove(path),
            };
        }
        Ok(found.into_iter().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut state = self.state.lock();
        let file = self.file(&mut state, from)?;
        state.files.insert(from.to_owned(), None);
        state.files.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let mut state = self.state.lock();
        self.file(&mut state, path)?;
        state.files.insert(path.to_owned(), None);
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> Result<()> {
        Ok(())
    }

    fn room(&self, path: &Path) -> Result<Room> {
        self.below.room(path)
    }

    /// That of the disk below: it is what keeps others away.
    fn lock(&self, path: &Path) -> Result<Option<Lock>> {
        self.below.lock(path)
    }

    fn new_id(&self) -> u64 {
        self.below.new_id()
    }
}

#[derive(Debug)]
struct OverlayFile {
    below: Option<Arc<dyn File>>,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    len: u64,
    /// Up to here, what is not in `blocks` is read from below; behind it are zeros.
    below_len: u64,
    /// Blocks that were written, by number; none for zeros.
    blocks: BTreeMap<u64, Option<Box<[u8]>>>,
}

impl OverlayFile {
    /// What a block holds, its end filled up with zeros.
    fn block(&self, content: &Content, number: u64) -> Result<Vec<u8>> {
        let mut block = vec![0; BLOCK as usize];
        let start = number * BLOCK;
        match content.blocks.get(&number) {
            Some(Some(bytes)) => block.copy_from_slice(bytes),
            Some(None) => {}
            None => {
                let there = content.below_len.saturating_sub(start).min(BLOCK) as usize;
                if let (Some(below), Some(part)) = (&self.below, block.get_mut(..there)) {
                    below.read_at(part, start)?;
                }
            }
        }
        Ok(block)
    }

    /// Changes bytes `from..to` of the blocks that hold them; `piece` gets the part of a block and where it begins.
    fn change(
        &self,
        content: &mut Content,
        from: u64,
        to: u64,
        piece: &dyn Fn(&mut [u8], u64),
    ) -> Result<()> {
        for number in from / BLOCK..to.div_ceil(BLOCK) {
            let start = number * BLOCK;
            let (first, last) = (from.max(start), to.min(start + BLOCK));
            let whole = last - first == BLOCK;
            let mut block = if whole { vec![0; BLOCK as usize] } else { self.block(content, number)? };
            if let Some(part) = block.get_mut((first - start) as usize..(last - start) as usize) {
                piece(part, first);
            }
            let zeros = block == ZEROS;
            content.blocks.insert(number, (!zeros).then(|| block.into_boxed_slice()));
        }
        Ok(())
    }
}

impl File for OverlayFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let content = self.content.lock();
        let len = content.len.saturating_sub(offset).min(buf.len() as u64);
        let Some(buf) = buf.get_mut(..len as usize) else { return Ok(0) };
        buf.fill(0);
        // All from below at once, and what was written here over it.
        let there = content.below_len.saturating_sub(offset).min(len) as usize;
        if let (Some(below), Some(part)) = (&self.below, buf.get_mut(..there)) {
            below.read_at(part, offset)?;
        }
        for (number, block) in content.blocks.range(offset / BLOCK..(offset + len).div_ceil(BLOCK)) {
            let start = number * BLOCK;
            let (first, last) = (offset.max(start), (offset + len).min(start + BLOCK));
            let Some(part) = buf.get_mut((first - offset) as usize..(last - offset) as usize) else {
                continue;
            };
            match block.as_ref().and_then(|block| block.get((first - start) as usize..)) {
                Some(bytes) => part.copy_from_slice(bytes.get(..part.len()).unwrap_or_default()),
                None => part.fill(0),
            }
        }
        Ok(len as usize)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut content = self.content.lock();
        let end = offset + buf.len() as u64;
        self.change(&mut content, offset, end, &|part, at| {
            if let Some(bytes) = buf.get((at - offset) as usize..) {
                part.copy_from_slice(bytes.get(..part.len()).unwrap_or_default());
            }
        })?;
        content.len = content.len.max(end);
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.content.lock().len)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut content = self.content.lock();
        if len < content.len {
            content.blocks.split_off(&len.div_ceil(BLOCK));
            content.below_len = content.below_len.min(len);
            if !len.is_multiple_of(BLOCK) && content.blocks.contains_key(&(len / BLOCK)) {
                self.change(&mut content, len, len.next_multiple_of(BLOCK), &|part, _| part.fill(0))?;
            }
        }
        content.len = len;
        Ok(())
    }

    fn allocated(&self) -> Result<u64> {
        let written = self.content.lock().blocks.values().flatten().count() as u64 * BLOCK;
        Ok(written + self.below.as_ref().map_or(Ok(0), |below| below.allocated())?)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        let mut content = self.content.lock();
        content.len = content.len.max(offset + len);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let mut content = self.content.lock();
        let end = (offset + len).min(content.len);
        if offset < end {
            self.change(&mut content, offset, end, &|part, _| part.fill(0))?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn will_need(&self, offset: u64, len: u64) {
        if let Some(below) = &self.below {
            below.will_need(offset, len);
        }
    }

    fn drop_cached(&self) {
        if let Some(below) = &self.below {
            below.drop_cached();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::RealDisk;

    #[test]
    fn what_is_written_over_a_disk_is_read_back_and_the_disk_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let old: Vec<u8> = (0..10_000u32).map(|n| n as u8 | 1).collect();
        std::fs::write(&a, &old).unwrap();
        let disk = Overlay::new(Arc::new(RealDisk));
        let file = disk.open(&a, false).unwrap();
        file.write_all_at(&[0; 5000], 100).unwrap();
        file.write_all_at(b"end", 12_000).unwrap();
        file.set_len(12_002).unwrap();
        file.punch(9_000, 500).unwrap();
        let mut expected = old.clone();
        expected[100..5100].fill(0);
        expected[9_000..9_500].fill(0);
        expected.resize(12_000, 0);
        expected.extend(b"en");
        let mut got = vec![7; 20_000];
        assert_eq!(file.read_at(&mut got, 0).unwrap(), 12_002);
        assert!(got[..12_002] == expected);
        // Cut and grown again: what was cut off is zeros.
        file.set_len(50).unwrap();
        file.set_len(9_000).unwrap();
        assert_eq!(file.read_at(&mut got, 0).unwrap(), 9_000);
        assert!(got[..50] == old[..50] && got[50..9_000].iter().all(|byte| *byte == 0));
        assert!(std::fs::read(&a).unwrap() == old);

        disk.rename(&a, &b).unwrap();
        assert_eq!(disk.open(&a, false).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(disk.list(dir.path()).unwrap(), std::slice::from_ref(&b));
        disk.create_dir_all(&dir.path().join("c/d")).unwrap();
        assert_eq!(disk.list(&dir.path().join("c")).unwrap(), [dir.path().join("c/d")]);
        disk.remove(&b).unwrap();
        disk.open(&b, true).unwrap().write_all_at(b"new", 0).unwrap();
        assert_eq!(disk.open(&b, false).unwrap().len().unwrap(), 3);
        assert!(a.exists() && !b.exists() && !dir.path().join("c").exists());
    }
}
