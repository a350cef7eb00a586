//! The contract of the cache, sentence by sentence.

use super::*;

const PAGE: usize = 4096;

fn id(ino: u64, no: u32) -> PageId {
    PageId { ino: Ino(ino), no: PageNo(no) }
}

/// Patches that are journalled at once; and nothing but that changes anything.
fn take(cache: &Cache, limit: usize) -> Option<Vec<(PageNo, u32, Patch)>> {
    let patches = cache.patches(Ino(1), limit, None);
    assert_eq!(cache.patches(Ino(1), limit, None), patches, "asking has changed something");
    let patches = patches?;
    cache.journalled(Ino(1), &upto(&patches));
    Some(patches)
}

/// The number behind the last patch of each page.
fn upto(patches: &[(PageNo, u32, Patch)]) -> Vec<(PageNo, u32)> {
    let last: std::collections::BTreeMap<_, _> = patches.iter().map(|(no, n, _)| (*no, n + 1)).collect();
    last.into_iter().collect()
}

#[test]
fn what_was_written_is_read_back_and_dirty() {
    let cache = Cache::new(1 << 20, 1 << 19);
    assert_eq!(cache.write(id(1, 0), 3, b"abc", PAGE, Base::Absent), Ok(()));
    assert_eq!(cache.get(id(1, 0)).unwrap()[..], *b"\0\0\0abc");
    assert_eq!(cache.dirty(Ino(1)), Some(6));
    assert_eq!(cache.dirty_files(), [Ino(1)]);
    assert_eq!(cache.dirty_pages(Ino(1)), [PageNo(0)]);
}

mod model;

#[test]
fn a_write_to_an_unknown_page_needs_it_loaded_unless_it_covers_it() {
    let cache = Cache::new(1 << 20, 1 << 19);
    assert_eq!(cache.write(id(1, 0), 0, &[1; PAGE - 1], PAGE, Base::Unknown), Err(Need::Page));
    assert_eq!(cache.write(id(1, 0), 1, &[1; PAGE - 1], PAGE, Base::Unknown), Err(Need::Page));
    assert!(!cache.contains(id(1, 0)));
    assert_eq!(cache.write(id(1, 0), 0, &[1; PAGE], PAGE, Base::Unknown), Ok(()));
    assert_eq!(cache.may_cut(id(1, 1), 7, Base::Unknown), Err(Need::Page));
}

#[test]
fn a_small_file_costs_little() {
    let cache = Cache::new(1 << 20, 1 << 19);
    cache.write(id(1, 0), 0, &[1; 4096], 128 << 10, Base::Absent).unwrap();
    assert!(cache.stats().used <= 4096 + 1024, "{:?}", cache.stats());
}

#[test]
fn large_patches_in_the_catalog_make_their_pages_due_and_small_ones_do_not() {
    let age = Duration::from_secs(3600);
    for (len, due) in [(1000, false), (PAGE, true)] {
        let cache = Cache::new(4 << 20, 1 << 20);
        let limit = (1 << 20) / 16;
        let mut bytes = 0;
        for ino in 1.. {
            cache.write(id(ino, 0), 0, &vec![1; len], 128 << 10, Base::Absent).unwrap();
            let patches = cache.patches(Ino(ino), usize::MAX, None).unwrap();
            cache.journalled(Ino(ino), &upto(&patches));
            bytes += len;
            if bytes > 2 * limit {
                break;
            }
            assert_eq!(due && bytes > limit, cache.state.lock().pressed(), "{bytes}");
        }
        let flushes = cache.flush_due(age, usize::MAX);
        assert_eq!(!flushes.is_empty(), due);
        flushes.iter().for_each(|flush| _ = cache.finish_flush(flush));
        assert!(cache.flush_due(age, usize::MAX).is_empty());
        cache.state.lock().verify();
    }
}

