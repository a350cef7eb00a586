//! The filesystem under a store is shut down in mid-flight, which keeps what it has written to its device and no more.

use std::fs::File;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::ledger::{Crash, Ledger};
use crate::support::disk::Disk;
use crate::support::mounted::{Mounted, can_mount, larder, wait_until};
use crate::support::random::{Random, setting};
use crate::support::sys;
use crate::writers;

fn rounds_on(fstype: &str) {
    if !can_mount() {
        return;
    }
    let Some(disk) = Disk::new(fstype) else { return };
    let rounds = setting("LARDER_TEST_ROUNDS", 2);
    let mut random = Random::new();
    // A short interval: more of the rounds meet a commit that nobody asked for, and a checkpoint.
    let flags = ["--cache-size-limit", "16MiB", "--commit-interval", "200ms"];
    let mut mounted = Mounted::unmounted(Some(disk.path().join("store")), &flags);
    mounted.mount();
    let point = mounted.point();
    writers::prepare(&point);
    mounted.sync();
    let mut ledgers: Vec<Ledger> = writers::found(&point).iter().map(Ledger::new).collect();
    let mut steps = 0;
    for round in 1..=rounds {
        let alive = Duration::from_micros(50_000 + random.below(1_500_000));
        ledgers = writers::run(&point, random.next(), ledgers, |now| {
            std::thread::sleep(alive);
            let root = File::open(disk.path()).unwrap();
            now.dying.store(true, Ordering::SeqCst);
            sys::shut_down(&root).unwrap();
        });
        let taken: usize = ledgers.iter().map(Ledger::len).sum();
        steps += taken;
        // Its daemon is told to end, or is not: a machine that loses power tells nobody.
        if random.below(2) == 0 {
            let ended = larder(["umount".as_ref(), point.as_os_str()]);
            assert!(!ended.status.success(), "round {round}: not everything can be durable");
        }
        mounted.is_over();
        wait_until("nobody uses the disk", Duration::from_secs(60), || disk.try_umount());
        disk.mount();
        mounted.check();
        mounted.mount();
        ledgers = writers::check(Crash::Power, &ledgers, writers::found(&point)).unwrap_or_else(|why| {
            panic!("round {round}, power lost after {alive:?} and {taken} steps: {why}")
        });
        // What was found is the ground of the next round, and lasts.
        mounted.sync();
    }
    println!("{rounds} rounds, {steps} steps");
    assert!(steps as u64 > rounds * 5, "{steps} steps in {rounds} rounds");
}

#[test]
fn power_loss_of_an_ext4_under_load_takes_nothing_that_was_fsynced_and_leaves_a_tree_of_one_moment() {
    rounds_on("ext4");
}

#[test]
fn power_loss_of_an_xfs_under_load_takes_nothing_that_was_fsynced_and_leaves_a_tree_of_one_moment() {
    rounds_on("xfs");
}
