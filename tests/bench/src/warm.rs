//! [`Warm`]: a proxy that has what it is asked for.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::web::{self, Pace};
use e2e::{Backing, Node, Proxy, ProxyOptions, Seaweed, wait};

use crate::layout::{Layer, Layout};
use crate::upstream::{Upstream, blob, repository};
use crate::wire::{Gauge, Wire};

/// Where a proxy keeps its blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// Files in a directory, the catalog in SQLite.
    Directory,
    /// A bucket of SeaweedFS behind a disk cache that holds everything, the catalog in PostgreSQL.
    S3,
}

/// A proxy in the original view that has layers of an image.
#[derive(Debug)]
pub(crate) struct Warm {
    proxy: Proxy,
    /// `None` for a directory.
    backing: Option<Backing>,
    _wire: Wire,
}

impl Warm {
    /// Starts a proxy and has it fetch the layers. One on S3 then starts anew, with an empty disk cache, and reads each
    /// of them once from the bucket, as a replica does that did not fetch them itself.
    ///
    /// # Errors
    /// A server did not start, a blob could not be read, or was not kept because the disk is full.
    pub(crate) fn start(store: Store, upstream: &Upstream, image: &Layout, layers: &[&Layer]) -> Result<Self> {
        let wire = Wire::start(upstream.at(), Gauge::NEAR)?;
        let backing = (store == Store::S3).then(Backing::shared).transpose()?;
        let options = ProxyOptions::new(wire.at());
        let options = match &backing {
            Some(backing) => backing.under(options.config("[cache]\ndisk_cache_size = \"50GiB\"\n")),
            None => options,
        };
        let mut warm = Self { proxy: Proxy::start(&Node::Machine, options)?, backing, _wire: wire };
        warm.read(&format!("/v2/{}/manifests/{}", repository(image), image.digest()?))?;
        warm.read_layers(image, layers)?;
        warm.wait_idle()?;
        let passed_on = warm.proxy.metric("firstlight_uncached_streams_total")?;
        ensure!(passed_on == 0.0, "{passed_on} blobs were not kept:\n{}", warm.proxy.log());
        if store == Store::S3 {
            let before = warm.bucket_reads()?;
            warm.proxy.restart()?;
            warm.read_layers(image, layers)?;
            ensure!(warm.bucket_reads()? > before, "nothing came out of the bucket");
        }
        Ok(warm)
    }

    /// Waits for what reading starts: what is read must not share the machine with a download or a conversion.
    fn wait_idle(&self) -> Result<()> {
        wait::until("fills and conversions to end", Duration::from_secs(300), || {
            let fills = self.proxy.metric("firstlight_fills_running")?;
            let conversions = self.proxy.metric("firstlight_conversions_running")?;
            Ok((fills + conversions == 0.0).then_some(()))
        })
    }

    /// Returns its address.
    pub(crate) fn at(&self) -> SocketAddrV4 {
        self.proxy.at()
    }

    /// Returns its process id.
    pub(crate) fn pid(&mut self) -> u32 {
        self.proxy.proc().pid()
    }

    /// Returns how many reads the bucket has answered so far; 0 without one.
    ///
    /// # Errors
    /// The S3 server did not say.
    pub(crate) fn bucket_reads(&self) -> Result<u64> {
        self.backing.as_ref().map_or(Ok(0), |backing| Seaweed::shared()?.requests(backing.bucket(), "GET"))
    }

    fn read_layers(&self, image: &Layout, layers: &[&Layer]) -> Result<()> {
        for layer in layers {
            let bytes = self.read(&blob(image, layer))?;
            ensure!(bytes == layer.size, "{}: {bytes} of {} bytes", layer.digest, layer.size);
        }
        Ok(())
    }

    fn read(&self, path: &str) -> Result<u64> {
        let accept = [("accept".to_owned(), web::MANIFEST_TYPES.to_owned())];
        let whole = web::download(self.at(), path, &accept, Pace::default())?;
        ensure!(whole.status.is_success(), "{path}: {}\n{}", whole.status, self.proxy.log());
        Ok(whole.bytes)
    }
}
