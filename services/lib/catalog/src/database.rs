//! [`Catalog`]: the database, open.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};

use crate::CatalogError;

static MIGRATIONS: Migrator = sqlx::migrate!("../../../migrations");

/// Reads that run at once; more wait their turn.
const READERS: u32 = 4;
/// How long a call waits for a connection before it fails as transient.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement waits for another process's write to end before it fails as transient.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The write-ahead log is cut back to this many bytes after a checkpoint.
const LOG_LIMIT: &str = "67108864";

/// All that is known about stored bytes. Clones share the connections.
///
/// One connection writes, a few read; a read sees every write that was answered before it began. Other processes may
/// use the same file.
#[derive(Debug, Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Catalog {
    /// Opens the database at `url` (`sqlite:PATH`), making the file and its folder if there is none, and brings its
    /// schema up to date.
    ///
    /// # Errors
    /// [`CatalogError::Url`] and [`CatalogError::NotBuilt`] for what is no such URL; else what the system or the
    /// database answered.
    pub async fn open(url: &str) -> Result<Self, CatalogError> {
        let path = sqlite_path(url)?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            tokio::fs::create_dir_all(folder)
                .await
                .map_err(|source| CatalogError::Folder { path: folder.to_owned(), source })?;
        }
        // NORMAL: a commit survives the death of the process at once, and a power cut once the log was next synced
        // (a power cut takes away the newest commits, never half of one). What such a loss costs is asked of the
        // upstream again or converted again to the same bytes. Commits that must not be lost use `begin_durable`.
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
        MIGRATIONS.run(&writer).await.map_err(CatalogError::Migrate)?;
        let readers = pool(READERS).connect_with(options.pragma("query_only", "ON")).await.map_err(&failed)?;
        Ok(Self { inner: Arc::new(Inner { writer, readers }) })
    }

    /// Ends all connections after their running calls, and folds the write-ahead log into the database file. Later
    /// calls fail. Dropping the last clone ends them too, without waiting.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        self.inner.writer.close().await;
    }

    /// Returns the connections for reading.
    pub(crate) fn readers(&self) -> &SqlitePool {
        &self.inner.readers
    }

    /// Returns the connection for single writing statements.
    pub(crate) fn writer(&self) -> &SqlitePool {
        &self.inner.writer
    }

    /// Begins a transaction that writes. It takes the write lock at once: one that began by reading could not be
    /// continued if another process wrote in between.
    pub(crate) async fn begin(&self, action: &'static str) -> Result<Transaction<'static, Sqlite>, CatalogError> {
        self.inner.writer.begin_with("BEGIN IMMEDIATE").await.map_err(CatalogError::of(action))
    }

    /// Returns the writing connection for a transaction whose commit survives a power cut; and with it, since the
    /// log is synced as a whole, every commit before. Hand it to [`relax`] afterwards; if that is left out (a
    /// dropped future, an error), later commits are only slower.
    pub(crate) async fn durable(&self, action: &'static str) -> Result<PoolConnection<Sqlite>, CatalogError> {
        let failed = CatalogError::of(action);
        let mut connection = self.inner.writer.acquire().await.map_err(&failed)?;
        sqlx::query("PRAGMA synchronous = FULL").execute(&mut *connection).await.map_err(&failed)?;
        Ok(connection)
    }
}

/// Undoes what [`Catalog::durable`] set.
pub(crate) async fn relax(mut connection: PoolConnection<Sqlite>, action: &'static str) -> Result<(), CatalogError> {
    let statement = sqlx::query("PRAGMA synchronous = NORMAL");
    statement.execute(&mut *connection).await.map_err(CatalogError::of(action))?;
    Ok(())
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

fn sqlite_path(url: &str) -> Result<&Path, CatalogError> {
    if ["postgres:", "postgresql:"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(CatalogError::NotBuilt { kind: "PostgreSQL" });
    }
    let rest = url.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
    match rest {
        // Two pools of an in-memory database would be two databases.
        Some(path) if !path.is_empty() && path != ":memory:" => Ok(Path::new(path)),
        _ => Err(CatalogError::Url { url: redact(url) }),
    }
}

/// Returns the scheme of `url` only, when it could hold credentials.
fn redact(url: &str) -> String {
    if url.contains('@') { format!("{}:…", url.split(':').next().unwrap_or_default()) } else { url.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_files() {
        assert_eq!(sqlite_path("sqlite:a/b.db").unwrap(), Path::new("a/b.db"));
        assert_eq!(sqlite_path("sqlite:///var/lib/x.db").unwrap(), Path::new("/var/lib/x.db"));
        for bad in ["", "sqlite:", "sqlite://", "sqlite::memory:", "/var/lib/x.db", "mysql://h/d"] {
            assert!(matches!(sqlite_path(bad), Err(CatalogError::Url { .. })), "{bad} was accepted");
        }
        assert!(matches!(sqlite_path("postgres://h/d"), Err(CatalogError::NotBuilt { .. })));
        let told = sqlite_path("mysql://user:secret@h/d").unwrap_err().to_string();
        assert!(!told.contains("secret"), "{told}");
    }
}
