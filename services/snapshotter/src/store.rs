//! [`Store`]: the rows of all snapshots, in an embedded database that survives a crash at any moment.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use api::Digest;
use redb::{
    Database, MultimapTableDefinition, ReadableDatabase, ReadableMultimapTable, ReadableTable, TableDefinition,
};
use serde::{Deserialize, Serialize};

use crate::folders::Place;
use crate::layers::Origin;
use crate::{Info, Kind, Labels, Moment, SnapshotError, Usage};

/// By name, a [`Row`] as JSON.
const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
/// By name, the names of what stands on it.
const CHILDREN: MultimapTableDefinition<'_, &str, &str> = MultimapTableDefinition::new("children");
/// The id of the next snapshot.
const NEXT_ID: TableDefinition<'_, (), u64> = TableDefinition::new("next_id");
/// Ids go on from the seconds since then (2026), also in a database that is new, or a copy of an earlier one: mounts that outlived the
/// one before know its snapshots by theirs.
const IDS_SINCE: i64 = 1_767_225_600;
/// Where the clock is no help. Inode numbers have room for twice as many.
const LAST_BY_CLOCK: u64 = 1 << 31;

/// The rows of all snapshots.
#[derive(Debug)]
pub struct Store {
    database: Database,
    /// The damaged rows that were told of.
    told: Mutex<HashSet<String>>,
}

/// Why the database failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It failed.
    #[error(transparent)]
    Database(Box<redb::Error>),
    /// A row of it cannot be read.
    #[error("the row of snapshot {name:?} is damaged")]
    Row {
        /// The snapshot.
        name: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// What is kept of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Names its folder.
    pub(crate) id: u64,
    pub(crate) parent: Option<String>,
    pub(crate) kind: Kind,
    created_at: Moment,
    updated_at: Moment,
    labels: Labels,
    /// Of a committed one, which does not change any more.
    #[serde(default)]
    pub(crate) usage: Option<Usage>,
    /// Of a lazy one: where its bytes come from. It has no folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Origin>,
    /// Of a layer of an image that is not lazy: why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ordinary: Option<Ordinary>,
}

/// Why a layer of an image is not lazy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ordinary {
    /// Registry and repository.
    pub(crate) image: String,
    pub(crate) layer: Digest,
    /// A word of a closed set.
    pub(crate) reason: String,
    /// For people.
    pub(crate) detail: String,
}

/// A name, and its row if that can be read.
type Found = (String, Result<Row, StoreError>);

/// What a layer's row says beside what containerd knows.
struct Details {
    origin: Option<Origin>,
    ordinary: Option<Ordinary>,
}

/// One of the snapshots that another one stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) id: u64,
    pub(crate) place: Place,
}

impl From<&Row> for Parent {
    fn from(row: &Row) -> Self {
        let place = match &row.origin {
            None => Place::Unpacked,
            Some(origin) if origin.is_bare => Place::Bare,
            Some(_) => Place::Lazy,
        };
        Self { id: row.id, place }
    }
}

/// A snapshot and what it stands on.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    pub(crate) row: Row,
    /// What it stands on, the nearest first.
    pub(crate) parents: Vec<Parent>,
}

fn database(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database(Box::new(error.into()))
}

fn decode(name: &str, bytes: &[u8]) -> Result<Row, StoreError> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Row { name: name.to_owned(), source })
}

impl Row {
    pub(crate) fn info(self, name: &str) -> Info {
        let Self { parent, kind, created_at, updated_at, labels, .. } = self;
        Info { name: name.to_owned(), parent, kind, created_at, updated_at, labels }
    }
}

/// A transaction that writes. Only one runs at a time; dropped, it changes nothing.
struct Change(redb::WriteTransaction);

impl Change {
    fn get(&self, name: &str) -> Result<Option<Row>, SnapshotError> {
        let rows = self.0.open_table(SNAPSHOTS).map_err(database)?;
        let found = rows.get(name).map_err(database)?;
        Ok(found.map(|row| decode(name, row.value())).transpose()?)
    }

