//! A TCP balancer: each connection goes to the next replica.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::Node;

/// Where connections may go, unless the flag says that it is away.
pub(crate) type Target = (SocketAddrV4, Arc<AtomicBool>);

/// A balancer that gives each connection to the next of its targets in turn, and knows nothing of what goes through it, TLS
/// neither. Connections that were given out stay when their target goes away.
#[derive(Debug)]
pub(crate) struct Balancer {
    runtime: Option<Runtime>,
}

impl Balancer {
    /// Listens at an address of one node and connects to targets of another.
    ///
    /// # Errors
    /// It could not listen.
    pub(crate) fn start(listen: (&Node, SocketAddrV4), to: &Node, targets: Vec<Target>) -> Result<Self> {
        let (node, at) = listen;
        let listener =
            node.enter(move || std::net::TcpListener::bind(at))?.with_context(|| format!("balancer at {at}"))?;
        listener.set_nonblocking(true)?;
        // A runtime's threads are in the network of the thread that makes them.
        let runtime =
            to.enter(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build())??;
        let listener = runtime.block_on(async { TcpListener::from_std(listener) })?;
        runtime.spawn(serve(listener, targets));
        Ok(Self { runtime: Some(runtime) })
    }

    /// Leads one address of a node to the same address of this machine.
    ///
    /// # Errors
    /// It could not listen.
    pub(crate) fn bridge(node: &Node, at: SocketAddrV4) -> Result<Self> {
        Self::start((node, at), &Node::Machine, vec![(at, Arc::default())])
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

async fn serve(listener: TcpListener, targets: Vec<Target>) {
    let targets: Arc<[Target]> = targets.into();
    let next = Arc::new(AtomicUsize::new(0));
    loop {
        if let Ok((client, _)) = listener.accept().await {
            tokio::spawn(lead(client, Arc::clone(&targets), next.fetch_add(1, Ordering::Relaxed)));
        }
    }
}

/// Leads one connection to the first target from `turn` on that takes it; closes it when none does.
async fn lead(mut client: TcpStream, targets: Arc<[Target]>, turn: usize) {
    for place in 0..targets.len() {
        let (target, is_away) = &targets[(turn + place) % targets.len()];
        if is_away.load(Ordering::Relaxed) {
            continue;
        }
        if let Ok(mut server) = TcpStream::connect(target).await {
            // What breaks is for the ends to notice.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
