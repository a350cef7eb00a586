//! flock(2), POSIX locks and open-file-description locks between processes.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use crate::calls::{Owner, Want, flock, in_the_way, interrupt_on, lock};
use crate::process::Child;
use crate::support::mounted::{have, succeeds};
use crate::{Stage, errno, open};

const BUSY: i32 = libc::EWOULDBLOCK;

/// The three kinds of lock on a whole file.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Flock,
    Range(Owner),
}

const KINDS: [Kind; 3] = [Kind::Flock, Kind::Range(Owner::Process), Kind::Range(Owner::OpenFile)];

impl Kind {
    fn take(self, file: &File, want: Want, wait: bool) -> std::io::Result<()> {
        match self {
            Kind::Range(owner) => lock(file, owner, want, 0, 0, wait),
            Kind::Flock => {
                let operation = match want {
                    Want::Read => libc::LOCK_SH,
                    Want::Write => libc::LOCK_EX,
                    Want::Nothing => libc::LOCK_UN,
                };
                flock(file, operation | if wait { 0 } else { libc::LOCK_NB })
            }
        }
    }

    fn call(self) -> libc::c_long {
        match self {
            Kind::Flock => libc::SYS_flock,
            Kind::Range(_) => libc::SYS_fcntl,
        }
    }
}

/// A process that takes a lock, says `locked`, and on each line does as told, then says `done`.
fn holder(path: &Path, kind: Kind, want: Want) -> Child {
    let mut child = Child::spawn(|wire| {
        let file = open(path);
        let mut file = Some(file);
        kind.take(file.as_ref().unwrap(), want, true).unwrap();
        wire.say("locked");
        loop {
            match wire.hear().as_str() {
                "share" => kind.take(file.as_ref().unwrap(), Want::Read, true).unwrap(),
                "release" => kind.take(file.as_ref().unwrap(), Want::Nothing, true).unwrap(),
                "close" => drop(file.take()),
                _ => return,
            }
            wire.say("done");
        }
    });
    child.says("locked");
    child
}

#[test]
fn locks_of_every_kind_exclude_other_processes_until_they_are_shared_or_released() {
    let Some(stage) = Stage::new() else { return };
    let path = stage.at("file");
    for kind in KINDS {
        let mine = open(&path);
        let mut other = holder(&path, kind, Want::Write);
        assert_eq!(errno(kind.take(&mine, Want::Write, false)), BUSY, "{kind:?}");
        assert_eq!(errno(kind.take(&mine, Want::Read, false)), BUSY, "{kind:?}");
        other.say("share");
        other.says("done");
        assert_eq!(errno(kind.take(&mine, Want::Write, false)), BUSY, "{kind:?}: shared with readers only");
        kind.take(&mine, Want::Read, false).unwrap();
        other.say("release");
        other.says("done");
        kind.take(&mine, Want::Write, false).unwrap();
    }
}

#[test]
fn a_lock_ends_when_its_file_is_closed_and_when_its_process_is_killed() {
    let Some(stage) = Stage::new() else { return };
    let path = stage.at("file");
    for kind in KINDS {
        let mine = open(&path);
        let mut other = holder(&path, kind, Want::Write);
        assert_eq!(errno(kind.take(&mine, Want::Write, false)), BUSY, "{kind:?}");
        other.say("close");
        other.says("done");
        kind.take(&mine, Want::Write, false).unwrap();
        kind.take(&mine, Want::Nothing, false).unwrap();
        let other = holder(&path, kind, Want::Write);
        let mut waiting = Child::spawn(|wire| {
            kind.take(&open(&path), Want::Write, true).unwrap();
            wire.say("mine now");
        });
        waiting.blocks_in(kind.call());
        other.dies();
        waiting.says("mine now");
        assert_eq!(errno(kind.take(&mine, Want::Write, true)), 0, "{kind:?}: and when it ends by itself");
    }
}

#[test]
fn a_process_that_waits_for_a_lock_is_interrupted_by_a_signal_and_can_be_killed() {
    let Some(stage) = Stage::new() else { return };
    let path = stage.at("file");
    for kind in KINDS {
        let _holder = holder(&path, kind, Want::Write);
        let mut waiting = Child::spawn(|wire| {
            interrupt_on(libc::SIGUSR1);
            let file = open(&path);
            wire.say(errno(kind.take(&file, Want::Write, true)).to_string());
            wire.say(errno(kind.take(&file, Want::Write, true)).to_string());
        });
        waiting.blocks_in(kind.call());
        waiting.signal(Signal::SIGUSR1);
        waiting.says(&libc::EINTR.to_string());
        waiting.blocks_in(kind.call());
        waiting.signal(Signal::SIGKILL);
        assert!(matches!(waiting.join(), WaitStatus::Signaled(_, Signal::SIGKILL, _)), "{kind:?}");
    }
}

