//! The client against a real registry over TLS with a private CA. Run with `--ignored`.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use api::{Digest, MediaType, Reference, RepositoryName};
use upstream::{Client, Referrers, Settings, UpstreamError};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A `docker-registry` on a free port of the loopback; ends when dropped.
struct Registry {
    process: Child,
    url: String,
}

impl Registry {
    fn start(dir: &Path) -> Self {
        let at = |name: &str| dir.join(name).display().to_string();
        certificates(dir);
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0', tls: {{certificate: {}, key: {}}}}}\n",
            at("data"),
            at("leaf.pem"),
            at("leaf.key")
        );
        std::fs::write(dir.join("config.yml"), config).expect("the folder can be written");
        let mut process = Command::new("docker-registry")
            .args(["serve", &at("config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry runs");
        let mut lines = BufReader::new(process.stderr.take().expect("it is piped")).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            line.split_once("listening on ").and_then(|(_, rest)| rest.split([',', '"']).next().map(Into::into))
        });
        // A closed pipe would end the registry.
        std::thread::spawn(move || lines.for_each(drop));
        let address: String = address.expect("the registry says where it listens");
        Self { process, url: format!("https://{address}") }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Makes `ca.pem` and `leaf.pem` with `leaf.key`. rustls takes no certificate that is its own CA.
fn certificates(dir: &Path) {
    std::fs::write(dir.join("leaf.ext"), "subjectAltName=IP:127.0.0.1\n").expect("the folder can be written");
    for command in [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=leaf -keyout leaf.key -out leaf.csr",
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile leaf.ext -out leaf.pem",
    ] {
        let made = Command::new("openssl").args(command.split(' ')).current_dir(dir).stderr(Stdio::null()).status();
        assert!(made.expect("openssl runs").success(), "openssl {command}");
    }
}

async fn push_blob(http: &reqwest::Client, base: &str, bytes: Vec<u8>) -> Digest {
    let digest = Digest::of(&bytes);
    let started = http.post(format!("{base}/blobs/uploads/")).send().await.expect("the registry answers");
    let place = started.headers()["location"].to_str().expect("it is text").to_owned();
    let joint = if place.contains('?') { '&' } else { '?' };
    let put =
        http.put(format!("{place}{joint}digest={digest}")).body(bytes).send().await.expect("the registry answers");
    assert_eq!(put.status(), 201);
    digest
}

#[tokio::test]
async fn a_real_registry_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let pem = std::fs::read(dir.path().join("ca.pem")).unwrap();
    let strange = Client::new(Settings::new("real", &registry.url)).unwrap();
    let client = Client::new(Settings { ca_pem: Some(pem.clone()), ..Settings::new("real", &registry.url) }).unwrap();
    let name = RepositoryName::parse("a/b").unwrap();

    let ca = reqwest::Certificate::from_pem(&pem).unwrap();
    let http = reqwest::Client::builder().tls_certs_merge([ca]).build().unwrap();
    let base = format!("{}/v2/a/b", registry.url);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let layer = push_blob(&http, &base, bytes.clone()).await;
    let config = push_blob(&http, &base, b"{}".to_vec()).await;
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{}}}]}}"#,
        bytes.len()
    );
    let put = http.put(format!("{base}/manifests/v1")).header("content-type", MANIFEST_TYPE).body(manifest.clone());
    assert_eq!(put.send().await.unwrap().status(), 201);

    let refused = strange.head_manifest(&name, &Reference::parse("v1").unwrap()).await.unwrap_err();
    assert!(matches!(refused, UpstreamError::Network { .. }), "{refused:?}");
    let answer = client.manifest(&name, &Reference::parse("v1").unwrap()).await.unwrap();
    assert_eq!((answer.bytes.as_ref(), answer.media_type), (manifest.as_bytes(), MediaType::OciManifest));
    let head = client.head_manifest(&name, &Reference::parse("v1").unwrap()).await.unwrap();
    assert_eq!((head.digest, head.size), (Some(Digest::of(manifest.as_bytes())), Some(manifest.len() as u64)));
    let missing = client.manifest(&name, &Reference::parse("v2").unwrap()).await.unwrap_err();
    assert!(matches!(missing, UpstreamError::NotFound), "{missing:?}");
    let missing = client.blob_size(&name, &Digest::of(b"none")).await.unwrap_err();
    assert!(matches!(missing, UpstreamError::NotFound), "{missing:?}");

    assert_eq!(client.blob_size(&name, &layer).await.unwrap(), bytes.len() as u64);
    for range in [None, Some(0..65536), Some(1_500_000..1_565_536), Some(2_999_999..4_000_000)] {
        let mut answer = client.blob(&name, &layer, range.clone()).await.unwrap();
        assert_eq!((answer.total, answer.range.is_some()), (bytes.len() as u64, range.is_some()));
        let part = answer.range.clone().unwrap_or(0..answer.total);
        let mut read = Vec::new();
        while let Some(chunk) = answer.body.chunk().await.unwrap() {
            read.extend_from_slice(&chunk);
        }
        assert!(read == bytes[part.start as usize..part.end as usize], "{range:?} came wrong");
    }
    assert_eq!(client.tags(&name, Some(10), None).await.unwrap().tags, ["v1"]);
    assert_eq!(client.referrers(&name, &layer, None).await.unwrap(), Referrers::NotSupported);
}
