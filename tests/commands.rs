//! The commands on keys, on a store that is mounted and on one that is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod support;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::control::{Request, ask_with};
use larder::store::{Batch, Store};
use support::mounted::{Mounted, can_mount, larder, stderr};

/// A store that commands are given on.
struct Shell {
    store: PathBuf,
    dir: PathBuf,
}

impl Shell {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.env_remove("LARDER_LOG").env("LARDER_STORAGE_PATH", &self.store).current_dir(&self.dir);
        command.env("LARDER_CACHE_SIZE_LIMIT", "16MiB").args(arguments);
        command
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut to = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A command that does not read its input is no failure.
        let writer = std::thread::spawn(move || drop(to.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// What a command prints; it must end so.
    fn ends(&self, code: i32, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let output = self.run(arguments, input);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert_eq!(code == 2, stderr(&output).starts_with("larder: "), "{arguments:?}: {}", stderr(&output));
        output.stdout
    }

    fn text(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.ends(0, arguments, b"")).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        self.text(arguments).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How a command ends that has a terminal, to which this is typed, and what that shows.
    fn on_terminal(&self, arguments: &[&str], typed: &str) -> (Option<i32>, String) {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let side = || Stdio::from(terminal.slave.try_clone().unwrap());
        let mut child = self.command(arguments).stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        drop(terminal.slave);
        let mut ours = std::fs::File::from(terminal.master);
        ours.write_all(typed.as_bytes()).unwrap();
        let mut shown = Vec::new();
        // It ends with EIO once nobody has the other side any longer.
        let _ = ours.read_to_end(&mut shown);
        (child.wait().unwrap().code(), String::from_utf8(shown).unwrap())
    }
}

/// Runs a test with a store that is not mounted, and with one that is.
fn with_a_store(test: impl Fn(&Shell)) {
    println!("not mounted");
    let dir = tempfile::tempdir().unwrap();
    let shell = Shell { store: dir.path().join("store"), dir: dir.path().to_owned() };
    shell.ends(0, &["set", "--create", "first", "--value", "x"], b"");
    shell.ends(0, &["rm", "first"], b"");
    test(&shell);
    if let Some(mounted) = Mounted::with(&["--cache-size-limit", "16MiB"]) {
        println!("mounted");
        test(&Shell { store: mounted.store(), dir: mounted.beside("work") });
    }
}

/// The same with one of at most 96 MiB that may evict.
fn with_a_limited_store(test: impl Fn(&Shell)) {
    let dir = tempfile::tempdir().unwrap();
    let shell = Shell { store: dir.path().join("store"), dir: dir.path().to_owned() };
    shell.ends(0, &["set", "--create", "first", "--value", "x"], b"");
    shell.ends(0, &["config", "storage-size-limit", "96MiB"], b"");
    shell.ends(0, &["config", "cache-eviction-policy", "lru"], b"");
    test(&shell);
    let flags =
        ["--cache-size-limit", "16MiB", "--storage-size-limit", "96MiB", "--cache-eviction-policy", "lru"];
    if let Some(mounted) = Mounted::with(&flags) {
        println!("mounted");
        test(&Shell { store: mounted.store(), dir: mounted.beside("work") });
    }
}

fn lines(count: usize) -> Vec<u8> {
    (0..count).flat_map(|n| format!("line {n} of some text\n").into_bytes()).collect()
}

#[test]
fn set_takes_stdin_a_file_or_a_value_and_get_gives_it_back() {
    with_a_store(|shell| {
        for count in [0, 1, 100, 20_000] {
            shell.ends(0, &["set", "a/b"], &lines(count));
            assert!(shell.ends(0, &["get", "a/b"], b"") == lines(count), "{count}");
        }
        std::fs::write(shell.dir.join("input"), lines(3)).unwrap();
        shell.ends(0, &["set", "from/file", "input"], b"not this");
        assert_eq!(shell.ends(0, &["get", "from/file"], b""), lines(3));
        shell.ends(0, &["set", "from/argument", "--value", "short", "--sync"], b"");
        shell.ends(0, &["get", "from/argument", "-o", "output"], b"");
        assert_eq!(std::fs::read(shell.dir.join("output")).unwrap(), b"short");
    });
}

#[test]
fn what_is_not_there_is_1_and_what_is_wrong_is_2() {
    with_a_store(|shell| {
        shell.ends(0, &["set", "dir/key"], b"x");
        for (code, arguments) in [
            (0, &["exists", "dir/key"][..]),
            (2, &["touch", "dir/key", "--ttl", "1h", "--expiration"]),
            (0, &["exists", "dir"]),
            (1, &["exists", "other"]),
            (1, &["exists", "dir/key/below"]),
            (1, &["has", "other"]),
            (2, &["get", "../key"]),
            (2, &["exists", "/dir/key"]),
            (2, &["get", "dir"]),
            (2, &["set", "dir", "--value", "x"]),
            (2, &["set", "new", "--ttl", "soon", "--value", "x"]),
            (2, &["set", "new", "--codec", "rar", "--value", "x"]),
            (2, &["rm", "dir"]),
            (2, &["lock", "/key", "--", "true"]),
            (2, &["clear"]),
            (2, &["nonsense"]),
        ] {
            let output = shell.run(arguments, b"");
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
            assert_eq!(code == 2, !output.stderr.is_empty(), "{arguments:?}: {}", stderr(&output));
            assert!(output.stdout.is_empty());
        }
        // These say which key it is.
        for arguments in [&["get", "other"][..], &["rm", "other"], &["stat", "other"], &["touch", "other"]] {
            let output = shell.run(arguments, b"");
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            assert_eq!(stderr(&output), "larder: other: no such key\n", "{arguments:?}");
        }
        assert_eq!(shell.text(&["ls"]), "dir/key\n");
    });
}

#[test]
fn a_store_that_is_not_there_is_not_made_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let shell = Shell { store: dir.path().join("typo"), dir: dir.path().to_owned() };
    for arguments in [&["get", "key"][..], &["set", "key", "--value", "x"], &["ls"], &["clear", "--yes"]] {
        let output = shell.run(arguments, b"");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains("there is no store here"), "{arguments:?}: {}", stderr(&output));
        assert!(!shell.store.exists(), "{arguments:?}");
    }
    std::fs::create_dir(&shell.store).unwrap();
    std::fs::write(shell.store.join("letter.txt"), "dear").unwrap();
    assert_eq!(shell.run(&["set", "--create", "key"], b"x").status.code(), Some(2));
    assert_eq!(std::fs::read_dir(&shell.store).unwrap().count(), 1, "a foreign directory is left as it is");
}

