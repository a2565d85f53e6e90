//! What the parts of Firstlight agree on: digests, references, media types, descriptors,
//! manifests and error codes. This crate does no I/O.

pub mod descriptor;
pub mod digest;
pub mod error;
pub mod hash;
pub mod lazy;
pub mod manifest;
pub mod media_type;
pub mod reference;
pub mod twin;

pub use descriptor::{Descriptor, Platform};
pub use digest::{Algorithm, Digest, DigestError};
pub use error::{ErrorBody, ErrorCode};
pub use hash::{Hasher, VerifyError, verify};
pub use lazy::{LazyIndex, LazyLayer, LazyState, LazyTwin};
pub use manifest::{Index, Manifest, ManifestError, Parsed};
pub use media_type::MediaType;
pub use reference::{Reference, ReferenceError, Repository, RepositoryName, Tag};
pub use twin::{TarTail, Twin, UnconvertibleReason};
