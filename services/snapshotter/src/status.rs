//! [`Status`]: how far every image is, for people and machines. The snapshotter writes it down as it goes; who asks reads that.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::layer::Proof;

/// The file, below the snapshotter's root.
const FILE: &str = "status.json";
/// A status that is older was left by a snapshotter that runs no more.
const STALE: Duration = Duration::from_secs(15);

/// How far every image is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) images: Vec<ImageStatus>,
    pub(crate) reads: Reads,
}

/// What readers cost so far, since the snapshotter was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reads {
    /// Bytes of blobs that were fetched because somebody waited.
    pub(crate) demand_bytes: u64,
    /// Bytes of blobs that were fetched while nobody did.
    pub(crate) background_bytes: u64,
    /// Plain bytes that were copied from other layers in place of being fetched.
    #[serde(default)]
    pub(crate) copied_bytes: u64,
    /// Plain bytes that came along with others and that nobody has read yet.
    pub(crate) unread_bytes: u64,
    /// Reads that had to wait.
    pub(crate) stalled: u64,
    /// Reads that wait now.
    pub(crate) waiting: u64,
    /// Reads that failed.
    pub(crate) failed: u64,
}

/// How far an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageStatus {
    /// Registry and repository.
    pub(crate) image: String,
    pub(crate) layers: Vec<LayerStatus>,
}

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerStatus {
    /// As the manifest names it.
    pub(crate) layer: String,
    #[serde(flatten)]
    pub(crate) mode: Mode,
}

/// How a layer got here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Its bytes come as they are read.
    Lazy { resident_bytes: u64, bytes: u64, proof: Proof },
    /// It was pulled and unpacked whole.
    Ordinary { reason: String, detail: String },
}

impl Status {
    /// Writes it down below `root`.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn write(&self, root: &Path) -> io::Result<()> {
        let new = root.join("status.new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, root.join(FILE))
    }
}

/// Returns what `firstlight-snapshotter status` prints of the snapshotter whose folder is `root`.
///
/// # Errors
/// No snapshotter runs there.
pub fn status(root: &Path, as_json: bool) -> anyhow::Result<String> {
    let path = root.join(FILE);
    let missing = || format!("cannot read {}: does a snapshotter run there?", path.display());
    let written = fs::metadata(&path).and_then(|file| file.modified()).with_context(missing)?;
    if SystemTime::now().duration_since(written).unwrap_or_default() > STALE {
        bail!("no snapshotter runs in {}: its status is of the past", root.display());
    }
    let text = fs::read_to_string(&path).with_context(missing)?;
    let status: Status = serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    Ok(if as_json { text + "\n" } else { status.to_string() })
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        for image in &self.images {
            writeln!(f, "{}", image.image)?;
            for layer in &image.layers {
                let short: String = layer.layer.chars().take(19).collect();
                match &layer.mode {
                    Mode::Lazy { resident_bytes, bytes, proof } => {
                        let percent = if *bytes == 0 { 100 } else { (resident_bytes * 100 / bytes).min(100) };
                        let size = mib(*bytes);
                        writeln!(f, "  {short}  lazy      {percent:>3} % of {size:>9} MiB  {}", proof.as_str())?;
                    }
                    Mode::Ordinary { reason, detail } => writeln!(f, "  {short}  ordinary  {reason}: {detail}")?,
                }
            }
        }
        let Reads { demand_bytes, background_bytes, copied_bytes, unread_bytes, stalled, waiting, failed } = self.reads;
        let (demand, background) = (mib(demand_bytes), mib(background_bytes));
        let (copied, unread) = (mib(copied_bytes), mib(unread_bytes));
        writeln!(f, "fetched {demand} MiB for readers, {background} MiB in the background; {unread} MiB not read yet")?;
        writeln!(f, "copied {copied} MiB from other layers")?;
        writeln!(f, "{stalled} reads had to wait, {waiting} wait now, {failed} failed")
    }
}

/// Puts layers under their images, in the order they were made.
pub(crate) fn by_image(layers: impl IntoIterator<Item = (String, LayerStatus)>) -> Vec<ImageStatus> {
    let mut images: BTreeMap<String, Vec<LayerStatus>> = BTreeMap::new();
    for (image, layer) in layers {
        images.entry(image).or_default().push(layer);
    }
    images.into_iter().map(|(image, layers)| ImageStatus { image, layers }).collect()
}

