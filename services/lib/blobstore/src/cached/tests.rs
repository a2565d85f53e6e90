mod watched;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use api::Digest;
use e2e::{Scratch, Seaweed};
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::*;
use crate::conformance::{conformance, file_with, key_of, pattern, read_all};
use crate::{FsStore, Generation};
use watched::{Inner, Watched};

const MIB: usize = 1 << 20;

/// A cache in front of a watched store, and their folders.
struct Fixture {
    folder: TempDir,
    watched: Arc<Watched>,
    store: CachedStore,
}

impl Fixture {
    fn new(cap: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let watched = Arc::new(Watched {
            store: FsStore::open(&folder.path().join("store")).unwrap(),
            opens: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            fails: AtomicBool::new(false),
            is_short: AtomicBool::new(false),
            gate: Semaphore::new(1000),
        });
        let store = Self::cached(&watched, &folder.path().join("cache"), cap);
        Self { folder, watched, store }
    }

    fn cached(watched: &Arc<Watched>, folder: &Path, cap: usize) -> CachedStore {
        CachedStore::open(Arc::new(Inner(Arc::clone(watched))), folder, cap as u64).unwrap()
    }

    /// Puts bytes past the cache.
    async fn put_cold(&self, bytes: &[u8]) -> BlobKey {
        let key = key_of(bytes);
        self.watched.store.put_bytes(&key, Bytes::copy_from_slice(bytes)).await.unwrap();
        key
    }

    fn reads(&self) -> u64 {
        self.watched.reads.load(Ordering::SeqCst)
    }

    fn cache_files(&self) -> Vec<fs::Metadata> {
        let files = fs::read_dir(self.folder.path().join("cache/files")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap()).collect()
    }

    /// Returns the disk space of the cache's files, in bytes.
    fn disk_space(&self) -> u64 {
        self.cache_files().iter().map(|file| file.blocks() * 512).sum()
    }

    /// Waits until nothing is being fetched, and checks the index.
    async fn settle(&self) {
        wait_until(|| self.store.cache.is_idle()).await;
        self.store.cache.index().check();
    }
}

async fn wait_until(is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < end, "not after 30 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_directory_conforms() {
    for cap in [0, 2 * MIB, 64 * MIB] {
        let fixture = Fixture::new(cap);
        conformance(&fixture.store).await;
        fixture.settle().await;
        assert_eq!(fixture.cache_files().len(), 0, "files of deleted blobs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_bucket_conforms() {
    let folder = tempfile::tempdir().unwrap();
    for cap in [2 * MIB, 64 * MIB] {
        let bucket = crate::s3::tests::store("cached-conforms").await;
        let store = CachedStore::open(Arc::new(bucket), folder.path(), cap as u64).unwrap();
        conformance(&store).await;
    }
}

/// 200 readers of one cold block make one request.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_a_cold_block_costs_one_request() {
    let server = Seaweed::shared().unwrap();
    let bucket = crate::s3::tests::store("crowd").await;
    let bytes = pattern(3 * MIB);
    let key = key_of(&bytes);
    bucket.put_bytes(&key, bytes.clone().into()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = CachedStore::open(Arc::new(bucket), folder.path(), 64 << 20).unwrap();
    // The server counts HEAD as GET; with one open already, no other asks for the size.
    let first = store.open(&key).await.unwrap();
    let before = server.requests("crowd", "GET").unwrap();
    let readers = (0..200).map(|n| {
        let (store, key) = (store.clone(), key.clone());
        tokio::spawn(async move {
            let offset = MIB + n * 5000;
            (offset, store.open(&key).await.unwrap().read(offset as u64, 4000).await.unwrap())
        })
    });
    for reader in join_all(readers).await {
        let (offset, read) = reader.unwrap();
        assert!(read == bytes[offset..offset + 4000], "at {offset}");
    }
    assert_eq!(store.counts().fetches, 1);
    // The server counts a request after it has answered.
    let mut counted = || Ok(Some(server.requests("crowd", "GET")? - before).filter(|asked| *asked > 0));
    assert_eq!(e2e::wait::until("the count", Duration::from_secs(60), &mut counted).unwrap(), 1);
    drop(first);
}

/// A reader from front to end fetches many blocks at once; one that stops has fetched little ahead.
#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_fetched_together() {
    let fixture = Fixture::new(64 * MIB);
    let bytes = pattern(32 * MIB + 5);
    let key = fixture.put_cold(&bytes).await;
    let blob = fixture.store.open(&key).await.unwrap();
    let mut read = blob.read(0, 65_536).await.unwrap().to_vec();
    fixture.settle().await;
    assert_eq!(fixture.store.counts().fetched_bytes, MIB as u64, "after one read");
    while read.len() < bytes.len() {
        read.extend_from_slice(&blob.read(read.len() as u64, 65_536).await.unwrap());
        let ahead = fixture.store.counts().fetched_bytes.saturating_sub(read.len() as u64);
        assert!(ahead <= 9 * MIB as u64, "{ahead} bytes ahead at {}", read.len());
    }
    assert!(read == bytes);
    fixture.settle().await;
    assert_eq!(fixture.store.counts().fetched_bytes, bytes.len() as u64);
    assert!(fixture.reads() <= 12, "{} requests for 33 blocks", fixture.reads());
}

/// What was put is read from the disk, and the store is not even asked for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_put_is_hot() {
    let fixture = Fixture::new(64 * MIB);
    let spool = tempfile::tempdir_in(fixture.folder.path()).unwrap();
    let (large, small) = (pattern(5 * MIB + 7), pattern(1000));
    let (large_key, small_key) = (key_of(&large), key_of(&small));
    fixture.store.put_file(&large_key, &file_with(spool.path(), &large)).await.unwrap();
    fixture.store.put_bytes(&small_key, small.clone().into()).await.unwrap();
    for (key, bytes) in [(&large_key, &large), (&small_key, &small)] {
        assert!(read_all(&fixture.store, key).await == *bytes);
        let blob = fixture.store.open(key).await.unwrap();
        let mut local = vec![0; bytes.len()];
        blob.local_file().expect("all of it is here").read_exact_at(&mut local, 0).unwrap();
        assert!(local == *bytes);
    }
    let counts = fixture.store.counts();
    assert_eq!(
        (fixture.watched.opens.load(Ordering::SeqCst), counts.fetches, counts.misses, counts.hits),
        (0, 0, 0, 2)
    );
    assert_eq!(counts.hit_bytes, (large.len() + small.len()) as u64);
    fixture.settle().await;
}

