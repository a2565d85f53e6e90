//! Lists: tags, page by page, and what refers to a digest. And bots, which ask what a tag means.

use crate::layer::noise;
use crate::push::{self, Blob, MANIFEST, TAR};
use crate::world::{REPOSITORY, World};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn world() -> World {
    World::start(vec![Blob::new(TAR, noise(151, 1000))], |options| options.config("[convert]\nenabled = false\n"))
}

fn tags(answer: &e2e::web::Answer) -> Vec<String> {
    let document = answer.json().unwrap();
    assert_eq!(document["name"], REPOSITORY);
    document["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
}

/// Tags come in order and in pages, with a link that leads back to us; without an upstream the known ones are listed.
#[test]
fn tags_come_in_pages() {
    let mut world = world();
    let image = world.send("GET", &format!("/v2/{REPOSITORY}/manifests/latest"), &[]).text();
    for tag in ["3.12", "3.13", "slim"] {
        push::document(&world.stage.registry, REPOSITORY, tag, MANIFEST, &image);
    }
    let list = format!("/v2/{REPOSITORY}/tags/list");
    assert_eq!(tags(&world.get(&list)), ["3.12", "3.13", "latest", "slim"]);
    let first = world.get(&format!("{list}?n=2&ns=docker.io"));
    assert_eq!(tags(&first), ["3.12", "3.13"]);
    let link = first.header("link").unwrap();
    assert_eq!(link, format!("<{list}?n=2&last=3.13&ns=docker.io>; rel=\"next\""));
    let next = world.get(link.trim_start_matches('<').split_once('>').unwrap().0);
    assert_eq!((tags(&next), next.header("link")), (vec!["latest".to_owned(), "slim".to_owned()], None));
    assert!(tags(&world.get(&format!("{list}?n=0"))).is_empty());
    assert_eq!(world.get(&format!("{list}?n=many")).status, 400);

    world.stage.relay.stop();
    let stale = world.get(&list);
    assert_eq!(tags(&stale), ["latest"], "what was asked for before");
    assert!(stale.header("warning").unwrap().starts_with("110"));
    world.assert_calm();
}

/// An upstream without the referrers API keeps the list under a tag; nothing is an empty list, never an error.
#[test]
fn referrers_fall_back_to_the_tag() {
    let world = world();
    let referrers = |digest: &str, query: &str| {
        let answer = world.get(&format!("/v2/{REPOSITORY}/referrers/{digest}{query}"));
        assert_eq!((answer.status.as_u16(), answer.header("content-type").as_deref()), (200, Some(INDEX)));
        let document = answer.json().unwrap();
        assert_eq!((&document["schemaVersion"], &document["mediaType"]), (&2.into(), &INDEX.into()));
        (document["manifests"].as_array().unwrap().len(), answer.header("oci-filters-applied"))
    };
    assert_eq!(referrers(&world.image.digest, ""), (0, None));
    let entry = |kind: &str| {
        format!(r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":1,"artifactType":"{kind}"}}"#, world.image.digest)
    };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{},{}]}}"#,
        entry("application/x.sbom"),
        entry("application/x.signature")
    );
    push::document(&world.stage.registry, REPOSITORY, &world.image.digest.replace(':', "-"), INDEX, &index);
    assert_eq!(referrers(&world.image.digest, ""), (2, None));
    let filtered = referrers(&world.image.digest, "?artifactType=application%2Fx.sbom");
    assert_eq!(filtered, (1, Some("artifactType".to_owned())));
    assert_eq!(referrers(&e2e::digest(b"nobody knows this"), ""), (0, None));
    assert_eq!(world.get(&format!("/v2/{REPOSITORY}/referrers/sha256:bad")).status, 400);
}

/// A tag that moved is looked up once for many HEADs, although nobody pulls what it moved to; the next GET does.
#[test]
fn a_moved_tag_is_looked_up_once_for_many_heads() {
    let world = World::start(vec![Blob::new(TAR, noise(152, 1000))], |mut options| {
        options.upstream_keys = "tag_ttl = \"20s\"\n".to_owned();
        options.config("[convert]\nenabled = false\n")
    });
    let path = format!("/v2/{REPOSITORY}/manifests/latest");
    let digest = |method: &str| world.send(method, &path, &[]).header("docker-content-digest").unwrap();
    assert_eq!(digest("GET"), world.image.digest);
    let moved = push::image(&world.stage.registry, REPOSITORY, "latest", vec![Blob::new(TAR, noise(153, 1000))]);
    world.wait("the moved tag", || digest("HEAD") == moved.digest);
    let before = world.stage.relay.seen_at("/manifests/").len();
    for _ in 0..50 {
        assert_eq!(digest("HEAD"), moved.digest);
    }
    let asked = world.stage.relay.seen_at("/manifests/").len() - before;
    assert!(asked <= 1, "50 HEADs became {asked} questions");
    assert_eq!(digest("GET"), moved.digest);
}
