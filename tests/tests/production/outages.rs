//! The bucket goes away under load and comes back.

use std::net::SocketAddrV4;
use std::time::Duration;

use e2e::web::{self, Pace};
use e2e::{Node, Postgres, Proxy, Registry, Relay, Seaweed, wait};

use crate::backing::Backing;
use crate::load::Load;

const REPOSITORY: &str = "library/base";
/// Has a layer that `REPOSITORY` lacks.
const COLD: &str = "library/python";

/// A converted image is asked for while the bucket is away, and a blob that never was in it; afterwards it is.
#[test]
fn a_stop_of_the_bucket_gives_no_wrong_answers() {
    let (postgres, mut seaweed) = (Postgres::shared().unwrap(), Seaweed::start().unwrap());
    let backing = Backing::new(&postgres, &seaweed);
    let registry = Registry::start(&Node::Machine).unwrap();
    let mut relay = Relay::start(registry.at()).unwrap();
    let proxy = backing.proxy(&relay, "0");
    let load = Load::record(&proxy, image(&proxy, &registry));
    let (path, digest) = cold_layer(&proxy, &registry);
    load.during(|tally| {
        tally.wait_right();
        seaweed.stop().unwrap();
        tally.wait_disturbed();
        check_cold(proxy.at(), &path, &digest);
        seaweed.resume().unwrap();
        tally.wait_right();
    });
    load.wait_whole(&proxy);
    let cold = Load::record(&proxy, vec![path]);
    let no_fill = || Ok((proxy.metric("firstlight_fills_running")? == 0.0).then_some(()));
    wait::until("end of the fills", Duration::from_secs(60), no_fill).unwrap();
    relay.stop();
    cold.wait_whole(&proxy);
    load.wait_whole(&proxy);
}

/// A blob that comes from upstream while the bucket is away is right, or is refused, or cut off.
fn check_cold(at: SocketAddrV4, path: &str, digest: &str) {
    match web::download(at, path, &[], Pace::default()) {
        Ok(whole) if whole.status == 200 => assert_eq!(whole.digest, digest, "a clean end of wrong bytes"),
        Ok(refused) => {
            assert!(refused.status == 503 && refused.headers.contains_key("retry-after"), "{path}: {refused:?}");
        }
        // Cut off.
        Err(_) => {}
    }
}

/// Has the image converted and returns the path of each of its parts, in both views.
fn image(proxy: &Proxy, registry: &Registry) -> Vec<String> {
    let source = registry.digest(REPOSITORY, "latest").unwrap();
    let converted = proxy.convert(REPOSITORY, "latest", &source).unwrap();
    let mut paths = vec![format!("/v2/{REPOSITORY}/manifests/latest")];
    for manifest in [source, converted] {
        let path = format!("/v2/{REPOSITORY}/manifests/{manifest}");
        let document = proxy.request("GET", &path, &[]).unwrap().json().unwrap();
        let parts = document["layers"].as_array().unwrap().iter().chain([&document["config"]]);
        paths.extend(parts.map(|part| format!("/v2/{REPOSITORY}/blobs/{}", part["digest"].as_str().unwrap())));
        paths.push(path);
    }
    paths
}

/// Has the proxy read another image's manifest and returns path and digest of its last layer, which nobody has asked for.
fn cold_layer(proxy: &Proxy, registry: &Registry) -> (String, String) {
    let manifest = registry.digest(COLD, "latest").unwrap();
    // In the original view a manifest starts no conversion, which would fetch the layers.
    let headers = [("accept", web::MANIFEST_TYPES), ("firstlight-view", "original")];
    let path = format!("/v2/{COLD}/manifests/{manifest}");
    let document = proxy.request("GET", &path, &headers).unwrap().json().unwrap();
    let digest = document["layers"].as_array().unwrap().last().unwrap()["digest"].as_str().unwrap().to_owned();
    (format!("/v2/{COLD}/blobs/{digest}"), digest)
}
