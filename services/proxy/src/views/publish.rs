//! Builds and stores the converted form of an image: bytes first, then the one row that makes it
//! the answer for good.

use std::sync::Arc;

use api::{Digest, MediaType, Parsed, Twin};
use blobstore::{BlobKey, Generation};
use bytes::Bytes;
use catalog::{BlobRow, ManifestRow};

use super::{Built, Form, Parts};
use crate::blobs::Found;
use crate::body::BlobBody;
use crate::choices::{self, StoredTocs};
use crate::conversions::{KnownProfile, LayerState};
use crate::error::RegistryError;
use crate::fill::FillReader;
use crate::image::Image;
use crate::pull::StoredManifest;
use crate::records::Records;
use crate::remotes::Target;
use crate::rewrite::{self, Choice, ConvertedImage, RewriteError, SourceDocument};

/// The largest config that is read: as large as a manifest may be.
const MAX_CONFIG: u64 = api::manifest::MAX_MANIFEST_SIZE;

impl Parts {
    /// Returns the converted form, building it if need be.
    pub(super) async fn build(&self, target: &Target, image: &Image) -> Result<Built, RegistryError> {
        match image {
            Image::Single(manifest) => self.build_image(target, manifest).await,
            Image::Index { index, children } => self.build_index(target, index, children).await,
        }
    }

    /// Returns what there is of the converted form of `source`.
    pub(super) async fn form(&self, source: &Digest) -> Result<Form, RegistryError> {
        let Some((converted, is_noted)) = self.catalog.converted_and_noted(source).await? else {
            return Ok(Form::None);
        };
        if !is_noted {
            // Its process died before, or was an earlier version.
            self.records().note_converted(source).await?;
        }
        Ok(if self.is_whole(&converted).await? { Form::Whole(converted) } else { Form::Lost })
    }

    async fn is_whole(&self, converted: &Digest) -> Result<bool, RegistryError> {
        let Some(manifest) = self.pull.stored(converted).await? else { return Ok(false) };
        Ok(match &manifest.parsed {
            Parsed::Manifest(image) => self.blobs.stored(&image.config.digest).await?.is_some(),
            Parsed::Index(_) | Parsed::Opaque(_) => true,
        })
    }

    /// Returns the profile that the converted form of `source` is made under: one whose bytes or row were lost keeps its own.
    pub(super) async fn profile_of(&self, source: &Digest) -> Result<KnownProfile, RegistryError> {
        let recorded = match self.catalog.converted_profile(source).await? {
            Some(id) => Some(id),
            None => self.records().converted_before(source).await?.map(|(id, _)| id),
        };
        Ok(match recorded {
            Some(id) => self.conversions.known_profile(id).await?,
            None => self.conversions.profile().clone(),
        })
    }

