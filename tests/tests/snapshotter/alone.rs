//! Images whose own layers are eStargz, mounted from their registry, with no proxy.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use e2e::{
    Containerd, Fault, Node, Registry, RegistryOptions, Relay, Rule, Scratch, Snapshotter, Tree, TreeKind as Kind,
    drop_caches, is_root, noise, run, skip, wait, web,
};
use flate2::{Compression, GzBuilder};
use serde_json::json;

use crate::altered::{self, gunzip, with_other_toc};
use crate::bench::Bench;
use crate::compressed::gzip;
use crate::lazy::{BULKY, World, push_bulky};
use crate::push::{self, GZIP, Layer, MANIFEST};
use crate::tar::Tar;
use crate::trees::{Moment, ORDINARY, top_of};

const REPOSITORY: &str = "team/own";
const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Whoever may push is trusted until a layer is proven.
pub(crate) const TRUST_ALL: &str = "[[registry]]\nhost = '*'\ntrusted = ['*']\n";

/// Pulls an image, has the reference converter make eStargz of it, and pushes that under the tag `own`.
fn convert(containerd: &Containerd, registry: &Registry, repository: &str, login: Option<&str>) -> String {
    convert_with(containerd, registry, repository, login, &[])
}

fn convert_with(
    containerd: &Containerd,
    registry: &Registry,
    repository: &str,
    login: Option<&str>,
    more: &[&str],
) -> String {
    let [plain, own] = ["latest", "own"].map(|tag| format!("{}/{repository}:{tag}", registry.at()));
    let user = || login.map(|login| ["--user", login]).into_iter().flatten();
    run(containerd.ctr().args(["images", "pull", "--plain-http"]).args(user()).arg(&plain)).unwrap();
    run(containerd.ctr_remote().args(["images", "convert", "--oci", "--estargz"]).args(more).args([&plain, &own]))
        .unwrap();
    run(containerd.ctr().args(["images", "push", "--plain-http"]).args(user()).arg(&own)).unwrap();
    containerd.digest(&own).unwrap()
}

/// An image of the reference converter runs from its registry before it is here, is what an ordinary pull makes of it, and is
/// proven.
#[test]
fn an_estargz_image_is_lazy_without_a_proxy() {
    if !is_root() {
        return skip("an_estargz_image_is_lazy_without_a_proxy", "not root");
    }
    let registry = World::bare();
    push_bulky(&registry);
    let bench = Bench::start_with(&format!("fill_after = '1h'\n{TRUST_ALL}"));
    let digest = convert(&bench.containerd, &registry, BULKY, None);
    let relay = Relay::start(registry.at()).unwrap();
    let reference = format!("{}/{BULKY}@{digest}", relay.at());
    bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    let said = bench.containerd.run_with(Snapshotter::NAME, &reference, &["python3", "-c", "print(6 * 7)"]);
    assert_eq!(said.unwrap(), "42", "{}", bench.snapshotter.log());
    bench.assert_lazy();
    let fetched = relay.bytes("/blobs/");
    let manifest = registry.document(BULKY, &format!("manifests/{digest}")).unwrap();
    let all = manifest["layers"].as_array().unwrap().iter();
    let all: u64 = all.map(|layer| layer["size"].as_u64().unwrap()).sum();
    assert!(fetched * 20 < all, "{fetched} of {all} bytes");
    assert_eq!(bench.containerd.digest(&reference).unwrap(), digest);
}

