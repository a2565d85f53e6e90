//! The client against small servers that misbehave on purpose.

mod auth;
mod blob;
mod metadata;
mod push;
mod server;

use std::time::Duration;

use api::{Digest, Reference, RepositoryName};

use crate::{Client, Credentials, RetryPolicy, Secret, Settings, Timeouts};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

fn settings(url: &str) -> Settings {
    Settings {
        plain_http: true,
        timeouts: Timeouts { idle: Duration::from_secs(2), queue: Duration::from_millis(50), ..Timeouts::default() },
        retry: RetryPolicy { attempts: 3, total: Duration::from_secs(10), base: Duration::from_millis(1) },
        ..Settings::new("test", url)
    }
}

fn client(url: &str) -> Client {
    Client::new(settings(url)).unwrap()
}

fn with_credentials(url: &str) -> Settings {
    let credentials = Credentials { username: String::from("user"), password: Secret::new("pass") };
    Settings { credentials: Some(credentials), ..settings(url) }
}

fn name() -> RepositoryName {
    RepositoryName::parse("library/app").unwrap()
}

fn latest() -> Reference {
    Reference::parse("latest").unwrap()
}

fn digest() -> Digest {
    Digest::of(b"0123456789")
}
