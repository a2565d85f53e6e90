//! [`CatalogError`]: what can go wrong with rows.

use std::path::PathBuf;

use api::Digest;
use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;

/// Why the catalog did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The URL names no database that there is.
    #[error("`{url}` is no catalog, use sqlite:PATH")]
    Url {
        /// The URL given, without what a password could be in.
        url: String,
    },
    /// The URL names a kind of database that this version cannot use.
    #[error("{kind} is not built yet, use sqlite:PATH")]
    NotBuilt {
        /// The kind of database.
        kind: &'static str,
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
    /// busy, or every connection was in use.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database { source: sqlx::Error::PoolTimedOut, .. } => true,
            Self::Database { source: sqlx::Error::Database(error), .. } => is_busy(&**error),
            Self::Database { .. }
            | Self::Url { .. }
            | Self::NotBuilt { .. }
            | Self::Folder { .. }
            | Self::Migrate(_)
            | Self::Corrupt { .. }
            | Self::NotBegun { .. }
            | Self::TooLarge { .. } => false,
        }
    }
}

/// Tells whether SQLite says `SQLITE_BUSY` (5) or `SQLITE_LOCKED` (6); the low byte of an extended code is the code.
fn is_busy(error: &dyn DatabaseError) -> bool {
    error.code().and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| matches!(code & 0xff, 5 | 6))
}
