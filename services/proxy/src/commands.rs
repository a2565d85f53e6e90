//! The commands that look at images or convert them: `convert`, `inspect`, `explain`; and those about catalog and store:
//! `migrate`, `gc`, `pin`, `catalog rebuild`.
//!
//! Each gathers a report first and prints it afterwards, as text or as JSON.

mod blob_file;
pub mod convert;
pub mod explain;
pub mod gc;
mod image_ref;
pub mod inspect;
mod known;
mod layout;
mod location;
pub mod migrate;
pub mod pin;
pub mod rebuild;
mod registry;
mod table;
pub mod tie;

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::Output;

pub use known::{BlobState, Knowledge, KnownImage, KnownLayer, TwinStateName};

/// The result of a command.
pub trait Report: Serialize {
    /// Writes the result for people.
    ///
    /// # Errors
    /// Those of `out`.
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// Writes `report` to standard output. A reader that has seen enough and gone is no error.
///
/// # Errors
/// Those of standard output.
pub fn print(report: &impl Report, output: Output) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = match output {
        Output::Text => write_shown(report, &mut out),
        Output::Json => {
            serde_json::to_writer_pretty(&mut out, report).map_err(io::Error::from).and_then(|()| writeln!(out))
        }
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes the text of `report` to `out`, line by line, such that nothing in it acts on a terminal.
fn write_shown(report: &impl Report, out: &mut dyn Write) -> io::Result<()> {
    let mut lines = ShownLines { out, line: Vec::new() };
    report.write_text(&mut lines)?;
    lines.end_line(false)
}

/// Passes on whole lines in the form that [`table::shown`] gives them.
struct ShownLines<'a> {
    out: &'a mut dyn Write,
    line: Vec<u8>,
}

impl ShownLines<'_> {
    fn end_line(&mut self, newline: bool) -> io::Result<()> {
        let line = table::shown(&String::from_utf8_lossy(&self.line));
        self.line.clear();
        self.out.write_all(line.as_bytes())?;
        if newline { self.out.write_all(b"\n") } else { Ok(()) }
    }
}

impl Write for ShownLines<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            self.line.extend_from_slice(text);
            if ends {
                self.end_line(true)?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Named(&'static str);

    impl Report for Named {
        fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
            writeln!(out, "name {}", self.0)?;
            write!(out, "end")
        }
    }

    #[test]
    fn no_report_acts_on_a_terminal() {
        let mut out = Vec::new();
        write_shown(&Named("a\u{1b}]0;title\u{7}\u{9b}ä"), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "name a\\u{1b}]0;title\\u{7}\\u{9b}ä\nend");
    }
}
