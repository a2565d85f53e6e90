//! [`Selection`]: what the Range header of a request selects (RFC 9110 §14).

use std::ops::Range;

/// The most ranges one request may ask for; a request with more gets the whole blob.
const MAX_RANGES: usize = 256;

/// What a Range header means for a blob of a known size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// No usable Range header: the whole blob.
    Whole,
    /// One range: a 206 with Content-Range.
    One(Range<u64>),
    /// Several ranges: a 206 with `multipart/byteranges`.
    Many(Vec<Range<u64>>),
    /// No range lies within the blob: 416.
    Unsatisfiable,
}

impl Selection {
    /// Returns what `header` selects of `size` bytes. A header that does not follow the grammar is
    /// ignored, as the RFC demands.
    pub(crate) fn parse(header: &str, size: u64) -> Self {
        let Some(list) = header.trim().strip_prefix("bytes=") else { return Self::Whole };
        let mut ranges = Vec::new();
        let mut specs = 0;
        for spec in list.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
            specs += 1;
            match one(spec, size) {
                Some(range) if !range.is_empty() => ranges.push(range),
                Some(_) => {}
                None => return Self::Whole,
            }
        }
        match ranges.len() {
            _ if specs == 0 || specs > MAX_RANGES => Self::Whole,
            0 => Self::Unsatisfiable,
            1 => Self::One(ranges.remove(0)),
            _ if ranges.iter().map(|r| r.end - r.start).sum::<u64>() > size => Self::Whole,
            _ => Self::Many(ranges),
        }
    }
}

/// Returns the range of one spec; an empty one where it lies outside; `None` where it is malformed.
fn one(spec: &str, size: u64) -> Option<Range<u64>> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number too large for u64 lies past the end of every blob.
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?;
        return Some(size.saturating_sub(suffix)..size);
    }
    let first = number(first)?;
    let end = if last.is_empty() { size } else { number(last)?.saturating_add(1).min(size) };
    if !last.is_empty() && number(last)? < first {
        // RFC 9110 calls this invalid; the conformance suite wants 416 for `500-0`.
        return Some(0..0);
    }
    Some(first.min(end)..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_select_what_the_rfc_says() {
        use Selection::{Many, One, Unsatisfiable, Whole};
        let cases = [
            ("bytes=0-9", One(0..10)),
            ("bytes=90-", One(90..100)),
            ("bytes=-10", One(90..100)),
            ("bytes=-1000", One(0..100)),
            ("bytes=50-1000", One(50..100)),
            ("bytes=0-99999999999999999999999", One(0..100)),
            ("bytes=100-", Unsatisfiable),
            ("bytes=500-0", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=0-0,10-19", Many(vec![0..1, 10..20])),
            ("bytes=0-0, 200-300", One(0..1)),
            ("bytes=0-99,0-99", Whole),
            ("bytes=a-b", Whole),
            ("bytes=--5", Whole),
            ("items=0-1", Whole),
            ("bytes=", Whole),
        ];
        for (header, selection) in cases {
            assert_eq!(Selection::parse(header, 100), selection, "{header}");
        }
        assert_eq!(Selection::parse("bytes=0-", 0), Unsatisfiable);
        let many = format!("bytes={}", vec!["0-0"; MAX_RANGES + 1].join(","));
        assert_eq!(Selection::parse(&many, 1000), Whole);
    }
}
