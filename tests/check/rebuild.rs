//! `larder check --rebuild`: a catalog whose index is lost is made anew.

use std::path::{Path, PathBuf};

use larder::check::Repaired;
use larder::format::{Ino, ROOT};
use larder::io::Io;
use larder::io::faulty::{Fault, Kind as Call};
use larder::volume::{Rename, Volume};

use crate::model::ops::Fill;
use crate::model::store::NOBODY_SPECIAL;
use crate::repair::{Tree, journal_of, told, tree_of};
use crate::sample::{STORE, Sample, listed};
use crate::support::random::Random;
use crate::{contents, segment_path};

fn write(volume: &Volume, ino: Ino, offset: u64, bytes: &[u8]) {
    volume.run(|v| v.write(ino, offset, bytes, false)).unwrap();
}

fn create(volume: &Volume, name: &[u8], bytes: &[u8]) -> Ino {
    let made = volume.run(|v| v.mknod(&NOBODY_SPECIAL, ROOT, name, libc::S_IFREG | 0o644, 0)).unwrap();
    write(volume, made.attr.ino, 0, bytes);
    made.attr.ino
}

/// A sample with a backup of its catalog, and what is done after that; closed, or as kill -9 leaves it.
fn backed_up(killed: bool, then: impl FnOnce(&Volume, &Sample)) -> Sample {
    let sample = Sample::new(false);
    let volume = sample.volume();
    volume.back_up_catalog().unwrap();
    then(&volume, &sample);
    volume.sync().unwrap();
    let left = sample.disk.snapshot();
    volume.close().unwrap();
    let disk = if killed { left } else { sample.disk };
    Sample { disk, inos: sample.inos }
}

/// Something of everything.
fn changes(volume: &Volume, sample: &Sample) {
    create(volume, b"new", &Fill::Text(6).bytes(200_000));
    write(volume, sample.inos["text"], 0, &Fill::Text(7).bytes(6000));
    write(volume, sample.inos["big"], 300_000, &Fill::Noise(8).bytes(50_000));
    volume.run(|v| v.rename(ROOT, b"other", sample.inos["sub"], b"moved", Rename::Replace)).unwrap();
    volume.run(|v| v.unlink(ROOT, b"twin")).unwrap();
    volume.run(|v| v.rename(ROOT, b"copy", ROOT, b"fifo", Rename::Replace)).unwrap();
}

fn path(name: &str) -> PathBuf {
    Path::new(STORE).join(name)
}

fn lose_index(sample: &Sample) {
    sample.disk.remove(&path("index.redb")).unwrap();
}

/// A bit in each of its first blocks.
fn spoil_index(sample: &Sample) {
    (0..8).for_each(|n| sample.flip("index.redb", (n << 15) + 100));
}

fn lose_journal(sample: &Sample) {
    for file in sample.disk.list(&path("journal")).unwrap() {
        sample.disk.remove(&file).unwrap();
    }
}

fn lose_backups(sample: &Sample) {
    for file in sample.disk.list(&path("backup")).unwrap() {
        sample.disk.remove(&file).unwrap();
    }
}

/// Makes it anew; nothing is wrong with it then.
fn rebuilt(sample: &Sample) -> (Repaired, Tree) {
    let repaired = sample.rebuilt().unwrap();
    assert!(repaired.left.is_clean(), "{}{}", told(&repaired), listed(&repaired.left));
    (repaired, tree_of(sample).unwrap())
}

/// The content of the file at a path.
fn content(tree: &Tree, path: &str) -> Vec<u8> {
    let found = tree.values().find(|(there, _)| there == path);
    found.unwrap_or_else(|| panic!("{path} is not there")).1.clone().unwrap()
}

#[test]
fn a_lost_index_is_made_anew_to_the_last_change_from_a_backup_and_the_journal() {
    for killed in [false, true] {
        let sample = backed_up(killed, changes);
        let expected = tree_of(&sample.again()).unwrap();
        type Harm = fn(&Sample);
        let harms: [Harm; 4] = [
            lose_index,
            |sample| sample.file("index.redb").set_len(0).unwrap(),
            |sample| sample.file("index.redb").set_len(20_000).unwrap(),
            spoil_index,
        ];
        for (n, harm) in harms.into_iter().enumerate() {
            let damaged = sample.again();
            harm(&damaged);
            assert!(!damaged.again().repaired().unwrap().left.complete, "harm {n}");
            let (repaired, found) = rebuilt(&damaged);
            assert!(found == expected, "killed {killed}, harm {n}: {}", told(&repaired));
        }
    }
}

