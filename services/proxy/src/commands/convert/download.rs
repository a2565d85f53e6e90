//! [`Download`]: a blob on its way from a registry to a file, read while it grows.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use api::{Digest, Hasher};
use bytes::Bytes;
use indicatif::ProgressBar;

use crate::commands::registry::Registry;

/// How often a body may be cut before that is an error; the client tries each request several times itself.
const MAX_CUTS: u32 = 8;

/// A blob on its way.
#[derive(Debug)]
pub(super) struct Download {
    file: File,
    path: PathBuf,
    digest: Digest,
    size: u64,
    state: Mutex<State>,
    more: Condvar,
    bar: ProgressBar,
}

#[derive(Debug)]
struct State {
    /// Bytes that are there, from the first.
    front: u64,
    /// Whether no more will come.
    over: bool,
}

/// Wakes the readers when the download ends in whatever way, also by being dropped.
struct Over<'a>(&'a Download);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.state().over = true;
        self.0.more.notify_all();
    }
}

impl Download {
    /// Makes the file at `path` for the blob `digest` of `size` bytes.
    pub(super) fn create(path: &Path, digest: &Digest, size: u64, bar: ProgressBar) -> anyhow::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.with_context(|| format!("cannot create {}", path.display()))?;
        let state = Mutex::new(State { front: 0, over: false });
        Ok(Self { file, path: path.into(), digest: digest.clone(), size, state, more: Condvar::new(), bar })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the blob and checks its digest.
    pub(super) async fn fetch(self: &Arc<Self>, registry: &Registry) -> anyhow::Result<()> {
        let _over = Over(self);
        let mut hasher = Hasher::new(self.digest.algorithm());
        let mut cuts = 0;
        while let Err(error) = self.fetch_rest(registry, &mut hasher).await {
            let transient = error.downcast_ref::<upstream::UpstreamError>().is_some_and(|e| e.is_transient());
            cuts += 1;
            if !transient || cuts > MAX_CUTS {
                return Err(error.context(format!("blob {}", self.digest)));
            }
        }
        let found = hasher.finish();
        anyhow::ensure!(found == self.digest, "registry sent content with digest {found} for {}", self.digest);
        Ok(())
    }

    async fn fetch_rest(self: &Arc<Self>, registry: &Registry, hasher: &mut Hasher) -> anyhow::Result<()> {
        let mut at = self.state().front;
        let range = (at > 0).then_some(at..self.size);
        if range.as_ref().is_some_and(std::ops::Range::is_empty) {
            return Ok(());
        }
        let mut answer = registry.client.blob(&registry.name, &self.digest, range).await?;
        anyhow::ensure!(answer.total == self.size, "registry has {} bytes instead of {}", answer.total, self.size);
        // A registry without ranges sends all of it again.
        let mut skip = if answer.range.is_none() { at } else { 0 };
        while let Some(mut chunk) = answer.body.chunk().await? {
            let known = skip.min(chunk.len() as u64);
            let new = chunk.split_off(known as usize);
            skip -= known;
            hasher.update(&new);
            at = self.write(new, at).await?;
        }
        Ok(())
    }

    /// Writes `chunk` at `at` and returns where it ends.
    async fn write(self: &Arc<Self>, chunk: Bytes, at: u64) -> anyhow::Result<u64> {
        let this = Arc::clone(self);
        let end = at + chunk.len() as u64;
        let written = telemetry::blocking(move || this.file.write_all_at(&chunk, at)).await;
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.state().front = end;
        self.more.notify_all();
        self.bar.set_position(end);
        Ok(end)
    }
}

impl convert::Source for Download {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.size {
            return Ok(0);
        }
        let waiting = |state: &mut State| state.front <= offset && !state.over;
        let state = self.more.wait_while(self.state(), waiting).unwrap_or_else(PoisonError::into_inner);
        let there = state.front.saturating_sub(offset);
        drop(state);
        if there == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download ended early"));
        }
        let n = usize::try_from(there).unwrap_or(usize::MAX).min(buffer.len());
        FileExt::read_at(&self.file, &mut buffer[..n], offset)
    }
}
