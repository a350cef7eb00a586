//! What is told of a file, and who may set its times.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

use libc::{EACCES, EINVAL, ENOENT, ENOTTY, EOPNOTSUPP, EPERM, UTIME_NOW, UTIME_OMIT};

use crate::calls::descriptors::{give_way, ioctl};
use crate::calls::paths::{set_times, statx};
use crate::ground::on_both;
use crate::process::User;
use crate::support::mounted::wait_until;
use crate::support::sys;
use crate::{Stage, errno, open, setting};

/// Who asks for attributes while they change.
const ASKERS: usize = 6;

const ALICE: User = User { uid: 4001, gid: 4001, groups: &[] };
const BOB: User = User { uid: 4002, gid: 4002, groups: &[] };

#[test]
fn times_are_set_by_the_owner_and_to_now_by_whoever_may_write() {
    on_both(|ground| {
        let path = ground.at("file");
        ALICE.does(|| fs::write(&path, "x"));
        let mode = |bits| fs::set_permissions(&path, PermissionsExt::from_mode(bits)).unwrap();
        let (now, omit, then) = ((0, UTIME_NOW), (0, UTIME_OMIT), (1_000_000, 123_456_789));
        let times = || {
            let stat = fs::metadata(&path).unwrap();
            ((stat.atime(), stat.atime_nsec()), (stat.mtime(), stat.mtime_nsec()))
        };
        // Of another's file: with the right to write to now, both of them, and to nothing else.
        mode(0o666);
        BOB.does(|| set_times(&path, None));
        BOB.does(|| set_times(&path, Some([now, now])));
        for refused in [[then, then], [now, then], [then, now], [now, omit], [omit, now], [omit, then]] {
            assert_eq!(BOB.tries(|| set_times(&path, Some(refused))), EPERM, "{refused:?}");
        }
        mode(0o644);
        assert_eq!(BOB.tries(|| set_times(&path, None)), EACCES);
        assert_eq!(BOB.tries(|| set_times(&path, Some([now, now]))), EACCES);
        assert_eq!(BOB.tries(|| set_times(&path, Some([now, omit]))), EPERM);
        // Nothing at all is asked of nobody, not even that the file is there.
        mode(0);
        BOB.does(|| set_times(&path, Some([omit, omit])));
        assert_eq!(errno(set_times(&ground.at("no"), Some([omit, omit]))), 0);
        assert_eq!(errno(set_times(&ground.at("no"), None)), ENOENT);
        // The owner needs no right to the content.
        ALICE.does(|| set_times(&path, Some([then, (5, 5)])));
        assert_eq!(times(), (then, (5, 5)));
        ALICE.does(|| set_times(&path, Some([omit, then])));
        assert_eq!(times(), (then, then));
        ALICE.does(|| set_times(&path, Some([(7, 7), omit])));
        assert_eq!(times(), ((7, 7), then));
        ALICE.does(|| set_times(&path, Some([now, omit])));
        assert!(times().0.0 > 1_700_000_000 && times().1 == then);
        for bad in [(0, -1), (0, 1_000_000_000), (0, i64::MAX)] {
            assert_eq!(errno(set_times(&path, Some([bad, omit]))), EINVAL);
            assert_eq!(errno(set_times(&path, Some([then, bad]))), EINVAL);
        }
        assert_eq!(times().1, then);
        // Each of them moves the time of change, which nobody sets; leaving both as they are does not.
        let changed = || (fs::metadata(&path).unwrap().ctime(), fs::metadata(&path).unwrap().ctime_nsec());
        let before = changed();
        assert_eq!(errno(set_times(&path, Some([omit, omit]))), 0);
        assert_eq!(changed(), before);
        wait_until("the clock moves", std::time::Duration::from_secs(60), || crate::now() > before);
        set_times(&path, Some([then, omit])).unwrap();
        assert!(changed() > before);
    });
}

#[test]
fn a_time_that_cannot_be_kept_becomes_the_nearest_that_can() {
    on_both(|ground| {
        let path = ground.at("file");
        fs::write(&path, "x").unwrap();
        let (first, last) = ground.differs(
            ((-2_147_483_648, 0), (15_032_385_535, 0)),
            ((-9_223_372_037, 145_224_192), (9_223_372_036, 854_775_807)),
        );
        // Not i64::MIN itself: fuser 0.18 negates it, which panics in a build that checks for overflow.
        for (time, kept) in
            [(-20_000_000_000, first), (i64::MIN + 1, first), (20_000_000_000, last), (i64::MAX, last)]
        {
            set_times(&path, Some([(time, 5), (time, 5)])).unwrap();
            let stat = fs::metadata(&path).unwrap();
            assert_eq!((stat.atime(), stat.atime_nsec()), kept, "{time}");
            assert_eq!((stat.mtime(), stat.mtime_nsec()), kept, "{time}");
        }
    });
}

