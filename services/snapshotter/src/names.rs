//! [`Names`]: has the kernel know files by their names before it is told of them by their numbers.
//!
//! overlayfs asks for a file by its number when it finds something that was copied up from it, for its inode number. What the
//! kernel then has is an entry without a name, and since Linux 6.16 FUSE takes such an entry for outdated: it is older than any
//! epoch, and overlayfs fails with ESTALE. An entry with a name is as good and is taken first. So the file is looked up by its
//! name, and held for a moment, before the kernel gets its answer.
//!
//! That is done in a process of its own: one of which a thread waits for the file system that it serves cannot be killed.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::Mutex as AsyncMutex;

/// The argument that makes the program what is asked here.
pub(crate) const COMMAND: &str = "look";
/// How long an answer may take, and before that the turn to ask.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long nobody is asked after one failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Processes that are told to end and do not.
const MOST_LEFT: usize = 8;
/// How long a file is held: longer than the kernel needs for an answer to its question.
const HELD: Duration = Duration::from_secs(1);
/// Files that are held at once.
const MOST: usize = 256;
/// The answers.
const FOUND: u8 = b'Y';
const NOT_FOUND: u8 = b'N';

/// Asks another process of this program to look names up, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Names(Arc<AsyncMutex<Lookers>>);

#[derive(Debug, Default)]
struct Lookers {
    now: Option<Looker>,
    /// Those that were told to end: one may wait for a file system that does not answer.
    before: Vec<Child>,
    /// When one failed last.
    failed: Option<Instant>,
}

#[derive(Debug)]
struct Looker {
    process: Child,
    questions: ChildStdin,
    answers: ChildStdout,
}

impl Names {
    /// Looks a path up, and tells whether something is there that the kernel knows by this name now. Takes four seconds at most.
    pub(crate) async fn look_up(&self, path: PathBuf) -> bool {
        // Only who has the turn takes a thread.
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.0).lock_owned()).await;
        let Ok(mut lookers) = turn else { return false };
        telemetry::blocking(move || lookers.look_up(&path)).await
    }
}

impl Lookers {
    fn look_up(&mut self, path: &Path) -> bool {
        if self.failed.is_some_and(|at| at.elapsed() < PAUSE) {
            return false;
        }
        let is_old = self.now.is_some();
        let asked = self.ask(path).or_else(|error| match error.kind() {
            // It may have ended long ago.
            kind if is_old && kind != ErrorKind::TimedOut => self.ask(path),
            _ => Err(error),
        });
        self.failed = asked.is_err().then(Instant::now);
        asked.unwrap_or_else(|error| {
            tracing::warn!(%error, path = %path.display(), "a copied file gets another inode number: nobody looks up its origin");
            false
        })
    }

    fn ask(&mut self, path: &Path) -> io::Result<bool> {
        let looker = match &mut self.now {
            Some(looker) => looker,
            None => {
                self.before.retain_mut(|process| matches!(process.try_wait(), Ok(None)));
                if self.before.len() >= MOST_LEFT {
                    return Err(io::Error::other("those who were asked before do not end"));
                }
                self.now.insert(Looker::start()?)
            }
        };
        let answer = looker.ask(path);
        if answer.is_err()
            && let Some(mut looker) = self.now.take()
        {
            let _gone = looker.process.kill();
            self.before.push(looker.process);
        }
        answer
    }
}

impl Looker {
    fn start() -> io::Result<Self> {
        // Also where another version has taken the place of this one.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("firstlight-snapshotter").arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(questions), Some(answers)) => Ok(Self { process, questions, answers }),
            _ => Err(io::Error::other("no pipes")),
        }
    }

    fn ask(&mut self, path: &Path) -> io::Result<bool> {
        let mut question = path.as_os_str().as_bytes().to_vec();
        question.push(0);
        self.questions.write_all(&question)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match poll(&mut [PollFd::new(&self.answers, PollFlags::IN)], Some(&timespec(left))) {
                Ok(0) => return Err(ErrorKind::TimedOut.into()),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut answer = [0];
        self.answers.read_exact(&mut answer)?;
        Ok(answer[0] == FOUND)
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: duration.subsec_nanos().into() }
}

/// Looks up the paths that come on standard input, each with a zero behind it, and says of each whether something is there, until
/// there are no more.
///
/// # Errors
/// The pipes broke.
pub fn look() -> io::Result<()> {
    let (mut questions, mut answers) = (io::stdin().lock(), io::stdout().lock());
    let (mut asked, mut buffer) = (Vec::new(), [0; 8192]);
    let mut held: VecDeque<(Instant, OwnedFd)> = VecDeque::new();
    loop {
        while held.front().is_some_and(|(since, _)| since.elapsed() >= HELD) {
            held.pop_front();
        }
        let mut polled = [PollFd::new(&questions, PollFlags::IN)];
        let timeout = (!held.is_empty()).then(|| timespec(HELD));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let length = questions.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        asked.extend_from_slice(&buffer[..length]);
        while let Some(end) = asked.iter().position(|&byte| byte == 0) {
            let path: Vec<u8> = asked.drain(..=end).collect();
            let opened = CString::from_vec_with_nul(path).map_err(io::Error::other).and_then(|path| {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                Ok(rustix::fs::open(path.as_c_str(), flags, Mode::empty())?)
            });
            let answer = if opened.is_ok() { FOUND } else { NOT_FOUND };
            held.extend(opened.ok().map(|file| (Instant::now(), file)));
            if held.len() > MOST {
                held.pop_front();
            }
            answers.write_all(&[answer])?;
            answers.flush()?;
        }
    }
}
