//! The kernel's FUSE protocol (linux/fuse.h, version 7.31 and later), for a file system that never changes.
//!
//! Our own and not a library's: the answer to a read may come from another thread and long after, and nothing of a session
//! is kept but its descriptor, so that another process can take it over.

mod abi;
mod reply;
mod session;

pub(crate) use reply::{Listing, Reply, leave};
pub(crate) use session::{Notifier, Session, is_alive, is_mounted, mount, refuse, resend, unmount};

use crate::tree::Attributes;

/// The node of a mount's root.
pub(crate) const ROOT: u64 = 1;

/// A node and what it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    /// Its number, which is also its inode number.
    pub(crate) number: u64,
    pub(crate) attributes: Attributes,
}

/// What the kernel asks. Names are the bytes of one path component.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request<'a> {
    /// The node of a name in a folder.
    Lookup {
        name: &'a [u8],
    },
    Attributes,
    /// Where a symlink leads.
    Target,
    Read {
        offset: u64,
        size: u32,
    },
    /// The value of an extended attribute, if it has at most `size` bytes; with a size of 0 its length.
    Xattr {
        name: &'a [u8],
        size: u32,
    },
    /// The names of all extended attributes, likewise.
    Xattrs {
        size: u32,
    },
    /// The names in a folder from the `from`-th on, with the attributes of each if `plus` is set.
    List {
        from: u64,
        size: u32,
        plus: bool,
    },
}

impl<'a> Request<'a> {
    /// Returns the name that is asked about.
    pub(crate) const fn name(&self) -> Option<&'a [u8]> {
        match self {
            Self::Lookup { name } | Self::Xattr { name, .. } => Some(name),
            _ => None,
        }
    }

    /// Returns the same request about the name "".
    pub(crate) fn without_name(self) -> Request<'static> {
        match self {
            Self::Lookup { .. } => Request::Lookup { name: b"" },
            Self::Attributes => Request::Attributes,
            Self::Target => Request::Target,
            Self::Read { offset, size } => Request::Read { offset, size },
            Self::Xattr { size, .. } => Request::Xattr { name: b"", size },
            Self::Xattrs { size } => Request::Xattrs { size },
            Self::List { from, size, plus } => Request::List { from, size, plus },
        }
    }

    /// Returns the same request about another name.
    pub(crate) fn with_name(self, name: &'a [u8]) -> Self {
        match self {
            Self::Lookup { .. } => Self::Lookup { name },
            Self::Xattr { size, .. } => Self::Xattr { name, size },
            other => other,
        }
    }
}

/// A file system that a [`Session`] serves. Calls come from several threads.
pub(crate) trait Files: Send + Sync + 'static {
    /// Answers a request about `node`, here or by moving `reply` to where the answer will be known.
    fn answer(&self, node: u64, request: Request<'_>, reply: Reply);
}
