//! [`Secrets`]: the Secrets that the sets of values name.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result};
use e2e::{Authority, run};

/// The Secrets of the namespace: their names, keys and contents.
#[derive(Debug)]
pub(crate) struct Secrets(Vec<(&'static str, &'static str, String)>);

impl Secrets {
    /// Makes them all.
    pub(crate) fn new() -> Result<Self> {
        let authority = Authority::new()?;
        let (certificate, key) = authority.sign("firstlight.example", Ipv4Addr::LOCALHOST)?;
        let read = |path| std::fs::read_to_string(path);
        let login = r#"{"auths": {"ghcr.io": {"auth": "dGVhbTpnaGNyLXBhc3N3b3Jk"}}}"#;
        let users = run(Command::new("htpasswd").args(["-nbBC", "5", "team", "team-password"]))?;
        Ok(Self(vec![
            ("database", "url", "postgres://firstlight:database-password@db.example/firstlight".to_owned()),
            ("owner", "uri", "postgres://owner:owner-password@db.example/firstlight".to_owned()),
            ("password", "password", "database-password".to_owned()),
            ("keys", "AWS_ACCESS_KEY_ID", "key-id".to_owned()),
            ("keys", "AWS_SECRET_ACCESS_KEY", "secret-key".to_owned()),
            ("fleet", "secret", "0123456789abcdef0123456789abcdef\n".to_owned()),
            ("certificate", "tls.crt", read(&certificate)?),
            ("certificate", "tls.key", read(&key)?),
            ("users", "auth", users),
            ("hub", "password", "hub-password\n".to_owned()),
            ("ghcr", ".dockerconfigjson", login.to_owned()),
            ("house", "ca.pem", read(&authority.certificate())?),
        ]))
    }

    /// Returns a key of a Secret.
    ///
    /// # Errors
    /// There is none: a pod that wants it would not start.
    pub(crate) fn get(&self, name: &str, key: &str) -> Result<&str> {
        let found = self.0.iter().find(|(secret, of, _)| *secret == name && *of == key);
        Ok(&found.with_context(|| format!("no key {key} in a Secret {name}"))?.2)
    }
}
