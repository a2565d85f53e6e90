//! The database and the bucket of a fleet go away under load and come back.

use std::time::{Duration, Instant};

use e2e::web::{self, Pace};
use e2e::{Backing, Fleet, Front, Node, Postgres, ProxyOptions, Registry, Relay, Seaweed, wait};

use crate::backing::estargz;
use crate::load::{Load, assert_not_wrong};
use crate::remains;

const REPOSITORY: &str = "library/base";
/// Has a layer that `REPOSITORY` lacks.
const COLD: &str = "library/python";
/// How long the bucket is away.
const OUTAGE: Duration = Duration::from_secs(30);

/// A converted image is asked for while PostgreSQL restarts, twice, and a blob that nobody has asked for before; afterwards all is
/// served without upstream.
#[test]
fn a_restart_of_postgres_gives_no_wrong_answers() {
    let mut postgres = Postgres::start().unwrap();
    let backing = Backing::new(&postgres, Seaweed::shared().unwrap()).unwrap();
    let mut disturbed = Disturbed::start(backing, "64MiB");
    let (path, digest) = disturbed.cold_layer();
    disturbed.load.during(|tally| {
        for _ in 0..2 {
            tally.wait_right();
            postgres.stop().unwrap();
            tally.wait_disturbed();
            assert_not_wrong(web::download(disturbed.fleet.at(), &path, &[], Pace::default()), &digest);
            postgres.launch().unwrap();
            tally.wait_right();
        }
    });
    disturbed.check_whole(path);
}

/// A converted image is asked for while the bucket is away, and a blob that never was in it; afterwards it is.
#[test]
fn a_stop_of_the_bucket_gives_no_wrong_answers() {
    let (postgres, mut seaweed) = (Postgres::shared().unwrap(), Seaweed::start().unwrap());
    let mut disturbed = Disturbed::start(Backing::new(&postgres, &seaweed).unwrap(), "0");
    let (path, digest) = disturbed.cold_layer();
    disturbed.load.during(|tally| {
        tally.wait_right();
        seaweed.stop().unwrap();
        let begin = Instant::now();
        tally.wait_disturbed();
        assert_not_wrong(web::download(disturbed.fleet.at(), &path, &[], Pace::default()), &digest);
        wait::until("end of the outage", 2 * OUTAGE, || Ok((begin.elapsed() >= OUTAGE).then_some(()))).unwrap();
        seaweed.resume().unwrap();
        tally.wait_right();
    });
    disturbed.check_whole(path);
}

/// A fleet that serves a converted image.
struct Disturbed {
    load: Load,
    // Dropped in this order.
    fleet: Fleet,
    relay: Relay,
    registry: Registry,
}

impl Disturbed {
    fn start(backing: Backing, cache: &str) -> Self {
        let registry = Registry::start(&Node::Machine).unwrap();
        let relay = Relay::start(registry.at()).unwrap();
        let options = estargz(ProxyOptions::new(relay.at()), cache);
        let fleet = Fleet::start_on(&Node::Machine, backing, vec![options; 3]).unwrap();
        let load = Load::record(&fleet, image(&fleet, &registry));
        Self { load, fleet, relay, registry }
    }

    /// Has the fleet read another image's manifest and returns path and digest of its last layer, which nobody has asked for.
    fn cold_layer(&self) -> (String, String) {
        let manifest = self.registry.digest(COLD, "latest").unwrap();
        // In the original view a manifest starts no conversion, which would fetch the layers.
        let headers = [("accept", web::MANIFEST_TYPES), ("firstlight-view", "original")];
        let path = format!("/v2/{COLD}/manifests/{manifest}");
        let document = self.fleet.request("GET", &path, &headers).unwrap().json().unwrap();
        let digest = document["layers"].as_array().unwrap().last().unwrap()["digest"].as_str().unwrap().to_owned();
        (format!("/v2/{COLD}/blobs/{digest}"), digest)
    }

    /// Checks that all is served as before, at last the cold blob too, when no upstream can help; and that nothing is left over.
    fn check_whole(&mut self, cold: String) {
        self.load.wait_whole(&self.fleet);
        let cold = Load::record(&self.fleet, vec![cold]);
        remains::wait_none(&self.fleet);
        self.relay.stop();
        cold.wait_whole(&self.fleet);
        self.load.wait_whole(&self.fleet);
        self.fleet.check_running().unwrap();
    }
}

/// Has the image converted and returns the path of each of its parts, in both views.
fn image(front: &Front, registry: &Registry) -> Vec<String> {
    let source = registry.digest(REPOSITORY, "latest").unwrap();
    let converted = front.convert(REPOSITORY, "latest", &source).unwrap();
    let mut paths = vec![format!("/v2/{REPOSITORY}/manifests/latest")];
    for manifest in [source, converted] {
        let path = format!("/v2/{REPOSITORY}/manifests/{manifest}");
        let document = front.request("GET", &path, &[]).unwrap().json().unwrap();
        let parts = document["layers"].as_array().unwrap().iter().chain([&document["config"]]);
        paths.extend(parts.map(|part| format!("/v2/{REPOSITORY}/blobs/{}", part["digest"].as_str().unwrap())));
        paths.push(path);
    }
    paths
}
