//! The library: what it promises holds for a store that is opened, and for one that is mounted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod support;

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant, SystemTime};

use larder::Error;
use larder::clock::Clock;
use support::mounted::Mounted;

use larder::store::{Batch, Codec, Durability, Expiry, Key, Mark, Marks, SetOptions, Store, Touch};

/// A store to try things on, behind one of the doors.
struct Trial {
    store: Option<Store>,
    at: Place,
}

enum Place {
    Opened(tempfile::TempDir),
    Mounted(Mounted),
}

impl Trial {
    fn new(at: Place) -> Trial {
        let mut trial = Trial { store: None, at };
        trial.open();
        trial
    }

    fn open(&mut self) {
        self.store = Some(match &self.at {
            Place::Opened(dir) => {
                let options = Store::options().setting("cache-size-limit", "16MiB");
                options.open(dir.path().join("store")).unwrap()
            }
            Place::Mounted(mounted) => Store::connect(mounted.point()).unwrap(),
        });
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// Closed and opened, or unmounted and mounted again.
    fn again(&mut self) {
        self.store.take().unwrap().close().unwrap();
        if let Place::Mounted(mounted) = &mut self.at {
            mounted.remount();
        }
        self.open();
    }
}

/// Runs a test at each door to a store: one that this process opens, and one that is mounted.
fn at_each_door(test: impl Fn(&mut Trial)) {
    println!("opened");
    test(&mut Trial::new(Place::Opened(tempfile::tempdir().unwrap())));
    if let Some(mounted) = Mounted::with(&["--cache-size-limit", "16MiB"]) {
        println!("mounted");
        test(&mut Trial::new(Place::Mounted(mounted)));
    }
}

fn text(lines: usize) -> Vec<u8> {
    (0..lines).flat_map(|n| format!("line {n} of some text that compresses\n").into_bytes()).collect()
}

fn names(store: &Store, prefix: &str) -> Vec<String> {
    store.keys(prefix).map(|key| key.unwrap().to_string()).collect()
}

#[test]
fn a_value_is_what_was_set_last_whatever_its_size_also_after_a_restart() {
    at_each_door(|trial| {
        let sizes = [0, 1, 100, 32 << 10, (32 << 10) + 1, 128 << 10, (1 << 20) + 17, 5 << 20];
        let value = |n: usize, size: usize| -> Vec<u8> {
            text(size / 30 + 1).into_iter().map(|byte| byte.wrapping_add(n as u8)).take(size).collect()
        };
        for (n, size) in sizes.into_iter().enumerate() {
            trial.store().set(format!("sizes/{size}"), value(n, size)).unwrap();
            trial.store().set("last", value(n, size)).unwrap();
            assert_eq!(trial.store().get("last").unwrap().unwrap(), value(n, size), "{size}");
        }
        for round in 0..2 {
            for (n, size) in sizes.into_iter().enumerate() {
                let found = trial.store().get(format!("sizes/{size}")).unwrap().unwrap();
                assert!(found == value(n, size), "{size} in round {round}");
            }
            let last = sizes.len() - 1;
            assert!(trial.store().get("last").unwrap().unwrap() == value(last, sizes[last]));
            trial.again();
        }
    });
}

#[test]
fn what_is_not_there_is_none_and_no_error() {
    at_each_door(|trial| {
        let store = trial.store();
        store.set("a/file", "x").unwrap();
        for key in ["b", "a/b", "a/file/below", "x/y/z"] {
            assert_eq!(store.get(key).unwrap(), None, "{key}");
            assert!(store.reader(key).unwrap().is_none(), "{key}");
            assert!(!store.exists(key).unwrap(), "{key}");
            assert!(!store.has(key).unwrap(), "{key}");
            assert_eq!(store.stat(key).unwrap(), None, "{key}");
            assert!(!store.delete(key).unwrap(), "{key}");
            assert!(!store.delete_all(key).unwrap(), "{key}");
            assert!(matches!(store.touch(key, Touch::Both), Err(Error::NotFound)), "{key}");
        }
        assert_eq!(names(store, ""), ["a/file"]);
    });
}

#[test]
fn a_key_is_there_until_it_is_deleted() {
    at_each_door(|trial| {
        let store = trial.store();
        store.set("a/b", "x").unwrap();
        assert!(store.exists("a/b").unwrap() && store.exists("a").unwrap());
        assert!(store.delete("a/b").unwrap());
        assert!(!store.delete("a/b").unwrap());
        assert!(!store.exists("a/b").unwrap());
        assert!(store.exists("a").unwrap(), "directories stay");
    });
}

#[test]
fn malformed_keys_are_refused_by_kind_and_change_nothing() {
    at_each_door(|trial| {
        let store = trial.store();
        let long = format!("a/{}/b", "x".repeat(256));
        let longer = "abcdefg/".repeat(600) + "h";
        let wrong: [&[u8]; 13] = [
            b"",
            b"/",
            b"/a",
            b"a/",
            b"a//b",
            b".",
            b"..",
            b"a/../b",
            b"a/./b",
            b"a\0b",
            b".larder/stats",
            b"a/.larder-new-1",
            longer.as_bytes(),
        ];
        for key in wrong {
            let mut batch = Batch::new();
            let errors = [
                Key::new(key).map(drop).unwrap_err(),
                store.set(key, "x").unwrap_err(),
                store.get(key).map(drop).unwrap_err(),
                store.delete(key).map(drop).unwrap_err(),
                store.exists(key).map(drop).unwrap_err(),
                store.writer(key).map(drop).unwrap_err(),
                store.touch(key, Touch::Both).unwrap_err(),
                store.lock(key, || ()).unwrap_err(),
                batch.set(key, "x").map(drop).unwrap_err(),
            ];
            for error in errors {
                assert!(matches!(error, Error::Key { .. }), "{key:?}: {error:?}");
            }
            assert!(batch.is_empty());
        }
        assert!(matches!(store.set(&long, "x"), Err(Error::NameTooLong)));
        assert!(matches!(store.get(&long), Err(Error::NameTooLong)));
        assert_eq!(names(store, ""), [""; 0]);
        assert!(!store.exists("a").unwrap(), "no directory was made on the way");
    });
}

#[test]
fn keys_may_be_any_bytes_and_as_long_as_they_can_be() {
    at_each_door(|trial| {
        let store = trial.store();
        let key = [&b"\xff\xfe \n/"[..], &[b'x'; 255], b"/\"quoted\"\\"].concat();
        store.set(&key, "value").unwrap();
        assert_eq!(store.get(&key).unwrap().unwrap(), b"value");
        assert_eq!(store.keys("").next().unwrap().unwrap().as_bytes(), key);
    });
}

#[test]
fn a_key_and_a_directory_are_not_taken_for_one_another() {
    at_each_door(|trial| {
        let store = trial.store();
        store.set("a/b", "x").unwrap();
        assert!(matches!(store.set("a", "x"), Err(Error::IsADirectory)));
        assert!(matches!(store.get("a"), Err(Error::IsADirectory)));
        assert!(matches!(store.delete("a"), Err(Error::IsADirectory)));
        assert!(matches!(store.set("a/b/c", "x"), Err(Error::NotADirectory)));
        assert!(matches!(store.set("a/b/c/d", "x"), Err(Error::NotADirectory)));
        assert_eq!(store.get("a/b").unwrap().unwrap(), b"x");
        assert_eq!(names(store, ""), ["a/b"]);
    });
}

#[test]
fn a_directory_goes_with_all_that_is_in_it() {
    at_each_door(|trial| {
        for n in 0..50 {
            trial.store().set(format!("logs/{}/{n}", n % 7), text(n)).unwrap();
        }
        trial.store().set("kept", "x").unwrap();
        assert!(trial.store().delete_all("logs").unwrap());
        assert_eq!(names(trial.store(), ""), ["kept"]);
        trial.store().set("logs/new", "y").unwrap();
        trial.again();
        assert_eq!(names(trial.store(), ""), ["kept", "logs/new"]);
    });
}

#[test]
fn keys_come_in_the_order_of_their_bytes_and_by_any_prefix() {
    at_each_door(|trial| {
        let store = trial.store();
        let mut all: Vec<String> =
            ["a", "a-b", "a/b", "a/c/d", "a/c.x", "a.txt", "b/1", "b/10", "b/2", "ab/c"]
                .into_iter()
                .filter(|key| *key != "a")
                .map(str::to_owned)
                .collect();
        all.extend((0..300).map(|n| format!("many/{n}")));
        for key in &all {
            store.set(key, "x").unwrap();
        }
        all.sort();
        assert_eq!(names(store, ""), all);
        for prefix in ["a", "a/", "a/c", "a/c/", "b/1", "many/2", "many/29", "nothing", "a/b/", "ab", "many/"]
        {
            let expected: Vec<String> = all.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
            assert_eq!(names(store, prefix), expected, "{prefix:?}");
        }
        for prefix in ["/", "//", "../", "a//", "\0/"] {
            assert_eq!(names(store, prefix), [""; 0], "{prefix:?}");
        }
    });
}

#[test]
fn a_batch_changes_all_its_keys() {
    at_each_door(|trial| {
        let store = trial.store();
        store.set("old", "x").unwrap();
        store.set("changed", "before").unwrap();
        let mut batch = Batch::new();
        batch.set("new/deep/key", "1").unwrap();
        batch.delete("old").unwrap();
        batch.set("changed", "after").unwrap();
        batch.set("large", text(100_000)).unwrap();
        batch.delete("never/there").unwrap();
        batch.set("new/deep/other", "2").unwrap();
        assert_eq!(store.apply(&batch).unwrap(), [false, true, true, false, false, false]);
        for _ in 0..2 {
            assert_eq!(names(trial.store(), ""), ["changed", "large", "new/deep/key", "new/deep/other"]);
            assert_eq!(trial.store().get("changed").unwrap().unwrap(), b"after");
            assert!(trial.store().get("large").unwrap().unwrap() == text(100_000));
            trial.again();
        }
    });
}

#[test]
fn the_changes_of_a_batch_follow_one_another() {
    at_each_door(|trial| {
        let store = trial.store();
        store.set("file", "x").unwrap();
        let mut batch = Batch::new();
        batch.set("twice", "first").unwrap().set("twice", "second").unwrap();
        batch.set("gone", "x").unwrap().delete("gone").unwrap();
        batch.delete("file").unwrap().set("file/now/a/directory", "y").unwrap();
        assert_eq!(store.apply(&batch).unwrap(), [false, true, false, true, true, false]);
        for _ in 0..2 {
            assert_eq!(names(trial.store(), ""), ["file/now/a/directory", "twice"]);
            assert_eq!(trial.store().get("twice").unwrap().unwrap(), b"second");
            trial.again();
        }
    });
}

#[test]
fn a_batch_with_one_change_that_cannot_be_made_changes_nothing() {
    at_each_door(|trial| {
        let store = trial.store();
        store.set("dir/file", "x").unwrap();
        for (wrong, value) in [("dir", "x"), ("dir/file/below", "x")] {
            let mut batch = Batch::new();
            batch.set("first", "1").unwrap().set("large", text(100_000)).unwrap();
            batch.delete("dir/file").unwrap().set("dir/file", "y").unwrap();
            batch.set(wrong, value).unwrap();
            let error = store.apply(&batch).unwrap_err();
            assert!(matches!(error, Error::IsADirectory | Error::NotADirectory), "{error:?}");
            assert_eq!(names(store, ""), ["dir/file"]);
            assert_eq!(store.get("dir/file").unwrap().unwrap(), b"x");
        }
        let mut batch = Batch::new();
        for n in 0..=Batch::MAX {
            batch.set(format!("{n}"), "x").unwrap();
        }
        assert!(matches!(store.apply(&batch), Err(Error::Invalid(_))));
        assert_eq!(names(store, ""), ["dir/file"]);
    });
}

#[test]
fn a_batch_may_be_as_large_as_is_said() {
    at_each_door(|trial| {
        let store = trial.store();
        let mut batch = Batch::new();
        for n in 0..Batch::MAX {
            batch.set(format!("dir/{}/{n}", n % 10), text(n % 100)).unwrap();
        }
        store.apply(&batch).unwrap();
        // Again, now that all of them are there.
        assert!(store.apply(&batch).unwrap().into_iter().all(|there| there));
        for n in 0..Batch::MAX {
            assert_eq!(store.get(format!("dir/{}/{n}", n % 10)).unwrap().unwrap(), text(n % 100), "{n}");
        }
    });
}

#[test]
fn a_writer_publishes_when_it_is_finished_and_leaves_no_trace_when_it_is_not() {
    at_each_door(|trial| {
        let store = trial.store();
        store.set("key", "before").unwrap();
        for size in [10, 100_000] {
            let mut dropped = store.writer("key").unwrap();
            dropped.write_all(&text(size)).unwrap();
            let mut dropped_too = store.writer("new/key").unwrap();
            dropped_too.write_all(&text(size)).unwrap();
            assert_eq!(store.get("key").unwrap().unwrap(), b"before");
            drop((dropped, dropped_too));
            assert_eq!(names(store, ""), ["key"]);
        }
        for size in [0, 10, 100_000] {
            let mut writer = store.writer("dir/streamed").unwrap();
            for piece in text(size).chunks(777) {
                writer.write_all(piece).unwrap();
            }
            assert_eq!(writer.finish().unwrap(), text(size).len() as u64);
            assert!(store.get("dir/streamed").unwrap().unwrap() == text(size), "{size}");
        }
        trial.again();
        assert_eq!(names(trial.store(), ""), ["dir/streamed", "key"]);
        assert!(trial.store().get("dir/streamed").unwrap().unwrap() == text(100_000));
    });
}

#[test]
fn a_value_is_set_though_its_directory_goes_while_it_is_written() {
    at_each_door(|trial| {
        let store = trial.store();
        store.set("dir/other", "x").unwrap();
        let mut writer = store.writer("dir/below/key").unwrap();
        writer.write_all(&text(100_000)).unwrap();
        assert!(store.delete_all("dir").unwrap());
        assert_eq!(writer.finish().unwrap(), text(100_000).len() as u64);
        assert!(store.get("dir/below/key").unwrap().unwrap() == text(100_000));
        assert_eq!(names(store, ""), ["dir/below/key"]);
        // A large one that is set while the directory comes and goes.
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    store.delete_all("dir").unwrap();
                }
            });
            let outcomes: Vec<_> = (0..30).map(|_| store.set("dir/key", text(20_000))).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        });
    });
}

