//! The `firstlight-snapshotter` program: parse, build, run.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use snapshotter::cli::{Cli, Command, LogFormat, Output};
use snapshotter::config::Config;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _unsaid = writeln!(std::io::stderr().lock(), "firstlight-snapshotter: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let format = match cli.log_format {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    };
    telemetry::init_logging(format, &cli.log)?;
    if let Command::Look = cli.command {
        return Ok(snapshotter::look()?);
    }
    let mut config = Config::load(cli.config.as_deref())?;
    config.root = cli.root.unwrap_or(config.root);
    config.socket = cli.socket.unwrap_or(config.socket);
    config.holder = cli.holder.unwrap_or(config.holder);
    match cli.command {
        Command::Hold => return snapshotter::hold(&config.holder, config.restart_grace),
        Command::Status { output } => {
            let text = snapshotter::status(&config.root, output == Output::Json)?;
            return Ok(std::io::stdout().lock().write_all(text.as_bytes())?);
        }
        Command::FetchContent { image, namespace, output } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let fetched = runtime.block_on(snapshotter::fetch_content(&config, &namespace, &image))?;
            let text = match output {
                Output::Text => fetched.to_string(),
                Output::Json => serde_json::to_string(&fetched)? + "\n",
            };
            return Ok(std::io::stdout().lock().write_all(text.as_bytes())?);
        }
        Command::Run | Command::Look => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(snapshotter::run(config));
    // What readers still wait for is the next process's.
    runtime.shutdown_background();
    ended
}
