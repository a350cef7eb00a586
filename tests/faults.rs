//! The disk dies at the n-th operation, for each n of a workload: what is found is a moment of its history.
//!
//! `LARDER_FAULT_SEED` begins the seeds elsewhere (they decide what a crash keeps, drops and tears).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod model;
mod support;

use larder::clock::{Clock, Time};
use larder::io::faulty::{Fault, FaultyDisk, Kind};
use model::fs::{Call, Fs, How, ROOT};
use model::history::{self, History};
use model::ops::{Fill, Step};
use model::store::{Disk, LEAST_CACHE, START, Store};
use model::system::System;

fn workload() -> Vec<Step> {
    let name = |text: &str| text.as_bytes().to_vec();
    let file = |text: &str, id| Call::Mknod { dir: ROOT, name: name(text), mode: libc::S_IFREG | 0o644, id };
    let write = |of, offset, data| Call::Write { of, offset, data };
    let rename = |from: &str, to: &str, how| Call::Rename {
        dir: ROOT,
        name: name(from),
        new_dir: ROOT,
        new_name: name(to),
        how,
    };
    let call = |call| Step::Call(call, true);
    vec![
        call(file("key", 2)),
        call(write(2, 0, Fill::Text(1).bytes(300_000))),
        Step::Fsync(2, false),
        call(file("key.new", 3)),
        call(write(3, 0, Fill::Noise(2).bytes(200_000))),
        call(rename("key.new", "key", How::Replace)),
        call(Call::Mkdir { dir: ROOT, name: name("dir"), mode: 0o755, id: 4 }),
        Step::Sync,
        call(rename("key", "dir", How::Exchange)),
        call(Call::Truncate { of: 3, size: 1000 }),
        call(Call::SetXattr { of: 3, name: name("user.a"), value: name("b"), flags: 0 }),
        call(Call::Chmod { of: 4, mode: 0o700 }),
        Step::Sync,
    ]
}

#[test]
fn whichever_operation_the_disk_dies_at_the_tree_found_is_that_of_one_moment_since_the_last_sync() {
    let first = std::env::var("LARDER_FAULT_SEED").map_or(1, |text| text.parse::<u64>().expect("a number"));
    let (mut n, mut points) = (0, 0);
    loop {
        let disk = FaultyDisk::new(first + n);
        let mut store = Store::new(Disk::Faulty(disk.clone()), LEAST_CACHE);
        // From the n-th on none succeeds.
        (n..n + 2000).for_each(|n| disk.fail(Kind::Any, n, Fault::Errno(libc::EIO)));
        let (mut fs, mut died) = (Fs::new(), false);
        let mut history = History::new(&fs);
        for (at, step) in workload().iter().enumerate() {
            let now = START + 1_000_000_000 * (at as i64 + 1);
            let done = match step {
                Step::Call(call, _) => store.apply(call, now).map(|_| ()),
                Step::Fsync(id, data_only) => store.fsync(*id, *data_only),
                _ => store.sync(),
            };
            // One that failed may be there, but is not confirmed: a moment that does not raise the floor.
            died = done.is_err();
            if let Step::Call(call, _) = step {
                fs.apply(call, now).expect("the workload is right");
                history.note(&fs, step);
            } else if !died {
                history.note(&fs, step);
            }
            if died {
                break;
            }
        }
        for crash in 0..3 {
            let left = store.crashed(true);
            let sound = |when| {
                let checked = left.is_sound(when);
                checked.unwrap_or_else(|e| panic!("n {n}, seed {first}, crash {crash}: {e}\n{}", disk.log()));
            };
            sound("of what the crash left");
            let found = left.open(LEAST_CACHE, &Clock::manual(Time(START)));
            let found = found.unwrap_or_else(|e| panic!("n {n}, seed {first}, crash {crash}: opening: {e}"));
            let (tree, contents) = history::found(&found).unwrap();
            let allowed = history.allows(false, &tree, &contents);
            allowed.unwrap_or_else(|e| panic!("n {n}, seed {first}, crash {crash}: {e}\n{}", disk.log()));
            found.close().unwrap();
            sound("after the next mount");
            points += 1;
        }
        if !died {
            break;
        }
        n += 1;
    }
    assert!(points > 30, "only {points} points: the workload does not reach the disk");
}
