//! [`Wire`]: a long cable between loopback addresses.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use e2e::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// Bytes that are taken from a connection at once.
const PIECE: usize = 64 << 10;

/// Pieces of one connection that are under way: 4 MiB, several times what the cable holds.
const PIECES: usize = 64;

/// How far a direction may catch up with a rate that it missed: timers come late by up to a millisecond.
const SLACK: Duration = Duration::from_millis(4);

/// How long and how thick a cable is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gauge {
    /// There and back.
    pub(crate) round_trip: Duration,
    /// Bits each second, in each direction, for all connections together.
    pub(crate) bits_per_second: f64,
}

impl Gauge {
    /// A registry in another region: 20 ms and 500 Mbit/s.
    pub(crate) const FAR: Self = Self { round_trip: Duration::from_millis(20), bits_per_second: 500e6 };

    /// The same over a line that many share: 20 ms and 100 Mbit/s.
    pub(crate) const THIN: Self = Self { round_trip: Duration::from_millis(20), bits_per_second: 100e6 };

    /// As near as loopback is.
    pub(crate) const NEAR: Self = Self { round_trip: Duration::ZERO, bits_per_second: 1e12 };
}

/// A TCP relay that delivers every byte half a round trip later, at a bounded rate. What it carries it does not read.
///
/// A connection carries nothing for its first round trip, which stands for TCP's handshake. There is no slow start.
#[derive(Debug)]
pub(crate) struct Wire {
    at: SocketAddrV4,
    down: Arc<Lane>,
    running: Option<Runtime>,
}

impl Wire {
    /// Lays a cable to a server, its near end at a free loopback port.
    ///
    /// # Errors
    /// It could not listen.
    pub(crate) fn start(target: SocketAddrV4, gauge: Gauge) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let at = SocketAddrV4::new(*target.ip(), wait::free_port());
        let listener = runtime.block_on(TcpListener::bind(at)).with_context(|| format!("wire at {at}"))?;
        let (up, down) = (Arc::new(Lane::new(gauge)), Arc::new(Lane::new(gauge)));
        runtime.spawn(accept(listener, target, gauge.round_trip, up, Arc::clone(&down)));
        Ok(Self { at, down, running: Some(runtime) })
    }

    /// Returns the near end.
    pub(crate) fn at(&self) -> SocketAddrV4 {
        self.at
    }

    /// Returns the bytes that the server sent so far, heads of answers included.
    pub(crate) fn down_bytes(&self) -> u64 {
        self.down.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

/// One direction, shared by all connections.
#[derive(Debug)]
struct Lane {
    bytes_per_second: f64,
    delay: Duration,
    /// When the last byte that was accepted has left the near end.
    free: Mutex<Instant>,
    bytes: AtomicU64,
}

impl Lane {
    fn new(gauge: Gauge) -> Self {
        Self {
            bytes_per_second: gauge.bits_per_second / 8.0,
            delay: gauge.round_trip / 2,
            free: Mutex::new(Instant::now()),
            bytes: AtomicU64::new(0),
        }
    }

    /// Takes the next free time for some bytes and returns when the last of them has left.
    fn reserve(&self, bytes: usize) -> Instant {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = Instant::now();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = (*free).max(now.checked_sub(SLACK).unwrap_or(now));
        *free = begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        *free
    }
}

async fn accept(listener: TcpListener, target: SocketAddrV4, round_trip: Duration, up: Arc<Lane>, down: Arc<Lane>) {
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        let (up, down) = (Arc::clone(&up), Arc::clone(&down));
        tokio::spawn(async move {
            sleep(round_trip).await;
            // A server that is gone shows as a connection that ends.
            let Ok(far) = TcpStream::connect(SocketAddr::from(target)).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_out, near_in), (far_out, far_in)) = (near.into_split(), far.into_split());
            tokio::spawn(carry(near_out, far_in, up));
            tokio::spawn(carry(far_out, near_in, down));
        });
    }
}

/// Carries one direction of a connection to its end.
async fn carry(from: OwnedReadHalf, mut to: OwnedWriteHalf, lane: Arc<Lane>) {
    let (sender, mut under_way) = mpsc::channel(PIECES);
    tokio::spawn(enter(from, sender, lane));
    while let Some((arrival, bytes)) = under_way.recv().await {
        sleep_until(arrival).await;
        let bytes: Bytes = bytes;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Takes bytes off a connection at the lane's pace.
async fn enter(mut from: OwnedReadHalf, under_way: mpsc::Sender<(Instant, Bytes)>, lane: Arc<Lane>) {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        match from.read_buf(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                let left = lane.reserve(length);
                sleep_until(left).await;
                if under_way.send((left + lane.delay, piece.freeze())).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Instant;

    use super::*;

    /// Serves one connection: reads a byte, answers with `length` bytes.
    fn server(length: usize) -> SocketAddrV4 {
        let at = SocketAddrV4::new([127, 0, 0, 1].into(), wait::free_port());
        let listener = std::net::TcpListener::bind(at).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream.write_all(&vec![7; length]).unwrap();
        });
        at
    }

    fn seconds(gauge: Gauge, length: usize) -> f64 {
        let wire = Wire::start(server(length), gauge).unwrap();
        let begin = Instant::now();
        let mut stream = TcpStream::connect(wire.at()).unwrap();
        stream.write_all(&[1]).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert!(bytes.len() == length && bytes.iter().all(|byte| *byte == 7));
        assert_eq!(wire.down_bytes(), length as u64);
        begin.elapsed().as_secs_f64()
    }

    #[test]
    fn a_byte_takes_the_round_trips() {
        let gauge = Gauge { round_trip: Duration::from_millis(60), bits_per_second: 1e9 };
        // One for the handshake, one for question and answer.
        let took = seconds(gauge, 1);
        assert!(took >= 0.1, "{took}: quicker than the wire is long");
    }

    #[test]
    fn many_bytes_take_their_time() {
        let gauge = Gauge { round_trip: Duration::from_millis(2), bits_per_second: 160e6 };
        let took = seconds(gauge, 10_000_000);
        assert!(took >= 0.4, "{took}: more than the wire takes");
    }
}
