//! The snapshotter of a node: containerd keeps the file systems of its images and containers here.
//!
//! [`Service`] speaks containerd's protocol, [`Snapshots`] is what it speaks of: rows in a [`Store`], folders, and the
//! mounts that are made of them.

mod error;
mod filter;
mod folders;
mod mount;
mod serve;
mod service;
mod snapshot;
mod snapshots;
mod store;
mod usage;

pub mod cli;
pub mod config;

pub use error::{Class, SnapshotError};
pub use filter::{Filter, FilterError};
pub use mount::Mount;
pub use serve::run;
pub use service::Service;
pub use snapshot::{Info, Kind, Labels, Moment, Usage};
pub use snapshots::{LabelsUpdate, Snapshots};
pub use store::{Store, StoreError};
