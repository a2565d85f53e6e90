//! An S3 server: SeaweedFS, with everything it needs in one process.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;

use anyhow::{Context, Result, anyhow, ensure};
use http::StatusCode;
use serde_json::json;

use crate::{Authority, Node, Proc, Scratch, wait, web, workspace};

/// The program; `tests/setup.sh` puts it there and names the same version.
const PROGRAM: &str = "target/seaweedfs/4.48/weed";

/// The ports of one server. All are given: what is not would be a fixed number, shared with whoever else runs one.
#[derive(Clone, Copy, Debug)]
struct Ports {
    master: u16,
    master_grpc: u16,
    volume: u16,
    volume_grpc: u16,
    filer: u16,
    filer_grpc: u16,
    s3: u16,
    s3_grpc: u16,
    metrics: u16,
}

impl Ports {
    fn free() -> Self {
        Self {
            master: wait::free_port(),
            master_grpc: wait::free_port(),
            volume: wait::free_port(),
            volume_grpc: wait::free_port(),
            filer: wait::free_port(),
            filer_grpc: wait::free_port(),
            s3: wait::free_port(),
            s3_grpc: wait::free_port(),
            metrics: wait::free_port(),
        }
    }

    /// Returns the sockets that the server makes in `/tmp` and leaves there; their place cannot be configured.
    fn sockets(&self) -> Vec<PathBuf> {
        let parts = [
            ("master", self.master_grpc),
            ("volume", self.volume_grpc),
            ("filer", self.filer_grpc),
            ("s3", self.s3_grpc),
        ];
        parts.map(|(part, port)| PathBuf::from(format!("/tmp/seaweedfs-{part}-grpc-{port}.sock"))).to_vec()
    }
}

/// A running SeaweedFS on free loopback ports with its data in a temporary folder; path-style and plain HTTP, on request
/// also by host names and over TLS.
///
/// [`Seaweed::ACCESS_KEY`] may do everything; requests without a signature may read and list.
#[derive(Debug)]
pub struct Seaweed {
    /// `None` while it is stopped.
    proc: Option<Proc>,
    ports: Ports,
    https: Option<Https>,
    scratch: Scratch,
}

/// How a server is reached over TLS as well.
#[derive(Debug)]
struct Https {
    port: u16,
    domain: String,
    certificate: PathBuf,
    key: PathBuf,
}

impl Seaweed {
    /// The access key that may do everything.
    pub const ACCESS_KEY: &str = "test";
    /// Its secret.
    pub const SECRET_KEY: &str = "testsecret";

    /// Starts an empty server; returns when it takes requests, after some 3 s.
    ///
    /// # Errors
    /// The program is not there (`tests/setup.sh` brings it), or did not become ready.
    pub fn start() -> Result<Self> {
        Self::start_with(None)
    }

    /// Starts one that also speaks HTTPS, with a certificate of `authority`, and knows a bucket by the host name
    /// `BUCKET.domain`.
    ///
    /// # Errors
    /// As [`Seaweed::start`].
    pub fn start_secure(authority: &Authority, domain: &str) -> Result<Self> {
        let (certificate, key) = authority.sign(&format!("*.{domain}"), Ipv4Addr::LOCALHOST)?;
        Self::start_with(Some(Https { port: wait::free_port(), domain: domain.to_owned(), certificate, key }))
    }

    fn start_with(https: Option<Https>) -> Result<Self> {
        let scratch = Scratch::new()?;
        scratch.folder("data")?;
        scratch.folder("logs")?;
        let everything = ["Admin", "Read", "Write", "List", "Tagging"];
        let keys = json!([{"accessKey": Self::ACCESS_KEY, "secretKey": Self::SECRET_KEY}]);
        let identities = json!({"identities": [
            {"name": "test", "credentials": keys, "actions": everything},
            {"name": "anonymous", "actions": ["Read", "List"]},
        ]});
        scratch.write("s3.json", &identities.to_string())?;
        let mut seaweed = Self { proc: None, ports: Ports::free(), https, scratch };
        seaweed.resume()?;
        Ok(seaweed)
    }

