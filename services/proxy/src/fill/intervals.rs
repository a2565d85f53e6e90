//! [`Intervals`]: a set of byte positions, kept as disjoint ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of byte positions. Ranges that touch are one range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Intervals(BTreeMap<u64, u64>);

impl Intervals {
    /// Adds `range`.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        let touching: Vec<u64> =
            self.0.range(..=end).rev().take_while(|&(_, &e)| e >= start).map(|(&s, _)| s).collect();
        for key in touching {
            if let Some(e) = self.0.remove(&key) {
                start = start.min(key);
                end = end.max(e);
            }
        }
        self.0.insert(start, end);
    }

    /// Removes `range`.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let touched: Vec<(u64, u64)> =
            self.0.range(..range.end).rev().take_while(|&(_, &e)| e > range.start).map(|(&s, &e)| (s, e)).collect();
        for (start, end) in touched {
            self.0.remove(&start);
            if start < range.start {
                self.0.insert(start, range.start);
            }
            if end > range.end {
                self.0.insert(range.end, end);
            }
        }
    }

    /// Returns the end of the run that covers `position`, or `None` where it is not in the set.
    pub(crate) fn run_end(&self, position: u64) -> Option<u64> {
        self.0.range(..=position).next_back().map(|(_, &end)| end).filter(|&end| end > position)
    }

    /// Returns the first gap at or after `from` and before `limit`.
    pub(crate) fn first_gap(&self, from: u64, limit: u64) -> Option<Range<u64>> {
        let start = self.run_end(from).unwrap_or(from);
        if start >= limit {
            return None;
        }
        let end = self.0.range(start..).next().map_or(limit, |(&next, _)| next.min(limit));
        Some(start..end)
    }

    /// Returns the number of positions in the set.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Returns the ranges in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(&start, &end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replays a long pseudo-random script on the set and on a plain array of flags.
    #[test]
    fn behaves_like_an_array_of_flags() {
        const SIZE: u64 = 64;
        let mut set = Intervals::default();
        let mut model = [false; SIZE as usize];
        let mut seed = 7u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..4000 {
            let (a, b) = (next(SIZE), next(SIZE + 1));
            let range = a.min(b)..a.max(b);
            let add = next(3) > 0;
            if add {
                set.insert(range.clone());
            } else {
                set.remove(range.clone());
            }
            model[range.start as usize..range.end as usize].fill(add);
            assert_eq!(set.total(), model.iter().filter(|&&f| f).count() as u64);
            let from = next(SIZE);
            let gap = (from..SIZE).find(|&i| !model[i as usize]);
            assert_eq!(set.first_gap(from, SIZE).map(|g| g.start), gap);
            let run = model[from as usize].then(|| (from..SIZE).find(|&i| !model[i as usize]).unwrap_or(SIZE));
            assert_eq!(set.run_end(from), run);
        }
    }
}
