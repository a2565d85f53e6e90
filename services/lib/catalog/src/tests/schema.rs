//! Schemas of other versions, and the way from the first to the newest.

use std::collections::HashSet;
use std::time::Duration;

use api::{Digest, Repository, Tag};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use tokio::task::JoinSet;

use super::Database;
use crate::{Catalog, CatalogError, CatalogUrl, Claim, LinkState, Owner, Scope, TwinState, Usage, Work, schema};

/// Rows of every table as the first version wrote them.
fn first_rows() -> String {
    let [blob, layer, twin, toc] = ["blob", "layer", "twin", "toc"].map(|name| Digest::of(name.as_bytes()));
    format!(
        "INSERT INTO blobs VALUES ('{blob}', 5, 'key of blob'), ('{twin}', 7, 'key of twin'), ('{toc}', 8, 'key of toc');
         INSERT INTO links VALUES ('docker.io/library/a', '{blob}');
         INSERT INTO manifests VALUES ('{blob}', 'application/vnd.oci.image.manifest.v1+json', NULL);
         INSERT INTO manifest_children VALUES ('{blob}', '{layer}');
         INSERT INTO tags VALUES ('docker.io/library/a', 'latest', '{blob}', 12, NULL);
         INSERT INTO profiles VALUES ('p', 'level 6');
         INSERT INTO twins (source, profile, state, attempts, repository)
            VALUES ('{blob}', 'p', 'converting', 2, 'docker.io/library/a');
         INSERT INTO twins VALUES ('{layer}', 'p', 'ready', 1, 'docker.io/library/a', '{twin}', 7, '{twin}', 70,
            '{toc}', 8, '{layer}', 60, '{{\"zeros\":1024}}', '[]', NULL, NULL);
         INSERT INTO converted VALUES ('{layer}', 'p', '{blob}', NULL);
         INSERT INTO fills VALUES ('{layer}', 'docker.io/library/a', 6);"
    )
}

/// Looks at every row of [`first_rows`].
async fn check_first_rows(catalog: &Catalog) {
    let [blob, layer, toc] = ["blob", "layer", "toc"].map(|name| Digest::of(name.as_bytes()));
    let repository = Repository::parse("docker.io/library/a").unwrap();
    assert_eq!(catalog.blob(&blob).await.unwrap().unwrap().key, "key of blob");
    assert_eq!(catalog.manifest(&blob).await.unwrap().unwrap().size, 5);
    assert_eq!(catalog.is_linked(&repository, &blob).await.unwrap(), LinkState::Linked);
    assert_eq!(catalog.is_linked(&repository, &toc).await.unwrap(), LinkState::Named);
    let tag = catalog.tag(&repository, &Tag::parse("latest").unwrap()).await.unwrap().unwrap();
    assert_eq!((tag.digest, tag.checked_at, tag.original_answered_at), (blob.clone(), 12, None));
    assert_eq!(catalog.profile("p").await.unwrap().unwrap(), "level 6");
    assert_eq!(catalog.unfinished_conversions("p").await.unwrap(), [(blob.clone(), repository.clone())]);
    let state = catalog.twin(&layer, "p").await.unwrap().unwrap().state;
    assert!(matches!(state, TwinState::Ready { twin, .. } if twin.toc_digest == toc && twin.source_plain_size == 60));
    assert_eq!(catalog.converted_and_noted(&layer).await.unwrap(), Some((blob, false)));
    let fills = catalog.unfinished_fills().await.unwrap();
    assert_eq!((fills.len(), &fills[0].digest, &fills[0].repository), (1, &layer, &repository));
    assert!(catalog.begin_fill(&layer, &repository, 6).await.unwrap(), "its upstream is not known");
    // Nobody noted then what was used when: it counts as used now.
    assert_eq!(catalog.usage().await.unwrap(), Usage { stored_bytes: 20, leaving_bytes: 0 });
    let hour = Duration::from_secs(3600);
    assert_eq!(catalog.candidates(Scope::All, hour, None, 9).await.unwrap().len(), 2, "the third is a view");
    catalog.date_undated().await.unwrap();
    assert!(catalog.candidates(Scope::All, hour, None, 9).await.unwrap().is_empty());
    let owner = Owner { id: "this version".into(), address: String::new() };
    assert!(matches!(catalog.claim(&Work::Collection, &owner, hour).await.unwrap(), Claim::Granted(_)));
}

/// From every version that there was, with the rows of the first.
#[tokio::test]
async fn sqlite_comes_from_every_schema_with_its_rows() {
    for version in schema::SQLITE.iter().map(|step| step.version) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("catalog.db").display());
        let mut raw = SqliteConnection::connect(&format!("{url}?mode=rwc")).await.unwrap();
        schema::SQLITE.run_to(1, &mut raw).await.unwrap();
        raw.execute(AssertSqlSafe(first_rows())).await.unwrap();
        schema::SQLITE.run_to(version, &mut raw).await.unwrap();
        raw.close().await.unwrap();
        check_first_rows(&Catalog::open(&CatalogUrl::parse(&url).unwrap()).await.unwrap()).await;
    }
}

#[tokio::test]
async fn postgres_comes_from_every_schema_with_its_rows() {
    for version in schema::POSTGRES.iter().map(|step| step.version) {
        let database = Database::new();
        let mut raw = database.raw().await;
        schema::POSTGRES.run_to(1, &mut raw).await.unwrap();
        raw.execute(AssertSqlSafe(first_rows())).await.unwrap();
        schema::POSTGRES.run_to(version, &mut raw).await.unwrap();
        Catalog::migrate(&database.url()).await.unwrap();
        check_first_rows(&database.open().await).await;
    }
}

