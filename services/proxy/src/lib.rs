//! The proxy: a pull-through registry that makes every image lazy.

mod app;
mod blobs;
mod body;
mod choices;
pub mod cli;
mod clock;
pub mod commands;
pub mod config;
mod conversions;
mod error;
mod fill;
pub mod htpasswd;
mod image;
mod metrics;
mod path;
mod pull;
mod range;
mod reloaded;
mod remotes;
mod rewrite;
mod room;
mod route;
mod router;
pub mod serve;
pub mod serve_http;
pub mod tls;
mod views;
