//! Helm accepts the chart, and an API server accepts every object that it renders.

use e2e::{Scratch, run, workspace};

use crate::chart::{Chart, text};
use crate::sets;
use crate::tools::helm;

#[test]
fn the_chart_has_no_lint() {
    let scratch = Scratch::new().unwrap();
    for (name, values) in sets::ALL {
        let values = scratch.write("values.yaml", values).unwrap();
        let mut lint = helm(scratch.path());
        lint.args(["lint", "--strict"]).arg(workspace("helm/firstlight")).arg("--values").arg(values);
        run(&mut lint).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
}

/// Each set gives exactly these objects; [`Chart::render`] has each checked as an API server does.
#[test]
fn every_object_is_accepted() {
    let embedded =
        ["ConfigMap", "NetworkPolicy -serve", "Service", "Service -headless", "ServiceAccount", "StatefulSet"];
    let production = [
        "ConfigMap",
        "Deployment -serve",
        "Deployment -worker",
        "Job -migrate",
        "NetworkPolicy -migrate",
        "NetworkPolicy -serve",
        "NetworkPolicy -worker",
        "PodDisruptionBudget -serve",
        "Service",
        "Service -headless",
        "ServiceAccount",
    ];
    let nothing = ["ConfigMap", "Deployment -serve", "Deployment -worker", "Service", "Service -headless"];
    let monitored = |objects: &[&'static str]| {
        let mut objects = [objects, &["ServiceMonitor"]].concat();
        objects.sort();
        objects
    };
    check(sets::EMBEDDED, "fl-firstlight", &embedded);
    check(sets::PRODUCTION, "fl-firstlight", &production);
    check(sets::EVERYTHING, "fl-images", &monitored(&production));
    check(sets::NOTHING, "fl-firstlight", &nothing);
    check(sets::EMBEDDED_FULL, "cache", &monitored(&embedded));
}

fn check(values: &str, name: &str, expected: &[&str]) {
    let chart = Chart::render(values).unwrap();
    let mut objects: Vec<_> = chart
        .objects
        .iter()
        .map(|object| {
            let full = text(&object["metadata"]["name"]);
            let part = full.strip_prefix(name).unwrap_or_else(|| panic!("{full} does not begin with {name}"));
            format!("{} {part}", text(&object["kind"])).trim().to_owned()
        })
        .collect();
    objects.sort();
    assert_eq!(objects, expected);
}