/// A directory store moves the very file that was put; it must not get the cache's holes.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_store_kept_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let inner = FsStore::open(&folder.path().join("store")).unwrap();
    let store = CachedStore::open(Arc::new(inner.clone()), &folder.path().join("cache"), 4 << 20).unwrap();
    let bytes = pattern(2 * MIB);
    let key = key_of(&bytes);
    store.put_file(&key, &file_with(folder.path(), &bytes)).await.unwrap();
    assert_eq!(store.counts().held_bytes, 0);
    assert!(read_all(&inner, &key).await == bytes && read_all(&store, &key).await == bytes);
}

/// The cap holds on the disk, and what is left of the least used bytes is right.
#[tokio::test(flavor = "multi_thread")]
async fn the_cap_holds_and_the_least_used_leave() {
    let fixture = Fixture::new(8 * MIB);
    let blobs: Vec<_> = (0..6).map(|n| pattern(3 * MIB + n * 1111)).collect();
    let mut keys = Vec::new();
    for bytes in &blobs {
        keys.push(fixture.put_cold(bytes).await);
    }
    let hot = fixture.store.open(&keys[0]).await.unwrap();
    for round in 0..4 {
        for (key, bytes) in keys.iter().zip(&blobs) {
            assert!(hot.read(100, 50).await.unwrap() == blobs[0][100..150]);
            assert!(read_all(&fixture.store, key).await == *bytes);
            fixture.settle().await;
            let (held, disk) = (fixture.store.counts().held_bytes, fixture.disk_space());
            assert!(disk <= 8 * MIB as u64 && disk <= held, "{disk} bytes on the disk, {held} counted");
        }
        assert!(fixture.store.counts().evicted_bytes > round * 8 * MIB as u64);
    }
    // The block that was read all the time never left.
    let fetches = fixture.reads();
    hot.read(100, 50).await.unwrap();
    assert_eq!(fixture.reads(), fetches);
}

/// A file that was handed out keeps all its bytes however many others want room; those are passed on.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_use_is_not_cut() {
    let fixture = Fixture::new(4 * MIB);
    let used = pattern(2 * MIB);
    let key = key_of(&used);
    fixture.store.put_bytes(&key, used.clone().into()).await.unwrap();
    let blob = fixture.store.open(&key).await.unwrap();
    assert!(blob.local_file().is_some());
    let other = pattern(4 * MIB);
    let other_key = fixture.put_cold(&other).await;
    for _ in 0..3 {
        assert!(read_all(&fixture.store, &other_key).await == other);
        fixture.settle().await;
    }
    assert!(fixture.store.counts().unkept_bytes > 0, "nothing was passed on");
    let mut local = vec![0; used.len()];
    blob.local_file().unwrap().read_exact_at(&mut local, 0).unwrap();
    assert!(local == used);
    // Deleted, it still has them.
    fixture.store.delete(&key).await.unwrap();
    assert!(matches!(fixture.store.open(&key).await, Err(StoreError::NotFound { .. })));
    blob.local_file().unwrap().read_exact_at(&mut local, 0).unwrap();
    assert!(local == used && blob.read(0, MIB).await.is_err(), "reads past the cache find it gone");
    drop(blob);
    // Nobody uses it any more, so there is room for others.
    assert!(read_all(&fixture.store, &other_key).await == other);
    fixture.settle().await;
    assert_eq!(fixture.store.counts().held_bytes, 4 * MIB as u64);
}

