//! [`Value`]: what a key was set to, before it has a type.

use std::fmt;
use std::path::PathBuf;

use toml::de::DeValue;

/// What a key was set to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// The text of a variable, which stands for any type.
    Variable(String),
    /// A string of the file.
    Text(String),
    /// An integer of the file.
    Integer(i64),
    /// A boolean of the file.
    Boolean(bool),
    /// An array of the file.
    List(Vec<Value>),
    /// Something that no key takes.
    Other(&'static str),
}

impl From<&DeValue<'_>> for Value {
    fn from(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Self::Integer(number),
                Err(_) => Self::Other("a number beyond 64 bits"),
            },
            DeValue::Boolean(boolean) => Self::Boolean(*boolean),
            DeValue::Array(values) => Self::List(values.iter().map(|value| value.get_ref().into()).collect()),
            DeValue::Float(_) => Self::Other("a fraction"),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(text) | Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(number) => number.fmt(f),
            Self::Boolean(boolean) => boolean.fmt(f),
            Self::List(_) => f.write_str("a list"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl Value {
    /// Tells whether it is more than an empty text or list.
    pub(super) fn is_set(&self) -> bool {
        match self {
            Self::Variable(text) | Self::Text(text) => !text.is_empty(),
            Self::List(values) => !values.is_empty(),
            Self::Integer(_) | Self::Boolean(_) | Self::Other(_) => true,
        }
    }

    /// Returns the error for a value that is not `what`.
    pub(super) fn expected(&self, what: &str) -> String {
        format!("expected {what}, not {self}")
    }

    /// Returns the text, or `None` for another type.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Variable(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn non_empty(&self) -> Result<String, String> {
        let text = self.text().filter(|text| !text.is_empty() && !text.contains('\0'));
        text.map(Into::into).ok_or_else(|| self.expected("a text"))
    }

    pub(super) fn path(&self) -> Result<PathBuf, String> {
        self.non_empty().map(PathBuf::from).map_err(|_| self.expected("a path"))
    }

    /// Returns the path of a file that can be opened now, so that a wrong path is found at the start.
    pub(super) fn readable_file(&self) -> Result<PathBuf, String> {
        let path = self.path()?;
        match std::fs::File::open(&path).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_dir() => Err(format!("{} is a directory", path.display())),
            Ok(_) => Ok(path),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, String> {
        match self {
            Self::Boolean(boolean) => Ok(*boolean),
            Self::Variable(text) if text == "true" => Ok(true),
            Self::Variable(text) if text == "false" => Ok(false),
            _ => Err(self.expected("true or false")),
        }
    }

    pub(super) fn number<T: TryFrom<u64>>(&self, least: u64, most: u64) -> Result<T, String> {
        let number = match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            Self::Variable(text) => text.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| (least..=most).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.expected(&format!("a number from {least} to {most}")))
    }

    /// Returns the texts of a list. In a variable they are separated by commas.
    pub(super) fn texts(&self) -> Result<Vec<String>, String> {
        let expected = || self.expected("a list of texts");
        match self {
            Self::Variable(text) if text.trim().is_empty() => Ok(Vec::new()),
            Self::Variable(text) => Ok(text.split(',').map(|part| part.trim().into()).collect()),
            Self::List(values) => {
                values.iter().map(|value| value.text().map(Into::into).ok_or_else(expected)).collect()
            }
            _ => Err(expected()),
        }
    }
}
