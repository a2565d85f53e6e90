//! [`Session`]: the threads that read the kernel's requests.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::fuse::abi::{
    self, BATCH_FORGET, DESTROY, FORGET, FORGET_NAME, FORGET_NODE, GETXATTR, INIT, INTERRUPT, Init, OLDEST_MINOR, Out,
    READ, RESEND, STATFS,
};
use crate::fuse::{Files, Reply};

/// The type that mounts are listed with.
const TYPE: &str = "fuse.firstlight";
/// The largest request, with room to spare: names and nothing else.
const BUFFER: usize = 64 << 10;
/// How long a thread looks for the next request before it sleeps: longer than who asks needs between two.
const WATCH: Duration = Duration::from_micros(50);

/// Mounts a file system at a folder and returns the descriptor that its requests come from. Nothing is answered before a
/// [`Session`] runs on it.
///
/// # Errors
/// The system's; the action says which.
pub(crate) fn mount(at: &Path) -> Result<File, (&'static str, io::Error)> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let device = File::from(device.map_err(|error| ("open /dev/fuse to mount", error.into()))?);
    // The kernel checks permissions, by the attributes it is given.
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        std::os::fd::AsRawFd::as_raw_fd(&device)
    );
    let options = std::ffi::CString::new(options).map_err(|error| ("mount", error.into()))?;
    // Not nosuid and nodev: images have such files, and what may be done with them the container's own mount says.
    let flags = MountFlags::RDONLY | MountFlags::NOATIME;
    rustix::mount::mount("firstlight", at, TYPE, flags, Some(options.as_c_str()))
        .map_err(|error| ("mount", error.into()))?;
    Ok(device)
}

/// Tells whether a file system of ours is mounted at a folder, without touching it: nobody may be there to answer.
///
/// # Errors
/// The list of mounts cannot be read.
pub(crate) fn is_mounted(at: &Path) -> io::Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let at = at.display().to_string();
    // proc(5): the fifth field is where, and the first behind the dash what.
    Ok(mounts.lines().any(|line| {
        let is_ours = line.split_once(" - ").is_some_and(|(_, what)| what.starts_with(TYPE));
        is_ours && line.split(' ').nth(4) == Some(at.as_str())
    }))
}

/// Tells whether the kernel still has requests for a device: not after its mount was taken away or aborted.
pub(crate) fn is_alive(device: &File) -> bool {
    let mut polled = [PollFd::new(device, PollFlags::IN)];
    match poll(&mut polled, Some(&Timespec::default())) {
        Ok(_) => !polled[0].revents().contains(PollFlags::ERR),
        // Whoever reads will see.
        Err(_) => true,
    }
}

