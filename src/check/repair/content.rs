//! Pages and patches: each of a file, within its size, and of its own frame.
//!
//! A page whose frame cannot be read is left as it is: the frame may come back, with its segment from a backup. A page
//! whose record names what was never its frame becomes a lost one, so that nothing is done to that frame in its
//! name. Either way reading it stays an error.

use std::collections::{BTreeMap, BTreeSet};

use super::lost_found::LostFound;
use super::lost_page;
use super::mend::Mend;
use super::names::Names;
use super::records::{blank, end_of, length_of};
use crate::check::content::{self, Fault};
use crate::check::nodes::Nodes;
use crate::check::{OnProgress, Options, Report, scan, tree};
use crate::error::Result;
use crate::format::{
    Ino, InodeRecord, Key, Kind, Links, Name, PageNo, PageRecord, Patch, ROOT, decode, encode, keys,
};
use crate::pages::LocalSegments;

/// Mends them all.
pub fn mend(
    mend: &mut Mend<'_>,
    segments: &LocalSegments,
    options: &Options,
    progress: OnProgress<'_>,
) -> Result<()> {
    let nodes = tree::load(mend.engine, &mut Report::default(), progress)?;
    let strays = of_no_file(mend, &nodes)?;
    if !strays.is_empty() {
        let mut names = Names { nodes, mend: &mut *mend };
        let mut lost_found = LostFound::default();
        for ino in strays {
            move_out(&mut names, segments, &mut lost_found, ino)?;
        }
        mend.write()?;
    }
    let mut nodes = tree::load(mend.engine, &mut Report::default(), progress)?;
    let mut ends = BTreeMap::new();
    patches(mend, &nodes, &mut ends)?;
    mend.write()?;
    let found = content::check(mend.engine, segments, &mut nodes, options, &mut Report::default(), progress)?;
    pages(mend, segments, &nodes, &found.faults, &mut ends)?;
    mend.write()?;
    behind_the_end(mend, segments, &nodes, &mut ends)?;
    for (ino, end) in ends {
        if let Some(rec) = mend.record(ino)?.filter(|rec| rec.size < end) {
            mend.done.inode(
                ino,
                format!("it had {} bytes, and has content up to byte {end}: it ends there now", rec.size),
            );
            mend.put_record(ino, &InodeRecord { size: end, ..rec });
            mend.step()?;
        }
    }
    mend.write()
}

/// Inodes that have pages or patches and are no files.
fn of_no_file(mend: &Mend<'_>, nodes: &Nodes) -> Result<BTreeSet<Ino>> {
    let mut found = BTreeSet::new();
    for tag in [keys::PAGE, keys::PATCH] {
        scan(mend.engine, tag, &mut |key, _| {
            let ino = keys::ino_of(key).filter(|ino| nodes.get(*ino).is_some_and(|n| n.kind != Kind::File));
            found.extend(ino);
        })?;
    }
    Ok(found)
}

/// Moves what content an inode has that is no file to a new file.
fn move_out(
    names: &mut Names<'_, '_>,
    segments: &LocalSegments,
    lost_found: &mut LostFound,
    from: Ino,
) -> Result<()> {
    let rec = blank(names.mend.now, Links::One { parent: ROOT, name: Name::default() });
    let size = end_of(names.mend, segments, from, rec.page_shift)?;
    // Its frames are another's, as they have it: a file may have such, if it is shared.
    let rec = InodeRecord { mode: libc::S_IFREG | 0o600, size, shared: true, ..rec };
    let to = lost_found.make(names, rec)?;
    for tag in [keys::PAGE, keys::PATCH] {
        for (key, value) in names.mend.under(&keys::of_inode(tag, from))? {
            let moved = [&keys::of_inode(tag, to)[..], key.get(9..).unwrap_or_default()].concat();
            names.mend.put(moved, value);
            names.mend.delete(key);
        }
    }
    names.mend.done.inode(from, format!("it has content and is no file: that is {to} now"));
    names.mend.step()
}

