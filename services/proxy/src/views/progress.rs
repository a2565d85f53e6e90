//! How far the conversions are that a converted form is made of.

use std::sync::Arc;

use api::Descriptor;

use super::{Form, Parts};
use crate::conversions::{Job, KnownProfile, LayerState};
use crate::error::RegistryError;
use crate::image::{self, Image};
use crate::remotes::Target;

/// A layer whose twin a converted form needs, and the profile that the twin is made under.
pub(super) struct Needed<'a> {
    layer: &'a Descriptor,
    profile: Arc<KnownProfile>,
}

/// How far the conversions of an image are.
pub(super) enum Progress {
    /// These run.
    Running(Vec<Arc<Job>>),
    /// Every layer has a twin or will never have one.
    Ended,
    /// One failed for a passing reason, or was not begun.
    GivenUp,
}

impl Parts {
    /// Returns the layers that the converted form of `image` needs, the longest first: those of every image that has no
    /// whole form yet, each under the profile of that form.
    pub(super) async fn needed<'a>(&self, image: &'a Image) -> Result<Vec<Needed<'a>>, RegistryError> {
        let mut needed = Vec::new();
        for image in image.images() {
            if matches!(self.form(&image.digest).await?, Form::Whole(_)) {
                continue;
            }
            let profile = Arc::new(self.profile_of(&image.digest).await?);
            let layers = image::layers(image).iter();
            needed.extend(layers.map(|layer| Needed { layer, profile: Arc::clone(&profile) }));
        }
        needed.sort_by_key(|needed| std::cmp::Reverse(needed.layer.size));
        Ok(needed)
    }

    /// Starts the conversion of every layer that is not known.
    pub(super) async fn start_all(&self, target: &Target, needed: &[Needed<'_>]) -> Result<Progress, RegistryError> {
        let (mut jobs, mut postponed) = (Vec::new(), false);
        if needed.iter().any(|needed| self.conversions.failed_lately(&needed.layer.digest)) {
            return Ok(Progress::GivenUp);
        }
        for Needed { layer, profile } in needed {
            if !target.remote.is_public() {
                // A manifest may name what its repository does not hold.
                self.blobs.check_link(target, &layer.digest).await?;
            }
            match self.conversions.ensure(target, layer, profile).await? {
                LayerState::Converting(job) => jobs.push(job),
                LayerState::Postponed => postponed = true,
                LayerState::Ready(_) | LayerState::Unconvertible { .. } | LayerState::LeftAlone => {}
            }
        }
        Ok(match (jobs.is_empty(), postponed) {
            (false, _) => Progress::Running(jobs),
            (true, true) => Progress::GivenUp,
            (true, false) => Progress::Ended,
        })
    }

    /// Returns how far the conversions are, starting none: one that failed for a passing
    /// reason is tried again when the image is next asked for, not in a circle.
    pub(super) async fn progress(&self, needed: &[Needed<'_>]) -> Result<Progress, RegistryError> {
        let mut jobs = Vec::new();
        for Needed { layer, profile } in needed {
            match self.conversions.look(layer, profile).await? {
                None | Some(LayerState::Postponed) => return Ok(Progress::GivenUp),
                Some(LayerState::Converting(job)) => jobs.push(job),
                Some(LayerState::Ready(_) | LayerState::Unconvertible { .. } | LayerState::LeftAlone) => {}
            }
        }
        Ok(if jobs.is_empty() { Progress::Ended } else { Progress::Running(jobs) })
    }
}