#[test]
fn rm_removes_keys_and_directories_when_told() {
    with_a_store(|shell| {
        for key in ["a/1", "a/2", "a/b/3", "c"] {
            shell.ends(0, &["set", key, "--value", key], b"");
        }
        assert_eq!(shell.run(&["rm", "a/1", "nothing", "c"], b"").status.code(), Some(1));
        assert_eq!(shell.text(&["ls"]), "a/2\na/b/3\n", "the others are removed all the same");
        shell.ends(0, &["rm", "-f", "nothing"], b"");
        let refused = shell.run(&["rm", "-r", "a/"], b"");
        assert_eq!(refused.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("ends with `/`"), "{refused:?}");
        let refused = shell.run(&["rm", "a"], b"");
        assert!(stderr(&refused).contains("larder: a: it is a directory; -r"), "{refused:?}");
        shell.ends(0, &["rm", "-r", "a"], b"");
        assert_eq!(shell.text(&["ls"]), "");
        shell.ends(1, &["exists", "a"], b"");
    });
}

#[test]
fn ls_stat_and_du_tell_what_is_known() {
    with_a_store(|shell| {
        shell.ends(0, &["set", "logs/1", "--codec", "zstd:5", "--ttl", "7d"], &lines(5000));
        shell.ends(0, &["set", "logs/2"], &lines(10));
        shell.ends(0, &["set", "other"], b"x");
        assert_eq!(shell.text(&["ls", "logs/"]), "logs/1\nlogs/2\n");
        assert_eq!(shell.text(&["ls", "-0", "o"]), "other\0");
        let table = shell.text(&["ls", "-l"]);
        let row = table.lines().nth(1).unwrap();
        assert!(table.starts_with("      SIZE    ON DISK   RATIO"), "{table}");
        assert!(row.contains("zstd:5") && row.contains(" 6d 23h ") && row.ends_with("logs/1"), "{row}");
        let listed = shell.json(&["ls", "--json", "logs/"]);
        assert_eq!(listed.len(), 2);
        assert_eq!((&listed[0]["key"], &listed[0]["codec"]), (&"logs/1".into(), &"zstd:5".into()));
        assert_eq!(listed[0]["size"], lines(5000).len());
        assert!(listed[1]["expires"].is_null() && listed[1]["codec"].is_null());
        let stat = shell.json(&["stat", "--json", "logs/1"]).remove(0);
        assert_eq!(stat, listed[0]);
        assert!(stat["ratio"].as_f64().unwrap() > 4.0, "{stat}");
        let text = shell.text(&["stat", "logs/1", "other"]);
        assert!(
            text.contains("codec     zstd:5")
                && text.contains(", in 6d 23h")
                && text.contains("expires   never")
        );
        let sums = shell.json(&["du", "--json", "logs/", "o", "nothing"]);
        let size = lines(5000).len() + lines(10).len();
        assert_eq!((&sums[0]["keys"], &sums[0]["size"]), (&2.into(), &size.into()));
        assert_eq!((&sums[1]["keys"], &sums[1]["size"], &sums[2]["keys"]), (&1.into(), &1.into(), &0.into()));
        assert!(shell.text(&["du"]).lines().nth(1).unwrap().trim().starts_with("3 "));
    });
}

#[test]
fn touch_renews_and_a_time_to_live_passes() {
    with_a_store(|shell| {
        shell.ends(0, &["set", "key", "--ttl", "1h", "--value", "x"], b"");
        let expires = || shell.json(&["stat", "--json", "key"]).remove(0)["expires"].clone();
        let before = expires();
        std::thread::sleep(Duration::from_millis(5));
        shell.ends(0, &["touch", "key", "--size"], b"");
        assert_eq!(expires(), before);
        shell.ends(0, &["touch", "key"], b"");
        assert_ne!(expires(), before);
        shell.ends(0, &["touch", "key", "--expires", "2100-01-01T00:00:00Z"], b"");
        assert_eq!(expires(), "2100-01-01T00:00:00Z");
        shell.ends(0, &["touch", "key", "--ttl", "1"], b"");
        std::thread::sleep(Duration::from_millis(1100));
        shell.ends(1, &["exists", "key"], b"");
    });
}

