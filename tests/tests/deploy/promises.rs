//! What somebody who runs the chart would notice.

use serde_json::{Value, json};

use crate::chart::{Chart, container, list, text};
use crate::sets;

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// One node less is no outage: there are several pods, on different nodes and zones, and they are drained one after the other.
#[test]
fn production_outlives_a_node() {
    let chart = Chart::render(sets::PRODUCTION).unwrap();
    let serve = chart.object("Deployment", "fl-firstlight-serve");
    let replicas = number(&serve["spec"]["replicas"]);
    assert!(replicas >= 2, "{replicas} replicas");
    let budget = chart.object("PodDisruptionBudget", "fl-firstlight-serve");
    assert_eq!(chart.selected(&budget["spec"]["selector"]), ["serve"]);
    assert!(number(&budget["spec"]["maxUnavailable"]) < replicas);
    assert_eq!(serve["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    for component in ["serve", "worker"] {
        let deployment = chart.object("Deployment", &format!("fl-firstlight-{component}"));
        let spread = list(&deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]);
        let keys: Vec<_> = spread.iter().map(|constraint| text(&constraint["topologyKey"])).collect();
        assert_eq!(keys, ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]);
        for constraint in spread {
            assert_eq!(chart.selected(&constraint["labelSelector"]), [component]);
        }
    }
}

/// Clients get to pods that answer them; nobody gets to the internal listener by a Service.
#[test]
fn services_lead_to_what_they_are_for() {
    for (name, values) in sets::ALL {
        let chart = Chart::render(values).unwrap();
        let is_production = chart.kind("Deployment").next().is_some();
        for service in chart.kind("Service") {
            let spec = &service["spec"];
            let targets: Vec<_> = list(&spec["ports"]).iter().map(|port| text(&port["targetPort"])).collect();
            let selected = chart.selected(&spec["selector"]);
            if spec["clusterIP"] == "None" {
                assert_eq!(targets, ["admin"], "{name}");
                assert!(selected.contains(&"serve".to_owned()), "{name}");
                assert_eq!(selected.contains(&"worker".to_owned()), is_production, "{name}");
            } else {
                assert!(targets == ["registry"] || targets == ["registry", "mirror"], "{name}: {targets:?}");
                assert_eq!(selected, ["serve"], "{name}");
                let (_, template) = template_of(&chart, "serve");
                let ports = list(&container(template)["ports"]);
                assert!(targets.iter().all(|target| ports.iter().any(|port| port["name"] == **target)), "{name}");
            }
        }
        for (object, _) in chart.templates().filter(|(object, _)| object["kind"] != "Job") {
            let component = text(&object["metadata"]["labels"]["app.kubernetes.io/component"]);
            assert_eq!(chart.selected(&object["spec"]["selector"]), [component], "{name}");
        }
    }
}

/// The monitor finds the headless Service, whose port is there.
#[test]
fn the_monitor_finds_every_pod() {
    for values in [sets::EVERYTHING, sets::EMBEDDED_FULL] {
        let chart = Chart::render(values).unwrap();
        let monitor = chart.kind("ServiceMonitor").next().unwrap();
        let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
        let labels = |service: &Value| service["metadata"]["labels"].clone();
        let found: Vec<_> = chart
            .kind("Service")
            .filter(|service| wanted.iter().all(|(name, value)| labels(service).get(name) == Some(value)))
            .collect();
        assert_eq!(found.len(), 1);
        let endpoint = &monitor["spec"]["endpoints"][0];
        assert!(list(&found[0]["spec"]["ports"]).iter().any(|port| port["name"] == endpoint["port"]));
        assert_eq!(endpoint["path"], "/metrics");
    }
}

/// The listeners are open to whom they are meant for: `registry` to clients, `admin` to monitoring, `internal` to the chart's pods.
#[test]
fn the_network_policy_opens_each_port_to_its_own() {
    let everything = Chart::render(sets::EVERYTHING).unwrap();
    let clients = json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}]);
    let monitoring = json!([{"namespaceSelector": {"matchLabels": {"purpose": "metrics"}}}]);
    let serve = everything.object("NetworkPolicy", "fl-images-serve");
    assert_eq!(from(serve, "registry"), [Some(clients.clone())]);
    assert_eq!(from(serve, "mirror"), [Some(clients)]);
    let production = Chart::render(sets::PRODUCTION).unwrap();
    assert_eq!(from(production.object("NetworkPolicy", "fl-firstlight-serve"), "registry"), [None], "open to all");
    for component in ["serve", "worker"] {
        let policy = everything.object("NetworkPolicy", &format!("fl-images-{component}"));
        assert_eq!(everything.selected(&policy["spec"]["podSelector"]), [component]);
        assert_eq!(from(policy, "admin"), [Some(monitoring.clone())]);
        let internal = from(policy, "internal");
        let peers = list(internal[0].as_ref().unwrap());
        assert_eq!((internal.len(), peers.len()), (1, 1));
        // A namespace is not named, so it is their own.
        assert_eq!(peers[0].as_object().unwrap().keys().collect::<Vec<_>>(), ["podSelector"]);
        assert_eq!(everything.selected(&peers[0]["podSelector"]), ["serve", "worker"]);
    }
    let migrate = everything.object("NetworkPolicy", "fl-images-migrate");
    assert_eq!(everything.selected(&migrate["spec"]["podSelector"]), ["migrate"]);
    assert_eq!(migrate["spec"]["ingress"], json!([]));
    let embedded = Chart::render(sets::EMBEDDED).unwrap();
    assert!(from(embedded.object("NetworkPolicy", "fl-firstlight-serve"), "internal").is_empty());
}

