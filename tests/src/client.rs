//! What every client can do.

use anyhow::Result;

/// How a client reaches the registry it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP, allowed explicitly where the client wants that.
    Plain,
    /// HTTPS, with the certificate checked against the configuration files; nothing is declared insecure.
    Tls,
}

/// A real client with storage of its own.
pub trait Client {
    /// Returns the client's name.
    fn name(&self) -> &'static str;

    /// Pulls an image for linux/amd64 and returns the digest of what the reference named: a manifest's, or an index's.
    ///
    /// # Errors
    /// The pull failed; the error carries the client's output.
    fn pull(&self, reference: &str) -> Result<String>;

    /// Runs a command in a container of a pulled image, on the node's network, and returns its output.
    ///
    /// # Errors
    /// The container failed; the error carries its output.
    fn run(&self, reference: &str, arguments: &[&str]) -> Result<String>;

    /// Removes every image, with all its content.
    ///
    /// # Errors
    /// The client refused.
    fn clear(&self) -> Result<()>;
}
