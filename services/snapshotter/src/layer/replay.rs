//! Replays the tar that a layer's bytes make: what it hashes to, and whether unpacking it leaves what the TOC tells.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use api::{Algorithm, Digest, Hasher, TarTail};
use estargz::tar::{BLOCK, Limits, Meta, Sink, TarError, WalkError, walk};
use estargz::tree::Plan;
use estargz::{EntryType, TOC_NAME, TocEntry, listing};

use super::inflate::{self, Toc};
use super::proof::Expected;
use super::source::nameless;
use super::{Layer, ReadError};
use crate::tree::{Builder, Chunk, Difference, Tree, TreeError, WHITEOUT};

/// Zeros that are made at once, and bytes of a TOC's tar.
const AT_ONCE: u64 = 256 << 10;

/// What a layer's bytes came out as.
#[derive(Debug)]
pub(super) struct Replayed {
    /// The digest of the tar.
    pub(super) tar: Digest,
    /// Why it is not what the TOC tells.
    pub(super) story: Result<(), StoryError>,
}

/// Why a TOC does not tell what is in its tar.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoryError {
    /// A container would see something else.
    #[error("the TOC and the tar differ: {0}")]
    Differs(Difference),
    /// The tar cannot be unpacked.
    #[error("the tar is not usable")]
    Tar(#[from] TarError),
    /// What it leaves cannot be mounted.
    #[error("the tar cannot be mounted")]
    Tree(#[from] TreeError),
    /// A file's bytes are not those that the TOC calls its chunks.
    #[error("the chunks of {name:?} are not its bytes")]
    Chunks {
        /// The file.
        name: String,
    },
    /// The disk failed.
    #[error("cannot read or write what is replayed")]
    Disk(#[from] io::Error),
}

impl Layer {
    /// Hashes the tar that all the bytes make, and compares what is in it with the TOC. Takes its time.
    ///
    /// # Errors
    /// The disk's, or that a piece is not here.
    pub(super) fn replay(&self, expected: &Expected, end_of_twin: Option<File>) -> Result<Replayed, ReadError> {
        // The tree that the tar leaves, and what it is made of, take about as much each as the one that the TOC made. It ends soon.
        let mut share = self.common.memory.needed();
        share.resize(2 * self.tree.bytes()).map_err(io::Error::other)?;
        // A source's tar has no landmark: header, one byte and padding.
        let skip = if expected.tail.is_some() { 2 * BLOCK } else { 0 };
        let end = match &expected.tail {
            None => end_of_twin.map_or(End::Zeros(0), |packed| End::Twin(Box::new(inflate::toc(packed)))),
            Some(TarTail::Bytes(hex)) => End::Bytes(hex::decode(hex).map_err(io::Error::other)?),
            Some(TarTail::Zeros(count)) => End::Zeros(*count),
        };
        let mut plain = Plain::new(self, skip, end);
        let mut recorder = Recorder::new(&self.folder)?;
        let walked = match walk(&mut plain, &mut recorder, &Limits::default()) {
            Ok(_) => Ok(()),
            Err(WalkError::Tar(error)) => Err(error.into()),
            Err(WalkError::Sink(error)) => Err(error),
            Err(WalkError::Input(error)) => return Err(error.into()),
        };
        io::copy(&mut plain, &mut io::sink())?;
        let Plain { hash, starts, .. } = plain;
        let story = walked.and_then(|()| {
            let tree = recorder.unpack(&starts, self.tree.chunks())?;
            self.tree.difference(&tree).map_or(Ok(()), |difference| Err(StoryError::Differs(difference)))
        });
        match story {
            Err(StoryError::Disk(error)) => Err(error.into()),
            story => Ok(Replayed { tar: hash.finish(), story }),
        }
    }
}

/// What a tar ends with. It is walked as all else: what a lying proxy hides in it comes to light.
enum End {
    /// The TOC and what is behind it.
    Twin(Box<Toc>),
    Bytes(Vec<u8>),
    /// So many zeros.
    Zeros(u64),
}

/// The plain bytes of a tar, hashed as they are read.
struct Plain<'a> {
    layer: &'a Layer,
    end: End,
    hash: Hasher,
    /// Bytes that are still to be passed over.
    skip: usize,
    /// What comes next.
    step: Step,
    piece: Vec<u8>,
    /// How much of the piece was read.
    read: usize,
    /// Bytes of all pieces so far, and where in them each chunk begins.
    size: u64,
    starts: Vec<u64>,
}

/// A piece of the tar.
#[derive(Clone, Copy)]
enum Step {
    Rest(u32),
    Before(u32),
    Chunk(u32),
    End,
}

impl<'a> Plain<'a> {
    fn new(layer: &'a Layer, skip: usize, end: End) -> Self {
        Self {
            layer,
            end,
            hash: Hasher::new(Algorithm::Sha256),
            skip,
            step: Step::Rest(0),
            piece: Vec::new(),
            read: 0,
            size: 0,
            starts: Vec::with_capacity(layer.tree.chunks().len()),
        }
    }

    /// Takes up the next piece, and tells whether there was one.
    fn advance(&mut self) -> io::Result<bool> {
        let missing = || io::Error::other("a piece of the tar is missing");
        let (layer, chunks) = (self.layer, self.layer.tree.chunks());
        self.step = match self.step {
            Step::Rest(number) => {
                self.piece = layer.data.rests.get(number)?.ok_or_else(missing)?;
                if (number as usize) < chunks.len() { Step::Before(number) } else { Step::End }
            }
            Step::Before(number) => {
                self.piece = layer.data.rests.before(number)?;
                Step::Chunk(number)
            }
            Step::Chunk(number) => {
                if !layer.data.is_checked(number) && !layer.check(number)? {
                    return Err(missing());
                }
                let chunk = &chunks[number as usize];
                self.piece.resize(chunk.size as usize, 0);
                // It may have been evicted meanwhile.
                layer.read_now(number..number + 1, chunk.at, &mut self.piece).ok_or_else(missing)??;
                self.starts.push(self.size);
                Step::Rest(number + 1)
            }
            Step::End => {
                (self.piece, self.end) = match std::mem::replace(&mut self.end, End::Zeros(0)) {
                    End::Zeros(0) => return Ok(false),
                    End::Zeros(count) => {
                        let now = count.min(AT_ONCE);
                        (vec![0; now as usize], End::Zeros(count - now))
                    }
                    End::Bytes(bytes) => (bytes, End::Zeros(0)),
                    End::Twin(mut toc) => {
                        let mut piece = Vec::new();
                        let read = toc.by_ref().take(AT_ONCE).read_to_end(&mut piece);
                        let broken = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                        match read.map_err(broken)? {
                            0 => return Ok(false),
                            _ => (piece, End::Twin(toc)),
                        }
                    }
                };
                Step::End
            }
        };
        self.read = self.skip.min(self.piece.len());
        self.skip -= self.read;
        self.size += (self.piece.len() - self.read) as u64;
        self.hash.update(&self.piece[self.read..]);
        Ok(true)
    }
}

impl BufRead for Plain<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.read == self.piece.len() && self.advance()? {}
        Ok(&self.piece[self.read..])
    }

    fn consume(&mut self, amount: usize) {
        self.read += amount;
    }
}

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// What a tar says, its entries kept on the disk: a layer may have a million.
struct Recorder {
    tree: estargz::tree::Tree,
    out: BufWriter<File>,
    /// Where each entry lies in the file, and its payload in the tar.
    entries: Vec<(u64, u64)>,
    end: u64,
    at: u64,
}

