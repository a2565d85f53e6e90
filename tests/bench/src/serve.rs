//! [`Serve`]: `firstlight serve` as a user starts it, with the time it takes; and what a process holds in memory.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Scratch, program, wait};

/// `firstlight serve` with an empty data folder and no configuration; killed when dropped.
#[derive(Debug)]
pub(crate) struct Serve {
    child: Child,
    /// From its start to its first good answer.
    pub(crate) started_in: Duration,
    _scratch: Scratch,
}

impl Serve {
    /// Starts it and asks for `/readyz` without a pause until it says yes.
    ///
    /// # Errors
    /// It ended, or was not ready in ten seconds.
    pub(crate) fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let at = || SocketAddrV4::new([127, 0, 0, 1].into(), wait::free_port());
        let (main, admin) = (at(), at());
        let mut command = Command::new(program()?);
        command.arg("serve").current_dir(scratch.path());
        command.env("FIRSTLIGHT_SERVER_LISTEN", main.to_string());
        command.env("FIRSTLIGHT_SERVER_ADMIN_LISTEN", admin.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begin = Instant::now();
        let mut child = command.spawn()?;
        while !is_ready(admin) {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("serve ended with {status}");
            }
            if begin.elapsed() > Duration::from_secs(10) {
                child.kill()?;
                child.wait()?;
                anyhow::bail!("serve is not ready after ten seconds");
            }
            std::thread::yield_now();
        }
        Ok(Self { child, started_in: begin.elapsed(), _scratch: scratch })
    }

    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // Its folder goes next and would tell of a process that stays.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_ready(admin: SocketAddrV4) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

/// What a process holds in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// The resident set now, in MiB.
    pub(crate) resident: f64,
    /// The largest it was since its start, or since [`Memory::forget_peak`], in MiB.
    pub(crate) peak: f64,
}

impl Memory {
    /// Has the kernel count a process's peak from what it holds now.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn forget_peak(pid: u32) -> Result<()> {
        // proc_pid_clear_refs(5): 5 resets the peak of the resident set.
        let file = format!("/proc/{pid}/clear_refs");
        std::fs::write(&file, "5").context(file)
    }

    /// Asks the kernel about a running process.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| key.to_owned())?;
            line.trim().trim_end_matches(" kB").parse::<f64>().with_context(|| line.to_owned())
        };
        let memory = Self { resident: kib("VmRSS:")? / 1024.0, peak: kib("VmHWM:")? / 1024.0 };
        ensure!(memory.peak >= memory.resident, "{memory:?}");
        Ok(memory)
    }
}
