//! The messages, byte by byte (linux/fuse.h). All numbers are in the machine's order.

use crate::fuse::{Node, Request};
use crate::tree::Attributes;

pub(super) const LOOKUP: u32 = 1;
pub(super) const FORGET: u32 = 2;
pub(super) const GETATTR: u32 = 3;
pub(super) const READLINK: u32 = 5;
pub(super) const READ: u32 = 15;
pub(super) const STATFS: u32 = 17;
pub(super) const GETXATTR: u32 = 22;
pub(super) const LISTXATTR: u32 = 23;
pub(super) const INIT: u32 = 26;
pub(super) const READDIR: u32 = 28;
pub(super) const INTERRUPT: u32 = 36;
pub(super) const DESTROY: u32 = 38;
pub(super) const BATCH_FORGET: u32 = 42;
pub(super) const READDIRPLUS: u32 = 44;

/// Notifications: forget what is known of a node, of a name; send again what was read and not answered.
pub(super) const FORGET_NODE: i32 = 2;
pub(super) const FORGET_NAME: i32 = 3;
pub(super) const RESEND: i32 = 7;

/// The version that this is written for; later kernels speak it too.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;
/// The oldest one with everything that is asked for here: Linux 5.4.
pub(super) const OLDEST_MINOR: u32 = 31;

const ASYNC_READ: u32 = 1;
/// Nodes may be looked up by their numbers alone, which overlayfs does for what it has copied up.
const EXPORT_SUPPORT: u32 = 1 << 4;
const DO_READDIRPLUS: u32 = 1 << 13;
/// ENOSYS to open and opendir: nothing is asked when a file is opened, and what was read stays in the page cache.
const NO_OPEN_SUPPORT: u32 = 1 << 17;
const PARALLEL_DIROPS: u32 = 1 << 18;
const MAX_PAGES: u32 = 1 << 22;
const CACHE_SYMLINKS: u32 = 1 << 23;
const NO_OPENDIR_SUPPORT: u32 = 1 << 24;
const WANTED: u32 = ASYNC_READ
    | EXPORT_SUPPORT
    | DO_READDIRPLUS
    | NO_OPEN_SUPPORT
    | PARALLEL_DIROPS
    | MAX_PAGES
    | CACHE_SYMLINKS
    | NO_OPENDIR_SUPPORT;

/// The largest read, in pages.
const READ_PAGES: u16 = 256;
/// Reads ahead that may be under way.
const BACKGROUND: u16 = 128;
/// Nothing is written; the kernel wants a number, and takes it for the least size of our buffers.
const MAX_WRITE: u32 = 4096;
/// What is never forgotten, in seconds.
const FOR_EVER: u64 = 1 << 31;

/// The head of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
}

pub(super) const HEAD: usize = 40;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Returns the head and the body of a message.
pub(super) fn parse(message: &[u8]) -> Option<(Head, &[u8])> {
    let head = Head { opcode: u32_at(message, 4)?, unique: u64_at(message, 8)?, node: u64_at(message, 16)? };
    Some((head, message.get(HEAD..)?))
}

/// Returns what the body of a message asks; `None` for what no file system that only reads has.
pub(super) fn request(opcode: u32, body: &[u8]) -> Option<Request<'_>> {
    let name = |at: usize| Some(body.get(at..)?.split(|&byte| byte == 0).next().unwrap_or_default());
    Some(match opcode {
        LOOKUP => Request::Lookup { name: name(0)? },
        GETATTR => Request::Attributes,
        READLINK => Request::Target,
        READ => Request::Read { offset: u64_at(body, 8)?, size: u32_at(body, 16)? },
        GETXATTR => Request::Xattr { name: name(8)?, size: u32_at(body, 0)? },
        LISTXATTR => Request::Xattrs { size: u32_at(body, 0)? },
        READDIR | READDIRPLUS => {
            Request::List { from: u64_at(body, 8)?, size: u32_at(body, 16)?, plus: opcode == READDIRPLUS }
        }
        _ => return None,
    })
}

/// What the kernel says in its first message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Init {
    pub(super) major: u32,
    pub(super) minor: u32,
    max_readahead: u32,
    flags: u32,
}

impl Init {
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        Some(Self {
            major: u32_at(body, 0)?,
            minor: u32_at(body, 4)?,
            max_readahead: u32_at(body, 8)?,
            flags: u32_at(body, 12)?,
        })
    }

    /// Returns the answer: what of it is wanted here.
    pub(super) fn answer(&self) -> Vec<u8> {
        let mut out = Out::default();
        out.u32(MAJOR).u32(MINOR).u32(self.max_readahead).u32(self.flags & WANTED);
        out.u16(BACKGROUND).u16(BACKGROUND / 4 * 3).u32(MAX_WRITE);
        // Times to a nanosecond.
        out.u32(1).u16(READ_PAGES).u16(0);
        out.0.resize(64, 0);
        out.0
    }
}

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Out(pub(super) Vec<u8>);

impl Out {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn i32(&mut self, value: i32) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    /// `struct fuse_attr`
    fn attributes(&mut self, number: u64, of: &Attributes) -> &mut Self {
        let (seconds, nanos) = of.modified;
        let seconds = seconds.cast_unsigned();
        self.u64(number).u64(of.size).u64(of.size.div_ceil(512));
        self.u64(seconds).u64(seconds).u64(seconds).u32(nanos).u32(nanos).u32(nanos);
        self.u32(of.mode).u32(of.links).u32(of.uid).u32(of.gid).u32(of.device).u32(4096).u32(0)
    }

    /// `struct fuse_entry_out`
    pub(super) fn entry(&mut self, node: &Node) -> &mut Self {
        self.u64(node.number).u64(0).u64(FOR_EVER).u64(FOR_EVER).u32(0).u32(0).attributes(node.number, &node.attributes)
    }

    /// An entry that says: there is no such name, and there never will be.
    pub(super) fn no_entry(&mut self) -> &mut Self {
        self.u64(0).u64(0).u64(FOR_EVER);
        self.0.resize(self.0.len() + ENTRY - 24, 0);
        self
    }

    /// `struct fuse_attr_out`
    pub(super) fn attr(&mut self, node: &Node) -> &mut Self {
        self.u64(FOR_EVER).u32(0).u32(0).attributes(node.number, &node.attributes)
    }

    /// `struct fuse_dirent`
    pub(super) fn dirent(&mut self, number: u64, next: u64, mode: u32, name: &[u8]) -> &mut Self {
        self.u64(number).u64(next).u32(name.len() as u32).u32(mode >> 12);
        self.0.extend_from_slice(name);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }

    /// `struct fuse_statfs_out`: nothing is free.
    pub(super) fn statfs(&mut self) -> &mut Self {
        self.u64(0).u64(0).u64(0).u64(0).u64(0).u32(4096).u32(255).u32(4096).u32(0);
        self.0.resize(80, 0);
        self
    }
}

/// The size of `struct fuse_entry_out`, and of `struct fuse_dirent` without its name.
pub(super) const ENTRY: usize = 128;
pub(super) const DIRENT: usize = 24;
