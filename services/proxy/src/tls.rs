//! [`TlsAcceptorHandle`]: TLS with a certificate that is reloaded when its files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::TlsFiles;
use crate::reloaded::{Reloaded, read_small_file};

/// Accepts TLS connections (1.2 and 1.3; ALPN h2 and http/1.1) with the certificate that is in the files
/// now, looked at once a second at most. A pair that does not load is logged and the one before it kept.
#[derive(Debug)]
pub struct TlsAcceptorHandle(Reloaded<ServerConfig, TlsError>);

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not PEM of the right kind.
    #[error("no {wanted} in PEM form in {path}")]
    Pem {
        /// What was looked for.
        wanted: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: pem::Error,
    },
    /// The certificate and the key do not belong together, or are of no use.
    #[error("the certificate {cert} and the key {key} cannot be used together")]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
}

impl TlsAcceptorHandle {
    /// Loads the certificate and its key.
    ///
    /// # Errors
    /// Says which file is wrong, and why.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let paths = vec![files.cert.clone(), files.key.clone()];
        let files = files.clone();
        Reloaded::new("TLS certificate", paths, move || server_config(&files)).map(Self)
    }

    /// Shakes hands with a client. There is no time limit: that is the caller's.
    ///
    /// # Errors
    /// Those of the connection and of the handshake.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsAcceptor::from(self.0.get().await).accept(stream).await
    }
}

fn server_config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let pem_error = |wanted, path: &Path| {
        let path = path.to_path_buf();
        move |source| TlsError::Pem { wanted, path, source }
    };
    let pair_error = |source| TlsError::Pair { cert: files.cert.clone(), key: files.key.clone(), source };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(&files.cert)?).collect();
    let certificates = certificates
        .and_then(|all| if all.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(all) })
        .map_err(pem_error("certificate", &files.cert))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(pem_error("private key", &files.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(pair_error)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    read_small_file(path).map_err(|source| TlsError::Read { path: path.into(), source })
}

#[cfg(test)]
pub(crate) mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    /// Makes a self-signed certificate for localhost with the `openssl` program.
    pub(crate) fn make_pair(dir: &Path) -> TlsFiles {
        let files = TlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
        let made = std::process::Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost".split(' '))
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"])
            .arg("-out")
            .arg(&files.cert)
            .arg("-keyout")
            .arg(&files.key)
            .output()
            .expect("openssl runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        files
    }

    /// Shakes hands in memory and returns the certificate and the protocol that the client sees.
    async fn handshake(handle: &TlsAcceptorHandle, trusted: &Path) -> io::Result<(Vec<u8>, Option<Vec<u8>>)> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (here, there) = tokio::io::duplex(1 << 16);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let connect = connector.connect(ServerName::try_from("localhost").unwrap(), here);
        let (client, _server) = tokio::join!(connect, handle.accept(there));
        let client = client?;
        let session = client.get_ref().1;
        let certificate = session.peer_certificates().expect("a certificate")[0].to_vec();
        Ok((certificate, session.alpn_protocol().map(Into::into)))
    }

    #[tokio::test]
    async fn a_new_pair_is_taken_and_half_a_pair_is_not() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (files, new) = (make_pair(dir.path()), make_pair(other.path()));
        let mut handle = TlsAcceptorHandle::load(&files).unwrap();
        handle.0.always_look();
        let old_cert = other.path().join("old.pem");
        std::fs::copy(&files.cert, &old_cert).unwrap();
        let (first, protocol) = handshake(&handle, &old_cert).await.unwrap();
        assert_eq!(protocol.as_deref(), Some(&b"h2"[..]));
        // The new certificate beside the old key: kept out until the key is there too.
        std::fs::copy(&new.cert, &files.cert).unwrap();
        assert_eq!(handshake(&handle, &old_cert).await.unwrap().0, first);
        std::fs::copy(&new.key, &files.key).unwrap();
        assert_ne!(handshake(&handle, &new.cert).await.unwrap().0, first);
    }

    #[test]
    fn wrong_files_are_named() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (files, foreign) = (make_pair(dir.path()), make_pair(other.path()));
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        let error = |cert: &Path, key: &Path| {
            let files = TlsFiles { cert: cert.into(), key: key.into() };
            TlsAcceptorHandle::load(&files).unwrap_err()
        };
        assert!(matches!(error(&empty, &files.key), TlsError::Pem { wanted: "certificate", .. }));
        assert!(matches!(error(&files.cert, &empty), TlsError::Pem { wanted: "private key", .. }));
        assert!(matches!(error(&files.cert, &foreign.key), TlsError::Pair { .. }));
        assert!(matches!(error(Path::new("/nowhere"), &files.key), TlsError::Read { .. }));
    }
}
