mod faults;

use std::path::Path;

use parking_lot::RwLock;

use super::*;
use crate::io::RealDisk;
use crate::pages::samples;

fn open(dir: &Path) -> LocalSegments {
    LocalSegments::open(Arc::new(RealDisk), dir.join("segments")).unwrap()
}

fn info(segments: &LocalSegments, id: SegmentId) -> SegmentInfo {
    segments.list().unwrap().into_iter().find(|info| info.id == id).unwrap()
}

#[test]
fn threads_append_sync_and_read_back_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    let extents = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (segments, extents) = (&segments, &extents);
            scope.spawn(move || {
                let class = [Class::Lasting, Class::Hour][thread as usize % 2];
                for n in 0..200 {
                    let bytes = samples::noise(1 + (n * 1999 % 150_000) as usize, thread * 1000 + n);
                    let extent = segments.append(class, &bytes).unwrap();
                    if n % 20 == 0 {
                        segments.sync().unwrap();
                    }
                    assert_eq!(segments.read(extent).unwrap(), bytes);
                    extents.lock().push((extent, bytes));
                }
            });
        }
    });
    let extents = extents.into_inner();
    assert!(segments.list().unwrap().len() >= 2);
    drop(segments);
    let segments = open(dir.path());
    for (extent, bytes) in extents {
        assert_eq!(segments.read(extent).unwrap(), bytes);
    }
}

#[test]
fn a_reopened_store_appends_to_a_new_segment_and_has_cut_the_old_one_to_what_it_used() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    let first = segments.append(Class::Lasting, &[1; 100]).unwrap();
    assert_eq!((first.segment, first.offset), (SegmentId(1), HEADER_LEN));
    drop(segments);
    assert_eq!(std::fs::metadata(dir.path().join("segments/01/00000001")).unwrap().len(), 116);
    let segments = open(dir.path());
    assert_eq!((info(&segments, first.segment).used, info(&segments, first.segment).open), (116, false));
    assert_eq!(segments.append(Class::Lasting, &[2; 100]).unwrap().segment, SegmentId(2));
    assert_eq!(segments.read(first).unwrap(), [1; 100]);
}

#[test]
fn a_truncated_or_missing_segment_is_damage_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    let extent = segments.append(Class::Lasting, &[1; 5000]).unwrap();
    segments.close(extent.segment).unwrap();
    let path = dir.path().join("segments/01/00000001");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4000).unwrap();
    for reopened in [false, true] {
        let fresh = open(dir.path());
        let error = if reopened { &fresh } else { &segments }.read(extent).unwrap_err();
        assert!(matches!(&error, Error::Damaged(why) if why.contains("00000001")), "{error}");
    }
    let nowhere = Extent { segment: SegmentId(9), ..extent };
    assert!(matches!(segments.read(nowhere), Err(Error::Damaged(why)) if why.contains("00000009")));
}

#[test]
fn foreign_files_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("segments/01")).unwrap();
    for name in ["notes.txt", "01/00000002", "01/0000000A", "01/copy of 00000001"] {
        std::fs::write(dir.path().join("segments").join(name), "x").unwrap();
    }
    assert!(open(dir.path()).list().unwrap().is_empty());
}

#[test]
fn freed_room_goes_back_to_the_disk_and_neighbours_stay() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    let extents = [1, 2, 3].map(|n| segments.append(Class::Lasting, &[n; 1 << 20]).unwrap());
    segments.close(extents[1].segment).unwrap();
    segments.sync().unwrap();
    let before = info(&segments, extents[1].segment);
    segments.free(extents[1]).unwrap();
    let after = info(&segments, extents[1].segment);
    assert_eq!(before.used, after.used);
    assert!(after.allocated + (1 << 20) - 8192 <= before.allocated, "{before:?} {after:?}");
    assert_eq!(segments.read(extents[0]).unwrap(), vec![1; 1 << 20]);
    assert_eq!(segments.read(extents[2]).unwrap(), vec![3; 1 << 20]);
    segments.remove(extents[0].segment).unwrap();
    assert!(segments.list().unwrap().iter().all(|info| info.id != extents[0].segment));
    assert!(matches!(segments.read(extents[0]), Err(Error::Damaged(_))));
}

#[test]
fn a_removed_segment_gives_its_room_back_while_somebody_still_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    let reader = |id| RealDisk.open(&segment_file(&dir.path().join("segments"), id), false).unwrap();
    for closed in [false, true] {
        let extent = segments.append(Class::Lasting, &[1; 1 << 20]).unwrap();
        if closed {
            segments.close(extent.segment).unwrap();
        }
        let reader = reader(extent.segment);
        segments.remove(extent.segment).unwrap();
        assert_eq!(reader.allocated().unwrap(), 0);
    }
}