    fn put(&self, name: &str, row: &Row) -> Result<(), SnapshotError> {
        let source = |source| StoreError::Row { name: name.to_owned(), source };
        let bytes = serde_json::to_vec(row).map_err(source)?;
        self.0.open_table(SNAPSHOTS).map_err(database)?.insert(name, bytes.as_slice()).map_err(database)?;
        Ok(())
    }

    fn take(&self, name: &str) -> Result<(), SnapshotError> {
        self.0.open_table(SNAPSHOTS).map_err(database)?.remove(name).map_err(database)?;
        Ok(())
    }

    fn next_id(&self) -> Result<u64, SnapshotError> {
        let mut table = self.0.open_table(NEXT_ID).map_err(database)?;
        let next = table.get(()).map_err(database)?.map_or(1, |id| id.value());
        let id = next.max(Moment::now().seconds_since(IDS_SINCE).min(LAST_BY_CLOCK));
        table.insert((), id + 1).map_err(database)?;
        Ok(id)
    }

    fn adopt(&self, parent: &str, child: &str) -> Result<(), SnapshotError> {
        self.0.open_multimap_table(CHILDREN).map_err(database)?.insert(parent, child).map_err(database)?;
        Ok(())
    }

    fn orphan(&self, parent: &str, child: &str) -> Result<(), SnapshotError> {
        self.0.open_multimap_table(CHILDREN).map_err(database)?.remove(parent, child).map_err(database)?;
        Ok(())
    }

    fn first_child(&self, name: &str) -> Result<Option<String>, SnapshotError> {
        let table = self.0.open_multimap_table(CHILDREN).map_err(database)?;
        let first = table.get(name).map_err(database)?.next().transpose().map_err(database)?;
        Ok(first.map(|child| child.value().to_owned()))
    }

    fn commit(self) -> Result<(), SnapshotError> {
        Ok(self.0.commit().map_err(database)?)
    }
}

