//! [`Client::manifest`] and [`Client::head_manifest`].

use api::manifest::MAX_MANIFEST_SIZE;
use api::{Digest, MediaType, Reference, RepositoryName, verify};
use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::Response;

use crate::transport::{Landed, content_length, read_capped};
use crate::{Client, UpstreamError};

/// All that a manifest may be. Registries convert or hide what is not listed.
const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, */*";

/// A manifest or index as the upstream sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestAnswer {
    /// Its bytes, at most [`MAX_MANIFEST_SIZE`]. They have the digest asked for, if one was.
    pub bytes: Bytes,
    /// The type it was served with; not yet compared with the document's own.
    pub media_type: MediaType,
    /// The digest the upstream names (`Docker-Content-Digest`), which the bytes have.
    pub digest: Option<Digest>,
}

/// What a HEAD says of a manifest or index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// The digest the upstream names.
    pub digest: Option<Digest>,
    /// The type it would be served with.
    pub media_type: MediaType,
    /// Its size in bytes.
    pub size: Option<u64>,
}

impl Client {
    /// Returns the manifest or index that `reference` names in the repository `name`.
    ///
    /// # Errors
    /// [`UpstreamError::TooLarge`] over [`MAX_MANIFEST_SIZE`]; [`UpstreamError::DigestMismatch`] when the
    /// bytes have not the digest asked for, or not the one the upstream names.
    pub async fn manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestAnswer, UpstreamError> {
        let call = self.call(Method::GET, name, &format!("manifests/{reference}"), ACCEPT_MANIFESTS);
        self.ask(&call, |landed| self.read_manifest(landed, reference)).await
    }

    /// Returns what a HEAD says of the manifest or index that `reference` names in the repository
    /// `name`. At Docker Hub this costs no quota.
    ///
    /// # Errors
    /// As for [`Client::manifest`], but nothing is verified.
    pub async fn head_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestHead, UpstreamError> {
        let call = self.call(Method::HEAD, name, &format!("manifests/{reference}"), ACCEPT_MANIFESTS);
        self.ask(&call, |Landed { response, .. }| async {
            if !response.status().is_success() {
                return Err(self.inner.net.failure(response, "manifest").await);
            }
            Ok(ManifestHead {
                digest: content_digest(&response),
                media_type: media_type(&response)?,
                size: content_length(&response),
            })
        })
        .await
    }

    async fn read_manifest(&self, landed: Landed, reference: &Reference) -> Result<ManifestAnswer, UpstreamError> {
        let Landed { response, .. } = landed;
        if response.status() != http::StatusCode::OK {
            return Err(self.inner.net.failure(response, "manifest").await);
        }
        if response.headers().get(CONTENT_ENCODING).is_some_and(|value| value != "identity") {
            return Err(UpstreamError::protocol("manifest has a content coding that was not asked for"));
        }
        let (media_type, digest) = (media_type(&response)?, content_digest(&response));
        let settings = &self.inner.settings;
        let bytes =
            read_capped(response, MAX_MANIFEST_SIZE, settings.timeouts.idle, settings.received.as_ref()).await?;
        if let Reference::Digest(asked) = reference {
            verify(asked, &bytes)?;
        }
        if let Some(digest) = &digest {
            verify(digest, &bytes)?;
        }
        Ok(ManifestAnswer { bytes, media_type, digest })
    }
}

fn media_type(response: &Response) -> Result<MediaType, UpstreamError> {
    let text = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    text.map(MediaType::parse).ok_or_else(|| UpstreamError::protocol("manifest without a content type"))
}

/// Reads `Docker-Content-Digest`; a malformed one is as good as none.
fn content_digest(response: &Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok().and_then(|text| Digest::parse(text).ok())
}
