//! What those who asked for no flush notice of one who flushes all the time.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Rounds, each a part alone and a part beside: a machine whose speed drifts then spoils neither.
const ROUNDS: usize = 8;

/// Creates `count` files while nothing else goes on, and as many beside a thread that writes 4 KiB and fsyncs them, again and
/// again. Prints the median and the 99th percentile of both, µs, their ratio, and the fsyncs a second.
pub fn run(dir: &Path, count: usize) -> io::Result<()> {
    fs::create_dir(dir)?;
    let log = OpenOptions::new().write(true).create_new(true).open(dir.join("log"))?;
    let (mut alone, mut busy) = (Vec::new(), Vec::new());
    let (mut fsyncs, mut time) = (0, Duration::ZERO);
    for round in 0..ROUNDS {
        alone.extend(create(&dir.join(format!("alone{round}")), count / ROUNDS)?);
        let (ended, synced) = (AtomicBool::new(false), AtomicU64::new(0));
        let begin = Instant::now();
        std::thread::scope(|scope| -> io::Result<()> {
            let syncing = scope.spawn(|| sync_until(&log, &ended, &synced));
            // From the second fsync on it goes round and round.
            while synced.load(Ordering::Relaxed) < 2 && !syncing.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let times = create(&dir.join(format!("beside{round}")), count / ROUNDS);
            ended.store(true, Ordering::Relaxed);
            busy.extend(times?);
            syncing.join().unwrap_or_else(|_| Err(io::Error::other("the syncing thread panicked")))
        })?;
        time += begin.elapsed();
        fsyncs += synced.into_inner();
    }
    alone.sort_unstable();
    busy.sort_unstable();
    for percent in [50, 99] {
        println!("beside-alone-p{percent}\t{:.2}\tus/op", percentile(&alone, percent));
        println!("beside-busy-p{percent}\t{:.2}\tus/op", percentile(&busy, percent));
    }
    println!("beside-ratio-p99\t{:.3}\tx", percentile(&busy, 99) / percentile(&alone, 99));
    println!("beside-fsyncs\t{:.0}\t/s", fsyncs as f64 / time.as_secs_f64());
    Ok(())
}

/// Of sorted times, µs.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    sorted.get(sorted.len() * percent / 100).map_or(f64::NAN, |at| at.as_nanos() as f64 / 1e3)
}

/// The time that each creation took, its close included.
fn create(dir: &Path, count: usize) -> io::Result<Vec<Duration>> {
    fs::create_dir(dir)?;
    let paths: Vec<_> = (0..count).map(|n| dir.join(n.to_string())).collect();
    paths
        .iter()
        .map(|path| {
            let begin = Instant::now();
            OpenOptions::new().write(true).create_new(true).open(path)?;
            Ok(begin.elapsed())
        })
        .collect()
}

fn sync_until(log: &File, ended: &AtomicBool, synced: &AtomicU64) -> io::Result<()> {
    let mut at = 0;
    while !ended.load(Ordering::Relaxed) {
        log.write_all_at(&[at as u8; 4096], at)?;
        log.sync_data()?;
        // It stays small: what is measured is the flush.
        at = (at + 4096) % (1 << 20);
        synced.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
