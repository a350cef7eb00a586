//! One point: a workload, a fault at the n-th call, and what is found afterwards.

use std::time::{Duration, Instant};

use larder::clock::{Clock, Time};
use larder::config::Settings;
use larder::io::faulty::{FaultyDisk, Kind};
use larder::volume::{Change, NewFile, To};
use proptest::test_runner::TestCaseError;

use crate::model::fs::{Call, Fs, Id, ROOT};
use crate::model::history::{self, History};
use crate::model::ops::{self, Fill};
use crate::model::store::{Disk, LEAST_CACHE, NOBODY_SPECIAL, START, Store, errno};
use crate::model::system::System;
use crate::workload::{Step, Workload};

const SECOND: i64 = 1_000_000_000;

/// The number of the file that is made when all is over.
const AFTERWARDS: Id = 1000;

pub type Outcome = Result<(), String>;

fn text(error: TestCaseError) -> String {
    match error {
        TestCaseError::Fail(why) | TestCaseError::Reject(why) => why.message().to_owned(),
    }
}

/// A workload with what its store is before the first fault may strike.
pub struct Prepared {
    pub workload: Workload,
    image: FaultyDisk,
    fs: Fs,
    now: i64,
}

/// What the calls of a workload come to when none fails.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    pub changes: u64,
    pub syncs: u64,
    pub reads: u64,
}

/// How a store comes to its end.
#[derive(Clone, Copy, Debug)]
enum End {
    Power,
    Kill,
}

struct Run<'a> {
    disk: FaultyDisk,
    store: Store,
    clock: Clock,
    fs: Fs,
    history: History,
    now: i64,
    /// Every step must succeed.
    strict: bool,
    /// Whether all that has expired by the clock was reported gone.
    reported: bool,
    refused: &'a mut Vec<String>,
}

fn settings(workload: &Workload) -> Settings {
    let mut settings = Settings::new("/store");
    // Not all of the index is in memory.
    settings.cache_size_limit = LEAST_CACHE;
    // Nothing is durable that no step has asked to be.
    settings.commit_interval = Duration::from_secs(3600);
    (workload.settings)(&mut settings);
    settings
}

impl Prepared {
    pub fn new(workload: Workload) -> Result<Prepared, String> {
        let disk = FaultyDisk::new(1);
        let mut prepared = Prepared { image: disk.snapshot(), workload, fs: Fs::new(), now: START };
        if prepared.workload.setup.is_empty() {
            return Ok(prepared);
        }
        let mut refused = Vec::new();
        let mut run = prepared.open(disk.clone(), &mut refused).map_err(|error| error.to_string())?;
        run.strict = true;
        for step in &prepared.workload.setup {
            run.step(step)?;
        }
        run.step(&Step::Sync)?;
        if prepared.workload.closed {
            run.store.close().map_err(|error| error.to_string())?;
        }
        let (fs, now) = (run.fs.clone(), run.now);
        (prepared.image, prepared.fs, prepared.now) = (disk.snapshot(), fs, now);
        Ok(prepared)
    }

