//! Everything that is derived from something else, made anew from it: link counts and link records, counts of entries,
//! pages and attributes, marks, owners of frames, live bytes of segments, the store's counters.

use std::collections::BTreeSet;

use super::mend::Mend;
use super::names::{Place, places_of};
use crate::check::content::{self, Fault, Found};
use crate::check::nodes::{Node, Nodes};
use crate::check::{OnProgress, Options, Report, scan, tree};
use crate::error::Result;
use crate::format::{CounterRecord, Ino, Kind, Links, Name, ROOT, SegmentRecord, decode, encode, keys};
use crate::pages::LocalSegments;

/// Counts anew and writes what differs.
pub fn mend(mend: &mut Mend<'_>, segments: &LocalSegments, progress: OnProgress<'_>) -> Result<()> {
    let quick = Options { content: false, threads: 1 };
    let report = &mut Report::default();
    let mut nodes = tree::load(mend.engine, report, progress)?;
    tree::check(mend.engine, &mut nodes, report, progress)?;
    let found = content::check(mend.engine, segments, &mut nodes, &quick, report, progress)?;
    owners(mend, &found)?;
    inodes(mend, &nodes)?;
    stale_marks(mend, &nodes)?;
    for (id, segment) in &found.segments {
        match segment.live {
            live if live == segment.says.unwrap_or(0) && segment.says != Some(0) => continue,
            0 => mend.delete(keys::segment(*id)),
            live => mend.put(keys::segment(*id), encode(&SegmentRecord { live })),
        }
        mend.done
            .at(format!("segment {:08x}", id.0), format!("{} bytes of it are live: noted", segment.live));
        mend.step()?;
    }
    counters(mend, &nodes)?;
    mend.write()
}

fn owners(mend: &mut Mend<'_>, found: &Found) -> Result<()> {
    for fault in &found.faults {
        let Fault::Owners { segment, offset, owners, inos } = fault else { continue };
        match owners {
            0 | 1 => mend.delete(keys::owners(*segment, *offset)),
            _ => mend.put(keys::owners(*segment, *offset), encode(owners)),
        }
        for ino in inos.iter().filter(|_| *owners > 1) {
            if let Some(mut rec) = mend.record(*ino)?.filter(|rec| !rec.shared) {
                rec.shared = true;
                mend.put_record(*ino, &rec);
            }
        }
        let place = format!("segment {:08x}, offset {offset}", segment.0);
        mend.done.at(place, format!("{owners} pages own the frame: noted"));
        mend.step()?;
    }
    Ok(())
}

/// Whether the names of an inode and its records of them say the same.
fn are_links_right(node: &Node) -> bool {
    node.nlink == node.found_nlink()
        && node.places == node.found_places
        && (node.many || node.found_links == 0)
        && !(node.many && node.is_dir())
}

fn is_linked(node: &Node) -> bool {
    node.found_names > 0 || node.ino == ROOT
}

fn inodes(mend: &mut Mend<'_>, nodes: &Nodes) -> Result<()> {
    let wrong: BTreeSet<Ino> =
        nodes.iter().filter(|node| !are_links_right(node)).map(|node| node.ino).collect();
    let mut places = places_of(mend, &wrong)?;
    for node in nodes.iter() {
        let Some(before) = mend.record(node.ino)? else { continue };
        let mut rec = before.clone();
        let mut did = Vec::new();
        if !are_links_right(node) {
            rec.nlink = node.found_nlink();
            rec.links = links(mend, node, rec.links, &places.remove(&node.ino).unwrap_or_default())?;
            did.push("links");
        }
        if node.is_dir() {
            rec.size = node.found_entries;
        }
        (rec.pages, rec.stored, rec.xattrs) = (node.found_pages, node.found_stored, node.found_xattrs);
        let counts = |rec: &crate::format::InodeRecord| (rec.size, rec.pages, rec.stored, rec.xattrs);
        if counts(&rec) != counts(&before) {
            did.push("counts");
        }
        if is_linked(node) == node.found_orphan {
            match is_linked(node) {
                true => mend.delete(keys::orphan(node.ino)),
                false => mend.put(keys::orphan(node.ino), Vec::new()),
            }
            did.push("mark to be reclaimed");
        }
        if let Some(at) = rec.expires.filter(|_| is_linked(node) && !node.found_expiry) {
            mend.put(keys::expiry(at.secs(), node.ino), Vec::new());
            did.push("mark of its expiry");
        }
        if did.is_empty() {
            continue;
        }
        if rec != before {
            mend.put_record(node.ino, &rec);
        }
        mend.done.inode(node.ino, format!("its {} put right", did.join(" and ")));
        mend.step()?;
    }
    Ok(())
}

