//! The holder: a process that keeps the FUSE descriptors, so that what is mounted outlives the snapshotter.
//!
//! It does as little as can be done, so that it need never be restarted. A snapshotter connects, takes the descriptors that an
//! earlier one left, or leaves its own. While none is connected, whoever reads waits; when none has come for a while, the holder
//! answers every request with EIO, so that nobody waits for ever, until one comes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use crate::{fuse, socket};

/// How long a holder may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections without a word that are kept.
const MOST_CALLERS: usize = 8;
/// The descriptors that come with a word, at most.
const MOST_DEVICES: usize = 4;
/// A snapshotter asks for the descriptors.
const TAKE: u8 = b'T';
/// A snapshotter leaves some, which come with the word.
const KEEP: u8 = b'K';
/// The answers: some that come with the word, none, done.
const HERE: u8 = b'F';
const NONE: u8 = b'N';
const KEPT: u8 = b'O';

/// Keeps the descriptors of snapshotters that connect to the socket `path`, until the process is killed. Those of a snapshotter that has
/// been gone for `grace` are answered with EIO.
///
/// # Errors
/// The socket cannot be used, or the system is out of something.
pub fn hold(path: &Path, grace: Duration) -> anyhow::Result<()> {
    let listener = socket::listen(path)?;
    tracing::info!(socket = %path.display(), ?grace, "holding");
    let mut holder = Holder {
        listener,
        grace,
        client: None,
        callers: VecDeque::new(),
        devices: Vec::new(),
        alone: Alone::Since(Instant::now()),
    };
    loop {
        holder.step().context("the holder cannot go on")?;
    }
}

struct Holder {
    listener: UnixListener,
    grace: Duration,
    client: Option<UnixStream>,
    /// Who has connected and not said a word yet.
    callers: VecDeque<UnixStream>,
    devices: Vec<File>,
    alone: Alone,
}

/// What the holder does while no snapshotter is connected.
enum Alone {
    /// It lets everybody wait, since then.
    Since(Instant),
    /// It answers with EIO.
    Answering,
}

impl Holder {
    /// Waits for one thing to happen and deals with it.
    fn step(&mut self) -> io::Result<()> {
        self.give_up_waiting();
        let timeout = match &self.alone {
            Alone::Since(since) if self.client.is_none() && !self.devices.is_empty() => {
                let left = self.grace.saturating_sub(since.elapsed()) + Duration::from_millis(1);
                Timespec::try_from(left).ok()
            }
            _ => None,
        };
        let answers = self.client.is_none() && matches!(self.alone, Alone::Answering);
        let mut polled = vec![PollFd::new(&self.listener, PollFlags::IN)];
        polled.extend(self.client.as_ref().map(|client| PollFd::new(client, PollFlags::IN)));
        polled.extend(self.devices.iter().filter(|_| answers).map(|device| PollFd::new(device, PollFlags::IN)));
        let before_callers = polled.len();
        polled.extend(self.callers.iter().map(|caller| PollFd::new(caller, PollFlags::IN)));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        if let Some(caller) = happened[before_callers..].iter().position(|happened| *happened) {
            self.hear(caller);
        } else if happened[0] {
            if self.callers.len() == MOST_CALLERS {
                self.callers.pop_front();
            }
            self.callers.push_back(self.listener.accept()?.0);
        } else if self.client.is_some() {
            if happened.get(1) == Some(&true) {
                self.serve();
            }
        } else if let Some(device) = happened[1..before_callers].iter().position(|happened| *happened) {
            self.refuse(device);
        }
        Ok(())
    }

