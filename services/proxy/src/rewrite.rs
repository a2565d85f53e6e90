//! Rewrites manifests, configs and indexes for the estargz view. It works on the raw JSON, so that
//! keys unknown here survive in their order; of a config every byte does that need not change. The same
//! input gives the same bytes.

use api::manifest::MAX_MANIFEST_SIZE;
use api::{Digest, MediaType, Twin};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The annotation that names the manifest a converted one was made from.
pub(crate) const SOURCE_ANNOTATION: &str = "io.firstlight.source.digest";
/// The annotation that names the profile it was made under.
pub(crate) const PROFILE_ANNOTATION: &str = "io.firstlight.profile";

/// What becomes of one layer.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    /// It stays the source.
    Keep,
    /// Its twin takes its place.
    Twin(Box<Twin>),
}

/// A converted manifest and its config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConvertedImage {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
}

/// Why an image has no converted form; it is served as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RewriteError {
    /// The document is not what its type says.
    #[error("{what} is not of the expected form")]
    Form {
        /// The part.
        what: &'static str,
    },
    /// The config and the manifest disagree.
    #[error("the manifest has {layers} layers but its config {diff_ids} diff_ids")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// diffIDs in the config.
        diff_ids: usize,
    },
    /// The config names another content than the layer has.
    #[error("the config says diff_id {claimed} of layer {layer}, which has {found}")]
    DiffId {
        /// The layer's digest.
        layer: Digest,
        /// What the config says.
        claimed: String,
        /// What was measured.
        found: Digest,
    },
    /// The converted document is larger than any client takes.
    #[error("the converted manifest has {0} bytes, more than the {MAX_MANIFEST_SIZE} allowed")]
    TooLarge(usize),
    /// No layer has a twin.
    #[error("no layer has a twin")]
    NothingConverted,
    /// The JSON cannot be read or written.
    #[error("not valid JSON")]
    Json(#[from] serde_json::Error),
}

/// Returns the converted form of an image whose layers become `choices`, in order.
///
/// # Errors
/// Says why there is none.
pub(crate) fn image(
    source: &SourceDocument<'_>,
    config: &[u8],
    choices: &[Choice],
    profile: &str,
) -> Result<ConvertedImage, RewriteError> {
    if !choices.iter().any(|choice| matches!(choice, Choice::Twin(_))) {
        return Err(RewriteError::NothingConverted);
    }
    let mut document: Value = serde_json::from_slice(source.bytes)?;
    let layers = document.get_mut("layers").and_then(Value::as_array_mut).ok_or(form("layers"))?;
    if layers.len() != choices.len() {
        return Err(form("layers"));
    }
    let config = rewrite_config(config, layers, choices)?;
    for (layer, choice) in layers.iter_mut().zip(choices) {
        rewrite_layer(layer, choice)?;
    }
    let descriptor = document.get_mut("config").ok_or(form("config"))?;
    *descriptor = json!({
        "mediaType": MediaType::OciConfig.as_str(),
        "digest": Digest::of(&config).to_string(),
        "size": config.len(),
    });
    finish(&mut document, source, &MediaType::OciManifest, profile)?;
    Ok(ConvertedImage { manifest: encode(&document)?, config })
}

/// The document that is rewritten.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SourceDocument<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) digest: &'a Digest,
    pub(crate) media_type: &'a MediaType,
}

/// Returns the converted form of an index in which each `(source, converted, size)` of `children`
/// takes the place of its source. All other children keep their descriptors.
///
/// # Errors
/// Says why there is none.
pub(crate) fn index(
    source: &SourceDocument<'_>,
    children: &[(Digest, Digest, usize)],
    profile: &str,
) -> Result<Vec<u8>, RewriteError> {
    let mut document: Value = serde_json::from_slice(source.bytes)?;
    let entries = document.get_mut("manifests").and_then(Value::as_array_mut).ok_or(form("manifests"))?;
    let mut replaced = 0;
    for entry in entries {
        let named = entry.get("digest").and_then(Value::as_str).unwrap_or_default();
        let Some((_, converted, size)) = children.iter().find(|(source, ..)| source.to_string() == named) else {
            continue;
        };
        let entry = entry.as_object_mut().ok_or(form("manifests"))?;
        entry.insert("mediaType".into(), MediaType::OciManifest.as_str().into());
        entry.insert("digest".into(), converted.to_string().into());
        entry.insert("size".into(), (*size).into());
        entry.shift_remove("data");
        replaced += 1;
    }
    if replaced == 0 {
        return Err(RewriteError::NothingConverted);
    }
    finish(&mut document, source, &MediaType::OciIndex, profile)?;
    encode(&document)
}

