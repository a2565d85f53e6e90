//! Which documents are rewritten in the estargz view, and what of them.

use e2e::Stage;
use serde_json::{Value, json};

use crate::compressed;
use crate::converted::{self, Image, TOC_DIGEST, text};
use crate::push::{self, INDEX, Layer, MANIFEST, descriptor};
use crate::tar::Tar;
use crate::world::{REPOSITORY, World};

const ARTIFACT: &str = "application/vnd.cncf.helm.config.v1+json";

/// In an index only the wanted platform's child is replaced; all other descriptors stay to the byte.
#[test]
fn only_the_wanted_platform_is_replaced() {
    let stage = Stage::start("estargz").unwrap();
    for tag in ["multi", "multi-docker"] {
        let digest = stage.registry.digest("library/tiny", tag).unwrap();
        let source = converted::manifest(&stage.proxy, "library/tiny", &digest, "original").1;
        let (found, shown) = converted::manifest(&stage.proxy, "library/tiny", tag, "estargz");
        assert_ne!(found, digest, "{tag}");
        assert_eq!(shown["mediaType"], INDEX);
        assert_eq!(text(&shown["subject"]["digest"]), digest);
        let [before, after] = [&source, &shown].map(|index| index["manifests"].as_array().unwrap());
        assert_eq!(before.len(), after.len());
        assert_eq!(before[1].to_string(), after[1].to_string(), "{tag}");
        assert_eq!(before[0]["platform"], after[0]["platform"]);
        let child = Image::read(&stage.proxy, "library/tiny", &text(&after[0]["digest"]));
        assert_eq!(child.manifest["mediaType"], MANIFEST);
        assert_eq!(child.manifest["subject"]["digest"], before[0]["digest"]);
        assert!(child.layers().iter().all(|layer| layer["annotations"][TOC_DIGEST].is_string()), "{child:#?}");
        // The same image under a tag of its own becomes the same manifest.
        let alone = if tag == "multi" { "latest" } else { "docker" };
        assert_eq!(stage.registry.digest("library/tiny", alone).unwrap(), text(&before[0]["digest"]));
        let (alone, _) = converted::manifest(&stage.proxy, "library/tiny", alone, "estargz");
        assert_eq!(alone, text(&after[0]["digest"]));
    }
}

/// Every child of `convert.platforms` is replaced, and no other.
#[test]
fn every_wanted_platform_is_replaced() {
    let world = World::start_with("platforms = [\"linux/amd64\", \"linux/arm64\"]\n");
    let child = |architecture: &str| {
        let digest = world.image("", &[world.layer(architecture)]);
        let size = converted::manifest(&world.proxy, REPOSITORY, &digest, "original").1.to_string().len();
        let mut child = descriptor(MANIFEST, &digest, size);
        child["platform"] = json!({"architecture": architecture, "os": "linux"});
        child
    };
    let children = ["s390x", "arm64", "amd64"].map(child);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
    let source = world.manifest("platforms", &index);
    let (found, shown) = world.shown("platforms", &source);
    assert_ne!(found, source, "{}", world.proxy.log());
    assert_eq!(world.conversions(), 2.0);
    assert_eq!(shown["manifests"].as_array().unwrap().len(), 3);
    assert_eq!(shown["manifests"][0].to_string(), children[0].to_string());
    for (child, before) in [1, 2].map(|i| (&shown["manifests"][i], &children[i])) {
        assert_eq!(child["platform"], before["platform"]);
        let image = Image::read(&world.proxy, REPOSITORY, &text(&child["digest"]));
        assert_eq!(image.manifest["subject"]["digest"], before["digest"]);
        assert!(image.layers()[0]["annotations"][TOC_DIGEST].is_string(), "{image:#?}");
    }
}

/// A layer smaller than `convert.min_layer_size` stays as it is beside twins; an image of such layers alone is the original.
#[test]
fn small_layers_stay() {
    let world = World::start_with("min_layer_size = \"1KiB\"\n");
    let numbers: Vec<_> = (0..1000).map(|number| number.to_string()).collect();
    let (small, large) = (world.layer("small"), world.layer(&numbers.join(" ")));
    assert!(small.size < 1024 && large.size > 1024, "{} and {}", small.size, large.size);
    let alone = world.image("alone", std::slice::from_ref(&small));
    assert_eq!(world.shown("alone", &alone).0, alone);
    assert_eq!(world.conversions(), 0.0);
    let source = world.image("both", &[small.clone(), large.clone()]);
    let (found, shown) = world.shown("both", &source);
    assert_ne!(found, source, "{}", world.proxy.log());
    assert_eq!(world.conversions(), 1.0);
    assert_eq!(shown["layers"][0], small.descriptor());
    assert!(shown["layers"][1]["annotations"][TOC_DIGEST].is_string(), "{shown:#}");
    let diff_ids = Image::read(&world.proxy, REPOSITORY, &found).diff_ids();
    assert_eq!(diff_ids[0], small.diff_id);
    assert_ne!(diff_ids[1], large.diff_id);
}

