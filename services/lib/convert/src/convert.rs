//! [`convert`]: a layer in, a twin out.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek};
use std::path::Path;
use std::thread;

use api::{Digest, TarTail, Twin};
use crossbeam_channel::bounded;
use estargz::tar::{WalkError, walk};
use estargz::tree::Plan;
use estargz::writer::{Batch, Member, toc_end, toc_header};
use estargz::{TocWriter, footer, listing};

use crate::assemble::Assembler;
use crate::inflate::{Inflate, Plain, QUEUE};
use crate::members::Members;
use crate::own;
use crate::source::{Meter, Source};
use crate::store::Store;
use crate::watch::Watch;
use crate::{Cancel, ConvertError, Limits, Pool, Profile};

/// A longer TOC is compressed as a stream, so that it is not held in memory. It must be one member whatever its size:
/// the reference reader reads no further.
const MAX_TOC_IN_MEMORY: u64 = 16 << 20;

/// Where a conversion writes to.
#[derive(Debug)]
pub struct Outputs<'a> {
    /// An empty file for the twin's bytes. Without meaning after an error and after [`Converted::OwnTwin`].
    pub twin: &'a mut File,
    /// An empty file for the TOC's JSON, open for reading too. Without meaning after an error.
    pub toc: &'a mut File,
    /// A folder for nameless scratch files: about 300 bytes for each entry and 40 for each chunk.
    pub scratch: &'a Path,
}

/// What came of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Converted {
    /// The twin that was written.
    Twin(Twin),
    /// The source is valid eStargz whose TOC agrees with its tar: it is its own twin. Only its TOC was written.
    OwnTwin(Twin),
}

/// Converts a layer. Blocks until the source has ended; to be called on a thread of its own.
///
/// `progress` is called with the plain bytes taken so far, about once a MiB.
///
/// # Errors
/// See [`ConvertError`].
pub fn convert(
    source: &dyn Source,
    out: Outputs<'_>,
    profile: &Profile,
    limits: &Limits,
    pool: &Pool,
    cancel: &Cancel,
    progress: &dyn Fn(u64),
) -> Result<Converted, ConvertError> {
    let Outputs { twin, toc, scratch } = out;
    let (limits, meter) = (&limits.for_source(source.size()), Meter::default());
    let watch = Watch::new(cancel, limits, &meter);
    let mut assembler = Assembler::new(twin, scratch, profile, limits, pool, cancel, progress)?;
    assembler.landmark()?;
    let inflate = Inflate { source, limits, watch: &watch, meter: &meter };
    let tail = take_apart(&inflate, &mut assembler, limits, cancel)?;
    let plain = assembler.end_source(&tail, &watch)?;
    if let Some(own) = own::check(source, limits, &plain, &watch)? {
        rewrite(toc, &own.toc_json).map_err(ConvertError::Output)?;
        return Ok(Converted::OwnTwin(own.twin));
    }
    let (mut members, plan, store) = assembler.finish(&watch)?;
    let (toc_digest, toc_size) = write_toc(toc, &plan, store, limits, &watch)?;
    let toc_offset = append_toc(&mut members, toc, toc_size)?;
    let finished = members.finish(&footer::write(toc_offset))?;
    watch.check()?;
    Ok(Converted::Twin(Twin {
        digest: finished.digest,
        size: finished.size,
        diff_id: finished.diff_id,
        plain_size: finished.plain_size,
        toc_digest,
        toc_size,
        source_diff_id: plain.digest,
        source_plain_size: plain.size,
        tail,
        implied_dirs: plan.implied_dirs().to_vec(),
    }))
}

/// Inflates on a thread of its own while this one walks the tar.
fn take_apart(
    inflate: &Inflate<'_>,
    assembler: &mut Assembler<'_>,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<TarTail, ConvertError> {
    let (filled_in, filled) = bounded(QUEUE);
    let (used, used_out) = bounded(QUEUE + 1);
    let (walked, inflated) = thread::scope(|scope| {
        let inflater = thread::Builder::new().name("inflate".to_owned()).spawn_scoped(scope, move || {
            let result = inflate.run(&filled_in, &used_out);
            drop(filled_in);
            result
        });
        let plain = Plain { filled, used, buffer: Vec::new(), at: 0 };
        let walked = walk(plain, assembler, &limits.tar());
        let inflated = match inflater {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|_| Err(ConvertError::Source(io::Error::other("inflating thread panicked")))),
            Err(e) => Err(ConvertError::Source(e)),
        };
        (walked, inflated)
    });
    if cancel.is_cancelled() {
        return Err(ConvertError::Cancelled);
    }
    match (walked, inflated) {
        (Ok(tail), Ok(())) => Ok(tail),
        // The walker gave up first, and so nobody took what the other thread had.
        (Err(e), Ok(()) | Err(ConvertError::Cancelled)) => Err(walk_error(e)),
        // The other thread failed, and the walker saw the tar end early.
        (_, Err(e)) => Err(e),
    }
}

fn walk_error(error: WalkError<ConvertError>) -> ConvertError {
    match error {
        WalkError::Tar(e) => e.into(),
        WalkError::Input(e) => ConvertError::Source(e),
        WalkError::Sink(e) => e,
    }
}

fn write_toc(
    toc: &mut File,
    plan: &Plan,
    store: Store,
    limits: &Limits,
    watch: &Watch<'_>,
) -> Result<(Digest, u64), ConvertError> {
    let store = std::cell::RefCell::new(store);
    let mut writer = TocWriter::new(BufWriter::with_capacity(256 << 10, toc));
    listing::list(
        plan,
        |number| {
            watch.check()?;
            store.borrow_mut().entry(number)
        },
        |_, entry| {
            store.borrow_mut().with_chunks(entry, |entry| {
                watch.check()?;
                if writer.size() > limits.toc_bytes {
                    return Err(ConvertError::limit(format!("TOC has more than {} bytes", limits.toc_bytes)));
                }
                writer.push(entry).map_err(ConvertError::Output)
            })
        },
    )?;
    writer.finish().map_err(ConvertError::Output)
}

/// Appends the TOC's tar entry and the end of the archive; returns where its member begins.
fn append_toc(members: &mut Members<'_>, toc: &mut File, size: u64) -> Result<u64, ConvertError> {
    toc.rewind().map_err(ConvertError::Output)?;
    members.drain()?;
    let offset = members.size;
    let (header, end) = (toc_header(size), toc_end(size));
    let mut entry = header.chain(toc).chain(end.as_slice());
    if size > MAX_TOC_IN_MEMORY {
        members.append_stream(&mut entry)?;
        return Ok(offset);
    }
    let mut plain = Vec::new();
    let end = entry.read_to_end(&mut plain).map_err(ConvertError::Output)?;
    members.submit(Batch { plain, members: vec![Member { end, payload: 0 }] })?;
    Ok(offset)
}

fn rewrite(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    io::Write::write_all(file, bytes)
}
