//! Two replicas that convert at different levels, as in a rolling upgrade.

use std::collections::BTreeSet;

use e2e::{Backing, Fleet, Node, ProxyOptions, Registry, RegistryOptions, wait, web};

use crate::layer::{entry, noise};
use crate::push::{self, Blob, Image};
use crate::world::{LIMIT, blob_path};

/// Clients that ask for every image at the same time, half of them at each replica.
const CLIENTS: usize = 8;
const IMAGES: u64 = 6;
const LEVELS: [u32; 2] = [1, 9];

/// Images that each replica converts first, and such as both are asked for at once: each source has one converted digest, which
/// both replicas show and serve, then and after a restart of each.
#[test]
fn two_profiles_give_a_source_one_converted_digest() {
    let options = RegistryOptions { empty: true, ..RegistryOptions::default() };
    let registry = Registry::start_with(&Node::Machine, &options).unwrap();
    let options = LEVELS.map(|level| {
        let config = format!("[cache]\ntag_ttl = \"1h\"\n[convert]\nwait = \"120s\"\nlevel = {level}\n");
        ProxyOptions::new(registry.at()).view("estargz").config(&config)
    });
    let mut fleet = Fleet::start_on(&Node::Machine, Backing::shared().unwrap(), options.into()).unwrap();
    let images = (0..IMAGES).map(|image| push::image(&registry, &repository(image), "latest", vec![layer(image)]));
    let images: Vec<_> = images.collect();

    for (replica, image) in images.iter().enumerate().take(LEVELS.len()) {
        fleet.replica(replica).convert(&repository(replica as u64), "latest", &image.digest).unwrap();
    }
    assert_eq!(
        fleet.sql("SELECT count(DISTINCT profile) FROM converted").unwrap(),
        "2",
        "the levels make no difference"
    );
    let answered: Vec<_> = (0..IMAGES).map(|image| crowd(&fleet, image, &images[image as usize])).collect();
    let rows = "SELECT source, profile, manifest FROM converted ORDER BY source";
    let (converted, twins) = (fleet.sql(rows).unwrap(), fleet.sql("SELECT count(*) FROM twins").unwrap());
    assert_eq!(converted.lines().count() as u64, IMAGES, "{converted}");
    assert!(twins.parse::<u64>().unwrap() > IMAGES, "no layer was converted by both replicas at once");

    for restarted in [None, Some(0), Some(1)] {
        if let Some(replica) = restarted {
            fleet.restart(replica).unwrap();
        }
        for (image, digest) in answered.iter().enumerate() {
            check(&fleet, &repository(image as u64), digest);
        }
    }
    assert_eq!(fleet.sql(rows).unwrap(), converted);
    assert_eq!(fleet.sql("SELECT count(*) FROM twins").unwrap(), twins, "a layer was converted again");

    // The database is set back to before the first replica converted anything: the second makes the same of its image.
    let source = &images[0].digest;
    let profile = fleet.sql(&format!("SELECT profile FROM converted WHERE source = '{source}'")).unwrap();
    for table in ["converted WHERE profile", "twins WHERE profile", "profiles WHERE id"] {
        fleet.sql(&format!("DELETE FROM {table} = '{profile}'")).unwrap();
    }
    fleet.restart(1).unwrap();
    fleet.replica(1).convert(&repository(0), "latest", source).unwrap();
    let mine = format!("SELECT source, profile, manifest FROM converted WHERE source = '{source}'");
    assert!(converted.contains(&fleet.sql(&mine).unwrap()), "{converted}");
    assert!(fleet.sql(&mine).unwrap().contains(&profile));
}

/// Has the clients ask for a tag until each has seen the estargz view, and returns the one digest that all of them saw.
fn crowd(fleet: &Fleet, image: u64, source: &Image) -> String {
    let repository = repository(image);
    let seen = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (proxy, repository) = (fleet.replica(client % LEVELS.len()), &repository);
                let path = format!("/v2/{repository}/manifests/latest");
                scope.spawn(move || {
                    wait::until(&path, LIMIT, || {
                        let answer = proxy.request("GET", &path, &[("accept", web::MANIFEST_TYPES)])?;
                        let is_converted = answer.header("firstlight-view").as_deref() == Some("estargz");
                        Ok(is_converted.then(|| e2e::digest(&answer.body)))
                    })
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap().unwrap()).collect::<BTreeSet<_>>()
    });
    assert!(seen.len() == 1 && !seen.contains(&source.digest), "{repository}: {seen:?}\n{}", fleet.log());
    seen.into_iter().next().unwrap()
}

/// Checks that both replicas show the converted digest at the tag and serve all of it.
fn check(fleet: &Fleet, repository: &str, digest: &str) {
    for replica in 0..LEVELS.len() {
        let proxy = fleet.replica(replica);
        assert_eq!(proxy.tag(repository, "latest").unwrap(), (digest.to_owned(), "estargz".to_owned()));
        let manifest = proxy.request("GET", &format!("/v2/{repository}/manifests/{digest}"), &[]).unwrap();
        assert_eq!(e2e::digest(&manifest.body), digest, "at replica {replica}");
        for layer in manifest.json().unwrap()["layers"].as_array().unwrap() {
            let twin = layer["digest"].as_str().unwrap();
            let bytes = proxy.request("GET", &blob_path(repository, twin), &[]).unwrap().body;
            assert_eq!(e2e::digest(&bytes), twin, "at replica {replica}");
        }
    }
}

fn repository(image: u64) -> String {
    format!("team/image-{image}")
}

/// A layer of text, which the levels compress differently, and slowly enough for two replicas to be at it at once.
fn layer(image: u64) -> Blob {
    let mut tar = Vec::new();
    for file in 0..64 {
        let text: String =
            noise(1 + image * 100 + file, 100_000).iter().map(|byte| format!("{} ", byte % 50)).collect();
        entry(&mut tar, format!("text-{file}").as_bytes(), b'0', text.as_bytes());
    }
    tar.resize(tar.len() + 1024, 0);
    Blob::gzip(&tar.into())
}
