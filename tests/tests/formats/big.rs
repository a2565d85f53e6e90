//! A layer over 4 GiB: no offset, size or counter of 32 bits on the way.

use std::time::Duration;

use api::{Algorithm, Hasher};
use e2e::{Scratch, wait, web};
use flate2::{Compress, Compression, Crc, FlushCompress};

use crate::converted::{self, TOC_DIGEST, text};
use crate::oracle::rebuild;
use crate::push;
use crate::reference;
use crate::tar::{Header, Number, Tar};
use crate::world::{REPOSITORY, World};

/// What is repeated: the layer is made of whole pieces, each deflated once.
const PIECE: usize = 16 << 20;
/// Pieces of the file of zeros and of the patterned file, which alone passes 4 GiB.
const PIECES: (u64, u64) = (16, 257);
/// The most memory the proxy may have taken, in bytes.
const MEMORY: u64 = 256 << 20;

/// One gzip member that unpacks to a tar over 4 GiB, made without ever holding it.
struct Layer {
    blob: Vec<u8>,
    crc: Crc,
    hasher: Hasher,
    size: u64,
}

#[test]
fn a_layer_over_4_gib_passes_through_and_converts() {
    let world = World::start();
    let scratch = Scratch::new().unwrap();
    let (blob, diff_id, plain_size) = layer();
    assert!(plain_size > 1 << 32);
    let layer = push::layer(&world.registry, REPOSITORY, push::GZIP, blob.into(), diff_id.clone());
    let digest = world.image("big", std::slice::from_ref(&layer));
    // However long that takes here.
    converted::manifest(&world.proxy, REPOSITORY, &digest, "estargz");
    let converted = || Ok((world.proxy.sql("SELECT count(*) FROM converted")? == "1").then_some(()));
    wait::until("the conversion", Duration::from_secs(900), converted).unwrap();
    let (found, shown) = world.shown("big", &digest);
    assert_ne!(found, digest, "{}", world.proxy.log());

    let path = format!("/v2/{REPOSITORY}/blobs/{}", layer.digest);
    let passed = web::download(world.proxy.at(), &path, &[], web::Pace::default()).unwrap();
    assert_eq!(passed.digest, layer.digest);

    let shown = &shown["layers"][0];
    let twin = converted::blob(&world.proxy, REPOSITORY, &text(&shown["digest"]), scratch.path());
    let tail = rebuild(&twin, shown, &diff_id, 1024);
    assert_eq!(tail, (diff_id, plain_size));
    let entries = reference::open(&twin, &text(&shown["annotations"][TOC_DIGEST])).unwrap();
    let size = |name: &str| entries.iter().find(|entry| entry["name"] == name).unwrap()["size"].as_u64().unwrap();
    assert_eq!([size("zeros"), size("pattern")], [PIECES.0, PIECES.1].map(|pieces| pieces * PIECE as u64));
    let memory = world.proxy.peak_memory().unwrap();
    assert!(memory <= MEMORY, "the proxy took {memory} bytes");
}

fn layer() -> (Vec<u8>, String, u64) {
    let mut layer = Layer { blob: Vec::new(), crc: Crc::new(), hasher: Hasher::new(Algorithm::Sha256), size: 0 };
    // The gzip header: deflate, no flags, no time.
    layer.blob.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    let pattern: Vec<u8> = (0..PIECE).map(|i| (i / 4096 * 31 + i % 61) as u8).collect();
    for (name, piece, pieces) in [("zeros", vec![0; PIECE], PIECES.0), ("pattern", pattern, PIECES.1)] {
        let size = Number::Octal(pieces * PIECE as u64);
        let header = Header { name: name.as_bytes(), size, ..Header::default() };
        layer.add(&Tar::new().header(&header).open(), 1);
        layer.add(&piece, pieces);
    }
    layer.add(&[0; 1024], 1);
    layer.finish()
}

impl Layer {
    /// Adds the same bytes some times.
    fn add(&mut self, piece: &[u8], times: u64) {
        let mut deflate = Compress::new(Compression::fast(), false);
        let mut deflated = Vec::with_capacity(piece.len() + 1024);
        // A full flush ends on a whole byte and forgets what was before, so that the result can be repeated.
        deflate.compress_vec(piece, &mut deflated, FlushCompress::Full).unwrap();
        assert_eq!(deflate.total_in(), piece.len() as u64);
        for _ in 0..times {
            self.blob.extend_from_slice(&deflated);
            self.crc.update(piece);
            self.hasher.update(piece);
            self.size += piece.len() as u64;
        }
    }

    /// Ends the member and returns it with the digest and the size of what is in it.
    fn finish(mut self) -> (Vec<u8>, String, u64) {
        // An empty last block.
        self.blob.extend_from_slice(&[3, 0]);
        self.blob.extend_from_slice(&self.crc.sum().to_le_bytes());
        self.blob.extend_from_slice(&self.crc.amount().to_le_bytes());
        (self.blob, self.hasher.finish().to_string(), self.size)
    }
}
