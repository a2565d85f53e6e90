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

    /// Returns the ids of the profiles that twins were made under, sorted: whoever serves them must be able to make them
    /// again.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn needed_profiles(&self) -> Result<Vec<String>, CatalogError> {
        let select = query(
            "SELECT id FROM profiles p WHERE EXISTS (SELECT 1 FROM twins t WHERE t.profile = p.id AND t.twin IS NOT NULL) \
             ORDER BY id",
        );
        let found: Vec<(String,)> = self.reading("list the needed profiles").await?.all(select).await?;
        Ok(found.into_iter().map(|(id,)| id).collect())
    }
}
