//! A test that runs on a fresh ext4 and then on Larder: what it expects is what ext4 does, as it shows, and not what we think
//! that a filesystem does. Where the two differ the test says so, and `docs/conformance.md` why.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::Stage;
use crate::support::disk::Disk;

/// Where such a test runs.
pub struct Ground {
    dir: PathBuf,
    /// The other one is ext4.
    pub larder: bool,
}

impl Ground {
    /// A path below an empty directory that everyone may write.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// What differs.
    pub fn differs<T>(&self, on_ext4: T, on_larder: T) -> T {
        if self.larder { on_larder } else { on_ext4 }
    }
}

/// Runs a test on ext4, where this machine can make one, and on Larder.
pub fn on_both(test: impl Fn(&Ground)) {
    let Some(stage) = Stage::new() else { return };
    let run = |root: &Path, larder| {
        // Shown when the test fails.
        println!("on {}", if larder { "Larder" } else { "ext4" });
        let dir = root.join("ground");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        test(&Ground { dir, larder });
    };
    if let Some(disk) = Disk::new("ext4") {
        run(&disk.path(), false);
    }
    run(&stage.point(), true);
}
