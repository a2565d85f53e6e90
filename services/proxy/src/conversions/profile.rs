//! [`KnownProfile`]: a profile that twins are made under, now or earlier.

use super::Conversions;
use crate::config;
use crate::records::Records;
use crate::stock::StockError;

/// A profile by its id, and its settings where this program makes the same bytes under it.
#[derive(Debug, Clone)]
pub(crate) struct KnownProfile {
    id: String,
    settings: Option<convert::Profile>,
}

impl KnownProfile {
    /// Returns a profile of this program's.
    pub(crate) fn of(settings: convert::Profile) -> Self {
        Self { id: settings.id(), settings: Some(settings) }
    }

    /// Returns the profile `id` of which the catalog keeps `description`.
    fn recorded(id: String, description: &str) -> Self {
        #[derive(serde::Deserialize)]
        struct Recorded {
            level: u8,
            chunk_size: u32,
        }
        let recorded: Option<Recorded> = serde_json::from_str(description).ok();
        let settings = recorded.map(|Recorded { level, chunk_size }| convert::Profile { level, chunk_size });
        // Under another version of the converter the same settings have another id.
        let settings = settings.filter(|settings| settings.id() == id);
        Self { id, settings }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the settings, or `None` where this program would make other bytes under them.
    pub(crate) const fn settings(&self) -> Option<convert::Profile> {
        self.settings
    }

    /// Returns the profile with all its constants, as JSON; empty where this program cannot make it.
    pub(crate) fn describe(&self) -> String {
        self.settings.and_then(|settings| serde_json::to_string(&settings.describe()).ok()).unwrap_or_default()
    }
}

impl Conversions {
    /// Returns the profile `id`, under which something was made.
    ///
    /// # Errors
    /// The catalog's or the store's.
    pub(crate) async fn known_profile(&self, id: String) -> Result<KnownProfile, StockError> {
        if id == self.profile.id {
            return Ok(self.profile.clone());
        }
        let description = Records::new(&self.catalog, &self.store).description_of(&id).await?.unwrap_or_default();
        Ok(KnownProfile::recorded(id, &description))
    }
}

/// Returns the profile that `config` asks for.
pub(crate) fn profile(config: &config::Convert) -> convert::Profile {
    let chunk_size = u32::try_from(config.chunk_size.bytes()).unwrap_or(u32::MAX);
    convert::Profile { level: config.level, chunk_size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_profile_is_made_by_the_program_that_recorded_it() {
        let settings = convert::Profile { level: 9, chunk_size: 8192 };
        let ours = KnownProfile::of(settings);
        let again = KnownProfile::recorded(ours.id().to_owned(), &ours.describe());
        assert_eq!(again.settings(), Some(settings));
        let theirs = KnownProfile::recorded("another converter".to_owned(), &ours.describe());
        assert_eq!((theirs.settings(), theirs.id()), (None, "another converter"));
        assert_eq!(KnownProfile::recorded(ours.id().to_owned(), "").settings(), None);
    }
}
