//! [`Info`]: what is known of a snapshot, in containerd's terms.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Words that clients put on a snapshot.
pub type Labels = BTreeMap<String, String>;

/// What a snapshot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read only, for a while.
    View,
    /// Written to, until it is committed or removed.
    Active,
    /// Never changed again; others may stand on it.
    Committed,
}

/// A moment: seconds since 1970 (UTC), and nanoseconds below one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment(pub i64, pub i32);

/// What a snapshot takes of the disk, without what it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes that are allocated.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its name, which containerd calls key while it is not committed.
    pub name: String,
    /// What it stands on.
    pub parent: Option<String>,
    /// What it is for.
    pub kind: Kind,
    /// When it was made, or committed.
    pub created_at: Moment,
    /// When its labels last changed.
    pub updated_at: Moment,
    /// What clients say of it.
    pub labels: Labels,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        })
    }
}

impl Moment {
    /// Returns this moment, by the machine's clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_secs()).unwrap_or(i64::MAX), i32::try_from(since.subsec_nanos()).unwrap_or(0))
    }

    /// Returns the whole seconds since another moment, itself in seconds since 1970; 0 if this one is earlier.
    pub(crate) fn seconds_since(self, earlier: i64) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier)).unwrap_or(0)
    }
}
