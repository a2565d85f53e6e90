//! [`Workshop`]: converts the layers of an image at the same time, the longest first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use api::{Descriptor, Digest, Twin, UnconvertibleReason};
use convert::{Cancel, ConvertError, Converted, Limits, Outputs, Pool, Profile};
use estargz::Toc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::download::Download;
use super::progress::Progress;
use super::source::{Input, Source};
use crate::choices::{MAX_TOC, Tocs};
use crate::commands::table::{factor, factor_text, short, size};
use crate::conversions::{self, LayerState};

/// How long a growing twin's bytes wait for the disk.
const WRITE_OUT: Duration = Duration::from_secs(1);

/// Everything a layer's conversion needs.
#[derive(Debug)]
pub(super) struct Workshop {
    pub(super) source: Arc<Source>,
    /// The folder for unfinished files.
    pub(super) staging: PathBuf,
    pub(super) profile: Profile,
    pub(super) min_layer_size: u64,
    pub(super) pool: Arc<Pool>,
    pub(super) cancel: Cancel,
    pub(super) progress: Progress,
}

/// A source layer and what came of it.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) source: Descriptor,
    pub(super) made: Made,
    pub(super) took: Duration,
    /// The twin's bytes, where there is a twin that is not the source itself.
    pub(super) twin_file: PathBuf,
    toc_file: PathBuf,
    /// The source's bytes, proven, where they had to be fetched and are still of use.
    pub(super) local: Option<PathBuf>,
}

/// What came of a layer.
#[derive(Debug)]
pub(super) enum Made {
    /// A twin.
    Twin(Twin),
    /// The source is its own twin.
    OwnTwin(Twin),
    /// It stays as it is.
    Unconvertible { reason: UnconvertibleReason, detail: String },
    /// It is smaller than `convert.min_layer_size`.
    LeftAlone,
}

/// The layers of an image, by the digests of their sources.
#[derive(Debug, Default)]
pub(super) struct Layers(HashMap<Digest, Layer>);

impl Layers {
    pub(super) fn get(&self, source: &Digest) -> Option<&Layer> {
        self.0.get(source)
    }
}

impl Layer {
    /// Returns the twin, if there is one.
    pub(super) fn twin(&self) -> Option<&Twin> {
        match &self.made {
            Made::Twin(twin) | Made::OwnTwin(twin) => Some(twin),
            Made::Unconvertible { .. } | Made::LeftAlone => None,
        }
    }

    fn line(&self) -> String {
        let (name, before) = (short(&self.source.digest), size(self.source.size));
        match &self.made {
            Made::Twin(twin) => format!(
                "{name}  {before} -> {} ({}) in {:.1} s",
                size(twin.size),
                factor_text(factor(twin.size, self.source.size)),
                self.took.as_secs_f64()
            ),
            Made::OwnTwin(_) => format!("{name}  {before} is eStargz already"),
            Made::Unconvertible { reason, detail } => format!("{name}  {before} stays as it is ({reason}): {detail}"),
            Made::LeftAlone => format!("{name}  {before} stays as it is: smaller than convert.min_layer_size"),
        }
    }
}

impl Tocs for Layers {
    type Error = anyhow::Error;

    async fn toc(&self, twin: &Twin) -> anyhow::Result<Option<Toc>> {
        let Some(layer) = self.0.values().find(|layer| layer.twin().is_some_and(|t| t.digest == twin.digest)) else {
            return Ok(None);
        };
        if twin.toc_size > MAX_TOC {
            return Ok(None);
        }
        let path = layer.toc_file.clone();
        let toc = telemetry::blocking(move || -> anyhow::Result<Toc> { Ok(Toc::parse(&std::fs::read(&path)?)?) });
        toc.await.map(Some).context("TOC of a layer below")
    }
}

impl Workshop {
    /// Converts every layer once.
    pub(super) async fn convert(self: Arc<Self>, mut sources: Vec<Descriptor>) -> anyhow::Result<Layers> {
        sources.sort_by_key(|layer| Reverse(layer.size));
        let mut layers = Layers::default();
        let mut running = JoinSet::new();
        // As many as keep the compressors busy; each holds a bounded number of members in memory.
        let places = Arc::new(Semaphore::new(self.pool.workers() + 2));
        let mut seen = std::collections::HashSet::new();
        for source in sources {
            if !seen.insert(source.digest.clone()) {
                continue;
            }
            let place = Arc::clone(&places).acquire_owned().await.context("no place for a layer")?;
            while let Some(done) = running.try_join_next() {
                layers.add(done)?;
            }
            let this = Arc::clone(&self);
            running.spawn(async move {
                let layer = this.layer(source).await;
                drop(place);
                layer
            });
        }
        while let Some(done) = running.join_next().await {
            layers.add(done)?;
        }
        Ok(layers)
    }

