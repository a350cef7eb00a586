//! Random numbers that a seed repeats, and how long a test runs: both from the environment.
#![allow(dead_code, reason = "each test program uses a part of it")]

/// A number for how long or how large, from the environment where it is set.
pub fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

/// Random numbers that a seed repeats: xorshift64* (Vigna 2016).
pub struct Random(u64);

impl Random {
    /// From `LARDER_TEST_SEED`, or the clock; printed, so that a failure can be repeated.
    pub fn new() -> Random {
        let clock = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let seed = setting("LARDER_TEST_SEED", clock() % 1_000_000_007);
        println!("LARDER_TEST_SEED={seed}");
        Random::of(seed)
    }

    pub fn of(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}
