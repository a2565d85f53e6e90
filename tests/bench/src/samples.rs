//! [`Samples`]: one thing, measured several times.

use serde::Serialize;

/// The values of one thing that was measured at least once, in the order they came.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Returns no values; push at least one before reading.
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Returns a thing that was measured once.
    pub(crate) fn one(value: f64) -> Self {
        Self(vec![value])
    }

    /// Adds a value.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Returns the middle value, or the mean of the two in the middle; NaN without values.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let upper = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
        match sorted.len() % 2 {
            0 => sorted.get((sorted.len() / 2).wrapping_sub(1)).map_or(f64::NAN, |lower| f64::midpoint(*lower, upper)),
            _ => upper,
        }
    }

    /// Returns the value that this many in a hundred do not exceed, by the nearest rank; NaN without values.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// Returns how many values there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the smallest value.
    pub(crate) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    /// Returns the largest value.
    pub(crate) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    /// Returns each value by the value of `other` that was measured in the same turn; where `other` was measured less
    /// often, by its last.
    pub(crate) fn ratios(&self, other: &Self) -> Self {
        let Some(last) = other.0.last() else { return Self::new() };
        Self(self.0.iter().enumerate().map(|(turn, value)| value / other.0.get(turn).unwrap_or(last)).collect())
    }

    /// Returns the values divided by a number.
    pub(crate) fn over(&self, divisor: f64) -> Self {
        Self(self.0.iter().map(|value| value / divisor).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_in_the_middle() {
        for (values, median) in [(vec![3.0], 3.0), (vec![3.0, 1.0], 2.0), (vec![9.0, 1.0, 2.0], 2.0)] {
            assert_eq!(Samples(values.clone()).median(), median, "{values:?}");
        }
        assert!(Samples::new().median().is_nan());
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let hundred = Samples((1..=100).rev().map(f64::from).collect());
        for (percent, value) in [(99.0, 99.0), (98.5, 99.0), (100.0, 100.0), (0.5, 1.0)] {
            assert_eq!(hundred.percentile(percent), value, "{percent}");
        }
        assert_eq!(Samples::one(7.0).percentile(99.0), 7.0);
        assert!(Samples::new().percentile(99.0).is_nan());
    }

    #[test]
    fn ratios_go_by_turn() {
        let (ours, theirs) = (Samples(vec![1.0, 2.0, 4.0]), Samples(vec![10.0, 12.0]));
        assert_eq!(ours.ratios(&theirs), Samples(vec![0.1, 2.0 / 12.0, 4.0 / 12.0]));
        assert_eq!(theirs.ratios(&ours), Samples(vec![10.0, 6.0]));
        assert_eq!((ours.min(), ours.max()), (1.0, 4.0));
    }
}
