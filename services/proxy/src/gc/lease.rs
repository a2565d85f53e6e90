//! [`CollectionLease`]: the right of one process of the fleet to evict and delete, or to keep all others from it.

use std::time::Duration;

use blobstore::Generation;
use catalog::{Catalog, CatalogError, Claim, Lease, Owner, Work};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long the lease outlasts the process that has it.
const TTL: Duration = Duration::from_secs(60);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(15);
/// How often a process that waits for it claims it.
const POLL: Duration = Duration::from_millis(500);

/// The lease of collections, renewed while this lives. Between collections it only saves work: two that collect at once do
/// nothing wrong.
#[derive(Debug)]
pub(crate) struct CollectionLease {
    catalog: Catalog,
    lease: Lease,
    renewing: JoinHandle<()>,
}

/// Why the lease was not had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// The catalog failed.
    #[error("catalog failed")]
    Catalog(#[from] CatalogError),
    /// Another process has it.
    #[error(
        "the {by} works on the store now: try again when it has ended, or, if it died, in {} s, when its lease has run out",
        expires_in.as_secs() + 1
    )]
    Held {
        /// What the process is, as [`owner`] names it.
        by: String,
        /// How long its lease lasts if it is not heard of again.
        expires_in: Duration,
    },
}

/// Returns a new name for this process, which does `task`: people read it.
pub(crate) fn owner(task: &str) -> Owner {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let (host, pid) = (host.trim(), std::process::id());
    Owner { id: format!("{task} {} (process {pid} on {host})", Generation::random()), address: String::new() }
}

impl CollectionLease {
    /// Claims the lease.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub(super) async fn claim(catalog: &Catalog, owner: &Owner) -> Result<Self, LeaseError> {
        match catalog.claim(&Work::Collection, owner, TTL).await? {
            Claim::Granted(lease) => {
                let renewing = tokio::spawn(renew(catalog.clone(), lease.clone()));
                Ok(Self { catalog: catalog.clone(), lease, renewing })
            }
            Claim::Held { by, expires_in } => Err(LeaseError::Held { by: by.id, expires_in }),
        }
    }

    /// Claims the lease, and for up to `patience` waits until whoever has it has ended.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub(crate) async fn wait(catalog: &Catalog, owner: &Owner, patience: Duration) -> Result<Self, LeaseError> {
        let deadline = Instant::now() + patience;
        loop {
            match Self::claim(catalog, owner).await {
                Err(LeaseError::Held { .. }) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                claimed => return claimed,
            }
        }
    }

    /// Renews the lease now, as whoever may have been stopped for long does before it goes on.
    ///
    /// # Errors
    /// [`CatalogError::LeaseLost`] when another process has had it since; else those of the database.
    pub(super) async fn confirm(&self) -> Result<(), CatalogError> {
        self.catalog.heartbeat(&self.lease, TTL).await
    }

    /// Gives the lease to whoever wants it. One that is only dropped runs out.
    pub(crate) async fn end(self) {
        self.renewing.abort();
        if let Err(error) = self.catalog.release(&self.lease).await {
            tracing::debug!(%error, "the lease of a collection runs out by itself");
        }
    }
}

impl Drop for CollectionLease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn renew(catalog: Catalog, lease: Lease) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        if let Err(error) = catalog.heartbeat(&lease, TTL).await {
            tracing::debug!(%error, "the lease of a collection could not be renewed");
        }
    }
}
