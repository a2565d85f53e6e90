//! [`Snapshots`]: all of a node's snapshots, each a row and a folder.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use crate::folders::{Folders, Place, Root};
use crate::layer::{Layer, Proof};
use crate::layers::{Layers, Origin};
use crate::mount::{Mount, Overlay, Stack};
use crate::mounted::{Below, MOST_LAYERS, Mounted};
use crate::status::{self, LayerStatus, Mode, Status};
use crate::store::{Chain, Ordinary, Parent};
use crate::{Filter, Info, Kind, Labels, SnapshotError, Store, Usage, usage};

/// The snapshots below one folder. Every call is whole or changes nothing, wherever the process dies; every call may block.
#[derive(Debug)]
pub struct Snapshots {
    store: Store,
    folders: Folders,
    layers: Arc<Layers>,
    /// The lazy snapshots that were looked into, by id.
    mounted: RwLock<HashMap<u64, Arc<Mounted>>>,
}

/// What a call changes of the labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelsUpdate {
    /// All of them become these.
    All(Labels),
    /// Each of these gets this value, or goes.
    Some(Vec<(String, Option<String>)>),
}

impl Snapshots {
    /// How the names of snapshots begin that containerd is not to see, layers that are unpacked here. No namespace begins so.
    pub(crate) const PRIVATE: &str = "/unpacking/";

    /// Opens the snapshots below `root`, and removes what a process that died left of calls it did not end.
    ///
    /// # Errors
    /// The folder or the database in it cannot be used.
    pub(crate) fn open(root: &Path, layers: Arc<Layers>) -> Result<Self, SnapshotError> {
        let folders = Folders::open(root)?;
        let store = Store::open(&root.join("metadata.redb"))?;
        let snapshots = Self { store, folders, layers, mounted: RwLock::default() };
        for (name, _) in snapshots.store.all()? {
            if name.starts_with(Self::PRIVATE)
                && let Err(error) = snapshots.remove(&name)
            {
                tracing::warn!(error = &error as &dyn std::error::Error, "a layer that was being unpacked stays");
            }
        }
        if let Err(error) = snapshots.cleanup() {
            tracing::warn!(error = &error as &dyn std::error::Error, "what is left of broken calls stays on the disk");
        }
        Ok(snapshots)
    }

    /// Begins an active snapshot on `parent`, which is empty at first where there is none; `why` a layer is to be unpacked in it.
    ///
    /// # Errors
    /// [`SnapshotError::Exists`], [`SnapshotError::NotFound`] and [`SnapshotError::Parent`] of the parent; or what failed.
    pub(crate) fn prepare(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
        why: Option<Ordinary>,
    ) -> Result<Mount, SnapshotError> {
        self.create(Kind::Active, key, parent, labels, why)
    }

    /// Tells whether nothing can be changed any more until all is opened anew.
    pub(crate) fn is_broken(&self) -> bool {
        self.store.is_broken()
    }

    /// Returns how far every image is.
    ///
    /// # Errors
    /// What failed.
    pub(crate) fn status(&self) -> Result<Status, SnapshotError> {
        let mut rows: Vec<_> = self.store.all()?.into_iter().map(|(_, row)| row).collect();
        rows.sort_by_key(|row| row.id);
        let layers = rows.into_iter().filter_map(|row| match (row.origin, row.ordinary) {
            (Some(origin), _) => {
                let (resident_bytes, bytes, proof) = match self.layers.get(&origin) {
                    Ok(layer) => (layer.resident(), layer.tree.data_size(), layer.proof(&origin.expected)),
                    Err(_) => (0, 0, Proof::Pending),
                };
                let mode = Mode::Lazy { resident_bytes, bytes, proof };
                let image = format!("{}/{}", origin.host, origin.repository);
                Some((image, LayerStatus { layer: origin.layer.to_string(), mode }))
            }
            (None, Some(Ordinary { image, layer, reason, detail })) => {
                Some((image, LayerStatus { layer: layer.to_string(), mode: Mode::Ordinary { reason, detail } }))
            }
            (None, None) => None,
        });
        Ok(Status { images: status::by_image(layers), reads: self.layers.reads() })
    }

