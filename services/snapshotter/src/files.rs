//! [`LazyMount`]: all lazy snapshots as the folders of one file system, each by its id.
//!
//! A node's number is its snapshot's id and its inode, so that nothing needs to be remembered of what the kernel has looked up.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::runtime::Handle;

use crate::Snapshots;
use crate::fuse::{self, Files, Listing, Node, Notifier, Reply, Request};
use crate::layer::Wanted;
use crate::mounted::{Mounted, Part};
use crate::names::Names;
use crate::tree::{Attributes, ROOT, Xattr};

/// The attributes of the folder of all snapshots: only root looks in, and overlayfs, which looks as who mounted it.
const TOP: Attributes =
    Attributes { mode: 0o040_700, uid: 0, gid: 0, links: 2, size: 4096, modified: (0, 0), device: 0 };

/// All lazy snapshots of a node as one file system.
#[derive(Debug)]
pub(crate) struct LazyMount {
    snapshots: Arc<Snapshots>,
    means: Arc<Means>,
}

/// What is needed to answer later.
#[derive(Debug)]
struct Means {
    runtime: Handle,
    names: Arc<Names>,
    /// Where it is mounted.
    at: PathBuf,
}

/// Has the kernel forget all it knows of a snapshot.
pub(crate) fn forget(notifiers: &[Notifier], snapshot: &Mounted) {
    // It is in one of the mounts, and the others do not mind.
    for notifier in notifiers {
        notifier.forget_name(fuse::ROOT, &snapshot.id().to_string());
        for (depth, layer) in (0..).zip(snapshot.layers()) {
            for inode in 0..u32::try_from(layer.tree().inodes()).unwrap_or(u32::MAX) {
                notifier.forget_node(number(snapshot.id(), (depth, inode)));
            }
        }
    }
}

/// The bits of an inode's number and, above those, of how far below its layer is. Nodes' numbers are kept on disks, with what was copied up of
/// them: what a number means must not change.
const INODE_BITS: u32 = 23;

fn number(snapshot: u64, (depth, inode): Part) -> u64 {
    snapshot << 32 | u64::from(depth) << INODE_BITS | (u64::from(inode) + 1)
}

/// Returns the snapshot and the part of a node; `None` for what we never gave out.
fn parts(node: u64) -> Option<(u64, Part)> {
    let inode = u32::try_from(node & ((1 << INODE_BITS) - 1)).ok()?.checked_sub(1)?;
    let depth = u8::try_from((node & 0xffff_ffff) >> INODE_BITS).ok()?;
    Some((node >> 32, (depth, inode)))
}

impl LazyMount {
    /// Returns them as they are mounted at `at`.
    pub(crate) fn new(snapshots: Arc<Snapshots>, runtime: Handle, names: Arc<Names>, at: PathBuf) -> Self {
        Self { snapshots, means: Arc::new(Means { runtime, names, at }) }
    }

