//! Limits of directories.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::volume::put::{Change, To};
use crate::volume::quota::Payer;

type Figures = Vec<(Ino, u64, Payer)>;

const MIB: u64 = 1 << 20;
const LIMIT: &[u8] = b"user.larder.size-limit";

fn limit(volume: &Volume, dir: Ino, value: &str) -> Result<()> {
    volume.run(|v| v.setxattr(&ROOTS, dir, LIMIT, value.as_bytes(), 0))
}

fn dir(volume: &Volume, dir: Ino, name: &str) -> Ino {
    volume.run(|v| v.mkdir(&ROOTS, dir, name.as_bytes(), 0o755)).unwrap().attr.ino
}

fn file(volume: &Volume, dir: Ino, name: &str) -> Ino {
    volume.run(|v| v.mknod(&ROOTS, dir, name.as_bytes(), 0o644, 0)).unwrap().attr.ino
}

fn filled(volume: &Volume, dir: Ino, name: &str, bytes: u64) -> Ino {
    let ino = file(volume, dir, name);
    write(volume, ino, 0, &noise(ino.0, bytes as usize));
    ino
}

fn try_write(volume: &Volume, ino: Ino, offset: u64, bytes: u64) -> Result<()> {
    volume.run(|v| v.write(ino, offset, &noise(offset + 1, bytes as usize), false)).map(drop)
}

fn rename(volume: &Volume, from: Ino, name: &str, to: Ino, new: &str) -> Result<()> {
    volume.run(|v| v.rename(from, name.as_bytes(), to, new.as_bytes(), Rename::Replace)).map(drop)
}

/// What a directory has used, once all is stored.
fn used(volume: &Volume, dir: Ino) -> u64 {
    volume.sync().unwrap();
    let figures = volume.tree.lock().quotas.figures();
    figures.into_iter().find(|(limited, ..)| *limited == dir).unwrap().1
}

/// What is used of every limit, as it was kept up and as a count finds it.
fn recounted(volume: &Volume) -> (Figures, Figures) {
    volume.sync().unwrap();
    volume.reclaim().unwrap();
    let before = volume.tree.lock().quotas.figures();
    volume.count_quotas(None).unwrap();
    (before, volume.tree.lock().quotas.figures())
}

#[test]
fn below_a_limit_no_more_is_taken_than_it_allows_and_what_is_removed_comes_back() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let (a, other) = (dir(&volume, ROOT, "a"), dir(&volume, ROOT, "other"));
    let deep = dir(&volume, a, "deep");
    limit(&volume, a, "1MiB").unwrap();
    let first = filled(&volume, deep, "first", 700_000);
    let second = file(&volume, a, "second");
    assert!(matches!(try_write(&volume, second, 0, 400_000), Err(Error::QuotaExceeded)));
    assert_eq!(volume.run(|v| v.getattr(second)).unwrap().attr.size, 0);
    try_write(&volume, second, 0, 200_000).unwrap();
    filled(&volume, other, "free", 2 * MIB);
    assert!((900_000..950_000).contains(&used(&volume, a)));
    let room = volume.run(|v| v.statfs(deep)).unwrap();
    assert_eq!((room.total, room.free), (MIB, MIB - used(&volume, a)));
    assert!(volume.run(|v| v.statfs(other)).unwrap().total > MIB);
    // Nor by fallocate, nor by a copy, nor by the library; and cutting goes always.
    assert!(matches!(volume.fallocate(second, 0, MIB, 0), Err(Error::QuotaExceeded)));
    assert!(matches!(volume.copy_range(first, 0, second, MIB, 700_000), Err(Error::QuotaExceeded)));
    let content = noise(9, 200_000);
    for content in [&content[..], &content[..20_000]] {
        limit(&volume, a, if content.len() > 100_000 { "1MiB" } else { "910000" }).unwrap();
        let change = Change { path: b"a/deep/third", to: To::Content(content, Default::default()) };
        assert!(
            matches!(volume.apply(&ROOTS, &[change], false), Err(Error::QuotaExceeded)),
            "{}",
            content.len()
        );
    }
    resize(&volume, first, 0);
    volume.run(|v| v.unlink(a, b"second")).unwrap();
    assert_eq!(used(&volume, a), 0);
    filled(&volume, a, "again", 700_000);
    volume.close().unwrap();
}