#[test]
fn a_reader_reads_what_was_there_when_it_was_made() {
    at_each_door(|trial| {
        let store = trial.store();
        let before = text(50_000);
        store.set("key", &before).unwrap();
        let mut reader = store.reader("key").unwrap().unwrap();
        assert_eq!(reader.size().unwrap(), before.len() as u64);
        store.set("key", "after").unwrap();
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == before);
        assert!(store.delete("key").unwrap());
        reader.seek(SeekFrom::End(-5)).unwrap();
        let mut end = String::new();
        reader.read_to_string(&mut end).unwrap();
        assert_eq!(end.as_bytes(), &before[before.len() - 5..]);
        reader.seek(SeekFrom::Start(10)).unwrap();
        let mut some = [0; 100];
        reader.read_exact(&mut some).unwrap();
        assert_eq!(some, before[10..110]);
        assert!(reader.seek(SeekFrom::Current(-1000)).is_err());
    });
}

#[test]
fn a_key_expires_at_its_second() {
    at_each_door(|trial| {
        let store = trial.store();
        let second = SetOptions::new().ttl(Duration::from_millis(600));
        let begun = Instant::now();
        store.set_with("short", "x", &second).unwrap();
        store.set_with("long", "x", &SetOptions::new().ttl(Duration::from_secs(3600))).unwrap();
        store.set_with("large", text(100_000), &second).unwrap();
        let mut batch = Batch::new();
        batch.set_with("batched", "x", &second).unwrap();
        store.apply(&batch).unwrap();
        let set = SystemTime::from(Clock::System.now());
        let listed = names(store, "");
        let there = ["batched", "large", "short"].map(|key| store.stat(key).unwrap());
        if begun.elapsed() < Duration::from_millis(600) {
            assert_eq!(listed, ["batched", "large", "long", "short"]);
            assert!(there.iter().all(Option::is_some));
        }
        let last = set + Duration::from_secs(1);
        let expires = there.into_iter().flatten().map(|stat| stat.expires.unwrap());
        expires.for_each(|expires| assert!(expires <= last, "{expires:?}: rounded up to a second"));
        let left = last.duration_since(Clock::System.now().into()).unwrap_or_default();
        std::thread::sleep(left + Duration::from_millis(10));
        assert_eq!(names(store, ""), ["long"]);
        assert_eq!(store.get("short").unwrap(), None);
        // What has expired is in nobody's way.
        store.set("short/below", "y").unwrap();
        trial.again();
        assert_eq!(names(trial.store(), ""), ["long", "short/below"]);
    });
}

