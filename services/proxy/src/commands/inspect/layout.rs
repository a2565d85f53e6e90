//! [`LayoutReport`]: an image in an OCI layout, by its blobs.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use api::{Descriptor, Digest, MediaType, Parsed};
use estargz::{Blob, OpenError, TOC_DIGEST_ANNOTATION};
use serde::Serialize;

use super::files::TocReport;
use crate::choices::MAX_TOC;
use crate::commands::layout::{Layout, LayoutError};
use crate::commands::table::{Side, Table, factor, factor_text, short, shown, size};
use crate::config::View;
use crate::pull::StoredManifest;
use crate::rewrite::{PROFILE_ANNOTATION, SOURCE_ANNOTATION};

/// An image in an OCI layout.
#[derive(Debug, Serialize)]
pub struct LayoutReport {
    /// Where it is.
    pub name: String,
    /// The digest of its manifest or index.
    pub digest: Digest,
    /// Its media type.
    pub media_type: MediaType,
    /// Its images: itself, or the children of an index that are there.
    pub images: Vec<LayoutImage>,
    /// The children of an index that are not there.
    pub absent: Vec<Digest>,
    /// The files of its eStargz layers, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tocs: Vec<TocReport>,
}

/// One image.
#[derive(Debug, Serialize)]
pub struct LayoutImage {
    /// The digest of its manifest.
    pub digest: Digest,
    /// The platform by the index.
    pub platform: Option<String>,
    /// Which view it is.
    pub view: View,
    /// The manifest that a converted one was made from.
    pub source: Option<String>,
    /// The profile it was made under.
    pub profile: Option<String>,
    /// The layers, lowest first.
    pub layers: Vec<LayoutLayer>,
}

/// One layer.
#[derive(Debug, Serialize)]
pub struct LayoutLayer {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it is.
    pub format: Format,
    /// Why it is not what it says it is.
    pub detail: Option<String>,
    /// The digest of its TOC.
    pub toc_digest: Option<Digest>,
    /// The entries of its TOC, chunks included.
    pub entries: Option<usize>,
    /// The layer it was made from, where the source image is in the same layout.
    pub source: Option<Digest>,
    /// The size of that.
    pub source_size: Option<u64>,
    /// Its size as a part of that.
    pub factor: Option<f64>,
}

/// What a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// eStargz, and its TOC is the one that its annotation names.
    Estargz,
    /// An ordinary layer.
    Plain,
    /// It says it is eStargz, and is not.
    Damaged,
    /// It is not in the layout.
    Absent,
}

impl Format {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Estargz => "eStargz",
            Self::Plain => "plain",
            Self::Damaged => "damaged",
            Self::Absent => "absent",
        }
    }
}

