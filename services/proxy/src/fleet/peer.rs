//! [`Peer`]: another process of the fleet, asked for the bytes of a fill that it does.

use std::ops::Range;
use std::time::Duration;

use api::{Digest, RepositoryName};
use catalog::Owner;
use moka::future::Cache;
use upstream::{BlobAnswer, Client, RetryPolicy, Settings, Timeouts, UpstreamError};

use super::secret::Secret;

/// The clients kept: one for each other process and each upstream it fills from.
const CLIENTS: u64 = 1000;
/// The connections to one other process at once, for each upstream.
const CONNECTIONS: usize = 256;

/// How another process is to bring the bytes that it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// As its fill comes to them.
    Unasked,
    /// As its fill comes to them, and a client waits for the fill.
    Wanted,
    /// At once: a client waits for these bytes.
    Now,
}

impl Ask {
    const ALL: [Self; 3] = [Self::Unasked, Self::Wanted, Self::Now];

    const fn name(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Wanted => "wanted",
            Self::Now => "now",
        }
    }

    /// Returns what stands in the path of a request.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ask| ask.name() == name)
    }
}

/// How the other processes are asked.
#[derive(Debug)]
pub(super) struct Peers {
    secret: Secret,
    /// How long a body may stand still. A process that was stopped has lost its lease by then, or soon will.
    idle: Duration,
    clients: Cache<(String, String), Client>,
}

/// Another process, asked for fills from one upstream.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    owner: Owner,
    client: Client,
}

impl Peers {
    pub(super) fn new(secret: Secret, lease_time: Duration) -> Self {
        let idle = (lease_time / 2).max(Duration::from_secs(1));
        Self { secret, idle, clients: Cache::new(CLIENTS) }
    }

    pub(super) const fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(super) async fn peer(&self, owner: &Owner, upstream: &str) -> Option<Peer> {
        if owner.address.is_empty() {
            return None;
        }
        let key = (owner.address.clone(), upstream.to_owned());
        let client = match self.clients.get(&key).await {
            Some(client) => client,
            None => {
                let client = Client::new(self.settings(owner, upstream));
                let client = client.inspect_err(|error| {
                    let error = error as &dyn std::error::Error;
                    tracing::error!(address = owner.address, error, "another replica cannot be asked");
                });
                let client = client.ok()?;
                self.clients.insert(key, client.clone()).await;
                client
            }
        };
        Some(Peer { owner: owner.clone(), client })
    }

    fn settings(&self, owner: &Owner, upstream: &str) -> Settings {
        let address = &owner.address;
        Settings {
            credentials: Some(self.secret.credentials()),
            plain_http: true,
            direct: true,
            timeouts: Timeouts {
                connect: Duration::from_secs(2),
                head: self.idle.max(Duration::from_secs(5)),
                idle: self.idle,
                ..Timeouts::default()
            },
            // Who does the work may have changed: the catalog is asked before the next attempt.
            retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() },
            max_connections: CONNECTIONS,
            ..Settings::new(format!("replica {address}"), format!("http://{address}/fills/{upstream}"))
        }
    }
}

impl Peer {
    /// Returns the process.
    pub(crate) const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Returns `digest`, or the part of it that `range` names, as [`Client::blob`] does.
    ///
    /// # Errors
    /// As there. [`UpstreamError::NotFound`] says that the process does not fill it.
    pub(crate) async fn blob(
        &self,
        ask: Ask,
        digest: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<BlobAnswer, UpstreamError> {
        let name = RepositoryName::parse(ask.name())
            .map_err(|_| UpstreamError::Protocol { what: "a way to ask that is no name".into() })?;
        self.client.blob(&name, digest, range).await
    }
}
