//! Tars, header by header, right or wrong.

/// A number in a header: octal digits, or base-256 where those do not suffice.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Octal(u64),
    Base256(i64),
}

/// Which of the formats a header is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    V7,
    Ustar,
    Gnu,
}

/// One header's fields.
#[derive(Clone, Debug)]
pub(crate) struct Header<'a> {
    pub(crate) flag: u8,
    pub(crate) name: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) size: Number,
    pub(crate) mode: u32,
    pub(crate) owner: (Number, Number),
    pub(crate) mtime: Number,
    pub(crate) device: (u64, u64),
    pub(crate) prefix: &'a [u8],
    pub(crate) format: Format,
}

impl Default for Header<'_> {
    fn default() -> Self {
        Self {
            flag: b'0',
            name: b"",
            link: b"",
            size: Number::Octal(0),
            mode: 0o644,
            owner: (Number::Octal(0), Number::Octal(0)),
            mtime: Number::Octal(1_600_000_000),
            device: (0, 0),
            prefix: b"",
            format: Format::Ustar,
        }
    }
}

/// A header's block without its checksum.
fn block(header: &Header<'_>) -> [u8; 512] {
    let mut block = [0; 512];
    block[..header.name.len()].copy_from_slice(header.name);
    put(&mut block[100..108], Number::Octal(header.mode.into()));
    put(&mut block[108..116], header.owner.0);
    put(&mut block[116..124], header.owner.1);
    put(&mut block[124..136], header.size);
    put(&mut block[136..148], header.mtime);
    block[156] = header.flag;
    block[157..157 + header.link.len()].copy_from_slice(header.link);
    match header.format {
        Format::V7 => return block,
        Format::Ustar => block[257..265].copy_from_slice(b"ustar\x0000"),
        Format::Gnu => block[257..265].copy_from_slice(b"ustar  \0"),
    }
    put(&mut block[329..337], Number::Octal(header.device.0));
    put(&mut block[337..345], Number::Octal(header.device.1));
    block[345..345 + header.prefix.len()].copy_from_slice(header.prefix);
    block
}

fn put(field: &mut [u8], number: Number) {
    match number {
        Number::Octal(value) => {
            let text = format!("{value:0width$o}", width = field.len() - 1);
            field[..text.len()].copy_from_slice(text.as_bytes());
        }
        Number::Base256(value) => {
            let bytes = value.to_be_bytes();
            let sign = if value < 0 { 0xff } else { 0 };
            field.fill(sign);
            let from = field.len().saturating_sub(bytes.len());
            let length = field.len() - from;
            field[from..].copy_from_slice(&bytes[bytes.len() - length..]);
            field[0] |= 0x80;
        }
    }
}

/// A tar under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    /// An empty tar.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a header with its checksum.
    pub(crate) fn header(self, header: &Header<'_>) -> Self {
        let mut block = block(header);
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.raw(&block)
    }

    /// Adds a header whose checksum is the sum of signed bytes, as some old programs wrote it.
    pub(crate) fn header_summed_signed(self, header: &Header<'_>) -> Self {
        let mut block = block(header);
        block[148..156].fill(b' ');
        let sum: i32 = block.iter().map(|byte| i32::from(*byte as i8)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.raw(&block)
    }

    /// Adds bytes as they are.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds a payload with its padding.
    pub(crate) fn payload(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Adds a header and its payload; the header's size becomes that of the payload.
    pub(crate) fn entry(self, header: Header<'_>, contents: &[u8]) -> Self {
        self.header(&Header { size: Number::Octal(contents.len() as u64), ..header }).payload(contents)
    }

    pub(crate) fn file(self, name: &str, contents: &[u8]) -> Self {
        self.entry(Header { name: name.as_bytes(), ..Header::default() }, contents)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.header(&Header { flag: b'5', name: name.as_bytes(), mode: 0o755, ..Header::default() })
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.link(b'2', name, target)
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.link(b'1', name, target)
    }

    fn link(self, flag: u8, name: &str, target: &str) -> Self {
        self.header(&Header { flag, name: name.as_bytes(), link: target.as_bytes(), mode: 0o777, ..Header::default() })
    }

    pub(crate) fn special(self, flag: u8, name: &str, device: (u64, u64)) -> Self {
        self.header(&Header { flag, name: name.as_bytes(), device, ..Header::default() })
    }

    /// Adds pax records for the next entry (`x`) or for all that follow (`g`).
    pub(crate) fn pax(self, flag: u8, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).map(|digits| rest + digits).find(|length| rest + length.to_string().len() == *length);
            body.extend_from_slice(format!("{} {key}=", length.unwrap()).as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        // The names that `git archive` and others give them. containerd makes the folders of such a name; with git's there are none.
        let name: &[u8] = if flag == b'g' { b"pax_global_header" } else { b"PaxHeaders/x" };
        self.entry(Header { flag, name, ..Header::default() }, &body)
    }

    /// Adds a GNU long name (`L`) or long link (`K`) for the next entry.
    pub(crate) fn long(self, flag: u8, name: &str) -> Self {
        let body = format!("{name}\0");
        self.entry(Header { flag, name: b"././@LongLink", format: Format::Gnu, ..Header::default() }, body.as_bytes())
    }

    /// Returns the tar as it is, without an end.
    pub(crate) fn open(self) -> Vec<u8> {
        self.0
    }

    /// Returns the tar with the two zero blocks that end it.
    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).open()
    }
}
