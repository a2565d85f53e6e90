//! What every [`BlobStore`] must do, as tests that any implementation can be run through.
//!
//! Each function panics at the first thing that is wrong. They use random keys, so the store need not be empty,
//! and they leave nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::Digest;
use bytes::Bytes;

use crate::{BlobKey, BlobStore, Generation, Listed, MetaKey, MetaKind, OpenBlob, StoreError};

/// Runs every test of this module.
pub async fn conformance(store: &dyn BlobStore) {
    bytes_come_back(store).await;
    files_are_taken_over(store).await;
    missing_keys_say_so(store).await;
    failed_puts_leave_nothing(store).await;
    reads_stop_at_the_end(store).await;
    generations_are_apart(store).await;
    lists_are_ordered_and_paged(store).await;
    many_are_deleted_together(store).await;
    sweeps_spare_what_is_whole(store).await;
    meta_objects_are_replaced_and_deleted(store).await;
    meta_objects_are_listed_in_order(store).await;
}

pub(crate) fn key_of(bytes: &[u8]) -> BlobKey {
    BlobKey::blob(&Digest::of(bytes), Generation::random())
}

/// Returns `len` bytes that no two offsets share a pattern of.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0_u64..).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).take(len).collect()
}

pub(crate) fn file_with(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("file");
    fs::write(&path, bytes).expect("a temporary file can be written");
    path
}

pub(crate) async fn read_all(store: &dyn BlobStore, key: &BlobKey) -> Bytes {
    let blob = store.open(key).await.expect("the key opens");
    let size = usize::try_from(blob.size()).expect("the blob fits in memory");
    blob.read(0, size).await.expect("the blob reads")
}

/// Reads off the async threads, into a buffer of `0xee`.
async fn read_blocking(blob: &Arc<dyn OpenBlob>, offset: u64, len: usize) -> (usize, Vec<u8>) {
    let blob = Arc::clone(blob);
    telemetry::blocking(move || {
        let mut buf = vec![0xee; len];
        (blob.read_blocking(&mut buf, offset).expect("a blocking read succeeds"), buf)
    })
    .await
}

/// What was put comes back: nothing, a little, and more than one read's worth; a repeated put is no error.
pub async fn bytes_come_back(store: &dyn BlobStore) {
    for len in [0, 1, 300_000, 3 << 20] {
        let bytes = Bytes::from(pattern(len));
        for key in [key_of(&bytes), BlobKey::toc(&Digest::of(&bytes), Generation::random())] {
            store.put_bytes(&key, bytes.clone()).await.expect("a put succeeds");
            store.put_bytes(&key, bytes.clone()).await.expect("a repeated put succeeds");
            assert_eq!(store.open(&key).await.expect("the key opens").size(), len as u64);
            assert!(read_all(store, &key).await == bytes, "{len} bytes came back different");
            store.delete(&key).await.expect("a delete succeeds");
        }
    }
}

/// A file's bytes come back, and the file is gone from its old place.
pub async fn files_are_taken_over(store: &dyn BlobStore) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for len in [0, 5, 2 << 20] {
        let bytes = pattern(len);
        let key = key_of(&bytes);
        let file = file_with(folder.path(), &bytes);
        store.put_file(&key, &file).await.expect("a put succeeds");
        assert!(!file.try_exists().expect("the folder can be asked"), "the file is still in its old place");
        assert!(read_all(store, &key).await == bytes, "{len} bytes came back different");
        // Again, as after a crash between the put and the row.
        let again = file_with(folder.path(), &bytes);
        store.put_file(&key, &again).await.expect("a repeated put succeeds");
        assert!(read_all(store, &key).await == bytes, "{len} bytes came back different the second time");
        store.delete(&key).await.expect("a delete succeeds");
    }
}

/// A missing key is [`StoreError::NotFound`] with that key, and deleting it is no error.
pub async fn missing_keys_say_so(store: &dyn BlobStore) {
    let key = key_of(b"never put");
    let error = store.open(&key).await.expect_err("a missing key does not open");
    assert!(matches!(&error, StoreError::NotFound { key: named } if *named == key), "{error:?}");
    assert!(!error.is_transient());
    store.delete(&key).await.expect("deleting nothing succeeds");
}

/// A put of a file that is not there is an error, and its key stays missing.
pub async fn failed_puts_leave_nothing(store: &dyn BlobStore) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let key = key_of(b"absent");
    store.put_file(&key, &folder.path().join("absent")).await.expect_err("an absent file cannot be put");
    assert!(matches!(store.open(&key).await, Err(StoreError::NotFound { .. })));
}

