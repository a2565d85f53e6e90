//! [`Target`]: which key a variable of the environment sets.

use crate::config::CONFIG_VARIABLE;

/// What the names of all our variables begin with.
pub(in crate::config) const PREFIX: &str = "FIRSTLIGHT_";

/// Which key a variable sets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// None: it is not ours, or not about configuration.
    Foreign,
    /// A key of a table.
    Key(&'static str, String),
    /// A key of the n-th upstream.
    Upstream(usize, String),
    /// It looks like ours, but no table has that name.
    Unknown,
}

impl Target {
    pub(super) fn of(name: &str, sections: &[&'static str]) -> Self {
        let Some(rest) = name.strip_prefix(PREFIX) else { return Self::Foreign };
        if name == CONFIG_VARIABLE || is_service_link(rest) {
            return Self::Foreign;
        }
        let Some((section, key)) = rest.split_once('_') else { return Self::Unknown };
        let key = key.to_ascii_lowercase();
        if section == "UPSTREAM" {
            let Some((n, key)) = key.split_once('_') else { return Self::Unknown };
            return n.parse().map_or(Self::Unknown, |n| Self::Upstream(n, key.into()));
        }
        match sections.iter().find(|known| known.to_ascii_uppercase() == section) {
            Some(known) => Self::Key(known, key),
            None => Self::Unknown,
        }
    }
}

/// Orders variables so that the n-th upstream comes after those before it, 10 after 9.
pub(super) fn order(name: &str) -> (usize, String) {
    match Target::of(name, &[]) {
        Target::Upstream(n, key) => (n, key),
        _ => (0, name.into()),
    }
}

/// Tells whether Kubernetes sets such a variable in every pod beside a Service called `firstlight` or
/// `firstlight-…` ("Service environment variables"): `SERVICE_HOST`, `SERVICE_PORT[_NAME]`, `PORT` and
/// `PORT_5080_TCP[_PROTO|_PORT|_ADDR]`, the rest of the Service's name before them.
fn is_service_link(rest: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let protocol = |word: &str| matches!(word, "TCP" | "UDP" | "SCTP");
    (0..words.len()).any(|start| match &words[start..] {
        ["SERVICE", "HOST"] | ["PORT"] | ["SERVICE", "PORT", ..] => true,
        ["PORT", port, kind] | ["PORT", port, kind, "PROTO" | "PORT" | "ADDR"] => number(port) && protocol(kind),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_keys() {
        let sections = ["server", "cache"];
        let target = |name| Target::of(name, &sections);
        assert_eq!(target("FIRSTLIGHT_SERVER_TLS_CERT"), Target::Key("server", "tls_cert".into()));
        assert_eq!(target("FIRSTLIGHT_UPSTREAM_12_AUTH_HOSTS"), Target::Upstream(12, "auth_hosts".into()));
        for foreign in ["PATH", "FIRSTLIGHT_CONFIG", "FIRSTLIGHT_SERVICE_HOST", "FIRSTLIGHT_SERVICE_PORT_HTTP"]
            .into_iter()
            .chain(["FIRSTLIGHT_PORT", "FIRSTLIGHT_PORT_5080_TCP", "FIRSTLIGHT_PORT_5080_TCP_ADDR"])
            .chain(["FIRSTLIGHT_SERVER_PORT", "FIRSTLIGHT_CACHE_SERVICE_HOST", "FIRSTLIGHT_ADMIN_PORT_1_TCP_PORT"])
        {
            assert_eq!(target(foreign), Target::Foreign, "{foreign}");
        }
        for unknown in
            ["FIRSTLIGHT_X", "FIRSTLIGHT_SERVR_LISTEN", "FIRSTLIGHT_UPSTREAM_NAME", "FIRSTLIGHT_UPSTREAM_-1_X"]
        {
            assert_eq!(target(unknown), Target::Unknown, "{unknown}");
        }
    }

    #[test]
    fn the_tenth_upstream_follows_the_ninth() {
        let order = order("FIRSTLIGHT_UPSTREAM_10_NAME").cmp(&order("FIRSTLIGHT_UPSTREAM_9_NAME"));
        assert_eq!(order, std::cmp::Ordering::Greater);
    }
}