#[test]
fn what_counts_is_what_content_compresses_to() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let a = dir(&volume, ROOT, "a");
    limit(&volume, a, "1MiB").unwrap();
    let ino = file(&volume, a, "text");
    for n in 0..64 {
        write(&volume, ino, n * PAGE, "the same line again\n".repeat(PAGE as usize / 20).as_bytes());
    }
    assert!(used(&volume, a) < MIB / 8);
    volume.close().unwrap();
}

#[test]
fn what_is_there_counts_from_the_moment_when_the_limit_is_set_and_after_a_remount() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let (a, b) = (dir(&volume, ROOT, "a"), dir(&volume, ROOT, "b"));
    let below = dir(&volume, a, "below");
    let ino = filled(&volume, below, "file", 300_000);
    volume.run(|v| v.link(ino, a, b"name")).unwrap();
    filled(&volume, b, "elsewhere", 300_000);
    limit(&volume, a, "400000").unwrap();
    let there = used(&volume, a);
    assert!((300_000..310_000).contains(&there));
    assert!(matches!(try_write(&volume, ino, 300_000, 110_000), Err(Error::QuotaExceeded)));
    volume.close().unwrap();
    let volume = real(store.path());
    let value = |name| volume.run(|v| v.getxattr(a, name));
    assert_eq!(value(LIMIT).unwrap(), b"400000");
    let list = volume.run(|v| v.listxattr(a)).unwrap();
    assert_eq!(list, b"user.larder.size-limit\0");
    assert_eq!(used(&volume, a), there);
    assert!(matches!(try_write(&volume, ino, 300_000, 110_000), Err(Error::QuotaExceeded)));
    volume.run(|v| v.removexattr(&ROOTS, a, LIMIT)).unwrap();
    assert!(matches!(value(LIMIT), Err(Error::NoAttribute)));
    try_write(&volume, ino, 300_000, 110_000).unwrap();
    volume.close().unwrap();
}

#[test]
fn limits_within_limits_all_count() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let a = dir(&volume, ROOT, "a");
    let b = dir(&volume, a, "b");
    let c = dir(&volume, b, "c");
    filled(&volume, c, "there", 100_000);
    limit(&volume, c, "500000").unwrap();
    limit(&volume, a, "700000").unwrap();
    let ino = filled(&volume, c, "more", 300_000);
    filled(&volume, b, "beside", 250_000);
    assert!((400_000..410_000).contains(&used(&volume, c)));
    assert!(matches!(try_write(&volume, ino, 300_000, 90_000), Err(Error::QuotaExceeded)), "the outer one");
    assert!(matches!(try_write(&volume, ino, 300_000, 120_000), Err(Error::QuotaExceeded)), "the inner one");
    let (kept, counted) = recounted(&volume);
    assert_eq!(kept, counted);
    assert_eq!(kept.iter().find(|(dir, ..)| *dir == c).unwrap().2, Some(a));
    volume.run(|v| v.removexattr(&ROOTS, a, LIMIT)).unwrap();
    let (kept, counted) = recounted(&volume);
    assert_eq!(kept, counted);
    assert_eq!(kept.len(), 1);
    volume.close().unwrap();
}

