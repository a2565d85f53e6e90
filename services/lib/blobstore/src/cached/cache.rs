//! [`Cache`]: the index, the folder, and what moves bytes between them and the store.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use telemetry::blocking;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::counters::{CacheCounts, Counters, add};
use super::flight::{Flight, stopped};
use super::folder::Folder;
use super::index::{BLOCK, FileId, Index, Room, extent, space};
use super::source::Source;
use crate::local::LocalFile;
use crate::{BlobKey, StoreError};

/// How many blocks may be on their way at once; what bounds the memory for them.
const MAX_COMING: usize = 64;

/// What all blobs of one cached store share.
#[derive(Debug)]
pub(super) struct Cache {
    folder: Folder,
    index: Mutex<Index>,
    coming: Arc<Semaphore>,
    pub(super) counters: Counters,
    pub(super) runtime: Handle,
}

impl Cache {
    pub(super) fn open(folder: &Path, cap: u64) -> Result<Arc<Self>, StoreError> {
        Ok(Arc::new(Self {
            folder: Folder::open(folder)?,
            index: Mutex::new(Index::new(cap)),
            coming: Arc::new(Semaphore::new(MAX_COMING)),
            counters: Counters::default(),
            runtime: Handle::current(),
        }))
    }

    /// Returns the index. It is held for memory work only.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        // A panic with the lock held would be a fault of the index itself; its state is whole between statements.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counts(&self) -> CacheCounts {
        let held = self.index().held();
        self.counters.counts(held)
    }

    /// Tells whether nothing is on its way.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.coming.available_permits() == MAX_COMING
    }

    /// Tells whether so many blocks may be fetched ahead, without anybody waiting for their turn.
    pub(super) fn may_fetch_ahead(&self, blocks: u32) -> bool {
        self.coming.available_permits() >= blocks as usize
    }

    /// Opens the file of `id`; `None` when the cache cannot be used for it.
    pub(super) fn file(&self, id: FileId, size: u64, is_empty: bool) -> Option<Arc<LocalFile>> {
        match self.folder.file(id, size, is_empty) {
            Ok(file) => self.index().opened(id, file),
            // Nothing is lost: the disk is full, say.
            Err(_) if is_empty => None,
            Err(_) => {
                self.abandon(id);
                None
            }
        }
    }

    /// Gives up a file that is not what it should be, whoever has it open.
    pub(super) fn abandon(&self, id: FileId) {
        self.index().forget_file(id);
        self.folder.remove(id);
    }

    /// Removes the file of a blob that the index has forgotten.
    pub(super) fn remove(&self, id: FileId) {
        self.folder.remove(id);
    }

    /// Forgets blobs that are deleted.
    pub(super) async fn forget(self: &Arc<Self>, keys: &[BlobKey]) {
        let files: Vec<_> = {
            let mut index = self.index();
            keys.iter().filter_map(|key| index.forget(key)).collect()
        };
        if !files.is_empty() {
            let cache = Arc::clone(self);
            blocking(move || files.into_iter().for_each(|id| cache.folder.remove(id))).await;
        }
    }

    // --- whole files ---

    /// Gives a file that is about to be put a second name in the cache; `None` where that cannot be (it lies on another
    /// file system, say) or should not: one blob is to take no more than half of the cache.
    pub(super) async fn link(self: &Arc<Self>, file: &Path) -> Option<Draft> {
        let (cache, file) = (Arc::clone(self), file.to_owned());
        blocking(move || {
            let id = cache.index().fresh_id();
            let size = cache.folder.link(id, &file).ok()?;
            cache.draft(id, size, true)
        })
        .await
    }

    /// Writes bytes to a file of the cache; `None` as for [`Cache::link`].
    pub(super) async fn write(self: &Arc<Self>, bytes: Bytes) -> Option<Draft> {
        let cache = Arc::clone(self);
        blocking(move || {
            let id = cache.index().fresh_id();
            let draft = cache.draft(id, bytes.len() as u64, false)?;
            cache.folder.write(id, &bytes).ok().map(|()| draft)
        })
        .await
    }

    fn draft(self: &Arc<Self>, id: FileId, size: u64, is_foreign: bool) -> Option<Draft> {
        let draft = Draft { cache: Arc::clone(self), id, size, is_foreign, is_adopted: false };
        let fits = size > 0 && size <= self.index().cap() / 2;
        fits.then_some(draft)
    }

    /// Takes a whole file in as the bytes of `key`, if there is room.
    pub(super) async fn adopt(&self, key: &BlobKey, draft: Draft) {
        let key = key.clone();
        blocking(move || draft.adopt(&key)).await;
    }

    /// Gives back the disk space of what was chosen to leave.
    fn evict(&self, room: &Room) {
        for &(id, space) in &room.files {
            self.folder.remove(id);
            add(&self.counters.evicted_bytes, space);
        }
        for &(id, n) in &room.blocks {
            let size = self.index().size(id);
            let (offset, len) = extent(size, n);
            match self.folder.punch(id, offset, space(size, n)) {
                Ok(()) => add(&self.counters.evicted_bytes, len),
                // Where no holes can be cut, the whole file goes.
                Err(_) => self.abandon(id),
            }
            let is_useless = self.index().left(id, n);
            if is_useless {
                self.folder.remove(id);
            }
        }
    }

    // --- blocks ---

    /// Starts a flight. It goes on when nobody waits for it any more.
    pub(super) fn start(self: &Arc<Self>, flight: Arc<Flight>, source: &Arc<Source>, file: &Arc<LocalFile>) {
        let landing = Landing { cache: Arc::clone(self), flight, has_space: false, is_over: false };
        let (source, file) = (Arc::clone(source), Arc::clone(file));
        self.runtime.spawn(landing.fly(source, file));
    }
}

