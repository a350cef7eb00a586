//! Pages, their frames, and the segments that those lie in.
//!
//! Page records come in the order of inodes, frames lie in the order in which they were written. So the
//! records are gone through once to count them, and then again for each group of segments that has no more
//! than [`TOGETHER`] of them: those are sorted by place, compared with each other and with what counts them, and
//! their frames are read from front to back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use super::nodes::Nodes;
use super::report::remedy::{FREEZE, RID};
use super::report::{Report, Severity};
use super::tree::Missing;
use super::{OnProgress, Options, Progress, scan};
use crate::catalog::Engine;
use crate::error::{Error, Result};
use crate::format::{Extent, Ino, Kind, PageNo, PageRecord, Patch, SegmentId, SegmentRecord, decode, keys};
use crate::pages::{FIRST_FRAME, LocalSegments, Segments, frame};

/// References that are held in memory at a time, 48 bytes each.
pub const TOGETHER: usize = 1 << 20;

const LOST: &str = "the page cannot be read; restore the file, or write it anew";

/// What the catalog says of a segment, and what was found.
#[derive(Debug, Default)]
pub struct Segment {
    /// Bytes of frames that its record counts as live.
    pub says: Option<u64>,
    /// Page records and releases that name frames in it.
    refs: usize,
    pub live: u64,
}

/// What a repair must know of a finding to mend it.
#[derive(Debug)]
pub enum Fault {
    /// The frame of this page was written for another, `of`, as the frame with this sequence number.
    Foreign { ino: Ino, page: PageNo, of: (Ino, PageNo), sequence: u64 },
    /// Another page's frame lies where this one's does, and they are not the same.
    Clash { ino: Ino, page: PageNo },
    /// The frames of this file have content up to this byte, and the file ends before.
    Beyond { ino: Ino, end: u64 },
    /// A frame is counted to have other owners than these, or one of the inodes does not know that it shares it.
    Owners { segment: SegmentId, offset: u32, owners: u32, inos: Vec<Ino> },
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub segments: BTreeMap<SegmentId, Segment>,
    pub faults: Vec<Fault>,
}

/// One that names a frame.
#[derive(Clone, Copy, Debug)]
struct Ref {
    extent: Extent,
    ino: Ino,
    page: PageNo,
    /// That of a page record; a release has none.
    checksum: Option<u64>,
}

/// Checks all that concerns content.
pub fn check(
    engine: &dyn Engine,
    segments: &LocalSegments,
    nodes: &mut Nodes,
    options: &Options,
    report: &mut Report,
    progress: OnProgress<'_>,
) -> Result<Found> {
    let patched = check_patches(engine, nodes, report)?;
    let mut found = count(engine, nodes, report, progress)?;
    scan(engine, keys::SEGMENT, &mut |key, value| {
        let Some(id) = keys::segment_of(key) else { return };
        match decode::<SegmentRecord>(value, "segment record") {
            Ok(record) => found.entry(id).or_default().says = Some(record.live),
            Err(error) => {
                report.warning("segments", name(id), format!("its record cannot be read ({error})"), RID)
            }
        }
    })?;
    let there: BTreeMap<SegmentId, u64> = segments.list()?.iter().map(|info| (info.id, info.used)).collect();
    report.figures.segment_bytes = segments.list()?.iter().map(|info| info.allocated).sum();
    report.figures.dead_segments = there.keys().filter(|id| !found.contains_key(id)).count() as u64;
    let mut check = Frames {
        engine,
        segments,
        there,
        patched,
        options,
        progress,
        total: 0,
        done: AtomicU64::new(0),
        faults: Mutex::default(),
    };
    check.total = nodes.iter().map(|node| node.found_stored).sum();

    let mut group = BTreeSet::new();
    let mut held = 0;
    let ids: Vec<(SegmentId, usize)> = found.iter().map(|(id, segment)| (*id, segment.refs)).collect();
    for (at, (id, refs)) in ids.iter().enumerate() {
        group.insert(*id);
        held += refs;
        if ids.get(at + 1).is_none_or(|(_, next)| held + next > TOGETHER) {
            check.group(&group, &mut found, nodes, report)?;
            group.clear();
            held = 0;
        }
    }
    for (id, segment) in &found {
        let says = segment.says.unwrap_or(0);
        if says != segment.live {
            let what = format!("{} bytes of it are live, its record says {says}", segment.live);
            report.warning("segments", name(*id), what, RID);
        } else if segment.says == Some(0) {
            report.warning("segments", name(*id), "its record says that nothing in it lives", RID);
        }
    }
    nodes.live = found.values().map(|segment| segment.live).sum();
    report.figures.live_bytes = nodes.live;
    let mut faults = check.faults.into_inner();
    stale_owners(engine, &found, report, &mut faults)?;
    Ok(Found { segments: found, faults })
}