#[test]
fn a_touch_that_ends_a_key_is_done() {
    with_a_store(|shell| {
        for end in [["--ttl", "0"], ["--expires", "2000-01-01T00:00:00Z"], ["--expires", "0"]] {
            for key in ["one", "two"] {
                shell.ends(0, &["set", key, "--value", "x"], b"");
            }
            shell.ends(0, &["touch", "one", "two", end[0], end[1]], b"");
            for key in ["one", "two"] {
                shell.ends(1, &["exists", key], b"");
            }
            assert_eq!(shell.run(&["touch", "one", end[0], end[1]], b"").status.code(), Some(1));
        }
    });
}

#[test]
fn commands_on_a_store_that_is_not_mounted_wait_for_one_another() {
    with_a_store(|shell| {
        let mut children: Vec<_> = (0..4)
            .map(|n| shell.command(&["set", &format!("k/{n}"), "--value", "x"]).spawn().unwrap())
            .collect();
        assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
        assert_eq!(shell.text(&["ls"]).lines().count(), 4);
        // Through a pipe, more than a pipe holds.
        shell.ends(0, &["set", "large"], &lines(50_000));
        let begun = Instant::now();
        let mut get = shell.command(&["get", "large"]).stdout(Stdio::piped()).spawn().unwrap();
        let set = shell.command(&["set", "copy"]).stdin(get.stdout.take().unwrap()).status().unwrap();
        assert!(set.success() && get.wait().unwrap().success());
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert!(shell.ends(0, &["get", "copy"], b"") == lines(50_000));
        // A file to read from that is a pipe: whoever writes to it wants the store, too.
        let pipe = shell.dir.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut set = shell.command(&["set", "by pipe"]).arg(&pipe).spawn().unwrap();
        let write = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        assert!(shell.command(&["get", "large"]).stdout(write).status().unwrap().success());
        assert!(set.wait().unwrap().success());
        assert!(shell.ends(0, &["get", "by pipe"], b"") == lines(50_000));
        // A list that is longer than a pipe, and that nobody reads yet.
        let store = Store::connect(&shell.store).or_else(|_| Store::open(&shell.store)).unwrap();
        for part in 0..2 {
            let mut batch = Batch::new();
            (0..500).for_each(|n| _ = batch.set(format!("{}/{part}/{n}", "long".repeat(50)), "").unwrap());
            store.apply(&batch).unwrap();
        }
        store.close().unwrap();
        let mut list = shell.command(&["ls", "long"]).stdout(Stdio::piped()).spawn().unwrap();
        shell.ends(0, &["exists", "large"], b"");
        let mut listed = String::new();
        list.stdout.take().unwrap().read_to_string(&mut listed).unwrap();
        assert!(list.wait().unwrap().success());
        assert_eq!(listed.lines().count(), 1000);
    });
}

#[test]
fn a_key_is_there_whatever_comes_between_a_command_and_the_mount() {
    let Some(mut mounted) = Mounted::new() else { return };
    let shell = Shell { store: mounted.store(), dir: mounted.beside("work") };
    shell.ends(0, &["set", "key"], b"x");
    mounted.umount();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let mut wrong = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let output = shell.run(&["exists", "key"], b"");
                if !output.status.success() {
                    wrong.push((output.status.code(), stderr(&output)));
                }
            }
            wrong
        });
        let ends = |command: &[&Path]| {
            let begun = Instant::now();
            // Who asks keeps it busy.
            while !larder(command.iter().copied()).status.success()
                && begun.elapsed() < Duration::from_secs(30)
            {}
        };
        for _ in 0..12 {
            ends(&[Path::new("mount"), &mounted.store(), &mounted.point()]);
            ends(&[Path::new("umount"), &mounted.point()]);
        }
        over.store(true, Ordering::Relaxed);
        assert_eq!(asker.join().unwrap(), []);
    });
    mounted.mount();
    let over = Bind::new(&shell.dir, mounted.point());
    let output = shell.run(&["exists", "key"], b"");
    assert_eq!(output.status.code(), Some(2), "what lies over the mount is not the store");
    drop(over);
    shell.ends(0, &["exists", "key"], b"");
}

#[test]
fn lock_runs_a_command_alone_and_ends_as_it_does() {
    with_a_store(|shell| {
        shell.ends(0, &["set", "count", "--value", "0"], b"");
        assert_eq!(shell.run(&["lock", "count", "--", "sh", "-c", "exit 7"], b"").status.code(), Some(7));
        assert_eq!(
            shell.run(&["lock", "count", "--", "sh", "-c", "kill -9 $$"], b"").status.code(),
            Some(137)
        );
        let larder = env!("CARGO_BIN_EXE_larder");
        let step = format!("n=$({larder} get count); {larder} set count --value $((n + 1))");
        let arguments = ["lock", "count", "--", "sh", "-c", &step];
        let mut children: Vec<_> = (0..4).map(|_| shell.command(&arguments).spawn().unwrap()).collect();
        assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
        assert_eq!(shell.ends(0, &["get", "count"], b""), b"4");
        // Whoever does not wait is told.
        let inner = format!("{larder} lock -n count -- true");
        let output = shell.run(&["lock", "count", "--", "sh", "-c", &inner], b"");
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("another has the lock"), "{}", stderr(&output));
    });
}