/// Cuts patches to their page, and notes where they reach behind the end of their file.
fn patches(mend: &mut Mend<'_>, nodes: &Nodes, ends: &mut BTreeMap<Ino, u64>) -> Result<()> {
    let mut bad: Vec<(Key, Option<Patch>)> = Vec::new();
    scan(mend.engine, keys::PATCH, &mut |key, value| {
        let (Some((ino, page)), Ok(patch)) = (keys::page_of(key), decode::<Patch>(value, "patch")) else {
            return;
        };
        let Some(node) = nodes.get(ino) else { return };
        let size = 1u64 << node.page_shift;
        let behind = u64::from(page.0) >= node.size_pages();
        match patch {
            Patch::ZeroFrom(offset) if behind || u64::from(offset) > size => bad.push((key.to_vec(), None)),
            Patch::ZeroFrom(_) => {}
            Patch::Data { offset, mut bytes } => {
                let end = u64::from(offset) + bytes.len() as u64;
                if behind {
                    let reaches = (u64::from(page.0) << node.page_shift) + end.min(size);
                    ends.entry(ino).and_modify(|end| *end = reaches.max(*end)).or_insert(reaches);
                }
                if end > size {
                    bytes.truncate(size.saturating_sub(offset.into()) as usize);
                    let cut = Patch::Data { offset, bytes };
                    bad.push((key.to_vec(), (u64::from(offset) < size).then_some(cut)));
                }
            }
        }
    })?;
    for (key, patch) in bad {
        mend.keep(&key)?;
        if let Some((ino, page)) = keys::page_of(&key) {
            mend.done.inode(ino, format!("a patch of page {} is cut to where it can be", page.0));
        }
        match patch {
            Some(patch) => mend.put(key, encode(&patch)),
            None => mend.delete(key),
        }
        mend.step()?;
    }
    Ok(())
}

/// Gives pages that have another's frame their own, where that is known, and lets go of what was never theirs.
fn pages(
    mend: &mut Mend<'_>,
    segments: &LocalSegments,
    nodes: &Nodes,
    faults: &[Fault],
    ends: &mut BTreeMap<Ino, u64>,
) -> Result<()> {
    // Frames that lie with another page, by the page that they were written for: the newest.
    let mut astray: BTreeMap<(Ino, PageNo), (u64, PageRecord)> = BTreeMap::new();
    let mut foreign = BTreeSet::new();
    let mut clashing = BTreeSet::new();
    for fault in faults {
        match fault {
            Fault::Foreign { ino, page, of, sequence } => {
                foreign.insert((*ino, *page));
                if let Some(record) = mend.get::<PageRecord>(&keys::page(*ino, *page))?
                    && astray.get(of).is_none_or(|(other, _)| other < sequence)
                {
                    astray.insert(*of, (*sequence, record));
                }
            }
            Fault::Clash { ino, page } => {
                clashing.insert((*ino, *page));
            }
            Fault::Beyond { ino, end } => {
                ends.entry(*ino).and_modify(|known| *known = (*known).max(*end)).or_insert(*end);
            }
            Fault::Owners { .. } => {}
        }
    }
    // What belongs together must not be torn apart by a crash: of two that were swapped, both or none.
    for (of, (_, record)) in &astray {
        // One that lies with another page of its file, and whose own page has none.
        let within = nodes.get(of.0).is_some_and(|node| u64::from(of.1.0) < node.size_pages());
        let elsewhere = foreign.iter().any(|(ino, page)| *ino == of.0 && *page != of.1);
        if within && elsewhere && mend.get_raw(&keys::page(of.0, of.1))?.is_none() {
            mend.put(keys::page(of.0, of.1), encode(record));
            mend.done.inode(of.0, format!("page {} has its own frame again", of.1.0));
        }
    }
    for (ino, page) in &foreign {
        let behind = nodes.get(*ino).is_some_and(|node| u64::from(page.0) >= node.size_pages());
        match astray.get(&(*ino, *page)) {
            Some((_, record)) => {
                mend.keep(&keys::page(*ino, *page))?;
                mend.put(keys::page(*ino, *page), encode(record));
                mend.done.inode(*ino, format!("page {} has its own frame again", page.0));
            }
            None if behind => {
                mend.put_aside(keys::page(*ino, *page))?;
                mend.done
                    .inode(*ino, format!("page {}, behind its end, had another's frame: put aside", page.0));
            }
            None => lost_page(mend, *ino, *page, "its frame is another's")?,
        }
    }
    for (ino, page) in clashing.difference(&foreign) {
        let record = mend.get::<PageRecord>(&keys::page(*ino, *page))?;
        let fits = |len| nodes.get(*ino).is_some_and(|node| len <= 1 << node.page_shift);
        if record.and_then(|record| length_of(segments, record)).is_none_or(|len| !fits(len)) {
            lost_page(mend, *ino, *page, "where it should lie is another's frame")?;
        }
    }
    Ok(())
}

/// Notes where files have pages behind their end.
fn behind_the_end(
    mend: &Mend<'_>,
    segments: &LocalSegments,
    nodes: &Nodes,
    ends: &mut BTreeMap<Ino, u64>,
) -> Result<()> {
    let mut behind = BTreeSet::new();
    scan(mend.engine, keys::PAGE, &mut |key, _| {
        if let Some((ino, page)) = keys::page_of(key)
            && nodes.get(ino).is_some_and(|node| u64::from(page.0) >= node.size_pages())
        {
            behind.insert(ino);
        }
    })?;
    for ino in behind {
        let shift = nodes.get(ino).map_or(0, |node| node.page_shift);
        let end = end_of(mend, segments, ino, shift)?;
        ends.entry(ino).and_modify(|known| *known = (*known).max(end)).or_insert(end);
    }
    Ok(())
}
