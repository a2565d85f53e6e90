//! [`Lane`]: the fills of one upstream, and which of them go first.
//!
//! A fill that a client asked for is *wanted*; one that only a conversion reads is *unasked*. While a
//! wanted fill of its upstream runs, an unasked one yields: it asks the upstream for nothing, so it
//! holds no connection, until the last wanted one has its bytes or a client wants this one too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::pace;
use crate::metrics::{Metrics, Yielding};

/// The unasked fills of one upstream that may be open at the same time; further ones wait for a place
/// as long as it takes. They are places of their own, so that fills which yield keep no client out.
const UNASKED_FILLS: usize = 32;
/// How long an unasked fill yields before it asks for one smallest segment all the same.
const PATIENCE: Duration = Duration::from_secs(30);

/// The lane of each upstream. There are no more of them than configured upstreams.
#[derive(Debug)]
pub(super) struct Lanes {
    by_upstream: Mutex<HashMap<String, Arc<Lane>>>,
    metrics: Arc<Metrics>,
}

/// What the fills of one upstream share.
#[derive(Debug)]
struct Lane {
    /// The wanted fills that still fetch. Every change of a standing happens in here, and wakes all
    /// who wait.
    wanted: watch::Sender<usize>,
    unasked_places: Arc<Semaphore>,
}

/// One fill's standing in the lane of its upstream, from before it is opened.
#[derive(Debug)]
pub(super) struct Standing {
    lane: Arc<Lane>,
    /// Locked after the lane's count, never before it.
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unasked,
    Wanted,
    /// It needs its upstream no longer.
    Over,
}

/// How much a fill may ask its upstream for at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// As much as fits the link.
    Full,
    /// One smallest segment: it has yielded long enough, but others are still wanted.
    Smallest,
}

impl Share {
    /// Returns the bytes to ask for where `fitting` would fit the link.
    pub(super) const fn of(self, fitting: u64) -> u64 {
        match self {
            Self::Full => fitting,
            Self::Smallest => pace::SMALLEST,
        }
    }
}

impl Lanes {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { by_upstream: Mutex::default(), metrics }
    }

    /// Returns the standing of a new fill from `upstream`: unasked.
    pub(super) fn enter(&self, upstream: &str) -> Standing {
        let mut lanes = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry(upstream.to_owned()).or_insert_with(|| Arc::new(Lane::new()));
        Standing { lane: Arc::clone(lane), state: Mutex::new(State::Unasked), metrics: Arc::clone(&self.metrics) }
    }
}

impl Lane {
    fn new() -> Self {
        Self { wanted: watch::Sender::new(0), unasked_places: Arc::new(Semaphore::new(UNASKED_FILLS)) }
    }
}

