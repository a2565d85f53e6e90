//! The tie of a catalog to its store.

use crate::query::query;
use crate::{Catalog, CatalogError};

/// Which store a catalog speaks of: the one that has this id, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tie {
    /// A random name.
    pub id: String,
    /// Whether the store has had it: then a store without it is another one.
    pub is_confirmed: bool,
}

impl Catalog {
    /// Returns the catalog's tie, or `None` when there was never one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tie(&self) -> Result<Option<Tie>, CatalogError> {
        let select = query("SELECT id, confirmed FROM tie");
        let found: Option<(String, i64)> = self.reading("look up the store's id").await?.optional(select).await?;
        Ok(found.map(|(id, confirmed)| Tie { id, is_confirmed: confirmed != 0 }))
    }

    /// Gives the catalog a tie that the store is to get next, unless it has one. Of many at once the first stands. When this
    /// returns, a power cut does not undo it: the store would have an id that nobody knows.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn propose_tie(&self, id: &str) -> Result<(), CatalogError> {
        let insert = query("INSERT INTO tie (place, id, confirmed) VALUES (1, $1, 0) ON CONFLICT (place) DO NOTHING");
        let mut tx = self.begin_synced("choose an id for the store").await?;
        tx.run(insert.bind(id)).await?;
        tx.commit().await
    }

    /// Ties the catalog to the store that has `id`, whatever it was tied to before.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn confirm_tie(&self, id: &str) -> Result<(), CatalogError> {
        let upsert = query(
            "INSERT INTO tie (place, id, confirmed) VALUES (1, $1, 1) \
             ON CONFLICT (place) DO UPDATE SET id = excluded.id, confirmed = 1",
        );
        self.writing("record the store's id").await?.run(upsert.bind(id)).await?;
        Ok(())
    }
}
