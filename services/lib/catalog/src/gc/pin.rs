//! [`PinRow`]: an image that is never evicted.

use api::{Digest, Reference, Repository};

use crate::query::query;
use crate::{Catalog, CatalogError, row};

/// An image that is never evicted: its manifest or index, all that these name, and its twins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinRow {
    /// The repository it was named in.
    pub repository: Repository,
    /// The tag or digest it was named by.
    pub reference: Reference,
    /// The manifest or index that this meant then.
    pub digest: Digest,
}

impl Catalog {
    /// Pins `pin.digest`; an earlier pin of the same name is replaced. What is not stored yet is kept once it is.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_pin(&self, pin: &PinRow) -> Result<(), CatalogError> {
        let insert = query(
            "INSERT INTO pins (repository, reference, digest) VALUES ($1, $2, $3) \
             ON CONFLICT (repository, reference) DO UPDATE SET digest = excluded.digest",
        );
        let insert = insert.bind(&pin.repository).bind(pin.reference.to_string()).bind(&pin.digest);
        self.writing("add a pin").await?.run(insert).await?;
        Ok(())
    }

    /// Removes the pin of that name, and tells whether there was one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remove_pin(&self, repository: &Repository, reference: &Reference) -> Result<bool, CatalogError> {
        let delete = query("DELETE FROM pins WHERE repository = $1 AND reference = $2");
        let delete = delete.bind(repository).bind(reference.to_string());
        Ok(self.writing("remove a pin").await?.run(delete).await? > 0)
    }

    /// Returns all pins, sorted by name.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn pins(&self) -> Result<Vec<PinRow>, CatalogError> {
        let select = query("SELECT repository, reference, digest FROM pins ORDER BY repository, reference");
        let found: Vec<(String, String, String)> = self.reading("list the pins").await?.all(select).await?;
        found
            .into_iter()
            .map(|(repository, reference, digest)| {
                // A tag cannot hold the colon that every digest has.
                let reference = match Digest::parse(&reference) {
                    Ok(digest) => Reference::Digest(digest),
                    Err(_) => Reference::Tag(row::tag("pins.reference", &reference)?),
                };
                Ok(PinRow {
                    repository: row::repository("pins.repository", &repository)?,
                    reference,
                    digest: row::digest("pins.digest", &digest)?,
                })
            })
            .collect()
    }
}