#[test]
fn the_account_of_what_the_segments_take_stays_right_when_one_is_removed_while_parts_of_it_are_freed() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    for _ in 0..100 {
        let extents: Vec<_> =
            (0..16).map(|n| segments.append(Class::Lasting, &[n; 64 << 10]).unwrap()).collect();
        let segment = extents[0].segment;
        segments.close(segment).unwrap();
        std::thread::scope(|scope| {
            // Opening what is gone fails.
            scope.spawn(|| extents.iter().filter(|extent| segments.free(**extent).is_err()).count());
            scope.spawn(|| segments.remove(segment).unwrap());
        });
        let taken: u64 = segments.list().unwrap().iter().map(|info| info.allocated).sum();
        assert_eq!(segments.allocated(), taken);
    }
}

#[test]
fn what_was_appended_last_can_be_read_at_any_moment_also_while_its_segment_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    let append = |n: u32| segments.append(Class::Lasting, &n.to_le_bytes()).unwrap();
    // Held while it is read, so that the one before it can go.
    let newest = RwLock::new((0, append(0)));
    segments.close(newest.read().1.segment).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 1..500 {
                let extent = append(n);
                let (_, before) = std::mem::replace(&mut *newest.write(), (n, extent));
                segments.close(extent.segment).unwrap();
                segments.remove(before.segment).unwrap();
            }
        });
        while !writer.is_finished() {
            let newest = newest.read();
            let (n, extent) = *newest;
            assert_eq!(segments.read(extent).unwrap(), n.to_le_bytes());
        }
    });
}

#[test]
fn segments_are_listed_also_while_others_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    let add = |n: u32| {
        let id = segments.append(Class::Lasting, &n.to_le_bytes()).unwrap().segment;
        segments.close(id).unwrap();
        id
    };
    // Looked at first, so that what is removed is gone when its turn comes.
    let kept: Vec<SegmentId> = (0..20).map(add).collect();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..300).for_each(|n| segments.remove(add(n)).unwrap()));
        while !writer.is_finished() {
            let listed: Vec<SegmentId> = segments.list().unwrap().iter().map(|info| info.id).collect();
            assert!(listed.starts_with(&kept), "{listed:?}");
        }
    });
}

#[test]
fn what_was_reserved_lasts_over_classes_and_segments_and_is_used_up_no_faster_than_appended() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    segments.reserve(100 << 20).unwrap();
    let mut promised = segments.reserved();
    assert!(promised >= 100 << 20);
    let mut random = samples::Random::new(1);
    let bytes = vec![5; BATCH_MAX as usize];
    for n in 0..120 {
        let len = 1 + random.below(u64::from(BATCH_MAX)) as usize;
        let class = [Class::Lasting, Class::Day, Class::Later][n % 3];
        segments.append(class, &bytes[..len]).unwrap();
        assert!(segments.reserved() + len as u64 >= promised, "append {n} of {len}");
        promised = segments.reserved();
    }
    let open: Vec<_> = segments.list().unwrap().into_iter().filter(|info| info.open).collect();
    for info in open {
        segments.close(info.id).unwrap();
        assert!(segments.reserved() >= promised);
        assert!(info.used < u64::from(SEGMENT_SIZE));
    }
}

#[test]
fn what_a_crash_left_allocated_is_given_back_at_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    let extent = segments.append(Class::Lasting, &[7; 10_000]).unwrap();
    assert!(info(&segments, extent.segment).allocated >= 8 << 20);
    std::mem::forget(segments);
    let segments = open(dir.path());
    assert!(info(&segments, extent.segment).allocated <= 16 << 10);
    assert_eq!(segments.read(extent).unwrap(), [7; 10_000]);
}

#[test]
fn an_append_of_nothing_or_of_more_than_a_segment_is_invalid() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    for len in [0, SEGMENT_SIZE as usize] {
        assert!(matches!(segments.append(Class::Lasting, &vec![1; len]), Err(Error::Invalid(_))));
    }
    assert!(segments.list().unwrap().is_empty());
}

#[test]
fn once_its_segments_are_finished_a_store_that_others_may_have_opened_gets_no_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    let extent = segments.append(Class::Lasting, b"before").unwrap();
    segments.sync().unwrap();
    segments.finish();
    let others = open(dir.path());
    let theirs = others.append(Class::Lasting, b"theirs").unwrap();
    assert!(matches!(segments.append(Class::Lasting, b"too late"), Err(Error::ReadOnly(_))));
    assert!(matches!(segments.reserve(1 << 20), Err(Error::ReadOnly(_))));
    assert_eq!(others.read(extent).unwrap(), b"before");
    assert_eq!(others.read(theirs).unwrap(), b"theirs");
}
