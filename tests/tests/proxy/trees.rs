//! The tree of a converted image is the tree of its original.

use e2e::{Client, Node, Skopeo, Stage, Transport, Tree, is_root, skip};

#[test]
fn unpacked_trees_are_equal() {
    if !is_root() {
        return skip("unpacked_trees_are_equal", "not root");
    }
    let stage = Stage::start("estargz").unwrap();
    let skopeo = Skopeo::new(&Node::Machine, Transport::Plain).unwrap();
    for (repository, tag) in [("library/python", "latest"), ("library/python", "docker"), ("library/tiny", "zstd")] {
        let source = stage.registry.digest(repository, tag).unwrap();
        let at = stage.proxy.at();
        let converted = stage.proxy.convert(repository, tag, &source).unwrap();
        let unpack = |digest: &str| {
            let reference = format!("{at}/{repository}@{digest}");
            skopeo.copy(&reference).unwrap();
            Tree::read(&skopeo.unpack(&reference).unwrap().join("rootfs")).unwrap()
        };
        let (original, twins) = (unpack(&source).without_estargz(), unpack(&converted));
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