    /// Begins a view of `parent`.
    ///
    /// # Errors
    /// [`SnapshotError::Exists`], [`SnapshotError::NotFound`] and [`SnapshotError::Parent`] of the parent; or what failed.
    pub fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Mount, SnapshotError> {
        self.create(Kind::View, key, parent, labels, None)
    }

    fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
        ordinary: Option<Ordinary>,
    ) -> Result<Mount, SnapshotError> {
        if key.is_empty() {
            return Err(SnapshotError::NoName);
        }
        // Outside the transaction: a layer may have to be opened for it.
        let like = match parent {
            Some(parent) => Some(self.root_of(Parent::from(&self.store.chain(parent)?.row))?),
            None => None,
        };
        let make = |id| self.folders.make(id, like);
        let chain = self.store.create(key, kind, parent, labels, ordinary, make)?;
        Ok(self.mount_of(&chain))
    }

    /// Returns the mount of a snapshot that is active or a view.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`]; [`SnapshotError::Kind`] of a committed one; or what failed.
    pub fn mounts(&self, key: &str) -> Result<Mount, SnapshotError> {
        let chain = self.store.chain(key)?;
        match chain.row.kind {
            Kind::Active | Kind::View => Ok(self.mount_of(&chain)),
            kind @ Kind::Committed => Err(SnapshotError::Kind { name: key.to_owned(), kind, done: "mounted" }),
        }
    }

    fn mount_of(&self, chain: &Chain) -> Mount {
        let id = chain.row.id;
        let parents: Vec<Parent> = uppermost(&chain.parents).copied().collect();
        let places = || parents.iter().map(|parent| parent.place);
        // Of one file system of ours only: overlayfs could not tell two of them apart, for they have no UUID.
        let all_in_one = places().any(|place| place == Place::Lazy);
        let shown = |parent: &Parent| match parent.place {
            Place::Bare if all_in_one => self.folders.shown(parent.id, Place::Lazy),
            place => self.folders.shown(parent.id, place),
        };
        let mut lower: Vec<PathBuf> = parents.iter().map(shown).collect();
        let is_lazy = places().any(|place| place != Place::Unpacked);
        let (fs, work) = (self.folders.fs(id), self.folders.work(id));
        let upper = (chain.row.kind != Kind::View).then_some((&*fs, &*work));
        if upper.is_none() && lower.is_empty() {
            // A view of nothing shows its own folder, which stays empty.
            lower.push(fs.clone());
        }
        Overlay::of_kernel().mount(&Stack { upper, lower: &lower, is_lazy })
    }

    /// Turns the active snapshot `key` into the committed one `name`, with `labels` and none that it had.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`] and [`SnapshotError::Kind`] of `key`, [`SnapshotError::Exists`] of `name`; or what failed.
    pub fn commit(&self, name: &str, key: &str, labels: Labels) -> Result<(), SnapshotError> {
        if name.is_empty() {
            return Err(SnapshotError::NoName);
        }
        let row = self.store.chain(key)?.row;
        // Outside the transaction: it may take its time, and others write meanwhile.
        let usage = self.measure(row.id)?;
        self.store.commit(name, key, labels, usage)
    }

    /// Removes a snapshot that nothing stands on.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::HasChild`]; or what failed.
    pub fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        let row = self.store.remove(key)?;
        self.mounted_mut().remove(&row.id);
        // It is gone; what is left of its folder or its layer is nobody's.
        let removed = match row.origin {
            Some(_) => self.sweep_layers(),
            None => self.folders.remove(row.id),
        };
        if let Err(error) = removed {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(snapshot = key, error, "the folder of a removed snapshot stays until the next cleanup");
        }
        Ok(())
    }

    /// Returns what is known of a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`]; or what failed.
    pub fn stat(&self, key: &str) -> Result<Info, SnapshotError> {
        Ok(self.store.chain(key)?.row.info(key))
    }

    /// Changes the labels of a snapshot, and returns what is known of it.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`]; or what failed.
    pub fn update(&self, key: &str, update: LabelsUpdate) -> Result<Info, SnapshotError> {
        let row = self.store.relabel(key, |labels| match update {
            LabelsUpdate::All(all) => *labels = all,
            LabelsUpdate::Some(some) => {
                for (label, value) in some {
                    match value {
                        Some(value) => drop(labels.insert(label, value)),
                        None => drop(labels.remove(&label)),
                    }
                }
            }
        })?;
        Ok(row.info(key))
    }

    /// Returns the snapshots for which one of `filters` holds, by name; all where there is none.
    ///
    /// # Errors
    /// What failed.
    pub fn list(&self, filters: &[Filter]) -> Result<Vec<Info>, SnapshotError> {
        let all = self.store.all()?.into_iter().filter(|(name, _)| !name.starts_with(Self::PRIVATE));
        let all = all.map(|(name, row)| row.info(&name));
        Ok(all.filter(|info| filters.is_empty() || filters.iter().any(|filter| filter.holds(info))).collect())
    }

    /// Returns what a snapshot takes of the disk, without what it stands on.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`]; or what failed.
    pub fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        let row = self.store.chain(key)?.row;
        match (row.usage, &row.origin) {
            (Some(usage), _) => Ok(usage),
            (None, None) => self.measure(row.id),
            (None, Some(origin)) => self.layers.usage(origin),
        }
    }

    fn measure(&self, id: u64) -> Result<Usage, SnapshotError> {
        let folder = self.folders.fs(id);
        usage::measure(&folder).map_err(|error| SnapshotError::io("measure", &folder, error))
    }

    /// Removes the folders that belong to no snapshot.
    ///
    /// # Errors
    /// What failed.
    pub fn cleanup(&self) -> Result<(), SnapshotError> {
        self.store.with_all(|rows| self.folders.sweep(&rows.iter().map(|row| row.id).collect()))?;
        self.sweep_layers()
    }

    /// Removes the layers that no snapshot has.
    ///
    /// # Errors
    /// What failed.
    pub(crate) fn sweep_layers(&self) -> Result<(), SnapshotError> {
        self.store.with_all(|rows| {
            let keys = rows.iter().filter_map(|row| Some(row.origin.as_ref()?.key()));
            self.layers.sweep(&keys.collect())
        })
    }

    // --- lazy ones

    /// Commits a snapshot whose bytes come from elsewhere; `layer` is its layer.
    ///
    /// # Errors
    /// As for [`Self::prepare`].
    pub(crate) fn add_lazy(
        &self,
        name: &str,
        parent: Option<&str>,
        labels: Labels,
        origin: Origin,
        layer: Arc<Layer>,
    ) -> Result<(), SnapshotError> {
        let mut parents = Vec::new();
        if let Some(parent) = parent {
            let chain = self.store.chain(parent)?;
            parents.push(Parent::from(&chain.row));
            parents.extend(chain.parents);
        }
        let mounted = self.laid_over(layer, &origin, &parents)?;
        let origin = Origin { is_bare: !mounted.has_xattrs(), ..origin };
        let id = self.store.create_lazy(name, parent, labels, origin)?.row.id;
        self.mounted_mut().insert(id, Arc::new(mounted.of(id)));
        Ok(())
    }

    /// Returns a layer as it is to be shown over others, the nearest first.
    fn laid_over(&self, layer: Arc<Layer>, origin: &Origin, parents: &[Parent]) -> Result<Mounted, SnapshotError> {
        let folders: Vec<PathBuf> = parents.iter().map(|parent| self.folders.fs(parent.id)).collect();
        let below = parents.iter().zip(&folders).map(|(parent, folder)| match parent.place {
            Place::Unpacked => Ok(Below::Unpacked(folder)),
            Place::Lazy | Place::Bare => Ok(Below::Lazy(self.mounted(parent.id)?)),
        });
        let below = below.collect::<Result<Vec<_>, SnapshotError>>()?;
        let mounted = Mounted::new(layer, &origin.expected, &below);
        mounted.map_err(|error| SnapshotError::io("look below a layer in", self.folders.root(), error))
    }

    /// Tells whether a lazy snapshot's layer was found to be another one than its image says.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`]; or what failed.
    pub(crate) fn is_refused(&self, key: &str) -> Result<bool, SnapshotError> {
        let Some(origin) = self.store.chain(key)?.row.origin else { return Ok(false) };
        let layer = self.layers.get(&origin).map_err(|source| SnapshotError::layer(key, source))?;
        Ok(layer.proof(&origin.expected) == Proof::Refused)
    }

    fn mounted_mut(&self) -> RwLockWriteGuard<'_, HashMap<u64, Arc<Mounted>>> {
        self.mounted.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a lazy snapshot that was looked into before.
    pub(crate) fn mounted_now(&self, id: u64) -> Option<Arc<Mounted>> {
        self.mounted.read().unwrap_or_else(PoisonError::into_inner).get(&id).map(Arc::clone)
    }

    /// Returns a lazy snapshot as it is to be shown. May take its time.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`]; or what failed.
    pub(crate) fn mounted(&self, id: u64) -> Result<Arc<Mounted>, SnapshotError> {
        if let Some(mounted) = self.mounted_now(id) {
            return Ok(mounted);
        }
        let none = || SnapshotError::NotFound { name: id.to_string() };
        let chain = self.store.chain_by_id(id)?.ok_or_else(none)?;
        let origin = chain.row.origin.as_ref().ok_or_else(none)?;
        let layer = self.layers.get(origin).map_err(|source| SnapshotError::layer(&id.to_string(), source))?;
        let mounted = Arc::new(self.laid_over(layer, origin, &chain.parents)?.of(id));
        // Of two who look into it at once one is used.
        Ok(Arc::clone(self.mounted_mut().entry(id).or_insert(mounted)))
    }

    /// Returns the snapshots that show a layer for the same tar, of their own or of those below.
    ///
    /// # Errors
    /// What failed.
    pub(crate) fn showing(&self, origin: &Origin) -> Result<Vec<Arc<Mounted>>, SnapshotError> {
        let is_same = |other: &Origin| other.key() == origin.key() && other.expected == origin.expected;
        let (mut same, mut lazy) = (HashSet::new(), Vec::new());
        for (_, row) in self.store.all()? {
            let Some(origin) = &row.origin else { continue };
            if is_same(origin) {
                same.insert(row.id);
            }
            lazy.push(row.id);
        }
        // The kernel may know what an earlier process showed.
        let mounted = lazy.into_iter().filter_map(|id| self.mounted(id).ok());
        Ok(mounted.filter(|mounted| mounted.layers().any(|layer| same.contains(&layer.id()))).collect())
    }

    /// Returns where the bytes of all lazy snapshots come from, the oldest first.
    ///
    /// # Errors
    /// What failed.
    pub(crate) fn origins(&self) -> Result<Vec<Origin>, SnapshotError> {
        let mut rows: Vec<_> = self.store.all()?.into_iter().map(|(_, row)| row).collect();
        rows.sort_by_key(|row| row.id);
        Ok(rows.into_iter().filter_map(|row| row.origin).collect())
    }

    fn root_of(&self, parent: Parent) -> Result<Root, SnapshotError> {
        if parent.place == Place::Unpacked {
            return self.folders.root_of(parent.id);
        }
        let root = self.mounted(parent.id)?.root();
        Ok(Root { mode: root.mode & 0o7777, uid: root.uid, gid: root.gid })
    }
}

/// Returns those of a snapshot's parents, the nearest first, that are seen: of lazy ones on each other the uppermost, which shows
/// the others, too.
fn uppermost(parents: &[Parent]) -> impl Iterator<Item = &Parent> {
    let mut shown = 0;
    parents.iter().filter(move |parent| {
        shown = if parent.place == Place::Unpacked { 0 } else { shown % MOST_LAYERS + 1 };
        shown <= 1
    })
}
