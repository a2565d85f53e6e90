use super::*;

/// Replays `TYPE NAME [TARGET]` and returns `name [<- entry whose payload]` or `name -> target` of the TOC.
fn listed(entries: &[&str]) -> Result<Vec<String>, TarError> {
    plan(entries).map(|(plan, names)| {
        let mut lines = Vec::new();
        for number in 0..plan.len() {
            match plan.role(number) {
                Role::Absent => {}
                Role::Link { to } => lines.push(format!("{} -> {}", names[number as usize], names[to as usize])),
                Role::File { name } => {
                    let last = plan.applied(number).next().unwrap();
                    lines.push(format!("{} is {number}, like {last}", names[name as usize]));
                    for early in plan.early_links(number) {
                        lines.push(format!("{} -> {}", names[early as usize], names[name as usize]));
                    }
                }
            }
        }
        lines
    })
}

fn plan<'a>(entries: &[&'a str]) -> Result<(Plan, Vec<&'a str>), TarError> {
    let (mut tree, mut names, mut links) = (Tree::new(100), Vec::new(), Vec::new());
    for entry in entries {
        let mut parts = entry.split(' ');
        let kind = match parts.next() {
            Some("d") => EntryType::Dir,
            Some("h") => EntryType::Hardlink,
            Some("l") => EntryType::Symlink,
            _ => EntryType::Reg,
        };
        let (name, link) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        tree.add(name, kind, link)?;
        names.push(name);
        links.push(link.to_owned());
    }
    Ok((tree.finish(|number| Ok::<_, TarError>(links[number as usize].clone()))?, names))
}

#[test]
fn a_global_header_may_not_change_the_tree() {
    let mut tree = Tree::new(10);
    for (name, kind) in [("d", EntryType::Dir), ("d/x", EntryType::Reg), ("f", EntryType::Reg)] {
        tree.add(name, kind, "").unwrap();
    }
    for name in ["pax_global_header", "./d/header", "/", "d/x/../y", ""] {
        assert!(tree.add_global(name).is_ok(), "{name}");
    }
    for name in ["new/header", "f/header", "f", "d", "./d/x", ".wh.f", "d/.wh.x"] {
        assert!(tree.add_global(name).is_err(), "{name}");
    }
}

#[test]
fn toc_lists_what_an_unpack_leaves() {
    let cases: [(&[&str], &[&str]); 15] = [
        (&["d ./", "r ./a"], &["./ is 0, like 0", "./a is 1, like 1"]),
        (&["r a", "r ./a"], &["./a is 1, like 1"]),
        (&["d d", "d d/"], &["d is 0, like 1"]),
        (&["d d", "r d/x", "r d"], &["d is 2, like 2"]),
        (&["r f", "d f", "r f/x"], &["f is 1, like 1", "f/x is 2, like 2"]),
        (&["r a", "h b a"], &["a is 0, like 1", "b -> a"]),
        // The link keeps what it was made to; its name stands where the payload is.
        (&["r a", "h b a", "r a"], &["b is 0, like 1", "a is 2, like 2"]),
        (&["r a", "h b a", "h c b", "r a"], &["b is 0, like 2", "c -> b", "a is 3, like 3"]),
        // Links that would lead in a circle if their targets were copied.
        (&["r x", "h a x", "h b a", "h a b"], &["x is 0, like 3", "b -> x", "a -> x"]),
        (&["h b a", "h c b", "r a"], &["a is 2, like 2", "b -> a", "c -> a"]),
        (&["l s t", "h b s"], &["s is 0, like 1", "b -> s"]),
        (
            &["r a//b", "r /../c", "r a/./d/../e"],
            &["a//b is 0, like 0", "/../c is 1, like 1", "a/./d/../e is 2, like 2"],
        ),
        // On the way to a target symlinks are followed, relative, absolute and upwards.
        (
            &["r r/f", "l s r", "l t /s/../s", "h a t/f"],
            &["r/f is 0, like 3", "s is 1, like 1", "t is 2, like 2", "a -> r/f"],
        ),
        (&["r d/x", "h y d/x", "r d"], &["y is 0, like 1", "d is 2, like 2"]),
        (&["r .", "r a"], &["a is 1, like 1"]),
    ];
    for (entries, expected) in cases {
        assert_eq!(listed(entries).unwrap(), expected, "{entries:?}");
    }
}

#[test]
fn what_no_toc_can_say_is_refused() {
    let cases: [(&[&str], UnconvertibleReason); 10] = [
        (&["h a a"], UnconvertibleReason::HardlinkCycle),
        (&["r a", "h ./a a"], UnconvertibleReason::HardlinkCycle),
        (&["h a b", "h b a"], UnconvertibleReason::HardlinkCycle),
        (&["h a b", "h b c", "h c b"], UnconvertibleReason::HardlinkCycle),
        (&["h a b"], UnconvertibleReason::HardlinkMissing),
        (&["l s s", "h a s/b"], UnconvertibleReason::HardlinkMissing),
        (&["r d/f", "h d d/f"], UnconvertibleReason::HardlinkMissing),
        (&["d d", "h a d"], UnconvertibleReason::Corrupt),
        (&["r f", "r f/x"], UnconvertibleReason::BelowNonDirectory),
        (&["l s d", "r s/x"], UnconvertibleReason::BelowNonDirectory),
    ];
    for (entries, reason) in cases {
        assert_eq!(listed(entries).unwrap_err().reason, reason, "{entries:?}");
    }
}

#[test]
fn implied_dirs_are_those_without_an_entry() {
    for (entries, dirs) in [
        (&[][..], &[""][..]),
        (&["d /"], &[]),
        (&["r a/b/c", "d a"], &["", "a/b"]),
        (&["r a/b/c", "r a"], &[""]),
        (&["r z/x", "r a/x"], &["", "a", "z"]),
    ] {
        assert_eq!(plan(entries).unwrap().0.implied_dirs(), dirs, "{entries:?}");
    }
}

#[test]
fn names_survive_growth_and_removal() {
    let mut names = Names::default();
    for i in 0..1000 {
        assert_eq!(names.insert(0, &format!("n{i}")), Some(i + 1));
    }
    names.remove(0, "n7");
    assert_eq!(names.find(0, "n7"), None);
    assert_eq!(names.find(1, "n8"), None);
    assert_eq!(names.find(0, "n999"), Some(1000));
    assert_eq!(names.insert(0, "n7"), Some(1001));
    assert_eq!(names.find(0, "n7"), Some(1001));
    assert_eq!(names.name(1001), "n7");
}

#[test]
fn long_names_and_long_ways_meet_limits() {
    let deep = format!("r {}", "d/".repeat(2047));
    assert_eq!(listed(&[&deep]).unwrap_err().reason, UnconvertibleReason::Limit);
    let target = "./".repeat(2000);
    let symlink = format!("l s {target}");
    let way = ["r r", symlink.as_str()];
    let links: Vec<String> = (0..9).map(|i| format!("h l{i} s/r")).collect();
    let entries =
        |count: usize| -> Vec<&str> { way.into_iter().chain(links[..count].iter().map(String::as_str)).collect() };
    assert!(listed(&entries(3)).is_ok());
    assert_eq!(listed(&entries(4)).unwrap_err().reason, UnconvertibleReason::Limit);
}
