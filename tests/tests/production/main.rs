//! The proxy as in production: its catalog on PostgreSQL, its blobs on an S3 service (SeaweedFS). Both are real servers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backing;
mod load;
mod outages;
mod pulls;
mod schema;
