//! [`Bucket`]: the connection to one bucket, shared by all that is done in it.

use std::sync::Arc;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::SharedCredentialsProvider;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::S3Config;
use super::error::refusal;
use crate::{BlobKey, StoreError};

/// How often one request is tried, and the longest pause between two tries; with the time limits below, a service that
/// is away is given up after seconds when it refuses connections.
const ATTEMPTS: u32 = 4;
const MAX_PAUSE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(5);
/// Until the first byte of an answer, after the request was sent.
const ANSWER: Duration = Duration::from_secs(30);
/// One try, its upload included: 16 MiB at 140 kB/s.
const ATTEMPT: Duration = Duration::from_secs(120);
/// All tries of one request together.
const OPERATION: Duration = Duration::from_secs(300);
/// How long a body may stand still before it is broken off.
const STANDSTILL: Duration = Duration::from_secs(20);
/// How many connections are kept open for later.
const IDLE_CONNECTIONS: usize = 64;
/// How many uploads whose futures were dropped are aborted at once; what is more waits for the sweep.
const MAX_ABORTS: usize = 16;

/// One bucket, or a prefix in it.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) client: Client,
    pub(super) name: String,
    /// Empty, or ends in `/`.
    pub(super) prefix: String,
    /// For what blocking callers and dropped futures still want done.
    pub(super) runtime: Handle,
    pub(super) aborts: Arc<Semaphore>,
}

impl Bucket {
    /// Makes the client; asks nobody but the places where credentials and region come from. `credentials` replace
    /// those of the usual places.
    pub(super) async fn connect(config: &S3Config, credentials: Option<SharedCredentialsProvider>) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .read_timeout(ANSWER)
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(OPERATION)
            .build();
        // Pinned: a newer version may change what is sent.
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_max_backoff(MAX_PAUSE))
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STANDSTILL).build())
            .region(region(config));
        if let Some(endpoint) = &config.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(credentials) = credentials {
            loader = loader.credentials_provider(credentials);
        }
        let shared = loader.load().await;
        let settings = aws_sdk_s3::config::Builder::from(&shared).force_path_style(config.path_style).build();
        let prefix = if config.prefix.is_empty() { String::new() } else { format!("{}/", config.prefix) };
        Self {
            client: Client::from_conf(settings),
            name: config.bucket.clone(),
            prefix,
            runtime: Handle::current(),
            aborts: Arc::new(Semaphore::new(MAX_ABORTS)),
        }
    }

    /// Checks that the bucket is there and may be used.
    pub(super) async fn check(&self) -> Result<(), StoreError> {
        let asked = self.client.head_bucket().bucket(&self.name).send().await;
        asked.map(drop).map_err(|error| refusal("use", format!("the bucket s3://{}", self.name), error))
    }

    /// Returns the name of the object that holds the bytes of `key`.
    pub(super) fn object(&self, key: &BlobKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Returns the key whose bytes `object` holds, if it is ours.
    pub(super) fn key(&self, object: &str) -> Option<BlobKey> {
        BlobKey::parse(object.strip_prefix(&self.prefix)?).ok()
    }

    /// Returns how errors call the object of `key`.
    pub(super) fn place(&self, key: &BlobKey) -> String {
        format!("s3://{}/{}", self.name, self.object(key))
    }
}

/// Returns where the region comes from. With an endpoint of one's own it hardly ever matters, and no instance is asked.
fn region(config: &S3Config) -> RegionProviderChain {
    let given = RegionProviderChain::first_try(config.region.clone().map(Region::new));
    match config.endpoint {
        Some(_) => given.or_else(EnvironmentVariableRegionProvider::new()).or_else(Region::from_static("us-east-1")),
        None => given.or_default_provider(),
    }
}
