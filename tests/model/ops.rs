//! Random operations over a small name space.
//!
//! An operation picks its inodes by a number that is taken modulo those that are there when it runs,
//! so each part of a sequence is a sequence too: a failing one shrinks by leaving operations out.

use proptest::prelude::*;

use super::fs::{Call, Fs, How, Id};

/// The page size of a volume, bytes.
const PAGE: u64 = 128 << 10;

#[derive(Clone, Debug)]
pub enum Op {
    Mknod { dir: u8, name: Name, kind: u8 },
    Mkdir { dir: u8, name: Name },
    Symlink { dir: u8, name: Name, len: u16 },
    Link { of: u8, dir: u8, name: Name },
    Unlink { dir: u8, name: Name, hold: bool },
    Rmdir { dir: u8, name: Name, hold: bool },
    Rename { dir: u8, name: Name, new_dir: u8, new_name: Name, how: How, hold: bool },
    Chmod { of: u8, mode: u32 },
    Chown { of: u8, uid: u32, gid: u32 },
    Mtime { of: u8, nanos: i64 },
    Truncate { of: u8, size: u64 },
    Write { of: u8, offset: u64, len: u32, fill: Fill },
    Append { of: u8, len: u32, fill: Fill },
    Read { of: u8, offset: u64, len: u32 },
    Fallocate { of: u8, offset: u64, len: u64, mode: i32 },
    Copy { from: u8, offset_from: u64, to: u8, offset_to: u64, len: u64 },
    SetXattr { of: u8, name: u8, len: u16, flags: i32 },
    RemoveXattr { of: u8, name: u8 },
    Lookup { dir: u8, name: Name },
    /// Lets an unlinked inode go.
    Release { which: u8 },
    Fsync { of: u8, data_only: bool },
    Sync,
    Remount,
}

#[derive(Clone, Copy, Debug)]
pub enum Name {
    Short(u8),
    /// 255 bytes, the most there may be.
    Longest(u8),
    /// 256 bytes.
    TooLong,
}

