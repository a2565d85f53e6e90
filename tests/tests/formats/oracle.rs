//! Every layer of every test image, converted by the proxy, is what the reference implementations expect.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use api::{Digest, TarTail, Twin};
use e2e::{Containerd, Node, Scratch, Stage, Transport, is_root, run, skip};

use crate::converted::{self, Image, PLAIN_SIZE, TOC_DIGEST, text};
use crate::reference;

/// The test images, and how many of their layers have a twin that is shown. One layer of the python image implies a directory that a
/// lower one makes 2750 70000:80000, so it stays as it is in this view.
const IMAGES: [(&str, &str, usize); 7] = [
    ("library/tiny", "latest", 2),
    ("library/tiny", "docker", 2),
    ("library/tiny", "zstd", 2),
    ("library/base", "latest", 1),
    ("library/base", "docker", 1),
    ("library/python", "latest", 5),
    ("library/python", "docker", 5),
];

/// Go opens and verifies every twin, `ctr-remote` finds the annotated TOC, gzip and tar accept the blob, the config's diffIDs are those of
/// the unpacked twins, and every source tar comes back out of its twin.
#[test]
fn every_layer_passes_the_reference_implementations() {
    if !is_root() {
        return skip("every_layer_passes_the_reference_implementations", "not root");
    }
    let stage = Stage::start("estargz").unwrap();
    let containerd = Containerd::start(&Node::Machine, Transport::Plain).unwrap();
    let scratch = Scratch::new().unwrap();
    for (repository, tag, twins_expected) in IMAGES {
        let source = stage.registry.digest(repository, tag).unwrap();
        let converted = stage.proxy.convert(repository, tag, &source).unwrap();
        let source = Image::read(&stage.proxy, repository, &source);
        let converted = Image::read(&stage.proxy, repository, &converted);
        let twins = check_image(
            &stage,
            repository,
            &source,
            &converted,
            |twin, layer| {
                check_twin(&containerd, twin, layer);
            },
            scratch.path(),
        );
        assert_eq!(twins, twins_expected, "{repository}:{tag}");
    }
}

/// Checks the layers of an image and returns how many are twins.
fn check_image(
    stage: &Stage,
    repository: &str,
    source: &Image,
    converted: &Image,
    check: impl Fn(&Path, &serde_json::Value),
    folder: &Path,
) -> usize {
    assert_eq!(converted.manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(converted.manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    assert_eq!(text(&converted.manifest["subject"]["digest"]), source.digest);
    assert_eq!(converted.layers().len(), source.layers().len());
    let (old_ids, new_ids) = (source.diff_ids(), converted.diff_ids());
    let mut twins = 0;
    for (i, (old, new)) in source.layers().iter().zip(converted.layers()).enumerate() {
        if old["digest"] == new["digest"] {
            assert_eq!(old_ids[i], new_ids[i]);
            continue;
        }
        twins += 1;
        assert_eq!(new["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let twin = converted::blob(&stage.proxy, repository, &text(&new["digest"]), folder);
        assert_eq!(std::fs::metadata(&twin).unwrap().len(), new["size"].as_u64().unwrap());
        let (diff_id, plain_size) = reference::unpacked(&twin);
        assert_eq!(diff_id, new_ids[i], "{repository} layer {i}");
        assert_eq!(text(&new["annotations"][PLAIN_SIZE]), plain_size.to_string(), "{repository} layer {i}");
        check(&twin, new);
        let old_file = converted::blob(&stage.proxy, repository, &text(&old["digest"]), folder);
        check_rebuilt(&old_file, &old_ids[i], &twin, new);
        std::fs::remove_file(&twin).unwrap();
        std::fs::remove_file(&old_file).unwrap();
    }
    // Nothing but the diffIDs may differ in the config.
    let mut config = converted.config.clone();
    config["rootfs"]["diff_ids"] = source.config["rootfs"]["diff_ids"].clone();
    assert_eq!(config.to_string(), source.config.to_string());
    twins
}

fn check_twin(containerd: &Containerd, twin: &Path, layer: &serde_json::Value) {
    let (digest, toc_digest) = (text(&layer["digest"]), text(&layer["annotations"][TOC_DIGEST]));
    let entries = reference::open(twin, &toc_digest).unwrap();
    assert!(entries.len() > 1, "{digest} shows nothing");
    assert_eq!(reference::toc_digest(containerd, twin, &digest), toc_digest);
}

/// Rebuilds the source's tar from its twin and from the number of zeros at its end alone.
fn check_rebuilt(source: &Path, diff_id: &str, twin: &Path, layer: &serde_json::Value) {
    let program = if layer_is_zstd(source) { "zstd" } else { "gzip" };
    let plain_size = run(Command::new("sh").args(["-ec", "\"$1\" -dc <\"$2\" | wc -c", "sh", program]).arg(source));
    let plain_size: u64 = plain_size.unwrap().parse().unwrap();
    let body = rebuild(twin, layer, diff_id, 0);
    let zeros = plain_size.checked_sub(body.1).unwrap();
    let (digest, size) = rebuild(twin, layer, diff_id, zeros);
    assert_eq!((digest.as_str(), size), (diff_id, plain_size), "{} and {zeros} zeros", twin.display());
}

fn layer_is_zstd(blob: &Path) -> bool {
    let mut magic = [0; 4];
    std::io::Read::read_exact(&mut File::open(blob).unwrap(), &mut magic).unwrap();
    magic == 0xfd2f_b528_u32.to_le_bytes()
}

/// Returns digest and size of the source tar as the twin and `zeros` zero bytes give it.
pub(crate) fn rebuild(twin: &Path, layer: &serde_json::Value, diff_id: &str, zeros: u64) -> (String, u64) {
    let unknown = Digest::of(b"");
    let twin_row = Twin {
        digest: Digest::parse(&text(&layer["digest"])).unwrap(),
        size: layer["size"].as_u64().unwrap(),
        diff_id: unknown.clone(),
        plain_size: 0,
        toc_digest: unknown,
        toc_size: 0,
        source_diff_id: Digest::parse(diff_id).unwrap(),
        source_plain_size: 0,
        tail: TarTail::Zeros(zeros),
        implied_dirs: Vec::new(),
    };
    let mut hashed = Hashed { hasher: api::Hasher::new(api::Algorithm::Sha256), size: 0 };
    estargz::rebuild::rebuild(&File::open(twin).unwrap(), &twin_row, &mut hashed).unwrap();
    (hashed.hasher.finish().to_string(), hashed.size)
}

/// A writer that keeps digest and size only.
struct Hashed {
    hasher: api::Hasher,
    size: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
