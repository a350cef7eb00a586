//! Tells which threads wait for what, when something that should go on does not.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use crate::process::Child;

/// What each thread of a process does: its name, and where in the kernel it sleeps.
pub fn threads_of(process: i32) -> String {
    let mut text = String::new();
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    for task in tasks.map(|task| task.path()) {
        let part = |name: &str| {
            fs::read_to_string(task.join(name)).unwrap_or_default().trim().replace('\n', "\n    ")
        };
        let state =
            part("status").lines().find_map(|line| line.trim().strip_prefix("State:").map(str::to_owned));
        writeln!(
            text,
            "{process}/{} {}: {}, waits in {}, system call {}\n    {}",
            task.file_name().unwrap_or_default().to_string_lossy(),
            part("comm"),
            state.unwrap_or_default().trim(),
            part("wchan"),
            part("syscall"),
            part("stack"),
        )
        .unwrap();
    }
    text
}

/// The child's next line. When none comes in time, says what all the processes do; the daemon is killed
/// then, so that its mount can be cleared away.
pub fn hear(child: &mut Child, limit: Duration, daemon: i32, others: &[i32]) -> String {
    child.hear_within(limit).unwrap_or_else(|| {
        let all = [child.id(), daemon].into_iter().chain(others.iter().copied());
        let text: String = all.map(threads_of).collect();
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), nix::sys::signal::Signal::SIGKILL);
        panic!("nothing within {limit:?}; the threads:\n{text}");
    })
}