/// Returns the bytes of a converted document. One that clients would refuse for its size is none.
fn encode(document: &Value) -> Result<Vec<u8>, RewriteError> {
    let bytes = serde_json::to_vec(document)?;
    if bytes.len() as u64 > MAX_MANIFEST_SIZE { Err(RewriteError::TooLarge(bytes.len())) } else { Ok(bytes) }
}

const fn form(what: &'static str) -> RewriteError {
    RewriteError::Form { what }
}

/// Sets what both kinds of converted documents carry: type, subject, annotations.
fn finish(
    document: &mut Value,
    source: &SourceDocument<'_>,
    media_type: &MediaType,
    profile: &str,
) -> Result<(), RewriteError> {
    let document = document.as_object_mut().ok_or(form("manifest"))?;
    document.insert("mediaType".into(), media_type.as_str().into());
    document.insert(
        "subject".into(),
        json!({
            "mediaType": source.media_type.as_str(),
            "digest": source.digest.to_string(),
            "size": source.bytes.len(),
        }),
    );
    let annotations = document.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    let annotations = annotations.as_object_mut().ok_or(form("annotations"))?;
    annotations.insert(SOURCE_ANNOTATION.into(), source.digest.to_string().into());
    annotations.insert(PROFILE_ANNOTATION.into(), profile.into());
    Ok(())
}

fn rewrite_layer(layer: &mut Value, choice: &Choice) -> Result<(), RewriteError> {
    let layer = layer.as_object_mut().ok_or(form("layers"))?;
    layer.shift_remove("data");
    let twin = match choice {
        Choice::Keep => {
            let named = layer.get("mediaType").and_then(Value::as_str).unwrap_or_default();
            let media_type = MediaType::parse(named).to_oci();
            layer.insert("mediaType".into(), media_type.as_str().into());
            return Ok(());
        }
        Choice::Twin(twin) => twin,
    };
    layer.insert("mediaType".into(), MediaType::OciLayerGzip.as_str().into());
    layer.insert("digest".into(), twin.digest.to_string().into());
    layer.insert("size".into(), twin.size.into());
    let annotations = layer.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    let annotations = annotations.as_object_mut().ok_or(form("layer annotations"))?;
    annotations.insert(estargz::TOC_DIGEST_ANNOTATION.into(), twin.toc_digest.to_string().into());
    annotations.insert(estargz::UNCOMPRESSED_SIZE_ANNOTATION.into(), twin.plain_size.to_string().into());
    Ok(())
}

/// An object's keys, and its values as they are written there.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Deserialize<'a> for Entries<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'a> Visitor<'a> for Collect {
            type Value = Entries<'a>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<Entries<'a>, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Returns the value of `key` in the object `text`. A key given twice, or in another case, is refused: readers differ in
/// which one counts.
fn value_of<'a>(text: &'a str, key: &str) -> Result<&'a RawValue, RewriteError> {
    let Entries(entries) = serde_json::from_str(text).map_err(config_error)?;
    let mut alike = entries.into_iter().filter(|(found, _)| reads_as(found, key));
    match (alike.next(), alike.next()) {
        (Some((found, value)), None) if found == key => Ok(value),
        _ => Err(form("rootfs.diff_ids")),
    }
}

/// Tells whether clients written in Go may read `found` as `key`, which has only small letters: they ignore case, and
/// take the long s for one.
fn reads_as(found: &str, key: &str) -> bool {
    found.chars().map(|c| if c == '\u{17f}' { 's' } else { c.to_ascii_lowercase() }).eq(key.chars())
}

