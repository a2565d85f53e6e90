//! [`Images`]: the images that are measured with.

mod generated;

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

pub(crate) use generated::Generated;

use crate::layout::Layout;
use crate::measured::measure;
use crate::report::say;

/// The images that are measured with, built at most once for each version of what builds them.
#[derive(Debug)]
pub(crate) struct Images {
    debian: PathBuf,
    generated: PathBuf,
}

impl Images {
    /// Returns the images, built if they are not there: some 600 MB of Debian packages, and about five minutes.
    ///
    /// # Errors
    /// A build failed.
    pub(crate) fn get() -> Result<Self> {
        let parent = e2e::workspace("target").join("bench-images");
        std::fs::create_dir_all(&parent)?;
        let lock = File::create(parent.join("lock"))?;
        lock.lock()?;
        let script = e2e::workspace("tests/bench/images.sh");
        let recipe = std::fs::read(&script).with_context(|| script.display().to_string())?;
        let debian = parent.join(format!("debian-{}", version(&recipe)));
        if !debian.try_exists()? {
            say("building images of Debian packages; this takes some minutes, once");
            measure(Command::new(&script).arg(&debian))?;
        }
        let generated = parent.join(format!("generated-{}", version(include_bytes!("images/generated.rs"))));
        for image in Generated::ALL {
            build(image, &generated)?;
        }
        Ok(Self { debian, generated })
    }

    /// Returns a Debian root with build tools and python3: some 600 MiB in six layers, one of about 150 bytes.
    pub(crate) fn python(&self) -> Layout {
        Layout::new(&self.debian, "python")
    }

    /// Returns a Debian root with nginx.
    pub(crate) fn nginx(&self) -> Layout {
        Layout::new(&self.debian, "nginx")
    }

    /// Returns an image of one layer that was made up.
    pub(crate) fn generated(&self, image: Generated) -> Layout {
        Layout::new(&self.generated.join(image.tag()), image.tag())
    }
}

/// Builds a made-up image; its folder appears only when it is complete.
fn build(image: Generated, parent: &Path) -> Result<()> {
    let dir = parent.join(image.tag());
    if dir.try_exists()? {
        return Ok(());
    }
    say(&format!("making image {}", image.tag()));
    let new = parent.join(format!("{}.new", image.tag()));
    match std::fs::remove_dir_all(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    std::fs::create_dir_all(new.join("blobs/sha256"))?;
    image.write(&Layout::new(&new, image.tag())).with_context(|| format!("image {}", image.tag()))?;
    Ok(std::fs::rename(&new, &dir)?)
}

/// Names a version of a recipe.
fn version(recipe: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(recipe);
    format!("{:016x}", hasher.finish())
}
