//! [`Fleet`]: the processes that share one catalog, and which of them does which work.
//!
//! On PostgreSQL every fill and every conversion needs a lease, which one process has at a time. On SQLite there is one
//! process, and it may do everything.

mod held;
mod peer;
mod secret;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use blobstore::Generation;
use catalog::{Catalog, CatalogError, CatalogUrl, Claim, Owner, Work};

use crate::config::Config;
pub(crate) use held::HeldLease;
use peer::Peers;
pub(crate) use peer::{Ask, Peer};
pub(crate) use secret::Secret;

/// The processes that share one catalog, as one of them sees them.
#[derive(Debug)]
pub(crate) struct Fleet {
    catalog: Catalog,
    /// `None` where there is no other process.
    member: Option<Member>,
}

/// This process among the others.
#[derive(Debug)]
struct Member {
    owner: Owner,
    /// How long a lease lasts.
    ttl: Duration,
    /// How the others are asked; `None` where this process is not told the secret.
    peers: Option<Peers>,
}

/// Who does some work.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// This process, as long as it has this.
    Mine(HeldLease),
    /// Another one.
    Theirs(Owner),
}

impl Fleet {
    /// Returns the fleet of the configured catalog. The data folder, which this process must have for itself, keeps its
    /// name: started again on it, it goes on with its work at once.
    ///
    /// # Errors
    /// Says which file cannot be used.
    pub(crate) fn open(config: &Config, catalog: Catalog) -> anyhow::Result<Arc<Self>> {
        if matches!(config.catalog.url, CatalogUrl::Sqlite(_)) {
            return Ok(Arc::new(Self { catalog, member: None }));
        }
        let ttl = config.server.lease;
        let (address, peers) = match &config.server.internal {
            None => (String::new(), None),
            Some(internal) => {
                let secret = Secret::load(&internal.secret_file).context("server.internal_secret_file")?;
                (internal.advertise.clone(), Some(Peers::new(secret, ttl)))
            }
        };
        let owner = Owner { id: name(&config.storage.path)?, address };
        Ok(Arc::new(Self { catalog, member: Some(Member { owner, ttl, peers }) }))
    }

    /// Returns the fleet as `owner` sees it, whose leases last `ttl`; with a secret it can be asked, and ask others.
    #[cfg(test)]
    pub(crate) fn member(catalog: Catalog, owner: Owner, ttl: Duration, secret: Option<Secret>) -> Arc<Self> {
        let peers = secret.map(|secret| Peers::new(secret, ttl));
        Arc::new(Self { catalog, member: Some(Member { owner, ttl, peers }) })
    }

    /// Returns the secret that the replicas share, where this process has it.
    pub(crate) fn secret(&self) -> Option<&Secret> {
        Some(self.member.as_ref()?.peers.as_ref()?.secret())
    }

    /// Returns how long a lease lasts, or `None` where there is no other process.
    pub(crate) fn lease_time(&self) -> Option<Duration> {
        self.member.as_ref().map(|member| member.ttl)
    }

    /// Tells whether other processes, where there are any, can read what this one fills.
    pub(crate) fn is_readable(&self) -> bool {
        self.member.as_ref().is_none_or(|member| member.peers.is_some())
    }

    /// Claims `work` for this process.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn claim(&self, work: &Work) -> Result<Claimed, CatalogError> {
        let Some(Member { owner, ttl, .. }) = &self.member else {
            return Ok(Claimed::Mine(HeldLease::unneeded(self.catalog.clone())));
        };
        Ok(match self.catalog.claim(work, owner, *ttl).await? {
            Claim::Granted(lease) => Claimed::Mine(HeldLease::renewed(self.catalog.clone(), lease, *ttl)),
            Claim::Held { by, .. } => Claimed::Theirs(by),
        })
    }

    /// Returns the other process that does `work`, if one does.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn holder(&self, work: &Work) -> Result<Option<Owner>, CatalogError> {
        let Some(member) = &self.member else { return Ok(None) };
        let holder = self.catalog.holder(work).await?;
        Ok(holder.filter(|holder| holder.id != member.owner.id))
    }

    /// Returns how to read the spools that `owner` fills from `upstream`; `None` where it cannot be reached.
    pub(crate) async fn peer(&self, owner: &Owner, upstream: &str) -> Option<Peer> {
        self.member.as_ref()?.peers.as_ref()?.peer(owner, upstream).await
    }

    /// Gives all work of this process to the others. For the end of the process.
    pub(crate) async fn leave(&self) {
        let Some(member) = &self.member else { return };
        if let Err(error) = self.catalog.release_all(&member.owner).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "leases could not be given back; they run out by themselves");
        }
    }
}

/// Returns the name kept in the data folder; the first call makes one.
fn name(folder: &Path) -> anyhow::Result<String> {
    let path = folder.join("replica");
    let kept = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    if !kept.trim().is_empty() {
        return Ok(kept.trim().to_owned());
    }
    let name = Generation::random().to_string();
    std::fs::write(&path, format!("{name}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_name() {
        let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let first = name(one.path()).unwrap();
        assert_eq!(name(one.path()).unwrap(), first);
        assert_ne!(name(other.path()).unwrap(), first);
        std::fs::write(one.path().join("replica"), "").unwrap();
        assert!(!name(one.path()).unwrap().is_empty(), "a file that was cut off is written anew");
    }
}
