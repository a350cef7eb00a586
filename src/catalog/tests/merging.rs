//! Reads merge table, frozen table and index.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(u16, Option<u8>)>),
    Scan(u16, u16, usize),
    Checkpoint,
    Sync,
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..400u16, proptest::option::weighted(0.7, any::<u8>()));
    prop_oneof![
        12 => proptest::collection::vec(change, 1..40).prop_map(Step::Apply),
        6 => (0..400u16, 0..400u16, 1..300usize).prop_map(|(a, b, n)| Step::Scan(a, b, n)),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

fn key(n: u16) -> Key {
    format!("key {n:05}").into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn get_and_scan_tell_the_same_as_a_plain_map(steps in proptest::collection::vec(step(), 1..60)) {
        let bench = Bench::new();
        let mut catalog = bench.open();
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Apply(changes) => {
                    let mut batch = Batch::default();
                    for (n, value) in changes {
                        match value {
                            // Content, which the table shares, and what it copies.
                            Some(byte) if byte % 2 == 0 => {
                                let content = Arc::new(vec![byte; 200 + usize::from(byte)]);
                                batch.put_content(key(n), &[1, byte], &content);
                                model.insert(key(n), [&[1, byte], &content[..]].concat());
                            }
                            Some(byte) => {
                                batch.put(key(n), vec![byte; 100]);
                                model.insert(key(n), vec![byte; 100]);
                            }
                            None => {
                                batch.delete(key(n));
                                model.remove(&key(n));
                            }
                        }
                    }
                    catalog.apply(batch).unwrap();
                }
                Step::Scan(from, to, most) => {
                    let range = key(from)..key(to);
                    let mut found = Vec::new();
                    catalog.scan(range.clone(), &mut |key, value| {
                        found.push((key.to_vec(), value.to_vec()));
                        found.len() < most
                    }).unwrap();
                    let expected: Vec<_> = match from < to {
                        true => model.range(range).take(most).map(|(k, v): (&Key, &Value)| (k.clone(), v.clone())).collect(),
                        false => vec![],
                    };
                    prop_assert_eq!(found, expected);
                }
                Step::Checkpoint => catalog.checkpoint(&nothing).unwrap(),
                Step::Sync => catalog.sync(catalog.last_seq(), &nothing).unwrap(),
                Step::Reopen => {
                    catalog.close(&nothing).unwrap();
                    drop(catalog);
                    catalog = bench.open();
                }
                Step::Crash => {
                    drop(catalog);
                    catalog = bench.open();
                }
            }
            for n in [0, 7, 399] {
                prop_assert_eq!(catalog.get(&key(n)).unwrap(), model.get(&key(n)).cloned());
            }
        }
        prop_assert_eq!(all(&catalog), model);
    }
}

#[test]
fn a_scan_sees_no_batch_that_is_applied_while_it_visits_and_no_half_of_one() {
    let bench = Bench::new();
    let catalog = bench.open();
    let fill = |byte: u8| {
        let mut batch = Batch::default();
        (0..200).for_each(|n| batch.put(key(n), vec![byte]));
        batch
    };
    catalog.apply(fill(1)).unwrap();
    catalog.checkpoint(&nothing).unwrap();
    for round in 2..20u8 {
        catalog.apply(fill(round)).unwrap();
        let (begun, begin) = crossbeam_channel::bounded(0);
        let (goon, go) = crossbeam_channel::bounded(0);
        std::thread::scope(|scope| {
            let scanner = scope.spawn(|| {
                let mut seen = Vec::new();
                catalog
                    .scan(key(0)..key(200), &mut |_, value| {
                        if seen.is_empty() {
                            begun.send(()).unwrap();
                            go.recv().unwrap();
                        }
                        seen.push(value[0]);
                        true
                    })
                    .unwrap();
                seen
            });
            begin.recv().unwrap();
            catalog.apply(fill(100 + round)).unwrap();
            if round % 3 == 0 {
                catalog.checkpoint(&nothing).unwrap();
                catalog.apply(fill(50 + round)).unwrap();
            }
            // Into the table, over what the scan holds.
            catalog.get(&key(0)).unwrap();
            goon.send(()).unwrap();
            assert_eq!(scanner.join().unwrap(), vec![round; 200]);
        });
        // Takes back what the first one held.
        catalog.scan(key(0)..key(200), &mut |_, _| false).unwrap();
    }
    // What layers held twice for the scans is counted no longer.
    let other = Bench::new();
    let never_scanned = other.open();
    let counted = [&catalog, &never_scanned].map(|catalog| {
        catalog.apply(fill(1)).unwrap();
        assert_eq!(catalog.get(&key(7)).unwrap(), Some(vec![1]));
        catalog.stats().table_bytes
    });
    assert_eq!(counted[0], counted[1]);
}

