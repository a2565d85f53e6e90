//! All routes of both listeners, and the order of what every request passes.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::{any, get};
use http::{HeaderValue, Response, StatusCode, header};

use crate::app::App;
use crate::error::{RegistryError, Subject};
use crate::fleet::Secret;
use crate::htpasswd::{self, Gate};
use crate::route::{self, Listener, fills};

/// Returns the router of `server.listen` or `server.mirror_listen`.
pub(crate) fn registry(app: &Arc<App>, listener: Listener, gate: Option<Arc<Gate>>) -> Router {
    let routes = Router::new()
        .route("/v2", any(route::version))
        .route("/v2/", any(route::version))
        .route("/v2/{*tail}", any(route::registry))
        .with_state((Arc::clone(app), listener))
        .fallback(async || RegistryError::unknown(Subject::Repository, "the registry API is below /v2/"));
    match gate {
        Some(gate) => routes.layer(axum::middleware::from_fn_with_state(gate, htpasswd::require)),
        None => routes,
    }
}

/// Returns the router of `server.internal_listen`, for who knows `secret`.
pub(crate) fn internal(app: &Arc<App>, secret: Secret) -> Router {
    Router::new()
        .route("/fills/{upstream}/v2/{ask}/blobs/{digest}", get(fills::fill))
        .with_state((Arc::clone(app), secret))
}

/// Returns the router of `server.admin_listen`.
pub(crate) fn admin(app: &Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(app))
}

async fn ready(State(app): State<Arc<App>>) -> (StatusCode, String) {
    match app.catalog.unfinished_fills().await.map(drop) {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("catalog: {error}\n")),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response<Body> {
    let mut answer = Response::new(Body::from(app.metrics.render()));
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    answer
}
