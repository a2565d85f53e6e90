//! PostgreSQL.

use std::time::Duration;

use api::{Digest, MediaType};
use e2e::{Authority, Postgres};
use sqlx::{Connection, Executor};
use tokio::task::JoinSet;

use super::{Database, home, listening};
use crate::conformance::{conformance, races, watches};
use crate::query::query;
use crate::{Catalog, CatalogError, CatalogUrl, LinkState, ManifestRow};

#[tokio::test(flavor = "multi_thread")]
async fn postgres_conforms() {
    let database = Database::migrated().await;
    let (one, two) = (database.open().await, database.open().await);
    conformance(&one).await.unwrap();
    races(&one, &two).await.unwrap();
}

/// What one process ends wakes who waits in another.
#[tokio::test(flavor = "multi_thread")]
async fn notes_reach_other_catalogs() {
    let database = Database::migrated().await;
    let (here, there) = (database.open().await, database.open().await);
    let mut watch = here.conversions();
    // The connection that listens is open now; from here on only the other catalog's notes can wake anybody.
    listening(&mut watch).await;
    watches(&here, &there).await.unwrap();
    assert_eq!(listeners(&database), "1", "who only ends conversions needs no connection to listen on");
}

/// The connection that listens is opened again, and who waited meanwhile is told to look.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_looks_again_when_notes_may_be_lost() {
    let database = Database::migrated().await;
    let (here, there) = (database.open().await, database.open().await);
    let mut watch = here.conversions();
    listening(&mut watch).await;
    for _ in 0..3 {
        database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'");
        listening(&mut watch).await;
        assert_eq!(listeners(&database), "1");
    }
    watches(&here, &there).await.unwrap();
    here.close().await;
    let mut gone = || Ok((listeners(&database) == "0").then_some(()));
    e2e::wait::until("end of the listening connection", Duration::from_secs(30), &mut gone).unwrap();
}

fn listeners(database: &Database) -> String {
    database.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
         AND query ILIKE 'LISTEN%'",
    )
}

/// A write that waits too long for another's lock is an error that may be tried again; reads do not wait.
#[tokio::test]
async fn a_held_lock_is_transient() {
    let database = Database::migrated().await;
    let catalog = database.open().await;
    let mut other = database.raw().await;
    let mut tx = other.begin().await.unwrap();
    tx.execute("LOCK TABLE links IN EXCLUSIVE MODE").await.unwrap();
    let error = catalog.link(&home(), &Digest::of(b"")).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(catalog.is_linked(&home(), &Digest::of(b"")).await.unwrap(), LinkState::None);
    tx.rollback().await.unwrap();
    catalog.link(&home(), &Digest::of(b"")).await.unwrap();
}

/// A call that the server does not answer ends, its connection with it, and the places of all are free again.
#[tokio::test(flavor = "multi_thread")]
async fn calls_without_an_answer_end() {
    let database = Database::migrated().await;
    let catalog = database.open().await;
    let mut calls = JoinSet::new();
    for _ in 0..40 {
        let catalog = catalog.clone();
        calls.spawn(async move {
            let mut session = catalog.writing("wait for an answer").await?;
            session.limit_to(Duration::from_millis(50));
            session.run(query("SELECT pg_sleep(3600)")).await
        });
    }
    while let Some(ended) = calls.join_next().await {
        let error = ended.unwrap().unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    }
    catalog.link(&home(), &Digest::of(b"")).await.unwrap();
}