#[test]
fn readers_see_every_batch_whole_while_checkpoints_run() {
    let bench = Bench::new();
    let catalog = bench.open();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                catalog.checkpoint(&nothing).unwrap();
            }
        });
        scope.spawn(|| {
            for n in 1..=3000 {
                catalog.apply(numbered(n)).unwrap();
                assert_eq!(
                    catalog.get(format!("n{n:06}").as_bytes()).unwrap(),
                    Some(n.to_le_bytes().to_vec())
                );
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        let mut last = 0;
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            let now = count(&catalog);
            assert!(now >= last);
            last = now;
        }
    });
    assert_eq!(count(&catalog), 3000);
}

#[test]
fn the_table_stays_within_twice_its_limit_when_writers_ask_for_room() {
    let bench = Bench::new();
    let catalog = bench.open();
    let limit = MEMORY / 4;
    for n in 1..=20_000 {
        if !catalog.has_room() {
            catalog.wait_for_room().unwrap();
        }
        catalog.apply(numbered(n)).unwrap();
        assert!(catalog.stats().table_bytes as usize <= 2 * limit + 1000, "{:?}", catalog.stats());
    }
    assert!(catalog.stats().checkpoints > 0);
    assert_eq!(count(&catalog), 20_000);
}

#[test]
fn content_is_held_once_until_the_table_lets_go_of_it_and_survives_a_crash() {
    let bench = Bench::new();
    let catalog = bench.open();
    let contents: Vec<_> = [300, 4096, 255, 70_000].map(|len| Arc::new(vec![len as u8; len])).into();
    let mut batch = Batch::default();
    batch.delete(key(9));
    for (n, content) in (0..).zip(&contents) {
        batch.put(key(100 + n), vec![3; 300]);
        batch.put_content(key(n), b"head", content);
    }
    // The later one of a key wins, whatever it holds.
    batch.put_content(key(50), b"", &contents[0]);
    batch.put(key(50), b"bytes");
    batch.put(key(51), b"bytes");
    batch.put_content(key(51), &[7; 7], &contents[1]);
    batch.put_content(key(52), &[8; 8], &contents[1]);
    let expected = all_of(&batch);
    catalog.apply(batch).unwrap();
    assert_eq!(all(&catalog), expected);
    let holders = || contents.iter().map(Arc::strong_count).collect::<Vec<_>>();
    // Of what is short, and of what is behind a long head, there is a copy.
    assert_eq!(holders(), [2, 3, 1, 2]);
    let mut later = Batch::default();
    later.delete(key(0));
    later.put(key(1), b"other");
    catalog.apply(later).unwrap();
    let expected = all(&catalog);
    assert_eq!(holders(), [1, 2, 1, 2]);
    drop(catalog);
    assert_eq!(holders(), [1; 4]);
    let catalog = bench.open();
    assert_eq!(all(&catalog), expected);
    catalog.checkpoint(&nothing).unwrap();
    assert_eq!(all(&catalog), expected);
}

fn all_of(batch: &Batch) -> BTreeMap<Key, Value> {
    batch.changes().filter_map(|(key, value)| Some((key.to_vec(), value?.to_vec()))).collect()
}
