//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Mounts container images for containerd.
#[derive(Debug, Parser)]
#[command(name = "firstlight-snapshotter", version)]
pub struct Cli {
    /// The configuration, a TOML file
    #[arg(long, global = true)]
    pub config: Option<PathBuf>,
    /// The folder of snapshots, instead of the configured one
    #[arg(long, global = true)]
    pub root: Option<PathBuf>,
    /// The Unix socket of the holder, instead of the configured one
    #[arg(long, global = true)]
    pub holder: Option<PathBuf>,
    /// The Unix socket for containerd, instead of the configured one
    #[arg(long, global = true)]
    pub socket: Option<PathBuf>,
    /// How log lines look
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace, also by module
    #[arg(long, global = true, default_value = "info")]
    pub log: String,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Serve containerd until a signal asks to stop
    Run,
    /// Say how far every image is
    Status {
        /// As what
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Bring the layers of an image into containerd's content store, for export and push
    FetchContent {
        /// The image, as containerd names it
        image: String,
        /// containerd's namespace: k8s.io of Kubernetes, moby of Docker
        #[arg(long, default_value = "default")]
        namespace: String,
        /// As what
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Keep what is mounted while the snapshotter is restarted
    Hold,
    /// What `run` starts for itself
    #[command(name = crate::names::COMMAND, hide = true)]
    Look,
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For machines
    Json,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// For machines
    Json,
}
