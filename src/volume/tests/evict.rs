//! Which keys go when there is no room, and which never do.

use std::collections::HashMap;

use super::*;
use crate::clock::Time;
use crate::config::Policy;
use crate::format::{Kind as FileKind, keys};
use crate::volume::put::{Change, NewFile, To};

const SECOND: i64 = 1_000_000_000;

/// A volume whose clock stands still, where all is evictable and nothing is evicted by itself.
fn evicting(dir: &Path, policy: Policy, now: i64) -> Arc<Volume> {
    let settings = Settings { cache_eviction_policy: policy, ..settings(dir) };
    let clock = Clock::manual(Time(now * SECOND));
    let volume = Volume::open(settings, Arc::new(RealDisk), clock).unwrap();
    mark(&volume, ROOT, "evictable", "1");
    volume
}

fn at(volume: &Volume, seconds: i64) {
    volume.clock.set(Time(seconds * SECOND));
}

fn mark(volume: &Volume, ino: Ino, name: &str, value: &str) {
    let name = format!("user.larder.{name}");
    volume.run(|v| v.setxattr(&ROOTS, ino, name.as_bytes(), value.as_bytes(), 0)).unwrap();
}

/// Makes a file with content that is on the disk, at this second, and refers to it no more.
fn file(volume: &Volume, dir: Ino, name: &str, len: usize, seconds: i64) -> Ino {
    at(volume, seconds);
    let ino = volume.run(|v| v.mknod(&ROOTS, dir, name.as_bytes(), 0o644, 0)).unwrap().attr.ino;
    write(volume, ino, 0, &noise(ino.0, len));
    volume.sync().unwrap();
    volume.forget(ino, 1);
    ino
}

fn dir(volume: &Volume, dir: Ino, name: &str) -> Ino {
    let ino = volume.run(|v| v.mkdir(&ROOTS, dir, name.as_bytes(), 0o755)).unwrap().attr.ino;
    volume.forget(ino, 1);
    ino
}

/// Uses a file as one does who opens it.
fn look_up(volume: &Volume, name: &str, seconds: i64) {
    at(volume, seconds);
    let ino = volume.run(|v| v.lookup(ROOT, name.as_bytes())).unwrap().attr.ino;
    volume.forget(ino, 1);
}

fn evict(volume: &Volume, bytes: u64) -> u64 {
    let (mut evicted, mut gone) = (0, 0);
    while gone < bytes {
        let turn = volume.evict_turn(&mut volume.evicting.lock(), bytes - gone, 0).unwrap();
        if turn.0 == 0 {
            break;
        }
        (evicted, gone) = (evicted + turn.0, gone + turn.1);
    }
    evicted
}

/// The names in a directory, in order.
fn names(volume: &Volume, dir: Ino) -> Vec<String> {
    let mut names = Vec::new();
    // A listing may end where something is missing in memory: it is at its end when nothing more comes.
    let (mut after, mut last) = (0, u64::MAX);
    while after != last {
        last = after;
        volume
            .run(|v| {
                v.readdir(dir, last, false, &mut |entry| {
                    names.push(String::from_utf8_lossy(entry.name).into_owned());
                    after = entry.cookie;
                    true
                })
            })
            .unwrap();
    }
    names.retain(|name| name != "." && name != "..");
    names.sort();
    names
}

#[test]
fn what_was_not_used_for_the_longest_time_goes_first_also_after_a_remount() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    for (n, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        file(&volume, ROOT, name, 10_000, 10 + n as i64);
    }
    look_up(&volume, "a", 100);
    assert_eq!(evict(&volume, 1), 1);
    assert_eq!(names(&volume, ROOT), ["a", "c", "d"]);
    volume.close().unwrap();
    drop(volume);
    let volume = evicting(store.path(), Policy::Lru, 200);
    assert_eq!(evict(&volume, 15_000), 2);
    assert_eq!(names(&volume, ROOT), ["a"]);
    let ino = volume.run(|v| v.lookup(ROOT, b"a")).unwrap().attr.ino;
    assert!(read(&volume, ino, 0, 10_000) == noise(ino.0, 10_000));
    volume.close().unwrap();
}

