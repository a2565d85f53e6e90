use std::path::Path;
use std::process::Command;

use blobstore::{BlobKey, FsStore, Generation};
use bytes::Bytes;
use catalog::{BlobRow, CatalogUrl, Claim, PinRow, Usage, Work};
use e2e::{Postgres, Seaweed};

use super::*;
use crate::app::open_store;

/// Large enough to be worth evicting.
const SIZE: usize = 70_000;

/// The chores, at once.
const ALL: Daily = Daily::Now { orphaned: Duration::ZERO };

/// Returns a collector on the catalog and the store of `folder`; what it evicts may be deleted at once.
pub(super) async fn collector(folder: &Path, max_size: u64) -> Collector {
    let url = CatalogUrl::parse(&format!("sqlite:{}", folder.join("catalog.db").display())).unwrap();
    let catalog = Catalog::open(&url).await.unwrap();
    let store = Arc::new(FsStore::open(folder).unwrap());
    let limits = Limits { max_size, max_age: Duration::ZERO, grace: Duration::ZERO };
    Collector::new(catalog, store, limits, Arc::new(Metrics::new()))
}

/// Stores bytes that `seed` names, as a fill does: bytes first, then the row, and away with them if another row stands.
async fn fill(catalog: &Catalog, store: &dyn BlobStore, seed: u64) -> BlobRow {
    let bytes = Bytes::from(seed.to_le_bytes().repeat(SIZE / 8));
    let digest = Digest::of(&bytes);
    let key = BlobKey::blob(&digest, Generation::random());
    store.put_bytes(&key, bytes).await.unwrap();
    let row = BlobRow { digest, size: SIZE as u64, key: key.to_string() };
    let standing = catalog.add_blob(&row, &[]).await.unwrap();
    if standing.key != row.key {
        store.delete(&key).await.unwrap();
    }
    standing
}

async fn listed(store: &dyn BlobStore) -> Vec<String> {
    store.list(None, usize::MAX).await.unwrap().into_iter().map(|listed| listed.key.to_string()).collect()
}

/// Above the cap the longest unused go, but for what is pinned, down to below it; a preview says the same and does nothing.
#[tokio::test]
async fn the_cap_takes_the_longest_unused() {
    let folder = tempfile::tempdir().unwrap();
    let size = SIZE as u64;
    let collector = collector(folder.path(), 5 * size).await;
    let mut rows = Vec::new();
    for seed in 0..8 {
        rows.push(fill(&collector.catalog, &*collector.store, seed).await);
        // Moments are in milliseconds.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let pin = PinRow {
        repository: api::Repository::parse("docker.io/library/a").unwrap(),
        reference: api::Reference::Tag(api::Tag::parse("latest").unwrap()),
        digest: rows[1].digest.clone(),
    };
    collector.catalog.add_pin(&pin).await.unwrap();

    let preview = collector.preview(ORPHANED).await.unwrap();
    assert_eq!(preview.usage, Usage { stored_bytes: 8 * size, leaving_bytes: 0 });
    assert_eq!(listed(&*collector.store).await.len(), 8, "a preview changed something");
    let went = collector.collect(Daily::Never).await.unwrap();
    // To 95 % of five blobs: four of eight go, and of the first five the pinned one stays.
    let names = |collected: &Collected| collected.gone.iter().flat_map(|gone| gone.names.clone()).collect::<Vec<_>>();
    let expected: Vec<_> = [0, 2, 3, 4].iter().map(|&n: &usize| rows[n].digest.to_string()).collect();
    assert_eq!(names(&went), expected);
    assert_eq!(names(&preview), expected);
    assert_eq!(went.sums, preview.sums);
    assert_eq!((went.sums[&Reason::Cap], went.deleted), ((4, 4 * size), (4, 4 * size)));
    assert_eq!(went.usage, Usage { stored_bytes: 4 * size, leaving_bytes: 0 });
    let mut left: Vec<_> = [1, 5, 6, 7].iter().map(|&n: &usize| rows[n].key.clone()).collect();
    left.sort();
    assert_eq!(listed(&*collector.store).await, left);

    let again = collector.collect(Daily::Never).await.unwrap();
    assert!(again.gone.is_empty() && again.deleted == (0, 0), "{again:?}");
}