/// What an image's author says that is read first is fetched before anybody reads it; nothing else is.
#[test]
fn what_is_read_first_comes_early() {
    if !is_root() {
        return skip("what_is_read_first_comes_early", "not root");
    }
    let registry = World::bare();
    push_bulky(&registry);
    let bench = Bench::start_with(&format!("fill_after = '1h'\n{TRUST_ALL}"));
    let scratch = Scratch::new().unwrap();
    let latest = registry.digest(BULKY, "latest").unwrap();
    let layers = registry.document(BULKY, &format!("manifests/{latest}")).unwrap()["layers"].as_array().unwrap().len();
    let first = ["bulk/71", "bulk/17"];
    let line = |path| json!({"path": path, "manifestDigest": latest, "layerIndex": layers - 1}).to_string() + "\n";
    let record = scratch.write("record.json", &first.map(line).concat()).unwrap();
    let record = record.display().to_string();
    let digest = convert_with(&bench.containerd, &registry, BULKY, None, &["--estargz-record-in", &record]);
    let relay = Relay::start(registry.at()).unwrap();
    let reference = format!("{}/{BULKY}@{digest}", relay.at());
    bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    bench.assert_lazy();
    let top = top_of(&bench, Snapshotter::NAME);
    bench.ctr(&["prepare", "reader", &top]).unwrap();
    let root = bench.mount("reader");
    let fetched = || Ok((bench.snapshotter.status()?["reads"]["demand_bytes"].as_u64() >= Some(2 << 20)).then_some(()));
    wait::until("what is read first", std::time::Duration::from_secs(60), fetched).unwrap();
    relay.add(Rule::new("/blobs/", Fault::Status(500, Vec::new())));
    for (path, number) in first.into_iter().zip([71, 17]) {
        assert_eq!(std::fs::read(root.join(path)).unwrap(), noise(number, 1 << 20), "{path}");
    }
    let fetched = relay.bytes("/blobs/");
    assert!(fetched < 10 << 20, "{fetched} bytes");
}

/// Mirrors are asked as containerd's `hosts.toml` says, in its order: one that does not answer, does not have a blob, sends something
/// else or is away is left for the next.
#[test]
fn mirrors_are_asked_as_containerd_does() {
    if !is_root() {
        return skip("mirrors_are_asked_as_containerd_does", "not root");
    }
    let registry = World::bare();
    push_bulky(&registry);
    let scratch = Scratch::new().unwrap();
    let [hosts_dir, own_dir] = ["hosts", "own"].map(|name| scratch.folder(name).unwrap().display().to_string());
    let bench = Bench::start_with(&format!("fill_after = '1h'\nhosts_dir = '/none:{own_dir}'\n{TRUST_ALL}"));
    let digest = convert(&bench.containerd, &registry, BULKY, None);
    let manifest = registry.document(BULKY, &format!("manifests/{digest}")).unwrap();
    let bulk = manifest["layers"].as_array().unwrap().last().unwrap();
    let (blob, size) = (bulk["digest"].as_str().unwrap(), bulk["size"].as_u64().unwrap());
    let mut mirrors = [(); 3].map(|()| Relay::start(registry.at()).unwrap());
    mirrors[0].add(Rule::new(blob, Fault::Status(404, Vec::new())));
    let host = |mirror: &Relay| format!("[host.'http://{0}']\n[host.'http://{0}'.header]\nX-Node = 'n'\n", mirror.at());
    let hosts: String = mirrors.iter().map(host).collect();
    scratch.write("hosts/registry.example/hosts.toml", &hosts).unwrap();
    // For which containerd would wait for ever.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hosts = format!("[host.'http://{}']\n{hosts}", silent.local_addr().unwrap());
    scratch.write("own/registry.example/hosts.toml", &hosts).unwrap();

    // Nobody has that name.
    let reference = format!("registry.example/{BULKY}@{digest}");
    let pull = ["images", "rpull", "--hosts-dir", &hosts_dir, "--snapshotter", Snapshotter::NAME, &reference];
    run(bench.containerd.ctr_remote().args(pull)).unwrap();
    bench.assert_lazy();
    let said = bench.containerd.run_with(Snapshotter::NAME, &reference, &["python3", "-c", "print(6 * 7)"]);
    assert_eq!(said.unwrap(), "42", "{}", bench.snapshotter.log());
    let top = top_of(&bench, Snapshotter::NAME);
    bench.ctr(&["prepare", "reader", &top]).unwrap();
    let root = bench.mount("reader");
    let read = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            assert_eq!(
                std::fs::read(root.join(&format!("bulk/{number}"))).unwrap(),
                noise(number, 1 << 20),
                "{number}"
            );
        }
    };
    read(17..18);
    let ranges = |mirror: &Relay| {
        let ranges = mirror.seen_at("/blobs/").into_iter().filter(|seen| seen.headers.contains_key("range"));
        ranges.filter(|seen| seen.headers.get("x-node").is_some_and(|value| value == "n")).collect::<Vec<_>>()
    };
    assert!(ranges(&mirrors[0]).iter().all(|seen| seen.path.contains("ns=registry.example")));
    assert!(mirrors[0].bytes("/blobs/") > 0 && mirrors[1].bytes(blob) > 1 << 20);
    assert!(ranges(&mirrors[1]).iter().all(|seen| seen.path.contains(blob)) && ranges(&mirrors[2]).is_empty());

    mirrors[1].add(Rule::new(blob, Fault::Corrupt(size / 2)));
    read(48..52);
    assert!(mirrors[2].bytes(blob) > 0, "{}", bench.snapshotter.log());

    mirrors[1].clear();
    mirrors[2].stop();
    read(80..90);
    assert!(!bench.snapshotter.log().contains("a read of a layer failed"), "{}", bench.snapshotter.log());
}

