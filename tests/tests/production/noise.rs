//! Images that nothing makes smaller, to fill a store with.

use std::io::Write;

use bytes::Bytes;
use e2e::Registry;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Pushes an image with one layer, which holds one file of `size` bytes that `seed` decides; returns its digest.
pub(crate) fn push(registry: &Registry, repository: &str, tag: &str, seed: u64, size: usize) -> String {
    let tar = tar(&noise(seed, size));
    let mut gzip = GzEncoder::new(Vec::with_capacity(tar.len() + tar.len() / 1000), Compression::none());
    gzip.write_all(&tar).unwrap();
    let layer = Bytes::from(gzip.finish().unwrap());
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [e2e::digest(&tar)]},
    });
    let config = Bytes::from(config.to_string());
    let descriptor =
        |kind: &str, bytes: &Bytes| json!({"mediaType": kind, "digest": e2e::digest(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, &layer)],
    });
    for blob in [config, layer] {
        upload(registry, repository, blob);
    }
    let manifest = Bytes::from(manifest.to_string());
    let (digest, path) = (e2e::digest(&manifest), format!("/v2/{repository}/manifests/{tag}"));
    assert_eq!(send(registry, "PUT", &path, MANIFEST, manifest).0, StatusCode::CREATED, "{path}");
    digest
}

/// Returns `size` bytes that no compressor makes smaller; the same for the same seed.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; size];
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Returns a tar with one file, `data`.
fn tar(content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut set = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    set(0, "data");
    set(100, "0000644\0");
    set(108, "0000000\0");
    set(116, "0000000\0");
    set(124, &format!("{:011o}\0", content.len()));
    set(136, "00000000000\0");
    set(148, "        ");
    set(156, "0");
    set(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

fn upload(registry: &Registry, repository: &str, blob: Bytes) {
    let (status, headers) = send(registry, "POST", &format!("/v2/{repository}/blobs/uploads/"), "", Bytes::new());
    assert_eq!(status, StatusCode::ACCEPTED);
    let path = headers["location"].to_str().unwrap().split_once("/v2/").unwrap().1;
    let path = format!("/v2/{path}{}digest={}", if path.contains('?') { '&' } else { '?' }, e2e::digest(&blob));
    let (status, _) = send(registry, "PUT", &path, "application/octet-stream", blob);
    assert_eq!(status, StatusCode::CREATED, "{path}");
}

fn send(registry: &Registry, method: &str, path: &str, kind: &str, body: Bytes) -> (StatusCode, HeaderMap) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = TcpStream::connect(registry.at()).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", registry.at().to_string());
        let request = request.header("content-type", kind).body(Full::new(body)).unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        body.collect().await.unwrap();
        (head.status, head.headers)
    })
}