#[test]
fn reading_counts_as_use_and_listing_does_not() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    let first = file(&volume, ROOT, "first", 10_000, 1);
    file(&volume, ROOT, "second", 10_000, 2);
    at(&volume, 3);
    let mut out = Vec::new();
    volume.run(|v| v.read(first, 0, 10, &mut out)).unwrap();
    at(&volume, 4);
    let mut listed = Vec::new();
    volume
        .run(|v| {
            v.readdir(ROOT, 0, true, &mut |entry| {
                listed.extend(entry.entry.map(|_| entry.ino));
                true
            })
        })
        .unwrap();
    listed.into_iter().for_each(|ino| volume.forget(ino, 1));
    evict(&volume, 1);
    assert_eq!(names(&volume, ROOT), ["first"]);
    volume.close().unwrap();
}

#[test]
fn the_other_policies_have_their_own_order() {
    for (policy, kept) in [(Policy::Lfu, "often"), (Policy::Size, "small"), (Policy::Ttl, "lasting")] {
        let store = tempfile::tempdir().unwrap();
        let volume = evicting(store.path(), policy, 0);
        for name in ["often", "lasting"] {
            file(&volume, ROOT, name, 20_000, 1);
        }
        file(&volume, ROOT, "small", 5_000, 1);
        for seconds in 2..5 {
            look_up(&volume, "often", seconds);
        }
        look_up(&volume, "lasting", 10);
        look_up(&volume, "small", 11);
        for (name, expires) in [("often", "1000"), ("small", "2000")] {
            let ino = volume.run(|v| v.lookup(ROOT, name.as_bytes())).unwrap().attr.ino;
            at(&volume, 1);
            expire(&volume, ino, expires);
            volume.forget(ino, 1);
        }
        at(&volume, 12);
        while names(&volume, ROOT).len() > 1 {
            assert_eq!(evict(&volume, 1), 1, "{policy}");
        }
        assert_eq!(names(&volume, ROOT), [kept], "{policy}");
        volume.close().unwrap();
    }
}

#[test]
fn the_nearest_mark_tells_what_may_be_evicted() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    let (lasting, cache) = (dir(&volume, ROOT, "lasting"), dir(&volume, ROOT, "cache"));
    mark(&volume, lasting, "evictable", "0");
    let keep = dir(&volume, cache, "keep");
    mark(&volume, keep, "pinned", "1");
    for (dir, name) in [(lasting, "a"), (cache, "b"), (keep, "c"), (keep, "d"), (cache, "e")] {
        let ino = file(&volume, dir, name, 5_000, 1);
        match name {
            "d" => mark(&volume, ino, "pinned", "0"),
            "e" => mark(&volume, ino, "pinned", "1"),
            _ => {}
        }
    }
    assert_eq!(evict(&volume, u64::MAX), 2);
    assert_eq!((names(&volume, lasting), names(&volume, keep)), (vec!["a".into()], vec!["c".into()]));
    assert_eq!(names(&volume, cache), ["e", "keep"]);
    // What holds is what holds where a key lies now.
    volume.run(|v| v.rename(lasting, b"a", cache, b"moved", Rename::Replace)).unwrap();
    volume.run(|v| v.removexattr(&ROOTS, keep, b"user.larder.pinned")).unwrap();
    assert_eq!(evict(&volume, u64::MAX), 2);
    assert_eq!((names(&volume, cache), names(&volume, keep).len()), (vec!["e".into(), "keep".into()], 0));
    volume.close().unwrap();
}

#[test]
fn a_file_goes_with_all_its_names_where_each_of_them_lets_it() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    let pinned = dir(&volume, ROOT, "pinned");
    mark(&volume, pinned, "pinned", "1");
    let free = file(&volume, ROOT, "free", 5_000, 1);
    let half = file(&volume, ROOT, "half", 5_000, 1);
    for (ino, dir, name) in [(free, ROOT, "free too"), (half, pinned, "other half")] {
        volume.run(|v| v.link(ino, dir, name.as_bytes())).unwrap();
        volume.forget(ino, 1);
    }
    assert_eq!(evict(&volume, u64::MAX), 1);
    assert_eq!(names(&volume, ROOT), ["half", "pinned"]);
    volume.close().unwrap();
}

