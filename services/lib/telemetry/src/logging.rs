//! [`init_logging`]: where log lines go and what they look like.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What a log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people: time, level, spans, message, fields.
    #[default]
    Text,
    /// One JSON object per line, fields at its top level.
    Json,
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one.
    #[error("log filter `{filter}` is malformed, use for example `info` or `info,firstlight=debug`")]
    Filter {
        /// The filter given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// Something in this process already took the log.
    #[error("logging is already set up")]
    AlreadySet(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sends this process's log lines that pass `filter` (the syntax of `tracing`'s `EnvFilter`) to standard error, in
/// colour only where that is a terminal. To be called once, by `main`.
///
/// # Errors
/// [`LoggingError::Filter`] when the filter is malformed, [`LoggingError::AlreadySet`] on a second call.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    let env_filter =
        EnvFilter::try_new(filter).map_err(|source| LoggingError::Filter { filter: filter.into(), source })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(env_filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(LoggingError::AlreadySet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_and_a_second_start_are_errors() {
        let bad = init_logging(LogFormat::Text, "info,a=loud").unwrap_err();
        assert!(matches!(&bad, LoggingError::Filter { filter, .. } if filter == "info,a=loud"), "{bad:?}");
        init_logging(LogFormat::Json, "off").unwrap();
        assert!(matches!(init_logging(LogFormat::Text, "off"), Err(LoggingError::AlreadySet(_))));
    }
}