pub(super) fn run(name: &str, dir: &Path, tag: Option<&str>, toc: bool) -> anyhow::Result<LayoutReport> {
    let layout = Layout::open(dir)?;
    let root = layout.manifest(&layout.resolve(tag)?)?;
    let mut report = LayoutReport {
        name: name.into(),
        digest: root.digest.clone(),
        media_type: root.media_type.clone(),
        images: Vec::new(),
        absent: Vec::new(),
        tocs: Vec::new(),
    };
    match &root.parsed {
        Parsed::Manifest(_) => report.add_image(&layout, &root, None, toc)?,
        Parsed::Opaque(media_type) => anyhow::bail!("{} is no image: it has type {media_type}", root.digest),
        Parsed::Index(index) => {
            for child in index.manifests.iter().filter(|child| child.media_type.is_manifest()) {
                match layout.manifest(child) {
                    Ok(image) => report.add_image(&layout, &image, Some(child), toc)?,
                    Err(LayoutError::Missing { .. }) => report.absent.push(child.digest.clone()),
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Ok(report)
}

impl LayoutReport {
    fn add_image(
        &mut self,
        layout: &Layout,
        image: &StoredManifest,
        child: Option<&Descriptor>,
        toc: bool,
    ) -> anyhow::Result<()> {
        let Parsed::Manifest(manifest) = &image.parsed else { return Ok(()) };
        let source = manifest.annotations.get(SOURCE_ANNOTATION);
        let sources = manifest.subject.as_ref().filter(|_| source.is_some()).and_then(|s| layout.manifest(s).ok());
        let sources = match sources.as_deref().map(|source| &source.parsed) {
            Some(Parsed::Manifest(source)) => source.layers.as_slice(),
            Some(Parsed::Index(_) | Parsed::Opaque(_)) | None => &[],
        };
        let mut layers = Vec::with_capacity(manifest.layers.len());
        for (i, descriptor) in manifest.layers.iter().enumerate() {
            let (mut layer, blob) = open(layout, descriptor)?;
            if let Some(source) = sources.get(i) {
                layer.source = Some(source.digest.clone());
                layer.source_size = Some(source.size);
                layer.factor = factor(layer.size, source.size);
            }
            layers.push(layer);
            if let Some(blob) = blob.filter(|_| toc && self.tocs.iter().all(|known| known.layer != descriptor.digest)) {
                self.tocs.push(TocReport::new(&descriptor.digest, blob.toc().clone()));
            }
        }
        self.images.push(LayoutImage {
            digest: image.digest.clone(),
            platform: child.and_then(|child| child.platform.as_ref()).map(ToString::to_string),
            view: if source.is_some() { View::Estargz } else { View::Original },
            source: source.cloned(),
            profile: manifest.annotations.get(PROFILE_ANNOTATION).cloned(),
            layers,
        });
        Ok(())
    }

    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "name    {}\ndigest  {}\ntype    {}", self.name, self.digest, shown(self.media_type.as_str()))?;
        for image in &self.images {
            image.write_text(out)?;
        }
        if !self.absent.is_empty() {
            writeln!(out, "\n{} children of the index are not in the layout", self.absent.len())?;
        }
        self.tocs.iter().try_for_each(|toc| toc.write_text(out))
    }
}

/// Looks what a layer is; returns the blob too where it is eStargz.
fn open(layout: &Layout, descriptor: &Descriptor) -> anyhow::Result<(LayoutLayer, Option<Blob<File>>)> {
    let mut layer = LayoutLayer {
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        format: Format::Absent,
        detail: None,
        toc_digest: None,
        entries: None,
        source: None,
        source_size: None,
        factor: None,
    };
    let path = match layout.existing(&descriptor.digest) {
        Ok(path) => path,
        Err(LayoutError::Missing { .. }) => return Ok((layer, None)),
        Err(error) => return Err(error.into()),
    };
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let found = file.metadata().with_context(|| format!("cannot open {}", path.display()))?.len();
    let said = descriptor.annotations.get(TOC_DIGEST_ANNOTATION);
    let mut damaged = |detail: String| (layer.format, layer.detail) = (Format::Damaged, Some(detail));
    if found != descriptor.size {
        damaged(format!("it has {found} bytes"));
        return Ok((layer, None));
    }
    match Blob::open(file, found, MAX_TOC) {
        Ok(blob) => {
            let digest = blob.toc_digest();
            if said.is_some_and(|said| *said != digest.to_string()) {
                damaged(format!("its TOC is {digest}"));
                return Ok((layer, None));
            }
            layer.format = Format::Estargz;
            layer.toc_digest = Some(digest);
            layer.entries = Some(blob.toc().entries.len());
            Ok((layer, Some(blob)))
        }
        Err(OpenError::Io(error)) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        Err(error) if said.is_some() => {
            damaged(error.to_string());
            Ok((layer, None))
        }
        Err(_) => {
            layer.format = Format::Plain;
            Ok((layer, None))
        }
    }
}

impl LayoutImage {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let platform = self.platform.as_deref().map(|platform| format!("{} ", shown(platform))).unwrap_or_default();
        let source = self.source.as_deref().map(|source| format!(" of {}", shown(source))).unwrap_or_default();
        writeln!(out, "\nimage {platform}{}: {} view{source}", self.digest, self.view)?;
        let columns = [
            ("LAYER", Side::Left),
            ("SIZE", Side::Right),
            ("FORMAT", Side::Left),
            ("ENTRIES", Side::Right),
            ("SOURCE", Side::Left),
            ("SIZE", Side::Right),
            ("FACTOR", Side::Right),
            ("WHY", Side::Left),
        ];
        let mut table = Table::new(&columns);
        for layer in &self.layers {
            table.row(vec![
                short(&layer.digest),
                size(layer.size),
                layer.format.as_str().into(),
                layer.entries.map(|entries| entries.to_string()).unwrap_or_default(),
                layer.source.as_ref().map(short).unwrap_or_default(),
                layer.source_size.map(size).unwrap_or_default(),
                factor_text(layer.factor),
                layer.detail.clone().unwrap_or_default(),
            ]);
        }
        table.write(out)
    }
}
