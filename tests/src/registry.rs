//! The upstream: Debian's docker-registry.

use std::net::SocketAddrV4;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{Images, Node, Proc, Scratch, node, run, web};

/// How a registry is started.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Serves a storage of its own, empty and writable, instead of the test images.
    pub empty: bool,
    /// Asks for Basic credentials: user name and password.
    pub login: Option<(String, String)>,
    /// The port to listen on; a free one when `None`.
    pub port: Option<u16>,
    /// Speaks TLS with this certificate and key; then [`Registry::digest`] and [`Registry::push`] do not work.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Logs each request with its protocol, for [`Registry::log`].
    pub access_log: bool,
}

/// A running `docker-registry`.
#[derive(Debug)]
pub struct Registry {
    proc: Proc,
    at: SocketAddrV4,
    login: Option<(String, String)>,
    node: Node,
    _scratch: Scratch,
}

impl Registry {
    /// Starts a registry that holds the test images as `library/NAME` and refuses writes.
    ///
    /// # Errors
    /// The images could not be built or the registry did not start.
    pub fn start(node: &Node) -> Result<Self> {
        Self::start_with(node, &RegistryOptions::default())
    }

    /// Starts a registry.
    ///
    /// # Errors
    /// The images could not be built or the registry did not start.
    pub fn start_with(node: &Node, options: &RegistryOptions) -> Result<Self> {
        let scratch = Scratch::new()?;
        let storage: PathBuf = if options.empty { scratch.folder("storage")? } else { Images::get()?.registry() };
        let mut at = node::free_address(node);
        at.set_port(options.port.unwrap_or(at.port()));
        let mut config = format!(
            "version: 0.1\n\
             log: {{level: warn, accesslog: {{disabled: {}}}}}\n\
             storage:\n  filesystem: {{rootdirectory: '{}'}}\n  maintenance: {{readonly: {{enabled: {}}}}}\n\
             http:\n  addr: '{at}'\n",
            !options.access_log,
            storage.display(),
            !options.empty,
        );
        if let Some((certificate, key)) = &options.tls {
            config += &format!("  tls: {{certificate: '{}', key: '{}'}}\n", certificate.display(), key.display());
        }
        if let Some((user, password)) = &options.login {
            let file = scratch.write("htpasswd", &run(node.command("htpasswd").args(["-nbB", user, password]))?)?;
            config += &format!("auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n", file.display());
        }
        let file = scratch.write("registry.yml", &config)?;
        let mut proc =
            Proc::start(node.command("docker-registry").arg("serve").arg(file), &scratch.join("registry.log"))?;
        proc.ready(|| node.accepts(at))?;
        Ok(Self { proc, at, login: options.login.clone(), node: node.clone(), _scratch: scratch })
    }

    /// Returns the address it listens on.
    pub fn at(&self) -> SocketAddrV4 {
        self.at
    }

    /// Returns the digest of a manifest as the registry states it, for the media type it stores.
    ///
    /// # Errors
    /// The registry does not know the reference.
    pub fn digest(&self, repository: &str, reference: &str) -> Result<String> {
        let mut headers = vec![("accept".to_owned(), web::MANIFEST_TYPES.to_owned())];
        if let Some((user, password)) = &self.login {
            headers.push(web::basic(user, password));
        }
        let path = format!("/v2/{repository}/manifests/{reference}");
        let answer = web::request(&self.node, self.at, "HEAD", &path, &headers)?;
        answer.header("docker-content-digest").with_context(|| format!("{path}: {}", answer.status))
    }

    /// Returns a manifest or a config, which is at `path` of a repository, as in `manifests/latest`.
    ///
    /// # Errors
    /// The registry does not know it, or wants a login.
    pub fn document(&self, repository: &str, path: &str) -> Result<serde_json::Value> {
        let (path, accept) =
            (format!("/v2/{repository}/{path}"), ("accept".to_owned(), web::MANIFEST_TYPES.to_owned()));
        web::request(&self.node, self.at, "GET", &path, &[accept])?.json()
    }

    /// Copies an image of the test images' OCI layout to this registry, under `repository:tag`.
    ///
    /// # Errors
    /// The copy failed.
    pub fn push(&self, image: &str, repository: &str, tag: &str) -> Result<()> {
        let mut command = self.node.command("skopeo");
        command.args(["copy", "-q", "--dest-tls-verify=false"]);
        if let Some((user, password)) = &self.login {
            command.arg(format!("--dest-creds={user}:{password}"));
        }
        command.arg(format!("oci:{}:{image}", Images::get()?.layout().display()));
        run(command.arg(format!("docker://{}/{repository}:{tag}", self.at)))?;
        Ok(())
    }

    /// Returns what it logged so far.
    pub fn log(&self) -> String {
        self.proc.log()
    }

    /// Returns the process.
    pub fn proc(&mut self) -> &mut Proc {
        &mut self.proc
    }
}
