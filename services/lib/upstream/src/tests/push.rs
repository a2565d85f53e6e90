use std::io::Write as _;

use api::{Digest, MediaType, Reference};
use bytes::Bytes;

use super::server::{Reply, Request, Server};
use super::{client, digest, latest, name, with_credentials};
use crate::{Client, PushError, UpstreamError};

const BODY: &[u8] = b"0123456789";

fn file() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(BODY).unwrap();
    file
}

/// A registry without blobs that gives one token for reading and one for writing.
fn strict(request: &Request) -> Reply {
    let own = |path: &str| format!("http://{}{path}", request.header("host").unwrap());
    if request.target.starts_with("/token") {
        let token = if request.target.ends_with("push") { "write" } else { "read" };
        return Reply::new(200, format!(r#"{{"token":"{token}"}}"#));
    }
    let (wanted, scope) = match request.method.as_str() {
        "GET" | "HEAD" => (["Bearer read", "Bearer write"], "pull"),
        _ => (["Bearer write", "Bearer write"], "pull,push"),
    };
    if !request.header("authorization").is_some_and(|sent| wanted.contains(&sent)) {
        let realm = own("/token");
        let challenge = format!(r#"Bearer realm="{realm}",service="svc",scope="repository:library/app:{scope}""#);
        return Reply::new(401, "").header("WWW-Authenticate", challenge);
    }
    match request.method.as_str() {
        "POST" => Reply::new(202, "").header("Location", "/upload/1?state=a%3Db"),
        "PUT" => Reply::new(201, ""),
        _ => Reply::new(404, ""),
    }
}

#[tokio::test]
async fn a_blob_is_sent_once_with_a_token_for_writing() {
    let server = Server::start(strict).await;
    let client = Client::new(with_credentials(&server.url)).unwrap();
    let file = file();
    assert!(client.push_blob(&name(), &digest(), file.path()).await.unwrap());
    let put = server.requests().pop().unwrap();
    assert_eq!(put.method, "PUT");
    assert_eq!(put.target, format!("/upload/1?state=a%3Db&digest=sha256%3A{}", digest().hex()));
    assert_eq!(put.header("authorization"), Some("Bearer write"));
    assert_eq!((put.header("content-length"), put.body.as_slice()), (Some("10"), BODY));
}

#[tokio::test]
async fn a_blob_that_is_there_is_not_sent() {
    let server = Server::start(|_| Reply::new(200, "").header("Content-Length", "10").length(None)).await;
    assert!(!client(&server.url).push_blob(&name(), &digest(), file().path()).await.unwrap());
    assert!(server.requests().iter().all(|request| request.method == "HEAD"));
}

#[tokio::test]
async fn a_manifest_is_put_even_when_only_reading_was_granted_before() {
    let server = Server::start(strict).await;
    let client = Client::new(with_credentials(&server.url)).unwrap();
    assert!(matches!(client.blob_size(&name(), &digest()).await, Err(UpstreamError::NotFound)));
    let bytes = Bytes::from_static(b"{}");
    client.push_manifest(&name(), &latest(), &MediaType::OciManifest, &bytes).await.unwrap();
    let put = server.requests().pop().unwrap();
    assert_eq!((put.target.as_str(), put.body.as_slice()), ("/v2/library/app/manifests/latest", &b"{}"[..]));
    assert_eq!(put.header("content-type"), Some(MediaType::OciManifest.as_str()));
}

#[tokio::test]
async fn credentials_do_not_follow_an_upload_elsewhere() {
    let other = Server::start(|_| Reply::new(201, "")).await;
    let location = format!("{}/upload", other.url);
    let server = Server::start(move |request| match request.method.as_str() {
        "POST" => Reply::new(202, "").header("Location", location.clone()),
        _ => strict(request),
    })
    .await;
    let client = Client::new(with_credentials(&server.url)).unwrap();
    client.push_blob(&name(), &digest(), file().path()).await.unwrap();
    let put = other.requests().pop().unwrap();
    assert_eq!((put.header("authorization"), put.body.as_slice()), (None, BODY));
}

#[tokio::test]
async fn refusals_and_other_digests_are_errors() {
    let server = Server::start(|request| match request.method.as_str() {
        "PUT" => Reply::new(201, "").header("Docker-Content-Digest", Digest::of(b"other").to_string()),
        "POST" => Reply::new(405, ""),
        _ => Reply::new(404, ""),
    })
    .await;
    let client = client(&server.url);
    let refused = client.push_blob(&name(), &digest(), file().path()).await.unwrap_err();
    assert!(matches!(refused, PushError::Upstream(UpstreamError::Protocol { .. })), "{refused}");
    let reference = Reference::Digest(digest());
    let bytes = Bytes::from_static(BODY);
    let put = client.push_manifest(&name(), &reference, &MediaType::OciManifest, &bytes).await;
    assert!(matches!(put, Err(PushError::Digest { .. })));
    let gone = client.push_blob(&name(), &digest(), std::path::Path::new("/nonexistent")).await;
    assert!(matches!(gone, Err(PushError::File { .. })));
}
