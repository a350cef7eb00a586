//! Something to look at for who waits.

use std::io::IsTerminal;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use indicatif::{ProgressBar, ProgressStyle};
use larder::store::Store;

use super::human;

/// How often it is looked how far something has come.
const LOOK: Duration = Duration::from_millis(500);

/// Does something to a store while a terminal shows what, for how long already, and what has gone of the store meanwhile;
/// elsewhere nothing is shown.
pub fn watching<T>(store: &Store, what: &'static str, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let bar = ProgressBar::new_spinner();
    // Fails only for templates that are none.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    let (done, ended) = bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let Ok(first) = store.stats() else { return };
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let Ok(now) = store.stats() else { return };
                let files = first.inodes.saturating_sub(now.inodes);
                let bytes = human(first.disk_bytes.saturating_sub(now.disk_bytes));
                bar.set_message(format!("{what}: {files} files gone, {bytes} given back"));
            }
        });
        let outcome = work();
        drop(done);
        bar.finish_and_clear();
        outcome
    })
}

/// A bar of bytes, where a person looks on.
pub fn bytes_bar(what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    // Fails only for templates that are none.
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
    {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
