//! [`Profile`]: all that decides a twin's bytes.

use serde::Serialize;

use crate::members::STREAM_LEVEL;

/// Raised with every change that gives any layer another twin.
const CONVERTER_VERSION: u32 = 1;
const COMPRESSOR: &str = "libdeflate";
/// The version that libdeflate-sys builds; its output may change with it.
const COMPRESSOR_VERSION: &str = "1.26";
/// Compresses TOCs that are too long for one call of the compressor, at [`STREAM_LEVEL`].
const STREAM_COMPRESSOR: &str = "zlib-rs";
/// The version that the lock file names; its output may change with it.
const STREAM_COMPRESSOR_VERSION: &str = "0.6.8";

/// All that decides a twin's bytes, given the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// The compression level, 1 to 12.
    pub level: u8,
    /// The most bytes of a file in one chunk, at least 4096.
    pub chunk_size: u32,
}

impl Default for Profile {
    fn default() -> Self {
        Self { level: 5, chunk_size: 1 << 20 }
    }
}

/// A profile with all its constants, to be kept beside what was made under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// The version of the converter.
    pub converter: u32,
    /// The compressor's name.
    pub compressor: &'static str,
    /// The compressor's version.
    pub compressor_version: &'static str,
    /// The compressor of long TOCs.
    pub stream_compressor: &'static str,
    /// Its version.
    pub stream_compressor_version: &'static str,
    /// The level of long TOCs.
    pub stream_level: u32,
    /// The compression level.
    pub level: u8,
    /// The most bytes of a file in one chunk.
    pub chunk_size: u32,
}

impl Profile {
    /// Returns a short text that is equal for equal profiles only.
    pub fn id(&self) -> String {
        let stream = format!("{STREAM_COMPRESSOR}{STREAM_COMPRESSOR_VERSION}-l{STREAM_LEVEL}");
        format!("v{CONVERTER_VERSION}-{COMPRESSOR}{COMPRESSOR_VERSION}-l{}-c{}-{stream}", self.level, self.chunk_size)
    }

    /// Returns the profile with all its constants.
    pub fn describe(&self) -> Description {
        Description {
            converter: CONVERTER_VERSION,
            compressor: COMPRESSOR,
            compressor_version: COMPRESSOR_VERSION,
            stream_compressor: STREAM_COMPRESSOR,
            stream_compressor_version: STREAM_COMPRESSOR_VERSION,
            stream_level: STREAM_LEVEL,
            level: self.level,
            chunk_size: self.chunk_size,
        }
    }

    /// The level as libdeflate takes it; out of bounds becomes the nearest bound.
    pub(crate) fn clamped_level(&self) -> u8 {
        self.level.clamp(1, 12)
    }

    pub(crate) fn clamped_chunk_size(&self) -> u64 {
        u64::from(self.chunk_size.clamp(4096, 64 << 20))
    }
}
