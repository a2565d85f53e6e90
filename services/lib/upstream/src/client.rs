//! [`Client`]: what the rest of the proxy asks of an upstream.

mod blob;
mod lazy;
mod listing;
mod manifest;
mod push;

use std::sync::{Arc, Mutex, PoisonError};

use api::RepositoryName;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method};
use reqwest::redirect::Policy;
use reqwest::{Certificate, ClientBuilder, Identity, Response, Url};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, timeout};

use crate::location::Locations;
use crate::origin::{Boundary, Origin};
use crate::token::Tokens;
use crate::transport::{Call, Landed, Net};
use crate::{Quota, RetryPolicy, Settings, SettingsError, UpstreamError, retry};

pub use blob::BlobAnswer;
pub use lazy::TocBody;
pub use listing::{Referrers, TagsPage};
pub use manifest::{ManifestAnswer, ManifestHead};
pub use push::PushError;

/// The most idle connections kept.
const MAX_IDLE: usize = 32;
/// How long an idle connection is kept.
const IDLE_LIFE: Duration = Duration::from_secs(60);

/// A client of one upstream registry. Clones share connections, tokens and limits.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    retry: RetryPolicy,
    /// The registry that is meant, where this one stands for others.
    namespace: Option<Arc<str>>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    base: Url,
    net: Net,
    tokens: Tokens,
    locations: Locations,
    quota: Mutex<Option<Quota>>,
    bodies: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

impl Client {
    /// Returns a client of the registry that `settings` describe. Opens no connection. Installs
    /// *ring* as the process's TLS provider if there is none yet.
    ///
    /// # Errors
    /// Says which setting cannot be used.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let base = base_url(&settings)?;
        let origin = Origin::of(&base).ok_or_else(|| SettingsError::Url { url: settings.url.clone() })?;
        let boundary = Boundary::new(origin, &settings.auth_hosts, settings.plain_http)?;
        if settings.credentials.as_ref().is_some_and(|c| c.basic().is_none()) {
            return Err(SettingsError::Credentials);
        }
        let net = Net {
            upstream: settings.name.clone(),
            http: http_client(&settings)?,
            boundary,
            headers: settings.headers.clone(),
            timeouts: settings.timeouts,
        };
        let places = settings.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self {
            retry: settings.retry,
            namespace: None,
            inner: Arc::new(Inner {
                base,
                net,
                tokens: Tokens::new(settings.credentials.clone()),
                locations: Locations::default(),
                quota: Mutex::default(),
                bodies: Arc::new(Semaphore::new(places)),
                requests: Arc::new(Semaphore::new(places)),
                settings,
            }),
        })
    }

    /// Returns the upstream's name.
    pub fn name(&self) -> &str {
        &self.inner.settings.name
    }

    /// Returns the same client with another patience, for callers that have something else to
    /// offer sooner, such as a stale tag.
    #[must_use]
    pub fn with_retry(&self, retry: RetryPolicy) -> Self {
        Self { retry, ..self.clone() }
    }

    /// Returns the same client asking for the repositories of the registry `host`: this one stands for it (`?ns=`).
    #[must_use]
    pub fn for_namespace(&self, host: &str) -> Self {
        Self { namespace: Some(host.into()), ..self.clone() }
    }

    /// Returns the pull limit that the upstream last told us of.
    pub fn quota(&self) -> Option<Quota> {
        self.inner.quota.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns `<registry>/v2/<name>/<tail>`, see [`Settings::is_api_root`]. No part needs escaping: their types allow no such character.
    fn url(&self, name: &RepositoryName, tail: &str) -> Url {
        let mut url = self.inner.base.clone();
        let version = if self.inner.settings.is_api_root { "" } else { "/v2" };
        let path = format!("{}{version}/{}/{tail}", url.path().trim_end_matches('/'), name.as_str());
        url.set_path(&path);
        if let Some(host) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", host);
        }
        url
    }

    fn call(&self, method: Method, name: &RepositoryName, tail: &str, accept: &'static str) -> Call {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        Call { method, url: self.url(name, tail), headers, name: name.clone() }
    }

    /// Sends `call` while holding a place among the upstream's requests, and lets `read` take the
    /// answer; tries again as the policy says.
    async fn ask<T, A>(&self, call: &Call, read: impl Fn(Landed) -> A) -> Result<T, UpstreamError>
    where
        A: Future<Output = Result<T, UpstreamError>>,
    {
        let inner = &self.inner;
        retry::run(&self.retry, self.name(), || async {
            let _permit = self.permit(&inner.requests).await?;
            let landed = inner.net.send(&inner.tokens, call).await?;
            self.note_quota(&landed.response);
            read(landed).await
        })
        .await
    }

    async fn permit(&self, places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, UpstreamError> {
        match timeout(self.inner.settings.timeouts.queue, Arc::clone(places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            // Never closed, so only the time can run out.
            Ok(Err(_)) | Err(_) => Err(UpstreamError::Busy),
        }
    }

    fn note_quota(&self, response: &Response) {
        if let Some(quota) = Quota::from_headers(response.headers()) {
            *self.inner.quota.lock().unwrap_or_else(PoisonError::into_inner) = Some(quota);
        }
    }
}

fn base_url(settings: &Settings) -> Result<Url, SettingsError> {
    // What follows a question mark or stands before an at sign may be a secret.
    let shown = settings.url.split('?').next().unwrap_or_default().rsplit('@').next().unwrap_or_default();
    let malformed = || SettingsError::Url { url: shown.into() };
    let url = Url::parse(&settings.url).map_err(|_| malformed())?;
    let plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    match url.scheme() {
        "https" | "http" if !plain => Err(malformed()),
        "https" => Ok(url),
        "http" if settings.plain_http => Ok(url),
        "http" => Err(SettingsError::PlainHttp { url: shown.into() }),
        _ => Err(malformed()),
    }
}

fn http_client(settings: &Settings) -> Result<reqwest::Client, SettingsError> {
    // Fails only when there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Some(pem) = &settings.ca_pem else {
        let built = builder(settings)?.build();
        if built.is_err() && settings.plain_http {
            // A machine without CA certificates can still speak plain HTTP.
            return builder(settings)?.tls_certs_only([]).build().map_err(SettingsError::Build);
        }
        return built.map_err(SettingsError::Build);
    };
    let certificates = Certificate::from_pem_bundle(pem).map_err(SettingsError::Certificates)?;
    if certificates.is_empty() {
        return Err(SettingsError::NoCertificate);
    }
    builder(settings)?.tls_certs_merge(certificates).build().map_err(SettingsError::Build)
}

/// Returns what builds a client that trusts the platform's certificates.
fn builder(settings: &Settings) -> Result<ClientBuilder, SettingsError> {
    let builder = reqwest::Client::builder();
    let builder = if settings.direct { builder.no_proxy() } else { builder };
    let builder = match &settings.identity_pem {
        Some(pem) => builder.identity(Identity::from_pem(pem.expose().as_bytes()).map_err(SettingsError::Identity)?),
        None => builder,
    };
    Ok(builder
        .tls_danger_accept_invalid_certs(settings.any_certificate)
        .user_agent(concat!("firstlight/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(settings.timeouts.connect)
        .pool_idle_timeout(IDLE_LIFE)
        .pool_max_idle_per_host(MAX_IDLE))
}