/// What no row names goes once it is old, unless that is most of the store: then the catalog is the wrong one.
#[tokio::test]
async fn orphans_go_and_a_strange_store_stays() {
    let folder = tempfile::tempdir().unwrap();
    let collector = collector(folder.path(), 0).await;
    let kept = fill(&collector.catalog, &*collector.store, 1).await;
    let put = async |n: u64| {
        let key = BlobKey::toc(&Digest::of(&n.to_le_bytes()), Generation::random());
        collector.store.put_bytes(&key, Bytes::from_static(b"orphan")).await.unwrap();
    };
    for n in 0..3 {
        put(n).await;
    }
    let young = collector.collect(Daily::Now { orphaned: ORPHANED }).await.unwrap();
    assert!(young.gone.is_empty(), "{young:?}");
    let old = collector.collect(ALL).await.unwrap();
    assert_eq!(old.sums[&Reason::Orphan], (3, 18));
    assert_eq!(listed(&*collector.store).await, [kept.key]);

    for n in 0..11 {
        put(n).await;
    }
    let error = collector.collect(ALL).await.unwrap_err();
    assert!(matches!(error, GcError::Strange { orphans: 11, seen: 12 }), "{error:?}");
    assert_eq!(listed(&*collector.store).await.len(), 12);
    assert!(collector.collect(Daily::Never).await.is_ok(), "the lease of a failed collection is given back");
}

/// A collection that was stopped for longer than its lease lasts removes nothing when it goes on; nor while a catalog is being
/// rebuilt.
#[tokio::test]
async fn orphans_stay_when_the_collection_is_not_ours() {
    let folder = tempfile::tempdir().unwrap();
    let collector = collector(folder.path(), 0).await;
    fill(&collector.catalog, &*collector.store, 1).await;
    let orphan = BlobKey::toc(&Digest::of(b"orphan"), Generation::random());
    collector.store.put_bytes(&orphan, Bytes::from_static(b"orphan")).await.unwrap();
    let remove = async |lease: &CollectionLease| {
        let removed = collector.remove_orphans(Duration::ZERO, lease, &mut Collected::default()).await;
        (removed, listed(&*collector.store).await.len())
    };
    let old = CollectionLease::claim(&collector.catalog, &collector.owner).await.unwrap();
    let new = CollectionLease::claim(&collector.catalog, &collector.owner).await.unwrap();
    let stopped = remove(&old).await;
    assert!(matches!(stopped, (Err(GcError::Catalog(CatalogError::LeaseLost { .. })), 2)), "{stopped:?}");
    collector.catalog.mark(Mark::Rebuilding).await.unwrap();
    let rebuilding = remove(&new).await;
    assert!(matches!(rebuilding, (Err(GcError::Rebuilding), 2)), "{rebuilding:?}");
    collector.catalog.unmark(Mark::Rebuilding).await.unwrap();
    let removed = remove(&new).await;
    assert!(matches!(removed, (Ok(()), 1)), "{removed:?}");
}

/// A catalog that knows nothing of the store is the wrong one, however little the store holds; and while a catalog is being
/// rebuilt, nothing goes.
#[tokio::test]
async fn a_catalog_that_knows_nothing_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let collector = collector(folder.path(), 3 * SIZE as u64).await;
    let key = BlobKey::toc(&Digest::of(b"orphan"), Generation::random());
    collector.store.put_bytes(&key, Bytes::from_static(b"orphan")).await.unwrap();
    let error = collector.collect(ALL).await.unwrap_err();
    assert!(matches!(error, GcError::Strange { orphans: 1, seen: 1 }), "{error:?}");

    for seed in 0..4 {
        fill(&collector.catalog, &*collector.store, seed).await;
    }
    collector.catalog.mark(Mark::Rebuilding).await.unwrap();
    let error = collector.collect(ALL).await.unwrap_err();
    assert!(matches!(error, GcError::Rebuilding), "{error:?}");
    assert_eq!(listed(&*collector.store).await.len(), 5);
    collector.catalog.unmark(Mark::Rebuilding).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    collector.collect(ALL).await.unwrap();
    // The orphan goes, and two of the four, down to below the cap.
    assert_eq!(listed(&*collector.store).await.len(), 2);
}

