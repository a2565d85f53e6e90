//! [`Wanted`]: the layer of an image that a snapshot is prepared for, as the labels of containerd's clients say.

use api::{Digest, RepositoryName};
use estargz::TOC_DIGEST_ANNOTATION;

use crate::Labels;

/// The name that the snapshot is to be committed under: the chain id.
pub(crate) const TARGET: &str = "containerd.io/snapshot.ref";
/// What tells that a snapshot was not unpacked here.
pub(crate) const REMOTE: &str = "containerd.io/snapshot/remote";
/// Image, layer, layers from this one up, and manifest: of containerd's CRI plugin, nerdctl and Docker, then of ctr-remote.
const LABELS: [[&str; 4]; 2] = [
    [
        "containerd.io/snapshot/cri.image-ref",
        "containerd.io/snapshot/cri.layer-digest",
        "containerd.io/snapshot/cri.image-layers",
        "containerd.io/snapshot/cri.manifest-digest",
    ],
    [
        "containerd.io/snapshot/remote/stargz.reference",
        "containerd.io/snapshot/remote/stargz.digest",
        "containerd.io/snapshot/remote/stargz.layers",
        "",
    ],
];

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The chain id that its snapshot will have.
    pub(crate) chain: Digest,
    /// The registry as the image's reference names it.
    pub(crate) host: String,
    pub(crate) name: RepositoryName,
    pub(crate) layer: Digest,
    /// It and those above, as far as they were told: long lists are cut.
    pub(crate) layers: Vec<Digest>,
    pub(crate) manifest: Option<Digest>,
    /// The TOC of a layer that is eStargz itself, as its descriptor says.
    pub(crate) toc: Option<Digest>,
}

impl Wanted {
    /// Returns what `labels` say; `None` where they do not say all of it.
    pub(crate) fn of(labels: &Labels) -> Option<Self> {
        let chain = Digest::parse(labels.get(TARGET)?).ok()?;
        LABELS.iter().find_map(|[reference, layer, layers, manifest]| {
            let (host, name) = repository(labels.get(*reference)?)?;
            let layer = Digest::parse(labels.get(*layer)?).ok()?;
            let told = labels.get(*layers).map(String::as_str).unwrap_or_default();
            let mut layers: Vec<Digest> = told.split(',').filter_map(|text| Digest::parse(text.trim()).ok()).collect();
            if !layers.contains(&layer) {
                layers.insert(0, layer.clone());
            }
            let manifest = labels.get(*manifest).and_then(|text| Digest::parse(text).ok());
            let toc = labels.get(TOC_DIGEST_ANNOTATION).and_then(|text| Digest::parse(text).ok());
            Some(Self { chain: chain.clone(), host, name, layer, layers, manifest, toc })
        })
    }
}

/// Returns the host and the repository of an image's reference, `host/name[:tag][@digest]`.
pub(crate) fn repository(reference: &str) -> Option<(String, RepositoryName)> {
    let (host, rest) = reference.split_once('/')?;
    let name = rest.split('@').next().unwrap_or_default();
    // A colon behind the last slash is a tag's.
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    Some((host.to_owned(), RepositoryName::parse(name).ok()?))
}

/// Returns the name of a chain whose uppermost layer has the plain tar `diff_id` (OCI image-spec, config.md, "Layer ChainID").
pub(crate) fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        None => diff_id.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    #[test]
    fn both_kinds_of_labels_are_understood() {
        let [chain, one, two, manifest] = ["chain", "one", "two", "manifest"].map(digest);
        let list = format!("{one},{two}");
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let (chain_text, one_text, manifest_text) = (chain.to_string(), one.to_string(), manifest.to_string());
        let reference = format!("localhost:5000/team/app:1.0@{manifest}");
        let cri = labels(&[
            (TARGET, &chain_text),
            (LABELS[0][0], &reference),
            (LABELS[0][1], &one_text),
            (LABELS[0][2], &list),
            (LABELS[0][3], &manifest_text),
        ]);
        let found = Wanted::of(&cri).unwrap();
        assert_eq!((found.host.as_str(), found.name.as_str()), ("localhost:5000", "team/app"));
        assert_eq!((found.layers, found.manifest), (vec![one.clone(), two], Some(manifest)));
        let remote =
            labels(&[(TARGET, &chain_text), (LABELS[1][0], "docker.io/library/python:3"), (LABELS[1][1], &one_text)]);
        let found = Wanted::of(&remote).unwrap();
        assert_eq!((found.chain, found.layers, found.name.as_str()), (chain, vec![one], "library/python"));
        let mut without = remote;
        without.remove(TARGET);
        assert_eq!(Wanted::of(&without), None);
    }

    #[test]
    fn chains_are_named_as_the_specification_says() {
        let (a, b) = (digest("a"), digest("b"));
        assert_eq!(chain_id(None, &a), a);
        assert_eq!(chain_id(Some(&a), &b), Digest::of(format!("{a} {b}").as_bytes()));
    }
}
