//! The proxy, with the real clients and a real upstream.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clients;
mod harness;
mod mirrors;
mod tls;
mod trees;
