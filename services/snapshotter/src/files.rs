//! [`LazyMount`]: all lazy snapshots as the folders of one file system, each by its id.
//!
//! A node's number is its snapshot's id and its inode, so that nothing needs to be remembered of what the kernel has looked up.

use std::cell::RefCell;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::runtime::Handle;

use crate::Snapshots;
use crate::fuse::{self, Files, Listing, Node, Notifier, Reply, Request};
use crate::layer::Wanted;
use crate::mounted::Mounted;
use crate::tree::{Attributes, ROOT};

/// The attributes of the folder of all snapshots: only root looks in, and overlayfs, which looks as who mounted it.
const TOP: Attributes =
    Attributes { mode: 0o040_700, uid: 0, gid: 0, links: 2, size: 4096, modified: (0, 0), device: 0 };

/// All lazy snapshots of a node as one file system.
#[derive(Debug)]
pub(crate) struct LazyMount {
    snapshots: Arc<Snapshots>,
    runtime: Handle,
}

/// Has the kernel forget all it knows of a snapshot that has so many inodes.
pub(crate) fn forget(notifiers: &[Notifier], snapshot: u64, inodes: u64) {
    // It is in one of the mounts, and the others do not mind.
    for notifier in notifiers {
        notifier.forget_name(fuse::ROOT, &snapshot.to_string());
        for inode in 0..u32::try_from(inodes).unwrap_or(u32::MAX) {
            notifier.forget_node(number(snapshot, inode));
        }
    }
}

fn number(snapshot: u64, inode: u32) -> u64 {
    snapshot << 32 | (u64::from(inode) + 1)
}

/// Returns the snapshot and the inode of a node; `None` for what we never gave out.
fn parts(node: u64) -> Option<(u64, u32)> {
    let inode = u32::try_from(node & 0xffff_ffff).ok()?.checked_sub(1)?;
    Some((node >> 32, inode))
}

impl LazyMount {
    pub(crate) fn new(snapshots: Arc<Snapshots>, runtime: Handle) -> Self {
        Self { snapshots, runtime }
    }

    /// Answers a request about the folder of all snapshots. It is not listed: who needs one knows its name.
    fn answer_top(&self, request: Request<'_>, reply: Reply) {
        match request {
            Request::Lookup { name: b"." | b".." } => reply.entry(Some(&Node { number: fuse::ROOT, attributes: TOP })),
            Request::Lookup { name } => {
                let id = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
                match id {
                    Some(id) => self.with(id, reply, move |mounted, reply| match node(&mounted, id, ROOT) {
                        _ if mounted.is_refused() => reply.error(Errno::IO),
                        Some(node) => reply.entry(Some(&node)),
                        None => reply.error(Errno::NOENT),
                    }),
                    // Not for ever: it may come.
                    None => reply.error(Errno::NOENT),
                }
            }
            Request::Attributes => reply.attributes(&Node { number: fuse::ROOT, attributes: TOP }),
            Request::List { .. } => reply.bytes(&[]),
            Request::Xattr { .. } => reply.error(Errno::NODATA),
            Request::Xattrs { size } => reply.sized(&[], size),
            Request::Target | Request::Read { .. } => reply.error(Errno::INVAL),
        }
    }

    /// Calls `answer` with a snapshot, which may have to be opened first.
    fn with(&self, id: u64, reply: Reply, answer: impl FnOnce(Arc<Mounted>, Reply) + Send + 'static) {
        if let Some(mounted) = self.snapshots.mounted_now(id) {
            return answer(mounted, reply);
        }
        let snapshots = Arc::clone(&self.snapshots);
        self.runtime.spawn(telemetry::blocking(move || match snapshots.mounted(id) {
            Ok(mounted) => answer(mounted, reply),
            Err(error) => {
                tracing::error!(snapshot = id, error = &error as &dyn std::error::Error, "a snapshot cannot be shown");
                reply.error(Errno::IO);
            }
        }));
    }
}

impl Files for LazyMount {
    fn answer(&self, node: u64, request: Request<'_>, reply: Reply) {
        if node == fuse::ROOT {
            return self.answer_top(request, reply);
        }
        let Some((id, inode)) = parts(node) else { return reply.error(Errno::STALE) };
        let runtime = self.runtime.clone();
        if let Some(mounted) = self.snapshots.mounted_now(id) {
            return about(&runtime, mounted, id, inode, request, reply);
        }
        // The name lies in a buffer of the thread that reads requests.
        let name = request.name().map(<[u8]>::to_vec);
        let request = request.without_name();
        self.with(id, reply, move |mounted, reply| {
            let name = name.unwrap_or_default();
            about(&runtime, mounted, id, inode, request.with_name(&name), reply);
        });
    }
}

fn node(mounted: &Mounted, id: u64, inode: u32) -> Option<Node> {
    Some(Node { number: number(id, inode), attributes: mounted.attributes(inode)? })
}