#[test]
fn full_pages_that_come_faster_than_they_are_flushed_keep_no_others_waiting() {
    let (none, most) = (Duration::from_secs(3600), 2 * PAGE);
    let full = |cache: &Cache, pages: std::ops::Range<u32>| {
        for no in pages {
            cache.write(id(2, no), 0, &[1; PAGE], PAGE, Base::Absent).unwrap();
        }
    };
    let flushed = |cache: &Cache, age: Duration| {
        let flushes = cache.flush_due(age, most);
        flushes.iter().for_each(|flush| _ = cache.finish_flush(flush));
        flushes.iter().map(|flush| flush.id).collect::<Vec<_>>()
    };
    // What is old.
    let cache = Cache::new(4 << 20, 4 << 20);
    full(&cache, 0..1);
    cache.write(id(1, 0), 0, &[2; 100], PAGE, Base::Absent).unwrap();
    full(&cache, 1..8);
    assert_eq!(flushed(&cache, none), [id(2, 0), id(2, 1)]);
    assert_eq!(flushed(&cache, Duration::ZERO), [id(1, 0), id(2, 2)]);
    // What rides in the catalog, of any age.
    let cache = Cache::new(4 << 20, 1 << 20);
    for ino in 10..30 {
        cache.write(id(ino, 0), 0, &[1; PAGE], 128 << 10, Base::Absent).unwrap();
        let patches = cache.patches(Ino(ino), usize::MAX, None).unwrap();
        cache.journalled(Ino(ino), &upto(&patches));
    }
    full(&cache, 0..8);
    assert_eq!(flushed(&cache, none), [id(10, 0), id(11, 0)]);
}

#[test]
fn cutting_a_hole_makes_no_page() {
    let cache = Cache::new(1 << 20, 1 << 19);
    assert_eq!(cache.may_cut(id(1, 0), 7, Base::Absent), Ok(()));
    cache.cut(id(1, 0), 7);
    assert!(!cache.contains(id(1, 0)));
}

#[test]
fn clean_pages_make_room_and_dirty_ones_never_do() {
    let cache = Cache::new(20 * 5000, 10 * 5000);
    for no in 0..100 {
        cache.insert(id(1, no), vec![1; PAGE], Access::Sequential);
    }
    assert!(cache.contains(id(1, 99)) && !cache.contains(id(1, 0)));
    let mut written = 0;
    while cache.write(id(2, written), 0, &[2; PAGE], PAGE, Base::Absent).is_ok() {
        written += 1;
    }
    assert_eq!(written, 10);
    assert!(matches!(cache.write(id(2, 11), 0, &[2; PAGE], PAGE, Base::Absent), Err(Need::Room(_))));
    for no in 100..200 {
        cache.insert(id(1, no), vec![1; PAGE], Access::Random);
    }
    assert_eq!(cache.dirty_pages(Ino(2)).len(), 10);
    assert!(cache.stats().used <= cache.stats().limit);
}

#[test]
fn a_lower_limit_evicts_clean_pages_at_once_and_holds_for_dirty_ones_once_they_are_flushed() {
    let cache = Cache::new(8 << 20, 4 << 20);
    for no in 0..1000 {
        cache.insert(id(1, no), vec![1; PAGE], Access::Random);
    }
    for no in 0..100 {
        cache.write(id(2, no), 0, &[2; PAGE], PAGE, Base::Absent).unwrap();
    }
    cache.set_limits(200 << 10, 100 << 10);
    let stats = cache.stats();
    assert_eq!(stats.used, stats.dirty, "nothing that could go is there");
    assert_eq!(cache.dirty_pages(Ino(2)).len(), 100);
    assert!(matches!(cache.write(id(2, 100), 0, &[2; PAGE], PAGE, Base::Absent), Err(Need::Room(_))));
    for flush in cache.flush_file(Ino(2)) {
        cache.finish_flush(&flush);
    }
    cache.write(id(2, 100), 0, &[2; PAGE], PAGE, Base::Absent).unwrap();
    let stats = cache.stats();
    assert!(stats.used <= stats.limit && stats.limit == 200 << 10, "{stats:?}");
    cache.set_limits(8 << 20, 4 << 20);
    for no in 0..1000 {
        cache.insert(id(1, no), vec![1; PAGE], Access::Random);
    }
    assert!((0..1000).all(|no| cache.contains(id(1, no))));
}

#[test]
fn a_scan_does_not_push_out_what_is_used_again() {
    let cache = Cache::new(20 * 5000, 10 * 5000);
    for _ in 0..2 {
        for hot in 0..8 {
            if cache.get(id(1, hot)).is_none() {
                cache.insert(id(1, hot), vec![1; PAGE], Access::Random);
            }
        }
    }
    for no in 0..1000 {
        cache.insert(id(2, no), vec![1; PAGE], Access::Sequential);
        for _ in 0..4 {
            assert!(cache.get(id(2, no)).is_some());
        }
    }
    assert!((0..8).all(|hot| cache.contains(id(1, hot))));
}

