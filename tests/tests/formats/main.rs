//! Converted layers against the reference implementations: the Go library, `ctr-remote`, gzip, tar, and containerd's applier.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod altered;
mod applied;
mod big;
mod compressed;
mod converted;
mod index;
mod odd;
mod oracle;
mod own;
mod push;
mod reference;
mod row;
mod rows;
mod tar;
mod toc_tree;
mod world;
