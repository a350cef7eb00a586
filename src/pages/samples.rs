//! Content for the tests of this room.

/// xorshift64*: reproducible from its seed.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
}

/// Lines as a program logs them: LZ4 halves it.
pub fn text(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut text = Vec::with_capacity(len + 128);
    let what = ["opened", "closed the file", "could not find", "evicted", "flushed pages of", "has expired"];
    while text.len() < len {
        let (a, b, c) = (random.below(60), random.next() >> 32, random.below(100_000));
        let what = what[random.below(6) as usize];
        text.extend_from_slice(format!("12:07:{a:02} session {b:08x} {what} inode {c}\n").as_bytes());
    }
    text.truncate(len);
    text
}

/// What no codec shrinks.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| (random.next() >> 33) as u8).collect()
}
