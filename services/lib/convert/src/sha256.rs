//! SHA-256 of streams that are made of the same blocks.
//!
//! A conversion hashes the same bytes three times: as the source's plain tar, as the twin's, and as chunks. All three are
//! cut at multiples of 512 bytes, so their blocks of 64 bytes are the same ones. [`absorb`] prepares each block once (the
//! message schedule of FIPS 180-4, 6.2.2) and runs the rounds of all streams side by side: one stream alone waits for
//! its own last round most of the time.

use sha2::block_api::compress256;

/// The size of a block in bytes.
pub(crate) const BLOCK: usize = 64;

/// The state before the first block (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A stream's hash so far; it has taken whole blocks only.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    state: [u32; 8],
    len: u64,
}

impl Stream {
    pub(crate) fn new() -> Self {
        Self { state: INITIAL, len: 0 }
    }

    /// Returns how many bytes it has taken.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the hash of the blocks taken so far and of `rest` after them.
    pub(crate) fn finish(mut self, rest: &[u8]) -> [u8; 32] {
        let (blocks, rest) = rest.as_chunks::<BLOCK>();
        absorb([&mut self], blocks);
        let bits = (self.len + rest.len() as u64) * 8;
        let mut last = [0; 2 * BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        last[rest.len()] = 0x80;
        let end = if rest.len() < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
        last[end - 8..end].copy_from_slice(&bits.to_be_bytes());
        absorb([&mut self], last[..end].as_chunks().0);
        let mut hash = [0; 32];
        for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        hash
    }
}

/// Appends `blocks` to every stream.
pub(crate) fn absorb<const N: usize>(streams: [&mut Stream; N], blocks: &[[u8; BLOCK]]) {
    let states = streams.map(|stream| {
        stream.len += blocks.as_flattened().len() as u64;
        &mut stream.state
    });
    #[cfg(target_arch = "x86_64")]
    if x86::available() {
        #[expect(unsafe_code, reason = "instructions that not every CPU has")]
        // SAFETY: `available` has just found every feature that the function enables.
        unsafe {
            x86::absorb(states, blocks);
        }
        return;
    }
    absorb_anywhere(states, blocks);
}

/// The same on any CPU, one stream after the other.
fn absorb_anywhere<const N: usize>(states: [&mut [u32; 8]; N], blocks: &[[u8; BLOCK]]) {
    for state in states {
        compress256(state, blocks);
    }
}

/// The rounds in the CPU's own SHA instructions. `sha2` has them too, for one stream at a time.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
        _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
    };

    use super::BLOCK;

    /// The constants of the rounds (FIPS 180-4, 4.2.2).
    #[rustfmt::skip]
    const K: [[i32; 4]; 16] = words([
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    ]);

    const fn words(flat: [u32; 64]) -> [[i32; 4]; 16] {
        let mut words = [[0; 4]; 16];
        let mut i = 0;
        while i < 64 {
            words[i / 4][i % 4] = flat[i].cast_signed();
            i += 1;
        }
        words
    }

    pub(super) fn available() -> bool {
        is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3")
    }

    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    pub(super) fn absorb<const N: usize>(states: [&mut [u32; 8]; N], blocks: &[[u8; BLOCK]]) {
        // The instructions want the words in two registers: A, B, E, F and C, D, G, H, the first one on top.
        let mut abef = [_mm_set_epi32(0, 0, 0, 0); N];
        let mut cdgh = abef;
        for i in 0..N {
            let [a, b, c, d, e, f, g, h] = states[i].map(u32::cast_signed);
            (abef[i], cdgh[i]) = (_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h));
        }
        for block in blocks {
            let before = (abef, cdgh);
            let mut w = load(block);
            for k in K {
                let low = _mm_add_epi32(w[0], _mm_set_epi32(k[3], k[2], k[1], k[0]));
                let high = _mm_shuffle_epi32::<0x0e>(low);
                for i in 0..N {
                    cdgh[i] = _mm_sha256rnds2_epu32(cdgh[i], abef[i], low);
                    abef[i] = _mm_sha256rnds2_epu32(abef[i], cdgh[i], high);
                }
                // After the last words this prepares some that nobody takes; the optimiser leaves them out.
                let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[0], w[1]), _mm_alignr_epi8::<4>(w[3], w[2]));
                w = [w[1], w[2], w[3], _mm_sha256msg2_epu32(sum, w[3])];
            }
            for i in 0..N {
                abef[i] = _mm_add_epi32(abef[i], before.0[i]);
                cdgh[i] = _mm_add_epi32(cdgh[i], before.1[i]);
            }
        }
        for i in 0..N {
            let (abef, cdgh) = (parts(abef[i]), parts(cdgh[i]));
            let [f, e, b, a] = abef;
            let [h, g, d, c] = cdgh;
            *states[i] = [a, b, c, d, e, f, g, h];
        }
    }

    /// Returns a block's sixteen words, which it has in big-endian order.
    #[target_feature(enable = "sse2,ssse3")]
    fn load(block: &[u8; BLOCK]) -> [__m128i; 4] {
        let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let halves = block.as_chunks::<8>().0;
        [0, 1, 2, 3].map(|i| {
            let (low, high) = (i64::from_le_bytes(halves[2 * i]), i64::from_le_bytes(halves[2 * i + 1]));
            _mm_shuffle_epi8(_mm_set_epi64x(high, low), order)
        })
    }

    /// Returns a register's words, the lowest first.
    #[target_feature(enable = "sse4.1")]
    fn parts(register: __m128i) -> [u32; 4] {
        [
            _mm_extract_epi32::<0>(register),
            _mm_extract_epi32::<1>(register),
            _mm_extract_epi32::<2>(register),
            _mm_extract_epi32::<3>(register),
        ]
        .map(i32::cast_unsigned)
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn any_length_hashes_as_elsewhere() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7 + i / 256) as u8).collect();
        for len in 0..bytes.len() {
            let expected: [u8; 32] = Sha256::digest(&bytes[..len]).into();
            assert_eq!(Stream::new().finish(&bytes[..len]), expected, "{len} bytes");
        }
    }

    #[test]
    fn every_cpu_agrees() {
        let blocks: Vec<[u8; BLOCK]> = (0..9).map(|i| [i * 29; BLOCK]).collect();
        let (mut one, mut other) = (Stream::new(), Stream { state: [1, 2, 3, 4, 5, 6, 7, 8], len: 0 });
        let (mut same, mut also) = (one.state, other.state);
        absorb([&mut one, &mut other], &blocks);
        absorb_anywhere([&mut same, &mut also], &blocks);
        assert_eq!((one.state, other.state), (same, also));
    }

    #[test]
    fn streams_with_different_beginnings_share_blocks() {
        let shared = [[7; BLOCK], [8; BLOCK], [9; BLOCK]];
        let (mut a, mut b, mut c) = (Stream::new(), Stream::new(), Stream::new());
        absorb([&mut b], &[[1; BLOCK]]);
        absorb([&mut c], &[[2; BLOCK], [3; BLOCK]]);
        absorb([&mut a, &mut b, &mut c], &shared);
        let expected = |parts: &[&[u8]]| <[u8; 32]>::from(Sha256::digest(parts.concat()));
        let shared = shared.as_flattened();
        assert_eq!(a.finish(b"end"), expected(&[shared, b"end"]));
        assert_eq!(b.finish(&[]), expected(&[&[1; BLOCK], shared]));
        assert_eq!(c.finish(&[5; 60]), expected(&[&[2; BLOCK], &[3; BLOCK], shared, &[5; 60]]));
    }
}
