//! [`Pax`]: the records of a pax extended header.

use super::{TarError, walk::is_sparse_key};

/// The records that change the entry after them. A record with an empty value changes nothing, except an extended
/// attribute, which it makes empty.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) user_name: Option<Vec<u8>>,
    pub(super) group_name: Option<Vec<u8>>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) size: Option<i64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: bool,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

impl Pax {
    /// Parses the payload of an extended header whose block lies at `at`.
    pub(super) fn parse(mut data: &[u8], at: u64) -> Result<Self, TarError> {
        let malformed = || TarError::corrupt(format!("pax header at {at} has a malformed record"));
        let mut pax = Self::default();
        while !data.is_empty() {
            let (key, value, rest) = record(data).ok_or_else(malformed)?;
            pax.set(key, value).ok_or_else(malformed)?;
            data = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let text = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link_path = text,
            b"uname" => self.user_name = text,
            b"gname" => self.group_name = text,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"size" => self.size = number(value)?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            // Times that no unpacked tree shows, but that a reader checks.
            b"atime" | b"ctime" if !value.is_empty() => {
                time(value)?;
            }
            _ if is_sparse_key(key) => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR).filter(|name| !name.is_empty()) {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Some(())
    }
}

/// Splits the first record off: `LENGTH KEY=VALUE\n`, the length counting all of it.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|&b| b == b' ')?;
    let len: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
    if len < 5 || len > data.len() || len < space + 2 {
        return None;
    }
    let (body, rest) = (&data[space + 1..len], &data[len..]);
    let body = body.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&b| b == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    let no_nul = match key {
        b"path" | b"linkpath" | b"uname" | b"gname" => value,
        _ => key,
    };
    (!key.is_empty() && !no_nul.contains(&0)).then_some((key, value, rest))
}

/// Parses a decimal number; the outer `None` is an error, the inner one an empty value.
fn number(value: &[u8]) -> Option<Option<i64>> {
    if value.is_empty() {
        return Some(None);
    }
    std::str::from_utf8(value).ok()?.parse().ok().map(Some)
}

/// Parses seconds with an optional fraction, either side of 1970.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_split() {
        assert_eq!(record(b"6 a=b\nrest"), Some((&b"a"[..], &b"b"[..], &b"rest"[..])));
        for bad in [&b""[..], b"6 a=b", b"5 a=b\n", b"6 ab=\n7", b"99 a=b\n", b"6 =bc\n", b"x a=b\n", b"1 \n"] {
            assert!(record(bad).is_none_or(|(key, ..)| key == b"ab"), "{bad:?}");
        }
    }

    #[test]
    fn times_split() {
        assert_eq!(time(b"1350244992.023960108"), Some((1_350_244_992, 23_960_108)));
        assert_eq!(time(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(time(b"1.1234567899"), Some((1, 123_456_789)));
        assert_eq!(time(b"1.-5"), None);
    }
}
