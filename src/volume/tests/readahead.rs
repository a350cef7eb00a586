//! Whose files are read ahead.

use super::*;

const MOST: usize = 8;

/// Files that fill a page at most, in the order in which they are listed.
fn listed(volume: &Volume, count: usize) -> Vec<Ino> {
    for n in 0..count {
        let ino = make(volume, &format!("file {n}"));
        write(volume, ino, 0, b"content");
    }
    volume.sync().unwrap();
    let mut listed = Vec::new();
    let mut visit = |entry: DirEntry<'_>| {
        if entry.kind == crate::format::Kind::File {
            listed.push(entry.ino);
        }
        true
    };
    volume.run(|v| v.readdir(ROOT, 0, false, &mut visit)).unwrap();
    assert_eq!(listed.len(), count);
    listed
}

#[test]
fn files_are_read_ahead_of_who_reads_them_in_order_and_of_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let volume = real(dir.path());
    let files = listed(&volume, 60);
    let reads = |n: usize| volume.tree.lock().listed_behind(files[n], MOST);
    let behind = |n: usize| files[n + 1..][..MOST].to_vec();
    assert!(reads(0).is_empty());
    assert!(reads(1).is_empty(), "one step may be chance");
    assert_eq!(reads(2), behind(2));
    // The next ones come from memory, so the next one that is noted lies behind them all.
    assert_eq!(reads(11), behind(11));
    // Two that share the work.
    assert!(reads(10).is_empty());
    assert_eq!(reads(12), behind(12));
    // Elsewhere: it begins anew.
    assert!([40, 41].map(reads).iter().all(Vec::is_empty));
    assert_eq!(reads(42), behind(42));
    // Here and there.
    assert!((0..200).map(|n| reads(n * 23 % 60)).all(|next| next.is_empty()));
    volume.close().unwrap();
}
