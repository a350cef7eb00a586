//! Other processes, forked off a test: each runs a closure and talks to the test by lines.
#![allow(dead_code, reason = "each kind of test uses a part of it")]
#![expect(unsafe_code, reason = "fork(2)")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork};

use crate::support::mounted::wait_until;

/// How long an answer may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// One end of the line between a test and a process.
pub struct Wire(BufReader<UnixStream>);

impl Wire {
    fn new(stream: UnixStream) -> Wire {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Wire(BufReader::new(stream))
    }

    pub fn say(&mut self, line: impl AsRef<str>) {
        self.0.get_mut().write_all(format!("{}\n", line.as_ref()).as_bytes()).unwrap();
    }

    /// The other side's next line; empty when it has ended.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap_or_else(|error| panic!("no answer within {PATIENCE:?}: {error}"));
        line.trim_end_matches('\n').to_owned()
    }
}

/// A process. Dropped, it is killed.
pub struct Child {
    pid: Pid,
    wire: Wire,
    running: bool,
}

impl Child {
    /// Runs `work` in a forked process. When it panics, its line says so.
    pub fn spawn(work: impl FnOnce(&mut Wire)) -> Child {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // SAFETY: the C library keeps malloc usable in a forked child, and the tests of this program run
        // one at a time: no other thread of it holds a lock that the child needs.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => {
                drop(theirs);
                Child { pid: child, wire: Wire::new(ours), running: true }
            }
            ForkResult::Child => {
                drop(ours);
                // SAFETY: nothing but a number is passed. A test that ends takes its children along.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                let mut wire = Wire::new(theirs);
                let code = match catch_unwind(AssertUnwindSafe(|| work(&mut wire))) {
                    Ok(()) => 0,
                    Err(panic) => {
                        let text = panic.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                        wire.say(format!("panicked: {}", text.unwrap_or_default()).replace('\n', " "));
                        101
                    }
                };
                // SAFETY: ends the process without running what belongs to the parent.
                unsafe { libc::_exit(code) }
            }
        }
    }

    pub fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    pub fn say(&mut self, line: impl AsRef<str>) {
        self.wire.say(line);
    }

    pub fn hear(&mut self) -> String {
        self.wire.hear()
    }

    /// The next line, if it comes in time.
    pub fn hear_within(&mut self, limit: Duration) -> Option<String> {
        self.wire.0.get_ref().set_read_timeout(Some(limit)).unwrap();
        let mut line = String::new();
        let heard = self.wire.0.read_line(&mut line);
        self.wire.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        heard.is_ok().then(|| line.trim_end_matches('\n').to_owned())
    }

    /// The next line must be this one.
    #[track_caller]
    pub fn says(&mut self, expected: &str) {
        assert_eq!(self.hear(), expected);
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Waits until the process sleeps in this system call.
    pub fn blocks_in(&self, call: libc::c_long) {
        let file = format!("/proc/{}/syscall", self.pid);
        wait_until("the process blocks", PATIENCE, || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            text.split(' ').next() == Some(&call.to_string())
        });
    }

    /// Waits for the end.
    pub fn join(mut self) -> WaitStatus {
        self.running = false;
        waitpid(self.pid, None).unwrap()
    }

    /// Ends by kill -9.
    pub fn dies(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.running) {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// Somebody who is not root.
#[derive(Clone, Copy)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'static [u32],
}

impl User {
    /// Runs `work` in a process of this user, with the umask 0; returns its errno, 0 for success.
    pub fn tries<T>(self, work: impl FnOnce() -> std::io::Result<T>) -> i32 {
        let mut child = Child::spawn(|wire| {
            let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
            nix::unistd::setgroups(&groups).unwrap();
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            nix::unistd::setresgid(gid, gid, gid).unwrap();
            nix::unistd::setresuid(uid, uid, uid).unwrap();
            nix::sys::stat::umask(nix::sys::stat::Mode::empty());
            wire.say(crate::errno(work()).to_string());
        });
        let answer = child.hear();
        answer.parse().unwrap_or_else(|_| panic!("{answer}"))
    }

    /// As [`User::tries`]; it must succeed.
    #[track_caller]
    pub fn does<T>(self, work: impl FnOnce() -> std::io::Result<T>) {
        assert_eq!(self.tries(work), 0);
    }
}
