//! How fast small values are set and got by one thread: Larder's library beside redb, fjall and cacache.
//!
//! `larder-values [DIR] [RUNS] [NAME...]`: on the disk of DIR (/var/tmp), medians of RUNS (5) in which the contenders (all)
//! take turns, each with a new store. Prints a Markdown table: microseconds for each value.
//!
//! What "set" promises differs: Larder's and fjall's survive the end of the process, redb's (`Durability::None`) does not, cacache's
//! is in a file that nobody has flushed. A durable one survives a power failure; cacache has none.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fjall::{KeyspaceCreateOptions, PersistMode};
use larder::store::{Durability, SetOptions, Store};
use redb::{Database, ReadableDatabase, TableDefinition};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The sizes of values in bytes, and how many of each are set, and set durably.
const SIZES: [(usize, u64, u64); 2] = [(1 << 10, 20_000, 1000), (16 << 10, 5000, 1000)];

/// How many times as many small values are set where it is more than memory takes.
const MANY: u64 = 10;

/// A store of small values.
trait Values {
    /// Whether it can set durably.
    const DURABLE: bool = true;

    fn open(dir: &Path) -> Result<Self>
    where
        Self: Sized;
    fn set(&self, key: &str, value: &[u8], durable: bool) -> Result<()>;
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>>;
    fn close(self) -> Result<()>;
}

impl Values for Store {
    fn open(dir: &Path) -> Result<Store> {
        Ok(Store::open(dir.join("store"))?)
    }

    fn set(&self, key: &str, value: &[u8], durable: bool) -> Result<()> {
        let durability = if durable { Durability::Sync } else { Durability::Commit };
        Ok(self.set_with(key, value, &SetOptions::new().durability(durability))?)
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(Store::get(self, key)?)
    }

    fn close(self) -> Result<()> {
        Ok(Store::close(self)?)
    }
}

struct Redb(Database);

const TABLE: TableDefinition<&str, &[u8]> = TableDefinition::new("values");

impl Values for Redb {
    fn open(dir: &Path) -> Result<Redb> {
        Ok(Redb(Database::create(dir.join("redb"))?))
    }

    fn set(&self, key: &str, value: &[u8], durable: bool) -> Result<()> {
        let mut transaction = self.0.begin_write()?;
        let durability = if durable { redb::Durability::Immediate } else { redb::Durability::None };
        transaction.set_durability(durability)?;
        transaction.open_table(TABLE)?.insert(key, value)?;
        Ok(transaction.commit()?)
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.0.begin_read()?.open_table(TABLE)?.get(key)?.map(|value| value.value().to_vec()))
    }

    fn close(self) -> Result<()> {
        // What was not durable is made so, as the others do when they are closed.
        Ok(self.0.begin_write()?.commit()?)
    }
}

struct Fjall {
    database: fjall::Database,
    keyspace: fjall::Keyspace,
}

impl Values for Fjall {
    fn open(dir: &Path) -> Result<Fjall> {
        let database = fjall::Database::builder(dir.join("fjall")).open()?;
        let keyspace = database.keyspace("values", KeyspaceCreateOptions::default)?;
        Ok(Fjall { database, keyspace })
    }

    fn set(&self, key: &str, value: &[u8], durable: bool) -> Result<()> {
        self.keyspace.insert(key, value)?;
        if durable {
            self.database.persist(PersistMode::SyncData)?;
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.keyspace.get(key)?.map(|value| value.to_vec()))
    }

    fn close(self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}

struct Cacache(PathBuf);

impl Values for Cacache {
    const DURABLE: bool = false;

    fn open(dir: &Path) -> Result<Cacache> {
        Ok(Cacache(dir.join("cacache")))
    }

