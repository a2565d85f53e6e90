//! [`ConvertReport`]: what a conversion did.

use std::io::{self, Write};
use std::time::Duration;

use api::{Digest, MediaType};
use serde::Serialize;

use super::layers::{Layer, Made};
use crate::commands::Report;
use crate::commands::table::{Side, Table, factor, factor_text, short, size};
use crate::rewrite::Choice;

/// What a conversion did.
#[derive(Debug, Serialize)]
pub struct ConvertReport {
    /// Where the image came from.
    pub source: String,
    /// Where it went.
    pub destination: String,
    /// The digest of the source's manifest or index.
    pub source_digest: Option<Digest>,
    /// The digest of what was written.
    pub digest: Option<Digest>,
    /// Its media type.
    pub media_type: Option<MediaType>,
    /// The profile the twins were made under.
    pub profile: String,
    /// Whether any layer shows its twin; if not, the image was copied as it is.
    pub converted: bool,
    /// Bytes of the layers of the images that were to be converted, before.
    pub source_size: u64,
    /// The same after.
    pub size: u64,
    /// `size` as a part of `source_size`.
    pub ratio: Option<f64>,
    /// How long it took, reading and writing included.
    pub seconds: f64,
    /// What is to be known beside.
    pub notes: Vec<String>,
    /// The layers of the images that were to be converted, lowest first.
    pub layers: Vec<LayerReport>,
}

/// What became of a layer.
#[derive(Debug, Serialize)]
pub struct LayerReport {
    /// The source manifest that it is a layer of.
    pub image: Digest,
    /// The layer.
    pub source: Digest,
    /// Its size in bytes.
    pub source_size: u64,
    /// What became of it.
    pub state: State,
    /// Why it stays as it is.
    pub reason: Option<String>,
    /// What is wrong with it and where.
    pub detail: Option<String>,
    /// Its twin.
    pub twin: Option<Digest>,
    /// The twin's size in bytes.
    pub twin_size: Option<u64>,
    /// The twin's size as a part of the source's.
    pub factor: Option<f64>,
    /// How long its conversion took, fetching it included.
    pub seconds: f64,
}

/// What became of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its twin takes its place.
    Converted,
    /// It is eStargz already and its own twin.
    OwnTwin,
    /// There is a twin, but the layer stays original in this image.
    Kept,
    /// It cannot be converted.
    Unconvertible,
    /// It is smaller than `convert.min_layer_size`.
    LeftAlone,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Converted => "converted",
            Self::OwnTwin => "own twin",
            Self::Kept => "kept",
            Self::Unconvertible => "unconvertible",
            Self::LeftAlone => "left alone",
        }
    }
}

/// Returns what became of `layer` in `image`, whose view shows it as `shown`; `None` where there is no view.
pub(super) fn layer(layer: &Layer, image: &Digest, shown: Option<&Choice>) -> LayerReport {
    let twin = layer.twin();
    let (state, reason, detail) = match (&layer.made, shown) {
        (Made::Unconvertible { reason, detail }, _) => {
            (State::Unconvertible, Some(reason.to_string()), Some(detail.clone()))
        }
        (Made::LeftAlone, _) => (State::LeftAlone, Some("min_layer_size".into()), None),
        (_, Some(Choice::Keep)) => {
            let detail = "it implies directories that the layers below define otherwise than 0755 root, or may";
            (State::Kept, Some("implied_dirs".into()), Some(detail.into()))
        }
        (_, None) => (State::Kept, Some("no_view".into()), None),
        (Made::Twin(_), Some(Choice::Twin(_))) => (State::Converted, None, None),
        (Made::OwnTwin(_), Some(Choice::Twin(_))) => (State::OwnTwin, None, None),
    };
    LayerReport {
        image: image.clone(),
        source: layer.source.digest.clone(),
        source_size: layer.source.size,
        state,
        reason,
        detail,
        twin: twin.map(|twin| twin.digest.clone()),
        twin_size: twin.map(|twin| twin.size),
        factor: twin.and_then(|twin| factor(twin.size, layer.source.size)),
        seconds: seconds(layer.took),
    }
}

/// Returns a length of time in seconds, to the millisecond.
pub(super) fn seconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1000.0).round() / 1000.0
}

impl ConvertReport {
    pub(super) fn new(
        source_digest: Option<Digest>,
        digest: Option<Digest>,
        media_type: Option<MediaType>,
        profile: String,
        notes: Vec<String>,
        layers: Vec<LayerReport>,
    ) -> Self {
        let is_shown = |layer: &&LayerReport| matches!(layer.state, State::Converted | State::OwnTwin);
        let source_size = layers.iter().map(|layer| layer.source_size).sum();
        let after = |layer: &LayerReport| layer.twin_size.filter(|_| is_shown(&layer)).unwrap_or(layer.source_size);
        let size = layers.iter().map(after).sum();
        Self {
            source: String::new(),
            destination: String::new(),
            source_digest,
            digest,
            media_type,
            profile,
            converted: layers.iter().any(|layer| is_shown(&layer)),
            source_size,
            size,
            ratio: factor(size, source_size),
            seconds: 0.0,
            notes,
            layers,
        }
    }
}

impl Report for ConvertReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = [
            ("LAYER", Side::Left),
            ("SIZE", Side::Right),
            ("TWIN", Side::Left),
            ("SIZE", Side::Right),
            ("FACTOR", Side::Right),
            ("SECONDS", Side::Right),
            ("STATE", Side::Left),
            ("WHY", Side::Left),
        ];
        let mut table = Table::new(&columns);
        for layer in &self.layers {
            let why = [&layer.reason, &layer.detail].into_iter().flatten().cloned().collect::<Vec<_>>().join(": ");
            table.row(vec![
                short(&layer.source),
                size(layer.source_size),
                layer.twin.as_ref().map(short).unwrap_or_default(),
                layer.twin_size.map(size).unwrap_or_default(),
                factor_text(layer.factor),
                format!("{:.1}", layer.seconds),
                layer.state.as_str().into(),
                why,
            ]);
        }
        if !self.layers.is_empty() {
            table.write(out)?;
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        let digest = self.digest.as_ref().map(ToString::to_string).unwrap_or_default();
        writeln!(
            out,
            "{} {digest}: {} -> {} ({}) in {:.1} s",
            self.destination,
            size(self.source_size),
            size(self.size),
            factor_text(self.ratio),
            self.seconds
        )
    }
}
