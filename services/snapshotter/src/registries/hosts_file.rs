//! [`read`]: containerd's configuration of a registry's hosts, `hosts.toml` (containerd, docs/hosts.md).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde::Deserialize;
use toml::Spanned;

use crate::access::{self, FileError};

/// What is read in the folder of a registry.
const NAME: &str = "hosts.toml";
/// The folder for all registries that have none.
const DEFAULT: &str = "_default";

/// Who may be asked for what a registry has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// Where it is; `None` for where the registry's name says.
    pub(super) url: Option<Url>,
    /// Files of certificates to trust.
    pub(super) ca: Vec<PathBuf>,
    /// Files of the certificate and of the key to show to it; they may be one.
    pub(super) identity: Option<[PathBuf; 2]>,
    pub(super) skip_verify: bool,
    pub(super) headers: HeaderMap,
}

/// Where a host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    /// Scheme, host, port, and the path that is in front of `/v2`.
    pub(super) text: String,
    pub(super) authority: String,
    /// Whether the path is in the place of `/v2`.
    pub(super) is_api_root: bool,
}

/// Why a `hosts.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostsError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder cannot be listed.
    #[error("cannot list {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{} is no hosts.toml", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<toml::de::Error>,
    },
    /// A value cannot be used.
    #[error("{}: {what} {value:?} cannot be used", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// The value.
        value: String,
    },
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: HashMap<Spanned<String>, Entry>,
}

/// What is said of a host; of the server it is said at the top of the file.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    capabilities: Vec<String>,
    ca: Option<OneOrMore<PathBuf>>,
    client: Option<OneOrMore<OneOrMore<PathBuf>>>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: HashMap<String, OneOrMore<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    fn into_all(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::More(more) => more,
        }
    }
}

/// Returns whom containerd asks for what the registry `name` has, in its order, as the folders say that `roots` lists (with colons, as
/// `config_path` does); who may not be pulled from is left out. Without any such folder that is the registry alone. What cannot be
/// read is in the log, and taken as containerd does: as if it were not there.
pub(super) fn read(roots: &Path, name: &str) -> Vec<Host> {
    // A name with dots and slashes would lead elsewhere.
    let is_plain = !name.starts_with('.') && !name.contains('/');
    let own = is_plain.then(|| [with_port(name), name.to_owned()]).into_iter().flatten();
    let names: Vec<String> = own.chain([DEFAULT.to_owned()]).collect();
    let mut folders = std::env::split_paths(roots).flat_map(|root| names.iter().map(move |name| root.join(name)));
    let Some(folder) = folders.find(|folder| folder.is_dir()) else { return vec![Host::default()] };
    let told = |error: &HostsError| {
        tracing::error!(error = error as &dyn std::error::Error, "a registry's hosts are not as configured");
    };
    match of_file(&folder).inspect_err(told) {
        Ok(Some(hosts)) => hosts,
        Ok(None) | Err(_) => vec![of_certificates(&folder).inspect_err(told).unwrap_or_default()],
    }
}

/// Reads the `hosts.toml` in a folder; `None` where there is none, or nothing in it.
fn of_file(folder: &Path) -> Result<Option<Vec<Host>>, HostsError> {
    let path = folder.join(NAME);
    match access::read(&path) {
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => parse(&path, folder, &String::from_utf8_lossy(&bytes)).map(Some),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns the name of a folder for a registry with a port: `host_port_`.
fn with_port(name: &str) -> String {
    match name.rsplit_once(':') {
        Some((host, port)) => format!("{host}_{port}_"),
        None => name.to_owned(),
    }
}

/// Reads a folder as Docker has it: `*.crt` to trust, and a `.cert` and `.key` to show.
fn of_certificates(folder: &Path) -> Result<Host, HostsError> {
    let failed = |source| HostsError::Folder { path: folder.to_owned(), source };
    let mut host = Host::default();
    let mut shown = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => host.ca.push(path),
            Some("cert") => shown.push(path),
            _ => {}
        }
    }
    host.ca.sort();
    host.identity = shown.into_iter().min().map(|certificate| {
        let key = certificate.with_extension("key");
        let key = if key.is_file() { key } else { certificate.clone() };
        [certificate, key]
    });
    Ok(host)
}

