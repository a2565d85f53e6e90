//! [`Catalog`]: where rows are kept.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::section::Section;
use super::storage::Storage;
use super::value::Value;

/// `[catalog]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Catalog {
    /// The database. Default: `catalog.db` in `storage.path`.
    pub url: CatalogUrl,
}

/// A database, written as a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogUrl {
    /// `sqlite:PATH`: a file; relative to the working directory.
    Sqlite(PathBuf),
}

impl fmt::Display for CatalogUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Sqlite(path) = self;
        write!(f, "sqlite:{}", path.display())
    }
}

impl Serialize for CatalogUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Catalog {
    pub(super) fn read(section: &mut Section, storage: &Storage) -> Self {
        section.not_built("url", is_postgres);
        let beside_the_blobs = CatalogUrl::Sqlite(storage.path.join("catalog.db"));
        Self { url: section.or("url", beside_the_blobs, url) }
    }
}

fn is_postgres(value: &Value) -> bool {
    value.text().is_some_and(|text| text.starts_with("postgres:") || text.starts_with("postgresql:"))
}

fn url(value: &Value) -> Result<CatalogUrl, String> {
    // The value may hold a password, so it is never repeated.
    let expected = || String::from("expected sqlite:PATH");
    if is_postgres(value) {
        // Reported as not built; the value does not matter any more.
        return Ok(CatalogUrl::Sqlite(PathBuf::new()));
    }
    let path = value.text().and_then(|text| text.strip_prefix("sqlite:")).ok_or_else(expected)?;
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.starts_with(':') || path.contains(['?', '\0']) {
        return Err(expected() + " without parameters");
    }
    Ok(CatalogUrl::Sqlite(path.into()))
}
