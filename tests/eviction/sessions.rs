//! A store of sessions: many keys with a ttl, set, read and touched by several at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use larder::store::{SetOptions, Touch};
use larder::{Error, Store};

use crate::support::mounted::{Mounted, wait_until};
use crate::support::random::{Random, setting};

const WORKERS: u64 = 4;

/// What its owner knows of a session: between which moments it was set or touched last, and what was set.
struct Session {
    from: SystemTime,
    to: SystemTime,
    version: u64,
}

fn key(id: u64) -> String {
    format!("sessions/{:02}/{id}", id % 100)
}

fn value(id: u64, version: u64) -> String {
    format!("{id} {version} {}", "some state of the session, ".repeat((id % 40) as usize))
}

/// Each worker has sessions of its own, which it sets, touches and reads; and it reads those of others. Returns how long
/// behind its end a session was still found, at most.
fn work(store: &Store, keys: u64, ttl: Duration, seed: u64) -> Duration {
    let latest = AtomicU64::new(0);
    let counts = [const { AtomicU64::new(0) }; 3];
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (latest, counts) = (&latest, &counts);
            scope.spawn(move || {
                let mut random = Random::of(seed + worker);
                let ids: Vec<u64> = (worker..keys).step_by(WORKERS as usize).collect();
                let options = SetOptions::new().ttl(ttl);
                let set = |id: u64, version: u64| {
                    let from = SystemTime::now();
                    store.set_with(key(id), value(id, version), &options).unwrap();
                    Session { from, to: SystemTime::now(), version }
                };
                let mut sessions: Vec<Session> = ids.iter().map(|id| set(*id, 0)).collect();
                let begun = Instant::now();
                while begun.elapsed() < 3 * ttl {
                    let at = random.below(ids.len() as u64) as usize;
                    let (id, session) = (ids[at], &mut sessions[at]);
                    // A third is never touched, and set anew when it has been gone for a while.
                    let before = SystemTime::now();
                    let gone = |session: &Session, what: &str| {
                        let now = SystemTime::now();
                        assert!(now >= session.from + ttl, "{what}: session {id} is gone before its time");
                    };
                    match random.below(4) {
                        0 if id % 3 != 0 => match store.touch(key(id), Touch::Expiration) {
                            Ok(()) => {
                                (session.from, session.to) = (before, SystemTime::now());
                                counts[0].fetch_add(1, Ordering::Relaxed);
                            }
                            Err(Error::NotFound) => gone(session, "touch"),
                            Err(error) => panic!("touch: {error}"),
                        },
                        1 => {
                            let other = random.below(keys);
                            if let Some(found) = store.get(key(other)).unwrap() {
                                let text = String::from_utf8(found).unwrap();
                                let version = text.split(' ').nth(1).unwrap().parse().unwrap();
                                assert_eq!(text, value(other, version));
                            }
                        }
                        _ => match store.get(key(id)).unwrap() {
                            Some(found) => {
                                assert_eq!(found, value(id, session.version).into_bytes(), "session {id}");
                                let late = before.duration_since(session.to + ttl).unwrap_or_default();
                                latest.fetch_max(late.as_millis() as u64, Ordering::Relaxed);
                                counts[1].fetch_add(1, Ordering::Relaxed);
                            }
                            None => {
                                gone(session, "get");
                                counts[2].fetch_add(1, Ordering::Relaxed);
                                if random.below(4) == 0 {
                                    *session = set(id, session.version + 1);
                                }
                            }
                        },
                    }
                }
            });
        }
    });
    let [touched, found, gone] = counts.map(AtomicU64::into_inner);
    println!("{keys} sessions, seed {seed}: touched {touched} times, found {found} times, gone {gone} times");
    assert!(touched > 0 && found > 0 && gone > 0, "it shows nothing");
    Duration::from_millis(latest.into_inner())
}

fn sizes() -> (u64, Duration) {
    let keys = setting("LARDER_TEST_KEYS", 4_000);
    (keys, Duration::from_secs(4 + keys / 2_000))
}

#[test]
fn a_session_lives_as_long_as_it_is_touched_and_not_longer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let (keys, ttl) = sizes();
    let late = work(&store, keys, ttl, setting("LARDER_TEST_SEED", 1));
    assert_eq!(late, Duration::ZERO, "found behind its end");
    wait_until("the end of all", ttl + Duration::from_secs(60), || {
        (0..keys).all(|id| store.get(key(id)).unwrap().is_none())
    });
    store.close().unwrap();
}

#[test]
fn sessions_of_a_mounted_store_leave_their_room_behind() {
    let Some(mounted) = Mounted::with(&["--cache-size-limit", "64MiB"]) else { return };
    let store = Store::connect(mounted.point()).unwrap();
    let (keys, ttl) = sizes();
    let late = work(&store, keys, ttl, setting("LARDER_TEST_SEED", 2));
    println!("the last one was found {late:?} behind its end");
    let begun = Instant::now();
    let figure = |name: &str| mounted.status()[name].as_u64().unwrap();
    // The root and the directories.
    wait_until("the end of all", ttl + Duration::from_secs(120), || figure("inodes") <= 102);
    wait_until("their room", Duration::from_secs(120), || figure("stored_bytes") == 0);
    println!(
        "all removed and their room back {:?} behind the end of the work, with a ttl of {ttl:?}",
        begun.elapsed()
    );
    assert!(late < Duration::from_secs(30));
    store.close().unwrap();
}
