//! The database is lost, and comes back from what the store holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{Node, Postgres, Proxy, ProxyOptions, Registry, RegistryOptions, Relay, Seaweed, wait, web};
use serde_json::Value;

use crate::backing::Backing;
use crate::layer::{noise, tar};
use crate::push::{self, Blob, GZIP, Image};

const LIMIT: Duration = Duration::from_secs(120);
const FOREIGN: &str = "other.example/team/x";

/// Two upstreams with images in them, and a proxy of both.
struct World {
    registry: Registry,
    relay: Relay,
    other: Relay,
    _other_registry: Registry,
    proxy: Proxy,
    images: BTreeMap<&'static str, Image>,
}

/// What a request is answered: the status; of a success the digest, the view and the digest of the body, of a refusal
/// its code.
type Answers = BTreeMap<String, (u16, Vec<String>)>;

impl World {
    /// Starts everything; `options` makes the proxy's from the relay of its default upstream and more configuration.
    fn start(options: impl FnOnce(&Relay, &str) -> ProxyOptions) -> Self {
        let empty = || {
            let options = RegistryOptions { empty: true, ..RegistryOptions::default() };
            Registry::start_with(&Node::Machine, &options).unwrap()
        };
        let (registry, other_registry) = (empty(), empty());
        let layer = |seed| Blob::gzip(&tar(seed, 20, 20_000));
        // The second cannot be converted.
        let broken = Blob::new(GZIP, noise(9, 100_000));
        let images = BTreeMap::from([
            ("team/a", push::image(&registry, "team/a", "latest", vec![layer(100), broken, layer(200)])),
            ("team/b", push::image(&registry, "team/b", "latest", vec![layer(100), layer(300)])),
            ("team/c", push::image(&registry, "team/c", "latest", vec![layer(400)])),
            (FOREIGN, push::image(&other_registry, "team/x", "latest", vec![layer(500)])),
        ]);
        let (relay, other) = (Relay::start(registry.at()).unwrap(), Relay::start(other_registry.at()).unwrap());
        let upstream = format!(
            "[[upstream]]\nname = \"other.example\"\nplain_http = true\nvisibility = \"public\"\nview = \"estargz\"\n\
             url = \"http://{}\"\n",
            other.at()
        );
        let proxy = Proxy::start(&Node::Machine, options(&relay, &upstream)).unwrap();
        Self { registry, relay, other, _other_registry: other_registry, proxy, images }
    }

    /// Starts everything on a folder, pulls all images, and stops the proxy.
    fn pulled() -> Self {
        let mut world = Self::start(|relay, more| {
            ProxyOptions::new(relay.at()).view("estargz").config(&format!("[convert]\nwait = \"120s\"\n{more}"))
        });
        world.pull();
        world.wait_idle();
        world.stop();
        world
    }

    fn get(&self, method: &str, path: &str, view: &str) -> web::Answer {
        let headers = [("accept", web::MANIFEST_TYPES), ("firstlight-view", view)];
        self.proxy.request(method, path, &headers).unwrap()
    }

    /// Pulls every image in both views and returns the paths that a client may have asked for.
    fn pull(&self) -> Vec<(String, &'static str)> {
        let mut paths = Vec::new();
        for (repository, image) in &self.images {
            let latest = format!("/v2/{repository}/manifests/latest");
            let converted = self.get("GET", &latest, "estargz");
            assert_eq!(converted.header("firstlight-view").as_deref(), Some("estargz"), "{}", self.proxy.log());
            let converted = converted.header("docker-content-digest").unwrap();
            assert_ne!(converted, image.digest);
            paths.extend([(latest.clone(), "estargz"), (latest, "original")]);
            for manifest in [&image.digest, &converted] {
                let path = format!("/v2/{repository}/manifests/{manifest}");
                let document = self.get("GET", &path, "original").json().unwrap();
                let parts = document["layers"].as_array().unwrap().iter().chain([&document["config"]]);
                for part in parts {
                    let path = format!("/v2/{repository}/blobs/{}", part["digest"].as_str().unwrap());
                    let answer = self.get("GET", &path, "original");
                    assert_eq!(e2e::digest(&answer.body), part["digest"].as_str().unwrap(), "{path}");
                    paths.push((path, "original"));
                }
                paths.push((path, "original"));
            }
        }
        // A layer that stays as it is belongs to both views.
        paths.sort();
        paths.dedup();
        paths
    }

    /// Paths that are refused: a blob of another repository, and one of another upstream; what is nowhere.
    fn refused(&self) -> Vec<(String, &'static str)> {
        let blob = |repository: &str, digest: &str| (format!("/v2/{repository}/blobs/{digest}"), "original");
        let foreign = &self.images[FOREIGN];
        vec![
            blob("team/a", &self.images["team/b"].layers[1].digest),
            blob("team/a", &foreign.layers[0].digest),
            blob("team/a", &e2e::digest(b"nowhere")),
            (format!("/v2/team/a/manifests/{}", foreign.digest), "original"),
            ("/v2/team/a/manifests/absent".to_owned(), "original"),
        ]
    }

