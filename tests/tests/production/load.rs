//! Clients that ask for the same things again and again, while something behind the proxy breaks.

use std::net::SocketAddrV4;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::web::{self, Answer, Download};
use e2e::{Front, Node, wait};

/// Nothing here takes longer: a server's restart, and the proxy's way back to it.
const LIMIT: Duration = Duration::from_secs(300);
const CLIENTS: usize = 8;

/// The warm answers of a proxy, which stay the right ones.
#[derive(Debug)]
pub(crate) struct Load {
    at: SocketAddrV4,
    right: Vec<(String, Bytes)>,
}

/// What came of the requests so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    right: AtomicU64,
    /// Refused with 503 and `Retry-After`, or cut off.
    disturbed: AtomicU64,
    /// Neither: each is a fault of the proxy.
    wrong: Mutex<Vec<String>>,
}

impl Load {
    /// Asks for each path once, and takes these answers for the right ones.
    pub(crate) fn record(front: &Front, paths: Vec<String>) -> Self {
        let right = paths.into_iter().map(|path| {
            let answer = get(front.at(), &path).unwrap();
            assert_eq!(answer.status, 200, "{path}: {}\n{}", answer.text(), front.log());
            (path, answer.body)
        });
        Self { at: front.at(), right: right.collect() }
    }

    /// Has the clients ask until `disturb` returns. No answer may be wrong.
    pub(crate) fn during(&self, disturb: impl FnOnce(&Tally)) {
        let (tally, over) = (Tally::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            // Also when `disturb` panics: the scope waits for the clients.
            let _over = OnDrop(&over);
            for client in 0..CLIENTS {
                let (tally, over) = (&tally, &over);
                scope.spawn(move || {
                    for (path, body) in self.right.iter().cycle().skip(client) {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        tally.count(path, body, &get(self.at, path));
                    }
                });
            }
            disturb(&tally);
        });
        assert_eq!(tally.faults(), Vec::<String>::new());
    }

    /// Waits until every path answers rightly again, one after the other.
    pub(crate) fn wait_whole(&self, front: &Front) {
        let begin = Instant::now();
        for (path, body) in &self.right {
            let whole = wait::until(path, LIMIT.saturating_sub(begin.elapsed()), || {
                let answer = get(self.at, path);
                Ok(answer.is_ok_and(|answer| answer.status == 200 && answer.body == *body).then_some(()))
            });
            whole.unwrap_or_else(|error| panic!("{error}\n{}", front.log()));
        }
    }
}

impl Tally {
    /// Waits until 100 more requests were answered rightly.
    pub(crate) fn wait_right(&self) {
        let before = self.right.load(Ordering::Relaxed);
        self.wait("right answers", || self.right.load(Ordering::Relaxed) >= before + 100);
    }

    /// Waits until some more requests were refused or cut off.
    pub(crate) fn wait_disturbed(&self) {
        let before = self.disturbed.load(Ordering::Relaxed);
        self.wait("refusals", || self.disturbed.load(Ordering::Relaxed) >= before + 2 * CLIENTS as u64);
    }

    fn wait(&self, what: &str, mut done: impl FnMut() -> bool) {
        let waited = wait::until(what, LIMIT, || Ok((done() || !self.faults().is_empty()).then_some(())));
        waited.unwrap_or_else(|error| panic!("{error}: {self:?}"));
    }

    fn count(&self, path: &str, body: &Bytes, answer: &anyhow::Result<Answer>) {
        let counter = match answer {
            Ok(answer) if answer.status == 200 && answer.body == *body => &self.right,
            Ok(answer) if answer.status == 503 && answer.header("retry-after").is_some() => &self.disturbed,
            Err(_) => &self.disturbed,
            Ok(answer) => {
                let status = answer.status;
                let said = if status == 200 { "wrong bytes".to_owned() } else { answer.text() };
                return self.wrong.lock().unwrap().push(format!("{path}: {status}: {said}"));
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The first faults, without repetitions.
    fn faults(&self) -> Vec<String> {
        let mut faults = self.wrong.lock().unwrap().clone();
        faults.sort();
        faults.dedup();
        faults
    }
}

/// Checks what came of a download that something broke: the right bytes, a refusal that says when to come again, or a cut.
pub(crate) fn assert_not_wrong(download: anyhow::Result<Download>, digest: &str) {
    match download {
        Ok(whole) if whole.status == 200 => assert_eq!(whole.digest, digest, "a clean end of wrong bytes"),
        Ok(refused) => {
            assert!(refused.status == 503 && refused.headers.contains_key("retry-after"), "{digest}: {refused:?}");
        }
        // Cut off.
        Err(_) => {}
    }
}

/// Sets a flag when it goes.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn get(at: SocketAddrV4, path: &str) -> anyhow::Result<Answer> {
    web::request(&Node::Machine, at, "GET", path, &[("accept".to_owned(), web::MANIFEST_TYPES.to_owned())])
}
