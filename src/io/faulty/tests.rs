//! The disk does what it promises to do to others.

use super::*;

const DIR: &str = "/store";

fn disk(seed: u64) -> FaultyDisk {
    let disk = FaultyDisk::new(seed);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn content(disk: &FaultyDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(&path(name), false).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    Some(bytes)
}

fn durable_file(disk: &FaultyDisk, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.open(&path(name), true).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file
}

#[test]
fn what_was_synced_survives_every_crash() {
    for seed in 0..50 {
        let disk = disk(seed);
        durable_file(&disk, "a", &[7; 10_000]);
        let found = disk.crash().crash();
        assert_eq!(content(&found, "a"), Some(vec![7; 10_000]), "seed {seed}");
    }
}

#[test]
fn what_was_not_synced_is_kept_dropped_or_torn_but_never_invented() {
    let (mut kept, mut dropped, mut torn, mut reordered) = (0, 0, 0, 0);
    for seed in 0..200 {
        let disk = disk(seed);
        let file = durable_file(&disk, "a", &[0; 16384]);
        file.write_all_at(&[1; 8192], 0).unwrap();
        file.write_all_at(&[2; 8192], 8192).unwrap();
        let found = content(&disk.crash(), "a").unwrap();
        assert_eq!(found.len(), 16384);
        let (first, second) = found.split_at(8192);
        assert!(first.iter().all(|b| [0, 1].contains(b)) && second.iter().all(|b| [0, 2].contains(b)));
        assert!(found.chunks(512).all(|sector| sector.iter().all(|b| b == &sector[0])), "torn in a sector");
        match first.iter().filter(|b| **b == 1).count() {
            0 => dropped += 1,
            8192 => kept += 1,
            _ => torn += 1,
        }
        reordered += u32::from(first.iter().all(|b| *b == 0) && second.iter().all(|b| *b == 2));
    }
    assert!(kept > 20 && dropped > 20 && torn > 20 && reordered > 5, "{kept} {dropped} {torn} {reordered}");
}

#[test]
fn the_same_seed_crashes_the_same_way_and_the_next_crash_is_another() {
    let crashes = |seed| {
        let disk = disk(seed);
        let file = durable_file(&disk, "a", &[0; 65536]);
        file.write_all_at(&[1; 65536], 0).unwrap();
        (0..20).map(|_| content(&disk.crash(), "a").unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(crashes(5), crashes(5));
    assert!(crashes(5).iter().any(|found| found != &crashes(5)[0]));
}

#[test]
fn a_snapshot_has_all_that_was_written_and_a_crash_of_it_loses_the_unsynced() {
    let disk = disk(1);
    let file = durable_file(&disk, "a", b"old");
    file.write_all_at(b"new", 0).unwrap();
    let killed = disk.snapshot();
    assert_eq!(content(&killed, "a").unwrap(), b"new");
    assert!((0..50).any(|_| content(&killed.crash(), "a").unwrap() == b"old"));
    file.write_all_at(b"xxx", 0).unwrap();
    assert_eq!(content(&killed, "a").unwrap(), b"new", "it is a disk of its own");
}

#[test]
fn an_entry_is_durable_with_its_directory_only() {
    let disk = disk(1);
    let file = disk.open(&path("a"), true).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    file.sync().unwrap();
    assert!((0..50).any(|_| content(&disk.crash(), "a").is_none()));
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert!((0..50).all(|_| content(&disk.crash(), "a").is_some()));
}

#[test]
fn a_rename_is_atomic() {
    let disk = disk(3);
    durable_file(&disk, "a", b"old");
    durable_file(&disk, "b", b"new");
    disk.rename(&path("b"), &path("a")).unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        let found = disk.crash();
        seen.insert((content(&found, "a").unwrap(), content(&found, "b")));
    }
    let (old, new) = (b"old".to_vec(), b"new".to_vec());
    assert_eq!(seen, BTreeSet::from([(old, Some(new.clone())), (new, None)]));
}

#[test]
fn a_file_is_never_lost_by_what_happened_to_its_old_name() {
    for seed in 0..200 {
        let disk = disk(seed);
        durable_file(&disk, "a", b"x");
        disk.rename(&path("a"), &path("b")).unwrap();
        disk.open(&path("a"), true).unwrap();
        disk.remove(&path("a")).unwrap();
        let found = disk.crash();
        let (a, b) = (content(&found, "a"), content(&found, "b"));
        assert!([a, b].contains(&Some(b"x".to_vec())), "seed {seed}\n{}", disk.log());
    }
}

#[test]
fn faults_strike_the_nth_operation_of_their_kind_once() {
    let disk = disk(1);
    let file = durable_file(&disk, "a", b"");
    disk.fail(Kind::Write, 1, Fault::Short(libc::EIO));
    disk.fail(Kind::Allocate, 0, Fault::Errno(libc::ENOSPC));
    file.write_all_at(b"aaaa", 0).unwrap();
    let error = file.write_all_at(b"bbbb", 4).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(content(&disk, "a").unwrap(), b"aaaabb");
    assert_eq!(file.allocate(0, 10).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    file.write_all_at(b"bbbb", 4).unwrap();
    file.allocate(0, 10).unwrap();
    assert_eq!(content(&disk, "a").unwrap(), b"aaaabbbb\0\0");
    assert!(disk.log().contains("Short"));
}

#[test]
fn what_a_failed_sync_lost_is_not_stored_by_the_next_that_succeeds() {
    let lost = (0..50).any(|seed| {
        let disk = disk(seed);
        let file = durable_file(&disk, "a", b"0000");
        file.write_all_at(b"11", 0).unwrap();
        disk.fail(Kind::Sync, 0, Fault::Errno(libc::EIO));
        assert!(file.sync().is_err());
        file.write_all_at(b"22", 2).unwrap();
        file.sync().unwrap();
        assert_eq!(content(&disk, "a").unwrap(), b"1122");
        let found = content(&disk.crash(), "a").unwrap();
        assert_eq!(&found[2..], b"22");
        &found[..2] == b"00"
    });
    assert!(lost);
}

#[test]
fn a_full_disk_refuses_and_gets_room_back_from_holes_and_removals() {
    let disk = disk(1);
    disk.set_capacity(4 * BLOCK);
    let file = durable_file(&disk, "a", b"");
    file.allocate(0, 3 * BLOCK).unwrap();
    assert_eq!(disk.room(Path::new(DIR)).unwrap().available, BLOCK);
    file.write_all_at(&[1; 3 * BLOCK as usize], 0).unwrap();
    let error = file.allocate(0, 5 * BLOCK).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    file.punch(BLOCK - 1, BLOCK + 1).unwrap();
    assert_eq!(file.allocated().unwrap(), 2 * BLOCK);
    let found = content(&disk, "a").unwrap();
    assert!(
        found.iter().enumerate().all(|(at, b)| u64::from(*b == 0) == u64::from((4095..8192).contains(&at)))
    );
    disk.remove(&path("a")).unwrap();
    assert_eq!(disk.room(Path::new(DIR)).unwrap().available, 4 * BLOCK);
}

#[test]
fn a_cut_file_that_grows_again_is_zeros() {
    let disk = disk(1);
    let file = durable_file(&disk, "a", &[1; 5000]);
    file.set_len(10).unwrap();
    file.set_len(20).unwrap();
    assert_eq!(content(&disk, "a").unwrap(), [[1; 10], [0; 10]].concat());
}

#[test]
fn a_held_sync_goes_on_when_released() {
    let disk = disk(1);
    let file = durable_file(&disk, "a", b"x");
    let before = disk.counts().syncs;
    disk.hold_syncs();
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync());
        disk.wait_for_held_syncs(1);
        assert_eq!(disk.counts().syncs, before);
        disk.release_syncs();
        sync.join().unwrap().unwrap();
    });
    assert_eq!(disk.counts().syncs, before + 1);
}

#[test]
fn a_bad_sector_cannot_be_read_until_the_disk_is_healed_and_is_found_again_after_a_crash() {
    let disk = disk(1);
    let file = durable_file(&disk, "a", &[1; 5000]);
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.bad_sector(&path("a"), 1000..1512);
    disk.rename(&path("a"), &path("b")).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    let mut bytes = [0; 100];
    for disk in [disk.clone(), disk.snapshot(), disk.crash()] {
        let file = disk.open(&path("b"), false).unwrap();
        for (at, readable) in [(900, true), (901, false), (1511, false), (1512, true)] {
            let got = file.read_at(&mut bytes, at).map_err(|error| error.raw_os_error());
            assert_eq!(got, if readable { Ok(100) } else { Err(Some(libc::EIO)) }, "at {at}");
        }
    }
    disk.heal();
    assert_eq!(file.read_at(&mut bytes, 1000).unwrap(), 100);
}