#[test]
fn resolve_names_the_file_of_a_key_and_the_key_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let closed = Shell { store: dir.path().join("store"), dir: dir.path().to_owned() };
    closed.ends(0, &["set", "--create", "a/b"], b"x");
    assert_eq!(closed.run(&["resolve", "a/b"], b"").status.code(), Some(1), "it is not mounted");
    let Some(mounted) = Mounted::new() else { return };
    let shell = Shell { store: mounted.store(), dir: mounted.beside("work") };
    shell.ends(0, &["set", "a/b"], b"x");
    let path = shell.text(&["resolve", "a/b"]);
    assert_eq!(path.trim_end(), mounted.at("a/b").to_str().unwrap());
    assert_eq!(std::fs::read(path.trim_end()).unwrap(), b"x");
    assert_eq!(shell.text(&["resolve", "--path", path.trim_end()]), "a/b\n");
    assert_eq!(shell.run(&["resolve", "--path", "/etc/passwd"], b"").status.code(), Some(1));
}

/// A bind mount. Dropped, it is taken out of the tree.
struct Bind(PathBuf);

impl Bind {
    fn new(from: &Path, to: PathBuf) -> Bind {
        let none = None::<&str>;
        nix::mount::mount(Some(from), &to, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
        Bind(to)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn keys_are_the_same_where_a_part_of_the_store_is_mounted_too() {
    let Some(mounted) = Mounted::new() else { return };
    let (store, point) = (mounted.store(), mounted.point());
    let shell = Shell { store: store.clone(), dir: mounted.beside("work") };
    for key in ["data/x", "data/y z/x", "other"] {
        shell.ends(0, &["set", key], key.as_bytes());
    }
    let same = |at: &Path| {
        let shell = Shell { store: at.to_owned(), dir: shell.dir.clone() };
        assert_eq!(shell.ends(0, &["get", "data/x"], b""), b"data/x");
        shell.ends(1, &["exists", "x"], b"");
        assert_eq!(shell.text(&["ls"]), "data/x\ndata/y z/x\nother\n");
        assert_eq!(shell.text(&["config", "cache-size-limit"]), "64MiB\n");
        let found = shell.text(&["resolve", "data/x"]);
        assert_eq!(std::fs::read(found.trim_end()).unwrap(), b"data/x");
        let status: serde_json::Value =
            serde_json::from_str(&shell.text(&["status", "--json", at.to_str().unwrap()])).unwrap();
        assert_eq!(
            (&status["store"], &status["mountpoint"]),
            (&store.to_str().into(), &point.to_str().into())
        );
        // Other tests' stores come and go.
        let all = String::from_utf8(shell.run(&["status", "--json"], b"").stdout).unwrap();
        assert_eq!(all.matches(&format!("\"store\":{:?}", store.to_str().unwrap())).count(), 1, "{all}");
    };
    same(&point);
    let part = Bind::new(&mounted.at("data"), mounted.beside("part"));
    for at in [&part.0, &part.0.join("y z"), &store, &point] {
        same(at);
    }
    let key_of = |path: &str| shell.text(&["resolve", "--path", path]);
    assert_eq!(key_of(&format!("{}/x", part.path())), "data/x\n");
    assert_eq!(key_of(&format!("{}/y z/new", part.path())), "data/y z/new\n");
    assert_eq!(key_of(mounted.at("data/x").to_str().unwrap()), "data/x\n");
    let umount = shell.run(&["umount", part.path()], b"");
    assert!(stderr(&umount).contains("only a part"), "{}", stderr(&umount));
    {
        let whole = Bind::new(&point, mounted.beside("whole"));
        for at in [&whole.0, &part.0, &store, &point] {
            same(at);
        }
        assert_eq!(key_of(&format!("{}/data/x", whole.path())), "data/x\n");
    }
    // Where the whole is not to be seen.
    nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH).unwrap();
    let alone = Shell { store: part.0.clone(), dir: shell.dir.clone() };
    for command in [&["get", "x"][..], &["ls"], &["config"], &["set", "--create", "x", "--value", ""]] {
        let output = alone.run(command, b"");
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        assert!(stderr(&output).contains("only a part of the store"), "{command:?}: {}", stderr(&output));
    }
}

#[test]
fn clear_and_cleanup_say_first_what_they_would_do() {
    with_a_store(|shell| {
        shell.ends(0, &["set", "a/b"], &lines(1000));
        shell.ends(0, &["set", "c"], b"x");
        assert!(shell.text(&["clear", "--dry-run"]).starts_with("2 keys would be removed"));
        assert_eq!(shell.json(&["clear", "--dry-run", "--json"]), [serde_json::json!({"keys": 2})]);
        assert_eq!(shell.text(&["ls"]), "a/b\nc\n");
        shell.ends(0, &["clear", "--yes"], b"");
        assert_eq!(shell.text(&["ls"]), "");
        shell.ends(0, &["cleanup"], b"");
        let chores = shell.json(&["cleanup", "--dry-run", "--json"]).remove(0);
        assert_eq!((&chores["expired"], &chores["unlinked"]), (&0.into(), &0.into()), "{chores}");
        assert!(shell.json(&["cleanup", "--json"]).remove(0)["removed"].is_u64());
    });
}

#[test]
fn clear_asks_on_a_terminal_and_shows_what_it_does() {
    with_a_store(|shell| {
        shell.ends(0, &["set", "a/b"], &lines(1000));
        let clear = |answer: &str| shell.on_terminal(&["clear"], answer);
        for answer in ["n\n", "\n", "ye\n"] {
            let (code, shown) = clear(answer);
            assert_eq!(code, Some(1), "{shown}");
            assert!(shown.contains("Remove all 1 keys of"), "{shown}");
        }
        assert_eq!(shell.text(&["ls"]), "a/b\n");
        let (code, shown) = clear("y\n");
        assert_eq!(code, Some(0), "{shown}");
        assert!(shown.contains("removing everything"), "{shown}");
        assert_eq!(shell.text(&["ls"]), "");
    });
}

#[test]
fn marks_are_set_shown_and_taken_back_and_a_store_without_a_limit_is_aligned_already() {
    with_a_store(|shell| {
        shell.ends(0, &["set", "a/b"], b"x");
        shell.ends(0, &["mark", "--evictable", "yes"], b"");
        shell.ends(0, &["mark", "a", "a/b", "--pinned", "no", "--evictable", "no"], b"");
        shell.ends(0, &["mark", "a/b", "--evictable", "inherit"], b"");
        let shown = shell.json(&["mark", "", "a", "a/b"]);
        let said: Vec<_> =
            shown.iter().map(|mark| (mark["evictable"].as_bool(), mark["pinned"].as_bool())).collect();
        assert_eq!(said, [(Some(true), None), (Some(false), Some(false)), (None, Some(false))]);
        assert_eq!(shell.run(&["mark", "none", "--pinned", "yes"], b"").status.code(), Some(1));
        assert_eq!(shell.run(&["mark", "--pinned", "perhaps"], b"").status.code(), Some(2));
        shell.ends(0, &["mark", "a", "--default-ttl", "2h"], b"");
        shell.ends(2, &["mark", "a/b", "--default-ttl", "2h"], b"");
        shell.ends(2, &["mark", "a", "--default-ttl", "soon"], b"");
        let refused = shell.run(&["mark", "--default-ttl", "0"], b"");
        assert!(refused.status.code() == Some(2) && !stderr(&refused).contains(": :"), "{refused:?}");
        assert_eq!(shell.json(&["mark", "a"]).remove(0)["default_ttl"], "7200");
        shell.ends(0, &["set", "a/c"], b"x");
        assert!(shell.json(&["stat", "a/c", "--json"]).remove(0)["expires"].is_string());
        for dry in [&["align", "--json"][..], &["align", "--json", "--dry-run"]] {
            let done = shell.json(dry).remove(0);
            assert!(done["goal"].is_null() && done["evicted"] == 0 && done["used"].is_u64(), "{done}");
        }
        assert!(shell.text(&["align"]).contains("has no limit"));
        assert_eq!(shell.text(&["get", "a/b"]), "x");
    });
}

#[test]
fn align_evicts_to_the_limit_and_its_status_tells_when_it_could_not() {
    with_a_limited_store(|shell| {
        shell.ends(0, &["mark", "--evictable", "yes"], b"");
        let mut state = 1_u32;
        let mut noise = || -> Vec<u8> {
            // xorshift: it does not compress.
            let next = |_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state as u8
            };
            (0..4 << 20).map(next).collect()
        };
        let excess = || {
            let would = shell.json(&["align", "--dry-run", "--json"]).remove(0);
            would["used"].as_u64().unwrap().saturating_sub(would["goal"].as_u64().unwrap())
        };
        let mut fill = |prefix: &str| {
            // Stays below what begins eviction by itself.
            (0..25).find(|n| {
                shell.ends(0, &["set", &format!("{prefix}/{n}"), "--sync"], &noise());
                excess() > 0
            })
        };
        assert!(fill("a").is_some());
        let keys = || shell.text(&["ls"]).lines().count();
        let (before, said) = (keys(), shell.text(&["align", "--dry-run"]));
        assert!(said.contains("would go first") && keys() == before, "{said}");
        let done = shell.json(&["align", "--json"]).remove(0);
        let evicted = done["evicted"].as_u64().unwrap() as usize;
        assert!(evicted > 0 && keys() == before - evicted && excess() == 0, "{done}");
        assert!(shell.text(&["align"]).starts_with("0 keys with 0 B"));
        // Nothing of this may go.
        shell.ends(0, &["mark", "--pinned", "yes"], b"");
        assert!(fill("b").is_some());
        let before = keys();
        let refused = shell.run(&["align"], b"");
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stdout).contains("and should take"), "{refused:?}");
        assert_eq!(keys(), before);
        shell.ends(0, &["align", "--dry-run"], b"");
    });
}

