//! What clients wait for goes before what only conversions read.

use e2e::web::{self, Pace};

use crate::layer::tar;
use crate::push::{Blob, TAR};
use crate::world::{REPOSITORY, World};

/// Bytes a second and answer: slow enough that a layer takes seconds, fast enough that none takes the 30 s after which a fill that
/// yields asks for a segment all the same.
const RATE: u64 = 1_000_000;

/// Starts a world whose conversions begin with a GET of the tag, which is answered at once.
fn slow_world(layers: Vec<Blob>) -> World {
    let world = World::start(layers, |options| options.view("estargz").config("[convert]\nwait = \"0s\"\n"));
    world.throttle(RATE);
    world
}

/// Starts the conversion of all layers, as a client does that then fetches only some of them.
fn get_tag(world: &World) {
    let answer = world.get(&format!("/v2/{REPOSITORY}/manifests/latest"));
    assert_eq!(answer.header("firstlight-view").as_deref(), Some("original"));
}

/// The segments that upstream was asked for, in order: which layer each is of.
fn segments(world: &World) -> Vec<usize> {
    let layer_of = |seen: e2e::Seen| {
        let of = |layer: &Blob| seen.method == "GET" && seen.path.contains(&layer.digest);
        world.image.layers.iter().position(of)
    };
    world.stage.relay.seen_at("/blobs/").into_iter().filter_map(layer_of).collect()
}

/// Waits until `fills` fills yield.
fn wait_yielding(world: &World, fills: usize) {
    world.wait("yielding", || world.metric("firstlight_fills_yielding") == fills as f64);
}

/// Waits until every layer is here, whole and once, and converted; no client asks for anything.
fn wait_converted(world: &World) {
    world.wait_metric("firstlight_conversions_total", world.image.layers.len() as f64);
    let ready = world.series("firstlight_conversions_total{state=\"ready\",reason=\"\"}");
    assert_eq!(ready, world.image.layers.len() as f64);
    world.wait_tidy();
    for layer in &world.image.layers {
        assert!(world.stage.relay.bytes(&layer.digest) >= layer.size(), "{:#?}", world.requests());
    }
    world.assert_frugal();
    world.assert_calm();
    assert_eq!(world.metric("firstlight_fills_yielding"), 0.0);
}

/// Two layers are filled for their conversion; a client comes and reads one. The other one's fill stops where it is and goes on, by
/// itself, when the first has all its bytes.
#[test]
fn an_unasked_fill_stands_still_while_a_wanted_one_runs() {
    let world =
        slow_world([(171, 16), (1171, 24)].map(|(seed, files)| Blob::new(TAR, tar(seed, files, 1 << 20))).to_vec());
    let [wanted, unasked] = [0, 1];
    get_tag(&world);
    world.wait("both fills", || segments(&world).contains(&wanted) && segments(&world).contains(&unasked));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| world.download(Pace::default()).unwrap());
        // From here on nothing of the unasked layer is under way but what has been asked for.
        wait_yielding(&world, 1);
        let before = segments(&world);
        assert!(world.upstream() < world.layer().size(), "the fill to yield to is over");
        assert_eq!(client.join().unwrap().digest, world.layer().digest);
        let after = &segments(&world)[before.len()..];
        let last = after.iter().rposition(|layer| *layer == wanted).expect("no segment while the other yielded");
        assert!(!after[..last].contains(&unasked), "{:#?}", world.requests());
    });
    wait_converted(&world);
}

/// While a client reads a layer, the fills of the others do not begin; the one that a second client asks for begins at once.
#[test]
fn an_unasked_fill_begins_when_it_is_wanted_or_nothing_else_is() {
    let layers = [(172, 12), (1172, 6), (2172, 3)];
    let world = slow_world(layers.map(|(seed, files)| Blob::new(TAR, tar(seed, files, 1 << 20))).to_vec());
    let [wanted, late, unasked] = [0, 1, 2];
    // Links the layers. Who asks for the original starts no conversion.
    let manifest = format!("/v2/{REPOSITORY}/manifests/{}", world.image.digest);
    assert_eq!(world.send("GET", &manifest, &[("firstlight-view", "original")]).status, 200);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| world.download(Pace::default()).unwrap());
        world.wait_upstream(1);
        get_tag(&world);
        wait_yielding(&world, 2);
        assert!(segments(&world).iter().all(|layer| *layer == wanted), "{:#?}", world.requests());
        let at = world.stage.proxy.at();
        let second = web::download(at, &world.path(late), &[], Pace::default()).unwrap();
        assert_eq!(second.digest, world.image.layers[late].digest);
        assert_eq!(client.join().unwrap().digest, world.layer().digest);
        let all = segments(&world);
        let last = all.iter().rposition(|layer| *layer == wanted).unwrap();
        assert!(all[..last].contains(&late), "who was wanted had to wait: {:#?}", world.requests());
        assert!(!all[..last].contains(&unasked), "{:#?}", world.requests());
    });
    wait_converted(&world);
}
