//! [`Gate`]: lets in who an htpasswd file knows.

mod users;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::{ErrorBody, ErrorCode};
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::Semaphore;

use crate::reloaded::{Reloaded, read_small_file};
use users::Users;

pub use users::HtpasswdError;

/// How long a request waits for its turn to have its password checked.
const TURN: Duration = Duration::from_secs(10);

/// Lets in who the file knows, by Basic authentication. The file is looked at once a second at most; one
/// that does not parse is logged and the users before it kept.
#[derive(Debug)]
pub struct Gate {
    users: Reloaded<Users, HtpasswdError>,
    /// A bcrypt takes a core for a while: one core at least stays free for those who are in.
    checks: Arc<Semaphore>,
}

/// What the gate makes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A user of the file with the right password.
    Allowed,
    /// No credentials, or empty ones.
    Anonymous,
    /// Credentials that are wrong or not Basic.
    Refused,
    /// Too many passwords are being checked.
    Busy,
}

/// A user name and a password as a request brought them.
struct Credentials {
    user: String,
    password: Vec<u8>,
}

impl Gate {
    /// Reads the file.
    ///
    /// # Errors
    /// Names the line that is wrong; only bcrypt is known.
    pub fn load(path: &Path) -> Result<Self, HtpasswdError> {
        let file = path.to_path_buf();
        let load = move || {
            let bytes = read_small_file(&file).map_err(|source| HtpasswdError::Read { path: file.clone(), source })?;
            Users::parse(&file, &bytes)
        };
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Self {
            users: Reloaded::new("htpasswd file", vec![path.into()], load)?,
            checks: Arc::new(Semaphore::new(cores.saturating_sub(1).max(1))),
        })
    }

    /// Judges a request by its headers.
    pub async fn check(&self, headers: &HeaderMap) -> Verdict {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => Verdict::Anonymous,
            (Some(_), Some(_)) => Verdict::Refused,
            (Some(value), None) => match Credentials::parse(value) {
                None => Verdict::Refused,
                // What clients send that were told to log in without a name.
                Some(credentials) if credentials.user.is_empty() => Verdict::Anonymous,
                Some(credentials) => self.verify(credentials).await,
            },
        }
    }

    async fn verify(&self, credentials: Credentials) -> Verdict {
        let users = self.users.get().await;
        if users.remembers(&credentials.user, &credentials.password) {
            return Verdict::Allowed;
        }
        let turn = Arc::clone(&self.checks).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(TURN, turn).await else { return Verdict::Busy };
        let allowed = telemetry::blocking(move || {
            // The check goes on when the client leaves, so the turn goes with it.
            let _turn = turn;
            // Others with the same credentials may have been checked during the wait.
            users.remembers(&credentials.user, &credentials.password)
                || users.verify(&credentials.user, &credentials.password)
        });
        if allowed.await { Verdict::Allowed } else { Verdict::Refused }
    }
}

impl Credentials {
    /// Reads `Basic BASE64(USER:PASSWORD)` (RFC 7617); returns `None` for all else.
    fn parse(value: &HeaderValue) -> Option<Self> {
        let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let mut decoded = STANDARD.decode(encoded.trim()).ok()?;
        let colon = decoded.iter().position(|b| *b == b':')?;
        let password = decoded.split_off(colon + 1);
        decoded.truncate(colon);
        Some(Self { user: String::from_utf8(decoded).ok()?, password })
    }
}

/// Middleware: hands on the requests that the gate lets in, without their credentials, and answers the
/// others. For `axum::middleware::from_fn_with_state`.
pub async fn require(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    match gate.check(request.headers()).await {
        Verdict::Allowed => {
            // Nothing behind the gate may send them on.
            request.headers_mut().remove(AUTHORIZATION);
            next.run(request).await
        }
        Verdict::Anonymous => unauthorized("authentication required"),
        Verdict::Refused => {
            let client = request.extensions().get::<ConnectInfo<SocketAddr>>();
            let client = client.map(|ConnectInfo(address)| tracing::field::display(*address));
            // Without the user's name: people type their password there.
            tracing::info!(client.address = client, "credentials refused");
            unauthorized("wrong user name or password")
        }
        Verdict::Busy => {
            let mut response = answer(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, "too many logins");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}

fn unauthorized(message: &str) -> Response {
    let mut response = answer(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message);
    let challenge = HeaderValue::from_static("Basic realm=\"firstlight\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

fn answer(status: StatusCode, code: ErrorCode, message: &str) -> Response {
    let mut response = Response::new(Body::from(ErrorBody::one(code, message, None).to_json()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Old clients take only a /v2/ that says so for a registry.
    headers.insert("docker-distribution-api-version", HeaderValue::from_static("registry/2.0"));
    response
}
