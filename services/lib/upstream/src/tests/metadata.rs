use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::{Digest, MediaType, Reference};

use super::server::{Reply, Server};
use super::{INDEX_TYPE, client, digest, latest, name, settings};
use crate::{Client, Referrers, RetryPolicy, Settings, SettingsError, UpstreamError};

const DOCUMENT: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

fn manifest() -> Reply {
    let digest = Digest::of(DOCUMENT.as_bytes()).to_string();
    Reply::new(200, DOCUMENT).header("Content-Type", INDEX_TYPE).header("Docker-Content-Digest", digest)
}

#[tokio::test]
async fn manifests_come_by_tag_and_by_digest() {
    let server = Server::start(|_| {
        manifest().header("RateLimit-Limit", "100;w=21600").header("RateLimit-Remaining", "99;w=21600")
    })
    .await;
    let client = client(&format!("{}/prefix/", server.url));
    let digest = Digest::of(DOCUMENT.as_bytes());
    assert_eq!(client.quota(), None);
    for reference in [latest(), Reference::Digest(digest.clone())] {
        let answer = client.manifest(&name(), &reference).await.unwrap();
        assert_eq!(answer.bytes, DOCUMENT);
        assert_eq!((answer.media_type, answer.digest), (MediaType::OciIndex, Some(digest.clone())));
        let head = client.head_manifest(&name(), &reference).await.unwrap();
        assert_eq!((head.media_type, head.digest), (MediaType::OciIndex, Some(digest.clone())));
        assert_eq!(head.size, Some(DOCUMENT.len() as u64));
    }
    assert_eq!(client.quota().unwrap().remaining, 99);
    let requests = server.requests();
    assert_eq!(requests[0].target, "/prefix/v2/library/app/manifests/latest");
    for word in ["oci.image.index", "oci.image.manifest", "manifest.list.v2", "distribution.manifest.v2", "*/*"] {
        assert!(requests[0].header("accept").unwrap().contains(word), "{word} is not accepted");
    }
    assert_eq!(requests[0].header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn a_manifest_is_not_taken_on_trust() {
    type Check = fn(&UpstreamError) -> bool;
    let large = || vec![b' '; (4 << 20) + 1];
    let wrong = Digest::of(b"other").to_string();
    let table: [(Reply, Check); 5] = [
        (Reply::new(200, large()).header("Content-Type", INDEX_TYPE), |e| matches!(e, UpstreamError::TooLarge { .. })),
        (Reply::new(200, large()).header("Content-Type", INDEX_TYPE).length(None), |e| {
            matches!(e, UpstreamError::TooLarge { .. })
        }),
        (Reply::new(200, "{}").header("Content-Type", INDEX_TYPE).header("Docker-Content-Digest", wrong), |e| {
            matches!(e, UpstreamError::DigestMismatch(_))
        }),
        (Reply::new(200, "{}"), |e| matches!(e, UpstreamError::Protocol { .. })),
        (manifest().header("Content-Encoding", "gzip"), |e| matches!(e, UpstreamError::Protocol { .. })),
    ];
    for (reply, check) in table {
        let server = Server::start(move |_| reply.clone()).await;
        let error = client(&server.url).manifest(&name(), &latest()).await.unwrap_err();
        assert!(check(&error), "{error:?}");
        assert_eq!(server.requests().len(), 1);
    }
    let server = Server::start(|_| Reply::new(200, "{}").header("Content-Type", INDEX_TYPE)).await;
    let error = client(&server.url).manifest(&name(), &Reference::Digest(digest())).await.unwrap_err();
    assert!(matches!(error, UpstreamError::DigestMismatch(_)), "{error:?}");
}

#[tokio::test]
async fn statuses_mean_what_callers_act_on() {
    type Check = fn(&UpstreamError) -> bool;
    let table: [(u16, bool, usize, Check); 8] = [
        (404, false, 1, |e| matches!(e, UpstreamError::NotFound)),
        (410, false, 1, |e| matches!(e, UpstreamError::NotFound)),
        (403, false, 1, |e| matches!(e, UpstreamError::Denied { status: 403 })),
        (451, false, 1, |e| matches!(e, UpstreamError::Denied { status: 451 })),
        (400, false, 1, |e| matches!(e, UpstreamError::Protocol { .. })),
        (429, true, 3, |e| matches!(e, UpstreamError::RateLimited { retry_after: None })),
        (500, true, 3, |e| matches!(e, UpstreamError::Server { status: 500, .. })),
        (503, true, 3, |e| matches!(e, UpstreamError::Server { status: 503, .. })),
    ];
    for (status, outage, attempts, check) in table {
        let server = Server::start(move |_| Reply::new(status, "reason")).await;
        let error = client(&server.url).head_manifest(&name(), &latest()).await.unwrap_err();
        assert!(check(&error), "{status}: {error:?}");
        assert_eq!((error.is_outage(), server.requests().len()), (outage, attempts), "{status}");
    }
}

#[tokio::test]
async fn retry_after_is_kept_where_it_fits() {
    for status in [429, 503] {
        let number = AtomicUsize::new(0);
        let server = Server::start(move |_| match number.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::new(status, "").header("Retry-After", "1"),
            _ => manifest(),
        })
        .await;
        let started = std::time::Instant::now();
        client(&server.url).manifest(&name(), &latest()).await.unwrap();
        assert!(started.elapsed() >= Duration::from_secs(1), "came back too early");

        let server = Server::start(move |_| Reply::new(status, "").header("Retry-After", "3600")).await;
        let error = client(&server.url).manifest(&name(), &latest()).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn trouble_that_passes_is_tried_again() {
    let number = AtomicUsize::new(0);
    let server = Server::start(move |_| match number.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(502, ""),
        1 => Reply::new(200, "{").header("Content-Type", INDEX_TYPE).length(Some(100)),
        _ => manifest(),
    })
    .await;
    client(&server.url).manifest(&name(), &latest()).await.unwrap();
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn all_attempts_together_keep_to_the_total_time() {
    let server = Server::start(|_| manifest().length(Some(1000)).stall()).await;
    let mut slow = settings(&server.url);
    slow.timeouts.idle = Duration::from_secs(60);
    let hasty = RetryPolicy { total: Duration::from_millis(300), ..slow.retry };
    let client = Client::new(slow).unwrap().with_retry(hasty);
    let error = client.manifest(&name(), &latest()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Timeout), "{error:?}");
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_an_outage() {
    let server = Server::start(|_| manifest()).await;
    let client = client(&server.url);
    drop(server);
    let error = client.manifest(&name(), &latest()).await.unwrap_err();
    assert!(error.is_outage() && error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn tags_are_listed_by_page() {
    let server = Server::start(|request| {
        if request.target.contains("last=b") {
            return Reply::new(200, r#"{"name":"library/app","tags":null}"#);
        }
        let next = r#"</v2/library/app/tags/list?n=2&last=b>; rel="next""#;
        Reply::new(200, r#"{"name":"library/app","tags":["a","b"]}"#).header("Link", next)
    })
    .await;
    let client = client(&server.url);
    let page = client.tags(&name(), Some(2), None).await.unwrap();
    assert_eq!((page.tags, page.more), (vec![String::from("a"), String::from("b")], true));
    let page = client.tags(&name(), Some(2), Some("b")).await.unwrap();
    assert_eq!((page.tags.len(), page.more), (0, false));
    assert_eq!(server.requests()[1].target, "/v2/library/app/tags/list?n=2&last=b");
}

#[tokio::test]
async fn referrers_may_not_be_supported() {
    let server = Server::start(|request| {
        let index = Reply::new(200, DOCUMENT).header("Content-Type", INDEX_TYPE);
        if request.target.contains("artifactType=") {
            index.header("OCI-Filters-Applied", "artifactType")
        } else {
            index
        }
    })
    .await;
    for (filter, expected) in [(None, false), (Some("application/x+y"), true)] {
        let answer = client(&server.url).referrers(&name(), &digest(), filter).await.unwrap();
        assert!(matches!(answer, Referrers::Index { filtered, cut: None, .. } if filtered == expected));
    }
    assert!(server.requests()[1].target.ends_with("?artifactType=application%2Fx%2By"));
    for reply in [Reply::new(404, ""), Reply::new(200, "<html>").header("Content-Type", "text/html")] {
        let server = Server::start(move |_| reply.clone()).await;
        let answer = client(&server.url).referrers(&name(), &digest(), None).await.unwrap();
        assert_eq!(answer, Referrers::NotSupported);
    }
}

#[tokio::test]
async fn referrers_are_read_page_by_page() {
    let link = |to: String| format!("<{to}>; rel=\"next\", </other>; rel=\"last\"");
    let base = format!("/v2/library/app/referrers/{}", digest());
    let path = base.clone();
    let server = Server::start(move |request| {
        let page = |text: &str| Reply::new(200, text).header("Content-Type", INDEX_TYPE);
        let target = request.target.replace("%3D", "=");
        match target.split_once("page=").map_or("1", |(_, number)| number) {
            "1" => page("one").header("Link", link(format!("{path}?page=2"))),
            "2" => page("two").header("Link", link("?page=3".into())),
            "3" => page("three"),
            "away" => page("four").header("Link", link("http://127.0.0.1:1/v2/".into())),
            "aside" => page("five").header("Link", link("/v2/library/other/referrers/x".into())),
            "large" => page(&"x".repeat(3 << 20)).header("Link", link("?page=large".into())),
            endless => page("more").header("Link", link(format!("?page={endless}"))),
        }
    })
    .await;
    let read = async |page: &str| {
        // The filter is only a way to begin at another page.
        let filter = Some(format!("page={page}")).filter(|_| !page.is_empty());
        let answer = client(&server.url).referrers(&name(), &digest(), filter.as_deref()).await.unwrap();
        let Referrers::Index { pages, cut, .. } = answer else { panic!("{answer:?}") };
        (pages, cut)
    };
    let (pages, cut) = read("").await;
    assert_eq!((pages.as_slice(), cut), (["one", "two", "three"].map(bytes::Bytes::from).as_slice(), None));
    for (page, expected) in [("away", 1), ("aside", 1), ("large", 1), ("endless", 32)] {
        let (pages, cut) = read(page).await;
        assert!(pages.len() == expected && cut.is_some(), "{page}: {} pages, {cut:?}", pages.len());
    }
    assert!(server.requests().iter().all(|request| request.target.starts_with(&base)));
}

#[test]
fn settings_are_checked() {
    let error = |settings| Client::new(settings).unwrap_err();
    for url in ["", "registry.example", "ftp://x", "https://u:p@x", "https://x/?q", "https://x/#f"] {
        let error = error(Settings::new("x", url));
        assert!(matches!(error, SettingsError::Url { .. }), "{url}: {error:?}");
        assert!(!error.to_string().contains("u:p"));
    }
    assert!(matches!(error(Settings::new("x", "http://x")), SettingsError::PlainHttp { .. }));
    let hosts = Settings { auth_hosts: vec![String::from("https://auth")], ..Settings::new("x", "https://x") };
    assert!(matches!(error(hosts), SettingsError::AuthHost { .. }));
    let ca = Settings { ca_pem: Some(b"no pem".to_vec()), ..Settings::new("x", "https://x") };
    assert!(matches!(error(ca), SettingsError::NoCertificate | SettingsError::Certificates(_)));
    // Plain HTTP allowed, so that it holds on a machine without CA certificates too.
    let good = Settings { plain_http: true, ..Settings::new("x", "https://x/path") };
    assert!(Client::new(good).is_ok());
}

/// Every call can be made from a spawned task.
#[expect(dead_code, reason = "compiling it is the test")]
fn calls_are_send(client: &Client) {
    fn check(_: impl Send) {}
    check(client.manifest(&name(), &latest()));
    check(client.head_manifest(&name(), &latest()));
    check(client.blob(&name(), &digest(), None));
    check(client.blob_size(&name(), &digest()));
    check(client.tags(&name(), None, None));
    check(client.referrers(&name(), &digest(), None));
}
