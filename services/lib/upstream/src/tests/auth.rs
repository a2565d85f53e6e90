use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use super::server::{Reply, Request, Server};
use super::{client, latest, name, settings, with_credentials};
use crate::{Client, Settings, UpstreamError};

const BASIC: &str = "Basic dXNlcjpwYXNz";

fn manifest() -> Reply {
    Reply::new(200, "{}").header("Content-Type", super::INDEX_TYPE)
}

fn own(request: &Request, path: &str) -> String {
    format!("http://{}{path}", request.header("host").unwrap())
}

/// A registry whose token endpoint answers `token`, and which lets in whom `admits` says.
async fn registry(
    token: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    admits: impl Fn(Option<&str>) -> bool + Send + Sync + 'static,
) -> Server {
    Server::start(move |request| {
        if request.target.starts_with("/token") {
            token(request)
        } else if admits(request.header("authorization")) {
            manifest()
        } else {
            Reply::bearer(&own(request, "/token"))
        }
    })
    .await
}

async fn pull(settings: Settings) -> Result<(), UpstreamError> {
    Client::new(settings).unwrap().manifest(&name(), &latest()).await.map(|_| ())
}

#[tokio::test]
async fn a_token_is_fetched_once_and_used_again() {
    for body in [r#"{"token":"t"}"#, r#"{"access_token":"t","expires_in":300}"#, r#"{"token":"","access_token":"t"}"#] {
        let server = registry(move |_| Reply::new(200, body), |auth| auth == Some("Bearer t")).await;
        let client = client(&server.url);
        for _ in 0..3 {
            client.manifest(&name(), &latest()).await.unwrap();
        }
        assert_eq!((server.count("/token"), server.count("/v2/")), (1, 4), "{body}");
        let asked = server.requests().into_iter().find(|r| r.target.starts_with("/token")).unwrap();
        assert_eq!(asked.target, "/token?service=svc&scope=repository%3Alibrary%2Fapp%3Apull");
        assert_eq!(asked.header("authorization"), None);
    }
}

#[tokio::test]
async fn a_token_near_its_end_is_renewed_before_it_is_refused() {
    let body = r#"{"token":"t","expires_in":0.0001}"#;
    let server = registry(move |_| Reply::new(200, body), |auth| auth == Some("Bearer t")).await;
    let client = client(&server.url);
    for _ in 0..2 {
        client.manifest(&name(), &latest()).await.unwrap();
    }
    assert_eq!((server.count("/token"), server.count("/v2/")), (2, 3));
}

