//! Every odd layer that is known to happen: what the proxy makes of it, and that its tree is the one containerd makes of the source.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use e2e::{Node, Proxy, ProxyOptions, Registry, RegistryOptions, Scratch, Tree, is_root, skip, wait};
use serde_json::Value;

use crate::applied::Applier;
use crate::converted::{self, Image, TOC_DIGEST, text};
use crate::push::{self, Layer};
use crate::row::{Outcome, Row, base};
use crate::toc_tree;
use crate::{compressed, reference, rows};

const REPOSITORY: &str = "odd/layers";

/// Registry and proxy with one image for each row.
struct Table {
    registry: Registry,
    proxy: Proxy,
    applier: Applier,
    scratch: Scratch,
    folders: AtomicU32,
    base: Layer,
    base_entries: OnceLock<Vec<Value>>,
    reasons: HashMap<String, String>,
}

/// A row's image before and after.
struct Case<'a> {
    row: &'a Row,
    source: Image,
    converted: Image,
}

#[test]
fn every_odd_layer_is_as_containerd_unpacks_it() {
    if !is_root() {
        return skip("every_odd_layer_is_as_containerd_unpacks_it", "not root");
    }
    let rows = rows::all();
    let mut names = BTreeSet::new();
    assert!(rows.iter().all(|row| names.insert(&row.name)), "two rows have one name");
    let mut table = Table::start();
    let images: Vec<_> = rows.iter().map(|row| table.push(row)).collect();
    let cases = table.convert(&rows, &images);
    let check = |cases: &[Case<'_>]| -> Vec<String> {
        let failed = cases.iter().filter_map(|case| table.check(case).err().map(|why| (case, why)));
        failed.map(|(case, why)| format!("{} ({:?}): {why:#}", case.row.name, case.row.outcome)).collect()
    };
    let failed = std::thread::scope(|scope| {
        // Some at a time: unpacking is mostly waiting for processes.
        let parts = cases.chunks(cases.len().div_ceil(4)).map(|part| scope.spawn(|| check(part)));
        let parts: Vec<_> = parts.collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(failed.is_empty(), "{} of {} rows:\n{}", failed.len(), rows.len(), failed.join("\n\n"));
    assert!(!table.proxy.log().contains("panicked"), "{}", table.proxy.log());
}

impl Table {
    fn start() -> Self {
        let options = RegistryOptions { empty: true, ..RegistryOptions::default() };
        let registry = Registry::start_with(&Node::Machine, &options).unwrap();
        let options = ProxyOptions::new(registry.at()).view("estargz").config("[convert]\nwait = \"5m\"\n");
        let proxy = Proxy::start(&Node::Machine, options).unwrap();
        let plain = base();
        let blob = compressed::gzip(&plain);
        let base = push::layer(&registry, REPOSITORY, push::GZIP, blob.into(), e2e::digest(&plain));
        let scratch = Scratch::new().unwrap();
        Self {
            registry,
            proxy,
            applier: Applier::start(),
            scratch,
            folders: AtomicU32::new(0),
            base,
            base_entries: OnceLock::new(),
            reasons: HashMap::new(),
        }
    }

    /// Pushes a row's image under the row's name and returns its digest.
    fn push(&self, row: &Row) -> String {
        let layer = push::layer(&self.registry, REPOSITORY, row.media_type, row.blob.clone(), row.diff_id.clone());
        push::image(&self.registry, REPOSITORY, &row.name, &[self.base.clone(), layer])
    }

    /// Has every image converted. A manifest asked for by digest starts it and leaves the tag undecided.
    fn convert<'a>(&mut self, rows: &'a [Row], digests: &[String]) -> Vec<Case<'a>> {
        for digest in digests {
            converted::manifest(&self.proxy, REPOSITORY, digest, "estargz");
        }
        let idle = wait::until("conversions", std::time::Duration::from_secs(600), || {
            Ok((self.proxy.metric("firstlight_conversions_running")? == 0.0).then_some(()))
        });
        idle.unwrap();
        let mut cases = Vec::with_capacity(rows.len());
        for (row, digest) in rows.iter().zip(digests) {
            let (converted, _) = converted::manifest(&self.proxy, REPOSITORY, &row.name, "estargz");
            let source = Image::read(&self.proxy, REPOSITORY, digest);
            cases.push(Case { row, source, converted: Image::read(&self.proxy, REPOSITORY, &converted) });
        }
        self.reasons = converted::refusals(&self.proxy);
        cases
    }

    fn check(&self, case: &Case<'_>) -> anyhow::Result<()> {
        let source = text(&case.source.layers()[1]["digest"]);
        let shown = &case.converted.layers()[1];
        let kept = text(&shown["digest"]) == source;
        let reason = self.reasons.get(&source).map(String::as_str);
        // The layer below always has a twin, so the image is always a converted one.
        anyhow::ensure!(case.converted.digest != case.source.digest, "the image was not converted");
        let served = self.proxy.request("GET", &format!("/v2/{REPOSITORY}/blobs/{source}"), &[])?;
        anyhow::ensure!(served.status == 200 && served.body == case.row.blob, "the source is not served as it is");
        let expected = self.applied(self.registry.at(), &case.source);
        match case.row.outcome {
            Outcome::Stays(label) => {
                anyhow::ensure!(kept && reason == Some(label), "kept: {kept}, reason: {reason:?}");
                return Ok(());
            }
            Outcome::RefusedTwin => {
                anyhow::ensure!(expected.is_err(), "containerd accepts it");
                anyhow::ensure!(!kept && reason.is_none(), "kept: {kept}, reason: {reason:?}");
                return self.entries(&case.converted, 1).map(|_| ());
            }
            Outcome::Twin => anyhow::ensure!(!kept && reason.is_none(), "kept: {kept}, reason: {reason:?}"),
            Outcome::NotShown => anyhow::ensure!(kept && reason.is_none(), "kept: {kept}, reason: {reason:?}"),
        }
        let expected = expected?;
        if case.row.outcome == Outcome::NotShown {
            return Ok(());
        }
        let layers = [self.base_entries(&case.converted)?, self.entries(&case.converted, 1)?];
        let implied = implied(&layers[1]);
        let expected = comparable(expected, &implied);
        let unpacked = comparable(self.applied(self.proxy.at(), &case.converted)?, &implied);
        same("an ordinary unpack of the twin", &expected, &unpacked)?;
        same("the tree of the TOC", &expected, &comparable(toc_tree::of_layers(&layers), &implied))
    }

    /// The tree that containerd makes of an image.
    fn applied(&self, at: std::net::SocketAddrV4, image: &Image) -> anyhow::Result<Tree> {
        self.applier.tree(&format!("{at}/{REPOSITORY}@{}", image.digest), &image.diff_ids())
    }

    /// The names of the layer below, which is the same in every image.
    fn base_entries(&self, image: &Image) -> anyhow::Result<Vec<Value>> {
        if let Some(entries) = self.base_entries.get() {
            return Ok(entries.clone());
        }
        let entries = self.entries(image, 0)?;
        Ok(self.base_entries.get_or_init(|| entries).clone())
    }

    /// The names that the reference reader finds in a layer.
    fn entries(&self, image: &Image, layer: usize) -> anyhow::Result<Vec<Value>> {
        let layer = &image.layers()[layer];
        // Rows may have one twin, and are looked at side by side.
        let folder = self.scratch.folder(&self.folders.fetch_add(1, Ordering::Relaxed).to_string())?;
        let blob = converted::blob(&self.proxy, REPOSITORY, &text(&layer["digest"]), &folder);
        reference::open(&blob, &text(&layer["annotations"][TOC_DIGEST]))
    }
}

/// Returns the directories that the reference reader made up: those without a time. An unpack leaves its own time on them.
fn implied(entries: &[Value]) -> BTreeSet<PathBuf> {
    let dirs = entries.iter().filter(|entry| entry["type"] == "dir" && entry["modtime"] == "");
    dirs.map(|entry| PathBuf::from(text(&entry["name"]))).collect()
}

/// Leaves out what eStargz adds, the root (containerd leaves its attributes as they are, other clients set them), and the times of
/// directories that no entry sets.
fn comparable(tree: Tree, implied: &BTreeSet<PathBuf>) -> Tree {
    let mut tree = tree.without_estargz();
    tree.entries.remove(Path::new(""));
    for path in implied {
        if let Some(entry) = tree.entries.get_mut(Path::new(path)) {
            entry.modified = (0, 0);
        }
    }
    tree
}

fn same(what: &str, expected: &Tree, found: &Tree) -> anyhow::Result<()> {
    let differences = expected.differences(found);
    anyhow::ensure!(differences.is_empty(), "{what} differs:\n  {}", differences.join("\n  "));
    Ok(())
}
