//! SQLite.

use std::path::Path;
use std::time::Duration;

use api::{Digest, MediaType, Tag};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tempfile::TempDir;

use super::home;
use crate::conformance::{conformance, races};
use crate::query::query;
use crate::{Catalog, CatalogError, CatalogUrl, LinkState, ManifestRow};

async fn open(folder: &TempDir) -> Catalog {
    Catalog::open(&CatalogUrl::parse(&url(folder.path())).unwrap()).await.unwrap()
}

fn url(folder: &Path) -> String {
    format!("sqlite:{}/made/catalog.db", folder.display())
}

async fn raw(folder: &TempDir) -> SqliteConnection {
    SqliteConnection::connect(&url(folder.path())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    conformance(&catalog).await.unwrap();
    races(&catalog, &open(&folder).await).await.unwrap();
}

/// What was answered is there after the process is gone, with and without a farewell.
#[tokio::test]
async fn rows_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let source = Digest::of(b"source");
    let view =
        ManifestRow { digest: Digest::of(b"view"), media_type: MediaType::OciManifest, size: 1, key: "view".into() };
    let catalog = open(&folder).await;
    catalog.begin_fill(&source, &home(), 9).await.unwrap();
    catalog.begin_conversion(&source, "p", &home()).await.unwrap();
    catalog.commit_converted(&source, "p", &view, None, &[]).await.unwrap();
    drop(catalog);

    let catalog = open(&folder).await;
    assert_eq!(catalog.unfinished_fills().await.unwrap().len(), 1);
    assert_eq!(catalog.unfinished_conversions("p").await.unwrap(), [(source.clone(), home())]);
    assert_eq!(catalog.converted(&source).await.unwrap(), Some(view.digest.clone()));
    catalog.close().await;
    assert!(matches!(catalog.converted(&source).await, Err(CatalogError::Database { .. })));
    assert_eq!(open(&folder).await.converted(&source).await.unwrap(), Some(view.digest));
}

/// What a killed process leaves is its files as they are at that moment: every call that returned is in them.
#[tokio::test]
async fn rows_outlive_a_kill() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let catalog = open(&folder).await;
    std::fs::create_dir(copy.path().join("made")).unwrap();
    for n in 0..20_u8 {
        let source = Digest::of(&[n]);
        catalog.begin_fill(&source, &home(), 9).await.unwrap();
        catalog.begin_conversion(&source, "p", &home()).await.unwrap();
        for name in ["catalog.db", "catalog.db-wal"] {
            let (from, to) = (folder.path().join("made").join(name), copy.path().join("made").join(name));
            std::fs::copy(from, to).unwrap();
        }
        let _ = std::fs::remove_file(copy.path().join("made/catalog.db-shm"));
        let found = open(&copy).await;
        assert_eq!(found.unfinished_fills().await.unwrap().len(), usize::from(n) + 1);
        assert_eq!(found.unfinished_conversions("p").await.unwrap().len(), usize::from(n) + 1);
        found.close().await;
    }
}

/// The look-ups that stand before every answer use indexes all the way, and the link check starts at the digest:
/// its cost must not grow with what a repository holds.
#[tokio::test]
async fn hot_queries_scan_no_table() {
    let folder = tempfile::tempdir().unwrap();
    open(&folder).await;
    let mut raw = raw(&folder).await;
    let twins = format!("{} WHERE t.profile = $1 AND t.source IN ($2, $3)", crate::twin::SELECT);
    for sql in [crate::link::FIND, &twins] {
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).fetch_all(&mut raw).await.unwrap();
        let plan: Vec<&str> = plan.iter().map(|(.., detail)| &**detail).collect();
        for table in ["links", "l", "manifest_children", "c", "twins", "t", "converted", "b"] {
            let scan = format!("SCAN {table}");
            assert!(plan.iter().all(|&step| step != scan && !step.starts_with(&format!("{scan} "))), "{plan:#?}");
        }
        assert!(!plan.iter().any(|step| step.contains("SEARCH l ") && !step.contains("AND digest=?")), "{plan:#?}");
    }
}