fn name(id: SegmentId) -> String {
    format!("segment {:08x}", id.0)
}

/// Patches, and the pages that have some.
fn check_patches(engine: &dyn Engine, nodes: &Nodes, report: &mut Report) -> Result<BTreeSet<(Ino, PageNo)>> {
    let mut patched = BTreeSet::new();
    let mut missing = Missing::default();
    scan(engine, keys::PATCH, &mut |key, value| {
        let Some((ino, page)) = keys::page_of(key) else { return };
        let Some(node) = nodes.get(ino) else { return missing.tell(ino, "patches", report) };
        let mut wrong = |what: String, remedy| report.inode(Severity::Error, "patches", ino, what, remedy);
        if node.kind != Kind::File {
            wrong(format!("it has patches and is a {:?}", node.kind), RID);
        }
        let size = 1u64 << node.page_shift;
        let end = match decode::<Patch>(value, "patch") {
            Ok(Patch::Data { offset, bytes }) => u64::from(offset) + bytes.len() as u64,
            Ok(Patch::ZeroFrom(offset)) => offset.into(),
            Err(error) => {
                return wrong(
                    format!(
                        "a patch of page {} cannot be read ({error}): the store cannot be mounted",
                        page.0
                    ),
                    FREEZE,
                );
            }
        };
        if end > size {
            wrong(format!("a patch of page {} reaches to byte {end} of {size}", page.0), RID);
        }
        if u64::from(page.0) >= node.size_pages() {
            let what = format!("a patch of page {}, which lies behind its end", page.0);
            report.inode(Severity::Warning, "patches", ino, what, RID);
        }
        patched.insert((ino, page));
    })?;
    Ok(patched)
}

/// Goes through page records and releases, and counts them by inode and by segment.
fn count(
    engine: &dyn Engine,
    nodes: &mut Nodes,
    report: &mut Report,
    progress: OnProgress<'_>,
) -> Result<BTreeMap<SegmentId, Segment>> {
    let mut found: BTreeMap<SegmentId, Segment> = BTreeMap::new();
    let mut missing = Missing::default();
    let mut pages = 0;
    scan(engine, keys::PAGE, &mut |key, value| {
        let Some((ino, page)) = keys::page_of(key) else { return };
        pages += 1;
        if pages % 4096 == 0 {
            progress(Progress { stage: "reading page records", done: pages, total: 0 });
        }
        let record = match decode::<PageRecord>(value, "page record") {
            Ok(record) => record,
            Err(error) => {
                let what = format!("the record of page {} cannot be read ({error})", page.0);
                return report.inode(Severity::Error, "pages", ino, what, LOST);
            }
        };
        let is_lost = record == PageRecord::LOST;
        if is_lost {
            let what =
                format!("the content of page {} is lost: a repair found nothing that it could be", page.0);
            report.inode(Severity::Error, "pages", ino, what, LOST);
        } else {
            found.entry(record.extent.segment).or_default().refs += 1;
        }
        let Some(node) = nodes.get_mut(ino) else { return missing.tell(ino, "page records", report) };
        node.found_pages += 1;
        node.found_stored += u64::from(record.extent.len);
        if node.kind != Kind::File {
            let what = format!("it has pages and is a {:?}", node.kind);
            report.inode(Severity::Error, "pages", ino, what, RID);
        } else if u64::from(page.0) >= node.size_pages() {
            let what = format!("page {} lies behind its end: it has {} bytes", page.0, node.size);
            report.inode(Severity::Warning, "pages", ino, what, RID);
        }
    })?;
    report.figures.pages = pages;
    scan(engine, keys::RELEASE, &mut |key, value| {
        let Some((segment, offset)) = keys::release_of(key) else { return };
        match decode::<u32>(value, "release") {
            Ok(_) => found.entry(segment).or_default().refs += 1,
            Err(error) => {
                let place = format!("{}, offset {offset}", name(segment));
                report.warning("releases", place, format!("a release cannot be read ({error})"), RID);
            }
        }
    })?;
    Ok(found)
}

