//! [`TocFile`]: a layer's TOC on its way to the disk, where it gets its name once it is all there and right.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use api::lazy::Toc;
use api::{Algorithm, Digest, Hasher};
use estargz::TOC_NAME;
use estargz::tar::{Limits, Meta, Sink, TarError, WalkError, walk};
use flate2::bufread::MultiGzDecoder;
use upstream::UpstreamError;

use crate::layer::{ReadError, Source};
use crate::layers::LayerError;

/// The largest JSON of a TOC that is read, in bytes: more than a million files.
pub(crate) const LARGEST_TOC: u64 = 512 << 20;

/// A layer's TOC on its way to the disk.
#[derive(Debug)]
pub(crate) struct TocFile {
    folder: PathBuf,
    file: File,
}

impl TocFile {
    /// Begins it in a layer's folder, which is made if it is not there.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let file = File::create(folder.join("toc.new"))?;
        Ok(Self { folder, file })
    }

    /// Fetches it from a proxy.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub(crate) async fn fetch(self, source: &Source, toc: &Toc) -> Result<(), LayerError> {
        let Self { folder, file } = self;
        let mut body = source.client.toc(&source.name, toc).await?;
        let mut writer = Unpacking::new(file, toc.size, body.is_packed)?;
        while let Some(bytes) = body.chunk().await? {
            let written = telemetry::blocking(move || writer.write(&bytes).map(|()| writer)).await;
            writer = written?;
        }
        let expected = toc.digest.clone();
        telemetry::blocking(move || name(&folder, writer.finish()?, &expected)).await
    }

    /// Takes it out of the blob itself, an eStargz of a registry (estargz.md, "TOC" and "Footer").
    ///
    /// # Errors
    /// See [`LayerError`].
    pub(crate) async fn extract(self, source: &Source, toc: &Toc) -> Result<(), LayerError> {
        let Self { folder, file } = self;
        let packed = source.toc_members().await.map_err(|error| match error {
            ReadError::Upstream(error) => LayerError::Upstream(error),
            other => LayerError::Upstream(UpstreamError::Protocol { what: other.to_string() }),
        })?;
        let expected = toc.digest.clone();
        telemetry::blocking(move || {
            let hashing = Hashing { file, hash: Hasher::new(Algorithm::Sha256), left: LARGEST_TOC };
            let mut out = Extract { out: hashing, is_toc: false };
            let plain = BufReader::new(MultiGzDecoder::new(&packed[..]));
            match walk(plain, &mut out, &Limits::default()) {
                Ok(_) => name(&folder, out.out.finish()?, &expected),
                Err(WalkError::Sink(error) | WalkError::Input(error)) => Err(error.into()),
                Err(WalkError::Tar(TarError { detail, .. })) => {
                    Err(LayerError::Upstream(UpstreamError::Protocol { what: format!("the TOC's tar: {detail}") }))
                }
            }
        })
        .await
    }
}

/// Gives a TOC that is right its name.
fn name(folder: &Path, found: Digest, expected: &Digest) -> Result<(), LayerError> {
    if found != *expected {
        return Err(LayerError::Toc { expected: expected.clone(), found });
    }
    fs::rename(folder.join("toc.new"), folder.join("toc.json"))?;
    // It is there before a row says so.
    File::open(folder)?.sync_all()?;
    folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())?;
    Ok(())
}

/// Keeps one entry of a tar.
struct Extract {
    out: Hashing,
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

/// Writes a file from bytes that may be packed, and hashes it.
enum Unpacking {
    Plain(Hashing),
    Packed(Box<zstd::stream::write::Decoder<'static, Hashing>>),
}

impl Unpacking {
    fn new(file: File, size: u64, is_packed: bool) -> io::Result<Self> {
        let hashing = Hashing { file, hash: Hasher::new(Algorithm::Sha256), left: size };
        Ok(if is_packed {
            Self::Packed(Box::new(zstd::stream::write::Decoder::new(hashing)?))
        } else {
            Self::Plain(hashing)
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.write_all(bytes),
            Self::Packed(out) => out.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<Digest> {
        match self {
            Self::Plain(out) => out.finish(),
            Self::Packed(mut out) => {
                out.flush()?;
                out.into_inner().finish()
            }
        }
    }
}

struct Hashing {
    file: File,
    hash: Hasher,
    /// What may still come.
    left: u64,
}

impl Hashing {
    fn finish(self) -> io::Result<Digest> {
        self.file.sync_data()?;
        Ok(self.hash.finish())
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let longer = || io::Error::other("the TOC is longer than was told");
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(longer)?;
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
