//! Too many of everything: writers for the memory, files for the descriptors, removed files that are open, names, attributes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::mounted::{Mounted, have, wait_until};
use crate::support::random::{Random, setting};
use crate::support::sys;

/// The long form where `LARDER_TEST_LONG` is set.
fn sized(short: u64, long: u64) -> u64 {
    if setting("LARDER_TEST_LONG", 0) == 0 { short } else { long }
}

/// Bytes that do not compress, another piece for each writer and number.
fn piece(writer: u64, number: u64, len: usize) -> Vec<u8> {
    Random::of(writer * 1_000_003 + number).bytes(len)
}

/// The daemon's peak resident set, KiB.
fn peak_memory(mounted: &Mounted) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mounted.daemon())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn sixteen_writers_in_64_mib_all_go_on_and_the_memory_keeps_to_its_limit() {
    const WRITERS: u64 = 16;
    const PIECE: usize = 256 << 10;
    /// How long one write may wait for room. A disk that others use takes its time; a writer that starves waits until
    /// the others are done.
    const PATIENCE: Duration = Duration::from_secs(30);
    let Some(mounted) = Mounted::new() else { return };
    let pieces = sized(64, 4_000);
    let written: Vec<AtomicU64> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let all_there = Barrier::new(WRITERS as usize);
    let stalls: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (mounted, written, all_there) = (&mounted, &written[writer as usize], &all_there);
                scope.spawn(move || {
                    let path = mounted.at(format!("file{writer}"));
                    let file = OpenOptions::new().write(true).create_new(true).open(path).unwrap();
                    let mut longest = Duration::ZERO;
                    all_there.wait();
                    for number in 0..pieces {
                        let data = piece(writer, number % 64, PIECE);
                        let begun = Instant::now();
                        file.write_all_at(&data, number * PIECE as u64).unwrap();
                        longest = longest.max(begun.elapsed());
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                    longest
                })
            })
            .collect();
        // Those who have most done do not keep the others from all.
        let done = |count: &AtomicU64| count.load(Ordering::Relaxed);
        wait_until("half of the work", Duration::from_secs(600), || {
            written.iter().map(done).sum::<u64>() >= pieces * WRITERS / 2
        });
        let progress: Vec<u64> = written.iter().map(done).collect();
        println!("with half of the work done, pieces by writer: {progress:?} of {pieces}");
        assert!(progress.iter().all(|count| *count > 0), "somebody has not begun: {progress:?}");
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    println!("the longest waits: {stalls:?}; {} KiB of memory", peak_memory(&mounted));
    assert!(stalls.iter().all(|stall| *stall < PATIENCE), "{stalls:?}");
    for writer in 0..WRITERS {
        let file = File::open(mounted.at(format!("file{writer}"))).unwrap();
        let mut found = vec![0; PIECE];
        for number in (0..pieces).step_by((pieces / 16) as usize) {
            file.read_exact_at(&mut found, number * PIECE as u64).unwrap();
            assert!(found == piece(writer, number % 64, PIECE), "piece {number} of writer {writer}");
        }
    }
    // The limit of 64 MiB and the documented overhead.
    assert!(peak_memory(&mounted) < 160 << 10, "the daemon had {} KiB", peak_memory(&mounted));
}

#[test]
fn a_daemon_that_may_have_64_files_open_does_all_that_others_do() {
    const PIECE: usize = 1 << 20;
    let flags = ["--cache-size-limit", "32MiB", "--storage-compression", "none"];
    let Some(mut mounted) = Mounted::with_descriptors(64, &flags) else { return };
    let limits = fs::read_to_string(format!("/proc/{}/limits", mounted.daemon())).unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    assert_eq!(limit.split_whitespace().next(), Some("64"), "{limits}");
    // The long form has more segments (of 64 MiB) than descriptors.
    let (writers, files) = (8, sized(16, 800));
    let noise = piece(0, 0, PIECE);
    let content = |writer: u64, file: u64| {
        let mut content = noise.clone();
        content[..16].copy_from_slice(&[writer.to_le_bytes(), file.to_le_bytes()].concat());
        content
    };
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let (mounted, content) = (&mounted, &content);
            scope.spawn(move || {
                fs::create_dir(mounted.at(writer.to_string())).unwrap();
                let mut held = Vec::new();
                for file in 0..files {
                    let path = mounted.at(format!("{writer}/{file}"));
                    fs::write(&path, content(writer, file)).unwrap();
                    held.push(File::open(&path).unwrap());
                    if file % 16 == 0 {
                        held.last().unwrap().sync_all().unwrap();
                    }
                }
            });
        }
    });
    let all_is_there = |mounted: &Mounted| {
        // Across all of them, so that each segment is asked for again and again.
        for file in 0..files {
            for writer in 0..writers {
                let found = fs::read(mounted.at(format!("{writer}/{file}"))).unwrap();
                assert!(found == content(writer, file), "file {file} of writer {writer}");
            }
        }
    };
    all_is_there(&mounted);
    mounted.remount();
    all_is_there(&mounted);
    mounted.kill();
    mounted.mount();
    all_is_there(&mounted);
    assert!(!mounted.log().contains("os error 24"), "no descriptor was left:\n{}", mounted.log());
}