#[test]
fn what_is_in_use_or_not_written_yet_is_not_evicted() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    let held = file(&volume, ROOT, "held", 5_000, 1);
    file(&volume, ROOT, "gone", 5_000, 2);
    volume.run(|v| v.lookup(ROOT, b"held")).unwrap();
    let dirty = file(&volume, ROOT, "dirty", 5_000, 1);
    // In memory only, as long as nothing can be stored.
    let storing = volume.storing.write();
    write(&volume, dirty, 0, b"new");
    assert_eq!(evict(&volume, u64::MAX), 1);
    drop(storing);
    assert_eq!(names(&volume, ROOT), ["dirty", "held"]);
    // Given back when it is asked for, as the kernel does with what nobody has open.
    let asked = Arc::downgrade(&volume);
    volume.on_event(Box::new(move |event| match event {
        Event::Entry { .. } => asked.upgrade().unwrap().forget(held, 1),
        Event::Barrier(reached) => reached.send(()).unwrap(),
        Event::Inode(_) | Event::Attributes(_) => {}
    }));
    volume.sync().unwrap();
    // What was found in use counts as used at that moment, so it goes last.
    at(&volume, 10);
    assert_eq!(evict(&volume, 1), 1);
    assert_eq!(names(&volume, ROOT), ["held"]);
    assert_eq!(evict(&volume, 1), 1);
    assert_eq!(names(&volume, ROOT).len(), 0);
    volume.close().unwrap();
}

#[test]
fn of_many_keys_the_old_ones_go_and_a_use_outlives_the_sample() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    let count = 12_000;
    let value = noise(1, 200);
    for n in 0..count {
        let path = format!("{}/{n}", n % 10).into_bytes();
        at(&volume, n);
        volume
            .apply(&ROOTS, &[Change { path: &path, to: To::Content(&value, NewFile::default()) }], false)
            .unwrap();
    }
    volume.sync().unwrap();
    at(&volume, 2 * count);
    // A tenth of all.
    let evicted = evict(&volume, count as u64 / 10 * 256);
    assert!(evicted >= count as u64 / 10, "{evicted}");
    let mut young = 0;
    let mut left = 0;
    for dir in 0..10 {
        let ino = volume.run(|v| v.resolve(dir.to_string().as_bytes())).unwrap().0.attr.ino;
        for name in names(&volume, ino) {
            left += 1;
            young += u64::from(name.parse::<i64>().unwrap() >= count / 2);
        }
    }
    assert_eq!(left, count as u64 - evicted);
    // At random a half of those that went would be of the younger half.
    assert!(count as u64 / 2 - young < evicted / 50, "{} of {evicted} were young", count as u64 / 2 - young);
    volume.close().unwrap();
}

