//! The daemon is killed while writers are at work, again and again on the same store.

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::ledger::{Crash, Ledger};
use crate::support::mounted::Mounted;
use crate::support::random::{Random, setting};
use crate::writers;

#[test]
fn kill_9_under_load_takes_nothing_that_was_acknowledged_or_fsynced() {
    // The least cache: most often a kill meets write-back, and pages that are read anew.
    let Some(mut mounted) = Mounted::with(&["--cache-size-limit", "16MiB", "--commit-interval", "1s"]) else {
        return;
    };
    let rounds = setting("LARDER_TEST_ROUNDS", 20);
    let mut random = Random::new();
    writers::prepare(&mounted.point());
    let mut ledgers: Vec<Ledger> = writers::found(&mounted.point()).iter().map(Ledger::new).collect();
    let mut steps = 0;
    for round in 1..=rounds {
        // A second, now and then, brings a commit of its own and a checkpoint.
        let alive = Duration::from_micros(match random.below(8) {
            0 => 1_000_000 + random.below(1_000_000),
            1..4 => random.below(100_000),
            _ => random.below(500_000),
        });
        let (seed, point) = (random.next(), mounted.point());
        ledgers = writers::run(&point, seed, ledgers, |now| {
            std::thread::sleep(alive);
            now.dying.store(true, Ordering::SeqCst);
            mounted.kill();
        });
        let taken: usize = ledgers.iter().map(Ledger::len).sum();
        steps += taken;
        // Mounting anew repairs what the crash left; that, too, may be cut off.
        if random.below(3) == 0 {
            mount_cut_off(&mounted, Duration::from_micros(random.below(60_000)));
        }
        mounted.check();
        mounted.mount();
        ledgers = writers::check(Crash::Killed, &ledgers, writers::found(&point))
            .unwrap_or_else(|why| panic!("round {round}, killed after {alive:?} and {taken} steps: {why}"));
    }
    println!("{rounds} rounds, {steps} steps");
    // Otherwise the rounds prove nothing.
    assert!(steps as u64 > rounds * 5, "{steps} steps in {rounds} rounds");
}

/// A mount whose daemon is killed a moment after it was started, before it is ready or after.
fn mount_cut_off(mounted: &Mounted, after: Duration) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(["mount", "--foreground"]).arg(mounted.store()).arg(mounted.point());
    let mut daemon = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(after);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
