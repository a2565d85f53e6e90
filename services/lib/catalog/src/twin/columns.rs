//! [`Columns`]: a row of twins as the database has it.

use api::Twin;

use crate::{CatalogError, TwinOutcome, TwinRow, TwinState, row};

/// The columns of a row, with the keys that the blobs' rows name.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Columns {
    source: String,
    profile: String,
    state: String,
    attempts: i64,
    twin: Option<String>,
    twin_size: Option<i64>,
    diff_id: Option<String>,
    plain_size: Option<i64>,
    toc: Option<String>,
    toc_size: Option<i64>,
    source_diff_id: Option<String>,
    source_plain_size: Option<i64>,
    tail: Option<String>,
    implied_dirs: Option<String>,
    reason: Option<String>,
    detail: Option<String>,
    twin_key: Option<String>,
    toc_key: Option<String>,
}

/// Selects [`Columns`]; conditions may follow.
pub(crate) const SELECT: &str = "\
SELECT t.source, t.profile, t.state, t.attempts, t.twin, t.twin_size, t.diff_id, t.plain_size, t.toc, t.toc_size,
    t.source_diff_id, t.source_plain_size, t.tail, t.implied_dirs, t.reason, t.detail,
    b.store_key AS twin_key, c.store_key AS toc_key
FROM twins t LEFT JOIN blobs b ON b.digest = t.twin LEFT JOIN blobs c ON c.digest = t.toc";

impl Columns {
    /// Turns the columns into a row, through every type's parser.
    pub(super) fn decode(self) -> Result<TwinRow, CatalogError> {
        Ok(TwinRow {
            source: row::digest("twins.source", &self.source)?,
            profile: self.profile.clone(),
            state: match &*self.state {
                "converting" => TwinState::Converting {
                    attempts: u32::try_from(row::unsigned("twins.attempts", self.attempts)?).unwrap_or(u32::MAX),
                },
                "ready" => self.ready()?,
                "unconvertible" => TwinState::Unconvertible {
                    reason: row::reason("twins.reason", self.reason.as_deref().unwrap_or_default())?,
                    detail: self.detail.unwrap_or_default(),
                },
                other => {
                    let source = "no such state".into();
                    return Err(CatalogError::Corrupt { column: "twins.state", value: other.into(), source });
                }
            },
        })
    }

    /// Returns what came of the conversion, or `None` when it has not ended.
    pub(super) fn outcome(self) -> Result<Option<TwinOutcome>, CatalogError> {
        if self.twin.is_some() {
            return Ok(Some(TwinOutcome::Twin(self.made()?)));
        }
        Ok(match self.decode()?.state {
            TwinState::Unconvertible { reason, detail } => Some(TwinOutcome::Unconvertible { reason, detail }),
            TwinState::Converting { .. } | TwinState::Ready { .. } => None,
        })
    }

    fn ready(&self) -> Result<TwinState, CatalogError> {
        Ok(TwinState::Ready {
            twin: self.made()?,
            key: row::present("blobs.store_key of twins.twin", self.twin_key.clone())?,
            toc_key: row::present("blobs.store_key of twins.toc", self.toc_key.clone())?,
        })
    }

    fn made(&self) -> Result<Twin, CatalogError> {
        let digest = |column, text: &Option<String>| row::digest(column, row::present(column, text.as_deref())?);
        let size = |column, number| row::unsigned(column, row::present(column, number)?);
        Ok(Twin {
            digest: digest("twins.twin", &self.twin)?,
            size: size("twins.twin_size", self.twin_size)?,
            diff_id: digest("twins.diff_id", &self.diff_id)?,
            plain_size: size("twins.plain_size", self.plain_size)?,
            toc_digest: digest("twins.toc", &self.toc)?,
            toc_size: size("twins.toc_size", self.toc_size)?,
            source_diff_id: digest("twins.source_diff_id", &self.source_diff_id)?,
            source_plain_size: size("twins.source_plain_size", self.source_plain_size)?,
            tail: row::json("twins.tail", row::present("twins.tail", self.tail.as_deref())?)?,
            implied_dirs: row::json(
                "twins.implied_dirs",
                row::present("twins.implied_dirs", self.implied_dirs.as_deref())?,
            )?,
        })
    }
}