impl Store {
    /// Opens the database at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be opened, such as because another process has it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let store = Self { database: Database::create(path).map_err(database)?, told: Mutex::default() };
        let read = store.database.begin_read().map_err(database)?;
        if read.open_table(SNAPSHOTS).is_ok() && read.open_multimap_table(CHILDREN).is_ok() {
            // Nothing is written: the disk may be full.
            return Ok(store);
        }
        // Whoever only reads wants the tables to be there.
        let begin = store.database.begin_write().map_err(database)?;
        begin.open_table(SNAPSHOTS).map_err(database)?;
        begin.open_multimap_table(CHILDREN).map_err(database)?;
        begin.commit().map_err(database)?;
        Ok(store)
    }

    /// Tells whether the database takes no more changes until it is opened anew, because the disk failed or was full.
    pub(crate) fn is_broken(&self) -> bool {
        let begun = self.database.begin_write().map_err(redb::Error::from);
        matches!(begun, Err(redb::Error::PreviousIo | redb::Error::Io(_)))
    }

    fn change(&self) -> Result<Change, SnapshotError> {
        Ok(Change(self.database.begin_write().map_err(database)?))
    }

    /// Records a snapshot and returns it; `make` makes its folder first.
    pub(crate) fn create(
        &self,
        name: &str,
        kind: Kind,
        parent: Option<&str>,
        labels: Labels,
        ordinary: Option<Ordinary>,
        make: impl FnOnce(u64) -> Result<(), SnapshotError>,
    ) -> Result<Chain, SnapshotError> {
        self.insert(name, kind, parent, labels, Details { origin: None, ordinary }, make)
    }

    /// Records a snapshot that is committed at once and whose bytes come from elsewhere.
    pub(crate) fn create_lazy(
        &self,
        name: &str,
        parent: Option<&str>,
        labels: Labels,
        origin: Origin,
    ) -> Result<Chain, SnapshotError> {
        let details = Details { origin: Some(origin), ordinary: None };
        self.insert(name, Kind::Committed, parent, labels, details, |_| Ok(()))
    }

    fn insert(
        &self,
        name: &str,
        kind: Kind,
        parent: Option<&str>,
        labels: Labels,
        details: Details,
        make: impl FnOnce(u64) -> Result<(), SnapshotError>,
    ) -> Result<Chain, SnapshotError> {
        let change = self.change()?;
        let mut parents = Vec::new();
        if let Some(parent) = parent {
            let row = change.get(parent)?.ok_or_else(|| SnapshotError::NotFound { name: parent.to_owned() })?;
            if row.kind != Kind::Committed {
                return Err(SnapshotError::Parent { name: parent.to_owned(), kind: row.kind });
            }
            change.adopt(parent, name)?;
            parents.push(Parent::from(&row));
            parents.extend(parents_of(&row, |name| change.get(name))?);
        }
        if change.get(name)?.is_some() {
            return Err(SnapshotError::Exists { name: name.to_owned() });
        }
        let (id, now) = (change.next_id()?, Moment::now());
        let parent = parent.map(str::to_owned);
        let Details { origin, ordinary } = details;
        let row = Row { id, parent, kind, created_at: now, updated_at: now, labels, usage: None, origin, ordinary };
        change.put(name, &row)?;
        make(id)?;
        change.commit()?;
        Ok(Chain { row, parents })
    }

    /// Turns the active snapshot `key` into a committed one, `name`, with these labels and no others.
    pub(crate) fn commit(&self, name: &str, key: &str, labels: Labels, usage: Usage) -> Result<(), SnapshotError> {
        let change = self.change()?;
        let before = change.get(key)?.ok_or_else(|| SnapshotError::NotFound { name: key.to_owned() })?;
        if before.kind != Kind::Active {
            return Err(SnapshotError::Kind { name: key.to_owned(), kind: before.kind, done: "committed" });
        }
        if change.get(name)?.is_some() {
            return Err(SnapshotError::Exists { name: name.to_owned() });
        }
        let now = Moment::now();
        let usage = Some(usage);
        let row = Row { kind: Kind::Committed, created_at: now, updated_at: now, labels, usage, ..before };
        change.take(key)?;
        change.put(name, &row)?;
        if let Some(parent) = &row.parent {
            change.orphan(parent, key)?;
            change.adopt(parent, name)?;
        }
        change.commit()
    }

    /// Removes a snapshot that nothing stands on, and returns it.
    pub(crate) fn remove(&self, name: &str) -> Result<Row, SnapshotError> {
        let change = self.change()?;
        let row = change.get(name)?.ok_or_else(|| SnapshotError::NotFound { name: name.to_owned() })?;
        if let Some(child) = change.first_child(name)? {
            return Err(SnapshotError::HasChild { name: name.to_owned(), child });
        }
        if let Some(parent) = &row.parent {
            change.orphan(parent, name)?;
        }
        change.take(name)?;
        change.commit()?;
        Ok(row)
    }

    /// Changes the labels of a snapshot, and returns it.
    pub(crate) fn relabel(&self, name: &str, alter: impl FnOnce(&mut Labels)) -> Result<Row, SnapshotError> {
        let change = self.change()?;
        let mut row = change.get(name)?.ok_or_else(|| SnapshotError::NotFound { name: name.to_owned() })?;
        alter(&mut row.labels);
        row.updated_at = Moment::now();
        change.put(name, &row)?;
        change.commit()?;
        Ok(row)
    }

    /// Returns a snapshot and what it stands on.
    pub(crate) fn chain(&self, name: &str) -> Result<Chain, SnapshotError> {
        let read = self.database.begin_read().map_err(database)?;
        let rows = read.open_table(SNAPSHOTS).map_err(database)?;
        let get = |name: &str| {
            let found = rows.get(name).map_err(database)?;
            Ok(found.map(|row| decode(name, row.value())).transpose()?)
        };
        let row = get(name)?.ok_or_else(|| SnapshotError::NotFound { name: name.to_owned() })?;
        let parents = parents_of(&row, get)?;
        Ok(Chain { row, parents })
    }

    /// Returns a snapshot by its id, and what it stands on.
    pub(crate) fn chain_by_id(&self, id: u64) -> Result<Option<Chain>, SnapshotError> {
        let found = self.all()?.into_iter().find(|(_, row)| row.id == id);
        found.map(|(name, _)| self.chain(&name)).transpose()
    }

    /// Returns all snapshots, by name. One whose row is damaged is not among them: it does not stop the others.
    pub(crate) fn all(&self) -> Result<Vec<(String, Row)>, SnapshotError> {
        let told = |(name, row): Found| match row {
            Ok(row) => Some((name, row)),
            Err(error) => {
                if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
                    tracing::error!(error = &error as &dyn std::error::Error, "a snapshot is passed over");
                }
                None
            }
        };
        Ok(self.rows()?.into_iter().filter_map(told).collect())
    }

    fn rows(&self) -> Result<Vec<Found>, SnapshotError> {
        let read = self.database.begin_read().map_err(database)?;
        let rows = read.open_table(SNAPSHOTS).map_err(database)?;
        let mut all = Vec::new();
        for row in rows.iter().map_err(database)? {
            let (name, row) = row.map_err(database)?;
            all.push((name.value().to_owned(), decode(name.value(), row.value())));
        }
        Ok(all)
    }

    /// Calls `sweep` with all snapshots, while none is made; not where a row is damaged, which may say that something is to stay.
    pub(crate) fn with_all(
        &self,
        sweep: impl FnOnce(&[Row]) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let _none_is_made = self.change()?;
        let rows = self.rows()?.into_iter().map(|(_, row)| row);
        sweep(&rows.collect::<Result<Vec<_>, _>>()?)
    }
}

