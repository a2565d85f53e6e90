//! Logs, metrics, blocking work, shutdown. Knows none of our types.
