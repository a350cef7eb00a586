//! A real mount of a store in a temporary directory, by the `larder` command.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Whether this machine can mount; says so when it cannot.
pub fn can_mount() -> bool {
    let why = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if !Path::new("/dev/fuse").exists() {
        "no /dev/fuse"
    } else {
        return true;
    };
    println!("skipped: {why}");
    false
}

/// Whether a program is installed; says so when it is not.
pub fn have(program: &str) -> bool {
    let there = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()));
    if !there {
        println!("skipped: {program} is not installed");
    }
    there
}

/// The `larder` command.
pub fn larder<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.env_remove("LARDER_LOG").args(arguments).output().unwrap()
}

/// What a command says on stdout; it must succeed.
pub fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits for something that nobody announces.
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "{what}: not after {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A mounted store. Dropped, it is unmounted, also after a failed assertion.
pub struct Mounted {
    dir: tempfile::TempDir,
    store: PathBuf,
    daemon: Option<i32>,
    flags: Vec<String>,
    /// Whether the store has a disk of its own.
    disk: bool,
    /// Where set, the daemon may have so many open files.
    descriptors: Option<u32>,
}

impl Mounted {
    /// None where nothing can be mounted, which it says.
    pub fn new() -> Option<Mounted> {
        Mounted::with(&["--cache-size-limit", "64MiB"])
    }

    pub fn with(flags: &[&str]) -> Option<Mounted> {
        if !can_mount() {
            return None;
        }
        let mut mounted = Mounted::unmounted(None, flags);
        mounted.mount();
        Some(mounted)
    }

    /// As [`Mounted::with`], the store on a disk (in memory) of its own with so many MiB.
    pub fn on_disk(mib: u64, flags: &[&str]) -> Option<Mounted> {
        if !can_mount() {
            return None;
        }
        let mut mounted = Mounted::unmounted(None, flags);
        let (store, none) = (mounted.store(), nix::mount::MsFlags::empty());
        std::fs::create_dir(&store).unwrap();
        let size = format!("size={mib}m");
        nix::mount::mount(Some("disk"), &store, Some("tmpfs"), none, Some(size.as_str())).unwrap();
        mounted.disk = true;
        mounted.mount();
        Some(mounted)
    }

    /// With a daemon that may have so many open files.
    pub fn with_descriptors(descriptors: u32, flags: &[&str]) -> Option<Mounted> {
        if !can_mount() {
            return None;
        }
        let mut mounted = Mounted::unmounted(None, flags);
        mounted.descriptors = Some(descriptors);
        mounted.mount();
        Some(mounted)
    }

    /// Not yet mounted; the store lies there, or beside the mount point.
    pub fn unmounted(store: Option<PathBuf>, flags: &[&str]) -> Mounted {
        let dir = tempfile::tempdir().unwrap();
        // Other users come here too.
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), all).unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        let store = store.unwrap_or_else(|| dir.path().join("store"));
        let flags = flags.iter().map(|flag| flag.to_string()).collect();
        Mounted { dir, store, daemon: None, flags, disk: false, descriptors: None }
    }

    pub fn store(&self) -> PathBuf {
        self.store.clone()
    }

    pub fn point(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A path below the mount point.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.point().join(path)
    }

    /// A directory beside store and mount point, on the plain filesystem.
    pub fn beside(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn mount(&mut self) {
        assert_eq!(self.daemon, None, "it is mounted");
        let mut command = match self.descriptors {
            Some(most) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\"")]);
                shell.arg(env!("CARGO_BIN_EXE_larder"));
                shell
            }
            None => Command::new(env!("CARGO_BIN_EXE_larder")),
        };
        command.env_remove("LARDER_LOG").arg("mount").args(&self.flags);
        succeeds(command.arg(self.store()).arg(self.point()));
        self.daemon = Some(self.status()["pid"].as_i64().expect("status names the daemon") as i32);
    }

    pub fn umount(&mut self) {
        succeeds(Command::new(env!("CARGO_BIN_EXE_larder")).arg("umount").arg(self.point()));
        self.ended();
    }

    pub fn remount(&mut self) {
        self.umount();
        self.mount();
    }

    pub fn sync(&self) {
        succeeds(Command::new(env!("CARGO_BIN_EXE_larder")).arg("sync").arg(self.point()));
    }

    pub fn status(&self) -> serde_json::Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        let text = succeeds(command.arg("status").arg(self.point()).arg("--json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Bytes on the store's own disk that are in use.
    pub fn on_disk_now(&self) -> u64 {
        let room = nix::sys::statvfs::statvfs(&self.store()).unwrap();
        (room.blocks() - room.blocks_free()) * room.fragment_size()
    }

    /// The daemon dies as by power loss of the process: kill -9. The dead mount stays.
    pub fn kill(&mut self) {
        kill(Pid::from_raw(self.daemon.unwrap()), Signal::SIGKILL).unwrap();
        self.ended();
    }

    /// The daemon's process.
    pub fn daemon(&self) -> i32 {
        self.daemon.unwrap()
    }

    /// Sees that nothing is left of the mount, neither its daemon nor the mount itself; the store may be in whatever state.
    pub fn is_over(&mut self) {
        if let Some(daemon) = self.daemon {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(daemon), Signal::SIGKILL);
            self.ended();
        }
        let _ = nix::mount::umount2(&self.point(), nix::mount::MntFlags::MNT_DETACH);
    }

    /// `larder check` of the store, which nobody has open, must find nothing wrong.
    pub fn check(&self) {
        succeeds(Command::new(env!("CARGO_BIN_EXE_larder")).arg("check").arg(self.store()));
    }

    /// The daemon's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.store().join("larder.log")).unwrap_or_default()
    }

    fn ended(&mut self) {
        let process = format!("/proc/{}", self.daemon.take().unwrap());
        // Whoever adopted it may not have collected it yet: a zombie has ended too, once its threads have: before that they
        // hold its files, and the store's lock.
        wait_until("the end of the daemon", Duration::from_secs(30), || {
            let threads = std::fs::read_dir(format!("{process}/task")).map_or(0, |tasks| tasks.count());
            threads <= 1
                && std::fs::read_to_string(format!("{process}/stat"))
                    .map_or(true, |text| text.contains(") Z"))
        });
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        self.end();
        if self.disk {
            let _ = nix::mount::umount2(&self.store(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

impl Mounted {
    fn end(&self) {
        if larder([Path::new("umount"), &self.point()]).status.success() {
            return;
        }
        if let Some(daemon) = self.daemon {
            // It is our own, started by this guard.
            let _ = kill(Pid::from_raw(daemon), Signal::SIGKILL);
        }
        let _ = nix::mount::umount2(&self.point(), nix::mount::MntFlags::MNT_DETACH);
    }
}