#[test]
fn a_set_forgets_the_old_expiry_and_a_touch_renews_it_by_its_period() {
    at_each_door(|trial| {
        let store = trial.store();
        let hour = Duration::from_secs(3600);
        store.set_with("key", "x", &SetOptions::new().ttl(hour)).unwrap();
        let first = store.stat("key").unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        store.touch("key", Touch::Size).unwrap();
        let sized = store.stat("key").unwrap().unwrap();
        assert_eq!(sized.expires, first.expires);
        assert!(sized.touched > first.touched);
        store.touch("key", Touch::Expiration).unwrap();
        let renewed = store.stat("key").unwrap().unwrap();
        let by = renewed.expires.unwrap().duration_since(first.expires.unwrap()).unwrap();
        assert!(by >= Duration::from_millis(20) && by < Duration::from_secs(60), "{by:?}");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        store.expire("key", Expiry::At(at)).unwrap();
        assert_eq!(store.stat("key").unwrap().unwrap().expires, Some(at));
        store.expire("key", Expiry::Never).unwrap();
        store.touch("key", Touch::Both).unwrap();
        assert_eq!(store.stat("key").unwrap().unwrap().expires, None);
        store.set_with("key", "x", &SetOptions::new().expires(Expiry::At(at))).unwrap();
        store.set("key", "y").unwrap();
        assert_eq!(store.stat("key").unwrap().unwrap().expires, None);
        let forever = SetOptions::new().ttl(Duration::from_secs(1 << 40));
        assert!(matches!(store.set_with("key", "z", &forever), Err(Error::Invalid(_))));
        assert_eq!(store.get("key").unwrap().unwrap(), b"y");
    });
}