/// Returns what `row` stands on, the nearest first.
fn parents_of(
    row: &Row,
    get: impl Fn(&str) -> Result<Option<Row>, SnapshotError>,
) -> Result<Vec<Parent>, SnapshotError> {
    let mut parents = Vec::new();
    let mut next = row.parent.clone();
    while let Some(name) = next {
        let parent = get(&name)?.ok_or(SnapshotError::NotFound { name })?;
        parents.push(Parent::from(&parent));
        next = parent.parent;
    }
    Ok(parents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(folder: &Path, names: &[&str]) -> Vec<u64> {
        let store = Store::open(&folder.join("metadata.db")).unwrap();
        let make = |name: &&str| store.create(name, Kind::Active, None, Labels::default(), None, |_| Ok(()));
        names.iter().map(|name| make(name).unwrap().row.id).collect()
    }

    /// It is passed over, and nothing is swept that it may know of.
    #[test]
    fn a_damaged_row_stops_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("metadata.db")).unwrap();
        for name in ["a", "b", "c"] {
            store.create(name, Kind::Active, None, Labels::default(), None, |_| Ok(())).unwrap();
        }
        let change = store.change().unwrap();
        change.0.open_table(SNAPSHOTS).unwrap().insert("b", b"{".as_slice()).unwrap();
        change.commit().unwrap();
        let names: Vec<String> = store.all().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "c"]);
        let told = crate::error::with_causes(&store.chain("b").unwrap_err());
        assert!(told.contains("\"b\" is damaged"), "{told}");
        assert!(store.with_all(|_| panic!("swept")).is_err());
    }

    #[test]
    fn ids_go_on_in_a_new_database() {
        let folder = tempfile::tempdir().unwrap();
        let before = Moment::now().seconds_since(IDS_SINCE);
        let first = ids(folder.path(), &["a", "b"]);
        assert!(first[0] >= before && first[1] > first[0], "{first:?}");
        let again = ids(folder.path(), &["c"]);
        assert!(again[0] > first[1], "{again:?}");
    }
}
