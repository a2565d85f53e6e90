//! [`Convert`]: how layers are converted.

use std::num::NonZero;
use std::time::Duration;

use api::Platform;
use serde::{Serialize, Serializer};

use super::duration;
use super::section::Section;
use super::size::ByteSize;
use super::value::Value;

/// `[convert]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Convert {
    /// Whether layers are converted at all. Default true; false serves originals only.
    pub enabled: bool,
    /// The longest a GET by tag waits for twins. Default `3s`, at most `5m`.
    #[serde(serialize_with = "duration::serialize")]
    pub wait: Duration,
    /// The compression level, 1 to 12. Default 5.
    pub level: u8,
    /// The size of a chunk: a power of two from 64KiB to 64MiB. Default `1MiB`.
    pub chunk_size: ByteSize,
    /// The compressing threads, at most 1024; 0 means one a core. Default 0.
    pub workers: usize,
    /// The children of an index that are converted; 1 to 32. Default `linux/amd64`.
    #[serde(serialize_with = "platforms_as_text")]
    pub platforms: Vec<Platform>,
    /// Layers smaller than this are left as they are. Default 0.
    pub min_layer_size: ByteSize,
}

impl Convert {
    /// Returns the number of compressing threads, at least 1.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            workers => workers,
        }
    }

    pub(super) fn read(section: &mut Section) -> Self {
        Self {
            enabled: section.or("enabled", true, Value::boolean),
            wait: section.or("wait", Duration::from_secs(3), |value| duration::at_most(value, 5 * 60)),
            level: section.or("level", 5, |value| value.number(1, 12)),
            chunk_size: section.or("chunk_size", ByteSize(1 << 20), chunk_size),
            workers: section.or("workers", 0, |value| value.number(0, 1024)),
            platforms: section.or(
                "platforms",
                vec![Platform { os: "linux".into(), architecture: "amd64".into(), variant: None }],
                platforms,
            ),
            min_layer_size: section.or("min_layer_size", ByteSize(0), ByteSize::read),
        }
    }
}

fn chunk_size(value: &Value) -> Result<ByteSize, String> {
    let size = ByteSize::read(value)?;
    // Smaller chunks cost more in the TOC than they save; larger ones must be held in memory whole.
    if size.bytes().is_power_of_two() && (64 << 10..=64 << 20).contains(&size.bytes()) {
        Ok(size)
    } else {
        Err(value.expected("a power of two from 64KiB to 64MiB"))
    }
}

fn platforms(value: &Value) -> Result<Vec<Platform>, String> {
    const MOST: usize = 32;
    let texts = value.texts()?;
    if texts.is_empty() || texts.len() > MOST {
        return Err(format!("expected 1 to {MOST} platforms; set convert.enabled = false to convert nothing"));
    }
    let mut platforms: Vec<Platform> = Vec::with_capacity(texts.len());
    for text in texts {
        let platform = Platform::parse(&text)
            .ok_or_else(|| format!("{text:?} is not a platform such as linux/amd64 or linux/arm/v7"))?;
        if platforms.contains(&platform) {
            return Err(format!("{platform} is there twice"));
        }
        platforms.push(platform);
    }
    Ok(platforms)
}

fn platforms_as_text<S: Serializer>(platforms: &[Platform], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(platforms.iter().map(ToString::to_string))
}
