//! What comes from outside as text, at random: no panic, and errors that name the thing. Proptest prints what fails
//! and keeps its seed.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;

use larder::config::{NAMES, Settings, parse_duration, parse_size, variable_of};
use larder::control::{Answer, Request};
use larder::shelf::{format_expires, parse_expires, parse_ttl};
use proptest::prelude::*;

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
