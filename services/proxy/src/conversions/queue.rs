//! [`Queue`]: the places in which layers are converted: those that somebody asked for first, the longest first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A bounded number of places; who waits longest does not matter, who is asked for and who is longest does.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    /// There are never more than jobs, and those that went away since the last one came. Whether one is asked for may change while it waits, so it is not kept sorted.
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    asked: Arc<AtomicBool>,
    size: u64,
    go: oneshot::Sender<Place>,
}

impl State {
    /// Takes out the one who goes next.
    fn next(&mut self) -> Option<Waiting> {
        let first = |(_, waiting): &(usize, &Waiting)| (waiting.asked.load(Ordering::Relaxed), waiting.size);
        let (index, _) = self.waiting.iter().enumerate().max_by_key(first)?;
        Some(self.waiting.swap_remove(index))
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
        Self(Arc::new(Mutex::new(State { free: places, waiting: Vec::new() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place for a layer of `size` bytes; `asked` says, now and later, whether somebody asked for it.
    pub(super) async fn place(&self, size: u64, asked: &Arc<AtomicBool>) -> Place {
        let turn = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Place(Some(self.clone()));
            }
            let (go, turn) = oneshot::channel();
            state.waiting.retain(|waiting| !waiting.go.is_closed());
            state.waiting.push(Waiting { asked: Arc::clone(asked), size, go });
            turn
        };
        // The sender stays in the list until it is used, and the list as long as `self`.
        turn.await.unwrap_or(Place(None))
    }

    /// Returns how many places are free.
    pub(super) fn free(&self) -> usize {
        self.state().free
    }

    fn give_back(self) {
        let mut state = self.state();
        while let Some(next) = state.next() {
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

    fn asked(asked: bool) -> Arc<AtomicBool> {
        Arc::new(AtomicBool::new(asked))
    }

    #[tokio::test]
    async fn the_longest_goes_first_and_places_of_the_gone_come_back() {
        let (queue, unasked) = (Queue::new(1), asked(false));
        let first = queue.place(1, &unasked).await;
        let mut waiting: Vec<_> = [5, 9, 7].map(|size| Box::pin(queue.place(size, &unasked))).into_iter().collect();
        for waiter in &mut waiting {
            assert!(futures_util::poll!(waiter.as_mut()).is_pending());
        }
        drop(waiting.remove(1));
        drop(first);
        assert!(futures_util::poll!(waiting[0].as_mut()).is_pending(), "5 went before 7");
        let second = waiting.remove(1).await;
        drop(second);
        drop(waiting.remove(0).await);
        assert_eq!(queue.free(), 1);
    }

    #[tokio::test]
    async fn those_who_went_away_are_not_kept() {
        let (queue, asked) = (Queue::new(1), asked(true));
        let _first = queue.place(1, &asked).await;
        for _ in 0..100 {
            assert!(futures_util::poll!(Box::pin(queue.place(2, &asked)).as_mut()).is_pending());
        }
        assert!(queue.state().waiting.len() <= 1);
    }

    #[tokio::test]
    async fn what_somebody_asked_for_goes_before_what_nobody_did() {
        let queue = Queue::new(1);
        let first = queue.place(1, &asked(false)).await;
        let flags = [asked(false), asked(true), asked(false)];
        let mut waiting: Vec<_> = (0..3).map(|n| Box::pin(queue.place([9, 5, 7][n], &flags[n]))).collect();
        for waiter in &mut waiting {
            assert!(futures_util::poll!(waiter.as_mut()).is_pending());
        }
        // Somebody comes for the third while it waits.
        flags[2].store(true, Ordering::Relaxed);
        drop(first);
        drop(waiting.remove(2).await);
        drop(waiting.remove(1).await);
        drop(waiting.remove(0).await);
    }
}
