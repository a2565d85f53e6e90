//! Images as the proxy serves them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use e2e::{Proxy, web};
use serde_json::Value;

pub(crate) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
pub(crate) const PLAIN_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// An image's manifest and config.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) digest: String,
    pub(crate) manifest: Value,
    pub(crate) config: Value,
}

impl Image {
    /// Reads an image by digest.
    pub(crate) fn read(proxy: &Proxy, repository: &str, digest: &str) -> Self {
        let manifest = manifest(proxy, repository, digest, "original").1;
        let config = text(&manifest["config"]["digest"]);
        let answer = proxy.request("GET", &format!("/v2/{repository}/blobs/{config}"), &[]).unwrap();
        assert_eq!(e2e::digest(&answer.body), config);
        Self { digest: digest.to_owned(), config: answer.json().unwrap(), manifest }
    }

    pub(crate) fn layers(&self) -> &[Value] {
        self.manifest["layers"].as_array().unwrap()
    }

    pub(crate) fn diff_ids(&self) -> Vec<String> {
        self.config["rootfs"]["diff_ids"].as_array().unwrap().iter().map(text).collect()
    }
}

/// Reads a manifest in a view and returns its digest, checked, and itself.
pub(crate) fn manifest(proxy: &Proxy, repository: &str, reference: &str, view: &str) -> (String, Value) {
    let path = format!("/v2/{repository}/manifests/{reference}");
    let headers = [("accept", web::MANIFEST_TYPES), ("firstlight-view", view)];
    let answer = proxy.request("GET", &path, &headers).unwrap();
    assert_eq!(answer.status, 200, "{path}: {}\n{}", answer.text(), proxy.log());
    let digest = answer.header("docker-content-digest").unwrap();
    assert_eq!(digest, e2e::digest(&answer.body), "{path}");
    (digest, answer.json().unwrap())
}

/// Returns the string in a JSON value.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}

/// Downloads a blob to a file of a folder.
pub(crate) fn blob(proxy: &Proxy, repository: &str, digest: &str, folder: &Path) -> PathBuf {
    let answer = proxy.request("GET", &format!("/v2/{repository}/blobs/{digest}"), &[]).unwrap();
    assert_eq!(answer.status, 200, "{digest}: {}", answer.text());
    assert_eq!(e2e::digest(&answer.body), digest);
    let path = folder.join(digest.replace(':', "-"));
    std::fs::write(&path, &answer.body).unwrap();
    path
}

/// Returns why layers were refused, by digest, as the proxy logged it.
pub(crate) fn refusals(proxy: &Proxy) -> HashMap<String, String> {
    let log = proxy.log();
    let field = |line: &str, name: &str| {
        let rest = line.split_once(&format!(" {name}="))?.1;
        Some(rest.split(' ').next()?.to_owned())
    };
    let lines = log.lines().filter(|line| line.contains("layer stays as it is"));
    lines.map(|line| (field(line, "blob.digest").unwrap(), field(line, "reason").unwrap())).collect()
}
