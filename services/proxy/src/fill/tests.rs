//! Fills in a fleet: the catalog on a real PostgreSQL, upstream and the other process behind real listeners.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::{Digest, Repository};
use axum::Router;
use blobstore::FsStore;
use bytes::Bytes;
use catalog::{BlobRow, Catalog, CatalogUrl, Claim, Owner};
use e2e::Postgres;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::source::{Sources, work};
use super::*;
use crate::config::MinFree;
use crate::fleet::{Fleet, Secret};
use crate::room::Room;
use crate::serve_http::{ConnLimits, serve};
use crate::stock::Stock;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);
/// Nothing of a healthy test takes longer.
const LIMIT: Duration = Duration::from_secs(120);
const BYTES: &[u8] = &[7; 100_000];
/// How often work was claimed.
const CLAIMS: &str = "(SELECT last_value - 1000000000000 FROM lease_epoch)";

/// A database, a store, and one process over them that has a spool folder.
struct Ground {
    server: Arc<Postgres>,
    url: String,
    catalog: Catalog,
    folder: TempDir,
    home: Repository,
    digest: Digest,
}

impl Ground {
    async fn new() -> Self {
        let server = Postgres::shared().unwrap();
        let url = server.database().unwrap();
        let parsed = CatalogUrl::parse(&url).unwrap();
        Catalog::migrate(&parsed).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("spool")).unwrap();
        Self {
            server,
            url,
            catalog: Catalog::open(&parsed).await.unwrap(),
            folder,
            home: Repository::parse("docker.io/library/a").unwrap(),
            digest: Digest::of(BYTES),
        }
    }

    /// Returns this process as one of the fleet; others can ask it, and it them, where it has the secret.
    fn fleet(&self, has_secret: bool) -> Arc<Fleet> {
        let path = self.folder.path().join("secret");
        std::fs::write(&path, "not so short a secret".replace(' ', "-")).unwrap();
        let secret = has_secret.then(|| Secret::load(&path).unwrap());
        Fleet::member(self.catalog.clone(), owner("this one", String::new()), LONG, secret)
    }

    fn stock(&self) -> Stock {
        Stock::new(self.catalog.clone(), Arc::new(FsStore::open(self.folder.path()).unwrap()))
    }

    fn fills(&self, has_secret: bool) -> Arc<Fills> {
        self.patient_fills(has_secret, LONG)
    }

    fn patient_fills(&self, has_secret: bool, patience: Duration) -> Arc<Fills> {
        let room = Room::new(self.folder.path().into(), MinFree::BasisPoints(0));
        let (folder, fleet) = (self.folder.path().join("spool"), self.fleet(has_secret));
        let mut fills = Fills::new(folder, room, fleet, self.stock(), Arc::new(Metrics::new()));
        fills.store_patience = patience;
        Arc::new(fills)
    }

    /// Runs statements off the asynchronous threads and returns the rows.
    async fn sql(&self, statements: &str) -> String {
        let (server, url, statements) = (Arc::clone(&self.server), self.url.clone(), statements.to_owned());
        telemetry::blocking(move || server.sql(&url, &statements).unwrap()).await
    }

    /// Returns how often work was claimed.
    async fn claims(&self) -> String {
        self.sql(&format!("SELECT {CLAIMS}")).await
    }

    /// Gives the fill to another process, which is reached at `address`.
    async fn held_by_another(&self, address: String) -> catalog::Lease {
        match self.catalog.claim(&work(&self.home, &self.digest), &owner("another", address), LONG).await.unwrap() {
            Claim::Granted(lease) => lease,
            held @ Claim::Held { .. } => panic!("{held:?}"),
        }
    }

    async fn row(&self) -> Option<BlobRow> {
        self.catalog.blob(&self.digest).await.unwrap()
    }

    /// Checks that the store has the blob's bytes and no others, and that nothing is left of any fill.
    async fn check_stored(&self) {
        let row = self.row().await.expect("a row of the blob");
        let store = self.stock().store;
        let keys: Vec<_> = store.list(None, 10).await.unwrap().into_iter().map(|found| found.key.to_string()).collect();
        assert_eq!(keys, std::slice::from_ref(&row.key));
        let blob = store.open(&row.key.parse().unwrap()).await.unwrap();
        assert_eq!(blob.read(0, BYTES.len()).await.unwrap(), BYTES);
        self.check_over().await;
    }

    async fn check_over(&self) {
        assert!(self.catalog.unfinished_fills().await.unwrap().is_empty());
        let left: Vec<_> = std::fs::read_dir(self.folder.path().join("spool")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn owner(id: &str, address: String) -> Owner {
    Owner { id: id.into(), address }
}

/// Serves `bytes` to whoever asks for anything, and returns where.
async fn served(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = Router::new().fallback(move || async move { Bytes::from_static(bytes) });
    tokio::spawn(serve(listener, None, routes, std::future::pending(), Duration::ZERO, ConnLimits::default()));
    address
}

fn client(address: &str) -> upstream::Client {
    let settings = upstream::Settings::new("docker.io", format!("http://{address}"));
    upstream::Client::new(upstream::Settings { plain_http: true, direct: true, ..settings }).unwrap()
}

/// Polls until `done` says so.
async fn wait<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < LIMIT, "no {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for what ends by itself.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what} does not end"))
}

