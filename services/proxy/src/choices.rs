//! [`choose`]: which layers of an image show their twin in the estargz view.
//!
//! A layer may only imply directories. An ordinary unpack onto the layers below leaves an existing
//! directory as it is; a client that mounts one layer alone makes it up with mode 0755, owner root.
//! Where the two differ, the layer stays original in the estargz view (design §7).

use std::collections::{HashMap, HashSet};

use api::Twin;
use estargz::{EntryType, Toc};
use tokio::sync::Semaphore;

use crate::error::RegistryError;
use crate::rewrite::Choice;
use crate::stock::Stock;

/// The largest TOC that is read here, in bytes; a larger one keeps what lies above it original.
pub(crate) const MAX_TOC: u64 = 64 << 20;

/// A parsed TOC may take several times its size in memory, so one is read at a time.
static ONE_TOC: Semaphore = Semaphore::const_new(1);

/// Where the TOCs of twins are.
pub(crate) trait Tocs: Sync {
    /// Why one could not be read.
    type Error: Send;

    /// Returns the TOC of `twin`, or `None` where it is not here or larger than [`MAX_TOC`].
    fn toc(&self, twin: &Twin) -> impl Future<Output = Result<Option<Toc>, Self::Error>> + Send;
}

/// Decides for each layer of an image, lowest first, whether its twin takes its place. `twins` has
/// `None` for a layer without one.
///
/// # Errors
/// When a TOC cannot be read.
pub(crate) async fn choose<T: Tocs>(tocs: &T, twins: &[Option<&Twin>]) -> Result<Vec<Choice>, T::Error> {
    let wanted = twins.iter().flatten().flat_map(|twin| twin.implied_dirs.iter().map(String::as_str)).collect();
    let mut implied = ImpliedDirs { tocs, layers: twins, wanted, read: HashMap::new() };
    let mut choices = Vec::with_capacity(twins.len());
    for (i, twin) in twins.iter().enumerate() {
        choices.push(match twin {
            Some(twin) if implied.fits(i, twin).await? => Choice::Twin(Box::new((*twin).clone())),
            Some(_) | None => Choice::Keep,
        });
    }
    Ok(choices)
}

/// The layers of an image, and the directories that those below some layer define.
struct ImpliedDirs<'a, T> {
    tocs: &'a T,
    layers: &'a [Option<&'a Twin>],
    /// The directories that any layer implies.
    wanted: HashSet<&'a str>,
    /// What each layer has at these paths, read when first needed: whether it is a directory, 0755 root.
    read: HashMap<usize, HashMap<String, bool>>,
}

impl<T: Tocs> ImpliedDirs<'_, T> {
    /// Tells whether every directory that `twin`, layer `i`, implies is a directory, 0755 root, in the
    /// layers below, or in none of them. A layer below without a twin hides what it defines, so the answer is no.
    async fn fits(&mut self, i: usize, twin: &Twin) -> Result<bool, T::Error> {
        if twin.implied_dirs.is_empty() {
            return Ok(true);
        }
        for below in (0..i).rev() {
            if !self.load(below).await? {
                return Ok(false);
            }
        }
        let plain = |dir: &String| {
            let nearest = (0..i).rev().find_map(|below| self.read.get(&below)?.get(dir));
            nearest.copied().unwrap_or(true)
        };
        Ok(twin.implied_dirs.iter().all(plain))
    }

    /// Reads the directories of the layer at `i`; returns whether they can be known.
    async fn load(&mut self, i: usize) -> Result<bool, T::Error> {
        if self.read.contains_key(&i) {
            return Ok(true);
        }
        let Some(twin) = self.layers[i] else { return Ok(false) };
        // Never closed; without a permit the TOC would only be read beside another.
        let _one = ONE_TOC.acquire().await.ok();
        let Some(toc) = self.tocs.toc(twin).await? else { return Ok(false) };
        self.read.insert(i, plain_dirs(&toc, &self.wanted));
        Ok(true)
    }
}

