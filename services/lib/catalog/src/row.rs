//! Turns columns into checked types and back; no text leaves the catalog unparsed.

use std::error::Error;

use api::{Digest, Repository, Tag, UnconvertibleReason};

use crate::CatalogError;

fn parse<T, E: Error + Send + Sync + 'static>(
    column: &'static str,
    text: &str,
    parser: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, CatalogError> {
    parser(text).map_err(|source| CatalogError::Corrupt { column, value: text.into(), source: source.into() })
}

pub(crate) fn digest(column: &'static str, text: &str) -> Result<Digest, CatalogError> {
    parse(column, text, Digest::parse)
}

pub(crate) fn repository(column: &'static str, text: &str) -> Result<Repository, CatalogError> {
    parse(column, text, Repository::parse)
}

pub(crate) fn tag(column: &'static str, text: &str) -> Result<Tag, CatalogError> {
    parse(column, text, Tag::parse)
}

pub(crate) fn reason(column: &'static str, text: &str) -> Result<UnconvertibleReason, CatalogError> {
    text.parse().map_err(|why: String| CatalogError::Corrupt { column, value: text.into(), source: why.into() })
}

pub(crate) fn json<T: serde::de::DeserializeOwned>(column: &'static str, text: &str) -> Result<T, CatalogError> {
    parse(column, text, |text| serde_json::from_str(text))
}

/// Returns a size or count that was written by [`to_sql`].
pub(crate) fn unsigned(column: &'static str, number: i64) -> Result<u64, CatalogError> {
    u64::try_from(number).map_err(|source| CatalogError::Corrupt {
        column,
        value: number.to_string(),
        source: source.into(),
    })
}

/// Returns `value` as a database holds it.
pub(crate) fn to_sql(what: &'static str, value: u64) -> Result<i64, CatalogError> {
    i64::try_from(value).map_err(|_| CatalogError::TooLarge { what, value })
}

/// Returns the value of a column that a row in its state always has.
pub(crate) fn present<T>(column: &'static str, value: Option<T>) -> Result<T, CatalogError> {
    value.ok_or_else(|| CatalogError::Corrupt { column, value: "NULL".into(), source: "a value is missing".into() })
}
