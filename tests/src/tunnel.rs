//! A forward proxy, as `HTTPS_PROXY` names one.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::wait;

/// The longest head of a request.
const MAX_HEAD: usize = 16 << 10;

/// A forward proxy that knows `CONNECT` alone, and remembers where it was asked to lead.
#[derive(Debug)]
pub struct Tunnel {
    at: SocketAddrV4,
    asked: Arc<Mutex<Vec<String>>>,
    runtime: Option<Runtime>,
}

impl Tunnel {
    /// Starts a forward proxy on a free loopback port of this machine.
    ///
    /// # Errors
    /// It could not listen.
    pub fn start() -> Result<Self> {
        let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, wait::free_port());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(at)).with_context(|| format!("tunnel at {at}"))?;
        let asked = Arc::default();
        runtime.spawn(serve(listener, Arc::clone(&asked)));
        Ok(Self { at, asked, runtime: Some(runtime) })
    }

    /// Returns its address.
    pub fn at(&self) -> SocketAddrV4 {
        self.at
    }

    /// Returns the request lines that came in, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

async fn serve(listener: TcpListener, asked: Arc<Mutex<Vec<String>>>) {
    loop {
        if let Ok((client, _)) = listener.accept().await {
            // A tunnel that breaks is its ends' to report.
            tokio::spawn(lead(client, Arc::clone(&asked)));
        }
    }
}

/// Leads one connection to where it asks to go.
async fn lead(mut client: TcpStream, asked: Arc<Mutex<Vec<String>>>) -> Result<()> {
    let head = read_head(&mut client).await?;
    let line = head.lines().next().unwrap_or_default().to_owned();
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
    let Some(target) = line.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
        client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n").await?;
        return Ok(());
    };
    let mut server = TcpStream::connect(target).await?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Reads up to the empty line. The client sends nothing behind it before it has its answer.
async fn read_head(client: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(head.len() < MAX_HEAD, "a head without end");
        head.push(client.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