#[test]
fn two_processes_that_wait_for_each_other_are_told_of_the_deadlock() {
    let Some(stage) = Stage::new() else { return };
    let path = stage.at("file");
    let mine = open(&path);
    let mut other = Child::spawn(|wire| {
        let file = open(&path);
        lock(&file, Owner::Process, Want::Write, 0, 1, true).unwrap();
        wire.say("locked 0");
        assert_eq!(wire.hear(), "go");
        let second = lock(&file, Owner::Process, Want::Write, 1, 1, true);
        wire.say(format!("1: {}", errno(second)));
    });
    other.says("locked 0");
    lock(&mine, Owner::Process, Want::Write, 1, 1, false).unwrap();
    other.say("go");
    other.blocks_in(libc::SYS_fcntl);
    assert_eq!(errno(lock(&mine, Owner::Process, Want::Write, 0, 1, true)), libc::EDEADLK);
    lock(&mine, Owner::Process, Want::Nothing, 1, 1, false).unwrap();
    other.says("1: 0");
}

#[test]
fn posix_locks_are_by_range_and_name_their_process() {
    let Some(stage) = Stage::new() else { return };
    let path = stage.at("file");
    let mine = open(&path);
    let mut other = Child::spawn(|wire| {
        let file = open(&path);
        lock(&file, Owner::Process, Want::Write, 10, 20, true).unwrap();
        // In the middle of it a hole and a part for reading: three locks.
        lock(&file, Owner::Process, Want::Nothing, 15, 5, true).unwrap();
        lock(&file, Owner::Process, Want::Read, 25, 5, true).unwrap();
        wire.say("locked");
        wire.hear();
        // Any descriptor of the file that the process closes ends all its locks (POSIX.1, fcntl).
        drop(open(&path));
        wire.say("closed another");
        wire.hear();
    });
    other.says("locked");
    let id = other.id();
    assert_eq!(in_the_way(&mine, Owner::Process, 0, 0), Some((true, 10, 5, id)));
    assert_eq!(in_the_way(&mine, Owner::Process, 15, 5), None);
    assert_eq!(in_the_way(&mine, Owner::Process, 16, 0), Some((true, 20, 5, id)));
    assert_eq!(in_the_way(&mine, Owner::Process, 25, 1), Some((false, 25, 5, id)));
    lock(&mine, Owner::Process, Want::Write, 0, 10, false).unwrap();
    lock(&mine, Owner::Process, Want::Write, 15, 5, false).unwrap();
    lock(&mine, Owner::Process, Want::Read, 26, 2, false).unwrap();
    assert_eq!(errno(lock(&mine, Owner::Process, Want::Write, 9, 2, false)), libc::EAGAIN);
    // Far beyond the end, and up to the largest offset.
    lock(&mine, Owner::Process, Want::Write, i64::MAX - 1, 1, false).unwrap();
    other.say("go on");
    other.says("closed another");
    lock(&mine, Owner::Process, Want::Write, 0, 0, false).unwrap();
}

#[test]
fn open_file_locks_exclude_other_openings_of_the_same_process_and_go_over_to_forked_children() {
    let Some(stage) = Stage::new() else { return };
    let path = stage.at("file");
    let (one, two) = (open(&path), open(&path));
    lock(&one, Owner::OpenFile, Want::Write, 0, 100, false).unwrap();
    assert_eq!(errno(lock(&two, Owner::OpenFile, Want::Write, 50, 1, false)), libc::EAGAIN);
    assert_eq!(in_the_way(&two, Owner::OpenFile, 50, 1), Some((true, 0, 100, -1)), "of no one process");
    assert_eq!(errno(lock(&two, Owner::Process, Want::Read, 50, 1, false)), libc::EAGAIN, "POSIX locks too");
    let mut heir = Child::spawn(|wire| {
        // The same open file: no conflict.
        lock(&one, Owner::OpenFile, Want::Read, 0, 100, false).unwrap();
        wire.say("shared");
        wire.hear();
    });
    heir.says("shared");
    drop(one);
    lock(&two, Owner::OpenFile, Want::Read, 0, 100, false).unwrap();
    assert_eq!(errno(lock(&two, Owner::OpenFile, Want::Write, 0, 100, false)), libc::EAGAIN);
    heir.dies();
    lock(&two, Owner::OpenFile, Want::Write, 0, 100, false).unwrap();
}

