//! [`Proxies`]: whom to ask for the twins of an image, and who is better not asked just now.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use upstream::{Client, RetryPolicy, Settings, Timeouts, UpstreamError};

use crate::config::ProxyConfig;

/// How long a proxy may take to answer what it knows; a pull waits no longer for a silent one, and only once.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a silent proxy is not asked again.
const BREAK: Duration = Duration::from_secs(30);
/// How long it may take for the next byte of a blob.
const IDLE: Duration = Duration::from_secs(10);

/// The proxies that are configured.
#[derive(Debug)]
pub(crate) struct Proxies(Vec<Proxy>);

/// A proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    client: Client,
    authority: String,
    upstreams: Vec<String>,
    /// When something of it came last.
    heard: Mutex<Option<tokio::time::Instant>>,
    /// Until when it is not asked.
    silent_until: Mutex<Option<Instant>>,
}

impl Proxies {
    /// Makes clients of the proxies; asks none of them.
    ///
    /// # Errors
    /// Says which setting of which proxy cannot be used.
    pub(crate) fn new(configs: &[ProxyConfig]) -> anyhow::Result<Self> {
        let proxies = configs
            .iter()
            .map(|config| Proxy::new(config).with_context(|| format!("proxy {:?} cannot be used", config.url)));
        Ok(Self(proxies.collect::<anyhow::Result<_>>()?))
    }

    /// Returns the proxy for images of the registry `host`, and a client that asks it for those.
    pub(crate) fn of(&self, host: &str) -> Option<(&Proxy, Client)> {
        // An image that was named by a proxy is that proxy's own.
        if let Some(proxy) = self.0.iter().find(|proxy| proxy.authority == host) {
            return Some((proxy, proxy.client.clone()));
        }
        let stands_for = |proxy: &&Proxy| proxy.upstreams.iter().any(|upstream| upstream == "*" || upstream == host);
        self.0.iter().find(stands_for).map(|proxy| (proxy, proxy.client.for_namespace(host)))
    }
}

impl Proxy {
    fn new(config: &ProxyConfig) -> anyhow::Result<Self> {
        let (scheme, rest) = config.url.split_once("://").unwrap_or(("", &config.url));
        let authority = rest.split('/').next().unwrap_or_default();
        let settings = Settings {
            plain_http: scheme == "http",
            ca_pem: config.access.ca_pem()?,
            credentials: config.access.credentials()?,
            direct: true,
            timeouts: Timeouts { connect: PATIENCE, idle: IDLE, ..Timeouts::default() },
            // Reads have a patience of their own.
            retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() },
            ..Settings::new(authority, &config.url)
        };
        Ok(Self {
            client: Client::new(settings)?,
            authority: authority.to_owned(),
            upstreams: config.upstreams.clone(),
            heard: Mutex::default(),
            silent_until: Mutex::default(),
        })
    }

    /// Returns its address, as its URL has it.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Has a question answered by the proxy, unless it was silent a moment ago; `wait` is how long it was asked to wait.
    ///
    /// # Errors
    /// What went wrong. A proxy that does not answer is not asked for a while.
    pub(crate) async fn ask<T>(
        &self,
        wait: Duration,
        answer: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        if self.is_silent() {
            return Err(UpstreamError::Timeout);
        }
        let answer = self.in_time(wait, answer).await;
        answer.inspect_err(|error| self.note(error))
    }

    /// Has the proxy left alone for a while, if this says that it does not answer.
    pub(crate) fn note(&self, error: &UpstreamError) {
        if matches!(error, UpstreamError::Timeout | UpstreamError::Network { .. }) {
            *self.silent_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + BREAK);
        }
    }

    /// Waits for something of the proxy, beside how long it was asked to wait for as long as it is not silent: on a slow link one
    /// answer comes behind others.
    ///
    /// # Errors
    /// What went wrong, or [`UpstreamError::Timeout`].
    pub(crate) async fn in_time<T>(
        &self,
        wait: Duration,
        coming: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let mut coming = std::pin::pin!(coming);
        let mut patience = wait + PATIENCE;
        loop {
            let begun = tokio::time::Instant::now();
            match tokio::time::timeout(patience, &mut coming).await {
                Ok(come) => {
                    if come.is_ok() {
                        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(tokio::time::Instant::now());
                    }
                    return come;
                }
                Err(_) => {
                    let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
                    if heard.is_none_or(|heard| heard < begun) {
                        return Err(UpstreamError::Timeout);
                    }
                    patience = PATIENCE;
                }
            }
        }
    }

    fn is_silent(&self) -> bool {
        let until = *self.silent_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

#[cfg(test)]
mod tests {
    use crate::access::Access;

    use super::*;

    fn config(url: &str, upstreams: &[&str]) -> ProxyConfig {
        ProxyConfig {
            url: url.to_owned(),
            upstreams: upstreams.iter().map(ToString::to_string).collect(),
            access: Access::default(),
        }
    }

    #[test]
    fn an_image_is_asked_of_who_stands_for_its_registry() {
        let proxies =
            Proxies::new(&[config("https://first", &["docker.io", "quay.io"]), config("https://second:444", &["*"])]);
        let proxies = proxies.unwrap();
        for (host, authority) in
            [("quay.io", "first"), ("ghcr.io", "second:444"), ("first", "first"), ("second:444", "second:444")]
        {
            assert_eq!(proxies.of(host).unwrap().0.authority, authority);
        }
        assert!(Proxies::new(&[config("https://first", &["quay.io"])]).unwrap().of("ghcr.io").is_none());
    }

    /// Who does not answer costs one wait, and no more of them for a while.
    #[tokio::test(start_paused = true)]
    async fn a_silent_proxy_is_asked_once() {
        let proxies = Proxies::new(&[config("https://first", &["*"])]).unwrap();
        let (proxy, _) = proxies.of("ghcr.io").unwrap();
        let start = tokio::time::Instant::now();
        let silence = || std::future::pending::<Result<(), UpstreamError>>();
        for _ in 0..3 {
            assert!(matches!(proxy.ask(Duration::ZERO, silence()).await, Err(UpstreamError::Timeout)));
        }
        assert_eq!(start.elapsed(), PATIENCE);
        let refused = proxies.of("first").unwrap().0.ask(Duration::ZERO, async { Ok(()) }).await;
        assert!(refused.is_err());
    }

    /// On a slow link one answer comes behind others: that is no silence.
    #[tokio::test(start_paused = true)]
    async fn a_slow_proxy_is_not_silent() {
        let proxies = Proxies::new(&[config("https://first", &["*"])]).unwrap();
        let (proxy, _) = proxies.of("ghcr.io").unwrap();
        let after = |time| async move {
            tokio::time::sleep(time).await;
            Ok::<_, UpstreamError>(())
        };
        let others = async {
            for _ in 0..6 {
                proxy.in_time(Duration::ZERO, after(Duration::from_secs(1))).await.unwrap();
            }
        };
        let (behind, late, ()) = tokio::join!(
            proxy.ask(Duration::ZERO, after(Duration::from_secs(5))),
            proxy.ask(Duration::ZERO, after(Duration::from_secs(60))),
            others
        );
        assert!(behind.is_ok() && matches!(late, Err(UpstreamError::Timeout)));
    }
}