/// What a mirror sends that is not in the image, wherever in the layer that is, or does not send, is fetched of the registry.
#[test]
fn a_mirror_that_lies_is_left_for_its_registry() {
    if !is_root() {
        return skip("a_mirror_that_lies_is_left_for_its_registry", "not root");
    }
    let (world, own) = (World::empty(), World::bare());
    let scratch = Scratch::new().unwrap();
    let hosts_dir = scratch.folder("hosts").unwrap().display().to_string();
    let bench = Bench::start_with(&format!("hosts_dir = '{hosts_dir}'\n"));
    let (liar, name) = (Relay::start(own.at()).unwrap(), "registry.example");
    let hosts = format!("server = 'http://{}'\n[host.'http://{}']\n", own.at(), liar.at());
    scratch.write(&format!("hosts/{name}/hosts.toml"), &hosts).unwrap();
    for (contents, why) in [
        ("lies", "is not what it should be"),
        ("breaks", "is not what its digest says"),
        ("lacks", ""),
        ("footer", ""),
        ("toc", ""),
    ] {
        let blob = estargz(&world, contents, contents.as_bytes());
        let (diff_id, (toc_offset, toc)) = (e2e::digest(&gunzip(&blob)), altered::toc(&blob));
        let fault = match contents {
            "lies" => Fault::Document("application/octet-stream".to_owned(), with_other_head(&blob)),
            // The checksum at the end of the last member before the TOC.
            "breaks" => Fault::Corrupt(toc_offset as u64 - 6),
            "lacks" => Fault::Status(404, Vec::new()),
            // Where it says where the TOC begins.
            "footer" => Fault::Corrupt(blob.len() as u64 - 30),
            _ => Fault::Corrupt(toc_offset as u64 + 30),
        };
        let layer = push::layer(&own, REPOSITORY, GZIP, blob.into(), diff_id.clone());
        liar.add(Rule::new(&layer.digest, fault));
        let image = push_own(&own, &layer, &toc, &layer).replace(&own.at().to_string(), name);
        let pull = ["images", "rpull", "--hosts-dir", &hosts_dir, "--snapshotter", Snapshotter::NAME, &image];
        let pulled = run(bench.containerd.ctr_remote().args(pull));
        let log = bench.snapshotter.log();
        assert!(pulled.is_ok(), "{contents}: {pulled:?}: {log}");
        let tree = bench.tree(Snapshotter::NAME, &diff_id).unwrap();
        let Kind::File(_, digest) = &tree.entries[Path::new("program")].kind else { panic!("{tree:?}") };
        assert_eq!(*digest, e2e::digest(contents.as_bytes()));
        let proven = format!("layer={}", layer.digest);
        let is_proven = |line: &str| line.contains(&proven) && line.contains("proven and mounted");
        assert!(log.contains(why) && log.lines().any(is_proven), "{contents}: {log}");
    }
}