/// The server's own limits are set on every connection.
#[tokio::test]
async fn the_server_limits_what_a_connection_does() {
    let database = Database::migrated().await;
    let mut session = database.open().await.reading("look").await.unwrap();
    for (setting, value) in
        [("statement_timeout", "15s"), ("lock_timeout", "5s"), ("idle_in_transaction_session_timeout", "30s")]
    {
        let show = query("SELECT current_setting($1)").bind(setting);
        assert_eq!(session.one::<(String,)>(show).await.unwrap().0, value, "{setting}");
    }
    session.run(query("SET statement_timeout = 50")).await.unwrap();
    let error = session.run(query("SELECT pg_sleep(3600)")).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

/// Connections to a server that only reads since a failover are given up, and the next call goes to the new one.
#[tokio::test]
async fn a_server_that_only_reads_is_left() {
    let database = Database::migrated().await;
    let catalog = database.open().await;
    let name = database.url.rsplit('/').next().unwrap();
    database.sql(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    let error = catalog.link(&home(), &Digest::of(b"")).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    database.server.sql("postgres", &format!("ALTER DATABASE {name} RESET default_transaction_read_only")).unwrap();
    catalog.link(&home(), &Digest::of(b"")).await.unwrap();
}

/// Calls dropped half way (their clients went away) leave no half of a row, no open transaction and no lost place.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_calls_leave_nothing() {
    let database = Database::migrated().await;
    let catalog = database.open().await;
    let children: Vec<Digest> = (0..2000_u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
    let row = |n: u64| {
        let digest = Digest::of(&n.to_be_bytes());
        ManifestRow { digest, media_type: MediaType::OciIndex, size: 1, key: n.to_string() }
    };
    for n in 0..60 {
        let (row, home) = (row(n), home());
        let call = catalog.add_manifest(&row, Some(&home), &children, None);
        let _ = tokio::time::timeout(Duration::from_micros(n * 250), call).await;
    }
    // A dropped call's server process may be at its work for a moment yet.
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' \
                AND pid <> pg_backend_pid()";
    let mut ended = || Ok((database.sql(open) == "0").then_some(()));
    e2e::wait::until("end of all calls", Duration::from_secs(30), &mut ended).unwrap();
    let mut found = 0;
    for n in 0..60 {
        let is_there = catalog.manifest(&row(n).digest).await.unwrap().is_some();
        let linked = catalog.is_linked(&home(), &row(n).digest).await.unwrap() == LinkState::Linked;
        assert_eq!(is_there, linked, "half of a call is there");
        found += usize::from(is_there);
    }
    assert!(found < 60, "no call was dropped half way");
    let again = (0..60).map(|n| {
        let (catalog, row, children) = (catalog.clone(), row(n), children.clone());
        async move { catalog.add_manifest(&row, Some(&home()), &children, None).await }
    });
    for added in again.collect::<JoinSet<_>>().join_all().await {
        added.unwrap();
    }
}

/// A commit that must not be lost insists on being synced where the server's setting does not.
#[tokio::test]
async fn views_are_synced_whatever_the_server_does() {
    let database = Database::migrated().await;
    database.sql(&format!("ALTER DATABASE {} SET synchronous_commit = off", database.url.rsplit('/').next().unwrap()));
    let catalog = database.open().await;
    for (session, expected) in
        [(catalog.begin("look").await.unwrap(), "off"), (catalog.begin_synced("look").await.unwrap(), "on")]
    {
        let mut session = session;
        let (setting,): (String,) = session.one(query("SELECT current_setting('synchronous_commit')")).await.unwrap();
        assert_eq!(setting, expected);
        session.commit().await.unwrap();
    }
}

#[tokio::test]
async fn who_cannot_connect_is_told_why_and_no_password() {
    let database = Database::migrated().await;
    let at = database.url.split_once('@').unwrap().1;
    let (server, name) = at.rsplit_once('/').unwrap();
    for (url, why) in [
        (format!("postgres://firstlight:wrong-secret@{at}"), "password authentication failed"),
        (format!("postgres://firstlight:not-so-secret@{server}/no_{name}"), "does not exist"),
        ("postgres://firstlight:wrong-secret@127.0.0.1:1/d".into(), "refused"),
        (format!("postgres://firstlight:wrong-secret@{at}?sslmode=require"), "server does not support TLS"),
    ] {
        let error = Catalog::open(&CatalogUrl::parse(&url).unwrap()).await.unwrap_err();
        assert!(matches!(error, CatalogError::Database { action: "connect to the database", .. }), "{error:?}");
        let told = format!("{error:?}");
        assert!(told.contains(why), "{told} does not say {why:?}");
        assert!(!told.contains("secret"), "{told}");
    }
}

/// `sslmode` and `sslrootcert` of the URL decide whom the catalog talks to.
#[tokio::test]
async fn the_url_decides_about_tls() {
    let authority = Authority::new().unwrap();
    let server = Postgres::start_tls(&authority).unwrap();
    let url = server.database().unwrap();
    Catalog::migrate(&verified(&url, &authority)).await.unwrap();
    let catalog = Catalog::open(&verified(&url, &authority)).await.unwrap();
    let mut session = catalog.reading("look").await.unwrap();
    let is_tls = query("SELECT CAST(ssl AS TEXT) FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    assert_eq!(session.one::<(String,)>(is_tls).await.unwrap().0, "true");

    let stranger = Authority::new().unwrap();
    let elsewhere = url.replace("127.0.0.1", "localhost");
    for refused in [verified(&url, &stranger), verified(&elsewhere, &authority)] {
        let error = Catalog::open(&refused).await.unwrap_err();
        assert!(format!("{error:?}").contains("InvalidCertificate"), "{error:?}");
        assert!(!error.is_transient());
    }
}

fn verified(url: &str, authority: &Authority) -> CatalogUrl {
    let parameters = format!("sslmode=verify-full&sslrootcert={}", authority.certificate().display());
    CatalogUrl::parse(&format!("{url}?{parameters}")).unwrap()
}
