//! [`Turn`]: whether this process converts a layer, or waits for another one that does.

use std::pin::pin;
use std::time::Duration;

use api::UnconvertibleReason;
use catalog::{CatalogError, TwinState, Watch, Work};
use tokio::time::Instant;

use super::Conversions;
use super::job::{Job, JobError};
use super::queue::Place;
use crate::fleet::{Claimed, HeldLease};

/// The pauses between looks at a conversion of another process where no note of its end comes: the first, doubled up to
/// the last. A process that died is noticed by them alone.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// How long a turn waits for a catalog that is out of reach.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often a layer may kill its converter.
const MAX_DEATHS: u32 = 5;

/// The right to convert a layer.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) lease: HeldLease,
    /// One of the few that have a lease and no place to convert in yet; `None` where there is one, or no other process.
    pub(super) place: Option<Place>,
}

/// What a look at the row and the lease of a layer says.
enum Seen {
    /// It has ended.
    Ended,
    /// A process failed at it for a passing reason.
    Postponed,
    /// Another process does it.
    Held,
    /// Nobody does it.
    Free,
}

/// What a look at a layer, and a claim of it, led to.
enum Step {
    /// It is this process's turn.
    Mine(Turn),
    /// There is nothing to do here.
    Over,
    /// Another process does it.
    Wait,
}

impl Conversions {
    /// Waits until this process may convert the layer of `job`; `None` when another one has ended its conversion. Waits for
    /// a catalog that is out of reach, too.
    pub(super) async fn turn(&self, job: &Job) -> Result<Option<Turn>, CatalogError> {
        if self.fleet.lease_time().is_none() {
            let claimed = self.fleet.claim(&work(job)).await?;
            return Ok(match claimed {
                Claimed::Mine(lease) => Some(Turn { lease, place: None }),
                Claimed::Theirs(_) => None,
            });
        }
        let mut looks = Looks::new(self.catalog.conversions());
        let (mut waited, mut failing_since) = (false, None);
        loop {
            match self.step(job, &mut looks, &mut waited).await {
                Ok(Step::Mine(turn)) => return Ok(Some(turn)),
                Ok(Step::Over) => return Ok(None),
                Ok(Step::Wait) => failing_since = None,
                Err(error) => {
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    if !error.is_transient() || since.elapsed() > PATIENCE {
                        return Err(error);
                    }
                    tracing::debug!(blob.digest = %job.layer().digest, %error, "a conversion waits for the catalog");
                }
            }
            looks.wait(job).await;
        }
    }

    /// Looks at a layer, and claims it when it is free. `waited` says whether another process had it at an earlier look.
    async fn step(&self, job: &Job, looks: &mut Looks, waited: &mut bool) -> Result<Step, CatalogError> {
        let mut seen = self.seen(job, *waited).await?;
        let mut place = None;
        if matches!(seen, Seen::Free) {
            (seen, place) = self.place_for_lease(job, looks).await?;
        }
        match seen {
            Seen::Ended => Ok(Step::Over),
            Seen::Postponed => {
                self.failed.insert(job.layer().digest.clone(), ()).await;
                Ok(Step::Over)
            }
            Seen::Held => {
                *waited = true;
                Ok(Step::Wait)
            }
            Seen::Free => self.claim(job, place).await,
        }
    }

    /// Waits until this process may have one more layer, those that somebody asked for first, as long as this one is free.
    async fn place_for_lease(&self, job: &Job, looks: &mut Looks) -> Result<(Seen, Option<Place>), CatalogError> {
        let mut place = pin!(self.leases.place(job.size(), &job.asked));
        loop {
            tokio::select! {
                place = &mut place => return Ok((Seen::Free, Some(place))),
                () = looks.wait(job) => {}
            }
            let seen = self.seen(job, false).await?;
            if !matches!(seen, Seen::Free) {
                return Ok((seen, None));
            }
        }
    }

    async fn claim(&self, job: &Job, place: Option<Place>) -> Result<Step, CatalogError> {
        let lease = match self.fleet.claim(&work(job)).await? {
            Claimed::Mine(lease) => lease,
            Claimed::Theirs(_) => return Ok(Step::Wait),
        };
        // The process before may have ended it since the look.
        Ok(match self.seen_in_row(job).await? {
            Seen::Ended => Step::Over,
            _ => Step::Mine(Turn { lease, place }),
        })
    }

