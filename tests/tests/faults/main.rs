//! The proxy under fire: crowds, cuts, lies, an upstream that is away, SIGKILL, bad input. Each test has blobs of its own making
//! behind a real registry and a relay that counts every byte. `production` runs the crowds on a fleet.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cold;
mod config;
mod crowd;
mod cuts;
mod far;
mod full_disk;
mod gate;
mod health;
mod hold;
mod input;
mod joins;
mod killed;
mod layer;
mod layers;
mod lazy;
mod lies;
mod links;
mod lists;
mod outage;
mod priority;
mod push;
mod ranges;
mod repeat;
mod small_disk;
mod stop;
mod ties;
mod waits;
mod world;

use e2e::{Proxy as Program, Stage};
