//! The shelf life: how expiries are written and read, and what follows from them; what is evicted first.

pub mod eviction;
pub mod places;
pub mod uses;

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Time;
use crate::config;
use crate::error::{Error, Result};
use crate::pages::Class;

/// Reads an expiry: RFC 3339 (`2030-01-31T12:00:00Z`), seconds since the epoch, or `never`. What lies before all time that can be
/// expressed is its beginning: long past.
pub fn parse_expires(text: &str) -> Result<Option<Time>> {
    let text = text.trim();
    if text == "never" {
        return Ok(None);
    }
    let nanos = match (text.parse::<i64>(), text.parse::<Timestamp>()) {
        (Ok(seconds), _) => Some(i128::from(seconds) * 1_000_000_000),
        (_, Ok(at)) => Some(at.as_nanosecond()),
        _ => None,
    };
    match nanos.filter(|nanos| *nanos <= i128::from(i64::MAX)) {
        Some(nanos) => Ok(Some(Time(i64::try_from(nanos).unwrap_or(i64::MIN)))),
        None => Err(Error::Invalid(format!(
            "expires {text:?}: use a time before 2262-04-11 as 2030-01-31T12:00:00Z, seconds since 1970, or never"
        ))),
    }
}

/// An expiry in RFC 3339, UTC.
pub fn format_expires(at: Time) -> String {
    match Timestamp::from_nanosecond(i128::from(at.0)) {
        Ok(at) => at.to_string(),
        Err(_) => at.secs().to_string(),
    }
}

/// Reads a time to live, as [`config::parse_ttl`].
pub fn parse_ttl(text: &str) -> Result<Option<u32>> {
    config::parse_ttl(text).map_err(|why| Error::Invalid(format!("ttl {text:?}: {why}")))
}

/// What a touch renews.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    /// The expiry, by its period.
    pub expiration: bool,
    /// The stored size. It is counted with each change, so there is nothing left to renew.
    pub size: bool,
}

/// Reads what a touch renews: `expiration`, `size`, or both with a comma or a space between.
pub fn parse_touch(text: &str) -> Result<Touch> {
    let mut touch = Touch::default();
    for word in text.split([',', ' ']).filter(|word| !word.is_empty()) {
        match word {
            "expiration" => touch.expiration = true,
            "size" => touch.size = true,
            _ => return Err(Error::Invalid(format!("touch {text:?}: use expiration, size, or both"))),
        }
    }
    if touch == Touch::default() {
        return Err(Error::Invalid("touch: say what: expiration, size, or both".into()));
    }
    Ok(touch)
}

/// The moment `seconds` after `now`, at most the last that can be expressed.
pub fn after(now: Time, seconds: u32) -> Time {
    Time(now.0.saturating_add(i64::from(seconds).saturating_mul(1_000_000_000)))
}

/// The time left until `at`, none when it has passed.
pub fn left(at: Time, now: Time) -> Duration {
    Duration::from_nanos(at.0.saturating_sub(now.0).max(0) as u64)
}

/// Which segments the frames of a key with this expiry go to.
pub fn class(expires: Option<Time>, now: Time) -> Class {
    match expires.map(|at| left(at, now).as_secs()) {
        None => Class::Lasting,
        Some(..3_600) => Class::Hour,
        Some(..86_400) => Class::Day,
        Some(..604_800) => Class::Week,
        Some(_) => Class::Later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries_are_read_in_each_of_their_forms() {
        let at = Time::new(1_900_000_000, 0);
        assert_eq!(parse_expires("1900000000").unwrap(), Some(at));
        assert_eq!(parse_expires(&format_expires(at)).unwrap(), Some(at));
        assert_eq!(parse_expires("2030-03-17T18:46:40+01:00\n").unwrap(), Some(at));
        assert_eq!(parse_expires("never").unwrap(), None);
        for text in
            ["", "soon", "2030-02-31T00:00:00Z", "99999999999999", "9223372037", "9999-12-31T00:00:00Z"]
        {
            assert!(parse_expires(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_expires("9223372036").unwrap(), Some(Time::new(9_223_372_036, 0)));
        for text in ["-99999999999999", "-5", "0001-01-01T00:00:00Z"] {
            assert!(parse_expires(text).unwrap() < Some(Time(0)), "{text:?}");
        }
    }

    #[test]
    fn times_to_live_are_read_with_and_without_units() {
        for (text, seconds) in
            [("3600", 3600), ("90m", 5400), ("7d", 604_800), ("1h30m", 5400), ("2s", 2), ("0", 0)]
        {
            assert_eq!(parse_ttl(text).unwrap(), Some(seconds), "{text:?}");
        }
        assert_eq!(parse_ttl("never").unwrap(), None);
        for text in ["", "soon", "-1", "5x", "1e99", "NaN", "99999999999"] {
            assert!(parse_ttl(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_touch_says_what_it_renews() {
        let touch = |expiration, size| Touch { expiration, size };
        for (text, expected) in [
            ("expiration", touch(true, false)),
            ("size", touch(false, true)),
            ("size,expiration", touch(true, true)),
            ("expiration size", touch(true, true)),
        ] {
            assert_eq!(parse_touch(text).unwrap(), expected, "{text:?}");
        }
        for text in ["", " ", ",", "all", "expiration,often"] {
            assert!(parse_touch(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_expiry_beyond_all_time_saturates() {
        assert_eq!(after(Time(i64::MAX - 5), u32::MAX), Time(i64::MAX));
        assert_eq!(left(Time(0), Time(5)), Duration::ZERO);
    }
}
