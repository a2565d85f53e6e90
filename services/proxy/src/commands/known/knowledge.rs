//! [`Knowledge`]: what is known of an image, and how it is shown.

use std::io::{self, Write};

use api::{Descriptor, Digest, MediaType, Twin};
use serde::Serialize;

use crate::commands::table::{Side, Table, factor, factor_text, short, shown, size};

/// What is known of an image.
#[derive(Debug, Default, Serialize)]
pub struct Knowledge {
    /// The digest of its manifest or index.
    pub digest: Option<Digest>,
    /// Its media type, if it is stored.
    pub media_type: Option<MediaType>,
    /// Whether the manifest or index is stored.
    pub cached: bool,
    /// How far the repository is linked to it: `none`, `named` or `linked`.
    pub link: Option<&'static str>,
    /// The digest of its estargz view, once there is one.
    pub estargz: Option<Digest>,
    /// Whether the digest asked for is that of the estargz view.
    pub asked_for_view: bool,
    /// The images, those of an index that are converted.
    pub images: Vec<KnownImage>,
    /// The children of an index that are not converted.
    pub others: usize,
}

/// What is known of one image.
#[derive(Debug, Serialize)]
pub struct KnownImage {
    /// The digest of its manifest.
    pub digest: Digest,
    /// The platform by the index.
    pub platform: Option<String>,
    /// Whether the manifest is stored; if not, its layers are not known.
    pub cached: bool,
    /// The digest of its estargz view, once there is one.
    pub estargz: Option<Digest>,
    /// The layers, lowest first.
    pub layers: Vec<KnownLayer>,
}

/// What is known of a layer.
#[derive(Debug, Serialize)]
pub struct KnownLayer {
    /// The source layer.
    pub source: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where its bytes are.
    pub blob: BlobState,
    /// How far its twin is.
    pub state: TwinStateName,
    /// Why there is no twin, or why the layer stays original in the estargz view.
    pub reason: Option<String>,
    /// What is wrong and where.
    pub detail: Option<String>,
    /// The twin.
    pub twin: Option<Digest>,
    /// The twin's size in bytes.
    pub twin_size: Option<u64>,
    /// The twin's size as a part of the source's.
    pub factor: Option<f64>,
    #[serde(skip)]
    pub(in crate::commands) toc: Option<Digest>,
}

/// Where a blob's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobState {
    /// Not here.
    Absent,
    /// On their way, or to be fetched on by the next `serve`.
    Filling,
    /// In the store.
    Cached,
}

/// How far a twin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TwinStateName {
    /// Nothing was begun.
    Unknown,
    /// Begun, not ended.
    Converting,
    /// There is a twin.
    Ready,
    /// There never will be one under this profile.
    Unconvertible,
    /// It is left as it is, by the configuration.
    LeftAlone,
}

impl TwinStateName {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Converting => "converting",
            Self::Ready => "ready",
            Self::Unconvertible => "unconvertible",
            Self::LeftAlone => "left alone",
        }
    }
}

impl KnownLayer {
    /// Returns a layer of whose twin nothing is known.
    pub(super) fn new(source: &Descriptor, blob: BlobState) -> Self {
        Self {
            source: source.digest.clone(),
            size: source.size,
            blob,
            state: TwinStateName::Unknown,
            reason: None,
            detail: None,
            twin: None,
            twin_size: None,
            factor: None,
            toc: None,
        }
    }

    pub(super) fn refuse(&mut self, reason: &str, detail: &str) {
        self.state = TwinStateName::Unconvertible;
        self.reason = Some(reason.into());
        self.detail = Some(detail.into());
    }

    /// Returns the layer's size in the estargz view, or `None` where it is not known yet.
    const fn shown_size(&self) -> Option<u64> {
        match self.state {
            TwinStateName::Unknown | TwinStateName::Converting => None,
            // With a reason it stays original.
            TwinStateName::Ready if self.reason.is_none() => self.twin_size,
            TwinStateName::Ready | TwinStateName::Unconvertible | TwinStateName::LeftAlone => Some(self.size),
        }
    }

    pub(super) fn ready(&mut self, twin: &Twin) {
        self.state = TwinStateName::Ready;
        self.twin = Some(twin.digest.clone());
        self.twin_size = Some(twin.size);
        self.factor = factor(twin.size, self.size);
        self.toc = Some(twin.toc_digest.clone());
    }
}

impl Knowledge {
    /// Returns how many layers there are, and how many of them have ended in one way or another.
    pub(in crate::commands) fn layers_done(&self) -> (usize, usize) {
        let layers = || self.images.iter().flat_map(|image| &image.layers);
        let is_open = |layer: &&KnownLayer| matches!(layer.state, TwinStateName::Unknown | TwinStateName::Converting);
        let all = layers().count();
        (all, all - layers().filter(is_open).count())
    }

    /// Writes the images with their layers.
    pub(in crate::commands) fn write_images(&self, out: &mut dyn Write) -> io::Result<()> {
        for image in &self.images {
            let platform =
                image.platform.as_deref().map(|platform| format!("{} ", shown(platform))).unwrap_or_default();
            let view = image.estargz.as_ref().map(|view| format!(", estargz view {view}")).unwrap_or_default();
            let absent = if image.cached { "" } else { ", not cached: its layers are not known" };
            writeln!(out, "\nimage {platform}{}{view}{absent}", image.digest)?;
            image.table().write(out)?;
            if let Some(sum) = image.sum() {
                writeln!(out, "{sum}")?;
            }
        }
        if self.others > 0 {
            writeln!(out, "\n{} further children of the index are not in convert.platforms", self.others)?;
        }
        Ok(())
    }
}

impl KnownImage {
    fn table(&self) -> Table {
        let columns = [
            ("LAYER", Side::Left),
            ("SIZE", Side::Right),
            ("BLOB", Side::Left),
            ("STATE", Side::Left),
            ("TWIN", Side::Left),
            ("SIZE", Side::Right),
            ("FACTOR", Side::Right),
            ("WHY", Side::Left),
        ];
        let mut table = Table::new(&columns);
        for layer in &self.layers {
            let blob = match layer.blob {
                BlobState::Absent => "absent",
                BlobState::Filling => "filling",
                BlobState::Cached => "cached",
            };
            let why = [&layer.reason, &layer.detail].into_iter().flatten().cloned().collect::<Vec<_>>().join(": ");
            table.row(vec![
                short(&layer.source),
                size(layer.size),
                blob.into(),
                layer.state.as_str().into(),
                layer.twin.as_ref().map(short).unwrap_or_default(),
                layer.twin_size.map(size).unwrap_or_default(),
                factor_text(layer.factor),
                why,
            ]);
        }
        table
    }

    /// The image's size in both views, once all its layers are known.
    fn sum(&self) -> Option<String> {
        let before: u64 = self.layers.iter().map(|layer| layer.size).sum();
        let after: u64 = self.layers.iter().map(KnownLayer::shown_size).sum::<Option<u64>>()?;
        let factor = factor_text(Some(factor(after, before)?));
        Some(format!("estargz view {} of {} ({factor})", size(after), size(before)))
    }
}
