//! [`Lease`]: work that one process at a time does.

mod holding;

use std::fmt;
use std::time::Duration;

use api::Digest;

use crate::query::{Query, Value, query};
use crate::session::Session;
use crate::{Catalog, CatalogError};
pub use holding::Holding;

/// Work that one process at a time does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Work {
    /// Fetching a blob from an upstream.
    Fill {
        /// The blob.
        digest: Digest,
        /// The upstream's name: what one upstream sends says nothing about another's.
        upstream: String,
    },
    /// Converting a source layer.
    Conversion {
        /// The source layer.
        source: Digest,
        /// The id of the profile.
        profile: String,
    },
    /// Evicting, and deleting what was evicted.
    Collection,
}

/// A process that does work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its name. No other process that runs has it. One that is started again on the same data folder has the one of
    /// the process before, which is gone, and takes up its work without waiting.
    pub id: String,
    /// Where other processes reach it; empty: nowhere.
    pub address: String,
}

/// The right to do some work, until it expires and somebody else claims it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    work: Work,
    epoch: i64,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The work is the caller's.
    Granted(Lease),
    /// Another process does it.
    Held {
        /// The process.
        by: Owner,
        /// How long its lease lasts if it is not heard of again.
        expires_in: Duration,
    },
}

// === impl Work ===

impl Work {
    /// Returns kind, subject and scope as the table has them.
    fn columns(&self) -> (&'static str, Value, &str) {
        match self {
            Self::Fill { digest, upstream } => ("fill", digest.into(), upstream),
            Self::Conversion { source, profile } => ("conversion", source.into(), profile),
            Self::Collection => ("gc", "".into(), ""),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fill { digest, upstream } => write!(f, "fill of {digest} ({upstream})"),
            Self::Conversion { source, profile } => write!(f, "conversion of {source} ({profile})"),
            Self::Collection => f.write_str("collection"),
        }
    }
}

// === impl Lease ===

impl Lease {
    /// Returns what it is the right to.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Returns the number of the claim. No other claim of this catalog, of whatever work, has it.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Binds the key and the epoch: `$1` to `$4`.
    fn bind(&self, statement: Query) -> Query {
        bind(&self.work, statement).bind(self.epoch)
    }

    fn lost(&self) -> CatalogError {
        CatalogError::LeaseLost { work: self.work.clone() }
    }
}

/// Binds the key: `$1` to `$3`.
fn bind(work: &Work, statement: Query) -> Query {
    let (kind, subject, scope) = work.columns();
    statement.bind(kind).bind(subject).bind(scope)
}

// === impl Catalog ===

/// Numbers a claim, where there are no sequences: from one row. Numbers are never taken back, so that a lease never has an
/// earlier one's, not even of work whose row came and went. With a sequence no claim waits for another's work.
const NEXT_EPOCH: &str = "UPDATE lease_epochs SET last = last + 1 RETURNING last";

/// A lease that is free is taken, and then its owner is the caller; else nothing changes. The owner comes back.
///
/// `excluded.expires_at - $6` is now, the same moment in every column. An owner's own lease counts as free: a claim
/// whose answer got lost is repeated.
const CLAIM: &str = "\
INSERT INTO leases (kind, subject, scope, owner, address, expires_at, epoch)
VALUES ($1, $2, $3, $4, $5, {now} + $6, {epoch})
ON CONFLICT (kind, subject, scope) DO UPDATE SET
    owner = CASE WHEN {held} THEN leases.owner ELSE excluded.owner END,
    address = CASE WHEN {held} THEN leases.address ELSE excluded.address END,
    expires_at = CASE WHEN {held} THEN leases.expires_at ELSE excluded.expires_at END,
    epoch = CASE WHEN {held} THEN leases.epoch ELSE excluded.epoch END
RETURNING epoch, owner, address, expires_at - {now}";

const HELD: &str = "leases.owner <> excluded.owner AND leases.expires_at > excluded.expires_at - $6";

impl Catalog {
    /// Claims `work` for `owner` until `ttl` from now by the database's clock. Of many that claim free work one gets
    /// it. A claim by the owner itself is granted, and ends its lease before.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim(&self, work: &Work, owner: &Owner, ttl: Duration) -> Result<Claim, CatalogError> {
        let claim = |session: &Session, epoch| {
            let claim = session.timed(&CLAIM.replace("{held}", HELD).replace("{epoch}", epoch));
            bind(work, claim).bind(&owner.id).bind(&owner.address).bind(milliseconds(ttl))
        };
        let mut session = self.writing("claim work").await?;
        let (epoch, id, address, expires_in): (i64, String, String, i64) = if session.has_sequences() {
            let claim = claim(&session, "nextval('lease_epoch')");
            session.one(claim).await?
        } else {
            session.begin().await?;
            let (epoch,): (i64,) = session.one(query(NEXT_EPOCH)).await?;
            let claim = claim(&session, "$7").bind(epoch);
            let claimed = session.one(claim).await?;
            session.commit().await?;
            claimed
        };
        if id == owner.id {
            return Ok(Claim::Granted(Lease { work: work.clone(), epoch }));
        }
        let expires_in = Duration::from_millis(u64::try_from(expires_in).unwrap_or(0));
        Ok(Claim::Held { by: Owner { id, address }, expires_in })
    }

    /// Makes `lease` last until `ttl` from now. One that has expired lasts again if nobody claimed the work.
    ///
    /// # Errors
    /// [`CatalogError::LeaseLost`] when it is somebody else's or nobody's; else those of the database.
    pub async fn heartbeat(&self, lease: &Lease, ttl: Duration) -> Result<(), CatalogError> {
        let mut session = self.writing("renew a lease").await?;
        let update = session.timed(
            "UPDATE leases SET expires_at = {now} + $5 WHERE kind = $1 AND subject = $2 AND scope = $3 AND epoch = $4",
        );
        let renewed = session.run(lease.bind(update).bind(milliseconds(ttl))).await?;
        if renewed == 1 { Ok(()) } else { Err(lease.lost()) }
    }

    /// Ends `lease`: the work is free at once. Nothing changes when the lease was lost.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release(&self, lease: &Lease) -> Result<(), CatalogError> {
        let mut session = self.writing("release a lease").await?;
        remove(&mut session, lease).await
    }

    /// Ends all leases of `owner`: its work is free at once. For a process that stops.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_all(&self, owner: &Owner) -> Result<(), CatalogError> {
        let delete = query("DELETE FROM leases WHERE owner = $1").bind(&owner.id);
        self.writing("release all leases").await?.run(delete).await?;
        Ok(())
    }

    /// Returns the process that does `work`, or `None` when nobody does or the lease has expired.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn holder(&self, work: &Work) -> Result<Option<Owner>, CatalogError> {
        let mut session = self.reading("look up a lease").await?;
        let select = session.timed(
            "SELECT owner, address FROM leases WHERE kind = $1 AND subject = $2 AND scope = $3 AND expires_at > {now}",
        );
        let found: Option<(String, String)> = session.optional(bind(work, select)).await?;
        Ok(found.map(|(id, address)| Owner { id, address }))
    }
}

async fn remove(session: &mut Session, lease: &Lease) -> Result<(), CatalogError> {
    let delete = query("DELETE FROM leases WHERE kind = $1 AND subject = $2 AND scope = $3 AND epoch = $4");
    session.run(lease.bind(delete)).await?;
    Ok(())
}

pub(crate) fn milliseconds(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 2)
}
