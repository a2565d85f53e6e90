//! [`LazyIndex`]: which twin stands for each layer of an image. What the lazy API answers, as JSON.

use serde::{Deserialize, Serialize};

use crate::{Descriptor, Digest, TarTail};

/// The layers of one image, or those that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LazyIndex {
    /// The image's manifest, where a manifest or index was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// The layers: of an image its own, lowest first; else as they were asked for.
    pub layers: Vec<LazyLayer>,
}

/// What is known of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LazyLayer {
    /// The layer as the manifest names it.
    pub source: Digest,
    /// How far its twin is.
    #[serde(flatten)]
    pub state: LazyState,
}

/// How far the twin of a layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LazyState {
    /// Nothing is known, and nothing goes on: its upstream does not have it, or its conversion failed a moment ago.
    Unknown,
    /// It arrives from its upstream, and is converted as it does.
    Filling,
    /// It is here, and is being converted.
    Converting,
    /// Its twin and its TOC can be read.
    Ready(Box<LazyTwin>),
    /// It has no twin, and asking again does not change that.
    Unconvertible {
        /// A name of [`crate::UnconvertibleReason`], or [`LEFT_ALONE`].
        reason: String,
        /// What is wrong and where, for people.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
}

/// The reason of a layer that the proxy leaves as it is: conversion is off, or it is smaller than `convert.min_layer_size`.
pub const LEFT_ALONE: &str = "left_alone";

/// A layer's twin, for who mounts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LazyTwin {
    /// The digest of the layer's plain tar, as the proxy measured it.
    pub diff_id: Digest,
    /// The twin's blob, with the annotations of an eStargz layer.
    pub twin: Descriptor,
    /// The digest of the twin's plain tar. Where a twin was asked for, it is [`Self::diff_id`].
    pub twin_diff_id: Digest,
    /// The TOC's JSON.
    pub toc: Toc,
    /// What the layer's tar has after its last entry. A twin that was asked for itself has its own TOC there: it is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<TarTail>,
}

/// Where the JSON of a TOC is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toc {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MediaType;

    #[test]
    fn states_are_read_as_they_are_written() {
        let digest = Digest::of(b"x");
        let twin = LazyTwin {
            diff_id: digest.clone(),
            twin: Descriptor {
                media_type: MediaType::OciLayerGzip,
                digest: digest.clone(),
                size: 5,
                urls: Vec::new(),
                annotations: [("a".to_owned(), "b".to_owned())].into(),
                platform: None,
                artifact_type: None,
            },
            twin_diff_id: digest.clone(),
            toc: Toc { digest: digest.clone(), size: 7 },
            tail: Some(TarTail::Zeros(1024)),
        };
        let states = [
            (LazyState::Unknown, r#""state":"unknown""#),
            (LazyState::Filling, r#""state":"filling""#),
            (LazyState::Ready(Box::new(twin)), r#""tail":{"zeros":1024}"#),
            (
                LazyState::Unconvertible { reason: LEFT_ALONE.to_owned(), detail: String::new() },
                r#""state":"unconvertible","reason":"left_alone"}"#,
            ),
        ];
        for (state, part) in states {
            let index = LazyIndex { manifest: None, layers: vec![LazyLayer { source: digest.clone(), state }] };
            let json = serde_json::to_string(&index).unwrap();
            assert!(json.contains(part), "{json}");
            assert_eq!(serde_json::from_str::<LazyIndex>(&json).unwrap(), index);
        }
    }
}
