//! Health and metrics.

use e2e::web::{self, Answer, Pace};
use e2e::{Fault, Rule};

use crate::layer::tar;
use crate::push::{Blob, TAR};
use crate::world::{REPOSITORY, World};

/// Everything that is promised is there after some traffic, and counts it.
#[test]
fn metrics_count_what_happens() {
    let world = World::start(vec![Blob::new(TAR, tar(141, 12, 1 << 20))], |options| options);
    let admin = |path: &str| -> Answer {
        web::request(&e2e::Node::Machine, world.stage.proxy.admin_at(), "GET", path, &[]).unwrap()
    };
    assert_eq!(admin("/healthz").status, 200);
    assert_eq!(admin("/readyz").status, 200);
    assert_eq!(admin("/v2/").status, 404, "the admin listener serves no registry");
    assert_eq!(world.get("/metrics").status, 404, "the main listener serves no metrics");

    world.get(&format!("/v2/{REPOSITORY}/manifests/latest"));
    world.get(&format!("/v2/{REPOSITORY}/manifests/latest"));
    world.throttle(2_000_000);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| world.download(Pace::default()).unwrap());
        world.wait_metric("firstlight_fills_running", 1.0);
        let second = scope.spawn(|| world.download(Pace::default()).unwrap());
        world.range("bytes=0-9");
        world.range(&format!("bytes={}-", world.layer().size() - 10));
        world.stage.relay.clear();
        first.join().unwrap();
        second.join().unwrap();
    });
    world.wait_tidy();
    world.range("bytes=0-9");

    let size = world.layer().size() as f64;
    let upstream = |kind: &str| world.series(&format!("firstlight_upstream_bytes_total{{kind=\"{kind}\"}}"));
    assert!(upstream("cold_range") > 0.0);
    assert!(upstream("fill") + upstream("cold_range") >= size);
    assert!(world.metric("firstlight_served_bytes_total") >= 2.0 * size);
    assert!(world.metric("firstlight_coalesced_readers_total") >= 1.0);
    for kind in ["stored", "cold"] {
        assert!(world.series(&format!("firstlight_ranges_total{{kind=\"{kind}\"}}")) >= 1.0, "{kind}");
    }
    assert_eq!(world.series("firstlight_conversions_total{state=\"ready\",reason=\"\"}"), 1.0);
    assert_eq!(world.series("firstlight_conversion_seconds_count"), 1.0);
    assert_eq!(world.series("firstlight_tag_checks_total{outcome=\"changed\"}"), 1.0);
    assert_eq!(world.series("firstlight_tag_checks_total{outcome=\"fresh\"}"), 1.0);

    let text = admin("/metrics").text();
    for name in [
        "fills_running",
        "fills",
        "coalesced_readers",
        "upstream_bytes",
        "served_bytes",
        "conversions",
        "conversions_running",
        "conversion_seconds",
        "ranges",
        "tag_checks",
        "uncached_streams",
    ] {
        assert!(text.contains(&format!("# HELP firstlight_{name} ")), "{name}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

/// What upstream says of its rate limit is exported.
#[test]
fn the_quota_of_the_upstream_is_exported() {
    let world = World::start(vec![], |options| options);
    let headers = ["ratelimit-limit", "ratelimit-remaining"].map(|name| (name.to_owned(), "17;w=21600".to_owned()));
    world.stage.relay.add(Rule::new("/manifests/", Fault::Status(429, headers.to_vec())).times(1));
    assert_eq!(world.get(&format!("/v2/{REPOSITORY}/manifests/latest")).status, 200, "a single 429 is waited out");
    assert_eq!(world.series("firstlight_quota_remaining{upstream=\"docker.io\"}"), 17.0);
}