#[test]
fn writers_find_room_while_something_may_be_evicted_and_are_refused_when_nothing_may() {
    let store = tempfile::tempdir().unwrap();
    let limit = 96 << 20;
    let open = |policy| {
        let settings = Settings {
            cache_eviction_policy: policy,
            storage_size_limit: Some(limit),
            ..settings(store.path())
        };
        Volume::open(settings, Arc::new(RealDisk), Clock::System).unwrap()
    };
    let volume = open(Policy::Lru);
    let cache = dir(&volume, ROOT, "cache");
    mark(&volume, cache, "evictable", "1");
    let kept = file(&volume, ROOT, "kept", 1 << 20, 0);
    let part = 1 << 20;
    for n in 0..200 {
        let name = format!("{n}");
        let ino = volume.run(|v| v.mknod(&ROOTS, cache, name.as_bytes(), 0o644, 0)).unwrap().attr.ino;
        write(&volume, ino, 0, &noise(n, part));
        volume.forget(ino, 1);
        let used = volume.stats().unwrap().disk_bytes;
        assert!(used <= limit, "{used} bytes with file {n}");
    }
    assert!(read(&volume, kept, 0, 1 << 20) == noise(kept.0, 1 << 20));
    let left = names(&volume, cache);
    assert!(left.contains(&"199".to_owned()) && left.len() > 20, "{left:?}");
    assert!(!left.contains(&"0".to_owned()));
    // Now all is pinned.
    mark(&volume, cache, "pinned", "1");
    let mut full = None;
    for n in 0..300 {
        let name = format!("more {n}");
        let ino = volume.run(|v| v.mknod(&ROOTS, cache, name.as_bytes(), 0o644, 0)).unwrap().attr.ino;
        if let Err(error) = volume.run(|v| v.write(ino, 0, &noise(n, part), false)) {
            full = Some(error);
            break;
        }
    }
    assert!(matches!(full, Some(Error::NoSpace)), "{full:?}");
    assert!(left.iter().all(|name| names(&volume, cache).contains(name)));
    volume.close().unwrap();
    assert!(volume.read_only().is_none());
}

/// An evicting volume of 64 MiB, with so many files of 7 MB that are on the disk.
fn nearly_full(dir: &Path, files: i64) -> Arc<Volume> {
    let settings = Settings {
        cache_eviction_policy: Policy::Lru,
        storage_size_limit: Some(64 << 20),
        cache_size_limit: 256 << 20,
        ..settings(dir)
    };
    let volume = Volume::open(settings, Arc::new(RealDisk), Clock::manual(Time(0))).unwrap();
    for n in 0..files {
        file(&volume, ROOT, &format!("{n}"), 7_000_000, n);
    }
    mark(&volume, ROOT, "evictable", "1");
    volume
}

#[test]
fn who_had_to_wait_for_the_evictor_evicts_nothing_where_what_went_is_enough() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    (0..8).for_each(|n| {
        file(&volume, ROOT, &format!("{n}"), 4 << 20, n);
    });
    let before = volume.segments.allocated();
    let (evicted, bytes) = volume.evict_turn(&mut volume.evicting.lock(), 12 << 20, 0).unwrap();
    assert_eq!((evicted, bytes >> 20), (3, 12));
    // Blocks that are dead in part stay.
    let enough = || Ok(volume.segments.allocated() + bytes <= before + (64 << 10));
    volume.evict_for(1 << 20, enough).unwrap();
    assert_eq!(names(&volume, ROOT).len(), 5);
    volume.close().unwrap();
}

fn set(volume: &Volume, key: &str, content: &[u8]) {
    let to = To::Content(content, NewFile::default());
    volume.apply(&ROOTS, &[Change { path: key.as_bytes(), to }], false).unwrap();
}

#[test]
fn no_more_goes_for_a_writer_than_he_lacks_and_what_he_writes_stays() {
    let store = tempfile::tempdir().unwrap();
    let volume = nearly_full(store.path(), 6);
    for (key, len, least) in [("large", 20 << 20, 2), ("larger", 30 << 20, 0)] {
        set(&volume, key, &noise(7, len));
        let left = names(&volume, ROOT);
        assert!(left.contains(&key.to_owned()), "{left:?}");
        let others = left.iter().filter(|name| name.len() == 1).count();
        assert!(others >= least, "{left:?} behind {key}");
    }
    volume.close().unwrap();
}

#[test]
fn the_last_key_stays_though_it_takes_more_than_the_low_mark_until_a_writer_needs_its_room() {
    let store = tempfile::tempdir().unwrap();
    let volume = nearly_full(store.path(), 0);
    set(&volume, "only", &noise(7, 42 << 20));
    let aligned = volume.evict_down(1).unwrap();
    assert!(aligned.evicted == 0 && aligned.excess() > 0, "{aligned:?}");
    set(&volume, "next", &noise(8, 30 << 20));
    assert_eq!(names(&volume, ROOT), ["next"]);
    volume.close().unwrap();
}

