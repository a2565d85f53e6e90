//! The reference implementation's library and tools, run on one blob.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use e2e::{Containerd, run};
use serde_json::Value;

/// Opens an eStargz blob with the Go library, checks its TOC and every chunk, and returns the names in its tree.
///
/// # Errors
/// The library does not accept the blob.
pub(crate) fn open(blob: &Path, toc_digest: &str) -> anyhow::Result<Vec<Value>> {
    let lines = run(Command::new(program()).arg(blob).arg(toc_digest))?;
    Ok(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Returns the program of `tests/oracle`, built once a run; a lock lets one process build and the others wait.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = e2e::workspace("target/oracle");
        std::fs::create_dir_all(&folder).unwrap();
        let lock = File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        let program = folder.join("oracle");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&program).arg(".").current_dir(e2e::workspace("tests/oracle"));
        run(&mut build).unwrap();
        program
    })
}

/// Puts a blob into a containerd and returns the TOC digest that `ctr-remote` finds in it.
pub(crate) fn toc_digest(containerd: &Containerd, blob: &Path, digest: &str) -> String {
    let mut ingest = containerd.ctr();
    ingest.args(["content", "ingest", "--expected-digest", digest, digest]);
    ingest.stdin(File::open(blob).unwrap());
    let status = ingest.status().unwrap();
    assert!(status.success(), "{ingest:?}: {status}");
    let socket = containerd.ctr().get_args().skip_while(|argument| *argument != "-a").nth(1).unwrap().to_owned();
    run(Command::new("ctr-remote").arg("-a").arg(socket).args(["images", "get-toc-digest", digest])).unwrap()
}

/// Unpacks a blob with gzip, lists it with tar, and returns digest and size of the plain tar.
pub(crate) fn unpacked(blob: &Path) -> (String, u64) {
    run(Command::new("gzip").args(["-t", "-S", ""]).arg(blob)).unwrap();
    run(Command::new("tar").args(["-tzf"]).arg(blob)).unwrap();
    let script = "gzip -dc <\"$1\" | tee >(wc -c >\"$2\") | sha256sum";
    let count = blob.with_extension("count");
    let sum = run(Command::new("bash")
        .args(["-ec", &format!("set -o pipefail; {script}; wait"), "bash"])
        .arg(blob)
        .arg(&count));
    let sum = sum.unwrap();
    // The process substitution ends after the pipeline; its file is complete once it has a line.
    let size = e2e::wait::until("wc", std::time::Duration::from_secs(30), || {
        Ok(std::fs::read_to_string(&count).unwrap_or_default().trim().parse().ok())
    });
    (format!("sha256:{}", sum.split_whitespace().next().unwrap()), size.unwrap())
}
