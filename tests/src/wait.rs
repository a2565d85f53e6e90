//! Waiting for a condition: polled, with a deadline.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::net::TcpSocket;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Polls until `look` returns a value, and returns it.
///
/// # Errors
/// `look` failed, or `limit` passed; the error names `what`.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("{what}: nothing after {limit:?}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// Returns a TCP port that is free on loopback, below the range the kernel picks from for outgoing connections. No other caller in
/// this process gets the same one, until all were handed out.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let seed = std::process::id().wrapping_mul(97) % COUNT;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + ((seed + step) % COUNT) as u16;
        if is_free(port).is_ok() {
            return port;
        }
    }
}

/// Binds and does not listen: a child that another thread is starting has this socket until its exec, and would keep whoever the
/// port is for from listening on it.
fn is_free(port: u16) -> std::io::Result<()> {
    let probe = TcpSocket::new_v4()?;
    probe.set_reuseaddr(true)?;
    probe.bind((Ipv4Addr::LOCALHOST, port).into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// While other threads start programs, a free port can be listened on; one that somebody listens on is not free.
    #[test]
    fn a_free_port_is_free_while_programs_start() {
        const ROUNDS: usize = 4000;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let _ = Command::new("true").status();
                    }
                });
            }
            let refused =
                (0..ROUNDS).filter(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).is_err()).count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(refused, 0);
        });
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
        assert!(is_free(taken.local_addr().unwrap().port()).is_err());
    }
}
