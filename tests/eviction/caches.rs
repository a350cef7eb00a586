//! Programs that keep a cache, in a store that takes it away from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::mounted::{Mounted, have, succeeds, wait_until};
use crate::support::random::{Random, setting};
use crate::support::sys;
use crate::{BESIDE, MIB, is_sound, mark, watched};

/// A C file whose object has a megabyte that does not compress.
fn source(dir: &Path, n: u64) -> PathBuf {
    let path = dir.join(format!("unit{n}.c"));
    let bytes = Random::of(n + 1).bytes(MIB as usize);
    let mut text = format!("const char content{n}[] =\n");
    for line in bytes.chunks(64) {
        text.push('"');
        line.iter().for_each(|byte| text += &format!("\\{byte:03o}"));
        text += "\"\n";
    }
    text += ";\n";
    fs::write(&path, text).unwrap();
    path
}

/// Compiles through ccache. Returns what the object holds and whether the cache had it.
fn compile(cache: &Path, work: &Path, source: &Path) -> (Vec<u8>, bool) {
    let (object, log) = (work.join("unit.o"), work.join("log"));
    let _ = fs::remove_file(&log);
    let mut command = Command::new("ccache");
    command.env("CCACHE_DIR", cache).env("CCACHE_STATSLOG", &log).env("CCACHE_MAXSIZE", "0");
    command.env("CCACHE_NOCOMPRESS", "1").env("CCACHE_BASEDIR", work);
    succeeds(command.args(["gcc", "-c", "-o"]).arg(&object).arg(source).current_dir(work));
    let log = fs::read_to_string(log).unwrap();
    (fs::read(object).unwrap(), log.contains("cache_hit"))
}

#[test]
fn a_build_cache_keeps_within_its_limit_and_builds_stay_right() {
    if !have("ccache") || !have("gcc") {
        return println!("skipped: ccache or gcc is not installed");
    }
    // The long form: LARDER_TEST_LIMIT_MIB=200 LARDER_TEST_UNITS=1000.
    let limit = setting("LARDER_TEST_LIMIT_MIB", 64) * MIB;
    let units = setting("LARDER_TEST_UNITS", 3 * limit / MIB / 2);
    let flags = ["--cache-size-limit", "32MiB", "--cache-eviction-policy", "lru", "--storage-size-limit"];
    let text = limit.to_string();
    let flags: Vec<&str> = flags.into_iter().chain([text.as_str()]).collect();
    let Some(mut mounted) = Mounted::on_disk(2 * limit / MIB, &flags) else { return };
    let cache = mounted.at("ccache");
    fs::create_dir(&cache).unwrap();
    mark(&cache, "evictable");
    let (sources, work) = (mounted.beside("sources"), mounted.beside("work"));
    let mut objects: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let (mut hits, mut again) = (0, 0);
    let most = watched(&mounted, || {
        for n in 0..units {
            let (object, hit) = compile(&cache, &work, &source(&sources, n));
            assert!(!hit, "unit {n} was never compiled before");
            objects.insert(n, object);
            // Now and then what was built a moment ago, and something that may be gone.
            if n % 16 == 15 {
                for old in (n - 5..n).chain([n / 3]) {
                    let (object, hit) = compile(&cache, &work, &sources.join(format!("unit{old}.c")));
                    assert!(
                        objects[&old] == object,
                        "unit {old} is another after {n} (from the cache: {hit})"
                    );
                    (hits, again) = (hits + u64::from(hit && old > n - 6), again + u64::from(old > n - 6));
                }
            }
            objects.retain(|old, _| *old + 8 > n || old % 8 == 0 || *old * 3 + 30 > n);
        }
    });
    println!(
        "{units} units, {} MiB at most of {} MiB; of {again} recent ones {hits} were in the cache",
        most / MIB,
        limit / MIB
    );
    assert!(most <= limit + BESIDE, "{most} bytes on the disk");
    assert!(hits * 10 >= again * 9, "{hits} of {again}");
    mounted.remount();
    let (object, _) = compile(&cache, &work, &sources.join(format!("unit{}.c", units - 1)));
    assert!(objects[&(units - 1)] == object);
    // What was written first is gone: much more was written than fits.
    let (_, hit) = compile(&cache, &work, &sources.join("unit0.c"));
    assert!(!hit, "the oldest is still there");
    mounted.umount();
    is_sound(&mounted);
}

/// How long what a package cache fetched is kept.
const TTL: Duration = Duration::from_secs(15);

#[test]
fn a_package_cache_with_a_ttl_empties_itself_and_its_program_fills_it_anew() {
    if !have("npm") {
        return println!("skipped: npm is not installed");
    }
    let Some(mut mounted) = Mounted::with(&["--cache-size-limit", "32MiB"]) else { return };
    let cache = mounted.at("npm");
    fs::create_dir(&cache).unwrap();
    let project = mounted.beside("project");
    fs::write(project.join("package.json"), r#"{"name": "larder-test", "version": "1.0.0"}"#).unwrap();
    fs::write(project.join("index.js"), "module.exports = 7\n".repeat(5000)).unwrap();
    let npm = |arguments: &[&str]| {
        let mut command = Command::new("npm");
        command.args(arguments).arg("--cache").arg(&cache).args(["--offline", "--no-update-notifier"]);
        command.current_dir(&project).env("npm_config_logs_max", "0");
        command
    };
    // What lies in it expires; the directories stay. (Packing fills the cache, too.)
    sys::setxattr(&cache, b"user.larder.default-ttl", TTL.as_secs().to_string().as_bytes(), 0).unwrap();
    succeeds(&mut npm(&["pack"]));
    let packed = project.join("larder-test-1.0.0.tgz");
    let content = || files(&cache.join("_cacache/content-v2"));
    for _ in 0..2 {
        let begun = Instant::now();
        succeeds(npm(&["cache", "add"]).arg(&packed));
        assert!(content() > 0 || begun.elapsed() >= TTL, "nothing is in the cache");
        wait_until("the end of the cache", Duration::from_secs(120), || files(&cache) == 0);
    }
    succeeds(&mut npm(&["cache", "verify"]));
    mounted.umount();
    is_sound(&mounted);
}

/// Files in a directory and below.
fn files(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |path: PathBuf| if path.is_dir() { files(&path) } else { 1 };
    entries.map(|entry| of(entry.unwrap().path())).sum()
}
