//! [`S3Config`]: which bucket, and how it is reached.

/// Which bucket a store is in, and how it is reached. Credentials are not part of it: see [`crate::S3Store::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    /// The bucket's name.
    pub bucket: String,
    /// What every object's name begins with: empty, or a path without a `/` at its beginning and end.
    pub prefix: String,
    /// The URL of the service; `None`: AWS's own for the region, or `AWS_ENDPOINT_URL_S3`.
    pub endpoint: Option<String>,
    /// The bucket's region; `None`: from the environment, the profile or the instance, and `us-east-1` where an
    /// endpoint is given and the environment says nothing.
    pub region: Option<String>,
    /// Names the bucket in the path and not in the host name, which most services other than AWS want.
    pub path_style: bool,
}
