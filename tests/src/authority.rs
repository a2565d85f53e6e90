//! A certificate authority of the test's own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{Node, Scratch, run};

/// A certificate authority and the certificates it signed, as files.
#[derive(Debug)]
pub struct Authority {
    scratch: Scratch,
}

impl Authority {
    /// Makes an authority.
    ///
    /// # Errors
    /// `openssl` failed.
    pub fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        run(&mut request(&scratch.join("ca.key"), &scratch.join("ca.crt"), "Firstlight test authority"))?;
        Ok(Self { scratch })
    }

    /// Returns the authority's certificate, for clients.
    pub fn certificate(&self) -> PathBuf {
        self.scratch.join("ca.crt")
    }

    /// Puts the certificate where docker, containerd (with the documented `hosts.toml`), podman and skopeo look for that of `host`.
    ///
    /// # Errors
    /// The node is not a namespace.
    pub fn trust(&self, node: &Node, host: &str) -> Result<()> {
        let certificate = std::fs::read_to_string(self.certificate())?;
        for folder in ["docker", "containerd", "containers"] {
            node.write_etc(&format!("{folder}/certs.d/{host}/ca.crt"), &certificate)?;
        }
        Ok(())
    }

    /// Makes a server certificate and returns its file and its key's.
    ///
    /// # Errors
    /// `openssl` failed.
    pub fn sign(&self, name: &str, address: Ipv4Addr) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = (self.scratch.join(&format!("{name}.crt")), self.scratch.join(&format!("{name}.key")));
        let mut command = request(&key, &certificate, name);
        command.arg("-CA").arg(self.certificate()).arg("-CAkey").arg(self.scratch.join("ca.key"));
        command.args(["-addext", &format!("subjectAltName=DNS:{name},IP:{address}")]);
        run(command.args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth"]))?;
        Ok((certificate, key))
    }
}

/// A self-signed certificate and its key, valid for two days.
fn request(key: &Path, certificate: &Path, name: &str) -> Command {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    command.args(["-subj", &format!("/CN={name}")]).arg("-keyout").arg(key).arg("-out").arg(certificate);
    command
}