/// Replaces the entries of `rootfs.diff_ids` alone. Every other byte stays, so that no number or escape changes.
fn rewrite_config(config: &[u8], layers: &[Value], choices: &[Choice]) -> Result<Vec<u8>, RewriteError> {
    let text = std::str::from_utf8(config).map_err(|_| form("config"))?;
    let diff_ids = value_of(value_of(text, "rootfs")?.get(), "diff_ids")?;
    let diff_ids: Vec<&RawValue> = serde_json::from_str(diff_ids.get()).map_err(config_error)?;
    if diff_ids.len() != choices.len() {
        return Err(RewriteError::LayerCount { layers: choices.len(), diff_ids: diff_ids.len() });
    }
    let (mut made, mut done) = (String::with_capacity(text.len()), 0);
    for ((diff_id, choice), layer) in diff_ids.iter().zip(choices).zip(layers) {
        let Choice::Twin(twin) = choice else { continue };
        let claimed: String = serde_json::from_str(diff_id.get()).map_err(|_| form("rootfs.diff_ids"))?;
        // A config that lies about its layers must not become true by conversion.
        if claimed != twin.source_diff_id.to_string() {
            let named = layer.get("digest").and_then(Value::as_str).unwrap_or_default();
            return Err(RewriteError::DiffId {
                layer: Digest::parse(named).map_err(|_| form("layers"))?,
                claimed,
                found: twin.source_diff_id.clone(),
            });
        }
        // The entry is a part of `text`.
        let start = diff_id.get().as_ptr() as usize - text.as_ptr() as usize;
        made.push_str(&text[done..start]);
        made.push_str(&format!("\"{}\"", twin.diff_id));
        done = start + diff_id.get().len();
    }
    made.push_str(&text[done..]);
    Ok(made.into_bytes())
}

fn config_error(error: serde_json::Error) -> RewriteError {
    if error.is_data() { form("rootfs.diff_ids") } else { error.into() }
}

#[cfg(test)]
mod tests {
    use api::TarTail;

    use super::*;

    fn twin(source_diff_id: &Digest) -> Twin {
        Twin {
            digest: Digest::of(b"twin"),
            size: 10,
            diff_id: Digest::of(b"twin tar"),
            plain_size: 20,
            toc_digest: Digest::of(b"toc"),
            toc_size: 5,
            source_diff_id: source_diff_id.clone(),
            source_plain_size: 15,
            tail: TarTail::Zeros(1024),
            implied_dirs: Vec::new(),
        }
    }

    fn docker_image() -> (Vec<u8>, Vec<u8>, Digest) {
        let diff_id = Digest::of(b"source tar");
        let config = format!(
            r#"{{"zeta":1,"rootfs":{{"type":"layers","diff_ids":["{diff_id}","{diff_id}"]}},"architecture":"amd64","alpha":[2]}}"#
        );
        let layer = format!(
            r#"{{"mediaType":"{}","size":7,"digest":"{}","data":"AAAA"}}"#,
            MediaType::DockerLayerGzip,
            Digest::of(b"source")
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","size":1,"digest":"{}"}},"layers":[{layer},{layer}],"x-unknown":true}}"#,
            MediaType::DockerManifest,
            MediaType::DockerConfig,
            Digest::of(config.as_bytes())
        );
        (manifest.into_bytes(), config.into_bytes(), diff_id)
    }

    #[test]
    fn an_image_becomes_oci_with_annotations_and_only_its_diff_ids_changed() {
        let (manifest, config, diff_id) = docker_image();
        let digest = Digest::of(&manifest);
        let source = SourceDocument { bytes: &manifest, digest: &digest, media_type: &MediaType::DockerManifest };
        let twin = Box::new(twin(&diff_id));
        let out = image(&source, &config, &[Choice::Twin(twin.clone()), Choice::Keep], "p1").unwrap();
        let text = String::from_utf8(out.config.clone()).unwrap();
        let expected = String::from_utf8(config).unwrap().replacen(&diff_id.to_string(), &twin.diff_id.to_string(), 1);
        assert_eq!(text, expected);
        let made: Value = serde_json::from_slice(&out.manifest).unwrap();
        assert_eq!(made["mediaType"], MediaType::OciManifest.as_str());
        assert_eq!(made["config"]["digest"], Digest::of(&out.config).to_string());
        assert_eq!(made["layers"][0]["annotations"][estargz::TOC_DIGEST_ANNOTATION], twin.toc_digest.to_string());
        assert_eq!(made["layers"][0]["annotations"][estargz::UNCOMPRESSED_SIZE_ANNOTATION], "20");
        assert_eq!(made["layers"][0]["data"], Value::Null);
        assert_eq!(made["layers"][1]["mediaType"], MediaType::OciLayerGzip.as_str());
        assert_eq!(made["layers"][1]["digest"], Digest::of(b"source").to_string());
        assert_eq!(made["subject"]["digest"], digest.to_string());
        assert_eq!(made["annotations"][SOURCE_ANNOTATION], digest.to_string());
        assert_eq!(made["x-unknown"], true);
    }

