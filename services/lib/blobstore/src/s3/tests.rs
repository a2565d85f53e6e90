use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use api::Digest;
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_s3::primitives::ByteStream;
use e2e::Seaweed;
use futures_util::{StreamExt, stream};
use tokio::runtime::Runtime;

use super::*;
use crate::Generation;
use crate::conformance::{conformance, file_with, key_of, pattern, read_all};

const MIB: usize = 1 << 20;

/// Returns the configuration for `bucket` of `server`.
fn config(server: &Seaweed, bucket: &str) -> S3Config {
    S3Config {
        bucket: bucket.into(),
        prefix: "some/where".into(),
        endpoint: Some(server.endpoint()),
        region: None,
        path_style: true,
    }
}

async fn open(config: &S3Config, secret: &str) -> Result<S3Store, StoreError> {
    let credentials = Credentials::new(Seaweed::ACCESS_KEY, secret, None, None, "tests");
    S3Store::over(Bucket::connect(config, Some(SharedCredentialsProvider::new(credentials))).await).await
}

/// Returns a store in a new `bucket` of `server`.
pub(crate) async fn store_on(server: &Seaweed, bucket: &str) -> S3Store {
    server.make_bucket(bucket).unwrap();
    open(&config(server, bucket), Seaweed::SECRET_KEY).await.unwrap()
}

/// Returns a store in a new `bucket` of the shared server.
pub(crate) async fn store(bucket: &str) -> S3Store {
    store_on(Seaweed::shared().unwrap(), bucket).await
}