#[test]
fn a_page_that_is_there_stays_when_it_is_loaded_again() {
    let cache = Cache::new(1 << 20, 1 << 19);
    cache.write(id(1, 0), 0, b"new", PAGE, Base::Absent).unwrap();
    assert_eq!(cache.insert(id(1, 0), b"old".to_vec(), Access::Random)[..], *b"new");
    assert_eq!(cache.get(id(1, 0)).unwrap()[..], *b"new");
}

#[test]
fn a_page_written_while_in_flush_stays_dirty_with_the_later_changes_only() {
    let cache = Cache::new(1 << 20, 1 << 19);
    cache.write(id(1, 0), 0, b"aaaa", PAGE, Base::Absent).unwrap();
    assert_eq!(take(&cache, 100).unwrap().len(), 1);
    cache.write(id(1, 0), 4, b"bbbb", PAGE, Base::Absent).unwrap();
    let flush = cache.flush_file(Ino(1)).pop().unwrap();
    assert!(cache.flush_file(Ino(1)).is_empty(), "it is in flush already");
    cache.write(id(1, 0), 1, b"c", PAGE, Base::Unknown).unwrap();
    assert_eq!(flush.content[..], *b"aaaabbbb", "the flush keeps what it began with");
    assert_eq!(cache.finish_flush(&flush), Flushed::Stored { patches: 0..1 });
    let later = Patch::Data { offset: 1, bytes: b"c".to_vec() };
    assert_eq!(take(&cache, 100), Some(vec![(PageNo(0), 1, later)]));
    let flush = cache.flush_file(Ino(1)).pop().unwrap();
    assert_eq!(cache.finish_flush(&flush), Flushed::Stored { patches: 1..2 });
    assert_eq!(cache.dirty(Ino(1)), None);
    assert!(cache.contains(id(1, 0)));
}

#[test]
fn what_a_failed_flush_covered_is_unjournalled_again() {
    let cache = Cache::new(1 << 20, 1 << 19);
    cache.write(id(1, 0), 0, b"aaaa", PAGE, Base::Absent).unwrap();
    let flush = cache.flush_file(Ino(1)).pop().unwrap();
    cache.fail_flush(&flush);
    let patch = Patch::Data { offset: 0, bytes: b"aaaa".to_vec() };
    assert_eq!(take(&cache, 100), Some(vec![(PageNo(0), 0, patch)]));
    assert_eq!(cache.flush_file(Ino(1)).len(), 1);
}

#[test]
fn a_page_discarded_in_flush_is_gone_and_its_patches_are_named() {
    let cache = Cache::new(1 << 20, 1 << 19);
    cache.write(id(1, 3), 0, b"aaaa", PAGE, Base::Absent).unwrap();
    take(&cache, 100).unwrap();
    let flush = cache.flush_file(Ino(1)).pop().unwrap();
    assert_eq!(cache.patches_of(Ino(1), PageNo(0), PageNo(u32::MAX)), [(PageNo(3), 0..1)]);
    cache.discard(Ino(1), PageNo(0), PageNo(u32::MAX));
    assert!(!cache.contains(id(1, 3)));
    assert_eq!(cache.finish_flush(&flush), Flushed::Gone);
    assert_eq!((cache.stats().used, cache.stats().dirty), (0, 0));
}

#[test]
fn too_many_bytes_or_patches_ask_for_a_flush() {
    let cache = Cache::new(1 << 20, 1 << 19);
    cache.write(id(1, 0), 0, &[1; 100], PAGE, Base::Absent).unwrap();
    assert_eq!(take(&cache, 99), None);
    for _ in 0..17 {
        assert_eq!(take(&cache, 100).unwrap().len(), 1);
        cache.write(id(1, 0), 0, b"x", PAGE, Base::Unknown).unwrap();
    }
    assert_eq!(take(&cache, 100), None);
}

#[test]
fn full_pages_are_due_at_once_and_others_when_old_or_when_memory_is_short() {
    let cache = Cache::new(20 * 5000, 10 * 5000);
    let hour = Duration::from_secs(3600);
    cache.write(id(1, 1), 0, &[1; PAGE], PAGE, Base::Absent).unwrap();
    cache.write(id(1, 0), 0, &[1; PAGE], PAGE, Base::Absent).unwrap();
    cache.write(id(2, 0), 0, &[1; 10], PAGE, Base::Absent).unwrap();
    let due = cache.flush_due(hour, 1 << 20);
    assert_eq!(due.iter().map(|f| f.id).collect::<Vec<_>>(), [id(1, 0), id(1, 1)]);
    assert!(cache.flush_due(hour, 1 << 20).is_empty());
    assert_eq!(cache.flush_due(Duration::ZERO, 1 << 20).len(), 1);
    for no in 0..7 {
        cache.write(id(3, no), 0, &[1; PAGE - 1], PAGE, Base::Absent).unwrap();
    }
    assert_eq!(cache.flush_due(hour, 2 * PAGE).len(), 2, "memory is short");
    cache.wait_due(hour, hour);
}