/// Both databases have the same steps, and the same tables and columns of the same kinds.
#[tokio::test]
async fn the_databases_have_the_same_schema() {
    let steps = |migrations: &sqlx::migrate::Migrator| -> Vec<(i64, String)> {
        migrations.iter().map(|step| (step.version, step.description.to_string())).collect()
    };
    assert_eq!(steps(&schema::SQLITE), steps(&schema::POSTGRES));

    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("catalog.db").display());
    Catalog::open(&CatalogUrl::parse(&url).unwrap()).await.unwrap().close().await;
    let mut sqlite = SqliteConnection::connect(&url).await.unwrap();
    let found: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT m.name, c.name, lower(c.type) FROM sqlite_master m JOIN pragma_table_info(m.name) c \
         WHERE m.type = 'table' AND m.name NOT LIKE '\\_%' ESCAPE '\\'",
    )
    .fetch_all(&mut sqlite)
    .await
    .unwrap();
    let of_sqlite: HashSet<_> = found.into_iter().collect();

    let database = Database::migrated().await;
    let mut postgres = database.raw().await;
    // Text that is compared in any other way than by its bytes would break ranges and orders.
    let found: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT table_name::text, column_name::text, \
            CASE WHEN data_type = 'text' AND collation_name IS DISTINCT FROM 'C' THEN 'text, not by bytes' \
                 ELSE data_type END::text \
         FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE '\\_%'",
    )
    .fetch_all(&mut postgres)
    .await
    .unwrap();
    let of_postgres: HashSet<_> = found.into_iter().collect();
    assert!(of_sqlite.len() > 30, "{of_sqlite:?}");
    let differences: Vec<_> = of_sqlite.symmetric_difference(&of_postgres).collect();
    assert!(differences.is_empty(), "{differences:#?}");
}

/// An older schema is refused with the command that helps, and left alone; one call of many migrates it.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_schema_waits_for_the_command() {
    let database = Database::new();
    let error = Catalog::open(&database.url()).await.unwrap_err();
    assert!(matches!(error, CatalogError::SchemaOlder { .. }), "{error:?}");
    let told = error.to_string();
    assert!(told.contains("migration 0001 (init)") && told.contains("run `firstlight migrate`"), "{told}");
    assert!(!error.is_transient());
    assert_eq!(database.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0");

    let mut callers = JoinSet::new();
    for _ in 0..12 {
        let url = database.url();
        callers.spawn(async move { Catalog::migrate(&url).await });
    }
    let mut applied = Vec::new();
    while let Some(steps) = callers.join_next().await {
        applied.extend(steps.unwrap().unwrap());
    }
    let names: Vec<String> = schema::POSTGRES.iter().map(|step| step.description.to_string()).collect();
    assert_eq!(applied.iter().map(|step| &*step.name).collect::<Vec<_>>(), names);
    database.open().await;
}

/// A schema of a later version is refused by the name of what is unknown, on both databases.
#[tokio::test]
async fn a_newer_schema_is_refused_by_name() {
    let database = Database::migrated().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9000, 'tomorrow', true, '', 0)";
    database.sql(newer);
    let folder = tempfile::tempdir().unwrap();
    let url = CatalogUrl::parse(&format!("sqlite:{}", folder.path().join("catalog.db").display())).unwrap();
    Catalog::open(&url).await.unwrap().close().await;
    let mut raw = SqliteConnection::connect(&url.to_string()).await.unwrap();
    sqlx::query(newer).execute(&mut raw).await.unwrap();
    for url in [url, database.url()] {
        for error in [Catalog::open(&url).await.unwrap_err(), Catalog::migrate(&url).await.unwrap_err()] {
            assert!(matches!(error, CatalogError::SchemaNewer { .. }), "{error:?}");
            assert!(error.to_string().contains("migration 9000 (tomorrow)"), "{error}");
        }
    }
}

/// A migration that was edited after it was applied is noticed.
#[tokio::test]
async fn an_edited_migration_is_refused_by_name() {
    let database = Database::migrated().await;
    database.sql("UPDATE _sqlx_migrations SET checksum = 'x' WHERE version = 1");
    for error in
        [Catalog::open(&database.url()).await.unwrap_err(), Catalog::migrate(&database.url()).await.unwrap_err()]
    {
        assert!(matches!(error, CatalogError::SchemaOther { .. }), "{error:?}");
        assert!(error.to_string().contains("migration 0001 (init)"), "{error}");
    }
}

/// Whoever serves needs no right to change the schema, and calls work for it.
#[tokio::test]
async fn serving_needs_no_right_to_change_the_schema() {
    let database = Database::migrated().await;
    database.sql(
        "DROP ROLE IF EXISTS serving; CREATE ROLE serving LOGIN PASSWORD 'serving'; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO serving",
    );
    let at = database.url.split_once('@').unwrap().1;
    let url = CatalogUrl::parse(&format!("postgres://serving:serving@{at}")).unwrap();
    let catalog = Catalog::open(&url).await.unwrap();
    catalog.link(&super::home(), &Digest::of(b"x")).await.unwrap();
    let mut raw = PgConnection::connect(&format!("postgres://serving:serving@{at}")).await.unwrap();
    assert!(raw.execute("CREATE TABLE mine (x BIGINT)").await.is_err());
    catalog.close().await;
    database.sql("DROP OWNED BY serving; DROP ROLE serving");
}
