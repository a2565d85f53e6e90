use super::*;

fn tree(entries: &str) -> Result<Tree, TreeError> {
    let mut builder = Builder::new();
    let json = format!(r#"{{"version":1,"entries":[{entries}]}}"#);
    estargz::Toc::read(json.as_bytes(), |entry| builder.add(&entry))?;
    builder.finish()
}

impl Tree {
    fn at(&self, path: &str) -> Option<u32> {
        path.split('/').filter(|part| !part.is_empty()).try_fold(ROOT, |at, part| self.find(at, part.as_bytes()))
    }
}

fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

fn names(tree: &Tree, folder: &str) -> Vec<String> {
    let folder = tree.at(folder).unwrap();
    tree.list(folder, 0).map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
}

#[test]
fn a_layer_is_shown_as_overlayfs_wants_it() {
    let x = digest("x");
    let tree = tree(&format!(
        r#"{{"name":".no.prefetch.landmark","type":"reg","size":1,"offset":5,"digest":"{x}","chunkDigest":"{x}"}},
           {{"name":"./","type":"dir","mode":448,"uid":7}},
           {{"name":"mark","type":"hardlink","linkName":".no.prefetch.landmark"}},
           {{"name":"./b/","type":"dir","mode":488,"uid":3,"gid":4,"modtime":"2020-01-02T03:04:05.5Z"}},
           {{"name":"./b/.wh..wh..opq","type":"reg"}},
           {{"name":"./b/file","type":"reg","mode":2541,"size":1,"offset":9,"digest":"{x}","chunkDigest":"{x}","xattrs":{{"user.a":"eA=="}}}},
           {{"name":"b/other","type":"hardlink","linkName":"./b/third"}},
           {{"name":"b/third","type":"hardlink","linkName":"b/file"}},
           {{"name":"a/deep/link","type":"symlink","linkName":"../x"}},
           {{"name":"a/.wh.gone","type":"reg"}},
           {{"name":"a/.wh.back","type":"reg"}},
           {{"name":"a/back","type":"fifo","mode":420}},
           {{"name":"null","type":"char","devMajor":1,"devMinor":300,"mode":438}},
           {{"name":"stargz.index.json","type":"reg"}}"#
    ));
    let tree = tree.unwrap();
    assert_eq!(names(&tree, ""), ["a", "b", "mark", "null"]);
    assert_eq!(names(&tree, "a"), ["back", "deep", "gone"]);
    assert_eq!(names(&tree, "b"), ["file", "other", "third"]);
    let at = |path: &str| tree.attributes(tree.at(path).unwrap()).unwrap();
    for (path, inode) in [("b", 2), ("b/file", 3), ("a/deep/link", 6)] {
        let found = tree.at(path).unwrap();
        // Numbers are kept on disks: see `files`.
        assert_eq!((found, tree.path_of(found).unwrap()), (inode, path.into()));
    }
    let b = at("b");
    assert_eq!((b.mode, b.uid, b.gid, b.links, b.modified), (0o040_750, 3, 4, 2, (1_577_934_245, 500_000_000)));
    assert_eq!(tree.xattrs(tree.at("b").unwrap()), [(OPAQUE.into(), (*b"y").into())]);
    // Hard links are one inode, whichever comes first.
    assert_eq!((at("b/file").mode, at("b/file").links), (0o104_755, 3));
    assert_eq!([tree.at("b/other"), tree.at("b/third")], [tree.at("b/file"); 2]);
    assert_eq!(tree.xattrs(tree.at("b/other").unwrap()), [("user.a".into(), (*b"x").into())]);
    assert_eq!((at("a/gone").mode, at("a/gone").device), (0o020_000, 0), "a whiteout is a device");
    assert_eq!(at("a/back").mode, 0o010_644);
    assert_eq!(at("null").device, 0x10_0000 | 1 << 8 | 0x2c);
    assert_eq!(tree.target(tree.at("a/deep/link").unwrap()), Some(&b"../x"[..]));
    let mut implied = tree.folders(|folder| tree.is_implied(folder));
    implied.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(implied.iter().map(|(_, path)| path.as_str()).collect::<Vec<_>>(), ["", "a", "a/deep"]);
    assert!(tree.is_opaque(tree.at("b").unwrap()) && !tree.is_opaque(tree.at("a").unwrap()));
    assert_eq!(tree.path(tree.at("a/deep").unwrap()), "a/deep");
    assert_eq!(tree.parent(tree.at("a/deep").unwrap()), tree.at("a").unwrap());
    assert_eq!((at("").links, at("").mode, at("").uid), (4, 0o040_755, 0));
    assert_eq!(at("mark").links, 1);
}

#[test]
fn bytes_are_found_in_their_chunks() {
    let [a, b, c] = ["a", "b", "c"].map(digest);
    let tree = tree(&format!(
        r#"{{"name":"big","type":"reg","size":250,"offset":100,"chunkSize":100,"chunkDigest":"{a}"}},
           {{"name":"big","type":"chunk","offset":180,"chunkOffset":100,"chunkSize":100,"chunkDigest":"{b}"}},
           {{"name":"big","type":"chunk","offset":230,"chunkOffset":200,"chunkDigest":"{c}"}},
           {{"name":"empty","type":"reg"}},
           {{"name":"small","type":"reg","size":10,"offset":900,"digest":"{a}"}}"#
    ));
    let tree = tree.unwrap();
    let big = tree.at("big").unwrap();
    assert_eq!(tree.locate(big, 0, 100), (0..1, 0..100));
    assert_eq!(tree.locate(big, 99, 2), (0..2, 99..101));
    assert_eq!(tree.locate(big, 200, 4096), (2..3, 200..250));
    assert_eq!(tree.locate(big, 250, 1), (0..0, 0..0));
    assert_eq!(tree.locate(tree.at("empty").unwrap(), 0, 5), (0..0, 0..0));
    assert_eq!(tree.locate(tree.at("small").unwrap(), 2, 5), (3..4, 4098..4103));
    assert_eq!(tree.data_size(), 4106);
    assert_eq!(tree.span(0..2, None), 100..230);
    assert_eq!(tree.span(2..3, None), 230..900);
    // Where the last member ends the TOC does not say.
    assert_eq!(tree.span(3..4, None), 900..900 + 10 + 1 + 1024);
    assert_eq!(tree.span(3..4, Some(950)), 900..950);
    assert!(tree.chunks()[3].is(b"a") == (tree.chunks()[3].size == 1));
}

#[test]
fn what_cannot_be_mounted_is_refused() {
    let x = digest("x");
    for (entries, why) in [
        (
            r#"{"name":"a","type":"hardlink","linkName":"b"},{"name":"b","type":"hardlink","linkName":"a"}"#.to_owned(),
            "cycle",
        ),
        (r#"{"name":"a","type":"hardlink","linkName":"b"}"#.to_owned(), "not there"),
        (r#"{"name":"d","type":"dir"},{"name":"a","type":"hardlink","linkName":"d"}"#.to_owned(), "folder"),
        (r#"{"name":"f","type":"fifo"},{"name":"f/x","type":"fifo"}"#.to_owned(), "below"),
        (r#"{"name":"f","type":"reg","size":5,"offset":1}"#.to_owned(), "SHA-256"),
        (format!(r#"{{"name":"f","type":"reg","size":5,"offset":1,"chunkSize":2,"chunkDigest":"{x}"}}"#), "too few"),
        (
            format!(
                r#"{{"name":"f","type":"reg","size":5,"offset":1,"chunkSize":2,"chunkDigest":"{x}"}},
                   {{"name":"f","type":"chunk","offset":3,"chunkOffset":3,"chunkDigest":"{x}"}}"#
            ),
            "begin",
        ),
        (format!(r#"{{"name":"f","type":"chunk","offset":3,"chunkDigest":"{x}"}}"#), "no file"),
        (format!(r#"{{"name":"{}","type":"fifo"}}"#, "n".repeat(256)), "too long"),
        (format!(r#"{{"name":"f","type":"reg","size":99999999,"offset":1,"digest":"{x}"}}"#), "64 MiB"),
        (
            format!(r#"{{"name":"f","type":"reg","size":5,"offset":1,"innerOffset":9000000,"chunkDigest":"{x}"}}"#),
            "8 MiB behind",
        ),
        (
            format!(
                r#"{{"name":"f","type":"reg","size":5,"offset":9,"chunkDigest":"{x}"}},
                   {{"name":"g","type":"reg","size":5,"offset":8,"chunkDigest":"{x}"}}"#
            ),
            "lie before",
        ),
        (
            format!(
                r#"{{"name":"f","type":"reg","size":5,"offset":9,"innerOffset":3,"chunkDigest":"{x}"}},
                   {{"name":"g","type":"reg","size":5,"offset":9,"innerOffset":7,"chunkDigest":"{x}"}}"#
            ),
            "lie before",
        ),
        (r#"{"name":"f","type":"fifo","uid":-1}"#.to_owned(), "owner"),
        (r#"{"name":"/","type":"fifo"}"#.to_owned(), "root"),
    ] {
        let refused = tree(&entries).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn what_a_container_could_tell_apart_is_a_difference() {
    let (x, y) = (digest("x"), digest("y"));
    let entries = |mode: i64, time: &str, digest: &str, link: &str| {
        format!(
            r#"{{"name":"d","type":"dir","mode":{mode}}},
               {{"name":"d/a","type":"reg","size":1,"offset":9,"modtime":"{time}","chunkDigest":"{digest}"}},
               {{"name":"d/b","type":"hardlink","linkName":"{link}"}},
               {{"name":"c","type":"reg","size":1,"offset":99,"chunkDigest":"{x}"}}"#
        )
    };
    let [plain, early, late] = ["2020-01-02T03:04:05Z", "2020-01-02T03:04:04.6Z", "2020-01-02T03:04:05.6Z"];
    let ours = tree(&entries(0o755, plain, &x, "d/a")).unwrap();
    let told = |entries: &str| ours.difference(&tree(entries).unwrap()).map(|difference| difference.to_string());
    assert_eq!(told(&entries(0o755, plain, &x, "d/a")), None);
    assert_eq!(told(&entries(0o755, early, &x, "d/a")), None, "rounded to a second");
    for (entries, expected) in [
        (entries(0o700, plain, &x, "d/a"), "type or mode of /d"),
        (entries(0o755, late, &x, "d/a"), "the modification time of /d/a"),
        (entries(0o755, plain, &y, "d/a"), "the bytes of /d/a"),
        (entries(0o755, plain, &x, "c"), "the number of links of /c"),
        (
            format!("{},{{\"name\":\"more\",\"type\":\"fifo\"}}", entries(0o755, plain, &x, "d/a")),
            "the existence of /more",
        ),
        (format!("{},{{\"name\":\"a\",\"type\":\"fifo\"}}", entries(0o755, plain, &x, "d/a")), "the existence of /a"),
    ] {
        assert_eq!(told(&entries).as_deref(), Some(expected));
    }
}

#[test]
fn what_lies_before_the_landmark_is_fetched_early() {
    let x = digest("x");
    let file = |name: &str, offset: u32| {
        format!(r#"{{"name":"{name}","type":"reg","size":1,"offset":{offset},"chunkDigest":"{x}"}}"#)
    };
    let layer = |landmark: &str| {
        let entries = [file("a", 1), file("b", 2), file(landmark, 3), file("c", 4)].join(",");
        tree(&entries).unwrap().prefetched()
    };
    assert_eq!(layer(".prefetch.landmark"), 2);
    assert_eq!(layer(".no.prefetch.landmark"), 0);
    assert_eq!(layer("d/.prefetch.landmark"), 0);
}

/// What a TOC makes of few bytes is bounded, too.
#[test]
fn what_grows_beyond_its_entries_is_refused() {
    let mut builder = Builder::new();
    let mut entry = estargz::TocEntry::new(String::new(), estargz::EntryType::Fifo);
    let deep = "d/".repeat(2000);
    let refused = (0..100).find_map(|number| {
        entry.name = format!("{number}/{deep}f");
        builder.add(&entry).err()
    });
    assert!(refused.unwrap().to_string().contains("implied"));

    let mut builder = Builder::new();
    entry.xattrs.0.insert("user.large".to_owned(), vec![0; 64 << 20]);
    let refused = (0..4).find_map(|number| {
        entry.name = number.to_string();
        builder.add(&entry).err()
    });
    assert!(refused.unwrap().to_string().contains("extended attributes"));
}

/// What is kept until all entries are there counts, too; what hides all of a folder does so once.
#[test]
fn whiteouts_and_links_count() {
    let mut builder = Builder::new();
    let before = builder.bytes();
    let mut entry = estargz::TocEntry::new("d/.wh..wh..opq".to_owned(), estargz::EntryType::Reg);
    (0..1000).for_each(|_| builder.add(&entry).unwrap());
    let opaque = builder.bytes();
    assert!(opaque < before + 5000, "{opaque} bytes");
    entry.name = "d/.wh.gone".to_owned();
    (0..1000).for_each(|_| builder.add(&entry).unwrap());
    let hidden = builder.bytes();
    assert!(hidden > opaque + 40_000, "{hidden} bytes");
    let mut entry = estargz::TocEntry::new("d/link".to_owned(), estargz::EntryType::Hardlink);
    entry.link_name = "x".repeat(4000);
    builder.add(&entry).unwrap();
    assert!(builder.bytes() > hidden + 4000);
    entry.link_name = "x".repeat(5000);
    assert!(builder.add(&entry).unwrap_err().to_string().contains("another name"));
    assert!(builder.finish().is_err(), "the link leads nowhere");
}

/// A file with one chunk and a name of up to 30 bytes takes 150 bytes at most.
#[test]
fn a_file_takes_little_memory() {
    let by_digest = ByDigest::bytes(64).div_ceil(64) as usize;
    let size = size_of::<Inode>() + size_of::<Name>() + size_of::<Chunk>() + by_digest + size_of::<u32>();
    assert!(size <= 129, "{size} bytes");
}
