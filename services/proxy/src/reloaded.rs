//! [`Reloaded`]: a value made from files, made again when they change.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often the files are looked at, at most.
const INTERVAL: Duration = Duration::from_secs(1);
/// The largest file read, in bytes. Such files are small; a larger one is the wrong file.
const MAX_FILE: u64 = 1 << 20;

/// A value made from files. It is made again when one of them changes; as long as that fails, the old
/// value stays and each new failure is logged once.
pub(crate) struct Reloaded<T, E> {
    inner: Arc<Inner<T, E>>,
}

struct Inner<T, E> {
    /// What the log calls the value.
    what: &'static str,
    files: Vec<PathBuf>,
    load: Box<dyn Fn() -> Result<T, E> + Send + Sync>,
    state: Mutex<State<T>>,
    interval: Duration,
}

struct State<T> {
    value: Arc<T>,
    /// What the files were when they were last read, with or without success.
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
}

/// What changes when a file is replaced or written: behind a symbolic link, the file it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    size: u64,
    device: u64,
    inode: u64,
}

impl<T, E> Reloaded<T, E>
where
    T: Send + Sync + 'static,
    E: std::error::Error + 'static,
{
    /// Makes the value for the first time.
    ///
    /// # Errors
    /// Those of `load`.
    pub(crate) fn new(
        what: &'static str,
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        // Before reading: a change in between is then found by the next look.
        let stamps = stamps(&files);
        let state = State { value: Arc::new(load()?), stamps, looked: Instant::now() };
        let inner = Inner { what, files, load: Box::new(load), state: Mutex::new(state), interval: INTERVAL };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns the value. At most once a second the caller waits for a look at the files, off the async
    /// threads; others get the value there is.
    pub(crate) async fn get(&self) -> Arc<T> {
        if self.inner.is_due() {
            let inner = Arc::clone(&self.inner);
            telemetry::blocking(move || inner.refresh()).await;
        }
        Arc::clone(&self.inner.lock().value)
    }

    /// Looks at the files at every use.
    #[cfg(test)]
    pub(crate) fn always_look(&mut self) {
        Arc::get_mut(&mut self.inner).expect("not shared yet").interval = Duration::ZERO;
    }
}

impl<T, E: std::error::Error + 'static> Inner<T, E> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Every write to the state is one assignment, so a panic cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether the caller has to look now; says so to one of many.
    fn is_due(&self) -> bool {
        let mut state = self.lock();
        let due = state.looked.elapsed() >= self.interval;
        if due {
            state.looked = Instant::now();
        }
        due
    }

    fn refresh(&self) {
        let stamps = stamps(&self.files);
        if stamps == self.lock().stamps {
            return;
        }
        // Not under the lock: reading may take a while, and the old value serves meanwhile.
        let loaded = (self.load)();
        let mut state = self.lock();
        state.stamps = stamps;
        match loaded {
            Ok(value) => {
                state.value = Arc::new(value);
                drop(state);
                tracing::info!(what = self.what, "reloaded");
            }
            Err(error) => {
                drop(state);
                let error = &error as &(dyn std::error::Error + 'static);
                tracing::error!(what = self.what, error, "not reloaded, the old one stays");
            }
        }
    }
}

impl<T, E> fmt::Debug for Reloaded<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloaded").field("what", &self.inner.what).field("files", &self.inner.files).finish()
    }
}

/// Returns the stamp of each file; `None` where there is none now.
fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Stamp {
            modified: metadata.modified().ok(),
            size: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    };
    files.iter().map(stamp).collect()
}

/// Reads a file of at most 1 MiB.
///
/// # Errors
/// The system's, or `FileTooLarge`.
pub(crate) fn read_small_file(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;

    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("wrong")]
    struct Wrong;

    #[tokio::test]
    async fn a_change_is_taken_and_a_wrong_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        let replace = |text: &str| {
            std::fs::write(dir.path().join("new"), text).unwrap();
            std::fs::rename(dir.path().join("new"), &path).unwrap();
        };
        replace("1");
        let file = path.clone();
        let load = move || std::fs::read_to_string(&file).ok().and_then(|text| text.parse::<u8>().ok()).ok_or(Wrong);
        let mut number = Reloaded::new("number", vec![path.clone()], load).unwrap();
        number.always_look();
        assert_eq!(*number.get().await, 1);
        replace("2");
        assert_eq!(*number.get().await, 2);
        replace("x");
        assert_eq!(*number.get().await, 2);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*number.get().await, 2);
        replace("3");
        assert_eq!(*number.get().await, 3);
    }
}
