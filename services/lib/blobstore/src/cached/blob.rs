//! [`CachedBlob`]: an open blob, read through the cache.

use std::fs::File;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use telemetry::blocking;

use super::cache::Cache;
use super::counters::add;
use super::flight::Flight;
use super::index::{BLOCK, FileId, MAX_FETCH, Piece, extent};
use super::source::Source;
use crate::bridge::wait_for;
use crate::local::{LocalFile, clamp};
use crate::{BlobKey, BlobStore, OpenBlob, StoreError};

/// An open blob. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct CachedBlob {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cache: Arc<Cache>,
    source: Arc<Source>,
    id: FileId,
    size: u64,
    /// `None`: all reads go past the cache.
    file: Option<Arc<LocalFile>>,
    run: Mutex<Run>,
    /// Set when the file was handed out.
    handed_out: OnceLock<()>,
}

impl CachedBlob {
    pub(super) async fn open(
        cache: &Arc<Cache>,
        store: &Arc<dyn BlobStore>,
        key: &BlobKey,
    ) -> Result<Self, StoreError> {
        let source = Arc::new(Source::new(store, key));
        let known = cache.index().join(key, &source);
        let joined = match known {
            Some(joined) => joined,
            None => {
                let size = source.open().await?.size();
                cache.index().enter(key, size, &source)
            }
        };
        // From here on the blob is counted, and dropping it takes that back.
        let mut inner = Inner {
            cache: Arc::clone(cache),
            source: joined.source,
            id: joined.id,
            size: joined.size,
            file: joined.file,
            run: Mutex::default(),
            handed_out: OnceLock::new(),
        };
        if inner.file.is_none() {
            let (cache, id, size) = (Arc::clone(cache), joined.id, joined.size);
            inner.file = blocking(move || cache.file(id, size, joined.is_empty)).await;
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns the blocks that a read of `len` bytes at `offset` touches.
    fn blocks(offset: u64, len: usize) -> RangeInclusive<u32> {
        (offset / BLOCK) as u32..=((offset + len as u64 - 1) / BLOCK) as u32
    }

    /// Looks blocks up and starts what is to be fetched; `None`: the cache does not know the blob any more.
    fn look(&self, file: &Arc<LocalFile>, blocks: RangeInclusive<u32>, ahead: u32) -> Option<Pieces<'_>> {
        let Inner { cache, source, id, .. } = &*self.inner;
        let found = cache.index().look(*id, blocks.clone(), ahead)?;
        for flight in found.flights {
            cache.start(flight, source, file);
        }
        Some(Pieces { blob: &self.inner, first: *blocks.start(), pieces: found.pieces })
    }

    /// Reads what the disk has, and when it turns out not to have it, gives the file up.
    async fn read_file(&self, file: &Arc<LocalFile>, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        if let Ok(bytes) = file.read(offset, len).await {
            return Ok(bytes);
        }
        self.inner.cache.abandon(self.inner.id);
        self.inner.source.read(offset, len).await
    }

    async fn read_cached(&self, file: &Arc<LocalFile>, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let Inner { cache, source, size, run, .. } = &*self.inner;
        let ahead = run.lock().unwrap_or_else(PoisonError::into_inner).note(offset, len);
        let ahead = if cache.may_fetch_ahead(ahead) { ahead } else { 0 };
        let Some(pieces) = self.look(file, Self::blocks(offset, len), ahead) else {
            return source.read(offset, len).await;
        };
        if pieces.are_ready() {
            add(&cache.counters.hits, 1);
            add(&cache.counters.hit_bytes, len as u64);
            return self.read_file(file, offset, len).await;
        }
        add(&cache.counters.misses, 1);
        let end = offset + len as u64;
        let mut bytes = Vec::with_capacity(len);
        for (n, piece) in pieces.iter() {
            let (block, block_len) = extent(*size, n);
            let from = offset.max(block);
            let len = (end.min(block + block_len) - from) as usize;
            bytes.extend_from_slice(&match piece {
                Piece::Ready => self.read_file(file, from, len).await?,
                Piece::Coming(flight) => Flight::bytes(flight, from, len).await?,
                Piece::Leaving => source.read(from, len).await?,
            });
        }
        Ok(bytes.into())
    }
}

#[async_trait]
impl OpenBlob for CachedBlob {
    fn size(&self) -> u64 {
        self.inner.size
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let len = clamp(self.inner.size, offset, len);
        match &self.inner.file {
            _ if len == 0 => Ok(Bytes::new()),
            Some(file) => self.read_cached(file, offset, len).await,
            None => {
                add(&self.inner.cache.counters.misses, 1);
                self.inner.source.read(offset, len).await
            }
        }
    }

    fn read_blocking(&self, buf: &mut [u8], offset: u64) -> Result<usize, StoreError> {
        let len = clamp(self.inner.size, offset, buf.len());
        if len == 0 {
            return Ok(0);
        }
        let counters = &self.inner.cache.counters;
        if let Some(file) = &self.inner.file
            && let Some(pieces) = self.look(file, Self::blocks(offset, len), 0)
            && pieces.are_ready()
            && file.read_blocking(&mut buf[..len], offset).is_ok()
        {
            add(&counters.hits, 1);
            add(&counters.hit_bytes, len as u64);
            return Ok(len);
        }
        let blob = self.clone();
        let bytes = wait_for(&self.inner.cache.runtime, async move { blob.read(offset, len).await })?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn local_file(&self) -> Option<&File> {
        let file = self.inner.file.as_ref()?;
        if self.inner.handed_out.get().is_none() {
            let mut index = self.inner.cache.index();
            // With the index held, so that it is counted once.
            if self.inner.handed_out.get().is_none() {
                index.hand_out(self.inner.id).then(|| self.inner.handed_out.set(()))?.ok()?;
            }
        }
        Some(file.file())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let is_useless = {
            let mut index = self.cache.index();
            if self.handed_out.get().is_some() {
                index.take_back(self.id);
            }
            index.leave(self.id)
        };
        if is_useless {
            self.cache.remove(self.id);
        }
    }
}

/// What a read found. The blocks that are on the disk stay there until this is dropped.
#[derive(Debug)]
struct Pieces<'a> {
    blob: &'a Inner,
    first: u32,
    pieces: Vec<Piece>,
}

impl Pieces<'_> {
    fn are_ready(&self) -> bool {
        self.pieces.iter().all(|piece| matches!(piece, Piece::Ready))
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &Piece)> {
        (self.first..).zip(&self.pieces)
    }
}

impl Drop for Pieces<'_> {
    fn drop(&mut self) {
        let mut index = self.blob.cache.index();
        for (n, piece) in self.iter() {
            if matches!(piece, Piece::Ready) {
                index.release(self.blob.id, n);
            }
        }
    }
}

/// How far a reader has read without a jump.
#[derive(Debug, Default)]
struct Run {
    len: u64,
    next: u64,
}

impl Run {
    /// Notes a read and returns how many blocks behind it are worth having: two for each that was read without a jump
    /// before it, up to [`MAX_FETCH`].
    fn note(&mut self, offset: u64, len: usize) -> u32 {
        let before = if offset == self.next { self.len } else { 0 };
        self.next = offset + len as u64;
        self.len = before + len as u64;
        (2 * before).div_ceil(BLOCK).min(u64::from(MAX_FETCH)) as u32
    }
}
