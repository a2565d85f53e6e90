//! [`Origin`]: who is at the other end of a URL, and where credentials and redirects may go.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use reqwest::Url;

use crate::{SettingsError, UpstreamError};

/// Scheme, host and port of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// Returns the origin of `url`; `None` for anything but http and https.
    pub(crate) fn of(url: &Url) -> Option<Self> {
        if !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        Some(Self { scheme: url.scheme().into(), host: url.host_str()?.into(), port: url.port_or_known_default()? })
    }

    fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// Returns `host`, or `host:port` where the port is not the scheme's.
    pub(crate) fn authority(&self) -> String {
        let default = if self.is_tls() { 443 } else { 80 };
        if self.port == default { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Tells whether the host is the machine itself or its link: metadata services live there.
    fn is_local(&self) -> bool {
        if self.host == "localhost" || self.host.ends_with(".localhost") {
            return true;
        }
        match self.host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
            Ok(IpAddr::V6(ip)) => is_local_v6(ip),
            Err(_) => false,
        }
    }
}

fn is_local_v6(ip: Ipv6Addr) -> bool {
    let mapped = ip.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback() || v4.is_link_local() || v4.is_unspecified());
    ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified() || mapped
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority())
    }
}

/// Where requests of one upstream may go.
#[derive(Debug)]
pub(crate) struct Boundary {
    registry: Origin,
    auth_hosts: Vec<String>,
    plain_http: bool,
}

impl Boundary {
    /// Returns the boundary of a registry.
    pub(crate) fn new(registry: Origin, auth_hosts: &[String], plain_http: bool) -> Result<Self, SettingsError> {
        let check = |host: &String| match Url::parse(&format!("https://{host}/")) {
            Ok(url) if url.path() == "/" && url.username().is_empty() && !host.contains(['/', '?', '#', '@']) => {
                Ok(host.to_ascii_lowercase())
            }
            _ => Err(SettingsError::AuthHost { host: host.clone() }),
        };
        let auth_hosts = auth_hosts.iter().map(check).collect::<Result<_, _>>()?;
        Ok(Self { registry, auth_hosts, plain_http })
    }

    /// Returns the registry's own origin.
    pub(crate) const fn registry(&self) -> &Origin {
        &self.registry
    }

    /// Parses the realm of a challenge, and checks that it may be asked for a token.
    pub(crate) fn realm(&self, realm: &str) -> Result<Url, UpstreamError> {
        let refused = |host: String| UpstreamError::RealmRefused { host };
        let url = Url::parse(realm).map_err(|_| UpstreamError::protocol("realm of the challenge is not a url"))?;
        let origin = Origin::of(&url).ok_or_else(|| refused(format!("{}:", url.scheme())))?;
        let listed = self.auth_hosts.contains(&origin.authority())
            || self.auth_hosts.contains(&format!("{}:{}", origin.host, origin.port));
        let own = origin.host == self.registry.host && origin.port == self.registry.port;
        let secure = origin.is_tls() || self.plain_http;
        if (listed || own) && secure && !has_user(&url) { Ok(url) } else { Err(refused(origin.to_string())) }
    }

    /// Returns where `location`, sent by `from`, leads, and checks that we may follow.
    pub(crate) fn redirect(&self, from: &Url, location: &str) -> Result<Url, UpstreamError> {
        let to = from.join(location).map_err(|_| UpstreamError::protocol("location of the redirect is not a url"))?;
        let refused = |host: String, why| Err(UpstreamError::RedirectRefused { host, why });
        let Some(origin) = Origin::of(&to) else {
            return refused(format!("{}:", to.scheme()), "not http or https");
        };
        if has_user(&to) {
            return refused(origin.to_string(), "it has a user name");
        }
        if !origin.is_tls() && !self.plain_http {
            return refused(origin.to_string(), "plain http");
        }
        if origin.is_local() && !self.registry.is_local() && !self.plain_http {
            return refused(origin.to_string(), "loopback or link-local address");
        }
        Ok(to)
    }
}

fn has_user(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boundary(registry: &str, auth_hosts: &[&str], plain_http: bool) -> Boundary {
        let hosts: Vec<String> = auth_hosts.iter().map(ToString::to_string).collect();
        Boundary::new(Origin::of(&Url::parse(registry).unwrap()).unwrap(), &hosts, plain_http).unwrap()
    }

    #[test]
    fn a_realm_must_be_listed_or_the_registry_itself() {
        let hub = boundary("https://registry.example", &["auth.example", "sso.example:8443"], false);
        for good in [
            "https://auth.example/token",
            "https://auth.example:443/token",
            "https://AUTH.example/token",
            "https://sso.example:8443/t?x=y",
            "https://registry.example/token",
        ] {
            assert!(hub.realm(good).is_ok(), "{good} was refused");
        }
        for bad in [
            "http://auth.example/token",
            "http://registry.example/token",
            "https://auth.example:8443/token",
            "https://sso.example/t",
            "https://auth.example.evil/token",
            "https://auth.example@evil/token",
            "https://u:p@auth.example/token",
            "https://xauth.example/token",
            "https://169.254.169.254/token",
            "file:///etc/passwd",
            "/token",
        ] {
            assert!(hub.realm(bad).is_err(), "{bad} was accepted");
        }
        assert!(boundary("http://localhost:5000", &[], true).realm("http://localhost:5000/token").is_ok());
        assert!(boundary("http://localhost:5000", &[], true).realm("http://localhost:5001/token").is_err());
    }

    #[test]
    fn redirects_stay_on_https_and_off_the_machine() {
        let hub = boundary("https://registry.example", &[], false);
        let from = Url::parse("https://registry.example/v2/a/blobs/x").unwrap();
        for good in ["https://cdn.example/x?sig=y", "/elsewhere", "https://10.0.0.1/x", "//cdn.example/x"] {
            assert!(hub.redirect(&from, good).is_ok(), "{good} was refused");
        }
        for bad in [
            "http://cdn.example/x",
            "https://127.0.0.1/x",
            "https://0x7f.1/x",
            "https://localhost/x",
            "https://169.254.169.254/latest/meta-data",
            "https://[::1]/x",
            "https://[fe80::1]/x",
            "https://[::ffff:127.0.0.1]/x",
            "https://0.0.0.0/x",
            "https://u:p@cdn.example/x",
            "ftp://cdn.example/x",
            "https://",
        ] {
            assert!(hub.redirect(&from, bad).is_err(), "{bad} was accepted");
        }
        let local = boundary("http://127.0.0.1:5000", &[], true);
        let from = Url::parse("http://127.0.0.1:5000/v2/a/blobs/x").unwrap();
        assert!(local.redirect(&from, "http://127.0.0.1:9000/x").is_ok());
    }

    #[test]
    fn auth_hosts_are_hosts() {
        let origin = Origin::of(&Url::parse("https://registry.example").unwrap()).unwrap();
        for bad in ["https://auth.example", "auth.example/token", "u@auth.example", "", "a b"] {
            assert!(Boundary::new(origin.clone(), &[bad.to_owned()], false).is_err(), "{bad} was accepted");
        }
    }
}
