//! [`Tokens`]: what to put into `Authorization`, by repository.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use api::RepositoryName;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION};
use http::{HeaderValue, StatusCode};
use reqwest::Url;
use serde::Deserialize;
use tokio::time::{Duration, Instant};

use crate::challenge::Challenge;
use crate::origin::{Boundary, Origin};
use crate::secret::sensitive;
use crate::transport::{Net, read_capped};
use crate::{Credentials, UpstreamError};

/// The largest answer of a token endpoint that is read, in bytes.
const MAX_TOKEN_BODY: u64 = 1 << 20;
/// How long a token lives whose endpoint does not say (distribution's token specification).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// The longest life believed.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long before its end a token is renewed, at most; short ones are renewed after 9/10 of their life.
const MAX_MARGIN: Duration = Duration::from_secs(30);
/// The most repositories whose tokens are kept.
const CAPACITY: usize = 4096;

/// The grants of one upstream, by repository. Those who need the same one wait for one request.
#[derive(Debug)]
pub(crate) struct Tokens {
    credentials: Option<Credentials>,
    slots: Mutex<HashMap<RepositoryName, Arc<tokio::sync::Mutex<Slot>>>>,
}

/// What is known of one repository's access.
#[derive(Debug, Default)]
struct Slot {
    /// The challenge last answered; it lets a token be renewed without being refused first.
    challenge: Option<Challenge>,
    grant: Option<Grant>,
    /// The serial of the last grant.
    serial: u64,
    /// The last failure to get one and when, told to all who were waiting then.
    failure: Option<(Instant, UpstreamError)>,
}

/// A value for `Authorization`.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    /// The header's value.
    pub(crate) header: HeaderValue,
    /// Tells this grant from earlier ones for the same repository.
    pub(crate) serial: u64,
    /// Whether the header carries the configured password itself.
    pub(crate) basic: bool,
    renew_at: Option<Instant>,
}

impl Grant {
    fn is_fresh(&self) -> bool {
        self.renew_at.is_none_or(|at| Instant::now() < at)
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

impl Tokens {
    /// Returns an empty cache that authenticates with `credentials`.
    pub(crate) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, slots: Mutex::default() }
    }