/// An attestation keeps its descriptor and goes on naming the source manifest; so does all else in an index that is no wanted image.
#[test]
fn other_children_keep_their_descriptors() {
    let world = World::start();
    let digest = world.image("", &[world.layer("image")]);
    let size = converted::manifest(&world.proxy, REPOSITORY, &digest, "original").1.to_string().len();
    let statement = push::blob(&world.registry, REPOSITORY, b"{}".to_vec().into());
    let attestation = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": push::config(&world.registry, REPOSITORY, &[]),
        "layers": [descriptor("application/vnd.in-toto+json", &statement, 2)],
    });
    let attestation = (world.manifest("", &attestation), attestation.to_string().len());
    let child = |digest: &str, size: usize, more: Value| {
        let mut child = descriptor(MANIFEST, digest, size);
        child.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        child
    };
    let wanted =
        json!({"platform": {"architecture": "amd64", "os": "linux"}, "annotations": {"kept": "yes"}, "data": "e30="});
    let about = json!({
        "platform": {"architecture": "unknown", "os": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digest},
    });
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX, "annotations": {"index": "kept"},
        "manifests": [child(&digest, size, wanted), child(&attestation.0, attestation.1, about)],
    });
    let source = world.manifest("index", &index);
    let (found, shown) = world.shown("index", &source);
    assert_ne!(found, source, "{}", world.proxy.log());
    assert_eq!(shown["manifests"][1].to_string(), index["manifests"][1].to_string());
    assert_eq!(shown["annotations"]["index"], "kept");
    let replaced = &shown["manifests"][0];
    assert_ne!(text(&replaced["digest"]), digest);
    assert_eq!(replaced["annotations"], json!({"kept": "yes"}));
    assert_eq!(replaced["data"], Value::Null, "stale data");
    let (_, attested) = converted::manifest(&world.proxy, REPOSITORY, &attestation.0, "estargz");
    assert_eq!(text(&attested["layers"][0]["digest"]), statement);
}

/// Artifacts, and images whose config does not fit, are served as they are and convert nothing.
#[test]
fn what_is_no_proper_image_passes_through() {
    let world = World::start();
    let layer = world.layer("a layer");
    let blob = push::blob(&world.registry, REPOSITORY, b"{}".to_vec().into());
    let layers = |count: usize| vec![layer.descriptor(); count];
    let document = |config: Value, layers: Vec<Value>| json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let config = |layers: &[Layer]| push::config(&world.registry, REPOSITORY, layers);
    let artifacts = [
        ("helm", document(descriptor(ARTIFACT, &blob, 2), layers(1))),
        ("signature", document(descriptor("application/vnd.oci.empty.v1+json", &blob, 2), layers(1))),
    ];
    for (tag, document) in artifacts {
        let source = world.manifest(tag, &document);
        assert_eq!(world.shown(tag, &source), (source, document), "{tag}");
    }
    assert_eq!(world.conversions(), 0.0);
    let lies = Layer { diff_id: e2e::digest(b"another tar"), ..layer.clone() };
    let misfits = [
        ("more-layers", document(config(std::slice::from_ref(&layer)), layers(2))),
        ("more-diff-ids", document(config(&vec![layer.clone(); 3]), layers(2))),
        ("no-diff-ids", document(config(&[]), layers(1))),
        ("false-diff-id", document(config(&[lies]), layers(1))),
        ("config-is-no-json", document(descriptor(push::CONFIG, &layer.digest, layer.size), layers(1))),
        ("config-without-rootfs", document(descriptor(push::CONFIG, &blob, 2), layers(1))),
    ];
    for (tag, document) in misfits {
        let source = world.manifest(tag, &document);
        assert_eq!(world.shown(tag, &source), (source, document), "{tag}");
    }
    assert!(!world.proxy.log().contains("panicked"), "{}", world.proxy.log());
}

/// Layers that cannot have a twin keep digest, type and urls beside those that have one; foreign urls are never fetched.
#[test]
fn encrypted_and_foreign_layers_stay() {
    let world = World::start();
    let (layer, secret) = (world.layer("plain"), world.layer("secret"));
    let foreign = world.layer("foreign");
    let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
    let nondistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let without_urls = descriptor(nondistributable, &foreign.digest, foreign.size);
    // Of the foreign types, the registry takes urls with this one only.
    let nondistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
    let mut with_urls = descriptor(nondistributable, &foreign.digest, foreign.size);
    // A port that refuses: were it asked, the log would say so.
    with_urls["urls"] = json!(["http://127.0.0.1:1/layer"]);
    let layers = vec![layer.descriptor(), descriptor(encrypted, &secret.digest, secret.size), without_urls, with_urls];
    let config = push::config(&world.registry, REPOSITORY, &[layer, secret, foreign.clone(), foreign]);
    let document = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let source = world.manifest("mixed", &document);
    let (found, shown) = world.shown("mixed", &source);
    assert_ne!(found, source);
    assert!(shown["layers"][0]["annotations"][TOC_DIGEST].is_string(), "{shown:#}");
    for i in 1..4 {
        assert_eq!(shown["layers"][i].to_string(), document["layers"][i].to_string());
    }
    assert_eq!(world.conversions(), 1.0);
    let log = world.proxy.log();
    assert!(!log.contains("127.0.0.1:1/"), "{log}");
    let diff_ids = Image::read(&world.proxy, REPOSITORY, &found).diff_ids();
    let before = Image::read(&world.proxy, REPOSITORY, &source).diff_ids();
    assert_eq!(diff_ids[1..], before[1..]);
    assert_ne!(diff_ids[0], before[0]);
}

