//! The daemon behind a mount: its end, its mount point, its store, and who may start it. Real mounts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may"
)]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use larder::{Error, Store};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::mounted::{Mounted, can_mount, have, larder, stderr, succeeds, wait_until};

fn umount(path: &Path) -> std::process::Output {
    larder([Path::new("umount"), path])
}

#[test]
fn nothing_in_a_store_is_open_to_other_users() {
    let Some(mounted) = Mounted::new() else { return };
    fs::write(mounted.at("secret"), vec![b'x'; 1 << 20]).unwrap();
    mounted.sync();
    let mut todo = vec![mounted.store()];
    let mut seen = 0;
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        assert_eq!(stat.mode() & 0o077, 0, "{} has mode {:o}", path.display(), stat.mode());
        if stat.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn the_size_on_disk_that_a_listing_saw_before_the_flush_is_not_kept() {
    let Some(mounted) = Mounted::new() else { return };
    fs::write(mounted.at("file"), vec![b'x'; 100]).unwrap();
    // Does not compress (splitmix64).
    let noise = (0..1 << 20).map(|n: u64| {
        let n = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let n = (n ^ n >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((n ^ n >> 27).wrapping_mul(0x94D0_49BB_1331_11EB) >> 40) as u8
    });
    let noise: Vec<u8> = noise.collect();
    fs::write(mounted.at("file"), noise).unwrap();
    // As ls -l: the listing brings the attributes.
    for entry in fs::read_dir(mounted.point()).unwrap() {
        entry.unwrap().metadata().unwrap();
    }
    mounted.sync();
    wait_until("the size on disk", Duration::from_secs(60), || {
        fs::metadata(mounted.at("file")).unwrap().blocks() * 512 >= 1 << 19
    });
}

#[test]
fn a_mount_whose_daemon_died_is_replaced_though_the_kernel_still_knows_its_root() {
    let Some(mut mounted) = Mounted::new() else { return };
    fs::metadata(mounted.point()).unwrap();
    mounted.kill();
    mounted.mount();
    fs::write(mounted.at("file"), "x").unwrap();
}

#[test]
fn commands_on_a_mount_whose_daemon_died_say_so_and_what_to_do() {
    let Some(mut mounted) = Mounted::new() else { return };
    fs::write(mounted.at("file"), "x").unwrap();
    mounted.kill();
    let (store, point) = (mounted.store(), mounted.point());
    let say = |words: &[&Path]| {
        let output = larder(words.iter().copied());
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        (output.status.success(), text)
    };
    let [store, point] = [&*store, &*point];
    let path = Path::new;
    let commands: [&[&Path]; 7] = [
        &[path("config"), path("--store"), store, path("cache-size-limit"), path("64MiB")],
        &[path("get"), path("--store"), store, path("file")],
        &[path("set"), path("--store"), point, path("key")],
        &[path("scrub"), path("--store"), store],
        &[path("backup"), store, path("/nowhere")],
        &[path("sync"), point],
        &[path("status"), point],
    ];
    for command in commands {
        let (done, text) = say(command);
        assert_eq!(done, command[0] == path("status"), "{command:?}: {text}");
        let remedy = format!("larder mount {} {}", store.display(), point.display());
        assert!(text.contains("its daemon has died") && text.contains(&remedy), "{command:?}: {text}");
    }
    // What could not be put in force is not written either.
    assert!(!fs::read_to_string(store.join("larder.toml")).unwrap().contains("\ncache-size-limit"));
    let (done, text) = say(&[path("umount"), point]);
    assert!(done && text.contains("its daemon had died"), "{text}");
    let (done, text) = say(&[path("sync"), store]);
    assert!(!done && text.contains("not mounted"), "{text}");
}

#[test]
fn a_store_that_was_connected_to_says_that_its_daemon_died() {
    let Some(mut mounted) = Mounted::new() else { return };
    let store = Store::connect(mounted.point()).unwrap();
    mounted.kill();
    for failed in [store.change_setting("cache-size-limit", "32MiB"), store.sync(), store.stats().map(drop)] {
        let error = failed.unwrap_err();
        assert!(matches!(error, Error::Store { .. }), "{error:?}");
        assert!(error.to_string().contains("its daemon has died"), "{error}");
    }
}

#[test]
fn what_lies_over_a_mount_is_never_unmounted_in_its_place() {
    let Some(mounted) = Mounted::new() else { return };
    let point = mounted.point();
    mount(Some("over"), &point, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::write(point.join("of the other"), "x").unwrap();
    let refused = umount(&mounted.store());
    let mut status = Command::new(env!("CARGO_BIN_EXE_larder"));
    let status = succeeds(status.arg("status").arg(mounted.store()).arg("--json"));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let pid = Pid::from_raw(status["pid"].as_i64().unwrap() as i32);
    kill(pid, Signal::SIGTERM).unwrap();
    wait_until("the refusal", Duration::from_secs(60), || mounted.log().matches("tmpfs").count() >= 2);
    let there = point.join("of the other").exists();
    umount2(&point, MntFlags::empty()).unwrap();
    assert!(there, "the other filesystem was unmounted");
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("tmpfs"), "{}", stderr(&refused));
}

#[test]
fn what_still_serves_a_mount_that_was_taken_out_of_the_tree_is_named_to_those_who_want_the_store() {
    let Some(mut mounted) = Mounted::new() else { return };
    fs::write(mounted.at("file"), "x").unwrap();
    let user = fs::File::open(mounted.at("file")).unwrap();
    let pid = mounted.daemon();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    wait_until("the mount to be gone", Duration::from_secs(60), || !mounted.at("file").exists());
    let (store, begun) = (mounted.store(), Instant::now());
    let refused = larder([Path::new("get"), Path::new("--store"), &store, Path::new("file")]);
    assert!(begun.elapsed() < Duration::from_secs(25), "it waited {:?}", begun.elapsed());
    assert_eq!(refused.status.code(), Some(2));
    let status = larder([Path::new("status"), &store]);
    for text in [stderr(&refused), String::from_utf8_lossy(&status.stdout).into_owned()] {
        assert!(text.contains(&format!("process {pid} ends with its last user")), "{text}");
    }
    drop(user);
    mounted.is_over();
}

#[test]
fn a_mount_whose_store_was_moved_away_is_not_called_unmounted() {
    let Some(mut mounted) = Mounted::new() else { return };
    fs::write(mounted.at("file"), "x").unwrap();
    let elsewhere = mounted.store().with_extension("moved");
    fs::rename(mounted.store(), &elsewhere).unwrap();
    let refused = umount(&mounted.point());
    let alive = mounted.at("file").exists();
    fs::rename(&elsewhere, mounted.store()).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(alive);
    mounted.umount();
}

#[test]
fn a_bare_umount_ends_the_daemon_and_everything_is_there_after_it() {
    let Some(mut mounted) = Mounted::new() else { return };
    fs::write(mounted.at("file"), vec![b'x'; 3 << 20]).unwrap();
    umount2(&mounted.point(), MntFlags::empty()).unwrap();
    // At once: the daemon may still be writing, and is waited for.
    let again = larder([Path::new("mount"), &mounted.store(), &mounted.point()]);
    assert!(again.status.success(), "{}", stderr(&again));
    wait_until("its last word", Duration::from_secs(60), || mounted.log().contains("everything is durable"));
    assert_eq!(fs::metadata(mounted.at("file")).unwrap().len(), 3 << 20);
    mounted.umount();
}

#[test]
fn a_user_mounts_by_fusermount_also_a_store_with_a_comma_in_its_path() {
    if !can_mount() || !have("fusermount3") {
        return;
    }
    if fs::metadata("/dev/fuse").unwrap().mode() & 0o006 != 0o006 {
        println!("skipped: /dev/fuse is root's alone here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), all).unwrap();
    let program = dir.path().join("larder");
    fs::copy(env!("CARGO_BIN_EXE_larder"), &program).unwrap();
    let (store, point) = (dir.path().join("own/a,nodev\\ store"), dir.path().join("own/mnt"));
    fs::create_dir_all(&point).unwrap();
    const NOBODY: u32 = 65_534;
    for path in [dir.path().join("own"), point.clone()] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let as_nobody = |program: &Path, arguments: &[&Path]| {
        let mut command = Command::new(program);
        command.env_remove("LARDER_LOG").args(arguments).current_dir("/").uid(NOBODY).gid(NOBODY);
        command.output().unwrap()
    };
    let mounted = as_nobody(&program, &[Path::new("mount"), &store, &point]);
    assert!(mounted.status.success(), "{}", stderr(&mounted));
    let copied = as_nobody(Path::new("cp"), &[&program, &point.join("copy")]);
    // Root is another user to it, and is not let in; it may end the mount all the same.
    let denied = fs::read_dir(&point).is_err();
    let status = as_nobody(&program, &[Path::new("status"), &point]);
    let unmounted = umount(&point);
    if !unmounted.status.success() {
        let _ = umount2(&point, MntFlags::MNT_DETACH);
    }
    assert!(copied.status.success(), "{}", stderr(&copied));
    assert!(denied);
    assert!(status.status.success(), "{}", stderr(&status));
    assert!(unmounted.status.success(), "{}", stderr(&unmounted));
    let mounted = as_nobody(&program, &[Path::new("mount"), &store, &point]);
    assert!(mounted.status.success(), "{}", stderr(&mounted));
    let same = as_nobody(Path::new("cmp"), &[&program, &point.join("copy")]);
    let unmounted = as_nobody(&program, &[Path::new("umount"), &point]);
    assert!(same.status.success(), "{}", stderr(&same));
    assert!(unmounted.status.success(), "{}", stderr(&unmounted));
}

#[test]
fn the_helper_of_mount_takes_what_mount_hands_it_and_refuses_what_it_does_not_know() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, point) = (dir.path().join("store"), dir.path().join("mnt"));
    fs::create_dir(&point).unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_larder")).parent().unwrap();
    let helper = |options: &str| {
        let mut command = Command::new("sh");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/mount.fuse.larder"));
        command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        command.arg(&store).arg(&point).args(["-o", options, "-t", "fuse.larder"]).output().unwrap()
    };
    let refused = helper("rw,fancy");
    assert_eq!(refused.status.code(), Some(32), "as mount(8) says of a failure");
    assert!(stderr(&refused).contains("-o fancy"), "{}", stderr(&refused));
    let mounted = helper("rw,noexec,user=root,nofail,cache-size-limit=32MiB");
    assert!(mounted.status.success(), "{}", stderr(&mounted));
    let line = fs::read_to_string("/proc/mounts").unwrap();
    let line = line.lines().find(|line| line.contains(point.to_str().unwrap())).unwrap().to_owned();
    let remounted = helper("remount,ro");
    let refused = fs::write(point.join("file"), "").unwrap_err();
    let unmounted = umount(&point);
    assert!(remounted.status.success(), "{}", stderr(&remounted));
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EROFS));
    assert!(unmounted.status.success(), "{}", stderr(&unmounted));
    assert!(line.contains(" fuse.larder ") && line.contains("noexec"), "{line}");
}

