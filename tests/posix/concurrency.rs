//! Many processes in few directories. By command for longer: `LARDER_TEST_SECONDS=120`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{Pid, UnlinkatFlags, linkat, symlinkat, unlinkat};

use crate::linear::{DIRS, Event, Kind, NAMES, Node, Op, State, Verdict, check};
use crate::process::{Child, Wire};
use crate::support::mounted::wait_until;
use crate::support::sys;
use crate::watchdog;
use crate::{Random, Stage, setting};

const PROCESSES: usize = 16;

/// Operations of each process between two looks at what is there: few enough that the checker decides.
const ROUND: u64 = 6;

/// No operation takes so long; a test that waits longer tells who waits for what.
const LIMIT: Duration = Duration::from_secs(30);

fn clock() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64
}

fn kind_of(mode: u32) -> Kind {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => Kind::Dir,
        libc::S_IFLNK => Kind::Link,
        _ => Kind::File,
    }
}

fn random_op(random: &mut Random) -> Op {
    let places = (DIRS * NAMES) as u64;
    let (at, to) = (random.below(places) as usize, random.below(places) as usize);
    match random.below(22) {
        0..=2 => Op::Create(at),
        3..=4 => Op::OpenOrCreate(at),
        5..=6 => Op::Mkdir(at),
        7 => Op::Symlink(at),
        8..=10 => Op::Unlink(at),
        11 => Op::Rmdir(at),
        12..=14 => Op::Stat(at),
        15..=16 => Op::Link(at, to),
        17..=18 => Op::Rename(at, to),
        19 => Op::RenameNoReplace(at, to),
        _ => Op::Exchange(at, to),
    }
}

/// Does an operation, by descriptors of the directories: nothing but the last name is looked up.
fn perform(dirs: &[File], op: Op) -> Event {
    let place = |at: usize| (dirs[at / NAMES].as_fd(), format!("n{}", at % NAMES));
    let make = |at: usize, flags: OFlag| {
        let (dir, name) = place(at);
        let flags = flags | OFlag::O_CREAT | OFlag::O_RDWR | OFlag::O_NOFOLLOW;
        openat(dir, name.as_str(), flags, Mode::from_bits_retain(0o644))
            .and_then(|file| fstat(&file))
            .map(Some)
    };
    let rename = |from: usize, to: usize, flags| {
        let ((dir, name), (new_dir, new_name)) = (place(from), place(to));
        renameat2(dir, name.as_str(), new_dir, new_name.as_str(), flags).map(|()| None)
    };
    let remove = |at: usize, flags| {
        let (dir, name) = place(at);
        unlinkat(dir, name.as_str(), flags).map(|()| None)
    };
    let called = clock();
    let outcome = match op {
        Op::Create(at) => make(at, OFlag::O_EXCL),
        Op::OpenOrCreate(at) => make(at, OFlag::empty()),
        Op::Mkdir(at) => {
            let (dir, name) = place(at);
            mkdirat(dir, name.as_str(), Mode::from_bits_retain(0o755)).map(|()| None)
        }
        Op::Symlink(at) => {
            let (dir, name) = place(at);
            symlinkat("nowhere", dir, name.as_str()).map(|()| None)
        }
        Op::Unlink(at) => remove(at, UnlinkatFlags::NoRemoveDir),
        Op::Rmdir(at) => remove(at, UnlinkatFlags::RemoveDir),
        Op::Stat(at) => {
            let (dir, name) = place(at);
            fstatat(dir, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).map(Some)
        }
        Op::Link(from, to) => {
            let ((dir, name), (new_dir, new_name)) = (place(from), place(to));
            linkat(dir, name.as_str(), new_dir, new_name.as_str(), AtFlags::empty()).map(|()| None)
        }
        Op::Rename(from, to) => rename(from, to, RenameFlags::empty()),
        Op::RenameNoReplace(from, to) => rename(from, to, RenameFlags::RENAME_NOREPLACE),
        Op::Exchange(from, to) => rename(from, to, RenameFlags::RENAME_EXCHANGE),
    };
    let returned = clock();
    let (errno, stat) = match outcome {
        Ok(stat) => (0, stat),
        Err(errno) => (errno as i32, None),
    };
    let kind = stat.map(|stat| kind_of(stat.st_mode));
    Event { op, called, returned, errno, kind, ino: stat.map_or(0, |stat| stat.st_ino) }
}

