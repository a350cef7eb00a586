//! Sync, and what happens when the disk fails.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::error::Error;

#[test]
fn one_flush_serves_all_who_wait() {
    let bench = Bench::new();
    let catalog = bench.open();
    catalog.checkpoint(&nothing).unwrap();
    catalog.apply(numbered(1)).unwrap();
    let (arrive, arrived) = crossbeam_channel::unbounded();
    let (go, gate) = crossbeam_channel::unbounded();
    *bench.disk.0.gate.lock() = Some((arrive, gate));
    let before = bench.disk.0.syncs.load(SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| catalog.sync(catalog.last_seq(), &nothing).unwrap());
        arrived.recv().unwrap();
        // The leader is inside its flush: these all wait for the next one.
        let seq = catalog.apply(numbered(2)).unwrap();
        for _ in 0..8 {
            scope.spawn({
                let catalog = &catalog;
                move || {
                    catalog.sync(seq, &nothing).unwrap();
                    assert!(catalog.durable_seq() >= seq);
                }
            });
        }
        // One for the leader, one for all who followed. A third would wait here for ever.
        go.send(()).unwrap();
        go.send(()).unwrap();
    });
    *bench.disk.0.gate.lock() = None;
    assert_eq!(bench.disk.0.syncs.load(SeqCst) - before, 2);
    assert_eq!(catalog.stats().flushes, 2);
}

#[test]
fn what_is_durable_already_is_not_flushed_again() {
    let bench = Bench::new();
    let catalog = bench.open();
    let seq = catalog.apply(numbered(1)).unwrap();
    catalog.sync(seq, &nothing).unwrap();
    catalog.sync(seq, &|| panic!("nothing to do")).unwrap();
    assert_eq!(catalog.stats().flushes, 1);
}

#[test]
fn apply_does_not_wait_for_a_flush_and_a_read_neither() {
    let bench = Bench::new();
    let catalog = bench.open();
    catalog.checkpoint(&nothing).unwrap();
    let first = catalog.apply(numbered(1)).unwrap();
    let (arrive, arrived) = crossbeam_channel::unbounded();
    let (go, gate) = crossbeam_channel::unbounded();
    *bench.disk.0.gate.lock() = Some((arrive, gate));
    std::thread::scope(|scope| {
        scope.spawn(|| catalog.sync(first, &nothing).unwrap());
        arrived.recv().unwrap();
        let second = catalog.apply(numbered(2)).unwrap();
        assert_eq!(count(&catalog), 2);
        assert!(catalog.durable_seq() < first && first < second);
        go.send(()).unwrap();
    });
    assert_eq!(catalog.durable_seq(), first);
    *bench.disk.0.gate.lock() = None;
}

#[test]
fn a_mark_vouches_for_nothing_that_was_applied_after_before_was_called() {
    let bench = Bench::new();
    let catalog = bench.open();
    let first = catalog.apply(numbered(1)).unwrap();
    let before = || {
        catalog.apply(numbered(2))?;
        Ok(())
    };
    catalog.sync(first, &before).unwrap();
    assert_eq!(catalog.durable_seq(), first);
    drop(catalog);
    let mut asked = 0;
    let verify = &mut |_: &Batch| {
        asked += 1;
        Ok(false)
    };
    let catalog = bench.try_open_with(MEMORY, verify).unwrap();
    assert_eq!(count(&catalog), 1);
    assert_eq!(asked, 1);
}

#[test]
fn a_failed_flush_makes_the_catalog_read_only_and_says_why() {
    let bench = Bench::new();
    let catalog = bench.open();
    catalog.checkpoint(&nothing).unwrap();
    let seq = catalog.apply(numbered(1)).unwrap();
    bench.disk.0.fail_sync.store(true, SeqCst);
    assert!(matches!(catalog.sync(seq, &nothing), Err(Error::Io { .. })));
    bench.disk.0.fail_sync.store(false, SeqCst);
    let is_read_only = |result: Result<()>| match result {
        Err(Error::ReadOnly(why)) => {
            assert!(why.contains("/journal/") && why.contains("mount again"), "{why}")
        }
        other => panic!("{other:?}"),
    };
    is_read_only(catalog.sync(seq, &nothing));
    is_read_only(catalog.apply(numbered(2)).map(drop));
    is_read_only(catalog.checkpoint(&nothing));
    is_read_only(catalog.close(&nothing));
    assert!(catalog.durable_seq() < seq);
    assert_eq!(count(&catalog), 1, "what was applied stays readable");
}

#[test]
fn content_that_cannot_be_flushed_makes_the_catalog_read_only() {
    let bench = Bench::new();
    let catalog = bench.open();
    let seq = catalog.apply(numbered(1)).unwrap();
    assert!(catalog.sync(seq, &|| Err(Error::Damaged("content".into()))).is_err());
    assert!(matches!(catalog.apply(numbered(2)), Err(Error::ReadOnly(_))));
    assert!(catalog.durable_seq() < seq);
}

#[test]
fn a_batch_that_cannot_be_written_is_not_applied_and_the_next_one_is() {
    let bench = Bench::new();
    let catalog = bench.open();
    catalog.checkpoint(&nothing).unwrap();
    catalog.apply(numbered(1)).unwrap();
    bench.disk.0.fail_writes.store(1, SeqCst);
    assert!(matches!(catalog.apply(numbered(2)), Err(Error::Io { .. })));
    assert_eq!(count(&catalog), 1);
    catalog.apply(numbered(2)).unwrap();
    catalog.apply(numbered(3)).unwrap();
    drop(catalog);
    assert_eq!(count(&bench.open()), 3);
}