/// Starts the fill for a client, and returns it when it is over.
async fn filled(fills: &Arc<Fills>, ground: &Ground, client: &upstream::Client) -> Arc<Fill> {
    match within("the opening", fills.join_wanted(client, &ground.home, &ground.digest)).await.unwrap() {
        Joined::Running(fill) => {
            within("the fill", fill.wait_stored()).await;
            fill
        }
        Joined::Stored(row) => panic!("{row:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_was_left_is_claimed_once() {
    let ground = Ground::new().await;
    let client = client(&served(BYTES).await);
    ground.catalog.begin_fill(&ground.digest, &ground.home, BYTES.len() as u64).await.unwrap();
    let fills = ground.fills(true);
    fills.take_over(|_| Some(client.clone())).await.unwrap();
    wait("row", async || ground.row().await.is_some()).await;
    wait("end", async || fills.running().is_empty()).await;
    ground.check_stored().await;
    assert_eq!(ground.claims().await, "1");
}

/// Where another process has it by now, nobody here needs a spool of it, unless somebody asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_another_process_took_over_is_left_to_it() {
    let ground = Ground::new().await;
    let peer = served(BYTES).await;
    let client = client(&peer);
    ground.held_by_another(peer).await;
    let fills = ground.patient_fills(true, Duration::ZERO);
    let left = within("the look", fills.join_left(&client, &ground.home, &ground.digest)).await;
    assert!(matches!(&left, Err(error) if matches!(**error, FillError::HeldElsewhere)), "{left:?}");
    assert!(filled(&fills, &ground, &client).await.spool().is_complete());
}

/// A process that the others cannot read takes over nothing of theirs, and goes on with what it has a spool of.
#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_read_takes_over_nothing() {
    let ground = Ground::new().await;
    let client = client(&served(BYTES).await);
    ground.catalog.begin_fill(&ground.digest, &ground.home, BYTES.len() as u64).await.unwrap();
    let [can, cannot] = [true, false].map(|has_secret| ground.fills(has_secret));
    let asked = AtomicUsize::new(0);
    let client_of = |_: &Repository| {
        asked.fetch_add(1, Ordering::Relaxed);
        Some(client.clone())
    };
    cannot.take_up(client_of).await.unwrap();
    cannot.take_over(client_of).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    let spool = journal::spool_path(&ground.folder.path().join("spool"), ground.home.upstream(), &ground.digest);
    std::fs::write(&spool, "").unwrap();
    cannot.take_up(client_of).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1, "its own");
    wait("row", async || ground.row().await.is_some()).await;
    let another = Digest::of(b"another");
    ground.catalog.begin_fill(&another, &ground.home, 7).await.unwrap();
    can.take_over(client_of).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// A process that followed a fill is started again: what it has of it stays until somebody has ended the fill.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_followed_stays_until_the_fill_ends() {
    let ground = Ground::new().await;
    let client = client(&served(BYTES).await);
    ground.catalog.begin_fill(&ground.digest, &ground.home, BYTES.len() as u64).await.unwrap();
    let lease = ground.held_by_another(String::new()).await;
    let folder = ground.folder.path().join("spool");
    let spool = |digest: &Digest| journal::spool_path(&folder, ground.home.upstream(), digest);
    let (followed, nobodys) = (spool(&ground.digest), spool(&Digest::of(b"nobody's")));
    for path in [&followed, &nobodys] {
        std::fs::write(path, BYTES).unwrap();
        std::fs::write(path.with_extension("journal-new"), "").unwrap();
    }
    // What a conversion was writing goes at once.
    let draft = folder.join("twin.draft");
    std::fs::write(&draft, "").unwrap();
    let fills = ground.fills(true);
    let client_of = |_: &Repository| Some(client.clone());
    fills.take_up(client_of).await.unwrap();
    let is_there = |path: &std::path::Path| path.try_exists().unwrap();
    assert_eq!([&followed, &nobodys, &draft].map(|path| is_there(path)), [true, false, false]);
    fills.take_over(client_of).await.unwrap();
    assert!(is_there(&followed));
    ground.catalog.holding(&lease).end_fill().await.unwrap();
    fills.take_over(client_of).await.unwrap();
    ground.check_over().await;
}

