//! Upstreams as they are out there: behind TLS, behind a forward proxy, behind a login.

use std::net::Ipv4Addr;
use std::path::Path;

use e2e::web::{self, Answer, Pace};
use e2e::{Authority, Node, Proxy, ProxyOptions, Registry, RegistryOptions, Relay, Scratch, Tunnel};

use crate::world::blob_path;

/// A test image that every registry here has; one layer of several MiB.
const REPOSITORY: &str = "library/base";
const NO_CONVERSION: &str = "[convert]\nenabled = false\n";

/// A registry that speaks TLS with a certificate of a private authority.
struct Secured {
    registry: Registry,
    authority: Authority,
}

impl Secured {
    fn start() -> Self {
        let authority = Authority::new().unwrap();
        let tls = Some(authority.sign("localhost", Ipv4Addr::LOCALHOST).unwrap());
        let options = RegistryOptions { tls, access_log: true, ..RegistryOptions::default() };
        Self { registry: Registry::start_with(&Node::Machine, &options).unwrap(), authority }
    }

    /// Returns options of a proxy of this registry that trusts `certificate` for it.
    fn options(&self, certificate: &Path) -> ProxyOptions {
        let mut options = ProxyOptions::new(self.registry.at()).config(NO_CONVERSION);
        options.upstream_keys = format!("ca_file = \"{}\"\n", certificate.display());
        options.env("FIRSTLIGHT_UPSTREAM_0_URL", &self.url()).env("FIRSTLIGHT_UPSTREAM_0_PLAIN_HTTP", "false")
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.registry.at().port())
    }
}

/// Reads the image's manifest by tag.
fn manifest(proxy: &Proxy) -> Answer {
    proxy.request("GET", &format!("/v2/{REPOSITORY}/manifests/latest"), &[("accept", web::MANIFEST_TYPES)]).unwrap()
}

/// Reads the image's manifest and its largest layer, all right to the byte, and returns the layer's path.
fn pull(proxy: &Proxy) -> String {
    let answer = manifest(proxy);
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), proxy.log());
    assert_eq!(answer.header("docker-content-digest"), Some(e2e::digest(&answer.body)));
    let document = answer.json().unwrap();
    let layers = document["layers"].as_array().unwrap().iter();
    let layer = layers.max_by_key(|layer| layer["size"].as_u64()).unwrap();
    assert!(layer["size"].as_u64().unwrap() > 4 << 20, "{layer}");
    let digest = layer["digest"].as_str().unwrap();
    let path = blob_path(REPOSITORY, digest);
    assert_eq!(web::download(proxy.at(), &path, &[], Pace::default()).unwrap().digest, digest);
    path
}

/// HTTP/2 over TLS, with the authority of `ca_file` trusted beside the system's.
#[test]
fn an_upstream_of_a_private_authority_is_spoken_to_in_http2() {
    let site = Secured::start();
    let proxy = Proxy::start(&Node::Machine, site.options(&site.authority.certificate())).unwrap();
    let layer = pull(&proxy);
    let log = site.registry.log();
    let requests: Vec<_> = log.lines().filter(|line| line.contains("\"GET /v2/")).collect();
    assert!(requests.iter().any(|line| line.contains(&layer)), "{log}");
    assert!(requests.iter().all(|line| line.contains(" HTTP/2.0\"")), "{log}");
}

/// An upstream whose certificate another authority signed is not spoken to; who asks is told why.
#[test]
fn an_upstream_of_a_strange_authority_is_refused() {
    let (site, strange) = (Secured::start(), Authority::new().unwrap());
    let proxy = Proxy::start(&Node::Machine, site.options(&strange.certificate())).unwrap();
    let answer = manifest(&proxy);
    let error = answer.json().unwrap()["errors"][0].clone();
    assert!(answer.status.is_server_error(), "{}: {error}", answer.status);
    assert!(error["detail"].to_string().contains("certificate"), "{error}");
    assert!(!site.registry.log().contains("GET /v2/"), "{}", site.registry.log());
}

/// `HTTPS_PROXY` leads to the upstream, unless `NO_PROXY` names it.
#[test]
fn a_forward_proxy_is_used_unless_no_proxy_names_the_upstream() {
    let (site, tunnel) = (Secured::start(), Tunnel::start().unwrap());
    let start = |no_proxy| {
        let options = site.options(&site.authority.certificate()).env("NO_PROXY", no_proxy);
        Proxy::start(&Node::Machine, options.env("HTTPS_PROXY", &format!("http://{}", tunnel.at()))).unwrap()
    };
    pull(&start("example.org,localhost"));
    assert_eq!(tunnel.asked(), Vec::<String>::new());
    pull(&start("example.org"));
    let (asked, wanted) = (tunnel.asked(), format!("CONNECT {} HTTP/1.1", site.url().trim_start_matches("https://")));
    assert!(!asked.is_empty() && asked.iter().all(|line| *line == wanted), "{asked:?}");
}

/// The login of a Docker `config.json` opens an upstream that asks for one. A wrong one is our trouble: who asks gets no
/// challenge for a password of their own, and does not see ours.
#[test]
fn a_docker_config_logs_in() {
    let login = Some(("robot".to_owned(), "right-password".to_owned()));
    let options = RegistryOptions { login, ..RegistryOptions::default() };
    let registry = Registry::start_with(&Node::Machine, &options).unwrap();
    let relay = Relay::start(registry.at()).unwrap();
    let scratch = Scratch::new().unwrap();
    let start = |password: &str| {
        let value = web::basic("robot", password).1;
        let auth = value.trim_start_matches("Basic ");
        let config = format!("{{\"auths\": {{\"{}\": {{\"auth\": \"{auth}\"}}}}}}", relay.at());
        let file = scratch.write(&format!("{password}.json"), &config).unwrap();
        let mut options = ProxyOptions::new(relay.at()).config(NO_CONVERSION);
        options.upstream_keys = format!("visibility = \"shared\"\ndocker_config = \"{}\"\n", file.display());
        Proxy::start(&Node::Machine, options).unwrap()
    };
    pull(&start("right-password"));
    relay.forget();
    let proxy = start("wrong-password");
    for path in [format!("/v2/{REPOSITORY}/manifests/latest"), blob_path(REPOSITORY, &e2e::digest(b"any"))] {
        let answer = proxy.request("GET", &path, &[("accept", web::MANIFEST_TYPES)]).unwrap();
        assert!(answer.status.is_server_error(), "{path}: {} {}", answer.status, answer.text());
        assert_eq!(answer.header("www-authenticate"), None, "{path}");
        assert!(answer.json().unwrap()["errors"][0]["detail"].is_string(), "{path}: {}", answer.text());
        assert!(!answer.text().contains("wrong-password") && !proxy.log().contains("wrong-password"));
    }
    let wrong = web::basic("robot", "wrong-password").1;
    let sent =
        |seen: &e2e::Seen| seen.headers.get("authorization").is_some_and(|value| value.as_bytes() == wrong.as_bytes());
    assert!(relay.seen().iter().any(sent), "the login was never tried: {:?}", relay.seen());
}