    async fn layer(&self, source: Descriptor) -> anyhow::Result<Layer> {
        let started = Instant::now();
        let path = |kind: &str| self.staging.join(format!("{kind}-{}", source.digest.hex()));
        let (twin_file, toc_file, fetched) = (path("twin"), path("toc"), path("source"));
        let bar = self.progress.bar(&source.digest, source.size);
        let (made, local) = match conversions::by_descriptor(&source, self.min_layer_size) {
            Some(LayerState::Unconvertible { reason, detail }) => (Made::Unconvertible { reason, detail }, None),
            Some(LayerState::LeftAlone | LayerState::Ready(_) | LayerState::Converting(_) | LayerState::Postponed) => {
                (Made::LeftAlone, None)
            }
            None => {
                let input = self.source.layer(&source, &fetched, bar.clone())?;
                let is_fetched = matches!(input, Input::Download(_));
                let made = self.make(input, &twin_file, &toc_file).await;
                let made = made.with_context(|| format!("layer {}", source.digest))?;
                let local = (is_fetched && !matches!(made, Made::Twin(_))).then(|| fetched.clone());
                if is_fetched && local.is_none() {
                    std::fs::remove_file(&fetched).with_context(|| format!("cannot remove {}", fetched.display()))?;
                }
                (made, local)
            }
        };
        let layer = Layer { source, made, took: started.elapsed(), twin_file, toc_file, local };
        self.progress.done(&bar, &layer.line());
        Ok(layer)
    }

    /// Converts `input`, fetching it meanwhile where it is not here, and proves that it was what it should be.
    async fn make(&self, input: Input, twin: &Path, toc: &Path) -> anyhow::Result<Made> {
        match input {
            Input::File(file) => {
                let (file, result) = self.convert_one(*file, twin, toc).await?;
                telemetry::blocking(move || file.prove()).await?;
                made(result)
            }
            Input::Download(download) => {
                let Source::Registry { registry, .. } = &*self.source else { anyhow::bail!("nothing to fetch from") };
                let converting = self.convert_one(Growing(Arc::clone(&download)), twin, toc);
                let (fetched, converted) = tokio::join!(download.fetch(registry), converting);
                // Wrong or missing bytes explain whatever the conversion says of them.
                fetched?;
                made(converted?.1)
            }
        }
    }

    /// Converts on the pool for blocking work; gives the source back.
    async fn convert_one<S: convert::Source + 'static>(
        &self,
        source: S,
        twin: &Path,
        toc: &Path,
    ) -> anyhow::Result<(S, Result<Converted, ConvertError>)> {
        let open = |path: &Path| {
            let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
            file.with_context(|| format!("cannot create {}", path.display()))
        };
        let (mut twin, mut toc) = (open(twin)?, open(toc)?);
        let written = twin.try_clone().context("cannot write the twin out")?;
        let (staging, profile) = (self.staging.clone(), self.profile);
        let (pool, cancel) = (Arc::clone(&self.pool), self.cancel.clone());
        let work = telemetry::blocking(move || {
            let outputs = Outputs { twin: &mut twin, toc: &mut toc, scratch: &staging };
            let result = convert::convert(&source, outputs, &profile, &Limits::default(), &pool, &cancel, &|_| {});
            (source, result)
        });
        tokio::select! {
            done = work => Ok(done),
            never = write_out(written) => match never {},
        }
    }
}

/// Has the growing `file` written to the disk now and then, so that its end does not wait for all of it. What goes
/// wrong here goes wrong at the end too, where it is told.
async fn write_out(file: File) -> Infallible {
    let file = Arc::new(file);
    loop {
        tokio::time::sleep(WRITE_OUT).await;
        let file = Arc::clone(&file);
        telemetry::blocking(move || drop(file.sync_data())).await;
    }
}

impl Layers {
    fn add(&mut self, done: Result<anyhow::Result<Layer>, tokio::task::JoinError>) -> anyhow::Result<()> {
        let layer = done.context("a conversion ended without a result")??;
        self.0.insert(layer.source.digest.clone(), layer);
        Ok(())
    }
}

/// A download as the source of a conversion.
struct Growing(Arc<Download>);

impl convert::Source for Growing {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
}

fn made(result: Result<Converted, ConvertError>) -> anyhow::Result<Made> {
    match result {
        Ok(Converted::Twin(twin)) => Ok(Made::Twin(twin)),
        Ok(Converted::OwnTwin(twin)) => Ok(Made::OwnTwin(twin)),
        Err(ConvertError::Unconvertible { reason, detail }) => Ok(Made::Unconvertible { reason, detail }),
        Err(error) => Err(error.into()),
    }
}
