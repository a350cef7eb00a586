//! Keys that expire, as other processes see them go: by name, from within, and by other names.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use larder::clock::Clock;
use libc::{EINVAL, ENODATA, ENOENT, EPERM, S_IFIFO};

use crate::process::Child;
use crate::support::mounted::wait_until;
use crate::support::sys::{getxattr, mknod, removexattr, setxattr};
use crate::{Stage, errno, open_to_read};

fn attribute(path: &Path, name: &str) -> Option<String> {
    let value = getxattr(path, format!("user.larder.{name}").as_bytes());
    value.ok().map(|value| String::from_utf8(value).unwrap())
}

fn set(path: &Path, name: &str, value: &str) -> i32 {
    errno(setxattr(path, format!("user.larder.{name}").as_bytes(), value.as_bytes(), 0))
}

/// Since 1970.
fn now() -> Duration {
    Duration::from_nanos(Clock::System.now().0 as u64)
}

/// Whole seconds since 1970, at least so long from now.
fn moment(ahead: Duration) -> Duration {
    Duration::from_secs((now() + ahead).as_secs() + 1)
}

/// A process that asks for names without a pause from a directory, until all are gone. It tells for each how many milliseconds behind
/// the moment it was asked for when it was there last, and when it had been asked for when it was missing first; and how long
/// the longest pause was between two looks at one, which a busy machine makes.
fn watch(dir: &Path, names: &[&str], moment: Duration) -> Child {
    let (dir, names) = (dir.to_owned(), names.iter().map(PathBuf::from).collect::<Vec<_>>());
    Child::spawn(move |wire| {
        std::env::set_current_dir(&dir).unwrap();
        let behind = || now().as_millis() as i64 - moment.as_millis() as i64;
        let mut seen: Vec<(i64, Option<i64>)> = vec![(i64::MIN, None); names.len()];
        assert!(names.iter().all(|name| fs::metadata(name).is_ok()), "they are there");
        wire.say("looking");
        let (mut began, mut pause) = (behind(), 0);
        while seen.iter().any(|(_, gone)| gone.is_none()) {
            for (name, (last, gone)) in names.iter().zip(&mut seen) {
                let before = behind();
                match fs::metadata(name) {
                    Ok(_) => (*last, *gone) = (before, None),
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(ENOENT));
                        gone.get_or_insert_with(behind);
                    }
                }
            }
            pause = pause.max(behind() - began);
            began = behind();
        }
        for (name, (last, gone)) in names.iter().zip(&seen) {
            wire.say(format!("{} {last} {} {pause}", name.display(), gone.unwrap()));
        }
        // From within: nothing is listed, found or made.
        let listed = fs::read_dir(".").map(|entries| entries.count());
        let made = errno(fs::write("new", "x"));
        wire.say(format!("{listed:?} {made} {}", errno(std::env::current_dir())));
    })
}

/// Hears of each name that it was there before its moment and not a second behind it.
fn went_in_time(child: &mut Child, names: &[&str]) {
    for name in names {
        let line = child.hear();
        let mut words = line.split(' ').skip(1).map(|word| word.parse::<i64>().unwrap());
        let [last, gone, pause] = [(); 3].map(|()| words.next().unwrap());
        assert!(line.starts_with(name), "{line}");
        assert!(
            last < 1000 + pause,
            "{name} was still there {last} ms behind its moment, with a pause of {pause} ms"
        );
        assert!(gone >= 0, "{name} was gone {} ms before its moment", -gone);
    }
}