#[test]
fn a_lock_is_on_the_file_and_not_on_its_name() {
    let Some(stage) = Stage::new() else { return };
    let (path, moved, linked) = (stage.at("file"), stage.at("moved"), stage.at("linked"));
    for kind in KINDS {
        fs::write(&path, "x").unwrap();
        fs::hard_link(&path, &linked).unwrap();
        let _holder = holder(&path, kind, Want::Write);
        fs::rename(&path, &moved).unwrap();
        for name in [&moved, &linked] {
            assert_eq!(errno(kind.take(&open(name), Want::Write, false)), BUSY, "{kind:?}");
        }
        // Another file of the old name.
        kind.take(&open(&path), Want::Write, false).unwrap();
        let held = open(&moved);
        fs::remove_file(&moved).unwrap();
        fs::remove_file(&linked).unwrap();
        assert_eq!(held.metadata().unwrap().nlink(), 0);
        assert_eq!(errno(kind.take(&held, Want::Write, false)), BUSY, "{kind:?}: unlinked");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_lock_file_of_o_excl_and_rename_is_held_by_one_process_at_a_time() {
    let Some(stage) = Stage::new() else { return };
    // As git does it: the new content goes into the lock file, which is renamed over the old one.
    let (counter, lock_file) = (stage.at("counter"), stage.at("counter.lock"));
    fs::write(&counter, "0").unwrap();
    let work = || {
        for _ in 0..50 {
            let mut held = loop {
                match fs::OpenOptions::new().write(true).create_new(true).open(&lock_file) {
                    Ok(file) => break file,
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists),
                }
                std::thread::yield_now();
            };
            let number: u32 = fs::read_to_string(&counter).unwrap().parse().unwrap();
            std::io::Write::write_all(&mut held, (number + 1).to_string().as_bytes()).unwrap();
            fs::rename(&lock_file, &counter).unwrap();
        }
    };
    let children: Vec<Child> = (0..6)
        .map(|_| {
            Child::spawn(|wire| {
                work();
                wire.say("through");
            })
        })
        .collect();
    for mut child in children {
        child.says("through");
    }
    assert_eq!(fs::read_to_string(&counter).unwrap(), "300");
}

/// Two connections of two processes to a database on the mount; prints what each got.
const TWO_CONNECTIONS: &str = r#"
import os, signal, sqlite3, sys
path, mode = sys.argv[1], sys.argv[2]
def connect():
    return sqlite3.connect(path, isolation_level=None, timeout=0)
c = connect()
assert c.execute("PRAGMA journal_mode=" + mode).fetchone()[0] == mode
c.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
c.execute("INSERT INTO t (v) VALUES (randomblob(500))")
c.close()
down, up = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.close(down[1])
    c = connect()
    c.execute("BEGIN EXCLUSIVE")
    for n in range(2000):
        c.execute("INSERT INTO t (v) VALUES (randomblob(500))")
    os.write(up[1], b"x")
    os.read(down[0], 1)
    os._exit(1)
os.read(up[0], 1)
c = connect()
try:
    c.execute("BEGIN IMMEDIATE")
    print("two writers at once")
except sqlite3.OperationalError as error:
    print("busy:", "locked" in str(error))
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
c.execute("BEGIN IMMEDIATE")
c.execute("INSERT INTO t (v) VALUES ('after')")
c.execute("COMMIT")
print("rows:", c.execute("SELECT count(*) FROM t").fetchone()[0])
print("check:", c.execute("PRAGMA integrity_check").fetchone()[0])
"#;

#[test]
fn sqlite_keeps_two_writers_apart_and_rolls_back_what_a_killed_one_left() {
    let Some(stage) = Stage::new() else { return };
    if !have("python3") {
        return;
    }
    for mode in ["delete", "truncate", "persist", "wal"] {
        let database = stage.at(mode);
        let mut command = Command::new("python3");
        let output = succeeds(command.args(["-c", TWO_CONNECTIONS]).arg(&database).arg(mode));
        assert_eq!(output, "busy: True\nrows: 2\ncheck: ok\n", "{mode}");
    }
}