/// Owner counts of frames in segments that nothing refers to.
fn stale_owners(
    engine: &dyn Engine,
    found: &BTreeMap<SegmentId, Segment>,
    report: &mut Report,
    faults: &mut Vec<Fault>,
) -> Result<()> {
    scan(engine, keys::OWNERS, &mut |key, _| {
        if let Some((id, offset)) = keys::release_of(key)
            && found.get(&id).is_none_or(|segment| segment.refs == 0)
        {
            stale_owner(id, offset, report, faults);
        }
    })
}

fn stale_owner(segment: SegmentId, offset: u32, report: &mut Report, faults: &mut Vec<Fault>) {
    faults.push(Fault::Owners { segment, offset, owners: 0, inos: Vec::new() });
    let id = segment;
    let what = "owners are counted of a frame that nothing refers to";
    report.warning("owners", format!("{}, offset {offset}", name(id)), what, RID);
}

/// What the checks of frames need.
struct Frames<'a> {
    engine: &'a dyn Engine,
    segments: &'a LocalSegments,
    /// The segments that are there, with their lengths.
    there: BTreeMap<SegmentId, u64>,
    patched: BTreeSet<(Ino, PageNo)>,
    options: &'a Options,
    progress: OnProgress<'a>,
    total: u64,
    done: AtomicU64,
    faults: Mutex<Vec<Fault>>,
}

