//! [`Query`]: one statement and its values, for either database.

use std::borrow::Cow;

use api::{Digest, Repository};
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Arguments, AssertSqlSafe, Database, Encode, FromRow, SqlSafeStr, SqlStr, Type};

/// A row's columns, as either database gives them: tuples and `#[derive(sqlx::FromRow)]`.
pub(crate) trait Fields: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

impl<T> Fields for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

/// A value as both databases hold it.
#[derive(Debug)]
pub(crate) enum Value {
    Text(Option<String>),
    Number(i64),
}

/// One statement and its values. A session runs it: [`crate::session::Session`].
#[derive(Debug)]
pub(crate) struct Query {
    sql: Cow<'static, str>,
    values: Vec<Value>,
    /// Its text depends on how many values there are, so there is little use in keeping it prepared.
    varies: bool,
}

/// Returns a statement, in SQL that both databases take; `$n` stands for the n-th value bound.
pub(crate) fn query(sql: &'static str) -> Query {
    Query { sql: sql.into(), values: Vec::new(), varies: false }
}

impl Query {
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Appends a piece of SQL.
    pub(crate) fn push(mut self, sql: &str) -> Self {
        self.sql.to_mut().push_str(sql);
        self
    }

    /// Appends `(…), (…)`, and binds the values: a row each.
    pub(crate) fn push_rows<const N: usize>(mut self, rows: impl IntoIterator<Item = [Value; N]>) -> Self {
        for (index, row) in rows.into_iter().enumerate() {
            self = self.push(if index == 0 { "" } else { ", " }).push_list(row);
        }
        self
    }

    /// Appends `($n, …)`, and binds the values.
    pub(crate) fn push_list(mut self, values: impl IntoIterator<Item = Value>) -> Self {
        self.varies = true;
        let mut before = "(";
        for value in values {
            self = self.bind(value);
            let placeholder = format!("{before}${}", self.values.len());
            self = self.push(&placeholder);
            before = ", ";
        }
        self.push(")")
    }

    /// Tells whether the connection should keep the statement prepared.
    pub(crate) fn is_worth_keeping(&self) -> bool {
        !self.varies
    }

    /// Returns the text and the values as `DB` takes them.
    pub(crate) fn into_parts<DB: Database>(self) -> Result<(SqlStr, DB::Arguments), sqlx::Error>
    where
        Option<String>: for<'v> Encode<'v, DB> + Type<DB>,
        i64: for<'v> Encode<'v, DB> + Type<DB>,
    {
        let mut arguments = DB::Arguments::default();
        for value in self.values {
            match value {
                Value::Text(text) => arguments.add(text),
                Value::Number(number) => arguments.add(number),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        let sql = match self.sql {
            Cow::Borrowed(sql) => sql.into_sql_str(),
            // Made of pieces from this crate's source; what comes from outside is bound.
            Cow::Owned(sql) => AssertSqlSafe(sql).into_sql_str(),
        };
        Ok((sql, arguments))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(Some(text.clone()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<&Digest> for Value {
    fn from(digest: &Digest) -> Self {
        Self::Text(Some(digest.to_string()))
    }
}

impl From<Option<&Digest>> for Value {
    fn from(digest: Option<&Digest>) -> Self {
        Self::Text(digest.map(Digest::to_string))
    }
}

impl From<&Repository> for Value {
    fn from(repository: &Repository) -> Self {
        Self::Text(Some(repository.to_string()))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}
