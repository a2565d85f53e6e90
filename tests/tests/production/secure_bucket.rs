//! A bucket as large clouds give it: over TLS, and named by the host.

use std::time::Duration;

use e2e::web::{self, Pace};
use e2e::{
    Authority, Node, Postgres, Proxy, ProxyOptions, Registry, RegistryOptions, Relay, Scratch, Seaweed, is_root, skip,
    wait,
};

use crate::backing::{Backing, estargz};
use crate::layer::tar;
use crate::push::{self, Blob, TAR};

const DOMAIN: &str = "s3.test";
const REPOSITORY: &str = "team/a";
const LIMIT: Duration = Duration::from_secs(300);

/// Pulled, converted and read back from the bucket by a proxy that has nothing else: every request goes to the bucket's own host
/// name, and its certificate is checked.
#[test]
fn a_bucket_is_used_over_tls_by_its_host_name() {
    if !is_root() {
        return skip("a_bucket_is_used_over_tls_by_its_host_name", "not root: it wants an /etc/hosts of its own");
    }
    let (postgres, authority) = (Postgres::shared().unwrap(), Authority::new().unwrap());
    let seaweed = Seaweed::start_secure(&authority, DOMAIN).unwrap();
    let backing = Backing::new(&postgres, &seaweed);
    let node = Node::Machine.with_mounts().unwrap();
    // Only the bucket's own name: whoever asks the service by another one finds nobody.
    node.write_etc("hosts", &format!("127.0.0.1 localhost {}.{DOMAIN}\n", backing.bucket())).unwrap();
    let registry =
        Registry::start_with(&Node::Machine, &RegistryOptions { empty: true, ..RegistryOptions::default() }).unwrap();
    let image = push::image(&registry, REPOSITORY, "latest", vec![Blob::new(TAR, tar(401, 24, 1 << 20))]);
    let mut relay = Relay::start(registry.at()).unwrap();
    let options = || {
        let options = estargz(ProxyOptions::new(relay.at()), "0");
        backing
            .under(options)
            .env("FIRSTLIGHT_STORAGE_ENDPOINT", &seaweed.secure_endpoint().unwrap())
            .env("FIRSTLIGHT_STORAGE_PATH_STYLE", "false")
    };
    let trusting = || options().env("SSL_CERT_FILE", &authority.certificate().display().to_string());

    let refused = Proxy::start(&node, options()).unwrap_err();
    assert!(format!("{refused:#}").contains("certificate"), "an unknown authority: {refused:#}");

    let mut proxy = Proxy::start(&node, trusting()).unwrap();
    let converted = proxy.convert(REPOSITORY, "latest", &image.digest).unwrap();
    let layers = read(&proxy, &converted);
    let stored = || Ok((proxy.metric("firstlight_fills_running")? == 0.0).then_some(()));
    wait::until("the last fill", LIMIT, stored).unwrap();
    assert!(proxy.proc().stop().unwrap(), "{}", proxy.log());
    // And with the credentials in a profile's file.
    let profile = format!(
        "[profiled]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        Seaweed::ACCESS_KEY,
        Seaweed::SECRET_KEY
    );
    let scratch = Scratch::new().unwrap();
    let file = scratch.write("credentials", &profile).unwrap().display().to_string();
    let again = trusting().without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    let again = again.env("AWS_SHARED_CREDENTIALS_FILE", &file).env("AWS_PROFILE", "profiled");
    relay.stop();
    let proxy = Proxy::start(&node, again).unwrap();
    assert_eq!(read(&proxy, &converted), layers);
    assert_eq!(read(&proxy, &image.digest), [image.layers[0].digest.clone()]);
}

/// Reads a manifest and its layers, whole and by a range of each, and returns the layers' digests.
fn read(proxy: &Proxy, digest: &str) -> Vec<String> {
    let path = format!("/v2/{REPOSITORY}/manifests/{digest}");
    let answer = proxy.request("GET", &path, &[("accept", web::MANIFEST_TYPES)]).unwrap();
    assert_eq!(e2e::digest(&answer.body), digest, "{}\n{}", answer.text(), proxy.log());
    let manifest = answer.json().unwrap();
    let layers =
        manifest["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap().to_owned());
    let layers: Vec<String> = layers.collect();
    for layer in &layers {
        let path = format!("/v2/{REPOSITORY}/blobs/{layer}");
        let whole = web::download(proxy.at(), &path, &[], Pace::default()).unwrap();
        assert_eq!(whole.digest, *layer, "{}", proxy.log());
        let range = proxy.request("GET", &path, &[("range", "bytes=100000-165535")]).unwrap();
        assert_eq!((range.status.as_u16(), range.body.len()), (206, 65_536));
    }
    layers
}
