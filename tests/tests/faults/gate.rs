//! Passwords and certificates.

use std::process::Command;

use e2e::{Authority, Node, Scratch, run, web};

use crate::layer::noise;
use crate::push::{Blob, TAR};
use crate::world::{REPOSITORY, World, code};

/// Without `htpasswd` nobody is asked; with it everybody is, for everything below `/v2/`, and health stays open.
#[test]
fn the_gate_asks_only_where_it_stands() {
    let scratch = Scratch::new().unwrap();
    let users = run(Command::new("htpasswd").args(["-nbB", "-C", "5", "ann", "secret"])).unwrap();
    let file = scratch.write("users", &users).unwrap();
    let config = format!("[server]\nhtpasswd = \"{}\"\n", file.display());
    let open = World::start(vec![], |options| options);
    let gated = World::start(vec![Blob::new(TAR, noise(131, 1000))], |options| options.config(&config));
    let paths = ["/v2/".to_owned(), format!("/v2/{REPOSITORY}/manifests/latest"), gated.path(0)];
    for path in &paths[..2] {
        let answer = open.get(path);
        assert_eq!((answer.status.as_u16(), answer.header("www-authenticate")), (200, None), "{path}");
    }
    let right = web::basic("ann", "secret").1;
    for path in &paths {
        for wrong in
            [None, Some(web::basic("ann", "wrong").1), Some(web::basic("bob", "secret").1), Some("Bearer x".into())]
        {
            let headers: Vec<_> = wrong.iter().map(|value| ("authorization", value.as_str())).collect();
            let answer = gated.send("GET", path, &headers);
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (401, "UNAUTHORIZED"), "{path} {wrong:?}");
            assert!(answer.header("www-authenticate").unwrap().starts_with("Basic realm="), "{path}");
        }
        let answer = gated.send("GET", path, &[("authorization", &right)]);
        assert_eq!(answer.status, 200, "{path}");
    }
    for seen in gated.stage.relay.seen() {
        assert!(!seen.headers.contains_key("authorization"), "a client's password went upstream");
    }
    let health = web::request(&Node::Machine, gated.stage.proxy.admin_at(), "GET", "/healthz", &[]).unwrap();
    assert_eq!(health.status, 200);
}

/// A new certificate is used as soon as its files are there; a pair that does not fit is not.
#[test]
fn a_new_certificate_is_used_without_a_restart() {
    let authority = Authority::new().unwrap();
    let address = std::net::Ipv4Addr::LOCALHOST;
    let (certificate, key) = authority.sign("localhost", address).unwrap();
    let world = World::start(vec![], |mut options| {
        options.tls = Some((certificate.clone(), key.clone()));
        options
    });
    let url = format!("https://{}/v2/", world.stage.proxy.at());
    let shown = || {
        let mut client = Command::new("curl");
        client.args(["-sS", "-o", "/dev/null", "-w", "%{http_code} %{http_version} %{certs}", "--cacert"]);
        run(client.arg(authority.certificate()).arg(&url)).unwrap()
    };
    let first = shown();
    assert!(first.starts_with("200 2 "), "HTTP/2 over TLS: {first}");

    let (_, strange) = authority.sign("strange", address).unwrap();
    let old_key = std::fs::read(&key).unwrap();
    std::fs::copy(&strange, &key).unwrap();
    world.wait("the refusal in the log", || {
        assert_eq!(shown(), first);
        world.stage.proxy.log().contains("cannot be used together")
    });
    std::fs::write(&key, old_key).unwrap();

    let (next, next_key) = authority.sign("next", address).unwrap();
    std::fs::copy(next, &certificate).unwrap();
    std::fs::copy(next_key, &key).unwrap();
    world.wait("the new certificate", || shown() != first);
    assert!(shown().contains("next"));
}
