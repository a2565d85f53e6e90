//! All SQL; the only user of sqlx.
//!
//! The [`Catalog`] knows which bytes are in the store and under which key, which repository may read them, what tags
//! point to, and what was converted into what. A row about bytes is written after the bytes. Every call is one
//! statement or one transaction, so a future dropped or a process killed at any point leaves the state before it or
//! after it. A dropped call may still take effect a moment later.

mod abandoned;
mod blob;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod converted;
mod database;
mod error;
mod fill;
mod gc;
mod lease;
mod link;
mod lost;
mod manifest;
mod mark;
mod profile;
mod query;
mod rebuild;
mod row;
mod schema;
mod session;
mod tag;
#[cfg(test)]
mod tests;
mod tie;
mod twin;
mod url;
mod watch;

pub use blob::BlobRow;
pub use database::Catalog;
pub use error::CatalogError;
pub use fill::FillRow;
pub use gc::{Candidate, Deletion, Eviction, Keeper, Member, PinRow, Scope, Unit, Usage};
pub use lease::{Claim, Holding, Lease, Owner, Work};
pub use link::{Link, LinkState};
pub use manifest::ManifestRow;
pub use mark::Mark;
pub use rebuild::{ConvertedRecord, Restored, TwinOutcome, TwinRecord};
pub use schema::SchemaStep;
pub use tag::TagRow;
pub use tie::Tie;
pub use twin::{TwinRow, TwinState};
pub use url::{CatalogUrl, PostgresUrl};
pub use watch::Watch;