#[test]
fn a_file_moves_its_bytes_between_limits_and_what_would_have_to_be_counted_does_not_move() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let (a, b) = (dir(&volume, ROOT, "a"), dir(&volume, ROOT, "b"));
    limit(&volume, a, "1MiB").unwrap();
    limit(&volume, b, "350000").unwrap();
    let ino = filled(&volume, ROOT, "f", 300_000);
    rename(&volume, ROOT, "f", a, "f").unwrap();
    assert!(used(&volume, a) >= 300_000);
    rename(&volume, a, "f", b, "f").unwrap();
    assert_eq!(used(&volume, a), 0);
    assert!(used(&volume, b) >= 300_000);
    filled(&volume, a, "g", 100_000);
    assert!(matches!(rename(&volume, a, "g", b, "g"), Err(Error::QuotaExceeded)));
    let below = dir(&volume, a, "below");
    assert!(matches!(rename(&volume, a, "below", b, "below"), Err(Error::CrossesQuota)));
    assert!(matches!(rename(&volume, a, "below", ROOT, "below"), Err(Error::CrossesQuota)));
    rename(&volume, a, "below", a, "renamed").unwrap();
    assert!(matches!(volume.run(|v| v.link(ino, a, b"link")), Err(Error::CrossesQuota)));
    volume.run(|v| v.link(ino, b, b"link")).unwrap();
    assert!(matches!(rename(&volume, b, "f", a, "f"), Err(Error::CrossesQuota)));
    let exchange = volume.run(|v| v.rename(a, b"renamed", b, b"f", Rename::Exchange));
    assert!(matches!(exchange, Err(Error::CrossesQuota)));
    // The directory itself may have another name, and one with a limit goes with what is in it.
    rename(&volume, ROOT, "b", ROOT, "c").unwrap();
    volume.run(|v| v.link(ino, b, b"third")).unwrap();
    let (kept, counted) = recounted(&volume);
    assert_eq!(kept, counted);
    // A limit between the names of one file.
    let outside = file(&volume, below, "outside");
    let inner = dir(&volume, below, "inner");
    volume.run(|v| v.link(outside, inner, b"inside")).unwrap();
    assert!(matches!(limit(&volume, inner, "1MiB"), Err(Error::CrossesQuota)));
    assert_eq!(volume.tree.lock().quotas.figures().len(), 2);
    volume.close().unwrap();
}

#[test]
fn values_that_are_no_limit_and_files_are_refused() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let ino = make(&volume, "file");
    assert!(matches!(limit(&volume, ino, "1MiB"), Err(Error::NotPermitted)));
    for value in ["", "0", "much", "-1", "1e400"] {
        let error = limit(&volume, ROOT, value).unwrap_err();
        assert!(error.to_string().contains("size-limit"), "{value}: {error}");
    }
    assert!(volume.tree.lock().quotas.is_empty());
    let missing = volume.run(|v| v.removexattr(&ROOTS, ROOT, LIMIT));
    assert!(matches!(missing, Err(Error::NoAttribute)));
    volume.close().unwrap();
}

#[test]
fn a_limit_goes_with_its_directory_and_what_was_in_it_counts_until_it_is_removed() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let a = dir(&volume, ROOT, "a");
    limit(&volume, a, "10MiB").unwrap();
    let mut at = a;
    for n in 0..5 {
        at = dir(&volume, at, "sub");
        filled(&volume, at, "file", 50_000);
        if n == 2 {
            limit(&volume, at, "1MiB").unwrap();
        }
    }
    assert!((250_000..260_000).contains(&used(&volume, a)));
    volume.apply(&ROOTS, &[Change { path: b"a/sub", to: To::Nothing { tree: true } }], false).unwrap();
    // In a session of its own: nothing of it is in memory.
    volume.close().unwrap();
    let volume = real(store.path());
    let (kept, counted) = recounted(&volume);
    assert_eq!((kept, counted), (vec![(a, 0, None)], vec![(a, 0, None)]));
    volume.close().unwrap();
}

