//! Reading everything once more, to find what the disk has lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may"
)]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use larder::store::{Codec, Place, Scrubbed, SetOptions, Store};
use support::mounted::{Mounted, larder, stderr, wait_until};
use support::random::Random;

const PAGE: usize = 128 << 10;

/// Bytes that do not compress, and that no other seed has.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    Random::of(seed).bytes(len)
}

/// All segments of a store.
fn segments(store: &Path) -> Vec<PathBuf> {
    let dirs = fs::read_dir(store.join("segments")).unwrap().map(|dir| dir.unwrap().path());
    dirs.flat_map(|dir| fs::read_dir(dir).unwrap().map(|file| file.unwrap().path())).collect()
}

/// Flips a bit of the first place where these bytes lie in a segment.
fn flip(store: &Path, bytes: &[u8]) {
    for path in segments(store) {
        let content = fs::read(&path).unwrap();
        if let Some(at) = content.windows(bytes.len()).position(|window| window == bytes) {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            return file.write_all_at(&[content[at] ^ 0x10], at as u64).unwrap();
        }
    }
    panic!("the bytes are in no segment");
}

/// A whole scrub in parts of so many bytes.
fn scrub(store: &Store, bytes: u64) -> (Scrubbed, usize) {
    let (mut all, mut parts) = (Scrubbed::default(), 0);
    let mut place = Some(Place::default());
    while let Some(from) = place {
        let part = store.scrub(from, bytes).unwrap();
        assert!(part.next.is_none_or(|next| next > from), "it goes on");
        all.frames += part.frames;
        all.bytes += part.bytes;
        all.hurt.extend(part.hurt);
        place = part.next;
        parts += 1;
    }
    (all, parts)
}

#[test]
fn a_scrub_reads_every_frame_once_in_parts_of_any_size_and_names_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let plain = SetOptions::new().codec(Codec::None);
    let content: Vec<Vec<u8>> = (0..40).map(|n| noise(n + 1, 10_000 + 20_000 * n as usize)).collect();
    let pages: usize = content.iter().map(|bytes| bytes.len().div_ceil(PAGE)).sum();
    for (n, bytes) in content.iter().enumerate() {
        store.set_with(format!("dir/{n}"), bytes, &plain).unwrap();
    }
    store.sync().unwrap();
    store.close().unwrap();

    let store = Store::open(&path).unwrap();
    for (bytes, least) in [(u64::MAX, 1), (1 << 20, 10), (1, pages)] {
        let (all, parts) = scrub(&store, bytes);
        assert_eq!((all.frames, all.hurt.len()), (pages as u64, 0));
        assert!(all.bytes > content.iter().map(|bytes| bytes.len() as u64).sum());
        assert!(parts >= least, "{parts} parts of {bytes} bytes");
    }
    store.close().unwrap();
    flip(&path, &content[7][..64]);
    flip(&path, &content[30][2 * PAGE + 100..2 * PAGE + 164]);
    let store = Store::open(&path).unwrap();
    let (all, _) = scrub(&store, 1 << 20);
    let hurt: BTreeSet<_> = all.hurt.iter().map(|hurt| (hurt.key.as_str(), hurt.offset)).collect();
    assert_eq!(hurt, BTreeSet::from([("dir/7", 0), ("dir/30", 2 * PAGE as u64)]), "{:?}", all.hurt);
    assert!(all.hurt.iter().all(|hurt| hurt.why.contains("segment")), "{:?}", all.hurt);
    assert_eq!(all.frames, pages as u64);
    assert!(store.get("dir/7").is_err());
    assert_eq!(store.get("dir/8").unwrap().unwrap(), content[8]);
    store.close().unwrap();
}

#[test]
fn a_scrub_beside_writers_finds_no_damage_where_there_is_none() {
    let Some(mounted) = Mounted::new() else { return };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (mounted, stop) = (&mounted, &stop);
            scope.spawn(move || {
                let mut round = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let path = mounted.at(format!("{writer}.{}", round % 5));
                    fs::write(&path, noise(round * 2 + writer, 700_000)).unwrap();
                    if round % 3 == 0 {
                        fs::remove_file(&path).unwrap();
                    }
                    round += 1;
                }
            });
        }
        let (begun, mut rounds) = (Instant::now(), 0);
        while rounds < 3 || begun.elapsed() < Duration::from_secs(4) {
            let output = larder(["scrub", "--rate", "0", "--store", mounted.point().to_str().unwrap()]);
            let text = String::from_utf8_lossy(&output.stdout);
            if !(output.status.success() && text.contains("nothing is damaged")) {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                panic!("{text}{}", stderr(&output));
            }
            rounds += 1;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn an_interrupted_scrub_goes_on_where_it_was_and_keeps_to_its_rate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    for n in 0..32 {
        store.set(format!("{n}"), noise(n + 1, PAGE)).unwrap();
    }
    store.close().unwrap();
    flip(&path, &noise(1, PAGE)[..64]);
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.env_remove("LARDER_LOG").arg("scrub").arg("--store").arg(&path).args(arguments);
        command
    };
    let mut child = command(&["--rate", "1MiB"]).stdout(Stdio::piped()).spawn().unwrap();
    let noted = path.join("scrub.json");
    wait_until("how far it has come", Duration::from_secs(60), || noted.exists());
    child.kill().unwrap();
    let mut first = String::new();
    child.stdout.take().unwrap().read_to_string(&mut first).unwrap();
    child.wait().unwrap();
    assert!(first.starts_with("0: damaged from byte 0 on: "), "{first}");

    let noted_bytes = || {
        let progress: serde_json::Value = serde_json::from_slice(&fs::read(&noted).unwrap()).unwrap();
        progress["bytes"].as_u64().unwrap()
    };
    let left = 32 * PAGE as u64 - noted_bytes();
    assert!(left > 2 << 20, "it was not interrupted");
    let begun = Instant::now();
    let output = command(&["--rate", "4MiB"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("going on") && text.contains("0: damaged from byte 0 on: "), "{text}");
    assert!(text.contains("32 frames with 4.0") && text.contains("1 pages are damaged"), "{text}");
    assert!(!noted.exists());
    // A quarter of a second's worth is read at a time, and not waited for behind the last.
    let least = Duration::from_secs_f64((left - (1 << 20)) as f64 / (4 << 20) as f64);
    assert!(begun.elapsed() >= least, "{left} bytes took {:?}", begun.elapsed());

    let output = command(&["--json", "--rate", "0"]).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["frames"], found["hurt"][0]["key"].as_str()), (&32.into(), Some("0")));
    for wrong in [&["--rate", "fast"][..], &["--rate", "-1"]] {
        assert_eq!(command(wrong).output().unwrap().status.code(), Some(2), "{wrong:?}");
    }
}