/// The file that was put may still be open elsewhere, in slow clients' hands: it leaves the cache as a whole, uncut.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_file_is_never_cut() {
    let fixture = Fixture::new(8 * MIB);
    let bytes = pattern(4 * MIB);
    let key = key_of(&bytes);
    let path = file_with(fixture.folder.path(), &bytes);
    let client = fs::File::open(&path).unwrap();
    fixture.store.put_file(&key, &path).await.unwrap();
    let other = pattern(2 * MIB);
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.push(fixture.put_cold(&other).await);
        assert!(read_all(&fixture.store, &keys[keys.len() - 1]).await == other);
        fixture.settle().await;
    }
    assert_eq!(fixture.store.counts().evicted_bytes, bytes.len() as u64, "the whole of it left, and nothing else");
    let mut read = vec![0; bytes.len()];
    client.read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes && read_all(&fixture.store, &key).await == bytes);
    fixture.settle().await;
}

/// Files that were cut, replaced or removed behind our back cost a request and no wrong byte.
#[tokio::test(flavor = "multi_thread")]
async fn broken_files_are_given_up() {
    type Break = fn(&Path);
    let ways: [(&str, Break); 3] = [
        ("cut", |path| fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap()),
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("replaced", |path| {
            fs::remove_file(path).unwrap();
            fs::write(path, b"other").unwrap();
        }),
    ];
    let bytes = pattern(2 * MIB + 3);
    for (what, break_file) in ways {
        for is_open in [false, true] {
            let fixture = Fixture::new(64 * MIB);
            let key = fixture.put_cold(&bytes).await;
            assert!(read_all(&fixture.store, &key).await == bytes);
            fixture.settle().await;
            let blob = if is_open { Some(fixture.store.open(&key).await.unwrap()) } else { None };
            let files = fs::read_dir(fixture.folder.path().join("cache/files")).unwrap();
            let paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
            assert_eq!(paths.len(), 1);
            break_file(&paths[0]);
            for _ in 0..2 {
                assert!(read_all(&fixture.store, &key).await == bytes, "{what}");
                if let Some(blob) = &blob {
                    assert!(blob.read(0, bytes.len()).await.unwrap() == bytes, "{what}, open");
                }
            }
            drop(blob);
            assert!(read_all(&fixture.store, &key).await == bytes, "{what}, after");
            fixture.settle().await;
        }
    }
}

/// A start believes nothing that it finds, and two processes never have one folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_begins_with_nothing() {
    let fixture = Fixture::new(64 * MIB);
    let folder = fixture.folder.path().join("cache");
    let inner: Arc<dyn BlobStore> = Arc::new(Inner(Arc::clone(&fixture.watched)));
    let error = CachedStore::open(Arc::clone(&inner), &folder, 1).unwrap_err();
    assert!(format!("{error:?}").contains("another process"), "{error:?}");
    let bytes = pattern(2 * MIB);
    let key = fixture.put_cold(&bytes).await;
    assert!(read_all(&fixture.store, &key).await == bytes);
    let Fixture { folder: keep, watched, store } = fixture;
    drop(store);
    // What a power cut may make of any file.
    for file in fs::read_dir(folder.join("files")).unwrap() {
        fs::write(file.unwrap().path(), vec![0; 2 * MIB]).unwrap();
    }
    fs::write(folder.join("files/1"), vec![0; 2 * MIB]).unwrap();
    wait_until(|| CachedStore::open(Arc::clone(&inner), &folder, 1).is_ok()).await;
    let store = Fixture::cached(&watched, &folder, 64 * MIB);
    assert!(read_all(&store, &key).await == bytes);
    drop(keep);
}