#[test]
fn who_finds_a_limit_reached_waits_for_what_was_removed_with_its_directory() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let a = dir(&volume, ROOT, "a");
    let below = dir(&volume, a, "below");
    limit(&volume, a, "1MiB").unwrap();
    filled(&volume, below, "file", 700_000);
    let other = file(&volume, a, "other");
    let content = noise(7, 700_000);
    // Of a second limit, where nothing was removed.
    let b = dir(&volume, ROOT, "b");
    limit(&volume, b, "1MiB").unwrap();
    let full = filled(&volume, b, "full", 700_000);
    assert!(used(&volume, a) > 600_000 && used(&volume, b) > 600_000, "all is stored");
    let reclaiming = volume.reclaiming.lock();
    volume.apply(&ROOTS, &[Change { path: b"a/below", to: To::Nothing { tree: true } }], false).unwrap();
    let asked = volume.write(other, 0, &content, false);
    assert!(matches!(asked, Err(Pause::Wait(Need::Emptied(dir))) if dir == a), "{asked:?}");
    assert!(matches!(try_write(&volume, full, 700_000, 400_000), Err(Error::QuotaExceeded)));
    drop(reclaiming);
    try_write(&volume, other, 0, 700_000).unwrap();
    assert!(matches!(try_write(&volume, other, 700_000, 400_000), Err(Error::QuotaExceeded)));
    volume.close().unwrap();
}

#[test]
fn a_batch_may_make_and_remove_a_directory_below_a_limit() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let a = dir(&volume, ROOT, "a");
    limit(&volume, a, "1MiB").unwrap();
    let content = noise(1, 20_000);
    let changes = [
        Change { path: b"a/new/file", to: To::Content(&content, Default::default()) },
        Change { path: b"a/new", to: To::Nothing { tree: true } },
    ];
    volume.apply(&ROOTS, &changes, false).unwrap();
    assert_eq!(find(&volume, "a/new"), None);
    let (kept, counted) = recounted(&volume);
    assert_eq!((kept, counted), (vec![(a, 0, None)], vec![(a, 0, None)]));
    volume.close().unwrap();
}

