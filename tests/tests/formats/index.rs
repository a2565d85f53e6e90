//! Index documents.
