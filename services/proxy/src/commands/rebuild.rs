//! `firstlight catalog rebuild`: a lost catalog from what the store holds.
//!
//! First the bytes: each blob is read whole, and becomes a row when it has the digest of its key. Then the meta objects:
//! each becomes a row as far as its bytes have one. Every step may be repeated, so a rebuild that was broken off is
//! begun again and goes on; until it has ended, nobody serves from the catalog.

mod bytes;
mod objects;
mod progress;
mod report;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use blobstore::BlobStore;
use catalog::{Catalog, Mark};

use crate::app::open_store;
use crate::config::Config;
use crate::gc::{self, CollectionLease};
use crate::{serve, tie};
use progress::Progress;

pub use report::{LeftOut, Rebuilt};

/// How long a rebuild waits for a collection that another process is at.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a rebuild works with.
#[derive(Debug)]
struct Rebuild {
    catalog: Catalog,
    store: Arc<dyn BlobStore>,
    progress: Progress,
}

/// Rebuilds the configured catalog from the configured store. With `merge` the catalog may have rows: they stay, and
/// what they lack is added.
///
/// # Errors
/// When a process serves from the same folder, one goes on collecting, the catalog has rows, or catalog or store fail. Run
/// again, it goes on.
pub async fn run(config: &Config, merge: bool) -> anyhow::Result<Rebuilt> {
    run_within(config, merge, PATIENCE).await
}

async fn run_within(config: &Config, merge: bool, patience: Duration) -> anyhow::Result<Rebuilt> {
    let url = &config.catalog.url;
    let _lock = serve::lock(&config.storage.path)?;
    let catalog = Catalog::open(url).await.with_context(|| format!("cannot open the catalog {url}"))?;
    let (has_blobs, goes_on) = (catalog.has_blobs().await?, catalog.is_marked(Mark::Rebuilding).await?);
    if has_blobs && !goes_on && !merge {
        bail!(
            "the catalog {url} is not empty: rebuild into a new one (an empty database, then `firstlight migrate`), or \
             give --merge to keep its rows and add what they lack"
        );
    }
    let store = open_store(config).await.context("cannot open the blob store")?;
    tie::adopt(&catalog, &store).await.context("cannot rebuild from this store")?;
    // Whoever deletes must know all rows; the mark, which outlasts this process, then keeps collections away.
    let lease = CollectionLease::wait(&catalog, &gc::owner("rebuild"), patience).await?;
    if !has_blobs && !goes_on {
        // All that will be recorded comes from meta objects, so none is missing.
        catalog.mark(Mark::Noted).await?;
    }
    catalog.mark(Mark::Rebuilding).await?;
    let rebuild = Rebuild { catalog, store, progress: Progress::new() };
    let mut report = Rebuilt { catalog: url.to_string(), ..Rebuilt::default() };
    let done = rebuild.all(&mut report).await;
    rebuild.progress.end();
    lease.end().await;
    done.context("the rebuild is not finished: run it again, and it goes on")?;
    rebuild.catalog.unmark(Mark::Rebuilding).await?;
    rebuild.catalog.close().await;
    Ok(report)
}

impl Rebuild {
    async fn all(&self, report: &mut Rebuilt) -> anyhow::Result<()> {
        self.bytes(report).await?;
        self.objects(report).await
    }
}

#[cfg(test)]
mod tests {
    use ::bytes::Bytes;
    use api::Digest;
    use blobstore::{BlobKey, FsStore, Generation};
    use catalog::{BlobRow, Claim, Work};

    use super::*;

    /// A replica that goes on serving stores a blob after its keys were listed: its row stays. One whose bytes are nowhere
    /// gets those of the listing.
    #[tokio::test]
    async fn what_is_stored_after_the_listing_stays() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("catalog.db").display());
        let catalog = Catalog::open(&catalog::CatalogUrl::parse(&url).unwrap()).await.unwrap();
        let store: Arc<dyn BlobStore> = Arc::new(FsStore::open(folder.path()).unwrap());
        let rebuild = Rebuild { catalog: catalog.clone(), store: Arc::clone(&store), progress: Progress::new() };
        let bytes = Bytes::from_static(b"a blob");
        let digest = Digest::of(&bytes);
        let [listed, later] = [1, 2].map(|_| BlobKey::blob(&digest, Generation::random()));
        let row = BlobRow { digest: digest.clone(), size: bytes.len() as u64, key: later.to_string() };
        store.put_bytes(&listed, bytes.clone()).await.unwrap();
        store.put_bytes(&later, bytes.clone()).await.unwrap();
        catalog.add_blob(&row, &[]).await.unwrap();
        let copies = vec![(listed.clone(), row.size)];
        rebuild.look(copies.clone()).await.unwrap();
        assert_eq!(catalog.blob(&digest).await.unwrap().unwrap().key, later.to_string());

        store.delete(&later).await.unwrap();
        rebuild.look(copies).await.unwrap();
        assert_eq!(catalog.blob(&digest).await.unwrap().unwrap().key, listed.to_string());
    }

    /// While somebody collects, nothing is rebuilt, and the refusal says who; afterwards it is, and the lease is free.
    #[tokio::test]
    async fn a_collection_ends_first() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display().to_string();
        let config = Config::load(None, [("FIRSTLIGHT_STORAGE_PATH".to_owned(), root)].into_iter()).unwrap();
        let catalog = Catalog::open(&config.catalog.url).await.unwrap();
        let collector = gc::owner("collector");
        let claim = catalog.claim(&Work::Collection, &collector, Duration::from_secs(600)).await.unwrap();
        let Claim::Granted(lease) = claim else { panic!("{claim:?}") };
        let error = run_within(&config, false, Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().contains(&collector.id), "{error}");
        assert!(!catalog.is_marked(Mark::Rebuilding).await.unwrap());

        let (done, ()) = tokio::join!(run_within(&config, false, Duration::from_secs(60)), async {
            catalog.release(&lease).await.unwrap();
        });
        done.unwrap();
        assert_eq!(catalog.holder(&Work::Collection).await.unwrap(), None);
    }
}