    fn check_refused(&self, paths: &[(String, &'static str)]) {
        for (path, view) in paths {
            for method in ["GET", "HEAD"] {
                assert_eq!(self.get(method, path, view).status, 404, "{method} {path}");
            }
        }
    }

    fn answers(&self, paths: &[(String, &'static str)]) -> Answers {
        let mut answers = Answers::new();
        for (path, view) in paths {
            for method in ["GET", "HEAD"] {
                let answer = self.get(method, path, view);
                let mut says = vec![answer.header("docker-content-digest").unwrap_or_default()];
                if answer.status.is_success() {
                    says.push(answer.header("firstlight-view").unwrap_or_default());
                    says.push(e2e::digest(&answer.body));
                } else if method == "GET" {
                    says.push(answer.json().unwrap()["errors"][0]["code"].to_string());
                }
                answers.insert(format!("{method} {path} ({view})"), (answer.status.as_u16(), says));
            }
        }
        answers
    }

    /// Takes the upstreams away, and starts the proxy again: it must not remember what they said.
    fn cut_off(&mut self) {
        self.relay.stop();
        self.other.stop();
        self.proxy.restart().unwrap();
    }

    fn connect(&mut self) {
        self.relay.resume().unwrap();
        self.other.resume().unwrap();
    }

    fn wait_idle(&self) {
        let metrics = ["firstlight_fills_running", "firstlight_conversions_running"];
        let running = || metrics.iter().map(|name| self.proxy.metric(name)).sum::<anyhow::Result<f64>>();
        wait::until("end of the work", LIMIT, || Ok((running()? == 0.0).then_some(()))).unwrap();
    }

    fn stop(&mut self) {
        assert!(self.proxy.proc().stop().unwrap(), "the proxy had to be killed\n{}", self.proxy.log());
    }

    fn rebuild(&self) -> anyhow::Result<Value> {
        let printed = self.proxy.run(&["--output", "json", "catalog", "rebuild"])?;
        Ok(serde_json::from_str(&printed)?)
    }
}

/// Says which answers are not the same.
fn assert_same(before: &Answers, after: &Answers, log: &str) {
    let changed: Vec<_> = before.iter().filter(|(path, answer)| after.get(*path) != Some(answer)).collect();
    let now: Vec<_> = changed.iter().map(|(path, _)| &after[*path]).collect();
    assert!(changed.is_empty(), "before: {changed:#?}\nafter: {now:#?}\n{log}");
}

/// On PostgreSQL and S3: every earlier request gives the same answer, without upstream.
#[test]
fn a_dropped_database_comes_back_from_the_bucket() {
    let (postgres, seaweed) = (Postgres::shared().unwrap(), Seaweed::shared().unwrap());
    let backing = Backing::new(&postgres, seaweed);
    let mut world = World::start(|relay, more| {
        let options = backing.options(relay, "16MiB");
        let config = format!("{}{more}", options.config);
        options.config(&config)
    });
    let (paths, refused) = (world.pull(), world.refused());
    world.check_refused(&refused);
    world.wait_idle();
    let pins = backing.run(&[], &["pin", "add", "team/a:latest"]);
    assert_eq!(pins.trim(), "pinned docker.io/team/a:latest");
    for change in ["add", "remove"] {
        backing.run(&[], &["pin", change, "team/b:latest"]);
    }
    let pins = backing.run(&[], &["pin", "list"]);
    world.cut_off();
    let all = [paths.clone(), refused.clone()].concat();
    let before = world.answers(&all);
    let right = before.values().filter(|(status, _)| *status == 200).count();
    assert_eq!(right, 2 * paths.len(), "{before:#?}");
    assert!(paths.len() > 30, "{paths:#?}");

    world.stop();
    backing.lose_catalog(&postgres);
    let error = world.rebuild().unwrap_err();
    assert!(format!("{error:#}").contains("run `firstlight migrate`"), "{error:#}");
    backing.migrate();
    let report = world.rebuild().unwrap();
    assert_eq!(report["left_out_count"], 0, "{report:#}");
    // Four images; the layer that two of them share is one twin, and the broken one none.
    for (what, count) in [("tags", 4), ("manifests", 8), ("converted", 4), ("twins", 5), ("lost_twins", 0)] {
        assert_eq!(report[what], count, "{what}: {report:#}");
    }
    assert_eq!((&report["unconvertible"], &report["pins"]), (&1.into(), &1.into()), "{report:#}");
    assert_eq!(backing.run(&[], &["pin", "list"]), pins);
    let error = world.rebuild().unwrap_err();
    assert!(format!("{error:#}").contains("is not empty"), "{error:#}");
    // Rows of an older backup: they name keys that are not in the bucket.
    backing.sql("UPDATE blobs SET store_key = regexp_replace(store_key, '[0-9a-f]{16}$', '0123456789abcdef')");
    let merged = world.proxy.run(&["catalog", "rebuild", "--merge"]).unwrap();
    assert!(merged.contains("lost twins     0\n") && merged.contains("left out       0\n"), "{merged}");
    let old = backing.sql("SELECT count(*) FROM blobs WHERE store_key = '' OR store_key LIKE '%.0123456789abcdef'");
    assert_eq!(old.trim(), "0");
    // What is there already stays as it is.
    let merged = world.proxy.run(&["catalog", "rebuild", "--merge"]).unwrap();
    assert!(merged.contains("converted      4\n") && merged.contains("left out       0\n"), "{merged}");
    world.proxy.start_again().unwrap();
    assert_same(&before, &world.answers(&all), &world.proxy.log());

    world.connect();
    wait::until("the upstream to be asked again", LIMIT, || {
        Ok((world.get("GET", &refused[4].0, "original").status == 404).then_some(()))
    })
    .unwrap();
    world.check_refused(&refused);
}

/// In a folder, first by a version that wrote no meta objects; then with damaged bytes, a planted blob, and a rebuild that
/// is broken off.
#[test]
fn a_removed_database_comes_back_from_the_folder() {
    let mut world = World::start(|relay, more| {
        let config = format!("[cache]\ntag_ttl = \"1h\"\n[convert]\nwait = \"120s\"\n{more}");
        ProxyOptions::new(relay.at()).view("estargz").config(&config)
    });
    let mut paths = world.pull();
    world.wait_idle();
    world.stop();
    let store = world.proxy.store();
    // As an earlier version left it.
    fs::remove_dir_all(store.join("meta")).unwrap();
    world.proxy.sql("DELETE FROM marks; DELETE FROM tie; UPDATE converted SET noted = 0").unwrap();
    world.proxy.start_again().unwrap();
    // The first start said it too, of nothing.
    let caught_up = || Ok((world.proxy.log().matches("a meta object for everything").count() == 2).then_some(()));
    wait::until("the meta objects", LIMIT, caught_up).unwrap();

    // Of the last image a layer is damaged, of another its twin; neither may be served from then on.
    let c = world.images["team/c"].clone();
    let twin = twin_of(&world, "team/b", 1);
    paths.retain(|(path, _)| !path.contains(&twin) && !path.contains("team/c"));
    world.cut_off();
    let before = world.answers(&paths);
    world.stop();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(store.join(format!("catalog.db{suffix}")));
    }
    damage(&file_of(&store, &c.layers[0].digest));
    damage(&file_of(&store, &twin));
    let planted = plant(&store, &noise(77, 5000));
    let link = fs::read_dir(store.join("meta/links")).unwrap().next().unwrap().unwrap().path();
    fs::write(link.join("not a key"), "x").unwrap();

    let later = store.join("meta/tags/ab").join("ab".repeat(32));
    fs::create_dir_all(later.parent().unwrap()).unwrap();
    fs::write(&later, "{\"v\":2}").unwrap();
    let error = format!("{:#}", world.rebuild().unwrap_err());
    assert!(error.contains("is of version 2") && error.contains("run it again"), "{error}");
    let error = format!("{:#}", world.proxy.start_again().unwrap_err());
    assert!(error.contains("run `firstlight catalog rebuild` again"), "{error}");
    fs::write(&later, "{\"v\":1").unwrap();
    let report = world.rebuild().unwrap();
    let left_out = report["left_out"].as_array().unwrap();
    for name in [&c.layers[0].digest[7..], &twin[7..], "meta/tags/ab"] {
        assert!(left_out.iter().any(|left| left["key"].as_str().unwrap().contains(name)), "{name}: {report:#}");
    }
    assert_eq!((report["left_out_count"].as_u64(), report["lost_twins"].as_u64()), (Some(3), Some(1)), "{report:#}");
    for (what, count) in [("tags", 4), ("manifests", 8), ("converted", 4), ("twins", 4), ("unconvertible", 1)] {
        assert_eq!(report[what], count, "{what}: {report:#}");
    }

    world.proxy.start_again().unwrap();
    assert_same(&before, &world.answers(&paths), &world.proxy.log());
    let damaged = format!("/v2/team/c/blobs/{}", c.layers[0].digest);
    assert!(world.get("GET", &damaged, "original").status.is_server_error());
    world.connect();
    let planted = format!("/v2/team/a/blobs/{planted}");
    let is_refused = || Ok((world.get("GET", &planted, "original").status == 404).then_some(()));
    wait::until("the refusal of the planted blob", LIMIT, is_refused).unwrap();
    let mut refused = world.refused();
    refused.push((planted, "original"));
    world.check_refused(&refused);
    for path in [damaged, format!("/v2/team/b/blobs/{twin}")] {
        let digest = path.rsplit('/').next().unwrap();
        let is_right = || Ok((e2e::digest(&world.get("GET", &path, "original").body) == digest).then_some(()));
        wait::until("the right bytes", LIMIT, is_right).unwrap();
    }
    assert_eq!(world.registry.digest("team/c", "latest").unwrap(), c.digest);
}

/// A process that died between the row of a converted form and its meta object: the form is answered when the object is there.
#[test]
fn a_form_without_its_meta_object_is_not_answered() {
    let mut world = World::pulled();
    let forms = world.proxy.store().join("meta/converted");
    fs::remove_dir_all(&forms).unwrap();
    world.proxy.sql("UPDATE converted SET noted = 0").unwrap();
    world.proxy.start_again().unwrap();
    // Now none can be written.
    fs::remove_dir(&forms).unwrap();
    fs::write(&forms, "").unwrap();
    let view = |repository: &str| {
        let answer = world.get("GET", &format!("/v2/{repository}/manifests/latest"), "estargz");
        (answer.status.as_u16(), answer.header("firstlight-view").unwrap())
    };
    assert_eq!(view("team/b"), (200, "original".to_owned()));
    fs::remove_file(&forms).unwrap();
    fs::create_dir(&forms).unwrap();
    assert_eq!(view("team/c"), (200, "estargz".to_owned()));
    // What was begun for the other image may end as well by now, so only this one is looked at.
    let source = &world.images["team/c"].digest;
    assert_eq!(world.proxy.sql(&format!("SELECT noted FROM converted WHERE source = '{source}'")).unwrap(), "1");
    let mut texts = objects(&forms).into_iter().map(|object| fs::read_to_string(object).unwrap());
    assert!(texts.any(|text| text.contains(source)), "no object of {source}");
}

/// The database was set back to before an image was converted: what its tag showed then is not replaced by anything else.
#[test]
fn a_form_that_was_answered_is_not_replaced() {
    let mut world = World::pulled();
    let source = &world.images["team/c"].digest;
    let now = world.proxy.sql(&format!("SELECT manifest FROM converted WHERE source = '{source}'")).unwrap();
    let object = objects(&world.proxy.store().join("meta/converted")).into_iter().find(|path| {
        let text = fs::read_to_string(path).unwrap();
        text.contains(source) && text.contains(&now)
    });
    let object = object.unwrap();
    // As if the earlier form had other bytes.
    let before = fs::read_to_string(&object).unwrap().replace(&now, &e2e::digest(b"before"));
    fs::write(&object, &before).unwrap();
    world.proxy.sql(&format!("DELETE FROM converted WHERE source = '{source}'")).unwrap();
    world.proxy.start_again().unwrap();
    let answer = world.get("GET", "/v2/team/c/manifests/latest", "estargz");
    assert_eq!(answer.header("firstlight-view").as_deref(), Some("original"));
    wait::until("the refusal", LIMIT, || Ok(world.proxy.log().contains("comes out as another one").then_some(())))
        .unwrap();
    assert_eq!(fs::read_to_string(&object).unwrap(), before);
    assert_eq!(world.proxy.sql(&format!("SELECT count(*) FROM converted WHERE source = '{source}'")).unwrap(), "0");
}

/// Returns the files of a kind of meta objects.
fn objects(kind: &Path) -> Vec<PathBuf> {
    let shards = fs::read_dir(kind).unwrap().map(|shard| shard.unwrap().path());
    shards.flat_map(|shard| fs::read_dir(shard).unwrap().map(|file| file.unwrap().path())).collect()
}

/// Returns the digest of a layer of an image's converted form.
fn twin_of(world: &World, repository: &str, layer: usize) -> String {
    let manifest = world.get("GET", &format!("/v2/{repository}/manifests/latest"), "estargz").json().unwrap();
    manifest["layers"][layer]["digest"].as_str().unwrap().to_owned()
}

/// Returns the file that holds the bytes of a digest.
fn file_of(store: &Path, digest: &str) -> PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    let folder = store.join("blobs/sha256").join(&hex[..2]);
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(hex));
    files.next().unwrap()
}

/// Changes a byte of a file.
fn damage(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// Puts right bytes into the store, which no repository is linked to, and returns their digest.
fn plant(store: &Path, bytes: &[u8]) -> String {
    let digest = e2e::digest(bytes);
    let hex = &digest[7..];
    let folder = store.join("blobs/sha256").join(&hex[..2]);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{hex}.00000000000000ab")), bytes).unwrap();
    digest
}