    /// Answers a request about the folder of all snapshots. It is not listed: who needs one knows its name.
    fn answer_top(&self, request: Request<'_>, reply: Reply) {
        match request {
            Request::Lookup { name: b"." | b".." } => reply.entry(Some(&Node { number: fuse::ROOT, attributes: TOP })),
            Request::Lookup { name } => {
                let id = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
                match id {
                    Some(id) => self.with(id, reply, move |mounted, reply| match node(&mounted, (0, ROOT)) {
                        _ if mounted.has_refused() => reply.error(Errno::IO),
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
        self.means.runtime.spawn(telemetry::blocking(move || match snapshots.mounted(id) {
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
        let Some((id, part)) = parts(node) else { return reply.error(Errno::STALE) };
        if let Some(mounted) = self.snapshots.mounted_now(id) {
            return about(&self.means, mounted, part, request, reply);
        }
        // The name lies in a buffer of the thread that reads requests.
        let name = request.name().map(<[u8]>::to_vec);
        let (request, means) = (request.without_name(), Arc::clone(&self.means));
        self.with(id, reply, move |mounted, reply| {
            let name = name.unwrap_or_default();
            about(&means, mounted, part, request.with_name(&name), reply);
        });
    }
}

/// Returns what is shown at a part of a snapshot. A file is its own snapshot's, and the same wherever it is shown; a folder shows
/// other things in each.
fn node(mounted: &Mounted, part: Part) -> Option<Node> {
    let (depth, inode) = part;
    let layer = mounted.at_depth(depth)?;
    let attributes = layer.attributes(inode)?;
    if !layer.tree().is_directory(inode) {
        return Some(Node { number: number(layer.id(), (0, inode)), attributes });
    }
    // As overlayfs has it: how many folders are in one of several layers is not worth counting.
    let links = if mounted.parts(part)?.len() > 1 { 1 } else { attributes.links };
    Some(Node { number: number(mounted.id(), part), attributes: Attributes { links, ..attributes } })
}

fn about(means: &Arc<Means>, mounted: Arc<Mounted>, part: Part, request: Request<'_>, reply: Reply) {
    let (depth, inode) = part;
    let Some(layer) = mounted.at_depth(depth) else { return reply.error(Errno::STALE) };
    match layer.tree().is_directory(inode) {
        true => about_folder(&mounted, part, request, reply),
        // Files are asked about where they are.
        false if depth == 0 => about_file(means, mounted, inode, request, reply),
        false => reply.error(Errno::STALE),
    }
}

fn about_folder(mounted: &Mounted, part: Part, request: Request<'_>, reply: Reply) {
    if mounted.has_refused() {
        return reply.error(Errno::IO);
    }
    let (Some(parts), Some(this)) = (mounted.parts(part), node(mounted, part)) else {
        return reply.error(Errno::STALE);
    };
    match request {
        Request::Lookup { name } => {
            let found = match name {
                b"." => Some(part),
                b".." if part == (0, ROOT) => {
                    return reply.entry(Some(&Node { number: fuse::ROOT, attributes: TOP }));
                }
                b".." => mounted.parent(part),
                name => mounted.find(&parts, name),
            };
            reply.entry(found.and_then(|found| node(mounted, found)).as_ref());
        }
        Request::Attributes => reply.attributes(&this),
        Request::Target | Request::Read { .. } => reply.error(Errno::INVAL),
        Request::Xattr { name, size } => give_xattr(mounted.folder_xattrs(&parts).iter(), name, size, reply),
        Request::Xattrs { size } => give_xattrs(mounted.folder_xattrs(&parts).iter(), size, reply),
        Request::List { from, size, plus } => list(mounted, &this, &parts, from, Listing::new(size, plus)).send(reply),
    }
}

fn about_file(means: &Arc<Means>, mounted: Arc<Mounted>, inode: u32, request: Request<'_>, reply: Reply) {
    if mounted.is_refused() {
        return reply.error(Errno::IO);
    }
    let Some(this) = node(&mounted, (0, inode)) else { return reply.error(Errno::STALE) };
    match request {
        Request::Lookup { name: b"." } => find_again(means, mounted, this, inode, reply),
        Request::Lookup { .. } | Request::List { .. } => reply.error(Errno::NOTDIR),
        Request::Attributes => reply.attributes(&this),
        Request::Target => match mounted.tree().target(inode) {
            Some(target) => reply.bytes(target),
            None => reply.error(Errno::INVAL),
        },
        Request::Xattr { name, size } => give_xattr(mounted.xattrs(inode), name, size, reply),
        Request::Xattrs { size } => give_xattrs(mounted.xattrs(inode), size, reply),
        Request::Read { offset, size } => read(&means.runtime, &mounted, inode, offset, size, reply),
    }
}

/// Answers for a file that is asked for by its number, as overlayfs does; see [`Names`]. Where it is not known by its name first,
/// overlayfs does without it.
fn find_again(means: &Arc<Means>, mounted: Arc<Mounted>, this: Node, inode: u32, reply: Reply) {
    let way = Arc::clone(means);
    means.runtime.spawn(async move {
        let folder = way.at.join(mounted.id().to_string());
        // The first one puts the names of a layer in order.
        let path = telemetry::blocking(move || mounted.tree().path_of(inode)).await;
        let is_known = match path {
            Some(path) => way.names.look_up(folder.join(path)).await,
            None => false,
        };
        if is_known { reply.entry(Some(&this)) } else { reply.error(Errno::STALE) }
    });
}

fn give_xattr<'a>(mut xattrs: impl Iterator<Item = &'a Xattr>, name: &[u8], size: u32, reply: Reply) {
    match xattrs.find(|(known, _)| known.as_bytes() == name) {
        Some((_, value)) => reply.sized(value, size),
        None => reply.error(Errno::NODATA),
    }
}

fn give_xattrs<'a>(xattrs: impl Iterator<Item = &'a Xattr>, size: u32, reply: Reply) {
    let names = xattrs.flat_map(|(name, _)| name.bytes().chain([0]));
    reply.sized(&names.collect::<Vec<u8>>(), size);
}

fn list(mounted: &Mounted, this: &Node, parts: &[Part], from: u64, mut listing: Listing) -> Listing {
    for (place, name) in [(0, &b"."[..]), (1, b"..")] {
        if from <= place && !listing.add(name, this, place + 1) {
            return listing;
        }
    }
    for (name, part, next) in mounted.list(parts, from.saturating_sub(2)) {
        let Some(node) = node(mounted, part) else { continue };
        if !listing.add(name, &node, next + 2) {
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
                let read = read.inspect_err(|error| layer.tell_failed(error));
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
                            Some(Err(error)) => {
                                layer.tell_failed(&error);
                                return give(Err(error), reply);
                            }
                            None => {}
                        }
                    }
                    layer.tell_failed(&std::io::Error::other("its bytes are gone whenever they have come"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay() {
        assert_eq!(number(7, (0, 0)), 0x7_0000_0001);
        assert_eq!(number(7, (2, 5)), 0x7_0100_0006);
        assert_eq!(parts(0x7_0100_0006), Some((7, (2, 5))));
        assert_eq!(parts(0x7_0000_0000), None);
    }
}