/// What an inode's record is to say of its names; its link records are made the same.
fn links(mend: &mut Mend<'_>, node: &Node, before: Links, places: &[Place]) -> Result<Links> {
    let many = !node.is_dir() && (node.many || places.len() > 1);
    let wanted: BTreeSet<_> =
        places.iter().filter(|_| many).map(|(dir, name)| keys::link(node.ino, *dir, name)).collect();
    for (key, _) in mend.under(&keys::of_inode(keys::LINK, node.ino))? {
        if !wanted.contains(&key) {
            mend.delete(key);
        }
    }
    wanted.into_iter().for_each(|key| mend.put(key, Vec::new()));
    Ok(match places.first() {
        _ if node.ino == ROOT => Links::One { parent: ROOT, name: Name::default() },
        _ if many => Links::Many,
        Some((parent, name)) => Links::One { parent: *parent, name: name.clone() },
        None if node.is_dir() => Links::One { parent: ROOT, name: Name::default() },
        None => before,
    })
}

/// Marks of what is not there, or not so.
fn stale_marks(mend: &mut Mend<'_>, nodes: &Nodes) -> Result<()> {
    let mut stale = Vec::new();
    for tag in [keys::ORPHAN, keys::USE] {
        scan(mend.engine, tag, &mut |key, _| {
            let gone = keys::ino_of(key).filter(|ino| nodes.get(*ino).is_none());
            stale.extend(gone.map(|ino| (ino, key.to_vec())));
        })?;
    }
    scan(mend.engine, keys::QUOTA, &mut |key, value| {
        let limit = decode::<u64>(value, "size limit");
        let can =
            |ino: &Ino| nodes.get(*ino).is_some_and(|node| node.is_dir() && is_linked(node)) && limit.is_ok();
        stale.extend(keys::ino_of(key).filter(|ino| !can(ino)).map(|ino| (ino, key.to_vec())));
    })?;
    let mut marks = Vec::new();
    scan(mend.engine, keys::EXPIRY, &mut |key, _| marks.extend(keys::expiry_of(key)))?;
    for (secs, ino) in marks {
        let linked = nodes.get(ino).is_some_and(is_linked);
        let at = if linked { mend.record(ino)?.and_then(|rec| rec.expires) } else { None };
        if at.is_none_or(|at| at.secs().max(0) != secs) {
            stale.push((ino, keys::expiry(secs, ino).to_vec()));
        }
    }
    for (ino, key) in stale {
        mend.delete(key);
        mend.done.inode(ino, "a mark of it that was not true is removed");
        mend.step()?;
    }
    Ok(())
}

fn counters(mend: &mut Mend<'_>, nodes: &Nodes) -> Result<()> {
    let says: Option<CounterRecord> = mend.get(&keys::counters())?;
    let files = nodes.iter().filter(|node| node.kind == Kind::File);
    let last = nodes.iter().last().map_or(0, |node| node.ino.0);
    let found = CounterRecord {
        inodes: nodes.iter().count() as u64,
        content: files.map(|node| node.size).sum(),
        stored: nodes.live,
        last_ino: says.map_or(0, |says| says.last_ino).max(last),
    };
    if says != Some(found) {
        mend.put(keys::counters(), encode(&found));
        mend.done.at("the store's counters", "counted anew");
    }
    Ok(())
}
