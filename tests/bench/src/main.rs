//! Side by side with the peers: what the product promises in figures, measured.
//!
//! Every row runs the product and its peer in turns, on images built here of Debian packages, and holds the outcome
//! against a bar. A table goes to standard output, everything to `target/bench/result.json`.

mod args;
mod connection;
mod figure;
mod images;
mod layout;
mod load;
mod machine;
mod measured;
mod nginx;
mod node;
mod peer;
mod report;
mod rows;
mod samples;
mod serve;
mod upstream;
mod warm;
mod wire;

use std::fs::File;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use args::Args;
use machine::Machine;
use report::{Report, say};

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the rows and returns whether every bar was met.
fn run(args: &Args) -> Result<bool> {
    let folder = e2e::workspace("target").join("bench");
    std::fs::create_dir_all(&folder)?;
    // Two benches at once would measure each other.
    let lock = File::create(folder.join("lock"))?;
    lock.try_lock().context("another bench runs")?;

    let rows = args.rows();
    let images = images::Images::get()?;
    if args.images_only {
        return Ok(true);
    }
    let machine = Machine::look();
    for warning in machine.warnings() {
        say(&format!("warning: {warning}"));
    }
    let mut report = Report::new(machine, args.quick);
    for row in rows {
        say(&format!("{row}: {}", row.about()));
        row.run(&images, args.quick, &mut report).with_context(|| format!("row {row}"))?;
        // What was measured survives a later row that fails.
        report.write(&folder.join("result.json"))?;
    }
    report.print()?;
    Ok(report.is_met())
}