/// Of an index that can be read for the most part.
#[test]
fn an_index_with_a_bad_sector_is_made_anew_as_one_that_is_damaged() {
    let sample = backed_up(false, changes);
    let expected = tree_of(&sample.again()).unwrap();
    let len = sample.file("index.redb").len().unwrap();
    let mut told_of = 0;
    for at in (0..len).step_by(4096) {
        let damaged = sample.again();
        damaged.disk.bad_sector(&path("index.redb"), at..at + 512);
        // What nothing of the index lies in is not looked at.
        if damaged.report().is_clean() {
            continue;
        }
        told_of += 1;
        assert!(!damaged.again().repaired().unwrap().left.complete, "at {at}");
        let (repaired, found) = rebuilt(&damaged);
        assert!(found == expected, "at {at}: {}", told(&repaired));
    }
    assert!(told_of > 2, "{told_of} of {}", len / 4096);
}

#[test]
fn where_the_journal_is_lost_too_names_are_those_of_the_backup_and_content_is_the_newest() {
    let sample = backed_up(false, |volume, sample| {
        create(volume, b"new", &Fill::Text(6).bytes(200_000));
        write(volume, sample.inos["other"], 0, &Fill::Noise(7).bytes(10_000));
        write(volume, sample.inos["big"], 300_000, &Fill::Noise(8).bytes(250_000));
        volume.run(|v| v.rename(ROOT, b"other", sample.inos["sub"], b"moved", Rename::Replace)).unwrap();
    });
    let expected = tree_of(&sample.again()).unwrap();
    lose_index(&sample);
    lose_journal(&sample);
    let (_, found) = rebuilt(&sample);
    assert!(content(&found, "/other") == content(&expected, "/dir/sub/moved"));
    for (ino, (path, was)) in expected.iter().filter(|(_, (path, _))| path != "/new") {
        assert!(found[ino].1 == *was, "{path}");
    }
    let new = expected.iter().find(|(_, (path, _))| path == "/new").unwrap();
    assert!(content(&found, &format!("/lost+found/#{}", new.0.0)) == content(&expected, "/new"));
    assert_eq!(found.len(), expected.len());
}

#[test]
fn frames_that_were_moved_since_the_backup_are_found_where_they_are() {
    let sample = Sample::new(false);
    let volume = sample.volume();
    // Frames so small that no hole gives their room back, as every fourth stays.
    let bulk: Vec<String> = (0..2000).map(|n| format!("bulk {n}")).collect();
    bulk.iter().for_each(|name| {
        create(&volume, name.as_bytes(), &Fill::Noise(9).bytes(1000));
    });
    create(&volume, b"beside", &Fill::Noise(10).bytes(3000));
    volume.sync().unwrap();
    volume.close().unwrap();
    let was = sample.again().place(b"beside");
    let volume = sample.volume();
    volume.back_up_catalog().unwrap();
    let gone = bulk.iter().enumerate().filter(|(n, _)| n % 4 != 0);
    gone.for_each(|(_, name)| volume.run(|v| v.unlink(ROOT, name.as_bytes())).unwrap());
    volume.cleanup().unwrap();
    volume.close().unwrap();
    assert!(sample.again().place(b"beside") != was);
    let expected = tree_of(&sample.again()).unwrap();
    lose_index(&sample);
    lose_journal(&sample);
    sample.rebuilt().unwrap();
    let mut found = tree_of(&sample).unwrap();
    // Nothing tells any longer that some were removed; their content is gone.
    found.retain(|_, (_, content)| content.is_ok());
    assert!(found == expected);
}

