//! Workers: what `serve` is without clients.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use e2e::{Node, Postgres, Proxy, Registry, RegistryOptions, Relay, Scratch, Seaweed, program, run, wait};

use crate::backing::Backing;
use crate::layer::tar;
use crate::push::{self, Blob, TAR};

const LIMIT: Duration = Duration::from_secs(300);

/// A worker fills and converts what others left, and serves no client.
#[test]
fn a_worker_does_what_others_left() {
    let backing = Backing::new(&Postgres::shared().unwrap(), Seaweed::shared().unwrap());
    let registry =
        Registry::start_with(&Node::Machine, &RegistryOptions { empty: true, ..RegistryOptions::default() }).unwrap();
    let image = push::image(&registry, "team/a", "latest", vec![Blob::new(TAR, tar(331, 2, 1 << 20))]);
    let relay = Relay::start(registry.at()).unwrap();
    let worker = Proxy::start(&Node::Machine, backing.options(&relay, "0").worker()).unwrap();
    assert!(TcpStream::connect(worker.at()).is_err(), "a worker serves clients");

    let layer = &image.layers[0].digest;
    let left = format!(
        "INSERT INTO twins (source, profile, state, attempts, repository) \
         SELECT '{layer}', id, 'converting', 0, 'docker.io/team/a' FROM profiles"
    );
    backing.sql(&left);
    let state = format!("SELECT state FROM twins WHERE source = '{layer}'");
    let ready = wait::until("the twin", LIMIT, || Ok((backing.sql(&state).trim() == "ready").then_some(())));
    ready.unwrap_or_else(|error| panic!("{error}\n{}", worker.log()));
    assert!(backing.listing().iter().any(|(name, _)| name.contains(layer.trim_start_matches("sha256:"))));
}

/// On SQLite there is nobody to work for.
#[test]
fn a_worker_wants_postgresql() {
    let scratch = Scratch::new().unwrap();
    let refused = run(Command::new(program().unwrap()).arg("worker").current_dir(scratch.path())).unwrap_err();
    assert!(format!("{refused:#}").contains("set catalog.url to their PostgreSQL database"), "{refused:#}");
}
