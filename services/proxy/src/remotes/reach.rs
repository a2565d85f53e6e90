//! [`Reach`]: whether an upstream could be reached a moment ago. Where an old answer is at hand, nobody waits for one that could not.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use upstream::UpstreamError;

/// How long an upstream that could not be reached is not asked by those who have an old answer.
const AWAY: Duration = Duration::from_secs(5);

/// Whether an upstream could be reached a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Reach(Mutex<Known>);

/// What the requests so far have told.
#[derive(Debug, Default)]
struct Known {
    state: State,
    /// How often the upstream was reached.
    successes: u64,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    /// It could, or was never asked.
    #[default]
    There,
    /// It could not, and is not asked until then.
    Away(Instant),
    /// It could not, and one request asks whether it still cannot.
    Probed,
}

/// A request on its way to the upstream; [`Asking::ended`] tells what came of it.
#[derive(Debug)]
pub(crate) struct Asking<'a> {
    reach: &'a Reach,
    is_probe: bool,
    /// The successes before it began.
    successes: u64,
}

impl Reach {
    /// Tells whether `error` means that the upstream could not be reached at all.
    pub(crate) const fn is_lack_of(error: &UpstreamError) -> bool {
        matches!(error, UpstreamError::Network { .. } | UpstreamError::Timeout)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a request of somebody who has an old answer. Returns `None` where the upstream is believed to be away, or
    /// another request is finding out.
    pub(crate) fn may_ask(&self) -> Option<Asking<'_>> {
        let mut known = self.known();
        let is_probe = match known.state {
            State::There => false,
            State::Away(until) if Instant::now() >= until => true,
            State::Away(_) | State::Probed => return None,
        };
        if is_probe {
            known.state = State::Probed;
        }
        Some(Asking { reach: self, is_probe, successes: known.successes })
    }

    /// Begins a request of somebody who has nothing else.
    pub(crate) fn insist(&self) -> Asking<'_> {
        Asking { reach: self, is_probe: false, successes: self.known().successes }
    }
}

impl Asking<'_> {
    /// Says whether the upstream was reached.
    pub(crate) fn ended(mut self, reached: bool) {
        let is_probe = std::mem::take(&mut self.is_probe);
        let mut known = self.reach.known();
        if reached {
            *known = Known { state: State::There, successes: known.successes.wrapping_add(1) };
            return;
        }
        // A request that took long to fail says nothing about the time after a success.
        let is_news = known.successes == self.successes;
        // Only a probe puts the next one off: others would keep an upstream away that is back.
        if is_news && (is_probe || matches!(known.state, State::There)) {
            known.state = State::Away(Instant::now() + AWAY);
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            let mut known = self.reach.known();
            // A probe whose client left has found out nothing: the next request asks.
            if known.successes == self.successes {
                known.state = State::Away(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_asks_again_after_a_while_and_the_others_do_not_wait_for_it() {
        let reach = Reach::default();
        reach.may_ask().unwrap().ended(true);
        reach.may_ask().unwrap().ended(false);
        assert!(reach.may_ask().is_none(), "it was away a moment ago");
        tokio::time::advance(AWAY).await;
        let probe = reach.may_ask().unwrap();
        assert!(reach.may_ask().is_none(), "one finds out");
        drop(probe);
        let probe = reach.may_ask().unwrap();
        probe.ended(false);
        assert!(reach.may_ask().is_none(), "it is still away");
        reach.insist().ended(true);
        assert!(reach.may_ask().is_some(), "who insisted got an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_failure_does_not_undo_a_success() {
        let reach = Reach::default();
        let (slow, quick) = (reach.may_ask().unwrap(), reach.may_ask().unwrap());
        quick.ended(true);
        slow.ended(false);
        reach.may_ask().expect("it was reached since the slow one began").ended(false);
        tokio::time::advance(AWAY).await;
        let probe = reach.may_ask().unwrap();
        reach.insist().ended(true);
        drop(probe);
        let probe = reach.may_ask().expect("a probe that leaves undoes nothing");
        reach.insist().ended(true);
        probe.ended(false);
        assert!(reach.may_ask().is_some(), "it was reached since the probe began");
    }

    #[tokio::test(start_paused = true)]
    async fn who_insists_in_vain_puts_the_next_probe_off_for_nobody() {
        let reach = Reach::default();
        reach.insist().ended(false);
        assert!(reach.may_ask().is_none(), "the first failure counts, whoever finds out");
        tokio::time::advance(AWAY / 2).await;
        reach.insist().ended(false);
        tokio::time::advance(AWAY / 2).await;
        let probe = reach.may_ask().expect("the time began with the first failure");
        reach.insist().ended(false);
        assert!(reach.may_ask().is_none(), "the probe is still under way");
        probe.ended(false);
        assert!(reach.may_ask().is_none(), "it is still away");
    }
}
