//! The footer: an empty gzip member of 51 bytes whose extra field says where the TOC begins.

/// The size of a footer in bytes.
pub const FOOTER_SIZE: usize = 51;

/// Everything before the offset: gzip header with FEXTRA, XLEN 26, subfield "SG" of 22 bytes.
const HEAD: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0];
const MAGIC: &[u8; 6] = b"STARGZ";
/// One empty final stored block, CRC 0, size 0.
const END: [u8; 13] = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];

/// Returns the footer of a blob whose TOC's gzip member begins at `toc_offset`.
pub fn write(toc_offset: u64) -> [u8; FOOTER_SIZE] {
    let mut footer = [0; FOOTER_SIZE];
    footer[..16].copy_from_slice(&HEAD);
    footer[16..32].copy_from_slice(format!("{toc_offset:016x}").as_bytes());
    footer[32..38].copy_from_slice(MAGIC);
    footer[38..].copy_from_slice(&END);
    footer
}

/// Returns the offset of the TOC's gzip member, or `None` if `bytes` is no footer. The legacy footer
/// of 47 bytes is none: TOCs of its time have no digests.
pub fn parse(bytes: &[u8]) -> Option<u64> {
    let bytes: &[u8; FOOTER_SIZE] = bytes.try_into().ok()?;
    // The extra flags (XFL) and the operating system may be any.
    let head_matches = bytes[..8] == HEAD[..8] && bytes[10..16] == HEAD[10..];
    if !head_matches || bytes[32..38] != *MAGIC || bytes[38..] != END {
        return None;
    }
    let digits = &bytes[16..32];
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_returns_what_was_written() {
        for offset in [0, 1, 4497, u64::from(u32::MAX) + 1, u64::MAX >> 1] {
            assert_eq!(parse(&write(offset)), Some(offset));
        }
    }

    #[test]
    fn reference_footer_is_reproduced() {
        let text =
            "1f8b08040000000000ff1a00534716003030303030303030303030303131393153544152475a010000ffff0000000000000000";
        assert_eq!(hex::encode(write(0x1191)), text);
    }

    #[test]
    fn damaged_footers_are_refused() {
        for at in (0..FOOTER_SIZE).filter(|at| ![8, 9].contains(at)) {
            let mut footer = write(0x1191);
            footer[at] = b'?';
            assert_eq!(parse(&footer), None, "byte {at}");
        }
        assert_eq!(parse(&write(1)[..50]), None);
        assert_eq!(parse(&[]), None);
    }
}
