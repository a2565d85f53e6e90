//! [`Known`]: what need not be said about the public registries.

/// The defaults of an upstream of a given name.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) aliases: Vec<String>,
    pub(super) url: String,
    pub(super) auth_hosts: Vec<String>,
}

impl Known {
    /// The upstreams of a configuration that names none; the first is the default one.
    ///
    /// Only Docker Hub issues its tokens from another host than the registry's own. registry.k8s.io asks
    /// for none and redirects to pkg.dev hosts that ask for none either.
    pub(super) const NAMES: [&str; 7] =
        ["docker.io", "ghcr.io", "quay.io", "gcr.io", "registry.k8s.io", "mcr.microsoft.com", "public.ecr.aws"];

    /// Returns what is known of `name`: at the least that its registry is at the host of that name.
    pub(super) fn named(name: &str) -> Self {
        let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        match name {
            "docker.io" => Self {
                aliases: list(&["index.docker.io", "registry-1.docker.io"]),
                url: "https://registry-1.docker.io".into(),
                auth_hosts: list(&["auth.docker.io"]),
            },
            _ => Self { aliases: Vec::new(), url: format!("https://{name}"), auth_hosts: list(&[name]) },
        }
    }
}
