//! The workloads. Numbers of inodes are those that the model gives: the root is 1.

use larder::config::Settings;

use crate::model::fs::{Call, How, Id, ROOT};
use crate::model::ops::Fill;
use crate::workload::{EXPIRES, Setting, Step, Workload};

const PAGE: u64 = 128 << 10;

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn call(call: Call) -> Step {
    Step::Call(call)
}

fn file_in(dir: Id, name: &str, id: Id) -> Step {
    call(Call::Mknod { dir, name: bytes(name), mode: libc::S_IFREG | 0o644, id })
}

fn file(name: &str, id: Id) -> Step {
    file_in(ROOT, name, id)
}

fn mkdir_in(dir: Id, name: &str, id: Id) -> Step {
    call(Call::Mkdir { dir, name: bytes(name), mode: 0o755, id })
}

fn mkdir(name: &str, id: Id) -> Step {
    mkdir_in(ROOT, name, id)
}

fn write(of: Id, offset: u64, data: Vec<u8>) -> Step {
    call(Call::Write { of, offset, data })
}

fn text(seed: u8, len: u32) -> Vec<u8> {
    Fill::Text(seed).bytes(len)
}

fn noise(seed: u8, len: u32) -> Vec<u8> {
    Fill::Noise(seed).bytes(len)
}

fn rename_in(dir: Id, name: &str, new_dir: Id, new_name: &str, how: How) -> Step {
    call(Call::Rename { dir, name: bytes(name), new_dir, new_name: bytes(new_name), how })
}

fn rename(name: &str, new_name: &str, how: How) -> Step {
    rename_in(ROOT, name, ROOT, new_name, how)
}

fn unlink_in(dir: Id, name: &str) -> Call {
    Call::Unlink { dir, name: bytes(name) }
}

fn unlink(name: &str) -> Step {
    call(unlink_in(ROOT, name))
}

fn rmdir_in(dir: Id, name: &str) -> Step {
    call(Call::Rmdir { dir, name: bytes(name) })
}

fn link(of: Id, name: &str) -> Step {
    call(Call::Link { of, dir: ROOT, name: bytes(name) })
}

fn truncate(of: Id, size: u64) -> Step {
    call(Call::Truncate { of, size })
}

fn fallocate(of: Id, offset: u64, len: u64, mode: i32) -> Step {
    call(Call::Fallocate { of, offset, len, mode })
}

fn copy(from: Id, offset_from: u64, to: Id, offset_to: u64, len: u64) -> Step {
    call(Call::Copy { from, offset_from, to, offset_to, len })
}

fn setxattr(of: Id, name: &str, value: Vec<u8>) -> Step {
    call(Call::SetXattr { of, name: bytes(name), value, flags: 0 })
}

/// A default list with what the mode 0755 says.
fn acl() -> Vec<u8> {
    let entries = [(1u16, 7u16), (4, 5), (0x20, 5)];
    let entry = |(tag, perm): (u16, u16)| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &[0xff; 4]].concat();
    [vec![2, 0, 0, 0], entries.into_iter().flat_map(entry).collect()].concat()
}

fn fsync(of: Id) -> Step {
    Step::Fsync(of, false)
}

fn fdatasync(of: Id) -> Step {
    Step::Fsync(of, true)
}

fn set(name: &'static str, id: Id, content: Vec<u8>) -> Setting {
    (name, Some((id, content)))
}

/// 18 keys, each of nearly as much as rides in the journal: together they are too much for it.
fn large_values(first: Id, seed: u8) -> Vec<Setting> {
    const NAMES: [&str; 18] =
        ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r"];
    NAMES
        .iter()
        .zip(first..)
        .map(|(name, id)| set(name, id, noise(seed.wrapping_add(id as u8), 31_000)))
        .collect()
}

/// A file, durable.
fn durable(name: &str, id: Id, content: Vec<u8>) -> Vec<Step> {
    vec![file(name, id), write(id, 0, content)]
}

fn workload(name: &'static str, setup: Vec<Step>, steps: Vec<Step>) -> Workload {
    Workload { name, setup, closed: true, steps, settings: |_| {} }
}

