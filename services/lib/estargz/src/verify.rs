//! [`verify`]: checks a whole blob, and that its TOC tells the same story as its tar.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};

use api::{Algorithm, Digest, Hasher, UnconvertibleReason};

use crate::entry::{EntryType, TocEntry};
use crate::listing;
use crate::members::Members;
use crate::read_at::{ReadAt, Section};
use crate::reader::{Blob, OpenError};
use crate::tar::{Limits, Meta, Sink, TarError, WalkError, walk};
use crate::time;
use crate::toc::{Chunk, Toc};
use crate::tree::{Plan, Tree, clean_path};

/// Entries of a foreign tar that its TOC may leave out: replaced ones, directories given twice.
const UNLISTED: u32 = 64;
/// Bytes of names and attributes of a foreign tar beyond twice the TOC's size.
const UNLISTED_TEXT: u64 = 1 << 20;
/// The most hard links in a row.
const MAX_LINKS: usize = 255;

/// A blob that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The digest of the plain tar, TOC entry included.
    pub diff_id: Digest,
    /// The size of the plain tar in bytes.
    pub plain_size: u64,
    /// The digest of the TOC's JSON.
    pub toc_digest: Digest,
    /// The directories that are only implied, cleaned and sorted; the root as "".
    pub implied_dirs: Vec<String>,
}

