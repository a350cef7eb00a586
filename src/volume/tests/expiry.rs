//! Expiries that are set on what somebody holds.

use super::*;
use crate::clock::Time;

const SECOND: i64 = 1_000_000_000;

#[test]
fn a_key_that_is_gone_is_not_brought_back_by_who_still_holds_it() {
    let store = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Time(1000 * SECOND));
    let volume = Volume::open(settings(store.path()), Arc::new(RealDisk), clock).unwrap();
    let set = |ino: Ino, name: &str, value: &str| {
        volume.run(|v| v.setxattr(&ROOTS, ino, format!("user.larder.{name}").as_bytes(), value.as_bytes(), 0))
    };
    let [expired, unlinked] = ["expired", "unlinked"].map(|name| make(&volume, name));
    volume.run(|v| v.lookup(ROOT, b"unlinked")).unwrap();
    set(expired, "ttl", "10").unwrap();
    set(unlinked, "ttl", "10").unwrap();
    volume.run(|v| v.unlink(ROOT, b"unlinked")).unwrap();
    // The janitor may have removed it or not.
    volume.clock.set(Time(1010 * SECOND));
    let gone = |outcome: Result<()>| matches!(outcome, Err(Error::NotFound));
    for ino in [expired, unlinked] {
        for (name, value) in [
            ("touch", "expiration"),
            ("touch", "size"),
            ("ttl", "60"),
            ("ttl", "never"),
            ("expires", "never"),
        ] {
            assert!(gone(set(ino, name, value)), "{ino} {name} {value}");
        }
        assert!(gone(volume.run(|v| v.removexattr(&ROOTS, ino, b"user.larder.ttl"))), "{ino}");
        // It can be read and written as before.
        set(ino, "codec", "zstd:3").unwrap();
    }
    assert!(gone(volume.run(|v| v.lookup(ROOT, b"expired")).map(drop)));
    volume.close().unwrap();
}

#[test]
fn a_cleanup_tells_what_has_expired_and_removes_it() {
    // Between the two the janitor may come.
    assert!((0..50).any(|_| cleaned_up() == 3), "the janitor was always first");
}

/// How many inodes a cleanup has removed of three that have expired.
fn cleaned_up() -> u64 {
    let store = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Time(1000 * SECOND));
    let volume = Volume::open(settings(store.path()), Arc::new(RealDisk), clock.clone()).unwrap();
    let dir = volume.run(|v| v.mkdir(&ROOTS, ROOT, b"dir", 0o755)).unwrap().attr.ino;
    let below = volume.run(|v| v.mknod(&ROOTS, dir, b"below", 0o644, 0)).unwrap().attr.ino;
    let [file, kept] = ["file", "kept"].map(|name| make(&volume, name));
    for ino in [dir, file] {
        volume.run(|v| v.setxattr(&ROOTS, ino, b"user.larder.ttl", b"10", 0)).unwrap();
    }
    [dir, below, file, kept].into_iter().for_each(|ino| volume.forget(ino, 1));
    let before = volume.chores().unwrap();
    assert_eq!((before.expired, before.unlinked), (0, 0));
    let sweeping = volume.sweeping.lock();
    clock.set(Time(1010 * SECOND));
    assert_eq!(volume.chores().unwrap().expired, 2, "a directory counts as one");
    drop(sweeping);
    let cleaned = volume.cleanup().unwrap();
    let left = volume.chores().unwrap();
    assert_eq!((left.expired, left.unlinked, volume.tree.lock().counters.inodes), (0, 0, 2));
    volume.close().unwrap();
    cleaned.removed
}

#[test]
fn two_who_come_upon_the_same_expired_key_both_find_it_gone() {
    let store = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Time(1000 * SECOND));
    let volume = Volume::open(settings(store.path()), Arc::new(RealDisk), clock.clone()).unwrap();
    for round in 0..300 {
        let dir =
            volume.run(|v| v.mkdir(&ROOTS, ROOT, format!("dir{round}").as_bytes(), 0o755)).unwrap().attr.ino;
        let ino = make(&volume, &format!("file{round}"));
        volume.run(|v| v.link(ino, ROOT, format!("linked{round}").as_bytes())).unwrap();
        volume.run(|v| v.link(ino, dir, b"linked")).unwrap();
        for expires in [dir, ino] {
            volume.run(|v| v.setxattr(&ROOTS, expires, b"user.larder.ttl", b"10", 0)).unwrap();
        }
        volume.forget(ino, 3);
        clock.set(Time((1010 + 10 * round) * SECOND));
        std::thread::scope(|scope| {
            let others = scope.spawn(|| (volume.expire_first(ino), volume.reclaim()));
            volume.expire_first(ino).unwrap();
            let (expired, reclaimed) = others.join().unwrap();
            expired.unwrap();
            reclaimed.unwrap();
        });
        let there = volume.run(|v| v.lookup(ROOT, format!("file{round}").as_bytes()));
        assert!(matches!(there, Err(Error::NotFound)), "round {round}");
    }
    volume.close().unwrap();
}

#[test]
fn what_expires_goes_at_its_second_also_while_much_is_reclaimed() {
    let store = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Time(1000 * SECOND));
    let volume = Volume::open(settings(store.path()), Arc::new(RealDisk), clock.clone()).unwrap();
    let ino = make(&volume, "file");
    volume.run(|v| v.setxattr(&ROOTS, ino, b"user.larder.ttl", b"10", 0)).unwrap();
    let (told, hears) = std::sync::mpsc::channel();
    volume.on_event(Box::new(move |event| {
        if let Event::Entry { name, .. } = event {
            let _ = told.send(name.to_vec());
        }
    }));
    let reclaiming = volume.reclaiming.lock();
    clock.set(Time(1010 * SECOND));
    let gone = hears.recv_timeout(std::time::Duration::from_secs(60));
    assert_eq!(gone.as_deref(), Ok(&b"file"[..]));
    drop(reclaiming);
    volume.close().unwrap();
}

#[test]
fn a_key_whose_name_leads_elsewhere_is_told_when_it_expires_and_holds_nobody_up() {
    let store = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Time(1000 * SECOND));
    let volume = Volume::open(settings(store.path()), Arc::new(RealDisk), clock.clone()).unwrap();
    let [ino, other] = ["file", "other"].map(|name| make(&volume, name));
    volume.run(|v| v.setxattr(&ROOTS, ino, b"user.larder.ttl", b"10", 0)).unwrap();
    {
        // Damage: it says that it has a name which another has.
        let mut tree = volume.tree.lock();
        let inode = tree.peek_mut(ino).unwrap();
        inode.rec.links = crate::format::Links::One { parent: ROOT, name: b"other"[..].into() };
    }
    clock.set(Time(1010 * SECOND));
    let outcome = volume.expire_first(ino);
    assert!(matches!(outcome, Err(Error::Damaged(_))), "{outcome:?}");
    assert_eq!(volume.run(|v| v.lookup(ROOT, b"other")).unwrap().attr.ino, other);
    drop(volume.close());
}
