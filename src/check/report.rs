//! What a check has found.

use serde::Serialize;

use crate::catalog::Engine;
use crate::format::{Ino, InodeRecord, Links, ROOT, decode, keys};

/// The most findings that are kept; the others are counted.
const KEPT: usize = 10_000;

/// What can be done, where a finding has nothing better to say.
pub mod remedy {
    /// The store cannot be mounted, and a repair alone does not help.
    pub const REBUILD: &str = "larder check --rebuild makes it anew, or restore the store from a backup";
    /// The journal is damaged, and a backup of the catalog has more than what is ahead of that.
    pub const FROM_BACKUP: &str = "larder check --rebuild makes the catalog anew from its newest backup, which has more than the journal up to there";
    pub use crate::catalog::GO_BACK;
    /// Something that cannot be reached, or that contradicts itself.
    pub const MEND: &str = "larder check --repair brings it back, or into lost+found";
    /// Something wrong that would lose content when it is relied upon.
    pub const FREEZE: &str = "run larder check --repair before anything is written or deleted here";
    /// Something wrong that loses nothing.
    pub const RID: &str = "no content is lost by it; larder check --repair puts it right";
}

/// The deepest path that is told.
const DEPTH: usize = 64;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// What a crash leaves and the next mount puts in order.
    Note,
    /// Wrong, but nothing is lost: a count, a mark, room that does not come back.
    Warning,
    /// Something cannot be read or reached, or will not be.
    Error,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of structure is concerned: `format`, `index`, `frame`, ...
    pub class: &'static str,
    /// Where: a file, a segment and offset, or an inode.
    pub place: String,
    /// The path of the inode that is concerned, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
    #[serde(skip)]
    ino: Option<Ino>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}", self.place)?;
        if let Some(path) = &self.path {
            write!(f, " ({path})")?;
        }
        write!(f, ": {}; {}", self.what, self.remedy)
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Inodes.
    pub inodes: u64,
    /// Directory entries.
    pub entries: u64,
    /// Pages that have a frame.
    pub pages: u64,
    /// Frames that were read and verified.
    pub verified: u64,
    /// Bytes of frames that something refers to.
    pub live_bytes: u64,
    /// Bytes that the segments take on the disk.
    pub segment_bytes: u64,
    /// Segments that nothing refers to: the next mount removes them.
    pub dead_segments: u64,
}

/// The outcome of a check.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What is not as it should be, the worst first.
    pub findings: Vec<Finding>,
    /// Findings beyond those that are kept.
    pub omitted: u64,
    /// Errors and warnings in all.
    pub errors: u64,
    /// Warnings in all.
    pub warnings: u64,
    /// Whether the check came to its end; not when there is no catalog to go by.
    pub complete: bool,
    /// What was looked at.
    pub figures: Figures,
}

impl Report {
    /// Whether nothing is wrong; notes are nothing wrong.
    pub fn is_clean(&self) -> bool {
        self.complete && self.errors == 0 && self.warnings == 0
    }

    pub(super) fn error(
        &mut self,
        class: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        remedy: &'static str,
    ) {
        self.add(Severity::Error, class, place.into(), None, what.into(), remedy);
    }

    pub(super) fn warning(
        &mut self,
        class: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        remedy: &'static str,
    ) {
        self.add(Severity::Warning, class, place.into(), None, what.into(), remedy);
    }

    pub(super) fn note(
        &mut self,
        class: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        remedy: &'static str,
    ) {
        self.add(Severity::Note, class, place.into(), None, what.into(), remedy);
    }

    /// A finding about an inode.
    pub(super) fn inode(
        &mut self,
        severity: Severity,
        class: &'static str,
        ino: Ino,
        what: impl Into<String>,
        remedy: &'static str,
    ) {
        self.add(severity, class, ino.to_string(), Some(ino), what.into(), remedy);
    }

    fn add(
        &mut self,
        severity: Severity,
        class: &'static str,
        place: String,
        ino: Option<Ino>,
        what: String,
        remedy: &'static str,
    ) {
        match severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
            Severity::Note => {}
        }
        if self.findings.len() < KEPT {
            self.findings.push(Finding { severity, class, place, path: None, what, remedy, ino });
        } else {
            self.omitted += 1;
        }
    }

    /// Puts the findings in order, and names their inodes where there is a catalog.
    pub(super) fn finish(&mut self, engine: Option<&dyn Engine>) {
        self.complete = engine.is_some();
        for finding in &mut self.findings {
            finding.path = finding.ino.zip(engine).and_then(|(ino, engine)| path_of(engine, ino));
        }
        self.findings.sort_by(|a, b| {
            (b.severity, a.class, a.ino, &a.place).cmp(&(a.severity, b.class, b.ino, &b.place))
        });
    }
}

/// The path of an inode, as far as the records lead; of several, one.
pub(super) fn path_of(engine: &dyn Engine, mut ino: Ino) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    while ino != ROOT {
        let record: InodeRecord = decode(&engine.get(&keys::inode(ino)).ok()??, "inode").ok()?;
        let mut found = None;
        match record.links {
            Links::One { parent, name } => found = Some((parent, name)),
            Links::Many => {
                let all = keys::under(&keys::of_inode(keys::LINK, ino));
                let first = |key: &[u8], _: &[u8]| {
                    found = keys::link_of(key).map(|(dir, name)| (dir, name.into()));
                    false
                };
                engine.scan(all, &mut { first }).ok()?;
            }
        }
        let (parent, name) = found?;
        parts.push(String::from_utf8_lossy(&name).escape_debug().to_string());
        if parts.len() > DEPTH {
            parts.push("...".into());
            break;
        }
        ino = parent;
    }
    parts.reverse();
    Some(format!("/{}", parts.join("/")))
}