#[test]
fn a_recovered_page_is_dirty_with_nothing_to_be_journalled() {
    let cache = Cache::new(1 << 20, 1);
    assert!(cache.insert_patched(id(1, 0), vec![1; 100], 3));
    assert!(cache.insert_patched(id(1, 1), vec![1; 100], 1), "the dirty limit is ignored");
    assert_eq!(take(&cache, 0), Some(vec![]));
    let flush = cache.flush_file(Ino(1)).remove(0);
    assert_eq!(cache.finish_flush(&flush), Flushed::Stored { patches: 0..3 });
}

#[test]
fn a_cut_is_journalled_ahead_and_happens_whatever_flush_begins_in_between() {
    let cut = |no: u32| Some((PageNo(no), 2));
    let zero = |no: u32, n: u32| (PageNo(no), n, Patch::ZeroFrom(2));
    let data =
        |no: u32, n: u32, bytes: &[u8]| (PageNo(no), n, Patch::Data { offset: 0, bytes: bytes.to_vec() });
    // A limit that has room for one page only.
    let cache = Cache::new(PAGE + 1024, PAGE + 1024);
    cache.write(id(1, 0), 0, &[7; PAGE], PAGE, Base::Absent).unwrap();
    assert_eq!(cache.may_cut(id(1, 0), 2, Base::Unknown), Ok(()));
    let patches = cache.patches(Ino(1), PAGE, cut(0)).unwrap();
    assert_eq!(patches, [zero(0, 0), data(0, 1, &[7; 2])]);
    assert_eq!(cache.get(id(1, 0)).unwrap().len(), PAGE, "asking cuts nothing");
    let flush = cache.flush_file(Ino(1)).remove(0);
    cache.cut(id(1, 0), 2);
    cache.journalled(Ino(1), &upto(&patches));
    assert_eq!(cache.get(id(1, 0)).unwrap()[..], [7; 2]);
    assert_eq!(take(&cache, PAGE), Some(vec![]));
    assert!(
        matches!(cache.write(id(1, 1), 0, b"x", PAGE, Base::Absent), Err(Need::Room(_))),
        "it holds both"
    );
    // The frame is of the content before: the patches are not superseded by it.
    assert_eq!(cache.finish_flush(&flush), Flushed::Stored { patches: 0..0 });
    assert!(cache.stats().used <= cache.stats().limit);
    let flush = cache.flush_file(Ino(1)).remove(0);
    assert_eq!(cache.finish_flush(&flush), Flushed::Stored { patches: 0..2 });
    // It is clean now: the cut is all that there is to journal. Pages behind it are none of its business.
    cache.write(id(1, 1), 0, b"behind", PAGE, Base::Absent).unwrap();
    assert_eq!(
        cache.patches(Ino(1), PAGE, Some((PageNo(0), 1))),
        Some(vec![(PageNo(0), 0, Patch::ZeroFrom(1))])
    );
}

