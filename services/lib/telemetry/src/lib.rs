//! Logs, metrics, blocking work, shutdown. Knows none of our types.

mod blocking;
mod logging;
mod shutdown;

pub use blocking::blocking;
pub use logging::{LogFormat, LoggingError, init_logging};
pub use shutdown::Shutdown;
