use std::convert::Infallible;
use std::io::Cursor;

use api::{TarTail, UnconvertibleReason};

use super::*;
use crate::writer::{landmark_header, landmark_payload, toc_end, toc_header};

#[derive(Default)]
struct Collect {
    raw: usize,
    payload: usize,
    names: Vec<(String, u64)>,
}

impl Sink for Collect {
    type Error = Infallible;

    fn raw(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.raw += bytes.len();
        Ok(())
    }

    fn begin(&mut self, meta: Meta) -> Result<(), Infallible> {
        self.names.push((meta.name, meta.size));
        Ok(())
    }

    fn payload(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.payload += bytes.len();
        Ok(())
    }

    fn end(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

fn collect(tar: &[u8]) -> Result<(Collect, TarTail), TarError> {
    let mut sink = Collect::default();
    match walk(Cursor::new(tar), &mut sink, &Limits::default()) {
        Ok(tail) => Ok((sink, tail)),
        Err(WalkError::Tar(e)) => Err(e),
        Err(WalkError::Input(e)) => panic!("{e}"),
        Err(WalkError::Sink(e)) => match e {},
    }
}

fn landmark() -> Vec<u8> {
    [landmark_header(), landmark_payload()].concat()
}

#[test]
fn our_own_headers_parse() {
    for size in [0u64, 5, 512, (1 << 33) - 1, 1 << 33, 1 << 40] {
        let header = toc_header(size);
        let parsed = header::RawHeader::parse(&header, 0).unwrap();
        assert_eq!((parsed.name.as_slice(), parsed.size), (crate::TOC_NAME.as_bytes(), size as i64));
        assert_eq!((size as usize + toc_end(size).len()) % BLOCK, 0);
    }
    let (sink, tail) = collect(&landmark()).unwrap();
    assert_eq!((sink.raw, sink.payload), (1023, 1));
    assert_eq!(sink.names, [(crate::NO_PREFETCH_LANDMARK.to_owned(), 1)]);
    assert_eq!(tail, TarTail::Zeros(0));
}

#[test]
fn tails_are_kept() {
    let with = |tail: &[u8]| collect(&[&landmark(), tail].concat());
    for zeros in [0, 512, 600, 1024, 9216, 100_000] {
        assert_eq!(with(&vec![0; zeros]).unwrap().1, TarTail::Zeros(zeros as u64));
    }
    let mut garbage = vec![0; 1100];
    garbage[1050] = 7;
    assert_eq!(with(&garbage).unwrap().1, TarTail::Bytes(hex::encode(&garbage)));
    garbage.resize(TarTail::MAX_BYTES, 1);
    assert!(matches!(with(&garbage).unwrap().1, TarTail::Bytes(_)));
    garbage.push(1);
    assert_eq!(with(&garbage).err().unwrap().reason, UnconvertibleReason::Limit);
    garbage.truncate(513);
    garbage[512] = 1;
    assert_eq!(with(&garbage).err().unwrap().reason, UnconvertibleReason::Corrupt);
}

#[test]
fn cut_tars_are_corrupt() {
    let tar = landmark();
    for len in (1..tar.len()).filter(|len| *len != 0) {
        assert_eq!(collect(&tar[..len]).err().unwrap().reason, UnconvertibleReason::Corrupt, "{len}");
    }
}

/// Returns an entry `name` with a payload that is padded.
fn entry(flag: u8, name: &str, payload: &[u8]) -> Vec<u8> {
    let mut block = toc_header(payload.len() as u64);
    block[..100].fill(0);
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[156] = flag;
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    [&block[..], payload, &vec![0; padding(payload.len() as u64)]].concat()
}

#[test]
fn empty_long_names_name_nothing() {
    let pax = entry(b'x', "p", b"10 path=p\n");
    for (records, name) in [
        (entry(b'L', "l", b"long\0"), "long"),
        (entry(b'L', "l", b"\0"), "short"),
        ([entry(b'L', "l", b"long\0"), entry(b'L', "l", b"")].concat(), "short"),
        ([pax.clone(), entry(b'L', "l", b"")].concat(), "p"),
        ([pax, entry(b'L', "l", b"long")].concat(), "long"),
        (entry(b'K', "l", b""), "short"),
    ] {
        let (sink, _) = collect(&[records, entry(b'0', "short", b"")].concat()).unwrap();
        assert_eq!(sink.names, [(name.to_owned(), 0)]);
    }
}

#[test]
fn attributes_are_bounded_together() {
    let record = b"29 SCHILY.xattr.user.a=12345\n";
    let tar: Vec<u8> = (0..3).flat_map(|_| [entry(b'x', "p", record), entry(b'0', "f", b"")].concat()).collect();
    let walked = |all_xattr_bytes| {
        let limits = Limits { all_xattr_bytes, ..Limits::default() };
        walk(Cursor::new(&tar), &mut Collect::default(), &limits).map_err(|e| match e {
            WalkError::Tar(e) => e.reason,
            WalkError::Input(e) => panic!("{e}"),
            WalkError::Sink(e) => match e {},
        })
    };
    assert!(walked(33).is_ok());
    assert_eq!(walked(32).unwrap_err(), UnconvertibleReason::Limit);
}