#[test]
fn an_expiry_in_the_past_is_gone_at_once() {
    at_each_door(|trial| {
        let store = trial.store();
        let past = SetOptions::new().expires(Expiry::At(SystemTime::UNIX_EPOCH));
        store.set("key", "x").unwrap();
        store.set_with("key", "y", &past).unwrap();
        assert_eq!(store.get("key").unwrap(), None);
        assert_eq!(names(store, ""), [""; 0]);
    });
}

#[test]
fn what_is_stored_can_be_told() {
    at_each_door(|trial| {
        let store = trial.store();
        let value = text(20_000);
        store.set_with("key", &value, &SetOptions::new().codec(Codec::Zstd(9))).unwrap();
        store.set_with("plain", &value, &SetOptions::new().codec(Codec::None)).unwrap();
        let stat = store.stat("key").unwrap().unwrap();
        assert_eq!((stat.size, stat.codec), (value.len() as u64, Some(Codec::Zstd(9))));
        assert!(stat.ratio > 4.0 && stat.stored < stat.size / 4, "{stat:?}");
        let plain = store.stat("plain").unwrap().unwrap();
        assert!(plain.stored > plain.size && plain.ratio < 1.0, "{plain:?}");
        assert_eq!(plain.expires, None);
        assert!(stat.modified.elapsed().unwrap() < Duration::from_secs(60));
    });
}

