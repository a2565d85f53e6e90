use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::server::{Reply, Request, Server};
use super::{client, digest, name, settings, with_credentials};
use crate::{BlobAnswer, Client, Settings, UpstreamError};

const BYTES: &[u8] = b"0123456789";

async fn read(mut answer: BlobAnswer) -> Result<Vec<u8>, UpstreamError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.body.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    assert!(matches!(answer.body.chunk().await, Ok(None)), "there is more after the end");
    Ok(bytes)
}

/// Serves [`BYTES`] with ranges, as a good store does.
fn store(request: &Request) -> Reply {
    let Some(range) = request.header("range").and_then(|r| r.strip_prefix("bytes=")) else {
        return Reply::new(200, BYTES);
    };
    let (first, last) = range.split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    if first >= BYTES.len() {
        return Reply::new(416, "").header("Content-Range", "bytes */10");
    }
    let last = last.min(BYTES.len() - 1);
    Reply::new(206, &BYTES[first..=last]).header("Content-Range", format!("bytes {first}-{last}/10"))
}

#[tokio::test]
async fn blobs_come_whole_or_in_parts() {
    let server = Server::start(store).await;
    let received = Arc::new(AtomicU64::new(0));
    let counted = Settings { received: Some(Arc::clone(&received)), ..settings(&server.url) };
    let client = Client::new(counted).unwrap();
    for (range, expected) in
        [(None, BYTES), (Some(0..1), b"0"), (Some(3..7), b"3456"), (Some(8..100), b"89"), (Some(0..10), BYTES)]
    {
        let answer = client.blob(&name(), &digest(), range.clone()).await.unwrap();
        let part = range.clone().map(|r| r.start..r.end.min(10));
        assert_eq!((answer.total, answer.range.clone()), (10, part));
        assert_eq!(answer.body.expected(), expected.len() as u64);
        assert_eq!(read(answer).await.unwrap(), expected);
    }
    assert_eq!(received.load(Ordering::Relaxed), 27);
    let error = client.blob(&name(), &digest(), Some(10..20)).await.unwrap_err();
    assert!(matches!(error, UpstreamError::RangeNotSatisfiable { size: Some(10) }), "{error:?}");
    let error = client.blob(&name(), &digest(), Some(5..5)).await.unwrap_err();
    assert!(matches!(error, UpstreamError::RangeNotSatisfiable { size: None }), "{error:?}");
    assert_eq!(client.blob_size(&name(), &digest()).await.unwrap(), 10);
    assert!(server.requests().iter().all(|r| r.header("accept-encoding") == Some("identity")));
}

#[tokio::test]
async fn an_upstream_may_ignore_a_range() {
    let server = Server::start(|_| Reply::new(200, BYTES)).await;
    let answer = client(&server.url).blob(&name(), &digest(), Some(3..7)).await.unwrap();
    assert_eq!((answer.total, answer.range.clone()), (10, None));
    assert_eq!(read(answer).await.unwrap(), BYTES);
}

#[tokio::test]
async fn a_wrong_part_is_refused() {
    let ranges =
        ["bytes 0-3/10", "bytes 3-9/10", "bytes 3-6/5", "bytes 3-6/*", "bytes */10", "bytes 6-3/10", "3-6/10", "x"];
    for range in ranges {
        let server = Server::start(move |_| Reply::new(206, "3456").header("Content-Range", range)).await;
        let error = client(&server.url).blob(&name(), &digest(), Some(3..7)).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Protocol { .. }), "{range}: {error:?}");
    }
    let server = Server::start(|_| Reply::new(206, "3456").header("Content-Range", "bytes 3-6/10")).await;
    let error = client(&server.url).blob(&name(), &digest(), None).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn a_body_of_another_length_is_an_error() {
    let short = Server::start(|_| Reply::new(200, "0123").length(Some(10))).await;
    let answer = client(&short.url).blob(&name(), &digest(), None).await.unwrap();
    let error = read(answer).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");

    let part = Server::start(|_| Reply::new(206, "34").header("Content-Range", "bytes 3-6/10")).await;
    let answer = client(&part.url).blob(&name(), &digest(), Some(3..7)).await.unwrap();
    let error = read(answer).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Truncated { expected: 4, received: 2 }), "{error:?}");

    let long = Server::start(|_| Reply::new(206, "34567").header("Content-Range", "bytes 3-6/10")).await;
    let answer = client(&long.url).blob(&name(), &digest(), Some(3..7)).await.unwrap();
    let error = read(answer).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn a_blob_without_a_length_has_the_one_that_head_tells() {
    let server = Server::start(|request| match request.method.as_str() {
        "HEAD" => Reply::new(200, BYTES),
        _ => Reply::new(200, BYTES).length(None),
    })
    .await;
    let answer = client(&server.url).blob(&name(), &digest(), None).await.unwrap();
    assert_eq!(answer.total, 10);
    assert_eq!(read(answer).await.unwrap(), BYTES);
}

#[tokio::test]
async fn size_comes_from_a_range_where_head_is_refused() {
    let server = Server::start(|request| match request.method.as_str() {
        "HEAD" => Reply::new(405, ""),
        _ => store(request),
    })
    .await;
    assert_eq!(client(&server.url).blob_size(&name(), &digest()).await.unwrap(), 10);
}