/// Why a blob does not pass.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It does not open, or a chunk does not read.
    #[error("blob is not readable")]
    Open(#[from] OpenError),
    /// The TOC is not the one expected.
    #[error("TOC has digest {found} instead of {expected}")]
    TocDigest {
        /// The digest expected.
        expected: Digest,
        /// The digest found.
        found: Digest,
    },
    /// The tar is broken.
    #[error("tar is not usable")]
    Tar(#[from] TarError),
    /// The gzip members are broken, or the blob cannot be read.
    #[error("error unpacking the blob")]
    Unpack(#[source] io::Error),
    /// The caller asked to stop.
    #[error("check stopped")]
    Stopped,
    /// TOC and tar tell different stories.
    #[error("TOC and tar differ in {name:?}: {what}")]
    Mismatch {
        /// The entry's name.
        name: String,
        /// What differs.
        what: &'static str,
    },
}

/// Checks the blob's footer, the TOC's digest if one is expected, every chunk's and file's digest, and that the TOC
/// lists what a plain unpack of the tar leaves behind. The whole TOC is held in memory.
///
/// # Errors
/// See [`VerifyError`].
pub fn verify<R: ReadAt>(blob: &Blob<R>, expected: Option<&Digest>, limits: &Limits) -> Result<Verified, VerifyError> {
    let toc_digest = blob.toc_digest();
    if let Some(expected) = expected.filter(|expected| **expected != toc_digest) {
        return Err(VerifyError::TocDigest { expected: expected.clone(), found: toc_digest });
    }
    check(blob, limits, u64::MAX, &|| false)
}

/// Checks as [`verify`] does a blob that someone else made: besides, its TOC must tell all readers the same
/// ([`Toc::is_unambiguous`]), each chunk must begin its member, and the tar must not hold much that the TOC leaves out,
/// so that work and memory are bounded by the sizes of blob and TOC. `stop` is asked at least once for each chunk and
/// each 256 KiB; once it is true it must stay so.
///
/// # Errors
/// See [`VerifyError`]; whatever else was found, it is [`VerifyError::Stopped`] if `stop` is true.
pub fn verify_foreign<R: ReadAt>(
    blob: &Blob<R>,
    limits: &Limits,
    stop: &dyn Fn() -> bool,
) -> Result<Verified, VerifyError> {
    if !Toc::is_unambiguous(blob.toc_json()) {
        return Err(mismatch(crate::TOC_NAME, "what readers make of its keys"));
    }
    let entries = &blob.toc().entries;
    if let Some(entry) = entries.iter().find(|entry| entry.inner_offset > 0) {
        return Err(mismatch(&entry.name, "a chunk that begins inside a member"));
    }
    let listed = entries.iter().filter(|entry| entry.kind != EntryType::Chunk).count();
    let listed = u32::try_from(listed).unwrap_or(u32::MAX);
    let limits = Limits { entries: limits.entries.min(listed.saturating_add(UNLISTED)), ..limits.clone() };
    let text = (blob.toc_json().len() as u64).saturating_mul(2).saturating_add(UNLISTED_TEXT);
    check(blob, &limits, text, stop).map_err(|error| if stop() { VerifyError::Stopped } else { error })
}

fn check<R: ReadAt>(
    blob: &Blob<R>,
    limits: &Limits,
    text: u64,
    stop: &dyn Fn() -> bool,
) -> Result<Verified, VerifyError> {
    let unpacked = Unpacked::read(blob, limits, text, stop)?;
    Story::new(blob, stop)?.check(&unpacked)?;
    Ok(Verified {
        diff_id: unpacked.diff_id,
        plain_size: unpacked.plain_size,
        toc_digest: blob.toc_digest(),
        implied_dirs: unpacked.plan.implied_dirs().to_vec(),
    })
}

/// What the tar says.
struct Unpacked {
    plan: Plan,
    entries: Vec<Entry>,
    /// Plain offset by compressed offset of each member.
    starts: HashMap<u64, u64>,
    diff_id: Digest,
    plain_size: u64,
}

struct Entry {
    toc: TocEntry,
    time: (i64, u32),
    /// Plain offset of the payload.
    payload: u64,
}

impl Unpacked {
    /// Holds at most `text` bytes of names and attributes.
    fn read<R: ReadAt>(
        blob: &Blob<R>,
        limits: &Limits,
        text: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<Self, VerifyError> {
        let section = Section::new(blob.inner(), 0, blob.size());
        let members = Members::new(BufReader::with_capacity(256 << 10, section));
        let mut members = members.recording_at(blob.offsets().to_vec());
        members.stop_at(Some(blob.toc_offset()));
        let mut plain = BufReader::with_capacity(
            256 << 10,
            Hashing { inner: members, hash: Hasher::new(Algorithm::Sha256), size: 0, stop },
        );
        let mut recorder = Recorder { tree: Tree::new(limits.entries), entries: Vec::new(), at: 0, text };
        match walk(&mut plain, &mut recorder, limits) {
            Ok(_) => {}
            Err(WalkError::Tar(e) | WalkError::Sink(e)) => return Err(e.into()),
            Err(WalkError::Input(e)) => return Err(VerifyError::Unpack(e)),
        }
        let mut hashing = plain.into_inner();
        hashing.inner.stop_at(None);
        io::copy(&mut hashing, &mut io::sink()).map_err(VerifyError::Unpack)?;
        let starts: HashMap<u64, u64> = hashing.inner.starts().iter().copied().collect();
        if !starts.contains_key(&blob.toc_offset()) {
            return Err(mismatch(crate::TOC_NAME, "it does not begin a gzip member"));
        }
        let Recorder { tree, entries, .. } = recorder;
        let plan = tree.finish(|number| Ok::<_, TarError>(entries[number as usize].toc.link_name.clone()))?;
        Ok(Self { plan, entries, starts, diff_id: hashing.hash.finish(), plain_size: hashing.size })
    }
}

/// What the TOC says.
struct Story<'a, R> {
    blob: &'a Blob<R>,
    /// Entry and chunks by cleaned path.
    paths: HashMap<String, (&'a TocEntry, Vec<Chunk<'a>>)>,
    stop: &'a dyn Fn() -> bool,
}

impl<'a, R: ReadAt> Story<'a, R> {
    fn new(blob: &'a Blob<R>, stop: &'a dyn Fn() -> bool) -> Result<Self, VerifyError> {
        let mut paths = HashMap::new();
        for (number, chunks) in blob.toc().files().map_err(OpenError::from)? {
            let entry = &blob.toc().entries[number];
            if paths.insert(clean_path(&entry.name), (entry, chunks)).is_some() {
                return Err(mismatch(&entry.name, "it is listed twice"));
            }
        }
        Ok(Self { blob, paths, stop })
    }

    fn check(&self, unpacked: &Unpacked) -> Result<(), VerifyError> {
        let mut expected: Vec<(u32, TocEntry)> = Vec::new();
        listing::list(
            &unpacked.plan,
            |number| {
                self.go_on()?;
                Ok::<_, VerifyError>(unpacked.entries[number as usize].toc.clone())
            },
            |number, entry| {
                expected.push((number, entry));
                Ok(())
            },
        )?;
        if expected.len() != self.paths.len() {
            return Err(mismatch("/", "the number of entries"));
        }
        // The TOC may call another name of a file the first, so links are compared by where they lead.
        let mut leads: HashMap<String, &TocEntry> = HashMap::new();
        for (number, entry) in expected.iter().filter(|(_, e)| e.kind != EntryType::Hardlink) {
            let (listed, chunks) = self.resolve(&entry.name)?;
            let source = &unpacked.entries[*number as usize];
            let last = unpacked.plan.applied(*number).next().unwrap_or(*number);
            compare(listed, entry, unpacked.entries[last as usize].time)?;
            self.check_payload(listed, chunks, source, &unpacked.starts)?;
            leads.insert(clean_path(&entry.name), listed);
        }
        for (_, entry) in expected.iter().filter(|(_, e)| e.kind == EntryType::Hardlink) {
            let (listed, _) = self.resolve(&entry.name)?;
            if leads.get(&clean_path(&entry.link_name)).is_none_or(|target| !std::ptr::eq(*target, listed)) {
                return Err(mismatch(&entry.name, "what the hard link leads to"));
            }
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), VerifyError> {
        if (self.stop)() { Err(VerifyError::Stopped) } else { Ok(()) }
    }

    /// Follows hard links, at most [`MAX_LINKS`] of them.
    fn resolve(&self, name: &str) -> Result<(&'a TocEntry, &[Chunk<'a>]), VerifyError> {
        let mut path = clean_path(name);
        self.go_on()?;
        for _ in 0..=MAX_LINKS {
            let (entry, chunks) = self.paths.get(&path).ok_or_else(|| mismatch(name, "it is not listed"))?;
            if entry.kind != EntryType::Hardlink {
                return Ok((entry, chunks));
            }
            path = clean_path(&entry.link_name);
        }
        Err(mismatch(name, "hard links that form a cycle or too long a row"))
    }

    fn check_payload(
        &self,
        listed: &TocEntry,
        chunks: &[Chunk<'_>],
        source: &Entry,
        starts: &HashMap<u64, u64>,
    ) -> Result<(), VerifyError> {
        if listed.kind != EntryType::Reg {
            return Ok(());
        }
        let mut hash = Hasher::new(Algorithm::Sha256);
        for chunk in chunks {
            self.go_on()?;
            let start = starts.get(&chunk.offset).ok_or_else(|| mismatch(&listed.name, "a chunk begins no member"))?;
            if start.checked_add(chunk.inner_offset) != Some(source.payload + chunk.chunk_offset) {
                return Err(mismatch(&listed.name, "where its bytes are"));
            }
            hash.update(&self.blob.read_chunk(chunk)?);
        }
        if listed.digest.as_ref() != Some(&hash.finish()) {
            return Err(mismatch(&listed.name, "the file's digest"));
        }
        Ok(())
    }
}

fn compare(listed: &TocEntry, entry: &TocEntry, time: (i64, u32)) -> Result<(), VerifyError> {
    let differs = |what| Err(mismatch(&entry.name, what));
    if listed.kind != entry.kind {
        return differs("type");
    }
    if listed.size != entry.size {
        return differs("size");
    }
    if listed.mode & 0o7777 != entry.mode & 0o7777 && entry.kind != EntryType::Symlink {
        return differs("mode");
    }
    if (listed.uid, listed.gid) != (entry.uid, entry.gid) {
        return differs("owner");
    }
    if (listed.dev_major, listed.dev_minor) != (entry.dev_major, entry.dev_minor) {
        return differs("device numbers");
    }
    if listed.link_name != entry.link_name {
        return differs("link target");
    }
    if listed.xattrs != entry.xattrs {
        return differs("extended attributes");
    }
    if !same_time(listed, entry, time) {
        return differs("modification time");
    }
    Ok(())
}

/// Tells whether the TOC has the time an unpack gives, or the tar's time rounded to a second, which is left out if 0.
fn same_time(listed: &TocEntry, entry: &TocEntry, (seconds, nanos): (i64, u32)) -> bool {
    let rounded = seconds.saturating_add(i64::from(nanos >= 500_000_000));
    match time::parse(&listed.modtime) {
        _ if listed.modtime == entry.modtime => true,
        None => listed.modtime.is_empty() && rounded == 0,
        Some(time) => time == (seconds, nanos) || time == (rounded, 0),
    }
}

fn mismatch(name: &str, what: &'static str) -> VerifyError {
    VerifyError::Mismatch { name: name.to_owned(), what }
}

/// Replays a tar and keeps what it says.
struct Recorder {
    tree: Tree,
    entries: Vec<Entry>,
    at: u64,
    /// Bytes of names and attributes that may still be kept.
    text: u64,
}

impl Sink for Recorder {
    type Error = TarError;

    fn raw(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn begin(&mut self, meta: Meta) -> Result<(), TarError> {
        self.tree.add(&meta.name, meta.kind, &meta.link_name)?;
        let time = (meta.seconds, meta.nanos);
        // Nobody compares the names of owners.
        let toc = TocEntry { user_name: String::new(), group_name: String::new(), ..listing::entry(meta) };
        let xattrs: usize = toc.xattrs.0.iter().map(|(name, value)| name.len() + value.len()).sum();
        let text = (toc.name.len() + toc.link_name.len() + xattrs) as u64;
        self.text = self.text.checked_sub(text).ok_or_else(|| {
            TarError::new(UnconvertibleReason::Limit, format!("{:?} is more than its TOC can list", toc.name))
        })?;
        self.entries.push(Entry { toc, time, payload: self.at });
        Ok(())
    }

    fn payload(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> Result<(), TarError> {
        Ok(())
    }
}

/// Hashes what is read, until told to stop.
struct Hashing<'a, R> {
    inner: R,
    hash: Hasher,
    size: u64,
    stop: &'a dyn Fn() -> bool,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if (self.stop)() {
            return Err(io::Error::other("stopped"));
        }
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        self.size += n as u64;
        Ok(n)
    }
}
