//! All SQL; the only user of sqlx.
