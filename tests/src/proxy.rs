//! The program under test: `firstlight serve`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::web::{self, Answer};
use crate::{Node, Proc, Scratch, node, run, wait};

/// How long the conversion of a test image may take.
const CONVERSION: Duration = Duration::from_secs(300);

/// How a proxy is started.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// Where the upstream `docker.io` really is.
    pub upstream: SocketAddrV4,
    /// The upstream's `view`: `original` or `estargz`.
    pub view: String,
    /// More keys of the `[[upstream]]` table, as TOML lines.
    pub upstream_keys: String,
    /// More TOML after the `[[upstream]]` table: other tables.
    pub config: String,
    /// The port of the main listener; a free one when `None`.
    pub port: Option<u16>,
    /// Certificate and key of the main and the mirror listener.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// More variables of its environment; those of the configuration win over its file.
    pub env: Vec<(String, String)>,
}

impl ProxyOptions {
    /// A proxy of one upstream, in the original view.
    pub fn new(upstream: SocketAddrV4) -> Self {
        Self {
            upstream,
            view: "original".to_owned(),
            upstream_keys: String::new(),
            config: String::new(),
            port: None,
            tls: None,
            env: Vec::new(),
        }
    }

    /// Sets the upstream's view.
    pub fn view(self, view: &str) -> Self {
        Self { view: view.to_owned(), ..self }
    }

    /// Sets more TOML tables.
    pub fn config(self, config: &str) -> Self {
        Self { config: config.to_owned(), ..self }
    }

    /// Sets the catalog's URL, in place of an SQLite file beside the store; then [`Proxy::sql`] does not work.
    pub fn catalog(self, url: &str) -> Self {
        self.env("FIRSTLIGHT_CATALOG_URL", url)
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running proxy with its own store and free ports.
#[derive(Debug)]
pub struct Proxy {
    proc: Proc,
    at: SocketAddrV4,
    mirror_at: SocketAddrV4,
    admin_at: SocketAddrV4,
    options: ProxyOptions,
    node: Node,
    scratch: Scratch,
}

impl Proxy {
    /// Starts a proxy and waits until it says that it is ready.
    ///
    /// # Errors
    /// The program is not built, or the proxy is not ready after a minute; the error carries its log.
    pub fn start(node: &Node, options: ProxyOptions) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mut at = node::free_address(node);
        at.set_port(options.port.unwrap_or(at.port()));
        let (mirror_at, admin_at) = (node::free_address(node), node::free_address(node));
        scratch.write("firstlight.toml", &config(&options))?;
        let proc = launch(node, &scratch, &options, [at, mirror_at, admin_at])?;
        Ok(Self { proc, at, mirror_at, admin_at, options, node: node.clone(), scratch })
    }

    /// Returns the address of the main listener.
    pub fn at(&self) -> SocketAddrV4 {
        self.at
    }

    /// Returns the address of the mirror listener.
    pub fn mirror_at(&self) -> SocketAddrV4 {
        self.mirror_at
    }

    /// Returns the address of health and metrics.
    pub fn admin_at(&self) -> SocketAddrV4 {
        self.admin_at
    }

    /// Returns the folder of its store and spool.
    pub fn store(&self) -> PathBuf {
        self.scratch.join("data")
    }

    /// Returns what it logged so far.
    pub fn log(&self) -> String {
        self.proc.log()
    }

    /// Returns the process.
    pub fn proc(&mut self) -> &mut Proc {
        &mut self.proc
    }

    /// Ends it as an operator does, and starts it again on the same store and ports.
    ///
    /// # Errors
    /// It did not end by itself, or is not ready again.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.proc.stop()?, "the proxy had to be killed:\n{}", self.log());
        self.start_again()
    }

    /// Sends it SIGKILL; [`Proxy::start_again`] brings it back.
    ///
    /// # Errors
    /// It was not running.
    pub fn kill(&self) -> Result<()> {
        self.proc.signal(Signal::KILL)
    }

    /// Starts it again on the same store and ports after [`Proxy::kill`].
    ///
    /// # Errors
    /// It is not ready after a minute.
    pub fn start_again(&mut self) -> Result<()> {
        self.proc.stop()?;
        self.proc = launch(&self.node, &self.scratch, &self.options, [self.at, self.mirror_at, self.admin_at])?;
        Ok(())
    }

