//! Every operation of a small workload fails once, in every way: what was synced is there afterwards.

use super::*;
use crate::io::faulty::{Fault, FaultyDisk, Kind};

const FAULTS: [Fault; 3] = [Fault::Errno(libc::EIO), Fault::Errno(libc::ENOSPC), Fault::Short(libc::ENOSPC)];

fn open_on(disk: &FaultyDisk) -> Result<LocalSegments> {
    LocalSegments::open(Arc::new(disk.clone()), PathBuf::from("/store/segments"))
}

/// What the workload was told.
#[derive(Default)]
struct Told {
    /// Appended, and not freed or removed.
    appended: Vec<(Extent, Vec<u8>)>,
    /// How many of those a sync has confirmed.
    synced: usize,
    sync_failed: bool,
}

impl Told {
    fn sync(&mut self, segments: &LocalSegments) {
        match segments.sync() {
            Ok(()) => {
                assert!(!self.sync_failed, "a sync after a failed one says that all is durable");
                self.synced = self.appended.len();
            }
            Err(_) => self.sync_failed = true,
        }
    }
}

fn workload(segments: &LocalSegments) -> Told {
    let mut told = Told::default();
    for n in 0..14u64 {
        let class = [Class::Lasting, Class::Lasting, Class::Day][n as usize % 3];
        let bytes = samples::noise(1 + (n * 48_611 % 40_000) as usize, n);
        if let Ok(extent) = segments.append(class, &bytes) {
            told.appended.push((extent, bytes));
        }
        match n {
            3 | 6 | 12 => told.sync(segments),
            5 => drop(segments.reserve(9 << 20)),
            8 => {
                if let Some((extent, _)) = told.appended.first() {
                    let _ = segments.close(extent.segment);
                }
            }
            9 if told.synced > 1 => {
                told.synced -= 1;
                let (extent, _) = told.appended.remove(1);
                let _ = segments.free(extent);
            }
            11 => {
                // The second class dies whole.
                if let Some(id) = told.appended.iter().map(|(e, _)| e.segment).find(|id| id.0 == 2) {
                    let kept = |(extent, _): &(Extent, Vec<u8>)| extent.segment != id;
                    told.synced = told.appended.iter().take(told.synced).filter(|a| kept(a)).count();
                    told.appended.retain(kept);
                    let _ = segments.remove(id);
                }
            }
            _ => {}
        }
    }
    told
}

fn check(segments: &LocalSegments, expected: &[(Extent, Vec<u8>)], when: &str) {
    for (extent, bytes) in expected {
        match segments.read(*extent) {
            Ok(found) => assert!(found == *bytes, "{when}: {extent:?} holds other bytes"),
            Err(error) => panic!("{when}: {extent:?}: {error}"),
        }
    }
}

#[test]
fn what_a_sync_confirmed_is_there_whichever_operation_failed_and_however() {
    for fault in FAULTS {
        for n in 0.. {
            let when = format!("{fault:?} at operation {n}");
            let disk = FaultyDisk::new(n);
            let segments = open_on(&disk).unwrap();
            disk.fail(Kind::Any, n, fault);
            let before = disk.counts().operations;
            let told = workload(&segments);
            let struck = disk.counts().operations - before > n;
            disk.heal();
            check(&segments, &told.appended, &when);
            let mut places: Vec<Extent> = told.appended.iter().map(|(extent, _)| *extent).collect();
            places.sort_by_key(|e| (e.segment, e.offset));
            let apart = |pair: &[Extent]| {
                pair[0].segment < pair[1].segment || pair[0].offset + pair[0].len <= pair[1].offset
            };
            assert!(places.windows(2).all(apart), "{when}: places overlap");
            let (crashed, killed) = (disk.crash(), disk.snapshot());
            drop(segments);
            check(&open_on(&killed).unwrap(), &told.appended, &format!("{when}, killed"));
            let again = open_on(&crashed).unwrap();
            check(&again, &told.appended[..told.synced], &format!("{when}, power lost"));
            // Life goes on.
            let extent = again.append(Class::Lasting, b"more").unwrap();
            again.sync().unwrap();
            assert_eq!(again.read(extent).unwrap(), b"more");
            check(&again, &told.appended[..told.synced], &format!("{when}, in use again"));
            if !struck {
                assert!(!told.sync_failed && told.synced > 5, "without a fault all is well");
                break;
            }
        }
    }
}