    #[test]
    fn all_of_a_config_but_its_diff_ids_stays_byte_for_byte() {
        let (manifest, _, diff_id) = docker_image();
        let digest = Digest::of(&manifest);
        let source = SourceDocument { bytes: &manifest, digest: &digest, media_type: &MediaType::DockerManifest };
        let twin = Box::new(twin(&diff_id));
        let choices = [Choice::Keep, Choice::Twin(twin.clone())];
        let config = format!(
            "{{ \"a\": [1.10, 1e400, 123456789012345678901234567890, -0],\n \"b\": \"\\u003c\\/\",\t\"a\": 2,\n\
             \"rootfs\" : {{\"diff_ids\" :[ \"{diff_id}\" ,\n\"{diff_id}\"], \"n\": 1.0}} }}\n"
        );
        let out = image(&source, config.as_bytes(), &choices, "p").unwrap();
        let (before, after) = config.rsplit_once(&diff_id.to_string()).unwrap();
        assert_eq!(String::from_utf8(out.config).unwrap(), format!("{before}{}{after}", twin.diff_id));

        let id = format!("\"{diff_id}\"");
        for bad in [
            format!(r#"{{"rootfs":{{"diff_ids":[{id},{id}]}},"rootfs":{{"diff_ids":[{id},{id}]}}}}"#),
            format!(r#"{{"rootfs":{{"diff_ids":[{id},{id}],"diff_ids":[]}}}}"#),
            format!(r#"{{"rootfs":{{"diff_ids":[{id},{id}]}},"RootFS":{{"diff_ids":[{id},{id}]}}}}"#),
            format!(r#"{{"rootf\u017f":null,"rootfs":{{"diff_ids":[{id},{id}]}}}}"#),
            format!(r#"{{"rootfs":{{"diff_ids":[{id},{id}],"diff_Ids":[]}}}}"#),
            format!(r#"{{"Rootfs":{{"diff_ids":[{id},{id}]}}}}"#),
            "{}".to_owned(),
            format!(r#"{{"rootfs":{{"diff_ids":[{id},7]}}}}"#),
            r#"{"rootfs":[]}"#.to_owned(),
        ] {
            let result = image(&source, bad.as_bytes(), &choices, "p");
            assert!(matches!(result, Err(RewriteError::Form { .. })), "{bad}: {result:?}");
        }
    }

    #[test]
    fn a_config_that_lies_about_its_layers_is_not_converted() {
        let (manifest, config, _) = docker_image();
        let digest = Digest::of(&manifest);
        let source = SourceDocument { bytes: &manifest, digest: &digest, media_type: &MediaType::DockerManifest };
        let other = Choice::Twin(Box::new(twin(&Digest::of(b"other"))));
        let result = image(&source, &config, &[other, Choice::Keep], "p1");
        assert!(matches!(result, Err(RewriteError::DiffId { .. })));
        let short = image(&source, br#"{"rootfs":{"diff_ids":[]}}"#, &[Choice::Keep, Choice::Keep], "p1");
        assert!(matches!(short, Err(RewriteError::NothingConverted)));
    }

    #[test]
    fn an_index_keeps_what_was_not_converted() {
        let (a, b, c) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{t}","digest":"{a}","size":1,"platform":{{"os":"linux","architecture":"amd64"}}}},{{"mediaType":"{t}","digest":"{b}","size":2}}]}}"#,
            t = MediaType::DockerManifest
        );
        let digest = Digest::of(text.as_bytes());
        let source = SourceDocument { bytes: text.as_bytes(), digest: &digest, media_type: &MediaType::DockerList };
        let made: Value = serde_json::from_slice(&index(&source, &[(a, c.clone(), 9)], "p").unwrap()).unwrap();
        assert_eq!(made["manifests"][0]["digest"], c.to_string());
        assert_eq!(made["manifests"][0]["platform"]["architecture"], "amd64");
        assert_eq!(made["manifests"][1]["digest"], b.to_string());
        assert_eq!(made["manifests"][1]["mediaType"], MediaType::DockerManifest.as_str());
        assert_eq!(made["mediaType"], MediaType::OciIndex.as_str());
    }
}
