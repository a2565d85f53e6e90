//! Where programs run: this machine, or a namespace of the test's own.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Proc, Scratch, wait};

/// A place to run programs in. Cheap to clone; the namespace lives as long as one clone.
#[derive(Clone, Debug)]
pub enum Node {
    /// This machine as it is.
    Machine,
    /// A mount and network namespace.
    Namespace(Arc<Namespace>),
}

impl Node {
    /// Makes a namespace with a network of its own, in which `name` resolves to [`Namespace::ADDRESS`].
    ///
    /// # Errors
    /// It could not be made; needs root.
    pub fn namespace(name: &str) -> Result<Self> {
        Ok(Self::Namespace(Arc::new(Namespace::start(View::Network(name))?)))
    }

    /// Returns the node with an `/etc` and a `/run` that can be written without a trace: for this machine, a namespace with its network.
    ///
    /// # Errors
    /// It could not be made; needs root.
    pub fn with_mounts(&self) -> Result<Self> {
        Ok(match self {
            Self::Machine => Self::Namespace(Arc::new(Namespace::start(View::Mounts)?)),
            Self::Namespace(_) => self.clone(),
        })
    }

    /// Makes a namespace whose root is a Debian tree (left as it is: changes go to memory), with this machine's network and `/tmp`.
    ///
    /// # Errors
    /// It could not be made; needs root.
    pub fn root(tree: &Path) -> Result<Self> {
        Ok(Self::Namespace(Arc::new(Namespace::start(View::Root(tree))?)))
    }

    /// Returns a command that runs a program here.
    pub fn command(&self, program: &str) -> Command {
        match self {
            Self::Machine => Command::new(program),
            Self::Namespace(namespace) => {
                let mut command = Command::new("nsenter");
                command.args(["-t", &namespace.holder.pid().to_string(), "-m", "-n", "--", program]);
                command
            }
        }
    }

    /// Returns the address servers listen on here: loopback, or in a namespace an address that no client treats as loopback.
    pub fn address(&self) -> Ipv4Addr {
        match self {
            Self::Namespace(namespace) if namespace.has_network => Namespace::ADDRESS,
            Self::Machine | Self::Namespace(_) => Ipv4Addr::LOCALHOST,
        }
    }

    /// Returns whether something accepts connections here.
    pub fn accepts(&self, at: SocketAddrV4) -> bool {
        self.enter(move || TcpStream::connect_timeout(&at.into(), Duration::from_secs(2)).is_ok()).unwrap_or(false)
    }

    /// Runs `work` on a thread whose network is this node's.
    ///
    /// # Errors
    /// The namespace could not be entered, or `work` panicked.
    pub fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let Self::Namespace(namespace) = self else { return Ok(work()) };
        let net = std::fs::File::open(format!("/proc/{}/ns/net", namespace.holder.pid()))?;
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network)).context("network namespace")?;
            Ok(work())
        });
        thread.join().map_err(|_| anyhow!("panic in the namespace"))?
    }

    /// Writes a file of the node's `/etc`.
    ///
    /// # Errors
    /// The node is the machine itself, whose `/etc` is not the tests' to change; or the file could not be written.
    pub fn write_etc(&self, path: &str, text: &str) -> Result<()> {
        let Self::Namespace(namespace) = self else { return Err(anyhow!("/etc/{path} of the machine itself")) };
        let path = namespace.path("etc").join(path);
        std::fs::create_dir_all(path.parent().context("parent")?)?;
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }
}

/// What a namespace sees.
#[derive(Clone, Copy, Debug)]
enum View<'a> {
    /// The machine's files, `/etc` and `/run` its own.
    Mounts,
    /// The same, and a network of its own, in which this name is its address.
    Network(&'a str),
    /// Another tree as its root.
    Root(&'a Path),
}

// The scripts get: a folder for what is written, the file that says they are done, the address, and the view's subject.

const MOUNTS: &str = r#"
    mount -t tmpfs tmpfs "$1" && mkdir "$1/upper" "$1/work"
    mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc
    mount -t tmpfs tmpfs /run
"#;

const NETWORK: &str = r#"
    ip link set lo up && ip addr add "$3/32" dev lo
    printf '127.0.0.1 localhost\n%s %s\n' "$3" "$4" >/etc/hosts
"#;

// runc wants a real root (pivot_root), not a chroot. The old root is left mounted below /mnt until the namespace ends.
const ROOT: &str = r#"
    mount -t tmpfs tmpfs "$1" && mkdir "$1/upper" "$1/work" "$1/root"
    mount -t overlay overlay -o "lowerdir=$4,upperdir=$1/upper,workdir=$1/work" "$1/root"
    cd "$1/root"
    cp /etc/hosts /etc/resolv.conf etc/
    mount -t proc proc proc; mount --rbind /sys sys; mount --rbind /dev dev; mount -t tmpfs tmpfs run; mount --rbind /tmp tmp
    pivot_root . mnt
    cd /
"#;

/// A mount namespace whose `/etc` and `/run` can be written without a trace, on request with a network that has only loopback.
#[derive(Debug)]
pub struct Namespace {
    holder: Proc,
    has_network: bool,
    _scratch: Scratch,
}

impl Namespace {
    /// The address of everything in a namespace with its own network; not in 127/8, which Docker trusts without TLS.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

    fn start(view: View<'_>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let layer = scratch.folder("layer")?;
        let ready = scratch.join("ready");
        let mut command = Command::new("unshare");
        // What is mounted in it stays in it; what the machine mounts on a shared folder is seen in it, too.
        command.args(["--mount", "--propagation", "slave"]);
        if let View::Network(_) = view {
            command.arg("--net");
        }
        let address = Self::ADDRESS.to_string();
        let (script, subject) = match view {
            View::Mounts => (MOUNTS.to_owned(), Path::new("")),
            View::Network(name) => (format!("{MOUNTS}{NETWORK}"), Path::new(name)),
            View::Root(tree) => (ROOT.to_owned(), tree),
        };
        let script = format!("{script}\ntouch \"$2\"; exec sleep infinity");
        command.args(["--", "sh", "-ec", &script, "sh"]).arg(&layer).arg(&ready).arg(&address).arg(subject);
        let mut holder = Proc::start(&command, &scratch.join("namespace.log"))?;
        holder.ready(|| ready.try_exists().unwrap_or(false))?;
        Ok(Self { holder, has_network: matches!(view, View::Network(_)), _scratch: scratch })
    }

    /// Returns a path below the namespace's root, as seen from outside.
    pub fn path(&self, below: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.holder.pid())).join(below)
    }
}

/// Returns an address for a server: the node's own, on a free port.
pub(crate) fn free_address(node: &Node) -> SocketAddrV4 {
    SocketAddrV4::new(node.address(), wait::free_port())
}
