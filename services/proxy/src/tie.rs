//! The tie of a store to its catalog: one random id that both hold. A catalog that is used with another store would lose
//! its rows, because their bytes are not there; a store that is used with another catalog would lose its bytes, because
//! no row names them.

use std::sync::Arc;

use blobstore::{BlobStore, Generation, StoreError};
use catalog::{Catalog, CatalogError, Mark};

use crate::records::{MetaObject, ObjectError};

/// Why a catalog and a store are not used together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TieError {
    /// The store has no id, and the catalog knows its store had one.
    #[error(
        "the store does not say that it is this catalog's: is the right folder mounted, are bucket and prefix the right ones? \
         If it was emptied on purpose, run `firstlight catalog tie`"
    )]
    Missing,
    /// The catalog is new, and the store is not.
    #[error(
        "the catalog is new, but the store belongs to an earlier one: if the database was lost, run `firstlight catalog \
         rebuild`; if another installation uses this store, give each its own; if the store shall be this catalog's from \
         now on, run `firstlight catalog tie`"
    )]
    New,
    /// Each is tied, but not to the other.
    #[error(
        "the store belongs to another catalog: is that the right database, are bucket and prefix (or the folder) the right \
         ones? Two installations cannot share a store. If the store shall be this catalog's from now on, run `firstlight \
         catalog tie`"
    )]
    Foreign,
    /// The store's object is not readable.
    #[error("the store does not say whose it is")]
    Object(#[from] ObjectError),
    /// The store failed.
    #[error("blob store failed")]
    Store(#[from] StoreError),
    /// The catalog failed.
    #[error("catalog failed")]
    Catalog(#[from] CatalogError),
}

/// Checks that catalog and store belong together, and ties them where neither ever was. Many processes may do so at once.
///
/// # Errors
/// See [`TieError`].
pub(crate) async fn check(catalog: &Catalog, store: &Arc<dyn BlobStore>) -> Result<(), TieError> {
    let found = read(store).await?;
    match (catalog.tie().await?, found) {
        (Some(tie), Some(found)) if tie.id == found => {
            if !tie.is_confirmed {
                catalog.confirm_tie(&found).await?;
            }
            Ok(())
        }
        (Some(tie), Some(_)) if tie.is_confirmed => Err(TieError::Foreign),
        (_, Some(_)) => Err(TieError::New),
        (Some(tie), None) if tie.is_confirmed => Err(TieError::Missing),
        (_, None) => begin(catalog, store).await,
    }
}

/// Checks that catalog and store belong together; a catalog without a tie becomes the store's.
///
/// # Errors
/// See [`TieError`].
pub(crate) async fn adopt(catalog: &Catalog, store: &Arc<dyn BlobStore>) -> Result<(), TieError> {
    if let Some(found) = read(store).await?
        && !catalog.tie().await?.is_some_and(|tie| tie.is_confirmed)
    {
        catalog.confirm_tie(&found).await?;
    }
    check(catalog, store).await
}

/// Ties catalog and store, whatever they were tied to before. The catalog's id stays. The next start writes all meta
/// objects, since the store may have none.
///
/// # Errors
/// Those of catalog and store.
pub(crate) async fn renew(catalog: &Catalog, store: &Arc<dyn BlobStore>) -> Result<(), TieError> {
    let id = propose(catalog).await?;
    catalog.unmark(Mark::Noted).await?;
    write(store, &id).await?;
    Ok(catalog.confirm_tie(&id).await?)
}

/// Ties two of which neither ever was: the catalog decides on the id, since only it can do so once.
async fn begin(catalog: &Catalog, store: &Arc<dyn BlobStore>) -> Result<(), TieError> {
    let id = propose(catalog).await?;
    write(store, &id).await?;
    // Another catalog may have begun with the same store just now.
    if read(store).await?.as_ref() != Some(&id) {
        return Err(TieError::New);
    }
    Ok(catalog.confirm_tie(&id).await?)
}

async fn propose(catalog: &Catalog) -> Result<String, TieError> {
    let proposed = Generation::random().to_string();
    catalog.propose_tie(&proposed).await?;
    Ok(catalog.tie().await?.map_or(proposed, |tie| tie.id))
}

async fn read(store: &Arc<dyn BlobStore>) -> Result<Option<String>, TieError> {
    let key = MetaObject::store_key();
    let Some(bytes) = store.meta(&key).await? else { return Ok(None) };
    match MetaObject::parse(&key, &bytes)? {
        MetaObject::Store { id } => Ok(Some(id)),
        // No other kind has this key, so parsing has refused it.
        _ => Ok(None),
    }
}

async fn write(store: &Arc<dyn BlobStore>, id: &str) -> Result<(), TieError> {
    let object = MetaObject::Store { id: id.to_owned() };
    Ok(store.put_meta(&object.key(), object.to_bytes()).await?)
}
