//! PostgreSQL: another transaction changes what a call has looked at, just before the call writes.
//!
//! Each test holds the other transaction open until the call waits for it, so the race is lost every time.

use std::time::Duration;

use api::{Digest, MediaType, UnconvertibleReason};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::task::JoinHandle;

use super::{Database, home};
use crate::conformance::twin;
use crate::{BlobRow, Catalog, CatalogError, Claim, ManifestRow, Owner, TwinState, Work, blob};

const LIMIT: Duration = Duration::from_secs(120);

/// Runs `statements` in a transaction, begins `call`, commits when the call waits, and returns what it returns.
async fn overtaken<T: Send + 'static>(
    database: &Database,
    statements: String,
    call: impl Future<Output = Result<T, CatalogError>> + Send + 'static,
) -> Result<T, CatalogError> {
    let mut raw = database.raw().await;
    let mut other = raw.begin().await.unwrap();
    other.execute(AssertSqlSafe(statements)).await.unwrap();
    let call = tokio::spawn(call);
    wait_until_blocked(database, &call);
    other.commit().await.unwrap();
    call.await.unwrap()
}

/// Waits until `call` waits for another transaction.
fn wait_until_blocked<T>(database: &Database, call: &JoinHandle<T>) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let mut waits = || {
        assert!(!call.is_finished(), "the call did not wait for the other transaction");
        Ok((database.sql(waiting) == "1").then_some(()))
    };
    e2e::wait::until("the call to wait", LIMIT, &mut waits).unwrap();
}

async fn opened() -> (Database, Catalog) {
    let database = Database::migrated().await;
    let catalog = database.open().await;
    (database, catalog)
}

fn row(name: &str) -> BlobRow {
    BlobRow { digest: Digest::of(name.as_bytes()), size: 1, key: format!("key of {name}") }
}

fn manifest(name: &str) -> ManifestRow {
    let BlobRow { digest, size, key } = row(name);
    ManifestRow { digest, media_type: MediaType::OciManifest, size, key }
}

/// The view that was committed first stands, and nothing of the other is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_view() {
    let (database, catalog) = opened().await;
    let (source, winner, loser, config) = (row("source").digest, manifest("winner"), manifest("loser"), row("config"));
    let first = format!(
        "INSERT INTO blobs VALUES ('{0}', 1, 'k'); INSERT INTO manifests VALUES ('{0}', 'm', NULL); \
         INSERT INTO converted VALUES ('{source}', 'p', '{0}', NULL)",
        winner.digest
    );
    let call = {
        let (catalog, source, loser, config) = (catalog.clone(), source.clone(), loser.clone(), config.clone());
        async move { catalog.commit_converted(&source, "p", &loser, Some(&config), &[]).await }
    };
    assert_eq!(overtaken(&database, first, call).await.unwrap(), winner.digest);
    assert_eq!(catalog.converted(&source).await.unwrap(), Some(winner.digest));
    assert_eq!(catalog.manifest(&loser.digest).await.unwrap(), None);
    assert_eq!(catalog.blob(&config.digest).await.unwrap(), None);
}

/// The blob that was recorded first stands, with its key.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob() {
    let (database, catalog) = opened().await;
    let mine = row("blob");
    let first = format!("INSERT INTO blobs VALUES ('{}', 1, 'first')", mine.digest);
    let call = async move { catalog.add_blob(&mine, &[&home()]).await };
    assert_eq!(overtaken(&database, first, call).await.unwrap().key, "first");
}

/// A blob whose row goes just before it is recorded again has a row again, with the new key.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_goes() {
    let (database, catalog) = opened().await;
    let mine = row("blob");
    catalog.add_blob(&BlobRow { key: "old".into(), ..mine.clone() }, &[]).await.unwrap();
    let call = {
        let (catalog, mine) = (catalog.clone(), mine.clone());
        async move { catalog.add_blob(&mine, &[&home()]).await }
    };
    let gone = format!("DELETE FROM blobs WHERE digest = '{}'", mine.digest);
    assert_eq!(overtaken(&database, gone, call).await.unwrap(), mine);
    assert_eq!(catalog.blob(&mine.digest).await.unwrap(), Some(mine));
}