/// An empty store.
fn empty() -> Vec<Step> {
    vec![Step::Sync]
}

/// All of them.
pub fn all() -> Vec<Workload> {
    let mut all = vec![
        Workload {
            name: "a_new_store",
            setup: Vec::new(),
            closed: true,
            steps: vec![file("a", 2), write(2, 0, text(1, 5000)), fsync(2)],
            settings: |_| {},
        },
        workload(
            "create_and_write_small",
            empty(),
            vec![
                file("a", 2),
                write(2, 0, text(1, 100)),
                fsync(2),
                file("b", 3),
                write(3, 0, text(2, 4000)),
                file("c", 4),
                write(4, 0, noise(3, 20_000)),
                fsync(4),
                file("d", 5),
                write(5, 0, text(4, 10)),
                Step::Sync,
                file("e", 6),
            ],
        ),
        workload(
            "create_and_write_large",
            empty(),
            vec![
                file("a", 2),
                write(2, 0, noise(1, 3 * PAGE as u32)),
                fsync(2),
                file("b", 3),
                write(3, 0, text(2, 400_000)),
                write(3, 1 << 20, noise(3, 100_000)),
                fdatasync(3),
                write(2, PAGE, noise(4, PAGE as u32)),
                Step::Sync,
            ],
        ),
        workload(
            "overwrite_of_fsynced_content",
            durable("a", 2, noise(1, 300_000)),
            vec![
                write(2, 1000, text(2, 500)),
                fsync(2),
                write(2, 0, noise(3, 200_000)),
                fsync(2),
                write(2, 131_000, text(4, 300)),
                fdatasync(2),
                write(2, 0, text(5, 300_000)),
                Step::Sync,
                write(2, 250_000, noise(6, 50_000)),
            ],
        ),
        workload(
            "append",
            durable("log", 2, text(1, 1000)),
            (0..12)
                .flat_map(|n: u8| {
                    let at = 1000 + u64::from(n) * 15_000;
                    let sync = match n % 3 {
                        0 => vec![fsync(2)],
                        1 => vec![fdatasync(2)],
                        _ => vec![],
                    };
                    [vec![write(2, at, text(n, 15_000))], sync].concat()
                })
                .collect(),
        ),
        workload(
            "rename_over_an_existing_file",
            durable("key", 2, text(1, 300_000)),
            vec![
                file("key.new", 3),
                write(3, 0, noise(2, 200_000)),
                rename("key.new", "key", How::Replace),
                file("key.new", 4),
                write(4, 0, text(3, 500)),
                rename("key.new", "key", How::Replace),
                file("key.new", 5),
                write(5, 0, noise(4, 150_000)),
                fsync(5),
                rename("key.new", "key", How::Replace),
                fsync(ROOT),
                file("other", 6),
                rename("other", "key", How::NoReplace),
                rename("other", "third", How::NoReplace),
            ],
        ),
        workload(
            "rename_of_directories",
            vec![
                mkdir("a", 2),
                mkdir_in(2, "deep", 3),
                file_in(3, "f", 4),
                write(4, 0, text(1, 9000)),
                mkdir("b", 5),
            ],
            vec![
                rename("a", "c", How::Replace),
                write(4, 0, text(2, 100)),
                rename_in(ROOT, "c", 5, "inner", How::Replace),
                fsync(4),
                rename_in(2, "deep", ROOT, "deep", How::Replace),
                mkdir("empty", 6),
                rename("deep", "empty", How::Replace),
                Step::Sync,
                rename_in(5, "inner", ROOT, "a", How::NoReplace),
                rmdir_in(ROOT, "b"),
                fsync(ROOT),
            ],
        ),
        workload(
            "exchange",
            [
                durable("a", 2, text(1, 200_000)),
                durable("b", 3, noise(2, 1000)),
                vec![mkdir("d", 4), file_in(4, "x", 5)],
            ]
            .concat(),
            vec![
                rename("a", "b", How::Exchange),
                write(2, 0, noise(3, 5000)),
                rename_in(ROOT, "a", 4, "x", How::Exchange),
                fsync(2),
                rename("b", "d", How::Exchange),
                write(5, 0, text(4, 150_000)),
                Step::Sync,
                rename("a", "d", How::Exchange),
            ],
        ),
        workload(
            "hard_links_and_unlink",
            durable("a", 2, noise(1, 150_000)),
            vec![
                link(2, "b"),
                link(2, "c"),
                unlink("a"),
                fsync(2),
                write(2, 100, text(2, 5000)),
                file("d", 3),
                rename("d", "b", How::Replace),
                fsync(3),
                unlink("c"),
                link(3, "e"),
                Step::Sync,
                unlink("b"),
                unlink("e"),
                Step::Cleanup,
            ],
        ),
        workload(
            "unlinked_but_open",
            [durable("a", 2, noise(1, 300_000)), durable("b", 3, text(2, 3000))].concat(),
            vec![
                Step::Hold(unlink_in(ROOT, "a")),
                write(2, 0, text(3, 1000)),
                fsync(2),
                file("a", 4),
                write(4, 0, text(4, 700)),
                Step::Hold(unlink_in(ROOT, "b")),
                Step::Sync,
                truncate(2, 10),
                Step::Release(2),
                Step::Cleanup,
                write(3, 3000, noise(5, 140_000)),
                Step::Release(3),
                Step::Cleanup,
                fsync(4),
            ],
        ),
        workload(
            "truncate_down_and_up",
            durable("a", 2, noise(1, 400_000)),
            vec![
                truncate(2, 200_001),
                fsync(2),
                truncate(2, 300_000),
                write(2, 290_000, text(2, 1000)),
                fsync(2),
                truncate(2, 0),
                write(2, 0, text(3, 70)),
                truncate(2, 50),
                fdatasync(2),
                truncate(2, 5 << 20),
                Step::Sync,
                truncate(2, 60),
            ],
        ),
        workload("punch_hole_and_zero_range", durable("a", 2, noise(1, 500_000)), {
            use libc::{
                FALLOC_FL_KEEP_SIZE as KEEP, FALLOC_FL_PUNCH_HOLE as PUNCH, FALLOC_FL_ZERO_RANGE as ZERO,
            };
            vec![
                fallocate(2, 1000, 2000, PUNCH | KEEP),
                fsync(2),
                fallocate(2, 0, 2 * PAGE, PUNCH | KEEP),
                write(2, 5000, text(2, 3000)),
                fsync(2),
                fallocate(2, 300_000, 300_000, ZERO),
                fdatasync(2),
                fallocate(2, 600_000, 100_000, 0),
                Step::Sync,
                fallocate(2, 5000, 100, ZERO | KEEP),
                write(2, 650_000, noise(3, 1000)),
            ]
        }),
        workload(
            "copies_with_shared_extents",
            durable("a", 2, noise(1, 4 * PAGE as u32)),
            vec![
                file("b", 3),
                copy(2, 0, 3, 0, 4 * PAGE),
                fsync(3),
                write(2, PAGE, noise(2, PAGE as u32)),
                fsync(2),
                file("c", 4),
                copy(3, PAGE, 4, 0, 2 * PAGE),
                copy(3, 0, 3, 8 * PAGE, PAGE),
                unlink("a"),
                Step::Sync,
                truncate(3, PAGE),
                unlink("b"),
                Step::Cleanup,
                fsync(4),
                unlink("c"),
                Step::Cleanup,
                Step::Sync,
            ],
        ),
        workload(
            "attributes_and_access_lists",
            [durable("a", 2, text(1, 10)), vec![mkdir("d", 3)]].concat(),
            vec![
                setxattr(2, "user.a", text(1, 100)),
                fsync(2),
                setxattr(2, "user.b", noise(2, 50_000)),
                setxattr(3, "system.posix_acl_default", acl()),
                fsync(3),
                setxattr(2, "user.a", text(2, 10)),
                call(Call::RemoveXattr { of: 2, name: bytes("user.b") }),
                Step::Sync,
                call(Call::RemoveXattr { of: 3, name: bytes("system.posix_acl_default") }),
                setxattr(3, "user.c", Vec::new()),
            ],
        ),
        workload(
            "fsync_by_patches",
            durable("a", 2, noise(1, 200_000)),
            (0..16)
                .flat_map(|n: u8| {
                    let at = u64::from(n) * 9973 % 199_000;
                    [write(2, at, text(n, 200 + u32::from(n) * 150)), fsync(2)]
                })
                .collect(),
        ),
        workload(
            "checkpoint",
            durable("a", 2, text(1, 5000)),
            [
                (0..80u32)
                    .map(|n| setxattr(2, &format!("user.{}", n % 10), noise(n as u8, 62_000)))
                    .collect(),
                vec![fsync(2), write(2, 0, text(2, 100)), Step::Sync, file("b", 3)],
            ]
            .concat(),
        ),
        Workload {
            closed: false,
            ..workload(
                "compaction",
                vec![
                    file("a", 2),
                    file("b", 3),
                    write(2, 0, noise(1, 14 * PAGE as u32)),
                    Step::Sync,
                    write(3, 0, noise(2, PAGE as u32)),
                    Step::Sync,
                    truncate(2, 0),
                    Step::Sync,
                ],
                vec![
                    write(3, 10, text(3, 100)),
                    Step::Cleanup,
                    fsync(3),
                    file("c", 4),
                    write(4, 0, noise(4, 2 * PAGE as u32)),
                    fsync(4),
                    Step::Cleanup,
                    write(3, 0, text(5, 20)),
                ],
            )
        },
        workload(
            "expiry_and_its_sweep",
            [
                durable("a", 2, noise(1, 150_000)),
                durable("b", 3, text(2, 3000)),
                durable("c", 4, text(3, 30)),
            ]
            .concat(),
            vec![
                setxattr(2, EXPIRES, bytes("2026-01-01T01:00:00Z")),
                setxattr(3, EXPIRES, bytes("2026-01-01T01:00:00Z")),
                fsync(2),
                setxattr(4, EXPIRES, bytes("2026-01-01T03:00:00Z")),
                Step::Sync,
                Step::Expire(3600, vec!["a", "b"]),
                file("a", 5),
                write(5, 0, text(4, 300)),
                Step::Cleanup,
                fsync(5),
                Step::Expire(7200, vec!["c"]),
                Step::Cleanup,
                Step::Sync,
            ],
        ),
        workload(
            "trees_of_directories",
            empty(),
            vec![
                mkdir("a", 2),
                mkdir_in(2, "b", 3),
                mkdir_in(3, "c", 4),
                file_in(4, "f", 5),
                write(5, 0, text(1, 2000)),
                fsync(4),
                mkdir_in(2, "b2", 6),
                file_in(6, "g", 7),
                fsync(7),
                call(unlink_in(4, "f")),
                rmdir_in(3, "c"),
                rmdir_in(2, "b"),
                Step::Sync,
                rmdir_in(2, "b2"),
                call(unlink_in(6, "g")),
                rmdir_in(2, "b2"),
                rmdir_in(ROOT, "a"),
                Step::Cleanup,
            ],
        ),
        workload(
            "symbolic_links_and_special_files",
            empty(),
            vec![
                call(Call::Symlink { dir: ROOT, name: bytes("l"), target: vec![b't'; 300], id: 2 }),
                fsync(ROOT),
                call(Call::Mknod { dir: ROOT, name: bytes("p"), mode: libc::S_IFIFO | 0o600, id: 3 }),
                call(Call::Symlink { dir: ROOT, name: bytes("m"), target: bytes("l"), id: 4 }),
                rename("m", "l", How::Replace),
                link(4, "n"),
                Step::Sync,
                unlink("p"),
                unlink("l"),
            ],
        ),
        workload(
            "modes_owners_and_times",
            [durable("a", 2, text(1, 10)), vec![mkdir("d", 3)]].concat(),
            vec![
                call(Call::Chmod { of: 2, mode: 0o600 }),
                fsync(2),
                call(Call::Chown { of: 2, uid: 1, gid: 2 }),
                call(Call::Chmod { of: 3, mode: 0o1777 }),
                call(Call::Mtime { of: 2, nanos: 123_456_789 }),
                fsync(3),
                write(2, 0, text(2, 20)),
                call(Call::Mtime { of: 2, nanos: 1 }),
                Step::Sync,
                call(Call::Chown { of: 3, uid: 3, gid: 3 }),
            ],
        ),
        Workload {
            settings: |settings: &mut Settings| settings.storage_size_limit = Some(64 << 20),
            ..workload(
                "the_size_limit_reached",
                durable("a", 2, noise(1, 1000)),
                vec![
                    file("b", 3),
                    write(3, 0, noise(2, 100_000)),
                    fsync(3),
                    fallocate(3, 0, 100_000, 0),
                    unlink("b"),
                    file("c", 4),
                    write(4, 0, noise(3, 100_000)),
                    fsync(4),
                    Step::Cleanup,
                    write(2, 500, text(4, 100)),
                    Step::Sync,
                ],
            )
        },
        workload(
            "keys_of_the_library",
            durable("k", 2, text(1, 500)),
            vec![
                Step::Set(vec![set("k", 3, text(2, 700))], true),
                Step::Set(vec![set("l", 4, noise(3, 200_000))], false),
                Step::Set(
                    vec![set("k", 5, text(4, 90)), set("l", 6, text(5, 80)), set("m", 7, noise(6, 40_000))],
                    true,
                ),
                Step::Set(vec![("m", None), set("n", 8, text(7, 10))], false),
                Step::Set(vec![set("n", 9, noise(8, 300_000))], true),
                Step::Set(vec![("k", None)], true),
                Step::Cleanup,
                Step::Set(vec![set("k", 10, text(9, 33_000)), ("l", None)], false),
            ],
        ),
        // More than may ride in the journal: whoever brings the next ones helps to store them first.
        workload(
            "large_values_of_the_library",
            empty(),
            vec![
                Step::Set(large_values(10, 1), false),
                Step::Set(large_values(40, 2), true),
                Step::Set(vec![("a", None), ("b", None), set("c", 70, text(3, 20))], false),
                Step::Set(large_values(80, 4), false),
                Step::Set(vec![set("a", 110, text(5, 30))], false),
                Step::Sync,
            ],
        ),
        workload(
            "a_reopening_in_the_middle",
            durable("a", 2, noise(1, 200_000)),
            vec![
                write(2, 0, text(2, 3000)),
                file("b", 3),
                write(3, 0, noise(3, 40_000)),
                Step::Remount,
                write(3, 39_000, text(4, 2000)),
                fsync(3),
                rename("b", "a", How::Exchange),
                Step::Remount,
                unlink("a"),
                write(2, 0, text(5, 10)),
                Step::Sync,
            ],
        ),
        workload(
            "many_small_files",
            vec![mkdir("d", 2)],
            [
                (0..40u8)
                    .flat_map(|n| {
                        let id = 3 + u64::from(n);
                        let sync = if n % 8 == 7 { vec![fsync(id)] } else { vec![] };
                        [
                            vec![
                                file_in(2, &n.to_string(), id),
                                write(id, 0, text(n, 60 + u32::from(n) * 40)),
                            ],
                            sync,
                        ]
                        .concat()
                    })
                    .collect(),
                (0..40u8).filter(|n| n % 3 == 0).map(|n| call(unlink_in(2, &n.to_string()))).collect(),
                vec![Step::Sync],
            ]
            .concat(),
        ),
        // A rollback journal: written and flushed, the database changed and flushed, the journal removed.
        workload(
            "a_database_with_a_rollback_journal",
            durable("db", 2, noise(1, 150_000)),
            (0..4u8)
                .flat_map(|n| {
                    let journal = 3 + u64::from(n);
                    let page = u64::from(n) * 4096 * 5;
                    vec![
                        file("db-journal", journal),
                        write(journal, 0, text(n, 512)),
                        write(journal, 512, noise(n, 4104)),
                        fdatasync(journal),
                        write(journal, 0, text(n + 1, 12)),
                        fdatasync(journal),
                        fsync(ROOT),
                        write(2, page, noise(n + 10, 4096)),
                        write(2, 0, text(n, 100)),
                        fdatasync(2),
                        unlink("db-journal"),
                    ]
                })
                .collect(),
        ),
    ];
    for workload in &all {
        assert!(workload.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", workload.name);
    }
    all.sort_by_key(|workload| workload.name);
    all
}
