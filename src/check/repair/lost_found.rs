//! `lost+found` at the root of the tree: where inodes get a name, `#` and their number, that have none to go by.

use super::names::Names;
use super::records::blank;
use crate::check::nodes::Node;
use crate::error::Result;
use crate::format::{CounterRecord, Ino, InodeRecord, Kind, Links, ROOT, encode, keys};

/// The name of the directory.
const NAME: &str = "lost+found";

/// The directory, once it was needed.
#[derive(Debug, Default)]
pub struct LostFound {
    dir: Option<Ino>,
}

impl LostFound {
    /// Gives an inode a name there.
    pub fn take(&mut self, names: &mut Names<'_, '_>, ino: Ino) -> Result<()> {
        let dir = self.dir(names)?;
        let mut name = format!("#{}", ino.0);
        let mut n = 0;
        while !names.can_link(ino, dir, name.as_bytes())? && n < 1000 {
            n += 1;
            name = format!("#{}.{n}", ino.0);
        }
        names.link(ino, dir, name.as_bytes())?;
        names.mend.done.inode(ino, "nothing tells its name: moved to lost+found");
        Ok(())
    }

    /// A new file there, with what `of` could not keep.
    pub fn make(&mut self, names: &mut Names<'_, '_>, rec: InodeRecord) -> Result<Ino> {
        let ino = new_ino(names)?;
        names.mend.put_record(ino, &rec);
        names.nodes.push(Node::new(ino, &rec));
        self.take(names, ino)?;
        Ok(ino)
    }

    fn dir(&mut self, names: &mut Names<'_, '_>) -> Result<Ino> {
        if let Some(dir) = self.dir {
            return Ok(dir);
        }
        let mut name = NAME.to_owned();
        let mut n = 0;
        let dir = loop {
            let bucket = names.mend.bucket(ROOT, name.as_bytes())?;
            match bucket.iter().find(|entry| *entry.name == *name.as_bytes()) {
                Some(entry) if entry.kind == Kind::Directory => break entry.ino,
                Some(_) => {
                    n += 1;
                    name = format!("{NAME}.{n}");
                }
                None => {
                    let ino = new_ino(names)?;
                    let links = Links::One { parent: ROOT, name: name.as_bytes().into() };
                    let rec =
                        InodeRecord { mode: libc::S_IFDIR | 0o700, nlink: 2, ..blank(names.mend.now, links) };
                    names.mend.put_record(ino, &rec);
                    names.nodes.push(Node::new(ino, &rec));
                    names.link(ino, ROOT, name.as_bytes())?;
                    break ino;
                }
            }
        };
        self.dir = Some(dir);
        Ok(dir)
    }
}

/// A number above all that were given away, and noted as given away.
fn new_ino(names: &mut Names<'_, '_>) -> Result<Ino> {
    let counters: CounterRecord = names.mend.get(&keys::counters())?.unwrap_or_default();
    let last = names.nodes.iter().last().map_or(0, |node| node.ino.0).max(counters.last_ino);
    let ino = Ino(last + 1);
    let counters = CounterRecord { last_ino: ino.0, inodes: counters.inodes + 1, ..counters };
    names.mend.put(keys::counters(), encode(&counters));
    Ok(ino)
}
