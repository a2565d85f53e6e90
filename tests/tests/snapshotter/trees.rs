//! What a container sees of a lazy image is what containerd's own snapshotter unpacks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use api::Digest;
use e2e::{Snapshotter, Tree, TreeKind as Kind, is_root, skip};

use crate::bench::Bench;
use crate::lazy::World;
use crate::push;
use crate::row::{Outcome, Row, base};
use crate::{compressed, rows};

const REPOSITORY: &str = "odd/layers";
pub(crate) const ORDINARY: &str = "overlayfs";

/// When the layers were unpacked that a test compares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment(i64);

impl Moment {
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Self(since.as_secs().cast_signed())
    }

    /// Compares trees. A folder into which a layer was unpacked, and that is not one of its entries, has that moment's time;
    /// the lazy one has the time that it has below.
    pub(crate) fn assert_same(self, ordinary: &Tree, ours: &Tree) -> Result<()> {
        let is_late = |tree: &Tree, path: &Path| {
            tree.entries.get(path).is_some_and(|entry| entry.kind == Kind::Directory && entry.modified.0 >= self.0)
        };
        let paths: BTreeSet<&PathBuf> = ordinary.entries.keys().chain(ours.entries.keys()).collect();
        let late: Vec<&PathBuf> =
            paths.into_iter().filter(|path| is_late(ordinary, path) || is_late(ours, path)).collect();
        let [ordinary, ours] = [ordinary, ours].map(|tree| {
            let mut tree = tree.clone();
            for path in &late {
                if let Some(entry) = tree.entries.get_mut(*path) {
                    entry.modified = (0, 0);
                }
            }
            tree
        });
        let differences = ordinary.differences(&ours);
        ensure!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
        Ok(())
    }
}

/// Returns the snapshot on which nothing stands: that of the whole image.
pub(crate) fn top_of(bench: &Bench, snapshotter: &str) -> String {
    let listed = bench.ctr_of(snapshotter, &["ls"]).unwrap();
    let rows: Vec<Vec<&str>> = listed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let top = rows.iter().find(|row| !rows.iter().any(|other| other.len() == 3 && other[1] == row[0]));
    top.unwrap()[0].to_owned()
}

#[test]
fn every_image_is_shown_as_it_is_unpacked() {
    if !is_root() {
        return skip("every_image_is_shown_as_it_is_unpacked", "not root");
    }
    let images = [
        ("library/tiny", "latest"),
        ("library/tiny", "zstd"),
        ("library/tiny", "multi"),
        ("library/tiny", "multi-docker"),
        ("library/base", "latest"),
        ("library/python", "latest"),
        ("library/python", "docker"),
    ];
    for (image, tag) in images {
        let world = World::start();
        let (reference, _) = world.pinned_tag(image, tag);
        let (bench, begun) = (&world.bench, Moment::now());
        bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
        let ours = bench.tree(Snapshotter::NAME, &top_of(bench, Snapshotter::NAME)).unwrap();
        world.assert_lazy();
        bench.containerd.pull_with(ORDINARY, &reference).unwrap();
        let theirs = bench.tree(ORDINARY, &top_of(bench, ORDINARY)).unwrap();
        begun.assert_same(&theirs, &ours).with_context(|| format!("{image}:{tag}")).unwrap();
    }
}

#[test]
fn every_odd_layer_is_shown_as_it_is_unpacked() {
    if !is_root() {
        return skip("every_odd_layer_is_shown_as_it_is_unpacked", "not root");
    }
    let world = World::empty();
    let plain = base();
    let blob = compressed::gzip(&plain);
    let below = push::layer(&world.registry, REPOSITORY, push::GZIP, blob.into(), e2e::digest(&plain));
    let rows = rows::all();
    let images: Vec<String> = rows
        .iter()
        .map(|row| {
            let layer = push::layer(&world.registry, REPOSITORY, row.media_type, row.blob.clone(), row.diff_id.clone());
            push::image(&world.registry, REPOSITORY, &row.name, &[below.clone(), layer])
        })
        .collect();
    let cases: Vec<(&Row, &String)> = rows.iter().zip(&images).collect();
    let begun = Moment::now();
    let failed = std::thread::scope(|scope| {
        let part = |part: &[(&Row, &String)]| -> Vec<String> {
            let checked = part.iter().map(|(row, image)| (row, check(&world, begun, row, image, &below.diff_id)));
            checked.filter_map(|(row, checked)| Some(format!("{}: {:#}", row.name, checked.err()?))).collect()
        };
        // Some at a time: unpacking is mostly waiting for processes.
        let parts = cases.chunks(cases.len().div_ceil(4)).map(|cases| scope.spawn(move || part(cases)));
        let parts: Vec<_> = parts.collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(failed.is_empty(), "{} of {} rows:\n{}", failed.len(), rows.len(), failed.join("\n\n"));
    // And all of them are proven, however odd.
    world.wait_proven();
    let log = world.bench.snapshotter.log();
    assert!(!log.contains("panicked") && !log.contains("fetched again"), "{log}");
}

/// Compares what is shown of a row's image with what is unpacked of it; what cannot be unpacked is not pulled.
fn check(world: &World, begun: Moment, row: &Row, image: &str, below: &str) -> Result<()> {
    let (bench, reference) = (&world.bench, format!("{}/{REPOSITORY}@{image}", world.at()));
    let top = Digest::of(format!("{below} {}", row.diff_id).as_bytes()).to_string();
    let ours = bench.containerd.pull_lazily(Snapshotter::NAME, &reference);
    let theirs = bench.containerd.pull_with(ORDINARY, &reference);
    match row.outcome {
        // Nothing says that what is told of such a layer is what it would have been.
        Outcome::RefusedTwin => return Ok(()),
        Outcome::Stays(_) if theirs.is_err() => {
            ensure!(ours.is_err(), "what containerd refuses was pulled");
            return Ok(());
        }
        Outcome::Twin | Outcome::NotShown | Outcome::Stays(_) => {}
    }
    ours.context("a lazy pull").and(theirs.context("an ordinary pull"))?;
    let told = bench.ctr(&["info", &top])?;
    // Some rows are the same tar in another form: what one of them brought is the other's, too.
    let is_lazy = told.contains("remote snapshot") || matches!(row.outcome, Outcome::Stays(_));
    ensure!(is_lazy, "pulled in the ordinary way:\n{}", bench.snapshotter.log());
    let [theirs, ours] = [ORDINARY, Snapshotter::NAME].map(|snapshotter| bench.tree(snapshotter, &top));
    let (theirs, ours) = (theirs?, ours?);
    let shown = Tree::ESTARGZ_FILES.into_iter().find(|file| ours.entries.contains_key(Path::new(file)));
    ensure!(shown.is_none() || !told.contains("remote snapshot"), "{shown:?} is shown");
    begun.assert_same(&theirs.without_estargz(), &ours.without_estargz())
}
