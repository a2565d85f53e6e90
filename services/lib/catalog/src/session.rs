//! [`Session`]: one connection in one call's hands.

use std::time::Duration;

use api::Digest;
use sqlx::pool::PoolConnection;
use sqlx::{Postgres, Sqlite};

use crate::CatalogError;
use crate::database::Health;
use crate::query::{Fields, Query, query};
use crate::watch::Notes;

/// One connection in one call's hands: for single statements, or for one transaction from
/// [`crate::Catalog::begin`] to [`Session::commit`].
///
/// A session that is dropped with a statement or a transaction unfinished takes its connection with it: closing the
/// connection ends both, whatever state they were in. Else the connection goes back to its pool.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection,
    /// What the call does, for its errors.
    action: &'static str,
    /// A statement or a transaction was begun and has not ended.
    unfinished: bool,
    in_transaction: bool,
    /// The connection syncs its commits until this call has ended (SQLite).
    synced: bool,
    /// Sources whose conversion this transaction ends.
    to_tell: Vec<Digest>,
    /// Bytes of the rows that this transaction adds.
    grown: u64,
    notes: Notes,
}

/// The connection, and what is particular to each database.
#[derive(Debug)]
pub(crate) enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres {
        connection: PoolConnection<Postgres>,
        health: Health,
        /// How long one statement may take, the network included.
        limit: Duration,
    },
}

/// Runs `$work` with the statement's text and values as `$sql` and `$arguments` and the connection as `$on`.
///
/// Boxed, or every future that asks the catalog anywhere below it would be kilobytes larger, whether it does or not: a
/// request's is moved before it runs.
macro_rules! on_connection {
    ($session:expr, $query:expr, |$sql:ident, $arguments:ident, $on:ident| $work:expr) => {{
        let query = $query;
        match &mut $session.connection {
            Connection::Sqlite($on) => {
                let ($sql, $arguments) = query.into_parts::<Sqlite>()?;
                let $on = &mut **$on;
                Box::pin($work).await
            }
            Connection::Postgres { connection: $on, limit, .. } => {
                let ($sql, $arguments) = query.into_parts::<Postgres>()?;
                let $on = &mut **$on;
                // The server has a limit of its own. This one is for a server that does not answer at all.
                tokio::time::timeout(*limit, Box::pin($work)).await.unwrap_or_else(|_| {
                    Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer from the server")))
                })
            }
        }
    }};
}

impl Session {
    pub(crate) fn new(connection: Connection, action: &'static str, notes: Notes) -> Self {
        Self {
            connection,
            action,
            unfinished: false,
            in_transaction: false,
            synced: false,
            to_tell: Vec::new(),
            grown: 0,
            notes,
        }
    }

    /// Lets a statement take no longer than `limit`.
    #[cfg(test)]
    pub(crate) fn limit_to(&mut self, new: std::time::Duration) {
        if let Connection::Postgres { limit, .. } = &mut self.connection {
            *limit = new;
        }
    }

    // --- statements

    /// Runs a statement and returns how many rows it wrote.
    pub(crate) async fn run(&mut self, query: Query) -> Result<u64, CatalogError> {
        self.unfinished = true;
        let done = self.try_run(query).await;
        self.settle(done)
    }

    /// Runs a statement and returns its first row, if any.
    pub(crate) async fn optional<T: Fields>(&mut self, query: Query) -> Result<Option<T>, CatalogError> {
        self.unfinished = true;
        let found = self.try_optional(query).await;
        self.settle(found)
    }

    /// Runs a statement that has a row and returns it.
    pub(crate) async fn one<T: Fields>(&mut self, query: Query) -> Result<T, CatalogError> {
        let action = self.action;
        self.optional(query).await?.ok_or(CatalogError::Database { action, source: sqlx::Error::RowNotFound })
    }

    /// Runs a statement and returns its rows.
    pub(crate) async fn all<T: Fields>(&mut self, query: Query) -> Result<Vec<T>, CatalogError> {
        self.unfinished = true;
        let found = self.try_all(query).await;
        self.settle(found)
    }

    async fn try_run(&mut self, query: Query) -> Result<u64, sqlx::Error> {
        let keep = query.is_worth_keeping();
        on_connection!(self, query, |sql, arguments, on| async {
            Ok(sqlx::query_with(sql, arguments).persistent(keep).execute(on).await?.rows_affected())
        })
    }

    async fn try_optional<T: Fields>(&mut self, query: Query) -> Result<Option<T>, sqlx::Error> {
        let keep = query.is_worth_keeping();
        on_connection!(self, query, |sql, arguments, on| sqlx::query_as_with(sql, arguments)
            .persistent(keep)
            .fetch_optional(on))
    }

    async fn try_all<T: Fields>(&mut self, query: Query) -> Result<Vec<T>, sqlx::Error> {
        let keep = query.is_worth_keeping();
        on_connection!(self, query, |sql, arguments, on| sqlx::query_as_with(sql, arguments)
            .persistent(keep)
            .fetch_all(on))
    }

    /// Notes how a statement ended.
    fn settle<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, CatalogError> {
        let result = result.map_err(CatalogError::of(self.action));
        match (&result, &self.connection) {
            (Err(error), Connection::Postgres { health, .. }) if error.is_disconnect() => health.lost(),
            // The database answered, so the statement has ended; a transaction goes on until commit or rollback.
            (Ok(_) | Err(_), _) => self.unfinished = self.in_transaction,
        }
        result
    }

