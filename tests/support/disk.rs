//! A filesystem of its own in a file, on a loop device.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::PathBuf;
use std::process::Command;

use nix::mount::{MntFlags, umount2};

use super::mounted::{have, succeeds};

/// Dropped, it is unmounted, and the device is given back.
pub struct Disk {
    dir: tempfile::TempDir,
    device: String,
}

impl Disk {
    /// Not mounted yet. None where this machine cannot make one, which it says.
    pub fn new(fstype: &str) -> Option<Disk> {
        let make = format!("mkfs.{fstype}");
        if !have("losetup") || !have("mount") || !have(&make) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        // Other users come here too.
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), all).unwrap();
        let image = dir.path().join("image");
        // XFS takes no less than 300 MiB.
        std::fs::File::create_new(&image).unwrap().set_len(1 << 30).unwrap();
        succeeds(Command::new(&make).arg("-q").arg(&image));
        let device = Command::new("losetup").args(["--find", "--show"]).arg(&image).output().unwrap();
        if !device.status.success() {
            println!("skipped: no loop device: {}", String::from_utf8_lossy(&device.stderr).trim());
            return None;
        }
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        let device = String::from_utf8(device.stdout).unwrap().trim().to_owned();
        let disk = Disk { dir, device };
        if !disk.mount_command().status().unwrap().success() {
            println!("skipped: this kernel does not mount {fstype}");
            return None;
        }
        Some(disk)
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn mount_command(&self) -> Command {
        let mut command = Command::new("mount");
        command.arg(&self.device).arg(self.path());
        command
    }

    pub fn mount(&self) {
        succeeds(&mut self.mount_command());
    }

    /// Whether it could be unmounted: it cannot while it is used.
    pub fn try_umount(&self) -> bool {
        umount2(&self.path(), MntFlags::empty()).is_ok()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}