#[test]
fn what_takes_long_shows_on_a_terminal_what_it_does() {
    with_a_store(|shell| {
        for (arguments, shows) in [
            (&["align"][..], "evicting"),
            (&["align", "--dry-run"], "looking for what would go"),
            (&["cleanup"], "cleaning up"),
        ] {
            let (code, shown) = shell.on_terminal(arguments, "");
            assert_eq!(code, Some(0), "{shown}");
            assert!(shown.contains(shows), "{arguments:?}: {shown}");
        }
    });
}

#[test]
fn compress_and_decompress_undo_one_another_and_damage_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let shell = Shell { store: dir.path().join("none"), dir: dir.path().to_owned() };
    for codec in ["lz4", "zstd:3", "gzip:6", "deflate", "none", "auto"] {
        for count in [0, 1, 10, 100_000] {
            let small = shell.ends(0, &["compress", "--codec", codec], &lines(count));
            assert!(count < 10 || codec == "none" || small.len() < lines(count).len(), "{codec} {count}");
            assert!(shell.ends(0, &["decompress"], &small) == lines(count), "{codec} {count}");
        }
    }
    let small = shell.ends(0, &["compress"], &lines(100_000));
    let mut changed = small.clone();
    changed[small.len() / 2] ^= 1;
    let more = [&small[..], b"x"].concat();
    let frames = small.len() - 48;
    for wrong in [
        &b""[..],
        b"plain text, not compressed at all, but of some length",
        &small[..100],
        &small[..frames],
        &small[..small.len() - 1],
        &changed,
        &more,
    ] {
        let refused = shell.run(&["decompress"], wrong);
        assert_eq!(refused.status.code(), Some(2));
        assert!(!stderr(&refused).contains("inode"), "{}", stderr(&refused));
    }
    shell.ends(0, &["compress", "-o", "small"], &lines(100));
    shell.ends(0, &["decompress", "small", "-o", "large"], b"");
    assert_eq!(std::fs::read(shell.dir.join("large")).unwrap(), lines(100));
}