impl Recorder {
    fn new(folder: &Path) -> io::Result<Self> {
        // Whatever happens, nothing is left of it.
        let file = nameless(folder, "replay")?;
        let tree = estargz::tree::Tree::new(Limits::default().entries);
        Ok(Self { tree, out: BufWriter::new(file), entries: Vec::new(), end: 0, at: 0 })
    }

    /// Returns the tree that unpacking the tar leaves. Its files' chunks are those of `chunks` that begin where their bytes do:
    /// `starts` says where in the tar each lies.
    fn unpack(self, starts: &[u64], chunks: &[Chunk]) -> Result<Tree, StoryError> {
        let Self { tree, out, entries, end, .. } = self;
        let entries = Entries { file: out.into_inner().map_err(io::IntoInnerError::into_error)?, places: entries, end };
        let plan: Plan = tree.finish(|number| Ok::<_, StoryError>(entries.load(number)?.link_name))?;
        let mut builder = Builder::new();
        listing::list(
            &plan,
            |number| Ok::<_, StoryError>(entries.load(number)?),
            |number, mut entry| {
                let path = estargz::tree::clean_path(&entry.name);
                if path.rsplit('/').next().is_some_and(|leaf| leaf.starts_with(WHITEOUT)) {
                    // Whatever it holds, no container sees it.
                    entry.size = 0;
                }
                if entry.kind != EntryType::Reg || entry.size == 0 {
                    return Ok(builder.add(&entry)?);
                }
                let payload = entries.places[number as usize].1;
                // Nor the TOC itself, which is no chunk.
                if starts.binary_search(&payload).is_err() && path == TOC_NAME {
                    return Ok(());
                }
                with_chunks(entry, payload, starts, chunks, |entry| Ok(builder.add(&entry)?))
            },
        )?;
        Ok(builder.finish()?)
    }
}