    fn open<'a>(&self, disk: FaultyDisk, refused: &'a mut Vec<String>) -> larder::Result<Run<'a>> {
        let clock = Clock::manual(Time(self.now));
        let store = Store::open(Disk::Faulty(disk.clone()), settings(&self.workload), clock.clone())?;
        let history = History::new(&self.fs);
        Ok(Run {
            disk,
            store,
            clock,
            fs: self.fs.clone(),
            history,
            now: self.now,
            strict: false,
            reported: true,
            refused,
        })
    }

    /// How many calls there are when none fails; the whole of it is checked as any other point.
    pub fn calls(&self) -> Result<Calls, String> {
        let disk = self.image.snapshot();
        let mut refused = Vec::new();
        let mut run = self.open(disk.clone(), &mut refused).map_err(|error| error.to_string())?;
        run.strict = true;
        run.store.adopt(&self.fs).map_err(text)?;
        for step in &self.workload.steps {
            run.step(step)?;
        }
        let counts = disk.counts();
        let (tree, contents) = history::found(run.store.volume()).map_err(text)?;
        history::is_now(&run.fs, &tree, &contents).map_err(text)?;
        Ok(Calls { changes: counts.operations, syncs: counts.syncs, reads: counts.reads })
    }

    /// Runs it with what `arm` sets, and checks everything. `deep`: also what is found by the mount after the next.
    pub fn point(&self, seed: u64, deep: bool, arm: &dyn Fn(&FaultyDisk)) -> Outcome {
        let disk = self.image.snapshot();
        disk.reseed(seed);
        arm(&disk);
        let mut refused = Vec::new();
        let outcome = self.point_on(&disk, deep, seed % 2 == 1, &mut refused);
        outcome.map_err(|why| {
            let log = disk.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = match std::env::var_os("LARDER_TEST_LOG") {
                Some(_) => 0,
                None => lines.len().saturating_sub(40),
            };
            format!(
                "{why}\nrefused:\n  {}\nthe disk's log:\n{}",
                refused.join("\n  "),
                lines[from..].join("\n")
            )
        })
    }

    fn point_on(&self, disk: &FaultyDisk, deep: bool, odd: bool, refused: &mut Vec<String>) -> Outcome {
        let mut run = match self.open(disk.clone(), refused) {
            Ok(run) => run,
            Err(error) if disk.struck().is_some() => {
                // It did not come so far: whatever there was is still there.
                let before = History::new(&self.fs);
                for disk in [disk.crash(), disk.snapshot()] {
                    let found = self.look(disk, &before, false, Time(START), deep);
                    found.map_err(|why| format!("after an opening that failed ({error}): {why}"))?;
                }
                return Ok(());
            }
            Err(error) => return Err(format!("opening: {error}")),
        };
        if let Err(why) = run.store.adopt(&self.fs) {
            if disk.struck().is_none() {
                return Err(text(why));
            }
            run.refused.push("the walk of the tree".into());
        } else {
            for step in &self.workload.steps {
                run.step(step)?;
                if disk.is_dead() || !run.store.is_open() {
                    break;
                }
            }
        }
        if !disk.is_dead() && run.store.is_open() {
            run.afterwards()?;
        }
        let whole = disk.struck() != Some(Kind::Sync) && !disk.is_dead();
        // What was reported gone stays so, whatever the clock says; unless nothing could be journalled any longer.
        let gone = run.reported && run.store.is_open() && run.store.volume().read_only().is_none();
        // A disk whose power failed has lost what it had not kept.
        let ends = if disk.is_dead() { [End::Power, End::Power] } else { [End::Power, End::Kill] };
        let chosen = if deep { &ends[..] } else { &ends[usize::from(odd)..][..1] };
        for end in chosen {
            let (disk, killed) = match end {
                End::Power => (disk.crash(), false),
                End::Kill => (disk.snapshot(), whole),
            };
            // With a clock that is set back.
            let clock = if killed && !gone { self.end() } else { Time(START) };
            self.look(disk, &run.history, killed, clock, deep).map_err(|why| format!("{end:?}: {why}"))?;
        }
        let healthy = !disk.is_dead() && run.store.is_open() && run.store.volume().read_only().is_none();
        if healthy && deep {
            run.store.close().map_err(|error| format!("closing: {error}"))?;
            run.history.note(&run.fs, &ops::Step::Sync);
            self.look(disk.crash(), &run.history, false, Time(START), deep)
                .map_err(|why| format!("closed: {why}"))?;
        }
        Ok(())
    }

    /// A moment behind all of the workload.
    fn end(&self) -> Time {
        Time(self.now + 24 * 3600 * SECOND)
    }

    /// What a mount finds, at a time, on a disk that nothing is wrong with any longer.
    fn look(&self, disk: FaultyDisk, history: &History, killed: bool, time: Time, deep: bool) -> Outcome {
        // A disk that was killed in the middle still knows what it did not keep.
        let disk = Disk::Faulty(disk);
        let made = larder::io::Io::open_read(&*disk.io(), std::path::Path::new("/store/FORMAT")).is_ok();
        let new = self.workload.setup.is_empty();
        if made || !new {
            disk.is_sound("of what is left").map_err(text)?;
        }
        let clock = Clock::manual(time);
        let mut store = Store::open(disk, settings(&self.workload), clock)
            .map_err(|error| format!("opening what is left: {error}"))?;
        let (tree, contents) = history::found(store.volume()).map_err(text)?;
        history.allows(killed, &tree, &contents).map_err(text)?;
        // It takes writes.
        let volume = store.volume();
        let name = b"it takes writes";
        let made =
            store.run(|v| v.mknod(&NOBODY_SPECIAL, larder::format::ROOT, name, libc::S_IFREG | 0o600, 0));
        let ino = made.map_err(|errno| format!("errno {errno} for a file in what is left"))?.attr.ino;
        let content = Fill::Noise(1).bytes(3000);
        let written = store.run(|v| v.write(ino, 0, &content, false)).map(drop);
        written.map_err(|errno| format!("errno {errno} for a write to what is left"))?;
        volume.fsync(ino, false).map_err(|error| format!("an fsync of what is left: {error}"))?;
        volume.forget(ino, 1);
        store.close().map_err(|error| format!("closing what was left: {error}"))?;
        if deep {
            store.disk.is_sound("of what is closed again").map_err(text)?;
            store.reopen().map_err(|error| format!("opening once more: {error}"))?;
            let volume = store.volume();
            store
                .run(|v| v.unlink(larder::format::ROOT, name))
                .map_err(|errno| format!("errno {errno} for removing it again"))?;
            let (same, contents_now) = history::found(volume).map_err(text)?;
            if same != tree || contents_now != contents {
                return Err("the mount after the next finds something else".into());
            }
        }
        Ok(())
    }
}

