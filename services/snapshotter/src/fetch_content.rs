//! [`fetch_content`]: brings the blobs of an image that was mounted lazily into containerd's content store, for export and push.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use api::{Descriptor, Digest, MediaType, Parsed, RepositoryName};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;
use upstream::Client;

use crate::clients::Clients;
use crate::config::Config;
use crate::containerd::{Blob, Containerd};
use crate::layer::Place;
use crate::layers::Via;
use crate::proxies::Proxies;
use crate::registries::Registries;
use crate::wanted::repository;

/// How long what was fetched stays where nothing else keeps it, as with CRI's `discard_unpacked_layers`.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How many documents an image may be made of.
const MOST_DOCUMENTS: usize = 100;

/// What became of the layers of an image.
#[derive(Debug, Serialize)]
pub struct Fetched {
    image: String,
    layers: Vec<FetchedLayer>,
}

#[derive(Debug, Serialize)]
struct FetchedLayer {
    layer: Digest,
    size: u64,
    /// Whether it was there before.
    was_there: bool,
}

impl fmt::Display for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for FetchedLayer { layer, size, was_there } in &self.layers {
            let what = if *was_there { "was there" } else { "fetched" };
            writeln!(f, "{layer}  {:>12}  {what}", HumanBytes(*size).to_string())?;
        }
        writeln!(f, "{}: all layers are in containerd's content store", self.image)
    }
}

/// Brings what is missing of `image`, a name as containerd lists it in `namespace`, from the proxy that stands for its registry or
/// from that registry and its mirrors. Says how far it is on standard error.
///
/// # Errors
/// Says what could not be read, fetched or kept.
pub async fn fetch_content(config: &Config, namespace: &str, image: &str) -> anyhow::Result<Fetched> {
    let (host, name) = repository(image).with_context(|| {
        format!("{image:?} has no registry and repository: give the name that `ctr images ls` shows")
    })?;
    let mut containerd = Containerd::connect(&config.containerd, namespace).await?;
    let (target, media_type) = containerd.image(image).await.with_context(|| {
        format!("containerd does not know {image} in the namespace {namespace:?}: pull it first, or say --namespace")
    })?;
    let clients =
        Clients { proxies: Arc::new(Proxies::new(&config.proxy)?), registries: Arc::new(Registries::new(config)) };
    let sources = sources(&clients, &host, &name)?;
    containerd.keep_for(KEPT).await?;
    let mut fetched = Fetched { image: image.to_owned(), layers: Vec::new() };
    for layer in layers(&containerd, target, media_type).await? {
        let was_there = containerd.has(&layer.digest).await?;
        // Also one that was there: only what is put is kept.
        fetch(&containerd, &sources, &name, &layer, was_there).await?;
        let Descriptor { digest, size, .. } = layer;
        fetched.layers.push(FetchedLayer { layer: digest, size, was_there });
    }
    Ok(fetched)
}

/// Returns who may have an image's layers: the proxy, then the registry itself and its mirrors.
fn sources(clients: &Clients, registry: &str, name: &RepositoryName) -> anyhow::Result<Vec<Client>> {
    let place = |via, host: String| Place { via, registry: registry.to_owned(), host, name: name.clone() };
    let places = [Via::Proxy, Via::Registry]
        .into_iter()
        .flat_map(|via| clients.hosts(via, registry).into_iter().map(move |host| place(via, host)));
    let (mut found, mut failed) = (Vec::new(), None);
    for place in places {
        match clients.of(&place) {
            Ok(client) => found.push(client),
            Err(error) => failed = Some(error),
        }
    }
    match failed.filter(|_| found.is_empty()) {
        Some(error) => Err(error.into()),
        None => Ok(found),
    }
}

/// Returns the layers of an image's manifest, or of those of its index that are here.
async fn layers(containerd: &Containerd, target: Digest, media_type: String) -> anyhow::Result<Vec<Descriptor>> {
    let mut documents = vec![(target, MediaType::parse(&media_type))];
    let mut layers: Vec<Descriptor> = Vec::new();
    let mut read = 0;
    while let Some((digest, media_type)) = documents.pop() {
        read += 1;
        if read > MOST_DOCUMENTS {
            bail!("the image is made of more than {MOST_DOCUMENTS} documents");
        }
        let bytes = containerd.read(&digest).await?;
        let parsed = Parsed::parse(&bytes, &media_type).with_context(|| format!("{digest} is no manifest"))?;
        match parsed {
            Parsed::Manifest(manifest) => layers.extend(manifest.layers),
            Parsed::Index(index) => {
                for child in index.manifests {
                    // Of other platforms it is not.
                    if containerd.has(&child.digest).await? {
                        documents.push((child.digest, child.media_type));
                    }
                }
            }
            Parsed::Opaque(kind) => bail!("{digest} is of the type {kind}, which is no image's"),
        }
    }
    let mut known = std::collections::HashSet::new();
    layers.retain(|layer| known.insert(layer.digest.clone()));
    Ok(layers)
}

async fn fetch(
    containerd: &Containerd,
    sources: &[Client],
    name: &RepositoryName,
    layer: &Descriptor,
    was_there: bool,
) -> anyhow::Result<()> {
    let bar = if was_there { ProgressBar::hidden() } else { progress(layer) };
    let blob = Blob { name, digest: &layer.digest, size: layer.size };
    let mut failed = None;
    for client in sources {
        bar.reset();
        match containerd.put(blob, client, |bytes| bar.inc(bytes)).await {
            Ok(()) => {
                bar.finish_and_clear();
                return Ok(());
            }
            Err(error) => failed = Some(error),
        }
    }
    bar.finish_and_clear();
    Err(failed.map_or_else(|| anyhow::anyhow!("nobody to fetch it from"), anyhow::Error::from))
}

/// Returns a bar at a terminal; elsewhere a line says what is fetched.
fn progress(layer: &Descriptor) -> ProgressBar {
    let mut said = std::io::stderr().lock();
    if !said.is_terminal() {
        // Nobody reads it; the result says it too.
        let _unread = writeln!(said, "fetching {}, {}", layer.digest, HumanBytes(layer.size));
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(layer.size).with_message(layer.digest.hex().chars().take(12).collect::<String>());
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes:>11} of {total_bytes:>11} {bytes_per_sec}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
