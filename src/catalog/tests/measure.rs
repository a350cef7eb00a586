//! Figures, not tests: run in release with `--ignored --nocapture measure`. `LARDER_MEASURE` names the directory.

use std::time::Instant;

use super::*;

#[test]
#[ignore = "prints figures"]
fn measure() {
    let dir = match std::env::var_os("LARDER_MEASURE") {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let bench = Bench::at(dir);
    bench.disk.0.flush_device.store(true, SeqCst);
    let open = || bench.try_open_with(256 << 20, &mut |_| Ok(true)).unwrap();
    let begun = Instant::now();
    let catalog = open();
    println!("create: {:?}", begun.elapsed());
    catalog.checkpoint(&nothing).unwrap();

    // Neighbours, as in a tree that is being written; then scattered, as in one that is changed here and there.
    let near = |n: u64| n.to_be_bytes().to_vec();
    let key = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec();
    let rounds = 50_000u64;
    for (name, key) in [("near", &near as &dyn Fn(u64) -> Key), ("scattered", &key)] {
        let mut batches: Vec<Batch> = (0..rounds)
            .map(|n| {
                let mut batch = Batch::default();
                (0..4).for_each(|i| batch.put(key(n * 4 + i), vec![n as u8; 92]));
                batch
            })
            .collect();
        batches.reverse();
        let begun = Instant::now();
        while let Some(batch) = batches.pop() {
            catalog.apply(batch).unwrap();
        }
        let each = begun.elapsed().as_secs_f64() * 1e6 / rounds as f64;
        println!("apply of 4 x 100 bytes, {name}: {each:.2} us");
        if name == "near" {
            catalog.checkpoint(&nothing).unwrap();
        }
    }

    let begun = Instant::now();
    catalog.checkpoint(&nothing).unwrap();
    let took = begun.elapsed();
    println!("checkpoint: {:.0} entries/s ({took:?})", 4.0 * rounds as f64 / took.as_secs_f64());

    let begun = Instant::now();
    for n in 0..4 * rounds {
        assert!(catalog.get(&key(n * 7 % (4 * rounds))).unwrap().is_some());
    }
    println!("get from the index, warm: {:.2} us", begun.elapsed().as_secs_f64() * 1e6 / (4 * rounds) as f64);

    let begun = Instant::now();
    for n in 0..500 {
        let seq = catalog.apply(numbered(n)).unwrap();
        catalog.sync(seq, &nothing).unwrap();
    }
    println!("apply and sync: {:.1} us", begun.elapsed().as_secs_f64() * 1e6 / 500.0);

    for n in 0..rounds {
        catalog.apply(numbered(n)).unwrap();
    }
    drop(catalog);
    let begun = Instant::now();
    let catalog = open();
    println!("open after a kill with {} batches: {:?}", rounds + 500, begun.elapsed());
    catalog.close(&nothing).unwrap();
    drop(catalog);
    let begun = Instant::now();
    let catalog = open();
    println!("open after a close: {:?}, {} bytes on disk", begun.elapsed(), catalog.stats().disk_bytes);
    catalog.close(&nothing).unwrap();
    drop(catalog);

    // Hardly any cache in redb, all of the file in the system's: what a read of a block costs beside the disk.
    let catalog = bench.try_open_with(512 << 10, &mut |_| Ok(true)).unwrap();
    let begun = Instant::now();
    for n in 0..rounds {
        assert!(catalog.get(&key(n * 7 % (4 * rounds))).unwrap().is_some());
    }
    println!("get from the index, cold: {:.2} us", begun.elapsed().as_secs_f64() * 1e6 / rounds as f64);
    let (begun, mut entries) = (Instant::now(), 0);
    catalog
        .scan(vec![]..vec![0xff; 9], &mut |_, _| {
            entries += 1;
            true
        })
        .unwrap();
    println!("scan, cold: {:.3} us an entry", begun.elapsed().as_secs_f64() * 1e6 / f64::from(entries));
}
