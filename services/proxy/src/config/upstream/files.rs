//! What is in the files that an upstream names.

use upstream::SettingsError;

use super::{CredentialSource, Upstream};
use crate::config::section::Section;
use crate::remotes;

/// Reports each file of `upstream` that is of no use: a password that cannot be sent, a Docker `config.json`
/// without a login for this registry, a CA file without a certificate.
pub(super) fn check(upstream: &Upstream, section: &mut Section) {
    if let Some(source) = &upstream.credentials {
        let key = match source {
            CredentialSource::Password { .. } => "password_file",
            CredentialSource::DockerConfig { .. } => "docker_config",
        };
        check_alone(key, &Upstream { ca_file: None, ..upstream.clone() }, section);
    }
    if upstream.ca_file.is_some() {
        check_alone("ca_file", &Upstream { credentials: None, ..upstream.clone() }, section);
    }
}

/// Reports at `key` why there is no client of `upstream`, which names no other file.
fn check_alone(key: &str, upstream: &Upstream, section: &mut Section) {
    use SettingsError::{AuthHost, PlainHttp, Url};
    match remotes::client(upstream) {
        // What stands in the configuration itself has its own errors.
        Err(error) if !matches!(error.downcast_ref(), Some(Url { .. } | PlainHttp { .. } | AuthHost { .. })) => {
            section.error(key, format!("{error:#}"));
        }
        Ok(_) | Err(_) => {}
    }
}
