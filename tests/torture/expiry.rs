//! Very many keys that expire in the same second.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use larder::Store;
use larder::store::{Batch, Expiry, SetOptions};

use crate::support::mounted::{Mounted, can_mount, wait_until};
use crate::support::random::setting;

/// How long a stat takes that the kernel does not answer by itself.
fn stat(path: &Path) -> Duration {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut found = std::mem::MaybeUninit::<nix::libc::statx>::zeroed();
    let begun = Instant::now();
    let flags = nix::libc::AT_STATX_FORCE_SYNC;
    // SAFETY: the path ends with NUL and `found` has room for the answer.
    #[expect(unsafe_code, reason = "no library asks for AT_STATX_FORCE_SYNC")]
    let done = unsafe {
        nix::libc::statx(
            nix::libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            nix::libc::STATX_BASIC_STATS,
            found.as_mut_ptr(),
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    begun.elapsed()
}

/// A store with one key that stays and so many that expire at a moment.
fn make(dir: &Path, keys: u64, moment: SystemTime) {
    let store = Store::open(dir).unwrap();
    store.set("lasting", "content").unwrap();
    for from in (0..keys).step_by(500) {
        let mut batch = Batch::new();
        for n in from..keys.min(from + 500) {
            let options = SetOptions::new().expires(Expiry::At(moment));
            batch.set_with(format!("cache/{:03}/{n}", n % 100), "a value of some length", &options).unwrap();
        }
        store.apply(&batch).unwrap();
    }
    store.close().unwrap();
}

/// What an empty store has reserved for content to come.
const RESERVED: u64 = 64 << 20;

/// Bytes that the files below a directory take on the disk.
fn room(dir: &Path) -> u64 {
    let below = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    below
        .map(|entry| match entry.metadata() {
            Ok(stat) if stat.is_dir() => room(&entry.path()),
            Ok(stat) => stat.blocks() * 512,
            // Removed just now.
            Err(_) => 0,
        })
        .sum()
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[test]
fn keys_that_expire_in_the_same_second_are_gone_at_it_and_others_are_answered_meanwhile() {
    if !can_mount() {
        return;
    }
    let keys = setting("LARDER_TEST_KEYS", 20_000);
    // Time enough to make them all, and to measure how long a stat takes while nothing happens: more on a busy machine.
    let trial = tempfile::tempdir().unwrap();
    let (begun, some) = (Instant::now(), keys.div_ceil(20));
    make(&trial.path().join("store"), some, SystemTime::now() + Duration::from_secs(86_400));
    let mut time = Duration::from_secs(10) + begun.elapsed() * (keys / some) as u32 * 2;
    let (mounted, moment) = loop {
        let mut mounted = Mounted::unmounted(None, &["--cache-size-limit", "64MiB"]);
        let moment = SystemTime::now() + time;
        make(&mounted.store(), keys, moment);
        mounted.mount();
        if SystemTime::now() + time / 4 < moment {
            break (mounted, moment);
        }
        time *= 2;
    };
    let mut mounted = mounted;
    let (lasting, cache) = (mounted.at("lasting"), mounted.at("cache"));
    let left = |before: Duration| {
        let now = SystemTime::now();
        moment.duration_since(now).is_ok_and(|left| left > before)
    };
    // So that the kernel has a listing of which it must be told.
    let listed = fs::read_dir(cache.join("000")).unwrap().count() as u64;
    assert!(listed == keys.div_ceil(100) || !left(Duration::ZERO), "{listed} are listed");
    let mut alone = vec![stat(&lasting)];
    while left(Duration::from_secs(1)) {
        alone.push(stat(&lasting));
    }
    while left(Duration::ZERO) {
        stat(&lasting);
    }
    let mut meanwhile = Vec::new();
    let begun = Instant::now();
    // All at its second: nobody sees one of them, removed or not. A listing that the kernel keeps it must be told of.
    for dir in 0..100 {
        let dir = cache.join(format!("{dir:03}"));
        wait_until("an empty listing", Duration::from_secs(60), || fs::read_dir(&dir).unwrap().count() == 0);
        meanwhile.push(stat(&lasting));
    }
    let gone = begun.elapsed();
    loop {
        for _ in 0..200 {
            meanwhile.push(stat(&lasting));
        }
        let inodes = mounted.status()["inodes"].as_u64().unwrap();
        if inodes < 110 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(600), "{inodes} inodes are left");
    }
    let (took, samples) = (begun.elapsed(), meanwhile.len());
    // Their content is off the disk within a minute, but for what is reserved for content to come.
    let segments = mounted.store().join("segments");
    wait_until("the room", Duration::from_secs(60), || room(&segments) <= RESERVED);
    let room_after = begun.elapsed();
    let (alone, meanwhile) = (p99(alone), p99(meanwhile));
    println!(
        "{keys} keys: listed by nobody {gone:?} behind their second, all removed after {took:?}, their room back after \
         {room_after:?}; p99 of a stat {alone:?} before, {meanwhile:?} meanwhile ({samples} of them)"
    );
    // A figure of a quiet machine: only asked for where the long form is.
    if setting("LARDER_TEST_LONG", 0) != 0 {
        assert!(meanwhile <= alone * 10);
    }
    mounted.umount();
    mounted.check();
}
