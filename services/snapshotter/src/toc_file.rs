//! [`TocFile`]: a layer's TOC on its way to the disk, where it gets its name once it is all there and right.

mod growing;

use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use api::lazy::Toc;
use api::{Algorithm, Digest, Hasher};
use estargz::tar::{Limits, Meta, Sink, TarError, WalkError, walk};
use estargz::{TOC_NAME, Toc as Parsed, TocEntry, TocError};
use flate2::bufread::MultiGzDecoder;
use upstream::UpstreamError;

use crate::layer::{OpenError, Place, ReadError, Source};
use crate::layers::LayerError;
use crate::memory::Share;
use crate::tree::{Builder, Tree};
use growing::Growth;

pub(crate) use growing::Growing;

/// The largest JSON of a TOC that is read, in bytes: more than a million files.
pub(crate) const LARGEST_TOC: u64 = 512 << 20;

/// Its name in a layer's folder, packed with zstd, and before it is known to be right.
pub(crate) const NAME: &str = "toc.zst";
pub(crate) const NEW: &str = "toc.new";
/// How it is packed where it comes plain: for little time.
const LEVEL: i32 = 1;
/// The largest window that is unpacked, as a power of two.
const WINDOW: u32 = 26;
/// How long a proxy may take to make a TOC again that it has lost, where nobody waits for it.
const REMADE: Duration = Duration::from_secs(20);
/// Entries that are handed on at once, and how many such batches are ahead of who builds of them.
const BATCH: usize = 512;
const BATCHES: usize = 8;

/// A layer's TOC on its way to the disk.
#[derive(Debug)]
pub(crate) struct TocFile {
    file: File,
    growth: Growth,
}

impl TocFile {
    /// Begins it in a layer's folder, which is made if it is not there, and returns what follows it for [`read_new`].
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new(folder: &Path) -> io::Result<(Self, Growing)> {
        fs::create_dir_all(folder)?;
        let path = folder.join(NEW);
        // Whoever still writes or reads an earlier one has that.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::create(&path)?;
        let (growing, growth) = Growing::new(File::open(&path)?);
        Ok((Self { file, growth }, growing))
    }

    /// Fetches it from a proxy; `is_urgent` where somebody waits for it. It is not verified.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub(crate) async fn fetch(self, source: &Source, toc: &Toc, is_urgent: bool) -> Result<(), LayerError> {
        let Source { clients, place: Place { registry, name, .. }, .. } = source;
        let found = clients.proxies.of(registry);
        let (proxy, client) = found.ok_or_else(|| LayerError::NoProxy { host: registry.clone() })?;
        let mut body = proxy.ask(if is_urgent { Duration::ZERO } else { REMADE }, client.toc(name, toc)).await?;
        let mut writer = Writer::new(self, body.is_packed)?;
        loop {
            let next = proxy.in_time(Duration::ZERO, body.chunk()).await;
            let Some(bytes) = next.inspect_err(|error| proxy.note(error))? else { break };
            let written = telemetry::blocking(move || writer.write_all(&bytes).map(|()| writer)).await;
            writer = written?;
        }
        Ok(telemetry::blocking(move || writer.finish()).await?)
    }

    /// Takes it out of the blob itself, an eStargz of a registry (estargz.md, "TOC" and "Footer"). It is not verified.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub(crate) async fn extract(self, source: &Source, folder: &Path) -> Result<(), LayerError> {
        let members = async { source.toc_members(source.toc_offset().await?, folder).await };
        let packed = members.await.map_err(|error| match error {
            ReadError::Upstream(error) => LayerError::Upstream(error),
            ReadError::Disk(error) => LayerError::Disk(io::Error::new(error.kind(), error)),
            other => LayerError::Upstream(UpstreamError::Protocol { what: other.to_string() }),
        })?;
        let wrong =
            |what: &dyn std::fmt::Display| UpstreamError::Protocol { what: format!("the TOC's tar: {what}") }.into();
        telemetry::blocking(move || {
            let mut extract = Extract { out: Writer::new(self, false)?, is_toc: false };
            let plain = BufReader::new(MultiGzDecoder::new(BufReader::new(packed)));
            match walk(plain, &mut extract, &Limits::default()) {
                Ok(_) => Ok(extract.out.finish()?),
                Err(WalkError::Sink(error)) => Err(error.into()),
                // The packed bytes are in a file; hardly that is what fails.
                Err(WalkError::Input(error)) => Err(wrong(&error)),
                Err(WalkError::Tar(TarError { detail, .. })) => Err(wrong(&detail)),
            }
        })
        .await
    }
}