/// A process that does a round of operations for each seed that it hears.
fn work(dirs: &[File], wire: &mut Wire) {
    while let Ok(seed) = wire.hear().parse() {
        let mut random = Random::of(seed);
        let events: Vec<Event> = (0..ROUND).map(|_| perform(dirs, random_op(&mut random))).collect();
        // What was done follows from the seed: only what came of it has to be told.
        let told = events.iter().map(|event| {
            let kind = event.kind.map_or('-', |kind| match kind {
                Kind::File => 'f',
                Kind::Dir => 'd',
                Kind::Link => 'l',
            });
            format!("{} {} {} {kind} {}", event.called, event.returned, event.errno, event.ino)
        });
        wire.say(told.collect::<Vec<_>>().join(";"));
    }
}

fn history(seed: u64, told: &str) -> Vec<Event> {
    let mut random = Random::of(seed);
    let parse = |part: &str| -> Option<Event> {
        let fields: Vec<&str> = part.split(' ').collect();
        let [called, returned, errno, kind, ino] = fields[..] else { return None };
        let op = random_op(&mut random);
        let kind = match kind {
            "f" => Some(Kind::File),
            "d" => Some(Kind::Dir),
            "l" => Some(Kind::Link),
            _ => None,
        };
        let (called, returned) = (called.parse().ok()?, returned.parse().ok()?);
        Some(Event { op, called, returned, errno: errno.parse().ok()?, kind, ino: ino.parse().ok()? })
    };
    told.split(';').map(parse).collect::<Option<_>>().unwrap_or_else(|| panic!("a process said: {told}"))
}

/// What is there, by listing and by stat; nobody may change it meanwhile.
fn state_of(paths: &[PathBuf]) -> State {
    let mut state = State::default();
    for (d, path) in paths.iter().enumerate() {
        for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap()) {
            let name = entry.file_name().into_string().unwrap();
            let n: usize = name.strip_prefix('n').unwrap().parse().unwrap();
            let stat = fs::symlink_metadata(entry.path()).unwrap();
            assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), stat.ino(), "{name} as listed");
            state[d * NAMES + n] = Some(Node { kind: kind_of(stat.mode()), id: stat.ino() });
        }
        for n in 0..NAMES {
            let there = fs::symlink_metadata(path.join(format!("n{n}"))).is_ok();
            assert_eq!(there, state[d * NAMES + n].is_some(), "n{n} of {d} is listed when it is there");
        }
    }
    // A file has as many names as it says.
    for (at, node) in state.iter().enumerate().filter_map(|(at, node)| Some((at, (*node)?))) {
        let names = state.iter().filter(|other| **other == Some(node)).count() as u64;
        let nlink = fs::symlink_metadata(paths[at / NAMES].join(format!("n{}", at % NAMES))).unwrap().nlink();
        assert_eq!(nlink, if node.kind == Kind::Dir { 2 } else { names }, "links of {node:?}");
    }
    state
}

