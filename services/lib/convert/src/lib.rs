//! A layer in, a twin out. Sync; threads and bounded channels.
//!
//! One thread of each conversion reads and inflates the source; the caller's thread walks the tar, plans members and
//! writes them in order; a [`Pool`] shared by all conversions compresses. The same source under the same [`Profile`]
//! gives the same bytes on any number of workers.

mod assemble;
mod cancel;
mod convert;
mod error;
mod inflate;
mod limits;
mod members;
mod own;
mod plain_hash;
mod pool;
mod profile;
mod sha256;
mod source;
mod spill;
mod store;
mod watch;

pub use cancel::Cancel;
pub use convert::{Converted, Outputs, convert};
pub use error::ConvertError;
pub use limits::Limits;
pub use pool::Pool;
pub use profile::{Description, Profile};
pub use source::Source;

#[cfg(test)]
mod tests;
