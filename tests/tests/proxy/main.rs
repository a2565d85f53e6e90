//! The proxy, with the real clients and a real upstream. `production` runs the same on a fleet.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clients;
mod harness;
mod mirrors;
mod tls;
mod trees;

use e2e::{Proxy as Program, Stage};