fn parse(path: &Path, folder: &Path, text: &str) -> Result<Vec<Host>, HostsError> {
    let wrong = |source| HostsError::Toml { path: path.to_owned(), source: Box::new(source) };
    let file: File = toml::from_str(text).map_err(wrong)?;
    let own: Entry = toml::from_str(text).map_err(wrong)?;
    let mut mirrors: Vec<_> = file.host.into_iter().collect();
    // In the order of the file.
    mirrors.sort_by_key(|(url, _)| url.span().start);
    let mirrors = mirrors.into_iter().map(|(url, entry)| (Some(url.into_inner()), entry));
    let pulls = |(url, entry): &(Option<String>, Entry)| url.is_none() || entry.has("pull");
    let all = mirrors.chain([(file.server, own)]).filter(pulls);
    all.map(|(url, entry)| entry.into_host(path, folder, url)).collect()
}

impl Entry {
    /// Tells whether the host does something; without a list it does all.
    fn has(&self, capability: &str) -> bool {
        self.capabilities.is_empty() || self.capabilities.iter().any(|one| one.eq_ignore_ascii_case(capability))
    }

    fn into_host(self, path: &Path, folder: &Path, url: Option<String>) -> Result<Host, HostsError> {
        let value = |what, value| HostsError::Value { path: path.to_owned(), what, value };
        let mut headers = HeaderMap::new();
        for (name, values) in self.header {
            let parsed = HeaderName::try_from(&name).map_err(|_| value("header", name.clone()))?;
            for text in values.into_all() {
                // The text may be a secret.
                let mut parsed_value = HeaderValue::try_from(text).map_err(|_| value("header", name.clone()))?;
                parsed_value.set_sensitive(true);
                headers.append(&parsed, parsed_value);
            }
        }
        let below = |path: PathBuf| folder.join(path);
        let mut pairs = self.client.map(OneOrMore::into_all).into_iter().flatten().map(|pair| match pair {
            OneOrMore::One(both) => Ok([below(both.clone()), below(both)]),
            OneOrMore::More(pair) => <[PathBuf; 2]>::try_from(pair)
                .map(|pair| pair.map(below))
                .map_err(|pair| value("client", format!("{pair:?}"))),
        });
        let url = url.map(|text| Url::parse(&text, self.override_path).ok_or_else(|| value("host", text)));
        Ok(Host {
            url: url.transpose()?,
            ca: self.ca.map(OneOrMore::into_all).into_iter().flatten().map(below).collect(),
            // One that it asks for; more are of no use to it.
            identity: pairs.next().transpose()?,
            skip_verify: self.skip_verify,
            headers,
        })
    }
}

impl Url {
    /// Reads a host as containerd does: `https` unless something else is said, and `/v2` behind its path unless that ends so
    /// or `is_whole`.
    fn parse(text: &str, is_whole: bool) -> Option<Self> {
        let text = if text.starts_with("http") { text.to_owned() } else { format!("https://{text}") };
        let uri: Uri = text.parse().ok()?;
        let (scheme, authority) = (uri.scheme_str()?, uri.authority()?.as_str().to_owned());
        if uri.query().is_some() || authority.contains('@') {
            return None;
        }
        let path = uri.path().trim_end_matches('/');
        let (path, is_api_root) = match path.strip_suffix("/v2") {
            Some(front) => (front, false),
            None => (path, is_whole),
        };
        Some(Self { text: format!("{scheme}://{authority}{path}"), authority, is_api_root })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, folder: &str, file: &str, text: &str) {
        fs::create_dir_all(root.join(folder)).unwrap();
        fs::write(root.join(folder).join(file), text).unwrap();
    }

    fn urls(hosts: &[Host]) -> Vec<&str> {
        hosts.iter().map(|host| host.url.as_ref().map_or("", |url| &url.text)).collect()
    }

