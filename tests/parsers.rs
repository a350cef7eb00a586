//! What comes from outside as bytes or text: no panic, no more memory than is allowed, and errors that name the thing. At random,
//! where proptest prints what fails and keeps its seed; and all that fuzzing has found (`scripts/fuzz`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

#[path = "support/heap.rs"]
mod heap;
#[path = "support/random.rs"]
mod random;

use std::path::{Path, PathBuf};

use larder::config::{NAMES, Settings, parse_duration, parse_size, variable_of};
use larder::control::{Answer, Request};
use larder::fuzz::TARGETS;
use larder::shelf::{format_expires, parse_expires, parse_ttl};
use proptest::prelude::*;
use random::{Random, setting};

/// Text that is nearly right more often than any text would be.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[-+]?[0-9]{0,22}[.]?[0-9]{0,3} ?(ms|s|min|m|h|d|w|y|K|MiB|gb|T|B|x|é)?",
        "[-+]?[0-9]{1,6}-[0-9]{1,2}-[0-9]{1,2}[T ][0-9:.]{0,12}(Z|[-+][0-9:]{2,6})?",
        "P?T?([0-9]{1,20}(h|m|s|d|y|H|M|S|D|Y) ?){0,4}",
        "(lz4|zstd|gzip|deflate|none|auto|never|inf|NaN|1e400)(:-?[0-9]{0,5})?",
    ]
}

proptest! {
    #[test]
    fn attributes_are_read_or_refused_with_their_text(value in text()) {
        match parse_expires(&value) {
            Ok(Some(at)) => prop_assert_eq!(parse_expires(&format_expires(at)).unwrap(), Some(at)),
            Ok(None) => prop_assert_eq!(value.trim(), "never"),
            Err(error) => prop_assert!(error.to_string().contains("expires"), "{}", error),
        }
        if let Err(error) = parse_ttl(&value) {
            prop_assert!(error.to_string().contains("ttl"), "{}", error);
        }
    }

    #[test]
    fn sizes_and_durations_are_read_or_refused(value in text()) {
        let _ = parse_size(&value);
        let _ = parse_duration(&value);
    }

    #[test]
    fn a_setting_is_taken_or_refused_by_its_name_wherever_it_stands(n in 0..NAMES.len(), value in text()) {
        let name = NAMES[n];
        let pair = |name: &str| [(name.to_owned(), value.clone())];
        let path = Path::new("/store");
        let file = format!("{name} = {}", toml::Value::String(value.clone()));
        let flag = Settings::load(path, None, [], pair(name));
        let environment = Settings::load(path, None, pair(&variable_of(name)), []);
        let file = Settings::load(path, Some(&file), [], []);
        prop_assert_eq!((flag.is_ok(), flag.is_ok()), (environment.is_ok(), file.is_ok()));
        let of_file = format!("/store/larder.toml: {name}");
        let variable = variable_of(name);
        for (outcome, place) in [(flag, name), (environment, variable.as_str()), (file, of_file.as_str())] {
            if let Err(error) = outcome {
                prop_assert!(error.to_string().contains(place), "{}: {}", place, error);
            }
        }
    }

    #[test]
    fn a_settings_file_of_any_text_is_refused_by_its_name(text in "[ -~\n]{0,60}|[a-z-]{1,30} = [ -~]{0,20}") {
        if let Err(error) = Settings::load(Path::new("/store"), Some(&text), [], []) {
            prop_assert!(error.to_string().contains("/store/larder.toml"), "{}", error);
        }
    }

    #[test]
    fn requests_and_answers_of_any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = serde_json::from_slice::<Request>(&bytes);
        let _ = serde_json::from_slice::<Answer>(&bytes);
        let command = serde_json::json!({"command": String::from_utf8_lossy(&bytes)}).to_string();
        prop_assert!(serde_json::from_str::<Request>(&command).is_err());
    }
}

/// What the fuzzers keep of a target: inputs that reach all code that was ever reached, and those that broke it once.
fn kept(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut paths = Vec::new();
    for dir in [fuzz.join("corpus").join(target), fuzz.join("findings").join(target)] {
        paths.extend(std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()));
    }
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Runs a target, and says with which bytes it failed.
fn tried(target: &str, of: &Path, input: &[u8]) {
    let run = std::panic::AssertUnwindSafe(|| heap::run(target, input));
    if std::panic::catch_unwind(run).is_err() {
        panic!("{target}, from {}: b\"{}\"", of.display(), input.escape_ascii());
    }
}

#[test]
fn all_that_fuzzing_has_found_is_read_or_refused() {
    for (target, ..) in TARGETS {
        let kept = kept(target);
        assert!(kept.len() > 2, "{target}: nothing is kept in fuzz/corpus");
        kept.iter().for_each(|(path, input)| tried(target, path, input));
    }
}

#[test]
fn what_is_nearly_what_fuzzing_has_found_is_read_or_refused() {
    // The same in each run; a search with other seeds is `scripts/fuzz`.
    let mut random = Random::of(setting("LARDER_TEST_SEED", 1));
    let cases = setting("LARDER_TEST_CASES", 5_000);
    for (target, ..) in TARGETS {
        let kept = kept(target);
        for _ in 0..cases {
            let (path, input) = &kept[random.below(kept.len() as u64) as usize];
            let mut input = input.clone();
            for _ in 0..=random.below(4) {
                change(&mut input, &mut random);
            }
            tried(target, path, &input);
        }
    }
}

/// A flipped bit, another byte, a piece that is lost, doubled or put in.
fn change(input: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(input.len() as u64 + 1) as usize;
    let len = (random.below(9) as usize).min(input.len() - at);
    match random.below(5) {
        0 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        1 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next() as u8),
        2 => drop(input.drain(at..at + len)),
        3 => {
            let piece = input[at..at + len].to_vec();
            input.splice(at..at, piece);
        }
        _ => {
            let piece = random.bytes(len);
            input.splice(at..at, piece);
        }
    }
}
