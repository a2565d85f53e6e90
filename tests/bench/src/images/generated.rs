//! [`Generated`]: images that are made up, the same bytes every time.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};

use anyhow::Result;
use api::{Algorithm, Hasher};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::layout::{Layer, Layout};

/// An image of one layer that is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generated {
    /// 100 000 small files as a package manager for JavaScript leaves them.
    NodeModules,
    /// One file of 6 GiB, zeros and a pattern by turns.
    Huge,
    /// 1 000 000 files of about 100 bytes.
    Million,
}

impl Generated {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::NodeModules, Self::Huge, Self::Million];

    /// Returns the tag and folder name.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::NodeModules => "node_modules",
            Self::Huge => "huge",
            Self::Million => "million",
        }
    }

    /// Writes the image into the folder of a layout.
    ///
    /// # Errors
    /// A file could not be written.
    pub(crate) fn write(self, layout: &Layout) -> Result<()> {
        // As Docker compresses; the two that only test for memory need not be small.
        let level = if self == Self::NodeModules { 6 } else { 1 };
        let file = Digesting::new(BufWriter::new(File::create(layout.incoming())?));
        let plain = Digesting::new(GzEncoder::new(file, Compression::new(level)));
        let mut tar = tar::Builder::new(plain);
        match self {
            Self::NodeModules => node_modules(&mut tar)?,
            Self::Huge => huge(&mut tar)?,
            Self::Million => million(&mut tar)?,
        }
        let (gzip, diff_id, _) = tar.into_inner()?.finish();
        let (mut file, digest, size) = gzip.finish()?.finish();
        file.flush()?;
        layout.finish(&Layer { digest, size }, &diff_id)
    }
}

/// A writer that counts and hashes what goes through.
struct Digesting<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W> Digesting<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::new(Algorithm::Sha256), size: 0 }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, self.hasher.finish().to_string(), self.size)
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Xorshift: the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 11) as usize % bound
    }

    /// One of some, the first ones much more often than the last, as words come in text.
    fn pick<'a>(&mut self, from: &'a [String]) -> &'a str {
        let bound = self.below(from.len()) + 1;
        &from[self.below(bound)]
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(1_700_000_000);
    header
}

fn folder<W: Write>(tar: &mut tar::Builder<W>, path: &str) -> io::Result<()> {
    tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), path, io::empty())
}

fn file<W: Write>(tar: &mut tar::Builder<W>, path: &str, text: &str) -> io::Result<()> {
    tar.append_data(&mut header(tar::EntryType::Regular, 0o644, text.len() as u64), path, text.as_bytes())
}

fn million<W: Write>(tar: &mut tar::Builder<W>) -> io::Result<()> {
    let mut dice = Dice(1_000_000);
    folder(tar, "data/")?;
    for group in 0..1000 {
        folder(tar, &format!("data/{group:03}/"))?;
        for number in 0..1000 {
            let rest = (0..dice.below(12)).map(|_| format!("{:08x} ", dice.next() as u32)).collect::<String>();
            file(
                tar,
                &format!("data/{group:03}/record-{number:03}.txt"),
                &format!("record {group}-{number}\n{rest}\n"),
            )?;
        }
    }
    Ok(())
}

/// Zeros for 64 MiB, then for 64 MiB a pattern that takes the converter some work, and so on.
struct Stripes {
    pattern: Vec<u8>,
    at: u64,
}

impl Read for Stripes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let place = (self.at % self.pattern.len() as u64) as usize;
        let piece = buffer.len().min(self.pattern.len() - place);
        if (self.at >> 26).is_multiple_of(2) {
            buffer[..piece].fill(0);
        } else {
            buffer[..piece].copy_from_slice(&self.pattern[place..place + piece]);
        }
        self.at += piece as u64;
        Ok(piece)
    }
}

fn huge<W: Write>(tar: &mut tar::Builder<W>) -> io::Result<()> {
    const SIZE: u64 = 6 << 30;
    let mut dice = Dice(6);
    let mut text = String::new();
    while text.len() < 1 << 20 {
        let _ = writeln!(text, "{:>8} a line of the pattern, {:04x}", text.len(), dice.next() as u16);
    }
    let mut pattern = text.into_bytes();
    pattern.truncate(1 << 20);
    let mut header = header(tar::EntryType::Regular, 0o644, SIZE);
    tar.append_data(&mut header, "huge.bin", Stripes { pattern, at: 0 }.take(SIZE))
}

