//! [`Measured`]: a command that runs to its end, with what it cost.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::{Proc, Scratch, wait};

/// Nothing here takes longer; the reference converter comes nearest.
const LIMIT: Duration = Duration::from_secs(1800);

/// What a command cost, as the kernel counted it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// From start to end, to a hundredth of a second.
    pub(crate) wall: f64,
    /// User and system seconds of the command and of the children it waited for.
    pub(crate) cpu: f64,
    /// The largest resident set, in MiB.
    pub(crate) peak: f64,
}

/// A command that runs beside the bench; ended when dropped.
#[derive(Debug)]
pub(crate) struct Measured {
    proc: Proc,
    line: String,
    scratch: Scratch,
}

impl Measured {
    /// Starts a command under GNU time.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) fn start(command: &Command) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mut wrapped = Command::new("time");
        wrapped.args(["-q", "-f", "%e %U %S %M", "-o"]).arg(scratch.join("cost"));
        // It must not outlive a bench that is killed.
        wrapped.args(["setpriv", "--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                wrapped.env(key, value);
            }
        }
        let proc = Proc::start(&wrapped, &scratch.join("output"))?;
        Ok(Self { proc, line: format!("{command:?}"), scratch })
    }

    /// Waits for the end and returns the cost.
    ///
    /// # Errors
    /// It failed, or did not end in half an hour; the error carries its output.
    pub(crate) fn end(mut self) -> Result<Cost> {
        let status = wait::until(&self.line, LIMIT, || self.proc.ended())?;
        if !status.success() {
            bail!("{}: {status}\n{}", self.line, self.proc.log());
        }
        cost(&self.scratch.join("cost"))
    }
}

/// Runs a command to its end.
///
/// # Errors
/// See [`Measured::start`] and [`Measured::end`].
pub(crate) fn measure(command: &Command) -> Result<Cost> {
    Measured::start(command)?.end()
}

fn cost(path: &Path) -> Result<Cost> {
    let text = std::fs::read_to_string(path)?;
    let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>().context(text.clone())?;
    let [wall, user, system, kib] = numbers[..] else { bail!("time wrote {text:?}") };
    Ok(Cost { wall, cpu: user + system, peak: kib / 1024.0 })
}

/// Seconds of CPU that were used until now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Busy {
    /// By the children that this process has waited for.
    pub(crate) children: f64,
    /// By everything.
    pub(crate) machine: f64,
}

impl Busy {
    /// Looks at what the kernel has counted, to a hundredth of a second (proc(5), "stat").
    ///
    /// # Errors
    /// The kernel tells it in another way.
    pub(crate) fn now() -> Result<Self> {
        let own = std::fs::read_to_string("/proc/self/stat")?;
        let (_, fields) = own.rsplit_once(") ").with_context(|| own.clone())?;
        // The 16th and 17th field, of which three are before the ones here.
        let children = ticks(fields.split(' ').skip(13).take(2))?;
        let all = std::fs::read_to_string("/proc/stat")?;
        let line = all.lines().next().and_then(|line| line.strip_prefix("cpu ")).with_context(|| all.clone())?;
        // user, nice, system, then what is idle, then what interrupts took.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let busy = fields.iter().take(3).chain(fields.iter().skip(5).take(2));
        Ok(Self { children, machine: ticks(busy.copied())? })
    }
}

fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> Result<f64> {
    let ticks = fields.map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// Writes back what earlier work left in memory, so that it is not done at the cost of what is measured next.
pub(crate) fn settle() {
    rustix::fs::sync();
}
