//! The proxy under fire: crowds, cuts, lies, an upstream that is away, SIGKILL, bad input. Each test has blobs of its own making
//! behind a real registry and a relay that counts every byte.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cold;
mod config;
mod crowd;
mod cuts;
mod gate;
mod health;
mod input;
mod killed;
mod layer;
mod layers;
mod lies;
mod links;
mod lists;
mod outage;
mod push;
mod ranges;
mod repeat;
mod stop;
mod waits;
mod world;
