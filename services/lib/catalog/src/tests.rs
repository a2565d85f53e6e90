//! The suite on both databases, and what is each one's own.

mod overtaken;
mod postgres;
mod restart;
mod schema;
mod sqlite;

use std::sync::Arc;
use std::time::Duration;

use api::{Digest, Repository};
use e2e::Postgres;
use sqlx::{Connection, PgConnection};

use crate::{Catalog, CatalogUrl, Watch};

fn home() -> Repository {
    Repository::parse("docker.io/library/python").unwrap()
}

/// Waits until `watch` says that notes may be lost, as it does once the connection that listens is open.
async fn listening(watch: &mut Watch) {
    let nobodys = Digest::of(b"nobody converts this");
    tokio::time::timeout(Duration::from_secs(120), watch.changed(&nobodys))
        .await
        .expect("a watcher is told to look again");
}

/// An empty database of the shared server.
struct Database {
    server: Arc<Postgres>,
    url: String,
}

impl Database {
    fn new() -> Self {
        let server = Postgres::shared().unwrap();
        let url = server.database().unwrap();
        Self { server, url }
    }

    /// Returns one with the newest schema.
    async fn migrated() -> Self {
        let database = Self::new();
        Catalog::migrate(&database.url()).await.unwrap();
        database
    }

    fn url(&self) -> CatalogUrl {
        CatalogUrl::parse(&self.url).unwrap()
    }

    async fn open(&self) -> Catalog {
        Catalog::open(&self.url()).await.unwrap()
    }

    async fn raw(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// Runs statements and returns the rows, a line each.
    fn sql(&self, statements: &str) -> String {
        self.server.sql(&self.url, statements).unwrap()
    }
}
