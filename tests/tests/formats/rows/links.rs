//! Hard links to all kinds of things.

use crate::row::{Outcome, Row};
use crate::tar::{Header, Number, Tar};

pub(crate) fn rows() -> Vec<Row> {
    let with_size = Header { flag: b'1', name: b"h", link: b"f", size: Number::Octal(7777), ..Header::default() };
    let other_attributes = Header {
        flag: b'1',
        name: b"h",
        link: b"f",
        mode: 0o4711,
        owner: (Number::Octal(7), Number::Octal(8)),
        mtime: Number::Octal(1_500_000_000),
        ..Header::default()
    };
    vec![
        Row::twin("hardlink", Tar::new().file("f", b"F").hardlink("g", "f").hardlink("d/h", "./f")),
        Row::twin("hardlink-absolute", Tar::new().file("d/f", b"F").hardlink("g", "/d/f")),
        Row::twin("hardlink-chain", Tar::new().file("f", b"F").hardlink("g", "f").hardlink("h", "g")),
        Row::tar("hardlink-forward", &Tar::new().hardlink("g", "f").file("f", b"F").end(), Outcome::RefusedTwin),
        Row::stays("hardlink-to-itself", Tar::new().hardlink("h", "h"), "hardlink_cycle"),
        Row::stays("hardlink-to-itself-after-file", Tar::new().file("h", b"H").hardlink("h", "./h"), "hardlink_cycle"),
        Row::stays("hardlink-cycle", Tar::new().hardlink("a", "b").hardlink("b", "a"), "hardlink_cycle"),
        Row::stays("hardlink-missing", Tar::new().hardlink("h", "nowhere"), "hardlink_missing"),
        Row::stays("hardlink-to-a-lower-layer", Tar::new().hardlink("h", "lower/file"), "hardlink_missing"),
        Row::stays("hardlink-to-a-directory", Tar::new().dir("d/").hardlink("h", "d"), "corrupt"),
        Row::twin("hardlink-to-a-symlink", Tar::new().symlink("s", "f").hardlink("h", "s").file("f", b"F")),
        Row::twin("hardlink-to-a-dangling-symlink", Tar::new().symlink("s", "nowhere").hardlink("h", "s")),
        Row::twin("hardlink-to-a-device", Tar::new().special(b'3', "c", (1, 3)).hardlink("h", "c")),
        Row::twin("hardlink-to-a-fifo", Tar::new().special(b'6', "p", (0, 0)).hardlink("h", "p")),
        Row::twin("hardlink-with-size", Tar::new().file("f", b"F").header(&with_size).file("after", b"A")),
        Row::twin("hardlink-with-other-attributes", Tar::new().file("f", b"F").header(&other_attributes)),
        Row::twin("hardlink-then-replaced", Tar::new().file("f", b"old").hardlink("h", "f").file("f", b"newer")),
        Row::twin(
            "hardlinks-then-replaced",
            Tar::new().file("f", &[7; 9000]).hardlink("g", "f").hardlink("h", "g").file("f", b"new"),
        ),
        Row::twin("hardlink-itself-replaced", Tar::new().file("f", b"F").hardlink("h", "f").file("h", b"H")),
        Row::twin("hardlink-through-a-symlink", Tar::new().file("d/f", b"F").symlink("s", "d").hardlink("h", "s/f")),
        Row::twin("hardlink-to-an-empty-file", Tar::new().file("e", b"").hardlink("h", "e")),
        Row::twin("symlink-up", Tar::new().symlink("s", "../../../../etc/passwd").symlink("t", "/lower/file")),
        Row::twin(
            "symlink-empty-payload",
            Tar::new()
                .header(&Header {
                    flag: b'2',
                    name: b"s",
                    link: b"target",
                    size: Number::Octal(99),
                    ..Header::default()
                })
                .file("after", b"A"),
        ),
    ]
}
