//! Files larger than a chunk, files that end where a chunk does, and many files.

use crate::row::Row;
use crate::tar::Tar;

/// The proxy's default `convert.chunk_size`.
const CHUNK: usize = 1 << 20;

pub(crate) fn rows() -> Vec<Row> {
    let bytes = |length: usize| -> Vec<u8> { (0..length).map(|i| (i / 7 % 251) as u8).collect() };
    let sized = |length: usize| Tar::new().file("before", b"B").file("sized", &bytes(length)).file("after", b"A");
    let mut many = Tar::new();
    for folder in 0..20 {
        many = many.dir(&format!("many/{folder}/"));
        for file in 0..150 {
            many = many.file(&format!("many/{folder}/{file}"), format!("{folder} {file}").as_bytes());
        }
    }
    let replaced = Tar::new().file("f", &bytes(2 * CHUNK + 9)).hardlink("h", "f").file("f", &bytes(CHUNK + 1));
    vec![
        Row::twin("chunk-less-one", sized(CHUNK - 1)),
        Row::twin("chunk", sized(CHUNK)),
        Row::twin("chunk-and-one", sized(CHUNK + 1)),
        Row::twin("two-chunks", sized(2 * CHUNK)),
        Row::twin("chunks", sized(5 * CHUNK + 12_345)),
        Row::twin("chunks-of-a-replaced-file", replaced),
        Row::twin("block", sized(512)),
        Row::twin("block-and-one", sized(513)),
        Row::twin("many-small-files", many),
    ]
}