    /// Returns the grant to send with a request, where one is known to be needed; a token near its
    /// end is renewed first.
    pub(crate) async fn current(&self, net: &Net, name: &RepositoryName) -> Result<Option<Grant>, UpstreamError> {
        let Some(slot) = self.known(name) else { return Ok(None) };
        let asked = Instant::now();
        let mut slot = slot.lock().await;
        match (&slot.grant, &slot.challenge) {
            (Some(grant), _) if grant.is_fresh() => Ok(Some(grant.clone())),
            (Some(_), Some(challenge)) => {
                let challenge = challenge.clone();
                self.obtain(net, name, &mut slot, challenge, asked).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Returns a grant other than `used`, after a request with that one (or with none) was refused
    /// with `challenge`; `None` when the upstream never said how to authenticate.
    pub(crate) async fn renew(
        &self,
        net: &Net,
        name: &RepositoryName,
        challenge: Option<Challenge>,
        used: Option<u64>,
    ) -> Result<Option<Grant>, UpstreamError> {
        let slot = self.slot(name);
        let asked = Instant::now();
        let mut slot = slot.lock().await;
        // A grant that someone else got meanwhile serves, unless another scope is asked for now.
        if let Some(grant) = &slot.grant
            && Some(grant.serial) != used
            && grant.is_fresh()
            && (challenge.is_none() || challenge == slot.challenge)
        {
            return Ok(Some(grant.clone()));
        }
        match challenge.or_else(|| slot.challenge.clone()) {
            Some(challenge) => self.obtain(net, name, &mut slot, challenge, asked).await.map(Some),
            None => Ok(None),
        }
    }

    async fn obtain(
        &self,
        net: &Net,
        name: &RepositoryName,
        slot: &mut Slot,
        challenge: Challenge,
        asked: Instant,
    ) -> Result<Grant, UpstreamError> {
        if let Some((at, error)) = &slot.failure
            && *at >= asked
            && slot.challenge.as_ref() == Some(&challenge)
        {
            return Err(error.clone());
        }
        slot.grant = None;
        let granted = match &challenge {
            Challenge::Basic => self.basic(),
            Challenge::Bearer { realm, service, scope } => {
                self.bearer(net, name, realm, service.as_deref(), scope.as_deref()).await
            }
        };
        slot.challenge = Some(challenge);
        match granted {
            Ok(mut grant) => {
                slot.serial += 1;
                grant.serial = slot.serial;
                slot.failure = None;
                slot.grant = Some(grant.clone());
                Ok(grant)
            }
            Err(error) => {
                slot.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn basic(&self) -> Result<Grant, UpstreamError> {
        let header = self.credentials.as_ref().and_then(Credentials::basic);
        let header = header.ok_or(UpstreamError::Denied { status: StatusCode::UNAUTHORIZED.as_u16() })?;
        Ok(Grant { header, serial: 0, basic: true, renew_at: None })
    }

    async fn bearer(
        &self,
        net: &Net,
        name: &RepositoryName,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<Grant, UpstreamError> {
        let url = token_url(&net.boundary, name, realm, service, scope)?;
        let basic = self.credentials.as_ref().and_then(Credentials::basic);
        let headers = net.own_headers(&url, basic.is_some());
        let mut request = net.http.get(url.clone()).headers(headers).header(ACCEPT_ENCODING, "identity");
        if let Some(basic) = basic {
            request = request.header(AUTHORIZATION, basic);
        }
        let asked = Instant::now();
        let response = net.exchange(request).await?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(self.refused(&url, status));
        }
        if status != StatusCode::OK {
            // A redirect lands here too: none is followed with credentials in hand.
            return Err(net.failure(response, "token endpoint").await);
        }
        let body = read_capped(response, MAX_TOKEN_BODY, net.timeouts.idle, None).await?;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| UpstreamError::protocol("token endpoint sent no token document"))?;
        answer.into_grant(asked)
    }

    fn refused(&self, url: &Url, status: StatusCode) -> UpstreamError {
        let status = status.as_u16();
        match (&self.credentials, Origin::of(url)) {
            (Some(_), Some(origin)) => UpstreamError::CredentialsRefused { host: origin.authority(), status },
            _ => UpstreamError::Denied { status },
        }
    }

    fn known(&self, name: &RepositoryName) -> Option<Arc<tokio::sync::Mutex<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn slot(&self, name: &RepositoryName) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= CAPACITY && !slots.contains_key(name) {
            // A slot in use stays, or those who wait for it would no longer share one request.
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1
                    || slot.try_lock().is_ok_and(|slot| slot.grant.as_ref().is_some_and(Grant::is_fresh))
            });
            if slots.len() >= CAPACITY {
                slots.retain(|_, slot| Arc::strong_count(slot) > 1);
            }
        }
        Arc::clone(slots.entry(name.clone()).or_default())
    }
}

impl Answer {
    fn into_grant(self, asked: Instant) -> Result<Grant, UpstreamError> {
        let token = self.token.filter(|t| !t.is_empty()).or(self.access_token).filter(|t| !t.is_empty());
        let token = token.ok_or_else(|| UpstreamError::protocol("token endpoint sent no token"))?;
        let header = sensitive(&format!("Bearer {token}"))
            .ok_or_else(|| UpstreamError::protocol("token has a character that cannot be sent"))?;
        let said = self.expires_in.filter(|seconds| *seconds > 0.0);
        let life = said.map_or(DEFAULT_LIFE, |s| Duration::try_from_secs_f64(s).unwrap_or(MAX_LIFE)).min(MAX_LIFE);
        let margin = (life / 10).min(MAX_MARGIN);
        Ok(Grant { header, serial: 0, basic: false, renew_at: Some(asked + life - margin) })
    }
}

fn token_url(
    boundary: &Boundary,
    name: &RepositoryName,
    realm: &str,
    service: Option<&str>,
    scope: Option<&str>,
) -> Result<Url, UpstreamError> {
    let mut url = boundary.realm(realm)?;
    let default = format!("repository:{}:pull", name.as_str());
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        // A registry may ask for other scopes than its one for a pull (a delegated name); nothing
        // that needs more than our credentials' rights can come of it.
        query.append_pair("scope", scope.filter(|s| !s.is_empty()).unwrap_or(&default));
    }
    Ok(url)
}
