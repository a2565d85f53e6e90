//! [`walk`]: reads a plain tar to its very end.

use std::io::{self, BufRead};

use api::{TarTail, UnconvertibleReason};

use super::header::{RawHeader, text};
use super::pax::Pax;
use super::{BLOCK, Limits, Meta, TarError, padding};
use crate::entry::EntryType;

/// The longest pax or GNU record block; Go's reader refuses longer ones.
const MAX_RECORDS: u64 = 1 << 20;

/// Takes what a walk finds. Every byte of the tar but its tail arrives exactly once, in order.
pub trait Sink {
    /// Why it would stop the walk.
    type Error;

    /// Takes header blocks, pax and GNU records, padding.
    ///
    /// # Errors
    /// Ends the walk.
    fn raw(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Takes an entry, after its header blocks and before its payload.
    ///
    /// # Errors
    /// Ends the walk.
    fn begin(&mut self, meta: Meta) -> Result<(), Self::Error>;

    /// Takes a part of the payload of a regular file, never empty.
    ///
    /// # Errors
    /// Ends the walk.
    fn payload(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Takes the name of a pax global header, whose blocks came before.
    ///
    /// # Errors
    /// Ends the walk.
    fn global(&mut self, _name: &str) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Takes note of the end of the entry's payload.
    ///
    /// # Errors
    /// Ends the walk.
    fn end(&mut self) -> Result<(), Self::Error>;
}

/// Why a walk ended early.
#[derive(Debug)]
pub enum WalkError<E> {
    /// The tar is broken or cannot be expressed.
    Tar(TarError),
    /// The input failed.
    Input(io::Error),
    /// The sink gave up.
    Sink(E),
}

impl<E> From<TarError> for WalkError<E> {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

/// Walks `input` to its very end, hands everything up to the end of the last entry to `sink` and returns the rest.
///
/// # Errors
/// See [`WalkError`].
pub fn walk<R: BufRead, S: Sink>(input: R, sink: &mut S, limits: &Limits) -> Result<TarTail, WalkError<S::Error>> {
    Walk { input, sink, limits, at: 0, entries: 0, xattrs: 0, records: Records::default(), buffer: Vec::new() }.run()
}

pub(super) fn is_sparse_key(key: &[u8]) -> bool {
    key.starts_with(b"GNU.sparse.")
}

/// The records in front of an entry.
#[derive(Default)]
struct Records {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

struct Walk<'a, R, S> {
    input: R,
    sink: &'a mut S,
    limits: &'a Limits,
    /// Offset of the next byte in the plain tar.
    at: u64,
    entries: u32,
    /// Bytes of all extended attributes so far.
    xattrs: u64,
    records: Records,
    buffer: Vec<u8>,
}

impl<R: BufRead, S: Sink> Walk<'_, R, S> {
    fn run(mut self) -> Result<TarTail, WalkError<S::Error>> {
        let mut block = [0; BLOCK];
        loop {
            let start = self.at;
            match self.fill(&mut block)? {
                0 => return Ok(TarTail::Zeros(0)),
                BLOCK => {}
                n => return Err(TarError::corrupt(format!("tar ends {n} bytes into the header at {start}")).into()),
            }
            if block == [0; BLOCK] {
                return self.tail();
            }
            let header = RawHeader::parse(&block, start)?;
            self.sink.raw(&block).map_err(WalkError::Sink)?;
            self.entry(&header, start)?;
        }
    }

    fn entry(&mut self, header: &RawHeader, start: u64) -> Result<(), WalkError<S::Error>> {
        match header.flag {
            b'x' => {
                self.records(header, start)?;
                self.records.pax = Some(Pax::parse(&self.buffer, start)?);
            }
            b'L' => {
                self.records(header, start)?;
                self.records.long_name = self.long();
            }
            b'K' => {
                self.records(header, start)?;
                self.records.long_link = self.long();
            }
            // Nothing applies global records; but they end what stood before them.
            b'g' => {
                self.records(header, start)?;
                let name = Pax::parse(&self.buffer, start)?.path.unwrap_or_else(|| header.name.clone());
                self.records = Records::default();
                self.sink.global(&String::from_utf8_lossy(&name)).map_err(WalkError::Sink)?;
            }
            _ => {
                self.entries += 1;
                if self.entries > self.limits.entries {
                    let detail = format!("more than {} entries", self.limits.entries);
                    return Err(TarError::new(UnconvertibleReason::Limit, detail).into());
                }
                let records = std::mem::take(&mut self.records);
                let meta = self.meta(header, records, start)?;
                let size = meta.size;
                self.sink.begin(meta).map_err(WalkError::Sink)?;
                self.payload(size, start)?;
                self.sink.end().map_err(WalkError::Sink)?;
                self.padding(size, start)?;
            }
        }
        Ok(())
    }

    /// Reads the payload of a pax or GNU header into `buffer`.
    fn records(&mut self, header: &RawHeader, start: u64) -> Result<(), WalkError<S::Error>> {
        let size = u64::try_from(header.size).ok().filter(|&size| size <= MAX_RECORDS).ok_or_else(|| {
            TarError::corrupt(format!("records at {start} have {} bytes, more than {MAX_RECORDS}", header.size))
        })?;
        let size = size as usize;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(size + padding(size as u64), 0);
        if self.fill(&mut buffer)? < buffer.len() {
            return Err(TarError::corrupt(format!("tar ends inside the records at {start}")).into());
        }
        self.sink.raw(&buffer).map_err(WalkError::Sink)?;
        buffer.truncate(size);
        self.buffer = buffer;
        Ok(())
    }

    /// Returns the long name in `buffer`; an empty one names nothing.
    fn long(&self) -> Option<Vec<u8>> {
        Some(text(&self.buffer).to_vec()).filter(|name| !name.is_empty())
    }

    fn meta(&mut self, header: &RawHeader, records: Records, start: u64) -> Result<Meta, TarError> {
        let pax = records.pax.unwrap_or_default();
        let name = records.long_name.or(pax.path).unwrap_or_else(|| header.name.clone());
        let link_name = records.long_link.or(pax.link_path).unwrap_or_else(|| header.link_name.clone());
        let name = self.utf8(name, "name", start)?;
        if header.flag == b'S' || pax.sparse {
            return Err(TarError::new(UnconvertibleReason::Sparse, format!("{name:?} is a sparse file")));
        }
        let kind = match header.flag {
            // The oldest archives tell directories by the slash.
            0 if name.ends_with('/') => EntryType::Dir,
            // A contiguous file is a regular file on every system of today.
            0 | b'0' | b'7' => EntryType::Reg,
            b'1' => EntryType::Hardlink,
            b'2' => EntryType::Symlink,
            b'3' => EntryType::Char,
            b'4' => EntryType::Block,
            b'5' => EntryType::Dir,
            b'6' => EntryType::Fifo,
            flag => {
                let detail = format!("{name:?} at {start} has the unknown type {:?}", char::from(flag));
                return Err(TarError::corrupt(detail));
            }
        };
        let is_link = matches!(kind, EntryType::Hardlink | EntryType::Symlink);
        let link_name = if is_link { self.utf8(link_name, "link target", start)? } else { String::new() };
        // Only files have a payload, whatever the header says.
        let size = if kind == EntryType::Reg { pax.size.unwrap_or(header.size) } else { 0 };
        let size = u64::try_from(size)
            .ok()
            .filter(|&size| size <= 1 << 62)
            .ok_or_else(|| TarError::corrupt(format!("{name:?} has the size {size}")))?;
        let (seconds, nanos) = pax.mtime.unwrap_or((header.mtime, 0));
        let xattrs = self.xattrs(pax.xattrs, &name)?;
        let is_device = matches!(kind, EntryType::Char | EntryType::Block);
        Ok(Meta {
            kind,
            size,
            mode: header.mode,
            uid: pax.uid.unwrap_or(header.uid),
            gid: pax.gid.unwrap_or(header.gid),
            // Names of owners are only shown; one that JSON cannot hold is left out.
            user_name: String::from_utf8(pax.user_name.unwrap_or_else(|| header.user_name.clone())).unwrap_or_default(),
            group_name: String::from_utf8(pax.group_name.unwrap_or_else(|| header.group_name.clone()))
                .unwrap_or_default(),
            seconds,
            nanos,
            link_name,
            device: if is_device { header.device } else { (0, 0) },
            xattrs,
            name,
        })
    }

    fn utf8(&self, bytes: Vec<u8>, what: &str, start: u64) -> Result<String, TarError> {
        if bytes.len() > self.limits.path_len {
            let detail = format!("{what} of the entry at {start} has {} bytes", bytes.len());
            return Err(TarError::new(UnconvertibleReason::Limit, detail));
        }
        String::from_utf8(bytes).map_err(|e| {
            let detail = format!("{what} {:?} of the entry at {start}", String::from_utf8_lossy(e.as_bytes()));
            TarError::new(UnconvertibleReason::NotUtf8, detail)
        })
    }

    fn xattrs(&mut self, records: Vec<(Vec<u8>, Vec<u8>)>, name: &str) -> Result<Vec<(String, Vec<u8>)>, TarError> {
        let bytes: usize = records.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > self.limits.xattr_bytes {
            let detail = format!("{name:?} has {bytes} bytes of extended attributes");
            return Err(TarError::new(UnconvertibleReason::Limit, detail));
        }
        self.xattrs += bytes as u64;
        if self.xattrs > self.limits.all_xattr_bytes {
            let detail = format!("more than {} bytes of extended attributes", self.limits.all_xattr_bytes);
            return Err(TarError::new(UnconvertibleReason::Limit, detail));
        }
        let utf8 = |(key, value): (Vec<u8>, Vec<u8>)| match String::from_utf8(key) {
            Ok(key) => Ok((key, value)),
            Err(_) => {
                let detail = format!("name of an extended attribute of {name:?}");
                Err(TarError::new(UnconvertibleReason::NotUtf8, detail))
            }
        };
        records.into_iter().map(utf8).collect()
    }

    fn payload(&mut self, size: u64, start: u64) -> Result<(), WalkError<S::Error>> {
        let mut left = size;
        while left > 0 {
            let available = self.input.fill_buf().map_err(WalkError::Input)?;
            if available.is_empty() {
                let detail = format!("tar ends inside the payload of the entry at {start}, {left} bytes short");
                return Err(TarError::corrupt(detail).into());
            }
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(available.len());
            self.sink.payload(&available[..n]).map_err(WalkError::Sink)?;
            self.input.consume(n);
            self.at += n as u64;
            left -= n as u64;
        }
        Ok(())
    }

    fn padding(&mut self, size: u64, start: u64) -> Result<(), WalkError<S::Error>> {
        let mut block = [0; BLOCK];
        let block = &mut block[..padding(size)];
        if self.fill(block)? < block.len() {
            let detail = format!("tar ends inside the padding of the entry at {start}");
            return Err(TarError::corrupt(detail).into());
        }
        self.sink.raw(block).map_err(WalkError::Sink)
    }

    /// Reads what follows the last entry, of which one zero block has been read.
    fn tail(&mut self) -> Result<TarTail, WalkError<S::Error>> {
        let start = self.at - BLOCK as u64;
        let mut second = [0; BLOCK];
        let n = self.fill(&mut second)?;
        if second != [0; BLOCK] {
            let detail = format!("zero block at {start} is followed by another block");
            return Err(TarError::corrupt(detail).into());
        }
        let mut zeros = (BLOCK + n) as u64;
        let mut bytes: Option<Vec<u8>> = None;
        loop {
            let available = self.input.fill_buf().map_err(WalkError::Input)?;
            let n = available.len();
            if n == 0 {
                break;
            }
            let is_zero = available.iter().all(|&b| b == 0);
            if bytes.is_none() && is_zero {
                zeros += n as u64;
            } else {
                let kept = bytes.as_ref().map_or(zeros, |bytes| bytes.len() as u64);
                if kept + n as u64 > TarTail::MAX_BYTES as u64 {
                    let detail = format!("more than {} bytes after the end at {start}", TarTail::MAX_BYTES);
                    return Err(TarError::new(UnconvertibleReason::Limit, detail).into());
                }
                bytes.get_or_insert_with(|| vec![0; zeros as usize]).extend_from_slice(available);
            }
            self.input.consume(n);
            self.at += n as u64;
        }
        Ok(bytes.map_or(TarTail::Zeros(zeros), |bytes| TarTail::Bytes(hex::encode(bytes))))
    }

    /// Fills `out` and returns how many bytes there were before the end.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize, WalkError<S::Error>> {
        let mut done = 0;
        while done < out.len() {
            let available = self.input.fill_buf().map_err(WalkError::Input)?;
            if available.is_empty() {
                break;
            }
            let n = available.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&available[..n]);
            self.input.consume(n);
            done += n;
        }
        self.at += done as u64;
        Ok(done)
    }
}