/// An own image in a registry that wants a login, which Docker's configuration has.
struct Guarded {
    _registry: Registry,
    bench: Bench,
    docker: PathBuf,
    reference: String,
    _scratch: Scratch,
}

impl Guarded {
    const LOGIN: &str = "somebody:secret";

    fn start(more: &str) -> Self {
        let (user, password) = Self::LOGIN.split_once(':').unwrap();
        let login = Some((user.to_owned(), password.to_owned()));
        let options = RegistryOptions { empty: true, login, ..RegistryOptions::default() };
        let registry = Registry::start_with(&Node::Machine, &options).unwrap();
        registry.push("tiny", REPOSITORY, "latest").unwrap();
        let scratch = Scratch::new().unwrap();
        let (_, basic) = web::basic(user, password);
        let auth = basic.strip_prefix("Basic ").unwrap();
        let auths = json!({"auths": {registry.at().to_string(): {"auth": auth}}});
        let docker = scratch.write("config.json", &auths.to_string()).unwrap();
        let bench = Bench::start_with(&format!("docker_config = '{}'\n{more}{TRUST_ALL}", docker.display()));
        let digest = convert(&bench.containerd, &registry, REPOSITORY, Some(Self::LOGIN));
        let reference = format!("{}/{REPOSITORY}@{digest}", registry.at());
        Self { _registry: registry, bench, docker, reference, _scratch: scratch }
    }

    fn pull(&self) {
        let pull = ["images", "rpull", "--plain-http", "--user", Self::LOGIN, "--snapshotter", Snapshotter::NAME];
        run(self.bench.containerd.ctr_remote().args(pull).arg(&self.reference)).unwrap();
        self.bench.assert_lazy();
    }

    fn ours(&self) -> Tree {
        self.bench.tree(Snapshotter::NAME, &top_of(&self.bench, Snapshotter::NAME)).unwrap()
    }

    /// Pulls in the ordinary way.
    fn theirs(&self) -> Tree {
        let pull = ["images", "pull", "--plain-http", "--user", Self::LOGIN, "--snapshotter", ORDINARY];
        run(self.bench.containerd.ctr().args(pull).arg(&self.reference)).unwrap();
        self.bench.tree(ORDINARY, &top_of(&self.bench, ORDINARY)).unwrap()
    }
}

/// With the credentials that Docker keeps; all of it comes, is proven and the same as an ordinary pull.
#[test]
fn an_own_image_behind_a_login_is_proven() {
    if !is_root() {
        return skip("an_own_image_behind_a_login_is_proven", "not root");
    }
    let guarded = Guarded::start("");
    let begun = Moment::now();
    guarded.pull();
    let ours = guarded.ours();
    guarded.bench.wait_proven();
    begun.assert_same(&guarded.theirs().without_estargz(), &ours.without_estargz()).unwrap();
}

/// A snapshotter starts and mounts whatever its credentials are, reads wait for them, and those that are new are used.
#[test]
fn credentials_that_are_mended_are_used() {
    if !is_root() {
        return skip("credentials_that_are_mended_are_used", "not root");
    }
    let mut guarded = Guarded::start("fill_after = '1h'\n");
    let begun = Moment::now();
    guarded.pull();
    let right = std::fs::read(&guarded.docker).unwrap();
    std::fs::write(&guarded.docker, "{").unwrap();
    guarded.bench.kill_and_start();
    drop_caches().unwrap();
    let ours = std::thread::scope(|scope| {
        let reader = scope.spawn(|| guarded.ours());
        guarded.bench.wait_log("a read of a layer is tried again");
        std::fs::write(&guarded.docker, &right).unwrap();
        reader.join().unwrap()
    });
    begun.assert_same(&guarded.theirs().without_estargz(), &ours.without_estargz()).unwrap();
    let log = guarded.bench.snapshotter.log();
    assert!(log.contains("config.json") && !log.contains("a read of a layer failed"), "{log}");
}