#[test]
fn statx_tells_what_it_says_that_it_tells() {
    on_both(|ground| {
        let (path, link) = (ground.at("file"), ground.at("link"));
        fs::write(&path, [1; 100_000]).unwrap();
        open(&path).sync_all().unwrap();
        symlink("file", &link).unwrap();
        let plain = fs::metadata(&path).unwrap();
        for flags in [libc::AT_STATX_SYNC_AS_STAT, libc::AT_STATX_FORCE_SYNC, libc::AT_STATX_DONT_SYNC] {
            for mask in [libc::STATX_BASIC_STATS, libc::STATX_ALL, libc::STATX_SIZE, 0, libc::STATX_BTIME] {
                let found = statx(&path, flags, mask).unwrap();
                let asked = mask & libc::STATX_BASIC_STATS;
                assert_eq!(found.stx_mask & asked, asked, "flags {flags:#x}, mask {mask:#x}");
                if asked & libc::STATX_SIZE != 0 {
                    assert_eq!(found.stx_size, 100_000);
                }
                // When it was born is stored and cannot be told: the mask does not say so either.
                if mask & libc::STATX_BTIME != 0 {
                    let told = found.stx_mask & libc::STATX_BTIME != 0;
                    assert_eq!(told, ground.differs(true, false));
                }
            }
            let found = statx(&path, flags, libc::STATX_BASIC_STATS).unwrap();
            assert_eq!(
                (u32::from(found.stx_mode), found.stx_ino, found.stx_nlink, found.stx_uid, found.stx_gid),
                (plain.mode(), plain.ino(), 1, plain.uid(), plain.gid())
            );
            assert_eq!((found.stx_blocks, u64::from(found.stx_blksize)), (plain.blocks(), plain.blksize()));
            assert_eq!(
                (found.stx_mtime.tv_sec, i64::from(found.stx_mtime.tv_nsec)),
                (plain.mtime(), plain.mtime_nsec())
            );
            assert_eq!(libc::makedev(found.stx_dev_major, found.stx_dev_minor), plain.dev());
        }
        assert_eq!(
            u32::from(statx(&link, 0, libc::STATX_TYPE).unwrap().stx_mode) & libc::S_IFMT,
            libc::S_IFLNK
        );
        assert_eq!(errno(statx(&path, 0, 1 << 31)), EINVAL, "reserved");
        let both = libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC;
        assert_eq!(errno(statx(&path, both, libc::STATX_ALL)), EINVAL);
        assert_eq!(errno(statx(&path, 1 << 30, libc::STATX_ALL)), EINVAL);
    });
}

/// Threads that ask for the attributes of one path over and over while it changes.
struct Askers<'a> {
    paths: &'a [PathBuf],
    begin: Barrier,
    end: Barrier,
    stop: AtomicBool,
    over: AtomicBool,
    asked_of: AtomicUsize,
    asked: AtomicUsize,
}