/// A process that holds files open; so many need several. Ends with its standard input.
struct Holder {
    process: Child,
    /// The descriptor of one of the files.
    one: u32,
}

impl Holder {
    /// Opens all files of a directory.
    fn of(dir: &Path) -> Holder {
        let script = "ulimit -n $(ulimit -Hn); for file in \"$0\"/*; do exec {held}<\"$file\" || exit; done; echo $held; read -r";
        let mut command = Command::new("bash");
        command.arg("-c").arg(script).arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        let one =
            said.trim().parse().unwrap_or_else(|_| panic!("{} was not opened: {said:?}", dir.display()));
        Holder { process: child, one }
    }

    /// One of the files, by a further descriptor.
    fn one(&self) -> File {
        File::open(format!("/proc/{}/fd/{}", self.process.id(), self.one)).unwrap()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

#[test]
fn the_room_of_open_and_removed_files_comes_back_after_a_crash() {
    const SIZE: usize = 8 << 10;
    /// Files a process holds: the least hard limit that is usual is 4096.
    const EACH: u64 = 4_000;
    if !have("bash") {
        return;
    }
    let Some(mut mounted) = Mounted::new() else { return };
    let count = sized(3_000, 100_000);
    fs::write(mounted.at("kept"), piece(1, 1, SIZE)).unwrap();
    let content = |number: u64| {
        let mut content = piece(0, number, SIZE);
        content[..8].copy_from_slice(&number.to_le_bytes());
        content
    };
    let holders: Vec<Holder> = (0..count)
        .step_by(EACH as usize)
        .map(|first| {
            let dir = mounted.at(format!("dir{first}"));
            fs::create_dir(&dir).unwrap();
            for number in first..count.min(first + EACH) {
                fs::write(dir.join(number.to_string()), content(number)).unwrap();
            }
            let holder = Holder::of(&dir);
            fs::remove_dir_all(&dir).unwrap();
            holder
        })
        .collect();
    mounted.sync();
    let stored = |mounted: &Mounted| mounted.status()["stored_bytes"].as_u64().unwrap();
    let disk = |mounted: &Mounted| mounted.status()["disk_bytes"].as_u64().unwrap();
    let (full, most) = (stored(&mounted), disk(&mounted));
    assert!(full > count * SIZE as u64, "{full} bytes are stored");
    for holder in &holders {
        let mut found = vec![0; SIZE];
        holder.one().read_exact_at(&mut found, 0).unwrap();
        let number = u64::from_le_bytes(found[..8].try_into().unwrap());
        assert!(number < count && found == content(number), "a file is whole while it is open");
    }
    mounted.kill();
    drop(holders);
    mounted.check();
    let begun = Instant::now();
    mounted.mount();
    println!("{count} removed files, {full} bytes: mounted in {:?}", begun.elapsed());
    wait_until("the room is free", Duration::from_secs(120), || stored(&mounted) <= 2 * SIZE as u64);
    assert_eq!(mounted.status()["inodes"], 2, "the root and the file that was kept");
    mounted.sync();
    println!("free after {:?}; {most} bytes on the disk before", begun.elapsed());
    // Besides content there is the journal, made ready in advance.
    wait_until("the disk has its room again", Duration::from_secs(120), || {
        disk(&mounted) + full * 9 / 10 <= most
    });
    assert_eq!(fs::read(mounted.at("kept")).unwrap(), piece(1, 1, SIZE));
    mounted.umount();
    mounted.check();
}

/// Names that mean something elsewhere, or nothing at all.
fn hostile_names(random: &mut Random) -> BTreeSet<Vec<u8>> {
    let told: [&[u8]; 22] = [
        b"-rf",
        b"--",
        b"*",
        b"?",
        b"$(reboot)",
        b"`id`",
        b"a b",
        b" ",
        b"\n",
        b"a\nb\n",
        b"\t",
        b"...",
        b".. ",
        b"~",
        b"'",
        b"\"",
        b"\\",
        b"\x1b[2J",
        b"\xff\xfe",
        b"e\xcc\x81",
        b"\xc3\xa9",
        b".larder ",
    ];
    let mut names: BTreeSet<Vec<u8>> = told.iter().map(|name| name.to_vec()).collect();
    names.extend((1..=255).filter(|byte| !b"/.".contains(byte)).map(|byte| vec![byte]));
    names.extend((1..=255).filter(|byte| *byte != b'/').map(|byte| vec![byte; 255]));
    for _ in 0..sized(500, 20_000) {
        let len = 1 + random.below(255) as usize;
        let name: Vec<u8> = (0..len)
            .map(|_| 1 + random.below(255) as u8)
            .map(|byte| if byte == b'/' { b'|' } else { byte })
            .collect();
        names.insert(name);
    }
    names.retain(|name| name != b"." && name != b"..");
    names
}

#[test]
fn hostile_names_are_names_like_others_for_every_call_and_after_a_crash() {
    let Some(mut mounted) = Mounted::new() else { return };
    let names = hostile_names(&mut Random::new());
    let (dir, other) = (mounted.at("dir"), mounted.at("other"));
    fs::create_dir(&dir).unwrap();
    fs::create_dir(&other).unwrap();
    for (at, name) in names.iter().enumerate() {
        let (from, to) = (other.join(OsStr::from_bytes(name)), dir.join(OsStr::from_bytes(name)));
        match at % 4 {
            0 => fs::write(&to, name).unwrap(),
            1 => fs::create_dir(&to).unwrap(),
            2 => symlink(OsStr::from_bytes(name), &to).unwrap(),
            _ => {
                fs::write(&from, name).unwrap();
                fs::rename(&from, &to).unwrap();
            }
        }
    }
    File::open(&dir).unwrap().sync_all().unwrap();
    mounted.sync();
    mounted.kill();
    mounted.check();
    mounted.mount();
    let listed: BTreeSet<Vec<u8>> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_vec()).collect();
    assert!(listed == names, "{} of {} names", listed.len(), names.len());
    for (at, name) in names.iter().enumerate() {
        let path = dir.join(OsStr::from_bytes(name));
        match at % 4 {
            1 => fs::remove_dir(&path).unwrap(),
            2 => assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_bytes(), name),
            _ => assert_eq!(fs::read(&path).unwrap(), *name),
        }
    }
    fs::remove_dir_all(&dir).unwrap();
    assert!(!dir.exists());
}

