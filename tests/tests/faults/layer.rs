//! Layers made by the tests: pseudo-random bytes, and tars of them.

use std::io::Write;
use std::process::{Command, Stdio};

use bytes::Bytes;

/// Returns `length` bytes that no compressor makes smaller; the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Bytes {
    e2e::noise(seed, length).into()
}

/// Returns a plain tar with a folder and `files` files of `size` bytes each.
pub(crate) fn tar(seed: u64, files: usize, size: usize) -> Bytes {
    let mut tar = Vec::with_capacity(files * (size + 1024) + 2048);
    entry(&mut tar, b"data/", b'5', &[]);
    for file in 0..files {
        let name = format!("data/{file}");
        entry(&mut tar, name.as_bytes(), b'0', &noise(seed + file as u64, size));
    }
    tar.resize(tar.len() + 1024, 0);
    tar.into()
}

/// Appends an entry: header, content, padding.
pub(crate) fn entry(tar: &mut Vec<u8>, name: &[u8], kind: u8, content: &[u8]) {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name);
    let fields =
        [(100, "0000644\0"), (108, "0000000\0"), (116, "0000000\0"), (136, "14000000000\0"), (148, "        ")];
    for (at, text) in fields {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&header);
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// Returns what `gzip -1` makes of some bytes.
pub(crate) fn gzip(bytes: &Bytes) -> Bytes {
    filter("gzip", &["-1", "-n", "-c"], bytes)
}

/// Returns what `zstd -1` makes of some bytes.
pub(crate) fn zstd(bytes: &Bytes) -> Bytes {
    filter("zstd", &["-1", "-q", "-c"], bytes)
}

pub(crate) fn filter(program: &str, arguments: &[&str], bytes: &Bytes) -> Bytes {
    let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, bytes) = (child.stdin.take().unwrap(), bytes.clone());
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{program}: {}", output.status);
    output.stdout.into()
}
