//! [`Mark`]: what was done to the catalog as a whole, or is under way.

use crate::query::query;
use crate::{Catalog, CatalogError};

/// What was done to the catalog as a whole, or is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Everything recorded before meta objects were written has its own now.
    Noted,
    /// A rebuild was begun and has not ended: rows may be missing.
    Rebuilding,
}

impl Mark {
    const fn name(self) -> &'static str {
        match self {
            Self::Noted => "noted",
            Self::Rebuilding => "rebuilding",
        }
    }
}

impl Catalog {
    /// Sets `mark`; nothing changes when it is set.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn mark(&self, mark: Mark) -> Result<(), CatalogError> {
        let mut session = self.writing("set a mark").await?;
        let insert =
            session.timed("INSERT INTO marks (name, marked_at) VALUES ($1, {now}) ON CONFLICT (name) DO NOTHING");
        session.run(insert.bind(mark.name())).await?;
        Ok(())
    }

    /// Removes `mark`; no error when it is not set. When this returns, a power cut undoes neither this nor any call
    /// before it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unmark(&self, mark: Mark) -> Result<(), CatalogError> {
        let mut tx = self.begin_synced("remove a mark").await?;
        tx.run(query("DELETE FROM marks WHERE name = $1").bind(mark.name())).await?;
        tx.commit().await
    }

    /// Tells whether `mark` is set.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_marked(&self, mark: Mark) -> Result<bool, CatalogError> {
        let select = query("SELECT name FROM marks WHERE name = $1").bind(mark.name());
        let found: Option<(String,)> = self.reading("look up a mark").await?.optional(select).await?;
        Ok(found.is_some())
    }
}