    /// Returns the one server that the tests of this process share; it goes when the process does, however that ends.
    /// Each test takes a bucket of its own. Who stops the server wants [`Seaweed::start`].
    ///
    /// # Errors
    /// Those of [`Seaweed::start`], the same for every caller.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Shared, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Shared::start().map_err(|error| format!("{error:#}")));
        shared.as_ref().map(|shared| &shared.seaweed).map_err(|error| anyhow!("{error}"))
    }

    /// Kills the server (SIGKILL, as a machine that dies). Its data stays for [`Seaweed::resume`].
    ///
    /// # Errors
    /// The process could not be waited for.
    pub fn stop(&mut self) -> Result<()> {
        match self.proc.take() {
            Some(mut proc) => proc.kill(),
            None => Ok(()),
        }
    }

    /// Starts the server again, on the same ports and data, after [`Seaweed::stop`].
    ///
    /// # Errors
    /// Those of [`Seaweed::start`].
    pub fn resume(&mut self) -> Result<()> {
        if self.proc.is_some() {
            return Ok(());
        }
        let mut proc = Proc::start(&self.command()?, &self.scratch.join("weed.log"))?;
        proc.ready(|| self.is_ready())?;
        self.proc = Some(proc);
        Ok(())
    }

    /// Returns the address of the S3 service.
    pub fn at(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.ports.s3)
    }

    /// Returns the URL of the S3 service.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.at())
    }

    /// Returns the URL of the S3 service over TLS, where it has one: its host is the domain that buckets are below of.
    pub fn secure_endpoint(&self) -> Option<String> {
        self.https.as_ref().map(|https| format!("https://{}:{}", https.domain, https.port))
    }

    /// Makes an empty bucket; no error when there is one of that name.
    ///
    /// # Errors
    /// The server refused.
    pub fn make_bucket(&self, name: &str) -> Result<()> {
        let answer = request(self.ports.filer, "POST", &format!("/buckets/{name}/"))?;
        let is_there = answer.status.is_success() || answer.status == StatusCode::CONFLICT;
        ensure!(is_there, "bucket {name}: {}", answer.status);
        Ok(())
    }

    /// Takes all uploads of a bucket away that were begun and not completed, as aborting each does.
    ///
    /// # Errors
    /// The server refused.
    pub fn drop_uploads(&self, bucket: &str) -> Result<()> {
        let path = format!("/buckets/{bucket}/.uploads?recursive=true");
        let answer = request(self.ports.filer, "DELETE", &path)?;
        ensure!(answer.status.is_success(), "{path}: {} {}", answer.status, answer.text());
        Ok(())
    }

    /// Returns how many requests of a kind (`GET`, `HEAD`, `PUT`, `LIST`, …) the S3 service answered for a bucket.
    ///
    /// # Errors
    /// The server did not say.
    pub fn requests(&self, bucket: &str, kind: &str) -> Result<u64> {
        let answer = request(self.ports.metrics, "GET", "/metrics")?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let of_kind = text.lines().filter(|line| {
            line.starts_with("SeaweedFS_s3_request_total{")
                && line.contains(&format!("bucket=\"{bucket}\""))
                && line.contains(&format!("type=\"{kind}\""))
        });
        let counts = of_kind.map(|line| Ok(line.rsplit(' ').next().context("count")?.parse::<f64>()? as u64));
        counts.sum()
    }

    fn command(&self) -> Result<Command> {
        let program = workspace(PROGRAM);
        ensure!(program.try_exists()?, "{} is missing: run tests/setup.sh", program.display());
        let file = |name: &str| self.scratch.join(name).display().to_string();
        let p = &self.ports;
        let mut command = Command::new(program);
        // Without -logdir its logs go to /tmp. A bucket takes seven volumes, made as it needs them.
        command.arg(format!("-logdir={}", file("logs"))).arg("server");
        command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-metricsIp=127.0.0.1", "-master.telemetry=false"]);
        command.args(["-filer", "-s3", "-master.volumeSizeLimitMB=1024", "-volume.max=1000", "-s3.port.iceberg=0"]);
        command.args(["-s3.port.lance=0".to_owned(), format!("-dir={}", file("data"))]);
        command.arg(format!("-s3.config={}", file("s3.json")));
        command.arg(format!("-s3.localSocket={}", file("s3.sock")));
        command.arg(format!("-filer.localSocket={}", file("filer.sock")));
        for (option, port) in [
            ("master.port", p.master),
            ("master.port.grpc", p.master_grpc),
            ("volume.port", p.volume),
            ("volume.port.grpc", p.volume_grpc),
            ("filer.port", p.filer),
            ("filer.port.grpc", p.filer_grpc),
            ("s3.port", p.s3),
            ("s3.port.grpc", p.s3_grpc),
            ("metricsPort", p.metrics),
        ] {
            command.arg(format!("-{option}={port}"));
        }
        if let Some(Https { port, domain, certificate, key }) = &self.https {
            command.arg(format!("-s3.port.https={port}")).arg(format!("-s3.domainName={domain}"));
            command.arg(format!("-s3.cert.file={}", certificate.display()));
            command.arg(format!("-s3.key.file={}", key.display()));
        }
        Ok(command)
    }

    /// Tells whether the S3 service answers, and the master can name a volume for a new object.
    fn is_ready(&self) -> bool {
        let is_ok = |port, path: &str| request(port, "GET", path).is_ok_and(|answer| answer.status.is_success());
        is_ok(self.ports.s3, "/healthz") && is_ok(self.ports.filer, "/") && is_ok(self.ports.master, "/dir/assign")
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        // Asked gently it takes its time; nothing of it is kept. What cannot be removed, the scratch reports.
        let _ = self.stop();
        for socket in self.ports.sockets() {
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// The server of [`Seaweed::shared`]. A static is never dropped, so a small process waits for this one's end and cleans up.
#[derive(Debug)]
struct Shared {
    seaweed: Seaweed,
    /// Closed by the end of this process, which is what the cleaner waits for.
    _cleaner: ChildStdin,
}

impl Shared {
    fn start() -> Result<Self> {
        let (send, started) = mpsc::sync_channel(1);
        // A server gets SIGTERM when the thread that started it ends; this one never does.
        std::thread::spawn(move || {
            let _ = send.send(Seaweed::start());
            loop {
                std::thread::park();
            }
        });
        let seaweed = started.recv().context("the starting thread")??;
        let pid = seaweed.proc.as_ref().context("process")?.pid();
        let script = r#"cat >/dev/null; kill -KILL -- "-$1"; shift
            for try in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$@" && exit; sleep 0.2; done"#;
        let mut cleaner = Command::new("setsid");
        cleaner.args(["sh", "-c", script, "sh", &pid.to_string()]).arg(seaweed.scratch.path());
        cleaner.args(seaweed.ports.sockets()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let cleaner = cleaner.spawn().context("setsid")?.stdin.take().context("pipe")?;
        Ok(Self { seaweed, _cleaner: cleaner })
    }
}

/// Sends a request from a thread of its own, so that async tests may ask, too.
fn request(port: u16, method: &str, path: &str) -> Result<web::Answer> {
    let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let asked = std::thread::scope(|scope| scope.spawn(|| web::request(&Node::Machine, at, method, path, &[])).join());
    asked.map_err(|_| anyhow!("panic in {method} {path}"))?
}