/// Returns what the layer has at the wanted paths, and whether it is a directory, 0755 root.
fn plain_dirs(toc: &Toc, wanted: &HashSet<&str>) -> HashMap<String, bool> {
    toc.entries
        .iter()
        .map(|entry| (estargz::tree::clean_path(&entry.name), entry))
        .filter(|(path, _)| wanted.contains(path.as_str()))
        .map(|(path, entry)| {
            let is_dir = entry.kind == EntryType::Dir;
            let is_plain = entry.mode & 0o7777 == 0o755 && entry.uid == 0 && entry.gid == 0 && entry.xattrs.is_empty();
            (path, is_dir && is_plain)
        })
        .collect()
}

/// The TOCs in the store.
#[derive(Debug)]
pub(crate) struct StoredTocs<'a>(pub(crate) &'a Stock);

impl Tocs for StoredTocs<'_> {
    type Error = RegistryError;

    async fn toc(&self, twin: &Twin) -> Result<Option<Toc>, RegistryError> {
        if twin.toc_size > MAX_TOC {
            return Ok(None);
        }
        // A twin that counts has a TOC. One that was lost comes back; to decide without it would be for ever.
        let json = self.0.toc(&twin.toc_digest).await?.ok_or_else(RegistryError::lost)?;
        let toc = telemetry::blocking(move || Toc::parse(&json).map_err(|error| RegistryError::internal(&error)));
        toc.await.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use api::{Digest, TarTail};
    use estargz::TocEntry;

    use super::*;

    /// TOCs by the twin's size.
    struct Made(HashMap<u64, Toc>);

    impl Tocs for Made {
        type Error = std::convert::Infallible;

        async fn toc(&self, twin: &Twin) -> Result<Option<Toc>, Self::Error> {
            Ok(self.0.get(&twin.size).cloned())
        }
    }

    fn twin(number: u64, implied: &[&str]) -> Twin {
        Twin {
            digest: Digest::of(&number.to_le_bytes()),
            size: number,
            diff_id: Digest::of(b"d"),
            plain_size: 1,
            toc_digest: Digest::of(b"t"),
            toc_size: 1,
            source_diff_id: Digest::of(b"s"),
            source_plain_size: 1,
            tail: TarTail::Zeros(1024),
            implied_dirs: implied.iter().map(ToString::to_string).collect(),
        }
    }

    fn dirs(entries: &[(&str, i64)]) -> Toc {
        let entry = |(name, mode): &(&str, i64)| TocEntry { mode: *mode, ..TocEntry::new(*name, EntryType::Dir) };
        Toc { version: 1, entries: entries.iter().map(entry).collect() }
    }

    #[tokio::test]
    async fn a_layer_stays_where_it_implies_directories_that_are_links_below() {
        let kinds = [EntryType::Symlink, EntryType::Reg, EntryType::Hardlink, EntryType::Fifo];
        for kind in kinds {
            let entry = TocEntry { mode: 0o755, ..TocEntry::new("lib", kind) };
            let base = Toc { version: 1, entries: vec![entry] };
            let tocs = Made(HashMap::from([(1, base), (2, dirs(&[]))]));
            let (base, over_lib, over_usr) = (twin(1, &[]), twin(2, &["", "lib"]), twin(2, &["", "usr"]));
            for (over, is_twin) in [(over_lib, false), (over_usr, true)] {
                let choices = choose(&tocs, &[Some(&base), Some(&over)]).await.unwrap();
                assert_eq!(matches!(choices[1], Choice::Twin(_)), is_twin, "{kind:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_layer_stays_where_it_implies_directories_that_are_otherwise_below() {
        let tocs = Made(HashMap::from([(1, dirs(&[("tmp/", 0o1777), ("usr/", 0o755)])), (2, dirs(&[]))]));
        let (base, over_tmp, over_usr) = (twin(1, &[]), twin(2, &["tmp"]), twin(2, &["usr", "new"]));
        let shown = async |layers: &[Option<&Twin>]| -> Vec<bool> {
            let choices = choose(&tocs, layers).await.unwrap();
            choices.iter().map(|choice| matches!(choice, Choice::Twin(_))).collect()
        };
        assert_eq!(shown(&[Some(&base), Some(&over_tmp)]).await, [true, false]);
        assert_eq!(shown(&[Some(&base), Some(&over_usr)]).await, [true, true]);
        // The lowest layer has nothing below; above a layer without a twin nothing is known.
        assert_eq!(shown(&[Some(&over_tmp)]).await, [true]);
        assert_eq!(shown(&[None, Some(&over_usr), Some(&base)]).await, [false, false, true]);
    }
}
