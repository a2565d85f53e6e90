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
    /// Fill and convert what the serving replicas of one PostgreSQL catalog leave; serves no client
    Worker,
    /// Bring the schema of the catalog up to date (PostgreSQL; SQLite's is when it is opened)
    Migrate,
    /// Convert an image
    #[command(about = "Convert an image: each of SRC and DST is oci:DIR[:TAG] or docker://HOST/NAME[:TAG|@DIGEST]")]
    Convert {
        /// The image
        src: String,
        /// Where its converted form goes
        dst: String,
        /// Speak HTTP to registries that are not configured upstreams (always done to this machine's own)
        #[arg(long)]
        plain_http: bool,
    },
    /// Show an image's views, layers and twins, by what is stored here or by an OCI layout
    Inspect {
        /// A reference or a layout
        #[arg(help = "A reference such as library/python:3, or oci:DIR[:TAG]")]
        image: String,
        /// List the files of its eStargz layers
        #[arg(long)]
        toc: bool,
    },
    /// Say what this proxy makes of a reference, and why; asks no upstream
    Explain {
        /// A reference such as library/python:3 or ghcr.io/org/app@sha256:…
        reference: String,
    },
    /// The catalog
    Catalog {
        /// What is done with it
        #[command(subcommand)]
        action: CatalogAction,
    },
    /// Evict what cache.max_size and cache.max_age leave no room for, and delete what nobody needs
    Gc {
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Images that are never evicted
    Pin {
        /// What is done with them
        #[command(subcommand)]
        action: PinAction,
    },
    /// Configuration
    Config {
        /// What is done with it
        #[command(subcommand)]
        action: ConfigAction,
    },
}

/// What is done with pins.
#[derive(Debug, Clone, Subcommand)]
pub enum PinAction {
    /// Pin what a tag means now, or a digest
    Add {
        /// A reference such as library/python:3 or ghcr.io/org/app@sha256:…
        reference: String,
    },
    /// Remove the pin of a reference
    Remove {
        /// The reference, as it was added
        reference: String,
    },
    /// List the pins
    List,
}

/// What is done with the configuration.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ConfigAction {
    /// Check it and print what is in force, without secrets
    Check,
}

/// What is done with the catalog.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum CatalogAction {
    /// Rebuild a lost catalog from the store, into an empty one; begun again, it goes on
    Rebuild {
        /// Keep the rows that the catalog has, and add what they lack
        #[arg(long)]
        merge: bool,
    },
    /// Say that the configured catalog and store belong together, such as after the store was emptied on purpose
    Tie,
}