/// Polls until the store has as many unfinished uploads as that.
async fn wait_for_uploads(store: &S3Store, count: usize) {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let list = store.bucket.client.list_multipart_uploads().bucket(&store.bucket.name).send().await.unwrap();
        if list.uploads().len() == count {
            return;
        }
        assert!(Instant::now() < end, "{} uploads, not {count}", list.uploads().len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_conforms() {
    conformance(&store("conforms").await).await;
    let bare = S3Config { prefix: String::new(), ..config(Seaweed::shared().unwrap(), "conforms") };
    conformance(&open(&bare, Seaweed::SECRET_KEY).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_in_parts_and_comes_back() {
    let store = store("large").await;
    let folder = tempfile::tempdir().unwrap();
    let bytes = pattern(3 * 16 * MIB + 4321);
    let key = key_of(&bytes);
    for _ in 0..2 {
        let file = file_with(folder.path(), &bytes);
        store.put_file(&key, &file).await.unwrap();
        assert!(!file.try_exists().unwrap());
        assert!(read_all(&store, &key).await == bytes);
    }
    let head = store.bucket.client.head_object().bucket("large").key(store.bucket.object(&key)).send().await.unwrap();
    assert!(head.e_tag().unwrap().contains("-4"), "not four parts: {:?}", head.e_tag());
    wait_for_uploads(&store, 0).await;
}

/// What the service stores has the digest of its key, or is not stored.
#[tokio::test]
async fn wrong_bytes_are_refused() {
    let store = store("wrong").await;
    let key = key_of(b"right");
    // AWS says BadDigest, SeaweedFS 500.
    store.put_bytes(&key, Bytes::from_static(b"wrong")).await.unwrap_err();
    assert!(matches!(store.open(&key).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let server = Seaweed::shared().unwrap();
    let missing = open(&config(server, "missing"), Seaweed::SECRET_KEY).await.unwrap_err();
    assert_eq!(missing.to_string(), "cannot use the bucket s3://missing: create the bucket, or correct storage.bucket");
    server.make_bucket("errors").unwrap();
    let stranger = open(&config(server, "errors"), "guessed").await.unwrap_err();
    assert!(stranger.to_string().contains("allow these credentials"), "{stranger}");
    assert!(!missing.is_transient() && !stranger.is_transient());
    let nobody = S3Config { endpoint: Some("http://127.0.0.1:9".into()), ..config(server, "errors") };
    let away = open(&nobody, Seaweed::SECRET_KEY).await.unwrap_err();
    assert!(away.is_transient(), "{away:?}");
}

/// When the bucket itself is gone, that is not said to be true of each of its keys.
#[tokio::test]
async fn a_bucket_that_went_away_is_not_a_missing_key() {
    let store = store("goes").await;
    store.bucket.client.delete_bucket().bucket("goes").send().await.unwrap();
    let error = store.open(&key_of(b"x")).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn an_open_blob_notices_what_happens_to_its_object() {
    let store = store("replaced").await;
    // The service cannot check a SHA-512, so it takes other bytes under the same key.
    let key = BlobKey::blob(&Digest::from_sha512(&[3; 64]), Generation::random());
    store.put_bytes(&key, Bytes::from_static(b"first")).await.unwrap();
    let blob = store.open(&key).await.unwrap();
    store.put_bytes(&key, Bytes::from_static(b"other")).await.unwrap();
    let error = blob.read(0, 5).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let blob = store.open(&key).await.unwrap();
    assert_eq!(blob.read(0, 5).await.unwrap(), "other");
    store.delete(&key).await.unwrap();
    assert!(matches!(blob.read(0, 5).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn foreign_objects_are_not_listed() {
    let store = store("foreign").await;
    for name in ["readme", "some/where/notes", "some/where/blobs/sha256/zz/notes"] {
        let put = store.bucket.client.put_object().bucket("foreign").key(name);
        put.body(ByteStream::from_static(b"")).send().await.unwrap();
    }
    assert!(store.list(None, 10).await.unwrap().is_empty());
    let key = key_of(b"ours");
    store.put_bytes(&key, Bytes::from_static(b"ours")).await.unwrap();
    let listed = store.list(None, 1).await.unwrap();
    assert_eq!(listed.iter().map(|listed| (&listed.key, listed.size)).collect::<Vec<_>>(), [(&key, 4)]);
}

/// More than one answer's worth of keys, and more than one request's.
#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_thousand_are_listed_and_deleted() {
    let store = store("thousand").await;
    let digest = Digest::of(b"");
    let mut keys: Vec<_> = (0..1005).map(|_| BlobKey::blob(&digest, Generation::random())).collect();
    keys.sort();
    let puts = stream::iter(&keys).map(|key| store.put_bytes(key, Bytes::new())).buffer_unordered(32);
    assert_eq!(puts.filter(|put| std::future::ready(put.is_ok())).count().await, keys.len());
    let listed = store.list(None, 2000).await.unwrap();
    assert!(listed.iter().map(|listed| &listed.key).eq(&keys), "{} of {} keys", listed.len(), keys.len());
    assert!(store.delete_many(&keys).await.unwrap().is_empty());
    assert!(store.list(None, 2000).await.unwrap().is_empty());
}

/// Polls until a part has arrived; SeaweedFS tidies uploads without any away.
async fn wait_for_a_part(store: &S3Store) {
    let Bucket { client, name, .. } = &*store.bucket;
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let uploads = client.list_multipart_uploads().bucket(name).send().await.unwrap();
        if let Some(upload) = uploads.uploads().first() {
            let list = client.list_parts().bucket(name).set_key(upload.key.clone());
            let parts = list.set_upload_id(upload.upload_id.clone()).send().await.unwrap();
            if !parts.parts().is_empty() {
                return;
            }
        }
        assert!(Instant::now() < end, "no part");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns a file of 4 GiB, all of it a hole, which no put of a test gets to the end of; and a key.
fn endless_file(folder: &Path) -> (BlobKey, PathBuf) {
    let path = folder.join("endless");
    fs::File::create(&path).unwrap().set_len(4 << 30).unwrap();
    (key_of(b"endless"), path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_dropped_is_taken_away() {
    let store = store("dropped").await;
    let folder = tempfile::tempdir().unwrap();
    let (key, file) = endless_file(folder.path());
    tokio::select! {
        put = store.put_file(&key, &file) => panic!("put before it was dropped: {put:?}"),
        () = wait_for_a_part(&store) => {}
    }
    wait_for_uploads(&store, 0).await;
    assert!(matches!(store.open(&key).await, Err(StoreError::NotFound { .. })));
    assert!(file.try_exists().unwrap(), "the file is gone though it was not put");
}

/// Another process takes the upload of a living put for a dead one's: the put says that it may be tried again, from the same file.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_upload_was_taken_away_may_be_tried_again() {
    let store = store("taken").await;
    let folder = tempfile::tempdir().unwrap();
    let (key, file) = endless_file(folder.path());
    let (put, ()) = tokio::join!(store.put_file(&key, &file), async {
        wait_for_a_part(&store).await;
        assert_eq!(store.sweep_uploads_of(key.digest()).await.unwrap(), 1);
    });
    let error = put.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(file.try_exists().unwrap(), "the file is gone though it was not put");
    let (key, file) = (key_of(&pattern(17 * MIB)), file_with(folder.path(), &pattern(17 * MIB)));
    store.put_file(&key, &file).await.unwrap();
    wait_for_uploads(&store, 0).await;
}

/// A process that dies in a put leaves an upload that is no object, and the sweep takes it away when it is old enough.
#[test]
fn what_a_dead_put_left_is_invisible_and_swept() {
    let folder = tempfile::tempdir().unwrap();
    let (key, file) = endless_file(folder.path());
    Runtime::new().unwrap().block_on(async {
        let (dead, key, file) = (store("dead").await, key.clone(), file.clone());
        let store = dead.clone();
        let mut put = Box::pin(async move { dead.put_file(&key, &file).await });
        tokio::select! {
            ended = &mut put => panic!("it ended: {ended:?}"),
            () = wait_for_a_part(&store) => {}
        }
        // Never polled again nor dropped, so that nothing cleans up, as in a death.
        std::mem::forget(put);
    });
    Runtime::new().unwrap().block_on(async {
        let store = store("dead").await;
        assert!(matches!(store.open(&key).await, Err(StoreError::NotFound { .. })));
        assert!(store.list(None, 10).await.unwrap().is_empty());
        let client = &store.bucket.client;
        let strange = client.create_multipart_upload().bucket("dead").key("some/where/notes").send().await.unwrap();
        let part = client.upload_part().bucket("dead").key("some/where/notes").set_upload_id(strange.upload_id);
        part.part_number(1).body(ByteStream::from_static(b"part")).send().await.unwrap();
        assert_eq!(store.sweep_uploads(Duration::from_secs(3600)).await.unwrap(), 0, "it is not that old");
        assert_eq!(store.sweep_uploads_of(&Digest::of(b"another")).await.unwrap(), 0, "it is another's");
        wait_for_uploads(&store, 2).await;
        let again =
            client.create_multipart_upload().bucket("dead").key(store.bucket.object(&key)).send().await.unwrap();
        let part = client.upload_part().bucket("dead").key(store.bucket.object(&key)).set_upload_id(again.upload_id);
        part.part_number(1).body(ByteStream::from_static(b"part")).send().await.unwrap();
        wait_for_uploads(&store, 3).await;
        assert_eq!(store.sweep_uploads_of(key.digest()).await.unwrap(), 2);
        assert_eq!(store.sweep_uploads(Duration::ZERO).await.unwrap(), 0, "nothing of ours is left");
        // What is not ours stays.
        wait_for_uploads(&store, 1).await;
    });
}

/// The server dies in the middle of a put and of a read: each succeeds or says that it may be tried again, and then does.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_costs_no_more_than_a_repetition() {
    let server = Seaweed::start().unwrap();
    let store = store_on(&server, "dies").await;
    let server = Mutex::new(server);
    let folder = tempfile::tempdir().unwrap();
    let bytes = pattern(12 * 16 * MIB);
    let (key, file) = (key_of(&bytes), file_with(folder.path(), &bytes));
    let put = async |store: &S3Store| store.put_file(&key, &file).await;
    let restart = || {
        let mut server = server.lock().unwrap();
        server.stop().unwrap();
        server.resume().unwrap();
    };
    let (first, ()) = tokio::join!(put(&store), async {
        wait_for_a_part(&store).await;
        tokio::task::block_in_place(restart);
    });
    if let Err(error) = first {
        assert!(error.is_transient(), "{error:?}");
        assert!(file.try_exists().unwrap(), "the file is gone though it was not put");
        put(&store).await.unwrap();
    }
    let blob = store.open(&key).await.unwrap();
    let (read, ()) = tokio::join!(blob.read(0, bytes.len()), async {
        tokio::task::block_in_place(restart);
    });
    match read {
        Ok(read) => assert!(read == bytes),
        Err(error) => assert!(error.is_transient(), "{error:?}"),
    }
    assert!(read_all(&store, &key).await == bytes);
    assert!(matches!(fs::metadata(&file), Err(error) if error.kind() == std::io::ErrorKind::NotFound));
}

/// A put that does not end is given up, and may be tried again.
#[tokio::test(flavor = "multi_thread")]
async fn no_put_lasts_for_ever() {
    let place = || "s3://bucket/endless".to_owned();
    let error = super::within(Duration::from_millis(1), place, std::future::pending()).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains(&place()), "{error}");
}
