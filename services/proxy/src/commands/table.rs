//! [`Table`]: aligned columns; and how sizes, times and digests look in them.

use std::io::{self, Write};

use api::Digest;

/// On which side of its column a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Rows of cells with a heading.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Side)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells that are missing are empty. Each cell keeps to its line.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| shown(cell)).collect());
    }

    /// Writes the rows; columns that are empty in all of them are left out.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let cell = |row: &'_ Vec<String>, i: usize| row.get(i).cloned().unwrap_or_default();
        let shown: Vec<(usize, usize)> = (0..self.columns.len())
            .filter_map(|i| {
                let widest = self.rows.iter().map(|row| cell(row, i).chars().count()).max().unwrap_or(0);
                (widest > 0).then(|| (i, widest.max(self.columns[i].0.chars().count())))
            })
            .collect();
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for &(i, width) in &shown {
                let text = cell(row, i);
                match self.columns[i].1 {
                    Side::Left => line.push_str(&format!("{text:<width$}  ")),
                    Side::Right => line.push_str(&format!("{text:>width$}  ")),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Returns `text` without the characters that would act on a terminal: control characters, and those that turn the
/// direction of what follows. Upstreams and images choose their texts themselves.
pub(super) fn shown(text: &str) -> String {
    let acts = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Returns `bytes` with three digits and a unit.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut amount, mut unit) = (bytes as f64 / 1024.0, 0);
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let digits = if amount < 10.0 { 2 } else { usize::from(amount < 100.0) };
    format!("{amount:.digits$} {}", UNITS[unit])
}

/// Returns `of` as a part of `whole`, or `None` where there is no whole.
pub(super) fn factor(of: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (of as f64 / whole as f64 * 10_000.0).round() / 10_000.0)
}

/// Returns a factor with two decimals; nothing for none.
pub(super) fn factor_text(factor: Option<f64>) -> String {
    factor.map(|factor| format!("{factor:.2}")).unwrap_or_default()
}

/// Returns as much of a digest as tells it from others.
pub(super) fn short(digest: &Digest) -> String {
    format!("{}:{}", digest.algorithm().name(), &digest.hex()[..12])
}

/// Returns a length of time in its largest unit.
pub(super) fn age(millis: i64) -> String {
    let seconds = millis.max(0) / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1 << 20, "1.00 MiB"), (1_047_552, "1.00 MiB")];
        for (bytes, text) in cases.into_iter().chain([(150 << 20, "150 MiB"), (u64::MAX, "16384 PiB")]) {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn texts_cannot_act_on_a_terminal() {
        assert_eq!(shown("a\u{1b}[2Jb\u{9b}1m\n\u{202e}"), "a\\u{1b}[2Jb\\u{9b}1m\\n\\u{202e}");
        assert_eq!(shown("früh \\ 'x'"), "früh \\ 'x'");
    }

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        let mut table = Table::new(&[("NAME", Side::Left), ("WHY", Side::Left), ("SIZE", Side::Right)]);
        table.row(vec!["a".into(), String::new(), "10 B".into()]);
        table.row(vec!["longer".into(), String::new(), "1.50 KiB".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME        SIZE\na           10 B\nlonger  1.50 KiB\n");
    }
}