#[test]
fn new_files_come_in_all_or_none_journalled_and_leave_nothing_when_their_batch_fails() {
    let cache = Cache::new(1 << 20, 64 << 10);
    cache.write(id(1, 0), 0, b"old", PAGE, Base::Absent).unwrap();
    let before = cache.stats();
    let (small, large) = ([2; 100], vec![3; 2 * PAGE + 100]);
    let files: Vec<(Ino, u8, &[u8])> = vec![(Ino(2), 12, &small), (Ino(3), 12, &large), (Ino(4), 12, &[])];

    // As many as fit to the byte: what is asked for is what is needed.
    let many: Vec<(Ino, u8, &[u8])> = (10..20).map(|ino| (Ino(ino), 12, &large[..])).collect();
    let needed = cache.write_new(&many).unwrap_err();
    assert_eq!(needed, 10 * (large.len() + 3 * state::PAGE_OVERHEAD));
    assert_eq!((cache.stats().used, cache.stats().dirty), (before.used, before.dirty));
    assert_eq!(cache.dirty_files(), [Ino(1)]);

    for fails in [true, false] {
        let pages = cache.write_new(&files).unwrap();
        cache.state.lock().verify();
        // What is returned is what the cache holds.
        let ids: Vec<PageId> = pages.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [id(2, 0), id(3, 0), id(3, 1), id(3, 2)]);
        assert!(pages.iter().all(|(id, page)| Arc::ptr_eq(page, &cache.get(*id).unwrap())));
        assert_eq!(cache.dirty(Ino(3)), Some(large.len()));
        assert_eq!(cache.dirty(Ino(4)), None);
        let flushes = cache.flush_file(Ino(3));
        if fails {
            [2, 3].into_iter().for_each(|ino| cache.discard(Ino(ino), PageNo(0), PageNo(u32::MAX)));
            cache.state.lock().verify();
            flushes.iter().for_each(|flush| assert_eq!(cache.finish_flush(flush), Flushed::Gone));
            assert_eq!((cache.stats().used, cache.stats().dirty), (before.used, before.dirty));
        } else {
            assert_eq!(cache.patches(Ino(2), 1 << 20, None), Some(vec![]));
            assert_eq!(cache.patches_of(Ino(2), PageNo(0), PageNo(9)), [(PageNo(0), 0..1)]);
            flushes
                .iter()
                .for_each(|flush| assert_eq!(cache.finish_flush(flush), Flushed::Stored { patches: 0..1 }));
            assert_eq!(cache.dirty(Ino(3)), None);
        }
        cache.state.lock().verify();
    }
    assert_eq!(cache.get(id(3, 2)).unwrap()[..], large[2 * PAGE..]);
}

#[test]
fn content_that_others_hold_stays_as_it_is_when_its_page_is_written_to() {
    let cache = Cache::new(1 << 20, 1 << 19);
    let (_, page) = cache.write_new(&[(Ino(1), 12, b"before")]).unwrap().remove(0);
    cache.write(id(1, 0), 0, b"behind", PAGE, Base::Absent).unwrap();
    assert_eq!((&page[..], &cache.get(id(1, 0)).unwrap()[..]), (&b"before"[..], &b"behind"[..]));
    cache.state.lock().verify();
}

/// An age at which nothing here is due, and more time than anybody is to wait.
const AN_HOUR: Duration = Duration::from_secs(3600);
const LONG: Duration = Duration::from_secs(60);

/// Does something while a thread waits for what is due, which tells how long that was.
fn beside_who_waits(cache: &Cache, act: impl FnOnce(std::thread::ScopedJoinHandle<'_, Duration>)) {
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let begun = Instant::now();
            cache.wait_due(AN_HOUR, LONG);
            begun.elapsed()
        });
        while cache.state.lock().due_waiters == 0 {
            std::thread::yield_now();
        }
        act(waits);
    });
}

#[test]
fn while_someone_urges_what_is_dirty_is_due_whatever_its_age() {
    let cache = Cache::new(1 << 20, 1 << 19);
    cache.write(id(1, 0), 0, b"young", PAGE, Base::Absent).unwrap();
    assert!(cache.flush_due(AN_HOUR, 1 << 20).is_empty());
    beside_who_waits(&cache, |waits| {
        cache.urged(|| {
            assert!(waits.join().unwrap() < LONG / 2);
            let flush = cache.flush_due(AN_HOUR, 1 << 20).remove(0);
            assert_eq!(cache.finish_flush(&flush), Flushed::Stored { patches: 0..0 });
        });
    });
    cache.write(id(1, 0), 0, b"again", PAGE, Base::Absent).unwrap();
    assert!(cache.flush_due(AN_HOUR, 1 << 20).is_empty());
}

#[test]
fn new_files_that_are_due_wake_who_waits_for_that() {
    let full = vec![1; PAGE];
    let large = vec![1; PAGE + 5000];
    // A page that is written to its end; and, of files with larger pages, more than may ride in the catalog.
    let riding: Vec<(Ino, u8, &[u8])> = (1..6).map(|ino| (Ino(ino), 17, &large[..])).collect();
    for files in [vec![(Ino(1), 12, &full[..])], riding] {
        let cache = Cache::new(1 << 20, 512 << 10);
        beside_who_waits(&cache, |waits| {
            cache.write_new(&files).unwrap();
            assert!(waits.join().unwrap() < LONG / 2, "{} files", files.len());
        });
        assert_eq!(cache.flush_due(AN_HOUR, 1 << 20).len(), files.len());
    }
}