/// Returns who may reach a port by a policy: for each of its rules the peers, `None` for everyone.
fn from(policy: &Value, port: &str) -> Vec<Option<Value>> {
    let rules = list(&policy["spec"]["ingress"]).iter();
    let of_port = rules.filter(|rule| list(&rule["ports"]).iter().any(|of_rule| of_rule["port"] == *port));
    of_port.map(|rule| rule.get("from").cloned()).collect()
}

/// What is secret comes from Secrets that the chart only names.
#[test]
fn nothing_secret_is_in_an_object() {
    let mut secret_variables = 0;
    for (name, values) in sets::ALL {
        let chart = Chart::render(values).unwrap();
        assert_eq!(chart.kind("Secret").count(), 0, "{name}");
        for (_, template) in chart.templates() {
            for variable in container(template)["env"].as_array().map_or(&[][..], Vec::as_slice) {
                let of_variable = text(&variable["name"]);
                if ["PASSWORD", "KEY", "TOKEN", "SECRET"].iter().any(|word| of_variable.contains(word)) {
                    assert!(variable["valueFrom"].get("secretKeyRef").is_some(), "{name}: {of_variable}");
                    secret_variables += 1;
                }
            }
        }
    }
    assert!(secret_variables > 0);
}

/// A pod that is told to end stays until no balancer knows it, and then for the 30 s that its requests have.
#[test]
fn pods_are_drained() {
    for (name, values) in sets::ALL {
        let chart = Chart::render(values).unwrap();
        for (_, template) in chart.templates().filter(|(object, _)| object["kind"] != "Job") {
            let pause = number(&container(template)["lifecycle"]["preStop"]["sleep"]["seconds"]);
            assert!(pause >= 5, "{name}");
            assert!(number(&template["spec"]["terminationGracePeriodSeconds"]) > pause + 30, "{name}");
        }
    }
}

/// Pods are asked for their health where it is told, and only ready ones are given clients.
#[test]
fn pods_are_probed() {
    for (name, values) in sets::ALL {
        let chart = Chart::render(values).unwrap();
        for (_, template) in chart.templates().filter(|(object, _)| object["kind"] != "Job") {
            let container = container(template);
            for (probe, path) in
                [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]
            {
                let expected = json!({"path": path, "port": "admin"});
                assert_eq!(container[probe]["httpGet"], expected, "{name}");
            }
        }
    }
}

/// Beside what Pod Security's restricted level wants: nothing can be written but the data, and there is no token to steal.
#[test]
fn pods_can_do_no_more_than_they_must() {
    for (name, values) in sets::ALL {
        let chart = Chart::render(values).unwrap();
        for (_, template) in chart.templates() {
            let container = container(template);
            assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(template["spec"]["automountServiceAccountToken"], false, "{name}");
            let mounts = container["volumeMounts"].as_array().map_or(&[][..], Vec::as_slice);
            let writable: Vec<_> = mounts.iter().filter(|mount| mount["readOnly"] != true).collect();
            assert!(writable.iter().all(|mount| mount["mountPath"] == "/var/lib/firstlight"), "{name}: {writable:?}");
        }
    }
}

/// The schema is there before the pods that need it, and the Job needs nothing that comes later.
#[test]
fn migrations_run_first() {
    for values in [sets::PRODUCTION, sets::EVERYTHING] {
        let chart = Chart::render(values).unwrap();
        let job = chart.kind("Job").next().unwrap();
        assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "pre-install,pre-upgrade");
        let template = &job["spec"]["template"];
        assert_eq!(container(template)["args"][0], "migrate");
        let accounts: Vec<_> = chart.kind("ServiceAccount").map(|account| text(&account["metadata"]["name"])).collect();
        assert!(!accounts.contains(&text(&template["spec"]["serviceAccountName"])));
        let maps: Vec<_> = chart.kind("ConfigMap").map(|map| map["metadata"]["name"].clone()).collect();
        let volumes = template["spec"]["volumes"].as_array().map_or(&[][..], Vec::as_slice);
        assert!(volumes.iter().all(|volume| !maps.contains(&volume["configMap"]["name"])));
    }
}

/// A changed configuration makes new pods; the same one keeps them.
#[test]
fn pods_follow_their_configuration() {
    let sum = |values: &str| {
        let chart = Chart::render(values).unwrap();
        text(&template_of(&chart, "serve").1["metadata"]["annotations"]["checksum/config"])
    };
    assert_eq!(sum(sets::EMBEDDED), sum("service: {port: 80}"));
    assert_ne!(sum(sets::EMBEDDED), sum("config: {convert: {level: 7}}"));
}

fn template_of<'a>(chart: &'a Chart, component: &str) -> (&'a Value, &'a Value) {
    let is_wanted = |template: &Value| template["metadata"]["labels"]["app.kubernetes.io/component"] == *component;
    chart.templates().find(|(_, template)| is_wanted(template)).unwrap()
}
