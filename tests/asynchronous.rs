//! The library on tokio.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use larder::Error;
use larder::store::{AsyncStore, Batch, Expiry, SetOptions, Store, Touch};
use support::mounted::Mounted;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A store in a directory that goes with it.
async fn opened() -> (tempfile::TempDir, AsyncStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = AsyncStore::open(dir.path().join("store")).await.unwrap();
    (dir, store)
}

async fn listed(store: &AsyncStore, prefix: &str) -> Vec<String> {
    let (mut keys, mut found) = (store.keys(prefix), Vec::new());
    while let Some(key) = keys.next().await {
        found.push(key.unwrap().to_string());
    }
    found
}

#[tokio::test]
async fn what_is_awaited_does_what_the_blocking_call_does() {
    let (dir, store) = opened().await;
    store.set("a/b", "value").await.unwrap();
    assert_eq!(store.get("a/b").await.unwrap().unwrap(), b"value");
    assert!(store.exists("a/b").await.unwrap() && !store.exists("a/c").await.unwrap());
    assert_eq!(store.get("a/c").await.unwrap(), None);
    assert!(matches!(store.set("../x", "").await, Err(Error::Key { .. })));
    store.set_with("t", "x", SetOptions::new().ttl(Duration::from_secs(100))).await.unwrap();
    let stat = store.stat("t").await.unwrap().unwrap();
    assert!(stat.expires.unwrap() > stat.modified + Duration::from_secs(90));
    store.touch("t", Touch::Both).await.unwrap();
    store.expire("t", Expiry::Never).await.unwrap();
    assert_eq!(store.stat("t").await.unwrap().unwrap().expires, None);
    let mut batch = Batch::new();
    batch.set("c", "3").unwrap().delete("t").unwrap();
    assert_eq!(store.apply(batch).await.unwrap(), [false, true]);
    assert!(store.delete("c").await.unwrap() && !store.delete("c").await.unwrap());
    assert!(store.has("a/b").await.unwrap() && !store.has("a/c").await.unwrap());
    assert_eq!(store.resolve("a/b").unwrap(), None, "it is not mounted");
    assert_eq!(store.align().await.unwrap().evicted, 0);
    store.cleanup().await.unwrap();
    assert!(store.exists("a/b").await.unwrap());
    store.change_setting("storage-size-limit", "96MiB").await.unwrap();
    assert!(matches!(store.change_setting("commit-interval", "1s").await, Err(Error::Config(_))));
    assert_eq!(store.stats().await.unwrap().size_limit, Some(96 << 20));
    store.set("dir/a", "x").await.unwrap();
    assert!(store.delete_all("dir").await.unwrap() && !store.delete_all("dir").await.unwrap());
    assert_eq!(store.chores().await.unwrap().expired, 0);
    assert!(store.would_align().await.unwrap().goal.is_some());
    assert!(store.scrub(larder::store::Place::default(), u64::MAX).await.unwrap().hurt.is_empty());
    let outcome =
        store.try_lock("key", async { store.try_lock("key", async {}).await.unwrap() }).await.unwrap();
    assert_eq!(outcome, Some(None), "it is held within");
    store.clear().await.unwrap();
    assert!(listed(&store, "").await.is_empty());
    store.set("a/b", "value").await.unwrap();
    store.sync().await.unwrap();
    store.close().await.unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    assert_eq!(store.get("a/b").unwrap().unwrap(), b"value");
    store.close().unwrap();
}

#[tokio::test]
async fn keys_are_listed_whole_and_in_order_also_when_they_come_in_several_goes() {
    let (_dir, store) = opened().await;
    let names: Vec<String> = (0..2500).map(|n| format!("many/{n:05}")).collect();
    for part in names.chunks(500) {
        let mut batch = Batch::new();
        for name in part {
            batch.set(name, "x").unwrap();
        }
        store.apply(batch).await.unwrap();
    }
    assert_eq!(listed(&store, "many/").await, names);
    assert_eq!(listed(&store, "many/0249").await, names[2490..]);
    assert!(listed(&store, "none/").await.is_empty());
    store.close().await.unwrap();
}

#[tokio::test]
async fn values_longer_than_any_buffer_are_streamed_both_ways_and_one_given_up_leaves_the_key() {
    let (_dir, store) = opened().await;
    let value: Vec<u8> = (0..3_000_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut writer = store.writer("big", &SetOptions::new()).unwrap();
    for part in value.chunks(77_777) {
        writer.write_all(part).await.unwrap();
    }
    assert!(!store.exists("big").await.unwrap());
    assert_eq!(writer.finish().await.unwrap(), value.len() as u64);
    let mut read = Vec::new();
    let mut reader = store.reader("big").await.unwrap().unwrap();
    // What is read is what was there at the beginning.
    store.set("big", "small").await.unwrap();
    let mut piece = vec![0; 10_001];
    loop {
        let count = reader.read(&mut piece).await.unwrap();
        if count == 0 {
            break;
        }
        read.extend_from_slice(&piece[..count]);
    }
    assert!(read == value);
    assert!(store.reader("none").await.unwrap().is_none());

    let mut writer = store.writer("big", &SetOptions::new()).unwrap();
    writer.write_all(&value).await.unwrap();
    drop(writer);
    assert_eq!(store.get("big").await.unwrap().unwrap(), b"small");
    assert_eq!(listed(&store, "").await, ["big"]);
    store.close().await.unwrap();
}

/// One thread runs all tasks: one that blocked it would stop the others for good.
#[tokio::test(flavor = "current_thread")]
async fn a_lock_excludes_other_tasks_without_stopping_them() {
    let (_dir, store) = opened().await;
    store.set("count", "0").await.unwrap();
    let inside = Arc::new(AtomicU32::new(0));
    let add = |store: AsyncStore, inside: Arc<AtomicU32>| async move {
        let work = async {
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are inside");
            let count: u32 = String::from_utf8(store.get("count").await?.unwrap()).unwrap().parse().unwrap();
            tokio::task::yield_now().await;
            store.set("count", (count + 1).to_string()).await?;
            inside.fetch_sub(1, Ordering::SeqCst);
            Ok::<(), Error>(())
        };
        store.lock("count", work).await.unwrap().unwrap();
    };
    let tasks: Vec<_> = (0..40).map(|_| tokio::spawn(add(store.clone(), Arc::clone(&inside)))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.get("count").await.unwrap().unwrap(), b"40");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_mounted_store_is_reached_from_tokio_too() {
    let Some(mounted) = Mounted::new() else { return };
    let store = AsyncStore::connect(mounted.point()).await.unwrap();
    store.set("dir/key", "value").await.unwrap();
    assert_eq!(std::fs::read(mounted.at("dir/key")).unwrap(), b"value");
    assert_eq!(store.get("dir/key").await.unwrap().unwrap(), b"value");
    assert_eq!(listed(&store, "").await, ["dir/key"]);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_listing_goes_on_where_it_was_when_nobody_waited_for_a_key() {
    let (_dir, store) = opened().await;
    let names: Vec<String> = (0..20).map(|n| format!("key{n:02}")).collect();
    for name in &names {
        store.set(name, "x").await.unwrap();
    }
    let (mut keys, mut found, mut given_up) = (store.keys(""), Vec::new(), 0);
    loop {
        let asked = tokio::select! {
            biased;
            key = keys.next() => Some(key),
            () = std::future::ready(()) => None,
        };
        match asked {
            Some(Some(key)) => found.push(key.unwrap().to_string()),
            Some(None) => break,
            None => {
                given_up += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    assert_eq!(found, names);
    assert!(given_up > 0);
}
