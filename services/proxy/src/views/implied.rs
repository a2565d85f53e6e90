//! [`ImpliedDirs`]: whether the directories that a layer only implies look the same in a stock
//! lazy client's tree as after an ordinary unpack.
//!
//! An ordinary unpack onto the layers below leaves an existing directory as it is; a client that
//! mounts one layer alone makes it up with mode 0755, owner root. Where the two differ, the layer
//! stays original in the estargz view (design §7).

use std::collections::HashMap;
use std::sync::Arc;

use api::Twin;
use blobstore::{BlobKey, BlobStore};
use catalog::{Catalog, TwinState};
use estargz::{EntryType, Toc};

use crate::error::RegistryError;

/// The largest TOC that is read here, in bytes; a larger one keeps what lies above it original.
const MAX_TOC: u64 = 256 << 20;

/// The layers below, and the directories they define otherwise than 0755 root.
pub(super) struct ImpliedDirs<'a> {
    catalog: &'a Catalog,
    store: &'a Arc<dyn BlobStore>,
    profile: &'a str,
    /// The twins below, lowest first; `None` for a layer that has none.
    below: Vec<Option<Box<Twin>>>,
    /// The directories of each layer below, read when first needed: whether each is 0755 root.
    read: HashMap<usize, HashMap<String, bool>>,
}

impl<'a> ImpliedDirs<'a> {
    pub(super) fn new(catalog: &'a Catalog, store: &'a Arc<dyn BlobStore>, profile: &'a str) -> Self {
        Self { catalog, store, profile, below: Vec::new(), read: HashMap::new() }
    }

    /// Adds the next layer.
    pub(super) fn add(&mut self, twin: Option<&Twin>) {
        self.below.push(twin.map(|twin| Box::new(twin.clone())));
    }

    /// Tells whether every directory that `twin` implies is 0755 root in the layers below, or in none
    /// of them. A layer below without a twin hides what it defines, so the answer is no.
    pub(super) async fn fits(&mut self, twin: &Twin) -> Result<bool, RegistryError> {
        if twin.implied_dirs.is_empty() || self.below.is_empty() {
            return Ok(true);
        }
        for i in (0..self.below.len()).rev() {
            if !self.load(i).await? {
                return Ok(false);
            }
        }
        let plain = |dir: &String| {
            let nearest = (0..self.below.len()).rev().find_map(|i| self.read.get(&i)?.get(dir));
            nearest.copied().unwrap_or(true)
        };
        Ok(twin.implied_dirs.iter().all(plain))
    }

    /// Reads the directories of the layer at `i`; returns whether they can be known.
    async fn load(&mut self, i: usize) -> Result<bool, RegistryError> {
        if self.read.contains_key(&i) {
            return Ok(true);
        }
        let Some(twin) = &self.below[i] else { return Ok(false) };
        if twin.toc_size > MAX_TOC {
            return Ok(false);
        }
        let Some(source) = self.catalog.source_of_twin(&twin.digest).await? else { return Ok(false) };
        let row = self.catalog.twin(&source, self.profile).await?;
        let Some(TwinState::Ready { toc_key, .. }) = row.map(|row| row.state) else { return Ok(false) };
        let dirs = self.read_dirs(&toc_key).await?;
        self.read.insert(i, dirs);
        Ok(true)
    }

    async fn read_dirs(&self, toc_key: &str) -> Result<HashMap<String, bool>, RegistryError> {
        let key: BlobKey = toc_key.parse().map_err(|error: blobstore::KeyError| RegistryError::internal(&error))?;
        let blob = self.store.open(&key).await.map_err(|error| RegistryError::internal(&error))?;
        let dirs = telemetry::blocking(move || {
            let mut json = vec![0; usize::try_from(blob.size()).unwrap_or(usize::MAX)];
            blob.read_blocking(&mut json, 0).map_err(|error| RegistryError::internal(&error))?;
            Toc::parse(&json).map(|toc| dirs_of(&toc)).map_err(|error| RegistryError::internal(&error))
        });
        dirs.await
    }
}

fn dirs_of(toc: &Toc) -> HashMap<String, bool> {
    toc.entries
        .iter()
        .filter(|entry| entry.kind == EntryType::Dir)
        .map(|entry| {
            let plain = entry.mode & 0o7777 == 0o755 && entry.uid == 0 && entry.gid == 0 && entry.xattrs.is_empty();
            (estargz::tree::clean_path(&entry.name), plain)
        })
        .collect()
}