#[test]
fn what_has_just_been_written_is_stored_and_goes_where_nothing_else_makes_room() {
    let store = tempfile::tempdir().unwrap();
    let volume = nearly_full(store.path(), 3);
    for n in 0..3 {
        let ino = volume.run(|v| v.lookup(ROOT, format!("{n}").as_bytes())).unwrap().attr.ino;
        mark(&volume, ino, "pinned", "1");
        volume.forget(ino, 1);
    }
    mark(&volume, ROOT, "page-size", "1048576");
    // Pages that are not full are left to age: these are in memory only, unless this takes half a second.
    let (content, last) = (noise(9, 1_000_000), noise(10, 16 << 20));
    for n in 0..20 {
        let name = format!("new {n}");
        let ino = volume.run(|v| v.mknod(&ROOTS, ROOT, name.as_bytes(), 0o644, 0)).unwrap().attr.ino;
        write(&volume, ino, 0, &content);
        volume.forget(ino, 1);
    }
    set(&volume, "last", &last);
    let left = names(&volume, ROOT);
    assert!(left.contains(&"last".to_owned()) && left.len() < 24, "{left:?}");
    volume.close().unwrap();
}

#[test]
fn keys_are_evicted_for_a_writer_also_when_compaction_itself_has_no_room() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    mark(&volume, ROOT, "evictable", "0");
    let content = noise(1, 1 << 20);
    let set = |name: &str, len: usize| {
        let change = Change { path: name.as_bytes(), to: To::Content(&content[..len], NewFile::default()) };
        volume.apply(&ROOTS, &[change], false).map(drop)
    };
    // Every other frame goes, and none leaves a hole: only compaction gives their room back.
    for n in 0..4_000 {
        set(&format!("small/{n}"), 3_000).unwrap();
    }
    volume.sync().unwrap();
    let first = volume.segments.list().unwrap()[0].id;
    volume.segments.close(first).unwrap();
    for n in (0..4_000).step_by(2) {
        let path = format!("small/{n}");
        let change = Change { path: path.as_bytes(), to: To::Nothing { tree: false } };
        volume.apply(&ROOTS, &[change], false).unwrap();
    }
    volume.segments.set_limit(volume.segments.allocated());
    let full = (0..1_000).find_map(|n| set(&format!("large/{n}"), 1 << 20).err());
    assert!(matches!(full, Some(Error::NoSpace)), "{full:?}");
    mark(&volume, ROOT, "evictable", "1");
    set("wanted", 1 << 20).unwrap();
    volume.close().unwrap();
}

#[test]
fn the_record_of_use_goes_with_its_key() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    for name in ["a", "b"] {
        file(&volume, ROOT, name, 100, 1);
        look_up(&volume, name, 2);
    }
    let records = |volume: &Volume| {
        let mut inos = Vec::new();
        volume
            .engine
            .scan(keys::under(&[keys::USE]), &mut |key, _| {
                inos.extend(keys::ino_of(key));
                true
            })
            .unwrap();
        inos
    };
    volume.record_uses().unwrap();
    assert_eq!(records(&volume).len(), 2);
    look_up(&volume, "a", 3);
    volume.run(|v| v.unlink(ROOT, b"a")).unwrap();
    volume.reclaim().unwrap();
    volume.record_uses().unwrap();
    assert_eq!(records(&volume).len(), 1);
    volume.close().unwrap();
    drop(volume);
    // Also when eviction is off by then.
    let volume = Volume::open(settings(store.path()), Arc::new(RealDisk), Clock::System).unwrap();
    volume.run(|v| v.unlink(ROOT, b"b")).unwrap();
    volume.reclaim().unwrap();
    assert_eq!(records(&volume).len(), 0);
    volume.close().unwrap();
}

