//! Tags: what they mean, from memory, from the upstream, or, while that is out of reach, as it was.

use std::sync::Arc;
use std::time::Duration;

use api::{Digest, Reference, Tag};
use catalog::TagRow;
use upstream::{RetryPolicy, UpstreamError};

use super::{ManifestFacts, Pull, PullError, ResolvedTag, shared};
use crate::clock::now_ms;
use crate::metrics::TagCheck;
use crate::remotes::{Reach, Target};

/// How long the upstream is asked about a tag of which an old answer is known.
const IMPATIENT: RetryPolicy =
    RetryPolicy { attempts: 2, total: Duration::from_secs(5), base: Duration::from_millis(200) };

impl Pull {
    /// Returns what `tag` means: from memory while it is fresh, else by one coalesced question to the
    /// upstream, else, when the upstream is out of reach, what it meant before.
    ///
    /// # Errors
    /// The upstream's refusal, or its outage when nothing (recent enough) is known.
    pub(crate) async fn tag(&self, target: &Target, tag: &Tag, with_body: bool) -> Result<ResolvedTag, Arc<PullError>> {
        let known = self.catalog.tag(&target.repository, tag).await.map_err(shared)?;
        if let Some(row) = &known
            && now_ms() - row.checked_at < millis(target.remote.config.tag_ttl)
        {
            self.metrics.tag_check(TagCheck::Fresh);
            return Ok(ResolvedTag {
                digest: row.digest.clone(),
                stale: false,
                original_answered_at: row.original_answered_at,
                head: None,
            });
        }
        let key = (target.repository.clone(), tag.to_string());
        if let Some(error) = self.missing.get(&key).await {
            return Err(Arc::new(error.into()));
        }
        if !with_body
            && let Some((at, seen)) = self.seen.get(&key).await
            && now_ms() - at < millis(target.remote.config.tag_ttl)
        {
            self.metrics.tag_check(TagCheck::Fresh);
            let original_answered_at = known.and_then(|row| row.original_answered_at);
            return Ok(ResolvedTag { original_answered_at, ..seen });
        }
        // Boxed, because it is large and seldom needed.
        let check = Box::pin(self.check_tag(target, tag, known, with_body));
        let checked = self.checks.try_get_with(key.clone(), check).await;
        self.checks.invalidate(&key).await;
        if let Err(error) = &checked {
            self.remember_missing(key, error).await;
        }
        checked
    }

    async fn check_tag(
        &self,
        target: &Target,
        tag: &Tag,
        known: Option<TagRow>,
        with_body: bool,
    ) -> Result<ResolvedTag, PullError> {
        let reach = &target.remote.reach;
        let asking = match (reach.may_ask(), &known) {
            (Some(asking), _) => asking,
            (None, Some(row)) if self.may_be_stale(row) => return Ok(self.stale(row)),
            (None, _) => reach.insist(),
        };
        let answer = self.ask_tag(target, tag, with_body && known.is_none(), known.is_some()).await;
        asking.ended(!matches!(&answer, Err(PullError::Upstream(error)) if Reach::is_lack_of(error)));
        let (digest, head) = match answer {
            Ok(answer) => answer,
            Err(PullError::Upstream(error)) => {
                if matches!(error, UpstreamError::NotFound | UpstreamError::Denied { .. }) {
                    self.forget_tag(target, tag).await?;
                }
                return self.without_upstream(target, known, error);
            }
            Err(other) => return Err(other),
        };
        let now = now_ms();
        match known {
            Some(row) if row.digest == digest => {
                self.metrics.tag_check(TagCheck::Unchanged);
                self.records().tag_checked(&target.repository, tag, row.checked_at, now).await?;
                Ok(ResolvedTag { digest, stale: false, original_answered_at: row.original_answered_at, head })
            }
            Some(row) if !with_body => {
                // A HEAD only looks: the old answer is complete here and stays until the new one is.
                self.metrics.tag_check(TagCheck::Changed);
                let original_answered_at = row.original_answered_at;
                let seen = ResolvedTag { digest, stale: false, original_answered_at, head };
                self.seen.insert((target.repository.clone(), tag.to_string()), (now, seen.clone())).await;
                Ok(seen)
            }
            known => {
                if known.is_some()
                    && let Err(error) = self.by_digest(target, &digest).await
                {
                    return match &*error {
                        PullError::Upstream(error) => self.without_upstream(target, known, error.clone()),
                        _ => Err(PullError::NewTarget(error)),
                    };
                }
                self.metrics.tag_check(TagCheck::Changed);
                self.records().tag(&target.repository, tag, &digest, now).await?;
                // The upstream named this digest under this repository.
                self.records().link(&target.repository, &digest).await?;
                let original_answered_at = known.and_then(|row| row.original_answered_at);
                Ok(ResolvedTag { digest, stale: false, original_answered_at, head })
            }
        }
    }

    /// Asks the upstream what `tag` means: by GET where the body is wanted anyway, else by HEAD. With
    /// an old answer at hand it is not asked for long.
    async fn ask_tag(
        &self,
        target: &Target,
        tag: &Tag,
        with_body: bool,
        impatient: bool,
    ) -> Result<(Digest, Option<ManifestFacts>), PullError> {
        let reference = Reference::Tag(tag.clone());
        if !with_body {
            let client = &target.remote.client;
            let client = if impatient { client.with_retry(IMPATIENT) } else { client.clone() };
            let head = client.head_manifest(target.repository.name(), &reference).await?;
            self.note_quota(target);
            if let Some(digest) = head.digest {
                let facts = head.size.map(|size| ManifestFacts { media_type: head.media_type, size });
                return Ok((digest, facts));
            }
        }
        Ok((self.fetch_now(target, &reference).await?.digest.clone(), None))
    }

    fn without_upstream(
        &self,
        target: &Target,
        known: Option<TagRow>,
        error: UpstreamError,
    ) -> Result<ResolvedTag, PullError> {
        let Some(row) = known.filter(|row| error.is_outage() && self.may_be_stale(row)) else {
            let missing = matches!(error, UpstreamError::NotFound);
            self.metrics.tag_check(if missing { TagCheck::Missing } else { TagCheck::Failed });
            return Err(error.into());
        };
        tracing::warn!(
            repo.name = %target.repository, error = &error as &dyn std::error::Error,
            "upstream is out of reach, a stale tag is served"
        );
        Ok(self.stale(&row))
    }

    fn may_be_stale(&self, row: &TagRow) -> bool {
        now_ms() - row.checked_at <= millis(self.max_stale)
    }

    fn stale(&self, row: &TagRow) -> ResolvedTag {
        self.metrics.tag_check(TagCheck::Stale);
        let (digest, original_answered_at) = (row.digest.clone(), row.original_answered_at);
        ResolvedTag { digest, stale: true, original_answered_at, head: None }
    }

    /// Forgets a tag that the upstream says it does not have, or does not show us: an answer, after which no outage
    /// brings back what it meant before.
    async fn forget_tag(&self, target: &Target, tag: &Tag) -> Result<(), PullError> {
        self.seen.invalidate(&(target.repository.clone(), tag.to_string())).await;
        Ok(self.records().forget_tag(&target.repository, tag, now_ms()).await?)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