impl Proof {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Proven => "proven",
            Self::Refused => "refused",
        }
    }
}

/// Writes the status as Prometheus reads it.
pub(crate) fn metrics(status: &Status) -> String {
    let mut text = String::new();
    let mut counter = |name: &str, help: &str, kind: &str, values: &[(&str, u64)]| {
        let name = format!("firstlight_snapshotter_{name}");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let Reads { demand_bytes, background_bytes, copied_bytes, unread_bytes, stalled, waiting, failed } = status.reads;
    counter(
        "fetched_bytes_total",
        "Bytes of blobs that were fetched.",
        "counter",
        &[("{for=\"demand\"}", demand_bytes), ("{for=\"background\"}", background_bytes)],
    );
    counter("copied_bytes_total", "Plain bytes that were copied from other layers.", "counter", &[("", copied_bytes)]);
    counter("unread_bytes", "Plain bytes that came along and were not read.", "gauge", &[("", unread_bytes)]);
    counter("stalled_reads_total", "Reads that had to wait.", "counter", &[("", stalled)]);
    counter("waiting_reads", "Reads that wait now.", "gauge", &[("", waiting)]);
    counter("failed_reads_total", "Reads that failed.", "counter", &[("", failed)]);
    let (mut resident, mut bytes, mut proofs) = (0, 0, [0; 3]);
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for layer in status.images.iter().flat_map(|image| &image.layers) {
        match &layer.mode {
            Mode::Lazy { resident_bytes, bytes: all, proof } => {
                resident += resident_bytes;
                bytes += all;
                proofs[*proof as usize] += 1;
            }
            Mode::Ordinary { reason, .. } => *reasons.entry(format!("{{reason=\"{reason}\"}}")).or_default() += 1,
        }
    }
    counter("layer_bytes", "Plain bytes of lazy layers.", "gauge", &[("", bytes)]);
    counter("resident_bytes", "Bytes of lazy layers on the disk.", "gauge", &[("", resident)]);
    let states =
        [Proof::Pending, Proof::Proven, Proof::Refused].map(|proof| format!("{{proof=\"{}\"}}", proof.as_str()));
    let lazy: Vec<(&str, u64)> = states.iter().map(String::as_str).zip(proofs).collect();
    counter("lazy_layers", "Lazy layers.", "gauge", &lazy);
    let ordinary: Vec<(&str, u64)> = reasons.iter().map(|(labels, count)| (labels.as_str(), *count)).collect();
    counter("ordinary_layers", "Layers of images that were pulled in the ordinary way.", "gauge", &ordinary);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Status {
        let lazy = Mode::Lazy { resident_bytes: 5 << 20, bytes: 10 << 20, proof: Proof::Pending };
        let ordinary = Mode::Ordinary { reason: "unconvertible".to_owned(), detail: "sparse".to_owned() };
        let layer = |mode| LayerStatus { layer: format!("sha256:{}", "ab".repeat(32)), mode };
        let images = by_image([("b/x".to_owned(), layer(lazy)), ("a/y".to_owned(), layer(ordinary))]);
        Status { images, reads: Reads { demand_bytes: 3 << 20, stalled: 7, ..Reads::default() } }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_not_when_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        assert!(status(folder.path(), false).is_err());
        sample().write(folder.path()).unwrap();
        let json = status(folder.path(), true).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), sample());
        let text = status(folder.path(), false).unwrap();
        for line in
            ["a/y\n", "ordinary  unconvertible: sparse\n", "lazy       50 % of      10.0 MiB  pending\n", "7 reads had"]
        {
            assert!(text.contains(line), "{text}");
        }
        let file = fs::File::options().write(true).open(folder.path().join(FILE)).unwrap();
        file.set_modified(SystemTime::now() - STALE * 2).unwrap();
        assert!(status(folder.path(), false).unwrap_err().to_string().contains("of the past"));
    }

    #[test]
    fn metrics_have_no_label_without_bound() {
        let text = metrics(&sample());
        for line in [
            "firstlight_snapshotter_fetched_bytes_total{for=\"demand\"} 3145728",
            "firstlight_snapshotter_lazy_layers{proof=\"pending\"} 1",
            "firstlight_snapshotter_ordinary_layers{reason=\"unconvertible\"} 1",
            "firstlight_snapshotter_resident_bytes 5242880",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
        assert!(!text.contains("sha256") && !text.contains("a/y"), "{text}");
    }
}