#[test]
fn a_malformed_mark_is_refused_and_a_set_one_is_listed() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::None, 0);
    let ino = file(&volume, ROOT, "file", 1, 1);
    for name in [&b"user.larder.evictable"[..], b"user.larder.pinned"] {
        for bad in [&b""[..], b"yes", b"2", b"-1", b"1 1", b"\xff"] {
            let refused = volume.run(|v| v.setxattr(&ROOTS, ino, name, bad, 0));
            assert!(matches!(refused, Err(Error::Invalid(_))), "{bad:?}: {refused:?}");
        }
        assert!(matches!(volume.run(|v| v.getxattr(ino, name)), Err(Error::NoAttribute)));
        assert_eq!(volume.run(|v| v.listxattr(ino)).unwrap(), b"");
        for (set, kept) in [(&b"1\n"[..], b"1"), (b"0", b"0")] {
            volume.run(|v| v.setxattr(&ROOTS, ino, name, set, 0)).unwrap();
            assert_eq!(volume.run(|v| v.getxattr(ino, name)).unwrap(), kept);
        }
        assert_eq!(volume.run(|v| v.listxattr(ino)).unwrap(), [name, b"\0"].concat());
        volume.run(|v| v.removexattr(&ROOTS, ino, name)).unwrap();
    }
    assert_eq!(FileKind::of_mode(volume.run(|v| v.getattr(ino)).unwrap().attr.mode), FileKind::File);
    volume.close().unwrap();
}

#[test]
fn a_lower_storage_limit_evicts_what_may_go() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    for n in 0..20 {
        file(&volume, ROOT, &format!("{n}"), 4 << 20, n);
    }
    assert_eq!(names(&volume, ROOT).len(), 20);
    volume.change_setting("storage-size-limit", "64MiB").unwrap();
    // What the evictor does when it is woken; it may be faster.
    let aligned = volume.align(false).unwrap();
    let left = names(&volume, ROOT);
    assert!((1..12).contains(&left.len()), "{left:?}");
    assert_eq!(aligned.goal, Some(48 << 20));
    assert_eq!(aligned.excess(), 0, "{aligned:?}");
    volume.change_setting("storage-size-limit", "none").unwrap();
    for n in 20..36 {
        file(&volume, ROOT, &format!("{n}"), 4 << 20, n);
    }
    assert_eq!(names(&volume, ROOT).len(), left.len() + 16);
    volume.close().unwrap();
}

#[test]
fn beyond_the_high_mark_keys_go_by_themselves_down_to_the_low_one_before_anybody_has_to_wait() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    for n in 0..20 {
        file(&volume, ROOT, &format!("{n:02}"), 4 << 20, n);
    }
    // Between the high mark, an eighth short of the limit, and the limit.
    let limit = volume.align(true).unwrap().used / 15 * 16;
    volume.change_setting("storage-size-limit", &limit.to_string()).unwrap();
    let begun = std::time::Instant::now();
    while let Ok(would) = volume.align(true)
        && would.excess() > 0
    {
        assert!(begun.elapsed() < Duration::from_secs(60), "{would:?} of {limit}");
    }
    let left = names(&volume, ROOT);
    assert!((10..20).contains(&left.len()) && left.contains(&"19".to_owned()), "{left:?}");
    volume.close().unwrap();
}

#[test]
fn the_name_of_a_file_may_be_relied_upon_for_a_minute_where_keys_are_evicted_so_that_its_use_is_seen() {
    let minute = Some(Duration::from_secs(60));
    for (policy, valid) in [(Policy::Lru, minute), (Policy::None, None)] {
        let store = tempfile::tempdir().unwrap();
        let volume = evicting(store.path(), policy, 1000);
        file(&volume, ROOT, "file", 100, 1000);
        dir(&volume, ROOT, "dir");
        let look = |name: &str| volume.run(|v| v.lookup(ROOT, name.as_bytes())).unwrap();
        assert_eq!((look("file").valid, look("dir").valid), (valid, None));
        // An expiry that comes before is heeded, and one that comes behind is not waited for.
        for (ttl, valid) in [("30", Some(Duration::from_secs(30))), ("3600", minute)] {
            mark(&volume, look("file").attr.ino, "ttl", ttl);
            let expires = Some(Duration::from_secs(ttl.parse().unwrap()));
            assert_eq!(look("file").valid, if policy == Policy::Lru { valid } else { expires });
        }
        volume.close().unwrap();
    }
}

