//! Takes up the fills that an earlier process left, or one of the fleet that died.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::Repository;
use catalog::{CatalogError, FillRow};

use super::journal::{Journal, is_spools, spool_path};
use super::registry::{Key, key};
use super::source::work;
use super::{FillError, Fills, Joined};
use crate::fleet::Claimed;

/// The fills of others that are taken up at once.
const AT_ONCE: u32 = 16;

impl Fills {
    /// Takes up the fills an earlier process left, with `client_of` naming each one's upstream, and
    /// removes every spool that belongs to no fill, and what else lies in the folder. For the start, before the first request. What it does not
    /// have a spool of, a process whose spools the others cannot read leaves to them.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn take_up(
        self: &Arc<Self>,
        client_of: impl Fn(&Repository) -> Option<upstream::Client>,
    ) -> Result<(), FillError> {
        let mut rows = self.catalog.abandoned_fills(self.idle(), u32::MAX).await?;
        rows.retain(|row| self.fleet.is_readable() || self.spool_of(row).try_exists().unwrap_or(false));
        let folder = self.folder.clone();
        telemetry::blocking(move || remove_drafts(&folder)).await;
        self.sweep().await?;
        self.begin_again(rows, client_of).await
    }

    /// Takes up some of the fills that other processes left, where these can read what this one fills: any of them may
    /// have a client that waits.
    ///
    /// # Errors
    /// The catalog's.
    pub(crate) async fn take_over(
        self: &Arc<Self>,
        client_of: impl Fn(&Repository) -> Option<upstream::Client>,
    ) -> Result<(), FillError> {
        self.sweep().await?;
        if !self.fleet.is_readable() {
            return Ok(());
        }
        let mut rows = self.catalog.abandoned_fills(self.idle(), AT_ONCE).await?;
        rows.retain(|row| !self.is_running(row));
        self.begin_again(rows, client_of).await
    }

    async fn begin_again(
        self: &Arc<Self>,
        rows: Vec<FillRow>,
        client_of: impl Fn(&Repository) -> Option<upstream::Client>,
    ) -> Result<(), FillError> {
        for row in rows {
            match client_of(&row.repository) {
                Some(client) => {
                    tokio::spawn(Arc::clone(self).go_on(row, client));
                }
                None => self.end_leftover(&row).await?,
            }
        }
        Ok(())
    }

    /// How long nobody must have had the lease of a fill before it is taken up. Who followed the process that died has the
    /// bytes, and claims it as soon as it can.
    fn idle(&self) -> Duration {
        self.fleet.lease_time().unwrap_or_default()
    }

    /// Goes on with a fill, unless another process does.
    async fn go_on(self: Arc<Self>, row: FillRow, client: upstream::Client) {
        let ended = match self.join_left(&client, &row.repository, &row.digest).await {
            Ok(Joined::Running(_)) => return,
            Ok(Joined::Stored(_)) => self.drop_leftover(&row).await,
            Err(error) if matches!(*error, FillError::HeldElsewhere) => return self.drop_spool(&row).await,
            Err(error) => {
                tracing::warn!(
                    blob.digest = %row.digest, repo.name = %row.repository,
                    error = &error as &dyn std::error::Error, "an earlier fill could not be taken up"
                );
                if error.is_passing() {
                    // The next look finds it again.
                    return;
                }
                self.drop_leftover(&row).await
            }
        };
        if let Err(error) = ended {
            tracing::warn!(blob.digest = %row.digest, %error, "the end of a fill could not be recorded");
        }
    }

    async fn drop_leftover(&self, row: &FillRow) -> Result<(), CatalogError> {
        self.drop_spool(row).await;
        self.end_leftover(row).await
    }

    /// Ends the fill of `row`, unless it runs by now, here or elsewhere.
    async fn end_leftover(&self, row: &FillRow) -> Result<(), CatalogError> {
        if self.is_running(row) {
            return Ok(());
        }
        match self.fleet.claim(&work(&row.repository, &row.digest)).await? {
            Claimed::Mine(lease) => lease.end_fill(&row.digest, row.repository.upstream()).await,
            Claimed::Theirs(_) => Ok(()),
        }
    }

    async fn drop_spool(&self, row: &FillRow) {
        if !self.is_running(row) {
            let path = self.spool_of(row);
            telemetry::blocking(move || Journal::remove(&path)).await;
        }
    }

    fn is_running(&self, row: &FillRow) -> bool {
        self.running().contains_key(&key(&row.repository, &row.digest))
    }

    fn spool_of(&self, row: &FillRow) -> PathBuf {
        self.spool_of_key(&key(&row.repository, &row.digest))
    }

    // --- spools that are nobody's

    /// Removes every spool that belongs to no fill: an earlier process left it, and somebody else has ended that fill. One
    /// that goes on elsewhere may be taken over here yet, with the bytes that are here.
    async fn sweep(self: &Arc<Self>) -> Result<(), CatalogError> {
        let fills = Arc::clone(self);
        let mut left = telemetry::blocking(move || {
            let mut left = spools_in(&fills.folder);
            let running: Vec<Key> = fills.running().keys().cloned().collect();
            for key in &running {
                left.remove(&fills.spool_of_key(key));
            }
            left
        })
        .await;
        if left.is_empty() {
            return Ok(());
        }
        for row in self.catalog.unfinished_fills().await? {
            left.remove(&self.spool_of(&row));
        }
        let fills = Arc::clone(self);
        telemetry::blocking(move || left.iter().for_each(|path| fills.remove_unused(path))).await;
        Ok(())
    }

    fn remove_unused(&self, path: &Path) {
        // Held until the file is gone, so that no fill begins to use it.
        let running = self.running();
        if !running.keys().any(|key| self.spool_of_key(key) == path) {
            Journal::remove(path);
        }
    }

    fn spool_of_key(&self, (upstream, digest): &Key) -> PathBuf {
        spool_path(&self.folder, upstream, digest)
    }
}

/// Returns the spools in a folder, each by its own path, whether it or only its journal is there.
fn spools_in(folder: &Path) -> HashSet<PathBuf> {
    files_in(folder).into_iter().filter(|path| is_spools(path)).map(|path| path.with_extension("spool")).collect()
}

/// Removes what is no spool: what conversions of an earlier process were writing.
fn remove_drafts(folder: &Path) {
    for path in files_in(folder).into_iter().filter(|path| !is_spools(path)) {
        Journal::remove(&path);
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect(),
        Err(error) => {
            tracing::warn!(path = %folder.display(), %error, "the spool folder could not be read");
            Vec::new()
        }
    }
}
