//! [`Catalog`]: the database, open.

mod postgres;
mod sqlite;

use std::sync::{Arc, OnceLock};

use crate::session::Session;
use crate::watch::{Listener, Notes};
use crate::{CatalogError, CatalogUrl, SchemaStep};
pub(crate) use postgres::Health;
use postgres::PostgresPools;
use sqlite::SqlitePools;

/// All that is known about stored bytes. Clones share the connections.
///
/// A read sees every write that was answered before it began. Other processes may use the same database.
#[derive(Debug, Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pools: Pools,
    notes: Notes,
    /// Started by the first [`Catalog::conversions`].
    listener: OnceLock<Listener>,
}

#[derive(Debug)]
enum Pools {
    Sqlite(SqlitePools),
    Postgres(PostgresPools),
}

impl Catalog {
    /// Opens the database at `url`.
    ///
    /// An SQLite file and its folder are made if there are none, and its schema is brought up to date. A PostgreSQL
    /// database must be there with the schema of this version: [`Catalog::migrate`] makes it.
    ///
    /// # Errors
    /// [`CatalogError::SchemaOlder`] (PostgreSQL), [`CatalogError::SchemaNewer`], [`CatalogError::SchemaOther`]; else
    /// what the system or the database answered.
    pub async fn open(url: &CatalogUrl) -> Result<Self, CatalogError> {
        let pools = match url {
            CatalogUrl::Sqlite(path) => Pools::Sqlite(SqlitePools::open(path).await?.0),
            CatalogUrl::Postgres(url) => Pools::Postgres(PostgresPools::open(url).await?),
        };
        Ok(Self { inner: Arc::new(Inner { pools, notes: Notes::new(), listener: OnceLock::new() }) })
    }

    /// Brings the schema at `url` up to date and returns the steps that were missing, in order. Any number of processes
    /// may do so at once, beside others that use the database: a release only adds to the schema.
    ///
    /// # Errors
    /// As [`Catalog::open`], but for an older schema.
    pub async fn migrate(url: &CatalogUrl) -> Result<Vec<SchemaStep>, CatalogError> {
        match url {
            CatalogUrl::Sqlite(path) => {
                let (pools, missing) = SqlitePools::open(path).await?;
                pools.close().await;
                Ok(missing)
            }
            CatalogUrl::Postgres(url) => postgres::migrate(url).await,
        }
    }

    /// Ends all connections after their running calls; SQLite folds its write-ahead log into the database file. Later
    /// calls fail. Dropping the last clone ends them too, without waiting.
    pub async fn close(&self) {
        if let Some(listener) = self.inner.listener.get() {
            listener.stop();
        }
        match &self.inner.pools {
            Pools::Sqlite(pools) => pools.close().await,
            Pools::Postgres(pools) => pools.close().await,
        }
    }

    /// Returns a session that reads, for a call that would `action`.
    pub(crate) async fn reading(&self, action: &'static str) -> Result<Session, CatalogError> {
        let connection = match &self.inner.pools {
            // Boxed for the same reason as a session's statements.
            Pools::Sqlite(pools) => Box::pin(pools.reader()).await,
            Pools::Postgres(pools) => Box::pin(pools.connection()).await,
        };
        let connection = connection.map_err(CatalogError::of(action))?;
        Ok(Session::new(connection, action, self.notes().clone()))
    }

    /// Returns a session for single writing statements.
    pub(crate) async fn writing(&self, action: &'static str) -> Result<Session, CatalogError> {
        let connection = match &self.inner.pools {
            Pools::Sqlite(pools) => Box::pin(pools.writer()).await,
            Pools::Postgres(pools) => Box::pin(pools.connection()).await,
        };
        let connection = connection.map_err(CatalogError::of(action))?;
        Ok(Session::new(connection, action, self.notes().clone()))
    }

    /// Returns a session in a transaction that writes.
    pub(crate) async fn begin(&self, action: &'static str) -> Result<Session, CatalogError> {
        let mut session = self.writing(action).await?;
        session.begin().await?;
        Ok(session)
    }

    /// Returns a session in a transaction that writes, whose commit survives a power cut.
    pub(crate) async fn begin_synced(&self, action: &'static str) -> Result<Session, CatalogError> {
        let mut session = self.writing(action).await?;
        session.begin_synced().await?;
        Ok(session)
    }

    pub(crate) fn notes(&self) -> &Notes {
        &self.inner.notes
    }

    /// Begins to hear of other processes, where that is possible.
    pub(crate) fn listen(&self) {
        if let Pools::Postgres(pools) = &self.inner.pools {
            self.inner.listener.get_or_init(|| Listener::start(pools.listening(), self.notes().clone()));
        }
    }
}
