//! `.larder/` at the root of a real mount.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may"
)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use support::mounted::Mounted;
use support::sys;

fn errno<T>(result: io::Result<T>) -> i32 {
    result.map(drop).expect_err("it was allowed").raw_os_error().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The value of a metric without labels.
fn metric(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn what_the_mount_knows_of_itself_is_read_from_files_that_no_listing_shows() {
    let Some(mounted) = Mounted::with(&["--cache-size-limit", "33MiB", "--commit-interval", "1500ms"]) else {
        return;
    };
    let own = mounted.at(".larder");
    fs::write(mounted.at("file"), vec![b'x'; 300_000]).unwrap();
    // The figures count what is journalled.
    mounted.sync();
    assert_eq!(names(&mounted.point()), ["file"]);
    assert_eq!(names(&own), ["config", "metrics", "stats"]);
    let stat = fs::metadata(&own).unwrap();
    assert!(stat.is_dir() && stat.mode() & 0o7777 == 0o555);

    let stats: serde_json::Value = serde_json::from_slice(&fs::read(own.join("stats")).unwrap()).unwrap();
    assert_eq!(stats["content_bytes"], 300_000);
    assert_eq!(stats["inodes"], 2);
    assert_eq!(stats["mountpoint"], mounted.point().to_str().unwrap());

    let metrics = fs::read_to_string(own.join("metrics")).unwrap();
    assert_eq!(metric(&metrics, "larder_content_bytes"), Some(300_000), "{metrics}");
    assert_eq!(metric(&metrics, "larder_cache_limit_bytes"), Some(33 << 20));
    assert_eq!(metric(&metrics, "larder_size_limit_bytes"), None);
    assert!(metrics.contains("larder_requests_total{kind=\"Write\"} "), "{metrics}");

    let config = fs::read_to_string(own.join("config")).unwrap();
    for line in
        ["cache-size-limit = \"33MiB\"", "commit-interval = \"1500ms\"", "storage-compression = \"lz4\""]
    {
        assert!(config.lines().any(|found| found == line), "{line} is not in\n{config}");
    }
}

#[test]
fn what_is_open_of_larders_own_stays_as_it_was_and_who_opens_it_again_sees_the_present() {
    let Some(mounted) = Mounted::new() else { return };
    let metrics = mounted.at(".larder/metrics");
    let files = |text: &str| metric(text, "larder_inodes").unwrap();
    let mut first = File::open(&metrics).unwrap();
    let before = files(&fs::read_to_string(&metrics).unwrap());
    for n in 0..100 {
        File::create(mounted.at(format!("f{n}"))).unwrap();
        assert_eq!(files(&fs::read_to_string(&metrics).unwrap()), before + n + 1);
    }
    let size = first.metadata().unwrap().len();
    let mut text = String::new();
    assert_eq!(first.read_to_string(&mut text).unwrap() as u64, size);
    assert_eq!(files(&text), before);
    assert_eq!(sys::seek(&first, 5, false).unwrap(), 5);
    assert_eq!(sys::seek(&first, 5, true).unwrap(), size);

    // They take room in the daemon, so there is an end of them; it is back when they are closed.
    let mut open = Vec::new();
    let refused = loop {
        match File::open(&metrics) {
            Ok(file) => open.push(file),
            Err(error) => break error,
        }
        assert!(open.len() < 2000);
    };
    assert!(matches!(refused.raw_os_error(), Some(libc::ENFILE | libc::EMFILE)), "{refused}");
    assert!(open.len() > 500, "{}", open.len());
    drop(open);
    support::mounted::wait_until("room for another", std::time::Duration::from_secs(60), || {
        File::open(&metrics).is_ok()
    });
}

#[test]
fn larders_own_files_cannot_be_changed_moved_or_removed() {
    let Some(mounted) = Mounted::new() else { return };
    let own = mounted.at(".larder");
    let stats = own.join("stats");
    let other = mounted.at("other");
    fs::write(&other, "x").unwrap();
    fs::create_dir(mounted.at("dir")).unwrap();
    const EPERM: i32 = libc::EPERM;
    assert_eq!(errno(fs::write(own.join("new"), "x")), EPERM);
    assert_eq!(errno(fs::create_dir(own.join("new"))), EPERM);
    assert_eq!(errno(symlink("x", own.join("new"))), EPERM);
    assert_eq!(errno(fs::hard_link(&other, own.join("new"))), EPERM);
    assert_eq!(errno(fs::hard_link(&stats, mounted.at("new"))), EPERM);
    assert_eq!(errno(fs::remove_file(&stats)), EPERM);
    assert_eq!(errno(fs::remove_dir(&own)), EPERM);
    assert_eq!(errno(fs::rename(&own, mounted.at("new"))), EPERM);
    assert_eq!(errno(fs::rename(&stats, mounted.at("new"))), EPERM);
    assert_eq!(errno(fs::rename(&other, &stats)), EPERM);
    assert_eq!(errno(fs::rename(mounted.at("dir"), &own)), EPERM);
    assert_eq!(errno(fs::create_dir(&own)), libc::EEXIST);
    assert_eq!(errno(fs::set_permissions(&own, fs::Permissions::from_mode(0o777))), EPERM);
    assert_eq!(errno(sys::setxattr(&stats, b"user.a", b"b", 0)), EPERM);
    // Only root gets so far.
    let file = OpenOptions::new().write(true).open(&stats).unwrap();
    assert_eq!(errno(file.set_len(0)), EPERM);
    assert_eq!(errno(std::os::unix::fs::FileExt::write_all_at(&file, b"x", 0)), EPERM);
    assert_eq!(errno(sys::fallocate(&file, 0, 0, 10)), EPERM);
    assert_eq!(errno(sys::getxattr(&stats, b"user.larder.ttl")), libc::ENODATA);
    assert_eq!(names(&mounted.point()), ["dir", "other"]);
    // What copies it makes a file of its own.
    assert_eq!(
        fs::copy(&stats, mounted.at("copy")).unwrap(),
        fs::metadata(mounted.at("copy")).unwrap().len()
    );
    serde_json::from_slice::<serde_json::Value>(&fs::read(mounted.at("copy")).unwrap()).unwrap();
}
