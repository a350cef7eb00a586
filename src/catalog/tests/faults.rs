//! Every operation of a small workload fails once, in every way: what was synced is there afterwards, in
//! order and without gaps, and nothing that was not applied.

use super::*;
use crate::catalog::index::{Index, Reach};
use crate::catalog::reserve::Reserve;
use crate::catalog::table::Table;
use crate::error::Error;
use crate::io::Io;
use crate::io::faulty::{Fault, FaultyDisk, Kind};

const FAULTS: [Fault; 3] = [Fault::Errno(libc::EIO), Fault::Errno(libc::ENOSPC), Fault::Short(libc::ENOSPC)];

fn open(disk: &FaultyDisk) -> Result<LocalCatalog> {
    LocalCatalog::open(OpenOptions {
        io: Arc::new(disk.clone()),
        dir: PathBuf::from("/store"),
        memory: MEMORY,
        verify: &mut |_| Ok(true),
        before_checkpoint: Box::new(nothing),
    })
}

/// Returns how many batches were applied and how many of those a sync or checkpoint confirmed.
fn workload(catalog: &LocalCatalog) -> (u64, u64) {
    let (mut applied, mut synced) = (0, 0);
    for n in 0..30 {
        let mut batch = numbered(applied + 1);
        if n % 4 == 0 {
            batch.put(b"large", vec![n as u8; 20 << 10]);
        }
        if catalog.apply(batch).is_ok() {
            applied += 1;
        }
        let confirmed = match n {
            4 | 9 | 17 | 28 => catalog.sync(catalog.last_seq(), &nothing).is_ok(),
            12 | 22 => catalog.checkpoint(&nothing).is_ok(),
            _ => false,
        };
        if confirmed {
            synced = applied;
        }
    }
    (applied, synced)
}

#[test]
fn what_a_sync_confirmed_is_there_whichever_operation_failed_and_however() {
    for fault in FAULTS {
        for n in 0.. {
            let when = format!("{fault:?} at operation {n}");
            let disk = FaultyDisk::new(n);
            disk.create_dir_all(Path::new("/store")).unwrap();
            disk.fail(Kind::Any, n, fault);
            let before = disk.counts().operations;
            let (applied, synced) = match open(&disk) {
                Ok(catalog) => {
                    let (applied, synced) = workload(&catalog);
                    assert_eq!(count(&catalog), applied, "{when}: still running");
                    (applied, synced)
                }
                Err(_) => (0, 0),
            };
            let struck = disk.counts().operations - before > n;
            disk.heal();
            let reopen = |disk: &FaultyDisk, how: &str| match open(disk) {
                Ok(catalog) => catalog,
                Err(error) => panic!("{when}, {how}: {error}\n{}", disk.log()),
            };
            let found = count(&reopen(&disk.crash(), "power lost"));
            assert!((synced..=applied).contains(&found), "{when}: {found} of {synced} to {applied}");
            // What is found after the process has died stays, whatever happens then.
            let killed = disk.snapshot();
            let catalog = reopen(&killed, "killed");
            let found = count(&catalog);
            assert!((synced..=applied).contains(&found), "{when}, killed: {found} of {synced} to {applied}");
            let last = count(&reopen(&killed.crash(), "killed, then power lost"));
            assert_eq!(last, found, "{when}, killed, then power lost");
            catalog.apply(numbered(found + 1)).unwrap();
            catalog.sync(catalog.last_seq(), &nothing).unwrap();
            let last = count(&reopen(&killed.crash(), "in use again, power lost"));
            assert_eq!(last, found + 1, "{when}, in use again");
            if !struck {
                assert_eq!(applied, 30, "without a fault all is well");
                break;
            }
        }
    }
}