/// When the disk is full, reads and puts go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_passed_by() {
    if !e2e::is_root() {
        return e2e::skip("a_full_disk_is_passed_by", "needs root to mount a small file system");
    }
    let disk = Scratch::new().unwrap();
    let folder = disk.folder("cache").unwrap();
    e2e::run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&folder)).unwrap();
    let mut fixture = Fixture::new(0);
    fixture.store = Fixture::cached(&fixture.watched, &folder, 64 * MIB);
    let bytes = pattern(12 * MIB);
    let key = fixture.put_cold(&bytes).await;
    for _ in 0..2 {
        assert!(read_all(&fixture.store, &key).await == bytes);
        fixture.settle().await;
    }
    let put = pattern(6 * MIB);
    let key = key_of(&put);
    fixture.store.put_bytes(&key, put.clone().into()).await.unwrap();
    assert!(read_all(&fixture.store, &key).await == put);
    assert!(fixture.store.counts().unkept_bytes > 0);
    fixture.settle().await;
    drop(fixture);
}

/// All who wait for a fetch hear of its failure, nothing of it is kept, and the next reader tries again.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_shared_and_not_kept() {
    let fixture = Fixture::new(64 * MIB);
    let bytes = pattern(MIB);
    let key = fixture.put_cold(&bytes).await;
    for kind in [&fixture.watched.fails, &fixture.watched.is_short] {
        kind.store(true, Ordering::SeqCst);
        let gate = fixture.watched.gate.acquire_many(1000).await.unwrap();
        let (before, misses) = (fixture.reads(), fixture.store.counts().misses);
        let readers: Vec<_> = (0..20)
            .map(|_| {
                let (store, key) = (fixture.store.clone(), key.clone());
                tokio::spawn(async move { store.open(&key).await.unwrap().read(5, 10).await })
            })
            .collect();
        wait_until(|| fixture.store.counts().misses == misses + 20 && fixture.reads() > before).await;
        drop(gate);
        for reader in readers {
            let error = reader.await.unwrap().unwrap_err();
            assert!(error.is_transient(), "{error:?}");
        }
        assert_eq!(fixture.reads() - before, 1);
        kind.store(false, Ordering::SeqCst);
        fixture.settle().await;
        assert_eq!(fixture.store.counts().held_bytes, 0);
    }
    assert!(read_all(&fixture.store, &key).await == bytes);
}

/// A reader that leaves takes the fetch away from nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_outlives_its_first_reader() {
    let fixture = Fixture::new(64 * MIB);
    let bytes = pattern(MIB);
    let key = fixture.put_cold(&bytes).await;
    let gate = fixture.watched.gate.acquire_many(1000).await.unwrap();
    let (store, first_key) = (fixture.store.clone(), key.clone());
    let first = tokio::spawn(async move { store.open(&first_key).await.unwrap().read(0, 10).await });
    wait_until(|| fixture.reads() == 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let blob = fixture.store.open(&key).await.unwrap();
    let (second, ()) = tokio::join!(blob.read(10, 10), async { drop(gate) });
    assert_eq!(second.unwrap(), bytes[10..20]);
    assert_eq!(fixture.reads(), 1);
}

/// Many readers of many blobs in a cache that is far too small, with deletes and puts between: every byte is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_byte_is_wrong_in_a_cache_that_is_too_small() {
    let fixture = Fixture::new(6 * MIB);
    let bytes = Arc::new(pattern(4 * MIB + 777));
    let digest = Digest::of(&bytes);
    let keys: Arc<Vec<_>> = Arc::new((0..5).map(|_| BlobKey::blob(&digest, Generation::random())).collect());
    for key in keys.iter() {
        fixture.watched.store.put_bytes(key, Bytes::copy_from_slice(&bytes)).await.unwrap();
    }
    let tasks = (0..8_u64).map(|task| {
        let (store, bytes, keys) = (fixture.store.clone(), Arc::clone(&bytes), Arc::clone(&keys));
        tokio::spawn(async move {
            let mut state = task + 1;
            let mut random = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            for _ in 0..400 {
                let key = &keys[random(keys.len())];
                if random(40) == 0 {
                    // A delete of what is cached, and the same bytes again.
                    store.cache.forget(std::slice::from_ref(key)).await;
                    store.put_bytes(key, Bytes::copy_from_slice(&bytes)).await.unwrap();
                }
                let blob = store.open(key).await.unwrap();
                let mut offset = random(bytes.len());
                for _ in 0..=random(4) {
                    let len = random(300_000).min(bytes.len() - offset);
                    let read = blob.read(offset as u64, len).await.unwrap();
                    assert!(read == bytes[offset..offset + len], "{len} bytes at {offset}");
                    offset += len;
                }
                if let Some(file) = blob.local_file() {
                    let mut local = vec![0; 700];
                    file.read_exact_at(&mut local, 4 << 20).unwrap();
                    assert!(local == bytes[4 << 20..(4 << 20) + 700]);
                }
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    fixture.settle().await;
    let disk = fixture.disk_space();
    assert!(disk <= 6 * MIB as u64, "{disk} bytes on the disk");
    assert!(fixture.store.counts().evicted_bytes > 0);
}
