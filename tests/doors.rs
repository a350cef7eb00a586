//! One store, three doors: what is said through one is seen through the others, and what cannot be is refused by each, with
//! nothing changed. The library and the command come to the store while it is mounted and while it is not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may"
)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use larder::store::{Expiry, Mark, Store, Touch};
use larder::{Error, Result};
use nix::libc::{EDQUOT, EINVAL, ENAMETOOLONG, ENOSPC, EPERM, S_IFIFO};
use support::mounted::{Mounted, stderr};
use support::random::Random;
use support::sys;

fn larder(store: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.env_remove("LARDER_LOG").env("LARDER_STORAGE_PATH", store).args(arguments).output().unwrap()
}

fn ends(store: &Path, code: i32, arguments: &[&str]) -> String {
    let output = larder(store, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn errno<T>(outcome: std::io::Result<T>) -> i32 {
    outcome.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

fn set(path: &Path, name: &str, value: &str) -> i32 {
    errno(sys::setxattr(path, format!("user.larder.{name}").as_bytes(), value.as_bytes(), 0))
}

fn attribute(path: &Path, name: &str) -> Option<String> {
    let value = sys::getxattr(path, format!("user.larder.{name}").as_bytes()).ok()?;
    Some(String::from_utf8(value).unwrap())
}

/// Runs a test with the library and the command while a store is mounted, and while it is not.
fn mounted_and_not(mut mounted: Mounted, test: impl Fn(&PathBuf, &dyn Fn() -> Store)) -> Mounted {
    test(&mounted.store(), &|| Store::connect(mounted.point()).unwrap());
    mounted.umount();
    test(&mounted.store(), &|| Store::open(mounted.store()).unwrap());
    mounted.mount();
    mounted
}

/// What there is of each kind, in a store that is mounted.
fn of_all_kinds() -> Option<Mounted> {
    let mounted = Mounted::new()?;
    fs::write(mounted.at("file"), "content").unwrap();
    fs::create_dir(mounted.at("dir")).unwrap();
    symlink("file", mounted.at("link")).unwrap();
    sys::mknod(&mounted.at("fifo"), S_IFIFO | 0o644).unwrap();
    Some(mounted)
}

#[test]
fn an_expiry_that_is_set_through_one_door_is_seen_through_the_others() {
    let Some(mut mounted) = of_all_kinds() else { return };
    let end = |year: u32| format!("{year}-01-01T00:00:00Z");
    let seen = |mounted: &mut Mounted, key: &str, expected: Option<&str>| {
        assert_eq!(attribute(&mounted.at(key), "expires").as_deref(), expected, "{key} in the mount");
        for round in 0..2 {
            let stat = ends(&mounted.store(), 0, &["stat", "--json", key]);
            let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
            assert_eq!(stat["expires"].as_str(), expected, "{key} by command, {round}");
            let store = match round {
                0 => Store::connect(mounted.point()).unwrap(),
                _ => Store::open(mounted.store()).unwrap(),
            };
            let found = store.stat(key).unwrap().unwrap().expires;
            let wanted =
                expected.map(|text| SystemTime::from(larder::shelf::parse_expires(text).unwrap().unwrap()));
            assert_eq!(found, wanted, "{key} by the library, {round}");
            store.close().unwrap();
            if round == 0 {
                mounted.umount();
            }
        }
        mounted.mount();
    };
    for key in ["file", "dir"] {
        seen(&mut mounted, key, None);
        assert_eq!(set(&mounted.at(key), "expires", &end(2101)), 0);
        seen(&mut mounted, key, Some(&end(2101)));
        ends(&mounted.store(), 0, &["touch", key, "--expires", &end(2102)]);
        seen(&mut mounted, key, Some(&end(2102)));
        let store = Store::connect(mounted.point()).unwrap();
        store.expire(key, Expiry::At(SystemTime::UNIX_EPOCH + Duration::from_secs(4_197_484_800))).unwrap();
        drop(store);
        seen(&mut mounted, key, Some("2103-01-06T00:00:00Z"));
        ends(&mounted.store(), 0, &["touch", key, "--ttl", "never"]);
        seen(&mut mounted, key, None);
    }
    // What lies in a directory goes with it, and tells so.
    ends(&mounted.store(), 0, &["set", "dir/below", "--value", "x"]);
    ends(&mounted.store(), 0, &["touch", "dir", "--expires", &end(2104)]);
    seen(&mut mounted, "dir/below", Some(&end(2104)));
    let table = ends(&mounted.store(), 0, &["ls", "-l", "dir/"]);
    assert!(table.lines().nth(1).unwrap().contains("d "), "{table}");
    // A touch that renews nothing is seen all the same.
    let before = attribute(&mounted.at("file"), "touch").unwrap();
    ends(&mounted.store(), 0, &["touch", "file", "--expiration", "--size"]);
    assert!(attribute(&mounted.at("file"), "touch").unwrap() > before);
}

#[test]
fn attributes_of_the_wrong_kind_of_file_are_refused_through_each_door_and_change_nothing() {
    let Some(mounted) = of_all_kinds() else { return };
    fs::write(mounted.at("full"), vec![b'x'; 100_000]).unwrap();
    // Through the mount.
    for (key, name, value) in [
        ("file", "default-ttl", "1h"),
        ("file", "size-limit", "1GiB"),
        ("full", "page-size", "4KiB"),
        ("fifo", "ttl", "1h"),
        ("fifo", "evictable", "1"),
        ("fifo", "pinned", "1"),
        ("fifo", "codec", "lz4"),
        ("fifo", "size-limit", "1GiB"),
        ("", "ttl", "1h"),
        ("file", "stored", "1"),
        ("file", "ratio", "1"),
        ("file", "pages", "1"),
        ("file", "extents", "1"),
        ("file", "cached", "1"),
        ("file", "hits", "1"),
    ] {
        assert_eq!(set(&mounted.at(key), name, value), EPERM, "{key} {name}");
    }
    for (key, name, value) in
        [("dir", "size-limit", "0"), ("dir", "default-ttl", "0"), ("file", "pinned", "yes")]
    {
        assert_eq!(set(&mounted.at(key), name, value), EINVAL, "{key} {name}");
    }
    let mounted = mounted_and_not(mounted, |dir, open| {
        let store = open();
        let hour = Duration::from_secs(3600);
        let refused = |what: &str, outcome: Result<()>| match outcome {
            Err(Error::NotPermitted | Error::Invalid(_)) => {}
            other => panic!("{what}: {other:?}"),
        };
        for key in ["file", "link", "fifo"] {
            refused(key, store.mark(key, Mark::DefaultTtl(Some(Expiry::In(hour)))));
            refused(key, store.mark(key, Mark::SizeLimit(Some(1 << 30))));
        }
        for key in ["link", "fifo"] {
            refused(key, store.mark(key, Mark::Evictable(Some(true))));
            refused(key, store.mark(key, Mark::Pinned(Some(true))));
            refused(key, store.expire(key, Expiry::In(hour)));
            refused(key, store.touch(key, Touch::Expiration));
        }
        refused("a limit of 0", store.mark("dir", Mark::SizeLimit(Some(0))));
        refused("a life of 0", store.mark("dir", Mark::DefaultTtl(Some(Expiry::In(Duration::ZERO)))));
        refused("a life that is too long", store.expire("file", Expiry::In(Duration::from_secs(1 << 40))));
        assert!(matches!(store.expire("nothing", Expiry::In(hour)), Err(Error::NotFound)));
        store.close().unwrap();
        // By command: with the key, and why.
        for arguments in [
            &["mark", "file", "--default-ttl", "1h"][..],
            &["mark", "file", "--size-limit", "1GiB"],
            &["mark", "fifo", "--evictable", "yes"],
            &["mark", "dir", "--size-limit", "0"],
            &["mark", "dir", "--size-limit", "much"],
            &["mark", "dir", "--default-ttl", "0"],
            &["mark", "dir", "--default-ttl", "-5"],
            &["touch", "link", "--ttl", "1h"],
            &["touch", "file", "--ttl", "-5"],
            &["touch", "file", "--ttl", "200y"],
            &["touch", "file", "--expires", "9999-12-31T00:00:00Z"],
        ] {
            let output = larder(dir, arguments);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
            let said = stderr(&output);
            assert!(
                said.starts_with("larder: ") && !said.contains("not permitted\n") || said.contains("link"),
                "{said}"
            );
        }
        let output = larder(dir, &["touch", "file", "--expires", "9999-12-31T00:00:00Z"]);
        assert!(stderr(&output).contains("2262"), "{}", stderr(&output));
        let output = larder(dir, &["mark", "file", "--size-limit", "1GiB"]);
        assert!(stderr(&output).contains("only a directory"), "{}", stderr(&output));
    });
    for key in ["file", "dir", "full", "link", "fifo"] {
        let names = Command::new("getfattr").args(["-h", "-m-", "--"]).arg(mounted.at(key)).output().unwrap();
        assert!(names.stdout.is_empty(), "{key}: {names:?}");
    }
}

#[test]
fn what_is_no_key_is_refused_through_each_door_and_makes_nothing() {
    let Some(mounted) = Mounted::new() else { return };
    let long = "n".repeat(256);
    let below = format!("dir/{long}");
    assert_eq!(errno(fs::write(mounted.at(&long), "x")), ENAMETOOLONG);
    let mounted = mounted_and_not(mounted, |dir, open| {
        let wrong = [
            "",
            "/absolute",
            "..",
            "../up",
            "dir/../up",
            "dir//file",
            "dir/",
            ".",
            &long,
            &below,
            ".larder/x",
        ];
        let store = open();
        for key in wrong.into_iter().chain(["a\0b"]) {
            for (what, outcome) in [
                ("set", store.set(key, "x")),
                ("get", store.get(key).map(drop)),
                ("delete", store.delete(key).map(drop)),
                ("exists", store.exists(key).map(drop)),
                ("has", store.has(key).map(drop)),
                ("stat", store.stat(key).map(drop)),
                ("touch", store.touch(key, Touch::Both)),
                ("expire", store.expire(key, Expiry::Never)),
                ("lock", store.lock(key, || ())),
                ("resolve", store.resolve(key).map(drop)),
            ] {
                assert!(
                    matches!(outcome, Err(Error::Key { .. } | Error::NameTooLong)),
                    "{what} {key:?}: {outcome:?}"
                );
            }
        }
        store.close().unwrap();
        for key in wrong {
            for arguments in [
                &["set", "--value", "x", "--", key][..],
                &["get", key],
                &["rm", key],
                &["exists", key],
                &["has", key],
                &["stat", key],
                &["touch", key],
                &["resolve", key],
                &["lock", key, "--", "true"],
            ] {
                let output = larder(dir, arguments);
                assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
                assert!(stderr(&output).starts_with("larder: "), "{arguments:?}: {}", stderr(&output));
            }
        }
        assert_eq!(ends(dir, 0, &["ls"]), "");
    });
    assert_eq!(fs::read_dir(mounted.point()).unwrap().count(), 0);
}

#[test]
fn a_value_beyond_a_limit_is_refused_through_each_door_and_the_key_keeps_the_old_one() {
    let flags =
        ["--cache-size-limit", "16MiB", "--storage-size-limit", "64MiB", "--cache-eviction-policy", "lru"];
    let Some(mounted) = Mounted::with(&flags) else { return };
    let large = Random::of(1).bytes(80 << 20);
    fs::create_dir(mounted.at("dir")).unwrap();
    for path in ["key", "dir/key"] {
        fs::write(mounted.at(path), "old").unwrap();
    }
    assert_eq!(set(&mounted.at("dir"), "size-limit", "1MiB"), 0);
    // Everything may be evicted, but what stays says no.
    assert_eq!(set(&mounted.point(), "evictable", "1"), 0);
    assert_eq!((set(&mounted.at("key"), "pinned", "1"), set(&mounted.at("dir"), "pinned", "1")), (0, 0));
    let file = mounted.beside("values").join("large");
    fs::write(&file, &large).unwrap();
    let beside = mounted.beside("values").join("beside");
    fs::write(&beside, &large[..2 << 20]).unwrap();
    assert_eq!(errno(fs::write(mounted.at("new"), &large)), ENOSPC);
    // It may have been evicted since it was closed.
    if let Err(error) = fs::remove_file(mounted.at("new")) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
    assert_eq!(errno(fs::write(mounted.at("dir/new"), &large[..2 << 20])), EDQUOT);
    fs::remove_file(mounted.at("dir/new")).unwrap();
    let mounted = mounted_and_not(mounted, |dir, open| {
        // As the mount has it.
        let reopened = || match Store::connect(dir) {
            Ok(store) => store,
            Err(_) => {
                let settings = [("storage-size-limit", "64MiB"), ("cache-eviction-policy", "lru")];
                let options = settings
                    .into_iter()
                    .fold(Store::options(), |all, (name, value)| all.setting(name, value));
                options.open(dir).unwrap()
            }
        };
        drop(open());
        let store = reopened();
        // Nothing is left of what was refused before.
        store.cleanup().unwrap();
        let refused = store.set("dir/key", &large[..2 << 20]);
        assert!(matches!(refused, Err(Error::QuotaExceeded)), "{refused:?}");
        assert!(matches!(store.set("key", &large), Err(Error::NoSpace)));
        let mut writer = store.writer("key").unwrap();
        let streamed = std::io::Write::write_all(&mut writer, &large)
            .map_err(drop)
            .and_then(|()| writer.finish().map_err(drop));
        assert!(streamed.is_err());
        for key in ["key", "dir/key"] {
            assert_eq!(store.get(key).unwrap().unwrap(), b"old", "{key}");
        }
        store.close().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command
            .env("LARDER_STORAGE_PATH", dir)
            .env("LARDER_STORAGE_SIZE_LIMIT", "64MiB")
            .args(["set", "key"])
            .arg(&file);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert_eq!(stderr(&output), "larder: key: no space left in the store\n");
        let output = larder(dir, &["set", "dir/key", beside.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).starts_with("larder: dir/key: "), "{output:?}");
        assert_eq!(ends(dir, 0, &["ls"]), "dir/key\nkey\n");
        assert_eq!(ends(dir, 0, &["get", "key"]), "old");
    });
    assert_eq!(fs::read(mounted.at("key")).unwrap(), b"old");
}

#[test]
fn a_new_value_counts_beside_the_old_one_only_where_a_mount_takes_it_in_pieces() {
    let Some(mut mounted) = Mounted::new() else { return };
    fs::create_dir(mounted.at("dir")).unwrap();
    sys::setxattr(&mounted.at("dir"), b"user.larder.size-limit", b"300000", 0).unwrap();
    let (value, file) = (Random::of(1).bytes(200_000), mounted.beside("files").join("value"));
    fs::write(&file, &value).unwrap();
    let in_pieces = |store: &Path, named: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.env("LARDER_STORAGE_PATH", store).args(["set", "dir/key"]).args(named.then_some(&file));
        command.stdin(fs::File::open(&file).unwrap()).output().unwrap()
    };
    let whole = |store: &Store| {
        store.set("dir/key", &value).unwrap();
        store.set("dir/key", &value).unwrap();
    };
    let store = mounted.store();
    whole(&Store::connect(&store).unwrap());
    for named in [false, true] {
        let refused = in_pieces(&store, named);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(stderr(&refused).contains("size limit"), "{refused:?}");
    }
    assert!(fs::read(mounted.at("dir/key")).unwrap() == value);
    mounted.umount();
    let opened = Store::open(&store).unwrap();
    whole(&opened);
    opened.close().unwrap();
    let taken = in_pieces(&store, false);
    assert_eq!(taken.status.code(), Some(0), "{taken:?}");
}

#[test]
fn keys_leave_out_what_lies_deeper_than_a_key_can_be_long() {
    let Some(mut mounted) = Mounted::with(&["--cache-size-limit", "8MiB"]) else {
        return;
    };
    fs::write(mounted.at("z"), "last").unwrap();
    // Each made in the one before: no path leads there in one step.
    let mut dir = fs::File::open(mounted.point()).unwrap();
    for _ in 0..4100 {
        nix::sys::stat::mkdirat(&dir, "d", nix::sys::stat::Mode::S_IRWXU).unwrap();
        dir = nix::fcntl::openat(&dir, "d", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty())
            .unwrap()
            .into();
    }
    drop(dir);
    mounted.umount();
    let store = Store::options().setting("cache-size-limit", "8MiB").open(mounted.store()).unwrap();
    let keys: Vec<Result<_>> = store.keys("").collect();
    assert!(matches!(&keys[..], [Err(Error::Key { .. }), Ok(last)] if last.as_bytes() == b"z"), "{keys:?}");
    store.close().unwrap();
}
