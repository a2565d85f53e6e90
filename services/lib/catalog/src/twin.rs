//! [`TwinRow`]: how far the conversion of a source layer is.

mod columns;

use api::{Digest, Repository, Twin, UnconvertibleReason};

use crate::query::{Value, query};
use crate::session::Session;
use crate::{BlobRow, Catalog, CatalogError, TwinOutcome, blob, row};
use columns::Columns;
pub(crate) use columns::SELECT;

/// Sources asked for by one statement, far below SQLite's limit of 32 766 values.
const SOURCES_PER_QUERY: usize = 500;

/// How far the conversion of one source layer under one profile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinRow {
    /// The source layer.
    pub source: Digest,
    /// The id of the profile.
    pub profile: String,
    /// How far it is.
    pub state: TwinState,
}

/// How far a conversion is. Ready and unconvertible are final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TwinState {
    /// Begun, not ended; perhaps by a process that died.
    Converting {
        /// How often the converter was started ([`Catalog::attempt_conversion`]).
        attempts: u32,
    },
    /// The twin and its TOC are in the store.
    Ready {
        /// The twin.
        twin: Twin,
        /// The text form of the store key of the twin's bytes.
        key: String,
        /// The text form of the store key of the TOC's JSON.
        toc_key: String,
    },
    /// The layer stays as it is.
    Unconvertible {
        /// Why.
        reason: UnconvertibleReason,
        /// What and where, for people.
        detail: String,
    },
}

