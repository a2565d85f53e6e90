//! The proxy as in production: its catalog on PostgreSQL, its blobs on an S3 service (SeaweedFS). Both are real servers.
//!
//! The tests with real clients (of `proxy`) and those of the crowds (of `faults`) run here on a fleet of three replicas.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backing;
mod conversions;
mod gc;
mod load;
mod outages;
mod owners;
mod profiles;
mod pulls;
mod rebuild;
mod remains;
mod schema;
mod secure_bucket;
mod views;
mod workers;

#[path = "../proxy/clients.rs"]
mod clients;
#[path = "../proxy/mirrors.rs"]
mod mirrors;
#[path = "../proxy/tls.rs"]
mod tls;
#[path = "../proxy/trees.rs"]
mod trees;

#[path = "../faults/crowd.rs"]
mod crowd;
#[path = "../faults/joins.rs"]
mod joins;
#[path = "../faults/layer.rs"]
mod layer;
#[path = "../faults/lazy.rs"]
mod lazy;
#[path = "../faults/push.rs"]
#[expect(dead_code, reason = "the faults use more of it")]
mod push;
#[path = "../faults/small_disk.rs"]
mod small_disk;
#[path = "../faults/world.rs"]
#[expect(dead_code, reason = "the faults use more of it")]
mod world;

use e2e::Fleet as Program;

type Stage = e2e::Staged<Program>;
