//! Random operations against a model, and threads against each other.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;

const SIZE: usize = 256;

/// Pages that the file may have.
const PAGES: u32 = 6;

#[derive(Clone, Debug)]
enum Op {
    Write(u32, usize, usize, u8),
    /// In place of the file, a new one of so many bytes, journalled.
    New(usize, u8),
    /// Page, offset, and what a thread beside it does while the cut is journalled.
    Cut(u32, usize, Meanwhile),
    Get(u32),
    Load(u32),
    Discard(u32, u32),
    Patches(usize),
    Flush,
    Due(usize),
    Finish(usize),
    Fail(usize),
}

#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Nothing,
    Flush,
    Fail,
    FailAndFlush,
    /// The cut cannot be journalled.
    NotJournalled,
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    use Meanwhile::*;
    prop_oneof![Just(Nothing), Just(Flush), Just(Fail), Just(FailAndFlush), Just(NotJournalled)]
}

fn op() -> impl Strategy<Value = Op> {
    let no = 0..PAGES;
    prop_oneof![
        6 => (no.clone(), 0..SIZE, 1..60usize, 1..=255u8).prop_map(|(n, o, l, b)| Op::Write(n, o, l.min(SIZE - o), b)),
        1 => (no.clone(), Just(0), Just(SIZE), 1..=255u8).prop_map(|(n, o, l, b)| Op::Write(n, o, l, b)),
        1 => (0..4 * SIZE, 1..=255u8).prop_map(|(len, byte)| Op::New(len, byte)),
        2 => (no.clone(), 0..SIZE, meanwhile()).prop_map(|(n, o, m)| Op::Cut(n, o, m)),
        2 => no.clone().prop_map(Op::Get),
        1 => no.clone().prop_map(Op::Load),
        1 => (no.clone(), 1..3u32).prop_map(|(n, l)| Op::Discard(n, n + l)),
        2 => (0..600usize).prop_map(Op::Patches),
        1 => Just(Op::Flush),
        2 => (1..800usize).prop_map(Op::Due),
        3 => (0..8usize).prop_map(Op::Finish),
        1 => (0..8usize).prop_map(Op::Fail),
    ]
}

/// What lies on the disk: frames and patches. And what should: the content when it was last said to be safe.
#[derive(Default)]
struct Disk {
    frames: BTreeMap<PageNo, Vec<u8>>,
    patches: BTreeMap<(PageNo, u32), Patch>,
}