#[test]
fn what_16_processes_see_of_a_few_directories_is_what_some_order_of_their_operations_gives() {
    let Some(mut stage) = Stage::new() else { return };
    let paths: Vec<PathBuf> = (0..DIRS).map(|d| stage.at(format!("dir{d}"))).collect();
    paths.iter().for_each(|path| fs::create_dir(path).unwrap());
    let open_dirs =
        || -> Vec<File> { paths.iter().map(|path| File::options().read(true).open(path).unwrap()).collect() };
    let mut children: Vec<Child> =
        (0..PROCESSES).map(|_| Child::spawn(|wire| work(&open_dirs(), wire))).collect();
    let ids: Vec<i32> = children.iter().map(Child::id).collect();
    let daemon = stage.status()["pid"].as_i64().unwrap() as i32;
    let mut random = Random::new();
    let begun = Instant::now();
    let [least, most] = [setting("LARDER_TEST_SECONDS", 5), 120].map(Duration::from_secs);
    let (mut rounds, mut undecided, mut refused) = (0, 0, 0);
    let mut state = State::default();
    // Enough of them that one says nothing, also on a slow machine.
    while begun.elapsed() < least || (rounds < 100 && begun.elapsed() < most) {
        let seeds: Vec<u64> = children.iter().map(|_| random.next()).collect();
        children.iter_mut().zip(&seeds).for_each(|(child, seed)| child.say(seed.to_string()));
        let told = children.iter_mut().map(|child| watchdog::hear(child, LIMIT, daemon, &ids));
        let told: Vec<String> = told.collect();
        let histories: Vec<Vec<Event>> =
            seeds.iter().zip(&told).map(|(seed, told)| history(*seed, told)).collect();
        let there = state_of(&paths);
        let verdict = match check(&histories, state, &there) {
            // A link that the kernel refused by itself (docs/conformance.md) does nothing: without those.
            Verdict::Impossible => {
                refused += 1;
                check(&without_refused_links(&histories), state, &there)
            }
            verdict => verdict,
        };
        match verdict {
            Verdict::Possible(after) => state = after,
            Verdict::Undecided => {
                undecided += 1;
                state = there;
            }
            Verdict::Impossible => {
                let mut events: Vec<(usize, &Event)> = histories
                    .iter()
                    .enumerate()
                    .flat_map(|(n, all)| all.iter().map(move |event| (n, event)))
                    .collect();
                events.sort_by_key(|(_, event)| event.called);
                let text: String = events.iter().map(|(n, event)| format!("{n}: {event:?}\n")).collect();
                panic!("round {rounds}: no order explains this\nfrom {state:?}\n{text}to {there:?}");
            }
        }
        rounds += 1;
    }
    println!(
        "{rounds} rounds of {} operations, {undecided} undecided, {refused} with a refused link",
        PROCESSES as u64 * ROUND
    );
    assert!(refused * 50 <= rounds + 50, "{refused} rounds with a refused link are more than a rare race");
    assert!(rounds > 5 && undecided * 20 <= rounds, "{undecided} of {rounds} rounds are undecided");
    drop(children);
    let before = state_of(&paths);
    stage.remount();
    assert_eq!(state_of(&paths), before, "after a remount");
}

/// The histories without the links that failed with ENOENT.
fn without_refused_links(histories: &[Vec<Event>]) -> Vec<Vec<Event>> {
    let refused = |event: &Event| matches!(event.op, Op::Link(..)) && event.errno == libc::ENOENT;
    histories.iter().map(|all| all.iter().filter(|event| !refused(event)).copied().collect()).collect()
}

/// Every directory below `top` with its inode number, each once; checks links and listings.
fn walk(top: &Path) -> BTreeMap<u64, (PathBuf, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    // Moved into each other, directories lie deeper than a path may be long: from some depth on by descriptor.
    let mut held = Vec::new();
    let mut todo = vec![(top.to_owned(), PathBuf::new())];
    while let Some((dir, place)) = todo.pop() {
        let dir = if dir.as_os_str().len() < 2000 {
            dir
        } else {
            held.push(File::options().read(true).open(&dir).unwrap());
            PathBuf::from(format!("/proc/self/fd/{}", held[held.len() - 1].as_raw_fd()))
        };
        let stat = fs::metadata(&dir).unwrap();
        let mut inner = 0;
        for entry in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap()) {
            if entry.file_type().unwrap().is_dir() {
                inner += 1;
                todo.push((dir.join(entry.file_name()), place.join(entry.file_name())));
            }
        }
        assert_eq!(stat.nlink(), 2 + inner, "links of {}", place.display());
        let content = fs::read(dir.join("file")).ok();
        let twice = found.insert(stat.ino(), (place.clone(), content));
        assert_eq!(twice, None, "{} is one directory at two places", place.display());
    }
    found
}

/// A path of one to four names out of few.
fn random_path(random: &mut Random, top: &Path) -> PathBuf {
    let depth = 1 + random.below(4);
    (0..depth).fold(top.to_owned(), |path, _| path.join(format!("d{}", random.below(3))))
}

