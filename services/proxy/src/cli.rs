//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// A pull-through registry that makes every image lazy.
#[derive(Debug, Parser)]
#[command(name = "firstlight", version, disable_help_subcommand = true)]
pub struct Cli {
    /// The configuration file; FIRSTLIGHT_CONFIG names it too
    #[arg(long, global = true)]
    pub config: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, default_value = "text")]
    pub output: Output,
    /// How log lines are printed (to standard error)
    #[arg(long, global = true, default_value = "text")]
    pub log_format: LogFormat,
    /// Which log lines are printed: a level, or module=level pairs
    #[arg(long, global = true, default_value = "info")]
    pub log: String,
    /// What is done
    #[command(subcommand)]
    pub command: Command,
}

/// The form of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the registry API (no configuration needed)
    Serve,
    /// Configuration
    Config {
        /// What is done with it
        #[command(subcommand)]
        action: ConfigAction,
    },
}

/// What is done with the configuration.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ConfigAction {
    /// Check it and print what is in force, without secrets
    Check,
}
