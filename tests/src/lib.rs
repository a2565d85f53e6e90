//! Real clients and real servers against the real program.