#[test]
fn other_processes_see_a_key_go_at_its_second_by_each_name_and_from_within() {
    let Some(stage) = Stage::new() else { return };
    let at = |path: &str| stage.at(path);
    fs::write(at("file"), "x").unwrap();
    // A deep tree.
    let deep = "tree/a/b/c/d/e/f/g";
    fs::create_dir_all(at(deep)).unwrap();
    for dir in ["tree", "tree/a/b/c", deep] {
        (0..20).for_each(|n| fs::write(at(dir).join(n.to_string()), "x").unwrap());
    }
    fs::write(at("tree/a/b/c/7"), [b'7'; 100]).unwrap();
    // A file with names in three directories expires: all its names go.
    for dir in ["one", "two", "three"] {
        fs::create_dir(at(dir)).unwrap();
    }
    fs::write(at("one/linked"), "0123456789").unwrap();
    fs::hard_link(at("one/linked"), at("two/linked")).unwrap();
    fs::hard_link(at("one/linked"), at("three/linked")).unwrap();
    // One of the directories of a file expires: the other name stays.
    fs::write(at("tree/a/kept"), "kept").unwrap();
    fs::hard_link(at("tree/a/kept"), at("kept")).unwrap();

    let moment = moment(Duration::from_secs(4));
    for path in ["file", "tree", "two/linked"] {
        assert_eq!(set(&at(path), "expires", &moment.as_secs().to_string()), 0, "{path}");
    }
    let held = open_to_read(at("tree/a/b/c/7")).unwrap();
    let from_above = ["file", "tree", "tree/a/b/c/7", "tree/a/kept", "one/linked", "three/linked"];
    let from_within = ["7", "19"];
    let mut outside = watch(&stage.point(), &from_above, moment);
    let mut inside = watch(&at(deep), &from_within, moment);
    outside.says("looking");
    inside.says("looking");
    went_in_time(&mut outside, &from_above);
    went_in_time(&mut inside, &from_within);
    outside.dies();
    // A shell there finds it as it finds any directory that was removed.
    assert_eq!(inside.hear(), format!("Ok(0) {ENOENT} {ENOENT}"));
    inside.dies();
    assert_eq!(held.metadata().unwrap().len(), 100, "who holds it has it");
    drop(held);
    assert_eq!(fs::read_to_string(at("kept")).unwrap(), "kept");
    assert_eq!(attribute(&at("kept"), "expires"), None);
    wait_until("one name", Duration::from_secs(60), || fs::metadata(at("kept")).unwrap().nlink() == 1);
    // The room of all content is back within a minute. (Of directories the kernel may remember one for longer.)
    wait_until("the room", Duration::from_secs(60), || stage.status()["content_bytes"] == 4);
}

#[test]
fn what_lies_in_a_directory_tells_when_it_goes_with_it() {
    let Some(stage) = Stage::new() else { return };
    let (dir, file) = (stage.at("dir"), stage.at("dir/below/file"));
    fs::create_dir_all(stage.at("dir/below")).unwrap();
    fs::write(&file, "x").unwrap();
    assert_eq!(attribute(&file, "ttl"), None);
    assert_eq!(set(&dir, "expires", "2100-01-01T00:00:00Z"), 0);
    let end = Some("2100-01-01T00:00:00Z".to_owned());
    assert_eq!(attribute(&file, "expires"), end);
    assert!(attribute(&file, "ttl").unwrap().parse::<u64>().unwrap() > 1_000_000_000);
    // What is listed, and copied, is its own alone; and only that can be taken back.
    assert_eq!(crate::support::sys::listxattr(&file).unwrap(), [b""; 0]);
    assert_eq!(errno(removexattr(&file, b"user.larder.expires")), ENODATA);
    // The first end counts.
    assert_eq!(set(&file, "expires", "2090-01-01T00:00:00Z"), 0);
    assert_eq!(attribute(&file, "expires"), Some("2090-01-01T00:00:00Z".to_owned()));
    assert_eq!(set(&file, "expires", "2110-01-01T00:00:00Z"), 0);
    assert_eq!(attribute(&file, "expires"), end);
    fs::rename(&file, stage.at("file")).unwrap();
    assert_eq!(attribute(&stage.at("file"), "expires"), Some("2110-01-01T00:00:00Z".to_owned()));
    // One of several names may outlive the directory, so its end is no file's.
    fs::write(&file, "x").unwrap();
    fs::hard_link(&file, stage.at("other")).unwrap();
    assert_eq!(attribute(&file, "expires"), None);
}