#[test]
fn below_a_lower_storage_limit_writers_find_no_room_and_all_else_goes_on() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::None, 0);
    let kept: Vec<Ino> = (0..24).map(|n| file(&volume, ROOT, &format!("{n}"), 4 << 20, n)).collect();
    volume.change_setting("storage-size-limit", "64MiB").unwrap();
    let before = volume.stats().unwrap().disk_bytes;
    let new = volume.run(|v| v.mknod(&ROOTS, ROOT, b"new", 0o644, 0)).unwrap().attr.ino;
    let full = (0..96u64).find_map(|n| {
        let written = volume.run(|v| v.write(new, n << 20, &noise(n, 1 << 20), false));
        written.err()
    });
    assert!(matches!(full, Some(Error::NoSpace)), "{full:?}");
    volume.sync().unwrap();
    let after = volume.stats().unwrap().disk_bytes;
    // The catalog notes the new file.
    assert!(after <= before + (4 << 20), "{before} {after}");
    assert!(read(&volume, kept[3], 0, 4 << 20) == noise(kept[3].0, 4 << 20));
    for n in 0..24 {
        volume.run(|v| v.unlink(ROOT, n.to_string().as_bytes())).unwrap();
    }
    volume.forget(new, 1);
    volume.reclaim().unwrap();
    volume.sync().unwrap();
    write(&volume, new, 0, &noise(1, 1 << 20));
    volume.close().unwrap();
}

#[test]
fn only_limits_change_while_the_store_is_open_and_a_bad_value_changes_nothing() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    let before = volume.settings().to_toml();
    for (name, value) in [
        ("commit-interval", "2s"),
        ("cache-eviction-policy", "none"),
        ("no-such-setting", "1"),
        ("cache-size-limit", "1MiB"),
        ("storage-size-limit", "1MiB"),
        ("storage-size-limit", "much"),
    ] {
        let refused = volume.change_setting(name, value);
        assert!(matches!(refused, Err(Error::Config(_))), "{name}: {refused:?}");
    }
    assert_eq!(volume.settings().to_toml(), before);
    for n in 0..2000 {
        make(&volume, &n.to_string());
    }
    // Lowered from the largest number in the steps that what is in memory asks for.
    volume.change_setting("cache-size-limit", &u64::MAX.to_string()).unwrap();
    volume.change_setting("cache-size-limit", "16MiB").unwrap();
    assert_eq!(volume.stats().unwrap().cache_limit, 16 << 20);
    assert!(volume.stats().unwrap().cache_used <= 16 << 20);
    volume.close().unwrap();
}

#[test]
fn hits_counts_uses_that_are_recorded_and_those_that_are_not_yet_and_forgets_them_in_days() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::Lru, 0);
    let ino = file(&volume, ROOT, "file", 10_000, 10);
    let hits = |volume: &Volume| {
        let value = volume.run(|v| v.getxattr(ino, b"user.larder.hits")).unwrap();
        String::from_utf8(value).unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(hits(&volume), 0);
    for second in 20..23 {
        look_up(&volume, "file", second);
    }
    // Within the second of the last one.
    volume.run(|v| v.read(ino, 0, 10, &mut Vec::new())).unwrap();
    assert_eq!(hits(&volume), 3);
    volume.record_uses().unwrap();
    assert_eq!(hits(&volume), 3);
    look_up(&volume, "file", 30);
    assert_eq!(hits(&volume), 4);
    volume.record_uses().unwrap();
    assert_eq!(hits(&volume), 4);
    let set = volume.run(|v| v.setxattr(&ROOTS, ino, b"user.larder.hits", b"9", 0));
    assert!(matches!(set, Err(Error::NotPermitted)), "{set:?}");
    let removed = volume.run(|v| v.removexattr(&ROOTS, ino, b"user.larder.hits"));
    assert!(matches!(removed, Err(Error::NotPermitted)), "{removed:?}");
    let of_directory = volume.run(|v| v.getxattr(ROOT, b"user.larder.hits"));
    assert!(matches!(of_directory, Err(Error::NoAttribute)), "{of_directory:?}");
    assert_eq!(volume.run(|v| v.listxattr(ino)).unwrap(), b"");
    volume.close().unwrap();
    drop(volume);
    let volume = evicting(store.path(), Policy::Lru, 30 + 86_400);
    assert_eq!(hits(&volume), 2);
    at(&volume, 30 + 4 * 86_400);
    assert_eq!(hits(&volume), 0);
    volume.close().unwrap();
}

