//! [`CatalogUrl`]: which database holds a catalog.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use crate::CatalogError;

/// The query parameters of a PostgreSQL URL that have a meaning here. Others are refused, not ignored.
const PARAMETERS: [&str; 10] = [
    "application_name",
    "dbname",
    "host",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
];

/// Which database holds a catalog.
///
/// `Display` and `Debug` leave a password out; what is printed names the same database, and works again where the
/// password comes from `PGPASSWORD` or `PGPASSFILE`.
#[derive(Clone, PartialEq, Eq)]
pub enum CatalogUrl {
    /// `sqlite:PATH`: a file; relative to the working directory.
    Sqlite(PathBuf),
    /// `postgres://…`: a database of a PostgreSQL server.
    Postgres(PostgresUrl),
}

/// The URL of a PostgreSQL database: it parses, and all its parameters are known.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl CatalogUrl {
    /// Parses `sqlite:PATH` (no parameters, no database in memory) or `postgres://…` (also `postgresql://…`).
    ///
    /// # Errors
    /// [`CatalogError::Url`], which never repeats a password.
    pub fn parse(text: &str) -> Result<Self, CatalogError> {
        if ["postgres:", "postgresql:"].iter().any(|scheme| text.starts_with(scheme)) {
            return PostgresUrl::parse(text).map(Self::Postgres);
        }
        let path = text.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
        match path {
            // Two pools of an in-memory database would be two databases.
            Some(path) if !path.is_empty() && !path.starts_with(':') && !path.contains(['?', '\0']) => {
                Ok(Self::Sqlite(path.into()))
            }
            Some(_) => Err(refused(text, "expected sqlite:PATH without parameters")),
            None => Err(refused(text, "expected sqlite:PATH or postgres://USER@HOST/DATABASE")),
        }
    }
}

impl PostgresUrl {
    fn parse(text: &str) -> Result<Self, CatalogError> {
        if !text.contains("://") {
            return Err(refused(text, "expected postgres://USER@HOST/DATABASE"));
        }
        if let Some(key) = parameters(text).map(key).find(|key| !PARAMETERS.contains(key)) {
            // A parameter that is not known may be a misspelt password: only its name is told.
            let known = PARAMETERS.join(", ");
            return Err(refused(text, &format!("unknown parameter {key}; the parameters are {known}")));
        }
        let url = Self(text.into());
        url.options().map_err(|source| CatalogError::Url { url: url.to_string(), problem: source.to_string() })?;
        Ok(url)
    }

    /// Returns how to connect. What the URL leaves out comes from libpq's variables (`PGPASSWORD`, `PGPASSFILE`, …).
    pub(crate) fn options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        PgConnectOptions::from_str(&self.0)
    }
}

fn refused(text: &str, problem: &str) -> CatalogError {
    CatalogError::Url { url: without_password(text), problem: problem.into() }
}

/// Returns the query parameters of `url`, each with its value.
fn parameters(url: &str) -> impl Iterator<Item = &str> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split(['&', '#']).filter(|parameter| !parameter.is_empty())
}

fn key(parameter: &str) -> &str {
    parameter.split('=').next().unwrap_or_default()
}

/// Returns `url` without the password of its authority and without parameters that are not known to be harmless.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // No URL: whatever stands behind an `@` or before it could be a secret.
        return if url.contains('@') {
            format!("{}:…", key(url).split(':').next().unwrap_or_default())
        } else {
            url.into()
        };
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => format!("{}@{host}", user.split(':').next().unwrap_or_default()),
        None => authority.into(),
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let harmless = |parameter: &&str| PARAMETERS.contains(&key(parameter)) && key(parameter) != "password";
    let query: Vec<&str> = parameters(url).filter(harmless).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    format!("{scheme}://{authority}{path}{query}")
}

impl fmt::Display for CatalogUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for CatalogUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.0))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn urls_name_databases() {
        for (text, path) in [("sqlite:a/b.db", "a/b.db"), ("sqlite:///var/lib/x.db", "/var/lib/x.db")] {
            assert_eq!(CatalogUrl::parse(text).unwrap(), CatalogUrl::Sqlite(Path::new(path).into()));
        }
        for good in ["postgres://h/d", "postgresql://u:p@h:5433/d?sslmode=verify-full&sslrootcert=/ca.pem"] {
            assert!(matches!(CatalogUrl::parse(good), Ok(CatalogUrl::Postgres(_))), "{good} was refused");
        }
        let bad = ["", "sqlite:", "sqlite://", "sqlite::memory:", "sqlite:a?mode=ro", "/var/lib/x.db", "mysql://h/d"];
        for bad in bad.into_iter().chain([
            "postgres:d",
            "postgres://h:port/d",
            "postgres://h/d?sslmode=maybe",
            "postgres://h/d?pool=7",
        ]) {
            assert!(matches!(CatalogUrl::parse(bad), Err(CatalogError::Url { .. })), "{bad} was accepted");
        }
    }

    #[test]
    fn a_password_is_never_told() {
        let texts = [
            "postgres://u:secret@h:5433/d?sslmode=require&password=secret",
            "postgres://u:se@secret@h/d",
            "postgres://u:secret@h:port/d",
            "postgres://u:secret@h/d?pasword=secret",
            "postgres://h/d?pass%77ord=secret",
            "postgres:u:secret@h",
            "mysql://user:secret@h/d",
            "mysql:secret@h",
        ];
        for text in texts {
            let told = match CatalogUrl::parse(text) {
                Ok(url) => format!("{url} {url:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!told.contains("secret"), "{told}");
        }
        let url = CatalogUrl::parse(texts[0]).unwrap();
        assert_eq!(url.to_string(), "postgres://u@h:5433/d?sslmode=require");
        assert_eq!(CatalogUrl::parse(&url.to_string()).unwrap().to_string(), url.to_string());
    }
}