#[test]
fn memory_has_what_was_just_read_or_written() {
    at_each_door(|trial| {
        trial.store().set("small", "x").unwrap();
        trial.store().set("large", text(50_000)).unwrap();
        assert!(trial.store().has("small").unwrap());
        trial.again();
        assert!(!trial.store().has("large").unwrap(), "nothing has been read yet");
        assert!(trial.store().exists("large").unwrap());
    });
}

#[test]
fn a_lock_excludes_other_threads_and_says_so_when_asked_not_to_wait() {
    at_each_door(|trial| {
        let store = trial.store();
        store.set("count", "0").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        store
                            .lock("count", || {
                                let count = store.get("count").unwrap().unwrap();
                                let count: u32 = String::from_utf8(count).unwrap().parse().unwrap();
                                std::thread::yield_now();
                                store.set("count", (count + 1).to_string()).unwrap();
                            })
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(store.get("count").unwrap().unwrap(), b"40");
        store
            .lock("count", || {
                assert_eq!(store.try_lock("count", || ()).unwrap(), None);
                assert_eq!(store.try_lock("other", || 7).unwrap(), Some(7));
            })
            .unwrap();
        assert_eq!(store.try_lock("count", || 8).unwrap(), Some(8));
    });
}

#[test]
fn a_lock_excludes_other_processes() {
    at_each_door(|trial| {
        let store = trial.store();
        let path = store.path().join("lock");
        // The same range lock, by a process that is no user of this library.
        let other = |wait: &str| {
            let script = format!(
                "import fcntl,struct,sys,os\n\
                 fd=os.open({path:?},os.O_RDWR)\n\
                 hash={hash}\n\
                 try:\n fcntl.fcntl(fd,37,struct.pack('hhqqi4x',fcntl.F_WRLCK,0,hash,1,0)); print('{wait}')\n\
                 except BlockingIOError: print('busy')\n",
                hash = xxhash_of(b"key") >> 2,
            );
            let output = std::process::Command::new("python3").args(["-c", &script]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        if std::process::Command::new("python3").arg("--version").output().is_err() {
            println!("skipped: python3 is not installed");
            return;
        }
        store.lock("key", || assert_eq!(other("taken"), "busy")).unwrap();
        assert_eq!(other("taken"), "taken");
    });
}

#[test]
fn limits_change_while_a_store_is_open_or_mounted_and_nothing_else_does() {
    at_each_door(|trial| {
        let store = trial.store();
        let limits = || {
            let stats = store.stats().unwrap();
            (stats.size_limit, stats.cache_limit)
        };
        let before = limits();
        for (name, value) in [
            ("storage-size-limit", "1MiB"),
            ("cache-size-limit", "much"),
            ("commit-interval", "1s"),
            ("no-such-setting", "1"),
        ] {
            let refused = store.change_setting(name, value);
            assert!(matches!(refused, Err(Error::Config(_))), "{name} {value}: {refused:?}");
        }
        assert_eq!(limits(), before);
        store.change_setting("storage-size-limit", "96MiB").unwrap();
        store.change_setting("cache-size-limit", "24MiB").unwrap();
        assert_eq!(limits(), (Some(96 << 20), 24 << 20));
        store.set("key", text(1000)).unwrap();
        store.change_setting("storage-size-limit", "none").unwrap();
        assert_eq!(limits(), (None, 24 << 20));
        assert_eq!(store.get("key").unwrap().unwrap(), text(1000));
        trial.again();
        assert_eq!(trial.store().stats().unwrap().cache_limit, before.1);
    });
}

#[test]
fn an_expiry_that_cannot_be_kept_is_refused_and_changes_nothing() {
    at_each_door(|trial| {
        let store = trial.store();
        store.set("there", "x").unwrap();
        let second = |n: u64| std::time::UNIX_EPOCH + Duration::from_secs(n);
        for at in [second(9_223_372_037), second(253_402_300_799)] {
            let late = SetOptions::new().expires(Expiry::At(at));
            for key in ["new", "there"] {
                assert!(matches!(store.set_with(key, "y", &late), Err(Error::Invalid(_))), "{at:?}");
            }
            assert!(matches!(store.expire("there", Expiry::At(at)), Err(Error::Invalid(_))), "{at:?}");
        }
        let long = Expiry::In(Duration::from_secs(1 << 32));
        assert!(matches!(store.expire("there", long), Err(Error::Invalid(_))));
        assert_eq!((store.get("new").unwrap(), store.get("there").unwrap()), (None, Some(b"x".to_vec())));
        assert_eq!(store.stat("there").unwrap().unwrap().expires, None);
        let last = second(9_223_372_036);
        store.expire("there", Expiry::At(last)).unwrap();
        assert_eq!(store.stat("there").unwrap().unwrap().expires, Some(last));
    });
}

#[test]
fn everything_can_be_cleared_and_cleaned_up() {
    at_each_door(|trial| {
        let store = trial.store();
        for n in 0..40 {
            store.set(format!("{}/{n}", n % 3), text(3000)).unwrap();
            store.set(format!("{n}"), text(n)).unwrap_or_else(|error| assert!(n < 3, "{error}"));
        }
        store.sync().unwrap();
        store.clear().unwrap();
        assert_eq!(names(store, ""), [""; 0]);
        store.cleanup().unwrap();
        let chores = store.chores().unwrap();
        assert_eq!((chores.expired, chores.unlinked), (0, 0));
        store.set("again", "x").unwrap();
        trial.again();
        assert_eq!(names(trial.store(), ""), ["again"]);
    });
}

/// Fills a store to between its low and its high mark, and lets it be aligned.
fn align(store: &Store) {
    let value = |n: u32| -> Vec<u8> {
        let mut state = n | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()
        };
        (0..1 << 18).flat_map(|_| next()).collect()
    };
    store.set("kept", value(1000)).unwrap();
    for n in 0..67 {
        store.set(format!("cache/{n:02}"), value(n)).unwrap();
    }
    store.mark("kept", Mark::Pinned(Some(true))).unwrap();
    store.sync().unwrap();
    let nothing = store.align().unwrap();
    assert!(nothing.evicted == 0 && nothing.excess() > 0, "{nothing:?}");
    assert_eq!(names(store, "").len(), 68);
    store.mark("", Mark::Evictable(Some(true))).unwrap();
    let would = store.would_align().unwrap();
    assert!(would.evicted > 0 && would.evicted_bytes >= would.excess() && would.excess() > 0, "{would:?}");
    assert_eq!(names(store, "").len(), 68);
    let done = store.align().unwrap();
    assert!(done.evicted > 0 && done.excess() == 0, "{done:?}");
    let left = names(store, "");
    assert_eq!(left.len() as u64, 68 - done.evicted);
    assert!(left.contains(&"kept".to_owned()) && left.contains(&"cache/66".to_owned()), "{left:?}");
    assert!(!left.contains(&"cache/00".to_owned()), "{left:?}");
    assert!(store.get("cache/66").unwrap().unwrap() == value(66));
    assert_eq!(store.align().unwrap().evicted, 0);
}

#[test]
fn a_store_is_aligned_to_its_limit_and_says_before_what_would_go() {
    const SETTINGS: [(&str, &str); 3] =
        [("cache-size-limit", "16MiB"), ("storage-size-limit", "96MiB"), ("cache-eviction-policy", "lru")];
    let dir = tempfile::tempdir().unwrap();
    let options =
        SETTINGS.iter().fold(Store::options(), |options, (name, value)| options.setting(*name, *value));
    let store = options.open(dir.path().join("store")).unwrap();
    align(&store);
    store.close().unwrap();
    let flags: Vec<String> = SETTINGS.iter().map(|(name, value)| format!("--{name}={value}")).collect();
    if let Some(mounted) = Mounted::with(&flags.iter().map(String::as_str).collect::<Vec<_>>()) {
        align(&Store::connect(mounted.point()).unwrap());
    }
}

#[test]
fn marks_are_set_read_and_taken_back_on_keys_directories_and_the_whole_store() {
    at_each_door(|trial| {
        let store = trial.store();
        store.set("a/b", "x").unwrap();
        for key in ["", "a", "a/b"] {
            assert_eq!(store.marks(key).unwrap(), Marks::default(), "{key:?}");
            store.mark(key, Mark::Evictable(Some(true))).unwrap();
            store.mark(key, Mark::Pinned(Some(false))).unwrap();
            let both = Marks { evictable: Some(true), pinned: Some(false), ..Marks::default() };
            assert_eq!(store.marks(key).unwrap(), both.clone(), "{key:?}");
            store.mark(key, Mark::Pinned(None)).unwrap();
            store.mark(key, Mark::Pinned(None)).unwrap();
            assert_eq!(store.marks(key).unwrap(), Marks { pinned: None, ..both }, "{key:?}");
        }
        assert!(matches!(store.mark("none", Mark::Pinned(Some(true))), Err(Error::NotFound)));
        assert!(matches!(store.mark("/a", Mark::Pinned(Some(true))), Err(Error::Key { .. })));
        let hour = Mark::DefaultTtl(Some(Expiry::In(Duration::from_secs(3600))));
        assert!(matches!(store.mark("a/b", hour), Err(Error::NotPermitted)));
        store.mark("a", hour).unwrap();
        trial.again();
        let store = trial.store();
        let marks = store.marks("a").unwrap();
        assert_eq!((marks.evictable, marks.default_ttl.as_deref()), (Some(true), Some("3600")));
        for (key, content) in [("a/new/small", text(1)), ("a/new/large", text(100_000))] {
            store.set(key, content).unwrap();
            let left =
                store.stat(key).unwrap().unwrap().expires.unwrap().duration_since(Clock::System.now().into());
            assert!((3500..=3600).contains(&left.unwrap().as_secs()), "{key}");
        }
        store.mark("a", Mark::DefaultTtl(None)).unwrap();
        store.set("a/b", "x").unwrap();
        assert_eq!(store.stat("a/b").unwrap().unwrap().expires, None);
    });
}

#[test]
fn a_set_that_must_be_durable_is_when_it_returns() {
    at_each_door(|trial| {
        let sync = SetOptions::new().durability(Durability::Sync);
        trial.store().set_with("a/small", "x", &sync).unwrap();
        trial.store().set_with("a/large", text(100_000), &sync).unwrap();
        let mut batch = Batch::new();
        batch.set_with("b/1", "x", &sync).unwrap().delete("a/small").unwrap();
        trial.store().apply(&batch).unwrap();
        trial.again();
        assert_eq!(names(trial.store(), ""), ["a/large", "b/1"]);
    });
}

fn xxhash_of(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

#[test]
fn a_lock_excludes_who_holds_an_flock_on_the_file_in_the_mount_also_once_it_is_set_anew() {
    let Some(mounted) = Mounted::new() else { return };
    let store = Store::connect(mounted.store()).unwrap();
    store.set("key", "x").unwrap();
    let open = || std::fs::OpenOptions::new().read(true).open(mounted.at("key")).unwrap();
    let held = open();
    held.lock().unwrap();
    assert_eq!(store.try_lock("key", || ()).unwrap(), None);
    held.unlock().unwrap();
    store
        .lock("key", || {
            assert!(open().try_lock().is_err(), "the file is locked");
            for value in [&b"small"[..], &text(100_000)] {
                store.set("key", value).unwrap();
                assert!(open().try_lock().is_err(), "the new file, too");
            }
            let mut writer = store.writer("key").unwrap();
            writer.write_all(&text(5000)).unwrap();
            writer.finish().unwrap();
            assert!(open().try_lock().is_err(), "and one that was streamed");
        })
        .unwrap();
    open().try_lock().expect("the lock has been given back");
    assert_eq!(names(&store, ""), ["key"]);
}

#[test]
fn a_mount_that_is_not_there_and_a_store_that_is_in_use_are_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    assert!(matches!(Store::connect(&path), Err(Error::Store { .. })));
    assert!(matches!(Store::options().create(false).open(&path), Err(Error::Store { .. })));
    assert!(!path.exists());
    let store = Store::open(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(Error::InUse { .. })));
    assert!(matches!(Store::connect(&path), Err(Error::Store { .. })), "it is open, but not mounted");
    let waiting = {
        let path = path.clone();
        std::thread::spawn(move || Store::options().wait(Duration::from_secs(30)).open(path).map(drop))
    };
    let clone = store.clone();
    store.close().unwrap();
    waiting.join().unwrap().unwrap();
    assert!(matches!(clone.get("key"), Err(Error::Store { .. })), "it has been closed");
    assert!(matches!(clone.set("key", "x"), Err(Error::Store { .. })));
    let wrong = Store::options().setting("cache-size-limit", "a little").open(&path);
    assert!(matches!(wrong, Err(Error::Config(_))));
}

