//! [`Report`]: everything that was measured, as a table and as JSON.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::figure::Figure;
use crate::machine::Machine;
use crate::rows::Row;

/// Says a line on standard error.
pub(crate) fn say(line: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Everything that was measured so far.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Machine,
    quick: bool,
    figures: Vec<(Row, Figure)>,
    notes: Vec<(Row, String)>,
}

impl Report {
    /// Returns an empty report.
    pub(crate) fn new(machine: Machine, quick: bool) -> Self {
        Self { machine, quick, figures: Vec::new(), notes: Vec::new() }
    }

    /// Adds a figure, and says it.
    pub(crate) fn add(&mut self, row: Row, figure: Figure) {
        say(&format!("  {}: {}", figure.name, value(&figure)));
        self.figures.push((row, figure));
    }

    /// Adds a line that explains figures, and says it.
    pub(crate) fn note(&mut self, row: Row, note: String) {
        say(&format!("  {note}"));
        self.notes.push((row, note));
    }

    /// Returns whether every bar was met.
    pub(crate) fn is_met(&self) -> bool {
        self.figures.iter().all(|(_, figure)| figure.is_met() != Some(false))
    }

    /// Writes everything to a file, replacing it.
    ///
    /// # Errors
    /// The file could not be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let notes = |row| self.notes.iter().filter(|(of, _)| *of == row).map(|(_, note)| note).collect::<Vec<_>>();
        let mut rows: Vec<Row> = self.figures.iter().map(|(row, _)| *row).collect();
        rows.dedup();
        let rows: Vec<_> = rows.into_iter().map(|row| json!({ "row": row.to_string(), "notes": notes(row) })).collect();
        let whole = json!({
            "machine": self.machine,
            "quick": self.quick,
            "met": self.is_met(),
            "figures": self.figures.iter().map(|(row, figure)| entry(*row, figure)).collect::<Vec<_>>(),
            "rows": rows,
        });
        std::fs::write(path, serde_json::to_string_pretty(&whole)? + "\n").with_context(|| path.display().to_string())
    }

    /// Prints the table.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(crate) fn print(&self) -> io::Result<()> {
        let mut lines = vec![["row", "figure", "value", "bar", "", "of"].map(str::to_owned)];
        for (row, figure) in &self.figures {
            let parts =
                figure.parts.iter().map(|part| format!("{} {}", part.name, part.unit.show(part.samples.median())));
            lines.push([
                row.to_string(),
                figure.name.clone(),
                value(figure),
                figure.bar.map(|bar| bar.to_string()).unwrap_or_default(),
                figure.is_met().map_or("", |met| if met { "met" } else { "MISSED" }).to_owned(),
                parts.collect::<Vec<_>>().join(", "),
            ]);
        }
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let mut out = io::stdout().lock();
        writeln!(out, "{}{}", self.machine.line(), if self.quick { ", quick" } else { "" })?;
        for [row, name, value, bar, met, parts] in &lines {
            let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(width);
            writeln!(out, "{row:a$}  {name:b$}  {value:>c$}  {bar:d$}  {met:e$}  {parts}")?;
        }
        for warning in self.machine.warnings() {
            writeln!(out, "warning: {warning}")?;
        }
        out.flush()
    }
}

/// The median, and the spread where there is one.
fn value(figure: &Figure) -> String {
    let (unit, samples) = (figure.unit, &figure.samples);
    let median = unit.show(samples.median());
    if samples.min() == samples.max() {
        return median;
    }
    format!("{median} ({} – {})", unit.show(samples.min()), unit.show(samples.max()))
}

fn entry(row: Row, figure: &Figure) -> Value {
    let samples = &figure.samples;
    json!({
        "row": row.to_string(),
        "name": figure.name,
        "unit": figure.unit,
        "median": samples.median(),
        "min": samples.min(),
        "max": samples.max(),
        "samples": samples,
        "bar": figure.bar,
        "met": figure.is_met(),
        "parts": figure.parts,
    })
}