#[test]
fn what_is_kept_up_is_what_a_count_finds_whatever_was_done() {
    let seed: u64 = std::env::var("LARDER_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut telling = 0;
    for seed in seed..seed + 8 {
        let store = tempfile::tempdir().unwrap();
        let mut volume = real(store.path());
        let mut state: u64 = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut pick = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) % below
        };
        let names = ["a", "b", "c"];
        for path in
            names.iter().flat_map(|name| [(*name).to_owned(), format!("{name}/a"), format!("{name}/a/b")])
        {
            let (above, name) = path.rsplit_once('/').unwrap_or(("", &path));
            dir(&volume, find(&volume, above).unwrap_or(ROOT), name);
        }
        for step in 0..400 {
            let place = |pick: &mut dyn FnMut(u64) -> u64| {
                let depth = pick(4);
                (0..=depth).map(|_| names[pick(3) as usize]).collect::<Vec<_>>().join("/")
            };
            let (path, other) = (place(&mut pick), place(&mut pick));
            let split = |path: &str| {
                let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
                let dir = if dir.is_empty() { ROOT } else { find(&volume, dir)? };
                Some((dir, name.to_owned()))
            };
            let (Some((dir, name)), other) = (split(&path), split(&other)) else { continue };
            let there = find(&volume, &path);
            match pick(16) {
                0 | 1 => drop(volume.run(|v| v.mkdir(&ROOTS, dir, name.as_bytes(), 0o755))),
                2..=4 => {
                    let ino = there.or_else(|| {
                        volume
                            .run(|v| v.mknod(&ROOTS, dir, name.as_bytes(), 0o644, 0))
                            .ok()
                            .map(|e| e.attr.ino)
                    });
                    if let Some(ino) = ino {
                        let _ = try_write(&volume, ino, pick(3) * PAGE, pick(200_000));
                    }
                }
                5 => {
                    if let Some(ino) = there {
                        let change = SetAttr { size: Some(pick(300_000)), ..SetAttr::default() };
                        let _ = volume.run(|v| v.setattr(&ROOTS, ino, &change));
                    }
                }
                6 => drop(volume.run(|v| v.unlink(dir, name.as_bytes()))),
                7 if pick(4) == 0 => drop(volume.run(|v| v.rmdir(dir, name.as_bytes()))),
                8 | 9 => {
                    if let Some((to, new)) = other {
                        let how = if pick(4) == 0 { Rename::Exchange } else { Rename::Replace };
                        let _ = volume.run(|v| v.rename(dir, name.as_bytes(), to, new.as_bytes(), how));
                    }
                }
                10 => {
                    if let (Some(ino), Some((to, new))) = (there, other) {
                        let _ = volume.run(|v| v.link(ino, to, new.as_bytes()));
                    }
                }
                11..=13 => {
                    if let Some(ino) = there {
                        let _ = match pick(5) {
                            0 => volume.run(|v| v.removexattr(&ROOTS, ino, LIMIT)),
                            _ => limit(&volume, ino, &(pick(2_000_000) + 1).to_string()),
                        };
                    }
                }
                14 => {
                    let content = noise(step, pick(60_000) as usize);
                    let to = match pick(3) {
                        0 if pick(4) == 0 => To::Nothing { tree: true },
                        _ => To::Content(&content, Default::default()),
                    };
                    let _ = volume.apply(&ROOTS, &[Change { path: path.as_bytes(), to }], false);
                }
                _ => {
                    if pick(4) == 0 {
                        volume.close().unwrap();
                        volume = real(store.path());
                    }
                    // What is not in memory is counted where it comes from.
                    let clean: Vec<Ino> = {
                        let tree = volume.tree.lock();
                        tree.inodes()
                            .filter(|(ino, inode)| !inode.dirty && *ino != ROOT)
                            .map(|(ino, _)| ino)
                            .collect()
                    };
                    for ino in clean {
                        if pick(2) == 0 && volume.cache.dirty(ino).is_none() {
                            volume.tree.lock().remove(ino);
                        }
                    }
                    let (kept, counted) = recounted(&volume);
                    assert_eq!(kept, counted, "LARDER_TEST_SEED={seed}, step {step}");
                    telling += u64::from(kept.iter().any(|(_, used, above)| *used > 0 && above.is_some()));
                }
            }
        }
        volume.close().unwrap();
        let report = crate::check::check(
            Arc::new(RealDisk),
            store.path(),
            &crate::check::Options { content: false, threads: 1 },
            &|_| {},
        );
        assert!(report.unwrap().findings.is_empty(), "LARDER_TEST_SEED={seed}");
    }
    assert!(telling > 10, "limits within limits were compared {telling} times");
}

fn find(volume: &Volume, path: &str) -> Option<Ino> {
    let (entry, _) = volume.run(|v| v.resolve(path.as_bytes())).ok()?;
    volume.forget(entry.attr.ino, 1);
    Some(entry.attr.ino)
}

#[test]
fn what_changes_while_it_is_counted_is_counted_once() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let (a, b) = (dir(&volume, ROOT, "a"), dir(&volume, ROOT, "b"));
    for n in 0..300 {
        filled(&volume, a, &n.to_string(), 3000);
    }
    volume.sync().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                let name = (n % 300).to_string();
                let (from, to) = if n / 300 % 2 == 0 { (a, b) } else { (b, a) };
                // The limit may be reached, or not be there.
                let _ = rename(&volume, from, &name, to, &name);
                if let Some(ino) = find(&volume, &format!("a/{}", n * 7 % 300)) {
                    let _ = try_write(&volume, ino, n % 5 * 1000, 2000);
                    let _ = volume.flush_file(ino);
                }
                let _ = volume.run(|v| v.unlink(a, (n * 11 % 300).to_string().as_bytes()));
                file_again(&volume, a, n * 11 % 300);
            }
        });
        for _ in 0..20 {
            limit(&volume, a, "100MiB").unwrap();
            limit(&volume, b, "100MiB").unwrap();
            volume.run(|v| v.removexattr(&ROOTS, a, LIMIT)).unwrap();
            volume.run(|v| v.removexattr(&ROOTS, b, LIMIT)).unwrap();
        }
        limit(&volume, a, "100MiB").unwrap();
        done.store(true, Ordering::Relaxed);
    });
    let (kept, counted) = recounted(&volume);
    assert_eq!(kept, counted);
    volume.close().unwrap();
}

