//! Attributes: times, periods, codecs, marks, access lists; and keys. The first byte says which.

use super::take_byte;
use crate::error::Error;
use crate::format::{Codec, Kind};
use crate::shelf::{format_expires, parse_expires, parse_touch, parse_ttl};
use crate::store::Key;
use crate::volume::fuzz::{Acl, Mark};

pub(super) fn run(mut data: &[u8]) {
    let what = take_byte(&mut data);
    let text = String::from_utf8_lossy(data);
    match what % 8 {
        0 => expires(&text),
        1 => ttl(&text),
        2 => touch(&text),
        3 => codec(&text),
        4 => mark(Mark::Evictable, data),
        5 => mark(Mark::DefaultTtl, data),
        6 => acl(data, u32::from(what >> 3)),
        _ => key(data),
    }
}

fn expires(text: &str) {
    match parse_expires(text) {
        Ok(Some(at)) => assert_eq!(parse_expires(&format_expires(at)).ok(), Some(Some(at)), "{at:?}"),
        Ok(None) => assert_eq!(text.trim(), "never"),
        Err(error) => assert!(error.to_string().contains("expires"), "{error}"),
    }
}

fn ttl(text: &str) {
    match parse_ttl(text) {
        Ok(Some(seconds)) => assert_eq!(parse_ttl(&seconds.to_string()).ok(), Some(Some(seconds))),
        Ok(None) => assert_eq!(text.trim(), "never"),
        Err(error) => assert!(error.to_string().contains("ttl"), "{error}"),
    }
}

fn touch(text: &str) {
    match parse_touch(text) {
        Ok(touch) => assert!(touch.expiration || touch.size, "a touch of nothing"),
        Err(error) => assert!(error.to_string().contains("touch"), "{error}"),
    }
}

fn codec(text: &str) {
    match text.parse::<Codec>() {
        Ok(codec) => assert_eq!(codec.to_string().parse::<Codec>().ok(), Some(codec)),
        Err(error) => assert!(error.to_string().contains("codec"), "{error}"),
    }
}

/// What is kept of a mark is what would be kept of that.
fn mark(mark: Mark, value: &[u8]) {
    for kind in [Kind::File, Kind::Directory] {
        match mark.check(value, kind) {
            Ok(kept) => assert_eq!(mark.check(&kept, kind).ok(), Some(kept)),
            Err(Error::NotPermitted) => assert!(mark == Mark::DefaultTtl && kind == Kind::File),
            Err(error) => assert!(error.to_string().contains("user.larder."), "{error}"),
        }
    }
}

/// A list is written as it was read, and holds the mode that it is given.
fn acl(value: &[u8], mode: u32) {
    let Ok(mut acl) = Acl::parse(value) else { return };
    assert_eq!(acl.to_bytes(), value);
    assert!(acl.mode() <= 0o777);
    let mode = mode.wrapping_mul(0o21) & 0o777;
    acl.set_mode(mode);
    assert_eq!(acl.mode(), mode);
    assert_eq!(Acl::parse(&acl.to_bytes()).ok(), Some(acl));
}

/// A key is a path that leads nowhere else.
fn key(bytes: &[u8]) {
    match Key::new(bytes) {
        Ok(key) => {
            assert_eq!(key.as_bytes(), bytes);
            let mut names = bytes.split(|byte| *byte == b'/');
            assert!(names.all(|name| (1..=255).contains(&name.len()) && name != b"." && name != b".."));
            assert!(bytes.len() < 4096 && !bytes.contains(&0));
        }
        Err(Error::Key { .. } | Error::NameTooLong) => {}
        Err(other) => panic!("{other}"),
    }
}