#[test]
fn an_expiry_is_set_taken_back_and_refused_as_it_is_documented() {
    let Some(stage) = Stage::new() else { return };
    let key = stage.at("key");
    let anew = || fs::write(&key, "x").unwrap();
    // The past, and a life of nothing, are now.
    for (name, value) in [
        ("expires", "0"),
        ("expires", "-9000000000"),
        ("expires", "1969-12-31T23:59:59Z"),
        ("expires", "2001-01-01T00:00:00+05:00"),
        ("ttl", "0"),
    ] {
        anew();
        assert_eq!(set(&key, name, value), 0, "{name} {value}");
        assert!(!key.exists(), "{name} {value}");
    }
    anew();
    let refused = [
        "",
        "soon",
        "2026-13-01T00:00:00Z",
        "1e9",
        "9999-12-31T23:59:59Z",
        "9223372037",
        "99999999999999999999",
    ];
    for value in refused {
        assert_eq!(set(&key, "expires", value), EINVAL, "expires {value}");
    }
    for value in ["", "-1", "soon", "4294967296", "200y", "1e99", "NaN", "inf"] {
        assert_eq!(set(&key, "ttl", value), EINVAL, "ttl {value}");
    }
    for value in ["", "all", "expiration,never"] {
        assert_eq!(set(&key, "touch", value), EINVAL, "touch {value}");
    }
    assert_eq!((attribute(&key, "expires"), attribute(&key, "ttl")), (None, None));
    let log = stage.log();
    assert!(
        log.contains("\"9999-12-31T23:59:59Z\": use a time before 2262-04-11") && log.contains("\"200y\""),
        "{log}"
    );
    // The last moments that there are.
    assert_eq!(set(&key, "expires", "2262-04-11T23:47:16Z"), 0);
    assert_eq!(attribute(&key, "expires").unwrap(), "2262-04-11T23:47:16Z");
    assert_eq!(set(&key, "ttl", "4294967295"), 0);
    assert_eq!(attribute(&key, "ttl").unwrap(), "4294967295");
    // `never` and the removal of either attribute are the same.
    for end in ["never", "expires", "ttl"] {
        assert_eq!(set(&key, "ttl", "7d"), 0);
        match end {
            "never" => assert_eq!(set(&key, "ttl", "never"), 0),
            name => removexattr(&key, format!("user.larder.{name}").as_bytes()).unwrap(),
        }
        assert_eq!((attribute(&key, "expires"), attribute(&key, "ttl")), (None, None), "{end}");
        // There is no period left to renew.
        assert_eq!(set(&key, "touch", "expiration"), 0);
        assert_eq!(attribute(&key, "expires"), None);
        assert_eq!(errno(removexattr(&key, b"user.larder.ttl")), ENODATA);
    }
    // A touch renews by the period, and tells when it was.
    assert_eq!(set(&key, "ttl", "1h30m"), 0);
    let before = attribute(&key, "expires").unwrap();
    let touched = attribute(&key, "touch").unwrap();
    assert_eq!(set(&key, "touch", "expiration,size"), 0);
    assert!(attribute(&key, "expires").unwrap() > before);
    assert!(attribute(&key, "touch").unwrap() > touched);
    let after = attribute(&key, "expires");
    assert_eq!(set(&key, "touch", "size"), 0);
    assert_eq!(attribute(&key, "expires"), after);
    // The root stays; and so does what is no file and no directory.
    assert_eq!(set(&stage.point(), "ttl", "5"), EPERM);
    mknod(&stage.at("fifo"), S_IFIFO | 0o644).unwrap();
    symlink("key", stage.at("link")).unwrap();
    assert_eq!(set(&stage.at("fifo"), "ttl", "5"), EPERM);
    let shell = Command::new("setfattr")
        .args(["-h", "-n", "user.larder.ttl", "-v", "5"])
        .arg(stage.at("link"))
        .output();
    assert!(!shell.unwrap().status.success());
}