/// A key that is damaged and one that the store refuses to delete are told by name, keep nothing else from being deleted, and
/// are left for later.
#[tokio::test]
async fn what_cannot_be_deleted_keeps_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let collector = collector(folder.path(), 1).await;
    let damaged = BlobRow { digest: Digest::of(b"damaged"), size: SIZE as u64, key: "no key".into() };
    collector.catalog.add_blob(&damaged, &[]).await.unwrap();
    // Not even root deletes a folder as a file.
    let folder_of = |key: &str| std::fs::create_dir_all(folder.path().join(key)).unwrap();
    let refused = BlobKey::blob(&Digest::of(b"refused"), Generation::random()).to_string();
    let row = BlobRow { digest: Digest::of(b"refused"), size: SIZE as u64, key: refused.clone() };
    collector.catalog.add_blob(&row, &[]).await.unwrap();
    folder_of(&refused);
    for seed in 0..3 {
        fill(&collector.catalog, &*collector.store, seed).await;
    }
    tokio::time::sleep(Duration::from_millis(2)).await;

    let collected = collector.collect(Daily::Never).await.unwrap();
    let left = 2 * SIZE as u64;
    assert_eq!(collected.deleted, (3, 3 * SIZE as u64));
    assert_eq!(collected.usage, Usage { stored_bytes: 0, leaving_bytes: left });
    let (mut named, number) = collected.undeleted;
    named.sort_by_key(|undeleted| undeleted.key.len());
    let keys: Vec<_> = named.iter().map(|undeleted| &*undeleted.key).collect();
    assert_eq!((keys, number), (vec!["no key", &refused], 2), "{named:?}");
    assert!(collector.metrics.render().contains("firstlight_undeleted_keys_total 2"));
    assert_eq!(listed(&*collector.store).await, std::slice::from_ref(&refused));

    // Later is not now, and a deletion stays until it is done.
    let again = collector.collect(Daily::Never).await.unwrap();
    assert_eq!((again.undeleted.1, again.usage.leaving_bytes), (0, left));
    let next = Duration::from_millis(collector.catalog.next_deletion().await.unwrap().unwrap());
    assert!(next > deleting::RETRY_AFTER / 2 && next <= deleting::RETRY_AFTER, "{next:?}");

    // Of orphans the same.
    for seed in 0..3 {
        fill(&collector.catalog, &*collector.store, seed).await;
    }
    let orphans = [b"a", b"b"].map(|name| BlobKey::blob(&Digest::of(name), Generation::random()));
    folder_of(&orphans[0].to_string());
    collector.store.put_bytes(&orphans[1], Bytes::from_static(b"orphan")).await.unwrap();
    let mut collected = Collected::default();
    let lease = CollectionLease::claim(&collector.catalog, &collector.owner).await.unwrap();
    collector.remove_orphans(Duration::ZERO, &lease, &mut collected).await.unwrap();
    assert_eq!((collected.sums[&Reason::Orphan], collected.undeleted.1), ((1, 6), 1));
    assert_eq!(collected.undeleted.0[0].key, orphans[0].to_string());
}