    fn records(&self) -> Records<'_> {
        Records::new(&self.catalog, &self.store)
    }

    /// Returns what comes of building the form of `source`, where that can be told before.
    async fn built_before(&self, source: &Digest) -> Result<Option<Built>, RegistryError> {
        Ok(match self.form(source).await? {
            Form::Whole(converted) => Some(Built::Converted(converted)),
            Form::Lost | Form::None if self.unmakeable.contains_key(source) => Some(Built::NotYet),
            Form::Lost | Form::None => None,
        })
    }

    async fn build_index(
        &self,
        target: &Target,
        source: &Arc<StoredManifest>,
        images: &[Arc<StoredManifest>],
    ) -> Result<Built, RegistryError> {
        if let Some(built) = self.built_before(&source.digest).await? {
            return Ok(built);
        }
        let mut children = Vec::new();
        for image in images {
            match self.build_image(target, image).await? {
                Built::Converted(converted) => {
                    // Just committed, so it is there; without its size the index must not become an answer.
                    let Some(manifest) = self.pull.stored(&converted).await? else { return Ok(Built::NotYet) };
                    children.push((image.digest.clone(), converted, manifest.bytes.len()));
                }
                Built::Plain => {}
                Built::NotYet => return Ok(Built::NotYet),
            }
        }
        let profile = self.profile_of(&source.digest).await?;
        let made = match rewrite::index(&document(source), &children, profile.id()) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => return Ok(served_as_it_is(source, &error)),
        };
        let row = self.store_manifest(&made, MediaType::OciIndex).await?;
        self.commit(&source.digest, profile.id(), &row, None, &made).await
    }

    async fn build_image(&self, target: &Target, source: &Arc<StoredManifest>) -> Result<Built, RegistryError> {
        if let Some(built) = self.built_before(&source.digest).await? {
            return Ok(built);
        }
        let profile = self.profile_of(&source.digest).await?;
        let Parsed::Manifest(manifest) = &source.parsed else { return Ok(Built::Plain) };
        let mut states = Vec::with_capacity(manifest.layers.len());
        for layer in &manifest.layers {
            match self.conversions.look(layer, &profile).await? {
                // The converted form is answered for ever, so it is made of certainties only.
                None | Some(LayerState::Converting(_) | LayerState::Postponed) => return Ok(Built::NotYet),
                Some(state) => states.push(state),
            }
        }
        let choices = self.choices(&states).await?;
        let config = self.read_config(target, &manifest.config).await?;
        let made = match rewrite::image(&document(source), &config, &choices, profile.id()) {
            Ok(made) => made,
            Err(error) => return Ok(served_as_it_is(source, &error)),
        };
        let ConvertedImage { manifest, config } = made;
        let (manifest, config) = (Bytes::from(manifest), Bytes::from(config));
        let config_row = self.store_blob(&config).await?;
        let row = self.store_manifest(&manifest, MediaType::OciManifest).await?;
        self.commit(&source.digest, profile.id(), &row, Some(&config_row), &manifest).await
    }

    /// Decides for each layer, lowest first, whether its twin takes its place.
    async fn choices(&self, states: &[LayerState]) -> Result<Vec<Choice>, RegistryError> {
        let twins: Vec<Option<&Twin>> = states
            .iter()
            .map(|state| match state {
                LayerState::Ready(twin) => Some(&**twin),
                LayerState::Unconvertible { .. }
                | LayerState::LeftAlone
                | LayerState::Converting(_)
                | LayerState::Postponed => None,
            })
            .collect();
        choices::choose(&StoredTocs(&self.stock), &twins).await
    }

    async fn read_config(&self, target: &Target, config: &api::Descriptor) -> Result<Bytes, RegistryError> {
        if config.size > MAX_CONFIG {
            let message = format!("the config has {} bytes, more than the {MAX_CONFIG} allowed", config.size);
            return Err(RegistryError::new(http::StatusCode::BAD_GATEWAY, api::ErrorCode::ManifestInvalid, message));
        }
        self.blobs.check_link(target, &config.digest).await?;
        let body = match self.blobs.find(target, &config.digest).await? {
            Found::Stored(blob) => BlobBody::Stored { rest: 0..blob.size(), blob },
            Found::Filling(fill) => {
                let size = fill.size();
                BlobBody::Filling(FillReader::new(fill, 0..size))
            }
            Found::Elsewhere => self.blobs.pass(target, &config.digest).await?,
        };
        body.collect(MAX_CONFIG).await
    }

    async fn store_blob(&self, bytes: &Bytes) -> Result<BlobRow, RegistryError> {
        let digest = Digest::of(bytes);
        let key = BlobKey::blob(&digest, Generation::random());
        self.store.put_bytes(&key, bytes.clone()).await.map_err(|error| RegistryError::internal(&error))?;
        Ok(BlobRow { digest, size: bytes.len() as u64, key: key.to_string() })
    }

    async fn store_manifest(&self, bytes: &Bytes, media_type: MediaType) -> Result<ManifestRow, RegistryError> {
        let BlobRow { digest, size, key } = self.store_blob(bytes).await?;
        Ok(ManifestRow { digest, media_type, size, key })
    }

    /// Makes a converted manifest the answer for good, unless another one is already. Where that one is lost, nothing made
    /// here brings it back.
    async fn commit(
        &self,
        source: &Digest,
        profile: &str,
        row: &ManifestRow,
        config: Option<&BlobRow>,
        bytes: &Bytes,
    ) -> Result<Built, RegistryError> {
        let parsed = Parsed::parse(bytes, &row.media_type).map_err(|error| RegistryError::internal(&error))?;
        let children: Vec<Digest> = parsed.children().into_iter().map(|child| child.digest.clone()).collect();
        let winner = match self.records().converted_before(source).await? {
            Some((_, before)) if before != row.digest => before,
            _ => {
                let winner = self.catalog.commit_converted(source, profile, row, config, &children).await?;
                self.records().note_converted(source).await?;
                winner
            }
        };
        self.delete_unless_kept(&row.digest, &row.key).await?;
        if let Some(config) = config {
            self.delete_unless_kept(&config.digest, &config.key).await?;
        }
        if winner != row.digest && !self.is_whole(&winner).await? {
            tracing::error!(
                manifest.digest = %source, recorded.digest = %winner, made.digest = %row.digest,
                "a lost converted manifest comes out as another one and stays lost: restore its files, or the configuration it was made under"
            );
            self.unmakeable.insert(source.clone(), ()).await;
            return Ok(Built::NotYet);
        }
        Ok(Built::Converted(winner))
    }

    /// Removes bytes that were written but lost to an earlier row.
    async fn delete_unless_kept(&self, digest: &Digest, key: &str) -> Result<(), RegistryError> {
        let kept = self.catalog.blob(digest).await?.is_some_and(|row| row.key == key);
        if !kept && let Ok(key) = key.parse::<BlobKey>() {
            self.store.delete(&key).await.map_err(|error| RegistryError::internal(&error))?;
        }
        Ok(())
    }
}

fn document(source: &StoredManifest) -> SourceDocument<'_> {
    SourceDocument { bytes: &source.bytes, digest: &source.digest, media_type: &source.media_type }
}

fn served_as_it_is(source: &StoredManifest, error: &RewriteError) -> Built {
    tracing::warn!(manifest.digest = %source.digest, %error, "image has no converted form and is served as it is");
    Built::Plain
}