impl Run<'_> {
    /// What must work once the fault is over, and the store as it is then.
    fn afterwards(&mut self) -> Outcome {
        self.disk.disarm();
        let writable = self.store.volume().read_only().is_none();
        let dir = self.fs.entries(ROOT).clone();
        let gone =
            dir.iter().find(|(_, id)| self.fs.node(**id).content().is_some()).map(|(name, _)| name.clone());
        if let Some(name) = gone.filter(|_| writable) {
            // Also on a disk that is full still.
            self.strict = true;
            self.goes_on(&Step::Call(Call::Unlink { dir: ROOT, name }))?;
            self.strict = false;
        }
        self.disk.heal();
        let (tree, contents) = history::found(self.store.volume()).map_err(text)?;
        let same = history::is_now(&self.fs, &tree, &contents);
        same.map_err(|why| format!("while it is open: {}", text(why)))?;
        if self.store.volume().read_only().is_some() {
            return match self.disk.struck() {
                Some(_) => Ok(()),
                None => Err("read-only for no reason".into()),
            };
        }
        self.strict = true;
        self.goes_on(&Step::Sync)?;
        let mode = libc::S_IFREG | 0o644;
        let content = Fill::Noise(9).bytes(140_000);
        for step in [
            Step::Call(Call::Mknod { dir: ROOT, name: b"afterwards".to_vec(), mode, id: AFTERWARDS }),
            Step::Call(Call::Write { of: AFTERWARDS, offset: 0, data: content }),
            Step::Fsync(AFTERWARDS, false),
        ] {
            self.must(&step)?;
        }
        Ok(())
    }

    /// Takes over what has come of a step that failed, where that may be something else than nothing.
    fn settle(&mut self, step: &Step, with: Fs) -> Outcome {
        let (tree, contents) = history::found(self.store.volume()).map_err(text)?;
        let before = history::is_now(&self.fs, &tree, &contents);
        if before.is_ok() {
            return Ok(());
        }
        if let Step::Call(Call::Truncate { .. }) = step {
            return before.map_err(|why| format!("{} failed and is seen: {}", short(step), text(why)));
        }
        let found = match *step.needs() {
            // Of content each byte is the old one or the new one.
            [.., of] if history::is_now(&with, &tree, &contents).is_err() => {
                let paths = self.fs.paths();
                let path = paths.iter().find(|(_, id)| **id == of).map(|(path, _)| path);
                let Some(found) = path.and_then(|path| contents.get(path)) else { return Ok(()) };
                let at = |fs: &Fs, at: usize| {
                    fs.node(of).content().and_then(|all| all.get(at)).copied().unwrap_or(0)
                };
                for (place, byte) in found.iter().enumerate() {
                    if *byte != at(&self.fs, place) && *byte != at(&with, place) {
                        return Err(format!(
                            "{} failed, and byte {place} is neither old nor new",
                            short(step)
                        ));
                    }
                }
                let mut half = self.fs.clone();
                let size = found.len() as u64;
                half.apply(&Call::Truncate { of, size }, self.now).expect("it is a file");
                half.apply(&Call::Write { of, offset: 0, data: found.clone() }, self.now)
                    .expect("it is a file");
                half
            }
            _ => with,
        };
        self.fs = found;
        self.history.note(&self.fs, &ops::Step::Skip);
        Ok(())
    }

    /// Does a step that must succeed, unless the store had turned read-only before: a background thread that met the fault
    /// may come to say so at any moment.
    fn goes_on(&mut self, step: &Step) -> Outcome {
        let refused = |why: &str| why.starts_with(&format!("Err({})", libc::EROFS));
        match self.step(step) {
            Err(why) if refused(&why) && self.disk.struck().is_some() => {
                match self.store.volume().read_only() {
                    Some(_) => Ok(()),
                    None => Err(why),
                }
            }
            other => other,
        }
    }

    /// Does a step that must succeed, at the latest when what keeps room for the catalog has been had again.
    fn must(&mut self, step: &Step) -> Outcome {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match self.goes_on(step) {
                Err(why) if why.starts_with("Err(28)") && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return other.map_err(|why| format!("once the fault is over: {why}")),
            }
        }
    }

    fn step(&mut self, step: &Step) -> Outcome {
        self.now += match step {
            Step::Expire(seconds, _) => seconds * SECOND,
            _ => SECOND,
        };
        let known = |id: &Id| self.store.knows(*id) && self.fs.nodes().contains_key(id);
        if !step.needs().iter().all(known) {
            return Ok(());
        }
        let mut with = self.fs.clone();
        let expected = step.apply(&mut with, self.now);
        self.clock.set(Time(self.now));
        let done = self.perform(step, &with);
        match (expected, done) {
            (Ok(()), Ok(())) => {
                for id in self.fs.nodes().keys().filter(|id| !with.nodes().contains_key(id)) {
                    self.store.release(*id);
                }
                self.fs = with;
                self.history.note(&self.fs, &as_noted(step));
            }
            (Err(expected), Err(errno)) if expected.contains(&errno) => {}
            (_, Err(errno))
                if !self.strict
                    && self.disk.struck().is_some()
                    && [libc::EIO, libc::ENOSPC, libc::EROFS].contains(&errno) =>
            {
                self.refused.push(format!("errno {errno}: {}", short(step)));
                if matches!(step, Step::Expire(..)) {
                    // Time passes, whatever fails.
                    self.reported = false;
                    self.fs = with;
                    self.history.note(&self.fs, &ops::Step::Skip);
                    return Ok(());
                }
                if expected.is_ok() && !matches!(step, Step::Fsync(..) | Step::Sync | Step::Remount) {
                    let noted = if may_be_half_done(step) { ops::Step::Skip } else { as_noted(step) };
                    self.history.note_unsure(&with, &self.fs, &noted);
                    if may_be_half_done(step) && self.store.is_open() && !self.disk.is_dead() {
                        return self.settle(step, with);
                    }
                }
            }
            (expected, done) => {
                return Err(format!("{done:?} instead of {expected:?} for {}", short(step)));
            }
        }
        Ok(())
    }

    /// Does it to the store.
    fn perform(&mut self, step: &Step, with: &Fs) -> Result<(), i32> {
        match step {
            Step::Call(call) | Step::Hold(call) => self.store.apply(call, self.now).map(drop),
            // As of all that the model has no more.
            Step::Release(_) => Ok(()),
            Step::Fsync(id, data_only) => self.store.fsync(*id, *data_only),
            Step::Sync => self.store.sync(),
            Step::Set(changes, durable) => {
                let changes: Vec<Change<'_>> = changes
                    .iter()
                    .map(|(name, to)| Change {
                        path: name.as_bytes(),
                        to: match to {
                            Some((_, content)) => To::Content(content, NewFile::default()),
                            None => To::Nothing { tree: false },
                        },
                    })
                    .collect();
                let caller = larder::volume::Caller { umask: 0o022, ..NOBODY_SPECIAL };
                let done = self.store.volume().apply(&caller, &changes, *durable);
                done.map(drop).map_err(|error| errno(&error))
            }
            Step::Expire(_, names) => {
                let gone = |name: &&&str| !with.entries(ROOT).contains_key(name.as_bytes());
                for name in names.iter().filter(gone) {
                    let root = larder::format::ROOT;
                    match self.store.run(|volume| volume.lookup(root, name.as_bytes())) {
                        Err(libc::ENOENT) => {}
                        Err(errno) => return Err(errno),
                        Ok(_) => panic!("{name} has expired and is there"),
                    }
                }
                Ok(())
            }
            Step::Cleanup => self.store.volume().cleanup().map(drop).map_err(|error| errno(&error)),
            Step::Remount => {
                for id in self.fs.orphans() {
                    self.store.release(id);
                }
                self.store.close().map_err(|error| errno(&error))?;
                self.history.note(with, &ops::Step::Remount);
                self.store.reopen().map_err(|error| errno(&error))?;
                self.store.adopt(with).map_err(|why| {
                    println!("{}", text(why));
                    libc::EIO
                })
            }
        }
    }
}

/// Whether a step that fails may have come to something: content in part, or a batch whose flush failed.
fn may_be_half_done(step: &Step) -> bool {
    let content = |call: &Call| {
        matches!(
            call,
            Call::Write { .. } | Call::Truncate { .. } | Call::Fallocate { .. } | Call::Copy { .. }
        )
    };
    match step {
        Step::Call(call) => content(call),
        Step::Set(_, durable) => *durable,
        _ => false,
    }
}

/// What the history is told.
fn as_noted(step: &Step) -> ops::Step {
    match step {
        Step::Call(call) | Step::Hold(call) => ops::Step::Call(call.clone(), true),
        Step::Fsync(id, data_only) => ops::Step::Fsync(*id, *data_only),
        Step::Sync => ops::Step::Sync,
        Step::Remount => ops::Step::Remount,
        Step::Set(_, true) => ops::Step::Sync,
        _ => ops::Step::Skip,
    }
}

fn short(step: &Step) -> String {
    format!("{step:?}").chars().take(200).collect()
}