#[test]
fn a_torn_record_that_cannot_be_undone_makes_the_catalog_read_only() {
    let bench = Bench::new();
    let catalog = bench.open();
    catalog.checkpoint(&nothing).unwrap();
    catalog.apply(numbered(1)).unwrap();
    bench.disk.0.fail_writes.store(2, SeqCst);
    assert!(catalog.apply(numbered(2)).is_err());
    assert!(matches!(catalog.apply(numbered(2)), Err(Error::ReadOnly(_))));
    drop(catalog);
    assert_eq!(count(&bench.open()), 1);
}

#[test]
fn a_checkpoint_on_a_full_disk_fails_and_succeeds_once_there_is_room() {
    let bench = Bench::new();
    let catalog = bench.open();
    catalog.apply(numbered(1)).unwrap();
    bench.disk.0.full.store(true, SeqCst);
    assert!(matches!(catalog.checkpoint(&nothing), Err(Error::NoSpace)));
    catalog.apply(numbered(2)).unwrap();
    assert_eq!(count(&catalog), 2);
    bench.disk.0.full.store(false, SeqCst);
    catalog.checkpoint(&nothing).unwrap();
    assert_eq!(catalog.stats().table_bytes, 0);
    assert_eq!(catalog.durable_seq(), catalog.last_seq());
    drop(catalog);
    assert_eq!(count(&bench.open()), 2);
}

#[test]
fn on_a_full_disk_a_close_leaves_in_the_journal_what_a_checkpoint_would_have_moved() {
    let bench = Bench::new();
    let catalog = bench.open();
    catalog.apply(numbered(1)).unwrap();
    bench.disk.0.full.store(true, SeqCst);
    catalog.apply(numbered(2)).unwrap();
    catalog.close(&nothing).unwrap();
    drop(catalog);
    bench.disk.0.full.store(false, SeqCst);
    assert_eq!(count(&bench.open()), 2);
}

#[test]
fn whoever_waits_for_room_on_a_full_disk_is_told() {
    let bench = Bench::new();
    let catalog = bench.open();
    bench.disk.0.full.store(true, SeqCst);
    let told = (1..100_000).find_map(|n| {
        if !catalog.has_room()
            && let Err(error) = catalog.wait_for_room()
        {
            return Some(error);
        }
        catalog.apply(numbered(n)).unwrap();
        None
    });
    assert!(matches!(told, Some(Error::NoSpace)), "{told:?}");
    assert!(catalog.is_short());
}

#[test]
fn once_those_who_add_have_filled_the_table_on_a_full_disk_what_is_deleted_can_be_noted() {
    let bench = Bench::new();
    let catalog = bench.open();
    bench.disk.0.full.store(true, SeqCst);
    let mut added = 0;
    // Also those who add beyond what is asked of them.
    while catalog.stats().table_bytes < 2 * (MEMORY as u64 / 4) {
        added += 1;
        catalog.apply(numbered(added)).unwrap();
        // Into the table: what waits for it is counted with more than it takes there.
        catalog.get(b"last").unwrap();
    }
    if !catalog.has_room() {
        catalog.wait_for_room().unwrap();
    }
    for n in 1..=100 {
        assert!(catalog.has_room(), "for {n} deletions");
        let mut deletion = Batch::default();
        deletion.delete(format!("d{n}").into_bytes());
        catalog.apply(deletion).unwrap();
    }
    assert!(catalog.is_short());
    bench.disk.0.full.store(false, SeqCst);
    catalog.checkpoint(&nothing).unwrap();
    assert!(!catalog.is_short());
    assert_eq!(count(&catalog), added);
}

#[test]
fn what_batches_refer_to_is_durable_before_the_index_has_them() {
    let bench = Bench::new();
    let catalog = bench.open();
    catalog.apply(numbered(1)).unwrap();
    let called = AtomicBool::new(false);
    let before = || {
        called.store(true, SeqCst);
        assert_eq!(catalog.stats().checkpoints, 0);
        Ok(())
    };
    catalog.checkpoint(&before).unwrap();
    assert!(called.load(SeqCst));
    assert_eq!(catalog.stats().checkpoints, 1);
}

#[test]
fn a_checkpoint_in_the_background_makes_content_durable_first() {
    let bench = Bench::new();
    let catalog = bench.open();
    for n in 1..10_000 {
        if !catalog.has_room() {
            catalog.wait_for_room().unwrap();
            break;
        }
        catalog.apply(numbered(n)).unwrap();
    }
    let checkpoints = catalog.stats().checkpoints;
    assert!(checkpoints > 0);
    assert!(bench.before.load(SeqCst) >= checkpoints);
}

#[test]
fn nothing_is_applied_to_a_closed_catalog() {
    let bench = Bench::new();
    let catalog = bench.open();
    catalog.apply(numbered(1)).unwrap();
    catalog.close(&nothing).unwrap();
    assert_eq!(catalog.durable_seq(), catalog.last_seq());
    assert!(matches!(catalog.apply(numbered(2)), Err(Error::ReadOnly(_))));
}
