use std::path::Path;

use api::Digest;

use super::*;
use crate::Generation;
use crate::conformance::conformance;

fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_conforms() {
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(&root.path().join("a/b")).unwrap();
    conformance(&store).await;
    assert_eq!(files_in(&root.path().join("a/b/partial")), 0);
    // A second start finds everything made.
    conformance(&FsStore::open(&root.path().join("a/b")).unwrap()).await;
}

/// `/dev/shm` is a file system of its own on every Linux the tests run on; where it is not, this is one more rename.
#[tokio::test]
async fn a_file_of_another_file_system_is_copied() {
    let (root, spool) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let store = FsStore::open(root.path()).unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = spool.path().join("spool");
    fs::write(&file, &bytes).unwrap();
    let key = BlobKey::blob(&Digest::of(&bytes), Generation::random());
    store.put_file(&key, &file).await.unwrap();
    assert!(!file.try_exists().unwrap());
    assert_eq!(store.open(&key).await.unwrap().read(0, usize::MAX).await.unwrap(), bytes);
    assert_eq!(files_in(&root.path().join("partial")), 0);
}

#[tokio::test]
async fn an_open_blob_outlives_its_key() {
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(root.path()).unwrap();
    let key = BlobKey::blob(&Digest::of(b"kept"), Generation::random());
    store.put_bytes(&key, Bytes::from_static(b"kept")).await.unwrap();
    let blob = store.open(&key).await.unwrap();
    store.delete(&key).await.unwrap();
    assert_eq!(blob.read(0, 4).await.unwrap(), "kept");
}

/// What cannot be deleted is named, and keeps nothing else.
#[tokio::test]
async fn a_key_that_cannot_be_deleted_keeps_no_others() {
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(root.path()).unwrap();
    let keys: Vec<_> = (0..3).map(|_| BlobKey::blob(&Digest::of(b"many"), Generation::random())).collect();
    for key in [&keys[0], &keys[2]] {
        store.put_bytes(key, Bytes::from_static(b"many")).await.unwrap();
    }
    // Not even root deletes a folder as a file.
    fs::create_dir(root.path().join(keys[1].to_string())).unwrap();
    let refused = store.delete_many(&keys).await.unwrap();
    assert_eq!(refused.iter().map(|refusal| &refusal.key).collect::<Vec<_>>(), [&keys[1]]);
    assert!(refused[0].error.to_string().contains(&keys[1].to_string()), "{}", refused[0].error);
    let left: Vec<_> = store.list(None, usize::MAX).await.unwrap().into_iter().map(|listed| listed.key).collect();
    assert_eq!(left, [keys[1].clone()]);
}

#[tokio::test]
async fn a_file_cut_behind_our_back_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(root.path()).unwrap();
    let key = BlobKey::blob(&Digest::of(b"whole"), Generation::random());
    store.put_bytes(&key, Bytes::from_static(b"whole")).await.unwrap();
    let blob = store.open(&key).await.unwrap();
    fs::write(root.path().join(key.to_string()), b"who").unwrap();
    assert!(matches!(blob.read(0, 5).await, Err(StoreError::Truncated { size: 5, .. })));
}

/// A start removes what a dead writer left and nothing that a live one still writes.
#[test]
fn a_start_sweeps_dead_partials_only() {
    let root = tempfile::tempdir().unwrap();
    FsStore::open(root.path()).unwrap();
    let folder = root.path().join("partial");
    fs::write(folder.join("left by a crash"), b"half").unwrap();
    let mut live = Partial::create(root.path()).unwrap();
    FsStore::open(root.path()).unwrap();
    assert_eq!(files_in(&folder), 1);
    live.fill(&mut &b"whole"[..]).unwrap();
    let target = root.path().join("published");
    live.publish(&target).unwrap();
    assert_eq!(fs::read(target).unwrap(), b"whole");
    drop(Partial::create(root.path()).unwrap());
    assert_eq!(files_in(&folder), 0);
}

#[tokio::test]
async fn foreign_files_are_not_listed() {
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(root.path()).unwrap();
    fs::create_dir(root.path().join("blobs/sha256/zz")).unwrap();
    fs::write(root.path().join("blobs/sha256/zz/notes"), b"").unwrap();
    fs::write(root.path().join("blobs/sha256/readme"), b"").unwrap();
    assert!(store.list(None, 10).await.unwrap().is_empty());
}

/// The age of a key counts from its put, however long ago its file was written.
#[tokio::test]
async fn a_file_is_as_old_as_its_put() {
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(root.path()).unwrap();
    let file = root.path().join("spool");
    fs::write(&file, b"written long ago").unwrap();
    File::options().write(true).open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let key = BlobKey::blob(&Digest::of(b"written long ago"), Generation::random());
    store.put_file(&key, &file).await.unwrap();
    let listed = store.list(None, 1).await.unwrap().pop().unwrap();
    assert_eq!((listed.key, listed.size), (key, 16));
    assert!(listed.put_at.elapsed().unwrap_or_default() < Duration::from_secs(600), "{:?}", listed.put_at);
}