#[test]
fn a_catalog_of_which_a_read_failed_closes_with_all_that_changed_in_its_journal() {
    let disk = FaultyDisk::new(3);
    disk.create_dir_all(Path::new("/store")).unwrap();
    let catalog = open(&disk).unwrap();
    for n in 1..=4000 {
        let mut batch = numbered(n);
        batch.put(format!("m{n:06}").into_bytes(), vec![1; 100]);
        catalog.apply(batch).unwrap();
    }
    catalog.close(&nothing).unwrap();
    // Nothing is asked of the background thread, which would meet the fault, or what comes of it.
    let catalog = open(&disk).unwrap();
    catalog.checkpoint(&nothing).unwrap();
    // Not all of that is in memory.
    disk.fail(Kind::Read, 0, Fault::Errno(libc::EIO));
    let failed = (1..=4000).find_map(|n| catalog.get(format!("m{n:06}").as_bytes()).err());
    assert!(matches!(failed, Some(Error::Io { .. })), "{failed:?}");
    catalog.apply(numbered(4001)).unwrap();
    catalog.close(&nothing).unwrap();
    assert_eq!(count(&open(&disk.crash()).unwrap()), 4001);
}

#[test]
fn after_a_failure_the_snapshot_that_readers_are_given_is_read_on_though_a_checkpoint_is_done() {
    let disk = FaultyDisk::new(4);
    let io: Arc<dyn Io> = Arc::new(disk.clone());
    disk.create_dir_all(Path::new("/store")).unwrap();
    let catalog = open(&disk).unwrap();
    let key = |n: u64| format!("m{n:06}").into_bytes();
    for n in 1..=4000 {
        let mut batch = numbered(n);
        batch.put(key(n), vec![1; 100]);
        catalog.apply(batch).unwrap();
    }
    catalog.close(&nothing).unwrap();
    let reserve = Arc::new(Reserve::open(io.clone(), "/store/reserve".into(), 1 << 16));
    let (index, shown, reach) =
        Index::open(&io, Path::new("/store/index.redb"), MEMORY / 2, false, &reserve).unwrap();
    shown.show();
    let mut table = Table::default();
    table.apply(numbered(4001).puts());
    let next = index.commit(&table.freeze(), Reach { seq: reach.seq + 1, ..reach }).unwrap();
    disk.fail(Kind::Read, 0, Fault::Errno(libc::EIO));
    let failed = (1..=4000).find_map(|n| shown.get(&key(n)).err());
    assert!(matches!(failed, Some(Error::Io { .. })), "{failed:?}");
    for n in 1..=4000 {
        assert_eq!(shown.get(&key(n)).unwrap(), Some(vec![1; 100]), "{n}");
    }
    next.show();
    assert!(next.is_shown() && !shown.is_shown());
    assert_eq!(next.get(&key(1)).unwrap(), Some(vec![1; 100]));
}

#[test]
fn a_full_disk_never_ends_writing_and_takes_no_files_that_nobody_needs() {
    for spare in [0, 4096, 30_000, 70_000, 200_000] {
        let disk = FaultyDisk::new(spare);
        disk.create_dir_all(Path::new("/store")).unwrap();
        let catalog = open(&disk).unwrap();
        let room = disk.room(Path::new("/store")).unwrap();
        disk.set_capacity(room.total - room.available + spare);
        let (mut applied, mut refused) = (0, 0);
        while refused < 40 {
            match catalog.apply(numbered(applied + 1)) {
                Ok(_) => applied += 1,
                Err(Error::NoSpace) => {
                    refused += 1;
                    let _ = catalog.checkpoint(&nothing);
                }
                Err(error) => panic!("{spare} spare, batch {applied}: {error}"),
            }
            match catalog.sync(catalog.last_seq(), &nothing) {
                Ok(()) | Err(Error::NoSpace) => {}
                Err(error) => panic!("{spare} spare, batch {applied}: {error}"),
            }
        }
        assert_eq!(count(&catalog), applied, "{spare} spare");
        assert!(disk.list(Path::new("/store/journal")).unwrap().len() <= 8, "{spare} spare");
        disk.set_capacity(1 << 40);
        for _ in 0..10 {
            applied += 1;
            catalog.apply(numbered(applied)).unwrap();
        }
        catalog.checkpoint(&nothing).unwrap();
        assert_eq!(count(&open(&disk.crash()).unwrap()), applied, "{spare} spare");
    }
}
