//! A clock that is set while a store is mounted: in the test's own process, as only that has its hand on the clock.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::clock::{Clock, Time};
use larder::config::Settings;
use larder::io::RealDisk;
use larder::mount::options::Options;
use larder::mount::session::{Place, Session};
use larder::volume::Volume;

use crate::support::mounted::{can_mount, wait_until};
use crate::support::sys::setxattr;

/// Takes the mount away, also when the test fails.
struct Away(Place);

impl Drop for Away {
    fn drop(&mut self) {
        if self.0.detach().is_err() {
            eprintln!("{} could not be taken away", self.0.point().display());
        }
    }
}

fn is_there(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

#[test]
fn a_clock_set_forward_takes_keys_from_those_who_know_them_and_one_set_back_brings_none_again() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, point) = (dir.path().join("store"), dir.path().join("point"));
    fs::create_dir(&point).unwrap();
    let begun = Clock::System.now();
    let hours = |hours: i64| Time(begun.0 + hours * 3_600_000_000_000);
    let clock = Clock::manual(begun);
    let settings = Settings::load(&store, None, [], [("cache-size-limit".into(), "16MiB".into())]).unwrap();
    let volume = Volume::open(settings, Arc::new(RealDisk), clock.clone()).unwrap();
    let session = Session::mount(&volume, &store, &point, &Options::default()).unwrap();
    let away = Away(session.place());
    let serving = std::thread::spawn(move || session.run());

    fs::create_dir_all(point.join("tree/below")).unwrap();
    let [file, deep, lasting] = ["file", "tree/below/deep", "lasting"].map(|name| point.join(name));
    [&file, &deep, &lasting].into_iter().for_each(|path| fs::write(path, "content").unwrap());
    setxattr(&file, b"user.larder.ttl", b"1h", 0).unwrap();
    setxattr(&point.join("tree"), b"user.larder.ttl", b"2h", 0).unwrap();
    // The kernel knows them now, for as long as they should live.
    let there = || [&file, &deep, &lasting].map(|path| is_there(path));
    assert_eq!(there(), [true, true, true]);

    for (hour, left) in [(1, [false, true, true]), (2, [false, false, true])] {
        let set = Instant::now();
        clock.set(hours(hour));
        wait_until("what has expired to be gone", Duration::from_secs(1), || there() == left);
        println!("gone {:?} after the clock was set", set.elapsed());
    }
    clock.set(hours(-24));
    assert_eq!(there(), [false, false, true]);
    fs::write(&file, "anew").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"anew");

    drop(away);
    serving.join().unwrap().unwrap();
    volume.close().unwrap();
}