#[test]
fn without_eviction_there_are_no_hits_to_be_told() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let ino = make(&volume, "file");
    let none = volume.run(|v| v.getxattr(ino, b"user.larder.hits"));
    assert!(matches!(none, Err(Error::NoAttribute)), "{none:?}");
    volume.close().unwrap();
}

#[test]
fn uses_that_could_not_be_written_down_are_not_forgotten() {
    let disk = FaultyDisk::new(1);
    let settings = Settings { cache_eviction_policy: Policy::Lru, ..settings(Path::new("/store")) };
    let clock = Clock::manual(Time(SECOND));
    let volume = Volume::open(settings, Arc::new(disk.clone()), clock).unwrap();
    mark(&volume, ROOT, "evictable", "1");
    let ino = file(&volume, ROOT, "key", 100, 1);
    look_up(&volume, "key", 2);
    volume.sync().unwrap();
    let noted = volume.uses.lock().get(ino).unwrap();
    // Nothing is prepared behind the scenes from here on.
    volume.engine.checkpoint(&|| Ok(())).unwrap();
    [0, 2].into_iter().for_each(|n| disk.fail(Kind::Write, n, Fault::Errno(libc::ENOSPC)));
    assert!(matches!(volume.record_uses(), Err(Error::NoSpace)));
    disk.disarm();
    assert_eq!(volume.uses.lock().get(ino), Some(noted));
    volume.record_uses().unwrap();
    assert_eq!(volume.uses.lock().get(ino), None);
    volume.close().unwrap();
}

#[test]
fn a_limit_that_is_being_taken_away_is_not_set_again_by_who_went_by_it_until_then() {
    let store = tempfile::tempdir().unwrap();
    let volume = evicting(store.path(), Policy::None, 0);
    volume.change_setting("storage-size-limit", "64MiB").unwrap();
    {
        let _changing = volume.limits.changing.lock();
        volume.segments.set_limit(u64::MAX);
        volume.commit_now().unwrap();
        volume.segments.reserve(100 << 20).unwrap();
    }
    volume.commit_now().unwrap();
    assert!(matches!(volume.segments.reserve(200 << 20), Err(Error::NoSpace)));
    volume.close().unwrap();
}

#[test]
fn a_kernel_that_is_busy_for_a_while_is_waited_for_before_a_writer_is_refused() {
    let store = tempfile::tempdir().unwrap();
    let volume = nearly_full(store.path(), 6);
    let inos: HashMap<String, Ino> = (0..6)
        .map(|n| (n.to_string(), volume.run(|v| v.lookup(ROOT, n.to_string().as_bytes())).unwrap().attr.ino))
        .collect();
    let (told, hears) = std::sync::mpsc::channel();
    volume.on_event(Box::new(move |event| _ = told.send(event)));
    let asked = Arc::downgrade(&volume);
    std::thread::spawn(move || {
        let mut busy = true;
        for event in hears {
            if std::mem::take(&mut busy) {
                std::thread::sleep(std::time::Duration::from_secs(2));
            }
            match event {
                Event::Entry { name, .. } => {
                    let ino = inos.get(std::str::from_utf8(&name).unwrap());
                    ino.into_iter().for_each(|ino| asked.upgrade().unwrap().forget(*ino, 1));
                }
                Event::Barrier(reached) => _ = reached.send(()),
                Event::Inode(_) | Event::Attributes(_) => {}
            }
        }
    });
    set(&volume, "new", &noise(7, 20 << 20));
    assert!(names(&volume, ROOT).contains(&"new".to_owned()));
    volume.close().unwrap();
}
