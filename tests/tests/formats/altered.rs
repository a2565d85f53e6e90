//! eStargz blobs that say what is not so.

use std::io::Read;

use serde_json::Value;

use crate::compressed::gzip;
use crate::tar::Tar;

/// The length of the footer.
const FOOTER: usize = 51;

pub(crate) fn gunzip(blob: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut plain).unwrap();
    plain
}

/// Returns where the TOC begins in an eStargz blob, and its JSON.
pub(crate) fn toc(blob: &[u8]) -> (usize, Vec<u8>) {
    let footer = &blob[blob.len() - FOOTER..];
    let offset = usize::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
    let plain = gunzip(&blob[offset..]);
    let size = std::str::from_utf8(&plain[124..135]).unwrap();
    let size = usize::from_str_radix(size, 8).unwrap();
    (offset, plain[512..512 + size].to_vec())
}

/// Returns an eStargz blob with a changed TOC.
pub(crate) fn with_other_toc(blob: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (offset, json) = toc(blob);
    let mut toc: Value = serde_json::from_slice(&json).unwrap();
    change(&mut toc);
    let entry = Tar::new().file("stargz.index.json", toc.to_string().as_bytes()).end();
    [&blob[..offset], &gzip(&entry), &blob[blob.len() - FOOTER..]].concat()
}
