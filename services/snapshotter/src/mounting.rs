//! [`Mounting`]: the file systems of lazy snapshots, mounted and served.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::files::LazyMount;
use crate::folders::Place;
use crate::fuse::{self, Notifier, Session};
use crate::holder::Keeper;

/// The threads that answer the kernel; those that wait for the network are not among them.
const FUSE_THREADS: usize = 4;

/// The file systems of lazy snapshots while they are mounted: one for all layers that have extended attributes, one for those
/// that have none.
#[derive(Debug)]
pub(crate) struct Mounting {
    mounts: Vec<(PathBuf, Session)>,
    keeper: Keeper,
}

impl Mounting {
    /// Goes on with what an earlier process mounted below `root`, if a holder has kept it; else mounts it anew.
    ///
    /// # Errors
    /// It cannot be mounted or served, or the holder does not answer.
    pub(crate) fn start(
        root: &Path,
        files: impl Fn(&Path) -> LazyMount,
        holder: &Path,
        ended: impl Fn() + Clone + Send + 'static,
    ) -> anyhow::Result<Self> {
        let keeper = Keeper::new(holder);
        let kept = keeper.take().context("the holder does not answer")?;
        if !keeper.has_holder() {
            tracing::warn!("there is no holder: when this process ends, lazy containers lose their files");
        }
        let places = Place::LAZY.map(|place| place.folder(root));
        let mut kept = (if kept.len() == places.len() { kept } else { Vec::new() }).into_iter();
        let (mut devices, mut is_new) = (Vec::new(), false);
        for at in &places {
            let is_mounted = fuse::is_mounted(at).context("cannot read what is mounted")?;
            devices.push(match kept.next().filter(|device| is_mounted && fuse::is_alive(device)) {
                Some(device) => {
                    fuse::resend(&device);
                    device
                }
                None => {
                    is_new = true;
                    Self::mount(at)?
                }
            });
        }
        if is_new {
            keeper.keep(&devices).context("the holder does not answer")?;
        } else {
            tracing::info!("going on with what is mounted");
        }
        let start = |((place, at), device): ((Place, PathBuf), File)| {
            let session =
                Session::start(device, &Arc::new(files(&at)), FUSE_THREADS, place == Place::Lazy, ended.clone());
            Ok((at, session.context("cannot start a thread")?))
        };
        let mounts = Place::LAZY.into_iter().zip(places).zip(devices).map(start).collect::<anyhow::Result<_>>()?;
        Ok(Self { mounts, keeper })
    }

    /// Mounts it, in place of one whose process died.
    fn mount(at: &Path) -> anyhow::Result<File> {
        fuse::unmount(at).with_context(|| format!("cannot unmount {}", at.display()))?;
        fs::create_dir_all(at).with_context(|| format!("cannot make the folder {}", at.display()))?;
        let mounted = fuse::mount(at).map_err(|(action, error)| {
            anyhow::Error::new(error).context(format!("cannot {action} {}", at.display()))
        })?;
        tracing::info!(at = %at.display(), "mounted");
        Ok(mounted)
    }

    /// Returns how the kernel is told what of each to forget.
    pub(crate) fn notifiers(&self) -> Vec<Notifier> {
        self.mounts.iter().map(|(_, session)| session.notifier()).collect()
    }

    /// Leaves what is mounted with the holder that there is now, where another one had it: it may have been started again, or later.
    pub(crate) fn renew(&self) {
        let devices: Vec<_> = self.mounts.iter().map(|(_, session)| session.device()).collect();
        match self.keeper.renew(&devices) {
            Ok(true) => tracing::info!("a holder keeps what is mounted from now on"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the holder does not take what is mounted"),
        }
    }

    /// Takes it away, unless it is held for the next process.
    pub(crate) fn end(&self) {
        self.renew();
        if self.keeper.has_holder() {
            fuse::leave();
            return;
        }
        // Who still uses it keeps it until this process has ended.
        for (at, _) in &self.mounts {
            if let Err(error) = fuse::unmount(at) {
                tracing::error!(%error, at = %at.display(), "the lazy snapshots stay mounted");
            }
        }
    }
}