/// A blob that a transaction was told to stand cannot go before that transaction ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_stands_stays() {
    let (database, catalog) = opened().await;
    let mine = row("blob");
    catalog.add_blob(&mine, &[]).await.unwrap();
    let mut tx = catalog.begin("refer to a blob").await.unwrap();
    assert_eq!(blob::insert(&mut tx, &mine).await.unwrap(), mine);
    let mut raw = database.raw().await;
    raw.execute("SET lock_timeout = 100").await.unwrap();
    let delete = format!("DELETE FROM blobs WHERE digest = '{}'", mine.digest);
    let error = raw.execute(AssertSqlSafe(delete.clone())).await.unwrap_err();
    assert!(error.to_string().contains("lock timeout"), "{error}");
    tx.commit().await.unwrap();
    assert_eq!(raw.execute(AssertSqlSafe(delete)).await.unwrap().rows_affected(), 1);
}

/// A conversion that another process ended first stays as it ended, and the twin that came later gets no row.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversion() {
    let (database, catalog) = opened().await;
    let (source, made) = (row("source").digest, twin("made"));
    catalog.begin_conversion(&source, "p", &home()).await.unwrap();
    let first = format!("UPDATE twins SET state = 'unconvertible', reason = 'limit' WHERE source = '{source}'");
    let call = {
        let (catalog, source, made) = (catalog.clone(), source.clone(), made.clone());
        async move { catalog.finish_conversion(&source, "p", &made, "k", "t").await }
    };
    let state = overtaken(&database, first, call).await.unwrap();
    assert!(matches!(state, TwinState::Unconvertible { reason: UnconvertibleReason::Limit, .. }), "{state:?}");
    assert_eq!(catalog.blob(&made.digest).await.unwrap(), None);
}

async fn claimed(catalog: &Catalog, work: &Work, owner: &str) -> Claim {
    let owner = Owner { id: owner.into(), address: String::new() };
    catalog.claim(work, &owner, Duration::from_secs(3600)).await.unwrap()
}

/// A lease that is taken over just before its commit is lost, and the commit with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease() {
    let (database, catalog) = opened().await;
    let mine = row("blob");
    let work = Work::Fill { digest: mine.digest.clone(), upstream: "docker.io".into() };
    let Claim::Granted(lease) = claimed(&catalog, &work, "a").await else { panic!("the work is held") };
    let call = {
        let (catalog, mine) = (catalog.clone(), mine.clone());
        async move { catalog.holding(&lease).add_blob(&mine, &[]).await }
    };
    let error =
        overtaken(&database, "UPDATE leases SET epoch = epoch + 1, owner = 'b'".into(), call).await.unwrap_err();
    assert!(matches!(error, CatalogError::LeaseLost { .. }), "{error:?}");
    assert_eq!(catalog.blob(&mine.digest).await.unwrap(), None);
    assert_eq!(database.sql("SELECT owner FROM leases"), "b");
}

/// A claim that waited for another's learns whose the work is.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim() {
    let (database, catalog) = opened().await;
    let work = Work::Fill { digest: row("blob").digest, upstream: "docker.io".into() };
    claimed(&catalog, &work, "a").await;
    database.sql("UPDATE leases SET expires_at = 1");
    let first = "UPDATE leases SET epoch = epoch + 1, owner = 'b', expires_at = expires_at + 9000000000000";
    let call = async move { Ok(claimed(&catalog, &work, "c").await) };
    let claim = overtaken(&database, first.into(), call).await.unwrap();
    assert!(matches!(&claim, Claim::Held { by, .. } if by.id == "b"), "{claim:?}");
}

/// A process is stopped inside the commit of its work. Who claims that work waits for it; who claims other work does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_other_work() {
    let (database, catalog) = opened().await;
    let work = |name: &str| Work::Fill { digest: row(name).digest, upstream: "docker.io".into() };
    let claim = |owner: &str, name: &str| {
        let (catalog, work) = (catalog.clone(), work(name));
        let owner = Owner { id: owner.into(), address: String::new() };
        tokio::spawn(async move { catalog.claim(&work, &owner, LIMIT).await })
    };
    claim("stopped", "first").await.unwrap().unwrap();
    let mut raw = database.raw().await;
    let mut commit = raw.begin().await.unwrap();
    commit.execute("SELECT epoch FROM leases FOR UPDATE").await.unwrap();

    let waiting = claim("another", "first");
    wait_until_blocked(&database, &waiting);
    let other = claim("another", "second").await.unwrap().unwrap();
    assert!(matches!(other, Claim::Granted(_)), "{other:?}");
    assert!(!waiting.is_finished(), "other work was claimed only when the commit was over");
    commit.rollback().await.unwrap();
    assert!(matches!(waiting.await.unwrap().unwrap(), Claim::Held { .. }));
}