#[test]
fn what_a_reader_does_not_want_is_no_failure() {
    with_a_store(|shell| {
        shell.ends(0, &["set", "large"], &lines(100_000));
        let mut get = shell.command(&["get", "large"]).stdout(Stdio::piped()).spawn().unwrap();
        drop(get.stdout.take());
        assert!(get.wait().unwrap().success());
    });
}

#[test]
fn a_key_set_by_command_is_a_file_and_a_file_is_a_key() {
    let Some(mounted) = Mounted::new() else { return };
    let shell = Shell { store: mounted.point(), dir: mounted.beside("work") };
    let there = |path: &Path| path.exists();
    assert!(!there(&mounted.at("a/b")), "the kernel remembers that it is not there");
    shell.ends(0, &["set", "a/b"], b"by command");
    assert_eq!(std::fs::read(mounted.at("a/b")).unwrap(), b"by command");
    std::fs::write(mounted.at("a/c"), "by file").unwrap();
    assert_eq!(shell.ends(0, &["get", "a/c"], b""), b"by file");
    shell.ends(0, &["set", "a/b"], b"again, and longer");
    assert_eq!(std::fs::read(mounted.at("a/b")).unwrap(), b"again, and longer");
    std::fs::create_dir(mounted.at("d")).unwrap();
    std::os::unix::fs::symlink("a/b", mounted.at("link")).unwrap();
    shell.ends(2, &["get", "link"], b"");
    shell.ends(0, &["rm", "a/b"], b"");
    assert!(!there(&mounted.at("a/b")));
    let names: Vec<_> = std::fs::read_dir(mounted.at("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["c"], "nothing is left over");
    std::fs::write(mounted.at("a/.larder-new-1"), "no key").unwrap();
    assert_eq!(std::fs::read(mounted.at("a/.larder-new-1")).unwrap(), b"no key");
    assert!(!shell.text(&["ls"]).contains(".larder-new-"));
}

#[test]
fn settings_are_shown_and_changed_and_what_a_mount_would_refuse_is_refused() {
    with_a_store(|shell| {
        let file = shell.store.join("larder.toml");
        shell.ends(0, &["set", "key", "--create"], b"value");
        let all = shell.text(&["config"]);
        assert!(all.contains("commit-interval = \"5s\"\n"), "{all}");
        // From the environment, which the mount had as well.
        assert_eq!(shell.text(&["config", "cache-size-limit"]), "16MiB\n");
        let object = shell.json(&["config", "--json"]).remove(0);
        assert_eq!(
            (&object["commit-interval"], &object["cache-size-limit"]),
            (&"5s".into(), &"16MiB".into())
        );
        let one = serde_json::json!({"commit-interval": "5s"});
        assert_eq!(shell.json(&["config", "--json", "commit-interval"]), [one]);
        std::fs::write(&file, "# mine\ncommit-interval = \"9s\" # often\n").unwrap();
        shell.ends(0, &["config", "storage-compression", "zstd:3"], b"");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("# mine\ncommit-interval = \"9s\" # often\n"), "{text}");
        assert!(text.contains("storage-compression = \"zstd:3\"\n"), "{text}");
        for wrong in [
            &["config", "commit-interval", "soon"][..],
            &["config", "cache-size-limit", "1MiB"],
            &["config", "no-such-setting"],
            &["config", "no-such-setting", "1"],
            &["config", "storage-path", "/elsewhere"],
        ] {
            shell.ends(2, wrong, b"");
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        shell.ends(0, &["config", "commit-interval", "--unset"], b"");
        shell.ends(1, &["config", "commit-interval", "--unset"], b"");
        assert_eq!(shell.text(&["config", "commit-interval"]), "5s\n");
    });
    let dir = tempfile::tempdir().unwrap();
    let shell = Shell { store: dir.path().join("none"), dir: dir.path().to_owned() };
    shell.ends(2, &["config"], b"");
    assert!(!shell.store.exists());
}

#[test]
fn settings_that_are_changed_at_once_are_all_written() {
    with_a_store(|shell| {
        let file = shell.store.join("larder.toml");
        let changes = [
            ("commit-interval", "9s"),
            ("backup-interval", "2h"),
            ("backup-count", "7"),
            ("storage-compression", "zstd:3"),
            ("cache-ttl", "1d"),
            ("cache-size-limit", "24MiB"),
        ];
        for _ in 0..5 {
            std::fs::write(&file, "").unwrap();
            let mut children = changes.map(|(name, value)| {
                shell.command(&["config", name, value]).stderr(Stdio::null()).spawn().unwrap()
            });
            assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
            let text = std::fs::read_to_string(&file).unwrap();
            for (name, value) in changes {
                assert!(text.contains(&format!("{name} = \"{value}\"\n")), "{name} in {text:?}");
            }
        }
    });
}

#[test]
fn what_is_written_by_config_applies_to_the_next_mount_and_shows_on_it() {
    let Some(mut mounted) = Mounted::with(&[]) else { return };
    let shell = Shell { store: mounted.point(), dir: mounted.beside("cwd") };
    let output = shell.run(&["config", "commit-interval", "2s"], b"");
    assert!(output.status.success() && stderr(&output).contains("next"), "{}", stderr(&output));
    assert_eq!(shell.text(&["config", "commit-interval"]), "5s\n");
    mounted.remount();
    assert_eq!(shell.text(&["config", "commit-interval"]), "2s\n");
}

#[test]
fn limits_that_config_changes_hold_on_the_mount_at_once_and_after_a_remount() {
    let Some(mut mounted) = Mounted::with(&[]) else { return };
    let shell = Shell { store: mounted.point(), dir: mounted.beside("cwd") };
    let output = shell.run(&["config", "cache-size-limit", "48MiB"], b"");
    assert!(output.status.success() && stderr(&output).contains("in force"), "{}", stderr(&output));
    shell.ends(0, &["config", "storage-size-limit", "64MiB"], b"");
    for wrong in [["config", "cache-size-limit", "1MiB"], ["config", "storage-size-limit", "63MiB"]] {
        shell.ends(2, &wrong, b"");
    }
    for _ in 0..2 {
        let text = std::fs::read_to_string(mounted.at(".larder/config")).unwrap();
        assert!(text.contains("cache-size-limit = \"48MiB\"\n"), "{text}");
        assert!(text.contains("storage-size-limit = \"64MiB\"\n"), "{text}");
        let status = mounted.status();
        assert_eq!((&status["cache_limit"], &status["size_limit"]), (&(48 << 20).into(), &(64 << 20).into()));
        mounted.remount();
    }
    shell.ends(0, &["config", "storage-size-limit", "--unset"], b"");
    assert!(mounted.status()["size_limit"].is_null());
    for change in ["commit-interval=2s", "cache-size-limit=1MiB", "no-such-setting=1", "cache-size-limit"] {
        let request = Request::Set { body: change.len() as u32 };
        let error = ask_with(&mounted.store(), request, change.as_bytes()).unwrap_err().to_string();
        let name = change.split('=').next().unwrap();
        assert!(error.contains(name) || error.contains("NAME=VALUE"), "{change}: {error}");
    }
    assert_eq!(mounted.status()["cache_limit"], 48 << 20);
}

#[test]
fn a_command_whose_reader_has_gone_away_does_its_work_and_ends_as_else() {
    with_a_store(|shell| {
        let all: [&[&str]; 18] = [
            &["status"],
            &["status", "--json"],
            &["ls", "-l"],
            &["stat", "key"],
            &["stat", "--json", "key"],
            &["get", "key"],
            &["du", ""],
            &["mark", "key"],
            &["resolve", "key"],
            &["config"],
            &["align"],
            &["cleanup"],
            &["scrub"],
            &["check"],
            &["rm", "no such key"],
            &["clear", "--dry-run"],
            &["backup", "its backup"],
            &["clear", "--yes"],
        ];
        shell.ends(0, &["set", "key", "--value", "x"], b"");
        for arguments in all {
            let expected = shell.run(arguments, b"");
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let mut command = shell.command(arguments);
            command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
            let code = command.status().unwrap().code();
            assert_eq!(code, expected.status.code(), "{arguments:?}: {}", stderr(&expected));
        }
    });
}

#[test]
fn a_command_that_cannot_write_what_it_has_to_say_tells_so() {
    with_a_store(|shell| {
        shell.ends(0, &["set", "key", "--value", "x"], b"");
        for arguments in [&["status"][..], &["stat", "key"], &["du", ""], &["get", "key"]] {
            let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
            let output = shell.command(arguments).stdout(full).output().unwrap();
            assert!(!output.status.success(), "{arguments:?}");
            assert!(stderr(&output).contains("No space left"), "{arguments:?}: {}", stderr(&output));
        }
    });
}

#[test]
fn a_lock_is_held_until_its_command_has_ended_though_larder_itself_was_killed() {
    with_a_store(|shell| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut command = shell.command(&["lock", "key", "--", "sh", "-c", "echo begun; read line; exit 0"]);
        let mut child = command.stdin(reader).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(shell.run(&["lock", "-n", "key", "--", "true"], b"").status.code(), Some(1));
        writer.write_all(b"go on\n").unwrap();
        drop(writer);
        shell.ends(0, &["lock", "key", "--", "true"], b"");
    });
}

#[test]
fn a_file_is_written_whole_or_left_as_it_was_also_when_it_is_what_is_read() {
    with_a_store(|shell| {
        let path = |name: &str| shell.dir.join(name);
        let text = lines(1000);
        std::fs::write(path("same"), &text).unwrap();
        shell.ends(0, &["compress", "same", "-o", "same"], b"");
        assert!(std::fs::read(path("same")).unwrap() != text);
        shell.ends(0, &["decompress", "same", "-o", "same"], b"");
        assert!(std::fs::read(path("same")).unwrap() == text);
        std::fs::write(path("kept"), "old").unwrap();
        std::fs::write(path("wrong"), "nothing that was compressed").unwrap();
        shell.ends(2, &["decompress", "wrong", "-o", "kept"], b"");
        assert_eq!(std::fs::read(path("kept")).unwrap(), b"old");
        // Through a symbolic link, with the permissions that it has.
        std::os::unix::fs::symlink("kept", path("link")).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path("kept"), private).unwrap();
        shell.ends(0, &["set", "key"], &text);
        shell.ends(0, &["get", "key", "-o", "link"], b"");
        assert!(std::fs::read(path("kept")).unwrap() == text);
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::symlink_metadata(path("kept")).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        shell.ends(0, &["get", "key", "-o", "/dev/null"], b"");
        let names = std::fs::read_dir(&shell.dir).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.filter(|name| name.to_string_lossy().starts_with('.')).count(), 0);
    });
}