/// Whoever still holds the fill, a reader that does not read, holds no lease.
#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_failed_fill_ends_with_it() {
    let ground = Ground::new().await;
    let client = client(&served(&[8; BYTES.len()]).await);
    let fills = ground.fills(true);
    let fill = filled(&fills, &ground, &client).await;
    let _reader = FillReader::new(Arc::clone(&fill), 0..fill.size());
    assert!(matches!(fill.spool().outcome(), Some(Outcome::Failed(_))));
    assert_eq!(ground.catalog.holder(&work(&ground.home, &ground.digest)).await.unwrap(), None);
    ground.check_over().await;
}

/// The process that does a fill has all bytes and never stores them: who follows gives up, and leaves it its lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_does_not_wait_for_ever() {
    let ground = Ground::new().await;
    let peer = served(BYTES).await;
    let client = client(&peer);
    ground.held_by_another(peer).await;
    let fill = filled(&ground.patient_fills(true, Duration::from_millis(300)), &ground, &client).await;
    assert!(matches!(fill.spool().outcome(), Some(Outcome::Verified)));
    assert_eq!(ground.row().await, None);
    ground.check_over().await;
    let holder = ground.catalog.holder(&work(&ground.home, &ground.digest)).await.unwrap();
    assert_eq!(holder.map(|owner| owner.id).as_deref(), Some("another"));
}

/// The catalog fails between the claim and its record: the take-over is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_passing_error_does_not_end_a_take_over() {
    let ground = Ground::new().await;
    let lease = ground.held_by_another(served(BYTES).await).await;
    let metrics = Arc::new(Metrics::new());
    let (fleet, stock) = (ground.fleet(true), ground.stock());
    let sources = Sources::find(&fleet, &stock, &metrics, &ground.home, &ground.digest, true).await.unwrap();
    let left = sources.now();
    assert!(!left.is_upstream());
    ground.catalog.release(&lease).await.unwrap();
    // Two claims were made so far; the fourth is the second try.
    let lock = locking("fills", &format!("{CLAIMS} >= 4"), "");
    let ((), left) = tokio::join!(async { drop(ground.sql(&lock).await) }, async {
        wait_locked(&ground, "fills").await;
        within("the search", sources.leave(&left, Some(9))).await
    });
    left.unwrap();
    assert!(sources.now().is_upstream());
    assert_eq!(ground.catalog.unfinished_fills().await.unwrap().len(), 1);
    assert!(metrics.render().contains("taken_over_total{kind=\"fill\"} 1"), "{}", metrics.render());
}

/// The lease is gone when the blob is in the store, and nobody else has it: what was stored counts under the next lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_comes_back_finds_what_was_stored() {
    let ground = Ground::new().await;
    let client = client(&served(BYTES).await);
    let fills = ground.fills(true);
    // The commit waits here, with the row of the lease locked, and is broken off.
    let waits = "EXISTS (SELECT 1 FROM pg_locks WHERE relation = 'blobs'::regclass AND NOT granted)";
    let lock = locking("blobs", waits, "DELETE FROM leases;");
    let (_, fill) = tokio::join!(ground.sql(&lock), async {
        wait_locked(&ground, "blobs").await;
        filled(&fills, &ground, &client).await
    });
    assert!(matches!(fill.spool().outcome(), Some(Outcome::Verified)));
    ground.check_stored().await;
    assert_eq!(ground.claims().await, "2");
}

/// A row whose bytes are gone is no answer: the blob is fetched again.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_bytes_is_filled_again() {
    let ground = Ground::new().await;
    let client = client(&served(BYTES).await);
    let key = blobstore::BlobKey::blob(&ground.digest, blobstore::Generation::random()).to_string();
    let gone = BlobRow { digest: ground.digest.clone(), size: BYTES.len() as u64, key };
    ground.catalog.add_blob(&gone, &[]).await.unwrap();
    filled(&ground.fills(true), &ground, &client).await;
    ground.check_stored().await;
}

/// Returns statements that lock a table against writers until `condition` is true, and then run `last`. The others find
/// a deadlock first.
fn locking(table: &str, condition: &str, last: &str) -> String {
    format!(
        "SET deadlock_timeout = '1h'; BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE; \
         DO $$ BEGIN FOR i IN 1..600 LOOP EXIT WHEN {condition}; PERFORM pg_sleep(0.05); END LOOP; END $$; {last} COMMIT"
    )
}

async fn wait_locked(ground: &Ground, table: &str) {
    let granted = format!(
        "SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND mode = 'ExclusiveLock' AND granted"
    );
    wait("lock", async || ground.sql(&granted).await == "1").await;
}
