//! Stores that may not grow beyond their limit, and files that go by themselves, through real mounts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may"
)]

mod caches;
mod many;
mod sessions;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::time::Duration;

use support::mounted::{Mounted, larder, succeeds, wait_until};
use support::sys;

const MIB: u64 = 1 << 20;

/// The limit of the stores here.
const LIMIT: u64 = 128 * MIB;

/// What it does not cover: settings and log.
const BESIDE: u64 = 64 << 10;

fn limited(policy: &str) -> Option<Mounted> {
    let limit = LIMIT.to_string();
    Mounted::on_disk(
        2 * LIMIT / MIB,
        &["--cache-size-limit", "32MiB", "--storage-size-limit", &limit, "--cache-eviction-policy", policy],
    )
}

fn mark(path: &Path, name: &str) {
    sys::setxattr(path, format!("user.larder.{name}").as_bytes(), b"1", 0).unwrap();
}

/// Bytes that do not compress (xorshift64*), others for each seed: cut from one block, behind the seed.
fn noise(seed: u64, len: u64) -> Vec<u8> {
    static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 1u64;
        let mut next = || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
        };
        (0..MIB / 4).flat_map(|_| next()).collect()
    });
    let start = (seed * 8191 % MIB) as usize;
    let mut bytes = BLOCK[start..start + len as usize].to_vec();
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// Runs something, and looks all the while how much a store takes. Returns the most that was seen.
fn watched(mounted: &Mounted, work: impl FnOnce()) -> u64 {
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                most.fetch_max(mounted.on_disk_now(), Ordering::AcqRel);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let _done = Done(&done);
        work();
    });
    most.into_inner()
}

fn is_sound(mounted: &Mounted) {
    succeeds(std::process::Command::new(env!("CARGO_BIN_EXE_larder")).arg("check").arg(mounted.store()));
}

#[test]
fn what_is_open_or_pinned_or_not_evictable_stays_and_what_the_kernel_only_knows_goes() {
    let Some(mut mounted) = limited("lru") else { return };
    let cache = mounted.at("cache");
    for name in ["cache", "cache/pinned", "other"] {
        fs::create_dir(mounted.at(name)).unwrap();
    }
    mark(&cache, "evictable");
    mark(&mounted.at("cache/pinned"), "pinned");
    let stay = ["cache/open", "cache/mapped", "cache/pinned/a", "other/b"];
    let old = |name: &str| noise(name.len() as u64 + 1000, MIB);
    for name in stay.iter().chain(&["cache/known"]) {
        fs::write(mounted.at(name), old(name)).unwrap();
    }
    let mut open = fs::File::open(mounted.at("cache/open")).unwrap();
    let mapped = {
        let file = fs::File::options().read(true).write(true).open(mounted.at("cache/mapped")).unwrap();
        sys::Map::new(&file, MIB as usize).unwrap()
    };
    assert_eq!(fs::metadata(mounted.at("cache/known")).unwrap().len(), MIB);
    let most = watched(&mounted, || {
        for n in 0..3 * LIMIT / MIB {
            fs::write(cache.join(n.to_string()), noise(n, MIB)).unwrap();
        }
    });
    assert!(most <= LIMIT + BESIDE, "{most} bytes on the disk");
    let gone = fs::metadata(mounted.at("cache/known")).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(fs::metadata(cache.join("0")).unwrap_err().kind(), ErrorKind::NotFound);
    let listed = fs::read_dir(&cache).unwrap().count() as u64;
    assert!((20..LIMIT / MIB).contains(&listed), "{listed} files are listed");
    let mut content = Vec::new();
    open.rewind().unwrap();
    open.read_to_end(&mut content).unwrap();
    assert!(content == old("cache/open"));
    assert_eq!(open.metadata().unwrap().nlink(), 1);
    assert!(mapped.read(0, MIB as usize) == old("cache/mapped"));
    // Once nobody has it open, it may go as well.
    for name in ["cache/open", "cache/mapped"] {
        mark(&mounted.at(name), "pinned");
    }
    drop((open, mapped));
    mounted.remount();
    for name in stay {
        let content = fs::read(mounted.at(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(content == old(name), "{name}");
    }
    mounted.umount();
    is_sound(&mounted);
}

#[test]
fn what_is_made_where_a_directory_says_so_goes_by_itself_and_cp_carries_that_along() {
    let Some(mut mounted) = Mounted::with(&["--cache-size-limit", "32MiB", "--cache-ttl", "1h"]) else {
        return;
    };
    let (brief, lasting) = (mounted.at("brief"), mounted.at("brief/lasting"));
    fs::create_dir_all(&lasting).unwrap();
    for (path, value) in [(&brief, "1s"), (&lasting, "never")] {
        sys::setxattr(path, b"user.larder.default-ttl", value.as_bytes(), 0).unwrap();
    }
    let ttl = |path: &Path| sys::getxattr(path, b"user.larder.ttl").ok();
    for dir in [&mounted.point(), &brief, &lasting] {
        fs::write(dir.join("file"), "content").unwrap();
    }
    wait_until("the end of a file", Duration::from_secs(60), || !brief.join("file").exists());
    assert!(ttl(&lasting.join("file")).is_none());
    let hour: u32 = String::from_utf8(ttl(&mounted.at("file")).unwrap()).unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&hour), "{hour}");
    let refused = sys::setxattr(&brief, b"user.larder.default-ttl", b"soon", 0).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EINVAL));
    succeeds(std::process::Command::new("cp").arg("-a").args([&brief, &mounted.at("copy")]));
    assert_eq!(sys::getxattr(&mounted.at("copy"), b"user.larder.default-ttl").unwrap(), b"1");
    mounted.umount();
    is_sound(&mounted);
}

