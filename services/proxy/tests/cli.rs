//! The commands `convert`, `inspect`, `explain` and `migrate`, run as a user runs them.

#![expect(clippy::unwrap_used, reason = "these are tests, their helpers too")]

#[path = "cli/image.rs"]
mod image;
#[path = "cli/registry.rs"]
mod registry;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use image::Layout;
use registry::Registry;

/// A folder with a layout in it, and the program run there.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstlight"));
        // No configuration, credentials or proxies of the machine.
        let ours = ["FIRSTLIGHT_", "DOCKER_CONFIG", "HTTP", "http", "ALL_PROXY", "all_proxy"];
        for (name, _) in std::env::vars_os() {
            if ours.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.args(args).current_dir(&self.dir).env("HOME", self.dir.path()).env("TMPDIR", self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that succeeds, and returns its result.
    fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--output", "json"]).collect();
        let output = self.run(&args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Returns every file below `dir` with its bytes.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().display().to_string(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn states(report: &Value) -> Vec<&str> {
    report["layers"].as_array().unwrap().iter().map(|layer| layer["state"].as_str().unwrap()).collect()
}

#[test]
fn any_number_of_workers_writes_the_same_layout() {
    let bench = Bench::new();
    let source = Layout::write(&bench.path("src"));
    let mut made = Vec::new();
    for workers in ["1", "8"] {
        let to = format!("oci:out{workers}:v1");
        let output = bench
            .command(&["convert", "oci:src:app", &to, "--output", "json"])
            .env("FIRSTLIGHT_CONVERT_WORKERS", workers)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        // No terminal: one plain line for each layer.
        assert_eq!(stderr.lines().filter(|line| line.starts_with("sha256:")).count(), 4, "{stderr}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(states(&report), ["converted", "converted", "kept", "unconvertible"], "{report:#}");
        assert_eq!(report["layers"][2]["reason"], "implied_dirs");
        assert_eq!(report["layers"][3]["reason"], "corrupt");
        assert_eq!(report["source_digest"], source.digest);
        made.push((files(&bench.path(&format!("out{workers}"))), report["digest"].clone()));
    }
    assert!(made[0] == made[1], "1 and 8 workers wrote different bytes");
    let (layout, digest) = &made[0];
    assert!(!layout.keys().any(|name| name.contains(".firstlight-")), "{:?}", layout.keys());
    let index: Value = serde_json::from_slice(&layout["index.json"]).unwrap();
    assert_eq!(index["manifests"][0]["digest"], *digest);
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "v1");
    // What is not converted comes along unchanged, and every blob is what its name says.
    assert!(layout.contains_key(&format!("blobs/sha256/{}", source.other_manifest)));
    for (name, bytes) in layout.iter().filter(|(name, _)| name.starts_with("blobs/")) {
        assert_eq!(api::Digest::of(bytes).hex(), name.rsplit('/').next().unwrap());
    }
}

#[test]
fn a_second_image_is_added_and_an_own_twin_is_recognised() {
    let bench = Bench::new();
    Layout::write(&bench.path("src"));
    let first = bench.json(&["convert", "oci:src", "oci:src:lazy"]);
    let names: Value = serde_json::from_slice(&fs::read(bench.path("src/index.json")).unwrap()).unwrap();
    assert_eq!(names["manifests"].as_array().unwrap().len(), 2);
    // Which of the two must be said now.
    let output = bench.run(&["convert", "oci:src", "oci:again"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("app, lazy"), "{output:?}");
    let again = bench.json(&["convert", "oci:src:lazy", "oci:again"]);
    assert_eq!(states(&again), ["own_twin", "own_twin", "kept", "unconvertible"]);
    assert_eq!(again["layers"][0]["source"], first["layers"][0]["twin"]);
}

#[test]
fn inspect_shows_layers_and_files_of_a_layout() {
    let bench = Bench::new();
    Layout::write(&bench.path("src"));
    let made = bench.json(&["convert", "oci:src:app", "oci:src:lazy"]);
    let report = bench.json(&["inspect", "oci:src:lazy", "--toc"]);
    assert_eq!(report["digest"], made["digest"]);
    let image = &report["images"][0];
    assert_eq!((&image["view"], &image["platform"]), (&"estargz".into(), &"linux/amd64".into()));
    let formats: Vec<_> = image["layers"].as_array().unwrap().iter().map(|layer| &layer["format"]).collect();
    assert_eq!(formats, ["estargz", "estargz", "plain", "plain"]);
    assert_eq!(image["layers"][0]["digest"], made["layers"][0]["twin"]);
    // The source image is in the same layout, so sizes can be compared.
    assert_eq!(image["layers"][0]["factor"], made["layers"][0]["factor"]);
    let text = bench.text(&["inspect", "oci:src:lazy", "--toc"]);
    for line in
        ["drwxrwxrwt 0/0      ", "-rwsr-xr-x 1000/100 ", " usr/bin/link -> tool", " usr/bin/hard link to usr/bin/tool"]
    {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    let plain = bench.text(&["inspect", "oci:src:app"]);
    assert!(plain.contains("original view") && !plain.contains("eStargz"), "{plain}");
}

#[test]
fn damaged_input_leaves_no_image() {
    let bench = Bench::new();
    let source = Layout::write(&bench.path("src"));
    let blob = bench.path("src/blobs/sha256").join(&source.layers[0]);
    let mut bytes = fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let output = bench.run(&["convert", "oci:src:app", "oci:out"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains(&source.layers[0]) && stderr.contains("damaged"), "{stderr}");
    assert!(!files(&bench.path("out")).keys().any(|name| name == "index.json" || name.starts_with(".firstlight")));
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let bench = Bench::new();
    // A registry that takes the connection and never answers: by then signals are heard.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let from = format!("docker://{}/a", listener.local_addr().unwrap());
    let mut child = bench.command(&["convert", &from, "oci:out"]).spawn().unwrap();
    let _connection = listener.accept().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(fs::read_dir(bench.path("out")).unwrap().count(), 0);
}

#[test]
fn what_a_killed_conversion_left_is_removed() {
    let bench = Bench::new();
    Layout::write(&bench.path("src"));
    fs::create_dir_all(bench.path("out/.firstlight-0123")).unwrap();
    fs::write(bench.path("out/.firstlight-0123/twin-x"), "x").unwrap();
    fs::create_dir_all(bench.path("out/blobs/sha256")).unwrap();
    bench.json(&["convert", "oci:src", "oci:out"]);
    assert!(!bench.path("out/.firstlight-0123").try_exists().unwrap());
}

#[test]
fn errors_say_what_to_do() {
    let bench = Bench::new();
    fs::write(bench.path("file"), "x").unwrap();
    fs::create_dir(bench.path("full")).unwrap();
    fs::write(bench.path("full/file"), "x").unwrap();
    Layout::write(&bench.path("src"));
    let cases: [(&[&str], &str); 7] = [
        (&["convert", "src", "oci:out"], "use oci:DIR[:TAG] or docker://"),
        (&["convert", "oci:none", "oci:out"], "none is no OCI layout"),
        (&["convert", "oci:src:other", "oci:out"], "no image \"other\"; it has app"),
        (&["convert", "oci:src", "oci:full"], "full is no OCI layout"),
        (&["inspect", "Upper/Case"], "use lower-case letters"),
        (&["explain", "python:a:b"], "invalid"),
        (&["explain", "ghcr.io"], "the name has no repository after the upstream"),
    ];
    for (args, expected) in cases {
        let output = bench.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
        assert!(!bench.path("out/index.json").try_exists().unwrap());
    }
    let output = bench.command(&["explain", "python"]).env("FIRSTLIGHT_CONVERT_LEVEL", "99").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn explain_works_before_anything_is_stored() {
    let bench = Bench::new();
    let report = bench.json(&["explain", "proxy.local:5080/library/python"]);
    assert_eq!(report["name"], "docker.io/library/python:latest");
    assert_eq!(report["upstream"]["chosen_by"], "default upstream");
    assert_eq!(report["views"][0]["view"], "estargz");
    assert!(report["note"].as_str().unwrap().contains("proxy.local:5080"));
    let text = bench.text(&["explain", "ghcr.io/org/app:1"]);
    assert!(text.contains("ghcr.io/org/app:1") && text.contains("nothing is stored at"), "{text}");
    // Looking makes nothing.
    assert_eq!(fs::read_dir(bench.dir.path()).unwrap().count(), 0);
}

#[test]
fn images_go_to_a_registry_and_come_back() {
    let bench = Bench::new();
    Layout::write(&bench.path("src"));
    let registry = Registry::start();
    let at = format!("docker://{}/team/app:v1", registry.address);
    let local = bench.json(&["convert", "oci:src", "oci:out:v1"]);
    let pushed = bench.json(&["convert", "oci:src", &at]);
    assert_eq!(pushed["digest"], local["digest"]);
    assert_eq!(registry.tag("team/app", "v1"), local["digest"].as_str().unwrap());
    let uploads = registry.uploads();
    bench.json(&["convert", "oci:src", &at]);
    assert_eq!(registry.uploads(), uploads, "blobs that were there were sent again");
    // From the registry to a layout: the same twins are their own twins.
    let back = bench.json(&["convert", &at, "oci:back"]);
    assert_eq!(states(&back), ["own_twin", "own_twin", "kept", "unconvertible"]);
    let output = bench.run(&["convert", "oci:src", &format!("{at}@{}", local["digest"].as_str().unwrap())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("name a tag"));
}

/// A running proxy, stopped when dropped.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn the_view_of_the_proxy_is_what_convert_writes() {
    let bench = Bench::new();
    let source = Layout::write(&bench.path("src"));
    let registry = Registry::start();
    registry.load("team/app", "v1", &bench.path("src"), &source.digest);
    let at = format!("docker://{}/team/app:v1", registry.address);
    let local = bench.json(&["convert", &at, "oci:out"]);

    let free = || format!("127.0.0.1:{}", e2e::wait::free_port());
    let (listen, admin) = (free(), free());
    let config = format!(
        "[server]\nlisten = \"{listen}\"\nadmin_listen = \"{admin}\"\n[storage]\nmin_free = \"0\"\n[convert]\nwait = \"60s\"\n\
         [[upstream]]\nname = \"test\"\nurl = \"http://{}\"\nplain_http = true\n",
        registry.address
    );
    fs::write(bench.path("config.toml"), config).unwrap();
    let serving = bench.command(&["--config", "config.toml", "serve"]).spawn().unwrap();
    let _serving = Serving(serving);
    let shown = get_digest(&format!("http://{listen}/v2/team/app/manifests/v1"));
    assert_eq!(shown, local["digest"].as_str().unwrap());

    // While it runs, the other commands read the same folder.
    let report = bench.json(&["--config", "config.toml", "explain", "team/app:v1"]);
    assert_eq!(report["tag"]["digest"], source.digest);
    assert_eq!(report["image"]["estargz"], local["digest"]);
    assert_eq!(report["views"][0]["answer"], local["digest"]);
    let layers = report["image"]["images"][0]["layers"].as_array().unwrap();
    let states: Vec<_> = layers.iter().map(|layer| (layer["state"].as_str().unwrap(), &layer["blob"])).collect();
    let cached = Value::from("cached");
    assert_eq!(states, [("ready", &cached), ("ready", &cached), ("ready", &cached), ("unconvertible", &cached)]);
    assert_eq!(layers[2]["reason"], "implied_dirs");
    assert_eq!(layers[3]["reason"], "corrupt");
    let text = bench.text(&["--config", "config.toml", "inspect", "team/app:v1", "--toc"]);
    assert!(text.contains("-rwsr-xr-x 1000/100 ") && text.contains("linux/amd64"), "{text}");
    let view = bench.json(&["--config", "config.toml", "inspect", &format!("test/team/app@{shown}")]);
    assert_eq!((&view["digest"], &view["asked_for_view"]), (&source.digest.into(), &true.into()));
}

/// Asks until the server is up; then once.
fn get_digest(url: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _ring = rustls::crypto::ring::default_provider().install_default();
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match client.get(url).send().await {
                Ok(answer) => {
                    let header =
                        |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
                    assert_eq!(answer.status(), 200);
                    assert_eq!(header("firstlight-view").as_deref(), Some("estargz"));
                    return header("docker-content-digest").unwrap();
                }
                Err(error) if error.is_connect() && Instant::now() < deadline => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
}

/// `migrate` says what it did; the second time there is nothing to do.
#[test]
fn migrate_says_what_it_did() {
    let bench = Bench::new();
    let done = bench.json(&["migrate"]);
    assert_eq!(done["catalog"], "sqlite:./firstlight-data/catalog.db");
    assert_eq!(done["applied"][0]["version"], 1);
    assert_eq!(done["applied"][0]["name"], "init");
    assert_eq!(bench.text(&["migrate"]), "the schema of sqlite:./firstlight-data/catalog.db is up to date\n");
    let nowhere = "postgres://me:secret@127.0.0.1:1/d";
    let output = bench.command(&["migrate"]).env("FIRSTLIGHT_CATALOG_URL", nowhere).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("postgres://me@127.0.0.1:1/d"), "{told}");
    assert!(told.contains("refused") && !told.contains("secret"), "{told}");
}