#[test]
fn a_file_is_no_store_and_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let shell = Shell { store: file.clone(), dir: dir.path().to_owned() };
    for (arguments, why) in [
        (&["status", file.to_str().unwrap()][..], "neither a store nor a mount point"),
        (&["config"], "neither a store nor a mount point"),
        (&["get", "key"], "there is no store here"),
    ] {
        let output = shell.run(arguments, b"");
        assert!(!output.status.success() && stderr(&output).contains(why), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_store_that_may_not_be_looked_into_is_told_as_such() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let shell = Shell { store: dir.path().join("store"), dir: dir.path().to_owned() };
    shell.ends(0, &["set", "key", "--create", "--value", "secret"], b"");
    let program = dir.path().join("larder");
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_larder")).arg(&program).status().unwrap().success());
    const NOBODY: u32 = 65_534;
    for arguments in [&["get", "key"][..], &["config"], &["status", shell.store.to_str().unwrap()], &["ls"]] {
        let mut command = Command::new(&program);
        command.env_remove("LARDER_LOG").env("LARDER_STORAGE_PATH", &shell.store).args(arguments);
        std::os::unix::process::CommandExt::uid(command.current_dir("/"), NOBODY);
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        let said = stderr(&output);
        assert!(said.contains("Permission denied") && said.contains("store"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_store_that_a_command_makes_is_its_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let shell = Shell { store: dir.path().join("store"), dir: dir.path().to_owned() };
    shell.ends(0, &["set", "key", "--create", "--value", "secret"], b"");
    let mut left = vec![shell.store.clone()];
    while let Some(path) = left.pop() {
        let metadata = std::fs::metadata(&path).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&metadata);
        assert_eq!(mode & 0o077, 0, "{}", path.display());
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

#[test]
fn keys_that_are_not_utf8_differ_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let opened = larder::store::Store::open(&store).unwrap();
    for key in [&b"a"[..], b"a\xfe", b"a\xff"] {
        opened.set(key, "x").unwrap();
    }
    opened.close().unwrap();
    let listed = Shell { store, dir: dir.path().to_owned() }.json(&["ls", "--json"]);
    let told: Vec<_> =
        listed.iter().map(|object| (object["key"].as_str(), object["key_hex"].as_str())).collect();
    let expected = [(Some("a"), None), (Some("a\u{fffd}"), Some("61fe")), (Some("a\u{fffd}"), Some("61ff"))];
    assert_eq!(told, expected);
}

#[test]
fn a_store_that_is_not_there_is_not_made_to_be_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let (store, point) = (dir.path().join("store"), dir.path().join("point"));
    std::fs::create_dir(&point).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    let refused = command.args(["mount", "-o", "ro"]).args([&store, &point]).output().unwrap();
    assert!(!refused.status.success());
    assert!(
        stderr(&refused).contains("there is no store, and with -o ro none is made"),
        "{}",
        stderr(&refused)
    );
    assert!(!store.exists());
}

#[test]
fn through_a_mount_that_is_read_only_no_command_changes_anything() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::unmounted(None, &["--cache-size-limit", "16MiB", "-o", "ro"]);
    let work = mounted.beside("work");
    Shell { store: mounted.store(), dir: work.clone() }.ends(0, &["set", "key", "--create"], b"as it is");
    mounted.mount();
    let shell = Shell { store: mounted.point(), dir: work };
    for arguments in [
        &["set", "key", "--value", "another"][..],
        &["set", "other", "--value", "x"],
        &["rm", "key"],
        &["clear", "--yes"],
        &["align"],
        &["touch", "key"],
    ] {
        let refused = shell.run(arguments, b"");
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&refused).contains("read-only"), "{arguments:?}: {}", stderr(&refused));
    }
    assert_eq!(shell.text(&["ls"]), "key\n");
    assert_eq!(shell.ends(0, &["get", "key"], b""), b"as it is");
    shell.ends(0, &["align", "--dry-run"], b"");
}
