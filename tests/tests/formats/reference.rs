//! The reference implementation's library and tools, run on one blob.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use e2e::{Containerd, go_built, run};
use serde_json::Value;

/// Opens an eStargz blob with the Go library, checks its TOC and every chunk, and returns the names in its tree.
///
/// # Errors
/// The library does not accept the blob.
pub(crate) fn open(blob: &Path, toc_digest: &str) -> anyhow::Result<Vec<Value>> {
    let lines = run(Command::new(program()).arg(blob).arg(toc_digest))?;
    Ok(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Returns the program of `tests/oracle`, built once a run.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| go_built("oracle").unwrap())
}

/// Puts a blob into a containerd and returns the TOC digest that `ctr-remote` finds in it.
pub(crate) fn toc_digest(containerd: &Containerd, blob: &Path, digest: &str) -> String {
    let mut ingest = containerd.ctr();
    ingest.args(["content", "ingest", "--expected-digest", digest, digest]);
    ingest.stdin(File::open(blob).unwrap());
    let status = ingest.status().unwrap();
    assert!(status.success(), "{ingest:?}: {status}");
    run(ctr_remote(containerd).args(["images", "get-toc-digest", digest])).unwrap()
}

/// Returns a `ctr-remote` command for a containerd.
pub(crate) fn ctr_remote(containerd: &Containerd) -> Command {
    let ctr = containerd.ctr();
    let socket = ctr.get_args().skip_while(|argument| *argument != "-a").nth(1).unwrap();
    let mut command = Command::new("ctr-remote");
    command.arg("-a").arg(socket);
    command
}

/// Unpacks a blob with gzip, lists it with tar, and returns digest and size of the plain tar.
pub(crate) fn unpacked(blob: &Path) -> (String, u64) {
    let piped = |script: &str| run(Command::new("bash").args(["-ec", script, "bash"]).arg(blob)).unwrap();
    piped("gzip -t <\"$1\"");
    piped("tar -tz <\"$1\" >/dev/null");
    let sum = piped("set -o pipefail; gzip -dc <\"$1\" | sha256sum");
    let size = piped("set -o pipefail; gzip -dc <\"$1\" | wc -c");
    (format!("sha256:{}", sum.split_whitespace().next().unwrap()), size.parse().unwrap())
}
