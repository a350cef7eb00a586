//! Directories that do not fit in memory together.

use super::*;
use crate::volume::{Change, NewFile, To};

const DIRS: u64 = 40;
const FILES: u64 = 100;

fn set_all(volume: &Volume, names: impl Iterator<Item = String>) {
    let names: Vec<String> = names.collect();
    for part in names.chunks(500) {
        let change = |path| Change { path, to: To::Content(b"value", NewFile::default()) };
        let changes: Vec<_> = part.iter().map(|name| change(name.as_bytes())).collect();
        volume.apply(&ROOTS, &changes, false).unwrap();
    }
}

/// Forty directories in little memory: one fits, and not all.
fn crowded(dir: &Path) -> Arc<Volume> {
    let volume = real(dir);
    volume.tree.lock().set_limit(256 << 10);
    for dir in 0..DIRS {
        set_all(&volume, (0..FILES).map(|n| format!("{dir}/{n}")));
    }
    // Nothing is loaded behind the scenes any longer.
    volume.sync().unwrap();
    let tree = volume.tree.lock();
    assert!(
        tree.whole_directory() > FILES && tree.room() < FILES,
        "{} {}",
        tree.whole_directory(),
        tree.room()
    );
    drop(tree);
    volume
}

#[test]
fn a_lower_limit_takes_inodes_from_memory_at_once_though_all_were_used() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    set_all(&volume, (0..2000).map(|n| format!("{}/{n}", n % 20)));
    volume.sync().unwrap();
    let mut tree = volume.tree.lock();
    let before = tree.weight();
    let inodes: Vec<Ino> = tree.inodes().map(|(ino, _)| ino).collect();
    inodes.into_iter().for_each(|ino| drop(tree.get(ino)));
    tree.set_limit(before / 4);
    assert!(tree.weight() <= before / 4, "{} of {before}", tree.weight());
    drop(tree);
    volume.close().unwrap();
}

#[test]
fn what_a_call_has_made_is_still_in_memory_when_it_answers_however_little_fits() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    volume.tree.lock().set_limit(1 << 20);
    for n in 0..400 {
        let made = volume.run(|v| v.mknod(&ROOTS, ROOT, format!("{n}").as_bytes(), libc::S_IFREG | 0o644, 0));
        let ino = made.unwrap_or_else(|error| panic!("{n}: {error}")).attr.ino;
        // It stays in memory until its content is stored.
        volume.write_blocking(ino, 0, b"content", false).unwrap();
        for m in 0..1 + n % 3 {
            let (name, value) =
                (format!("user.{m}"), noise(n, 1 + (n * 7919 + m * 104_729) as usize % 60_000));
            let set = volume.run(|v| v.setxattr(&ROOTS, ino, name.as_bytes(), &value, libc::XATTR_CREATE));
            set.unwrap_or_else(|error| panic!("{n} {m}: {error}"));
        }
        if n % 3 == 0 {
            let link = volume.run(|v| v.symlink(&ROOTS, ROOT, format!("link{n}").as_bytes(), b"target"));
            let made = link.unwrap_or_else(|error| panic!("{n}: {error}")).attr.ino;
            volume.forget(made, 1);
        }
        volume.forget(ino, 1);
    }
    volume.sync().unwrap();
    volume.run(|v| v.ready()).unwrap();
    let weight = volume.tree.lock().weight();
    assert!(weight <= 1 << 20, "{weight}");
    volume.close().unwrap();
}

#[test]
fn a_batch_changes_keys_in_large_directories_that_do_not_fit_in_memory_together() {
    let dir = tempfile::tempdir().unwrap();
    let volume = crowded(dir.path());
    set_all(&volume, (0..FILES).map(|n| format!("{}/{n}", n % DIRS)));
    set_all(&volume, (0..FILES).map(|n| format!("{}/new{n}", n % DIRS)));
    for dir in 0..DIRS {
        let path = format!("{dir}/new{dir}");
        assert!(
            matches!(volume.run(|v| v.get(path.as_bytes())), Ok(Got::Content(value)) if value == b"value")
        );
    }
    volume.close().unwrap();
}

#[test]
fn a_key_of_a_large_directory_is_looked_up_alone_where_others_would_have_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let volume = crowded(dir.path());
    let keys: Vec<String> = (0..DIRS).map(|dir| format!("{dir}/{}", dir * 7 % FILES)).collect();
    for key in &keys {
        let (entry, _) = volume.run(|v| v.resolve(key.as_bytes())).unwrap();
        volume.forget(entry.attr.ino, 1);
    }
    // All of them are in memory now: none has driven another out.
    for key in &keys {
        let (entry, _) = volume.resolve(key.as_bytes()).unwrap_or_else(|pause| panic!("{key}: {pause:?}"));
        volume.forget(entry.attr.ino, 1);
    }
    volume.close().unwrap();
}
