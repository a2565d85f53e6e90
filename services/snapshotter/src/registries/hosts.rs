//! [`Hosts`]: all who have the blobs of a registry.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::{Digest, RepositoryName};
use upstream::{BlobAnswer, Client, UpstreamError};

/// All who have the blobs of a registry, in the order of the configuration; never none.
#[derive(Debug, Clone)]
pub(crate) struct Hosts {
    clients: Arc<[Client]>,
    /// Who is asked first.
    first: Arc<AtomicUsize>,
}

/// One of [`Hosts`], when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    number: usize,
    /// Who was asked first then.
    first: usize,
}

impl Hosts {
    /// Returns hosts; `None` where there are none.
    pub(super) fn new(clients: Vec<Client>) -> Option<Self> {
        (!clients.is_empty()).then(|| Self { clients: clients.into(), first: Arc::default() })
    }

    /// Returns somebody who has them alone.
    pub(crate) fn one(client: Client) -> Self {
        Self { clients: Arc::new([client]), first: Arc::default() }
    }

    /// Returns how many they are.
    pub(crate) fn count(&self) -> u32 {
        self.clients.len() as u32
    }

    /// Returns all of them.
    pub(crate) fn clients(&self) -> &[Client] {
        &self.clients
    }

    fn in_turn(&self) -> impl Iterator<Item = (Asked, &Client)> {
        let (first, count) = (self.first.load(Ordering::Relaxed), self.clients.len());
        let numbers = (first..first + count).map(move |number| number % count);
        numbers.map(move |number| (Asked { number, first }, &self.clients[number]))
    }

    /// Returns a part of a blob, and whose it is, of the first who has it.
    ///
    /// # Errors
    /// What the last one said.
    pub(crate) async fn blob(
        &self,
        name: &RepositoryName,
        blob: &Digest,
        range: &Range<u64>,
    ) -> Result<(BlobAnswer, Asked), UpstreamError> {
        let mut refused = UpstreamError::NotFound;
        for (asked, client) in self.in_turn() {
            match client.blob(name, blob, Some(range.clone())).await {
                Ok(answer) => return Ok((answer, asked)),
                Err(error) => refused = self.note(asked, error),
            }
        }
        Err(refused)
    }

    /// Returns the size of a blob.
    ///
    /// # Errors
    /// What the last one said.
    pub(crate) async fn blob_size(&self, name: &RepositoryName, blob: &Digest) -> Result<u64, UpstreamError> {
        let mut refused = UpstreamError::NotFound;
        for (asked, client) in self.in_turn() {
            match client.blob_size(name, blob).await {
                Ok(size) => return Ok(size),
                Err(error) => refused = self.note(asked, error),
            }
        }
        Err(refused)
    }

    fn note(&self, asked: Asked, error: UpstreamError) -> UpstreamError {
        if self.clients.len() > 1 {
            let host = self.clients[asked.number].name();
            tracing::debug!(host, error = &error as &dyn std::error::Error, "a host does not have a blob");
        }
        // A mirror need not have everything.
        if !matches!(error, UpstreamError::NotFound | UpstreamError::Denied { .. }) {
            self.turn_from(asked);
        }
        error
    }

    /// Has the one behind `failed` asked first from now on. Of many who failed with it one counts.
    pub(crate) fn turn_from(&self, failed: Asked) {
        let next = (failed.number + 1) % self.clients.len();
        // If not, somebody else turned.
        let _turned = self.first.compare_exchange(failed.first, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Has the next one asked first.
    pub(crate) fn turn(&self) {
        let first = self.first.load(Ordering::Relaxed);
        self.turn_from(Asked { number: first, first });
    }
}
