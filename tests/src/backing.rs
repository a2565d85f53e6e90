//! What production proxies stand on: a database and a bucket of their own.

use std::net::SocketAddrV4;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use crate::{Node, Postgres, ProxyOptions, Scratch, Seaweed, postgres, program, run, web};

/// An empty database and an empty bucket, on servers that live longer than whoever stands on them.
#[derive(Clone, Debug)]
pub struct Backing {
    catalog: String,
    catalog_at: SocketAddrV4,
    bucket: String,
    bucket_at: SocketAddrV4,
    /// The shared server runs as long as somebody holds it.
    _postgres: Option<Arc<Postgres>>,
}

impl Backing {
    /// Makes both, the database without a schema.
    ///
    /// # Errors
    /// One of the servers refused.
    pub fn bare(postgres: &Postgres, seaweed: &Seaweed) -> Result<Self> {
        static BUCKETS: AtomicU32 = AtomicU32::new(0);
        let bucket = format!("blobs-{}", BUCKETS.fetch_add(1, Ordering::Relaxed));
        seaweed.make_bucket(&bucket)?;
        let catalog = postgres.database()?;
        Ok(Self { catalog, catalog_at: postgres.at(), bucket, bucket_at: seaweed.at(), _postgres: None })
    }

    /// Makes both, the database with the schema that `firstlight migrate` gives it.
    ///
    /// # Errors
    /// One of the servers refused, or `migrate` failed.
    pub fn new(postgres: &Postgres, seaweed: &Seaweed) -> Result<Self> {
        let backing = Self::bare(postgres, seaweed)?;
        backing.migrate()?;
        Ok(backing)
    }

    /// Makes both on the servers that the tests of this process share.
    ///
    /// # Errors
    /// As [`Backing::new`].
    pub fn shared() -> Result<Self> {
        let postgres = Postgres::shared()?;
        let backing = Self::new(&postgres, Seaweed::shared()?)?;
        Ok(Self { _postgres: Some(postgres), ..backing })
    }

    /// Runs `firstlight migrate` and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error carries its output.
    pub fn migrate(&self) -> Result<String> {
        self.run(&[], &["migrate"])
    }

    /// Runs the program with these variables and arguments on both, beside whatever serves from them, and returns what it
    /// printed.
    ///
    /// # Errors
    /// It failed; the error carries its output.
    pub fn run(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Result<String> {
        let scratch = Scratch::new()?;
        let mut command = Command::new(program()?);
        command.args(arguments).envs(variables.iter().copied()).envs(self.variables()).current_dir(scratch.path());
        run(&mut command)
    }

    /// Drops the database with all that is in it, and makes an empty one of the same name.
    ///
    /// # Errors
    /// The server refused.
    pub fn lose_catalog(&self, postgres: &Postgres) -> Result<()> {
        let name = self.catalog.rsplit('/').next().context("a catalog without a name")?;
        postgres.sql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)"))?;
        postgres.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(())
    }

    /// Returns the bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Returns the addresses of the servers.
    pub(crate) fn servers(&self) -> [SocketAddrV4; 2] {
        [self.catalog_at, self.bucket_at]
    }

    /// Returns the options of a proxy that stands on this, by variables of its environment.
    pub fn under(&self, options: ProxyOptions) -> ProxyOptions {
        self.variables().iter().fold(options, |options, (name, value)| options.env(name, value))
    }

    fn variables(&self) -> [(&'static str, String); 8] {
        [
            ("FIRSTLIGHT_CATALOG_URL", self.catalog.clone()),
            ("FIRSTLIGHT_STORAGE_BACKEND", "s3".into()),
            ("FIRSTLIGHT_STORAGE_BUCKET", self.bucket.clone()),
            ("FIRSTLIGHT_STORAGE_ENDPOINT", format!("http://{}", self.bucket_at)),
            ("FIRSTLIGHT_STORAGE_REGION", "us-east-1".into()),
            ("FIRSTLIGHT_STORAGE_PATH_STYLE", "true".into()),
            ("AWS_ACCESS_KEY_ID", Seaweed::ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", Seaweed::SECRET_KEY.into()),
        ]
    }

    /// Runs SQL on the database and returns the rows, a line each, their columns separated by `|`.
    ///
    /// # Errors
    /// The server refused.
    pub fn sql(&self, statement: &str) -> Result<String> {
        postgres::sql(&self.catalog, statement)
    }

    /// Returns the names of all objects in the bucket; at most 1000.
    ///
    /// # Errors
    /// The server refused, or there are more.
    pub fn objects(&self) -> Result<Vec<String>> {
        Ok(self.listing()?.into_iter().map(|(name, _)| name).collect())
    }

    /// Returns the names and sizes of all objects in the bucket, sorted; at most 1000.
    ///
    /// # Errors
    /// As [`Backing::objects`].
    pub fn listing(&self) -> Result<Vec<(String, u64)>> {
        let objects = self.list("list-type=2", "Contents")?;
        let mut objects = objects
            .iter()
            .map(|object| Ok((field(object, "Key")?, field(object, "Size")?.parse()?)))
            .collect::<Result<Vec<_>>>()?;
        objects.sort();
        Ok(objects)
    }

    /// Returns the names of the objects whose uploads were begun and neither completed nor aborted; at most 1000.
    ///
    /// # Errors
    /// The server refused, or there are more.
    pub fn uploads(&self) -> Result<Vec<String>> {
        self.list("uploads", "Upload")?.iter().map(|upload| field(upload, "Key")).collect()
    }

    /// Asks for a listing and returns each `element`.
    fn list(&self, query: &str, element: &str) -> Result<Vec<String>> {
        let path = format!("/{}?{query}", self.bucket);
        let answer = web::request(&Node::Machine, self.bucket_at, "GET", &path, &[])?;
        let text = answer.text();
        ensure!(answer.status.is_success(), "{path}: {} {text}", answer.status);
        ensure!(!text.contains("<IsTruncated>true"), "{path}: more than one page");
        let begin = format!("<{element}>");
        Ok(text.split(&begin).skip(1).map(str::to_owned).collect())
    }
}

/// Returns what stands in the first field called `name`.
fn field(element: &str, name: &str) -> Result<String> {
    let field = element.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once('<'));
    Ok(field.with_context(|| format!("no {name} in {element}"))?.0.to_owned())
}