    /// Sends a request to the main listener, in plain HTTP.
    ///
    /// # Errors
    /// No whole answer came.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        web::request(&self.node, self.at, method, path, &headers)
    }

    /// Returns the value of each metric; the key is the name with its labels, as printed.
    ///
    /// # Errors
    /// The admin listener did not answer.
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let text = web::request(&self.node, self.admin_at, "GET", "/metrics", &[])?.text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.rsplit_once(' '));
        Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// Returns the sum of a metric over all its labels; 0 when it is not there.
    ///
    /// # Errors
    /// The admin listener did not answer.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let is_it = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        Ok(self.metrics()?.iter().filter(|(key, _)| is_it(key)).map(|(_, value)| value).sum())
    }

    /// Has an image converted and returns the digest that its tag shows then.
    ///
    /// Everything is first asked for by digest, because a tag that was once answered with the original keeps that for a while.
    ///
    /// # Errors
    /// The proxy refused, or the tag does not show the estargz view after `convert.wait`.
    pub fn convert(&self, repository: &str, tag: &str, source: &str) -> Result<String> {
        let headers = [("accept", web::MANIFEST_TYPES), ("firstlight-view", "estargz")];
        let manifest = self.request("GET", &format!("/v2/{repository}/manifests/{source}"), &headers)?.json()?;
        for layer in manifest["layers"].as_array().context("no layers")? {
            let digest = layer["digest"].as_str().context("no digest")?;
            let answer = self.request("GET", &format!("/v2/{repository}/blobs/{digest}"), &[])?;
            ensure!(answer.status.is_success(), "{digest}: {} {}", answer.status, answer.text());
        }
        wait::until("conversion", CONVERSION, || {
            Ok((self.metric("firstlight_conversions_running")? == 0.0).then_some(()))
        })?;
        let answer = self.request("GET", &format!("/v2/{repository}/manifests/{tag}"), &headers)?;
        let view = answer.header("firstlight-view").unwrap_or_default();
        ensure!(view == "estargz", "{} in view {view:?}\n{}\n{}", answer.status, answer.text(), self.log());
        let failed: Vec<_> = self
            .metrics()?
            .into_keys()
            .filter(|key| key.starts_with("firstlight_conversions_total") && !key.contains("ready"))
            .collect();
        ensure!(failed.is_empty(), "{failed:?}\n{}", self.log());
        answer.header("docker-content-digest").context("no digest")
    }

    /// Runs SQL on the catalog, whether the proxy runs or not, and returns the rows, their columns separated by `|`.
    ///
    /// # Errors
    /// The statement is wrong, or the catalog was locked for five seconds.
    pub fn sql(&self, statement: &str) -> Result<String> {
        let mut command = Command::new("sqlite3");
        command.args(["-bail", "-cmd", ".timeout 5000"]).arg(self.store().join("catalog.db"));
        run(command.arg(statement))
    }

    /// Returns the digest and the view of a tag as a HEAD tells them.
    ///
    /// # Errors
    /// The proxy refused.
    pub fn tag(&self, repository: &str, tag: &str) -> Result<(String, String)> {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = self.request("HEAD", &path, &[("accept", web::MANIFEST_TYPES)])?;
        let digest = answer.header("docker-content-digest").with_context(|| format!("{path}: {}", answer.status))?;
        Ok((digest, answer.header("firstlight-view").unwrap_or_default()))
    }
}

fn config(options: &ProxyOptions) -> String {
    let mut text = String::from("[[upstream]]\nname = \"docker.io\"\ndefault = true\nplain_http = true\n");
    let _ = writeln!(text, "url = \"http://{}\"\nview = \"{}\"", options.upstream, options.view);
    if !options.upstream_keys.contains("visibility") {
        text += "visibility = \"public\"\n";
    }
    let _ = writeln!(text, "{}\n{}", options.upstream_keys, options.config);
    text
}

/// Returns the program of the running test's or bench's own build: `target/release/firstlight` for `cargo test --release`.
///
/// # Errors
/// It is not built.
pub fn program() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().context("the test has no folder")?;
    // Tests lie in a folder below the programs.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let program = folder.join("firstlight");
    ensure!(program.try_exists()?, "{} is missing: build it first (`make test` does)", program.display());
    Ok(program)
}

fn launch(node: &Node, scratch: &Scratch, options: &ProxyOptions, at: [SocketAddrV4; 3]) -> Result<Proc> {
    let program = program()?;
    let [main, mirror, admin] = at;
    let data = scratch.folder("data")?;
    let mut command = node.command(&program.display().to_string());
    command
        .arg("serve")
        .env("FIRSTLIGHT_CONFIG", scratch.join("firstlight.toml"))
        .env("FIRSTLIGHT_SERVER_LISTEN", main.to_string())
        .env("FIRSTLIGHT_SERVER_MIRROR_LISTEN", mirror.to_string())
        .env("FIRSTLIGHT_SERVER_ADMIN_LISTEN", admin.to_string())
        .env("FIRSTLIGHT_STORAGE_PATH", &data)
        .env("FIRSTLIGHT_CATALOG_URL", format!("sqlite:{}", data.join("catalog.db").display()))
        .envs(options.env.iter().cloned())
        .current_dir(scratch.path());
    if let Some((certificate, key)) = &options.tls {
        command.env("FIRSTLIGHT_SERVER_TLS_CERT", certificate).env("FIRSTLIGHT_SERVER_TLS_KEY", key);
    }
    let mut proc = Proc::start(&command, &scratch.join("firstlight.log"))?;
    proc.ready(|| web::request(node, admin, "GET", "/readyz", &[]).is_ok_and(|answer| answer.status.is_success()))?;
    Ok(proc)
}
