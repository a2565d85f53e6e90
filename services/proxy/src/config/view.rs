//! [`View`]: which of an image's two faces a tag shows.

use std::fmt;

use serde::Serialize;

/// Which of an image's two faces a tag shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// The manifest whose layers are the twins.
    Estargz,
    /// The bytes of the upstream.
    Original,
}

impl View {
    /// Returns the view called `text` in configuration and headers, or `None`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Estargz, Self::Original].into_iter().find(|view| view.as_str() == text)
    }

    /// Returns the view's name in configuration, headers and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Estargz => "estargz",
            Self::Original => "original",
        }
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
