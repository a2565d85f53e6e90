//! The server goes away and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use api::Digest;
use e2e::Postgres;
use tokio::task::JoinSet;

use super::{home, listening};
use crate::{BlobRow, Catalog, CatalogError, CatalogUrl, LinkState};

/// Far longer than a restart and the pauses of the pool take.
const LIMIT: Duration = Duration::from_secs(120);

async fn start() -> (Postgres, Catalog) {
    let server = Postgres::start().unwrap();
    let url = CatalogUrl::parse(&server.database().unwrap()).unwrap();
    Catalog::migrate(&url).await.unwrap();
    let catalog = Catalog::open(&url).await.unwrap();
    (server, catalog)
}

fn row(n: usize) -> BlobRow {
    let key = format!("key {n}");
    BlobRow { digest: Digest::of(key.as_bytes()), size: 1, key }
}

/// Writes rows until `stop`, one after the other, each until it is acknowledged; returns how many calls failed.
async fn write(catalog: Catalog, next: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> Result<usize, CatalogError> {
    let mut failed = 0;
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let row = row(next.fetch_add(1, Ordering::Relaxed));
        while let Err(error) = catalog.add_blob(&row, &[&home()]).await {
            assert!(error.is_transient(), "{error:?}");
            assert!(begin.elapsed() < LIMIT, "no call succeeds any more: {error:?}");
            failed += 1;
        }
    }
    Ok(failed)
}

/// Under load the server restarts, three times: calls fail as transient or succeed, what was acknowledged is there,
/// and the catalog goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_under_load_loses_nothing() {
    let (mut server, catalog) = start().await;
    let (next, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut writers = JoinSet::new();
    for _ in 0..32 {
        writers.spawn(write(catalog.clone(), Arc::clone(&next), Arc::clone(&stop)));
    }
    let mut watch = catalog.conversions();
    listening(&mut watch).await;
    for _ in 0..3 {
        let before = next.load(Ordering::Relaxed);
        let progress = || (next.load(Ordering::Relaxed) > before + 200).then_some(());
        tokio::task::block_in_place(|| {
            e2e::wait::until("writes", LIMIT, || Ok(progress()))?;
            server.restart()
        })
        .unwrap();
        // Who waits for a conversion looks again, too.
        listening(&mut watch).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut failed = 0;
    while let Some(writer) = writers.join_next().await {
        failed += writer.unwrap().unwrap();
    }
    assert!(failed > 0, "the restarts disturbed nobody");
    for n in 0..next.load(Ordering::Relaxed) {
        assert_eq!(catalog.blob(&row(n).digest).await.unwrap(), Some(row(n)), "an acknowledged write is lost");
        assert_eq!(catalog.is_linked(&home(), &row(n).digest).await.unwrap(), LinkState::Linked);
    }
}

/// After a restart one call may fail, not one for each connection that lies idle.
#[tokio::test(flavor = "multi_thread")]
async fn one_failure_is_enough_to_distrust_all_connections() {
    let (mut server, catalog) = start().await;
    // Many connections that were just used: none is tested for its age.
    for round in 0..3 {
        let calls = (0..64).map(|n| {
            let catalog = catalog.clone();
            async move { catalog.add_blob(&row(n), &[]).await }
        });
        for added in calls.collect::<JoinSet<_>>().join_all().await {
            added.unwrap();
        }
        tokio::task::block_in_place(|| server.restart()).unwrap();
        let mut failed = 0;
        for n in 0..40 {
            if let Err(error) = catalog.blob(&row(n).digest).await {
                assert!(error.is_transient(), "{error:?}");
                failed += 1;
            }
        }
        assert!(failed <= 1, "{failed} calls failed in round {round}");
    }
}

/// While the server is away calls fail as transient after a bounded time.
#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_server_are_transient() {
    let (mut server, catalog) = start().await;
    tokio::task::block_in_place(|| server.stop()).unwrap();
    for _ in 0..2 {
        let error = catalog.blob(&row(0).digest).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    }
    tokio::task::block_in_place(|| server.launch()).unwrap();
    assert_eq!(catalog.blob(&row(0).digest).await.unwrap(), None);
}
