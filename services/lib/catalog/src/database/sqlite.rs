//! [`SqlitePools`]: the connections to an SQLite file.

use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::session::Connection;
use crate::{CatalogError, SchemaStep, schema};

/// Reads that run at once; more wait their turn.
const READERS: u32 = 4;
/// How long a call waits for a connection before it fails as transient.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement waits for another process's write to end before it fails as transient.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The write-ahead log is cut back to this many bytes after a checkpoint.
const LOG_LIMIT: &str = "67108864";

/// The connections to an SQLite file: one writes, a few read.
#[derive(Debug)]
pub(super) struct SqlitePools {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqlitePools {
    /// Opens the file at `path`, making it and its folder if there is none, and brings its schema up to date. Returns
    /// the steps that its schema lacked, too.
    pub(super) async fn open(path: &Path) -> Result<(Self, Vec<SchemaStep>), CatalogError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            tokio::fs::create_dir_all(folder)
                .await
                .map_err(|source| CatalogError::Folder { path: folder.to_owned(), source })?;
        }
        // NORMAL: a commit survives the death of the process at once, and a power cut once the log was next synced
        // (a power cut takes away the newest commits, never half of one). What such a loss costs is asked of the
        // upstream again or converted again to the same bytes. Commits that must not be lost use `begin_synced`.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .synchronous(SqliteSynchronous::Normal);
        let writing = options
            .clone()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .pragma("journal_size_limit", LOG_LIMIT);
        let failed = CatalogError::of("open the database");
        let writer = pool(1).connect_with(writing).await.map_err(&failed)?;
        let missing = schema::migrate_sqlite(&mut *writer.acquire().await.map_err(&failed)?).await?;
        let readers = pool(READERS).connect_with(options.pragma("query_only", "ON")).await.map_err(&failed)?;
        Ok((Self { writer, readers }, missing))
    }

    pub(super) async fn reader(&self) -> Result<Connection, sqlx::Error> {
        self.readers.acquire().await.map(Connection::Sqlite)
    }

    pub(super) async fn writer(&self) -> Result<Connection, sqlx::Error> {
        self.writer.acquire().await.map(Connection::Sqlite)
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn pool(size: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(size)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A file does not hang up: connections live as long as the catalog.
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}
