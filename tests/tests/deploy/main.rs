//! The Helm chart and the Compose file: rendered by the real programs, checked as an API server checks, and what they configure is
//! accepted by the real `firstlight`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chart;
mod compose;
mod config;
mod documents;
mod objects;
mod promises;
mod refused;
mod secrets;
mod sets;
mod tools;
