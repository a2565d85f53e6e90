//! [`Unit`]: what is evicted together: a source layer, its twins and their TOCs; of other blobs each alone.

use std::collections::BTreeSet;

use api::Digest;

use super::DIGESTS_PER_QUERY;
use crate::query::{Value, query};
use crate::session::Session;
use crate::{CatalogError, row};

/// How many digests belong together at most, and how many rows of twins say so: any number of sources may share a twin,
/// and any number of twins a TOC.
const MOST: usize = 10_000;

/// The stored blobs that are evicted together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unit {
    /// The source layers, or the one blob.
    pub names: Vec<Digest>,
    /// Those of its blobs that are stored, sorted.
    pub members: Vec<Member>,
    /// When one of them was last used: milliseconds since 1970 by the database's clock.
    pub used_at: i64,
}

/// A stored blob of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// The digests that belong together, stored or not.
#[derive(Debug, Default)]
pub(super) struct Family {
    pub(super) sources: BTreeSet<String>,
    pub(super) all: BTreeSet<String>,
}

impl Unit {
    /// Returns the bytes of its stored blobs.
    pub fn size(&self) -> u64 {
        self.members.iter().fold(0, |sum, member| sum.saturating_add(member.size))
    }
}

impl Family {
    /// Returns the family of `digest`, or `None` when it is larger than [`MOST`].
    pub(super) async fn of(session: &mut Session, digest: &Digest) -> Result<Option<Self>, CatalogError> {
        let mut family = Self { sources: BTreeSet::new(), all: BTreeSet::from([digest.to_string()]) };
        // What was found by the last step. Whatever it leads to that is new is the next one.
        let mut front = family.all.clone();
        while !front.is_empty() {
            let mut next = BTreeSet::new();
            for page in pages(&front) {
                let found = relatives(session, &page).await?;
                if found.len() > MOST {
                    return Ok(None);
                }
                for (source, twin, toc) in found {
                    family.sources.insert(source.clone());
                    let members = [Some(source), twin, toc].into_iter().flatten();
                    next.extend(members.filter(|member| family.all.insert(member.clone())));
                }
                if family.all.len() > MOST {
                    return Ok(None);
                }
            }
            front = next;
        }
        Ok(Some(family))
    }

    /// Returns the digests in order, as many at a time as one statement takes.
    pub(super) fn pages(&self) -> impl Iterator<Item = Vec<&String>> {
        pages(&self.all)
    }

    /// Returns the sources as [`Family::pages`] does all.
    pub(super) fn pages_of_sources(&self) -> impl Iterator<Item = Vec<&String>> {
        pages(&self.sources)
    }

    /// Returns what of the family is stored. Nobody changes these rows before the transaction ends.
    pub(super) async fn stored(&self, session: &mut Session) -> Result<Unit, CatalogError> {
        // In the order in which whoever ends a conversion takes them: the twins' rows, then the blobs'.
        for page in self.pages() {
            let twins = query("SELECT source, profile FROM twins WHERE source IN ").push_list(values(&page));
            let twins = session.lock(twins.push(" ORDER BY source, profile"));
            let _locked: Vec<(String, String)> = session.all(twins).await?;
        }
        let names = if self.sources.is_empty() { &self.all } else { &self.sources };
        let names = names.iter().map(|name| row::digest("twins.source", name)).collect::<Result<_, _>>()?;
        let mut unit = Unit { names, ..Unit::default() };
        for page in self.pages() {
            let blobs = query("SELECT digest, size, used_at FROM blobs WHERE store_key <> '' AND digest IN ");
            let blobs = session.lock(blobs.push_list(values(&page)).push(" ORDER BY digest"));
            let found: Vec<(String, i64, i64)> = session.all(blobs).await?;
            for (digest, size, used_at) in found {
                let (digest, size) = (row::digest("blobs.digest", &digest)?, row::unsigned("blobs.size", size)?);
                unit.members.push(Member { digest, size });
                unit.used_at = unit.used_at.max(used_at);
            }
        }
        Ok(unit)
    }
}

/// Returns the sources, twins and TOCs of all conversions that one of `digests` has a part in; more than [`MOST`] are cut
/// short.
async fn relatives(
    session: &mut Session,
    digests: &[&String],
) -> Result<Vec<(String, Option<String>, Option<String>)>, CatalogError> {
    let select = query("SELECT source, twin, toc FROM twins WHERE twin IS NOT NULL AND (source IN ")
        .push_list(values(digests))
        .push(" OR twin IN ")
        .push_list(values(digests))
        .push(" OR toc IN ")
        .push_list(values(digests))
        .push(&format!(") LIMIT {}", MOST + 1));
    session.all(select).await
}

fn pages(digests: &BTreeSet<String>) -> impl Iterator<Item = Vec<&String>> {
    let mut rest = digests.iter();
    std::iter::from_fn(move || {
        let page: Vec<_> = rest.by_ref().take(DIGESTS_PER_QUERY).collect();
        (!page.is_empty()).then_some(page)
    })
}

/// Returns digests as values to bind.
pub(super) fn values(page: &[&String]) -> impl Iterator<Item = Value> {
    page.iter().map(|digest| Value::from(*digest))
}
