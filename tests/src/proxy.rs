//! The program under test: `firstlight serve`.

use std::fmt::Write;
use std::net::SocketAddrV4;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::front::{Front, Replica};
use crate::{Node, Proc, Scratch, node, postgres, run, web};

/// The variable that names the catalog.
const CATALOG_URL: &str = "FIRSTLIGHT_CATALOG_URL";

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
    /// Whether it is a worker.
    pub is_worker: bool,
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
            is_worker: false,
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

    /// Sets the catalog's URL, in place of an SQLite file beside the store.
    pub fn catalog(self, url: &str) -> Self {
        self.env(CATALOG_URL, url)
    }

    /// Makes it a worker, which serves no client.
    pub fn worker(self) -> Self {
        Self { is_worker: true, ..self }
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes a variable of the environment back that was set.
    pub fn without(mut self, name: &str) -> Self {
        self.env.retain(|(set, _)| set != name);
        self
    }

    /// Returns the catalog's URL, if it was set.
    fn catalog_url(&self) -> Option<&str> {
        let set = self.env.iter().rfind(|(name, _)| name == CATALOG_URL);
        set.map(|(_, url)| url.as_str())
    }
}

/// A running proxy with its own store and free ports.
#[derive(Debug)]
pub struct Proxy {
    front: Front,
    proc: Proc,
    options: ProxyOptions,
    scratch: Scratch,
}

impl Deref for Proxy {
    type Target = Front;

    fn deref(&self) -> &Front {
        &self.front
    }
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
        let replica = Replica {
            at,
            mirror_at: node::free_address(node),
            admin_at: node::free_address(node),
            store: scratch.folder("data")?,
            log: scratch.join("firstlight.log"),
            is_away: Arc::default(),
        };
        let front = Front { node: node.clone(), at, mirror_at: replica.mirror_at, replicas: vec![replica] };
        scratch.write("firstlight.toml", &config(&options))?;
        let proc = launch(&front, &scratch, &options)?;
        Ok(Self { front, proc, options, scratch })
    }

    /// Returns the address of health and metrics.
    pub fn admin_at(&self) -> SocketAddrV4 {
        self.front.replicas[0].admin_at
    }

    /// Returns the most memory it has had resident, in bytes.
    ///
    /// # Errors
    /// It is gone.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.proc.pid()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        Ok(peak.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    }

    /// Returns the folder of its store and spool.
    pub fn store(&self) -> PathBuf {
        self.front.replicas[0].store.clone()
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

    /// Stops it where it is (SIGSTOP), as a machine that hangs; [`Proxy::thaw`] lets it go on.
    ///
    /// # Errors
    /// It was not running.
    pub fn freeze(&self) -> Result<()> {
        self.proc.signal(Signal::STOP)
    }

    /// Lets it go on after [`Proxy::freeze`].
    ///
    /// # Errors
    /// It is gone.
    pub fn thaw(&self) -> Result<()> {
        self.proc.signal(Signal::CONT)
    }

    /// Starts it again on the same store and ports after [`Proxy::kill`].
    ///
    /// # Errors
    /// It is not ready after a minute.
    pub fn start_again(&mut self) -> Result<()> {
        self.proc.stop()?;
        self.proc = launch(&self.front, &self.scratch, &self.options)?;
        Ok(())
    }

    /// Runs another command of the program with the proxy's configuration and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error carries both its outputs.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with(&[], arguments)
    }

    /// Runs another command of the program with more variables in its environment.
    ///
    /// # Errors
    /// As for [`Proxy::run`].
    pub fn run_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Result<String> {
        let mut command = command(&self.front, &self.scratch, &self.options)?;
        run(command.envs(variables.iter().copied()).args(arguments))
    }

    /// Runs SQL on the catalog, whether the proxy runs or not, and returns the rows, their columns separated by `|`.
    ///
    /// # Errors
    /// The statement is wrong, or the catalog was locked for five seconds.
    pub fn sql(&self, statement: &str) -> Result<String> {
        if let Some(url) = self.options.catalog_url() {
            return postgres::sql(url, statement);
        }
        let mut command = Command::new("sqlite3");
        command.args(["-bail", "-cmd", ".timeout 5000"]).arg(self.store().join("catalog.db"));
        run(command.arg(statement))
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
    built("firstlight")
}

/// Returns a program of that build by its name.
///
/// # Errors
/// It is not built.
pub fn built(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().context("the test has no folder")?;
    // Tests lie in a folder below the programs.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let program = folder.join(name);
    ensure!(program.try_exists()?, "{} is missing: build it first (`make test` does)", program.display());
    Ok(program)
}

fn launch(front: &Front, scratch: &Scratch, options: &ProxyOptions) -> Result<Proc> {
    let replica = &front.replicas[0];
    let mut command = command(front, scratch, options)?;
    command.arg(if options.is_worker { "worker" } else { "serve" });
    let mut proc = Proc::start(&command, &replica.log)?;
    proc.ready(|| {
        let answer = web::request(&front.node, replica.admin_at, "GET", "/readyz", &[]);
        answer.is_ok_and(|answer| answer.status.is_success())
    })?;
    Ok(proc)
}

/// Returns the program with a proxy's configuration.
fn command(front: &Front, scratch: &Scratch, options: &ProxyOptions) -> Result<Command> {
    let (program, replica) = (program()?, &front.replicas[0]);
    let mut command = front.node.command(&program.display().to_string());
    command
        .env("FIRSTLIGHT_CONFIG", scratch.join("firstlight.toml"))
        .env("FIRSTLIGHT_SERVER_LISTEN", replica.at.to_string())
        .env("FIRSTLIGHT_SERVER_MIRROR_LISTEN", replica.mirror_at.to_string())
        .env("FIRSTLIGHT_SERVER_ADMIN_LISTEN", replica.admin_at.to_string())
        .env("FIRSTLIGHT_STORAGE_PATH", &replica.store)
        .env(CATALOG_URL, format!("sqlite:{}", replica.store.join("catalog.db").display()))
        .envs(options.env.iter().cloned())
        .current_dir(scratch.path());
    if let Some((certificate, key)) = &options.tls {
        command.env("FIRSTLIGHT_SERVER_TLS_CERT", certificate).env("FIRSTLIGHT_SERVER_TLS_KEY", key);
    }
    Ok(command)
}
