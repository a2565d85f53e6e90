//! The `firstlight` program: parse, build, run.

use std::process::ExitCode;

use clap::Parser;
use firstlight::cli::{CatalogAction, Cli, Command, ConfigAction, LogFormat, Output, PinAction};
use firstlight::commands;
use firstlight::config::{self, Config};
use firstlight::serve::{self, Role};

/// The exit status for a configuration that cannot be used.
const BAD_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::load(cli.config.as_deref(), config::environment()) {
        Ok(config) => config,
        Err(errors) => {
            say(&errors.to_string());
            return ExitCode::from(BAD_CONFIG);
        }
    };
    let format = match cli.log_format {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    };
    if let Err(error) = telemetry::init_logging(format, &cli.log) {
        say(&format!("cannot set up logging: {error}"));
        return ExitCode::FAILURE;
    }
    match run(cli, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("firstlight: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, config: Config) -> anyhow::Result<()> {
    if let Command::Config { action: ConfigAction::Check } = cli.command {
        print(&match cli.output {
            Output::Text => config.describe(),
            Output::Json => serde_json::to_string_pretty(&config)?,
        });
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match cli.command {
        Command::Serve => runtime.block_on(serve::run(config, Role::Serve)),
        Command::Worker => runtime.block_on(serve::run(config, Role::Worker)),
        Command::Migrate => commands::print(&runtime.block_on(commands::migrate::run(&config))?, cli.output),
        Command::Convert { src, dst, plain_http } => {
            let report = runtime.block_on(commands::convert::run(&config, &src, &dst, plain_http))?;
            commands::print(&report, cli.output)
        }
        Command::Inspect { image, toc } => {
            commands::print(&runtime.block_on(commands::inspect::run(&config, &image, toc))?, cli.output)
        }
        Command::Explain { reference } => {
            commands::print(&runtime.block_on(commands::explain::run(&config, &reference))?, cli.output)
        }
        Command::Catalog { action: CatalogAction::Rebuild { merge } } => {
            commands::print(&runtime.block_on(commands::rebuild::run(&config, merge))?, cli.output)
        }
        Command::Catalog { action: CatalogAction::Tie } => {
            commands::print(&runtime.block_on(commands::tie::run(&config))?, cli.output)
        }
        Command::Gc { dry_run } => commands::print(&runtime.block_on(commands::gc::run(&config, dry_run))?, cli.output),
        Command::Pin { action } => {
            let report = runtime.block_on(async {
                match action {
                    PinAction::Add { reference } => commands::pin::add(&config, &reference).await,
                    PinAction::Remove { reference } => commands::pin::remove(&config, &reference).await,
                    PinAction::List => commands::pin::list(&config).await,
                }
            })?;
            commands::print(&report, cli.output)
        }
        Command::Config { .. } => Ok(()),
    }
}

#[expect(clippy::print_stdout, reason = "the result of a command goes to standard output")]
fn print(text: &str) {
    println!("{}", text.trim_end());
}

#[expect(clippy::print_stderr, reason = "what ends the program is said even where logging is off")]
fn say(text: &str) {
    eprintln!("{}", text.trim_end());
}
