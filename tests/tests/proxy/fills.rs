//! The fill under fire: many clients, slow ones, killed ones, an upstream that cuts, lies, slows down or goes away.

use std::thread;
use std::time::Duration;

use e2e::web::{self, Download, Pace};
use e2e::{Fault, Rule, Stage, wait};

const REPOSITORY: &str = "library/python";
const LIMIT: Duration = Duration::from_secs(120);

/// A proxy in the original view, with one layer of the image linked and not yet filled.
struct Cold {
    stage: Stage,
    digest: String,
    size: u64,
    path: String,
}

impl Cold {
    fn start(layer: usize) -> Self {
        Self::start_with(layer, "")
    }

    fn start_with(layer: usize, config: &str) -> Self {
        let config = format!("[convert]\nenabled = false\n{config}");
        let stage = Stage::start_with(|options| options.config(&config)).unwrap();
        let manifest = stage.registry.digest(REPOSITORY, "latest").unwrap();
        let (digest, size) = stage.layer(REPOSITORY, &manifest, layer).unwrap();
        let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
        Self { stage, digest, size, path }
    }

    fn get(&self, pace: Pace) -> anyhow::Result<Download> {
        web::download(self.stage.proxy.at(), &self.path, &[], pace)
    }

    fn range(&self, range: &str) -> Download {
        let headers = [("range".to_owned(), range.to_owned())];
        web::download(self.stage.proxy.at(), &self.path, &headers, Pace::default()).unwrap()
    }

    /// All bytes of the blob that upstream sent.
    fn upstream(&self) -> u64 {
        self.stage.relay.bytes(&self.digest)
    }

    fn assert_frugal(&self) {
        let (sent, most) = (self.upstream(), self.size + self.size / 100);
        assert!(sent <= most, "upstream sent {sent} bytes for a blob of {}: {:?}", self.size, self.requests());
    }

    fn requests(&self) -> Vec<String> {
        let seen = self.stage.relay.seen_at(&self.digest);
        seen.iter()
            .map(|seen| format!("{} {:?} {} {}", seen.method, seen.headers.get("range"), seen.status, seen.bytes))
            .collect()
    }

    fn throttle(&self, rate: u64) {
        self.stage.relay.add(Rule::new(&self.digest, Fault::Throttle(rate)));
    }
}

/// 200 clients on connections of their own, arriving over the whole length of the fill, ten of them slow: all bodies are right and
/// upstream sends the blob once.
#[test]
fn two_hundred_clients_cost_one_download() {
    const CLIENTS: u64 = 200;
    let cold = Cold::start(2);
    cold.throttle(2_000_000);
    thread::scope(|scope| {
        let handles: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let cold = &cold;
                scope.spawn(move || {
                    let front = cold.size * client / CLIENTS;
                    if client > 0 {
                        wait::until("fill", LIMIT, || Ok((cold.upstream() >= front).then_some(()))).unwrap();
                    }
                    let rate = (client % 20 == 0).then_some(1_000_000);
                    cold.get(Pace { rate, stop_after: None }).unwrap()
                })
            })
            .collect();
        for handle in handles {
            let got = handle.join().unwrap();
            assert_eq!((got.bytes, got.digest), (cold.size, cold.digest.clone()));
        }
    });
    cold.assert_frugal();
}

/// The first client leaves at a tenth; the second, and the fill, go on.
#[test]
fn a_fill_outlives_its_first_client() {
    let cold = Cold::start(2);
    cold.throttle(3_000_000);
    thread::scope(|scope| {
        let second = scope.spawn(|| {
            wait::until("fill", LIMIT, || Ok((cold.upstream() > 0).then_some(()))).unwrap();
            cold.get(Pace::default()).unwrap()
        });
        cold.get(Pace { stop_after: Some(cold.size / 10), rate: None }).unwrap();
        assert_eq!(second.join().unwrap().digest, cold.digest);
    });
    cold.assert_frugal();
}

/// Nobody is left after a tenth: the fill still ends, and the blob is then served without upstream.
#[test]
fn a_fill_needs_no_client() {
    let mut cold = Cold::start(2);
    cold.throttle(5_000_000);
    cold.get(Pace { stop_after: Some(cold.size / 10), rate: None }).unwrap();
    wait::until("fill", LIMIT, || Ok((cold.upstream() >= cold.size).then_some(()))).unwrap();
    assert_eq!(cold.get(Pace::default()).unwrap().digest, cold.digest);
    cold.stage.relay.stop();
    assert_eq!(cold.get(Pace::default()).unwrap().digest, cold.digest);
    cold.assert_frugal();
}

/// A connection cut at half is resumed with Range; the client does not notice.
#[test]
fn a_cut_is_resumed() {
    let cold = Cold::start(2);
    cold.stage.relay.add(Rule::new(&cold.digest, Fault::Cut(cold.size / 2)).method("GET").times(1));
    assert_eq!(cold.get(Pace::default()).unwrap().digest, cold.digest);
    let seen = cold.stage.relay.seen_at(&cold.digest);
    assert!(seen.iter().any(|seen| seen.headers.contains_key("range") && seen.status == 206), "{:?}", cold.requests());
    cold.assert_frugal();
}

