//! [`Config`]: where the snapshotter keeps its things, where containerd finds it, and whom it asks for twins.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytesize::ByteSize;
use serde::{Deserialize, Deserializer};

pub use crate::access::Access;

/// The configuration of a snapshotter.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of snapshots and their database.
    pub root: PathBuf,
    /// The Unix socket for containerd.
    pub socket: PathBuf,
    /// The Unix socket of the holder.
    pub holder: PathBuf,
    /// containerd's own Unix socket.
    pub containerd: PathBuf,
    /// How long the holder lets readers wait for a snapshotter that is gone.
    #[serde(deserialize_with = "duration")]
    pub restart_grace: Duration,
    /// How images are mounted.
    pub mode: Mode,
    /// What mounts them.
    pub front_end: FrontEnd,
    /// Where Prometheus asks; nowhere without it.
    pub metrics_listen: Option<SocketAddr>,
    /// The most bytes of lazy layers that are kept on the disk; 0: all of them.
    pub cache_size: ByteSize,
    /// The most memory that the trees of lazy layers take together: a layer beyond it is pulled in the ordinary way; 0: no bound.
    pub tree_memory: ByteSize,
    /// How long the first layer of an image waits for the proxy to convert it.
    #[serde(deserialize_with = "duration")]
    pub convert_wait: Duration,
    /// How long a read whose bytes do not come is tried again before it fails.
    #[serde(deserialize_with = "duration")]
    pub read_timeout: Duration,
    /// How long a new layer is left alone before the rest of it is brought in the background.
    #[serde(deserialize_with = "duration")]
    pub fill_after: Duration,
    /// Mounts nothing before all of it is here and proven.
    pub require_proof: bool,
    /// The proxies that are asked for twins, the first that stands for a registry for all images of it.
    pub proxy: Vec<ProxyConfig>,
    /// How registries are asked for images whose own layers are eStargz, where that is not as always.
    pub registry: Vec<RegistryConfig>,
    /// The folder where containerd's configuration of registries' hosts is.
    pub hosts_dir: Option<PathBuf>,
    /// The Docker configuration that has the credentials for registries.
    pub docker_config: Option<PathBuf>,
}

/// How images are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Before their bytes are here.
    Lazy,
}

/// What mounts lazy images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrontEnd {
    /// The best one that this machine has.
    Auto,
    /// This program, by FUSE.
    Fuse,
}

/// A Firstlight proxy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// Its URL.
    pub url: String,
    /// The registries that it stands for, `*` for all.
    #[serde(default = "all")]
    pub upstreams: Vec<String>,
    /// How it is asked.
    #[serde(flatten)]
    pub access: Access,
}

/// A registry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// Its name in references, with the port if they have one; `*` for all that are not named.
    pub host: String,
    /// The repositories whose layers are mounted before they are proven: names, `folder/*`, or `*`.
    #[serde(default)]
    pub trusted: Vec<String>,
    /// Its URL; without it, what [`Config::hosts_dir`] says, or `https` and the host.
    #[serde(default)]
    pub url: Option<String>,
    /// The hosts, beside its own, that may be asked for tokens with the credentials.
    #[serde(default)]
    pub auth_hosts: Vec<String>,
    /// How it is asked; without a user, by what the Docker configuration says.
    #[serde(flatten)]
    pub access: Access,
}

impl RegistryConfig {
    /// The host that stands for all that are not named.
    pub const ANY: &str = "*";

    fn any(trusted: Vec<String>) -> Self {
        let (host, access) = (Self::ANY.to_owned(), Access::default());
        Self { host, trusted, url: None, auth_hosts: Vec::new(), access }
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.host == Self::ANY && *self != Self::any(self.trusted.clone()) {
            bail!("it has no settings but trusted");
        }
        let is_odd = |text: &&String| {
            let folder = text.strip_suffix('*').unwrap_or(text);
            folder.contains('*') || (folder.len() < text.len() && !folder.is_empty() && !folder.ends_with('/'))
        };
        if let Some(odd) = self.trusted.iter().find(is_odd) {
            bail!("trusted: {odd:?} is no repository's name, no folder/* and not *");
        }
        self.access.check(self.url.as_deref().unwrap_or_default())
    }
}

fn all() -> Vec<String> {
    vec!["*".to_owned()]
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}: use 500ms, 10s")))
}

/// The longest that a proxy lets anybody wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

