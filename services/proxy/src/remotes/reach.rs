//! [`Reach`]: whether an upstream could be reached a moment ago. Where an old answer is at hand, nobody waits for one that could not.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use upstream::UpstreamError;

/// How long an upstream that could not be reached is not asked by those who have an old answer.
const AWAY: Duration = Duration::from_secs(5);

/// Whether an upstream could be reached a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Reach(Mutex<State>);

#[derive(Debug, Default)]
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
}

impl Reach {
    /// Tells whether `error` means that the upstream could not be reached at all.
    pub(crate) const fn is_lack_of(error: &UpstreamError) -> bool {
        matches!(error, UpstreamError::Network { .. } | UpstreamError::Timeout)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a request of somebody who has an old answer. Returns `None` where the upstream is believed to be away, or
    /// another request is finding out.
    pub(crate) fn may_ask(&self) -> Option<Asking<'_>> {
        let mut state = self.state();
        let is_probe = match *state {
            State::There => false,
            State::Away(until) if Instant::now() >= until => true,
            State::Away(_) | State::Probed => return None,
        };
        if is_probe {
            *state = State::Probed;
        }
        Some(Asking { reach: self, is_probe })
    }

    /// Begins a request of somebody who has nothing else.
    pub(crate) const fn insist(&self) -> Asking<'_> {
        Asking { reach: self, is_probe: false }
    }
}

impl Asking<'_> {
    /// Says whether the upstream was reached.
    pub(crate) fn ended(mut self, reached: bool) {
        self.is_probe = false;
        *self.reach.state() = if reached { State::There } else { State::Away(Instant::now() + AWAY) };
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        // A probe whose client left has found out nothing: the next request asks.
        if self.is_probe {
            *self.reach.state() = State::Away(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_asks_again_after_a_while_and_the_others_do_not_wait_for_it() {
        let reach = Reach::default();
        let (first, second) = (reach.may_ask().unwrap(), reach.may_ask().unwrap());
        first.ended(true);
        second.ended(false);
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
}