/// Takes away what is mounted at a folder, once nobody uses it. Nothing being mounted there is fine.
///
/// # Errors
/// The system's.
pub(crate) fn unmount(at: &Path) -> io::Result<()> {
    match rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Has the kernel send the requests again that somebody has read and not answered (Linux 6.9; an older one does nothing).
pub(crate) fn resend(device: &File) {
    let mut out = Out::default();
    out.u32(16).i32(RESEND).u64(0);
    if let Err(error) = rustix::io::write(device, &out.0) {
        tracing::warn!(%error, "this kernel does not send requests again: reads that were under way wait for ever");
    }
}

/// Answers one request with EIO, and tells whether the mount is still there.
pub(crate) fn refuse(device: &File) -> bool {
    let mut buffer = vec![0; BUFFER];
    let length = match rustix::io::read(device, &mut buffer) {
        Ok(length) => length,
        Err(error) => return error != Errno::NODEV,
    };
    match abi::parse(&buffer[..length]) {
        Some((head, _)) if ![FORGET, BATCH_FORGET, INTERRUPT].contains(&head.opcode) => {
            let mut out = Out::default();
            out.u32(16).i32(-Errno::IO.raw_os_error()).u64(head.unique);
            // Who asked may have gone.
            let _gone = rustix::io::write(device, &out.0);
        }
        _ => {}
    }
    true
}

/// The threads that read the kernel's requests and have them answered. They end when the mount is gone.
#[derive(Debug)]
pub(crate) struct Session {
    device: Arc<File>,
}

/// Tells the kernel what of a mount it is to forget. What it does not know it need not forget.
#[derive(Debug, Clone)]
pub(crate) struct Notifier(Arc<File>);

impl Notifier {
    /// Has it forget the attributes and the bytes of a node.
    pub(crate) fn forget_node(&self, number: u64) {
        let mut out = Out::default();
        // From the first byte to the last.
        out.u32(16 + 24).i32(FORGET_NODE).u64(0).u64(number).u64(0).u64(0);
        let _unknown = rustix::io::write(&*self.0, &out.0);
    }

    /// Has it forget what a name in a folder names.
    pub(crate) fn forget_name(&self, folder: u64, name: &str) {
        let mut out = Out::default();
        out.u32((16 + 16 + name.len() + 1) as u32).i32(FORGET_NAME).u64(0);
        out.u64(folder).u32(name.len() as u32).u32(0);
        out.0.extend_from_slice(name.as_bytes());
        out.0.push(0);
        let _unknown = rustix::io::write(&*self.0, &out.0);
    }
}

/// Calls what is to be called when a thread ends.
struct Ended<F: Fn()>(F);

impl<F: Fn()> Drop for Ended<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Session {
    /// Serves `files` to whoever uses the mount that `device` is of; without `has_xattrs` none of them has an extended attribute, and
    /// the kernel asks for none. `ended` is called by each thread that ends.
    ///
    /// # Errors
    /// The system's, when a thread cannot be started.
    pub(crate) fn start(
        device: File,
        files: &Arc<impl Files>,
        threads: usize,
        has_xattrs: bool,
        ended: impl Fn() + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let (device, turn) = (Arc::new(device), Arc::new(Turn::default()));
        let start = |number| {
            let (device, files, ended) = (Arc::clone(&device), Arc::clone(files), ended.clone());
            let turn = Arc::clone(&turn);
            let work = move || {
                // Also when it panics.
                let _ended = Ended(ended);
                serve(&device, &*files, has_xattrs, &turn);
            };
            std::thread::Builder::new().name(format!("fuse-{number}")).spawn(work)
        };
        (0..threads).try_for_each(|number| start(number).map(drop))?;
        Ok(Self { device })
    }

    /// Returns the descriptor that its requests come from.
    pub(crate) fn device(&self) -> Arc<File> {
        Arc::clone(&self.device)
    }

    /// Returns a way to tell the kernel what it is to forget.
    pub(crate) fn notifier(&self) -> Notifier {
        Notifier(Arc::clone(&self.device))
    }
}

/// Whose turn it is to read requests.
#[derive(Debug, Default)]
struct Turn {
    lock: Mutex<()>,
    /// Threads that have left it for a read of bytes.
    reading: AtomicUsize,
}

/// Reads requests and has them answered, in turn with other threads: one reads and answers at once what takes no time, until it has
/// a read of bytes, for which it leaves the turn to another. So nobody is woken for nothing, and bytes are read by all at once.
fn serve(device: &Arc<File>, files: &impl Files, has_xattrs: bool, turn: &Turn) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let mine = turn.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // Who waits for bytes asks for nothing else.
            if turn.reading.load(Ordering::Relaxed) == 0 {
                watch(device);
            }
            let length = match rustix::io::read(&**device, &mut buffer) {
                Ok(length) => length,
                // An interrupted read, or a request that was taken back.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
                Err(Errno::NODEV) => return,
                Err(error) => {
                    tracing::error!(%error, "requests of the kernel cannot be read");
                    return;
                }
            };
            let message = &buffer[..length];
            if abi::parse(message).is_some_and(|(head, _)| head.opcode == READ) {
                turn.reading.fetch_add(1, Ordering::Relaxed);
                drop(mine);
                handle(device, files, has_xattrs, message);
                turn.reading.fetch_sub(1, Ordering::Relaxed);
                break;
            }
            handle(device, files, has_xattrs, message);
        }
    }
}

/// Looks for the next request for a moment: who asks one thing after the other need not wait each time until a thread was woken.
fn watch(device: &Arc<File>) {
    let begin = Instant::now();
    let now = Timespec::default();
    while begin.elapsed() < WATCH {
        let mut polled = [PollFd::new(&**device, PollFlags::IN)];
        if poll(&mut polled, Some(&now)) != Ok(0) {
            return;
        }
    }
}

fn handle(device: &Arc<File>, files: &impl Files, has_xattrs: bool, message: &[u8]) {
    let Some((head, body)) = abi::parse(message) else {
        tracing::error!(length = message.len(), "a request of the kernel is too short");
        return;
    };
    let reply = || Reply::new(Arc::clone(device), head.unique);
    match head.opcode {
        // These have no answer. Nodes are not counted: their numbers say what they are.
        FORGET | BATCH_FORGET | INTERRUPT => {}
        INIT => match Init::parse(body) {
            Some(init) if init.major == 7 && init.minor >= OLDEST_MINOR => reply().bytes(&init.answer()),
            init => {
                tracing::error!(?init, "this kernel's FUSE is too old: Linux 5.4 is needed");
                reply().error(Errno::PROTO);
            }
        },
        DESTROY => reply().bytes(&[]),
        STATFS => {
            let mut out = Out::default();
            out.statfs();
            reply().raw(&out);
        }
        // For the kernel to ask no more: overlayfs would for every file, and nothing of it is cached.
        GETXATTR if !has_xattrs => reply().error(Errno::NOSYS),
        opcode => match abi::request(opcode, body) {
            Some(request) => files.answer(head.node, request, reply()),
            // For the kernel to ask no more.
            None => reply().error(Errno::NOSYS),
        },
    }
}