#[test]
fn an_option_that_asks_for_access_times_is_answered_and_the_store_is_mounted() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, point) = (dir.path().join("store"), dir.path().join("mnt"));
    fs::create_dir(&point).unwrap();
    for (options, answered) in [("strictatime", true), ("noatime,nodiratime", false)] {
        let mounted =
            larder(["mount".as_ref(), "-o".as_ref(), options.as_ref(), store.as_os_str(), point.as_os_str()]);
        let unmounted = umount(&point);
        assert!(mounted.status.success() && unmounted.status.success(), "{}", stderr(&mounted));
        let text = stderr(&mounted);
        assert_eq!(text.contains("-o strictatime: ") && text.contains("noatime"), answered, "{text}");
    }
}

/// Unmounts a mount point when a test has failed before it did.
struct Unmounted<'a>(&'a Path);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !umount(self.0).status.success() {
            let _ = umount2(self.0, MntFlags::MNT_DETACH);
        }
    }
}

/// A library to be loaded ahead of the system's: flushes fail while the file `FAIL_FLUSHES` names is there.
const FAILING_FLUSHES: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static int flush(long call, int file) {
    if (access(getenv("FAIL_FLUSHES"), F_OK) == 0) { errno = EIO; return -1; }
    return syscall(call, file);
}
int fsync(int file) { return flush(SYS_fsync, file); }
int fdatasync(int file) { return flush(SYS_fdatasync, file); }
"#;

