//! Start, and memory before any request.

use std::time::Duration;

use anyhow::Result;

use super::Row;
use crate::figure::{Bar, Figure, Unit};
use crate::report::Report;
use crate::samples::Samples;
use crate::serve::{Memory, Serve};

/// Seconds from the program's start to its first good answer.
const START: Bar = Bar::AtMost(0.2);

/// MiB.
const RESIDENT: Bar = Bar::AtMost(40.0);

pub(super) fn run(quick: bool, report: &mut Report) -> Result<()> {
    let (mut start, mut resident) = (Samples::new(), Samples::new());
    for _ in 0..if quick { 3 } else { 10 } {
        let serve = Serve::start()?;
        start.push(serve.started_in.as_secs_f64());
        // What it does in its first moments is part of being idle.
        std::thread::sleep(Duration::from_millis(500));
        resident.push(Memory::of(serve.pid())?.resident);
    }
    report.add(Row::Idle, Figure::new("serve: start to ready", Unit::Seconds, start).bar(START));
    report.add(Row::Idle, Figure::new("serve: idle memory", Unit::Mebibytes, resident).bar(RESIDENT));
    Ok(())
}
