//! The commands that look at images or convert them: `convert`, `inspect`, `explain`; and `migrate`.
//!
//! Each gathers a report first and prints it afterwards, as text or as JSON.

mod blob_file;
pub mod convert;
pub mod explain;
mod image_ref;
pub mod inspect;
mod known;
mod layout;
mod location;
pub mod migrate;
mod registry;
mod table;

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
        Output::Text => report.write_text(&mut out),
        Output::Json => {
            serde_json::to_writer_pretty(&mut out, report).map_err(io::Error::from).and_then(|()| writeln!(out))
        }
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
