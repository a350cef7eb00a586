//! What is kept of each inode while its names and pages are counted: what its record says, and what was found.

use xxhash_rust::xxh3::Xxh3;

use super::report::remedy::{FREEZE, MEND, RID};
use super::report::{Report, Severity};
use crate::format::{Ino, InodeRecord, Kind, Links, ROOT};

/// An inode: what its record says (first), what was found (`found_`).
#[derive(Debug)]
pub struct Node {
    pub ino: Ino,
    pub kind: Kind,
    pub page_shift: u8,
    pub shared: bool,
    pub many: bool,
    pub nlink: u32,
    pub size: u64,
    pub pages: u32,
    pub stored: u64,
    pub xattrs: u32,
    /// Whether it expires.
    pub expires: bool,
    /// The sum of [`place_hash`] over its names: as its records have them, as the directories do.
    pub places: u64,
    pub found_places: u64,
    /// Names in directories.
    pub found_names: u32,
    /// `L` records.
    pub found_links: u32,
    /// Of a directory: entries, directories among them, and the directory that it is in.
    pub found_entries: u64,
    pub found_dirs: u32,
    pub found_parent: Ino,
    pub found_pages: u32,
    pub found_stored: u64,
    pub found_xattrs: u32,
    /// Whether it has a size limit.
    pub limited: bool,
    /// Marks.
    pub found_orphan: bool,
    pub found_expiry: bool,
    walked: Walked,
}

/// Whether a directory leads to the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Walked {
    #[default]
    No,
    /// On the way that is being walked.
    Now,
    Yes,
}

/// A number for a name in a directory, to compare sets of them by their sums.
pub fn place_hash(dir: Ino, name: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&dir.0.to_be_bytes());
    hash.update(name);
    hash.digest()
}