impl Catalog {
    /// Returns how far the conversion of `source` under `profile` is, or `None` when none was begun.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn twin(&self, source: &Digest, profile: &str) -> Result<Option<TwinRow>, CatalogError> {
        let mut session = self.reading("look up a twin").await?;
        find(&mut session, source, profile).await
    }

    /// Returns how far the conversions of `sources` under `profile` are, in no order; sources of which none was
    /// begun are left out.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn twins(&self, sources: &[Digest], profile: &str) -> Result<Vec<TwinRow>, CatalogError> {
        let mut session = self.reading("look up twins").await?;
        let mut rows = Vec::with_capacity(sources.len());
        for chunk in sources.chunks(SOURCES_PER_QUERY) {
            let select = query(SELECT).bind(profile).push(" WHERE t.profile = $1 AND t.source IN ");
            let select = select.push_list(chunk.iter().map(Value::from));
            let found: Vec<Columns> = session.all(select).await?;
            for columns in found {
                rows.push(columns.decode()?);
            }
        }
        Ok(rows)
    }

    /// Returns a row of a twin whose bytes are in the store: one that `layer` is the source of, or else the twin of, under
    /// whatever profile. Of several it is always the same one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ready_twin(&self, layer: &Digest) -> Result<Option<TwinRow>, CatalogError> {
        let mut session = self.reading("look up a twin").await?;
        for of_layer in [
            " WHERE t.source = $1 AND t.state = 'ready' ORDER BY t.profile LIMIT 1",
            " WHERE t.twin = $1 AND t.state = 'ready' ORDER BY t.source, t.profile LIMIT 1",
        ] {
            let found: Option<Columns> = session.optional(query(SELECT).bind(layer).push(of_layer)).await?;
            if let Some(columns) = found {
                return columns.decode().map(Some);
            }
        }
        Ok(None)
    }

    /// Records that the conversion of `source` under `profile` begins, with `repository` to fill the source from,
    /// unless a row is there. Returns the state that stands; all callers of one source get the same.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn begin_conversion(
        &self,
        source: &Digest,
        profile: &str,
        repository: &Repository,
    ) -> Result<TwinState, CatalogError> {
        let mut tx = self.begin("begin a conversion").await?;
        let insert = query(
            "INSERT INTO twins (source, profile, state, attempts, repository) VALUES ($1, $2, 'converting', 0, $3) \
             ON CONFLICT (source, profile) DO NOTHING",
        );
        tx.run(insert.bind(source).bind(profile).bind(repository)).await?;
        let state = standing(&mut tx, source, profile).await?;
        tx.commit().await?;
        Ok(state)
    }

    /// Records that the converter starts to work on a layer whose conversion was begun, and returns the state that
    /// stands. A final state stays. Many attempts tell a layer that kills its converter.
    ///
    /// # Errors
    /// [`CatalogError::NotBegun`] when there is no row; else those of the database.
    pub async fn attempt_conversion(&self, source: &Digest, profile: &str) -> Result<TwinState, CatalogError> {
        let mut tx = self.begin("count an attempt to convert").await?;
        let update = query(
            "UPDATE twins SET attempts = attempts + 1 WHERE source = $1 AND profile = $2 AND state = 'converting'",
        );
        tx.run(update.bind(source).bind(profile)).await?;
        let state = standing(&mut tx, source, profile).await?;
        tx.commit().await?;
        Ok(state)
    }

    /// Records that the conversion of `source` ended with `twin`, whose bytes are in the store under `key` and its
    /// TOC's under `toc_key` (an own twin's key is its source's): both blobs and the row, all or nothing. Returns
    /// the state that stands. A final state is never overwritten, and of a digest that is in the store already the
    /// recorded key stands; so who gets other keys than its own deletes the bytes it stored. A twin whose bytes were
    /// lost ([`Catalog::lose_blob`]) goes on converting if this is another one, and so does an own twin whose source is no
    /// longer stored under `key`; then nothing else is recorded.
    ///
    /// # Errors
    /// [`CatalogError::NotBegun`] when there is no row; else those of the database.
    pub async fn finish_conversion(
        &self,
        source: &Digest,
        profile: &str,
        twin: &Twin,
        key: &str,
        toc_key: &str,
    ) -> Result<TwinState, CatalogError> {
        let mut tx = self.begin("finish a conversion").await?;
        let state = finish(&mut tx, source, profile, twin, key, toc_key).await?;
        tx.commit().await?;
        Ok(state)
    }

    /// Records that `source` stays as it is under `profile`, and returns the state that stands. A final state is
    /// never overwritten, and what had a twin once is not refused.
    ///
    /// # Errors
    /// [`CatalogError::NotBegun`] when there is no row; else those of the database.
    pub async fn refuse_conversion(
        &self,
        source: &Digest,
        profile: &str,
        reason: UnconvertibleReason,
        detail: &str,
    ) -> Result<TwinState, CatalogError> {
        let mut tx = self.begin("refuse a conversion").await?;
        let state = refuse(&mut tx, source, profile, reason, detail).await?;
        tx.commit().await?;
        Ok(state)
    }

    /// Returns the sources whose conversion under `profile` was begun and has never ended, sorted, each with the
    /// repository to fill it from. Twins that were made once and are lost or evicted are made again when asked for.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unfinished_conversions(&self, profile: &str) -> Result<Vec<(Digest, Repository)>, CatalogError> {
        let select = query(
            "SELECT source, repository FROM twins \
             WHERE profile = $1 AND state = 'converting' AND twin IS NULL ORDER BY source",
        );
        let found: Vec<(String, String)> = self.reading("list conversions").await?.all(select.bind(profile)).await?;
        found
            .iter()
            .map(|(source, repository)| {
                Ok((row::digest("twins.source", source)?, row::repository("twins.repository", repository)?))
            })
            .collect()
    }

    /// Returns a source layer that `twin` is the twin of, or `None` when it is no twin. Of several (two sources with
    /// the same tar) it is always the same one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn source_of_twin(&self, twin: &Digest) -> Result<Option<Digest>, CatalogError> {
        let select = query("SELECT source FROM twins WHERE twin = $1 ORDER BY source LIMIT 1").bind(twin);
        let found: Option<(String,)> = self.reading("look up a twin's source").await?.optional(select).await?;
        found.map(|(source,)| row::digest("twins.source", &source)).transpose()
    }
}

async fn find(session: &mut Session, source: &Digest, profile: &str) -> Result<Option<TwinRow>, CatalogError> {
    let select = query(SELECT).bind(profile).push(" WHERE t.profile = $1 AND t.source = $2").bind(source);
    let found: Option<Columns> = session.optional(select).await?;
    found.map(Columns::decode).transpose()
}

/// Returns what came of a conversion, or `None` when it has not ended. A twin that was lost since is still what comes of it.
pub(crate) async fn outcome(
    session: &mut Session,
    source: &Digest,
    profile: &str,
) -> Result<Option<TwinOutcome>, CatalogError> {
    let select = query(SELECT).bind(profile).push(" WHERE t.profile = $1 AND t.source = $2").bind(source);
    let found: Option<Columns> = session.optional(select).await?;
    found.map(Columns::outcome).transpose().map(Option::flatten)
}

