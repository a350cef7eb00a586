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
