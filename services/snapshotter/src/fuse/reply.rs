//! [`Reply`]: the answer to one request, which may be given by any thread at any time, once.

use std::fs::File;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::fuse::Node;
use crate::fuse::abi::{DIRENT, ENTRY, Out};

/// The answer to one request. Dropped without one, it is EIO: no reader waits for ever.
#[derive(Debug)]
pub(crate) struct Reply {
    device: Arc<File>,
    unique: u64,
    is_given: bool,
}

impl Reply {
    pub(super) fn new(device: Arc<File>, unique: u64) -> Self {
        Self { device, unique, is_given: false }
    }

    fn send(mut self, error: i32, body: &[u8]) {
        self.is_given = true;
        self.write(error, body);
    }

    fn write(&self, error: i32, body: &[u8]) {
        let mut head = Out::default();
        head.u32((16 + body.len()) as u32).i32(error).u64(self.unique);
        match rustix::io::writev(&*self.device, &[IoSlice::new(&head.0), IoSlice::new(body)]) {
            // Who asked was interrupted, or the mount is gone.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(error) => tracing::error!(%error, "the kernel did not take an answer"),
        }
    }

    pub(crate) fn error(self, error: Errno) {
        self.send(-error.raw_os_error(), &[]);
    }

    pub(crate) fn bytes(self, bytes: &[u8]) {
        self.send(0, bytes);
    }

    /// Answers a look-up; `None`: there is no such name, and never will be.
    pub(crate) fn entry(self, node: Option<&Node>) {
        let mut out = Out::default();
        match node {
            Some(node) => out.entry(node),
            None => out.no_entry(),
        };
        self.send(0, &out.0);
    }

    pub(crate) fn attributes(self, node: &Node) {
        let mut out = Out::default();
        out.attr(node);
        self.send(0, &out.0);
    }

    /// Answers a question for something of which the asker has room for `size` bytes, 0 to ask how many there are.
    pub(crate) fn sized(self, value: &[u8], size: u32) {
        match size {
            0 => {
                let mut out = Out::default();
                out.u32(value.len() as u32).u32(0);
                self.send(0, &out.0);
            }
            size if value.len() > size as usize => self.error(Errno::RANGE),
            _ => self.send(0, value),
        }
    }

    pub(super) fn raw(self, out: &Out) {
        self.send(0, &out.0);
    }
}

/// Whether what is not answered is left to the next process.
static IS_LEAVING: AtomicBool = AtomicBool::new(false);

/// Leaves what is not answered from now on to the next process: the kernel sends it again.
pub(crate) fn leave() {
    IS_LEAVING.store(true, Ordering::Release);
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_given && !IS_LEAVING.load(Ordering::Acquire) {
            self.write(-Errno::IO.raw_os_error(), &[]);
        }
    }
}

/// The names in a folder, as many as fit.
#[derive(Debug)]
pub(crate) struct Listing {
    out: Out,
    size: usize,
    plus: bool,
}

impl Listing {
    pub(crate) fn new(size: u32, plus: bool) -> Self {
        Self { out: Out::default(), size: size as usize, plus }
    }

    /// Adds a name that the one at `next` follows, and tells whether there was room for it. `.` and `..` count as looked at,
    /// not as looked up.
    pub(crate) fn add(&mut self, name: &[u8], node: &Node, next: u64) -> bool {
        let entry = if self.plus { ENTRY } else { 0 };
        if self.out.0.len() + entry + (DIRENT + name.len()).next_multiple_of(8) > self.size {
            return false;
        }
        if self.plus {
            match name {
                b"." | b".." => self.out.no_entry(),
                _ => self.out.entry(node),
            };
        }
        self.out.dirent(node.number, next, node.attributes.mode, name);
        true
    }

    pub(crate) fn send(self, reply: Reply) {
        reply.raw(&self.out);
    }
}