fn node_modules<W: Write>(tar: &mut tar::Builder<W>) -> io::Result<()> {
    const FILES: usize = 100_000;
    let mut dice = Dice(0x6e6f_6465);
    let names = words(&mut dice, 3000);
    folder(tar, "app/")?;
    folder(tar, "app/node_modules/")?;
    let mut left = FILES;
    for package in 0.. {
        let name = format!("{}-{}-{package}", dice.pick(&names), dice.pick(&names));
        let root = format!("app/node_modules/{name}");
        for below in ["", "/lib", "/dist"] {
            folder(tar, &format!("{root}{below}/"))?;
        }
        let sources = 4 + dice.below(120);
        for number in 0..sources {
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            let stem = dice.pick(&names).to_owned();
            let (path, text) = match number {
                0 => ("package.json".to_owned(), package_json(&mut dice, &names, &name)),
                1 => ("LICENSE".to_owned(), LICENSE.replace("NAME", &stem)),
                2 => ("README.md".to_owned(), format!("# {name}\n\n{}", prose(&mut dice, &names, 200))),
                _ if number % 3 == 0 => (format!("dist/{stem}-{number}.d.ts"), types(&mut dice, &names)),
                _ => (format!("lib/{stem}-{number}.js"), script(&mut dice, &names)),
            };
            file(tar, &format!("{root}/{path}"), &text)?;
        }
    }
    Ok(())
}

const LICENSE: &str = "MIT License\n\nCopyright (c) NAME\n\nPermission is hereby granted, free of charge, to any person \
obtaining a copy of this software and associated documentation files, to deal in the software without restriction.\n\
The software is provided \"as is\", without warranty of any kind, express or implied.\n";

/// Made-up words, two to four syllables each.
fn words(dice: &mut Dice, count: usize) -> Vec<String> {
    const SYLLABLES: [&str; 24] = [
        "ba", "con", "de", "ex", "fi", "gra", "hand", "in", "ju", "ker", "lo", "map", "no", "op", "par", "que", "re",
        "set", "ta", "un", "val", "way", "ze", "str",
    ];
    let word = |_| (0..2 + dice.below(3)).map(|_| SYLLABLES[dice.below(SYLLABLES.len())]).collect();
    (0..count).map(word).collect()
}

fn prose(dice: &mut Dice, names: &[String], most: usize) -> String {
    (0..20 + dice.below(most)).map(|at| dice.pick(names).to_owned() + if at % 12 == 11 { ".\n" } else { " " }).collect()
}

fn package_json(dice: &mut Dice, names: &[String], name: &str) -> String {
    let dependencies = (0..dice.below(8))
        .map(|_| format!("\n    \"{}\": \"^{}.{}.0\"", dice.pick(names), dice.below(9), dice.below(30)))
        .collect::<Vec<_>>()
        .join(",");
    format!(
        "{{\n  \"name\": \"{name}\",\n  \"version\": \"{}.{}.{}\",\n  \"main\": \"lib/index.js\",\n  \"license\": \"MIT\",\n  \
         \"dependencies\": {{{dependencies}\n  }}\n}}\n",
        dice.below(9),
        dice.below(30),
        dice.below(20),
    )
}

fn types(dice: &mut Dice, names: &[String]) -> String {
    let mut text = String::new();
    for _ in 0..1 + dice.below(12) {
        let (a, b, c) = (dice.pick(names).to_owned(), dice.pick(names).to_owned(), dice.pick(names));
        let _ = writeln!(text, "export declare function {a}({b}: string, options?: {{ {c}: number }}): Promise<void>;");
    }
    text
}

/// Most scripts are short, a few long.
fn script(dice: &mut Dice, names: &[String]) -> String {
    let mut text = String::from("'use strict';\nObject.defineProperty(exports, '__esModule', { value: true });\n");
    let most = if dice.below(12) == 0 { 400 } else { 30 };
    for _ in 0..1 + dice.below(most) + dice.below(6) {
        let [a, b, c, d] = [(); 4].map(|()| dice.pick(names).to_owned());
        let number = dice.below(4096);
        let _ = match dice.below(4) {
            0 => writeln!(text, "const {a} = require('../{b}');\nconst {{ {c}, {d} }} = {a};"),
            1 => writeln!(
                text,
                "function {a}({b}, {c}) {{\n  if (!{b} || {c} > {number}) {{\n    throw new TypeError('{d} must be a string');\n  \
                 }}\n  return {b}.{d}({c}).map((value) => value * {number});\n}}\nexports.{a} = {a};",
            ),
            2 => writeln!(
                text,
                "// {}\nexports.{a} = [{number}, '{b}', {{ {c}: {d} }}];",
                prose(dice, names, 10).trim_end()
            ),
            _ => writeln!(
                text,
                "for (const {a} of {b}) {{\n  await {c}({a}, {{ {d}: {number}, strict: true }});\n  {b}.delete({a});\n}}"
            ),
        };
    }
    text
}
