//! The snapshotter under a real containerd.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod images;
mod semantics;
