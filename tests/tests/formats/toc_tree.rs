//! The tree that a lazy client shows for eStargz layers, from the entries that the reference reader found in their TOCs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use e2e::Tree;
use e2e::tree::{Entry, Kind};
use serde_json::Value;

use crate::converted::text;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// Returns the tree of layers, lowest first, laid over each other as overlayfs does.
pub(crate) fn of_layers(layers: &[Vec<Value>]) -> Tree {
    let mut merged = BTreeMap::new();
    for (number, layer) in layers.iter().enumerate() {
        lay_over(&mut merged, layer, number);
    }
    let mut first_links = HashMap::new();
    let entries = merged.into_iter().map(|(path, (mut entry, inode))| {
        let alone = entry.kind == Kind::Directory;
        entry.first_link = match alone {
            true => path.clone(),
            false => first_links.entry(inode).or_insert_with(|| path.clone()).clone(),
        };
        (path, entry)
    });
    Tree { entries: entries.collect() }
}

/// A file and what tells its inode from others: the layer and the number there.
type Node = (Entry, (usize, u64));

fn lay_over(lower: &mut BTreeMap<PathBuf, Node>, layer: &[Value], number: usize) {
    let names: BTreeSet<PathBuf> = layer.iter().map(|entry| PathBuf::from(text(&entry["name"]))).collect();
    for path in &names {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = path.parent().unwrap_or(Path::new(""));
        if name == OPAQUE {
            // overlayfs does not look for it at the root of a layer.
            if folder == Path::new("") {
                continue;
            }
            lower.retain(|below, _| below == folder || !below.starts_with(folder));
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT).map(|hidden| folder.join(hidden))
            && !names.contains(&hidden)
        {
            lower.retain(|below, _| !below.starts_with(&hidden));
        }
    }
    for entry in layer {
        let path = PathBuf::from(text(&entry["name"]));
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(WHITEOUT)) {
            continue;
        }
        let made = read(entry, &path);
        let stays = made.kind == Kind::Directory && lower.get(&path).is_some_and(|(e, _)| e.kind == Kind::Directory);
        if !stays {
            lower.retain(|below, _| !below.starts_with(&path));
        }
        // What overlayfs itself has for a whiteout.
        if made.kind == Kind::Char(0) {
            continue;
        }
        lower.insert(path, (made, (number, entry["inode"].as_u64().unwrap())));
    }
}

fn read(entry: &Value, path: &Path) -> Entry {
    let integer = |key: &str| entry[key].as_i64().unwrap_or_default();
    let device = || rustix::fs::makedev(integer("major") as u32, integer("minor") as u32);
    let kind = match text(&entry["type"]).as_str() {
        "dir" => Kind::Directory,
        "reg" => Kind::File(integer("size") as u64, format!("sha256:{}", text(&entry["sha256"]))),
        "symlink" => Kind::Symlink(PathBuf::from(text(&entry["link"]))),
        "char" => Kind::Char(device()),
        "block" => Kind::Block(device()),
        "fifo" => Kind::Fifo,
        other => panic!("{}: type {other}", path.display()),
    };
    let attributes = entry["xattrs"].as_object().into_iter().flatten();
    Entry {
        kind,
        mode: integer("mode") as u32,
        owner: (integer("uid") as u32, integer("gid") as u32),
        modified: time(entry["modtime"].as_str().unwrap_or_default()),
        attributes: attributes.map(|(key, value)| (key.clone(), hex::decode(text(value)).unwrap())).collect(),
        first_link: PathBuf::new(),
    }
}

/// Reads an RFC 3339 time in UTC; an entry without one is of 1970.
fn time(text: &str) -> (i64, i64) {
    if text.is_empty() {
        return (0, 0);
    }
    let (seconds, nanos) = estargz::time::parse(text).unwrap_or_else(|| panic!("time {text:?}"));
    (seconds, nanos.into())
}
