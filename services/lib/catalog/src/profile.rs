//! Conversion profiles: what a profile's id in a row stands for.

use crate::{Catalog, CatalogError};

impl Catalog {
    /// Records what the profile `id` stands for. The first description of an id stays.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn record_profile(&self, id: &str, description: &str) -> Result<(), CatalogError> {
        sqlx::query("INSERT INTO profiles (id, description) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
            .bind(id)
            .bind(description)
            .execute(self.writer())
            .await
            .map_err(CatalogError::of("record a profile"))?;
        Ok(())
    }

    /// Returns what the profile `id` stands for, or `None` when it was never recorded.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn profile(&self, id: &str) -> Result<Option<String>, CatalogError> {
        let found: Option<(String,)> = sqlx::query_as("SELECT description FROM profiles WHERE id = $1")
            .bind(id)
            .fetch_optional(self.readers())
            .await
            .map_err(CatalogError::of("look up a profile"))?;
        Ok(found.map(|(description,)| description))
    }
}
