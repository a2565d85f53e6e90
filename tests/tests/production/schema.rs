//! The schema is made by `firstlight migrate`, and by nothing else.

use e2e::{Node, Postgres, Proxy, Registry, Relay, Seaweed, web};

use crate::backing::Backing;

#[test]
fn serve_asks_for_the_schema_and_starts_with_it() {
    let (postgres, seaweed) = (Postgres::shared().unwrap(), Seaweed::shared().unwrap());
    let backing = Backing::bare(&postgres, seaweed);
    let registry = Registry::start(&Node::Machine).unwrap();
    let relay = Relay::start(registry.at()).unwrap();
    let refused = Proxy::start(&Node::Machine, backing.options(&relay, "64MiB")).unwrap_err();
    let said = format!("{refused:#}");
    assert!(said.contains("ended with exit status: ") && !said.contains("exit status: 0"), "{said}");
    assert!(said.contains("run `firstlight migrate`"), "{said}");

    let first = backing.migrate();
    assert!(first.contains("applied 0001 "), "{first}");
    let second = backing.migrate();
    assert!(!second.contains("applied") && second.contains("is up to date"), "{second}");

    let proxy = backing.proxy(&relay, "64MiB");
    let path = "/v2/library/tiny/manifests/latest";
    let answer = proxy.request("GET", path, &[("accept", web::MANIFEST_TYPES)]).unwrap();
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), proxy.log());
}
