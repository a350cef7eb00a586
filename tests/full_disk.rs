//! A store that has filled its disk, through real mounts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use support::mounted::{can_mount, larder, stderr};

const MIB: usize = 1 << 20;

/// A disk of its own, in memory, and a store on it.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn of(mib: usize) -> Disk {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk { dir };
        for path in [disk.path(), disk.point()] {
            fs::create_dir(path).unwrap();
        }
        let size = format!("size={mib}m");
        mount(Some("disk"), &disk.path(), Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
        disk
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn point(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn mount(&self, flags: &[&str]) {
        let (store, point) = (self.path().join("store"), self.point());
        let mut arguments = vec!["mount"];
        arguments.extend(if flags.is_empty() { &["--cache-size-limit", "32MiB"] } else { flags });
        arguments.extend([store.to_str().unwrap(), point.to_str().unwrap()]);
        let mounted = larder(arguments);
        assert!(mounted.status.success(), "mount: {}", stderr(&mounted));
    }

    /// kill -9 of its daemon.
    fn kill(&self) {
        let stats = fs::read(self.point().join(".larder/stats")).unwrap();
        let stats: serde_json::Value = serde_json::from_slice(&stats).unwrap();
        let pid = nix::unistd::Pid::from_raw(stats["pid"].as_i64().unwrap() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        while nix::sys::statfs::statfs(&self.point()).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn umount(&self) {
        let unmounted = larder([Path::new("umount"), &self.point()]);
        assert!(unmounted.status.success(), "umount: {}", stderr(&unmounted));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path().join("store/larder.log"));
            eprintln!("the daemon's log:\n{}", log.unwrap_or_default());
        }
        let _ = larder([Path::new("umount"), &self.point()]);
        let _ = umount2(&self.point(), MntFlags::MNT_DETACH);
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
    }
}

/// Bytes that do not compress (xorshift64*).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect()
}

/// Writes files of 4 MiB until there is no room, and returns how many are whole.
fn fill(dir: &Path) -> u64 {
    for n in 0.. {
        let content = noise(n, 4 * MIB);
        let written = fs::File::create(dir.join(n.to_string())).and_then(|mut file| {
            content.chunks(MIB).try_for_each(|piece| file.write_all(piece)).and_then(|()| file.sync_all())
        });
        if let Err(error) = written {
            assert_eq!(error.raw_os_error(), Some(nix::libc::ENOSPC), "{error}");
            return n;
        }
    }
    unreachable!("there are more numbers than room")
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn a_store_that_filled_its_disk_unmounts_mounts_reads_and_takes_writes_once_something_is_deleted() {
    if !can_mount() {
        return;
    }
    let disk = Disk::of(128);
    disk.mount(&[]);
    let whole = fill(&disk.point());
    assert!((8..32).contains(&whole), "{whole} files of 4 MiB on 128 MiB");
    let mut small = 0;
    while fs::write(disk.point().join(format!("small{small}")), "abc").is_ok() && small < 100_000 {
        small += 1;
    }
    let before = contents(&disk.point());
    for n in 0..whole {
        assert!(before[&disk.point().join(n.to_string())] == noise(n, 4 * MIB), "file {n}");
    }
    disk.umount();
    // At once: the daemon holds nothing of the disk any longer.
    disk.mount(&[]);
    assert!(contents(&disk.point()) == before, "all is as it was");

    // Deleting needs no room, and the next write has that of what was deleted.
    for n in 0..3 {
        fs::remove_file(disk.point().join(n.to_string())).unwrap();
    }
    fs::write(disk.point().join("new"), noise(99, 6 * MIB)).unwrap();
    disk.umount();
    umount2(&disk.path(), MntFlags::empty()).expect("nobody uses the disk when larder umount returns");
}

#[test]
fn a_disk_that_is_too_full_for_a_store_is_told_with_its_path() {
    if !can_mount() {
        return;
    }
    let disk = Disk::of(2);
    fs::write(disk.path().join("others"), noise(1, 4 * MIB)).unwrap_err();
    let store = disk.path().join("store");
    let refused = larder([Path::new("mount"), &store, &disk.point()]);
    let why = stderr(&refused);
    assert!(
        !refused.status.success() && why.contains(store.to_str().unwrap()) && why.contains("no room"),
        "{why}"
    );
}

#[test]
fn a_store_takes_no_more_of_the_disk_than_its_size_limit() {
    if !can_mount() {
        return;
    }
    let disk = Disk::of(256);
    disk.mount(&["--cache-size-limit", "32MiB", "--storage-size-limit", "96MiB"]);
    let used = || {
        let stat = nix::sys::statvfs::statvfs(&disk.path()).unwrap();
        (stat.blocks() - stat.blocks_free()) * stat.fragment_size()
    };
    let file = disk.point().join("overwritten");
    for round in 0..20 {
        fs::write(&file, noise(round, 12 * MIB)).unwrap();
        assert!(used() <= 96 << 20, "round {round}: {} bytes", used());
    }
    let whole = fill(&disk.point());
    assert!(whole >= 10, "{whole} files of 4 MiB beside one of 12 MiB in 96 MiB");
    assert!(used() <= 96 << 20, "{} bytes", used());
    let stat = nix::sys::statvfs::statvfs(&disk.point()).unwrap();
    assert_eq!(stat.blocks() * stat.fragment_size(), 96 << 20);
    assert!(stat.blocks_available() * stat.fragment_size() < 8 << 20, "{stat:?}");
    fs::remove_file(disk.point().join("0")).unwrap();
    fs::write(disk.point().join("new"), noise(99, 2 * MIB)).unwrap();
    disk.umount();
}

#[test]
fn on_a_small_disk_a_store_that_was_killed_takes_writes_once_others_or_deletions_have_made_room() {
    if !can_mount() {
        return;
    }
    // With the memory that a store has where nothing else is said.
    const DEFAULT: &[&str] = &["--cache-size-limit", "256MiB"];
    let disk = Disk::of(64);
    disk.mount(DEFAULT);
    let content = noise(1, MIB);
    let write = |name: &str| fs::write(disk.point().join(name), &content);
    for name in ["a", "b", "c", "d"] {
        write(name).unwrap();
    }
    disk.kill();
    disk.mount(DEFAULT);
    write("e").unwrap();
    fs::write(disk.path().join("others"), noise(2, 64 * MIB)).unwrap_err();
    disk.kill();
    disk.mount(DEFAULT);
    fs::remove_file(disk.point().join("a")).unwrap();
    fs::remove_file(disk.path().join("others")).unwrap();
    let begun = std::time::Instant::now();
    // It is looked for after a second anew.
    while let Err(error) = write("f") {
        assert!(begun.elapsed().as_secs() < 20, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    disk.umount();
}
