//! What a proxy stands on here: a database and a bucket of its own, on servers that live longer than it.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use e2e::{Node, Postgres, Proxy, ProxyOptions, Relay, Scratch, Seaweed, program, run};

/// An empty database and an empty bucket.
#[derive(Debug)]
pub(crate) struct Backing {
    catalog: String,
    endpoint: String,
    bucket: String,
}

impl Backing {
    /// Makes both, the database without a schema.
    pub(crate) fn bare(postgres: &Postgres, seaweed: &Seaweed) -> Self {
        static BUCKETS: AtomicU32 = AtomicU32::new(0);
        let bucket = format!("blobs-{}", BUCKETS.fetch_add(1, Ordering::Relaxed));
        seaweed.make_bucket(&bucket).unwrap();
        Self { catalog: postgres.database().unwrap(), endpoint: seaweed.endpoint(), bucket }
    }

    /// Makes both, the database with the schema that `firstlight migrate` gives it.
    pub(crate) fn new(postgres: &Postgres, seaweed: &Seaweed) -> Self {
        let backing = Self::bare(postgres, seaweed);
        backing.migrate();
        backing
    }

    /// Runs `firstlight migrate` and returns what it printed.
    pub(crate) fn migrate(&self) -> String {
        let scratch = Scratch::new().unwrap();
        let mut command = Command::new(program().unwrap());
        command.arg("migrate").env("FIRSTLIGHT_CATALOG_URL", &self.catalog).current_dir(scratch.path());
        run(&mut command).unwrap()
    }

    /// Returns the bucket's name.
    pub(crate) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Returns options of a proxy on both, in the estargz view; `cache` is the size of its disk cache.
    pub(crate) fn options(&self, upstream: &Relay, cache: &str) -> ProxyOptions {
        let config = format!(
            "[storage]\nbackend = \"s3\"\nbucket = \"{}\"\nendpoint = \"{}\"\nregion = \"us-east-1\"\npath_style = true\n\
             [cache]\ndisk_cache_size = \"{cache}\"\ntag_ttl = \"1h\"\n[convert]\nwait = \"120s\"\n",
            self.bucket, self.endpoint
        );
        let options = ProxyOptions::new(upstream.at()).view("estargz").config(&config).catalog(&self.catalog);
        options.env("AWS_ACCESS_KEY_ID", Seaweed::ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", Seaweed::SECRET_KEY)
    }

    /// Starts a proxy with [`Backing::options`] and a new, empty `storage.path`.
    pub(crate) fn proxy(&self, upstream: &Relay, cache: &str) -> Proxy {
        Proxy::start(&Node::Machine, self.options(upstream, cache)).unwrap()
    }
}
