//! What a crash leaves, and what is damage.

use proptest::prelude::*;

use std::collections::BTreeSet;

use super::*;
use crate::error::Error;
use crate::format::Seq;

fn damage(result: Result<LocalCatalog>) -> String {
    match result {
        Err(Error::Damaged(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// A store with five batches, none synced but those up to `synced`, that was killed.
fn killed(synced: u64) -> Bench {
    let bench = Bench::new();
    let catalog = bench.open();
    for n in 1..=5 {
        let seq = catalog.apply(numbered(n)).unwrap();
        if n == synced {
            catalog.sync(seq, &nothing).unwrap();
        }
    }
    bench
}

#[test]
fn what_was_applied_survives_a_kill_and_the_next_one() {
    let bench = killed(0);
    assert_eq!(count(&bench.open()), 5);
    let catalog = bench.open();
    assert_eq!(count(&catalog), 5);
    catalog.apply(numbered(6)).unwrap();
    drop(catalog);
    assert_eq!(count(&bench.open()), 6);
}

#[test]
fn records_of_another_store_that_did_the_same_are_none_where_the_disk_shows_them() {
    let (short, long) = (killed(0), Bench::new());
    let catalog = long.open();
    // As far as the other one, and on.
    (1..=9).for_each(|n| assert!(catalog.apply(numbered(n)).unwrap() > Seq(0)));
    drop(catalog);
    let ((path, ours), (other, theirs)) = (short.records(), long.records());
    let end = ours.last().map(|(at, size)| at + size).unwrap();
    assert!(theirs.iter().any(|(at, _)| *at == end), "theirs lie where ours end: {ours:?}, {theirs:?}");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[end..].copy_from_slice(&std::fs::read(other).unwrap()[end..]);
    std::fs::write(path, bytes).unwrap();
    let catalog = short.open();
    assert_eq!((count(&catalog), catalog.dropped()), (5, &[][..]));
}

#[test]
fn numbers_go_on_rising_over_a_close_and_a_kill() {
    let bench = killed(3);
    let catalog = bench.open();
    let first = catalog.apply(numbered(6)).unwrap();
    catalog.close(&nothing).unwrap();
    drop(catalog);
    let catalog = bench.open();
    assert!(catalog.last_seq() >= first);
    assert_eq!(catalog.durable_seq(), catalog.last_seq());
    assert!(catalog.apply(numbered(7)).unwrap() > first);
}

#[test]
fn a_torn_tail_is_cut_at_whatever_byte_it_was_torn() {
    let bench = killed(0);
    let (path, records) = bench.records();
    let (at, size) = records[4];
    let good = std::fs::read(&path).unwrap();
    let index = std::fs::read(bench.index()).unwrap();
    let names = bench.journal();
    for torn in at..at + size {
        // The rest of the file is zeros, as it is before it is written; the last bytes of a record are zeros too.
        let mut bytes = good.clone();
        bytes[torn..].fill(0);
        let whole = bytes == good;
        for name in bench.journal() {
            if !names.contains(&name) {
                std::fs::remove_file(name).unwrap();
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        std::fs::write(bench.index(), &index).unwrap();
        assert_eq!(count(&bench.open()), if whole { 5 } else { 4 }, "torn at {torn}");
        assert_eq!(count(&bench.open()), if whole { 5 } else { 4 }, "torn at {torn}, opened again");
    }
}

#[test]
fn a_flipped_bit_in_what_was_durable_is_damage_and_names_the_file_and_the_place() {
    // Records: five batches, of which the fourth is followed by a mark and, once that was flushed, by a witness.
    let bench = killed(4);
    let (path, records) = bench.records();
    assert_eq!(records.len(), 7);
    for (n, &(at, size)) in records[..5].iter().enumerate() {
        for byte in [0, 9, 12, 16, 24, 33] {
            assert!(byte < size);
            flip(&path, at + byte, 0x10);
            let why = damage(bench.try_open());
            assert!(why.contains(path.to_str().unwrap()), "{why}");
            assert!(why.contains(&format!("offset {at}, record {}", n + 1)), "{why}");
            flip(&path, at + byte, 0x10);
        }
    }
    assert_eq!(count(&bench.open()), 5, "refusing has changed nothing");
}

#[test]
fn a_flipped_bit_in_what_was_synced_last_is_damage_and_no_torn_tail() {
    let bench = killed(5);
    let (path, records) = bench.records();
    for &(at, _) in &records[4..6] {
        flip(&path, at + 9, 0x10);
        assert!(damage(bench.try_open()).contains(&format!("offset {at}")));
        flip(&path, at + 9, 0x10);
    }
    // The witness itself confirms nothing that would be missed.
    flip(&path, records[6].0 + 9, 0x10);
    assert_eq!(count(&bench.open()), 5);
}

#[test]
fn a_damaged_journal_is_salvaged_up_to_its_damage_and_what_follows_never_comes_back() {
    let bench = killed(4);
    let (path, records) = bench.records();
    let (at, _) = records[2];
    flip(&path, at + 9, 0x10);
    damage(bench.try_open());
    let catalog = bench.salvage();
    assert_eq!(count(&catalog), 2);
    assert!(catalog.dropped()[0].contains("in front of record 3"), "{:?}", catalog.dropped());
    drop(catalog);
    if path.exists() {
        flip(&path, at + 9, 0x10);
    }
    let catalog = bench.open();
    assert_eq!(count(&catalog), 2);
    catalog.apply(numbered(3)).unwrap();
    drop(catalog);
    assert_eq!(count(&bench.open()), 3);
}

#[test]
fn without_its_journal_a_catalog_is_salvaged_as_of_its_last_checkpoint() {
    let bench = killed(0);
    bench.open().close(&nothing).unwrap();
    let catalog = bench.open();
    catalog.sync(catalog.apply(numbered(6)).unwrap(), &nothing).unwrap();
    drop(catalog);
    bench.journal().iter().for_each(|path| std::fs::remove_file(path).unwrap());
    damage(bench.try_open());
    let catalog = bench.salvage();
    assert_eq!(count(&catalog), 5);
    assert!(catalog.dropped()[0].contains("missing"), "{:?}", catalog.dropped());
    catalog.apply(numbered(6)).unwrap();
    drop(catalog);
    assert_eq!(count(&bench.open()), 6);
}

#[test]
fn a_journal_file_that_is_far_too_long_is_read_in_parts() {
    let bench = killed(0);
    let (path, records) = bench.records();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    // What says that it is a record of nearly 4 GiB.
    flip(&path, records[4].0 + 15, 0xff);
    assert_eq!(count(&bench.open()), 4);
}

#[test]
fn a_hole_in_what_was_never_flushed_ends_the_journal_and_never_comes_back() {
    let bench = killed(2);
    let (path, records) = bench.records();
    // Records 1, 2, the mark, its witness, 3, 4, 5: lose batch 4.
    let (at, size) = records[5];
    let mut bytes = std::fs::read(&path).unwrap();
    let lost = bytes[at..at + size].to_vec();
    bytes[at..at + size].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let catalog = bench.open();
    assert_eq!(count(&catalog), 3);
    drop(catalog);
    // Even when the lost record appears again where it was.
    if path.exists() {
        bytes[at..at + size].copy_from_slice(&lost);
        std::fs::write(&path, &bytes).unwrap();
    }
    let catalog = bench.open();
    assert_eq!(count(&catalog), 3);
    catalog.apply(numbered(4)).unwrap();
    drop(catalog);
    assert_eq!(count(&bench.open()), 4);
}

#[test]
fn a_batch_whose_content_is_not_there_ends_the_replay() {
    let bench = killed(2);
    let mut asked = Vec::new();
    let verify = &mut |batch: &Batch| {
        let (key, _) = batch.changes().next().unwrap();
        asked.push(key.to_vec());
        Ok(key != b"n000004")
    };
    let catalog = bench.try_open_with(MEMORY, verify).unwrap();
    assert_eq!(count(&catalog), 3);
    assert_eq!(asked, [b"n000003".to_vec(), b"n000004".to_vec()], "what a mark vouches for is not asked for");
    drop(catalog);
    assert_eq!(count(&bench.open()), 3, "what was refused does not come back");
}

#[test]
fn content_of_batches_that_no_mark_vouches_for_is_made_durable_before_the_index_has_them() {
    for (synced, expected) in [(5, 0), (4, 1)] {
        let bench = killed(synced);
        let before = bench.before.load(SeqCst);
        drop(bench.open());
        assert_eq!(bench.before.load(SeqCst) - before, expected, "synced up to {synced}");
    }
}

#[test]
fn records_of_a_recycled_file_stay_dead() {
    let bench = Bench::new();
    let catalog = bench.open();
    for round in 0..10 {
        for n in 1..=100 {
            catalog.apply(numbered(round * 100 + n)).unwrap();
        }
        catalog.checkpoint(&nothing).unwrap();
    }
    catalog.apply(numbered(1001)).unwrap();
    drop(catalog);
    assert!(bench.journal().len() <= 5, "{:?}", bench.journal());
    let old = bench.journal().iter().filter(|p| std::fs::read(p).unwrap()[8..10] == *b"LJ").count();
    assert!(old > 1, "the files still hold what they held under another number");
    assert_eq!(count(&bench.open()), 1001);
}

#[test]
fn the_journal_goes_over_many_files_and_comes_back_from_them() {
    let bench = Bench::new();
    let catalog = bench.open();
    // Half a file each: no two share one, and the fourth takes the place of a checkpoint that has not begun.
    for n in 1..=60u64 {
        let mut batch = numbered(n);
        batch.put(b"large", vec![n as u8; 30 << 10]);
        catalog.apply(batch).unwrap();
    }
    let mut batch = numbered(61);
    batch.put(b"huge", vec![1; 300 << 10]);
    catalog.apply(batch).unwrap();
    catalog.apply(numbered(62)).unwrap();
    drop(catalog);
    let catalog = bench.open();
    assert_eq!(catalog.get(b"huge").unwrap().unwrap().len(), 300 << 10);
    for n in 1..=62u64 {
        assert_eq!(catalog.get(format!("n{n:06}").as_bytes()).unwrap(), Some(n.to_le_bytes().to_vec()));
    }
}

#[test]
fn a_missing_index_is_named_and_nothing_is_made_in_its_place() {
    let bench = killed(0);
    std::fs::remove_file(bench.index()).unwrap();
    let why = damage(bench.try_open());
    assert!(why.contains("index.redb") && why.contains("backup"), "{why}");
    assert!(!bench.index().exists());
}

#[test]
fn a_missing_journal_file_is_named() {
    let bench = killed(0);
    let (path, _) = bench.records();
    std::fs::remove_file(&path).unwrap();
    let why = damage(bench.try_open());
    assert!(why.contains(path.to_str().unwrap()), "{why}");
}

#[test]
fn a_foreign_or_damaged_index_is_named() {
    let bench = killed(0);
    let good = std::fs::read(bench.index()).unwrap();
    for bad in [b"not an index".to_vec(), vec![], vec![0; 8192], good[..good.len() / 2].to_vec()] {
        std::fs::write(bench.index(), &bad).unwrap();
        let why = damage(bench.try_open());
        assert!(why.contains("index.redb") && why.contains("backup"), "{why}");
    }
    std::fs::write(bench.index(), &good).unwrap();
    assert_eq!(count(&bench.open()), 5);
}

/// An index after `count` changes and deletions, closed; and what it holds.
fn indexed(count: u64) -> (Bench, BTreeMap<Key, Value>) {
    let bench = Bench::new();
    let catalog = bench.open();
    for n in 1..=count {
        let mut batch = numbered(n);
        batch.put(format!("m{n:06}").into_bytes(), vec![n as u8; 60 + n as usize % 70]);
        batch.delete(format!("m{:06}", n / 2).into_bytes());
        catalog.apply(batch).unwrap();
        if n % (count / 4) == 0 {
            catalog.checkpoint(&nothing).unwrap();
        }
    }
    catalog.close(&nothing).unwrap();
    drop(catalog);
    let catalog = bench.open();
    let expected = all(&catalog);
    catalog.close(&nothing).unwrap();
    (bench, expected)
}

/// All entries, as a scan tells them and as single reads do; what fails first ends it.
fn read(bench: &Bench, expected: &BTreeMap<Key, Value>) -> Result<()> {
    let catalog = bench.try_open()?;
    let mut found = BTreeMap::new();
    let scanned = catalog.scan(vec![]..vec![0xff; 8], &mut |key, value| {
        assert_eq!(expected.get(key).map(Vec::as_slice), Some(value), "a wrong record");
        found.insert(key.to_vec(), value.to_vec());
        true
    });
    let got: Result<Vec<Option<Value>>> = expected.keys().map(|key| catalog.get(key)).collect();
    match (scanned, got) {
        (Ok(_), Ok(got)) => {
            assert!(found == *expected && got.iter().flatten().eq(expected.values()), "lost records");
            Ok(())
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

#[test]
fn a_flipped_bit_in_any_block_of_the_index_is_told_with_its_block_or_harmless() {
    let (bench, expected) = indexed(400);
    let keep = [bench.index()].into_iter().chain(bench.journal()).collect::<Vec<_>>();
    let good: Vec<Vec<u8>> = keep.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let (mut told, mut harmless) = (BTreeSet::new(), 0);
    for block in 0..good[0].len() / 4096 {
        for at in [1, 9, 70, 511, 1100, 2048, 4095] {
            let at = block * 4096 + at;
            // What was never written is not worth a try.
            if good[0][block * 4096..][..4096].iter().all(|byte| *byte == 0) {
                continue;
            }
            bench.journal().iter().for_each(|path| std::fs::remove_file(path).unwrap());
            keep.iter().zip(&good).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
            flip(&bench.index(), at, 0x10);
            if at < 512 {
                flip(&bench.index(), 512 + at, 0x10);
            }
            match read(&bench, &expected) {
                Ok(()) => harmless += 1,
                Err(Error::Damaged(why)) => {
                    assert!(why.contains("index.redb: block ") && why.contains("backup"), "byte {at}: {why}");
                    told.insert(at);
                }
                Err(error) => panic!("byte {at}: {error}"),
            }
        }
    }
    println!("{} told, {harmless} harmless", told.len());
    // Both copies of the head, up to their sum; and most of the leaves, which have all but a few of the bytes.
    assert!([1, 9, 70, 511].iter().all(|at| told.contains(at)), "{told:?}");
    assert!(told.len() > 60, "{told:?}");
}

#[test]
fn behind_damage_that_was_met_all_else_is_read_and_the_catalog_takes_no_harm() {
    let (bench, expected) = indexed(8000);
    let good = std::fs::read(bench.index()).unwrap();
    // In the leaves that count, and in those that later ones have replaced. One of them will not be in redb's cache. Not in
    // branches: which keys part these depends on when the table was full.
    let keys: Vec<Key> = (500..8000).step_by(500).map(|n| format!("n{n:06}").into_bytes()).collect();
    let is_key = |bytes: &[u8]| keys.iter().any(|key| key == bytes);
    let is_in_leaf = |at: usize| good[at / 4096 * 4096] == 1;
    let places = good.windows(7).enumerate().filter(|(_, bytes)| is_key(bytes)).map(|(at, _)| at);
    let places = places.filter(|at| is_in_leaf(*at));
    let harm = || places.clone().for_each(|at| flip(&bench.index(), at, 1));
    let catalog = bench.open();
    // More than redb's cache takes, and behind the records that are then read.
    catalog.scan(b"m".to_vec()..b"n".to_vec(), &mut |_, _| true).unwrap();
    harm();
    let first = keys.iter().find_map(|key| catalog.get(key).err()).expect("damage is met").to_string();
    assert!(first.contains("block"), "{first}");
    let place = first.split(": block ").nth(1).unwrap().to_owned();
    // redb has given up, and what is not in its cache is read all the same, but for the damaged blocks.
    let scanned = catalog.scan(vec![]..vec![0xff; 8], &mut |_, _| true).unwrap_err().to_string();
    assert!(scanned.contains("block"), "{scanned}");
    for n in (250..8000).step_by(500) {
        assert!(catalog.get(format!("n{n:06}").as_bytes()).unwrap().is_some(), "{n}");
        let mut between = 0;
        let range = format!("n{:06}", n - 50).into_bytes()..format!("n{:06}", n + 50).into_bytes();
        catalog
            .scan(range, &mut |_, _| {
                between += 1;
                true
            })
            .unwrap();
        assert_eq!(between, 100, "{n}");
    }
    // What is journalled is kept, though the checkpoint fails.
    catalog.apply(numbered(8001)).unwrap();
    let error = catalog.close(&nothing).unwrap_err().to_string();
    assert!(error.contains(&place), "{error}");
    drop(catalog);
    harm();
    let catalog = bench.open();
    assert_eq!(count(&catalog), 8001);
    assert_eq!(all(&catalog).len(), expected.len() + 1);
}

#[test]
fn a_killed_catalog_opens_with_a_damaged_block_and_reads_what_is_not_in_it() {
    let (bench, _) = indexed(8000);
    let catalog = bench.open();
    catalog.apply(numbered(8001)).unwrap();
    catalog.checkpoint(&nothing).unwrap();
    catalog.apply(numbered(8002)).unwrap();
    // As kill -9 leaves it: redb closes its file when it is dropped.
    let good = std::fs::read(bench.index()).unwrap();
    drop(catalog);
    std::fs::write(bench.index(), &good).unwrap();
    // One that is in the file once: in its leaf, and not above it, where it would be on the way to others.
    let places =
        |key: &str| good.windows(7).enumerate().filter(|(_, bytes)| *bytes == key.as_bytes()).count();
    let wanted = (4000..5000).map(|n| format!("n{n:06}")).find(|key| places(key) == 1).unwrap();
    let at = good.windows(7).position(|bytes| bytes == wanted.as_bytes()).unwrap();
    flip(&bench.index(), at, 1);
    let wanted = wanted.as_bytes();
    let catalog = bench.open();
    for key in [b"n000001", b"n007999", b"n008001", b"n008002"] {
        assert!(catalog.get(key).unwrap().is_some(), "{key:?}");
    }
    let error = catalog.get(wanted).unwrap_err().to_string();
    assert!(error.contains("block"), "{error}");
}

#[test]
fn an_interrupted_creation_is_begun_anew() {
    let bench = Bench::new();
    std::fs::write(bench.dir.path().join("index.redb.new"), b"half").unwrap();
    let catalog = bench.open();
    catalog.apply(numbered(1)).unwrap();
    drop(catalog);
    assert_eq!(count(&bench.open()), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    // At power loss, what was not flushed may be there or not, sector by sector.
    #[test]
    fn after_power_loss_the_batches_are_a_prefix_with_all_that_was_synced(
        synced in 0..30u64,
        unsynced in 1..30u64,
        attempt in any::<bool>(),
        lost in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let bench = Bench::new();
        let catalog = bench.open();
        for n in 1..=synced {
            let seq = catalog.apply(numbered(n)).unwrap();
            if n == synced || n % 7 == 0 {
                catalog.sync(seq, &nothing).unwrap();
            }
        }
        let flushed: usize = if synced == 0 { 0 } else { bench.records().1.iter().map(|(_, size)| size).sum() };
        for n in synced + 1..=synced + unsynced {
            catalog.apply(numbered(n)).unwrap();
        }
        if attempt {
            // The power goes in the midst of the flush: the mark is written, the flush does not return.
            bench.disk.0.fail_sync.store(true, SeqCst);
            prop_assert!(catalog.sync(catalog.last_seq(), &nothing).is_err());
            bench.disk.0.fail_sync.store(false, SeqCst);
        }
        drop(catalog);
        let (path, _) = bench.records();
        let mut bytes = std::fs::read(&path).unwrap();
        // A sector that straddles the two keeps what was flushed.
        for (n, sector) in bytes.chunks_mut(512).enumerate().filter(|(n, _)| lost[n % lost.len()]) {
            let keep = flushed.saturating_sub(n * 512).min(sector.len());
            sector[keep..].fill(0);
        }
        std::fs::write(&path, &bytes).unwrap();
        let found = count(&bench.open());
        prop_assert!((synced..=synced + unsynced).contains(&found), "{found}");
        let catalog = bench.open();
        prop_assert_eq!(count(&catalog), found);
        catalog.apply(numbered(found + 1)).unwrap();
        drop(catalog);
        prop_assert_eq!(count(&bench.open()), found + 1);
    }
}