/// Two processes share a file: each sees what the other committed.
#[tokio::test(flavor = "multi_thread")]
async fn two_openers_share_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (open(&folder).await, open(&folder).await);
    for n in 0..50_u8 {
        let (a, b) = (Digest::of(&[n, 0]), Digest::of(&[n, 1]));
        let home = home();
        let (left, right) = tokio::join!(one.link(&home, &a), two.link(&home, &b));
        left.and(right).unwrap();
        assert_eq!(one.is_linked(&home, &b).await.unwrap(), LinkState::Linked);
        assert_eq!(two.is_linked(&home, &a).await.unwrap(), LinkState::Linked);
    }
}

/// Text that is no digest does not leave the catalog as one.
#[tokio::test]
async fn a_corrupt_row_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let tag = Tag::parse("latest").unwrap();
    catalog.set_tag(&home(), &tag, &Digest::of(b""), 1).await.unwrap();
    sqlx::query("UPDATE tags SET digest = '../../etc/passwd'").execute(&mut raw(&folder).await).await.unwrap();
    let error = catalog.tag(&home(), &tag).await.unwrap_err();
    assert_eq!(error.to_string(), "column tags.digest holds `../../etc/passwd`");
    assert!(!error.is_transient());
}

/// A write that finds the database locked for longer than it waits is an error that may be tried again, and the
/// catalog goes on afterwards.
#[tokio::test]
async fn a_busy_database_is_transient() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let mut other = raw(&folder).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let error = catalog.link(&home(), &Digest::of(b"")).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    // Reads do not wait for writers.
    assert_eq!(catalog.is_linked(&home(), &Digest::of(b"")).await.unwrap(), LinkState::None);
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    catalog.link(&home(), &Digest::of(b"")).await.unwrap();
}

/// A call dropped half way (its client went away) leaves no lock, no half of a row, and a catalog that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_calls_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let children: Vec<Digest> = (0..2000_u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
    for n in 0..60_u64 {
        let digest = Digest::of(&n.to_be_bytes());
        let row = ManifestRow { digest: digest.clone(), media_type: MediaType::OciIndex, size: 1, key: n.to_string() };
        let home = home();
        let call = catalog.add_manifest(&row, Some(&home), &children, None);
        let ended = tokio::time::timeout(Duration::from_micros(n * 250), call).await.is_ok();
        // A dropped call's commit may still be under way. This write comes after it on the one writing connection.
        catalog.link(&home, &Digest::of(b"barrier")).await.unwrap();
        let found = catalog.manifest(&digest).await.unwrap().is_some();
        let linked = catalog.is_linked(&home, &digest).await.unwrap() == LinkState::Linked;
        assert!(found == linked && (found || !ended), "found {found}, linked {linked}, ended {ended}");
    }
    catalog.link(&home(), &children[0]).await.unwrap();
}

#[tokio::test]
async fn the_newest_commits_are_synced_only_where_they_must_be() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let setting = || async {
        let (level,): (i64,) = catalog.writing("test").await.unwrap().one(query("PRAGMA synchronous")).await.unwrap();
        level
    };
    assert_eq!(setting().await, 1, "not NORMAL");
    let view =
        ManifestRow { digest: Digest::of(b"view"), media_type: MediaType::OciManifest, size: 1, key: "view".into() };
    catalog.commit_converted(&Digest::of(b"source"), "p", &view, None, &[]).await.unwrap();
    assert_eq!(setting().await, 1, "not NORMAL again");
    let mut session = catalog.begin_synced("test").await.unwrap();
    let (level,): (i64,) = session.one(query("PRAGMA synchronous")).await.unwrap();
    assert_eq!(level, 2, "not FULL in a synced transaction");
    drop(session);
    assert_eq!(setting().await, 1, "not NORMAL after a dropped one");
}
