//! Something to look at for who waits.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;

/// Does something while a terminal shows what, and for how long already; elsewhere nothing is shown.
pub fn waiting<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    let done = work();
    bar.finish_and_clear();
    done
}