impl Frames<'_> {
    /// Checks all frames of some segments.
    fn group(
        &self,
        group: &BTreeSet<SegmentId>,
        found: &mut BTreeMap<SegmentId, Segment>,
        nodes: &Nodes,
        report: &mut Report,
    ) -> Result<()> {
        let mut refs = Vec::new();
        scan(self.engine, keys::PAGE, &mut |key, value| {
            if let (Some((ino, page)), Ok(PageRecord { extent, checksum })) =
                (keys::page_of(key), decode(value, "page record"))
                && group.contains(&extent.segment)
            {
                refs.push(Ref { extent, ino, page, checksum: Some(checksum) });
            }
        })?;
        scan(self.engine, keys::RELEASE, &mut |key, value| {
            if let (Some((segment, offset)), Some((ino, page)), Ok(len)) =
                (keys::release_of(key), keys::release_page(key), decode(value, "release"))
                && group.contains(&segment)
            {
                refs.push(Ref { extent: Extent { segment, offset, len }, ino, page, checksum: None });
            }
        })?;
        let mut owners = BTreeMap::new();
        scan(self.engine, keys::OWNERS, &mut |key, value| {
            if let Some((segment, offset)) = keys::release_of(key)
                && found.get(&segment).is_some_and(|segment| segment.refs > 0)
                && group.contains(&segment)
            {
                owners.insert((segment, offset), decode::<u32>(value, "owner count").ok());
            }
        })?;
        refs.sort_by_key(|r| (r.extent.segment, r.extent.offset, r.ino, r.page));
        let mut work = Vec::new();
        for refs in refs.chunk_by(|a, b| a.extent.segment == b.extent.segment) {
            let Some(id) = refs.first().map(|r| r.extent.segment) else { continue };
            let live = self.places(refs, &mut owners, nodes, report);
            found.entry(id).or_default().live = live;
            if self.is_readable(id, refs.len(), report)? {
                work.push(refs);
            }
        }
        let mut faults = self.faults.lock();
        owners.keys().for_each(|(id, offset)| stale_owner(*id, *offset, report, &mut faults));
        drop(faults);
        self.verify(&work, nodes, report);
        Ok(())
    }

    /// Whether a segment is there, and begins as one.
    fn is_readable(&self, id: SegmentId, refs: usize, report: &mut Report) -> Result<bool> {
        if !self.there.contains_key(&id) {
            let what = format!("missing, with {refs} pages");
            report.error("segments", name(id), what, "restore it from a backup");
            return Ok(false);
        }
        match self.segments.read(Extent { segment: id, offset: FIRST_FRAME, len: 1 }) {
            Ok(_) => Ok(true),
            Err(error) if error.is_damage() => {
                let why = match error {
                    Error::Damaged(why) => why,
                    error => error.to_string(),
                };
                let what = format!("{why}: its {refs} pages cannot be read");
                report.error("segments", name(id), what, "restore it from a backup");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Compares the references to one segment's frames, and returns the bytes that are live.
    fn places(
        &self,
        refs: &[Ref],
        owners: &mut BTreeMap<(SegmentId, u32), Option<u32>>,
        nodes: &Nodes,
        report: &mut Report,
    ) -> u64 {
        let mut faults = self.faults.lock();
        let mut clash = |r: &Ref| {
            if r.checksum.is_some() {
                faults.push(Fault::Clash { ino: r.ino, page: r.page });
            }
        };
        let mut before: &[Ref] = &[];
        let mut owned: Vec<Fault> = Vec::new();
        let mut live = 0;
        let mut end = u64::from(FIRST_FRAME);
        for same in refs.chunk_by(|a, b| a.extent.offset == b.extent.offset) {
            let Some(first) = same.first() else { continue };
            let Extent { segment, offset, len } = first.extent;
            let place = || format!("{}, offset {offset}", name(segment));
            if u64::from(offset) < end {
                let what = format!(
                    "{} page {} has a frame in another's, which ends at {end}",
                    first.ino, first.page.0
                );
                report.error("pages", place(), what, LOST);
                before.iter().chain(same).for_each(&mut clash);
            }
            if u64::from(offset) + u64::from(len) >= end {
                before = same;
            }
            end = end.max(u64::from(offset) + u64::from(len));
            live += u64::from(len);
            let known = same.iter().find_map(|r| r.checksum);
            for other in same
                .iter()
                .filter(|r| r.extent.len != len || r.checksum.is_some_and(|sum| Some(sum) != known))
            {
                let what = format!(
                    "{} page {} and {} page {} say different things of one frame",
                    first.ino, first.page.0, other.ino, other.page.0
                );
                report.error("pages", place(), what, LOST);
                same.iter().for_each(&mut clash);
            }
            let counted = owners.remove(&(segment, offset));
            let found = same.len() as u32;
            let inos = || same.iter().filter(|r| r.checksum.is_some()).map(|r| r.ino);
            let unaware = inos().find(|ino| found > 1 && nodes.get(*ino).is_some_and(|node| !node.shared));
            let right = counted.map_or(found == 1, |says| says == Some(found));
            if !right || unaware.is_some() {
                owned.push(Fault::Owners { segment, offset, owners: found, inos: inos().collect() });
            }
            match counted {
                Some(Some(says)) if says == found && unaware.is_some() => {
                    let what = format!(
                        "the frame has {found} owners, and one of them does not know that it is shared"
                    );
                    report.error("owners", place(), what, FREEZE);
                }
                _ if right => {}
                Some(Some(says)) => {
                    report.error(
                        "owners",
                        place(),
                        format!("the frame has {found} owners, {says} are counted"),
                        FREEZE,
                    );
                }
                Some(None) => {
                    report.error("owners", place(), "the count of its owners cannot be read", FREEZE)
                }
                None => {
                    let who: Vec<String> =
                        same.iter().take(4).map(|r| format!("{} page {}", r.ino, r.page.0)).collect();
                    let what =
                        format!("the frame has {found} owners ({}), and no count of them", who.join(", "));
                    report.error("owners", place(), what, FREEZE);
                }
            }
        }
        if let Some((id, used)) =
            refs.first().and_then(|r| Some((r.extent.segment, *self.there.get(&r.extent.segment)?)))
            && end > used
        {
            let what = format!("it has {used} bytes, and frames reach to {end}: it has been cut off");
            report.error("segments", name(id), what, "restore it from a backup");
        }
        faults.append(&mut owned);
        live
    }

    /// Reads and verifies the frames of some segments, a segment at a time by each thread.
    fn verify(&self, work: &[&[Ref]], nodes: &Nodes, report: &mut Report) {
        if !self.options.content {
            return;
        }
        let next = AtomicUsize::new(0);
        let shared = Mutex::new(report);
        let life = || {
            while let Some(refs) = work.get(next.fetch_add(1, Relaxed)) {
                refs.chunk_by(|a, b| a.extent.offset == b.extent.offset)
                    .for_each(|same| self.frame(same, nodes, &shared));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.options.threads.min(work.len()) {
                scope.spawn(life);
            }
            life();
        });
    }

    /// Verifies one frame for all that name it.
    fn frame(&self, refs: &[Ref], nodes: &Nodes, report: &Mutex<&mut Report>) {
        let Some(Ref { extent, checksum: Some(checksum), .. }) =
            refs.iter().find(|r| r.checksum.is_some()).copied()
        else {
            return;
        };
        let done = self.done.fetch_add(extent.len.into(), Relaxed) + u64::from(extent.len);
        (self.progress)(Progress { stage: "verifying content", done, total: self.total });
        let opened = self.segments.read(extent).and_then(|bytes| {
            let content = frame::open(&bytes, checksum)?;
            Ok((frame::peek(&bytes), content.len() as u64))
        });
        let mut report = report.lock();
        report.figures.verified += 1;
        let at = format!("segment {:08x}, offset {}", extent.segment.0, extent.offset);
        let (header, len) = match opened {
            Ok(opened) => opened,
            // A disk that cannot read it is no less a finding.
            Err(error) => {
                let why = match error {
                    Error::Damaged(why) => why,
                    error => error.to_string(),
                };
                for r in refs.iter().filter(|r| r.checksum.is_some()) {
                    let what = format!("page {} ({at}): {why}", r.page.0);
                    report.inode(Severity::Error, "frames", r.ino, what, LOST);
                }
                return;
            }
        };
        for r in refs.iter().filter(|r| r.checksum.is_some()) {
            let Some(node) = nodes.get(r.ino) else { continue };
            let mut wrong = |severity, what: String, remedy| {
                report.inode(severity, "frames", r.ino, format!("page {} ({at}): {what}", r.page.0), remedy);
            };
            if let Some(header) = header.filter(|header| (header.ino, header.page) != (r.ino, r.page))
                && !node.shared
            {
                let what = format!("the frame is that of page {} of {}", header.page.0, header.ino);
                let of = (header.ino, header.page);
                let foreign = Fault::Foreign { ino: r.ino, page: r.page, of, sequence: header.sequence };
                self.faults.lock().push(foreign);
                wrong(Severity::Error, what, "restore the file, or write it anew");
            }
            if len > 1 << node.page_shift {
                let what =
                    format!("the frame has {len} bytes, pages of this file {}", 1u64 << node.page_shift);
                wrong(Severity::Error, what, "restore the file, or write it anew");
            }
            let end = (u64::from(r.page.0) << node.page_shift) + len;
            if end > node.size
                && u64::from(r.page.0) < node.size_pages()
                && !self.patched.contains(&(r.ino, r.page))
            {
                let what = format!("the frame has content up to byte {end}, the file ends at {}", node.size);
                self.faults.lock().push(Fault::Beyond { ino: r.ino, end });
                wrong(Severity::Warning, what, "it would show when the file grows: write the file anew");
            }
        }
    }
}