#[test]
fn the_symbolic_links_of_a_mount_lead_nowhere() {
    let Some(mut mounted) = Mounted::new() else { return };
    let outside = mounted.beside("outside");
    std::fs::write(outside.join("file"), "not in the store").unwrap();
    std::os::unix::fs::symlink(&outside, mounted.at("way-out")).unwrap();
    std::os::unix::fs::symlink("file", mounted.at("link")).unwrap();
    std::fs::write(mounted.at("file"), "x").unwrap();
    let check = |store: &Store| {
        assert_eq!(store.get("way-out/file").unwrap(), None);
        assert!(!store.exists("way-out/file").unwrap() && store.exists("way-out").unwrap());
        assert!(matches!(store.set("way-out/file", "y"), Err(Error::NotADirectory)));
        assert!(matches!(store.get("link"), Err(Error::Invalid(_))));
        assert!(!store.delete("way-out/file").unwrap());
        assert!(!store.has("link").unwrap());
        assert_eq!(store.stat("link").unwrap().unwrap().size, 4, "a link has the size of its target's name");
        assert_eq!(names(store, ""), ["file", "link", "way-out"]);
    };
    let store = Store::connect(mounted.point()).unwrap();
    check(&store);
    drop(store);
    mounted.umount();
    let store = Store::open(mounted.store()).unwrap();
    check(&store);
    store.set("link", "a file of its own").unwrap();
    assert_eq!(store.get("file").unwrap().unwrap(), b"x");
    store.close().unwrap();
    mounted.mount();
    assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"not in the store");
    assert_eq!(std::fs::read(mounted.at("link")).unwrap(), b"a file of its own");
}

