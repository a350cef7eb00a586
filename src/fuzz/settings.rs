//! Settings: `larder.toml`, the environment, flags, the options of mount(8), sizes and durations. The first byte says which.

use std::path::Path;
use std::time::Duration;

use super::take_byte;
use crate::config::{NAMES, Settings, parse_duration, parse_size, variable_of};
use crate::error::Error;
use crate::mount::options::Options;

pub(super) fn run(mut data: &[u8]) {
    let what = usize::from(take_byte(&mut data));
    let text = String::from_utf8_lossy(data);
    match NAMES.get(what % 32) {
        Some(name) => setting(name, &text),
        None if what % 32 == 30 => options(&text),
        None if what % 32 == 31 => figures(&text),
        None => file(&text),
    }
}

/// One setting, given in each of the three places: taken in all of them as the same, or refused in all by its name there.
fn setting(name: &str, value: &str) {
    let path = Path::new("/store");
    let pair = |name: &str| [(name.to_owned(), value.to_owned())];
    let text = format!("{name} = {}", toml::Value::String(value.to_owned()));
    let variable = variable_of(name);
    let flag = format!("--{name}");
    let line = format!("/store/larder.toml: {name}");
    let given = [
        (Settings::load(path, None, [], pair(name)), flag.as_str()),
        (Settings::load(path, None, pair(&variable), []), variable.as_str()),
        (Settings::load(path, Some(&text), [], []), line.as_str()),
    ];
    let said: Vec<Option<String>> = given
        .into_iter()
        .map(|(settings, place)| match settings {
            Ok(settings) => {
                same(&settings);
                Some(settings.to_toml())
            }
            Err(error) => {
                assert!(error.to_string().starts_with(place), "{error}");
                None
            }
        })
        .collect();
    assert!(said.iter().all(|other| *other == said[0]), "{said:?}");
}

/// Settings are written so that they read the same.
fn same(settings: &Settings) {
    let text = settings.to_toml();
    let again = Settings::load(&settings.storage_path, Some(&text), [], []);
    assert_eq!(again.map(|again| again.to_toml()).ok(), Some(text));
}

/// A whole `larder.toml`.
fn file(text: &str) {
    match Settings::load(Path::new("/store"), Some(text), [], []) {
        Ok(settings) => same(&settings),
        Err(error) => assert!(error.to_string().starts_with("/store/larder.toml: "), "{error}"),
    }
}

/// What comes with `-o`.
fn options(text: &str) {
    match Options::parse([text]) {
        Ok(options) => {
            assert!(options.settings.iter().all(|(name, _)| NAMES.contains(&name.as_str())));
            let joined = Options::parse(text.split(',')).expect("one by one as together");
            assert_eq!((joined.allow_other, joined.settings), (options.allow_other, options.settings));
        }
        Err(Error::Config(why)) => assert!(why.starts_with("-o "), "{why}"),
        Err(other) => panic!("{other}"),
    }
}

/// Sizes and durations: what is taken is the number that stands there times its unit, and reads the same when it is written
/// in the smallest one.
fn figures(text: &str) {
    let number = |text: &str| text.trim().bytes().take_while(u8::is_ascii_digit).count();
    if let Ok(size) = parse_size(text) {
        let (digits, _) = text.trim().split_at(number(text));
        let said: u64 = digits.parse().expect("a size begins with its number");
        assert!(if said == 0 { size == 0 } else { size % said == 0 && size >= said });
        assert_eq!(parse_size(&format!("{size} B")), Ok(size));
    }
    if let Ok(time) = parse_duration(text) {
        assert_eq!(parse_duration(&format!("{}ms", time.as_millis())), Ok(time));
        assert!(time <= Duration::from_millis(u64::MAX));
    }
}