impl Standing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the fill wanted for the rest of its time, and wakes it where it yields.
    pub(super) fn want(&self) {
        self.change(State::Wanted);
    }

    /// Says that the fill needs its upstream no longer, however it ended.
    pub(super) fn end(&self) {
        self.change(State::Over);
    }

    /// Tells whether a client waits for the fill.
    pub(super) fn is_wanted(&self) -> bool {
        *self.state() == State::Wanted
    }

    fn change(&self, to: State) {
        self.lane.wanted.send_if_modified(|wanted| {
            let mut state = self.state();
            match (*state, to) {
                (State::Unasked, State::Wanted) => *wanted += 1,
                (State::Wanted, State::Over) => *wanted -= 1,
                (State::Unasked, State::Over) => {}
                _ => return false,
            }
            *state = to;
            true
        });
    }

    /// Waits until nothing keeps the fill from going on: it is wanted, or over, or no other one is
    /// wanted.
    pub(super) async fn cleared(&self) {
        let mut wanted = self.lane.wanted.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _count = wanted.wait_for(|wanted| self.is_clear(*wanted)).await;
    }

    fn is_clear(&self, wanted: usize) -> bool {
        wanted == 0 || *self.state() != State::Unasked
    }

    /// Counts the fill as one that yields, until what this returns is dropped; `None` where nothing keeps
    /// it from going on.
    pub(super) fn yielding(&self) -> Option<Yielding<'_>> {
        (!self.is_clear(*self.lane.wanted.borrow())).then(|| self.metrics.yielding())
    }

    /// Waits for the fill's turn as [`Standing::turn`] does, and counts it as one that yields meanwhile.
    pub(super) async fn share(&self) -> Share {
        let _yielding = self.yielding();
        self.turn().await
    }

    /// Waits for the fill's turn to ask its upstream for bytes, at most [`PATIENCE`], and returns how
    /// many it may ask for.
    pub(super) async fn turn(&self) -> Share {
        match tokio::time::timeout(PATIENCE, self.cleared()).await {
            Ok(()) => Share::Full,
            Err(_elapsed) => Share::Smallest,
        }
    }

    /// Waits for one of the places for unasked fills; returns `None` as soon as the fill is wanted.
    pub(super) async fn unasked_place(&self) -> Option<OwnedSemaphorePermit> {
        let mut wanted = self.lane.wanted.subscribe();
        tokio::select! {
            biased;
            _ = wanted.wait_for(|_| *self.state() != State::Unasked) => None,
            place = Arc::clone(&self.lane.unasked_places).acquire_owned() => place.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use futures_util::poll;

    use super::*;

    fn lanes() -> Lanes {
        Lanes::new(Arc::new(Metrics::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_unasked_fill_yields_to_the_wanted_ones_of_its_upstream() {
        let lanes = lanes();
        let [first, second, unasked] = [(); 3].map(|()| lanes.enter("docker.io"));
        let elsewhere = lanes.enter("ghcr.io");
        assert_eq!(unasked.share().await, Share::Full, "nobody is wanted yet");
        first.want();
        first.want();
        second.want();
        let mut share = pin!(unasked.share());
        assert_eq!(poll!(&mut share), Poll::Pending);
        assert_eq!(poll!(pin!(elsewhere.share())), Poll::Ready(Share::Full));
        assert_eq!(poll!(pin!(second.share())), Poll::Ready(Share::Full));
        first.end();
        assert_eq!(poll!(&mut share), Poll::Pending, "the second is still wanted");
        second.end();
        assert_eq!(poll!(&mut share), Poll::Ready(Share::Full));
    }

    #[tokio::test(start_paused = true)]
    async fn who_becomes_wanted_goes_on_at_once() {
        let lanes = lanes();
        let (wanted, other) = (lanes.enter("docker.io"), lanes.enter("docker.io"));
        wanted.want();
        let (mut share, mut cleared) = (pin!(other.share()), pin!(other.cleared()));
        assert_eq!(poll!(&mut share), Poll::Pending);
        assert_eq!(poll!(&mut cleared), Poll::Pending);
        other.want();
        assert_eq!(poll!(&mut share), Poll::Ready(Share::Full));
        assert_eq!(poll!(&mut cleared), Poll::Ready(()));
    }

    #[tokio::test]
    async fn only_who_stands_still_is_counted() {
        let lanes = lanes();
        let (wanted, unasked) = (lanes.enter("docker.io"), lanes.enter("docker.io"));
        let counted = || lanes.metrics.render().contains("fills_yielding 1");
        assert!(unasked.yielding().is_none() && !counted(), "nobody is wanted yet");
        wanted.want();
        let mut turn = pin!(unasked.turn());
        assert_eq!(poll!(&mut turn), Poll::Pending);
        assert!(!counted(), "something of it may still arrive");
        let yielding = unasked.yielding();
        assert!(yielding.is_some() && counted());
        drop(yielding);
        {
            let mut share = pin!(unasked.share());
            assert_eq!(poll!(&mut share), Poll::Pending);
            assert!(counted());
        }
        assert!(!counted());
        wanted.end();
        assert_eq!(poll!(&mut turn), Poll::Ready(Share::Full));
        assert!(unasked.yielding().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_in_one_smallest_segment_each_time() {
        let lanes = lanes();
        let (wanted, unasked) = (lanes.enter("docker.io"), lanes.enter("docker.io"));
        wanted.want();
        for _ in 0..2 {
            let begun = tokio::time::Instant::now();
            assert_eq!(unasked.share().await, Share::Smallest);
            assert!(begun.elapsed() >= PATIENCE);
        }
        assert_eq!((Share::Smallest.of(64 << 20), Share::Full.of(64 << 20)), (pace::SMALLEST, 64 << 20));
    }

    #[tokio::test]
    async fn a_fill_that_is_over_holds_nobody_up() {
        let lanes = lanes();
        let (over, unasked, failed) = (lanes.enter("docker.io"), lanes.enter("docker.io"), lanes.enter("docker.io"));
        over.end();
        over.want();
        assert_eq!(poll!(pin!(unasked.share())), Poll::Ready(Share::Full), "a late reader made it wanted again");
        unasked.want();
        let mut cleared = pin!(failed.cleared());
        assert_eq!(poll!(&mut cleared), Poll::Pending);
        failed.end();
        assert_eq!(poll!(&mut cleared), Poll::Ready(()), "who waits for a fill that has failed");
    }

    #[tokio::test]
    async fn unasked_fills_have_places_of_their_own() {
        let lanes = lanes();
        let unasked = lanes.enter("docker.io");
        let mut places = Vec::new();
        for _ in 0..UNASKED_FILLS {
            places.push(unasked.unasked_place().await.unwrap());
        }
        let mut further = pin!(unasked.unasked_place());
        assert!(poll!(&mut further).is_pending());
        assert!(poll!(pin!(lanes.enter("ghcr.io").unasked_place())).is_ready());
        places.pop();
        assert!(matches!(poll!(&mut further), Poll::Ready(Some(_))));
        let late = lanes.enter("docker.io");
        let _taken = unasked.unasked_place().await.unwrap();
        let mut place = pin!(late.unasked_place());
        assert!(poll!(&mut place).is_pending());
        late.want();
        assert!(matches!(poll!(&mut place), Poll::Ready(None)));
    }
}