/// Gives a TOC that is right its name.
///
/// # Errors
/// The system's.
pub(crate) fn settle(folder: &Path) -> io::Result<()> {
    fs::rename(folder.join(NEW), folder.join(NAME))?;
    // It is there before a row says so.
    File::open(folder)?.sync_all()?;
    folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Reads the TOC in a file into a tree, if it is the one that `expected` names. One thread unpacks, hashes and parses it, the other
/// one builds of what comes: it is nowhere in memory whole. `share` grows with the tree.
///
/// # Errors
/// See [`OpenError`].
pub(crate) fn read(path: &Path, expected: &Digest, share: &mut Share) -> Result<Tree, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    from(File::open(path).map_err(io)?, path, expected, share)
}

/// Reads the TOC that is on its way to a folder, as [`read`] does.
///
/// # Errors
/// See [`OpenError`]; [`OpenError::Io`] where it does not come.
pub(crate) fn read_new(
    growing: Growing,
    folder: &Path,
    expected: &Digest,
    share: &mut Share,
) -> Result<Tree, OpenError> {
    from(growing, &folder.join(NEW), expected, share)
}

fn from(file: impl Read + Send, path: &Path, expected: &Digest, share: &mut Share) -> Result<Tree, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let (sender, batches) = mpsc::sync_channel(BATCHES);
    let (tree, parsed) = std::thread::scope(|scope| {
        let parsing = scope.spawn(move || parse(file, sender));
        let mut builder = Builder::new();
        let built = batches.into_iter().try_for_each(|batch: Vec<TocEntry>| {
            batch.iter().try_for_each(|entry| builder.add(entry))?;
            Ok(share.resize(builder.bytes())?)
        });
        (built.and_then(|()| Ok(builder.finish()?)), parsing.join())
    });
    match parsed {
        Ok(Ok((found, _))) if found != *expected => Err(OpenError::Damaged { path: path.to_owned() }),
        Ok(Ok((_, told))) => told.map_err(|error| OpenError::Tree(error.into())).and(tree),
        Ok(Err(error))
            if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::Other) =>
        {
            tracing::debug!(path = %path.display(), %error, "a TOC cannot be unpacked");
            Err(OpenError::Damaged { path: path.to_owned() })
        }
        Ok(Err(error)) => Err(io(error)),
        Err(_panicked) => Err(io(io::Error::other("the thread that parses it ended"))),
    }
}

/// Unpacks and parses a TOC, and returns the digest of its JSON, and why it is none.
fn parse(file: impl Read, batches: SyncSender<Vec<TocEntry>>) -> io::Result<(Digest, Result<(), TocError>)> {
    let mut unpacked = zstd::stream::read::Decoder::new(file)?;
    unpacked.window_log_max(WINDOW)?;
    let mut hashing = Unpacked { inner: unpacked, hash: Hasher::new(Algorithm::Sha256), left: LARGEST_TOC };
    let mut batch = Vec::with_capacity(BATCH);
    let told = Parsed::read(&mut hashing, |entry| {
        batch.push(entry);
        if batch.len() == BATCH {
            // Who builds may have seen enough.
            let _gone = batches.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)));
        }
        Ok::<_, TocError>(())
    });
    let _gone = batches.send(batch);
    drop(batches);
    // The digest is one of all, whatever is wrong with it.
    io::copy(&mut hashing, &mut io::sink())?;
    Ok((hashing.hash.finish(), told))
}

/// Hashes what is unpacked.
struct Unpacked<R> {
    inner: R,
    hash: Hasher,
    /// What may still come.
    left: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or(ErrorKind::InvalidData)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// Keeps one entry of a tar.
struct Extract {
    out: Writer,
    is_toc: bool,
}

impl Sink for Extract {
    type Error = io::Error;

    fn raw(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn begin(&mut self, meta: Meta) -> io::Result<()> {
        self.is_toc = meta.name == TOC_NAME;
        Ok(())
    }

    fn payload(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_toc { self.out.write_all(bytes) } else { Ok(()) }
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a TOC, packed if it does not come so.
struct Writer {
    out: Packing,
    growth: Growth,
    /// Bytes of the file, where it comes packed.
    written: u64,
    /// What may still come.
    left: u64,
}

enum Packing {
    Done(File),
    Now(Box<zstd::stream::write::Encoder<'static, File>>),
}

impl Writer {
    fn new(TocFile { file, growth }: TocFile, is_packed: bool) -> io::Result<Self> {
        let out = if is_packed {
            Packing::Done(file)
        } else {
            Packing::Now(Box::new(zstd::stream::write::Encoder::new(file, LEVEL)?))
        };
        Ok(Self { out, growth, written: 0, left: LARGEST_TOC })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let longer = || io::Error::other(format!("a TOC is longer than {LARGEST_TOC} bytes"));
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(longer)?;
        match &mut self.out {
            Packing::Done(out) => {
                out.write_all(bytes)?;
                self.written += bytes.len() as u64;
                self.growth.grew_to(self.written);
                Ok(())
            }
            Packing::Now(out) => out.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<()> {
        let file = match self.out {
            Packing::Done(file) => file,
            Packing::Now(out) => out.finish()?,
        };
        file.sync_data()?;
        self.growth.end(file.metadata()?.len());
        Ok(())
    }
}