    #[test]
    fn hosts_are_read_as_containerd_does() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let text = "server = 'registry.example'\nca = 'own.crt'\n\
            [host.'https://z.example']\ncapabilities = ['pull']\nskip_verify = true\n\
            ca = ['a.crt', '/b.crt']\nclient = [['c.cert', 'c.key']]\n\
            [host.'https://z.example'.header]\nx-one = 'secret'\nx-two = ['2', '3']\n\
            [host.'http://a.example:5000/v2']\n\
            [host.'https://harbor.example/v2/hub']\noverride_path = true\nclient = 'both.pem'\n\
            [host.'https://pushed.example']\ncapabilities = ['push']\n\
            [host.'https://below.example/path/']\n";
        write(root, "registry.example", NAME, text);
        let hosts = read(root, "registry.example");
        let expected = [
            "https://z.example",
            "http://a.example:5000",
            "https://harbor.example/v2/hub",
            "https://below.example/path",
            "https://registry.example",
        ];
        assert_eq!(urls(&hosts), expected);
        let roots: Vec<bool> = hosts.iter().map(|host| host.url.as_ref().unwrap().is_api_root).collect();
        assert_eq!(roots, [false, false, true, false, false]);
        let own = root.join("registry.example");
        assert_eq!(hosts[0].ca, [own.join("a.crt"), PathBuf::from("/b.crt")]);
        assert_eq!(hosts[0].identity, Some([own.join("c.cert"), own.join("c.key")]));
        assert_eq!(hosts[2].identity, Some([own.join("both.pem"), own.join("both.pem")]));
        assert!(hosts[0].skip_verify && !hosts[4].skip_verify && hosts[4].ca == [own.join("own.crt")]);
        assert!(hosts[0].headers["x-one"] == "secret" && hosts[0].headers.len() == 3);
        assert!(!format!("{hosts:?}").contains("secret"));
    }

    #[test]
    fn every_registry_has_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(read(root, "a.example"), [Host::default()]);
        write(root, DEFAULT, NAME, "[host.'https://any.example']");
        write(root, "a.example_5000_", NAME, "server = 'https://under.example'");
        write(root, "b.example:5000", NAME, "server = 'https://colon.example'");
        write(root, "certs.example", "ca.crt", "");
        write(root, "certs.example", "me.cert", "");
        for (name, expected) in [
            ("a.example:5000", vec!["https://under.example"]),
            ("b.example:5000", vec!["https://colon.example"]),
            ("a.example", vec!["https://any.example", ""]),
            ("../certs.example", vec!["https://any.example", ""]),
        ] {
            assert_eq!(urls(&read(root, name)), expected, "{name}");
        }
        let own = root.join("certs.example");
        let read_certs = || <[Host; 1]>::try_from(read(root, "certs.example")).unwrap();
        let [host] = read_certs();
        assert_eq!(
            (host.ca, host.identity),
            (vec![own.join("ca.crt")], Some([own.join("me.cert"), own.join("me.cert")]))
        );
        write(root, "certs.example", "me.key", "");
        // What cannot be read is as if it were not there.
        write(root, "certs.example", NAME, "server = 5");
        assert_eq!(read_certs()[0].identity, Some([own.join("me.cert"), own.join("me.key")]));
        let roots = std::env::join_paths([&root.join("certs.example"), root]).unwrap();
        assert_eq!(urls(&read(Path::new(&roots), "a.example:5000")), ["https://under.example"]);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (text, named) in [
            ("server = 5", "server"),
            ("[host.'https://u:p@a.example']", "host"),
            ("[host.'https://a.example']\nclient = [['a', 'b', 'c']]", "client"),
            ("[host.'https://a.example'.header]\n'x y' = ''", "x y"),
        ] {
            write(folder.path(), "a.example", NAME, text);
            let error = crate::error::with_causes(&of_file(&folder.path().join("a.example")).unwrap_err());
            assert!(error.contains(NAME) && error.contains(named), "{error}");
        }
    }
}