/// A TOC that tells another story than its tar, as its image's author may have written it, is found out once all bytes are here;
/// and so is a layer that is not the one that the chain commits to.
#[test]
fn a_toc_that_lies_is_found_out() {
    if !is_root() {
        return skip("a_toc_that_lies_is_found_out", "not root");
    }
    let (world, own) = (World::empty(), World::bare());
    // A twin of ours serves as a layer, with its TOC changed.
    let twin = estargz(&world, "lies", b"contents");
    let bench = Bench::start_with(TRUST_ALL);
    let mut toc = json!(null);
    let altered = with_other_toc(&twin, |found| {
        let entries = found["entries"].as_array_mut().unwrap();
        let program = entries.iter_mut().find(|entry| entry["name"] == "./program").unwrap();
        program["mode"] = 0o4755.into();
        toc = found.clone();
    });
    let diff_id = e2e::digest(&gunzip(&altered));
    let layer = push::layer(&own, REPOSITORY, GZIP, altered.into(), diff_id.clone());
    let reference = push_own(&own, &layer, toc.to_string().as_bytes(), &layer);
    bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    bench.assert_lazy();
    let tree = bench.tree(Snapshotter::NAME, &diff_id).unwrap();
    let program = &tree.entries[Path::new("program")];
    assert!(
        matches!(program.kind, Kind::File(..)) && program.mode & 0o7777 == 0o4755,
        "until it is proven it is believed"
    );
    // On something else it is another chain, and another proof.
    let below = Tar::new().dir("./").file("./below", b"below").end();
    let below = push::layer(&own, REPOSITORY, GZIP, gzip(&below).into(), e2e::digest(&below));
    let above = push_own_on(&own, Some(&below), &layer, toc.to_string().as_bytes(), &layer);
    bench.containerd.pull_lazily(Snapshotter::NAME, &above).unwrap();
    let chain = e2e::digest(format!("{} {diff_id}", below.diff_id).as_bytes());
    let mounts = [("one", &diff_id), ("two", &chain)].map(|(key, parent)| {
        bench.ctr(&["prepare", key, parent]).unwrap();
        let mounted = bench.mount(key);
        std::fs::read(mounted.join("program")).map(|_| mounted)
    });
    bench.wait_log("type or mode of /program");
    bench.wait_log("nothing of it is shown any more");
    for mounted in mounts.into_iter().flatten() {
        // Also what the kernel has in its cache.
        let refused = || Ok(std::fs::read(mounted.join("program")).is_err().then_some(()));
        wait::until("the end of what was shown", std::time::Duration::from_secs(60), refused).unwrap();
    }
    assert!(bench.tree(Snapshotter::NAME, &diff_id).is_err() && bench.tree(Snapshotter::NAME, &chain).is_err());

    // A layer under the config of another one.
    let genuine = Layer { diff_id: e2e::digest(b"another tar"), ..layer.clone() };
    let reference = push_own(&own, &layer, toc.to_string().as_bytes(), &genuine);
    bench.containerd.pull_lazily(Snapshotter::NAME, &reference).unwrap();
    bench.wait_log(&format!("uppermost layer of chain {}", genuine.diff_id));
}

