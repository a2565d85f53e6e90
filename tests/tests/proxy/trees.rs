//! The tree of a converted image is the tree of its original.

use e2e::{Client, Node, Skopeo, Transport, Tree, is_root, skip};

use crate::Stage;

#[test]
fn unpacked_trees_are_equal() {
    if !is_root() {
        return skip("unpacked_trees_are_equal", "not root");
    }
    let stage = Stage::start("estargz").unwrap();
    let skopeo = Skopeo::new(&Node::Machine, Transport::Plain).unwrap();
    // One layer of the python image implies a directory that a lower layer makes 2750 70000:80000: a stock lazy client would show it
    // otherwise, so that layer stays as it is.
    for (repository, tag, gzip_tag, twins_expected) in [
        ("library/python", "latest", "latest", 5),
        ("library/python", "docker", "docker", 5),
        ("library/tiny", "zstd", "latest", 2),
    ] {
        let source = stage.registry.digest(repository, tag).unwrap();
        let at = stage.proxy.at();
        let converted = stage.proxy.convert(repository, tag, &source).unwrap();
        let path = format!("/v2/{repository}/manifests/{converted}");
        let manifest = stage.proxy.request("GET", &path, &[]).unwrap().json().unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        let has_toc =
            |layer: &&serde_json::Value| layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"].is_string();
        assert_eq!(layers.iter().filter(has_toc).count(), twins_expected, "{manifest:#}");
        let unpack = |digest: &str| {
            let reference = format!("{at}/{repository}@{digest}");
            skopeo.copy(&reference).unwrap();
            Tree::read(&skopeo.unpack(&reference).unwrap().join("rootfs")).unwrap()
        };
        // umoci cannot unpack zstd; the same layers in gzip are the reference there.
        let reference = stage.registry.digest(repository, gzip_tag).unwrap();
        let (original, twins) = (unpack(&reference).without_estargz(), unpack(&converted));
        assert!(twins.entries.contains_key(std::path::Path::new("stargz.index.json")), "nothing was converted");
        let differences = original.differences(&twins.without_estargz());
        assert!(
            differences.is_empty(),
            "{repository}:{tag}: {} differ:\n{}",
            differences.len(),
            differences.join("\n")
        );
        skopeo.clear().unwrap();
    }
}