impl Disk {
    fn recover(&self, no: PageNo) -> [u8; SIZE] {
        let mut page = padded(self.frames.get(&no).map_or(&[], |f| f));
        for (_, patch) in self.patches.range((no, 0)..=(no, u32::MAX)) {
            match patch {
                Patch::Data { offset, bytes } => {
                    page[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
                }
                Patch::ZeroFrom(from) => page[*from as usize..].fill(0),
            }
        }
        page
    }

    fn remove(&mut self, no: PageNo, numbers: Range<u32>) {
        for n in numbers {
            assert!(self.patches.remove(&(no, n)).is_some(), "patch {n} of {no:?} was never handed out");
        }
    }
}

fn padded(content: &[u8]) -> [u8; SIZE] {
    let mut page = [0; SIZE];
    page[..content.len()].copy_from_slice(content);
    page
}

/// Discards pages, and what lies on the disk of them and should.
fn discard(
    cache: &Cache,
    disk: &mut Disk,
    pages: Range<u32>,
    models: [&mut BTreeMap<PageNo, [u8; SIZE]>; 2],
) {
    let (from, to) = (PageNo(pages.start), PageNo(pages.end));
    for (no, numbers) in cache.patches_of(Ino(1), from, to) {
        disk.remove(no, numbers);
    }
    cache.discard(Ino(1), from, to);
    disk.frames.retain(|no, _| !(from..to).contains(no));
    models.into_iter().for_each(|model| model.retain(|no, _| !(from..to).contains(no)));
    assert!(disk.patches.range((from, 0)..(to, 0)).next().is_none(), "patches left of {pages:?}");
}

fn run(ops: &[Op], limit: usize) {
    let cache = Cache::new(limit, limit / 2);
    let mut content: BTreeMap<PageNo, [u8; SIZE]> = BTreeMap::new();
    // The content that must be recoverable, for pages where nothing else is in between.
    let mut safe: BTreeMap<PageNo, [u8; SIZE]> = BTreeMap::new();
    let mut disk = Disk::default();
    let mut flights: Vec<Flush> = Vec::new();
    let page = |no: u32| PageId { ino: Ino(1), no: PageNo(no) };
    for op in ops {
        match *op {
            Op::Write(no, offset, len, byte) => {
                let id = page(no);
                let mut base = Base::Unknown;
                if !disk.frames.contains_key(&id.no) && !cache.contains(id) {
                    base = Base::Absent;
                }
                let before = cache.get(id);
                match cache.write(id, offset, &vec![byte; len], SIZE, base) {
                    Ok(()) => content.entry(id.no).or_insert([0; SIZE])[offset..offset + len].fill(byte),
                    Err(Need::Page) => assert!(before.is_none() && base == Base::Unknown && len < SIZE),
                    Err(Need::Room(bytes)) => {
                        assert!(bytes > 0);
                        assert_eq!(cache.get(id).as_deref(), before.as_deref());
                    }
                }
            }
            Op::Cut(no, offset, meanwhile) => {
                let base = if disk.frames.contains_key(&PageNo(no)) { Base::Unknown } else { Base::Absent };
                if cache.may_cut(page(no), offset, base).is_err() {
                    continue;
                }
                let before: Vec<PageNo> = cache.dirty_pages(Ino(1));
                let patches = cache.patches(Ino(1), usize::MAX, Some((PageNo(no), offset)));
                let Some(patches) = patches else { continue };
                if let Meanwhile::Fail | Meanwhile::FailAndFlush = meanwhile {
                    flights.pop().into_iter().for_each(|flight| cache.fail_flush(&flight));
                }
                if let Meanwhile::Flush | Meanwhile::FailAndFlush = meanwhile {
                    flights.extend(cache.flush_file(Ino(1)));
                }
                if let Meanwhile::NotJournalled = meanwhile {
                    // As when it was never asked for; what lies on the disk, and what should, is checked below.
                    continue;
                }
                for (no, n, patch) in &patches {
                    let free = disk.patches.insert((*no, *n), patch.clone()).is_none();
                    assert!(free, "number {n} of {no:?} used twice");
                }
                cache.cut(page(no), offset);
                cache.journalled(Ino(1), &super::upto(&patches));
                content.entry(PageNo(no)).or_insert([0; SIZE])[offset..].fill(0);
                for safe_now in before.into_iter().filter(|page| page.0 <= no).chain([PageNo(no)]) {
                    safe.insert(safe_now, content[&safe_now]);
                }
            }
            Op::Get(no) => {
                if let Some(found) = cache.get(page(no)) {
                    let expected = content.get(&PageNo(no)).copied().unwrap_or([0; SIZE]);
                    assert_eq!(padded(&found), expected);
                }
            }
            Op::Load(no) => {
                // As from its frame: right only when nothing newer is in memory, which then must win.
                if let Some(frame) = disk.frames.get(&PageNo(no)) {
                    let found = cache.insert(page(no), frame.clone(), Access::Random);
                    assert_eq!(padded(&found), content[&PageNo(no)]);
                }
            }
            Op::Discard(from, to) => discard(&cache, &mut disk, from..to, [&mut content, &mut safe]),
            Op::New(len, byte) => {
                discard(&cache, &mut disk, 0..PAGES, [&mut content, &mut safe]);
                let bytes = vec![byte; len];
                if cache.write_new(&[(Ino(1), SIZE.ilog2() as u8, &bytes)]).is_ok() {
                    for (no, part) in (0..).map(PageNo).zip(bytes.chunks(SIZE)) {
                        disk.patches.insert((no, 0), Patch::Data { offset: 0, bytes: part.to_vec() });
                        content.insert(no, padded(part));
                        safe.insert(no, padded(part));
                    }
                } else {
                    assert_eq!(cache.pages_of(Ino(1)), 0);
                }
            }
            Op::Patches(limit) => {
                let before: Vec<PageNo> = cache.dirty_pages(Ino(1));
                if let Some(patches) = super::take(&cache, limit) {
                    let bytes: usize = patches
                        .iter()
                        .map(|(_, _, p)| if let Patch::Data { bytes, .. } = p { bytes.len() } else { 0 })
                        .sum();
                    assert!(bytes <= limit);
                    for (no, n, patch) in patches {
                        assert!(disk.patches.insert((no, n), patch).is_none(), "number {n} used twice");
                    }
                    for no in before {
                        safe.insert(no, content[&no]);
                    }
                }
            }
            Op::Flush => flights.extend(cache.flush_file(Ino(1))),
            Op::Due(bytes) => flights.extend(cache.flush_due(Duration::ZERO, bytes)),
            Op::Finish(at) if at < flights.len() => {
                let flush = flights.swap_remove(at);
                let no = flush.id.no;
                if let Flushed::Stored { patches } = cache.finish_flush(&flush) {
                    disk.remove(no, patches);
                    disk.frames.insert(no, flush.content.to_vec());
                    if disk.patches.range((no, 0)..=(no, u32::MAX)).next().is_none() {
                        safe.insert(no, padded(&flush.content));
                    }
                    if !cache.dirty_pages(Ino(1)).contains(&no) {
                        assert_eq!(padded(&flush.content), content[&no]);
                        assert!(!disk.patches.keys().any(|(n, _)| *n == no), "a clean page has no patches");
                    }
                }
            }
            Op::Fail(at) if at < flights.len() => cache.fail_flush(&flights.swap_remove(at)),
            Op::Finish(_) | Op::Fail(_) => {}
        }
        cache.state.lock().verify();
        for (no, expected) in &safe {
            assert_eq!(disk.recover(*no), *expected, "{no:?} after {op:?}");
        }
    }
    // In the end everything can be made safe.
    for flush in flights.drain(..) {
        cache.fail_flush(&flush);
    }
    for (no, n, patch) in super::take(&cache, usize::MAX).unwrap_or_default() {
        assert!(disk.patches.insert((no, n), patch).is_none(), "number {n} used twice");
    }
    for flush in cache.flush_file(Ino(1)) {
        if let Flushed::Stored { patches } = cache.finish_flush(&flush) {
            disk.remove(flush.id.no, patches);
            disk.frames.insert(flush.id.no, flush.content.to_vec());
        }
    }
    assert_eq!(cache.stats().dirty, 0);
    assert!(disk.patches.is_empty());
    for (no, expected) in &content {
        assert_eq!(disk.recover(*no), *expected, "{no:?} in the end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn random_operations_keep_content_and_recovery_right(
        ops in prop::collection::vec(op(), 1..80),
        limit in prop_oneof![Just(5000usize), Just(1usize << 20)],
    ) {
        run(&ops, limit);
    }
}

#[test]
fn writers_readers_and_write_back_work_on_it_together() {
    const PAGES: u32 = 64;
    const FILES: u64 = 3;
    let cache = Cache::new(24 << 10, 12 << 10);
    let disk: Mutex<BTreeMap<PageId, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flushers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        cache.wait_due(Duration::from_millis(1), Duration::from_secs(10));
                        for (n, flush) in cache.flush_due(Duration::from_millis(1), 2000).iter().enumerate() {
                            // Storing the frame and telling the cache are one step, as under a file's lock.
                            let mut disk = disk.lock();
                            if n == 3 {
                                cache.fail_flush(flush);
                            } else if cache.finish_flush(flush) != Flushed::Gone {
                                disk.insert(flush.id, flush.content.to_vec());
                            }
                        }
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (1..=FILES)
            .map(|ino| {
                let (cache, disk) = (&cache, &disk);
                scope.spawn(move || {
                    for round in 1..=200u32 {
                        for no in 0..PAGES {
                            let id = PageId { ino: Ino(ino), no: PageNo(no) };
                            let offset = (round as usize * 37 + no as usize * 11) % (SIZE - 8);
                            let bytes = [(round as u8).wrapping_add(no as u8); 8];
                            loop {
                                let known = disk.lock().contains_key(&id) || cache.contains(id);
                                let base = if known { Base::Unknown } else { Base::Absent };
                                match cache.write(id, offset, &bytes, SIZE, base) {
                                    Ok(()) => break,
                                    Err(Need::Room(bytes)) => cache.wait_for_room(bytes),
                                    Err(Need::Page) => {
                                        let disk = disk.lock();
                                        cache.insert(id, disk[&id].clone(), Access::Random);
                                    }
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|w| w.join().unwrap());
        stop.store(true, Ordering::SeqCst);
        cache.wake();
        flushers.into_iter().for_each(|f| f.join().unwrap());
    });
    cache.state.lock().verify();
    for ino in (1..=FILES).map(Ino) {
        for no in 0..PAGES {
            let id = PageId { ino, no: PageNo(no) };
            let mut expected = [0; SIZE];
            for round in 1..=200u32 {
                let offset = (round as usize * 37 + no as usize * 11) % (SIZE - 8);
                expected[offset..offset + 8].fill((round as u8).wrapping_add(no as u8));
            }
            let found = cache.get(id).unwrap_or_else(|| Arc::new(disk.lock()[&id].clone()));
            assert_eq!(padded(&found), expected, "{id:?}");
        }
    }
}
