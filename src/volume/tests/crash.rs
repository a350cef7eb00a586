//! One crash after another, and crashes at moments that only a test inside can choose.

use super::*;

/// A volume that commits nothing by itself.
fn quiet(disk: &FaultyDisk) -> Arc<Volume> {
    let settings = Settings { commit_interval: Duration::from_secs(3600), ..settings(Path::new("/store")) };
    Volume::open(settings, Arc::new(disk.clone()), Clock::System).unwrap()
}

fn found(volume: &Volume, name: &str) -> Option<Ino> {
    match volume.run(|v| v.lookup(ROOT, name.as_bytes())) {
        Ok(entry) => Some(entry.attr.ino),
        Err(Error::NotFound) => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

#[test]
fn a_segment_that_died_after_the_flush_began_is_not_removed_before_the_next_one() {
    let content = noise(1, 3 * PAGE as usize);
    let mut kept = 0;
    for seed in 0..16 {
        let disk = FaultyDisk::new(seed);
        let volume = quiet(&disk);
        let ino = make(&volume, "file");
        write(&volume, ino, 0, &content);
        volume.sync().unwrap();
        let segment = volume.page_record(ino, PageNo(0)).unwrap().unwrap().extent.segment;
        volume.segments.close(segment).unwrap();
        volume.forget(ino, 1);
        make(&volume, "other");
        disk.hold_syncs();
        std::thread::scope(|scope| {
            scope.spawn(|| volume.commit_now().unwrap());
            disk.wait_for_held_syncs(1);
            volume.run(|v| v.unlink(ROOT, b"file")).unwrap();
            volume.reclaim().unwrap();
            disk.release_syncs();
        });
        let after = quiet(&disk.crash());
        if let Some(ino) = found(&after, "file") {
            kept += 1;
            assert!(read(&after, ino, 0, content.len() as u32) == content, "seed {seed}");
        }
        after.close().unwrap();
        volume.close().unwrap();
    }
    assert!(kept > 0, "no crash that lost the unlink: the test shows nothing");
}
