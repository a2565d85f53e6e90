//! The snapshotter under a real containerd.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alone;
#[path = "../formats/altered.rs"]
mod altered;
mod bench;
#[path = "../formats/compressed.rs"]
mod compressed;
mod content;
mod cri;
mod endurance;
mod images;
mod inodes;
mod lazy;
mod members;
mod network;
mod proof;
#[path = "../formats/push.rs"]
#[expect(dead_code, reason = "the formats use more of it")]
mod push;

#[path = "../formats/row.rs"]
mod row;
#[path = "../formats/rows/mod.rs"]
mod rows;
mod semantics;
mod suite;
#[path = "../formats/tar.rs"]
mod tar;
mod trees;