    fn set(&self, key: &str, value: &[u8], _durable: bool) -> Result<()> {
        cacache::write_sync(&self.0, key, value)?;
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        match cacache::read_sync(&self.0, key) {
            Ok(value) => Ok(Some(value)),
            Err(cacache::Error::EntryNotFound(..)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn close(self) -> Result<()> {
        Ok(())
    }
}

/// The times in microseconds of each row, by the contender.
type Times = BTreeMap<(usize, usize, &'static str), BTreeMap<&'static str, Vec<f64>>>;

fn key(n: u64) -> String {
    // Not in their order: SplitMix64 of the number.
    let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    format!("{:02x}/{x:016x}", x >> 56)
}

/// Text that differs from value to value and packs about 2 : 1, as JSON does.
fn value(n: u64, len: usize) -> Vec<u8> {
    let mut text = String::with_capacity(len + 64);
    let mut x = n + 1;
    while text.len() < len {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text += &format!("{{\"id\":{},\"user\":\"{:x}\",\"seen\":true}},", x >> 40, x >> 32);
    }
    text.truncate(len);
    text.into_bytes()
}

/// Microseconds for one of `count` times a job.
fn timed(count: u64, mut job: impl FnMut(u64) -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    (0..count).try_for_each(&mut job)?;
    Ok(begun.elapsed().as_secs_f64() * 1e6 / count as f64)
}

fn measure<V: Values>(name: &'static str, dir: &Path, times: &mut Times) -> Result<()> {
    for (size, count, durable) in SIZES {
        let dir = tempfile::tempdir_in(dir)?;
        let mut took = |row: usize, what: &'static str, time: f64| {
            times.entry((size, row, what)).or_default().entry(name).or_default().push(time);
        };
        let values: Vec<Vec<u8>> = (0..count).map(|n| value(n, size)).collect();
        let of = |n: u64| values[n as usize].as_slice();
        let store = V::open(dir.path())?;
        took(0, "set", timed(count, |n| store.set(&key(n), of(n), false))?);
        let check = |store: &V, n: u64| match store.get(&key(n))? {
            Some(value) if value == of(n) => Ok(()),
            _ => Err(format!("{name} has not kept {}", key(n)).into()),
        };
        // In another order than they were set.
        took(1, "get", timed(count, |n| check(&store, n * 7919 % count))?);
        store.close()?;
        let store = V::open(dir.path())?;
        took(2, "get, opened anew", timed(count, |n| check(&store, n * 7919 % count))?);
        if V::DURABLE {
            took(3, "set durably", timed(durable, |n| store.set(&key(count + n), of(n), true))?);
        }
        store.close()?;
    }
    Ok(())
}

/// Sets more small values than memory takes.
fn measure_many<V: Values>(name: &'static str, dir: &Path, times: &mut Times) -> Result<()> {
    let dir = tempfile::tempdir_in(dir)?;
    let store = V::open(dir.path())?;
    let (size, count, _) = SIZES[0];
    let values: Vec<Vec<u8>> = (0..count).map(|n| value(n, size)).collect();
    let took = timed(MANY * count, |n| store.set(&key(n), &values[(n % count) as usize], false))?;
    times.entry((size, 4, "set, ten times as many")).or_default().entry(name).or_default().push(took);
    store.close()
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let dir = arguments.next().map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let runs: usize = arguments.next().map_or(Ok(5), |text| text.to_string_lossy().parse())?;
    let names: Vec<_> = arguments.collect();
    let takes_part = |name: &str| names.is_empty() || names.iter().any(|other| other == name);
    let mut times = Times::new();
    type Measure = fn(&'static str, &Path, &mut Times) -> Result<()>;
    let contenders: [(&str, Measure); 4] = [
        ("larder", measure::<Store>),
        ("redb", measure::<Redb>),
        ("fjall", measure::<Fjall>),
        ("cacache", measure::<Cacache>),
    ];
    // After all others, whose memory it would change. Each of cacache's takes a millisecond.
    let many: [(&str, Measure); 3] =
        [("larder", measure_many::<Store>), ("redb", measure_many::<Redb>), ("fjall", measure_many::<Fjall>)];
    for (part, contenders) in [("", &contenders[..]), (", many", &many)] {
        for run in 0..=runs {
            eprintln!("run {run} of {runs}{part}");
            // The first warms up.
            let mut warm = Times::new();
            let times = if run == 0 { &mut warm } else { &mut times };
            for (name, measure) in contenders.iter().filter(|(name, _)| takes_part(name)) {
                // Nobody is measured while the disk takes what the one before has written: cacache leaves 25,000 files.
                if !std::process::Command::new("sync").status()?.success() {
                    return Err("sync has failed".into());
                }
                measure(name, &dir, times)?;
            }
        }
    }
    println!("| value | | larder | redb | fjall | cacache | larder ÷ best other |");
    println!("|---|---|---|---|---|---|---|");
    for ((size, _, what), by) in &times {
        let of = |name: &str| by.get(name).map(|times| median(times));
        let told = |name| of(name).map_or("".to_owned(), |time| format!("{time:.1} µs"));
        let best = ["redb", "fjall", "cacache"].into_iter().filter_map(of).fold(f64::INFINITY, f64::min);
        println!(
            "| {} KiB | {what} | {} | {} | {} | {} | {:.2} |",
            size >> 10,
            told("larder"),
            told("redb"),
            told("fjall"),
            told("cacache"),
            of("larder").unwrap_or(f64::NAN) / best
        );
    }
    Ok(())
}
