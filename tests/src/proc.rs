//! A server that runs beside the test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait;

/// How long a server may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);

/// How long a server may take to be ready.
const START: Duration = Duration::from_secs(60);

/// A child process in a session of its own, its output in a log file; ended by its pid when dropped, SIGTERM first.
///
/// It also gets SIGTERM when the thread that started it ends, so that nothing outlives an interrupted test run.
#[derive(Debug)]
pub struct Proc {
    child: Child,
    log: PathBuf,
}

impl Proc {
    /// Starts a command, its output appended to `log`.
    ///
    /// # Errors
    /// The command or its log file could not be opened.
    pub fn start(command: &Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        // A session of its own, as a service has: the kernel shares the cores among sessions.
        let mut wrapped = Command::new("setsid");
        wrapped.args(["setpriv", "--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            wrapped.current_dir(dir);
        }
        let child = wrapped
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Polls until `ready` is true.
    ///
    /// # Errors
    /// The process ended, or is not ready after a minute; the error carries the end of its log.
    pub fn ready(&mut self, mut ready: impl FnMut() -> bool) -> Result<()> {
        let looked = wait::until("ready", START, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}");
            }
            Ok(ready().then_some(()))
        });
        looked.with_context(|| format!("{}:\n{}", self.log.display(), self.log_tail()))
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns what the process wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Returns whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Returns how the process ended, or `None` while it runs.
    ///
    /// # Errors
    /// The process could not be asked for.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.id()?, signal).with_context(|| format!("signal to {}", self.pid()))
    }

    /// Kills the process with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// The process could not be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends the process: SIGTERM, then SIGKILL after a grace of 20 s; then what is left of its group. Returns whether SIGTERM sufficed.
    ///
    /// # Errors
    /// The process could not be waited for.
    pub fn stop(&mut self) -> Result<bool> {
        let id = self.id()?;
        let mut gently = true;
        if self.is_running() {
            let _ = kill_process(id, Signal::TERM);
            gently = wait::until("end", GRACE, || Ok(self.child.try_wait()?)).is_ok();
            if !gently {
                self.kill()?;
            }
        }
        let _ = kill_process_group(id, Signal::KILL);
        Ok(gently)
    }

    fn id(&self) -> Result<Pid> {
        i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("pid")
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let from = log.lines().count().saturating_sub(40);
        log.lines().skip(from).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        // Nothing is left to do about a child that cannot be waited for; its folder's removal will tell.
        let _ = self.stop();
    }
}