#[tokio::test]
async fn credentials_go_to_the_token_endpoint_only() {
    let server = registry(
        |request| match request.header("authorization") {
            Some(BASIC) => Reply::new(200, r#"{"token":"t"}"#),
            _ => Reply::new(401, ""),
        },
        |auth| auth == Some("Bearer t"),
    )
    .await;
    pull(with_credentials(&server.url)).await.unwrap();
    assert!(
        server.requests().iter().all(|r| r.target.starts_with("/token") || r.header("authorization") != Some(BASIC))
    );
    assert!(matches!(pull(settings(&server.url)).await, Err(UpstreamError::Denied { status: 401 })));
}

#[tokio::test]
async fn an_expired_token_is_refreshed_once_on_401_and_on_403() {
    for status in [401, 403] {
        let issued = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&issued);
        let server = Server::start(move |request| {
            if request.target.starts_with("/token") {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                return Reply::new(200, format!(r#"{{"token":"t{number}"}}"#));
            }
            match request.header("authorization") {
                None => Reply::bearer(&own(request, "/token")),
                // As ECR does: no challenge with it.
                Some("Bearer t0") if counter.load(Ordering::SeqCst) == 1 && request.target.contains("/old") => {
                    Reply::new(status, "expired")
                }
                Some(_) => manifest(),
            }
        })
        .await;
        let client = client(&server.url);
        client.manifest(&name(), &latest()).await.unwrap();
        client.manifest(&name(), &api::Reference::parse("old").unwrap()).await.unwrap();
        assert_eq!(issued.load(Ordering::SeqCst), 2, "{status}");
    }
}

#[tokio::test]
async fn access_refused_after_a_fresh_token_is_denied() {
    let server = registry(|_| Reply::new(200, r#"{"token":"t"}"#), |_| false).await;
    assert!(matches!(pull(settings(&server.url)).await, Err(UpstreamError::Denied { status: 401 })));
    assert_eq!((server.count("/token"), server.count("/v2/")), (1, 2));
    let server = Server::start(|_| Reply::new(403, "")).await;
    assert!(matches!(pull(settings(&server.url)).await, Err(UpstreamError::Denied { status: 403 })));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn refused_credentials_are_an_outage_and_not_an_answer() {
    for status in [401, 403] {
        let server = registry(move |_| Reply::new(status, ""), |_| false).await;
        let error = pull(with_credentials(&server.url)).await.unwrap_err();
        assert!(matches!(error, UpstreamError::CredentialsRefused { status: s, .. } if s == status), "{error:?}");
        assert!(error.is_outage() && !error.is_transient());
        assert_eq!(server.count("/token"), 1);
    }
}

#[tokio::test]
async fn a_foreign_realm_gets_nothing() {
    let foreign = Server::start(|_| Reply::new(200, r#"{"token":"t"}"#)).await;
    let realm = format!("{}/token", foreign.url);
    let server = Server::start(move |_| Reply::bearer(&realm)).await;
    let error = pull(with_credentials(&server.url)).await.unwrap_err();
    assert!(matches!(&error, UpstreamError::RealmRefused { host } if *host == foreign.url), "{error:?}");
    assert!(foreign.requests().is_empty());
    let allowed = vec![foreign.url.trim_start_matches("http://").to_owned()];
    let error = pull(Settings { auth_hosts: allowed, ..with_credentials(&server.url) }).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Denied { status: 401 }), "{error:?}");
    assert_eq!(foreign.requests()[0].header("authorization"), Some(BASIC));
}

#[tokio::test]
async fn odd_token_endpoints_are_errors() {
    type Check = fn(&UpstreamError) -> bool;
    let elsewhere = Server::start(|_| Reply::new(200, r#"{"token":"t"}"#)).await;
    let table: [(Reply, Check); 6] = [
        (Reply::redirect(format!("{}/token", elsewhere.url)), |e| matches!(e, UpstreamError::Protocol { .. })),
        (Reply::new(200, vec![b' '; (1 << 20) + 1]), |e| matches!(e, UpstreamError::TooLarge { .. })),
        (Reply::new(200, "{}"), |e| matches!(e, UpstreamError::Protocol { .. })),
        (Reply::new(200, "<html>"), |e| matches!(e, UpstreamError::Protocol { .. })),
        (Reply::new(200, "{\"token\":\"a\\nb\"}"), |e| matches!(e, UpstreamError::Protocol { .. })),
        (Reply::new(503, ""), |e| matches!(e, UpstreamError::Server { status: 503, .. })),
    ];
    for (reply, check) in table {
        let shown = format!("{reply:.60?}");
        let server = registry(move |_| reply.clone(), |_| false).await;
        let error = pull(with_credentials(&server.url)).await.unwrap_err();
        assert!(check(&error), "{shown}: {error:?}");
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn basic_registries_get_the_credentials() {
    let server = Server::start(|request| match request.header("authorization") {
        Some(BASIC) => manifest(),
        _ => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await;
    let client = Client::new(with_credentials(&server.url)).unwrap();
    for _ in 0..2 {
        client.manifest(&name(), &latest()).await.unwrap();
    }
    assert_eq!(server.requests().len(), 3);
    assert!(matches!(pull(settings(&server.url)).await, Err(UpstreamError::Denied { status: 401 })));

    let server = Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic")).await;
    let client = Client::new(with_credentials(&server.url)).unwrap();
    for _ in 0..2 {
        let error = client.manifest(&name(), &latest()).await.unwrap_err();
        assert!(matches!(error, UpstreamError::CredentialsRefused { status: 401, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn many_pulls_share_one_token_request() {
    for (reply, good) in [(Reply::new(200, r#"{"token":"t"}"#), true), (Reply::new(403, ""), false)] {
        let server = registry(move |_| reply.clone(), |auth| auth == Some("Bearer t")).await;
        let client = client(&server.url);
        let mut pulls = JoinSet::new();
        for _ in 0..50 {
            let client = client.clone();
            pulls.spawn(async move { client.manifest(&name(), &latest()).await.is_ok() });
        }
        assert!(pulls.join_all().await.into_iter().all(|ok| ok == good));
        if good {
            assert_eq!(server.count("/token"), 1);
        } else {
            assert!(server.count("/token") < 50, "{} requests for tokens", server.count("/token"));
        }
    }
}