    /// Looks at the row and the lease; after a wait for another process also at how that one ended.
    async fn seen(&self, job: &Job, waited: bool) -> Result<Seen, CatalogError> {
        let seen = self.seen_in_row(job).await?;
        if !matches!(seen, Seen::Free) {
            return Ok(seen);
        }
        if self.fleet.holder(&work(job)).await?.is_some() {
            return Ok(Seen::Held);
        }
        // Looked at last: who fails postpones before the lease ends.
        Ok(if waited && self.catalog.is_postponed(&job.layer().digest, &job.profile().id()).await? {
            Seen::Postponed
        } else {
            Seen::Free
        })
    }

    async fn seen_in_row(&self, job: &Job) -> Result<Seen, CatalogError> {
        let row = self.catalog.twin(&job.layer().digest, &job.profile().id()).await?;
        Ok(match row.map(|row| row.state) {
            Some(TwinState::Converting { .. }) => Seen::Free,
            Some(TwinState::Ready { .. } | TwinState::Unconvertible { .. }) | None => Seen::Ended,
        })
    }

    /// Counts the start of the converter, and tells whether it was started before and never ended.
    ///
    /// # Errors
    /// [`ConvertError::Unconvertible`](convert::ConvertError::Unconvertible) when it was started so often by processes
    /// that died that the layer may be what killed them.
    pub(super) async fn attempt(&self, job: &Job) -> Result<bool, JobError> {
        let (source, profile) = (job.layer().digest.clone(), job.profile().id());
        let state = self.catalog.attempt_conversion(&source, &profile).await?;
        if let Some(started) = &mut *self.started() {
            started.insert((source, profile));
        }
        match state {
            TwinState::Converting { attempts } if attempts > MAX_DEATHS => {
                Err(JobError::Convert(convert::ConvertError::Unconvertible {
                    reason: UnconvertibleReason::Poisoned,
                    detail: format!("the converter was started {MAX_DEATHS} times, and its process died each time"),
                }))
            }
            TwinState::Converting { attempts } => Ok(attempts > 1),
            TwinState::Ready { .. } | TwinState::Unconvertible { .. } => Ok(false),
        }
    }

    /// Says that the converter works on a layer no longer.
    pub(super) fn attempt_is_over(&self, job: &Job) {
        if let Some(started) = &mut *self.started() {
            started.remove(&(job.layer().digest.clone(), job.profile().id()));
        }
    }
}

fn work(job: &Job) -> Work {
    Work::Conversion { source: job.layer().digest.clone(), profile: job.profile().id() }
}

/// When a conversion of another process is looked at next.
#[derive(Debug)]
struct Looks {
    watch: Watch,
    pause: Duration,
}

impl Looks {
    fn new(watch: Watch) -> Self {
        Self { watch, pause: PAUSES.0 }
    }

    /// Waits until the conversion has ended in any process or failed there, or it is time to look again: every time later,
    /// as long as nothing is heard of it.
    async fn wait(&mut self, job: &Job) {
        let heard = tokio::time::timeout(self.pause, self.watch.changed(&job.layer().digest)).await;
        self.pause = match heard {
            Ok(()) => PAUSES.0,
            Err(_elapsed) => (self.pause * 2).min(PAUSES.1),
        };
    }
}

#[cfg(test)]
mod tests {
    use api::Digest;
    use catalog::{Catalog, CatalogUrl};

    use super::*;
    use crate::conversions::plain_layer;

    /// Waits once, and returns for how many milliseconds of the paused clock.
    async fn waited(looks: &mut Looks, job: &Job) -> u128 {
        let begun = Instant::now();
        looks.wait(job).await;
        begun.elapsed().as_millis()
    }

    #[tokio::test]
    async fn looks_become_rare_and_a_note_is_heard_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("catalog.db").display());
        let catalog = Catalog::open(&CatalogUrl::parse(&url).unwrap()).await.unwrap();
        let (source, home) = (Digest::of(b"source"), api::Repository::parse("docker.io/library/a").unwrap());
        let job = Job::new(plain_layer(source.clone(), 1), convert::Profile::default());
        let profile = job.profile().id();
        catalog.begin_conversion(&source, &profile, &home).await.unwrap();
        let mut looks = Looks::new(catalog.conversions());

        tokio::time::pause();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            pauses.push(waited(&mut looks, &job).await);
        }
        let seconds = |pauses: &[u128]| pauses.iter().map(|pause| pause / 500).collect::<Vec<_>>();
        assert_eq!(seconds(&pauses), [1, 2, 4, 8, 16, 16], "in half seconds");

        tokio::time::resume();
        catalog.postpone_conversion(&source, &profile).await.unwrap();
        tokio::time::pause();
        let heard = [waited(&mut looks, &job).await, waited(&mut looks, &job).await];
        assert_eq!(seconds(&heard), [0, 1], "in half seconds");
    }
}
