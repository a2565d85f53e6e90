//! Conversion profiles: what a profile's id in a row stands for.

use crate::query::query;
use crate::{Catalog, CatalogError};

impl Catalog {
    /// Records what the profile `id` stands for. The first description of an id stays.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn record_profile(&self, id: &str, description: &str) -> Result<(), CatalogError> {
        let insert = query("INSERT INTO profiles (id, description) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING");
        self.writing("record a profile").await?.run(insert.bind(id).bind(description)).await?;
        Ok(())
    }

    /// Returns what the profile `id` stands for, or `None` when it was never recorded.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn profile(&self, id: &str) -> Result<Option<String>, CatalogError> {
        let select = query("SELECT description FROM profiles WHERE id = $1").bind(id);
        let found: Option<(String,)> = self.reading("look up a profile").await?.optional(select).await?;
        Ok(found.map(|(description,)| description))
    }
}
