//! eStargz layers in which several files lie in one gzip member.

use e2e::{Fault, Relay, Rule, Snapshotter, is_root, noise, skip};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};

use crate::alone::{TRUST_ALL, push_own};
use crate::bench::Bench;
use crate::compressed::gzip;
use crate::lazy::World;
use crate::push::{self, GZIP};
use crate::tar::Tar;

const REPOSITORY: &str = "team/own";
/// Files of a member, members, and bytes of a file.
const FILES: u64 = 7;
const MEMBERS: u64 = 5;
const SIZE: usize = 40_000;

/// Whatever arrives when, every file of a member is right; then all of it is here, and proven.
#[test]
fn files_of_one_member_are_told_apart() {
    if !is_root() {
        return skip("files_of_one_member_are_told_apart", "not root");
    }
    let own = World::bare();
    let bench = Bench::start_with(TRUST_ALL);
    let (blob, diff_id, toc) = estargz();
    let layer = push::layer(&own, REPOSITORY, GZIP, blob.into(), diff_id.clone());
    let relay = Relay::start(own.at()).unwrap();
    let image = push_own(&own, &layer, toc.to_string().as_bytes(), &layer);
    let image = image.replace(&own.at().to_string(), &relay.at().to_string());
    bench.containerd.pull_lazily(Snapshotter::NAME, &image).unwrap();
    bench.assert_lazy();
    // In small pieces, that end anywhere.
    relay.add(Rule::new("/blobs/", Fault::Throttle(1_000_000)));
    bench.ctr(&["prepare", "reader", &diff_id]).unwrap();
    let mounted = bench.mount("reader");
    let (middle, all) = ([MEMBERS * FILES / 2], 0..MEMBERS * FILES);
    for number in middle.into_iter().chain(all) {
        let read = std::fs::read(mounted.join(&number.to_string()));
        let is_right = read.is_ok_and(|read| read == noise(number, SIZE));
        assert!(is_right, "{number}\n{}", bench.snapshotter.log());
    }
    relay.clear();
    bench.wait_proven();
}

/// Returns a layer, its diff id, and its TOC.
fn estargz() -> (Vec<u8>, String, Value) {
    let (mut blob, mut plain, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for member in 0..MEMBERS {
        let mut tar = Tar::new();
        for number in member * FILES..(member + 1) * FILES {
            let (name, contents) = (number.to_string(), noise(number, SIZE));
            let begun = tar.clone().open().len();
            tar = tar.file(&name, &contents);
            entries.push(json!({
                "name": name, "type": "reg", "size": SIZE, "mode": 0o644, "modtime": "2020-09-13T12:26:40Z",
                "digest": e2e::digest(&contents), "chunkDigest": e2e::digest(&contents),
                "offset": blob.len(), "innerOffset": begun + 512,
            }));
        }
        let tar = tar.open();
        blob.extend(gzip(&tar));
        plain.extend(tar);
    }
    let toc = json!({"version": 1, "entries": entries});
    let tar = Tar::new().file("stargz.index.json", toc.to_string().as_bytes()).end();
    let at = blob.len();
    blob.extend(gzip(&tar));
    plain.extend(tar);
    let extra = [b"SG\x16\x00", format!("{at:016x}STARGZ").as_bytes()].concat();
    let footer = GzBuilder::new().extra(extra).write(Vec::new(), Compression::none());
    blob.extend(footer.finish().unwrap());
    (blob, e2e::digest(&plain), toc)
}