/// A whole file that may become a blob's; removed when dropped before that.
#[derive(Debug)]
pub(super) struct Draft {
    cache: Arc<Cache>,
    id: FileId,
    size: u64,
    /// Who wrote it may have it open still, and slow clients with them.
    is_foreign: bool,
    is_adopted: bool,
}

impl Draft {
    fn adopt(mut self, key: &BlobKey) {
        let cache = Arc::clone(&self.cache);
        // A store that kept the file itself has its bytes at hand anyway.
        if !cache.folder.is_ours_alone(self.id) {
            return;
        }
        let room = cache.index().reserve(self.size, 0, self.size.div_ceil(BLOCK) as u32);
        cache.evict(&room);
        if room.is_there {
            self.is_adopted = cache.index().adopt(self.id, key, self.size, self.is_foreign);
        } else {
            add(&cache.counters.unkept_bytes, self.size);
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_adopted {
            self.cache.remove(self.id);
        }
    }
}

/// A flight under way. However it ends, those who wait hear of it and its blocks are ready or absent again.
#[derive(Debug)]
struct Landing {
    cache: Arc<Cache>,
    flight: Arc<Flight>,
    has_space: bool,
    is_over: bool,
}

impl Landing {
    async fn fly(mut self, source: Arc<Source>, file: Arc<LocalFile>) {
        // Never closed.
        let Ok(_turn) = Arc::clone(&self.cache.coming).acquire_many_owned(self.flight.count()).await else { return };
        let (offset, len) = (self.flight.offset(), self.flight.len());
        add(&self.cache.counters.fetches, 1);
        match source.read(offset, len).await {
            Ok(bytes) if bytes.len() == len => {
                add(&self.cache.counters.fetched_bytes, len as u64);
                self.flight.arrive(Ok(bytes.clone()));
                blocking(move || self.keep(&file, &bytes)).await;
            }
            Ok(bytes) => self.flight.arrive(Err(source.changed(bytes.len()))),
            Err(error) => self.flight.arrive(Err(error)),
        }
    }

    /// Writes the bytes to the file, if there is room.
    fn keep(&mut self, file: &LocalFile, bytes: &Bytes) {
        let flight = &self.flight;
        let room = self.cache.index().reserve(flight.size(), flight.first(), flight.count());
        self.has_space = room.is_there;
        self.cache.evict(&room);
        if room.is_there && file.file().write_all_at(bytes, flight.offset()).is_ok() {
            self.cache.index().landed(flight);
            self.is_over = true;
            return;
        }
        add(&self.cache.counters.unkept_bytes, bytes.len() as u64);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flight.arrive(Err(stopped()));
        if !self.is_over {
            let is_useless = self.cache.index().lost(&self.flight, self.has_space);
            if is_useless {
                self.cache.remove(self.flight.id());
            }
        }
    }
}