/// Returns the state of a row that a caller has begun.
async fn standing(session: &mut Session, source: &Digest, profile: &str) -> Result<TwinState, CatalogError> {
    let found = find(session, source, profile).await?;
    found.map(|row| row.state).ok_or_else(|| CatalogError::NotBegun { layer: source.clone(), profile: profile.into() })
}

/// Records the twin of a source and its blobs, unless the row is in a final state; returns the state that stands.
pub(crate) async fn finish(
    session: &mut Session,
    source: &Digest,
    profile: &str,
    twin: &Twin,
    key: &str,
    toc_key: &str,
) -> Result<TwinState, CatalogError> {
    if make_ready(session, source, profile, twin).await? {
        if twin.digest == *source && !is_under(session, source, key).await? {
            // Evicted or lost since the caller looked: these bytes are about to be deleted.
            let back = query("UPDATE twins SET state = 'converting' WHERE source = $1 AND profile = $2");
            session.run(back.bind(source).bind(profile)).await?;
            return standing(session, source, profile).await;
        }
        let bytes = BlobRow { digest: twin.digest.clone(), size: twin.size, key: key.into() };
        let toc = BlobRow { digest: twin.toc_digest.clone(), size: twin.toc_size, key: toc_key.into() };
        blob::insert(session, &bytes).await?;
        blob::insert(session, &toc).await?;
        session.tell_ended(source).await?;
    }
    standing(session, source, profile).await
}

/// Tells whether the bytes of `digest` lie under `key`, and until the transaction ends they do so.
async fn is_under(session: &mut Session, digest: &Digest, key: &str) -> Result<bool, CatalogError> {
    let select = session.locked("SELECT digest FROM blobs WHERE digest = $1 AND store_key = $2");
    let found: Option<(String,)> = session.optional(select.bind(digest).bind(key)).await?;
    Ok(found.is_some())
}

/// Records that a source stays as it is, unless the row is in a final state; returns the state that stands.
pub(crate) async fn refuse(
    session: &mut Session,
    source: &Digest,
    profile: &str,
    reason: UnconvertibleReason,
    detail: &str,
) -> Result<TwinState, CatalogError> {
    let update = query(
        "UPDATE twins SET state = 'unconvertible', reason = $3, detail = $4 \
         WHERE source = $1 AND profile = $2 AND state = 'converting' AND twin IS NULL",
    );
    if session.run(update.bind(source).bind(profile).bind(reason.as_str()).bind(detail)).await? == 1 {
        session.tell_ended(source).await?;
    }
    standing(session, source, profile).await
}

/// Turns a converting row into a ready one, and tells whether it was one. Of callers at once, the database lets one
/// after the other see the row, so one of them finds it converting.
pub(crate) async fn make_ready(
    session: &mut Session,
    source: &Digest,
    profile: &str,
    twin: &Twin,
) -> Result<bool, CatalogError> {
    let json = |failed: serde_json::Error| CatalogError::Corrupt {
        column: "twins.tail or twins.implied_dirs",
        value: source.to_string(),
        source: failed.into(),
    };
    let update = query(
        "UPDATE twins SET state = 'ready', twin = $3, twin_size = $4, diff_id = $5, plain_size = $6, toc = $7, \
         toc_size = $8, source_diff_id = $9, source_plain_size = $10, tail = $11, implied_dirs = $12 \
         WHERE source = $1 AND profile = $2 AND state = 'converting' AND (twin IS NULL OR (twin = $3 AND toc = $7))",
    )
    .bind(source)
    .bind(profile)
    .bind(&twin.digest)
    .bind(row::to_sql("a twin's size", twin.size)?)
    .bind(&twin.diff_id)
    .bind(row::to_sql("a twin's plain size", twin.plain_size)?)
    .bind(&twin.toc_digest)
    .bind(row::to_sql("a TOC's size", twin.toc_size)?)
    .bind(&twin.source_diff_id)
    .bind(row::to_sql("a source's plain size", twin.source_plain_size)?)
    .bind(serde_json::to_string(&twin.tail).map_err(json)?)
    .bind(serde_json::to_string(&twin.implied_dirs).map_err(json)?);
    Ok(session.run(update).await? == 1)
}
