//! [`Tar`]: a tar, entry by entry, right or wrong.

/// A tar under construction.
#[derive(Clone, Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

/// One header's fields; what is not set is usual.
pub(super) struct Header<'a> {
    pub(super) flag: u8,
    pub(super) name: &'a [u8],
    pub(super) link: &'a [u8],
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) mtime: u64,
    pub(super) device: (u32, u32),
    pub(super) magic: &'a [u8],
}

impl Default for Header<'_> {
    fn default() -> Self {
        Self {
            flag: b'0',
            name: b"",
            link: b"",
            size: 0,
            mode: 0o644,
            mtime: 1_700_000_000,
            device: (0, 0),
            magic: b"ustar\x0000",
        }
    }
}

impl Tar {
    pub(super) fn header(mut self, h: &Header<'_>) -> Self {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &h.name[..h.name.len().min(100)]);
        put(100, format!("{:07o}", h.mode).as_bytes());
        put(108, b"0001750");
        put(116, b"0000144");
        put(124, format!("{:011o}", h.size).as_bytes());
        put(136, format!("{:011o}", h.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[h.flag]);
        put(157, &h.link[..h.link.len().min(100)]);
        put(257, h.magic);
        if !h.magic.is_empty() {
            put(265, b"user");
            put(297, b"group");
            put(329, format!("{:07o}", h.device.0).as_bytes());
            put(337, format!("{:07o}", h.device.1).as_bytes());
        }
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    /// Adds bytes and pads them to a block.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, contents: &[u8]) -> Self {
        self.flag_file(b'0', name, contents)
    }

    pub(super) fn flag_file(self, flag: u8, name: &str, contents: &[u8]) -> Self {
        let size = contents.len() as u64;
        self.header(&Header { flag, name: name.as_bytes(), size, ..Header::default() }).bytes(contents)
    }

    pub(super) fn dir(self, name: &str) -> Self {
        self.header(&Header { flag: b'5', name: name.as_bytes(), mode: 0o755, ..Header::default() })
    }

    pub(super) fn link(self, flag: u8, name: &str, target: &str) -> Self {
        self.header(&Header { flag, name: name.as_bytes(), link: target.as_bytes(), ..Header::default() })
    }

    pub(super) fn hardlink(self, name: &str, target: &str) -> Self {
        self.link(b'1', name, target)
    }

    /// Adds an extended header (`x`, or `g` for a global one).
    pub(super) fn pax(self, flag: u8, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while len != rest + len.to_string().len() {
                len = rest + len.to_string().len();
            }
            body.extend_from_slice(format!("{len} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.flag_file(flag, "pax_header", &body)
    }

    /// Ends the tar with two zero blocks.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}