/// The entries of a tar, on the disk.
struct Entries {
    file: File,
    places: Vec<(u64, u64)>,
    end: u64,
}

impl Entries {
    fn load(&self, number: u32) -> io::Result<TocEntry> {
        let start = self.places[number as usize].0;
        let end = self.places.get(number as usize + 1).map_or(self.end, |next| next.0);
        let mut json = vec![0; (end - start) as usize];
        self.file.read_exact_at(&mut json, start)?;
        Ok(serde_json::from_slice(&json)?)
    }
}

/// Calls `add` with a file's entry and those of its further chunks.
fn with_chunks(
    mut entry: TocEntry,
    payload: u64,
    starts: &[u64],
    chunks: &[Chunk],
    mut add: impl FnMut(TocEntry) -> Result<(), StoryError>,
) -> Result<(), StoryError> {
    let wrong = || StoryError::Chunks { name: entry.name.clone() };
    let (mut number, mut filled) = (starts.binary_search(&payload).map_err(|_| wrong())?, 0);
    let mut further = TocEntry::new(entry.name.clone(), EntryType::Chunk);
    let size = entry.size;
    while filled < size {
        let chunk = chunks.get(number).filter(|_| starts.get(number) == Some(&(payload + filled)));
        let Some(chunk) = chunk else { return Err(StoryError::Chunks { name: further.name }) };
        let this = if filled == 0 { &mut entry } else { &mut further };
        (this.offset, this.inner_offset) = (chunk.offset, u64::from(chunk.inner));
        (this.chunk_offset, this.chunk_size) = (filled, u64::from(chunk.size));
        this.chunk_digest = Some(chunk.digest());
        add(this.clone())?;
        filled += u64::from(chunk.size);
        number += 1;
    }
    if filled == size { Ok(()) } else { Err(StoryError::Chunks { name: further.name }) }
}

impl Sink for Recorder {
    type Error = StoryError;

    fn raw(&mut self, bytes: &[u8]) -> Result<(), StoryError> {
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn begin(&mut self, meta: Meta) -> Result<(), StoryError> {
        self.tree.add(&meta.name, meta.kind, &meta.link_name)?;
        // Nobody looks at the names of owners.
        let entry = TocEntry { user_name: String::new(), group_name: String::new(), ..listing::entry(meta) };
        let json = serde_json::to_vec(&entry).map_err(io::Error::from)?;
        self.out.write_all(&json)?;
        self.entries.push((self.end, self.at));
        self.end += json.len() as u64;
        Ok(())
    }

    fn payload(&mut self, bytes: &[u8]) -> Result<(), StoryError> {
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> Result<(), StoryError> {
        Ok(())
    }
}