fn about(runtime: &Handle, mounted: Arc<Mounted>, id: u64, inode: u32, request: Request<'_>, reply: Reply) {
    if mounted.is_refused() {
        return reply.error(Errno::IO);
    }
    let tree = mounted.tree();
    let Some(this) = node(&mounted, id, inode) else { return reply.error(Errno::STALE) };
    match request {
        Request::Lookup { name } => {
            let found = match name {
                b"." => Some(inode),
                b".." if inode == ROOT => {
                    return reply.entry(Some(&Node { number: fuse::ROOT, attributes: TOP }));
                }
                b".." => Some(tree.parent(inode)),
                name => tree.find(inode, name),
            };
            reply.entry(found.and_then(|found| node(&mounted, id, found)).as_ref());
        }
        Request::Attributes => reply.attributes(&this),
        Request::Target => match tree.target(inode) {
            Some(target) => reply.bytes(target),
            None => reply.error(Errno::INVAL),
        },
        Request::Xattr { name, size } => match mounted.xattrs(inode).find(|(known, _)| known.as_bytes() == name) {
            Some((_, value)) => reply.sized(value, size),
            None => reply.error(Errno::NODATA),
        },
        Request::Xattrs { size } => {
            let names = mounted.xattrs(inode).flat_map(|(name, _)| name.bytes().chain([0]));
            reply.sized(&names.collect::<Vec<u8>>(), size);
        }
        Request::List { .. } if !tree.is_directory(inode) => reply.error(Errno::NOTDIR),
        Request::List { from, size, plus } => list(&mounted, id, &this, from, Listing::new(size, plus)).send(reply),
        Request::Read { offset, size } => read(runtime, &mounted, inode, offset, size, reply),
    }
}

fn list(mounted: &Mounted, id: u64, this: &Node, from: u64, mut listing: Listing) -> Listing {
    for (place, name) in [(0, &b"."[..]), (1, b"..")] {
        if from <= place && !listing.add(name, this, place + 1) {
            return listing;
        }
    }
    let from = from.max(2);
    let Some((_, folder)) = parts(this.number) else { return listing };
    let skip = usize::try_from(from - 2).unwrap_or(usize::MAX);
    for (place, (name, inode)) in (from..).zip(mounted.tree().list(folder, skip)) {
        let Some(node) = node(mounted, id, inode) else { continue };
        if !listing.add(name, &node, place + 1) {
            break;
        }
    }
    listing
}

/// How often a read waits for bytes that are gone again when they are to be read.
const READ_TRIES: u32 = 16;

thread_local! {
    /// What is read from the disk before it goes to the kernel.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn read(runtime: &Handle, mounted: &Arc<Mounted>, inode: u32, offset: u64, size: u32, reply: Reply) {
    let layer = &mounted.layer;
    let (chunks, data) = layer.tree.locate(inode, offset, u64::from(size));
    let length = (data.end - data.start) as usize;
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        match layer.read_now(chunks.clone(), data.start, &mut buffer[..length]) {
            Some(read) => {
                if is_program(offset, &buffer[..length]) {
                    let _in = runtime.enter();
                    layer.read_ahead(layer.tree.chunks_of(inode));
                }
                give(read.map(|()| &buffer[..length]), reply);
            }
            None => {
                let (layer, mounted) = (Arc::clone(layer), Arc::clone(mounted));
                let file = layer.tree.chunks_of(inode);
                runtime.spawn(async move {
                    // What has come may be evicted before it is read, but not again and again.
                    for _ in 0..READ_TRIES {
                        if layer.want(chunks.clone(), Wanted::Bytes).await.is_err() {
                            return reply.error(Errno::IO);
                        }
                        let (from, chunks) = (Arc::clone(&layer), chunks.clone());
                        let read = telemetry::blocking(move || {
                            let mut buffer = vec![0; length];
                            from.read_now(chunks, data.start, &mut buffer).map(|read| read.map(|()| buffer))
                        });
                        match read.await {
                            _ if mounted.is_refused() => return reply.error(Errno::IO),
                            Some(Ok(bytes)) => {
                                if is_program(offset, &bytes) {
                                    layer.read_ahead(file);
                                }
                                return give(Ok(&bytes), reply);
                            }
                            Some(Err(error)) => return give(Err(error), reply),
                            None => {}
                        }
                    }
                    reply.error(Errno::IO);
                });
            }
        }
    });
}

/// Tells whether a file is a program or a library, by its first bytes: much of it is read soon, in no order.
fn is_program(offset: u64, bytes: &[u8]) -> bool {
    offset == 0 && bytes.starts_with(b"\x7fELF")
}

fn give(read: std::io::Result<&[u8]>, reply: Reply) {
    match read {
        Ok(bytes) => reply.bytes(bytes),
        Err(error) => {
            tracing::error!(%error, "the cache of a layer cannot be read");
            reply.error(Errno::IO);
        }
    }
}