impl Askers<'_> {
    /// Runs `rounds` beside threads that ask whenever it calls [`Askers::during`].
    fn beside(paths: &[PathBuf], rounds: impl FnOnce(&Askers)) {
        let askers = Askers {
            paths,
            begin: Barrier::new(ASKERS + 1),
            end: Barrier::new(ASKERS + 1),
            stop: AtomicBool::new(false),
            over: AtomicBool::new(false),
            asked_of: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
        };
        std::thread::scope(|scope| {
            (0..ASKERS).for_each(|_| _ = scope.spawn(|| askers.ask()));
            // However this ends: they wait for the next round.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rounds(&askers)));
            askers.over.store(true, Relaxed);
            askers.begin.wait();
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }

    fn ask(&self) {
        // Late to be run when its answer is there, which is when a change may come between.
        give_way();
        while {
            self.begin.wait();
            !self.over.load(Relaxed)
        } {
            while !self.stop.load(Relaxed) {
                told(&self.paths[self.asked_of.load(Relaxed)], libc::AT_STATX_FORCE_SYNC);
                self.asked.fetch_add(1, Relaxed);
            }
            self.end.wait();
        }
    }

    /// Makes a change while all ask for the attributes of a path. None is asking when it returns.
    fn during(&self, path: usize, change: impl FnOnce()) {
        self.asked_of.store(path, Relaxed);
        self.stop.store(false, Relaxed);
        self.begin.wait();
        let before = self.asked.load(Relaxed);
        while self.asked.load(Relaxed) < before + 2 * ASKERS {
            std::thread::yield_now();
        }
        change();
        self.stop.store(true, Relaxed);
        self.end.wait();
    }
}

fn told(path: &Path, flags: libc::c_int) -> libc::statx {
    statx(path, flags, libc::STATX_BASIC_STATS).unwrap()
}

#[test]
fn what_was_asked_of_a_directory_while_it_changed_is_not_kept() {
    let Some(stage) = Stage::new() else { return };
    let dirs: Vec<_> = (0..1000).map(|n| stage.at(n.to_string())).collect();
    dirs.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    Askers::beside(&dirs, |askers| {
        let round = |dir: usize, number: u32| {
            askers.during(dir, || fs::create_dir(dirs[dir].join(number.to_string())).unwrap());
            // Asked as stat(2) does it: the kernel answers by itself while it takes what it keeps for valid.
            assert_eq!(told(&dirs[dir], libc::AT_STATX_SYNC_AS_STAT).stx_nlink, 2 + number);
        };
        let end = Instant::now() + Duration::from_secs(setting("LARDER_TEST_SECONDS", 3));
        let mut rounds = 0;
        while Instant::now() < end {
            rounds += 1;
            round(0, rounds);
        }
        (1..dirs.len()).for_each(|dir| round(dir, 1));
        println!("{rounds} rounds");
    });
}

#[test]
fn what_was_asked_of_a_file_while_it_changed_is_not_kept() {
    let Some(stage) = Stage::new() else { return };
    // The file is asked for by a name of its own, which stays.
    let [asked, name, other] = ["asked", "name", "other"].map(|name| stage.at(name));
    fs::write(&name, [1; 10_000]).unwrap();
    fs::hard_link(&name, &asked).unwrap();
    fs::write(&other, "other").unwrap();
    let file = File::options().read(true).write(true).open(&asked).unwrap();
    file.sync_all().unwrap();
    let attribute = b"user.of";
    let changes: [(&str, &dyn Fn(u32)); 8] = [
        ("an attribute is set", &|round| sys::setxattr(&asked, attribute, &round.to_le_bytes(), 0).unwrap()),
        ("an attribute is removed", &|_| sys::removexattr(&asked, attribute).unwrap()),
        ("it is renamed", &|_| fs::rename(&name, stage.at("renamed")).unwrap()),
        ("it is renamed back", &|_| fs::rename(stage.at("renamed"), &name).unwrap()),
        ("it is exchanged", &|_| sys::rename(&other, &name, libc::RENAME_EXCHANGE).unwrap()),
        ("a hole is punched", &|_| {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            sys::fallocate(&file, mode, 0, 10).unwrap();
        }),
        ("it is copied into", &|_| assert_eq!(sys::copy_file_range(&file, 0, &file, 5000, 10).unwrap(), 10)),
        ("its mode is set", &|round| {
            fs::set_permissions(&asked, PermissionsExt::from_mode(0o600 | round & 1)).unwrap()
        }),
    ];
    Askers::beside(std::slice::from_ref(&asked), |askers| {
        let end = Instant::now() + Duration::from_secs(setting("LARDER_TEST_SECONDS", 3));
        let mut rounds = 0;
        while Instant::now() < end {
            rounds += 1;
            for (what, change) in &changes {
                askers.during(0, || change(rounds));
                // As stat(2) asks, then by a question to the daemon.
                let [kept, true_one] = [libc::AT_STATX_SYNC_AS_STAT, libc::AT_STATX_FORCE_SYNC]
                    .map(|flags| told(&asked, flags).stx_ctime)
                    .map(|time| (time.tv_sec, time.tv_nsec));
                assert_eq!(kept, true_one, "round {rounds}: {what}");
            }
            sys::rename(&other, &name, libc::RENAME_EXCHANGE).unwrap();
        }
        println!("{rounds} rounds");
    });
}

/// FS_IOC_GETFLAGS (what lsattr asks), FS_IOC_FIEMAP, FS_IOC_GETVERSION.
const GET_FLAGS: u64 = 0x8008_6601;
const FIEMAP: u64 = 0xc020_660b;
const GET_VERSION: u64 = 0x8008_7601;

#[test]
fn an_ioctl_that_cannot_be_is_refused_as_the_manual_says() {
    on_both(|ground| {
        let path = ground.at("file");
        fs::write(&path, "12345").unwrap();
        let file = open(&path);
        assert_eq!(ioctl(&file, libc::FIONREAD).unwrap() as i32, 5);
        assert_eq!(errno(ioctl(&file, libc::TCGETS)), ENOTTY);
        assert_eq!(errno(ioctl(&file, 0xdead_beef)), ENOTTY);
        assert_eq!(errno(ioctl(&file, GET_FLAGS)), ground.differs(0, ENOTTY));
        assert_eq!(errno(ioctl(&file, GET_VERSION)), ground.differs(0, ENOTTY));
        assert_eq!(errno(ioctl(&file, FIEMAP)), ground.differs(0, EOPNOTSUPP));
    });
}