#[test]
fn after_a_failed_flush_log_status_and_erofs_say_that_the_store_is_read_only_until_it_is_mounted_again() {
    if !can_mount() || !have("cc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [store, point, library, failing] =
        ["store", "mnt", "flushes.so", "failing"].map(|name| dir.path().join(name));
    fs::create_dir(&point).unwrap();
    let source = dir.path().join("flushes.c");
    fs::write(&source, FAILING_FLUSHES).unwrap();
    succeeds(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source));
    let mut mount = Command::new(env!("CARGO_BIN_EXE_larder"));
    mount.env("LD_PRELOAD", &library).env("FAIL_FLUSHES", &failing);
    succeeds(mount.args(["mount", "--commit-interval", "1h"]).arg(&store).arg(&point));
    let _unmounted = Unmounted(&point);

    let durable = |name: &str| {
        let mut file = fs::File::create(point.join(name))?;
        file.write_all(name.as_bytes())?;
        file.sync_all()
    };
    durable("before").unwrap();
    fs::write(&failing, "").unwrap();
    let rejected = durable("rejected").unwrap_err();
    fs::remove_file(&failing).unwrap();
    // The disk is well again, and what was rejected is still not durable.
    let still = fs::File::open(point.join("rejected")).unwrap().sync_all().unwrap_err();
    let refused = fs::write(point.join("refused"), "").unwrap_err();
    let status = larder([Path::new("status"), &point]);
    let log = fs::read_to_string(store.join("larder.log")).unwrap();
    let read = fs::read(point.join("before"));
    let synced = larder([Path::new("sync"), &point]);
    let connected = Store::connect(&point).unwrap();
    let by_library = [connected.sync(), connected.set("refused", ""), connected.cleanup().map(drop)];
    drop(connected);
    let ended = umount(&point);
    for outcome in by_library {
        assert!(
            matches!(&outcome, Err(Error::ReadOnly(why)) if why.contains("/journal/") && !why.contains("read-only")),
            "{outcome:?}"
        );
    }
    assert_eq!(rejected.raw_os_error(), Some(nix::libc::EIO));
    assert_eq!(
        (still.raw_os_error(), refused.raw_os_error()),
        (Some(nix::libc::EROFS), Some(nix::libc::EROFS))
    );
    assert_eq!(read.unwrap(), b"before");
    let status = String::from_utf8(status.stdout).unwrap();
    for said in [&status, &log, &stderr(&synced), &stderr(&ended)] {
        assert!(said.contains("/journal/") && said.contains("mount again"), "{said}");
    }
    assert!(status.contains("READ-ONLY"), "{status}");
    assert!(!synced.status.success() && !ended.status.success());

    let mounted = larder([Path::new("mount"), &store, &point]);
    assert!(mounted.status.success(), "{}", stderr(&mounted));
    durable("after").unwrap();
    assert_eq!(fs::read(point.join("before")).unwrap(), b"before");
    let ended = umount(&point);
    assert!(ended.status.success(), "{}", stderr(&ended));
    succeeds(Command::new(env!("CARGO_BIN_EXE_larder")).arg("check").arg(&store));
}
