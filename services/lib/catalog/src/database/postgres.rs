//! [`PostgresPools`]: the connections to a PostgreSQL database.

mod health;

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::session::Connection;
use crate::url::PostgresUrl;
use crate::{CatalogError, SchemaStep, schema};
pub(crate) use health::Health;

/// Connections for calls; more calls wait their turn. With the one that listens, a process has one more.
const CONNECTIONS: u32 = 16;
/// How long a call waits for a connection before it fails as transient; and how long opening the first may take.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was idle for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// A connection is closed at this age, so that a server that was added or moved gets its share.
const MAX_LIFETIME: Duration = Duration::from_secs(1800);
/// How long a statement may run before the server cancels it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a statement waits for another transaction's lock before the server cancels it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server keeps the locks of a transaction whose process is gone or hangs between two statements.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a call waits for the server's answer to a statement: its own limit, and some time on the network.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a migration may run, and wait for another process's.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(900);

/// The connections to a PostgreSQL database.
#[derive(Debug)]
pub(super) struct PostgresPools {
    pool: PgPool,
    /// For the one connection that listens.
    listening: PgPool,
    health: Health,
}

impl PostgresPools {
    /// Connects, and checks that the schema is this version's.
    pub(super) async fn open(url: &PostgresUrl) -> Result<Self, CatalogError> {
        let options = limited(options(url)?, STATEMENT_TIMEOUT, LOCK_TIMEOUT);
        // One connection by hand: a pool would try until its time-out and then not say why.
        let mut first = connect(&options).await?;
        let applied = schema::applied_postgres(&mut first).await?;
        schema::require(&schema::missing(&schema::POSTGRES, &applied)?)?;
        // The answer to a farewell does not matter.
        let _ = first.close().await;
        let health = Health::new();
        let pool = health.watch_over(pool(CONNECTIONS)).connect_lazy_with(options.clone());
        let listening = pool_of_one().connect_lazy_with(options);
        Ok(Self { pool, listening, health })
    }

    pub(super) async fn connection(&self) -> Result<Connection, sqlx::Error> {
        let connection = self.pool.acquire().await?;
        Ok(Connection::Postgres { connection, health: self.health.clone(), limit: CALL_TIMEOUT })
    }

    /// Returns the pool of the one connection that listens.
    pub(super) fn listening(&self) -> PgPool {
        self.listening.clone()
    }

    pub(super) async fn close(&self) {
        self.listening.close().await;
        self.pool.close().await;
    }
}

/// Brings the schema up to date, on a connection of its own; returns the steps that this call applied.
pub(super) async fn migrate(url: &PostgresUrl) -> Result<Vec<SchemaStep>, CatalogError> {
    let options = limited(options(url)?, MIGRATION_TIMEOUT, MIGRATION_TIMEOUT);
    let mut connection = connect(&options).await?;
    let steps = schema::migrate_postgres(&mut connection).await;
    let _ = connection.close().await;
    steps
}

fn options(url: &PostgresUrl) -> Result<PgConnectOptions, CatalogError> {
    url.options().map_err(CatalogError::of("read the catalog's URL"))
}

/// Returns `options` with the server's limits on what one connection may do.
fn limited(options: PgConnectOptions, statement: Duration, lock: Duration) -> PgConnectOptions {
    let milliseconds = |limit: Duration| limit.as_millis().to_string();
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("firstlight"),
    };
    options.options([
        ("statement_timeout", milliseconds(statement)),
        ("lock_timeout", milliseconds(lock)),
        ("idle_in_transaction_session_timeout", milliseconds(IDLE_IN_TRANSACTION_TIMEOUT)),
    ])
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, CatalogError> {
    let connected = tokio::time::timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(options)).await;
    connected.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(CatalogError::of("connect to the database"))
}

fn pool(size: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .max_lifetime(MAX_LIFETIME)
}

fn pool_of_one() -> PgPoolOptions {
    // The listener finds out by itself whether its connection lives.
    pool(1).idle_timeout(None).max_lifetime(None).test_before_acquire(false)
}
