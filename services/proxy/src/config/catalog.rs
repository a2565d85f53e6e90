//! [`Catalog`]: where rows are kept.

use serde::{Serialize, Serializer};

use ::catalog::CatalogError;
pub use ::catalog::CatalogUrl;

use super::section::Section;
use super::storage::Storage;
use super::value::Value;

/// `[catalog]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Catalog {
    /// The database. Default: `catalog.db` in `storage.path`. Printed without its password.
    #[serde(serialize_with = "printed")]
    pub url: CatalogUrl,
}

impl Catalog {
    pub(super) fn read(section: &mut Section, storage: &Storage) -> Self {
        let beside_the_blobs = CatalogUrl::Sqlite(storage.path.join("catalog.db"));
        Self { url: section.or("url", beside_the_blobs, url) }
    }
}

fn url(value: &Value) -> Result<CatalogUrl, String> {
    // The value may hold a password, so it is not repeated: only what is wrong with it.
    CatalogUrl::parse(value.text().unwrap_or_default()).map_err(|error| match error {
        CatalogError::Url { problem, .. } => problem,
        other => other.to_string(),
    })
}

fn printed<S: Serializer>(url: &CatalogUrl, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(url)
}