#[test]
fn without_a_backup_and_a_journal_all_content_is_in_lost_and_found() {
    let sample = backed_up(false, |_, _| {});
    let expected = tree_of(&sample.again()).unwrap();
    lose_index(&sample);
    lose_journal(&sample);
    lose_backups(&sample);
    let (repaired, found) = rebuilt(&sample);
    for name in ["text", "deep", "big", "twin", "other", "hard"] {
        let ino = sample.inos[name];
        let (path, now) = found.get(&ino).unwrap_or_else(|| panic!("{name}: {}", told(&repaired)));
        assert_eq!(*path, format!("/lost+found/#{}", ino.0));
        assert!(*now == expected[&ino].1, "{name}");
    }
    // What is made now has a number of its own.
    let volume = sample.volume();
    let new = create(&volume, b"new", b"new");
    assert!(found.keys().all(|ino| *ino < new));
    volume.close().unwrap();
}

/// What no record tells of is not taken for a hole, nor for what was there before it without a word.
#[test]
fn a_damaged_frame_that_nothing_names_is_a_page_that_cannot_be_read_and_is_told() {
    let sample = backed_up(false, |_, _| {});
    let expected = tree_of(&sample.again()).unwrap();
    let ino = sample.inos["big"];
    let rebuilt_without = |name: &str, page: u32| {
        let damaged = sample.again();
        let extent = damaged.page(name, page).extent;
        damaged.flip(&segment_path(extent.segment), u64::from(extent.offset + extent.len / 2) * 8);
        lose_index(&damaged);
        lose_journal(&damaged);
        lose_backups(&damaged);
        let repaired = damaged.rebuilt().unwrap();
        (damaged, repaired)
    };
    let (_, repaired) = rebuilt_without("deep", 0);
    let lost = format!("{}: no frame of it is whole", sample.inos["deep"]);
    assert!(told(&repaired).contains(&lost), "{}", told(&repaired));
    for page in [0, 1] {
        let (damaged, repaired) = rebuilt_without("big", page);
        assert!(told(&repaired).contains(&format!("page {page} of {ino} is damaged")), "{}", told(&repaired));
        assert!(!repaired.left.is_clean());
        let found = tree_of(&damaged).unwrap();
        assert!(found[&ino].1.is_err());
        for name in ["text", "deep", "twin", "other", "hard"] {
            let ino = sample.inos[name];
            assert!(found[&ino].1 == expected[&ino].1, "{name}");
        }
    }
}

/// Several sessions, each closed or killed, which write over what the journal had.
#[test]
fn whatever_was_done_in_how_many_sessions_since_the_backup_nothing_is_lost_unless_that_is_told() {
    let mut whole = 0;
    for seed in 0..12 {
        let mut random = Random::of(seed);
        let mut sample = backed_up(random.below(2) == 0, changes);
        for session in 0..1 + random.below(4) {
            let volume = sample.volume();
            for n in 0..random.below(25) {
                let ino = sample.inos[["text", "deep", "big", "hard"][random.below(4) as usize]];
                let name = format!("{session} {n}");
                let bytes = Fill::Text(n as u8).bytes(1 + random.below(20_000) as u32);
                match random.below(6) {
                    0 | 1 => drop(create(&volume, name.as_bytes(), &bytes)),
                    2 => write(&volume, ino, random.below(50_000), &bytes),
                    3 => volume.fsync(ino, false).unwrap(),
                    4 => {
                        let from = format!("{session} {}", random.below(n + 1));
                        let how = Rename::Replace;
                        let _not_there =
                            volume.run(|v| v.rename(ROOT, from.as_bytes(), ROOT, name.as_bytes(), how));
                    }
                    _ => {
                        let name = format!("{session} {}", random.below(n + 1));
                        let _not_there = volume.run(|v| v.unlink(ROOT, name.as_bytes()));
                    }
                }
            }
            let left = sample.disk.snapshot();
            volume.close().unwrap();
            if random.below(2) == 0 {
                sample.disk = left;
            }
        }
        let expected = tree_of(&sample.again()).unwrap();
        spoil_index(&sample);
        let repaired = sample.rebuilt().unwrap();
        assert!(repaired.left.complete, "seed {seed}: {}{}", told(&repaired), listed(&repaired.left));
        if !told(&repaired).contains("is lost") {
            let found = tree_of(&sample).unwrap();
            assert!(found == expected, "seed {seed}: {}", told(&repaired));
            whole += 1;
        }
    }
    assert!(whole > 0);
}

