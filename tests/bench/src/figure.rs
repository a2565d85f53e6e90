//! [`Figure`]: a line of the result.

use std::fmt;

use serde::Serialize;

use crate::samples::Samples;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// One thing by another.
    Ratio,
    /// Seconds.
    Seconds,
    /// Thousandths of a second.
    Milliseconds,
    /// 1 048 576 bytes.
    Mebibytes,
    /// Of them each second.
    MebibytesPerSecond,
    /// Requests each second.
    PerSecond,
}

impl Unit {
    /// Returns a value as it stands in the table.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{value:.3}"),
            Self::Seconds if value < 1.0 => format!("{value:.3} s"),
            Self::Seconds => format!("{value:.2} s"),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::MebibytesPerSecond => format!("{value:.0} MiB/s"),
            Self::PerSecond => format!("{value:.0}/s"),
        }
    }
}

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    /// Not above.
    AtMost(f64),
    /// Not below.
    AtLeast(f64),
}

impl Bar {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(bar) => value <= bar,
            Self::AtLeast(bar) => value >= bar,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bar) => write!(f, "≤ {bar}"),
            Self::AtLeast(bar) => write!(f, "≥ {bar}"),
        }
    }
}

/// What a figure was made of.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Part {
    /// Who or what was measured.
    pub(crate) name: &'static str,
    /// What its values count.
    pub(crate) unit: Unit,
    /// The values.
    pub(crate) samples: Samples,
}

/// A line of the result: a value, measured once or more, with its bar if it has one. The median is judged.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// What the value says.
    pub(crate) name: String,
    /// What the value counts.
    pub(crate) unit: Unit,
    /// The value.
    pub(crate) samples: Samples,
    /// What the median has to be; `None`: for information.
    pub(crate) bar: Option<Bar>,
    /// What the value was made of.
    pub(crate) parts: Vec<Part>,
}

impl Figure {
    /// A figure without a bar.
    pub(crate) fn new(name: impl Into<String>, unit: Unit, samples: Samples) -> Self {
        Self { name: name.into(), unit, samples, bar: None, parts: Vec::new() }
    }

    /// Sets the bar.
    pub(crate) fn bar(self, bar: Bar) -> Self {
        Self { bar: Some(bar), ..self }
    }

    /// Adds a part.
    pub(crate) fn part(mut self, name: &'static str, unit: Unit, samples: Samples) -> Self {
        self.parts.push(Part { name, unit, samples });
        self
    }

    /// Returns whether the median meets the bar; `None` without a bar.
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.bar.map(|bar| bar.is_met(self.samples.median()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_at_its_value_and_never_by_nothing() {
        for (bar, value, met) in [
            (Bar::AtMost(1.05), 1.05, true),
            (Bar::AtMost(1.05), 1.06, false),
            (Bar::AtLeast(15.0), 15.0, true),
            (Bar::AtLeast(15.0), 14.9, false),
        ] {
            let figure = Figure::new("", Unit::Ratio, Samples::one(value)).bar(bar);
            assert_eq!(figure.is_met(), Some(met), "{value} {bar}");
        }
        assert_eq!(Figure::new("", Unit::Ratio, Samples::new()).bar(Bar::AtMost(1.0)).is_met(), Some(false));
    }
}