    /// Hears who has connected. Only one snapshotter uses a holder at a time: who speaks now takes the place of one that is gone.
    fn hear(&mut self, caller: usize) {
        let Some(caller) = self.callers.remove(caller) else { return };
        if self.client.as_ref().is_some_and(is_there) {
            tracing::warn!("another snapshotter that is there has this holder: give each its own");
            return;
        }
        let mut word = [0];
        let peeked = rustix::net::recv(&caller, &mut word, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        if peeked.is_ok_and(|(_, length)| length > 0) && [TAKE, KEEP].contains(&word[0]) {
            self.client = Some(caller);
            self.serve();
        }
    }

    fn give_up_waiting(&mut self) {
        let (Alone::Since(since), None) = (&self.alone, &self.client) else { return };
        if since.elapsed() >= self.grace && !self.devices.is_empty() {
            tracing::error!("no snapshotter came back: whoever reads what is not here gets an error now");
            self.devices.iter().for_each(fuse::resend);
            self.alone = Alone::Answering;
        }
    }

    /// Answers one word of the snapshotter; it is gone when it says nothing more.
    fn serve(&mut self) {
        let Some(client) = &self.client else { return };
        let served = match receive(client) {
            Ok(Some((TAKE, _))) if self.devices.is_empty() => send::<File>(client, NONE, &[]),
            Ok(Some((TAKE, _))) => send(client, HERE, &self.devices),
            Ok(Some((KEEP, devices))) if !devices.is_empty() => {
                self.devices = devices.into_iter().map(File::from).collect();
                send::<File>(client, KEPT, &[])
            }
            Ok(Some(_) | None) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        };
        if served.is_err() {
            tracing::info!("the snapshotter is gone");
            self.client = None;
            self.alone = Alone::Since(Instant::now());
        }
    }

    /// Answers a request of the kernel with EIO.
    fn refuse(&mut self, device: usize) {
        if self.devices.get(device).is_some_and(|device| !fuse::refuse(device)) {
            // What was mounted is gone.
            self.devices.remove(device);
        }
    }
}

/// A snapshotter's way to its holder. As long as it is open, the holder leaves requests alone.
#[derive(Debug)]
pub(crate) struct Keeper {
    socket: PathBuf,
    holder: Mutex<Option<UnixStream>>,
}

impl Keeper {
    /// Finds the holder that listens at `socket`, if there is one.
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), holder: Mutex::new(connect(socket)) }
    }

    fn holder(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether there is one.
    pub(crate) fn has_holder(&self) -> bool {
        self.holder().is_some()
    }

    /// Returns the descriptors that an earlier snapshotter left, as it left them; none where there is no holder.
    ///
    /// # Errors
    /// The holder went away.
    pub(crate) fn take(&self) -> io::Result<Vec<File>> {
        let holder = self.holder();
        let Some(holder) = &*holder else { return Ok(Vec::new()) };
        send::<File>(holder, TAKE, &[])?;
        match receive(holder)? {
            Some((HERE, devices)) => Ok(devices.into_iter().map(File::from).collect()),
            Some((NONE, _)) => Ok(Vec::new()),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Leaves descriptors for a later one, in place of those that were left before; nothing where there is no holder.
    ///
    /// # Errors
    /// The holder went away.
    pub(crate) fn keep(&self, devices: &[impl AsFd]) -> io::Result<()> {
        match &*self.holder() {
            Some(holder) => keep(holder, devices),
            None => Ok(()),
        }
    }

    /// Leaves descriptors with the holder that listens now, unless it is the one that has them, and tells whether that was done.
    ///
    /// # Errors
    /// There is one, and it does not take them.
    pub(crate) fn renew(&self, devices: &[impl AsFd]) -> io::Result<bool> {
        let mut holder = self.holder();
        if holder.as_ref().is_some_and(is_there) {
            return Ok(false);
        }
        if holder.take().is_some() {
            tracing::warn!(
                "the holder is gone: without another one lazy containers lose their files when this process ends"
            );
        }
        let Some(new) = connect(&self.socket) else { return Ok(false) };
        keep(&new, devices)?;
        *holder = Some(new);
        Ok(true)
    }
}

fn connect(socket: &Path) -> Option<UnixStream> {
    let holder = UnixStream::connect(socket).ok()?;
    holder.set_read_timeout(Some(PATIENCE)).ok()?;
    Some(holder)
}

fn keep(holder: &UnixStream, devices: &[impl AsFd]) -> io::Result<()> {
    send(holder, KEEP, devices)?;
    match receive(holder)? {
        Some((KEPT, _)) => Ok(()),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// Tells whether the other end is still connected. It has said nothing that was not heard.
fn is_there(other: &UnixStream) -> bool {
    let mut word = [0];
    matches!(rustix::net::recv(other, &mut word, RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::AGAIN))
}

fn send<T: AsFd>(stream: &UnixStream, word: u8, devices: &[T]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DEVICES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let devices: Vec<BorrowedFd<'_>> = devices.iter().map(AsFd::as_fd).collect();
    if !devices.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&devices));
    }
    rustix::net::sendmsg(stream, &[IoSlice::new(&[word])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(stream: &UnixStream) -> io::Result<Option<(u8, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DEVICES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    let received =
        rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut word)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut devices = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            devices.extend(sent);
        }
    }
    Ok((received.bytes > 0).then_some((word[0], devices)))
}
