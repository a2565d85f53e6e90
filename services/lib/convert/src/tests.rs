use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::LazyLock;

use api::{Digest, Twin, UnconvertibleReason};
use estargz::verify::verify;
use estargz::{Blob, EntryType, TocEntry};

use super::*;

mod builder;
mod cases;
mod inputs;
mod wreck;

static POOL: LazyLock<Pool> = LazyLock::new(|| Pool::new(2, 0).unwrap());

/// Small chunks, so that small files have several.
const PROFILE: Profile = Profile { level: 1, chunk_size: 4096 };

struct Made {
    converted: Converted,
    twin: Vec<u8>,
    toc: Vec<u8>,
}

fn make(source: &dyn Source, profile: &Profile, limits: &Limits, pool: &Pool) -> Result<Made, ConvertError> {
    let (mut twin, mut toc) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let out = Outputs { twin: &mut twin, toc: &mut toc, scratch: scratch.path() };
    let converted = convert(source, out, profile, limits, pool, &Cancel::default(), &|_| {})?;
    Ok(Made { converted, twin: contents(twin), toc: contents(toc) })
}

fn contents(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn try_convert(source: &[u8]) -> Result<Made, ConvertError> {
    make(&source.to_vec(), &PROFILE, &Limits::default(), &POOL)
}

/// Converts what must convert, and checks the twin against all that was said of it.
fn twin_of(source: &[u8], plain: &[u8]) -> (Twin, Vec<u8>, Vec<TocEntry>) {
    let made = try_convert(source).unwrap();
    let Converted::Twin(twin) = made.converted else { panic!("source was taken for eStargz") };
    assert_eq!(Digest::of(&made.twin), twin.digest);
    assert_eq!(made.twin.len() as u64, twin.size);
    assert_eq!(Digest::of(&made.toc), twin.toc_digest);
    assert_eq!(made.toc.len() as u64, twin.toc_size);
    assert_eq!(twin.source_diff_id, Digest::of(plain));
    assert_eq!(twin.source_plain_size, plain.len() as u64);
    let blob = Blob::open(made.twin.as_slice(), twin.size, 64 << 20).unwrap();
    let verified = verify(&blob, Some(&twin.toc_digest), &Limits::default().tar()).unwrap();
    assert_eq!((&verified.diff_id, verified.plain_size), (&twin.diff_id, twin.plain_size));
    assert_eq!(verified.implied_dirs, twin.implied_dirs);
    let mut rebuilt = Vec::new();
    estargz::rebuild::rebuild(&made.twin.as_slice(), &twin, &mut rebuilt).unwrap();
    assert!(rebuilt == plain, "the source's tar is not rebuilt");
    let entries = blob.toc().entries.clone();
    (twin, made.twin, entries)
}

fn reason_of(source: &[u8]) -> UnconvertibleReason {
    match try_convert(source) {
        Err(ConvertError::Unconvertible { reason, detail }) => {
            assert!(!detail.is_empty());
            reason
        }
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("it was converted"),
    }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Shows the TOC without the landmark: `type name size target`.
fn shown(entries: &[TocEntry]) -> Vec<String> {
    let show = |e: &TocEntry| {
        let kind = serde_json::to_value(e.kind).unwrap();
        let text = format!("{} {} {} {}", kind.as_str().unwrap(), e.name, e.size, e.link_name);
        text.trim_end().to_owned()
    };
    entries.iter().filter(|e| e.name != estargz::NO_PREFETCH_LANDMARK).map(show).collect()
}
