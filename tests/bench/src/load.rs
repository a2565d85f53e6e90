//! [`Load`]: requests for a blob without a pause, by `wrk`.

use std::net::SocketAddrV4;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{Scratch, run};

use crate::figure::Unit;

/// Writes what came of it in numbers that need no reading of units.
const DONE: &str = "done = function(summary)\n\
     local failed = summary.errors\n\
     failed = failed.connect + failed.read + failed.write + failed.status + failed.timeout\n\
     io.write(string.format('failed: %d\\nrequests: %d\\nbytes: %.0f\\nmicroseconds: %.0f\\n',\n\
     failed, summary.requests, summary.bytes, summary.duration))\n\
     end\n";

/// What 16 connections ask for during five seconds, again and again.
#[derive(Debug, Clone)]
pub(crate) enum Load {
    /// 64 KiB at random places of a blob.
    Ranges {
        /// The blob's path.
        path: String,
        /// Its length in bytes.
        size: u64,
    },
    /// A whole blob.
    Whole {
        /// Its path.
        path: String,
    },
}

impl Load {
    /// Returns what is asked for, for people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ranges { .. } => "ranges",
            Self::Whole { .. } => "whole blobs",
        }
    }

    /// Returns what [`Load::put_on`] counts.
    pub(crate) fn unit(&self) -> Unit {
        match self {
            Self::Ranges { .. } => Unit::PerSecond,
            // Few of them fit into the time, so bodies that have not ended count, too.
            Self::Whole { .. } => Unit::MebibytesPerSecond,
        }
    }

    /// Puts the load on a server and returns what it answered each second, in [`Load::unit`].
    ///
    /// # Errors
    /// A request failed.
    pub(crate) fn put_on(&self, at: SocketAddrV4) -> Result<f64> {
        let scratch = Scratch::new()?;
        let (Self::Ranges { path, .. } | Self::Whole { path }) = self;
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-c16", "-d5s", "--timeout", "30s", "-s"]).arg(scratch.write("load.lua", &self.script())?);
        let output = run(wrk.arg(format!("http://{at}{path}")))?;
        let failed = number(&output, "failed")?;
        ensure!(failed == 0.0, "{failed} requests for {path} failed at {at}:\n{output}");
        let answered = match self {
            Self::Ranges { .. } => number(&output, "requests")?,
            Self::Whole { .. } => number(&output, "bytes")? / 1_048_576.0,
        };
        Ok(answered / (number(&output, "microseconds")? / 1e6))
    }

    fn script(&self) -> String {
        match self {
            Self::Ranges { path, size } => format!(
                "local last = {size} - 65536\n\
                 request = function()\n\
                 local at = math.random(0, last)\n\
                 return wrk.format('GET', '{path}', {{ Range = string.format('bytes=%d-%d', at, at + 65535) }})\n\
                 end\n\
                 {DONE}"
            ),
            Self::Whole { .. } => DONE.to_owned(),
        }
    }
}

fn number(output: &str, name: &str) -> Result<f64> {
    let line = output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.and_then(|number| number.parse().ok()).with_context(|| format!("no {name:?} in what wrk wrote:\n{output}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_name() {
        let output = "  100 requests in 2.00s, 9.54MB read\nfailed: 0\nrequests: 100\nbytes: 10000000\n";
        assert_eq!(number(output, "requests").unwrap(), 100.0);
        assert_eq!(number(output, "bytes").unwrap(), 1e7);
        assert!(number(output, "microseconds").is_err());
    }
}
