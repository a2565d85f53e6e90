//! Layers that are eStargz already: true ones are their own twins, false ones are converted like any other.

use e2e::{Client, Containerd, Node, Scratch, Transport, is_root, run, skip};
use serde_json::Value;

use crate::altered::{gunzip, with_other_toc};
use crate::converted::{self, PLAIN_SIZE, TOC_DIGEST, text};
use crate::push::{self, Layer};
use crate::reference;
use crate::world::{REPOSITORY, World};

/// Changes a TOC.
type Lie = fn(&mut Value);

/// A layer of the reference converter is served as it is, with the annotations its image had or should have had.
#[test]
fn a_layer_of_the_reference_converter_is_its_own_twin() {
    if !is_root() {
        return skip("a_layer_of_the_reference_converter_is_its_own_twin", "not root");
    }
    let world = World::start();
    let containerd = Containerd::start(&Node::Machine, Transport::Plain).unwrap();
    world.image("plain", &[world.layer("contents"), world.layer("more contents")]);
    let [plain, made] = ["plain", "made"].map(|tag| format!("{}/{REPOSITORY}:{tag}", world.registry.at()));
    containerd.pull(&plain).unwrap();
    let mut convert = reference::ctr_remote(&containerd);
    run(convert.args(["images", "convert", "--oci", "--estargz", &plain, &made])).unwrap();
    run(containerd.ctr().args(["images", "push", "--plain-http", &made])).unwrap();
    let source = containerd.digest(&made).unwrap();
    let before = converted::manifest(&world.proxy, REPOSITORY, &source, "original").1;
    let (found, shown) = world.shown("made", &source);
    assert_ne!(found, source, "{}", world.proxy.log());
    for (before, after) in before["layers"].as_array().unwrap().iter().zip(shown["layers"].as_array().unwrap()) {
        assert_eq!(before["digest"], after["digest"], "{}", world.proxy.log());
        assert_eq!(before["annotations"], after["annotations"]);
    }
}

/// Annotations that were lost on the way come back; a TOC that tells another story than its tar does not count.
#[test]
fn only_a_true_toc_counts() {
    let world = World::start();
    let scratch = Scratch::new().unwrap();
    let digest = world.image("source", &[world.layer("contents")]);
    let (_, shown) = world.shown("source", &digest);
    let twin = shown["layers"][0].clone();
    let path = converted::blob(&world.proxy, REPOSITORY, &text(&twin["digest"]), scratch.path());
    let blob = std::fs::read(&path).unwrap();

    let own = push_layer(&world, blob.clone());
    let source = world.image("own", std::slice::from_ref(&own));
    let (_, shown) = world.shown("own", &source);
    assert_eq!(text(&shown["layers"][0]["digest"]), own.digest, "{}", world.proxy.log());
    for key in [TOC_DIGEST, PLAIN_SIZE] {
        assert_eq!(shown["layers"][0]["annotations"][key], twin["annotations"][key]);
    }

    let stories: [(&str, Lie); 4] = [
        ("mode", |toc| entry(toc)["mode"] = 0o4777.into()),
        ("missing", |toc| toc["entries"].as_array_mut().unwrap().retain(|entry| entry["name"] != "./file")),
        ("renamed", |toc| entry(toc)["name"] = "./other".into()),
        ("digest", |toc| entry(toc)["digest"] = e2e::digest(b"other").into()),
    ];
    for (tag, lie) in stories {
        let false_blob = with_other_toc(&blob, lie);
        let layer = push_layer(&world, false_blob);
        let source = world.image(tag, std::slice::from_ref(&layer));
        let (_, shown) = world.shown(tag, &source);
        let shown = &shown["layers"][0];
        assert_ne!(text(&shown["digest"]), layer.digest, "{tag}: a false TOC was believed");
        let made = converted::blob(&world.proxy, REPOSITORY, &text(&shown["digest"]), scratch.path());
        reference::open(&made, &text(&shown["annotations"][TOC_DIGEST])).unwrap();
    }
}

/// The entry of the layer's one file.
fn entry(toc: &mut Value) -> &mut Value {
    toc["entries"].as_array_mut().unwrap().iter_mut().find(|entry| entry["name"] == "./file").unwrap()
}

fn push_layer(world: &World, blob: Vec<u8>) -> Layer {
    let diff_id = e2e::digest(&gunzip(&blob));
    push::layer(&world.registry, REPOSITORY, push::GZIP, blob.into(), diff_id)
}
