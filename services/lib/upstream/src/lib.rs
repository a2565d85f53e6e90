//! Registry client: tokens, retries, redirects, ranged reads.