impl Node {
    pub fn new(ino: Ino, rec: &InodeRecord) -> Node {
        let places = match &rec.links {
            Links::One { parent, name } if rec.nlink > 0 && ino != ROOT => place_hash(*parent, name),
            _ => 0,
        };
        Node {
            ino,
            kind: rec.kind(),
            page_shift: rec.page_shift.clamp(12, 20),
            shared: rec.shared,
            many: rec.links == Links::Many,
            nlink: rec.nlink,
            size: rec.size,
            pages: rec.pages,
            stored: rec.stored,
            xattrs: rec.xattrs,
            expires: rec.expires.is_some(),
            places,
            found_places: 0,
            found_names: 0,
            found_links: 0,
            found_entries: 0,
            found_dirs: 0,
            found_parent: ROOT,
            found_pages: 0,
            found_stored: 0,
            found_xattrs: 0,
            limited: false,
            found_orphan: false,
            found_expiry: false,
            walked: Walked::No,
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// The pages that its size has.
    pub fn size_pages(&self) -> u64 {
        self.size.div_ceil(1 << self.page_shift)
    }

    /// Links that its names are worth: a directory has its own `.` and the `..` of those in it.
    pub fn found_nlink(&self) -> u32 {
        match (self.is_dir(), self.ino == ROOT || self.found_names > 0) {
            (false, _) => self.found_names,
            (true, true) => 2 + self.found_dirs,
            (true, false) => 0,
        }
    }
}

/// All inodes, by number.
#[derive(Debug, Default)]
pub struct Nodes {
    nodes: Vec<Node>,
    /// Bytes of frames that something refers to.
    pub live: u64,
}

impl Nodes {
    /// Takes in the inode with the next higher number.
    pub fn push(&mut self, node: Node) {
        self.nodes.push(node);
    }

    pub fn get(&self, ino: Ino) -> Option<&Node> {
        self.nodes.binary_search_by_key(&ino, |node| node.ino).ok().and_then(|at| self.nodes.get(at))
    }

    pub fn get_mut(&mut self, ino: Ino) -> Option<&mut Node> {
        let at = self.nodes.binary_search_by_key(&ino, |node| node.ino).ok()?;
        self.nodes.get_mut(at)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// Compares what was found with what the records say.
    pub fn settle(&mut self, report: &mut Report) {
        for node in &self.nodes {
            settle_links(node, report);
            settle_counts(node, report);
        }
        self.find_cycles(report);
    }

    /// Each directory that has one name must lead to the root, or to one that is being removed.
    fn find_cycles(&mut self, report: &mut Report) {
        for at in 0..self.nodes.len() {
            let mut way = Vec::new();
            let mut next = Some(at);
            while let Some(node) = next.and_then(|at| self.nodes.get_mut(at)) {
                match node.walked {
                    Walked::Yes => break,
                    Walked::Now => {
                        report.inode(
                            Severity::Error,
                            "tree",
                            node.ino,
                            "the directory lies within itself, and cannot be reached",
                            MEND,
                        );
                        break;
                    }
                    Walked::No => {}
                }
                if !node.is_dir() {
                    break;
                }
                node.walked = Walked::Now;
                let up = (node.ino != ROOT && node.found_names > 0).then_some(node.found_parent);
                way.extend(next);
                next = up.and_then(|ino| self.nodes.binary_search_by_key(&ino, |node| node.ino).ok());
            }
            for at in way {
                if let Some(node) = self.nodes.get_mut(at) {
                    node.walked = Walked::Yes;
                }
            }
        }
    }
}

fn settle_links(node: &Node, report: &mut Report) {
    let mut error = |what: String, remedy| report.inode(Severity::Error, "links", node.ino, what, remedy);
    let found = node.found_names;
    if node.ino == ROOT {
        if found > 0 {
            error(format!("{found} directory entries name the root"), RID);
        }
    } else if node.nlink > 0 && found == 0 {
        error("no directory entry names it: it cannot be reached".into(), MEND);
        return;
    } else if node.is_dir() && found > 1 {
        error(format!("{found} directory entries name this directory, which can have one"), FREEZE);
        return;
    } else if node.nlink == 0 && found > 0 {
        error(format!("{found} directory entries name it, and its record says that it is unlinked"), FREEZE);
        return;
    }
    if node.found_nlink() != node.nlink {
        let what = format!("it has {} links, its record says {}", node.found_nlink(), node.nlink);
        report.inode(Severity::Error, "links", node.ino, what, FREEZE);
    }
    if node.found_places != node.places {
        let what = match (node.many, u64::from(node.found_links) == u64::from(found)) {
            (true, false) => format!("{} link records for {found} names", node.found_links),
            _ => "its record or its link records say another name than its directory".into(),
        };
        report.inode(Severity::Error, "links", node.ino, what, FREEZE);
    } else if !node.many && node.found_links > 0 {
        let what = format!("{} link records, and its record says that it has one name", node.found_links);
        report.inode(Severity::Warning, "links", node.ino, what, RID);
    }
}

fn settle_counts(node: &Node, report: &mut Report) {
    let mut wrong = |severity, class, what: String| report.inode(severity, class, node.ino, what, RID);
    let mut count = |class, what: &str, says: u64, found: u64| {
        if says != found {
            wrong(Severity::Warning, class, format!("{found} {what}, its record says {says}"));
        }
    };
    if node.is_dir() {
        count("counts", "directory entries", node.size, node.found_entries);
    }
    count("counts", "pages with a frame", node.pages.into(), node.found_pages.into());
    count("counts", "bytes stored", node.stored, node.found_stored);
    count("counts", "extended attributes", node.xattrs.into(), node.found_xattrs.into());
    let linked = node.nlink > 0 || node.found_names > 0 || node.ino == ROOT;
    match (linked, node.found_orphan) {
        (false, false) => {
            wrong(
                Severity::Warning,
                "marks",
                "unlinked, and not marked to be reclaimed: its room does not come back".into(),
            );
        }
        (true, true) => {
            wrong(Severity::Warning, "marks", "marked to be reclaimed, though it is not unlinked".into())
        }
        _ => {}
    }
    if node.limited && !linked {
        wrong(Severity::Warning, "marks", "it has a size limit, and is unlinked".into());
    }
    if node.expires && linked && !node.found_expiry {
        wrong(Severity::Error, "marks", "it expires, and has no mark by which that is found".into());
    }
}