/// The same with an upstream that does not know Range: it starts anew, and the body is still right.
#[test]
fn a_cut_without_ranges_starts_anew() {
    let cold = Cold::start(2);
    cold.stage.relay.add(Rule::new(&cold.digest, Fault::Cut(cold.size / 2)).method("GET").times(1));
    cold.stage.relay.add(Rule::new(&cold.digest, Fault::NoRange));
    assert_eq!(cold.get(Pace::default()).unwrap().digest, cold.digest);
}

/// One wrong byte: no client gets a clean end and nothing is kept; when upstream is right again, so are we.
#[test]
fn wrong_bytes_never_end_cleanly() {
    for at in [0, 1 << 20, u64::MAX] {
        let cold = Cold::start(2);
        cold.stage.relay.add(Rule::new(&cold.digest, Fault::Corrupt(at.min(cold.size - 1))));
        thread::scope(|scope| {
            let clients: Vec<_> = (0..5).map(|_| scope.spawn(|| cold.get(Pace::default()))).collect();
            for client in clients {
                if let Ok(got) = client.join().unwrap() {
                    assert!(!got.status.is_success(), "a clean end of wrong bytes: {got:?}");
                }
            }
        });
        cold.stage.relay.clear();
        let right =
            wait::until("right bytes", LIMIT, || Ok(cold.get(Pace::default()).ok().filter(|got| got.status == 200)));
        assert_eq!(right.unwrap().digest, cold.digest);
    }
}

/// Ranges of a cold blob are answered while the fill is still slow; all that upstream sends is the blob once.
#[test]
fn cold_ranges_do_not_wait_for_the_fill() {
    const RANGE: u64 = 64 << 10;
    let cold = Cold::start(1);
    cold.throttle(1_000_000);
    let whole = web::request(&e2e::Node::Machine, cold.stage.registry.at(), "GET", &cold.path, &[]).unwrap().body;
    thread::scope(|scope| {
        let fill = scope.spawn(|| cold.get(Pace { stop_after: Some(1), rate: None }));
        for from in [0, cold.size / 2, cold.size - RANGE] {
            let got = cold.range(&format!("bytes={from}-{}", from + RANGE - 1));
            assert_eq!(got.status, 206);
            let expected = format!("bytes {from}-{}/{}", from + RANGE - 1, cold.size);
            assert_eq!(got.headers.get("content-range").unwrap(), &expected);
            assert_eq!(got.digest, e2e::digest(&whole[from as usize..(from + RANGE) as usize]));
        }
        assert!(cold.upstream() < cold.size, "the ranges waited for the whole fill");
        fill.join().unwrap().unwrap();
    });
    cold.stage.relay.clear();
}

/// 200 ranges that together cover a cold blob, and open-ended ones closed early as containerd's are: upstream sends the blob once.
#[test]
fn ranges_cost_one_download() {
    let cold = Cold::start(2);
    let whole = web::request(&e2e::Node::Machine, cold.stage.registry.at(), "GET", &cold.path, &[]).unwrap().body;
    let step = cold.size.div_ceil(200);
    thread::scope(|scope| {
        for client in 0..200 {
            let (cold, whole) = (&cold, &whole);
            scope.spawn(move || {
                let from = step * client;
                let end = (from + step).min(cold.size);
                let pace = Pace { stop_after: Some(end - from), rate: None };
                let range =
                    if client % 4 == 0 { format!("bytes={from}-") } else { format!("bytes={from}-{}", end - 1) };
                let got = web::download(cold.stage.proxy.at(), &cold.path, &[("range".into(), range)], pace).unwrap();
                assert_eq!(got.status, 206);
                if client % 4 != 0 {
                    assert_eq!(got.digest, e2e::digest(&whole[from as usize..end as usize]));
                }
            });
        }
    });
    assert_eq!(cold.get(Pace::default()).unwrap().digest, cold.digest);
    cold.assert_frugal();
}

/// Ranges and whole blobs are right when upstream does not know Range.
#[test]
fn ranges_without_upstream_ranges_are_right() {
    let cold = Cold::start(2);
    cold.stage.relay.add(Rule::new(&cold.digest, Fault::NoRange));
    let whole = web::request(&e2e::Node::Machine, cold.stage.registry.at(), "GET", &cold.path, &[]).unwrap().body;
    let got = cold.range("bytes=5000000-5000999");
    assert_eq!((got.status.as_u16(), got.digest), (206, e2e::digest(&whole[5_000_000..5_001_000])));
    assert_eq!(cold.get(Pace::default()).unwrap().digest, cold.digest);
}

/// Killed with SIGKILL at half of a fill and started again: the blob is right and the spool is empty.
#[test]
fn a_killed_proxy_takes_up_its_work() {
    let mut cold = Cold::start(2);
    cold.throttle(3_000_000);
    thread::scope(|scope| {
        let client = scope.spawn(|| cold.get(Pace::default()));
        wait::until("half", LIMIT, || Ok((cold.upstream() >= cold.size / 2).then_some(()))).unwrap();
        cold.stage.proxy.kill().unwrap();
        assert!(client.join().unwrap().is_err(), "a clean end of half a blob");
    });
    cold.stage.relay.clear();
    cold.stage.proxy.start_again().unwrap();
    assert_eq!(cold.get(Pace::default()).unwrap().digest, cold.digest);
    cold.stage.relay.stop();
    assert_eq!(cold.get(Pace::default()).unwrap().digest, cold.digest);
}