/// A daily chore is one process's, is due until it has been done well, and then not for a day; an upload that nobody goes on
/// with is taken away by it.
#[tokio::test]
async fn a_chore_is_due_until_it_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let collector = collector(folder.path(), 0).await;
    let long_ago = std::time::SystemTime::now() - 2 * crate::app::ABANDONED;
    let write_old = |path: &Path| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(path).unwrap();
        file.set_modified(long_ago).unwrap();
    };
    let orphan = |n: u64| BlobKey::toc(&Digest::of(&n.to_le_bytes()), Generation::random()).to_string();
    let is_there = |path: &Path| path.try_exists().unwrap();
    let [first, second] = [orphan(1), orphan(2)].map(|key| folder.path().join(key));
    let upload = folder.path().join("partial/abandoned");
    write_old(&first);

    // The catalog knows nothing of the store.
    let error = collector.collect(Daily::WhenDue).await.unwrap_err();
    assert!(matches!(error, GcError::Strange { .. }), "{error:?}");
    let known = fill(&collector.catalog, &*collector.store, 1).await;
    write_old(&folder.path().join(known.key));
    let other = owner("collector");
    let claim = collector.catalog.claim(&Work::Collection, &other, Duration::from_secs(600)).await.unwrap();
    let Claim::Granted(lease) = claim else { panic!("{claim:?}") };
    let busy = collector.collect(Daily::WhenDue).await.unwrap_err();
    assert!(matches!(&busy, GcError::Busy(LeaseError::Held { by, .. }) if *by == other.id), "{busy:?}");
    assert!(is_there(&first));
    collector.catalog.release(&lease).await.unwrap();
    collector.collect(Daily::Never).await.unwrap();
    assert!(is_there(&first));
    let done = collector.collect(Daily::WhenDue).await.unwrap();
    assert_eq!(done.sums[&Reason::Orphan].0, 1, "a chore that failed was taken for done");
    assert!(!is_there(&first));

    write_old(&second);
    write_old(&upload);
    collector.collect(Daily::WhenDue).await.unwrap();
    assert!(is_there(&second) && is_there(&upload), "a chore was done twice a day");
    collector.collect(Daily::Now { orphaned: ORPHANED }).await.unwrap();
    assert!(!is_there(&second) && !is_there(&upload));
}

/// On a real PostgreSQL and S3 service; see [`race`]. In a process of its own, because credentials come from the environment.
#[test]
fn a_row_has_its_bytes_whoever_collects() {
    let (server, seaweed) = (Postgres::shared().unwrap(), Seaweed::shared().unwrap());
    seaweed.make_bucket("collector-race").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "gc::tests::race", "--ignored", "--nocapture"]);
    child.env("AWS_ACCESS_KEY_ID", Seaweed::ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", Seaweed::SECRET_KEY);
    child.env("FIRSTLIGHT_CATALOG_URL", server.database().unwrap()).env("FIRSTLIGHT_STORAGE_BACKEND", "s3");
    child.env("FIRSTLIGHT_STORAGE_BUCKET", "collector-race").env("FIRSTLIGHT_STORAGE_ENDPOINT", seaweed.endpoint());
    let said = e2e::run(&mut child).unwrap();
    assert!(said.contains("1 passed"), "{said}");
}

/// One process collects and deletes at once, another stores the same digest again and again, a thousand times: a row that
/// has a key has its bytes, and in the end the store has nothing else.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test above"]
async fn race() {
    const ROUNDS: usize = 1000;
    let config = config::Config::load(None, config::environment()).unwrap();
    let url = &config.catalog.url;
    Catalog::migrate(url).await.unwrap();
    let (one, other) = (Catalog::open(url).await.unwrap(), Catalog::open(url).await.unwrap());
    let (store, others) = (open_store(&config).await.unwrap(), open_store(&config).await.unwrap());
    let limits = Limits { max_size: 1, max_age: Duration::ZERO, grace: Duration::ZERO };
    let collector = Collector::new(one, Arc::clone(&store), limits, Arc::new(Metrics::new()));
    let (mut stood, mut went) = (0, 0);
    for round in 0..ROUNDS {
        let fills = [fill(&other, &*others, 7), fill(&other, &*others, 7)];
        let (collected, filled) = tokio::join!(collector.collect(Daily::Never), futures_util::future::join_all(fills));
        went += collected.unwrap().gone.len();
        if let Some(row) = other.blob(&filled[0].digest).await.unwrap() {
            stood += 1;
            let blob = others.open(&row.key.parse().unwrap()).await;
            let blob = blob.unwrap_or_else(|error| panic!("round {round}: {row:?} has no bytes: {error}"));
            assert_eq!(blob.size(), row.size, "round {round}");
        }
    }
    // Else there was no race.
    assert!(went > ROUNDS / 10 && stood > ROUNDS / 10, "{went} of {ROUNDS} went, {stood} stood");
    let last = collector.collect(Daily::Never).await.unwrap();
    assert_eq!(last.usage, Usage::default());
    assert!(listed(&*store).await.is_empty(), "bytes were left that no row names");
}