#[test]
fn ten_thousand_attributes_are_kept_over_a_crash_and_the_first_too_many_is_refused() {
    let Some(mut mounted) = Mounted::new() else { return };
    // On a few files: the names on one may take 64 KiB, which is what the kernel can list.
    let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut refused = 0;
    for number in 0..10_000 {
        let file = format!("file{}", expected.len().max(1));
        if !mounted.at(&file).exists() {
            fs::write(mounted.at(&file), "x").unwrap();
        }
        let name = format!("user.attribute.{number}");
        match sys::setxattr(&mounted.at(&file), name.as_bytes(), number.to_string().as_bytes(), 0) {
            Ok(()) => drop(expected.entry(file).or_default().insert(name)),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{name}: {error}");
                refused += 1;
                let next = format!("file{}", expected.len() + 1);
                fs::write(mounted.at(&next), "x").unwrap();
                sys::setxattr(&mounted.at(&next), name.as_bytes(), number.to_string().as_bytes(), 0).unwrap();
                expected.entry(next).or_default().insert(name);
            }
        }
    }
    assert!((2..6).contains(&refused), "{refused} times the names of a file were full");
    assert_eq!(expected.values().map(BTreeSet::len).sum::<usize>(), 10_000);
    let all_are_there = |mounted: &Mounted| {
        for (file, names) in &expected {
            let path = mounted.at(file);
            let listed = sys::listxattr(&path).unwrap();
            let listed: BTreeSet<String> =
                listed.into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
            assert!(listed == *names, "{file} has {} of {} attributes", listed.len(), names.len());
            for name in names {
                let value = sys::getxattr(&path, name.as_bytes()).unwrap();
                assert_eq!(String::from_utf8(value).unwrap(), name["user.attribute.".len()..]);
            }
        }
    };
    all_are_there(&mounted);
    mounted.kill();
    mounted.check();
    mounted.mount();
    all_are_there(&mounted);
    for (file, names) in &expected {
        for name in names {
            sys::removexattr(&mounted.at(file), name.as_bytes()).unwrap();
        }
        assert_eq!(sys::listxattr(&mounted.at(file)).unwrap(), Vec::<Vec<u8>>::new());
    }
}
