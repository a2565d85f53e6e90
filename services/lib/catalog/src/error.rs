//! [`CatalogError`]: what can go wrong with rows.

use std::path::PathBuf;

use api::Digest;
use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgDatabaseError;

use crate::{SchemaStep, Work};

/// Why the catalog did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The URL names no database that there can be.
    #[error("`{url}` is no catalog: {problem}")]
    Url {
        /// The URL given, without what a password could be in.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The database file's folder cannot be made.
    #[error("cannot make the directory {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The database's schema cannot be brought up to date.
    #[error("cannot bring the schema up to date")]
    Migrate(#[source] MigrateError),
    /// The schema lacks what this version needs. Only PostgreSQL; SQLite's is brought up to date when it is opened.
    #[error(
        "the schema is older than this version: it lacks {missing}; run `firstlight migrate` with this configuration"
    )]
    SchemaOlder {
        /// The first migration it lacks, and how many more.
        missing: String,
    },
    /// The schema is of a later version.
    #[error("the schema is newer than this version: it has {unknown}; use the version that made it or a later one")]
    SchemaNewer {
        /// The first migration that this version does not know.
        unknown: SchemaStep,
    },
    /// The schema was made by another text of a migration than this version's.
    #[error("{step} was made by another text than this version has; use the version that made it")]
    SchemaOther {
        /// The migration.
        step: SchemaStep,
    },
    /// The database refused or failed a statement.
    #[error("cannot {action}")]
    Database {
        /// What was tried.
        action: &'static str,
        /// The database's answer.
        source: sqlx::Error,
    },
    /// A row holds what no version of this program writes.
    #[error("column {column} holds `{value}`")]
    Corrupt {
        /// Table and column.
        column: &'static str,
        /// What it holds.
        value: String,
        /// What its parser says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A conversion that was never begun cannot end.
    #[error("no conversion of {layer} under profile {profile} was begun")]
    NotBegun {
        /// The source layer.
        layer: Digest,
        /// The id of the profile.
        profile: String,
    },
    /// The lease is another process's now, or was ended; nothing was changed.
    #[error("the lease for the {work} is lost")]
    LeaseLost {
        /// What it was the right to.
        work: Work,
    },
    /// A number is larger than a database can hold (2⁶³ − 1).
    #[error("{what} of {value} is too large")]
    TooLarge {
        /// What was to be written.
        what: &'static str,
        /// The number.
        value: u64,
    },
}

impl CatalogError {
    /// Returns the function that makes the error for a failed attempt to `action`.
    pub(crate) fn of(action: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| Self::Database { action, source }
    }

    /// Tells whether the same call may succeed a little later without anybody changing anything: the database was
    /// busy, every connection was in use, or the server went away. Of a call that wrote, it may have taken effect.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database { source: sqlx::Error::PoolTimedOut, .. } => true,
            Self::Database { source: sqlx::Error::Database(error), .. } => is_busy(&**error),
            Self::Database { source, .. } => is_connection_lost(source),
            Self::Url { .. }
            | Self::Folder { .. }
            | Self::Migrate(_)
            | Self::SchemaOlder { .. }
            | Self::SchemaNewer { .. }
            | Self::SchemaOther { .. }
            | Self::Corrupt { .. }
            | Self::NotBegun { .. }
            | Self::LeaseLost { .. }
            | Self::TooLarge { .. } => false,
        }
    }

    /// Tells whether the server ended the connection or does not answer on it; others may have ended with it.
    pub(crate) fn is_disconnect(&self) -> bool {
        match self {
            Self::Database { source: sqlx::Error::Database(error), .. } => sql_state(&**error).is_some_and(is_ending),
            Self::Database { source, .. } => is_connection_lost(source),
            _ => false,
        }
    }
}

/// Tells whether the connection broke under a call.
fn is_connection_lost(error: &sqlx::Error) -> bool {
    match error {
        // A certificate that is not to be trusted.
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::InvalidData,
        // What a server that was killed in the middle of a message leaves.
        sqlx::Error::Protocol(_) => true,
        _ => false,
    }
}

/// Returns the five characters by which PostgreSQL names what happened; `None` for another database's error.
fn sql_state(error: &dyn DatabaseError) -> Option<&str> {
    error.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::code)
}

/// Tells whether SQLite says `SQLITE_BUSY` (5) or `SQLITE_LOCKED` (6) (the low byte of an extended code is the code),
/// or PostgreSQL what passes by itself. Its codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn is_busy(error: &dyn DatabaseError) -> bool {
    match sql_state(error) {
        // Serialization failure, deadlock, lock not available, statement time-out; resources (class 53: connections,
        // memory, disk).
        Some("40001" | "40P01" | "55P03" | "57014") => true,
        Some(state) => state.starts_with("53") || is_ending(state),
        None => error.code().and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| matches!(code & 0xff, 5 | 6)),
    }
}

/// Tells whether PostgreSQL ends the connection with this: connection exceptions (class 08), shutdown, crash of another
/// session, starting up, time-outs of idle sessions and transactions. Or whether it is of no use any more: a server
/// that only reads is a standby now, after a failover.
fn is_ending(state: &str) -> bool {
    state.starts_with("08") || matches!(state, "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25006")
}