/// A layer that an image names twice is converted once; both places get the twin, without the stale `data`.
#[test]
fn a_layer_used_twice_converts_once() {
    let world = World::start();
    let (layer, other) = (world.layer("twice"), world.layer("between"));
    let with_data = |layer: &Layer| {
        let mut descriptor = layer.descriptor();
        descriptor["data"] = "c3RhbGU=".into();
        descriptor["annotations"] = json!({"kept": "yes"});
        descriptor
    };
    let config = push::config(&world.registry, REPOSITORY, &[layer.clone(), other.clone(), layer.clone()]);
    let layers = [with_data(&layer), with_data(&other), with_data(&layer)];
    let document = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers, "annotations": {"a": "b"}});
    let source = world.manifest("twice", &document);
    let (found, shown) = world.shown("twice", &source);
    assert_ne!(found, source, "{}", world.proxy.log());
    assert_eq!(world.conversions(), 2.0);
    assert_eq!(shown["layers"][0], shown["layers"][2]);
    assert_ne!(shown["layers"][0]["digest"], shown["layers"][1]["digest"]);
    assert_eq!(shown["annotations"]["a"], "b");
    for layer in shown["layers"].as_array().unwrap() {
        assert_eq!(layer["data"], Value::Null);
        assert_eq!(layer["annotations"]["kept"], "yes");
    }
    let diff_ids = Image::read(&world.proxy, REPOSITORY, &found).diff_ids();
    assert_eq!(diff_ids[0], diff_ids[2]);
}

/// Docker's types become OCI's, because only those carry the annotations; a zstd layer becomes a gzip one in name too.
#[test]
fn docker_types_become_oci_types() {
    let world = World::start();
    let plain = Tar::new().file("file", b"of all").end();
    let docker = |kind: &str| format!("application/vnd.docker.image.rootfs.{kind}");
    let layer = |kind: &str, blob: Vec<u8>| {
        push::layer(&world.registry, REPOSITORY, &docker(kind), blob.into(), e2e::digest(&plain))
    };
    let layers = [
        layer("diff.tar.gzip", compressed::gzip(&plain)),
        layer("diff.tar.zstd", compressed::zstd(&plain)),
        layer("diff.tar", plain.clone()),
    ];
    let mut config = push::config(&world.registry, REPOSITORY, &layers);
    config["mediaType"] = "application/vnd.docker.container.image.v1+json".into();
    let descriptors: Vec<_> = layers.iter().map(Layer::descriptor).collect();
    let document = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": config, "layers": descriptors,
    });
    let source = world.manifest("docker", &document);
    let (found, shown) = world.shown("docker", &source);
    assert_ne!(found, source, "{}", world.proxy.log());
    assert_eq!(shown["mediaType"], MANIFEST);
    assert_eq!(shown["config"]["mediaType"], push::CONFIG);
    for i in 0..layers.len() {
        assert_eq!(shown["layers"][i]["mediaType"], push::GZIP);
        // The same tar, however it was compressed, has the same twin.
        assert_eq!(shown["layers"][i]["digest"], shown["layers"][0]["digest"]);
        assert!(shown["layers"][i]["annotations"][TOC_DIGEST].is_string());
    }
}

/// A layer may be named by another algorithm than the rest.
#[test]
fn a_layer_named_by_sha512_converts() {
    let world = World::start();
    let plain = Tar::new().file("file", b"sha512").end();
    let blob = compressed::gzip(&plain);
    let mut hasher = api::Hasher::new(api::Algorithm::Sha512);
    hasher.update(&blob);
    let (digest, size) = (hasher.finish().to_string(), blob.len());
    push::blob_as(&world.registry, REPOSITORY, &digest, blob.into());
    let layer = Layer { media_type: push::GZIP.to_owned(), digest, size, diff_id: e2e::digest(&plain) };
    let source = world.image("sha512", std::slice::from_ref(&layer));
    let (found, shown) = world.shown("sha512", &source);
    assert_ne!(found, source, "{}", world.proxy.log());
    assert!(text(&shown["layers"][0]["digest"]).starts_with("sha256:"));
    let answer = world.proxy.request("GET", &format!("/v2/{REPOSITORY}/blobs/{}", layer.digest), &[]).unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, size));
}
