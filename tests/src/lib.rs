//! Real clients and real servers against the real program.
//!
//! A test builds a [`Stage`] (registry, fault relay, proxy; in its place may be a [`Fleet`]) on a [`Node`] (this machine, or a namespace of its own), starts the
//! clients it needs ([`Docker`], [`Containerd`], [`Podman`], [`Skopeo`]) and lets everything fall out of scope: processes, mounts,
//! namespaces and files go with it, and a [`Scratch`] that cannot be emptied fails the test.

mod authority;
mod backing;
mod balancer;
mod cgroup;
mod client;
mod containerd;
mod cri;
mod docker;
mod fleet;
mod front;
mod go;
mod images;
mod nerdctl;
mod node;
mod podman;
mod postgres;
mod proc;
mod proxy;
mod push;
mod registry;
mod relay;
mod run;
mod scratch;
mod seaweed;
mod skip;
mod skopeo;
mod snapshotter;
mod stage;
mod stargz;
pub mod tree;
mod tunnel;
pub mod wait;
pub mod web;

pub use authority::Authority;
pub use backing::Backing;
pub use client::{Client, Transport};
pub use containerd::Containerd;
pub use cri::Cri;
pub use docker::Docker;
pub use fleet::Fleet;
pub use front::Front;
pub use go::go_built;
pub use images::Images;
pub use nerdctl::Nerdctl;
pub use node::{Namespace, Node};
pub use podman::Podman;
pub use postgres::Postgres;
pub use proc::Proc;
pub use proxy::{Proxy, ProxyOptions, built, program};
pub use registry::{Registry, RegistryOptions};
pub use relay::{Fault, Relay, Rule, Seen};
pub use run::run;
pub use scratch::Scratch;
pub use seaweed::Seaweed;
pub use skip::{is_root, skip};
pub use skopeo::Skopeo;
pub use snapshotter::{Snapshotter, drop_caches, drop_inodes, keep_caches};
pub use stage::{Served, Stage, Staged};
pub use stargz::Stargz;
pub use tree::{Kind as TreeKind, Tree};
pub use tunnel::Tunnel;

use std::path::PathBuf;

/// Returns a path below the workspace's root.
pub fn workspace(path: &str) -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    PathBuf::from(root).canonicalize().unwrap_or_else(|_| PathBuf::from(root)).join(path)
}

/// Returns the sha256 digest of some bytes, as text.
pub fn digest(bytes: &[u8]) -> String {
    let mut hasher = api::Hasher::new(api::Algorithm::Sha256);
    hasher.update(bytes);
    hasher.finish().to_string()
}

/// Returns `length` bytes that no compressor makes smaller; the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Returns a client configuration file of `docs/examples` with each `from` replaced by its `to`.
///
/// # Errors
/// The file is missing, or does not contain one of the `from` texts.
pub fn example(file: &str, replacements: &[(&str, &str)]) -> anyhow::Result<String> {
    let path = workspace("docs/examples").join(file);
    let mut text = std::fs::read_to_string(&path).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    for (from, to) in replacements {
        anyhow::ensure!(text.contains(from), "{} does not contain {from:?}", path.display());
        text = text.replace(from, to);
    }
    Ok(text)
}
