//! The snapshotter of a node: containerd keeps the file systems of its images and containers here.
//!
//! [`Service`] speaks containerd's protocol, [`Snapshots`] is what it speaks of: rows in a [`Store`], folders, and the
//! mounts that are made of them. What has a twin is not unpacked: `Lazy` commits it at once, and a `Layer` brings its
//! bytes when they are read, through the file system that `LazyMount` is.

mod access;
mod containerd;
mod error;
mod evictor;
mod fetch_content;
mod files;
mod filler;
mod filter;
mod folders;
mod fuse;
mod holder;
mod layer;
mod layers;
mod lazy;
mod memory;
mod metrics;
mod mount;
mod mounted;
mod mounting;
mod names;
mod proto;
mod proxies;
mod registries;
mod room;
mod serve;
mod service;
mod snapshot;
mod snapshots;
mod socket;
mod status;
mod store;
mod toc_file;
mod tree;
mod trust;
mod unpacker;
mod usage;
mod wanted;

pub mod cli;
mod clients;
pub mod config;

pub use error::{Class, SnapshotError};
pub use fetch_content::{Fetched, fetch_content};
pub use filter::{Filter, FilterError};
pub use holder::hold;
pub use mount::Mount;
pub use names::look;
pub use serve::run;
pub use service::Service;
pub use snapshot::{Info, Kind, Labels, Moment, Usage};
pub use snapshots::{LabelsUpdate, Snapshots};
pub use status::status;
pub use store::{Store, StoreError};
