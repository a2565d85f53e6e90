//! The odd layers, by what is odd about them.

mod attributes;
mod compression;
mod ends;
mod links;
mod names;
mod replaced;
mod sizes;

use crate::row::Row;

/// Returns every row; names are unique.
pub(crate) fn all() -> Vec<Row> {
    let tables = [
        attributes::rows(),
        compression::rows(),
        ends::rows(),
        links::rows(),
        names::rows(),
        replaced::rows(),
        sizes::rows(),
    ];
    tables.into_iter().flatten().collect()
}