#[test]
fn below_a_size_limit_programs_get_edquot_and_df_tells_what_is_left() {
    let Some(mut mounted) = Mounted::with(&["--cache-size-limit", "32MiB"]) else { return };
    let (dir, other) = (mounted.at("limited/deep"), mounted.at("other"));
    fs::create_dir_all(&dir).unwrap();
    fs::create_dir(&other).unwrap();
    let limited = mounted.at("limited");
    sys::setxattr(&limited, b"user.larder.size-limit", b"4MiB", 0).unwrap();
    let errno = |done: std::io::Result<()>| done.unwrap_err().raw_os_error();
    let mut file = fs::File::create(dir.join("file")).unwrap();
    let mut written = 0;
    let full = loop {
        match file.write_all(&noise(written, 64 << 10)).and_then(|()| file.sync_data()) {
            Ok(()) => written += 64 << 10,
            Err(error) => break error.raw_os_error(),
        }
    };
    assert_eq!(full, Some(nix::libc::EDQUOT));
    assert!((3 * MIB..=4 * MIB).contains(&written), "{written} bytes were written");
    drop(file);
    let room = nix::sys::statvfs::statvfs(&dir).unwrap();
    assert_eq!(room.blocks() * room.fragment_size(), 4 * MIB);
    assert!(room.blocks_available() * room.fragment_size() <= 4 * MIB - written);
    let whole = nix::sys::statvfs::statvfs(&other).unwrap();
    assert!(whole.blocks() * whole.fragment_size() > 4 * MIB);
    // What is below does not leave with its directory, and a file does not come in where there is no room.
    assert_eq!(errno(fs::rename(&dir, other.join("deep"))), Some(nix::libc::EXDEV));
    assert_eq!(errno(fs::hard_link(dir.join("file"), other.join("name"))), Some(nix::libc::EXDEV));
    fs::write(other.join("file"), noise(1, MIB)).unwrap();
    assert_eq!(errno(fs::rename(other.join("file"), dir.join("second"))), Some(nix::libc::EDQUOT));
    mounted.remount();
    assert_eq!(sys::getxattr(&limited, b"user.larder.size-limit").unwrap(), (4 * MIB).to_string().as_bytes());
    assert_eq!(errno(fs::write(dir.join("more"), noise(2, MIB))), Some(nix::libc::EDQUOT));
    // mv copies what cannot be renamed; then there is room again.
    succeeds(std::process::Command::new("mv").args([&dir, &other.join("deep")]));
    assert_eq!(fs::metadata(other.join("deep/file")).unwrap().len(), written);
    let three = |seed| (seed..seed + 3).flat_map(|n| noise(n, MIB)).collect::<Vec<_>>();
    fs::write(limited.join("more"), three(2)).unwrap();
    let told =
        larder(["mark", "--store", mounted.store().to_str().unwrap(), "limited", "--size-limit", "none"]);
    assert!(told.status.success(), "{told:?}");
    fs::write(limited.join("most"), three(5)).unwrap();
    mounted.umount();
    is_sound(&mounted);
}

#[test]
fn a_file_that_is_looked_at_now_and_then_outlives_those_that_are_not() {
    let Some(mounted) = limited("lru") else { return };
    mark(&mounted.point(), "evictable");
    let used = mounted.at("used");
    fs::write(&used, noise(7, MIB)).unwrap();
    for n in 0..2 * LIMIT / MIB {
        fs::write(mounted.at(n.to_string()), noise(n, MIB)).unwrap();
        if n % 16 == 0 {
            // Through the mount a use is seen once the kernel asks again, a minute later; through the command at once.
            let touched = larder([
                "touch".as_ref(),
                "--size".as_ref(),
                "--store".as_ref(),
                mounted.point().as_os_str(),
                "used".as_ref(),
            ]);
            assert!(touched.status.success());
        }
    }
    assert!(fs::read(&used).unwrap() == noise(7, MIB));
    assert!(!mounted.at("0").exists());
}

/// What ccache and its like do: each result in a file of its own, written beside and renamed into place, directories
/// made as they are needed.
#[test]
fn a_build_cache_that_is_written_many_times_over_keeps_to_its_limit_and_still_hits() {
    let Some(mut mounted) = limited("lru") else { return };
    let cache = mounted.at("cache");
    fs::create_dir(&cache).unwrap();
    mark(&cache, "evictable");
    let size = |n: u64| 10_000 + n * 7919 % 150_000;
    let files = 300;
    let path = |round: u64, n: u64| {
        let key = format!("{:016x}", (round * files + n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        cache.join(&key[..1]).join(&key[1..2]).join(&key[2..])
    };
    let rounds = 4 * LIMIT / (files * 85_000);
    let most = watched(&mounted, || {
        for round in 0..rounds {
            for n in 0..files {
                let file = path(round, n);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                let new = file.with_extension("tmp");
                fs::write(&new, noise(round * files + n, size(n))).unwrap();
                fs::rename(&new, &file).unwrap();
            }
            // The build that was just made hits, and so does the one before.
            for round in round.saturating_sub(1)..=round {
                for n in 0..files {
                    let content =
                        fs::read(path(round, n)).unwrap_or_else(|e| panic!("round {round}, {n}: {e}"));
                    assert!(content == noise(round * files + n, size(n)), "round {round}, {n}");
                }
            }
        }
    });
    assert!(most <= LIMIT + BESIDE, "{most} bytes on the disk");
    assert!((0..files).all(|n| !path(0, n).exists()), "the first build is still there");
    mounted.remount();
    let last = rounds - 1;
    assert!((0..files).all(|n| fs::read(path(last, n)).unwrap() == noise(last * files + n, size(n))));
    mounted.umount();
    is_sound(&mounted);
}