/// A layer of a repository that nobody trusts is mounted once it is proven: one that stands where another image's belongs is not even
/// shown for a while.
#[test]
fn an_untrusted_repository_is_proven_first() {
    if !is_root() {
        return skip("an_untrusted_repository_is_proven_first", "not root");
    }
    let (world, own) = (World::empty(), World::bare());
    let bench = Bench::start_with(&format!("[[registry]]\nhost = '{}'\ntrusted = ['library/*']\n", own.at()));
    let push = |contents: &[u8]| {
        let blob = estargz(&world, std::str::from_utf8(contents).unwrap(), contents);
        let (diff_id, (_, toc)) = (e2e::digest(&gunzip(&blob)), altered::toc(&blob));
        (push::layer(&own, REPOSITORY, GZIP, blob.into(), diff_id), toc)
    };
    let ((genuine, genuine_toc), (evil, evil_toc)) = (push(b"genuine"), push(b"evil"));
    let poisoned = push_own(&own, &evil, &evil_toc, &genuine);
    let refused = format!("{:#}", bench.containerd.pull_lazily(Snapshotter::NAME, &poisoned).unwrap_err());
    assert!(refused.contains("diff id"), "{refused}");
    bench.wait_log("reason=\"refused\"");
    let image = push_own(&own, &genuine, &genuine_toc, &genuine);
    bench.containerd.pull_lazily(Snapshotter::NAME, &image).unwrap();
    bench.wait_log("a layer is here, proven and mounted");
    assert!(!bench.snapshotter.log().contains("before it is here"), "{}", bench.snapshotter.log());
    let tree = bench.tree(Snapshotter::NAME, &genuine.diff_id).unwrap();
    let Kind::File(_, digest) = &tree.entries[Path::new("program")].kind else { panic!("{tree:?}") };
    assert_eq!(*digest, e2e::digest(b"genuine"));
}

/// Of two who have a layer one sends other headers: the image that is pulled from it is refused, and the one from the other is not.
#[test]
fn a_source_that_lies_is_left_for_another() {
    if !is_root() {
        return skip("a_source_that_lies_is_left_for_another", "not root");
    }
    let (world, own) = (World::empty(), World::bare());
    let bench = Bench::start_with("fill_after = '1h'\n");
    let blob = estargz(&world, "twice", b"contents");
    let (diff_id, (_, toc)) = (e2e::digest(&gunzip(&blob)), altered::toc(&blob));
    let lie = with_other_head(&blob);
    let layer = push::layer(&own, REPOSITORY, GZIP, blob.into(), diff_id.clone());
    let [liar, honest] = [(); 2].map(|()| Relay::start(own.at()).unwrap());
    liar.add(Rule::new(&layer.digest, Fault::Document("application/octet-stream".to_owned(), lie)));
    let at = |relay: &Relay, image: &str| image.replace(&own.at().to_string(), &relay.at().to_string());

    let image = at(&liar, &push_own(&own, &layer, &toc, &layer));
    assert!(bench.containerd.pull_lazily(Snapshotter::NAME, &image).is_err());
    bench.wait_log("reason=\"refused\"");

    let below = Tar::new().dir("./").file("./below", b"below").end();
    let below = push::layer(&own, REPOSITORY, GZIP, gzip(&below).into(), e2e::digest(&below));
    let image = at(&honest, &push_own_on(&own, Some(&below), &layer, &toc, &layer));
    bench.containerd.pull_lazily(Snapshotter::NAME, &image).unwrap();
    bench.wait_log("a layer is here, proven and mounted");
    let log = bench.snapshotter.log();
    assert!(log.contains("is not what it should be and is fetched again"), "{log}");
    let chain = e2e::digest(format!("{} {diff_id}", below.diff_id).as_bytes());
    let tree = bench.tree(Snapshotter::NAME, &chain).unwrap();
    let Kind::File(_, digest) = &tree.entries[Path::new("program")].kind else { panic!("{tree:?}") };
    assert_eq!(*digest, e2e::digest(b"contents"));
}

