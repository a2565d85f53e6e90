//! [`Layout`]: a small image of two platforms, made by hand.

use std::fs;
use std::io::Write;
use std::path::Path;

use api::Digest;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// What was written.
pub(crate) struct Layout {
    /// The digest of the index.
    pub(crate) digest: String,
    /// The layers of the amd64 image, as hex digits.
    pub(crate) layers: Vec<String>,
    /// The manifest of the other platform, as hex digits.
    pub(crate) other_manifest: String,
}

struct Blobs<'a>(&'a Path);

impl Blobs<'_> {
    fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.0.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
    }

    fn image(&self, architecture: &str, tars: &[Vec<u8>]) -> (Value, Vec<Value>) {
        let layers: Vec<Value> = tars
            .iter()
            .map(|tar| {
                let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(tar).unwrap();
                self.put("application/vnd.oci.image.layer.v1.tar+gzip", &gzip.finish().unwrap())
            })
            .collect();
        let diff_ids: Vec<String> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
        let config = json!({ "architecture": architecture, "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config = self.put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
        let mut entry = self.put(media_type, manifest.to_string().as_bytes());
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        (entry, layers)
    }
}

impl Layout {
    /// Writes the image as `app`. Of its layers two convert, one stays original because it implies a directory that
    /// the base has with another mode, and one is no tar.
    pub(crate) fn write(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        let blobs = Blobs(dir);
        let tars = [base(), files(&[("usr/new", b"new")]), files(&[("tmp/file", b"in tmp")]), vec![b'?'; 3000]];
        let (amd64, layers) = blobs.image("amd64", &tars);
        let (arm64, _) = blobs.image("arm64", &[files(&[("arm", b"64")])]);
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [amd64, arm64] });
        let mut entry = blobs.put(media_type, index.to_string().as_bytes());
        let digest = entry["digest"].as_str().unwrap().to_owned();
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "app" });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let hex = |entry: &Value| entry["digest"].as_str().unwrap().split(':').next_back().unwrap().to_owned();
        Self { digest, layers: layers.iter().map(hex).collect(), other_manifest: hex(&arm64) }
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(1_700_000_000);
    header
}

fn base() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, mode) in [("tmp/", 0o1777), ("usr/", 0o755), ("usr/bin/", 0o755)] {
        tar.append_data(&mut header(EntryType::Directory, mode, 0), name, &[][..]).unwrap();
    }
    // Three chunks that compress neither well nor badly.
    let payload: Vec<u8> = (0..650_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
    let mut tool = header(EntryType::Regular, 0o4755, payload.len() as u64);
    tool.set_uid(1000);
    tool.set_gid(100);
    tar.append_data(&mut tool, "usr/bin/tool", payload.as_slice()).unwrap();
    tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), "usr/bin/link", "tool").unwrap();
    // An unpack gives the file what its last name says.
    tool.set_entry_type(EntryType::Link);
    tool.set_size(0);
    tar.append_link(&mut tool, "usr/bin/hard", "usr/bin/tool").unwrap();
    tar.into_inner().unwrap()
}

fn files(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, bytes) in entries {
        tar.append_data(&mut header(EntryType::Regular, 0o644, bytes.len() as u64), name, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}