impl Default for Config {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/var/lib/firstlight-snapshotter"),
            socket: PathBuf::from("/run/firstlight-snapshotter/snapshotter.sock"),
            holder: PathBuf::from("/run/firstlight-snapshotter/holder.sock"),
            containerd: PathBuf::from("/run/containerd/containerd.sock"),
            restart_grace: Duration::from_secs(60),
            mode: Mode::Lazy,
            front_end: FrontEnd::Auto,
            metrics_listen: None,
            cache_size: ByteSize::b(0),
            tree_memory: ByteSize::gib(1),
            convert_wait: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            fill_after: Duration::from_secs(5),
            require_proof: false,
            proxy: Vec::new(),
            registry: Vec::new(),
            hosts_dir: Some(PathBuf::from("/etc/containerd/certs.d")),
            docker_config: Some(PathBuf::from("/root/.docker/config.json")),
        }
    }
}

impl Config {
    /// Reads the TOML file at `path`; without one, the defaults.
    ///
    /// # Errors
    /// Says which key or value cannot be used.
    pub fn load(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let config: Self = toml::from_str(&text)
            .with_context(|| format!("{} is no configuration of a snapshotter", path.display()))?;
        config.check().with_context(|| format!("{} cannot be used", path.display()))?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.convert_wait > LONGEST_WAIT {
            bail!("convert_wait is longer than {}", humantime::format_duration(LONGEST_WAIT));
        }
        for proxy in &self.proxy {
            proxy.access.check(&proxy.url).with_context(|| format!("proxy {:?}", proxy.url))?;
        }
        for registry in &self.registry {
            registry.check().with_context(|| format!("registry {:?}", registry.host))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> anyhow::Result<Config> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("config.toml");
        fs::write(&path, text)?;
        Config::load(Some(&path))
    }

    /// What the documentation shows is what is, also where it is commented out.
    #[test]
    fn the_documented_configuration_is_the_default() {
        let text = include_str!("../../../docs/examples/snapshotter/config.toml");
        let shown = load(text).unwrap();
        assert_eq!(Config { proxy: Vec::new(), ..shown }, Config::default());
        let is_setting = |line: &str| line.starts_with("[[") || line.contains(" = ");
        let lines = text.lines().map(|line| line.strip_prefix("# ").filter(|line| is_setting(line)).unwrap_or(line));
        let all = load(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        assert!(all.metrics_listen.is_some() && all.proxy[0].access.username.is_some() && all.registry.len() == 2);
    }

    #[test]
    fn what_is_not_known_or_not_built_is_refused() {
        let given = load("root = \"/r\"\nconvert_wait = \"3s\"\n[[proxy]]\nurl = \"https://proxy\"").unwrap();
        assert_eq!((given.root, given.convert_wait), (PathBuf::from("/r"), Duration::from_secs(3)));
        assert_eq!(given.proxy[0].upstreams, ["*"]);
        assert_eq!(Config::load(None).unwrap(), Config::default());
        for (text, named) in [
            ("rooot = \"/r\"", "rooot"),
            ("mode = \"full\"", "full"),
            ("front_end = \"erofs\"", "erofs"),
            ("convert_wait = \"31s\"", "convert_wait"),
            ("convert_wait = \"soon\"", "soon"),
            ("cache_size = \"much\"", "cache_size"),
            ("require_proof = \"some\"", "require_proof"),
            ("[[registry]]\nhost = \"*\"\nurl = \"https://r\"", "\"*\""),
            ("[[registry]]\nhost = \"r\"\ntrusted = [\"te*\"]", "te*"),
            ("[[registry]]\nhost = \"r\"\ntrusted = [\"*/app\"]", "*/app"),
            ("[[proxy]]\nurl = \"https://proxy\"\nusername = \"u\"", "password_file"),
            ("[[proxy]]\nurl = \"https://proxy\"\npassword = \"p\"", "password"),
            ("[[proxy]]\nurl = \"http://proxy\"", "insecure"),
            ("[[registry]]\nhost = \"r\"\nurl = \"http://r\"", "insecure"),
            ("[[registry]]\nhost = \"r\"\ntoken = \"t\"", "token"),
            ("[[registry]]\nhost = \"r\"\npassword_file = \"p\"", "username"),
        ] {
            let refused = format!("{:#}", load(text).unwrap_err());
            assert!(refused.contains("config.toml") && refused.contains(named), "{refused}");
        }
    }
}