/// Reads give exactly what was asked for, less only at the end; both ways of reading agree.
pub async fn reads_stop_at_the_end(store: &dyn BlobStore) {
    let bytes = pattern(1_000_003);
    let key = key_of(&bytes);
    store.put_bytes(&key, bytes.clone().into()).await.expect("a put succeeds");
    let blob = store.open(&key).await.expect("the key opens");
    for (offset, len) in
        [(0, 0), (0, 1), (0, 1_000_003), (0, 2_000_000), (17, 65_536), (999_999, 100), (1_000_003, 1), (u64::MAX, 9)]
    {
        let start = usize::try_from(offset).map_or(bytes.len(), |o| o.min(bytes.len()));
        let expected = &bytes[start..bytes.len().min(start.saturating_add(len))];
        let read = blob.read(offset, len).await.expect("a read succeeds");
        assert!(read == expected, "{len} bytes at {offset} are wrong");
        let (count, buf) = read_blocking(&blob, offset, len).await;
        assert!(&buf[..count] == expected, "{len} bytes at {offset}, read blocking, are wrong");
        assert!(buf[count..].iter().all(|&b| b == 0xee), "a read wrote past what it returned");
    }
    if let Some(file) = blob.local_file() {
        let len = file.metadata().expect("the file can be asked").len();
        assert_eq!(len, bytes.len() as u64, "the local file holds something else");
    }
    store.delete(&key).await.expect("a delete succeeds");
}

/// Two generations of one digest live and die apart.
pub async fn generations_are_apart(store: &dyn BlobStore) {
    let bytes = Bytes::from_static(b"two generations");
    let (first, second) = (key_of(&bytes), key_of(&bytes));
    store.put_bytes(&first, bytes.clone()).await.expect("a put succeeds");
    store.put_bytes(&second, bytes.clone()).await.expect("a put succeeds");
    store.delete(&first).await.expect("a delete succeeds");
    assert!(matches!(store.open(&first).await, Err(StoreError::NotFound { .. })));
    assert_eq!(read_all(store, &second).await, bytes);
    store.delete(&second).await.expect("a delete succeeds");
}

