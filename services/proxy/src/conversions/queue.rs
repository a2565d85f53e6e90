//! [`Queue`]: the places in which layers are converted, longest layer first.

use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A bounded number of places; who waits longest does not matter, who is longest does.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: BinaryHeap<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    size: u64,
    go: oneshot::Sender<Place>,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.size.cmp(&other.size)
    }
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Option<Queue>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.give_back();
        }
    }
}

impl Queue {
    pub(super) fn new(places: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: places, waiting: BinaryHeap::new() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place for a layer of `size` bytes.
    pub(super) async fn place(&self, size: u64) -> Place {
        let turn = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Place(Some(self.clone()));
            }
            let (go, turn) = oneshot::channel();
            state.waiting.push(Waiting { size, go });
            turn
        };
        // The sender stays in the heap until it is used, and the heap as long as `self`.
        turn.await.unwrap_or(Place(None))
    }

    fn give_back(self) {
        let mut state = self.state();
        while let Some(next) = state.waiting.pop() {
            match next.go.send(Place(Some(self.clone()))) {
                Ok(()) => return,
                // That waiter is gone; the place it would have got must not come back a second time.
                Err(mut place) => drop(place.0.take()),
            }
        }
        state.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_goes_first_and_places_of_the_gone_come_back() {
        let queue = Queue::new(1);
        let first = queue.place(1).await;
        let mut waiting: Vec<_> = [5, 9, 7].map(|size| Box::pin(queue.place(size))).into_iter().collect();
        for waiter in &mut waiting {
            assert!(futures_util::poll!(waiter.as_mut()).is_pending());
        }
        drop(waiting.remove(1));
        drop(first);
        assert!(futures_util::poll!(waiting[0].as_mut()).is_pending(), "5 went before 7");
        let second = waiting.remove(1).await;
        drop(second);
        drop(waiting.remove(0).await);
        assert_eq!(queue.state().free, 1);
    }
}
