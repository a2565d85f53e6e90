//! [`Holding`]: commits that count only while a lease is the caller's.

use api::{Digest, Repository, Twin, UnconvertibleReason};

use super::{Lease, remove};
use crate::session::Session;
use crate::{BlobRow, Catalog, CatalogError, TwinState, Work, blob, fill, twin};

/// Commits that count only while a lease is the caller's; each ends the lease, all or nothing.
///
/// A process that was stopped for longer than its lease lasts, and goes on, changes nothing here.
#[derive(Debug, Clone, Copy)]
pub struct Holding<'a> {
    catalog: &'a Catalog,
    lease: &'a Lease,
}

impl Catalog {
    /// Returns what commits under `lease`.
    pub fn holding<'a>(&'a self, lease: &'a Lease) -> Holding<'a> {
        Holding { catalog: self, lease }
    }
}

impl Holding<'_> {
    /// Does what [`Catalog::add_blob`] does, and ends the lease.
    ///
    /// # Errors
    /// [`CatalogError::LeaseLost`]; else as there.
    pub async fn add_blob(&self, blob: &BlobRow, links: &[&Repository]) -> Result<BlobRow, CatalogError> {
        let mut tx = self.begin("record a blob under a lease").await?;
        let standing = blob::store(&mut tx, blob, links).await?;
        self.end(tx).await?;
        Ok(standing)
    }

    /// Records that the fill which the lease is for ended without a blob, and ends the lease. For other work it only ends
    /// the lease.
    ///
    /// # Errors
    /// [`CatalogError::LeaseLost`]; else those of the database.
    pub async fn end_fill(&self) -> Result<(), CatalogError> {
        let mut tx = self.begin("end a fill under a lease").await?;
        if let Work::Fill { digest, upstream } = self.lease.work() {
            fill::end(&mut tx, digest, upstream).await?;
        }
        self.end(tx).await
    }

    /// Does what [`Catalog::finish_conversion`] does, and ends the lease.
    ///
    /// # Errors
    /// [`CatalogError::LeaseLost`]; else as there.
    pub async fn finish_conversion(
        &self,
        source: &Digest,
        profile: &str,
        twin: &Twin,
        key: &str,
        toc_key: &str,
    ) -> Result<TwinState, CatalogError> {
        let mut tx = self.begin("finish a conversion under a lease").await?;
        let state = twin::finish(&mut tx, source, profile, twin, key, toc_key).await?;
        self.end(tx).await?;
        Ok(state)
    }

    /// Does what [`Catalog::refuse_conversion`] does, and ends the lease.
    ///
    /// # Errors
    /// [`CatalogError::LeaseLost`]; else as there.
    pub async fn refuse_conversion(
        &self,
        source: &Digest,
        profile: &str,
        reason: UnconvertibleReason,
        detail: &str,
    ) -> Result<TwinState, CatalogError> {
        let mut tx = self.begin("refuse a conversion under a lease").await?;
        let state = twin::refuse(&mut tx, source, profile, reason, detail).await?;
        self.end(tx).await?;
        Ok(state)
    }

    /// Begins a transaction in which the lease stays the caller's.
    async fn begin(&self, action: &'static str) -> Result<Session, CatalogError> {
        let mut tx = self.catalog.begin(action).await?;
        // On PostgreSQL the row is locked, so a claim waits for the end of this transaction; on SQLite all writers do.
        let select =
            tx.locked("SELECT epoch FROM leases WHERE kind = $1 AND subject = $2 AND scope = $3 AND epoch = $4");
        let found: Option<(i64,)> = tx.optional(self.lease.bind(select)).await?;
        if found.is_some() {
            return Ok(tx);
        }
        tx.rollback().await?;
        Err(self.lease.lost())
    }

    async fn end(&self, mut tx: Session) -> Result<(), CatalogError> {
        remove(&mut tx, self.lease).await?;
        tx.commit().await
    }
}
