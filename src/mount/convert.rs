//! Between the volume's values and fuser's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, Generation, INodeNo, RenameFlags, TimeOrNow};

use crate::clock::Time;
use crate::format::{Ino, Kind};
use crate::volume::{Attr, Caller, Entry, Rename, SetTime};

/// How long the kernel may rely on what does not expire. All changes come through the kernel, or are
/// told to it by notification. Ten years: what the kernel makes of it fits its jiffies.
pub(super) const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long attributes that settle may be relied on.
const SETTLING: Duration = Duration::from_secs(1);

/// Inode numbers are never reused while a store lives, so one generation does.
pub(super) const GENERATION: Generation = Generation(0);

/// How long the kernel may rely on an entry.
pub(super) fn ttl(entry: &Entry) -> Duration {
    entry.valid.unwrap_or(FOREVER).min(FOREVER)
}

/// How long the kernel may rely on an entry's attributes. Those that settle are asked for again: the size
/// on disk of a file is known once its pages are flushed, a second after the last write.
pub(super) fn attr_ttl(entry: &Entry) -> Duration {
    if entry.settling { ttl(entry).min(SETTLING) } else { ttl(entry) }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Fifo => FileType::NamedPipe,
        Kind::CharDevice => FileType::CharDevice,
        Kind::Directory => FileType::Directory,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::File => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
        Kind::Socket => FileType::Socket,
    }
}

pub(super) fn attributes(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(Kind::of_mode(attr.mode)),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

/// Attributes of nothing. As the answer to LOOKUP, inode 0 is a negative entry that the kernel keeps;
/// in READDIRPLUS it is an entry without attributes.
pub(super) fn no_attributes(ino: Ino, kind: Kind) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn system_time(time: Time) -> SystemTime {
    let distance = Duration::from_nanos(time.0.unsigned_abs());
    if time.0 >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

/// A time that fuser took out of a SETATTR. Before the epoch fuser 0.18 subtracts the nanoseconds
/// too where they are to be added (`-2 s + 0.8 s` comes as 2.8 s before the epoch); this puts it right.
pub(super) fn time(from_kernel: SystemTime) -> Time {
    match from_kernel.duration_since(UNIX_EPOCH) {
        Ok(after) => Time::new(i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let secs = i64::try_from(before.as_secs()).map_or(i64::MIN, |secs| -secs);
            Time::new(secs, before.subsec_nanos())
        }
    }
}

pub(super) fn set_time(time_or_now: TimeOrNow) -> SetTime {
    match time_or_now {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(time(at)),
    }
}

/// How to rename, or `None` for flags that are not known or contradict each other.
pub(super) fn rename(flags: RenameFlags, caller: Caller) -> Option<Rename> {
    const BOTH: u32 = libc::RENAME_WHITEOUT | libc::RENAME_NOREPLACE;
    match flags.bits() {
        0 => Some(Rename::Replace),
        libc::RENAME_NOREPLACE => Some(Rename::NoReplace),
        libc::RENAME_EXCHANGE => Some(Rename::Exchange),
        libc::RENAME_WHITEOUT => Some(Rename::Whiteout { caller, replace: true }),
        BOTH => Some(Rename::Whiteout { caller, replace: false }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_the_epoch_arrives_as_it_was_sent_in_spite_of_fuser() {
        // What fuser makes of tv_sec -2, tv_nsec 800_000_000, which is 1.2 s before the epoch.
        let as_fuser_has_it = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(time(as_fuser_has_it), Time(-1_200_000_000));
        assert_eq!(system_time(Time(-1_200_000_000)), UNIX_EPOCH - Duration::from_millis(1200));
        assert_eq!(time(UNIX_EPOCH - Duration::from_secs(3)), Time(-3_000_000_000));
    }

    #[test]
    fn times_outside_the_range_are_held_at_its_ends() {
        assert_eq!(time(UNIX_EPOCH + Duration::from_secs(i64::MAX as u64)), Time(i64::MAX));
        assert_eq!(time(UNIX_EPOCH - Duration::from_secs(i64::MAX as u64)), Time(i64::MIN));
        assert_eq!(system_time(Time(i64::MIN)), UNIX_EPOCH - Duration::from_nanos(1 << 63));
    }

    #[test]
    fn rename_flags_that_are_not_known_or_contradict_each_other_are_refused() {
        let rename = |flags| rename(flags, Caller::default());
        assert_eq!(rename(RenameFlags::empty()), Some(Rename::Replace));
        assert_eq!(rename(RenameFlags::RENAME_NOREPLACE), Some(Rename::NoReplace));
        assert_eq!(rename(RenameFlags::RENAME_EXCHANGE), Some(Rename::Exchange));
        let whiteout = |replace| Some(Rename::Whiteout { caller: Caller::default(), replace });
        assert_eq!(rename(RenameFlags::RENAME_WHITEOUT), whiteout(true));
        assert_eq!(rename(RenameFlags::RENAME_WHITEOUT | RenameFlags::RENAME_NOREPLACE), whiteout(false));
        assert_eq!(rename(RenameFlags::RENAME_EXCHANGE | RenameFlags::RENAME_NOREPLACE), None);
        assert_eq!(rename(RenameFlags::RENAME_EXCHANGE | RenameFlags::RENAME_WHITEOUT), None);
        assert_eq!(rename(RenameFlags::from_bits_retain(1 << 5)), None);
    }
}
