//! [`SchemaStep`]: which migrations a database has, and which this version needs.

use std::collections::HashMap;
use std::fmt;

use sqlx::migrate::{Migrate, Migrator};
use sqlx::{PgConnection, SqliteConnection};

use crate::CatalogError;

/// The migrations of an SQLite database.
pub(crate) static SQLITE: Migrator = sqlx::migrate!("../../../migrations/sqlite");
/// The migrations of a PostgreSQL database: the same steps.
pub(crate) static POSTGRES: Migrator = sqlx::migrate!("../../../migrations/postgres");

/// The table in which sqlx keeps what was applied.
const TABLE: &str = "_sqlx_migrations";
/// Lists what was applied.
const LIST: &str = "SELECT version, description, checksum FROM _sqlx_migrations ORDER BY version";

/// One migration: a step of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaStep {
    /// Its number; they are applied in this order.
    pub version: i64,
    /// Its name.
    pub name: String,
}

/// A row of sqlx's table: version, description, checksum.
type Applied = (i64, String, Vec<u8>);

impl fmt::Display for SchemaStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "migration {:04} ({})", self.version, self.name)
    }
}

/// Returns what an SQLite database has.
pub(crate) async fn applied_sqlite(connection: &mut SqliteConnection) -> Result<Vec<Applied>, CatalogError> {
    let failed = CatalogError::of("read the schema's version");
    let (tables,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM sqlite_master WHERE name = '_sqlx_migrations'")
        .fetch_one(&mut *connection)
        .await
        .map_err(&failed)?;
    if tables == 0 {
        return Ok(Vec::new());
    }
    sqlx::query_as(LIST).fetch_all(connection).await.map_err(failed)
}

/// Returns what a PostgreSQL database has.
pub(crate) async fn applied_postgres(connection: &mut PgConnection) -> Result<Vec<Applied>, CatalogError> {
    let failed = CatalogError::of("read the schema's version");
    let (is_there,): (bool,) = sqlx::query_as("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(&failed)?;
    if !is_there {
        return Ok(Vec::new());
    }
    sqlx::query_as(LIST).fetch_all(connection).await.map_err(failed)
}

/// Returns the steps of `migrations` that a database with `applied` lacks, in order.
///
/// # Errors
/// [`CatalogError::SchemaNewer`] and [`CatalogError::SchemaOther`] when it has what this version does not know.
pub(crate) fn missing(migrations: &Migrator, applied: &[Applied]) -> Result<Vec<SchemaStep>, CatalogError> {
    let mut needed: HashMap<i64, _> = migrations.iter().map(|migration| (migration.version, migration)).collect();
    for (version, name, checksum) in applied {
        let step = SchemaStep { version: *version, name: name.clone() };
        match needed.remove(version) {
            None => return Err(CatalogError::SchemaNewer { unknown: step }),
            Some(known) if *known.checksum != **checksum => return Err(CatalogError::SchemaOther { step }),
            Some(_) => {}
        }
    }
    let steps = migrations.iter().filter(|migration| needed.contains_key(&migration.version));
    Ok(steps.map(|step| SchemaStep { version: step.version, name: step.description.to_string() }).collect())
}

/// Passes when nothing is missing.
///
/// # Errors
/// [`CatalogError::SchemaOlder`].
pub(crate) fn require(missing: &[SchemaStep]) -> Result<(), CatalogError> {
    match missing {
        [] => Ok(()),
        [step] => Err(CatalogError::SchemaOlder { missing: step.to_string() }),
        [step, more @ ..] => Err(CatalogError::SchemaOlder { missing: format!("{step} and {} more", more.len()) }),
    }
}

/// Brings a PostgreSQL schema up to date and returns the steps that this call applied. Of many callers one works at a
/// time: an advisory lock, which ends with the connection, keeps the others waiting.
pub(crate) async fn migrate_postgres(connection: &mut PgConnection) -> Result<Vec<SchemaStep>, CatalogError> {
    // Taken before looking, so that what another caller just did is seen.
    connection.lock().await.map_err(CatalogError::Migrate)?;
    let missing = missing(&POSTGRES, &applied_postgres(connection).await?)?;
    apply(connection, &POSTGRES, &missing).await?;
    connection.unlock().await.map_err(CatalogError::Migrate)?;
    Ok(missing)
}

/// Brings an SQLite schema up to date and returns the steps it lacked.
pub(crate) async fn migrate_sqlite(connection: &mut SqliteConnection) -> Result<Vec<SchemaStep>, CatalogError> {
    let missing = missing(&SQLITE, &applied_sqlite(connection).await?)?;
    apply(connection, &SQLITE, &missing).await?;
    Ok(missing)
}

/// Applies `missing` of `migrations`, each in a transaction of its own together with its row in sqlx's table.
async fn apply(
    connection: &mut impl Migrate,
    migrations: &Migrator,
    missing: &[SchemaStep],
) -> Result<(), CatalogError> {
    if missing.is_empty() {
        return Ok(());
    }
    connection.ensure_migrations_table(TABLE).await.map_err(CatalogError::Migrate)?;
    for step in migrations.iter().filter(|step| missing.iter().any(|missing| missing.version == step.version)) {
        connection.apply(TABLE, step).await.map_err(CatalogError::Migrate)?;
    }
    Ok(())
}
