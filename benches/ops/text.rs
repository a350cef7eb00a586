//! Text that is the same in every run: C-like source, and prose that lz4 packs to about half.

/// Xorshift64: a generator whose sequence no dependency's update can change, so that figures of
/// different years are made with the same bytes.
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.next(); // small seeds differ in few bits at first
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number from 0 to `end - 1`. The bias of the remainder does not matter here.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words.get(self.below(words.len() as u64) as usize).copied().unwrap_or_default()
    }
}

const WORDS: [&str; 48] = [
    "page", "cache", "store", "entry", "index", "write", "flush", "journal", "segment", "extent", "lookup",
    "node", "parent", "commit", "record", "offset", "length", "buffer", "socket", "device", "driver",
    "queue", "lock", "state", "timer", "event", "handle", "region", "request", "reply", "thread", "worker",
    "signal", "packet", "header", "table", "bucket", "cursor", "stream", "module", "config", "status",
    "memory", "process", "system", "kernel", "volume", "result",
];

/// About `len` bytes of something that looks like C: repeated shapes with differing names and numbers.
pub fn source(random: &mut Random, len: usize) -> String {
    let mut out = String::with_capacity(len + 512);
    for header in ["stdint", "string"] {
        out += &format!("#include <{header}.h>\n");
    }
    while out.len() < len {
        let (kind, verb, thing) = (random.pick(&WORDS), random.pick(&WORDS), random.pick(&WORDS));
        out += "\n/*\n";
        for _ in 0..random.below(5) {
            out += " *";
            for _ in 0..6 + random.below(6) {
                out += " ";
                out += random.pick(&WORDS);
            }
            out += "\n";
        }
        out += &format!(
            " * Returns the {thing} of this {kind}, or -1 when there is none.\n */\n\
             static int {kind}_{verb}(struct {kind} *{kind}, const char *{thing}, size_t len)\n{{\n"
        );
        for _ in 0..2 + random.below(8) {
            let (field, other) = (random.pick(&WORDS), random.pick(&WORDS));
            let constant = random.below(4096);
            out += &match random.below(4) {
                0 => format!("\tif ({kind}->{field} > {constant})\n\t\treturn -1;\n"),
                1 => format!("\t{kind}->{field} = {other}_{field}({kind}->{other}, len);\n"),
                2 => {
                    format!("\tfor (size_t i = 0; i < len; i++)\n\t\t{kind}->{field}[i] ^= {constant:#x};\n")
                }
                _ => format!("\tmemcpy(&{kind}->{other}, {thing}, sizeof({kind}->{field}));\n"),
            };
        }
        out += &format!("\treturn {kind}->{thing};\n}}\n");
    }
    out
}

/// Lines of log-like text that lz4 packs to half its size in pages of 128 KiB (measured: see
/// `docs/performance.md`): words, which match, and hexadecimal digits, which don't.
pub fn halving(len: usize) -> Vec<u8> {
    let mut random = Random::new(2);
    let mut out = String::with_capacity(len + 256);
    while out.len() < len {
        let (what, whose) = (random.pick(&WORDS), random.pick(&WORDS));
        let (id, hash) = (random.below(100_000), random.next() >> 16);
        out += &format!("{what} {id:05} of {whose} done in {:03} us, checksum {hash:012x}\n", id % 997);
    }
    let mut out = out.into_bytes();
    out.truncate(len);
    out
}