#[test]
fn what_is_no_request_of_the_library_is_refused_and_harms_nothing() {
    let Some(mounted) = Mounted::new() else { return };
    let store = Store::connect(mounted.point()).unwrap();
    store.set("key", "x").unwrap();
    let ask = |body: &[u8]| {
        let request = larder::control::Request::Keys { body: body.len() as u32 };
        larder::control::ask_with(&mounted.store(), request, body).unwrap()
    };
    let mut state = 1u64;
    for len in (0..40).chain([1000, 100_000]) {
        let body: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(len)
        .collect();
        let answer = ask(&[&[0][..], &body].concat());
        assert_eq!(answer["errno"], libc::EINVAL, "{len}: {answer}");
    }
    // A path means nothing to a daemon, whose directory is `/`.
    let request = larder::control::Request::Backup { body: 8 };
    let refused = larder::control::ask_with(&mounted.store(), request, b"relative").unwrap_err();
    assert!(refused.to_string().contains("absolute"), "{refused}");
    assert!(!std::path::Path::new("/relative").exists());
    // A length that no memory holds.
    let answer = ask(&[0, 253, 255, 255, 255, 255, 255, 255, 255, 127]);
    assert_eq!(answer["errno"], libc::EINVAL, "{answer}");
    assert_eq!(store.get("key").unwrap().unwrap(), b"x");
}

