//! Several replicas of the program over one database and one bucket.

use std::net::SocketAddrV4;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};

use crate::balancer::Balancer;
use crate::{Backing, Front, Node, Proxy, ProxyOptions, Scratch, node};

/// What the replicas know each other by.
const SECRET: &str = "not-so-secret-either";

/// Replicas of the program behind a round-robin balancer, each with its own data folder and its own listener for the others.
/// Its [`Front`] is that of the balancer.
#[derive(Debug)]
pub struct Fleet {
    front: Front,
    /// Dropped first: no connection is left that a replica would wait for.
    _balancers: Vec<Balancer>,
    replicas: Vec<Proxy>,
    /// Where the others reach each replica.
    internal: Vec<SocketAddrV4>,
    /// From the node to the servers of the backing, which are on this machine.
    _bridges: Vec<Balancer>,
    backing: Backing,
    _scratch: Scratch,
}

impl Deref for Fleet {
    type Target = Front;

    fn deref(&self) -> &Front {
        &self.front
    }
}

impl Fleet {
    /// Starts three equal replicas over a database and a bucket of their own, on the servers that the tests of this process share.
    ///
    /// # Errors
    /// A server or a replica did not start.
    pub fn start(node: &Node, options: ProxyOptions) -> Result<Self> {
        Self::start_on(node, Backing::shared()?, vec![options; 3])
    }

    /// Starts a replica for each of the options. The port of the first's is the balancer's.
    ///
    /// # Errors
    /// A replica did not start.
    pub fn start_on(node: &Node, backing: Backing, options: Vec<ProxyOptions>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let secret = scratch.write("secret", SECRET)?.display().to_string();
        let mut at = node::free_address(node);
        at.set_port(options.first().and_then(|options| options.port).unwrap_or(at.port()));
        let mirror_at = node::free_address(node);
        let bridges = match node {
            Node::Machine => Vec::new(),
            Node::Namespace(_) => {
                backing.servers().map(|server| Balancer::bridge(node, server)).into_iter().collect::<Result<_>>()?
            }
        };
        let (mut replicas, mut internal) = (Vec::new(), Vec::new());
        for options in options {
            let internal_at = node::free_address(node);
            let options = backing
                .under(ProxyOptions { port: None, ..options })
                .env("FIRSTLIGHT_SERVER_INTERNAL_LISTEN", &internal_at.to_string())
                .env("FIRSTLIGHT_SERVER_INTERNAL_SECRET_FILE", &secret);
            replicas.push(Proxy::start(node, options)?);
            internal.push(internal_at);
        }
        let members: Vec<_> = replicas.iter().flat_map(|proxy| proxy.replicas.clone()).collect();
        let targets = members.iter().map(|member| (member.at, Arc::clone(&member.is_away))).collect();
        let mirrors = members.iter().map(|member| (member.mirror_at, Arc::clone(&member.is_away))).collect();
        let balancers =
            vec![Balancer::start((node, at), node, targets)?, Balancer::start((node, mirror_at), node, mirrors)?];
        let front = Front { node: node.clone(), at, mirror_at, replicas: members };
        let _scratch = scratch;
        Ok(Self { front, _balancers: balancers, replicas, internal, _bridges: bridges, backing, _scratch })
    }

    /// Returns a replica, for what is asked of it and no other.
    pub fn replica(&self, number: usize) -> &Proxy {
        &self.replicas[number]
    }

    /// Returns the database and the bucket.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Runs SQL on the catalog as [`Backing::sql`] does.
    ///
    /// # Errors
    /// The server refused.
    pub fn sql(&self, statement: &str) -> Result<String> {
        self.backing.sql(statement)
    }

    /// Returns the replica that has the lease of a `fill` or a `conversion` of a digest; `None` when nobody has.
    ///
    /// # Errors
    /// The server refused, or the lease has an address that is no replica's.
    pub fn owner(&self, kind: &str, digest: &str) -> Result<Option<usize>> {
        let address = self.sql(&format!(
            "SELECT address FROM leases WHERE kind = '{kind}' AND subject = '{digest}' \
             AND expires_at > extract(epoch FROM clock_timestamp()) * 1000"
        ))?;
        if address.is_empty() {
            return Ok(None);
        }
        let number = self.internal.iter().position(|at| at.to_string() == address);
        Ok(Some(number.with_context(|| format!("{address} is none of {:?}", self.internal))?))
    }

    /// Sends a replica SIGKILL; [`Fleet::start_again`] brings it back. The balancer knows.
    ///
    /// # Errors
    /// It was not running.
    pub fn kill(&self, number: usize) -> Result<()> {
        self.set_away(number, true);
        self.replicas[number].kill()
    }

    /// Starts a replica again on the same folder and ports after [`Fleet::kill`].
    ///
    /// # Errors
    /// It is not ready after a minute.
    pub fn start_again(&mut self, number: usize) -> Result<()> {
        self.replicas[number].start_again()?;
        self.set_away(number, false);
        Ok(())
    }

    /// Ends a replica as an operator does and starts it again on the same folder and ports.
    ///
    /// # Errors
    /// It did not end by itself, or is not ready again.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.set_away(number, true);
        self.replicas[number].restart()?;
        self.set_away(number, false);
        Ok(())
    }

    /// Stops a replica where it is, as [`Proxy::freeze`] does. The balancer knows.
    ///
    /// # Errors
    /// It was not running.
    pub fn freeze(&self, number: usize) -> Result<()> {
        self.set_away(number, true);
        self.replicas[number].freeze()
    }

    /// Lets a frozen replica go on.
    ///
    /// # Errors
    /// It is gone.
    pub fn thaw(&self, number: usize) -> Result<()> {
        self.replicas[number].thaw()?;
        self.set_away(number, false);
        Ok(())
    }

    /// Checks that every replica still runs.
    ///
    /// # Errors
    /// One has ended.
    pub fn check_running(&mut self) -> Result<()> {
        for (number, replica) in self.replicas.iter_mut().enumerate() {
            let ended = replica.proc().ended()?;
            ensure!(ended.is_none(), "replica {number} ended: {ended:?}\n{}", replica.log());
        }
        Ok(())
    }

    fn set_away(&self, number: usize, is_away: bool) {
        self.front.replicas[number].is_away.store(is_away, Ordering::Relaxed);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for replica in &self.replicas {
            // A frozen replica would not hear that it is to end. One that is gone needs nothing.
            let _ = replica.thaw();
        }
    }
}
