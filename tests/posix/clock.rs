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
    let names =
        ["file", "tree/below/deep", "third", "fourth", "fifth", "lasting"].map(|name| point.join(name));
    names.iter().for_each(|path| fs::write(path, "content").unwrap());
    let [file, _, third, fourth, fifth, _] = &names;
    for (hour, path) in (1..).zip([file, &point.join("tree"), third, fourth, fifth]) {
        setxattr(path, b"user.larder.ttl", format!("{hour}h").as_bytes(), 0).unwrap();
    }
    // The kernel knows them now, for as long as they should live.
    let there = || names.each_ref().map(|path| is_there(path));
    assert_eq!(there(), [true; 6]);

    let took = (1..=5).map(|hour| {
        let set = Instant::now();
        clock.set(hours(hour));
        let left = [1, 2, 3, 4, 5, 6].map(|end| end > hour);
        wait_until("what has expired to be gone", Duration::from_secs(60), || there() == left);
        set.elapsed()
    });
    let took: Vec<Duration> = took.collect();
    println!("gone so long after the clock was set: {took:?}");
    // What else the machine does may take its time once, and not each time.
    assert!(took.iter().min() < Some(&Duration::from_secs(1)), "{took:?}");
    clock.set(hours(-24));
    assert_eq!(there(), [false, false, false, false, false, true]);
    fs::write(file, "anew").unwrap();
    assert_eq!(fs::read(file).unwrap(), b"anew");

    drop(away);
    serving.join().unwrap().unwrap();
    volume.close().unwrap();
}
