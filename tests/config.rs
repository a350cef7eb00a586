//! Where settings come from, which wins, and what is refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use larder::config::{NAMES, NEW_FILE, Policy, Settings, parse_duration, parse_size, variable_of};
use larder::format::Codec;

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> larder::Result<Settings> {
    let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| pair(n, v)).collect::<Vec<_>>();
    Settings::load(Path::new("/store"), Some(file), own(environment), own(flags))
}

fn refusal(file: &str) -> String {
    load(file, &[], &[]).unwrap_err().to_string()
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file_and_that_over_the_default() {
    let file = "cache-size-limit = '32MiB'\nstorage-compression = 'zstd:3'\ncommit-interval = 2\n";
    let environment = [("LARDER_CACHE_SIZE_LIMIT", "64MiB"), ("LARDER_STORAGE_COMPRESSION", "gzip")];
    let settings = load(file, &environment, &[("cache-size-limit", "128MiB")]).unwrap();
    assert_eq!(settings.cache_size_limit, 128 << 20);
    assert_eq!(settings.storage_compression, Codec::Gzip(6));
    assert_eq!(settings.commit_interval, Duration::from_secs(2));
    assert_eq!(settings.cache_compression_threshold, Settings::new("/store").cache_compression_threshold);
}

#[test]
fn an_unknown_key_is_refused_with_its_name_and_the_file() {
    let text = refusal("storage-sise-limit = 1");
    assert!(text.contains("/store/larder.toml") && text.contains("storage-sise-limit"), "{text}");
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_name() {
    assert!(refusal("cache-size-limit = ").contains("/store/larder.toml"));
    assert!(refusal("cache-size-limit = [1]").contains("array"));
}

#[test]
fn a_setting_of_a_later_version_is_refused_as_not_yet_available_and_its_default_is_accepted() {
    let text = refusal("storage-encryption = 'aes-256-gcm'");
    assert!(text.contains("not yet available in this version"), "{text}");
    load("storage-encryption = 'none'\ncache-ttl = 'never'\ncache-eviction-policy = 'none'", &[], &[])
        .unwrap();
    for (value, seconds) in [
        ("'never'", None),
        ("'7d'", Some(604_800)),
        ("'1500ms'", Some(2)),
        ("'1h30m'", Some(5400)),
        ("90", Some(90)),
    ] {
        assert_eq!(load(&format!("cache-ttl = {value}"), &[], &[]).unwrap().cache_ttl, seconds, "{value}");
    }
    assert!(refusal("cache-ttl = '60000d'").contains("cache-ttl"));
    assert!(refusal("cache-ttl = 0").contains("use never"));
    let evicting = load("cache-eviction-policy = 'lfu'", &[], &[]).unwrap();
    assert_eq!(evicting.cache_eviction_policy, Policy::Lfu);
    for malformed in ["storage-encryption = 'rot13'", "cache-ttl = 'soon'", "cache-eviction-policy = 'dice'"]
    {
        assert!(!refusal(malformed).contains("not yet"), "{malformed}");
    }
}

#[test]
fn values_out_of_range_are_refused() {
    for bad in [
        "cache-size-limit = '7MiB'",
        "storage-size-limit = '1MiB'",
        "cache-compression-threshold = '2MiB'",
        "commit-interval = '10ms'",
        "commit-interval = '2h'",
        "backup-interval = '59s'",
        "backup-interval = '0'",
        "backup-interval = '53w'",
        "backup-interval = 'none'",
        "backup-count = 0",
        "backup-count = 1001",
        "backup-count = 'few'",
        "storage-compression = 'zstd:99'",
        "cache-size-limit = -5",
        "storage-path = '/elsewhere'",
    ] {
        let text = refusal(bad);
        let name = bad.split(' ').next().unwrap();
        assert!(text.contains(name), "{bad}: {text}");
    }
}

#[test]
fn sizes_and_durations_are_read_with_their_units() {
    for (text, bytes) in
        [("4096", 4096), ("64MiB", 64 << 20), ("10G", 10 << 30), ("1kb", 1000), ("2 TiB", 2 << 40), ("0", 0)]
    {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for (text, ms) in [("5s", 5000), ("2m", 120_000), ("250ms", 250), ("7d", 604_800_000), ("3", 3000)] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
    }
    for bad in ["", "MiB", "-1", "1.5G", "10X", "99999999999999999999", "20000000T"] {
        assert!(parse_size(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "s", "-1s", "1.5h", "3y", "99999999999999999w"] {
        assert!(parse_duration(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn the_file_of_a_new_store_is_valid_as_it_is_and_with_every_setting_uncommented() {
    load(NEW_FILE, &[], &[]).unwrap();
    let uncommented: String = NEW_FILE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if NAMES.iter().any(|name| rest.starts_with(&format!("{name} ="))) => rest,
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(uncommented, NEW_FILE);
    let settings = load(&uncommented, &[], &[]).unwrap();
    let defaults = Settings::new("/store");
    assert_eq!(settings.storage_size_limit, Some(10 << 30));
    assert_eq!(settings.cache_size_limit, defaults.cache_size_limit);
    assert_eq!(settings.cache_compression_threshold, defaults.cache_compression_threshold);
    assert_eq!(settings.commit_interval, defaults.commit_interval);
    assert_eq!(settings.storage_compression, defaults.storage_compression);
}

#[test]
fn each_setting_has_a_variable_of_its_name() {
    assert_eq!(variable_of("storage-size-limit"), "LARDER_STORAGE_SIZE_LIMIT");
}

#[test]
fn eviction_policies_are_read_as_they_are_written() {
    for text in ["none", "lru", "lfu", "size", "ttl"] {
        assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
    }
    assert!("LRU".parse::<Policy>().is_err());
}

#[test]
fn settings_that_are_written_out_are_read_as_they_were() {
    let given = [
        ("storage-size-limit", "123456789"),
        ("storage-compression", "zstd:7"),
        ("cache-size-limit", "48MiB"),
        ("cache-compression-threshold", "1000"),
        ("cache-eviction-policy", "lfu"),
        ("commit-interval", "1500ms"),
        ("backup-interval", "never"),
        ("backup-count", "7"),
    ];
    let flags = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let path = Path::new("/store");
    let settings = Settings::load(path, None, [], flags).unwrap();
    let text = settings.to_toml();
    for name in larder::config::NAMES {
        assert!(text.contains(&format!("{name} = ")), "{name} is not in\n{text}");
    }
    let again = Settings::load(path, Some(&text), [], []).unwrap();
    assert_eq!(format!("{again:?}"), format!("{settings:?}"));
    let defaults = Settings::new(path);
    let again = Settings::load(path, Some(&defaults.to_toml()), [], []).unwrap();
    assert_eq!(format!("{again:?}"), format!("{defaults:?}"));
    assert_ne!(format!("{settings:?}"), format!("{defaults:?}"));
}
