//! Tars that end in odd ways, or in the middle.

use crate::row::{Outcome, Row};
use crate::tar::Tar;

pub(crate) fn rows() -> Vec<Row> {
    let tar = Tar::new().dir("d/").file("d/x", b"contents").file("y", &[3; 700]);
    let open = tar.clone().open();
    let ended = |tail: &[u8]| tar.clone().raw(tail).open();
    let mut wrong_sum = tar.clone().end();
    wrong_sum[512 + 5] ^= 1;
    let mut garbage = vec![0; 1024];
    garbage.extend_from_slice(b"bytes after the end");
    let mut second_archive = vec![0; 1024];
    second_archive.extend_from_slice(&Tar::new().file("z", b"Z").end());
    vec![
        Row::tar("end-none", &open, Outcome::Twin),
        Row::tar("end-one-block", &ended(&[0; 512]), Outcome::Twin),
        Row::tar("end-two-blocks", &ended(&[0; 1024]), Outcome::Twin),
        Row::tar("end-many-blocks", &ended(&[0; 20 * 512]), Outcome::Twin),
        Row::tar("end-megabytes-of-zeros", &ended(&vec![0; 3 << 20]), Outcome::Twin),
        Row::tar("end-half-a-block", &ended(&[0; 1024 + 100]), Outcome::Twin),
        Row::tar("end-then-bytes", &ended(&garbage), Outcome::Twin),
        Row::tar("end-then-an-archive", &ended(&second_archive), Outcome::Twin),
        Row::tar(
            "end-one-block-then-an-entry",
            &tar.clone().raw(&[0; 512]).file("z", b"Z").end(),
            Outcome::Stays("corrupt"),
        ),
        Row::tar("empty-tar", &Tar::new().end(), Outcome::Twin),
        Row::tar("empty-tar-one-block", &[0; 512], Outcome::Twin),
        Row::tar("empty-in-gzip", &[], Outcome::Twin),
        Row::tar("cut-in-header", &open[..1700], Outcome::Stays("corrupt")),
        Row::tar("cut-in-payload", &open[..open.len() - 600], Outcome::Stays("corrupt")),
        Row::tar("cut-in-padding", &open[..open.len() - 100], Outcome::Stays("corrupt")),
        Row::tar("wrong-checksum", &wrong_sum, Outcome::Stays("corrupt")),
        Row::tar("no-tar", b"this is text and no tar", Outcome::Stays("corrupt")),
        Row::tar("no-tar-long", &[b'x'; 4096], Outcome::Stays("corrupt")),
    ]
}