#[tokio::test]
async fn silence_ends_in_a_timeout() {
    let server = Server::start(|_| Reply::new(200, "0123").length(Some(10)).stall()).await;
    let answer = client(&server.url).blob(&name(), &digest(), None).await.unwrap();
    let error = read(answer).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Timeout), "{error:?}");
}

/// A registry with tokens that redirects its blobs to `target`.
async fn redirecting(target: String) -> Server {
    Server::start(move |request| {
        let host = request.header("host").unwrap();
        if request.target.starts_with("/token") {
            Reply::new(200, r#"{"token":"t"}"#)
        } else if request.header("authorization") != Some("Bearer t") {
            Reply::bearer(&format!("http://{host}/token"))
        } else {
            Reply::redirect(target.clone())
        }
    })
    .await
}

#[tokio::test]
async fn a_redirect_is_followed_without_authorization_and_remembered() {
    let cdn = Server::start(store).await;
    let registry = redirecting(format!("{}/signed?sig=secret", cdn.url)).await;
    let client = Client::new(with_credentials(&registry.url)).unwrap();
    let shown = format!("{:?}", client.blob(&name(), &digest(), Some(0..2)).await.unwrap());
    assert!(!format!("{client:?} {shown}").contains("secret"), "a signed URL is shown");
    for range in [2..4, 4..10] {
        let expected = &BYTES[range.start as usize..range.end as usize];
        assert_eq!(read(client.blob(&name(), &digest(), Some(range)).await.unwrap()).await.unwrap(), expected);
    }
    assert_eq!((registry.count("/v2/"), cdn.count("/signed?sig=secret")), (2, 3));
    assert!(cdn.requests().iter().all(|r| r.header("authorization").is_none()));
    let other = api::RepositoryName::parse("other/app").unwrap();
    read(client.blob(&other, &digest(), None).await.unwrap()).await.unwrap();
    assert_eq!(registry.count("/v2/other/app/"), 2, "another repository used what this one was told");
}

/// What is sent along to a registry is not for where it redirects; its URL may say all of the API's root.
#[tokio::test]
async fn headers_and_path_are_the_registrys_own() {
    let cdn = Server::start(store).await;
    let registry = redirecting(format!("{}/signed", cdn.url)).await;
    let mut headers = http::HeaderMap::new();
    headers.insert("x-node", http::HeaderValue::from_static("n"));
    headers.insert("authorization", http::HeaderValue::from_static("Basic eA=="));
    let url = format!("{}/v2/hub", registry.url);
    let settings = Settings { headers, is_api_root: true, ..settings(&url) };
    assert_eq!(
        read(Client::new(settings).unwrap().blob(&name(), &digest(), None).await.unwrap()).await.unwrap(),
        BYTES
    );
    let asked = registry.requests();
    assert!(asked.len() == 3 && asked.iter().all(|request| request.header("x-node") == Some("n")));
    let authorizations: Vec<_> = asked.iter().map(|request| request.header("authorization")).collect();
    assert_eq!(
        authorizations,
        [Some("Basic eA=="), Some("Basic eA=="), Some("Bearer t")],
        "the last one is the token's alone"
    );
    assert!([0, 2].iter().all(|&at| asked[at].target.starts_with("/v2/hub/library/app/blobs/")));
    let is_bare = |request: &Request| request.header("x-node").or(request.header("authorization")).is_none();
    assert!(cdn.requests().iter().all(is_bare));
}

#[tokio::test]
async fn a_remembered_place_that_fails_starts_over_at_the_registry() {
    for status in [401, 403, 404, 500] {
        let fails = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&fails);
        let cdn = Server::start(move |request| match flag.swap(false, Ordering::SeqCst) {
            true => Reply::new(status, ""),
            false => store(request),
        })
        .await;
        let registry = redirecting(format!("{}/signed", cdn.url)).await;
        let client = client(&registry.url);
        read(client.blob(&name(), &digest(), Some(0..2)).await.unwrap()).await.unwrap();
        fails.store(true, Ordering::SeqCst);
        read(client.blob(&name(), &digest(), Some(2..4)).await.unwrap()).await.unwrap();
        assert_eq!((registry.count("/v2/"), cdn.requests().len()), (3, 3), "{status}");
    }
}

#[tokio::test]
async fn a_place_that_asks_for_credentials_gets_none() {
    let cdn = Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"r\"")).await;
    let registry = redirecting(format!("{}/signed", cdn.url)).await;
    let client = Client::new(with_credentials(&registry.url)).unwrap();
    let error = client.blob(&name(), &digest(), None).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Denied { status: 401 }), "{error:?}");
    assert!(cdn.requests().iter().all(|r| r.header("authorization").is_none()));
}

#[tokio::test]
async fn redirects_without_end_are_an_error() {
    let server = Server::start(|_| Reply::redirect("/v2/again")).await;
    let error = client(&server.url).blob(&name(), &digest(), None).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Protocol { .. }), "{error:?}");
    assert_eq!(server.requests().len(), 6);
}

#[tokio::test]
async fn bodies_beyond_the_limit_wait_and_then_fail() {
    let server = Server::start(store).await;
    let client = Client::new(Settings { max_connections: 1, ..settings(&server.url) }).unwrap();
    let held = client.blob(&name(), &digest(), None).await.unwrap();
    let error = client.blob(&name(), &digest(), None).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Busy), "{error:?}");
    assert_eq!(client.blob_size(&name(), &digest()).await.unwrap(), 10, "bodies keep out other requests");
    drop(held);
    client.blob(&name(), &digest(), None).await.unwrap();
}
