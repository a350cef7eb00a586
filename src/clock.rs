//! Time comes in from outside, so that a test can hold it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment of wall-clock time: nanoseconds since the Unix epoch, negative before it.
/// Reaches from 1677 to 2262.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub i64);

impl Time {
    /// The last moment that can be told; what is later is taken for it.
    pub const LAST: Time = Time(i64::MAX);

    /// From whole seconds and nanoseconds, saturating at the ends of the range.
    pub fn new(secs: i64, nanos: u32) -> Time {
        let exact = i128::from(secs) * 1_000_000_000 + i128::from(nanos);
        Time(exact.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }

    /// Whole seconds since the epoch, rounded down.
    pub fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Nanoseconds within the second.
    pub fn nanos(self) -> u32 {
        self.0.rem_euclid(1_000_000_000) as u32
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Time {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Time::new(since.as_secs() as i64, since.subsec_nanos()),
            Err(before) => Time(i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos)),
        }
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> SystemTime {
        let distance = Duration::from_nanos(time.0.unsigned_abs());
        if time.0 < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
    }
}

/// Where the time comes from: the system, or a test's hand.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system's wall clock.
    #[default]
    System,
    /// A clock that stands still until it is set.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock held by a test, at `time`.
    pub fn manual(time: Time) -> Clock {
        Clock::Manual(Arc::new(AtomicI64::new(time.0)))
    }

    /// Sets a manual clock. The system's clock is left alone.
    pub fn set(&self, time: Time) {
        if let Clock::Manual(now) = self {
            now.store(time.0, Ordering::SeqCst);
        }
    }

    /// The time now.
    pub fn now(&self) -> Time {
        match self {
            #[expect(clippy::disallowed_methods, reason = "this is the one place")]
            Clock::System => SystemTime::now().into(),
            Clock::Manual(now) => Time(now.load(Ordering::SeqCst)),
        }
    }
}
