//! [`Machine`]: where and when it was measured.

use std::fs::read_to_string;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// A machine busier than this before the bench begins spoils the figures.
const MOST_LOAD: f64 = 0.5;

/// Where and when it was measured. What could not be found out is empty or 0.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// Seconds since 1970.
    started: u64,
    cores: usize,
    cpu: String,
    memory_mib: u64,
    kernel: String,
    /// The load average over one minute, at the start.
    load: f64,
}

impl Machine {
    /// Looks at this machine, now.
    pub(crate) fn look() -> Self {
        let of = |file: &str, key: &str| {
            let text = read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = of("/proc/meminfo", "MemTotal");
        let load = read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: of("/proc/cpuinfo", "model name"),
            memory_mib: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10,
            kernel: read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }

    /// Returns what makes figures of this machine doubtful.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let busy =
            format!("the load is {} at the start: something else runs here, and the figures are doubtful", self.load);
        if self.load > MOST_LOAD { vec![busy] } else { Vec::new() }
    }

    /// Returns the machine in one line.
    pub(crate) fn line(&self) -> String {
        let Self { cores, cpu, memory_mib, kernel, load, .. } = self;
        format!("{cores} cores ({cpu}), {} GiB, Linux {kernel}, load {load} at the start", memory_mib >> 10)
    }
}