#[test]
fn a_damaged_backup_is_passed_over_for_the_one_before() {
    let sample = backed_up(false, |volume, sample| {
        changes(volume, sample);
        volume.back_up_catalog().unwrap();
    });
    let expected = tree_of(&sample.again()).unwrap();
    let mut backups = sample.disk.list(&path("backup")).unwrap();
    backups.sort();
    assert_eq!(backups.len(), 2);
    sample.disk.open(&backups[1], false).unwrap().set_len(500).unwrap();
    lose_index(&sample);
    let (repaired, found) = rebuilt(&sample);
    assert!(told(&repaired).contains("not used"), "{}", told(&repaired));
    assert!(found == expected);
}

#[test]
fn a_sound_index_is_not_made_anew() {
    let sample = backed_up(false, changes);
    let before = crate::contents(&sample.disk);
    let repaired = sample.rebuilt().unwrap();
    assert!(repaired.found.is_clean() && repaired.done.is_empty(), "{}", told(&repaired));
    assert!(crate::contents(&sample.disk) == before);
}

#[test]
fn what_is_replaced_is_kept_in_the_store() {
    let sample = backed_up(true, changes);
    spoil_index(&sample);
    let before = crate::contents(&sample.disk);
    rebuilt(&sample);
    let after = crate::contents(&sample.disk);
    assert!(after[&path("damaged/index.redb")] == before[&path("index.redb")]);
    let journal = before.iter().filter(|(file, _)| file.starts_with(path("journal")));
    for (file, bytes) in journal {
        let kept = path("damaged").join(file.strip_prefix(STORE).unwrap());
        assert!(after[&kept] == *bytes, "{}", file.display());
    }
}

/// The disk dies at the n-th operation, for each n, and what it had not synced is kept, dropped or torn. Then another
/// attempt makes the same of it as if the first had not been.
#[test]
fn whichever_operation_of_a_rebuild_the_disk_dies_at_another_one_succeeds() {
    let sample = backed_up(true, changes);
    let expected = tree_of(&sample.again()).unwrap();
    spoil_index(&sample);
    let mut n = 0;
    loop {
        let damaged = sample.again();
        (n..n + 2000).for_each(|n| damaged.disk.fail(Call::Any, n, Fault::Errno(libc::EIO)));
        let died = damaged.rebuilt().is_err();
        let left = Sample { disk: damaged.disk.crash(), inos: sample.inos.clone() };
        let (repaired, found) = rebuilt(&left);
        assert!(found == expected, "n {n}: {}", told(&repaired));
        if !died {
            break;
        }
        n += 1;
    }
    assert!(n > 20, "only {n} operations");
}

#[test]
fn a_journal_that_is_damaged_ahead_of_what_a_backup_has_is_not_cut_where_that_would_lose_more() {
    let sample = Sample::new(false);
    let volume = sample.volume();
    create(&volume, b"before the backup", &Fill::Text(1).bytes(50_000));
    volume.sync().unwrap();
    volume.back_up_catalog().unwrap();
    changes(&volume, &sample);
    volume.sync().unwrap();
    let disk = sample.disk.snapshot();
    volume.close().unwrap();
    let killed = Sample { disk, inos: sample.inos };
    let expected = tree_of(&killed.again()).unwrap();
    // The first record since the index was written.
    killed.flip(&journal_of(&killed), 17 * 8);
    assert!(listed(&killed.report()).contains("--rebuild"), "{}", listed(&killed.report()));
    // What any opening changes, as the room that a segment reserves, is none of this.
    let kept = || {
        let mut there = contents(&killed.disk);
        there.retain(|path, _| path.starts_with("/store/journal") || path.starts_with("/store/damaged"));
        there
    };
    let before = kept();
    let refused = killed.repaired().unwrap_err().to_string();
    assert!(refused.contains("--rebuild"), "{refused}");
    assert!(kept() == before);
    let (repaired, found) = rebuilt(&killed);
    assert!(found == expected, "{}", told(&repaired));
}