fn file_again(volume: &Volume, dir: Ino, n: u64) {
    if let Ok(entry) = volume.run(|v| v.mknod(&ROOTS, dir, n.to_string().as_bytes(), 0o644, 0)) {
        let _ = try_write(volume, entry.attr.ino, 0, 2500);
        volume.forget(entry.attr.ino, 1);
    }
}

#[test]
fn of_two_who_set_a_limit_at_once_neither_is_told_that_it_is_set_when_it_cannot_be() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let dir = dir(&volume, ROOT, "dir");
    for n in 0..500 {
        volume.run(|v| v.mknod(&ROOTS, dir, format!("{n}").as_bytes(), 0o644, 0)).unwrap();
    }
    let file = make(&volume, "file");
    volume.run(|v| v.link(file, dir, b"of two")).unwrap();
    for round in 0..20 {
        let set = || limit(&volume, dir, "1MiB");
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(set);
            (set(), one.join().unwrap())
        });
        for outcome in [one, other] {
            assert!(matches!(outcome, Err(Error::CrossesQuota)), "round {round}: {outcome:?}");
        }
    }
    volume.close().unwrap();
}

#[test]
fn a_hole_whose_edges_do_not_both_fit_below_a_limit_is_made_all_the_same() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let dir = dir(&volume, ROOT, "dir");
    let ino = filled(&volume, dir, "file", 3 * PAGE);
    volume.sync().unwrap();
    limit(&volume, dir, "100MiB").unwrap();
    limit(&volume, dir, &(used(&volume, dir) + 100_000).to_string()).unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    let (punching, mode) = (volume.clone(), libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE);
    std::thread::spawn(move || ended.send(punching.fallocate(ino, PAGE / 2, 2 * PAGE, mode)));
    end.recv_timeout(std::time::Duration::from_secs(30)).expect("it does not end").unwrap();
    let content = read(&volume, ino, 0, 3 * PAGE as u32);
    assert!(content[PAGE as usize / 2..][..2 * PAGE as usize].iter().all(|byte| *byte == 0));
    assert!(content[..PAGE as usize / 2].iter().any(|byte| *byte != 0));
    assert!(content[5 * PAGE as usize / 2..].iter().any(|byte| *byte != 0));
    volume.close().unwrap();
}

#[test]
fn a_copy_that_a_limit_ends_tells_how_far_it_has_come() {
    let store = tempfile::tempdir().unwrap();
    let volume = real(store.path());
    let dir = dir(&volume, ROOT, "dir");
    limit(&volume, dir, "1MiB").unwrap();
    let from = filled(&volume, ROOT, "from", 2 << 20);
    let to = file(&volume, dir, "to");
    // Not whole pages that could be shared at once.
    let copied = volume.copy_range(from, 100, to, 0, 2 << 20).unwrap();
    assert!((500_000..1 << 20).contains(&copied), "{copied}");
    assert_eq!(volume.run(|v| v.getattr(to)).unwrap().attr.size, copied);
    assert!(read(&volume, to, 0, copied as u32) == read(&volume, from, 100, copied as u32));
    let more = volume.copy_range(from, 100 + copied, to, copied, 2 << 20);
    assert!(matches!(more, Err(Error::QuotaExceeded)), "{more:?}");
    volume.close().unwrap();
}
