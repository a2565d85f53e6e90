//! [`ImageRef`]: an image as one would name it to docker.

use api::{Reference, ReferenceError, Repository, RepositoryName};

use super::location::{name_and_reference, split_host};
use crate::config::Upstream;
use crate::remotes::{Remotes, RouteError, Target};

/// An image as one would name it to docker, such as `library/python:3`, `ghcr.io/org/app@sha256:…` or
/// `proxy.local:5080/library/python`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageRef {
    /// The first segment, where it looks like a host.
    host: Option<String>,
    /// All of the name behind the host.
    name: RepositoryName,
    /// The tag or digest; `latest` where none was given.
    pub(super) reference: Reference,
}

/// What an [`ImageRef`] means to this proxy.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) target: Target,
    /// What was done to the name, where the proxy would not have got it as it is.
    pub(super) note: Option<String>,
}

impl ImageRef {
    /// Parses a reference.
    ///
    /// # Errors
    /// Says which part is malformed.
    pub(super) fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (host, rest) = split_host(text).map_or((None, text), |(host, rest)| (Some(host.to_owned()), rest));
        let (name, reference) = name_and_reference(rest)?;
        Ok(Self { host, name, reference })
    }

    /// Returns the upstream and repository that the proxy would take for this. A host that is no upstream's name is
    /// taken for the proxy's own.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub(super) fn resolve(&self, remotes: &Remotes) -> Result<Resolved, RouteError> {
        let Some(host) = &self.host else {
            return Ok(Resolved { target: remotes.resolve(&self.name, None)?, note: None });
        };
        let names = |upstream: &Upstream| upstream.name == *host || upstream.aliases.contains(host);
        if remotes.iter().any(|remote| names(&remote.config)) {
            let target = match RepositoryName::parse(&format!("{host}/{}", self.name)) {
                Ok(full) => remotes.resolve(&full, None)?,
                // A name with a port fits no path, but ns= can send it.
                Err(_) => remotes.resolve(&self.name, Some(host))?,
            };
            return Ok(Resolved { target, note: None });
        }
        let note = format!("{host} is no upstream and taken for this proxy's own name");
        Ok(Resolved { target: remotes.resolve(&self.name, None)?, note: Some(note) })
    }
}

/// Returns a repository with its reference, as one would name it to docker.
pub(super) fn full_name(repository: &Repository, reference: &Reference) -> String {
    let mark = if matches!(reference, Reference::Digest(_)) { '@' } else { ':' };
    format!("{repository}{mark}{reference}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::remotes::ChosenBy;

    #[test]
    fn references_resolve_as_the_proxy_would() {
        let remotes = Remotes::build(&Config::load(None, std::iter::empty()).unwrap()).unwrap();
        let digest = api::Digest::of(b"x");
        let cases = [
            ("python", "docker.io/library/python:latest", ChosenBy::Default, false),
            ("library/python:3", "docker.io/library/python:3", ChosenBy::Default, false),
            ("docker.io/python", "docker.io/library/python:latest", ChosenBy::Path, false),
            ("index.docker.io/org/app:1", "docker.io/org/app:1", ChosenBy::Path, false),
            ("ghcr.io/org/app:1", "ghcr.io/org/app:1", ChosenBy::Path, false),
            ("proxy.local:5080/library/python", "docker.io/library/python:latest", ChosenBy::Default, true),
            ("localhost:5080/ghcr.io/org/app:2", "ghcr.io/org/app:2", ChosenBy::Path, true),
            ("localhost/python", "docker.io/library/python:latest", ChosenBy::Default, true),
        ];
        for (text, full, chosen_by, noted) in cases {
            let image = ImageRef::parse(text).unwrap();
            let Resolved { target, note } = image.resolve(&remotes).unwrap();
            assert_eq!(full_name(&target.repository, &image.reference), full, "{text}");
            assert_eq!((target.chosen_by, note.is_some()), (chosen_by, noted), "{text}");
        }
        let pinned = ImageRef::parse(&format!("ghcr.io/org/app:1@{digest}")).unwrap();
        assert_eq!(pinned.reference, Reference::Digest(digest));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["", "Python", "python:", "python@sha256:0", "a//b", "h.x/", "python:a b"] {
            assert!(ImageRef::parse(text).is_err(), "{text} was accepted");
        }
    }
}