/// A read that waits for a server that is away does not keep from coming, in the background, what another one has.
#[test]
fn a_server_that_is_away_holds_up_nobody_else() {
    if !is_root() {
        return skip("a_server_that_is_away_holds_up_nobody_else", "not root");
    }
    let (world, own) = (World::empty(), World::bare());
    let bench = Bench::start_with(&format!("fill_after = '10s'\n{TRUST_ALL}"));
    let [mut away, here] = [(); 2].map(|()| Relay::start(own.at()).unwrap());
    let pull = |relay: &Relay, contents: &str| {
        let blob = estargz(&world, contents, contents.as_bytes());
        let (diff_id, (_, toc)) = (e2e::digest(&gunzip(&blob)), altered::toc(&blob));
        let layer = push::layer(&own, REPOSITORY, GZIP, blob.into(), diff_id.clone());
        let image = push_own(&own, &layer, &toc, &layer).replace(&own.at().to_string(), &relay.at().to_string());
        bench.containerd.pull_lazily(Snapshotter::NAME, &image).unwrap();
        diff_id
    };
    let one = pull(&away, "one");
    away.stop();
    pull(&here, "two");
    bench.ctr(&["prepare", "reader", &one]).unwrap();
    let mounted = bench.mount("reader");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| std::fs::read(mounted.join("program")));
        bench.wait_log("a layer is here and proven");
        assert!(!reader.is_finished(), "{}", bench.snapshotter.log());
        away.resume().unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), b"one", "{}", bench.snapshotter.log());
    });
}

/// Returns an eStargz blob with zeros for the headers before its first file's bytes; all else lies where it lay.
fn with_other_head(blob: &[u8]) -> Vec<u8> {
    let toc: serde_json::Value = serde_json::from_slice(&altered::toc(blob).1).unwrap();
    let offsets = toc["entries"].as_array().unwrap().iter().filter_map(|entry| entry["offset"].as_u64());
    let first = usize::try_from(offsets.filter(|offset| *offset > 0).min().unwrap()).unwrap();
    let zeros = vec![0; gunzip(&blob[..first]).len()];
    let head = |comment: usize| {
        let mut writer = GzBuilder::new().comment("x".repeat(comment)).write(Vec::new(), Compression::best());
        writer.write_all(&zeros).unwrap();
        writer.finish().unwrap()
    };
    let head = head(1 + first - head(1).len());
    [&head, &blob[first..]].concat()
}

/// Returns an eStargz layer with one file, which is a twin of the proxy's.
fn estargz(world: &World, tag: &str, contents: &[u8]) -> Vec<u8> {
    let plain = Tar::new().dir("./").file("./program", contents).end();
    let source = push::layer(&world.registry, REPOSITORY, GZIP, gzip(&plain).into(), e2e::digest(&plain));
    let image = push::image(&world.registry, REPOSITORY, tag, &[source]);
    let headers = [("accept", web::MANIFEST_TYPES), ("firstlight-view", "estargz")];
    let shown = || {
        let answer = world.proxy.request("GET", &format!("/v2/{REPOSITORY}/manifests/{tag}"), &headers)?;
        let is_converted = answer.header("firstlight-source-digest").is_some_and(|source| source == image);
        is_converted.then(|| answer.json()).transpose()
    };
    let shown = e2e::wait::until("the converted form", std::time::Duration::from_secs(300), shown).unwrap();
    let twin = format!("/v2/{REPOSITORY}/blobs/{}", shown["layers"][0]["digest"].as_str().unwrap());
    world.proxy.request("GET", &twin, &[]).unwrap().body.to_vec()
}

/// Pushes an image of a layer with a TOC and the config of another one, and returns its reference.
pub(crate) fn push_own(registry: &Registry, layer: &Layer, toc: &[u8], configured: &Layer) -> String {
    push_own_on(registry, None, layer, toc, configured)
}

/// Pushes one whose layer lies on another one.
fn push_own_on(registry: &Registry, below: Option<&Layer>, layer: &Layer, toc: &[u8], configured: &Layer) -> String {
    let configured: Vec<Layer> = below.into_iter().chain([configured]).cloned().collect();
    let config = push::config(registry, REPOSITORY, &configured);
    let mut descriptor = layer.descriptor();
    descriptor["annotations"] = json!({TOC_DIGEST: e2e::digest(toc)});
    let layers: Vec<_> = below.map(Layer::descriptor).into_iter().chain([descriptor]).collect();
    let document = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let digest = push::manifest(registry, REPOSITORY, "latest", MANIFEST, &document);
    format!("{}/{REPOSITORY}@{digest}", registry.at())
}
