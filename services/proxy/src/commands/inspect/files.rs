//! [`TocReport`]: the files of a layer by its TOC, as `tar -tv` lists them.

use std::io::{self, Write};

use api::Digest;
use estargz::{EntryType, NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK, Toc, TocEntry};
use serde::Serialize;

use crate::commands::table::shown;

/// The files of a layer.
#[derive(Debug, Serialize)]
pub struct TocReport {
    /// The twin, or the layer of a layout.
    pub layer: Digest,
    /// In the tar's order.
    pub files: Vec<FileReport>,
}

/// A file.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Type and permissions, as `ls -l` shows them; `h` for a hard link.
    pub mode: String,
    /// Owner.
    pub uid: i64,
    /// Group.
    pub gid: i64,
    /// Size in bytes.
    pub size: u64,
    /// The device's numbers.
    pub device: Option<(i64, i64)>,
    /// When it was modified (RFC 3339).
    pub modified: String,
    /// Its path as in the tar.
    pub name: String,
    /// Where a link leads.
    pub target: Option<String>,
}

impl TocReport {
    pub(super) fn new(layer: &Digest, toc: Toc) -> Self {
        let is_file = |entry: &TocEntry| {
            entry.kind != EntryType::Chunk && entry.name != NO_PREFETCH_LANDMARK && entry.name != PREFETCH_LANDMARK
        };
        let files = toc.entries.into_iter().filter(is_file).map(file).collect();
        Self { layer: layer.clone(), files }
    }

    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "\nfiles of {}", self.layer)?;
        let owner = |file: &FileReport| format!("{}/{}", file.uid, file.gid);
        let amount = |file: &FileReport| match file.device {
            Some((major, minor)) => format!("{major},{minor}"),
            None => file.size.to_string(),
        };
        let width = |text: &dyn Fn(&FileReport) -> String| self.files.iter().map(|f| text(f).len()).max().unwrap_or(0);
        let (owners, amounts) = (width(&owner), width(&amount));
        for file in &self.files {
            // Minutes are enough for people.
            let time = shown(file.modified.get(..16).unwrap_or("-")).replace('T', " ");
            let (owner, amount, mode, name) = (owner(file), amount(file), &file.mode, shown(&file.name));
            write!(out, "{mode} {owner:<owners$} {amount:>amounts$} {time:<16} {name}")?;
            match &file.target {
                Some(target) if mode.starts_with('h') => writeln!(out, " link to {}", shown(target))?,
                Some(target) => writeln!(out, " -> {}", shown(target))?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }
}

fn file(entry: TocEntry) -> FileReport {
    let is_link = matches!(entry.kind, EntryType::Symlink | EntryType::Hardlink);
    let is_device = matches!(entry.kind, EntryType::Char | EntryType::Block);
    FileReport {
        mode: mode(entry.kind, entry.mode),
        uid: entry.uid,
        gid: entry.gid,
        size: entry.size,
        device: is_device.then_some((entry.dev_major, entry.dev_minor)),
        modified: entry.modtime,
        name: entry.name,
        target: is_link.then_some(entry.link_name),
    }
}

/// Returns type and permissions as `ls -l` shows them.
fn mode(kind: EntryType, mode: i64) -> String {
    let kind = match kind {
        EntryType::Dir => 'd',
        EntryType::Reg | EntryType::Chunk => '-',
        EntryType::Symlink => 'l',
        EntryType::Hardlink => 'h',
        EntryType::Char => 'c',
        EntryType::Block => 'b',
        EntryType::Fifo => 'p',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_in_ls() {
        for (kind, bits, text) in [
            (EntryType::Dir, 0o1777, "drwxrwxrwt"),
            (EntryType::Reg, 0o4755, "-rwsr-xr-x"),
            (EntryType::Reg, 0o2640, "-rw-r-S---"),
            (EntryType::Symlink, 0o777, "lrwxrwxrwx"),
            (EntryType::Char, 0o100_666, "crw-rw-rw-"),
        ] {
            assert_eq!(mode(kind, bits), text);
        }
    }
}