impl Name {
    fn bytes(self) -> Vec<u8> {
        match self {
            Name::Short(n) => vec![b'a' + n],
            Name::Longest(n) => vec![b'A' + n; 255],
            Name::TooLong => vec![b'z'; 256],
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Fill {
    Zeros,
    /// Compresses well.
    Text(u8),
    /// Does not compress.
    Noise(u8),
}

impl Fill {
    pub fn bytes(self, len: u32) -> Vec<u8> {
        match self {
            Fill::Zeros => vec![0; len as usize],
            Fill::Text(seed) => (0..len).map(|i| b'a' + ((i / 7) as u8).wrapping_add(seed) % 26).collect(),
            Fill::Noise(seed) => {
                let mut state = u64::from(seed) + 1;
                let mut next = || {
                    // xorshift64 (Marsaglia 2003).
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 32) as u8
                };
                (0..len).map(|_| next()).collect()
            }
        }
    }
}

/// What an operation is once its inodes are picked.
#[derive(Clone, Debug)]
pub enum Step {
    /// A call; `hold`: what loses its last name stays open.
    Call(Call, bool),
    Release(Id),
    Fsync(Id, bool),
    Sync,
    Remount,
    /// There is no inode of the kind that it needs.
    Skip,
}

impl Op {
    pub fn resolve(&self, fs: &Fs) -> Step {
        let pick = |n: u8, fits: &dyn Fn(Id) -> bool| {
            let fitting: Vec<Id> = fs.nodes().keys().copied().filter(|id| fits(*id)).collect();
            (!fitting.is_empty()).then(|| fitting[n as usize % fitting.len()])
        };
        let is_dir = |id: Id| fs.node(id).is_dir();
        let is_file = |id: Id| fs.node(id).content().is_some();
        let any = |n: u8| pick(n, &|_| true);
        let file = |n: u8| pick(n, &is_file);
        // Now and then a file where a directory belongs.
        let dir = |n: u8| if n >= 248 { pick(n, &is_file) } else { pick(n, &is_dir) };
        let either = |n: u8| pick(n, &|id| is_dir(id) || is_file(id));
        let call = |call: Call| Step::Call(call, false);
        let id = fs.next;
        let step = || {
            Some(match self.clone() {
                Op::Mknod { dir: at, name, kind } => {
                    let mode = match kind {
                        0 => libc::S_IFIFO | 0o600,
                        1 => libc::S_IFSOCK | 0o755,
                        _ => libc::S_IFREG | 0o644,
                    };
                    call(Call::Mknod { dir: dir(at)?, name: name.bytes(), mode, id })
                }
                Op::Mkdir { dir: at, name } => {
                    call(Call::Mkdir { dir: dir(at)?, name: name.bytes(), mode: 0o755, id })
                }
                Op::Symlink { dir: at, name, len } => {
                    let target = vec![b't'; len as usize];
                    call(Call::Symlink { dir: dir(at)?, name: name.bytes(), target, id })
                }
                Op::Link { of, dir: at, name } => {
                    call(Call::Link { of: any(of)?, dir: dir(at)?, name: name.bytes() })
                }
                Op::Unlink { dir: at, name, hold } => {
                    Step::Call(Call::Unlink { dir: dir(at)?, name: name.bytes() }, hold)
                }
                Op::Rmdir { dir: at, name, hold } => {
                    Step::Call(Call::Rmdir { dir: dir(at)?, name: name.bytes() }, hold)
                }
                Op::Rename { dir: at, name, new_dir, new_name, how, hold } => {
                    let (name, new_name) = (name.bytes(), new_name.bytes());
                    let rename = Call::Rename { dir: dir(at)?, name, new_dir: dir(new_dir)?, new_name, how };
                    Step::Call(rename, hold)
                }
                Op::Chmod { of, mode } => call(Call::Chmod { of: either(of)?, mode }),
                Op::Chown { of, uid, gid } => call(Call::Chown { of: any(of)?, uid, gid }),
                Op::Mtime { of, nanos } => call(Call::Mtime { of: either(of)?, nanos }),
                Op::Truncate { of, size } => call(Call::Truncate { of: file(of)?, size }),
                Op::Write { of, offset, len, fill } => {
                    call(Call::Write { of: file(of)?, offset, data: fill.bytes(len) })
                }
                Op::Append { of, len, fill } => {
                    let of = file(of)?;
                    let offset = fs.node(of).content()?.len() as u64;
                    // A file grows to no more than some pages, however long the sequence.
                    if offset > 8 * PAGE {
                        return None;
                    }
                    call(Call::Write { of, offset, data: fill.bytes(len) })
                }
                Op::Read { of, offset, len } => call(Call::Read { of: file(of)?, offset, len }),
                Op::Fallocate { of, offset, len, mode } => {
                    call(Call::Fallocate { of: file(of)?, offset, len, mode })
                }
                Op::Copy { from, offset_from, to, offset_to, len } => {
                    call(Call::Copy { from: file(from)?, offset_from, to: file(to)?, offset_to, len })
                }
                Op::SetXattr { of, name, len, flags } => {
                    let value = Fill::Text(name).bytes(u32::from(len));
                    call(Call::SetXattr { of: either(of)?, name: xattr(name), value, flags })
                }
                Op::RemoveXattr { of, name } => {
                    call(Call::RemoveXattr { of: either(of)?, name: xattr(name) })
                }
                Op::Lookup { dir: at, name } => call(Call::Lookup { dir: dir(at)?, name: name.bytes() }),
                Op::Release { which } => Step::Release(pick(which, &|id| fs.node(id).nlink == 0)?),
                Op::Fsync { of, data_only } => Step::Fsync(either(of)?, data_only),
                Op::Sync => Step::Sync,
                Op::Remount => Step::Remount,
            })
        };
        step().unwrap_or(Step::Skip)
    }
}

fn xattr(n: u8) -> Vec<u8> {
    format!("user.{n}").into_bytes()
}

fn name() -> impl Strategy<Value = Name> {
    prop_oneof![
        30 => (0..5u8).prop_map(Name::Short),
        2 => (0..2u8).prop_map(Name::Longest),
        1 => Just(Name::TooLong),
    ]
}

/// Offsets lie around page borders, and in the first few bytes.
fn offset() -> impl Strategy<Value = u64> {
    let near = prop_oneof![Just(0i64), -2..3i64, -5000..5000i64];
    prop_oneof![
        1 => 0..6000u64,
        2 => (0..5u64, near).prop_map(|(page, off)| (page * PAGE).saturating_add_signed(off)),
    ]
}

fn len() -> impl Strategy<Value = u32> {
    let page = PAGE as u32;
    prop_oneof![
        1 => Just(0u32),
        6 => 1..6000u32,
        2 => page - 3..page + 4,
        2 => page..3 * page,
    ]
}

fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![
        1 => Just(Fill::Zeros),
        3 => any::<u8>().prop_map(Fill::Text),
        2 => any::<u8>().prop_map(Fill::Noise),
    ]
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![3 => Just(How::Replace), 1 => Just(How::NoReplace), 1 => Just(How::Exchange)]
}

fn fallocate_mode() -> impl Strategy<Value = i32> {
    use libc::{FALLOC_FL_KEEP_SIZE as KEEP, FALLOC_FL_PUNCH_HOLE as PUNCH, FALLOC_FL_ZERO_RANGE as ZERO};
    prop_oneof![Just(0), Just(KEEP), Just(PUNCH | KEEP), Just(ZERO), Just(ZERO | KEEP), Just(PUNCH)]
}

/// An operation; `remounts`: whether the store is closed and opened now and then.
pub fn op(remounts: bool) -> BoxedStrategy<Op> {
    let n = any::<u8>;
    let often = u32::from(remounts);
    let tree = prop_oneof![
        6 => (n(), name(), 0..12u8).prop_map(|(dir, name, kind)| Op::Mknod { dir, name, kind }),
        3 => (n(), name()).prop_map(|(dir, name)| Op::Mkdir { dir, name }),
        1 => (n(), name(), 1..300u16).prop_map(|(dir, name, len)| Op::Symlink { dir, name, len }),
        2 => (n(), n(), name()).prop_map(|(of, dir, name)| Op::Link { of, dir, name }),
        3 => (n(), name(), any::<bool>()).prop_map(|(dir, name, hold)| Op::Unlink { dir, name, hold }),
        2 => (n(), name(), any::<bool>()).prop_map(|(dir, name, hold)| Op::Rmdir { dir, name, hold }),
        6 => (n(), name(), n(), name(), how(), any::<bool>()).prop_map(
            |(dir, name, new_dir, new_name, how, hold)| Op::Rename { dir, name, new_dir, new_name, how, hold }
        ),
        1 => (n(), name()).prop_map(|(dir, name)| Op::Lookup { dir, name }),
        1 => n().prop_map(|which| Op::Release { which }),
    ];
    let attributes = prop_oneof![
        1 => (n(), 0..0o1000u32).prop_map(|(of, mode)| Op::Chmod { of, mode }),
        1 => (n(), 0..3u32, 0..3u32).prop_map(|(of, uid, gid)| Op::Chown { of, uid, gid }),
        1 => (n(), -1 << 60..1i64 << 60).prop_map(|(of, nanos)| Op::Mtime { of, nanos }),
        // Four of 900 bytes are what ext4 takes.
        3 => (n(), 0..4u8, 0..900u16, 0..3i32)
            .prop_map(|(of, name, len, flags)| Op::SetXattr { of, name, len, flags }),
        1 => (n(), 0..4u8).prop_map(|(of, name)| Op::RemoveXattr { of, name }),
    ];
    let content = prop_oneof![
        3 => (n(), offset()).prop_map(|(of, size)| Op::Truncate { of, size }),
        8 => (n(), offset(), len(), fill())
            .prop_map(|(of, offset, len, fill)| Op::Write { of, offset, len, fill }),
        3 => (n(), len(), fill()).prop_map(|(of, len, fill)| Op::Append { of, len, fill }),
        3 => (n(), offset(), len()).prop_map(|(of, offset, len)| Op::Read { of, offset, len }),
        3 => (n(), offset(), len(), fallocate_mode())
            .prop_map(|(of, offset, len, mode)| Op::Fallocate { of, offset, len: len.into(), mode }),
        3 => (n(), offset(), n(), offset(), len()).prop_map(|(from, offset_from, to, offset_to, len)| {
            Op::Copy { from, offset_from, to, offset_to, len: len.into() }
        }),
    ];
    let durable = prop_oneof![
        4 => (n(), any::<bool>()).prop_map(|(of, data_only)| Op::Fsync { of, data_only }),
        2 => Just(Op::Sync),
        2 * often => Just(Op::Remount),
    ];
    prop_oneof![10 => tree, 3 => attributes, 10 => content, 3 => durable].boxed()
}
