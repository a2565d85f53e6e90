//! [`Jobs`]: the conversions that run here or wait for a place, one for each layer, and not without end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{Descriptor, Digest};

use super::Job;

/// The jobs of one process.
#[derive(Debug)]
pub(super) struct Jobs {
    most: usize,
    known: Mutex<HashMap<Digest, Arc<Job>>>,
}

/// What entering a job led to.
#[derive(Debug)]
pub(super) enum Entered {
    /// There is one for this layer already.
    Known(Arc<Job>),
    /// It is the caller's to run.
    New(Arc<Job>),
    /// There are too many.
    Full,
}

impl Jobs {
    /// Returns no jobs, which may become `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { most, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Job>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, layer: &Digest) -> Option<Arc<Job>> {
        self.known().get(layer).map(Arc::clone)
    }

    pub(super) fn are_full(&self) -> bool {
        self.known().len() >= self.most
    }

    /// Returns the job of `layer`, or enters one that works under `profile`.
    pub(super) fn enter(&self, layer: &Descriptor, profile: convert::Profile) -> Entered {
        let mut known = self.known();
        if let Some(job) = known.get(&layer.digest) {
            return Entered::Known(Arc::clone(job));
        }
        if known.len() >= self.most {
            return Entered::Full;
        }
        let job = Arc::new(Job::new(layer.clone(), profile));
        known.insert(layer.digest.clone(), Arc::clone(&job));
        Entered::New(job)
    }

    /// Takes out a job that has ended.
    pub(super) fn leave(&self, layer: &Digest) {
        self.known().remove(layer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversions::plain_layer;

    #[test]
    fn what_does_not_fit_is_not_entered_until_another_leaves() {
        let layer = |name: &str| plain_layer(Digest::of(name.as_bytes()), 1);
        let jobs = Jobs::new(2);
        let enter = |name: &str| jobs.enter(&layer(name), convert::Profile::default());
        assert!(matches!(enter("a"), Entered::New(_)) && !jobs.are_full());
        assert!(matches!(enter("b"), Entered::New(_)) && jobs.are_full());
        assert!(matches!(enter("c"), Entered::Full) && jobs.get(&layer("c").digest).is_none());
        assert!(matches!(enter("a"), Entered::Known(_)));
        jobs.leave(&layer("a").digest);
        assert!(matches!(enter("c"), Entered::New(_)));
    }
}
