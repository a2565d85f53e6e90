//! A command that runs to its end.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::wait;

/// No client command of a healthy test takes longer.
const LIMIT: Duration = Duration::from_secs(1200);

/// Runs a command and returns its standard output without the white space around it.
///
/// # Errors
/// It could not be started, did not end in twenty minutes (then it is killed), or failed; the error carries both its outputs.
pub fn run(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| line.clone())?;
    let output = read_all(child.stdout.take());
    let errors = read_all(child.stderr.take());
    let ended = wait::until(&line, LIMIT, || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let output = output.join().unwrap_or_default();
    let errors = errors.join().unwrap_or_default();
    let status = ended.with_context(|| format!("{output}\n{errors}"))?;
    ensure!(status.success(), "{line}: {status}\n{output}\n{errors}");
    Ok(output.trim().to_owned())
}

/// Reads a pipe to its end on a thread, so that a full pipe never stops the command.
fn read_all(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