/// Makes, removes, moves and exchanges directories at random until told to stop.
fn storm(top: &Path, seed: u64, end: Instant, own: &Path) -> u64 {
    let mut random = Random::of(seed);
    let mut done = 0;
    while Instant::now() < end {
        let (a, b) = (random_path(&mut random, top), random_path(&mut random, top));
        let outcome = match random.below(8) {
            0..=1 => fs::create_dir(&a),
            2 => fs::remove_dir(&a),
            3..=5 => fs::rename(&a, &b),
            6 => sys::rename(&a, &b, libc::RENAME_EXCHANGE),
            _ => {
                // From one's own corner into the storm or back: what is moved is never empty.
                fs::rename(own.join("treasure"), &a).or_else(|_| fs::rename(&a, own.join("treasure")))
            }
        };
        match outcome {
            Ok(()) => done += 1,
            Err(error) => {
                let errno = Errno::from_raw(error.raw_os_error().unwrap());
                // ESTALE and EIO among others would be wrong.
                let possible = [Errno::ENOENT, Errno::EEXIST, Errno::ENOTEMPTY, Errno::EINVAL];
                assert!(possible.contains(&errno), "{errno}: {} {}", a.display(), b.display());
            }
        }
    }
    done
}

#[test]
fn storms_of_crossing_renames_make_no_cycle_and_lose_no_tree() {
    let Some(mut stage) = Stage::new() else { return };
    let top = stage.at("top");
    fs::create_dir(&top).unwrap();
    let corners: Vec<PathBuf> = (0..PROCESSES).map(|n| stage.at(format!("corner{n}"))).collect();
    for corner in &corners {
        // Each corner has a tree that cannot be removed, for there is a file at its bottom.
        fs::create_dir_all(corner.join("treasure/inner")).unwrap();
        fs::write(corner.join("treasure/inner/file"), corner.as_os_str().as_encoded_bytes()).unwrap();
    }
    let mut random = Random::new();
    let end = Instant::now() + Duration::from_secs(setting("LARDER_TEST_SECONDS", 4));
    let mut children: Vec<Child> = corners
        .iter()
        .map(|corner| (corner, random.next()))
        .map(|(corner, seed)| Child::spawn(|wire| wire.say(storm(&top, seed, end, corner).to_string())))
        .collect();
    let ids: Vec<i32> = children.iter().map(Child::id).collect();
    let daemon = stage.status()["pid"].as_i64().unwrap() as i32;
    let mut done = 0;
    for child in &mut children {
        let told = watchdog::hear(child, end.saturating_duration_since(Instant::now()) + LIMIT, daemon, &ids);
        done += told.parse::<u64>().unwrap_or_else(|_| panic!("{told}"));
    }
    drop(children);
    println!("{done} operations succeeded");
    assert!(done > 100, "{done} operations succeeded");
    let before = walk(&stage.point());
    let treasures: BTreeSet<Vec<u8>> = before.values().filter_map(|(_, content)| content.clone()).collect();
    let expected: BTreeSet<Vec<u8>> =
        corners.iter().map(|corner| corner.as_os_str().as_encoded_bytes().to_vec()).collect();
    assert_eq!(treasures, expected, "every tree is there");
    stage.remount();
    assert_eq!(walk(&stage.point()), before, "after a remount");
    // Nothing is left that no name leads to.
    assert_eq!(stage.status()["inodes"].as_u64().unwrap(), (before.len() + PROCESSES) as u64);
}

#[test]
fn the_watchdog_names_the_thread_that_waits_and_where() {
    let Some(stage) = Stage::new() else { return };
    let daemon = stage.status()["pid"].as_i64().unwrap() as i32;
    kill(Pid::from_raw(daemon), Signal::SIGSTOP).unwrap();
    let mut waiting = Child::spawn(|wire| {
        let _ = fs::metadata(stage.at("not known yet"));
        wire.say("answered");
    });
    wait_until("the client to wait", Duration::from_secs(60), || {
        watchdog::threads_of(waiting.id()).contains("request_wait_answer")
    });
    assert_eq!(waiting.hear_within(Duration::from_millis(100)), None);
    let text = watchdog::threads_of(waiting.id()) + &watchdog::threads_of(daemon);
    kill(Pid::from_raw(daemon), Signal::SIGCONT).unwrap();
    waiting.says("answered");
    assert!(text.contains("request_wait_answer"), "the client waits for FUSE:\n{text}");
    assert!(text.contains("T (stopped)"), "the daemon is stopped:\n{text}");
}