/// Lists are in order, say sizes, resume after a key (present or not), and end with an empty answer.
pub async fn lists_are_ordered_and_paged(store: &dyn BlobStore) {
    let mut put = BTreeSet::new();
    for n in 0..40_u8 {
        let bytes = vec![n; usize::from(n)];
        let digest = Digest::of(&bytes);
        for key in [BlobKey::blob(&digest, Generation::random()), BlobKey::toc(&digest, Generation::random())] {
            store.put_bytes(&key, bytes.clone().into()).await.expect("a put succeeds");
            put.insert((key, u64::from(n)));
        }
    }
    let mut listed = Vec::new();
    loop {
        let page = store.list(listed.last().map(|listed: &Listed| &listed.key), 7).await.expect("a list succeeds");
        assert!(page.len() <= 7, "a page has {} keys", page.len());
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    assert!(listed.iter().map(|listed| &listed.key).is_sorted(), "the list is out of order");
    // To the second, and the store's clock may be another machine's.
    let is_recent = |at: SystemTime| at.elapsed().is_ok_and(|age| age < Duration::from_secs(600));
    assert!(listed.iter().all(|listed| is_recent(listed.put_at)), "the list tells wrong times: {listed:?}");
    let listed: BTreeSet<_> = listed.into_iter().map(|listed| (listed.key, listed.size)).collect();
    assert!(listed.is_superset(&put), "the list lacks keys");
    assert!(store.list(None, 0).await.expect("a list succeeds").is_empty());

    // Resuming after a key that was deleted meanwhile goes on where it stood.
    let keys: Vec<_> = put.iter().map(|(key, _)| key.clone()).collect();
    store.delete(&keys[3]).await.expect("a delete succeeds");
    let rest = store.list(Some(&keys[3]), usize::MAX).await.expect("a list succeeds");
    let rest: BTreeSet<_> = rest.into_iter().map(|listed| listed.key).collect();
    assert!(keys[..=3].iter().all(|key| !rest.contains(key)) && keys[4..].iter().all(|key| rest.contains(key)));
    for key in &keys {
        store.delete(key).await.expect("a delete succeeds");
    }
}

/// Of many keys those that are named are deleted and no others; a key that is not there is no error.
pub async fn many_are_deleted_together(store: &dyn BlobStore) {
    let bytes = Bytes::from_static(b"one of many");
    let keys: Vec<_> = (0..6).map(|_| key_of(&bytes)).collect();
    for key in &keys[..5] {
        store.put_bytes(key, bytes.clone()).await.expect("a put succeeds");
    }
    assert!(store.delete_many(&keys[1..]).await.expect("deleting many succeeds").is_empty());
    for key in &keys[1..] {
        assert!(matches!(store.open(key).await, Err(StoreError::NotFound { .. })), "{key} is still there");
    }
    assert_eq!(read_all(store, &keys[0]).await, bytes);
    assert!(store.delete_many(&keys[..1]).await.expect("deleting one succeeds").is_empty());
    assert!(store.delete_many(&[]).await.expect("deleting none succeeds").is_empty());
    assert!(matches!(store.open(&keys[0]).await, Err(StoreError::NotFound { .. })));
}

/// A sweep takes nothing that was put, however old.
pub async fn sweeps_spare_what_is_whole(store: &dyn BlobStore) {
    let bytes = Bytes::from_static(b"whole");
    let key = key_of(&bytes);
    store.put_bytes(&key, bytes.clone()).await.expect("a put succeeds");
    store.sweep_uploads(Duration::ZERO).await.expect("a sweep succeeds");
    assert_eq!(read_all(store, &key).await, bytes);
    store.delete(&key).await.expect("a delete succeeds");
}

/// Returns the key of a meta object that no other call of this process or another returns.
fn meta_key(kind: MetaKind) -> MetaKey {
    MetaKey::new(kind, &["conformance", &Generation::random().to_string()])
}

/// A meta object reads as it was last put, is gone when it was deleted, and is no blob.
pub async fn meta_objects_are_replaced_and_deleted(store: &dyn BlobStore) {
    for kind in MetaKind::ALL {
        let key = meta_key(kind);
        assert_eq!(store.meta(&key).await.expect("a read succeeds"), None);
        for bytes in [&b"first"[..], b"", b"{\"a\": \"longer than the first\"}"] {
            store.put_meta(&key, Bytes::copy_from_slice(bytes)).await.expect("a put succeeds");
            assert_eq!(store.meta(&key).await.expect("a read succeeds").as_deref(), Some(bytes));
        }
        store.sweep_uploads(Duration::ZERO).await.expect("a sweep succeeds");
        assert!(store.meta(&key).await.expect("a read succeeds").is_some(), "a sweep took a meta object");
        store.delete_meta(&key).await.expect("a delete succeeds");
        store.delete_meta(&key).await.expect("deleting nothing succeeds");
        assert_eq!(store.meta(&key).await.expect("a read succeeds"), None);
    }
}

/// Lists of meta objects are in order, resume after a key (present or not), and end with an empty answer; lists of
/// blobs have none of them.
pub async fn meta_objects_are_listed_in_order(store: &dyn BlobStore) {
    let put: BTreeSet<_> = (0..30).map(|n: usize| meta_key(MetaKind::ALL[n % MetaKind::ALL.len()])).collect();
    for key in &put {
        store.put_meta(key, Bytes::from_static(b"{}")).await.expect("a put succeeds");
    }
    let blob = key_of(b"beside meta objects");
    store.put_bytes(&blob, Bytes::from_static(b"beside meta objects")).await.expect("a put succeeds");
    let mut listed: Vec<MetaKey> = Vec::new();
    loop {
        let page = store.list_meta(listed.last(), 7).await.expect("a list succeeds");
        assert!(page.len() <= 7, "a page has {} keys", page.len());
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    assert!(listed.is_sorted(), "the list is out of order");
    let listed: BTreeSet<_> = listed.into_iter().collect();
    assert!(listed.is_superset(&put), "the list lacks keys");
    assert!(store.list_meta(None, 0).await.expect("a list succeeds").is_empty());
    let blobs = store.list(None, usize::MAX).await.expect("a list succeeds");
    assert!(blobs.iter().any(|listed| listed.key == blob), "the list of blobs lacks one");

    let keys: Vec<_> = put.into_iter().collect();
    store.delete_meta(&keys[3]).await.expect("a delete succeeds");
    let rest: BTreeSet<_> =
        store.list_meta(Some(&keys[3]), usize::MAX).await.expect("a list succeeds").into_iter().collect();
    assert!(keys[..=3].iter().all(|key| !rest.contains(key)) && keys[4..].iter().all(|key| rest.contains(key)));
    for key in &keys {
        store.delete_meta(key).await.expect("a delete succeeds");
    }
    store.delete(&blob).await.expect("a delete succeeds");
}
