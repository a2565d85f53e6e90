//! [`Watch`]: what ends a conversion early, whatever it is doing.

use std::time::Instant;

use crate::source::Meter;
use crate::{Cancel, ConvertError, Limits};

/// The caller's wish to stop, and the time that is left.
pub(crate) struct Watch<'a> {
    cancel: &'a Cancel,
    limits: &'a Limits,
    meter: &'a Meter,
    start: Instant,
}

impl<'a> Watch<'a> {
    /// Begins now.
    pub(crate) fn new(cancel: &'a Cancel, limits: &'a Limits, meter: &'a Meter) -> Self {
        Self { cancel, limits, meter, start: Instant::now() }
    }

    /// Returns an error once the conversion is to end.
    pub(crate) fn check(&self) -> Result<(), ConvertError> {
        if self.cancel.is_cancelled() {
            return Err(ConvertError::Cancelled);
        }
        let limit = self.limits.wall_clock;
        if self.start.elapsed().saturating_sub(self.meter.waited()) > limit {
            return Err(ConvertError::limit(format!("took longer than {} s", limit.as_secs())));
        }
        Ok(())
    }
}