#[test]
fn what_cannot_be_given_back_at_opening_does_not_keep_a_store_from_being_opened() {
    let disk = FaultyDisk::new(1);
    let segments = open_on(&disk).unwrap();
    let extent = segments.append(Class::Lasting, &[7; 10_000]).unwrap();
    let killed = disk.snapshot();
    killed.fail(Kind::Any, 0, Fault::Errno(libc::ENOSPC));
    let again = open_on(&killed).unwrap();
    assert_eq!(again.read(extent).unwrap(), [7; 10_000]);
}

#[test]
fn a_file_longer_than_a_segment_can_be_is_opened_at_once_and_read_no_further() {
    let disk = FaultyDisk::new(1);
    let segments = open_on(&disk).unwrap();
    let extent = segments.append(Class::Lasting, &[7; 10_000]).unwrap();
    drop(segments);
    let file = disk.open(std::path::Path::new("/store/segments/01/00000001"), false).unwrap();
    file.set_len(1 << 50).unwrap();
    let again = open_on(&disk).unwrap();
    assert_eq!(again.read(extent).unwrap(), [7; 10_000]);
    assert!(info(&again, extent.segment).used <= u64::from(SEGMENT_SIZE));
}

#[test]
fn few_descriptors_are_held_however_many_segments_are_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(dir.path());
    let held = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        links
            .flatten()
            .flat_map(|l| std::fs::read_link(l.path()))
            .filter(|p| p.starts_with(dir.path()))
            .count()
    };
    let mut extents = Vec::new();
    for n in 0..40u8 {
        let extent = segments.append(Class::Lasting, &[n; 1000]).unwrap();
        segments.close(extent.segment).unwrap();
        extents.push(extent);
        assert!(held() <= 32, "{} after {n} segments", held());
    }
    for (n, extent) in extents.iter().enumerate() {
        assert_eq!(segments.read(*extent).unwrap(), [n as u8; 1000]);
        assert!(held() <= 32, "{}", held());
    }
}

#[test]
fn a_segment_that_could_not_be_removed_is_there_and_one_whose_removal_was_not_answered_is_not() {
    for (fault, stays) in [(Fault::Errno(libc::EIO), true), (Fault::Late(libc::EIO), false)] {
        let disk = FaultyDisk::new(1);
        disk.create_dir_all(Path::new("/store/segments")).unwrap();
        let segments = open_on(&disk).unwrap();
        let extent = segments.append(Class::Lasting, b"content").unwrap();
        segments.sync().unwrap();
        segments.close(extent.segment).unwrap();
        disk.fail(Kind::Any, 0, fault);
        assert_eq!(segments.remove(extent.segment).is_err(), stays);
        disk.disarm();
        let listed = || segments.list().unwrap().iter().any(|info| info.id == extent.segment);
        assert_eq!((listed(), segments.read(extent).is_ok()), (stays, stays));
        segments.remove(extent.segment).unwrap();
        assert!(!listed());
    }
}

/// A crash leaves a segment that ends in zeros: what cannot be read there is nobody's.
#[test]
fn a_bad_sector_behind_the_last_frame_of_a_segment_that_a_crash_left_open_keeps_nothing_from_opening() {
    let disk = FaultyDisk::new(1);
    disk.create_dir_all(Path::new("/store/segments")).unwrap();
    let segments = open_on(&disk).unwrap();
    let extents = [1, 2].map(|n| segments.append(Class::Lasting, &[n; 50_000]).unwrap());
    let killed = disk.snapshot();
    let path = segment_file(Path::new("/store/segments"), extents[0].segment);
    let len = killed.open(&path, false).unwrap().len().unwrap();
    assert!(len.is_multiple_of(1 << 20), "{len}");
    for at in [200_000, len - 4096] {
        let killed = killed.snapshot();
        killed.bad_sector(&path, at..at + 4096);
        let held = killed.open(&path, false).unwrap().allocated().unwrap();
        let segments = open_on(&killed).unwrap();
        assert_eq!(segments.allocated(), held, "nothing is given back");
        for (extent, n) in extents.iter().zip(1..) {
            assert_eq!(segments.read(*extent).unwrap(), [n; 50_000]);
        }
        assert!(segments.append(Class::Lasting, b"more").unwrap().segment > extents[0].segment);
    }
}