    // --- what the databases say differently

    /// Returns a statement in which `{now}` is the database's clock: milliseconds since 1970 (UTC).
    pub(crate) fn timed(&self, sql: &str) -> Query {
        self.clocked(query(""), sql)
    }

    /// Appends a piece of SQL in which `{now}` is the database's clock, as [`Session::timed`] has it.
    pub(crate) fn clocked(&self, query: Query, sql: &str) -> Query {
        let now = match self.connection {
            Connection::Sqlite(_) => "CAST(unixepoch('subsec') * 1000 AS BIGINT)",
            // Not the moment when the transaction or the statement began: it may have waited for a lock since.
            Connection::Postgres { .. } => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
        };
        query.push(&sql.replace("{now}", now))
    }

    /// Tells whether there are sequences, which give numbers to many at once.
    pub(crate) const fn has_sequences(&self) -> bool {
        matches!(self.connection, Connection::Postgres { .. })
    }

    /// Returns a `SELECT` whose rows nobody changes or deletes before this transaction ends.
    pub(crate) fn locked(&self, sql: &'static str) -> Query {
        match self.connection {
            // A transaction keeps all other writers out from its beginning.
            Connection::Sqlite(_) => query(sql),
            Connection::Postgres { .. } => query(sql).push(" FOR UPDATE"),
        }
    }

    /// Returns a `SELECT` whose text varies and whose rows nobody changes or deletes before this transaction ends.
    pub(crate) fn lock(&self, select: Query) -> Query {
        match self.connection {
            Connection::Sqlite(_) => select,
            Connection::Postgres { .. } => select.push(" FOR UPDATE"),
        }
    }

    // --- transactions

    /// Begins a transaction.
    pub(crate) async fn begin(&mut self) -> Result<(), CatalogError> {
        self.in_transaction = true;
        self.run(query(match self.connection {
            // Takes the write lock at once: a transaction that began by reading could not be continued if another
            // process wrote in between.
            Connection::Sqlite(_) => "BEGIN IMMEDIATE",
            // Every statement sees what was committed before it began; so what was read may have changed before the
            // next statement, and callers write first (ON CONFLICT, conditional updates) and read afterwards.
            Connection::Postgres { .. } => "BEGIN ISOLATION LEVEL READ COMMITTED",
        }))
        .await?;
        Ok(())
    }

    /// Begins a transaction whose commit survives a power cut; and with it every commit before.
    pub(crate) async fn begin_synced(&mut self) -> Result<(), CatalogError> {
        match self.connection {
            Connection::Sqlite(_) => {
                self.synced = true;
                self.run(query("PRAGMA synchronous = FULL")).await?;
                self.begin().await
            }
            Connection::Postgres { .. } => {
                self.begin().await?;
                // Where the server's own setting would not do it.
                let sync = "SELECT set_config('synchronous_commit', 'on', true) \
                            WHERE current_setting('synchronous_commit') = 'off'";
                self.run(query(sync)).await?;
                Ok(())
            }
        }
    }

    /// Has everybody who watches the conversion of `source` told that it ended, once this transaction is committed.
    pub(crate) async fn tell_ended(&mut self, source: &Digest) -> Result<(), CatalogError> {
        self.to_tell.push(source.clone());
        if matches!(self.connection, Connection::Postgres { .. }) {
            // The server sends it on with the commit, or never.
            self.run(query("SELECT pg_notify($1, $2)").bind(crate::watch::CHANNEL).bind(source)).await?;
        }
        Ok(())
    }

    /// Counts bytes that are recorded as stored once this transaction is committed.
    pub(crate) fn grew(&mut self, bytes: u64) {
        self.grown = self.grown.saturating_add(bytes);
    }

    /// Commits the transaction.
    pub(crate) async fn commit(mut self) -> Result<(), CatalogError> {
        self.finish("COMMIT").await?;
        // Watchers in this process do not wait for the way through the server.
        self.to_tell.drain(..).for_each(|source| self.notes.ended(source));
        self.notes.grew(std::mem::take(&mut self.grown));
        self.relax().await
    }

    /// Rolls the transaction back and returns the session for further statements.
    pub(crate) async fn rollback(mut self) -> Result<Self, CatalogError> {
        self.finish("ROLLBACK").await?;
        self.to_tell.clear();
        self.grown = 0;
        self.relax().await?;
        Ok(self)
    }

    async fn finish(&mut self, sql: &'static str) -> Result<(), CatalogError> {
        self.run(query(sql)).await?;
        self.in_transaction = false;
        self.unfinished = false;
        Ok(())
    }

    /// Undoes what [`Session::begin_synced`] set. If it is left out (a dropped future, an error), the connection is closed or
    /// later commits are only slower.
    async fn relax(&mut self) -> Result<(), CatalogError> {
        if std::mem::take(&mut self.synced) {
            self.run(query("PRAGMA synchronous = NORMAL")).await?;
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.unfinished {
            match &mut self.connection {
                Connection::Sqlite(connection) => connection.close_on_drop(),
                Connection::Postgres { connection, .. } => connection.close_on_drop(),
            }
        }
    }
}
