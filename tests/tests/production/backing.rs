//! What a proxy stands on here: a database and a bucket of its own, on servers that live longer than it.

use e2e::{Node, Postgres, Proxy, ProxyOptions, Relay, Seaweed};

/// An empty database and an empty bucket, for proxies in the estargz view.
#[derive(Debug)]
pub(crate) struct Backing(e2e::Backing);

impl Backing {
    /// Makes both, the database without a schema.
    pub(crate) fn bare(postgres: &Postgres, seaweed: &Seaweed) -> Self {
        Self(e2e::Backing::bare(postgres, seaweed).unwrap())
    }

    /// Makes both, the database with the schema that `firstlight migrate` gives it.
    pub(crate) fn new(postgres: &Postgres, seaweed: &Seaweed) -> Self {
        Self(e2e::Backing::new(postgres, seaweed).unwrap())
    }

    /// Drops the database with all that is in it, and makes an empty one of the same name.
    pub(crate) fn lose_catalog(&self, postgres: &Postgres) {
        self.0.lose_catalog(postgres).unwrap();
    }

    /// Runs `firstlight` with these arguments and variables on both, beside whatever serves from them, and returns what it
    /// printed.
    pub(crate) fn run(&self, variables: &[(&str, &str)], arguments: &[&str]) -> String {
        self.0.run(variables, arguments).unwrap()
    }

    /// Runs statements on the database and returns the rows, a line each, their columns separated by `|`.
    pub(crate) fn sql(&self, statements: &str) -> String {
        self.0.sql(statements).unwrap()
    }

    /// Returns the names of the bucket's objects below `blobs/` and `tocs/` with their sizes, sorted.
    pub(crate) fn listing(&self) -> Vec<(String, u64)> {
        let is_blob = |name: &str| name.starts_with("blobs/") || name.starts_with("tocs/");
        let mut objects = self.0.listing().unwrap();
        objects.retain(|(name, _)| is_blob(name));
        objects
    }

    /// Runs `firstlight migrate` and returns what it printed.
    pub(crate) fn migrate(&self) -> String {
        self.0.migrate().unwrap()
    }

    /// Returns the bucket's name.
    pub(crate) fn bucket(&self) -> &str {
        self.0.bucket()
    }

    /// Returns the options of a proxy that stands on both.
    pub(crate) fn under(&self, options: ProxyOptions) -> ProxyOptions {
        self.0.under(options)
    }

    /// Returns options of a proxy on both; `cache` is the size of its disk cache.
    pub(crate) fn options(&self, upstream: &Relay, cache: &str) -> ProxyOptions {
        self.0.under(estargz(ProxyOptions::new(upstream.at()), cache))
    }

    /// Starts a proxy with [`Backing::options`] and a new, empty `storage.path`.
    pub(crate) fn proxy(&self, upstream: &Relay, cache: &str) -> Proxy {
        Proxy::start(&Node::Machine, self.options(upstream, cache)).unwrap()
    }
}

/// Sets the estargz view, which is waited for; tags that are not asked for again; and the size of the disk cache.
pub(crate) fn estargz(options: ProxyOptions, cache: &str) -> ProxyOptions {
    let config = format!("[cache]\ndisk_cache_size = \"{cache}\"\ntag_ttl = \"1h\"\n[convert]\nwait = \"120s\"\n");
    options.view("estargz").config(&config)
}
