//! gzip and zstd of a test's tars, right or wrong.

use std::io::Write;
use std::process::{Command, Stdio};

use flate2::{Compression, GzBuilder};

/// Returns one gzip member with some bytes.
pub(crate) fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut writer = GzBuilder::new().write(Vec::new(), Compression::fast());
    writer.write_all(plain).unwrap();
    writer.finish().unwrap()
}

/// Returns bytes as several gzip members, each of `length` plain bytes.
pub(crate) fn gzip_members(plain: &[u8], length: usize) -> Vec<u8> {
    plain.chunks(length).flat_map(gzip).collect()
}

/// Returns what the program `zstd` makes of some bytes.
pub(crate) fn zstd(plain: &[u8]) -> Vec<u8> {
    filter(Command::new("zstd").args(["-1", "-q", "-c"]), plain)
}

/// Returns a zstd skippable frame.
pub(crate) fn skippable(payload: &[u8]) -> Vec<u8> {
    let mut frame = 0x184d_2a50_u32.to_le_bytes().to_vec();
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Runs a program on some bytes and returns what it writes.
fn filter(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut pipe, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writer = std::thread::spawn(move || pipe.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    output.stdout
}