#[test]
fn a_program_sees_that_the_library_has_removed_a_name_of_a_file_that_it_knows() {
    use std::os::unix::fs::MetadataExt;
    let Some(mounted) = Mounted::new() else { return };
    let store = Store::connect(mounted.point()).unwrap();
    for key in ["removed", "replaced", "dir/one"] {
        store.set(key, "x").unwrap();
    }
    std::fs::hard_link(mounted.at("dir/one"), mounted.at("other")).unwrap();
    let held = ["removed", "replaced"]
        .map(|key| std::fs::OpenOptions::new().read(true).open(mounted.at(key)).unwrap());
    let links = || {
        let held = held.each_ref().map(|file| file.metadata().unwrap().nlink());
        (held, std::fs::metadata(mounted.at("other")).unwrap().nlink())
    };
    assert_eq!(links(), ([1, 1], 2));
    store.delete("removed").unwrap();
    store.set("replaced", "y").unwrap();
    assert!(store.delete_all("dir").unwrap());
    assert_eq!(links().0, [0, 0]);
    support::mounted::wait_until("one name", Duration::from_secs(60), || links().1 == 1);
}

#[test]
fn who_opens_or_makes_a_file_that_the_library_makes_at_that_moment_opens_it() {
    let Some(mounted) = Mounted::new() else { return };
    let store = Store::connect(mounted.point()).unwrap();
    let path = mounted.at("key");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..500 {
                store.set("key", "x").unwrap();
                store.delete("key").unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let opened = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            assert!(opened.is_ok(), "{opened:?}");
        }
    });
}
