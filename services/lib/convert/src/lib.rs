//! A layer in, a twin out. Sync; threads and bounded channels.
